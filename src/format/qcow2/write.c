/*
 * Guest writes.
 *
 * Where the clusters are allocated and ours alone, a write goes straight to the host offset, with
 * q->lock taken for the look-up only. Everything else is an allocation in flight: it covers a guest
 * range, others that touch the range wait for it, and its L2 entries change in one go when the data
 * is written.
 *
 *   FRESH    new host clusters, whole: unallocated, compressed or shared ones
 *   REUSE    zero clusters that keep host clusters of their own
 *   FILL     extended L2: subclusters of an allocated cluster
 *   PUBLISH  extended L2: gives unallocated clusters host clusters without content, so that several
 *            writers can FILL different subclusters of one cluster at a time
 *
 * A step handles neighbouring clusters of one mode inside one L2 slice: one host extent, one host
 * write, one change of the slice.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/cow.h"

/* ---- what to do ---- */

static enum qcow2_write_mode mode_of(const struct qcow2 *q, const uint8_t *at, uint64_t *ret_host)
{
    uint64_t entry = load_be64(at);
    *ret_host = 0;
    if (entry & QCOW2_COMPRESSED)
        return QCOW2_WRITE_FRESH;
    uint64_t host;
    bool has_host = qcow2_entry_host(q, entry, &host);
    if (has_host && !(entry & QCOW2_COPIED))
        return QCOW2_WRITE_FRESH;
    *ret_host = host;
    if (q->extended_l2)
        return has_host ? QCOW2_WRITE_FILL : QCOW2_WRITE_PUBLISH;
    if (has_host)
        return entry & QCOW2_ZERO ? QCOW2_WRITE_REUSE : QCOW2_WRITE_DIRECT;
    return QCOW2_WRITE_FRESH;
}

/* Are all subclusters that the step touches in this cluster allocated? */
static bool is_filled(const struct qcow2 *q, const uint8_t *at, uint64_t start, uint64_t end)
{
    unsigned first = qcow2_subcluster_index(q, start);
    unsigned last = qcow2_subcluster_index(q, end - 1);
    uint32_t touched = (uint32_t)(((2ull << last) - 1) & ~((1ull << first) - 1));
    return ((uint32_t)load_be64(at + 8) & touched) == touched;
}

/* Fills the step's mode, clusters and range. Caller holds q->lock. @length ends with the slice. */
static void plan(struct qcow2 *q, struct qcow2_step *s, uint64_t guest, uint64_t length)
{
    const uint8_t *at = qcow2_l2_entry(q, s->slice, guest);
    uint64_t end = guest + length, next = align_down(guest, q->cluster_size), host;
    s->first_guest = next;
    s->mode = mode_of(q, at, &s->host);
    s->clusters = 0;
    for (;; at += q->l2_entry_bytes) {
        bool same = qcow2_entry_valid(q, at) && mode_of(q, at, &host) == s->mode;
        if (s->mode == QCOW2_WRITE_REUSE || s->mode == QCOW2_WRITE_FILL)
            same = same && host == s->host + ((uint64_t)s->clusters << q->cluster_bits);
        if (same && s->mode == QCOW2_WRITE_FILL)
            same = !is_filled(q, at, MAX(guest, next), MIN(end, next + q->cluster_size));
        if (!same)
            break;
        s->clusters++;
        next += q->cluster_size;
        if (next >= end)
            break;
    }
    s->guest = guest;
    s->length = (size_t)(MIN(end, next) - guest);
    bool whole = s->mode != QCOW2_WRITE_FILL;
    uint64_t unit = whole ? q->cluster_size : q->subcluster_size;
    s->range_start = align_down(guest, unit);
    s->range_end = align_up(guest + s->length, unit);
}

/* Fewer clusters than planned could be had. */
static void shorten(struct qcow2 *q, struct qcow2_step *s, uint32_t clusters)
{
    s->clusters = clusters;
    uint64_t end = s->first_guest + ((uint64_t)clusters << q->cluster_bits);
    s->length = (size_t)(MIN(s->guest + s->length, end) - s->guest);
    s->range_end = end;
}

/* ---- changing L2 ---- */

