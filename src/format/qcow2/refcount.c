/*
 * Reference counts: entries of any width in refcount blocks, which are read through the cache.
 *
 *   refcount table (in memory) --> refcount block --> slices of it in the cache --> entry
 *
 * All of it under alloc_lock. A count only rises where nothing on disk refers to the cluster yet,
 * and only falls where nothing on disk refers to it any more, so refcount slices may be written at
 * any time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* Widths below a byte: "bit 0 means the least significant bit". */
uint64_t qcow2_refcount_read(const uint8_t *slice, unsigned order, uint32_t index)
{
    switch (order) {
    case 3:
        return slice[index];
    case 4:
        return load_be16(slice + index * 2);
    case 5:
        return load_be32(slice + index * 4);
    case 6:
        return load_be64(slice + index * 8);
    default: {
        unsigned width = 1u << order;
        unsigned bit = (index << order) & 7;
        return (slice[(index << order) / 8] >> bit) & ((1u << width) - 1);
    }
    }
}

void qcow2_refcount_write(uint8_t *slice, unsigned order, uint32_t index, uint64_t value)
{
    switch (order) {
    case 3:
        slice[index] = (uint8_t)value;
        break;
    case 4:
        store_be16(slice + index * 2, (uint16_t)value);
        break;
    case 5:
        store_be32(slice + index * 4, (uint32_t)value);
        break;
    case 6:
        store_be64(slice + index * 8, value);
        break;
    default: {
        unsigned mask = (1u << (1u << order)) - 1;
        unsigned bit = (index << order) & 7;
        uint8_t *byte = &slice[(index << order) / 8];
        *byte = (uint8_t)((*byte & ~(mask << bit)) | ((value & mask) << bit));
    }
    }
}

int qcow2_co_refcount_slice(struct qcow2 *q, uint64_t cluster, unsigned flags,
                            struct qcow2_slice **ret, uint32_t *ret_index)
{
    uint64_t block = cluster >> q->refcount_block_bits;
    uint64_t in_block = cluster & ((1ull << q->refcount_block_bits) - 1);
    uint32_t per_slice = qcow2_refcounts_per_slice(q);
    *ret = NULL;
    *ret_index = (uint32_t)(in_block & (per_slice - 1));
    uint64_t host = block < q->reftable_entries ? q->reftable[block] : 0;
    if (host == 0)
        return 0;
    if (!is_aligned(host, q->cluster_size) || host >= QCOW2_HOST_END || host < q->cluster_size)
        return block_corrupt(q->node, q->header.refcount_table_offset + block * 8, NULL,
                             "refcount table entry %llu is invalid: %#llx",
                             (unsigned long long)block, (unsigned long long)host);
    uint64_t at = host + in_block / per_slice * q->cache.slice_bytes;
    /* A block behind the end of a file that was cut short: as in qcow2_co_reach(). */
    q->fresh_cluster = MAX(q->fresh_cluster, (at >> q->cluster_bits) + 1);
    rt_mutex_lock(&q->lock);
    int r = qcow2_check_host(q, at, q->cache.slice_bytes);
    rt_mutex_unlock(&q->lock);
    return r < 0 ? r : qcow2_co_slice_get(q, QCOW2_TABLE_REFCOUNT, at, flags, ret);
}

/* As much of [cluster, cluster + count) as one slice holds gets @value. @return how much, or
 * -errno. */
static int64_t co_store_run(struct qcow2 *q, uint64_t cluster, uint64_t count, uint64_t value)
{
    struct qcow2_slice *slice;
    uint32_t index;
    int r = qcow2_co_refcount_slice(q, cluster, 0, &slice, &index);
    if (r < 0)
        return r;
    if (!slice)
        return -EIO;
    uint32_t run = (uint32_t)MIN(count, (uint64_t)(qcow2_refcounts_per_slice(q) - index));
    rt_mutex_lock(&q->lock);
    r = qcow2_slice_touch(q, slice);
    for (uint32_t i = 0; i < run && r == 0; i++)
        qcow2_refcount_write(slice->data, q->refcount_order, index + i, value);
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return r < 0 ? r : (int64_t)run;
}

int qcow2_co_refcount_set_used(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    uint64_t done = 0;
    while (done < count) {
        int64_t run = co_store_run(q, cluster + done, count - done, 1);
        if (run < 0) {
            /* They were free: free again. What cannot be undone stays counted, a leak. */
            for (uint64_t undone = 0; undone < done;) {
                int64_t back = co_store_run(q, cluster + undone, done - undone, 0);
                if (back < 0)
                    break;
                undone += (uint64_t)back;
            }
            return (int)run;
        }
        done += (uint64_t)run;
    }
    return 0;
}
