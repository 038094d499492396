/*
 * Preallocation, at creation and of what a resize has added: guest clusters without host clusters
 * get some, so that the guest's offsets follow each other in the file too.
 *
 *     mode       entries   host blocks
 *     metadata   mapped    whatever the file has there
 *     falloc     mapped    reserved, unwritten
 *     full       mapped    written with zeroes
 *
 * What is mapped reads as zeroes afterwards as it did before: from host clusters that are known to
 * hold nothing else, else by the entry's zero flags, which version 2 lacks, so there they are
 * written. Over a backing file only extended entries can have a cluster and show what lies below:
 * their bitmaps stay. In a data file the place is the guest's own.
 *
 * Each step holds its range as an allocation in flight, is ended by a change of one L2 slice, and
 * leaves a whole image, so a crash or a cancellation costs nothing but leaks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/create.h"

#define RAW_PIECE_BYTES (32 * MiB)

struct prealloc_step {
    struct qcow2_slice *slice;
    uint64_t guest;
    uint32_t clusters;
    uint64_t host;
    bool zero; /* the host clusters hold zeroes */
    struct qcow2_in_flight in_flight;
};

/* Can the cluster get a host cluster without showing anything else? Caller holds q->lock. */
static bool is_wanted(struct qcow2 *q, const struct prealloc_step *s, uint64_t guest)
{
    const uint8_t *at = qcow2_l2_entry(q, s->slice, guest);
    uint64_t entry = load_be64(at), host;
    return qcow2_entry_valid(q, at) && !(entry & QCOW2_COMPRESSED) &&
           !qcow2_entry_host(q, entry, &host);
}

/* The first run of wanted clusters from s->guest on, in the slice and before @end. */
static void plan(struct qcow2 *q, struct prealloc_step *s, uint64_t end)
{
    uint64_t slice_end =
        s->guest + ((uint64_t)qcow2_slice_clusters_left(q, s->guest) << q->cluster_bits);
    end = MIN(align_up(end, q->cluster_size), slice_end);
    while (s->guest < end && !is_wanted(q, s, s->guest))
        s->guest += q->cluster_size;
    s->clusters = 0;
    for (uint64_t at = s->guest; at < end && is_wanted(q, s, at); at += q->cluster_size)
        s->clusters++;
}

static uint64_t step_bytes(const struct qcow2 *q, const struct prealloc_step *s)
{
    return (uint64_t)s->clusters << q->cluster_bits;
}

/* The entries as they are once the blocks are there. Caller holds q->lock; touched before. */
static void set_entries(struct qcow2 *q, const struct prealloc_step *s)
{
    bool raw = qcow2_data_is_raw(q), backed = q->header.backing_file;
    for (uint32_t i = 0; i < s->clusters; i++) {
        uint64_t in = (uint64_t)i << q->cluster_bits;
        uint8_t *at = qcow2_l2_entry(q, s->slice, s->guest + in);
        uint64_t entry = (s->host + in) | QCOW2_COPIED;
        bool zero = !s->zero && !raw;
        if (!q->extended_l2)
            entry |= zero ? QCOW2_ZERO : 0;
        qcow2_store_entry(at, entry);
        /* Last: a kill before that leaves subclusters that read as they did. */
        if (q->extended_l2 && !backed)
            qcow2_store_entry(at + 8, zero ? QCOW2_SUB_ZERO : QCOW2_SUB_ALLOCATED);
    }
}

/* Blocks for [@at, @at + @length) of the file that holds guest data. */
static int co_make_blocks(struct qcow2 *q, uint64_t at, uint64_t length,
                          enum block_preallocation mode)
{
    struct block_node *data = qcow2_data(q);
    struct hws_error ignored = {0};
    int r = 0;
    if (qcow2_has_data_file(q)) /* it ends where the device does */
        length = MIN(length, align_up(q->header.size, 512) - at);
    if (block_size(data) < at + length)
        r = co_block_resize(data, at + length, &ignored);
    if (r == 0 && mode == BLOCK_PREALLOC_FALLOC)
        r = co_block_write_zeroes(data, at, length, BLOCK_NO_FALLBACK);
    if (r == 0 && mode == BLOCK_PREALLOC_FULL)
        r = qcow2_co_zero_blocks(data, at, length);
    return r;
}

static bool co_reads_zero(struct block_node *data, uint64_t at, uint64_t length)
{
    struct block_extent e;
    uint64_t end = MIN(at + length, block_size(data));
    if (at >= end)
        return true;
    return co_block_status(data, at, end - at, &e) == 0 && e.length == end - at &&
           (e.flags & BLOCK_STATUS_ZERO);
}

