/*
 * From the ring to the SCSI disk and back.
 *
 *   lane 0:    event -> take all -> a coroutine each (or another lane's inbox)
 *   any lane:  execute, data straight from and to the data area -> answer into the ring
 *              round over -> bell: tail moves over all answers, one write(2) wakes the kernel
 *
 * A command costs no allocation: tasks come from a pool, coroutines from the queue's. An empty pool
 * is back-pressure: the rest waits in the ring until a task is free.
 *
 * A lone command stays on lane 0, where nothing has to wake anybody. Of several, the first
 * SHARE_BATCH do, and the rest goes round.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/tcmu/internal.h"

/** Commands of one round that go to the same lane before the next lane's turn. */
#define SHARE_BATCH 4

/* ---- the end of a command ---- */

/* Sense of what never reached the disk (SPC-4, 4.5.3, fixed format). */
static void fail_task(struct scsi_task *scsi, uint8_t key, uint16_t asc)
{
    scsi->status = SCSI_CHECK_CONDITION;
    scsi->sense_length = 18;
    memset(scsi->sense, 0, 18);
    scsi->sense[0] = 0x70;
    scsi->sense[2] = key;
    scsi->sense[7] = 10;
    store_be16(scsi->sense + 12, asc);
    scsi->data_in_length = 0;
}

/*
 * The kernel gives the initiator all of the data area's pieces, whatever they held before, unless
 * it is told a length above zero.
 */
static bool tell_length(const struct tcmu_export *e, const struct scsi_task *scsi)
{
    size_t filled = scsi->data_in_length;
    if (scsi->status != SCSI_GOOD || filled >= scsi->data_in.length || scsi->residual >= 0)
        return false;
    if (e->ring.read_length && filled > 0)
        return true;
    sgl_fill(sgl_slice(scsi->data_in, filled, scsi->data_in.length - filled), 0);
    return false;
}

static void finish(struct tcmu_task *task)
{
    struct tcmu_lane *lane = task->lane;
    struct tcmu_export *e = lane->export;
    const struct scsi_task *scsi = &task->scsi;
    struct tcmu_answer answer = {
        .id = task->command.id,
        .status = scsi->status,
        .has_length = tell_length(e, scsi),
        .length = (uint32_t)scsi->data_in_length,
        .sense = scsi->sense,
        .sense_length = scsi->sense_length,
    };
    tcmu_command_release(&task->command);
    rt_mutex_lock(&e->guard);
    tcmu_ring_answer(&e->ring, &answer);
    e->failures += scsi->status != SCSI_GOOD;
    e->free[e->free_count++] = task->index;
    if (unlikely(e->stopping || e->resetting) && e->ring.in_flight == 0)
        co_waitq_wake_all(&e->changed);
    rt_mutex_unlock(&e->guard);
    rt_later(&lane->bell);
}

