/*
 * The scan under copies and comparisons; see job/copy/scan.h.
 *
 * The cursor is the only thing that workers share on the way. Who takes a piece holds the lock over
 * the status request that may be needed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/scan.h"
#include <unistd.h>

#define REQUESTS         4u
#define THREADS          4u
#define PACE_NS          ((uint64_t)200000000) /* the longest sleep: others may end the scan */
#define BUFFER_ALIGNMENT 4096                  /* fits every O_DIRECT device */

/* ---- how a scan ends ---- */

void scan_end(struct scan *scan)
{
    atomic_store_explicit(&scan->ended, true, memory_order_relaxed);
}

void scan_fail(struct scan *scan, int error, const struct block_node *node, uint64_t offset)
{
    rt_mutex_lock(&scan->guard);
    if (scan->error == 0) {
        scan->error = error;
        scan->error_node = node;
        scan->error_offset = offset;
    }
    rt_mutex_unlock(&scan->guard);
    scan_end(scan);
}

void scan_done(struct scan *scan, uint64_t bytes)
{
    const struct job_load *load = scan->load;
    rt_mutex_lock(&scan->guard);
    scan->done += bytes;
    if (load->progress && scan->error == 0 &&
        load->progress(load->progress_arg, scan->done, scan->end - scan->start)) {
        scan->error = -ECANCELED;
        scan_end(scan);
    }
    rt_mutex_unlock(&scan->guard);
}

/* Every byte takes its time after the one before, whoever moved it. */
void co_scan_pace(struct scan *scan, uint64_t bytes)
{
    uint64_t rate = scan->load->rate_bytes;
    if (!rate || !bytes)
        return;
    uint64_t now = rt_now_ns();
    rt_mutex_lock(&scan->guard);
    scan->paced_ns = MAX(scan->paced_ns, now) + (uint64_t)((double)bytes / (double)rate * 1e9);
    uint64_t until = scan->paced_ns;
    rt_mutex_unlock(&scan->guard);
    while (!atomic_load_explicit(&scan->ended, memory_order_relaxed) && (now = rt_now_ns()) < until)
        co_sleep_ns(MIN(until - now, PACE_NS));
}

/* ---- the cursor ---- */

int co_scan_extent(struct block_node *node, uint64_t offset, uint64_t length,
                   struct block_extent *ret)
{
    const unsigned stored = BLOCK_STATUS_DATA | BLOCK_STATUS_MAPPED;
    struct block_extent below;
    int r = co_block_status_chain(node, offset, length, ret);
    if (r < 0 || (ret->flags & (stored | BLOCK_STATUS_ZERO)) != stored)
        return r;
    uint64_t size = block_size(ret->file);
    if (ret->host_offset >= size)
        return 0;
    length = MIN(ret->length, size - ret->host_offset);
    /* Where the file cannot tell, it is data, as it was. */
    if (co_block_status_chain((struct block_node *)ret->file, ret->host_offset, length, &below) < 0)
        return 0;
    ret->length = below.length;
    ret->flags |= below.flags & BLOCK_STATUS_ZERO;
    return 0;
}

/* Neighbours of one kind are one extent, so that a long hole is one piece. */
static int co_look_ahead(struct scan *scan)
{
    uint64_t at = scan->cursor;
    while (at == scan->cursor ||
           (at < scan->end && (scan->extent_zero || at - scan->cursor < scan->piece_bytes))) {
        struct block_extent extent;
        int r = co_scan_extent(scan->from, at + scan->shift, scan->end - at, &extent);
        if (r < 0 && !scan->salvage)
            return r;
        if (r < 0) /* the read will tell */
            extent = (struct block_extent){.length = MIN(scan->end - at, scan->piece_bytes)};
        bool zero = extent.flags & BLOCK_STATUS_ZERO;
        if (at > scan->cursor && zero != scan->extent_zero)
            break;
        scan->extent_zero = zero;
        at += extent.length;
    }
    /* In units: a hole that is no whole one is data. */
    uint64_t end = scan->extent_zero && at < scan->end ? align_down(at, scan->unit) : at;
    if (end == scan->cursor || !scan->extent_zero) {
        scan->extent_zero = false;
        end = MIN(align_up(at, scan->unit), scan->end);
    }
    scan->extent_end = end;
    return 0;
}

/* ---- checkpoints ---- */

struct active {
    struct list link;
    uint64_t offset;
};

/* Everything in front of the first piece that is not done. Caller holds the guard. */
static uint64_t done_offset(struct scan *scan)
{
    if (list_empty(&scan->active))
        return scan->cursor;
    return list_entry(scan->active.next, struct active, link)->offset;
}

/* By one worker at a time; the others go on. */
static void co_checkpoint(struct scan *scan)
{
    const struct job_load *load = scan->load;
    uint64_t now = load->co_checkpoint ? rt_now_ns() : 0;
    if (!load->co_checkpoint)
        return;
    rt_mutex_lock(&scan->guard);
    bool mine =
        !scan->checking && scan->error == 0 && now - scan->checked_ns >= load->checkpoint_ns;
    uint64_t offset = mine ? done_offset(scan) : 0;
    if (mine) {
        scan->checking = true;
        scan->checked_ns = now;
    }
    rt_mutex_unlock(&scan->guard);
    if (!mine)
        return;
    int r = load->co_checkpoint(load->checkpoint_arg, offset, &scan->failed_check);
    if (r < 0)
        scan_fail(scan, r, NULL, offset);
    rt_mutex_lock(&scan->guard);
    scan->checking = false;
    rt_mutex_unlock(&scan->guard);
}

