/*
 * Versions 2 and 3 of the format: from one to the other.
 *
 * Version 3 takes all that version 2 has; the header gets longer. Version 2 has no zero clusters,
 * so these become unallocated where nothing below shows, and data elsewhere, durably, before the
 * one write that makes the header that of version 2.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/amend.h"
#include "format/qcow2/create.h"

/* ---- up ---- */

static int edit_up(struct qcow2_header *h, const void *arg)
{
    h->version = 3;
    h->header_length = QCOW2_HEADER_OUR_BYTES;
    h->incompatible_features = h->compatible_features = h->autoclear_features = 0;
    h->refcount_order = 4;
    h->compression_type = QCOW2_ZLIB;
    return qcow2_create_feature_names(h);
}

int qcow2_co_upgrade(struct qcow2 *q, struct hws_error *err)
{
    if (q->header.nb_snapshots)
        return hws_fail(err, ENOTSUP,
                        "'%.200s' has internal snapshots: delete them before its version is "
                        "changed",
                        q->node->filename);
    return qcow2_co_header_edit(q, edit_up, NULL, err);
}

/* ---- down ---- */

int qcow2_check_downgrade(const struct qcow2 *q, struct hws_error *err)
{
    static const struct {
        uint64_t bit;
        const char *what;
    } features[] = {
        {QCOW2_INCOMPAT_EXTENDED_L2, "extended L2 entries"},
        {QCOW2_INCOMPAT_DATA_FILE, "an external data file"},
        {QCOW2_INCOMPAT_COMPRESSION, "another compression than zlib"},
    };
    const char *what = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(features) && !what; i++)
        if (q->header.incompatible_features & features[i].bit)
            what = features[i].what;
    if (!what && qcow2_header_extension(&q->header, QCOW2_EXT_BITMAPS))
        what = "dirty bitmaps";
    if (!what && q->header.nb_snapshots)
        what = "internal snapshots";
    return what ? hws_fail(err, EPROTONOSUPPORT,
                           "'%.200s' has %s, which a version 2 image cannot have",
                           q->node->filename, what)
                : 0;
}

/* [at, end), whole clusters that read as zeroes. */
static int co_expand_run(struct qcow2 *q, uint64_t at, uint64_t end)
{
    const struct block_node *backing = q->node->child[BLOCK_BACKING];
    uint64_t shown = backing ? MIN(block_size(backing), q->header.size) : 0;
    uint64_t data_end = MIN(end, align_up(shown, q->cluster_size));
    if (at < data_end) {
        int r = qcow2_co_write_data_zeroes(q, at, data_end - at);
        if (r < 0)
            return r;
        at = data_end;
    }
    return at < end ? qcow2_co_cut(q, at, end, true) : 0;
}

/* All zero clusters of the L2 table that covers [at, end). */
static int co_expand_table(struct qcow2 *q, uint64_t at, uint64_t end)
{
    while (at < end) {
        struct qcow2_extent e;
        int r = qcow2_co_map_lock(q, at, end - at, &e);
        if (r < 0)
            return r;
        rt_mutex_unlock(&q->lock);
        if (e.kind == QCOW2_KIND_ZERO)
            r = co_expand_run(q, at, at + e.length);
        if (r < 0)
            return r;
        at += e.length;
    }
    return 0;
}

static int co_expand(struct qcow2 *q, const struct block_progress *progress)
{
    uint64_t table_bytes = 1ull << (q->cluster_bits + q->l2_bits);
    uint64_t total = q->header.l1_size * table_bytes;
    for (uint64_t i = 0; i < q->header.l1_size; i++) {
        int r = block_progress_step(progress, i * table_bytes, total);
        if (r == 0 && q->l1[i] & QCOW2_OFFSET_MASK)
            r = co_expand_table(q, i * table_bytes, (i + 1) * table_bytes);
        if (r < 0)
            return r;
    }
    return block_progress_step(progress, total, total);
}

static int edit_down(struct qcow2_header *h, const void *arg)
{
    h->version = 2;
    h->header_length = QCOW2_HEADER_V2_BYTES;
    h->incompatible_features = h->compatible_features = h->autoclear_features = 0;
    free(steal_ptr(&h->more_fields));
    h->more_fields_bytes = 0;
    return qcow2_header_set_extension(h, QCOW2_EXT_FEATURE_NAMES, NULL, 0);
}

int qcow2_co_downgrade(struct qcow2 *q, const struct block_progress *progress,
                       struct hws_error *err)
{
    int r = co_expand(q, progress);
    if (r == -ECANCELED)
        return hws_fail(err, ECANCELED, "cancelled");
    if (r == 0)
        r = qcow2_co_flush(q->node);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': expanding zero clusters", q->node->filename);
    return qcow2_co_header_edit(q, edit_down, NULL, err);
}
