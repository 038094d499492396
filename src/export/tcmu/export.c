/*
 * Life of a TCMU export: the device is opened and mapped, the ring checked, and a thread started
 * for each lane (serve.c). A stop ends the taking first, then waits for what was taken.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/internal.h"

#define BARRIER_RETRY_NS ((uint64_t)10 * 1000000)

static struct tcmu_export *export_free(struct tcmu_export *e)
{
    if (e) {
        rt_mutex_destroy(&e->guard);
        free(e->task);
        free(e->name);
        free(e);
    }
    return NULL;
}

static struct tcmu_export *export_new(const struct tcmu_export_options *options)
{
    struct tcmu_export *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    rt_mutex_init(&e->guard);
    co_waitq_init(&e->changed);
    e->name = strdup(options->name);
    /* Untouched ones cost no memory: the index of the one freed last goes first. */
    e->task = calloc(TCMU_TASKS_MAX, sizeof(*e->task));
    if (!e->name || !e->task)
        return export_free(e);
    for (unsigned i = 0; i < TCMU_TASKS_MAX; i++)
        e->free[e->free_count++] = (uint16_t)(TCMU_TASKS_MAX - 1 - i);
    e->minor = options->minor;
    e->nexus = options->nexus;
    e->lun = options->lun;
    e->lane_count = MAX(options->threads, 1U);
    for (unsigned i = 0; i < e->lane_count; i++) {
        tcmu_lane_init(e, i);
        e->lane[i].queue = options->queues ? options->queues[i] : NULL;
    }
    e->shared_queues = options->queues != NULL;
    return e;
}

static int start_lane(struct tcmu_export *e, unsigned index, struct hws_error *err)
{
    char name[16];
    snprintf(name, sizeof(name), "tcmu%u/%u", e->minor % 1000000, index % TCMU_THREADS_MAX);
    struct tcmu_lane *lane = &e->lane[index];
    int result = 0;
    if (!e->shared_queues)
        result = rt_queue_start(rt_current(), name, &lane->queue, err);
    if (result < 0)
        return result;
    result = rt_spawn(lane->queue, co_tcmu_lane, lane);
    if (result < 0)
        return hws_fail_errno(err, -result, "%s: cannot start a thread's work", e->name);
    rt_mutex_lock(&e->guard);
    e->lanes_alive++;
    rt_mutex_unlock(&e->guard);
    return 0;
}

struct barrier {
    struct rt_later later;
    struct co *co;
    struct co_group *group;
};

static void on_barrier(struct rt_later *later)
{
    co_wake(container_of(later, struct barrier, later)->co);
}

/* Comes after all that the queue has to do now, bells included. */
static void co_barrier(void *arg)
{
    struct co_group *group = arg;
    struct barrier barrier = {.co = co_self()};
    rt_later_init(&barrier.later, on_barrier);
    rt_later(&barrier.later);
    co_suspend();
    co_group_done(group);
}

/* A queue of our own ends with its last coroutine; of a shared one, ours must be known to be over.
 */
static void co_leave_queues(struct tcmu_export *e)
{
    struct co_group group;
    if (!e->shared_queues) {
        for (unsigned i = 0; i < e->lane_count; i++)
            if (e->lane[i].queue)
                co_queue_stop(e->lane[i].queue);
        return;
    }
    co_group_init(&group);
    for (unsigned i = 0; i < e->lane_count; i++) {
        co_group_add(&group, 1);
        while (rt_spawn(e->lane[i].queue, co_barrier, &group) < 0)
            co_sleep_ns(BARRIER_RETRY_NS); /* no memory: to go on without would be worse */
    }
    co_group_wait(&group);
    co_group_destroy(&group);
}

/* Ends what was started; commands that were taken are completed. */
static void co_end(struct tcmu_export *e)
{
    rt_mutex_lock(&e->guard);
    e->stopping = true;
    for (unsigned i = 0; i < e->lane_count; i++)
        co_waitq_wake_all(&e->lane[i].wakeup);
    while (e->lanes_alive > 0 || e->ring.in_flight > 0)
        co_waitq_wait(&e->changed, &e->guard);
    rt_mutex_unlock(&e->guard);
    co_leave_queues(e);
}

int co_tcmu_export_serve(const struct tcmu_export_options *options,
                         const struct tcmu_device *device, struct tcmu_export **ret,
                         struct hws_error *err)
{
    if (options->threads > TCMU_THREADS_MAX)
        return hws_fail(err, EINVAL, "%s: %u threads asked for; at most %u are possible",
                        options->name, options->threads, TCMU_THREADS_MAX);
    struct tcmu_export *e = export_new(options);
    if (!e)
        return hws_fail(err, ENOMEM, "%s: out of memory", options->name);
    e->device = *device;
    int result = tcmu_ring_init(&e->ring, device->map, device->map_bytes, err);
    if (result < 0)
        hws_wrap(err, result, "/dev/uio%u", options->minor);
    /* Lane 0 gives work to the others, so it comes last. */
    for (unsigned i = e->lane_count; i-- > 0 && result == 0;)
        result = start_lane(e, i, err);
    if (result < 0) {
        co_end(e);
        export_free(e);
        return result;
    }
    *ret = e;
    return 0;
}

int co_tcmu_export_start(const struct tcmu_export_options *options, struct tcmu_export **ret,
                         struct hws_error *err)
{
    struct tcmu_device device;
    int result = tcmu_uio_open(options->minor, &device, err);
    if (result < 0)
        return result;
    result = co_tcmu_export_serve(options, &device, ret, err);
    if (result < 0)
        tcmu_uio_close(&device);
    return result;
}

void co_tcmu_export_stop(struct tcmu_export *e)
{
    co_end(e);
    tcmu_uio_close(&e->device);
    export_free(e);
}

void tcmu_export_info(const struct tcmu_export *export, struct tcmu_export_info *ret)
{
    struct tcmu_export *e = (struct tcmu_export *)(uintptr_t) export;
    rt_mutex_lock(&e->guard);
    *ret = (struct tcmu_export_info){
        .minor = e->minor,
        .threads = e->lane_count,
        .ring_bytes = e->ring.size,
        .data_area_bytes = e->ring.map_bytes - e->ring.data_offset,
        .out_of_order = true,
        .read_length = e->ring.read_length,
        .task_management = e->ring.task_management,
        .commands = e->commands,
        .failures = e->failures,
        .malformed = e->malformed,
        .aborts = e->aborts,
        .wakeups = atomic_load_explicit(&e->wakeups, memory_order_relaxed),
    };
    rt_mutex_unlock(&e->guard);
}
