/*
 * New images.
 *
 *   cluster 0        1               2                3
 *   header           refcount table  refcount block   L1 table
 *
 * An image of size 0 is written by hand; then it is opened on the spot and grown to the wanted size
 * by the code that grows any image, so tables of every shape are made in one place.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/create.h"

#define FIRST_CLUSTERS 4u

static const char *const compat_names[] = {"1.1", "0.10", "v3", "v2", NULL};
static const char *const switch_names[] = {"auto", "on", "off", NULL};
static const char *const compression_names[] = {"zlib", "zstd", NULL};
static const char *const preallocation_names[] = {"off", "metadata", "falloc", "full", NULL};

enum { COMPAT_11, COMPAT_010, COMPAT_V3, COMPAT_V2 };
enum { SWITCH_AUTO, SWITCH_ON, SWITCH_OFF };

const struct option_desc qcow2_create_options[] = {
    {"size", OPTION_SIZE, offsetof(struct qcow2_create, size), "size of the device",
     .required = true, .max = BLOCK_SIZE_MAX},
    {"compat", OPTION_ENUM, offsetof(struct qcow2_create, compat),
     "version of the format: 1.1 (v3) or 0.10 (v2)", "1.1", .choices = compat_names},
    {"cluster_size", OPTION_SIZE, offsetof(struct qcow2_create, cluster_size),
     "512 bytes to 2 MiB, a power of two; 0: 128 KiB with subclusters, else 64 KiB", "0",
     .max = 1ull << QCOW2_CLUSTER_BITS_MAX},
    {"extended_l2", OPTION_ENUM, offsetof(struct qcow2_create, extended_l2),
     "32 subclusters a cluster; auto: where version and cluster size allow", "auto",
     .choices = switch_names},
    {"refcount_bits", OPTION_UINT, offsetof(struct qcow2_create, refcount_bits),
     "width of a reference count: 1, 2, 4, 8, 16, 32 or 64", "16", .min = 1, .max = 64},
    {"lazy_refcounts", OPTION_BOOL, offsetof(struct qcow2_create, lazy_refcounts),
     "allow others to postpone refcount updates", "off"},
    {"backing_file", OPTION_STRING, offsetof(struct qcow2_create, backing_file),
     "the image below this one"},
    {"backing_fmt", OPTION_STRING, offsetof(struct qcow2_create, backing_format),
     "format of the backing file"},
    {"data_file", OPTION_STRING, offsetof(struct qcow2_create, data_file),
     "external file for the guest's data; it is made"},
    {"data_file_raw", OPTION_BOOL, offsetof(struct qcow2_create, data_file_raw),
     "keep the data file readable as a raw image", "off"},
    {"compression_type", OPTION_ENUM, offsetof(struct qcow2_create, compression),
     "how compressed clusters are stored", "zlib", .choices = compression_names},
    {"preallocation", OPTION_ENUM, offsetof(struct qcow2_create, preallocation),
     "off; metadata: tables only; falloc: blocks reserved; full: zeroes written", "off",
     .choices = preallocation_names},
    OPTION_END,
};

/* ---- options ---- */

static int check_backing(const struct qcow2_create *o, struct hws_error *err)
{
    if (o->backing_format && !o->backing_file)
        return hws_fail(err, EINVAL, "backing_fmt without backing_file");
    if (!o->backing_file)
        return 0;
    if (!o->backing_format)
        return hws_fail(err, EINVAL, "backing_file needs backing_fmt: the format is not guessed");
    if (strlen(o->backing_file) > QCOW2_BACKING_NAME_MAX || !*o->backing_file)
        return hws_fail(err, EINVAL, "backing_file: a name has 1 to %d bytes",
                        QCOW2_BACKING_NAME_MAX);
    if (strlen(o->backing_format) > QCOW2_BACKING_FORMAT_MAX)
        return hws_fail(err, EINVAL, "backing_fmt is longer than %d bytes",
                        QCOW2_BACKING_FORMAT_MAX);
    if (o->data_file_raw)
        return hws_fail(err, EINVAL,
                        "data_file_raw and backing_file exclude each other: a raw image has no "
                        "backing file");
    return 0;
}

