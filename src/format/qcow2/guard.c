/*
 * The guard against guest data over metadata: a damaged image may name a refcount block, an L2
 * table or the L1 table of a snapshot as a data cluster, or have a refcount of zero for one in use.
 * Writing there would destroy the image for good, so each host range is looked up before guest data
 * goes into it.
 *
 * A filter of bits, 16 a table, answers "no table" for nearly every write; a hit is looked up
 * exactly in the tables in memory. Bits are never taken away: one that is stale only costs such a
 * look-up. Guarded by q->lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

#define BITS_A_TABLE 16
#define BITS_MIN     4096
/* 512 MiB of L1 tables with clusters of 64 KiB; what goes beyond is not looked up. */
#define SNAPSHOT_CLUSTERS_MAX ((uint64_t)8192)

static uint64_t bit_of(const struct qcow2 *q, uint64_t cluster)
{
    return (cluster * 0x9e3779b97f4a7c15ull) >> (64 - q->guard_order);
}

void qcow2_guard_add(struct qcow2 *q, uint64_t host)
{
    uint64_t bit = bit_of(q, host >> q->cluster_bits);
    if (q->guard)
        q->guard[bit / 64] |= 1ull << (bit % 64);
}

/* Clusters of the L1 table of a snapshot; 0 where it cannot be one. */
static uint64_t l1_clusters(const struct qcow2 *q, const struct qcow2_snapshot *s)
{
    struct hws_error ignored = {0};
    return qcow2_snapshot_check(q, s, &ignored) < 0
               ? 0
               : div_round_up((uint64_t)s->l1_entries * 8, q->cluster_size);
}

/* All of those, SNAPSHOT_CLUSTERS_MAX at most. */
static uint64_t snapshot_clusters(const struct qcow2 *q)
{
    uint64_t clusters = 0;
    for (uint32_t i = 0; i < q->snapshots.count && clusters < SNAPSHOT_CLUSTERS_MAX; i++)
        clusters += l1_clusters(q, &q->snapshots.entry[i]);
    return MIN(clusters, SNAPSHOT_CLUSTERS_MAX);
}

static void add_snapshots(struct qcow2 *q)
{
    uint64_t left = SNAPSHOT_CLUSTERS_MAX;
    for (uint32_t i = 0; i < q->snapshots.count && left; i++) {
        const struct qcow2_snapshot *s = &q->snapshots.entry[i];
        uint64_t clusters = MIN(l1_clusters(q, s), left);
        for (uint64_t j = 0; j < clusters; j++)
            qcow2_guard_add(q, s->l1_offset + (j << q->cluster_bits));
        left -= clusters;
    }
}

int qcow2_guard_make(struct qcow2 *q)
{
    uint64_t bits = BITS_A_TABLE * (q->reftable_entries + q->header.l1_size + snapshot_clusters(q));
    unsigned order = log2_of(BITS_MIN);
    while (((uint64_t)1 << order) < bits)
        order++;
    uint64_t *guard = calloc(((size_t)1 << order) / 64, sizeof(*guard));
    if (!guard)
        return -ENOMEM; /* an old one stays: too small, it only costs look-ups */
    free(q->guard);
    q->guard = guard;
    q->guard_order = order;
    for (uint64_t i = 0; i < q->reftable_entries; i++)
        if (q->reftable[i])
            qcow2_guard_add(q, q->reftable[i]);
    for (uint64_t i = 0; i < q->header.l1_size; i++)
        if (q->l1[i] & QCOW2_OFFSET_MASK)
            qcow2_guard_add(q, q->l1[i] & QCOW2_OFFSET_MASK);
    add_snapshots(q);
    return 0;
}

static const char *table_at(const struct qcow2 *q, uint64_t host)
{
    for (uint64_t i = 0; i < q->reftable_entries; i++)
        if (q->reftable[i] == host)
            return "a refcount block";
    for (uint64_t i = 0; i < q->header.l1_size; i++)
        if ((q->l1[i] & QCOW2_OFFSET_MASK) == host)
            return "an L2 table";
    for (uint32_t i = 0; i < q->snapshots.count; i++) {
        const struct qcow2_snapshot *s = &q->snapshots.entry[i];
        if (host >= s->l1_offset && host - s->l1_offset < (uint64_t)s->l1_entries * 8 &&
            l1_clusters(q, s))
            return "the L1 table of a snapshot";
    }
    return NULL;
}

int qcow2_check_data_host(struct qcow2 *q, uint64_t host, uint64_t length)
{
    int r = qcow2_check_host(q, host, length);
    uint64_t last = (host + length - 1) >> q->cluster_bits;
    for (uint64_t cluster = host >> q->cluster_bits; cluster <= last && r == 0; cluster++) {
        uint64_t bit = bit_of(q, cluster);
        if (likely(!(q->guard[bit / 64] >> (bit % 64) & 1)))
            continue;
        const char *table = table_at(q, cluster << q->cluster_bits);
        if (table)
            r = block_corrupt(q->node, cluster << q->cluster_bits, NULL,
                              "the cluster at offset %#llx is %s and in use as data too",
                              (unsigned long long)(cluster << q->cluster_bits), table);
    }
    return r;
}
