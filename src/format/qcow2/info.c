/*
 * What `info` shows of a qcow2 image, in the words that qemu-img uses.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

static int set_new(json_t *object, const char *name, json_t *value)
{
    return json_object_set_new(object, name, value);
}

/* [{"name", "granularity", "flags": ["in-use", "auto"]}, ...] */
static json_t *list_bitmaps(const struct qcow2 *q)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < q->bitmaps.count; i++) {
        const struct qcow2_bitmap *b = &q->bitmaps.entry[i];
        if (b->removed)
            continue;
        json_t *flags = json_array(), *one = json_object();
        if (b->flags & QCOW2_BITMAP_IN_USE)
            json_array_append_new(flags, json_string("in-use"));
        if (b->flags & QCOW2_BITMAP_AUTO)
            json_array_append_new(flags, json_string("auto"));
        set_new(one, "flags", flags);
        set_new(one, "name", json_string_nocheck(b->name));
        set_new(one, "granularity", json_integer((json_int_t)(1ull << b->granularity_bits)));
        if (json_array_append_new(list, one) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

int qcow2_co_info(struct block_node *node, json_t *info, struct hws_error *err)
{
    const struct qcow2 *q = qcow2_of(node);
    const struct qcow2_header *h = &q->header;
    bool v3 = h->version >= 3;
    json_t *data = json_object(), *specific = json_object();
    int failed = set_new(data, "compat", json_string(v3 ? "1.1" : "0.10"));
    failed |= set_new(data, "compression-type",
                      json_string(h->compression_type == QCOW2_ZSTD ? "zstd" : "zlib"));
    failed |= set_new(data, "refcount-bits", json_integer(1 << h->refcount_order));
    if (h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) {
        if (h->data_file)
            failed |= set_new(data, "data-file", json_string_nocheck(h->data_file));
        failed |= set_new(data, "data-file-raw", json_boolean(qcow2_data_is_raw(q)));
    }
    if (v3) {
        failed |= set_new(data, "lazy-refcounts",
                          json_boolean(h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS));
        failed |= set_new(data, "corrupt",
                          json_boolean(h->incompatible_features & QCOW2_INCOMPAT_CORRUPT));
        failed |= set_new(data, "extended-l2", json_boolean(q->extended_l2));
    }
    if (q->bitmaps.count)
        failed |= set_new(data, "bitmaps", list_bitmaps(q));
    failed |= set_new(specific, "type", json_string("qcow2"));
    failed |= set_new(specific, "data", data);
    failed |= set_new(info, "format-specific", specific);
    failed |= set_new(info, "cluster-size", json_integer((json_int_t)q->cluster_size));
    failed |=
        set_new(info, "dirty-flag", json_boolean(h->incompatible_features & QCOW2_INCOMPAT_DIRTY));
    /* As the image has them: bytes, which need not be UTF-8. */
    if (h->backing_file)
        failed |= set_new(info, "backing-filename", json_string_nocheck(h->backing_file));
    if (h->backing_format)
        failed |= set_new(info, "backing-filename-format", json_string_nocheck(h->backing_format));
    return failed ? hws_fail(err, ENOMEM, "out of memory") : 0;
}
