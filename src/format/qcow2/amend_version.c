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
    /* "Version 3: snapshot table entries must have" the size of the disk. */
    for (uint32_t i = 0; i < q->snapshots.count; i++)
        if (!q->snapshots.entry[i].has_disk_bytes)
            return hws_fail(err, EPROTONOSUPPORT,
                            "'%.200s': the internal snapshot '%.100s' does not record the size of "
                            "its disk, which version 3 needs: delete it first",
                            q->node->filename, q->snapshots.entry[i].name);
    return qcow2_co_header_edit(q, edit_up, NULL, err);
}

/* ---- down ---- */

/* Does the L2 table at @host hold zero clusters? @return 1, 0, or -errno. */
static int co_table_has_zeroes(struct qcow2 *q, uint64_t host, uint8_t *buffer)
{
    struct iovec iov;
    if (!host)
        return 0;
    int r = co_block_read_padded(q->file, host, sgl_one(&iov, buffer, q->cluster_size));
    for (uint64_t at = 0; at < q->cluster_size && r == 0; at += 8) {
        uint64_t entry = load_be64(buffer + at);
        r = (entry & QCOW2_ZERO) && !(entry & QCOW2_COMPRESSED);
    }
    return r;
}

/* What a snapshot holds cannot be written anew: others may share it. */
static int co_check_snapshot(struct qcow2 *q, const struct qcow2_snapshot *s, struct hws_error *err)
{
    autofree uint64_t *l1 = NULL;
    autofree uint8_t *buffer = qcow2_buffer(q->cluster_size);
    int r = buffer ? qcow2_co_snapshot_l1(q, s, &l1, err) : hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < s->l1_entries && r == 0; i++)
        r = co_table_has_zeroes(q, l1[i] & QCOW2_OFFSET_MASK, buffer);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': reading the snapshot '%.100s'", q->node->filename,
                              s->name);
    return r ? hws_fail(err, EPROTONOSUPPORT,
                        "'%.200s': the internal snapshot '%.100s' holds zero clusters, which a "
                        "version 2 image cannot have",
                        q->node->filename, s->name)
             : 0;
}

int qcow2_co_check_downgrade(struct qcow2 *q, struct hws_error *err)
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
    if (what)
        return hws_fail(err, EPROTONOSUPPORT,
                        "'%.200s' has %s, which a version 2 image cannot have", q->node->filename,
                        what);
    int r = 0;
    for (uint32_t i = 0; i < q->snapshots.count && r == 0; i++)
        r = co_check_snapshot(q, &q->snapshots.entry[i], err);
    return r;
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
