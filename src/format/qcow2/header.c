/*
 * Parsing and serialising of the qcow2 header. Pure: bytes in, struct out; fuzzed directly.
 *
 * Everything is read into a temporary, every field is checked, then the temporary is handed over.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/header.h"
#include "base/cursor.h"

/* ---- fixed part ---- */

static void read_v2_fields(struct cursor *c, struct qcow2_header *h)
{
    h->backing_file_offset = cursor_be64(c);
    h->backing_file_size = cursor_be32(c);
    h->cluster_bits = cursor_be32(c);
    h->size = cursor_be64(c);
    h->crypt_method = cursor_be32(c);
    h->l1_size = cursor_be32(c);
    h->l1_table_offset = cursor_be64(c);
    h->refcount_table_offset = cursor_be64(c);
    h->refcount_table_clusters = cursor_be32(c);
    h->nb_snapshots = cursor_be32(c);
    h->snapshots_offset = cursor_be64(c);
}

static void read_v3_fields(struct cursor *c, struct qcow2_header *h)
{
    h->incompatible_features = cursor_be64(c);
    h->compatible_features = cursor_be64(c);
    h->autoclear_features = cursor_be64(c);
    h->refcount_order = cursor_be32(c);
    h->header_length = cursor_be32(c);
}

static int check_offset(const struct qcow2_header *h, const char *field, uint64_t offset,
                        struct hws_error *err)
{
    uint64_t cluster = 1ull << h->cluster_bits;
    if (!is_aligned(offset, cluster))
        return hws_fail(err, EINVAL,
                        "header field %s: offset %#llx is not a multiple of the cluster "
                        "size %llu",
                        field, (unsigned long long)offset, (unsigned long long)cluster);
    if (offset >= QCOW2_HOST_END)
        return hws_fail(err, EINVAL, "header field %s: offset %#llx is beyond 2^56", field,
                        (unsigned long long)offset);
    return 0;
}

/* Sizes of tables, without regard to where they lie. */
static int check_tables(const struct qcow2_header *h, struct hws_error *err)
{
    if (h->size > (uint64_t)INT64_MAX)
        return hws_fail(err, EFBIG,
                        "header field size (offset 24): %llu is beyond what files can have",
                        (unsigned long long)h->size);
    if (h->l1_size > QCOW2_L1_BYTES_MAX / 8)
        return hws_fail(err, EFBIG,
                        "header field l1_size (offset 36): %u entries, at most %llu are "
                        "supported",
                        h->l1_size, (unsigned long long)(QCOW2_L1_BYTES_MAX / 8));
    unsigned entry_bits = h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2 ? 4 : 3;
    uint64_t needed = div_round_up(h->size, 1ull << (2 * h->cluster_bits - entry_bits));
    if (h->l1_size < needed)
        return hws_fail(err, EINVAL,
                        "header field l1_size (offset 36): %u entries, but the virtual "
                        "size needs %llu",
                        h->l1_size, (unsigned long long)needed);
    return check_offset(h, "l1_table_offset (offset 40)", h->l1_table_offset, err);
}

/* What a repair can make anew, or shorter. */
static int check_mendable(const struct qcow2_header *h, struct hws_error *err)
{
    uint64_t cluster = 1ull << h->cluster_bits;
    if (h->refcount_table_clusters == 0)
        return hws_fail(err, EINVAL, "header field refcount_table_clusters (offset 56) is 0");
    if (h->refcount_table_clusters > MAX(QCOW2_REFTABLE_BYTES_MAX / cluster, 1ull))
        return hws_fail(err, EFBIG,
                        "header field refcount_table_clusters (offset 56): %u is more than "
                        "8 MiB",
                        h->refcount_table_clusters);
    if (h->nb_snapshots > QCOW2_SNAPSHOTS_MAX)
        return hws_fail(err, EFBIG,
                        "header field nb_snapshots (offset 60): %u, at most %u are "
                        "supported",
                        h->nb_snapshots, QCOW2_SNAPSHOTS_MAX);
    int r = check_offset(h, "refcount_table_offset (offset 48)", h->refcount_table_offset, err);
    if (r == 0 && h->nb_snapshots)
        r = check_offset(h, "snapshots_offset (offset 64)", h->snapshots_offset, err);
    return r;
}

