/*
 * Guest reads and block status.
 *
 * A read of stored data that lies together takes no lock (qcow2_map_unlocked). Any other takes
 * q->lock for the look-up alone; neighbouring clusters that lie next to each other in
 * the file become one host read straight into the caller's buffers. Between look-up and the end of
 * the host read the request is counted as a user of host clusters (qcow2_enter), so that none is
 * reused under it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/read.h"

/* One extent of stored data. Called with q->lock held, released on return. */
static int co_read_stored(struct qcow2 *q, const struct qcow2_extent *e, uint64_t guest,
                          struct sgl buffer)
{
    uint64_t epoch = qcow2_enter(q);
    rt_mutex_unlock(&q->lock);
    int r =
        e->kind == QCOW2_KIND_DATA
            ? co_block_read_padded(qcow2_data(q), e->host, buffer)
            : qcow2_co_read_compressed(q, e->entry, (uint32_t)qcow2_in_cluster(q, guest), buffer);
    qcow2_leave(q, epoch);
    return r;
}

/* ---- several extents at a time ---- */

/* Extents of one request that are read beside each other. */
#define EXTENTS_AT_ONCE 8

struct piece {
    struct qcow2 *q;
    struct batch *batch;
    struct qcow2_extent extent;
    uint64_t guest, epoch;
    struct sgl buffer;
};

struct batch {
    struct co_group group;
    _Atomic int error;
    unsigned used;
    struct piece piece[EXTENTS_AT_ONCE];
};

static int co_read_piece(const struct piece *p)
{
    const struct qcow2_extent *e = &p->extent;
    int r = e->kind == QCOW2_KIND_DATA
                ? co_block_read_padded(qcow2_data(p->q), e->host, p->buffer)
                : qcow2_co_read_compressed(p->q, e->entry,
                                           (uint32_t)qcow2_in_cluster(p->q, p->guest), p->buffer);
    qcow2_leave(p->q, p->epoch);
    return r;
}

static void co_run_piece(void *arg)
{
    struct piece *p = arg;
    struct batch *batch = p->batch;
    int r = co_read_piece(p);
    if (r < 0)
        atomic_store(&batch->error, r);
    co_group_done(&batch->group);
}

/* Begins one stored extent; the last of a request, and what nobody can be found for, is read here.
 */
static int co_begin_piece(struct batch *batch, const struct piece *p, bool last)
{
    if (batch->used == EXTENTS_AT_ONCE) {
        co_group_wait(&batch->group);
        batch->used = 0;
    }
    if (!last) {
        struct piece *slot = &batch->piece[batch->used];
        *slot = *p;
        co_group_add(&batch->group, 1);
        if (rt_spawn(NULL, co_run_piece, slot) == 0) {
            batch->used++;
            return 0;
        }
        co_group_done(&batch->group);
    }
    return co_read_piece(p);
}

/* A request over several extents: fragmented, compressed, or partly unallocated. */
static __attribute__((noinline)) int co_read_extents(struct qcow2 *q, uint64_t offset,
                                                     struct sgl buffer, struct block_holes *holes)
{
    struct batch batch;
    int r = 0;
    co_group_init(&batch.group);
    atomic_init(&batch.error, 0);
    batch.used = 0;
    for (size_t done = 0; done < buffer.length && r == 0;) {
        struct piece p = {.q = q, .batch = &batch, .guest = offset + done};
        r = qcow2_co_map_lock(q, p.guest, buffer.length - done, &p.extent);
        if (r < 0)
            break;
        enum qcow2_kind kind = p.extent.kind;
        p.buffer = sgl_slice(buffer, done, p.extent.length);
        done += p.extent.length;
        if (kind == QCOW2_KIND_DATA || kind == QCOW2_KIND_COMPRESSED)
            p.epoch = qcow2_enter(q);
        rt_mutex_unlock(&q->lock);
        if (kind == QCOW2_KIND_ZERO)
            sgl_fill(p.buffer, 0);
        else if (kind == QCOW2_KIND_UNALLOCATED)
            block_hole(holes, p.guest, p.extent.length);
        else
            r = co_begin_piece(&batch, &p, done == buffer.length);
    }
    co_group_wait(&batch.group);
    co_group_destroy(&batch.group);
    return r < 0 ? r : atomic_load(&batch.error);
}

