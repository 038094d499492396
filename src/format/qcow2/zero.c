/*
 * Write-zeroes and discard: changes of L2 entries alone, slice by slice.
 *
 * With version 3 an entry can say "reads as zeroes"; version 2 has only "unallocated", which means
 * the same where there is no backing file. Host clusters that are dropped go to the freed list.
 * What cannot be expressed (a part of a compressed cluster) is written as data.
 *
 * Where host bytes are to go with it (holes in a data file; zeroes, where that is to be readable as
 * a raw image; holes in clusters that stay ours, with discard-no-unref) they go before the entries
 * change, with the range held as an allocation in flight, so that no write comes in between. A
 * crash there leaves zeroes under entries that say data: the same to the guest.
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
    uint64_t host;
    bool has_host = qcow2_entry_host(q, entry, &host) && !compressed;
    bool plain_zero = change != CHANGE_CUT && q->header.version >= 3 &&
                      (change == CHANGE_ZERO_OWN || !reads_zero_below(q, guest));
    bool empty = !compressed && !has_host;
    bool keep = change == CHANGE_ZERO || (q->discard_no_unref && change != CHANGE_CUT);
    uint64_t zero = q->extended_l2 ? 0 : QCOW2_ZERO;

    if (empty && (change == CHANGE_DISCARD || !plain_zero)) {
        q->freed.reserved--; /* unallocated, or a zero cluster, and may stay so */
        if (change == CHANGE_CUT && (entry || bitmap)) {
            if (q->extended_l2)
                qcow2_store_entry(at + 8, 0);
            qcow2_store_entry(at, 0);
            return;
        }
        if (change == CHANGE_DISCARD || bitmap == 0)
            return;
        qcow2_store_entry(at + 8, QCOW2_SUB_ZERO);
        return;
    }
    if (keep && has_host && (entry & QCOW2_COPIED) && q->header.version >= 3) {
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
    bool nothing;      /* it cannot be done, and need not be */
    struct qcow2_in_flight in_flight;
};

/* ---- host bytes ---- */

static bool empties_host(const struct qcow2 *q, const struct zero_step *s)
{
    return qcow2_data_is_raw(q) ||
           (s->change != CHANGE_ZERO && (qcow2_has_data_file(q) || q->discard_no_unref));
}

static int co_empty_data_file(struct qcow2 *q, struct zero_step *s)
{
    struct block_node *data = qcow2_data(q);
    uint64_t end = MIN(s->end, block_size(data));
    if (s->start >= end)
        return 0; /* behind its end it reads as zeroes */
    if (!qcow2_data_is_raw(q)) {
        (void)!co_block_discard(data, s->start, end - s->start); /* a hint */
        return 0;
    }
    unsigned flags = s->change == CHANGE_ZERO ? 0 : BLOCK_MAY_UNMAP;
    if (s->change == CHANGE_DISCARD)
        flags |= BLOCK_NO_FALLBACK;
    int r = co_block_write_zeroes(data, s->start, end - s->start, flags);
    s->nothing = r == -ENOTSUP && s->change == CHANGE_DISCARD;
    return s->nothing ? 0 : r;
}

/*
 * The next host extent under whole clusters from *@guest on, which moves behind it. @return its
 * length, 0: no more, or -EIO where it lies over metadata. Caller holds q->lock.
 */
static int64_t next_kept(struct qcow2 *q, const struct zero_step *s, uint64_t *guest,
                         uint64_t *ret_host)
{
    uint64_t length = 0, host;
    for (; *guest + q->cluster_size <= s->end; *guest += q->cluster_size) {
        uint64_t entry = load_be64(qcow2_l2_entry(q, s->slice, *guest));
        bool kept = !(entry & QCOW2_COMPRESSED) && (entry & QCOW2_COPIED) &&
                    qcow2_entry_host(q, entry, &host) && is_aligned(host, q->cluster_size);
        if (length && (!kept || host != *ret_host + length))
            break;
        if (!kept)
            continue;
        if (!length)
            *ret_host = host;
        length += q->cluster_size;
    }
    int r = length ? qcow2_check_data_host(q, *ret_host, length) : 0;
    return r < 0 ? r : (int64_t)length;
}

/* Holes in the clusters that stay ours. */
static int co_empty_kept(struct qcow2 *q, const struct zero_step *s)
{
    uint64_t guest = align_up(s->start, q->cluster_size), host = 0;
    for (;;) {
        rt_mutex_lock(&q->lock);
        int64_t length = next_kept(q, s, &guest, &host);
        rt_mutex_unlock(&q->lock);
        if (length <= 0)
            return (int)length;
        uint64_t file_bytes = block_size(q->file);
        if (host < file_bytes) /* a hint, so errors are none */
            (void)!co_block_discard(q->file, host, MIN((uint64_t)length, file_bytes - host));
    }
}

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

/* With everything at hand, changes the range in one go. Called and returns with q->lock held. */
static int co_change_entries(struct qcow2 *q, struct zero_step *s)
{
    int r = 0;
    bool host = empties_host(q, s);
    if (host) {
        qcow2_in_flight_begin(q, &s->in_flight, s->start, s->end);
        rt_mutex_unlock(&q->lock);
        r = qcow2_has_data_file(q) ? co_empty_data_file(q, s) : co_empty_kept(q, s);
        rt_mutex_lock(&q->lock);
    }
    if (r == 0 && !s->nothing)
        r = qcow2_slice_touch(q, s->slice);
    if (r == 0 && !s->nothing)
        change_slice(q, s);
    if (host)
        qcow2_in_flight_end(q, &s->in_flight);
    return r;
}

/* Waits for allocations in the range before. */
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
        r = co_change_entries(q, s);
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
    if (qcow2_data_is_raw(q))
        return false; /* what the data file has there goes too */
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