static int check_version3(const struct qcow2_header *h, struct hws_error *err)
{
    if (h->header_length < QCOW2_HEADER_V3_BYTES || h->header_length % 8)
        return hws_fail(err, EINVAL,
                        "header field header_length (offset 100): %u is not a multiple of "
                        "8 from 104 on",
                        h->header_length);
    if (h->header_length > 1u << h->cluster_bits)
        return hws_fail(err, EINVAL,
                        "header field header_length (offset 100): %u is more than a "
                        "cluster",
                        h->header_length);
    if (h->refcount_order > QCOW2_REFCOUNT_ORDER_MAX)
        return hws_fail(err, EINVAL,
                        "header field refcount_order (offset 96): %u, at most 6 is valid",
                        h->refcount_order);
    if ((h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) &&
        h->cluster_bits < QCOW2_EXTENDED_CLUSTER_BITS_MIN)
        return hws_fail(err, EINVAL,
                        "header field cluster_bits (offset 20): %u, but extended L2 "
                        "entries need at least 14",
                        h->cluster_bits);
    return 0;
}

static int check_compression(const struct qcow2_header *h, struct hws_error *err)
{
    bool bit = h->incompatible_features & QCOW2_INCOMPAT_COMPRESSION;
    if (bit != (h->compression_type != 0))
        return hws_fail(err, EINVAL,
                        "header field compression_type (offset 104) is %u, which "
                        "contradicts incompatible feature bit 3",
                        h->compression_type);
    if (h->compression_type > QCOW2_ZSTD)
        return hws_fail(err, ENOTSUP, "header field compression_type (offset 104): %u is unknown",
                        h->compression_type);
    return 0;
}

