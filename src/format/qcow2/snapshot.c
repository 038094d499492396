/*
 * Internal snapshots of an open image: their table loaded and listed, one of them opened.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "format/qcow2/qcow2.h"

/* Read first; the table says only at its end how long it is. */
#define TABLE_GUESS_BYTES (64 * KiB)

/* ---- loading ---- */

/* Reads more and more of what follows the table's offset until it is whole. */
static int co_load(struct qcow2 *q, struct hws_error *err)
{
    const struct qcow2_header *h = &q->header;
    uint64_t file_end = align_up(MIN(block_size(q->file), QCOW2_HOST_END), q->cluster_size);
    uint64_t most = h->snapshots_offset < file_end ? file_end - h->snapshots_offset : 0;
    most = MIN(most, QCOW2_SNAPSHOT_TABLE_BYTES_MAX);
    uint64_t length = MAX(TABLE_GUESS_BYTES, (uint64_t)h->nb_snapshots * 128);
    for (;; length *= 4) {
        struct iovec iov;
        length = MIN(length, most);
        autofree uint8_t *bytes = qcow2_buffer(length);
        if (!bytes)
            return hws_fail(err, ENOMEM, "out of memory for the snapshot table");
        int r = length ? co_block_read_padded(q->file, h->snapshots_offset,
                                              sgl_one(&iov, bytes, length))
                       : 0;
        if (r < 0)
            return hws_fail_errno(err, -r, "reading the snapshot table at offset %#llx",
                                  (unsigned long long)h->snapshots_offset);
        r = qcow2_snapshots_parse(bytes, length, h->nb_snapshots, &q->snapshots, err);
        if (r != -ENODATA)
            return r;
        if (length == most)
            return hws_fail(err, EUCLEAN,
                            "the table of %u snapshots at offset %#llx reaches past the end of "
                            "the file",
                            h->nb_snapshots, (unsigned long long)h->snapshots_offset);
    }
}

int qcow2_co_snapshots_load(struct qcow2 *q, struct hws_error *err)
{
    struct hws_error why = {0};
    if (q->header.nb_snapshots == 0)
        return 0;
    int r = co_load(q, &why);
    q->snapshots_unreadable = r < 0;
    if (r < 0 && (r == -ENOMEM || (!q->node->read_only && !q->node->check_only)))
        return hws_fail(err, -r, "'%.200s': %.400s", q->node->filename, why.text);
    /* What the image holds besides can still be read. */
    if (r < 0)
        log_warning("'%s': %s", q->node->filename, why.text);
    qcow2_reserve_ranges(q);
    return 0;
}

/* ---- one snapshot ---- */

uint64_t qcow2_snapshot_disk_bytes(const struct qcow2 *q, const struct qcow2_snapshot *s)
{
    return s->has_disk_bytes ? s->disk_bytes : q->header.size;
}

int qcow2_snapshot_check(const struct qcow2 *q, const struct qcow2_snapshot *s,
                         struct hws_error *err)
{
    const char *image = q->node->filename;
    uint64_t size = qcow2_snapshot_disk_bytes(q, s);
    uint64_t file_end = align_up(MIN(block_size(q->file), QCOW2_HOST_END), q->cluster_size);
    if (s->l1_entries > QCOW2_L1_BYTES_MAX / 8)
        return hws_fail(err, EFBIG,
                        "'%.200s': snapshot '%.100s' has an L1 table of %u entries, "
                        "at most %llu are supported",
                        image, s->name, s->l1_entries,
                        (unsigned long long)(QCOW2_L1_BYTES_MAX / 8));
    if (s->l1_entries &&
        (!is_aligned(s->l1_offset, q->cluster_size) || s->l1_offset < q->cluster_size ||
         !range_fits(s->l1_offset, (uint64_t)s->l1_entries * 8, file_end)))
        return hws_fail(err, EUCLEAN,
                        "'%.200s': the L1 table of snapshot '%.100s' cannot lie at offset %#llx",
                        image, s->name, (unsigned long long)s->l1_offset);
    if (size > BLOCK_SIZE_MAX ||
        s->l1_entries < div_round_up(size, 1ull << (q->cluster_bits + q->l2_bits)))
        return hws_fail(err, EUCLEAN,
                        "'%.200s': the L1 table of snapshot '%.100s' has %u entries, too few for "
                        "its %llu bytes",
                        image, s->name, s->l1_entries, (unsigned long long)size);
    return 0;
}

