/*
 * Parsing and serialising of the bitmaps extension and the bitmap directory. Pure: bytes in,
 * structs out; fuzzed directly.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/bitmap.h"
#include "base/cursor.h"

#define GRANULARITY_BITS_MIN 9u
#define GRANULARITY_BITS_MAX 31u

/* ---- the extension ---- */

static bool place_valid(uint64_t offset, uint64_t bytes, const struct qcow2_bitmap_limits *limits)
{
    uint64_t cluster = 1ull << limits->cluster_bits;
    /* The last cluster of a file may be cut short by whoever wrote it. */
    uint64_t end = align_up(MIN(limits->file_bytes, QCOW2_HOST_END), cluster);
    return is_aligned(offset, cluster) && offset >= cluster && range_fits(offset, bytes, end);
}

int qcow2_bitmaps_place_parse(const uint8_t *data, size_t length,
                              const struct qcow2_bitmap_limits *limits,
                              struct qcow2_bitmaps_place *ret, struct hws_error *err)
{
    struct cursor c = cursor_of(data, length);
    struct qcow2_bitmaps_place place;
    place.count = cursor_be32(&c);
    uint32_t reserved = cursor_be32(&c);
    place.size = cursor_be64(&c);
    place.offset = cursor_be64(&c);
    if (c.failed || cursor_left(&c))
        return hws_fail(err, EINVAL, "the bitmaps extension has %zu bytes, not %zu", length,
                        sizeof(struct qcow2_disk_bitmaps_extension));
    if (reserved)
        return hws_fail(err, EINVAL, "the bitmaps extension's reserved field is %#x, not 0",
                        reserved);
    if (place.count == 0 || place.count > QCOW2_BITMAPS_MAX)
        return hws_fail(err, EINVAL, "the bitmaps extension counts %u bitmaps; valid are 1 to %u",
                        place.count, QCOW2_BITMAPS_MAX);
    if (place.size < place.count * sizeof(struct qcow2_disk_bitmap) ||
        place.size > QCOW2_BITMAP_DIRECTORY_MAX)
        return hws_fail(err, EINVAL, "a bitmap directory of %llu bytes for %u bitmaps",
                        (unsigned long long)place.size, place.count);
    if (!place_valid(place.offset, place.size, limits))
        return hws_fail(err, EINVAL,
                        "the bitmap directory (offset %#llx, %llu bytes) is not aligned to a "
                        "cluster or not inside the file",
                        (unsigned long long)place.offset, (unsigned long long)place.size);
    *ret = place;
    return 0;
}

void qcow2_bitmaps_place_store(const struct qcow2_bitmaps_place *place, uint8_t *data)
{
    struct qcow2_disk_bitmaps_extension *disk = (struct qcow2_disk_bitmaps_extension *)data;
    disk->nb_bitmaps = be32_of(place->count);
    disk->reserved = be32_of(0);
    disk->directory_size = be64_of(place->size);
    disk->directory_offset = be64_of(place->offset);
}

/* ---- the directory ---- */

void qcow2_bitmap_clear(struct qcow2_bitmap *b)
{
    free(b->name);
    free(b->extra);
    memset(b, 0, sizeof(*b));
}

void qcow2_bitmaps_free(struct qcow2_bitmap *bitmaps, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        qcow2_bitmap_clear(&bitmaps[i]);
    free(bitmaps);
}

static size_t padding_of(size_t bytes)
{
    return align_up(bytes, 8) - bytes;
}

static const char *check_entry(const struct qcow2_bitmap *b, const uint8_t *name,
                               const uint8_t *padding, const struct qcow2_bitmap_limits *limits)
{
    uint64_t table_bytes = (uint64_t)b->table_entries * 8;
    if (b->name_bytes == 0 || b->name_bytes > QCOW2_BITMAP_NAME_MAX)
        return "its name has no valid length";
    if (memchr(name, 0, b->name_bytes))
        return "its name holds a zero byte";
    if (b->granularity_bits > 63)
        return "its granularity is beyond 2^63";
    if (table_bytes > QCOW2_BITMAP_TABLE_BYTES_MAX)
        return "its table is beyond the limit";
    /* No table is needed for no bits: an image of no size. */
    if (table_bytes && !place_valid(b->table_offset, table_bytes, limits))
        return "its table is not aligned to a cluster or not inside the file";
    for (size_t i = 0; i < padding_of(b->extra_bytes + (size_t)b->name_bytes); i++)
        if (padding[i])
            return "its padding is not zero";
    return NULL;
}