static void co_execute(void *arg)
{
    struct tcmu_task *task = arg;
    struct tcmu_export *e = task->lane->export;
    struct tcmu_command *command = &task->command;
    struct scsi_task *scsi = &task->scsi;
    struct sgl data = sgl_of(command->iov, command->iov_count);
    scsi->cdb = command->cdb;
    scsi->cdb_length = command->cdb_length;
    scsi->data_out = data;
    scsi->data_in = unlikely(command->bidi_count)
                        ? sgl_of(command->iov + command->iov_count, command->bidi_count)
                        : data;
    if (unlikely(atomic_load_explicit(&task->aborted, memory_order_relaxed))) {
        scsi->status = SCSI_TASK_ABORTED;
        scsi->sense_length = 0;
        scsi->data_in_length = 0;
    } else if (unlikely(command->malformed)) {
        fail_task(scsi, SCSI_KEY_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
    } else {
        co_scsi_execute(e->nexus, e->lun, scsi);
    }
    finish(task);
}

static void start(struct tcmu_task *task)
{
    if (likely(rt_spawn(NULL, co_execute, task) == 0))
        return;
    task->scsi.status = SCSI_TASK_SET_FULL;
    task->scsi.sense_length = 0;
    task->scsi.data_in_length = 0;
    task->scsi.residual = 0;
    finish(task);
}

/* ---- taking ---- */

static void give_up(struct tcmu_export *e, const char *why)
{
    if (e->broken)
        return;
    e->broken = true;
    log_error("%s: /dev/uio%u: %s. Its commands are not served any more", e->name, e->minor, why);
    co_waitq_wake_all(&e->lane[0].wakeup);
}

static bool resets(uint8_t function)
{
    return function == TCMU_LUN_RESET || function == TCMU_TARGET_WARM_RESET ||
           function == TCMU_TARGET_COLD_RESET;
}

/*
 * The kernel waits for the commands that it aborted and drops their answers, so they go on to their
 * end; those that have not begun need not. A reset lets those in flight end, and nothing new begins
 * before it is done.
 */
static void manage(struct tcmu_export *e, const struct tcmu_notice *m)
{
    for (uint32_t i = 0; i < m->count; i++) {
        int tag = tcmu_ring_aborted(&e->ring, m, i);
        if (tag < 0)
            continue;
        e->aborts++;
        atomic_store_explicit(&e->task[tag].aborted, true, memory_order_relaxed);
    }
    log_debug("%s: task management %u, %u commands aborted", e->name, m->function, m->count);
    if (resets(m->function)) {
        e->resetting = true;
        co_waitq_wake_all(&e->lane[0].wakeup);
    }
}

static void take_into(struct tcmu_export *e, struct tcmu_task *task, unsigned nth,
                      struct list *mine)
{
    struct tcmu_lane *lane = &e->lane[nth / SHARE_BATCH % e->lane_count];
    e->free_count--;
    e->commands++;
    task->lane = lane;
    atomic_store_explicit(&task->aborted, false, memory_order_relaxed);
    if (unlikely(task->command.malformed)) {
        if (e->malformed++ == 0)
            log_error("%s: /dev/uio%u: command %u cannot be executed: %s", e->name, e->minor,
                      task->command.id, task->command.malformed);
    }
    if (lane == &e->lane[0]) {
        list_push_back(mine, &task->link);
        return;
    }
    list_push_back(&lane->inbox, &task->link);
    co_waitq_wake_one(&lane->wakeup);
}

/* Takes all that there is. guard is held. */
static void take_all(struct tcmu_export *e, struct list *mine)
{
    struct tcmu_notice event;
    struct hws_error err;
    for (unsigned nth = 0; !e->stopping && !e->broken;) {
        if (e->resetting || e->free_count == 0) {
            e->starved = true;
            return;
        }
        uint16_t index = e->free[e->free_count - 1];
        struct tcmu_task *task = &e->task[index];
        switch (tcmu_ring_take(&e->ring, index, &task->command, &event, &err)) {
        case TCMU_TAKEN_COMMAND:
            task->index = index;
            take_into(e, task, nth++, mine);
            break;
        case TCMU_TAKEN_NOTICE:
            manage(e, &event);
            break;
        case TCMU_TAKEN_NOTHING:
            return;
        default:
            give_up(e, err.text);
        }
    }
}

static void ring_bell(struct tcmu_export *e)
{
    static const uint32_t one = 1;
    atomic_fetch_add_explicit(&e->wakeups, 1, memory_order_relaxed);
    ssize_t n;
    do
        n = write(e->device.bell_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
    if (unlikely(n < 0 && errno != EAGAIN)) {
        int error = errno;
        rt_mutex_lock(&e->guard);
        give_up(e, strerror(error));
        rt_mutex_unlock(&e->guard);
    }
}

/* Lane 0 only. */
static void drain(struct tcmu_export *e)
{
    struct list mine, *node;
    list_init(&mine);
    rt_mutex_lock(&e->guard);
    e->starved = false;
    take_all(e, &mine);
    /* Padding moves the tail too, and no command may come to take it along. */
    bool moved = list_empty(&mine) && tcmu_ring_tell(&e->ring);
    rt_mutex_unlock(&e->guard);
    while ((node = list_pop_front(&mine)))
        start(list_entry(node, struct tcmu_task, link));
    if (moved)
        ring_bell(e);
}

/* ---- events ---- */

static void bell(struct rt_later *later)
{
    struct tcmu_lane *lane = container_of(later, struct tcmu_lane, bell);
    struct tcmu_export *e = lane->export;
    rt_mutex_lock(&e->guard);
    bool moved = tcmu_ring_tell(&e->ring);
    bool takes = !e->stopping && !e->broken && !e->resetting;
    if (unlikely(e->starved && takes && lane != &e->lane[0]))
        co_waitq_wake_all(&e->lane[0].wakeup);
    rt_mutex_unlock(&e->guard);
    if (moved)
        ring_bell(e);
    if (lane == &e->lane[0] && takes && tcmu_ring_has_more(&e->ring))
        drain(e);
}

static void on_event(void *arg)
{
    struct tcmu_export *e = arg;
    uint32_t count;
    if (!e->edge) {
        ssize_t n = read(e->device.event_fd, &count, sizeof(count));
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            int error = errno;
            rt_mutex_lock(&e->guard);
            give_up(e, strerror(error));
            rt_mutex_unlock(&e->guard);
        }
    }
    drain(e);
}

/* ---- lanes ---- */

void tcmu_lane_init(struct tcmu_export *e, unsigned index)
{
    struct tcmu_lane *lane = &e->lane[index];
    lane->export = e;
    rt_later_init(&lane->bell, bell);
    co_waitq_init(&lane->wakeup);
    list_init(&lane->inbox);
}

static bool has_work(const struct tcmu_lane *lane)
{
    const struct tcmu_export *e = lane->export;
    return !list_empty(&lane->inbox) ||
           (lane == &e->lane[0] && (e->resetting || (e->starved && e->free_count)));
}

/* Waits until there is work for the lane, or none ever again. guard is held. */
static void co_wait_for_work(struct tcmu_lane *lane)
{
    struct tcmu_export *e = lane->export;
    while (!e->stopping && !e->broken && !has_work(lane))
        co_waitq_wait(&lane->wakeup, &e->guard);
}

/* The reset cuts long commands short; what had not reached the disk yet follows it at once. */
static void co_reset(struct tcmu_export *e)
{
    co_scsi_disk_reset(scsi_lun_disk(e->lun));
    rt_mutex_lock(&e->guard);
    while (e->ring.in_flight > 0)
        co_waitq_wait(&e->changed, &e->guard);
    e->resetting = false;
    rt_mutex_unlock(&e->guard);
}

static void co_lane_round(struct tcmu_lane *lane)
{
    struct tcmu_export *e = lane->export;
    struct list mine, *node;
    list_init(&mine);
    list_splice_back(&mine, &lane->inbox);
    bool reset = lane == &e->lane[0] && e->resetting;
    rt_mutex_unlock(&e->guard);
    while ((node = list_pop_front(&mine)))
        start(list_entry(node, struct tcmu_task, link));
    if (reset)
        co_reset(e);
    if (lane == &e->lane[0])
        drain(e);
    rt_mutex_lock(&e->guard);
}

void co_tcmu_lane(void *arg)
{
    struct tcmu_lane *lane = arg;
    struct tcmu_export *e = lane->export;
    struct rt_watch *watch = NULL;
    if (lane == &e->lane[0]) {
        int result = rt_watch_start(e->device.event_fd, on_event, e, &watch, &e->edge);
        rt_mutex_lock(&e->guard);
        if (result < 0)
            give_up(e, strerror(-result));
        rt_mutex_unlock(&e->guard);
        drain(e); /* what came before the watch */
    }
    rt_mutex_lock(&e->guard);
    for (;;) {
        co_wait_for_work(lane);
        if (!has_work(lane))
            break;
        co_lane_round(lane);
    }
    rt_mutex_unlock(&e->guard);
    co_watch_stop(watch);
    rt_mutex_lock(&e->guard);
    e->lanes_alive--;
    co_waitq_wake_all(&e->changed);
    rt_mutex_unlock(&e->guard);
}
