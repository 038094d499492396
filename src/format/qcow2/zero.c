/*
 * Write-zeroes and discard: changes of L2 entries alone, slice by slice.
 *
 * With version 3 an entry can say "reads as zeroes"; version 2 has only "unallocated", which means
 * the same where there is no backing file. Host clusters that are dropped go to the freed list.
 * What cannot be expressed (a part of a compressed cluster) is written as data.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/cow.h"

enum change {
    CHANGE_ZERO,       /* reads as zeroes, host clusters stay */
    CHANGE_ZERO_UNMAP, /* reads as zeroes, host clusters go */
    CHANGE_ZERO_OWN,   /* the same, whatever may come to lie below */
    CHANGE_DISCARD,    /* host clusters go; what it reads as is ours to choose */
    CHANGE_CUT,        /* behind the end of the device: nothing is left */
};

/* ---- one cluster ---- */

/* Bits of the subclusters of the cluster at @cluster that lie in [start, end). */
static uint64_t sub_bits(const struct qcow2 *q, uint64_t cluster, uint64_t start, uint64_t end)
{
    unsigned first = start > cluster ? qcow2_subcluster_index(q, start) : 0;
    unsigned last = end < cluster + q->cluster_size ? qcow2_subcluster_index(q, end - 1)
                                                    : QCOW2_SUBCLUSTERS - 1;
    return ((2ull << last) - 1) & ~((1ull << first) - 1);
}

static bool reads_zero_below(const struct qcow2 *q, uint64_t guest)
{
    const struct block_node *backing = q->node->child[BLOCK_BACKING];
    return !backing || guest >= block_size(backing);
}

/* A whole cluster. One promised entry of the freed list is used. Caller holds q->lock. */
static void change_cluster(struct qcow2 *q, uint8_t *at, uint64_t guest, enum change change)
{
    uint64_t entry = load_be64(at), bitmap = q->extended_l2 ? load_be64(at + 8) : 0;
    bool compressed = entry & QCOW2_COMPRESSED;
    uint64_t host = compressed ? 0 : entry & QCOW2_OFFSET_MASK;
    bool plain_zero = change != CHANGE_CUT && q->header.version >= 3 &&
                      (change == CHANGE_ZERO_OWN || !reads_zero_below(q, guest));
    bool empty = !compressed && !host;
    uint64_t zero = q->extended_l2 ? 0 : QCOW2_ZERO;

    if (empty && (change == CHANGE_DISCARD || !plain_zero)) {
        q->freed.reserved--; /* unallocated, or a zero cluster, and may stay so */
        if (change == CHANGE_DISCARD || bitmap == 0)
            return;
        qcow2_store_entry(at + 8, QCOW2_SUB_ZERO);
        return;
    }
    if (change == CHANGE_ZERO && host && (entry & QCOW2_COPIED) && q->header.version >= 3) {
        q->freed.reserved--;
        if (q->extended_l2)
            qcow2_store_entry(at + 8, QCOW2_SUB_ZERO);
        qcow2_store_entry(at, host | QCOW2_COPIED | zero);
        return;
    }
    qcow2_free_entry(q, entry);
    /* The bitmap first: an entry that a kill leaves between the two stores reads as the new one, or
       as the compressed cluster that it was. Allocated bits without a cluster would be invalid. */
    if (q->extended_l2)
        qcow2_store_entry(at + 8, plain_zero ? QCOW2_SUB_ZERO : 0);
    qcow2_store_entry(at, plain_zero ? zero : 0);
}

/* Some subclusters of a cluster that is not compressed. */
static void zero_subclusters(uint8_t *at, uint64_t bits)
{
    uint64_t bitmap = load_be64(at + 8);
    qcow2_store_entry(at + 8, (bitmap & ~bits) | bits << 32);
}

/* ---- one slice ---- */

struct zero_step {
    struct qcow2_slice *slice;
    uint64_t start, end; /* inside the slice */
    enum change change;
    unsigned reserved;
    uint64_t data_end; /* beyond start: the range up to here must be written as data */
};

/* Caller holds q->lock. @return how far it came; at @step->data_end the part that must be data
 * begins. */
static void change_slice(struct qcow2 *q, struct zero_step *s)
{
    uint64_t guest = s->start;
    while (guest < s->end) {
        uint64_t cluster = align_down(guest, q->cluster_size);
        uint64_t next = MIN(s->end, cluster + q->cluster_size);
        uint8_t *at = qcow2_l2_entry(q, s->slice, guest);
        if (!qcow2_entry_valid(q, at))
            break; /* reported by the next look-up */
        bool whole = guest == cluster && next == cluster + q->cluster_size;
        if (whole) {
            change_cluster(q, at, guest, s->change);
            s->reserved--;
        } else if (load_be64(at) & QCOW2_COMPRESSED) {
            s->data_end = next;
            break;
        } else {
            zero_subclusters(at, sub_bits(q, cluster, guest, next));
        }
        guest = next;
    }
    s->end = guest;
}