/* @return 0, -EINVAL with why in @ret_fault, -ENOMEM. */
static int read_entry(struct cursor *c, const struct qcow2_bitmap_limits *limits,
                      struct qcow2_bitmap *ret, const char **ret_fault)
{
    struct qcow2_bitmap b = {.flags_at = (uint32_t)c->position + 12};
    b.table_offset = cursor_be64(c);
    b.table_entries = cursor_be32(c);
    b.flags = cursor_be32(c);
    b.type = cursor_u8(c);
    b.granularity_bits = cursor_u8(c);
    b.name_bytes = cursor_be16(c);
    b.extra_bytes = cursor_be32(c);
    const uint8_t *extra = cursor_take(c, b.extra_bytes), *name = cursor_take(c, b.name_bytes);
    const uint8_t *padding = cursor_take(c, padding_of(b.extra_bytes + (size_t)b.name_bytes));
    *ret_fault = c->failed ? "it runs past the end of the directory"
                           : check_entry(&b, name, padding, limits);
    if (*ret_fault)
        return -EINVAL;
    b.name = malloc(b.name_bytes + 1u);
    b.extra = b.extra_bytes ? malloc(b.extra_bytes) : NULL;
    if (!b.name || (b.extra_bytes && !b.extra)) {
        qcow2_bitmap_clear(&b);
        return -ENOMEM;
    }
    memcpy(b.name, name, b.name_bytes);
    b.name[b.name_bytes] = '\0';
    if (b.extra_bytes)
        memcpy(b.extra, extra, b.extra_bytes);
    *ret = b;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "The string must be unique among all bitmap names." */
static int check_unique(const struct qcow2_bitmap *bitmaps, uint32_t count, struct hws_error *err)
{
    autofree const char **name = malloc(count * sizeof(name[0]));
    if (!name)
        return hws_fail(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < count; i++)
        name[i] = bitmaps[i].name;
    qsort(name, count, sizeof(name[0]), by_name);
    for (uint32_t i = 1; i < count; i++)
        if (strcmp(name[i - 1], name[i]) == 0)
            return hws_fail(err, EINVAL, "two bitmaps are called '%.200s'", name[i]);
    return 0;
}

int qcow2_bitmaps_parse(const uint8_t *bytes, size_t length, uint32_t count,
                        const struct qcow2_bitmap_limits *limits, struct qcow2_bitmap **ret,
                        struct hws_error *err)
{
    struct cursor c = cursor_of(bytes, length);
    if (count == 0 || count > length / sizeof(struct qcow2_disk_bitmap))
        return hws_fail(err, EINVAL, "a bitmap directory of %zu bytes cannot hold %u bitmaps",
                        length, count);
    struct qcow2_bitmap *bitmaps = calloc(count, sizeof(*bitmaps));
    if (!bitmaps)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = 0;
    for (uint32_t i = 0; i < count && r == 0; i++) {
        const char *fault = NULL;
        size_t at = c.position;
        r = read_entry(&c, limits, &bitmaps[i], &fault);
        if (r == -EINVAL)
            hws_fail(err, EINVAL, "bitmap directory entry %u (byte %zu): %s", i, at, fault);
        else if (r < 0)
            hws_fail(err, ENOMEM, "out of memory");
    }
    if (r == 0 && cursor_left(&c))
        r = hws_fail(err, EINVAL, "the bitmap directory has %zu bytes behind its last entry",
                     cursor_left(&c));
    if (r == 0)
        r = check_unique(bitmaps, count, err);
    if (r < 0)
        qcow2_bitmaps_free(bitmaps, count);
    else
        *ret = bitmaps;
    return r;
}

static size_t entry_bytes(const struct qcow2_bitmap *b)
{
    return align_up(sizeof(struct qcow2_disk_bitmap) + b->extra_bytes + b->name_bytes, 8);
}

uint64_t qcow2_bitmaps_bytes(const struct qcow2_bitmap *bitmaps, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += entry_bytes(&bitmaps[i]);
    return bytes;
}

void qcow2_bitmaps_serialise(struct qcow2_bitmap *bitmaps, uint32_t count, uint8_t *bytes)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct qcow2_bitmap *b = &bitmaps[i];
        struct qcow2_disk_bitmap *disk = (struct qcow2_disk_bitmap *)(bytes + at);
        uint8_t *rest = bytes + at + sizeof(*disk);
        disk->table_offset = be64_of(b->table_offset);
        disk->table_size = be32_of(b->table_entries);
        disk->flags = be32_of(b->flags);
        disk->type = b->type;
        disk->granularity_bits = b->granularity_bits;
        disk->name_size = be16_of(b->name_bytes);
        disk->extra_size = be32_of(b->extra_bytes);
        if (b->extra_bytes)
            memcpy(rest, b->extra, b->extra_bytes);
        memcpy(rest + b->extra_bytes, b->name, b->name_bytes);
        memset(rest + b->extra_bytes + b->name_bytes, 0,
               padding_of(b->extra_bytes + (size_t)b->name_bytes));
        b->flags_at = at + (uint32_t)offsetof(struct qcow2_disk_bitmap, flags);
        at += (uint32_t)entry_bytes(b);
    }
}

/* ---- what may be used ---- */

const char *qcow2_bitmap_strange(const struct qcow2_bitmap *b)
{
    if (b->type != QCOW2_BITMAP_DIRTY_TRACKING)
        return "its type is not known";
    if (b->flags & ~(uint32_t)QCOW2_BITMAP_FLAGS_KNOWN)
        return "it has unknown flags";
    if (b->extra_bytes && !(b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE))
        return "it has extra data that must be understood";
    if (b->granularity_bits < GRANULARITY_BITS_MIN || b->granularity_bits > GRANULARITY_BITS_MAX)
        return "its granularity is not one of 512 bytes to 2 GiB";
    return NULL;
}

bool qcow2_bitmap_table_entry_valid(uint64_t entry, const struct qcow2_bitmap_limits *limits)
{
    uint64_t offset = entry & QCOW2_BITMAP_TABLE_OFFSET;
    if (entry & QCOW2_BITMAP_TABLE_RESERVED)
        return false;
    if (offset == 0)
        return true;
    return !(entry & QCOW2_BITMAP_TABLE_ONES) && place_valid(offset, 1, limits);
}