/* Host clusters with blocks as @mode says; fewer than planned where no more lie together. */
static int co_make_host(struct qcow2 *q, struct prealloc_step *s, enum block_preallocation mode,
                        bool *ret_allocated)
{
    uint32_t got = s->clusters;
    int r = 0;
    if (qcow2_has_data_file(q)) {
        s->host = s->guest;
        s->zero = co_reads_zero(qcow2_data(q), s->host, step_bytes(q, s));
    } else {
        r = qcow2_co_alloc(q, s->clusters, &s->host, &got, &s->zero);
        *ret_allocated = r == 0;
    }
    if (r < 0)
        return r;
    s->clusters = got;
    r = co_make_blocks(q, s->host, step_bytes(q, s), mode);
    s->zero |= mode != BLOCK_PREALLOC_METADATA;
    if (r == 0 && !s->zero && q->header.version < 3) {
        r = qcow2_co_zero_blocks(q->file, s->host, step_bytes(q, s));
        s->zero = true;
    }
    return r;
}

static int co_run_step(struct qcow2 *q, struct prealloc_step *s, enum block_preallocation mode)
{
    bool allocated = false;
    int r = co_make_host(q, s, mode, &allocated);
    rt_mutex_lock(&q->lock);
    if (r == 0)
        r = qcow2_slice_touch(q, s->slice);
    if (r == 0) {
        set_entries(q, s);
        q->freed.reserved--;
    } else if (allocated) {
        qcow2_freed_add(q, s->host, s->clusters, false);
    } else {
        q->freed.reserved--;
    }
    qcow2_in_flight_end(q, &s->in_flight);
    rt_mutex_unlock(&q->lock);
    return r;
}

/* What can be done in one go from *@guest on, which moves behind it. */
static int co_step(struct qcow2 *q, uint64_t *guest, uint64_t end, enum block_preallocation mode)
{
    struct prealloc_step s = {.guest = align_down(*guest, q->cluster_size)};
    int r = qcow2_co_l2_slice(q, s.guest, &s.slice);
    if (r < 0)
        return r;
    r = qcow2_freed_reserve(q, 1);
    rt_mutex_lock(&q->lock);
    if (r == 0) {
        struct qcow2_in_flight *other;
        uint64_t slice_end =
            s.guest + ((uint64_t)qcow2_slice_clusters_left(q, s.guest) << q->cluster_bits);
        while ((other = qcow2_in_flight_find(q, s.guest, slice_end)))
            qcow2_co_in_flight_wait(q, other);
        plan(q, &s, end);
        if (s.clusters) {
            qcow2_in_flight_begin(q, &s.in_flight, s.guest, s.guest + step_bytes(q, &s));
            rt_mutex_unlock(&q->lock);
            r = co_run_step(q, &s, mode);
            rt_mutex_lock(&q->lock);
        } else {
            q->freed.reserved--;
        }
    }
    qcow2_slice_unpin(q, s.slice);
    rt_mutex_unlock(&q->lock);
    *guest = s.guest + step_bytes(q, &s);
    return r;
}

static int told(struct qcow2 *q, int r, struct hws_error *err)
{
    if (r == -ENOTSUP)
        return hws_fail(err, ENOTSUP,
                        "the storage of '%.200s' cannot reserve blocks; use preallocation=full or "
                        "metadata",
                        q->node->filename);
    return hws_fail_errno(err, -r, "preallocating '%.200s'", q->node->filename);
}

/* A raw data file, mapped or not: nothing but zeroes lies in the range. */
static int co_fill_raw(struct qcow2 *q, uint64_t start, uint64_t end, enum block_preallocation mode)
{
    int r = 0;
    for (uint64_t at = start, piece; at < end && r == 0; at += piece) {
        piece = MIN(end - at, RAW_PIECE_BYTES);
        r = co_make_blocks(q, at, piece, mode);
        if (r == 0)
            r = block_progress(q->node, at + piece - start, end - start);
    }
    return r;
}

int qcow2_co_preallocate(struct qcow2 *q, uint64_t start, uint64_t end,
                         enum block_preallocation mode, struct hws_error *err)
{
    if (mode == BLOCK_PREALLOC_OFF || start >= end)
        return 0;
    int r = qcow2_co_prepare_write(q);
    if (r == 0 && qcow2_data_is_raw(q) && mode != BLOCK_PREALLOC_METADATA) {
        r = co_fill_raw(q, start, end, mode);
        mode = BLOCK_PREALLOC_METADATA;
    }
    for (uint64_t guest = start; guest < end && r == 0;) {
        r = co_step(q, &guest, end, mode);
        if (r == 0)
            r = block_progress(q->node, MIN(guest, end) - start, end - start);
    }
    return r < 0 ? told(q, r, err) : 0;
}

int qcow2_co_preallocate_range(struct block_node *node, uint64_t offset, uint64_t length,
                               enum block_preallocation mode, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    /* Where a cluster begins before the range, what it shows there counts. */
    return qcow2_co_preallocate(q, align_up(offset, q->cluster_size), offset + length, mode, err);
}
