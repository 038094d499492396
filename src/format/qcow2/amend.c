/*
 * Changing what was chosen when the image was made. Everything is looked at before anything is
 * changed; then, in an order in which each step may rely on those before:
 *
 *   version 3, width of reference counts, lazy refcounts, data file, size, version 2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/amend.h"

enum { COMPAT_KEEP, COMPAT_11, COMPAT_010, COMPAT_V3, COMPAT_V2 };
enum { SWITCH_KEEP, SWITCH_ON, SWITCH_OFF };

static const char *const compat_names[] = {"keep", "1.1", "0.10", "v3", "v2", NULL};
static const char *const switch_names[] = {"keep", "on", "off", NULL};

const struct option_desc qcow2_amend_options[] = {
    {"compat", OPTION_ENUM, offsetof(struct qcow2_amend, compat),
     "version of the format: 1.1 (v3) or 0.10 (v2)", "keep", .choices = compat_names},
    {"size", OPTION_SIZE, offsetof(struct qcow2_amend, size),
     "size of the device; what lies behind a smaller one is lost; 0: as it is", "0",
     .max = BLOCK_SIZE_MAX},
    {"backing_file", OPTION_STRING, offsetof(struct qcow2_amend, backing_file),
     "the image below this one: only what it is; rebase changes it"},
    {"backing_fmt", OPTION_STRING, offsetof(struct qcow2_amend, backing_format),
     "format of the backing file: only what it is; rebase changes it"},
    {"data_file", OPTION_STRING, offsetof(struct qcow2_amend, data_file),
     "name of the file that holds the data, where the image has one; empty: recorded no longer"},
    {"data_file_raw", OPTION_ENUM, offsetof(struct qcow2_amend, data_file_raw),
     "off: the data file need not be a raw image any more", "keep", .choices = switch_names},
    {"lazy_refcounts", OPTION_ENUM, offsetof(struct qcow2_amend, lazy_refcounts),
     "allow others to postpone refcount updates", "keep", .choices = switch_names},
    {"refcount_bits", OPTION_UINT, offsetof(struct qcow2_amend, refcount_bits),
     "width of a reference count: 1, 2, 4, 8, 16, 32 or 64; 0: as it is", "0", .max = 64},
    OPTION_END,
};

/* ---- what is asked for ---- */

struct plan {
    const struct qcow2_amend *options;
    unsigned version, order;
    bool lazy;
};

static bool same_text(const char *wanted, const char *now)
{
    return !wanted || strcmp(wanted, now ? now : "") == 0;
}

static int check_names(const struct qcow2 *q, const struct qcow2_amend *o, struct hws_error *err)
{
    const struct qcow2_header *h = &q->header;
    const char *name = q->node->filename;
    if (!same_text(o->backing_file, h->backing_file) ||
        !same_text(o->backing_format, h->backing_format))
        return hws_fail(err, EPERM,
                        "'%.200s': another backing file is put below an image by rebase, not here",
                        name);
    bool has_data_file = h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE;
    bool is_raw = h->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (o->data_file && !has_data_file)
        return hws_fail(err, ENODATA,
                        "'%.200s' holds its data itself: data_file can only name another file "
                        "where the image was made with one",
                        name);
    if (o->data_file && strlen(o->data_file) > QCOW2_BACKING_NAME_MAX)
        return hws_fail(err, EINVAL, "data_file: a name has up to %d bytes",
                        QCOW2_BACKING_NAME_MAX);
    if (o->data_file_raw == SWITCH_ON && !is_raw)
        return hws_fail(err, EEXIST,
                        "'%.200s': data_file_raw can only be set when an image is made", name);
    return 0;
}

