/*
 * On which CPUs a queue thread runs. A user with one request in flight sleeps until its answer
 * comes: its CPU is free meanwhile and has its caches warm, while waking a thread on another CPU
 * costs an interrupt, in a virtual machine several times what serving the request costs
 * (docs/performance.md). Users with many requests in flight do better with the thread on a CPU of
 * its own.
 *
 * Binding never goes beyond the CPUs that the process was allowed when the thread started.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/fuse/internal.h"
#include <pthread.h>

void fuse_affinity_init(struct fuse_affinity *a)
{
    CPU_ZERO(&a->allowed);
    a->bound = false;
    a->usable = pthread_getaffinity_np(pthread_self(), sizeof(a->allowed), &a->allowed) == 0;
}

void fuse_affinity_bind(struct fuse_affinity *a, unsigned first_cpu, unsigned count)
{
    cpu_set_t wanted;
    CPU_ZERO(&wanted);
    for (unsigned n = 0; a->usable && n < count && first_cpu + n < CPU_SETSIZE; n++)
        if (CPU_ISSET(first_cpu + n, &a->allowed))
            CPU_SET(first_cpu + n, &wanted);
    if (CPU_COUNT(&wanted) > 0)
        a->bound = pthread_setaffinity_np(pthread_self(), sizeof(wanted), &wanted) == 0;
}

void fuse_affinity_release(struct fuse_affinity *a)
{
    if (a->bound)
        (void)pthread_setaffinity_np(pthread_self(), sizeof(a->allowed), &a->allowed);
    a->bound = false;
}

/* Field 39 of /proc/PID/stat; field 2, the name, is in brackets and may hold anything. */
int fuse_cpu_of_thread(uint32_t pid)
{
    char path[40], text[1024];
    snprintf(path, sizeof(path), "/proc/%u/stat", pid);
    autofd int fd = pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return -1;
    text[n] = 0;
    const char *p = strrchr(text, ')');
    for (unsigned field = 2; p && field < 39; field++)
        p = strchr(p + 1, ' ');
    return p ? (int)strtol(p, NULL, 10) : -1;
}
