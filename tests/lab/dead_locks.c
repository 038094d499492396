/*
 * Holds what recovery after a kill builds on (block/keep.h): the lock on an open file description
 * is free only after the last request on it has ended, though its process is long gone.
 *
 *   dead_locks DEVICE SECONDS     the device answers a write after about that time
 *
 * A child locks the device, writes to it (by io_uring, by io_uring with a registered file, by a
 * thread that blocks) and is killed; the parent takes the lock as soon as it can be had.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/common.h"
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define BYTES       4096
#define PATIENCE_S  30.0
#define KILLED_IN_S 0.1

enum way { URING, URING_REGISTERED, BLOCKING, WAYS };

static const char *const names[WAYS] = {"io_uring", "io_uring, registered file", "blocking write"};
static const char *device;
static _Alignas(BYTES) char buffer[BYTES];

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int open_device(void)
{
    int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        perror(device);
        exit(1);
    }
    return fd;
}

static bool try_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static void *write_blocking(void *arg)
{
    return pwrite(*(int *)arg, buffer, BYTES, 0) == BYTES ? buffer : NULL;
}

static void submit(int fd, bool registered)
{
    static struct io_uring ring;
    if (io_uring_queue_init(4, &ring, 0) < 0 ||
        (registered && io_uring_register_files(&ring, &fd, 1) < 0))
        _exit(1);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    io_uring_prep_write(sqe, registered ? 0 : fd, buffer, BYTES, 0);
    if (registered)
        sqe->flags |= IOSQE_FIXED_FILE;
    if (io_uring_submit(&ring) != 1)
        _exit(1);
}

static void child(enum way way, int ready)
{
    pthread_t thread;
    int fd = open_device();
    if (!try_lock(fd))
        _exit(1);
    if (way != BLOCKING)
        submit(fd, way == URING_REGISTERED);
    else if (pthread_create(&thread, NULL, write_blocking, &fd) != 0)
        _exit(1);
    if (write(ready, "x", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

/* @return false where the lock came before the write's end, or too late. */
static bool run(enum way way, double latency_s)
{
    int ready[2], status;
    char byte;
    if (pipe(ready) < 0)
        return false;
    pid_t pid = fork();
    if (pid == 0)
        child(way, ready[1]);
    close(ready[1]);
    if (pid < 0 || read(ready[0], &byte, 1) != 1)
        return false;
    close(ready[0]);
    double start = now_s();
    usleep((useconds_t)(KILLED_IN_S * 1e6));
    kill(pid, SIGKILL);
    if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
        return false;
    double reaped = now_s() - start;
    int fd = open_device();
    while (!try_lock(fd) && now_s() - start < PATIENCE_S)
        usleep(1000);
    double locked = now_s() - start;
    close(fd);
    printf("%s: killed after %.1f s, reaped after %.3f s, lock free after %.3f s\n", names[way],
           KILLED_IN_S, reaped, locked);
    return locked >= latency_s - KILLED_IN_S && locked < PATIENCE_S;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    device = argv[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int way = 0; way < WAYS; way++)
        if (!run((enum way)way, strtod(argv[2], NULL)))
            return 1;
    return 0;
}