static int check_data_file(const struct qcow2_create *o, struct hws_error *err)
{
    if (o->data_file_raw && !o->data_file)
        return hws_fail(err, EINVAL, "data_file_raw needs data_file");
    if (o->data_file && (strlen(o->data_file) > QCOW2_BACKING_NAME_MAX || !*o->data_file))
        return hws_fail(err, EINVAL, "data_file: a name has 1 to %d bytes", QCOW2_BACKING_NAME_MAX);
    return 0;
}

/* The fixed fields that the options decide. */
int qcow2_create_decide(const struct qcow2_create *o, struct qcow2_header *h, struct hws_error *err)
{
    bool v3 = o->compat == COMPAT_11 || o->compat == COMPAT_V3;
    bool can_extend = v3 && (o->cluster_size == 0 || o->cluster_size >= 16 * KiB);
    bool extended = o->extended_l2 == SWITCH_ON || (o->extended_l2 == SWITCH_AUTO && can_extend);
    uint64_t cluster = o->cluster_size ? o->cluster_size : (extended ? 128 : 64) * KiB;
    if (!is_power_of_2(cluster) || cluster < 512)
        return hws_fail(err, EINVAL, "cluster_size must be a power of two from 512 to 2M");
    if (extended && !can_extend)
        return hws_fail(err, EINVAL,
                        "extended_l2 needs compat=1.1 and a cluster_size of 16K or more");
    if (!is_power_of_2(o->refcount_bits))
        return hws_fail(err, EINVAL, "refcount_bits must be 1, 2, 4, 8, 16, 32 or 64");
    if (!v3 && o->data_file)
        return hws_fail(err, EINVAL, "data_file needs compat=1.1");
    if (o->backing_file && o->preallocation != BLOCK_PREALLOC_OFF && !extended)
        return hws_fail(err, EINVAL,
                        "preallocation with a backing_file needs extended_l2: whole clusters would "
                        "hide the backing file");
    if (!v3 && (o->refcount_bits != 16 || o->lazy_refcounts || o->compression != QCOW2_ZLIB))
        return hws_fail(err, EINVAL,
                        "refcount_bits, lazy_refcounts and compression_type need "
                        "compat=1.1");
    h->version = v3 ? 3 : 2;
    h->cluster_bits = log2_of(cluster);
    h->refcount_order = log2_of(o->refcount_bits);
    h->header_length = v3 ? QCOW2_HEADER_OUR_BYTES : QCOW2_HEADER_V2_BYTES;
    h->compression_type = (uint8_t)o->compression;
    h->autoclear_features = o->data_file_raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0;
    h->incompatible_features = (o->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0) |
                               (extended ? QCOW2_INCOMPAT_EXTENDED_L2 : 0) |
                               (o->compression ? QCOW2_INCOMPAT_COMPRESSION : 0);
    h->compatible_features = o->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
    h->refcount_table_offset = cluster;
    h->refcount_table_clusters = 1;
    h->l1_table_offset = 3 * cluster;
    h->l1_size = 1;
    return 0;
}

