/*
 * The comparison: refcounts on disk against what the walk counted, and COPIED flags against both.
 *
 * A refcount that is too high leaks the cluster; one that is too low lets the cluster be given out
 * twice. Blocks are read in file order, several at a time. Clusters whose refcount block is missing
 * or is a hole are found from the side of the map instead, so a refcount table that covers exabytes
 * costs nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check.h"
#include <inttypes.h>

static uint64_t block_offset(struct checker *c, size_t index)
{
    if (c->block_state[index] != CHECK_BLOCK_PRESENT)
        return 0;
    return load_be64(c->refcount_table + index * 8) & QCOW2_REFTABLE_OFFSET_MASK;
}

/*
 * The COPIED flag must be set where the refcount is exactly one. Where the refcount itself is
 * wrong, a clear flag is only the other side of the same finding.
 */
static void check_copied(struct checker *c, struct check_chunk *chunk, unsigned index,
                         uint64_t cluster, uint64_t found)
{
    uint8_t kind = chunk->kind[index];
    uint64_t count = check_chunk_count(chunk, index);
    if ((kind & CHECK_COPIED_SET) && count != 1) {
        check_corruption(c,
                         "%s at %#" PRIx64 ": an entry has the COPIED flag, but %" PRIu64
                         " entries refer to it",
                         check_kind_name(kind), cluster << c->cluster_bits, count);
    } else if ((kind & CHECK_COPIED_CLEAR) && count == 1 && found == 1) {
        check_corruption(
            c, "%s at %#" PRIx64 ": its entry lacks the COPIED flag, but the refcount is 1",
            check_kind_name(kind), cluster << c->cluster_bits);
    }
}

static void compare_cluster(struct checker *c, struct check_chunk *chunk, uint64_t cluster,
                            uint64_t found)
{
    unsigned index = cluster % CHECK_CHUNK_CLUSTERS;
    uint64_t expected = chunk ? check_chunk_count(chunk, index) : 0;
    uint64_t offset = cluster << c->cluster_bits;
    if (found != 0)
        c->result->image_end_offset = MAX(c->result->image_end_offset, offset + c->cluster_size);
    if (found > expected) {
        c->too_high++;
        check_leak(c, "cluster at %#" PRIx64 ": refcount %" PRIu64 ", but %" PRIu64 " in use%s",
                   offset, found, expected,
                   cluster >= c->file_clusters ? " (past the end of the file)" : "");
    } else if (found < expected) {
        check_corruption(c, "%s at %#" PRIx64 ": refcount %" PRIu64 ", but %" PRIu64 " in use%s",
                         check_kind_name(chunk->kind[index]), offset, found, expected,
                         expected > check_refcount_max(c) ? ", more than the width can hold" : "");
    }
    if (chunk)
        check_copied(c, chunk, index, cluster, found);
}

static int compare_block(struct checker *c, size_t block_index, uint8_t *block)
{
    uint64_t entries = check_block_entries(c), base = block_index * entries;
    /* The smallest block, 512 bytes of 64-bit counts, covers exactly one chunk. */
    const uint64_t step = CHECK_CHUNK_CLUSTERS;
    size_t step_bytes = (size_t)((step << c->refcount_order) / 8);
    if (!block) {
        c->block_state[block_index] = CHECK_BLOCK_UNREADABLE;
        return 0;
    }
    c->block_state[block_index] = CHECK_BLOCK_COMPARED;
    for (uint64_t at = 0; at < entries; at += step) {
        const uint8_t *piece = block + ((at << c->refcount_order) / 8);
        struct check_chunk *chunk = check_map_find(&c->map, base + at);
        if (!chunk && buffer_is_zero(piece, step_bytes))
            continue;
        for (uint64_t i = at; i < at + step; i++)
            compare_cluster(c, chunk, base + i,
                            qcow2_refcount_read(block, c->refcount_order, (uint32_t)i));
    }
    return 0;
}

static int by_number(const void *a, const void *b)
{
    const struct check_chunk *const *left = a, *const *right = b;
    return ((*left)->number > (*right)->number) - ((*left)->number < (*right)->number);
}

/* Clusters in use whose refcount block was not compared: their refcount is 0. */
static int compare_uncovered(struct checker *c)
{
    size_t count = 0;
    autofree struct check_chunk **sorted = calloc(c->map.used + 1, sizeof(struct check_chunk *));
    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < c->map.slot_count; i++)
        if (c->map.slots[i])
            sorted[count++] = c->map.slots[i];
    qsort(sorted, count, sizeof(*sorted), by_number);
    for (size_t i = 0; i < count; i++) {
        uint64_t base = sorted[i]->number * CHECK_CHUNK_CLUSTERS;
        for (unsigned j = 0; j < CHECK_CHUNK_CLUSTERS; j++) {
            if (check_chunk_count(sorted[i], j) == 0)
                continue;
            uint64_t block = (base + j) / check_block_entries(c);
            if (block < c->refcount_entries && (c->block_state[block] == CHECK_BLOCK_COMPARED ||
                                                c->block_state[block] == CHECK_BLOCK_UNREADABLE))
                continue;
            compare_cluster(c, sorted[i], base + j, 0);
        }
    }
    return 0;
}

int co_check_compare(struct checker *c)
{
    int result = co_check_each_table(c, c->refcount_entries, block_offset, compare_block);
    return result < 0 ? result : compare_uncovered(c);
}