static int co_make_plan(struct qcow2 *q, const struct qcow2_amend *o, struct plan *p,
                        struct hws_error *err)
{
    const struct qcow2_header *h = &q->header;
    *p = (struct plan){.options = o, .version = h->version, .order = h->refcount_order};
    p->lazy = h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (o->compat != COMPAT_KEEP)
        p->version = o->compat == COMPAT_11 || o->compat == COMPAT_V3 ? 3 : 2;
    if (o->refcount_bits && !is_power_of_2(o->refcount_bits))
        return hws_fail(err, EINVAL, "refcount_bits must be 1, 2, 4, 8, 16, 32 or 64");
    if (o->refcount_bits)
        p->order = log2_of(o->refcount_bits);
    if (o->lazy_refcounts != SWITCH_KEEP)
        p->lazy = o->lazy_refcounts == SWITCH_ON;
    if (o->size && !is_aligned(o->size, 512))
        return hws_fail(err, EINVAL, "size must be a multiple of 512 bytes");
    if (p->version == 2 && o->lazy_refcounts == SWITCH_ON)
        return hws_fail(err, EPROTONOSUPPORT, "lazy_refcounts needs compat=1.1");
    if (p->version == 2 && p->order != 4)
        return hws_fail(err, EPROTONOSUPPORT,
                        "reference counts of %u bits need compat=1.1; version 2 has 16",
                        1u << p->order);
    if (p->version == 2)
        p->lazy = false;
    int r = check_names(q, o, err);
    return r == 0 && p->version < h->version ? qcow2_co_check_downgrade(q, err) : r;
}

/* ---- small changes of the header ---- */

int qcow2_co_header_edit(struct qcow2 *q, qcow2_edit_fn *edit, const void *arg,
                         struct hws_error *err)
{
    autofree struct qcow2_header *h = calloc(1, sizeof(*h));
    if (!h)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = qcow2_co_flush(q->node);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': writing metadata back", q->node->filename);
    co_mutex_lock(&q->alloc_lock);
    r = qcow2_header_copy(&q->header, h);
    if (r == 0)
        r = edit(h, arg);
    if (r < 0)
        hws_fail_errno(err, -r, "'%.200s': the new header", q->node->filename);
    else
        r = qcow2_co_header_replace(q, h, err);
    co_mutex_unlock(&q->alloc_lock);
    qcow2_header_free(h);
    return r;
}

static int edit_small(struct qcow2_header *h, const void *arg)
{
    const struct plan *p = arg;
    const char *name = p->options->data_file;
    h->compatible_features &= ~(uint64_t)QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (p->lazy)
        h->compatible_features |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (p->options->data_file_raw == SWITCH_OFF)
        h->autoclear_features &= ~(uint64_t)QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (!name)
        return 0;
    free(steal_ptr(&h->data_file));
    if (*name && !(h->data_file = strdup(name)))
        return -ENOMEM;
    return qcow2_header_set_extension(h, QCOW2_EXT_DATA_FILE, *name ? name : NULL, strlen(name));
}

static int co_edit_small(struct qcow2 *q, const struct plan *p, struct hws_error *err)
{
    const struct qcow2_header *h = &q->header;
    bool lazy = h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS;
    bool raw = h->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (lazy == p->lazy && !(raw && p->options->data_file_raw == SWITCH_OFF) &&
        same_text(p->options->data_file, h->data_file))
        return 0;
    return qcow2_co_header_edit(q, edit_small, p, err);
}

/* ---- all of it ---- */

static int co_amend_steps(struct qcow2 *q, const struct plan *p,
                          const struct block_progress *progress, struct hws_error *err)
{
    int r = p->version > q->header.version ? qcow2_co_upgrade(q, err) : 0;
    if (r == 0 && p->order != q->header.refcount_order)
        r = qcow2_co_refcount_width(q, p->order, progress, err);
    if (r == 0)
        r = co_edit_small(q, p, err);
    if (r == 0 && p->options->size)
        r = co_block_resize(q->node, p->options->size, err);
    if (r == 0 && p->version < q->header.version)
        r = qcow2_co_downgrade(q, progress, err);
    return r;
}

int qcow2_co_amend(struct block_node *node, const void *options, bool force,
                   const struct block_progress *progress, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct plan p;
    int r = co_make_plan(q, options, &p, err);
    if (r < 0)
        return r;
    if (p.options->size && p.options->size < q->header.size && !force)
        return hws_fail(err, ERANGE,
                        "'%.200s' is larger (%llu bytes) than that: what lies past the new end "
                        "would be lost. Say --force if that is meant",
                        node->filename, (unsigned long long)q->header.size);
    if (q->kept.image)
        return hws_fail(err, EBUSY, "'%.200s' is in use by a server: detach it first",
                        node->filename);
    r = qcow2_co_prepare_metadata(q);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': preparing to write", node->filename);
    return co_amend_steps(q, &p, progress, err);
}