/* Names for older programs, which then can say what they lack. */
int qcow2_create_feature_names(struct qcow2_header *h)
{
    static const struct qcow2_disk_feature_name names[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    /* 512-byte clusters have no room for them next to a backing file name. */
    if (h->version < 3 || h->cluster_bits < 12)
        return 0;
    return qcow2_header_set_extension(h, QCOW2_EXT_FEATURE_NAMES, names, sizeof(names));
}

static int add_backing(const struct qcow2_create *o, struct qcow2_header *h)
{
    if (!o->backing_file)
        return 0;
    h->backing_file = strdup(o->backing_file);
    h->backing_format = strdup(o->backing_format);
    if (!h->backing_file || !h->backing_format)
        return -ENOMEM;
    return qcow2_header_set_extension(h, QCOW2_EXT_BACKING_FORMAT, o->backing_format,
                                      strlen(o->backing_format));
}

static int add_data_file(const struct qcow2_create *o, struct qcow2_header *h)
{
    return o->data_file ? qcow2_header_set_extension(h, QCOW2_EXT_DATA_FILE, o->data_file,
                                                     strlen(o->data_file))
                        : 0;
}

/* ---- the first clusters ---- */

static int co_write_first_clusters(struct qcow2_header *h, struct block_node *file,
                                   struct hws_error *err)
{
    size_t cluster = (size_t)1 << h->cluster_bits;
    autofree uint8_t *buffer = qcow2_buffer(FIRST_CLUSTERS * cluster);
    struct iovec iov;
    if (!buffer)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = qcow2_header_serialise(h, buffer, cluster, err);
    if (r < 0)
        return r;
    store_be64(buffer + cluster, 2 * cluster);
    for (unsigned i = 0; i < FIRST_CLUSTERS; i++)
        qcow2_refcount_write(buffer + 2 * cluster, h->refcount_order, i, 1);
    r = co_block_write(file, 0, sgl_one(&iov, buffer, FIRST_CLUSTERS * cluster), 0);
    return r < 0 ? hws_fail_errno(err, -r, "writing '%.200s'", block_filename(file)) : 0;
}

/*
 * Other programs may change a raw data file behind the image's back, and what was in it may stay:
 * so all of it is mapped from the start.
 */
static enum block_preallocation preallocation_of(const struct qcow2_create *o)
{
    return o->data_file_raw ? MAX(o->preallocation, (int)BLOCK_PREALLOC_METADATA)
                            : o->preallocation;
}

/* Opened without the core: a node of our own over the file, for the time of the call. */
static int co_finish(const struct qcow2_create *o, struct block_node *file, struct hws_error *err)
{
    struct qcow2 *q = calloc(1, sizeof(*q));
    struct block_node node = {.driver = &qcow2_driver,
                              .state = q,
                              .filename = file->filename,
                              .context = file->context,
                              .core = file->core,
                              .child[BLOCK_FILE] = file,
                              .child[BLOCK_DATA] = block_create_data(file)};
    if (!q)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = qcow2_co_start(&node, err);
    q->lazy_refcounts = QCOW2_OFF;
    if (r == 0) {
        r = qcow2_co_resize(&node, align_up(o->size, 512), err);
        if (r == 0) {
            atomic_store(&node.size_bytes, align_up(o->size, 512));
            r = qcow2_co_preallocate(q, 0, align_up(o->size, 512), preallocation_of(o), err);
        }
        /* The second flush writes the counts of what growing the tables left behind. */
        int flushed = r == 0 ? qcow2_co_flush(&node) : 0;
        if (r == 0 && flushed == 0)
            flushed = qcow2_co_flush(&node);
        if (r == 0 && flushed == 0)
            (void)!qcow2_co_trim(q);
        if (flushed < 0)
            r = hws_fail_errno(err, -flushed, "writing '%.200s'", file->filename);
        qcow2_stop(&node);
    }
    free(q);
    return r;
}

int qcow2_co_create(const void *options, struct block_node *file, struct hws_error *err)
{
    const struct qcow2_create *o = options;
    struct qcow2_header h = {0};
    int r = check_backing(o, err);
    if (r == 0)
        r = check_data_file(o, err);
    if (r == 0)
        r = qcow2_create_decide(o, &h, err);
    if (r < 0)
        return r;
    if (add_backing(o, &h) < 0 || add_data_file(o, &h) < 0 || qcow2_create_feature_names(&h) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = co_write_first_clusters(&h, file, err);
    qcow2_header_free(&h);
    return r < 0 ? r : co_finish(o, file, err);
}
