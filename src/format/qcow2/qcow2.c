/*
 * The qcow2 driver: probing, opening, closing, and the table of everything else.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "block/bitmap.h"
#include "format/qcow2/amend.h"
#include "format/qcow2/compact.h"
#include "format/qcow2/compressed_codec.h"
#include "format/qcow2/create.h"
#include "format/qcow2/read.h"

static int probe(const uint8_t *head, size_t length)
{
    if (length < 8 || load_be32(head) != QCOW2_MAGIC)
        return 0;
    uint32_t version = load_be32(head + 4);
    return version == 2 || version == 3 ? 100 : 50;
}

/* ---- opening ---- */

int qcow2_co_start(struct block_node *node, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    q->node = node;
    q->file = node->child[BLOCK_FILE];
    q->data = node->child[BLOCK_DATA] ? node->child[BLOCK_DATA] : q->file;
    rt_mutex_init(&q->lock);
    co_mutex_init(&q->alloc_lock);
    co_waitq_init(&q->pass_waiters);
    list_init(&q->in_flight);
    q->epoch = 1;
    int r = qcow2_co_tables_load(q, err);
    if (r == 0)
        r = qcow2_co_bitmaps_open(q, err);
    if (r < 0)
        qcow2_stop(node);
    return r;
}

void qcow2_stop(struct block_node *node)
{
    struct qcow2 *q = qcow2_of(node);
    qcow2_compressed_forget(q);
    qcow2_encoders_free(q);
    qcow2_keep_close(q);
    qcow2_bitmaps_close(q);
    qcow2_tables_free(q);
    free(steal_ptr(&q->freed.entry));
    free(steal_ptr(&q->pass_buffer));
    co_mutex_destroy(&q->alloc_lock);
    rt_mutex_destroy(&q->lock);
}

/*
 * "If this bit is set then refcounts may be inconsistent": somebody who postponed refcount updates
 * was interrupted. They are counted anew; the bit goes.
 */
static int co_clean(struct block_node *node, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct block_check check = {0};
    log_warning("%s: the image was not closed cleanly; repairing its refcounts", node->filename);
    int r = qcow2_co_check(node, BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS, &check, err);
    if (r < 0)
        return r;
    if (check.errors || check.corruptions > check.corruptions_fixed)
        return hws_fail(err, EIO,
                        "'%.200s': the image was not closed cleanly and could not be repaired "
                        "(%llu errors left); open it read-only",
                        node->filename,
                        (unsigned long long)(check.corruptions - check.corruptions_fixed));
    r = qcow2_co_clear_dirty(q);
    return r < 0 ? hws_fail_errno(err, -r, "'%.200s': writing the header", node->filename) : 0;
}

/* What must hold before the image may be written. */
static int co_check_writable(struct block_node *node, struct hws_error *err)
{
    const struct qcow2 *q = qcow2_of(node);
    uint64_t features = q->header.incompatible_features;
    if (node->check_only)
        return 0;
    if (q->shows_snapshot)
        return hws_fail(err, EROFS, "'%.200s': an internal snapshot can only be read",
                        node->filename);
    if (q->snapshots_unreadable)
        return hws_fail(err, EUCLEAN,
                        "'%.200s': its table of internal snapshots is damaged: repair it with "
                        "check, or open it read-only",
                        node->filename);
    if (features & QCOW2_INCOMPAT_CORRUPT)
        return hws_fail(err, EUCLEAN,
                        "'%.200s' is marked corrupt: repair it with check, or open it "
                        "read-only",
                        node->filename);
    return features & QCOW2_INCOMPAT_DIRTY && !q->kept.whole ? co_clean(node, err) : 0;
}

static void set_limits(struct block_node *node)
{
    const struct qcow2 *q = qcow2_of(node);
    node->limits.zero_alignment = (uint32_t)q->subcluster_size;
    node->limits.discard_alignment = (uint32_t)q->cluster_size;
    node->limits.optimal_bytes = (uint32_t)q->cluster_size;
    /* "Neither compressed clusters nor internal snapshots are supported" with a data file. */
    node->compress_level_max =
        qcow2_has_data_file(q) ? 0 : QCOW2_LEVEL_MAX(q->header.compression_type);
    node->zero_flags = BLOCK_MAY_UNMAP | BLOCK_OWN;
}

/* What the header names, unless the description gave another. */
static int co_open_data_file(struct block_node *node, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    const struct qcow2_header *h = &q->header;
    if (!(h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE))
        return node->child[BLOCK_DATA]
                   ? hws_fail(err, EINVAL,
                              "'%.200s' has no external data file, so none can be given",
                              node->filename)
                   : 0;
    if (!node->child[BLOCK_DATA] && !h->data_file)
        return hws_fail(
            err, EINVAL,
            "'%.200s' keeps its data in an external data file but does not name it; give "
            "it as 'data-file'",
            node->filename);
    int r = node->child[BLOCK_DATA]
                ? 0
                : co_block_open_named(node, BLOCK_DATA, h->data_file, NULL, err);
    if (r < 0)
        return hws_wrap(err, r, "data file of '%.200s'", node->filename);
    q->data = node->child[BLOCK_DATA];
    return 0;
}

/* By enum qcow2_switch. */
static const char *const switch_names[] = {"auto", "on", "off", NULL};

