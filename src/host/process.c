/*
 * What a serving process asks of the kernel and the C library.
 *
 * Applied, and why:
 * - one malloc arena, a low trim threshold: an idle process is small, and requests do not allocate;
 * - PR_SET_IO_FLUSHER: memory reclaim on behalf of this process must not wait for writes to the
 * device that this process serves (it needs CAP_SYS_RESOURCE; without it the engine runs
 * unshielded);
 * - OOM score -900 where permitted: killing the server of a mounted disk frees little and breaks
 * much;
 * - SIGPIPE ignored, the stop signals blocked in every thread: a signalfd takes them.
 * Not applied: mlockall(). It would pin every page of every library, several times the whole budget
 * of an idle process; the pages that matter are touched by every request, and PR_SET_IO_FLUSHER
 * breaks the dead-lock that locking is meant against.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/process.h"
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

extern char **environ;

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

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

int process_run(char *const arguments[], bool silent)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;
    int status = 0;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (silent)
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int r = posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (r)
        return -r;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
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