int qcow2_header_parse_fixed(const uint8_t *bytes, size_t length, struct qcow2_header *ret,
                             struct hws_error *err)
{
    struct cursor c = cursor_of(bytes, length);
    struct qcow2_header h = {0};
    if (cursor_be32(&c) != QCOW2_MAGIC)
        return hws_fail(err, EINVAL, "not a qcow2 image (no QFI\\xfb at offset 0)");
    h.version = cursor_be32(&c);
    if (h.version != 2 && h.version != 3)
        return hws_fail(err, ENOTSUP,
                        "header field version (offset 4): qcow2 version %u is not "
                        "supported (2 and 3 are)",
                        h.version);
    read_v2_fields(&c, &h);
    h.refcount_order = 4;
    h.header_length = QCOW2_HEADER_V2_BYTES;
    if (h.version == 3)
        read_v3_fields(&c, &h);
    if (c.failed)
        return hws_fail(err, EINVAL, "the file ends inside the qcow2 header (%zu bytes)", length);
    if (h.cluster_bits < QCOW2_CLUSTER_BITS_MIN || h.cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return hws_fail(err, EINVAL, "header field cluster_bits (offset 20): %u, valid are 9 to 21",
                        h.cluster_bits);
    if (h.version == 3) {
        int r = check_version3(&h, err);
        if (r < 0)
            return r;
        if (h.header_length > QCOW2_HEADER_V3_BYTES)
            h.compression_type = cursor_u8(&c);
        if (c.failed)
            return hws_fail(err, EINVAL, "the file ends inside the qcow2 header (%zu bytes)",
                            length);
    }
    int r = check_tables(&h, err);
    if (r < 0)
        return r;
    *ret = h;
    return 0;
}

/* ---- extensions ---- */

static char *copy_text(const uint8_t *bytes, size_t length)
{
    char *text = malloc(length + 1);
    if (text) {
        memcpy(text, bytes, length);
        text[length] = '\0';
    }
    return text;
}

/* A name with a NUL in it would be cut silently: two programs would open two different files. */
static int read_name(const char *what, const uint8_t *bytes, size_t length, size_t max, char **ret,
                     struct hws_error *err)
{
    if (length > max)
        return hws_fail(err, EINVAL, "%s is %zu bytes long, at most %zu are valid", what, length,
                        max);
    if (memchr(bytes, 0, length))
        return hws_fail(err, EINVAL, "%s holds a zero byte", what);
    free(*ret);
    *ret = copy_text(bytes, length);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int keep_extension(struct qcow2_header *h, uint32_t type, const uint8_t *data,
                          uint32_t length, struct hws_error *err)
{
    if (h->extensions == QCOW2_EXTENSIONS_MAX)
        return hws_fail(err, EINVAL, "more than %d header extensions", QCOW2_EXTENSIONS_MAX);
    uint8_t *copy = malloc(length ? length : 1);
    if (!copy)
        return hws_fail(err, ENOMEM, "out of memory");
    memcpy(copy, data, length);
    h->extension[h->extensions++] =
        (struct qcow2_extension){.type = type, .length = length, .data = copy};
    return 0;
}

static int read_extensions(struct cursor *c, struct qcow2_header *h, struct hws_error *err)
{
    while (cursor_left(c) >= sizeof(struct qcow2_disk_extension)) {
        size_t at = c->position;
        uint32_t type = cursor_be32(c);
        uint32_t length = cursor_be32(c);
        if (type == QCOW2_EXT_END)
            return 0;
        const uint8_t *data = cursor_take(c, length);
        if (!data)
            return hws_fail(err, EINVAL,
                            "header extension %#x at offset %zu: %u bytes do not fit the "
                            "header cluster",
                            type, at, length);
        /* Padding may be cut by the end of the area. */
        cursor_take(c, MIN(align_up(length, 8) - length, cursor_left(c)));
        int r = keep_extension(h, type, data, length, err);
        if (r == 0 && type == QCOW2_EXT_BACKING_FORMAT)
            r = read_name("the backing format name", data, length, QCOW2_BACKING_FORMAT_MAX,
                          &h->backing_format, err);
        if (r == 0 && type == QCOW2_EXT_DATA_FILE)
            r = read_name("the data file name", data, length, QCOW2_BACKING_NAME_MAX, &h->data_file,
                          err);
        if (r < 0)
            return r;
    }
    return 0;
}

const struct qcow2_extension *qcow2_header_extension(const struct qcow2_header *header,
                                                     uint32_t type)
{
    for (unsigned i = 0; i < header->extensions; i++)
        if (header->extension[i].type == type)
            return &header->extension[i];
    return NULL;
}

int qcow2_header_set_extension(struct qcow2_header *header, uint32_t type, const void *data,
                               size_t length)
{
    unsigned i = 0;
    while (i < header->extensions && header->extension[i].type != type)
        i++;
    if (!data) {
        if (i < header->extensions) {
            free(header->extension[i].data);
            memmove(&header->extension[i], &header->extension[i + 1],
                    (header->extensions - i - 1) * sizeof(header->extension[0]));
            header->extensions--;
        }
        return 0;
    }
    if (i == QCOW2_EXTENSIONS_MAX)
        return -ENOSPC;
    uint8_t *copy = malloc(length ? length : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, length);
    if (i == header->extensions)
        header->extensions++;
    else
        free(header->extension[i].data);
    header->extension[i] =
        (struct qcow2_extension){.type = type, .length = (uint32_t)length, .data = copy};
    return 0;
}

/* ---- the whole ---- */

/* The image's own name for an unknown feature bit, else NULL. */
static const struct qcow2_disk_feature_name *feature_name(const struct qcow2_header *h,
                                                          unsigned bit)
{
    const struct qcow2_extension *names = qcow2_header_extension(h, QCOW2_EXT_FEATURE_NAMES);
    for (uint32_t at = 0; names && names->length - at >= sizeof(struct qcow2_disk_feature_name);
         at += sizeof(struct qcow2_disk_feature_name)) {
        const struct qcow2_disk_feature_name *name = (const void *)(names->data + at);
        if (name->kind == 0 && name->bit == bit)
            return name;
    }
    return NULL;
}

static int check_features(const struct qcow2_header *h, struct hws_error *err)
{
    uint64_t unknown = h->incompatible_features & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
    if (unknown) {
        unsigned bit = (unsigned)__builtin_ctzll(unknown);
        const struct qcow2_disk_feature_name *name = feature_name(h, bit);
        return hws_fail(err, ENOTSUP,
                        "the image uses incompatible feature bit %u (%.46s), which this "
                        "version does not know",
                        bit, name ? name->name : "without a name");
    }
    if ((h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) && h->nb_snapshots)
        return hws_fail(err, EINVAL,
                        "header field nb_snapshots (offset 60): %u, but an image with an external "
                        "data file has no internal snapshots",
                        h->nb_snapshots);
    if (h->crypt_method > QCOW2_CRYPT_LUKS)
        return hws_fail(err, EINVAL, "header field crypt_method (offset 32): %u is unknown",
                        h->crypt_method);
    if (h->crypt_method != QCOW2_CRYPT_NONE)
        return hws_fail(err, ENOTSUP, "the image is encrypted (%s): not supported",
                        h->crypt_method == QCOW2_CRYPT_AES ? "AES" : "LUKS");
    return 0;
}

static int check_place(const char *what, uint64_t offset, uint64_t length, uint64_t cluster,
                       uint64_t file_bytes, struct hws_error *err)
{
    if (length && offset < cluster)
        return hws_fail(err, EINVAL, "the %s lies over the header cluster (offset %#llx)", what,
                        (unsigned long long)offset);
    if (length && !range_fits(offset, length, file_bytes))
        return hws_fail(err, EINVAL,
                        "the %s at offset %#llx (%llu bytes) reaches past the end of the "
                        "file (%llu bytes)",
                        what, (unsigned long long)offset, (unsigned long long)length,
                        (unsigned long long)file_bytes);
    return 0;
}

/* Tables lie inside the file, off the header and off each other. */
static int check_places(const struct qcow2_header *h, uint64_t file_bytes, struct hws_error *err)
{
    uint64_t cluster = 1ull << h->cluster_bits;
    uint64_t l1_bytes = (uint64_t)h->l1_size * 8;
    uint64_t table_bytes = h->refcount_table_clusters * cluster;
    /* The last cluster of a file may be cut short by whoever wrote it. */
    file_bytes = align_up(MIN(file_bytes, QCOW2_HOST_END), cluster);
    int r = check_place("L1 table", h->l1_table_offset, l1_bytes, cluster, file_bytes, err);
    if (r == 0)
        r = check_place("refcount table", h->refcount_table_offset, table_bytes, cluster,
                        file_bytes, err);
    if (r == 0 && h->nb_snapshots)
        r = check_place("snapshot table", h->snapshots_offset,
                        h->nb_snapshots * sizeof(struct qcow2_disk_snapshot), cluster, file_bytes,
                        err);
    if (r == 0 &&
        ranges_overlap(h->l1_table_offset, l1_bytes, h->refcount_table_offset, table_bytes))
        r = hws_fail(err, EINVAL,
                     "the L1 table (offset %#llx) and the refcount table (offset %#llx) "
                     "overlap",
                     (unsigned long long)h->l1_table_offset,
                     (unsigned long long)h->refcount_table_offset);
    return r;
}

static int read_backing_name(const uint8_t *bytes, size_t length, struct qcow2_header *h,
                             struct hws_error *err)
{
    if (h->backing_file_offset == 0)
        return 0;
    if (h->backing_file_size > QCOW2_BACKING_NAME_MAX)
        return hws_fail(err, EINVAL,
                        "header field backing_file_size (offset 16): %u, at most 1023 is "
                        "valid",
                        h->backing_file_size);
    if (h->backing_file_offset < h->header_length ||
        !range_fits(h->backing_file_offset, h->backing_file_size, length))
        return hws_fail(err, EINVAL,
                        "header field backing_file_offset (offset 8): %#llx, the name must "
                        "lie in the header cluster",
                        (unsigned long long)h->backing_file_offset);
    if (h->backing_file_size == 0)
        return 0;
    return read_name("the backing file name", bytes + h->backing_file_offset, h->backing_file_size,
                     QCOW2_BACKING_NAME_MAX, &h->backing_file, err);
}

static int read_rest(const uint8_t *bytes, size_t length, uint64_t file_bytes, bool check_only,
                     struct qcow2_header *h, struct hws_error *err)
{
    length = MIN(length, (size_t)1 << h->cluster_bits);
    if (h->header_length > length)
        return hws_fail(err, EINVAL, "the file ends inside the qcow2 header (%zu bytes)", length);
    if (h->header_length > QCOW2_HEADER_OUR_BYTES) {
        h->more_fields_bytes = h->header_length - QCOW2_HEADER_OUR_BYTES;
        h->more_fields = malloc(h->more_fields_bytes);
        if (!h->more_fields)
            return hws_fail(err, ENOMEM, "out of memory");
        memcpy(h->more_fields, bytes + QCOW2_HEADER_OUR_BYTES, h->more_fields_bytes);
    }
    size_t area_end = length;
    if (h->backing_file_offset >= h->header_length && h->backing_file_offset < length)
        area_end = h->backing_file_offset;
    struct cursor c = cursor_of(bytes, area_end);
    c.position = h->header_length;
    int r = read_extensions(&c, h, err);
    if (r < 0 && r != -ENOMEM && check_only)
        r = 0;
    if (r == 0)
        r = check_features(h, err);
    if (r == 0)
        r = check_compression(h, err);
    if (r == 0)
        r = read_backing_name(bytes, length, h, err);
    if (r == 0 && !check_only)
        r = check_mendable(h, err);
    if (r == 0 && !check_only)
        r = check_places(h, file_bytes, err);
    return r;
}

int qcow2_header_parse(const uint8_t *bytes, size_t length, uint64_t file_bytes, bool check_only,
                       struct qcow2_header *ret, struct hws_error *err)
{
    struct qcow2_header h;
    int r = qcow2_header_parse_fixed(bytes, length, &h, err);
    if (r < 0)
        return r;
    r = read_rest(bytes, length, file_bytes, check_only, &h, err);
    if (r < 0) {
        qcow2_header_free(&h);
        return r;
    }
    *ret = h;
    return 0;
}

void qcow2_header_free(struct qcow2_header *header)
{
    for (unsigned i = 0; i < header->extensions; i++)
        free(header->extension[i].data);
    free(header->more_fields);
    free(header->backing_file);
    free(header->backing_format);
    free(header->data_file);
    memset(header, 0, sizeof(*header));
}

/* ---- serialising ---- */

void qcow2_header_store_fixed(const struct qcow2_header *h, uint8_t *sector)
{
    struct qcow2_disk_header *disk = (struct qcow2_disk_header *)sector;
    disk->magic = be32_of(QCOW2_MAGIC);
    disk->version = be32_of(h->version);
    disk->backing_file_offset = be64_of(h->backing_file_offset);
    disk->backing_file_size = be32_of(h->backing_file_size);
    disk->cluster_bits = be32_of(h->cluster_bits);
    disk->size = be64_of(h->size);
    disk->crypt_method = be32_of(h->crypt_method);
    disk->l1_size = be32_of(h->l1_size);
    disk->l1_table_offset = be64_of(h->l1_table_offset);
    disk->refcount_table_offset = be64_of(h->refcount_table_offset);
    disk->refcount_table_clusters = be32_of(h->refcount_table_clusters);
    disk->nb_snapshots = be32_of(h->nb_snapshots);
    disk->snapshots_offset = be64_of(h->snapshots_offset);
    if (h->version < 3)
        return;
    disk->incompatible_features = be64_of(h->incompatible_features);
    disk->compatible_features = be64_of(h->compatible_features);
    disk->autoclear_features = be64_of(h->autoclear_features);
    disk->refcount_order = be32_of(h->refcount_order);
    disk->header_length = be32_of(h->header_length);
    if (h->header_length > QCOW2_HEADER_V3_BYTES)
        disk->compression_type = h->compression_type;
}

int qcow2_header_serialise(struct qcow2_header *h, uint8_t *buffer, size_t length,
                           struct hws_error *err)
{
    size_t at = h->header_length;
    memset(buffer, 0, length);
    if (at + 8 > length)
        goto too_big;
    if (h->more_fields_bytes)
        memcpy(buffer + QCOW2_HEADER_OUR_BYTES, h->more_fields, h->more_fields_bytes);
    for (unsigned i = 0; i < h->extensions; i++) {
        const struct qcow2_extension *e = &h->extension[i];
        size_t padded = align_up(e->length, 8);
        if (sizeof(struct qcow2_disk_extension) + padded + 8 > length - at)
            goto too_big;
        store_be32(buffer + at, e->type);
        store_be32(buffer + at + 4, e->length);
        memcpy(buffer + at + 8, e->data, e->length);
        at += 8 + padded;
    }
    at += 8; /* the end mark, of zeroes */
    h->backing_file_offset = 0;
    h->backing_file_size = 0;
    if (h->backing_file) {
        size_t name_bytes = strlen(h->backing_file);
        if (name_bytes > length - at)
            goto too_big;
        memcpy(buffer + at, h->backing_file, name_bytes);
        h->backing_file_offset = at;
        h->backing_file_size = (uint32_t)name_bytes;
    }
    qcow2_header_store_fixed(h, buffer);
    return 0;
too_big:
    return hws_fail(err, ENOSPC,
                    "the qcow2 header with its extensions and the backing file name does "
                    "not fit one cluster (%zu bytes): use larger clusters",
                    length);
}