/* @return false at the end, or where the scan has ended. */
static bool co_take(struct scan *scan, struct scan_piece *piece, struct active *active)
{
    int r = 0;
    co_mutex_lock(&scan->lock);
    bool more =
        scan->cursor < scan->end && !atomic_load_explicit(&scan->ended, memory_order_relaxed);
    if (more && scan->cursor == scan->extent_end)
        r = co_look_ahead(scan);
    if (r < 0)
        scan_fail(scan, r, scan->from, scan->cursor + scan->shift);
    if (more && r == 0) {
        uint64_t limit = scan->extent_zero
                             ? scan->extent_end
                             : align_down(scan->cursor, scan->piece_bytes) + scan->piece_bytes;
        uint64_t end = MIN(scan->extent_end, limit);
        *piece = (struct scan_piece){scan->cursor, end - scan->cursor, scan->extent_zero};
        rt_mutex_lock(&scan->guard);
        active->offset = piece->offset;
        list_push_back(&scan->active, &active->link);
        scan->cursor = end;
        rt_mutex_unlock(&scan->guard);
    }
    co_mutex_unlock(&scan->lock);
    return more && r == 0;
}

static void co_worker(void *arg)
{
    struct scan *scan = arg;
    struct scan_piece piece;
    autofree uint8_t *buffer = aligned_alloc(BUFFER_ALIGNMENT, scan->buffers * scan->piece_bytes);
    if (!buffer)
        scan_fail(scan, -ENOMEM, NULL, 0);
    struct active active;
    while (buffer && co_take(scan, &piece, &active)) {
        scan->co_piece(scan, &piece, buffer);
        rt_mutex_lock(&scan->guard);
        list_del(&active.link); /* after a failure nobody asks any more */
        rt_mutex_unlock(&scan->guard);
        co_checkpoint(scan);
    }
    co_group_done(&scan->workers);
}

/* ---- the whole ---- */

static unsigned threads_of(const struct job_load *load)
{
    if (load->threads)
        return load->threads;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus < 1 ? 1 : MIN((unsigned)cpus, THREADS);
}

/* As many as start: the caller's own worker does the whole work if it must. */
static unsigned start_workers(struct scan *scan, struct rt_queue **queues)
{
    const struct job_load *load = scan->load;
    unsigned threads = threads_of(load), started = 0;
    unsigned requests = load->requests ? load->requests : REQUESTS;
    if (scan->end - scan->start <= scan->piece_bytes)
        threads = requests = 1;
    while (started + 1 < threads &&
           rt_queue_start(rt_current(), "job", &queues[started], NULL) == 0)
        started++;
    for (unsigned i = 0; i <= started; i++) {
        bool own = i == started;
        for (unsigned n = own; n < requests; n++) { /* the caller is one of its own queue's */
            co_group_add(&scan->workers, 1);
            if (rt_spawn(own ? NULL : queues[i], co_worker, scan) < 0) {
                co_group_done(&scan->workers);
                break;
            }
        }
    }
    return started;
}

static int verdict(const struct scan *scan, const char *verb_of_others, struct hws_error *err)
{
    if (scan->error == 0)
        return 0;
    if (scan->failed_check.code && err) {
        *err = scan->failed_check;
        return scan->error;
    }
    if (!scan->error_node)
        return hws_fail_errno(err, -scan->error, "at %llu of %llu bytes",
                              (unsigned long long)scan->done,
                              (unsigned long long)(scan->end - scan->start));
    return hws_fail_errno(err, -scan->error, "%s '%.300s' at offset %llu",
                          scan->error_node == scan->from ? "reading" : verb_of_others,
                          block_filename(scan->error_node), (unsigned long long)scan->error_offset);
}

int co_scan(struct scan *scan, const char *verb_of_others, struct hws_error *err)
{
    assert(scan->load->threads <= JOB_THREADS_MAX && scan->load->requests <= JOB_REQUESTS_MAX);
    struct rt_queue *queues[JOB_THREADS_MAX];
    scan->unit = MAX(scan->unit, (uint64_t)1);
    scan->piece_bytes = MAX(SCAN_PIECE_BYTES, scan->unit);
    scan->cursor = scan->extent_end = scan->start;
    co_mutex_init(&scan->lock);
    rt_mutex_init(&scan->guard);
    list_init(&scan->active);
    scan->checked_ns = rt_now_ns();
    co_group_init(&scan->workers);
    unsigned started = start_workers(scan, queues);
    co_group_add(&scan->workers, 1);
    co_worker(scan);
    co_group_wait(&scan->workers);
    for (unsigned i = 0; i < started; i++)
        co_queue_stop(queues[i]);
    co_group_destroy(&scan->workers);
    rt_mutex_destroy(&scan->guard);
    co_mutex_destroy(&scan->lock);
    return verdict(scan, verb_of_others, err);
}
