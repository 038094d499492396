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

/* ---- following a lone user ---- */

/** Requests that one measurement takes. */
#define WINDOW_REQUESTS 64
/** Windows until the other way is tried again. */
#define WINDOWS_BETWEEN 1024
/** While bound, windows until the user's CPU is looked up again. */
#define WINDOWS_LOOK 4
/** The other way must be faster by one part in this many. */
#define BETTER_BY 8
/** A poll that brings several requests counts like this many that bring one. */
#define CROWD_WEIGHT 8
#define CROWD_MAX    64

static void bind_to(struct fuse_follow *f, uint32_t pid)
{
    int cpu = fuse_cpu_of_thread(pid);
    if (cpu >= 0)
        fuse_affinity_bind(&f->affinity, (unsigned)cpu, 1);
}

static void change_way(struct fuse_follow *f, uint32_t pid)
{
    f->windows = 0;
    if (f->affinity.bound)
        fuse_affinity_release(&f->affinity); /* its cost is known: it was measured just now */
    else
        bind_to(f, pid);
    if (!f->affinity.bound && f->cost_ns[true] == 0)
        f->cost_ns[true] = UINT64_MAX; /* not possible here: not before the next trial */
}

void fuse_follow_one(struct fuse_follow *f, uint32_t pid)
{
    f->crowd -= f->crowd > 0;
    if (f->crowd > CROWD_MAX / 2)
        return;
    if (f->requests++ == 0)
        f->window_start_ns = rt_now_ns();
    if (f->requests <= WINDOW_REQUESTS)
        return;
    uint64_t *mine = &f->cost_ns[f->affinity.bound], other = f->cost_ns[!f->affinity.bound];
    *mine = MAX(rt_now_ns() - f->window_start_ns, (uint64_t)1);
    f->requests = 0;
    f->windows++;
    if (other == 0 || f->windows >= WINDOWS_BETWEEN || *mine - *mine / BETTER_BY > other)
        change_way(f, pid);
    else if (f->affinity.bound && f->windows % WINDOWS_LOOK == 0)
        bind_to(f, pid);
}

void fuse_follow_many(struct fuse_follow *f)
{
    f->requests = 0;
    f->crowd = MIN(f->crowd + CROWD_WEIGHT, (unsigned)CROWD_MAX);
    if (f->crowd > CROWD_MAX / 2)
        fuse_affinity_release(&f->affinity);
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
