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
static void check_copied(struct checker *c, const struct check_view *view, unsigned index,
                         uint64_t cluster, uint64_t found)
{
    uint8_t kind = check_view_kind(view, index);
    uint64_t count = check_view_count(view, index);
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

static void compare_cluster(struct checker *c, const struct check_view *view, uint64_t cluster,
                            uint64_t found)
{
    unsigned index = cluster % CHECK_CHUNK_CLUSTERS;
    uint64_t expected = check_view_count(view, index);
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
                         check_kind_name(check_view_kind(view, index)), offset, found, expected,
                         expected > check_refcount_max(c) ? ", more than the width can hold" : "");
    }
    if (expected)
        check_copied(c, view, index, cluster, found);
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
    uint8_t ones[CHECK_CHUNK_CLUSTERS * 8] = {0}; /* what 64 counts of 1 look like */
    for (unsigned i = 0; i < CHECK_CHUNK_CLUSTERS; i++)
        qcow2_refcount_write(ones, c->refcount_order, i, 1);
    for (uint64_t at = 0; at < entries; at += step) {
        const uint8_t *piece = block + ((at << c->refcount_order) / 8);
        struct check_view view = check_map_view(&c->map, base + at);
        if (check_view_is_empty(&view) && buffer_is_zero(piece, step_bytes))
            continue;
        if (!view.chunk && view.once == UINT64_MAX && memcmp(piece, ones, step_bytes) == 0) {
            c->result->image_end_offset =
                MAX(c->result->image_end_offset, (base + at + step) << c->cluster_bits);
            continue;
        }
        for (uint64_t i = at; i < at + step; i++)
            compare_cluster(c, &view, base + i,
                            qcow2_refcount_read(block, c->refcount_order, (uint32_t)i));
    }
    return 0;
}

/* Was the block read that has the refcount of @cluster? One covers whole chunks of the map. */
static bool is_compared(const struct checker *c, uint64_t cluster)
{
    uint64_t block = cluster / check_block_entries(c);
    return block < c->refcount_entries && (c->block_state[block] == CHECK_BLOCK_COMPARED ||
                                           c->block_state[block] == CHECK_BLOCK_UNREADABLE);
}

/* Clusters in use whose refcount block was not compared: their refcount is 0. */
static int compare_uncovered(struct checker *c)
{
    autofree uint64_t *first = NULL;
    int64_t groups = check_map_groups(&c->map, &first);
    if (groups < 0)
        return (int)groups;
    for (uint64_t i = 0; i < (uint64_t)groups * CHECK_GROUP_CHUNKS; i++) {
        uint64_t base =
            first[i / CHECK_GROUP_CHUNKS] + i % CHECK_GROUP_CHUNKS * CHECK_CHUNK_CLUSTERS;
        if (is_compared(c, base))
            continue;
        struct check_view view = check_map_view(&c->map, base);
        for (unsigned j = 0; j < CHECK_CHUNK_CLUSTERS; j++)
            if (check_view_count(&view, j) != 0)
                compare_cluster(c, &view, base + j, 0);
    }
    return 0;
}

int co_check_compare(struct checker *c)
{
    int result = co_check_each_table(c, c->refcount_entries, block_offset, compare_block);
    return result < 0 ? result : compare_uncovered(c);
}