static uint32_t bits_of(const struct qcow2 *q, const struct qcow2_step *s, uint64_t cluster)
{
    uint64_t start = MAX(s->range_start, cluster);
    uint64_t end = MIN(s->range_end, cluster + q->cluster_size);
    unsigned first = qcow2_subcluster_index(q, start), last = qcow2_subcluster_index(q, end - 1);
    return (uint32_t)(((2ull << last) - 1) & ~((1ull << first) - 1));
}

/* The step's entries as they are once its data is written. Caller holds q->lock; touched before. */
static void set_entries(struct qcow2 *q, struct qcow2_step *s)
{
    for (uint32_t i = 0; i < s->clusters; i++) {
        uint64_t guest = s->first_guest + ((uint64_t)i << q->cluster_bits);
        uint8_t *at = qcow2_l2_entry(q, s->slice, guest);
        uint64_t host = s->host + ((uint64_t)i << q->cluster_bits);
        uint64_t old = load_be64(at), bits = q->extended_l2 ? bits_of(q, s, guest) : 0;
        if (s->mode == QCOW2_WRITE_FRESH)
            qcow2_free_entry(q, old);
        /*
         * A kill between two words of an entry leaves one that reads as before the write or after
         * it: a compressed cluster has no use for a bitmap, so that comes first; a shared one's old
         * bitmap is right for its copy too, so that comes last.
         */
        if (q->extended_l2 && (old & QCOW2_COMPRESSED))
            qcow2_store_entry(at + 8, QCOW2_SUB_ALLOCATED);
        qcow2_store_entry(at, host | QCOW2_COPIED);
        if (q->extended_l2 && s->mode == QCOW2_WRITE_FRESH)
            qcow2_store_entry(at + 8, QCOW2_SUB_ALLOCATED);
        if (q->extended_l2 && s->mode == QCOW2_WRITE_FILL)
            qcow2_store_entry(at + 8, (load_be64(at + 8) & ~(bits << 32)) | bits);
    }
}

void qcow2_free_entry(struct qcow2 *q, uint64_t entry)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK, length = q->cluster_size;
    if (entry & QCOW2_COMPRESSED) {
        qcow2_compressed_range(q, entry, &host, &length);
        uint64_t first = align_down(host, q->cluster_size);
        length = align_up(host + length, q->cluster_size) - first;
        host = first;
    }
    if (host && !qcow2_has_data_file(q))
        qcow2_freed_add(q, host, (uint32_t)(length >> q->cluster_bits), true);
    else
        q->freed.reserved--;
}

/* ---- steps ---- */

/* Host clusters for FRESH and PUBLISH; one more entry on the freed list is theirs if the step
 * fails. */
static int co_step_allocate(struct qcow2 *q, struct qcow2_step *s)
{
    uint32_t got;
    int r = qcow2_co_alloc(q, s->clusters, &s->host, &got, &s->host_is_zero);
    if (r == 0 && got < s->clusters) {
        uint32_t spare = s->clusters - got;
        rt_mutex_lock(&q->lock);
        q->freed.reserved -= s->mode == QCOW2_WRITE_FRESH ? spare : 0;
        s->reserved -= s->mode == QCOW2_WRITE_FRESH ? spare : 0;
        shorten(q, s, got);
        rt_mutex_unlock(&q->lock);
    }
    return r;
}

/* Ends the step: entries changed, or its clusters given back. */
static int step_end(struct qcow2 *q, struct qcow2_step *s, bool allocated, int r)
{
    rt_mutex_lock(&q->lock);
    if (r == 0)
        r = qcow2_slice_touch(q, s->slice);
    if (r == 0) {
        unsigned used = s->mode == QCOW2_WRITE_FRESH ? s->clusters : 0;
        set_entries(q, s);
        s->reserved -= used;
    } else if (allocated) {
        qcow2_freed_add(q, s->host, s->clusters, false);
        s->reserved--;
    }
    q->freed.reserved -= s->reserved;
    qcow2_in_flight_end(q, &s->in_flight);
    rt_mutex_unlock(&q->lock);
    return r;
}