int qcow2_co_snapshot_l1(struct qcow2 *q, const struct qcow2_snapshot *s, uint64_t **ret,
                         struct hws_error *err)
{
    struct iovec iov;
    int r = qcow2_snapshot_check(q, s, err);
    if (r < 0)
        return r;
    uint64_t bytes = (uint64_t)s->l1_entries * 8;
    autofree uint64_t *l1 = qcow2_buffer(bytes + 8);
    if (!l1)
        return hws_fail(err, ENOMEM, "out of memory for the L1 table of a snapshot");
    if (bytes)
        r = co_block_read_padded(q->file, s->l1_offset, sgl_one(&iov, l1, bytes));
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': reading the L1 table of snapshot '%.100s'",
                              q->node->filename, s->name);
    for (uint32_t i = 0; i < s->l1_entries; i++)
        l1[i] = load_be64(&l1[i]);
    *ret = steal_ptr(&l1);
    return 0;
}

int qcow2_co_snapshot_show(struct qcow2 *q, const char *id_or_name, struct hws_error *err)
{
    struct block_node *node = q->node;
    uint64_t *l1;
    if (!node->read_only)
        return hws_fail(err, EROFS, "'%.200s': an internal snapshot can only be read",
                        node->filename);
    if (node->check_only)
        return hws_fail(err, EINVAL, "'%.200s': a check is of the whole image, not of a snapshot",
                        node->filename);
    int64_t index = qcow2_snapshots_find(&q->snapshots, id_or_name);
    if (index < 0)
        return hws_fail(err, ENOENT, "'%.200s' has no snapshot '%.100s'%s", node->filename,
                        id_or_name, q->snapshots_unreadable ? ": their table is damaged" : "");
    const struct qcow2_snapshot *s = &q->snapshots.entry[index];
    int r = qcow2_co_snapshot_l1(q, s, &l1, err);
    if (r < 0)
        return r;
    free(q->l1);
    q->l1 = l1;
    /* The dirty bitmap of L1 is left: nothing is written any more. */
    q->header.l1_size = s->l1_entries;
    q->header.l1_table_offset = s->l1_offset;
    q->header.size = qcow2_snapshot_disk_bytes(q, s);
    q->shows_snapshot = true;
    qcow2_bitmaps_close(q); /* they tell of the present state */
    return 0;
}

/* ---- the list ---- */

int qcow2_co_snapshots(struct block_node *node, struct block_snapshot **ret, size_t *ret_count,
                       struct hws_error *err)
{
    const struct qcow2 *q = qcow2_of(node);
    size_t count = q->snapshots.count;
    struct block_snapshot *all = calloc(MAX(count, (size_t)1), sizeof(*all));
    bool complete = all;
    for (size_t i = 0; i < count && complete; i++) {
        const struct qcow2_snapshot *s = &q->snapshots.entry[i];
        all[i] = (struct block_snapshot){
            .id = strdup(s->id),
            .name = strdup(s->name),
            .vm_state_bytes = s->vm_state_bytes,
            .disk_bytes = qcow2_snapshot_disk_bytes(q, s),
            .date_sec = s->date_sec,
            .date_nsec = s->date_nsec,
            .vm_clock_nsec = s->vm_clock_nsec,
            /* All ones: the machine did not count. */
            .has_icount = s->has_icount && s->icount != UINT64_MAX,
            .icount = s->icount,
        };
        complete = all[i].id && all[i].name;
    }
    if (!complete) {
        if (all)
            block_snapshots_free(all, count);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    *ret = all;
    *ret_count = count;
    return 0;
}
