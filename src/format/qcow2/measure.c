/*
 * What an image would take in its file, from its creation options alone, and with the data of a
 * source in it.
 *
 *   header 1 | L1 table | L2 tables for every guest cluster | refcount table | refcount blocks |
 * data
 *
 * Refcounts count themselves, so their number is found step by step. All tables count in full, also
 * where nothing is to be stored: what a new image makes lazily, a writer will make.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "format/qcow2/create.h"

struct shape {
    uint64_t cluster;
    unsigned l2_entry_bytes, refcount_order;
};

/* Clusters of refcount table and blocks for @clusters others and themselves. */
static uint64_t refcount_clusters(const struct shape *s, uint64_t clusters)
{
    uint64_t block_entries = s->cluster * 8 >> s->refcount_order, table_entries = s->cluster / 8;
    uint64_t blocks = 0, tables = 0, before;
    do {
        before = blocks + tables;
        blocks = div_round_up(clusters + before, block_entries);
        tables = div_round_up(blocks, table_entries);
    } while (blocks + tables > before);
    return blocks + tables;
}

/* Clusters for everything but data. @return false where the tables would be too large. */
static bool table_clusters(const struct shape *s, uint64_t guest_clusters, uint64_t *ret)
{
    uint64_t l2 = div_round_up(guest_clusters, s->cluster / s->l2_entry_bytes);
    uint64_t l1 = div_round_up(l2 * 8, s->cluster), own = 1 + l1 + l2;
    *ret = own + refcount_clusters(s, own + guest_clusters);
    return l2 <= QCOW2_L1_BYTES_MAX / 8;
}

/* Target clusters in which the source holds anything but zeroes. */
static int co_count_data(struct block_node *source, uint64_t size, uint64_t cluster, uint64_t *ret,
                         struct hws_error *err)
{
    uint64_t end = MIN(size, block_size(source)), counted = 0; /* clusters in front of `counted` */
    *ret = 0;
    for (uint64_t at = 0; at < end;) {
        struct block_extent extent;
        int r = co_block_status_chain(source, at, end - at, &extent);
        if (r < 0)
            return hws_fail_errno(err, -r, "'%.200s': cannot tell what lies at offset %llu",
                                  source->filename, (unsigned long long)at);
        if (!(extent.flags & BLOCK_STATUS_ZERO)) {
            uint64_t first = MAX(at / cluster, counted);
            uint64_t behind = div_round_up(at + extent.length, cluster);
            if (behind > first)
                *ret += behind - first;
            counted = behind;
        }
        at += extent.length;
    }
    return 0;
}

/* For each a table, its bits, and an entry of the directory. */
static uint64_t bitmap_clusters(struct block_node *source, uint64_t cluster)
{
    uint64_t clusters = 0, directory = 0;
    struct block_bitmap *bitmap = NULL;
    while ((bitmap = block_bitmap_after(source, bitmap))) {
        if (!bitmap->persistent)
            continue;
        uint64_t grains = block_bitmap_grains(bitmap->granularity_bits, block_size(source));
        uint64_t data = div_round_up(div_round_up(grains, 8), cluster);
        clusters += data + div_round_up(data * 8, cluster);
        directory += align_up(sizeof(struct qcow2_disk_bitmap) + strlen(bitmap->name), 8);
    }
    return clusters + div_round_up(directory, cluster);
}

int qcow2_co_measure(const void *create_options, struct block_node *source,
                     struct block_measure *ret, struct hws_error *err)
{
    const struct qcow2_create *o = create_options;
    struct qcow2_header h = {0};
    int r = qcow2_create_decide(o, &h, err);
    if (r < 0)
        return r;
    struct shape shape = {
        .cluster = 1ull << h.cluster_bits,
        .l2_entry_bytes = h.incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2 ? 16 : 8,
        .refcount_order = h.refcount_order,
    };
    uint64_t tables, data = 0, guest_clusters = div_round_up(o->size, shape.cluster);
    if (!table_clusters(&shape, guest_clusters, &tables))
        return hws_fail(err, EFBIG,
                        "an image of %llu bytes is too large for clusters of %llu; use larger ones",
                        (unsigned long long)o->size, (unsigned long long)shape.cluster);
    bool all = o->preallocation == BLOCK_PREALLOC_FALLOC ||
               o->preallocation == BLOCK_PREALLOC_FULL || (source && o->backing_file);
    /* With a backing file of its own nobody knows yet what the image will have to hold. */
    if (all)
        data = guest_clusters;
    else if (source)
        r = co_count_data(source, o->size, shape.cluster, &data, err);
    ret->has_bitmaps = source && source->driver == &qcow2_driver && h.version >= 3 &&
                       qcow2_of(source)->header.version >= 3;
    ret->bitmaps = ret->has_bitmaps ? bitmap_clusters(source, shape.cluster) * shape.cluster : 0;
    ret->required = (tables + data) * shape.cluster;
    ret->fully_allocated = (tables + guest_clusters) * shape.cluster;
    return r;
}
