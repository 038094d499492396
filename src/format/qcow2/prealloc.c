/*
 * Preallocation at creation: all guest clusters get host clusters, in order, so that the guest's
 * offsets follow each other in the file too. The file is new, so what was never written there reads
 * as zeroes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/create.h"

/* Entries of [guest, guest + count clusters), all in one slice. */
static int co_map_clusters(struct qcow2 *q, uint64_t guest, uint32_t count, uint64_t host)
{
    struct qcow2_slice *slice;
    int r = qcow2_co_l2_slice(q, guest, &slice);
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    r = qcow2_slice_touch(q, slice);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        uint8_t *at = qcow2_l2_entry(q, slice, guest + ((uint64_t)i << q->cluster_bits));
        store_be64(at, (host + ((uint64_t)i << q->cluster_bits)) | QCOW2_COPIED);
        if (q->extended_l2)
            store_be64(at + 8, QCOW2_SUB_ALLOCATED);
    }
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return r;
}

/* Blocks for one host extent, at the end of the file so far. */
static int co_fill_extent(struct qcow2 *q, uint64_t host, uint64_t length,
                          enum qcow2_preallocation mode)
{
    if (mode == QCOW2_PREALLOC_FULL)
        return qcow2_co_zero_host(q, host, length);
    int r = 0;
    if (block_size(q->file) < host + length)
        r = co_block_resize(q->file, host + length, NULL);
    if (r == 0 && mode == QCOW2_PREALLOC_FALLOC)
        r = co_block_write_zeroes(q->file, host, length, BLOCK_NO_FALLBACK);
    return r;
}

int qcow2_co_preallocate(struct qcow2 *q, enum qcow2_preallocation mode, struct hws_error *err)
{
    if (mode == QCOW2_PREALLOC_OFF)
        return 0;
    uint64_t size = block_size(q->node);
    for (uint64_t guest = 0; guest < size;) {
        uint64_t left = div_round_up(size - guest, q->cluster_size), host;
        uint32_t want = (uint32_t)MIN(left, (uint64_t)qcow2_slice_clusters_left(q, guest)), got = 0;
        int r = qcow2_co_alloc(q, want, &host, &got, NULL);
        if (r == 0)
            r = co_fill_extent(q, host, (uint64_t)got << q->cluster_bits, mode);
        if (r == 0)
            r = co_map_clusters(q, guest, got, host);
        if (r == -ENOTSUP)
            return hws_fail(err, ENOTSUP,
                            "the storage of '%.200s' cannot reserve blocks; use "
                            "preallocation=full or metadata",
                            q->node->filename);
        if (r < 0)
            return hws_fail_errno(err, -r, "preallocating '%.200s'", q->node->filename);
        guest += (uint64_t)got << q->cluster_bits;
    }
    return 0;
}
