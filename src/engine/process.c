/*
 * What the engine asks of the kernel and the C library.
 *
 * Applied, and why:
 * - one malloc arena, a low trim threshold: an idle engine is small, and requests do not allocate;
 * - PR_SET_IO_FLUSHER: memory reclaim on behalf of this process must not wait for writes to the
 * device that this process serves (it needs CAP_SYS_RESOURCE; without it the engine runs
 * unshielded);
 * - OOM score -900 where permitted: killing the server of a mounted disk frees little and breaks
 * much;
 * - SIGPIPE ignored, the stop signals blocked in every thread: a signalfd takes them.
 * Not applied: mlockall(). It would pin every page of every library, several times the whole budget
 * of an idle engine; the pages that matter are touched by every request, and PR_SET_IO_FLUSHER
 * breaks the dead-lock that locking is meant against.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/** Deeper JSON is refused: the parser recurses, and coroutine stacks are small. */
#define JSON_DEPTH_MAX 32

void process_prepare(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 64 * 1024);
    mallopt(M_MMAP_THRESHOLD, 64 * 1024);
    prctl(PR_SET_NAME, "hawser", 0, 0, 0); /* attach runs it as /proc/self/exe */
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void process_shield(void)
{
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    autofd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    static const char score[] = "-900";
    if (fd >= 0 && write(fd, score, sizeof(score) - 1) < 0)
        return; /* not permitted: an engine without privileges keeps its own score */
}

void process_notify(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, strlen(path));
    if (*path == '@')
        address.sun_path[0] = '\0';
    autofd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (fd >= 0)
        sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, length);
}

uint64_t process_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool process_json_is_flat(const char *text, size_t length)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '{' || text[i] == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return false;
        } else if ((text[i] == '}' || text[i] == ']') && depth) {
            depth--;
        }
    }
    return true;
}