int qcow2_co_read_layer(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags,
                        struct block_holes *holes)
{
    struct qcow2 *q = qcow2_of(node);
    struct qcow2_extent e;
    uint64_t host, epoch;
    if (likely(qcow2_map_unlocked(q, offset, buffer.length, &host, &epoch))) {
        int r = co_block_read_padded(qcow2_data(q), host, buffer);
        qcow2_leave(q, epoch);
        return r;
    }
    int r = qcow2_co_map_lock(q, offset, buffer.length, &e);
    if (r < 0)
        return r;
    if (likely(e.length == buffer.length) &&
        (e.kind == QCOW2_KIND_DATA || e.kind == QCOW2_KIND_COMPRESSED))
        return co_read_stored(q, &e, offset, buffer);
    rt_mutex_unlock(&q->lock);
    if (e.length < buffer.length)
        return co_read_extents(q, offset, buffer, holes);
    if (e.kind == QCOW2_KIND_ZERO)
        sgl_fill(buffer, 0);
    else
        block_hole(holes, offset, e.length);
    return 0;
}

int qcow2_try_read(struct block_node *node, uint64_t offset, void *bytes, size_t length)
{
    struct qcow2 *q = qcow2_of(node);
    uint64_t host, epoch;
    if (!qcow2_map_unlocked(q, offset, length, &host, &epoch))
        return -EAGAIN;
    int r = block_try_read(qcow2_data(q), host, bytes, length);
    qcow2_leave(q, epoch);
    return r;
}

/* ---- for copy-on-write ---- */

/* Past the virtual end an overlay's clusters do not show what a longer backing file holds there. */
static int co_read_below(struct qcow2 *q, uint64_t guest, struct sgl buffer)
{
    uint64_t size = atomic_load_explicit(&q->node->size_bytes, memory_order_relaxed);
    size_t inside = guest < size ? (size_t)MIN(size - guest, (uint64_t)buffer.length) : 0;
    if (inside < buffer.length)
        sgl_fill(sgl_slice(buffer, inside, buffer.length - inside), 0);
    return inside ? co_block_read_padded(q->node->child[BLOCK_BACKING], guest,
                                         sgl_slice(buffer, 0, inside))
                  : 0;
}

int qcow2_co_read_guest(struct qcow2 *q, uint64_t offset, struct sgl buffer)
{
    for (size_t done = 0; done < buffer.length;) {
        struct qcow2_extent e;
        int r = qcow2_co_map_lock(q, offset + done, buffer.length - done, &e);
        if (r < 0)
            return r;
        struct sgl part = sgl_slice(buffer, done, e.length);
        if (e.kind == QCOW2_KIND_DATA || e.kind == QCOW2_KIND_COMPRESSED) {
            r = co_read_stored(q, &e, offset + done, part);
        } else {
            rt_mutex_unlock(&q->lock);
            if (e.kind == QCOW2_KIND_ZERO)
                sgl_fill(part, 0);
            else
                r = co_read_below(q, offset + done, part);
        }
        if (r < 0)
            return r;
        done += e.length;
    }
    return 0;
}

/* ---- status ---- */

static unsigned status_flags(const struct qcow2_extent *e)
{
    switch (e->kind) {
    case QCOW2_KIND_DATA:
        return BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_MAPPED;
    case QCOW2_KIND_COMPRESSED:
        return BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_COMPRESSED;
    case QCOW2_KIND_ZERO:
        return BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
    case QCOW2_KIND_UNALLOCATED:
        break;
    }
    return 0;
}

int qcow2_co_status(struct block_node *node, uint64_t offset, uint64_t length,
                    struct block_extent *ret)
{
    struct qcow2 *q = qcow2_of(node);
    *ret = (struct block_extent){0};
    /* The map stops at slices; answers are joined as long as they fit together. */
    while (ret->length < length) {
        struct qcow2_extent e;
        int r = qcow2_co_map_lock(q, offset + ret->length, length - ret->length, &e);
        if (r < 0)
            return ret->length ? 0 : r;
        rt_mutex_unlock(&q->lock);
        unsigned flags = status_flags(&e);
        if (ret->length == 0) {
            ret->flags = flags;
            if (flags & BLOCK_STATUS_MAPPED) {
                ret->host_offset = e.host;
                ret->file = qcow2_data(q);
            }
        } else if (flags != ret->flags ||
                   ((flags & BLOCK_STATUS_MAPPED) && e.host != ret->host_offset + ret->length)) {
            break;
        }
        ret->length += e.length;
    }
    return 0;
}
