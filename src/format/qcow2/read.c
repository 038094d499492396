/*
 * Guest reads and block status.
 *
 * A read takes q->lock for the look-up alone; neighbouring clusters that lie next to each other in
 * the file become one host read straight into the caller's buffers. Between look-up and the end of
 * the host read the request is counted as a user of host clusters (qcow2_enter), so that none is
 * reused under it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* One extent of stored data. Called with q->lock held, released on return. */
static int co_read_stored(struct qcow2 *q, const struct qcow2_extent *e, uint64_t guest,
                          struct sgl buffer)
{
    uint64_t epoch = qcow2_enter(q);
    rt_mutex_unlock(&q->lock);
    int r =
        e->kind == QCOW2_KIND_DATA
            ? co_block_read_padded(q->file, e->host, buffer)
            : qcow2_co_read_compressed(q, e->entry, (uint32_t)qcow2_in_cluster(q, guest), buffer);
    qcow2_leave(q, epoch);
    return r;
}

int qcow2_co_read_layer(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags,
                        struct block_holes *holes)
{
    struct qcow2 *q = qcow2_of(node);
    for (size_t done = 0; done < buffer.length;) {
        struct qcow2_extent e;
        int r = qcow2_co_map_lock(q, offset + done, buffer.length - done, &e);
        if (r < 0)
            return r;
        struct sgl part = sgl_slice(buffer, done, e.length);
        if (e.kind == QCOW2_KIND_DATA || e.kind == QCOW2_KIND_COMPRESSED) {
            r = co_read_stored(q, &e, offset + done, part);
            if (r < 0)
                return r;
        } else {
            rt_mutex_unlock(&q->lock);
            if (e.kind == QCOW2_KIND_ZERO)
                sgl_fill(part, 0);
            else
                block_hole(holes, offset + done, e.length);
        }
        done += e.length;
    }
    return 0;
}

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

/* ---- status --------------------------------------------------------------------------------- */

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
                ret->file = q->file;
            }
        } else if (flags != ret->flags ||
                   ((flags & BLOCK_STATUS_MAPPED) && e.host != ret->host_offset + ret->length)) {
            break;
        }
        ret->length += e.length;
    }
    return 0;
}