static int co_step_run(struct qcow2 *q, struct qcow2_step *s, struct sgl buffer)
{
    bool fresh = s->mode == QCOW2_WRITE_FRESH || s->mode == QCOW2_WRITE_PUBLISH;
    int r = 0;
    bool allocated = false;
    if (fresh && qcow2_has_data_file(q)) {
        s->host = s->first_guest; /* the one place; what lies there may be old */
    } else if (fresh) {
        r = co_step_allocate(q, s);
        allocated = r == 0;
    } else if (!qcow2_has_data_file(q)) {
        uint64_t bytes = (uint64_t)s->clusters << q->cluster_bits;
        rt_mutex_lock(&q->lock);
        r = qcow2_check_data_host(q, s->host, bytes);
        rt_mutex_unlock(&q->lock);
        if (r == 0)
            r = qcow2_co_reach(q, s->host, bytes);
    }
    if (r == 0 && s->mode != QCOW2_WRITE_PUBLISH)
        r = qcow2_co_write_filled(q, s, sgl_slice(buffer, 0, s->length));
    return step_end(q, s, allocated, r);
}

/*
 * One step of a write that needs an allocation. @ret_done bytes written; 0 where the caller must
 * look again, because somebody else's allocation ended or host clusters were made.
 */
static int co_write_step(struct qcow2 *q, uint64_t guest, struct sgl buffer, size_t *ret_done)
{
    struct qcow2_step s = {0};
    *ret_done = 0;
    int r = qcow2_co_l2_slice(q, guest, &s.slice);
    if (r < 0)
        return r;
    uint64_t in_slice = ((uint64_t)qcow2_slice_clusters_left(q, guest) << q->cluster_bits) -
                        qcow2_in_cluster(q, guest);
    unsigned reserved = qcow2_slice_clusters_left(q, guest) + 1;
    reserved = (unsigned)MIN((uint64_t)reserved,
                             (buffer.length + 2 * q->cluster_size - 1) / q->cluster_size + 1);
    r = qcow2_freed_reserve(q, reserved);
    rt_mutex_lock(&q->lock);
    if (r == 0) {
        s.reserved = reserved;
        plan(q, &s, guest, MIN((uint64_t)buffer.length, in_slice));
        struct qcow2_in_flight *other = qcow2_in_flight_find(q, s.range_start, s.range_end);
        bool run = s.mode != QCOW2_WRITE_DIRECT && s.clusters && !other;
        if (other)
            qcow2_co_in_flight_wait(q, other);
        if (run)
            qcow2_in_flight_begin(q, &s.in_flight, s.range_start, s.range_end);
        else
            q->freed.reserved -= reserved;
        if (run) {
            rt_mutex_unlock(&q->lock);
            r = co_step_run(q, &s, buffer);
            rt_mutex_lock(&q->lock);
            if (r == 0 && s.mode != QCOW2_WRITE_PUBLISH)
                *ret_done = s.length;
        }
    }
    qcow2_slice_unpin(q, s.slice);
    rt_mutex_unlock(&q->lock);
    return r;
}

/* ---- the request ---- */

int qcow2_co_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct qcow2 *q = qcow2_of(node);
    if (!atomic_load_explicit(&q->writable_prepared, memory_order_acquire)) {
        int r = qcow2_co_prepare_write(q);
        if (r < 0)
            return r;
    }
    /* Which tables the disk has is open then: what is ours alone here may be shared there. */
    int broken = atomic_load_explicit(&q->broken, memory_order_relaxed);
    if (unlikely(broken))
        return broken;
    for (size_t done = 0, part; done < buffer.length; done += part) {
        struct qcow2_extent e;
        uint64_t guest = offset + done;
        int r = qcow2_co_map_lock(q, guest, buffer.length - done, &e);
        if (r < 0)
            return r;
        if (e.kind == QCOW2_KIND_DATA && e.copied) {
            part = e.length;
            r = qcow2_check_target(q, e.host, part);
            uint64_t epoch = qcow2_enter(q);
            rt_mutex_unlock(&q->lock);
            if (r == 0 && !qcow2_has_data_file(q))
                r = qcow2_co_reach(q, e.host, part);
            if (r == 0)
                r = co_block_write(qcow2_data(q), e.host, sgl_slice(buffer, done, part), 0);
            qcow2_leave(q, epoch);
        } else {
            rt_mutex_unlock(&q->lock);
            r = co_write_step(q, guest, sgl_slice(buffer, done, buffer.length - done), &part);
        }
        if (r < 0)
            return r;
    }
    return 0;
}