/* Waits for allocations in the range; then, with everything at hand, changes it in one go. */
static int co_change_slice(struct qcow2 *q, struct zero_step *s)
{
    unsigned clusters =
        (unsigned)((s->end - align_down(s->start, q->cluster_size) + q->cluster_size - 1) >>
                   q->cluster_bits);
    int r = qcow2_co_l2_slice(q, s->start, &s->slice);
    if (r < 0)
        return r;
    r = qcow2_freed_reserve(q, clusters);
    rt_mutex_lock(&q->lock);
    if (r == 0) {
        struct qcow2_in_flight *other;
        s->reserved = clusters;
        while ((other = qcow2_in_flight_find(q, s->start, s->end)))
            qcow2_co_in_flight_wait(q, other);
        r = qcow2_slice_touch(q, s->slice);
        if (r == 0)
            change_slice(q, s);
        q->freed.reserved -= s->reserved;
    }
    qcow2_slice_unpin(q, s->slice);
    rt_mutex_unlock(&q->lock);
    return r;
}

/* Nothing to do where there is no L2 table and nothing below shows through. */
static bool can_skip(struct qcow2 *q, uint64_t start, enum change change)
{
    rt_mutex_lock(&q->lock);
    bool no_table = (q->l1[qcow2_l1_index(q, start)] & QCOW2_OFFSET_MASK) == 0;
    rt_mutex_unlock(&q->lock);
    return no_table && change != CHANGE_ZERO_OWN &&
           (change == CHANGE_DISCARD || reads_zero_below(q, start));
}

int qcow2_co_write_data_zeroes(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    static uint8_t zeroes[64 * KiB] __attribute__((aligned(QCOW2_BUFFER_ALIGNMENT)));
    while (length) {
        struct iovec iov;
        size_t part = (size_t)MIN(length, (uint64_t)sizeof(zeroes));
        int r = qcow2_co_write(q->node, offset, sgl_one(&iov, zeroes, part), 0);
        if (r < 0)
            return r;
        offset += part;
        length -= part;
    }
    return 0;
}

static int co_change(struct qcow2 *q, uint64_t start, uint64_t end, enum change change)
{
    while (start < end) {
        uint64_t slice_end = align_down(start, q->cluster_size) +
                             ((uint64_t)qcow2_slice_clusters_left(q, start) << q->cluster_bits);
        struct zero_step s = {.start = start, .end = MIN(end, slice_end), .change = change};
        if (can_skip(q, start, change)) {
            start = s.end;
            continue;
        }
        int r = co_change_slice(q, &s);
        if (r < 0)
            return r;
        if (s.data_end) {
            r = qcow2_co_write_data_zeroes(q, s.end, s.data_end - s.end);
            s.end = s.data_end;
        } else if (s.end == start) {
            r = -EIO; /* an invalid entry */
        }
        if (r < 0)
            return r;
        start = s.end;
    }
    qcow2_co_reclaim_if_many(q);
    return 0;
}

int qcow2_co_cut(struct qcow2 *q, uint64_t start, uint64_t end, bool gone)
{
    uint64_t table_bytes = 1ull << (q->cluster_bits + q->l2_bits);
    for (uint64_t next; start < end; start = next) {
        uint64_t index = qcow2_l1_index(q, start);
        if (index >= q->header.l1_size)
            return 0;
        next = MIN(end, align_down(start, table_bytes) + table_bytes);
        rt_mutex_lock(&q->lock);
        bool table = (q->l1[index] & QCOW2_OFFSET_MASK) != 0;
        rt_mutex_unlock(&q->lock);
        int r = table ? co_change(q, start, next, gone ? CHANGE_CUT : CHANGE_ZERO_UNMAP) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- requests ---- */

/* The end of the image need not be aligned; what lies behind it in the last cluster may be zeroed
 * too. */
static uint64_t request_end(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    return end == block_size(q->node) ? align_up(end, q->cluster_size) : end;
}

int qcow2_co_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    struct qcow2 *q = qcow2_of(node);
    bool unmap = flags & BLOCK_MAY_UNMAP, own = flags & BLOCK_OWN;
    /* "With version 2 this is always 0": unallocated reads as zeroes only without a backing file.
     */
    if (q->header.version < 3 && (!unmap || own || node->child[BLOCK_BACKING]))
        return -ENOTSUP;
    int r = qcow2_co_prepare_write(q);
    if (r < 0)
        return r;
    return co_change(q, offset, request_end(q, offset, length),
                     own     ? CHANGE_ZERO_OWN
                     : unmap ? CHANGE_ZERO_UNMAP
                             : CHANGE_ZERO);
}

int qcow2_co_zero_range(struct qcow2 *q, uint64_t start, uint64_t end)
{
    return co_change(q, start, end, CHANGE_ZERO_UNMAP);
}

int qcow2_co_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct qcow2 *q = qcow2_of(node);
    /* What the backing file holds must not come back. */
    if (q->header.version < 3 && node->child[BLOCK_BACKING])
        return -ENOTSUP;
    int r = qcow2_co_prepare_write(q);
    if (r < 0)
        return r;
    return co_change(q, offset, request_end(q, offset, length), CHANGE_DISCARD);
}
