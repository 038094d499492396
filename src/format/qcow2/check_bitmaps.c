/*
 * The checker and persistent dirty bitmaps: the directory, each bitmap's table, and the clusters of
 * bits that the tables name.
 *
 * A repair loses no guest data for a bitmap's sake, and never lets a bitmap claim that something is
 * clean which is not: bits that cannot be had read as "all dirty", and where a table itself cannot
 * be used the bitmaps are given up (their autoclear bit goes), so that the next backup is a full
 * one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "format/qcow2/bitmap.h"
#include "format/qcow2/check.h"
#include <inttypes.h>

/* Where the bitmaps cannot be used as they are; a repair gives them up. */
static int give_up(struct checker *c)
{
    c->incomplete = true;
    c->drop_bitmaps = true;
    return 0;
}

/* @return 0, 1 where the entry has to go, or -errno. */
static int walk_entry(struct checker *c, uint64_t entry, uint64_t whence)
{
    uint64_t target = entry & QCOW2_BITMAP_TABLE_OFFSET;
    if (entry & (QCOW2_BITMAP_TABLE_RESERVED | (target ? QCOW2_BITMAP_TABLE_ONES : 0))) {
        check_corruption(
            c, "bitmap table entry at offset %#" PRIx64 ": reserved bits are set (%#" PRIx64 ")",
            whence, entry);
        return 1;
    }
    if (target == 0)
        return 0;
    if (check_target(c, "bitmap table entry", whence, target) != 0)
        return 1;
    return check_claim_cluster(c, target >> c->cluster_bits, CHECK_BITMAP_DATA, 1, "bitmap data",
                               whence);
}

static int co_walk_table(struct checker *c, uint64_t offset, uint32_t entries, uint64_t whence)
{
    uint64_t bytes = (uint64_t)entries * 8;
    bool changed = false, zero;
    if (entries == 0)
        return 0;
    if (bytes > QCOW2_BITMAP_TABLE_BYTES_MAX) {
        check_corruption(c,
                         "bitmap directory entry at offset %#" PRIx64
                         ": bitmap table size %u is more than the limit",
                         whence, entries);
        return give_up(c);
    }
    int result = check_claim_area(c, offset, bytes, CHECK_BITMAP_TABLE, "bitmap table", whence);
    if (result != 0)
        return result < 0 ? result : give_up(c);
    autofree uint8_t *table = qcow2_buffer(bytes);
    if (!table)
        return -ENOMEM;
    if (co_check_read(c, offset, bytes, table, &zero) < 0 || zero)
        return 0;
    for (uint32_t i = 0; i < entries; i++) {
        uint8_t *at = table + (size_t)i * 8;
        result = walk_entry(c, load_be64(at), offset + (uint64_t)i * 8);
        if (result < 0)
            return result;
        if (result > 0)
            store_be64(at, QCOW2_BITMAP_TABLE_ONES);
        changed |= result > 0;
    }
    if (!c->mend || !changed)
        return 0;
    if (check_is_contested(c, offset, bytes))
        return give_up(c);
    check_note(c,
               "the bitmap whose table lies at %#" PRIx64
               " has lost some of its bits: they read as dirty now",
               offset);
    return co_check_write(c, offset, table, bytes);
}

static int co_walk_directory(struct checker *c, const uint8_t *directory)
{
    struct cursor cursor = cursor_of(directory, c->bitmap_directory_size);
    for (uint32_t i = 0; i < c->bitmap_count; i++) {
        uint64_t whence = c->bitmap_directory_offset + cursor.position;
        uint64_t table_offset = cursor_be64(&cursor);
        uint32_t table_entries = cursor_be32(&cursor);
        cursor_be32(&cursor); /* flags */
        cursor_be16(&cursor); /* type, granularity */
        size_t name_bytes = cursor_be16(&cursor), extra_bytes = cursor_be32(&cursor);
        cursor_take(&cursor, extra_bytes);
        cursor_take(&cursor, name_bytes);
        cursor_take(&cursor, (8 - cursor.position % 8) % 8);
        if (cursor.failed) {
            check_corruption(
                c, "bitmap directory at offset %#" PRIx64 ": entry %u of %u runs past its end",
                c->bitmap_directory_offset, i, c->bitmap_count);
            return give_up(c);
        }
        int result = co_walk_table(c, table_offset, table_entries, whence);
        if (result < 0)
            return result;
    }
    return 0;
}

int co_check_bitmaps(struct checker *c)
{
    if (c->bitmap_count == 0)
        return 0;
    if (c->bitmap_count > QCOW2_BITMAPS_MAX || c->bitmap_directory_size == 0 ||
        c->bitmap_directory_size > QCOW2_BITMAP_DIRECTORY_MAX) {
        check_corruption(
            c, "bitmaps header extension: %u bitmaps in a directory of %" PRIu64 " bytes cannot be",
            c->bitmap_count, c->bitmap_directory_size);
        return give_up(c);
    }
    int result = check_claim_area(c, c->bitmap_directory_offset, c->bitmap_directory_size,
                                  CHECK_BITMAP_DIRECTORY, "bitmap directory", 0);
    if (result != 0)
        return result < 0 ? result : give_up(c);
    autofree uint8_t *directory = qcow2_buffer(c->bitmap_directory_size + 1);
    if (!directory)
        return -ENOMEM;
    if (co_check_read(c, c->bitmap_directory_offset, c->bitmap_directory_size, directory, NULL) < 0)
        return 0;
    return co_walk_directory(c, directory);
}

int co_check_drop_bitmaps(struct checker *c)
{
    uint8_t field[8];
    if (!c->drop_bitmaps)
        return 0;
    check_note(c, "the bitmaps cannot be used and are given up: the next backup is a full one");
    store_be64(field, c->autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS);
    return co_check_write(c, offsetof(struct qcow2_disk_header, autoclear_features), field,
                          sizeof(field));
}