const struct option_desc qcow2_open_options[] = {
    {"snapshot", OPTION_STRING, offsetof(struct qcow2_open, snapshot),
     "read an internal snapshot, named by its ID or name, instead of the image's present state"},
    {"lazy-refcounts", OPTION_ENUM, offsetof(struct qcow2_open, lazy_refcounts),
     "postpone refcount updates; after a crash they are counted anew; auto: as the image says",
     "auto", .choices = switch_names},
    {"discard-no-unref", OPTION_BOOL, offsetof(struct qcow2_open, discard_no_unref),
     "what the guest discards keeps its place in the file, as a hole", "off"},
    OPTION_END,
};

static int set_options(struct qcow2 *q, const struct qcow2_open *options, struct hws_error *err)
{
    q->lazy_refcounts = options->lazy_refcounts;
    q->discard_no_unref = options->discard_no_unref;
    if (q->header.version >= 3)
        return 0;
    if (q->lazy_refcounts == QCOW2_ON || q->discard_no_unref)
        return hws_fail(err, EINVAL, "'%.200s' is of version 2 (compat 0.10), which has no %s",
                        q->node->filename,
                        q->discard_no_unref ? "zero clusters: leave discard-no-unref off"
                                            : "dirty bit: leave lazy-refcounts off");
    return 0;
}

static int co_qcow2_open(struct block_node *node, const void *arg, struct hws_error *err)
{
    const struct qcow2_open *options = arg;
    struct qcow2 *q = qcow2_of(node);
    int r = qcow2_co_start(node, err);
    if (r < 0)
        return r;
    r = set_options(q, options, err);
    if (r == 0)
        r = co_open_data_file(node, err);
    if (r == 0)
        r = qcow2_co_keep_open(q, err);
    if (r == 0 && options->snapshot)
        r = qcow2_co_snapshot_show(q, options->snapshot, err);
    atomic_store(&node->size_bytes, q->header.size);
    set_limits(node);
    if (r == 0 && !node->read_only)
        r = co_check_writable(node, err);
    if (r == 0 && q->header.backing_file)
        r = co_block_open_named(node, BLOCK_BACKING, q->header.backing_file,
                                q->header.backing_format, err);
    if (r < 0)
        qcow2_stop(node);
    return r;
}

/* Everything on disk: the second pass writes the counts of clusters that the first made reusable.
 */
static int co_settle(struct block_node *node, struct hws_error *err)
{
    struct hws_error text = {0};
    int stored = co_block_bitmaps_store(node, &text);
    int r = qcow2_co_flush(node);
    if (r == 0)
        r = qcow2_co_flush(node);
    if (r == 0 && !node->read_only) {
        (void)!qcow2_co_trim(qcow2_of(node)); /* cosmetic: the image is whole without it */
        if (!node->check_only)                /* else the bit is the check's to take away */
            r = qcow2_co_clear_dirty(qcow2_of(node));
        if (r == 0)
            r = qcow2_co_keep_settle(qcow2_of(node));
    }
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': writing metadata back", node->filename);
    if (stored < 0 && err)
        *err = text;
    return stored;
}

static int co_qcow2_close(struct block_node *node, struct hws_error *err)
{
    int r = co_settle(node, err);
    qcow2_stop(node);
    return r;
}

static int co_set_read_only(struct block_node *node, bool read_only, struct hws_error *err)
{
    if (read_only)
        return co_settle(node, err);
    int r = qcow2_co_keep_begin(qcow2_of(node), err);
    return r < 0 ? r : co_check_writable(node, err);
}

const struct block_driver qcow2_driver = {
    .name = "qcow2",
    .help = "QEMU's copy-on-write format, versions 2 and 3",
    .kind = BLOCK_FORMAT,
    .needs_file = true,
    .state_bytes = sizeof(struct qcow2),
    .options = qcow2_open_options,
    .options_bytes = sizeof(struct qcow2_open),
    .create_options = qcow2_create_options,
    .create_options_bytes = sizeof(struct qcow2_create),
    .amend_options = qcow2_amend_options,
    .amend_options_bytes = sizeof(struct qcow2_amend),
    .probe = probe,
    .co_open = co_qcow2_open,
    .co_close = co_qcow2_close,
    .co_read_layer = qcow2_co_read_layer,
    .try_read = qcow2_try_read,
    .co_write = qcow2_co_write,
    .co_write_compressed = qcow2_co_write_compressed,
    .co_write_zeroes = qcow2_co_write_zeroes,
    .co_discard = qcow2_co_discard,
    .co_flush = qcow2_co_flush_guest,
    .flushes_children = true,
    .co_status = qcow2_co_status,
    .co_resize = qcow2_co_resize,
    .co_preallocate = qcow2_co_preallocate_range,
    .prealloc_metadata = true,
    .co_create = qcow2_co_create,
    .co_check = qcow2_co_check,
    .co_info = qcow2_co_info,
    .co_make_empty = qcow2_co_make_empty,
    .co_change_backing = qcow2_co_change_backing,
    .co_measure = qcow2_co_measure,
    .co_snapshots = qcow2_co_snapshots,
    .co_snapshot_create = qcow2_co_snapshot_create,
    .co_snapshot_apply = qcow2_co_snapshot_apply,
    .co_snapshot_delete = qcow2_co_snapshot_delete,
    .co_bitmap_load = qcow2_co_bitmap_load,
    .co_bitmap_add = qcow2_co_bitmap_add,
    .bitmap_remove = qcow2_bitmap_remove,
    .co_bitmaps_store = qcow2_co_bitmaps_store,
    .co_amend = qcow2_co_amend,
    .co_compact = qcow2_co_compact,
    .co_set_read_only = co_set_read_only,
};
