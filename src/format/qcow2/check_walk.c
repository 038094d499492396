/*
 * The checker's walk: everything in an image that refers to host clusters is followed and counted
 * in the map, in an order that lets later finds be told as overlaps of earlier ones:
 *
 *   header -> refcount table and blocks -> active L1 -> snapshot table and its L1s -> bitmaps,
 *   encryption header -> the entries of every L2 table
 *
 * An L1 table only notes which L2 tables it refers to. When all are known, each L2 table is read
 * once and its references count as often as the table itself is referenced. A table that overlaps
 * something else is told and not followed, so no part of the file is read twice and a hostile image
 * costs time in proportion to its size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "format/qcow2/check.h"
#include <inttypes.h>

#define L1_PIECE_BYTES (256 * KiB)

/* ---- claiming clusters ---- */

int check_claim_cluster(struct checker *c, uint64_t cluster, enum check_kind kind, uint64_t times,
                        const char *what, uint64_t whence)
{
    struct check_chunk *chunk = check_map_make(&c->map, cluster);
    if (!chunk)
        return -ENOMEM;
    unsigned index = cluster % CHECK_CHUNK_CLUSTERS;
    uint8_t *slot = &chunk->kind[index];
    enum check_kind before = *slot & CHECK_KIND_MASK;
    bool shares = before == kind && !check_kind_is_exclusive(kind);
    if (c->mend && before != CHECK_FREE &&
        (!shares || times > check_refcount_max(c) ||
         check_chunk_count(chunk, index) > check_refcount_max(c) - times))
        return 1;
    if (check_chunk_add(chunk, index, times) < 0)
        return -ENOMEM;
    if (before == CHECK_FREE) {
        *slot |= (uint8_t)kind;
        return 0;
    }
    if (shares)
        return 0;
    if (!(*slot & CHECK_OVERLAP))
        check_corruption(c,
                         "%s, referred to at offset %#" PRIx64 ": the cluster at %#" PRIx64
                         " is already in use as %s",
                         what, whence, cluster << c->cluster_bits, check_kind_name(before));
    *slot |= CHECK_OVERLAP;
    return 1;
}

static int count_area(struct checker *c, uint64_t offset, uint64_t length, enum check_kind kind,
                      const char *what, uint64_t whence)
{
    uint64_t first = offset >> c->cluster_bits, end;
    int worst = 0;
    if (!is_aligned(offset, c->cluster_size)) {
        check_corruption(c,
                         "%s, referred to at offset %#" PRIx64 ": its offset %#" PRIx64
                         " is not a multiple of the cluster size",
                         what, whence, offset);
        return 1;
    }
    if (add_overflows(offset, length, &end) || first >= c->file_clusters ||
        div_round_up(length, c->cluster_size) > c->file_clusters - first) {
        check_corruption(c,
                         "%s, referred to at offset %#" PRIx64 ": its %" PRIu64
                         " bytes at %#" PRIx64 " reach past the end of the file (%#" PRIx64 ")",
                         what, whence, length, offset, c->file_size);
        return 1;
    }
    /* A repair takes all of it or nothing. */
    for (uint64_t i = 0; c->mend && i < div_round_up(length, c->cluster_size); i++)
        if (check_map_count(&c->map, first + i))
            return 1;
    for (uint64_t i = 0; i < div_round_up(length, c->cluster_size); i++) {
        int result = check_claim_cluster(c, first + i, kind, 1, what, whence);
        if (result < 0)
            return result;
        worst = MAX(worst, result);
    }
    return worst;
}

int check_claim_area(struct checker *c, uint64_t offset, uint64_t length, enum check_kind kind,
                     const char *what, uint64_t whence)
{
    int result = count_area(c, offset, length, kind, what, whence);
    c->incomplete |= result != 0;
    return result;
}

bool check_is_contested(struct checker *c, uint64_t offset, uint64_t length)
{
    uint64_t end = div_round_up(offset + length, c->cluster_size);
    for (uint64_t i = offset >> c->cluster_bits; c->known && i < end; i++)
        if (check_map_kind(c->known, i) & CHECK_OVERLAP)
            return true;
    return false;
}

void check_note_copied(struct checker *c, uint64_t offset, uint64_t entry)
{
    uint64_t cluster = offset >> c->cluster_bits;
    struct check_chunk *chunk = check_map_make(&c->map, cluster);
    assert(chunk); /* the cluster was counted, and not by a bit */
    chunk->kind[cluster % CHECK_CHUNK_CLUSTERS] |=
        entry & QCOW2_COPIED ? CHECK_COPIED_SET : CHECK_COPIED_CLEAR;
}

int check_target(struct checker *c, const char *what, uint64_t whence, uint64_t offset)
{
    if (!is_aligned(offset, c->cluster_size)) {
        check_corruption(c,
                         "%s at offset %#" PRIx64 ": %#" PRIx64 " is not a multiple of the cluster "
                         "size",
                         what, whence, offset);
        return 1;
    }
    if (offset >> c->cluster_bits >= c->file_clusters) {
        check_corruption(c,
                         "%s at offset %#" PRIx64 ": %#" PRIx64 " lies past the end of the file "
                         "(%#" PRIx64 ")",
                         what, whence, offset, c->file_size);
        return 1;
    }
    return 0;
}

/* ---- refcount structures ---- */

static int walk_refcount_entry(struct checker *c, uint64_t index)
{
    uint64_t entry = load_be64(c->refcount_table + index * 8);
    uint64_t whence = c->refcount_table_offset + index * 8;
    uint64_t offset = entry & ~QCOW2_REFTABLE_RESERVED;
    if (entry == 0)
        return 0;
    c->block_state[index] = CHECK_BLOCK_BAD;
    if (entry & QCOW2_REFTABLE_RESERVED)
        check_corruption(c,
                         "refcount table entry at offset %#" PRIx64 ": reserved bits are set "
                         "(%#" PRIx64 ")",
                         whence, entry);
    if (offset == 0 || check_target(c, "refcount table entry", whence, offset) != 0)
        return 0;
    int result = check_claim_cluster(c, offset >> c->cluster_bits, CHECK_REFCOUNT_BLOCK, 1,
                                     "refcount block", whence);
    if (result < 0)
        return result;
    if (result == 0)
        c->block_state[index] = CHECK_BLOCK_PRESENT;
    return 0;
}

int co_check_walk_refcounts(struct checker *c)
{
    uint64_t bytes = c->refcount_table_clusters * c->cluster_size;
    if (bytes == 0 || bytes > MAX(QCOW2_REFTABLE_BYTES_MAX, c->cluster_size)) {
        check_corruption(c,
                         "refcount_table_clusters at offset 56 is %u: not a size that a table has",
                         c->refcount_table_clusters);
        return 0;
    }
    int result =
        count_area(c, c->refcount_table_offset, bytes, CHECK_REFCOUNT_TABLE, "refcount table", 48);
    if (result != 0)
        return MIN(result, 0);
    c->refcount_table = qcow2_buffer(bytes);
    c->block_state = calloc(bytes / 8, 1);
    if (!c->refcount_table || !c->block_state)
        return -ENOMEM;
    c->refcount_entries = bytes / 8;
    bool zero;
    if (co_check_read(c, c->refcount_table_offset, bytes, c->refcount_table, &zero) < 0)
        return 0;
    for (uint64_t i = 0; i < c->refcount_entries; i++)
        if ((result = walk_refcount_entry(c, i)) < 0)
            return result;
    return 0;
}

/* ---- L1 tables ---- */

int check_remember_l2(struct checker *c, uint64_t offset, uint32_t l1_index, bool active)
{
    if (c->l2_count == c->l2_room) {
        size_t room = c->l2_room ? c->l2_room * 2 : 256;
        struct check_l2 *bigger = reallocarray(c->l2, room, sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        c->l2 = bigger;
        c->l2_room = room;
    }
    c->l2[c->l2_count++] =
        (struct check_l2){.offset = offset, .l1_index = l1_index, .active = active};
    return 0;
}

static int walk_l1_entry(struct checker *c, uint64_t entry, uint64_t whence, uint32_t l1_index,
                         bool active)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    if (entry & QCOW2_L1_RESERVED)
        check_corruption(c, "L1 entry at offset %#" PRIx64 ": reserved bits are set (%#" PRIx64 ")",
                         whence, entry);
    if (offset == 0) {
        if (active && (entry & QCOW2_COPIED))
            check_corruption(c, "L1 entry at offset %#" PRIx64 ": COPIED flag without an L2 table",
                             whence);
        return 0;
    }
    if (check_target(c, "L1 entry", whence, offset) != 0) {
        c->incomplete = true;
        return 0;
    }
    bool first = check_map_count(&c->map, offset >> c->cluster_bits) == 0;
    int result = check_claim_cluster(c, offset >> c->cluster_bits, CHECK_L2, 1, "L2 table", whence);
    if (result < 0)
        return result;
    c->incomplete |= result > 0;
    if (result == 0 && active)
        check_note_copied(c, offset, entry);
    return result == 0 && first ? check_remember_l2(c, offset, l1_index, active) : 0;
}

static int co_walk_l1(struct checker *c, uint64_t offset, uint32_t entries, bool active,
                      const char *what, uint64_t whence)
{
    uint64_t bytes = (uint64_t)entries * 8;
    if (entries == 0)
        return 0;
    int result = check_claim_area(c, offset, bytes, CHECK_L1, what, whence);
    if (result != 0)
        return MIN(result, 0);
    autofree uint8_t *piece = qcow2_buffer(MIN(bytes, L1_PIECE_BYTES));
    if (!piece)
        return -ENOMEM;
    for (uint64_t at = 0; at < bytes; at += L1_PIECE_BYTES) {
        size_t length = MIN(bytes - at, L1_PIECE_BYTES);
        bool zero;
        if (co_check_read(c, offset + at, length, piece, &zero) < 0 || zero)
            continue;
        for (size_t i = 0; i < length / 8; i++) {
            uint64_t entry = load_be64(piece + i * 8);
            if (entry == 0)
                continue;
            result = walk_l1_entry(c, entry, offset + at + i * 8, (uint32_t)(at / 8 + i), active);
            if (result < 0)
                return result;
        }
    }
    return 0;
}

/* ---- L2 tables ---- */

/* Where an L2 entry stands, for messages and counting. */
struct l2_place {
    uint64_t offset; /* of the entry in the file */
    uint64_t guest;  /* guest offset of the first use */
    uint64_t times;  /* references to the table */
    bool active;
};

static int walk_compressed(struct checker *c, uint64_t entry, const struct l2_place *place)
{
    uint64_t offset, end;
    check_compressed_range(c, entry, &offset, &end);
    uint64_t first = offset >> c->cluster_bits;
    if (place->active) {
        c->result->compressed_clusters++;
        c->result->allocated_clusters++;
        c->result->fragmented_clusters++; /* starts anywhere: never contiguous */
    }
    if (entry & QCOW2_COPIED)
        check_corruption(c,
                         "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64
                         "): COPIED flag on "
                         "a compressed cluster",
                         place->offset, place->guest);
    if (c->external_data)
        check_corruption(c,
                         "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64 "): compressed "
                         "cluster in an image with an external data file",
                         place->offset, place->guest);
    uint64_t last = (end - 1) >> c->cluster_bits;
    if (offset >= c->file_size || last >= c->file_clusters) {
        check_corruption(
            c,
            "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64 "): compressed data "
            "%#" PRIx64 "..%#" PRIx64 " reaches past the end of the file (%#" PRIx64 ")",
            place->offset, place->guest, offset, end, c->file_size);
        return 0;
    }
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        int result = check_claim_cluster(c, cluster, CHECK_COMPRESSED, place->times,
                                         "compressed data", place->offset);
        if (result < 0)
            return result;
    }
    return 0;
}

/* A cluster of an external data file: it has no refcount, and lies where the guest has it. */
static int walk_external(struct checker *c, uint64_t entry, const struct l2_place *place)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    if (offset == 0 && !(entry & QCOW2_COPIED))
        return 0;
    /* As qemu-img counts: a zero cluster at 0 is none. */
    if (place->active && (offset || !(entry & QCOW2_ZERO))) {
        c->result->allocated_clusters++;
        if (c->next_contiguous != 0 && offset != c->next_contiguous)
            c->result->fragmented_clusters++;
        c->next_contiguous = offset + c->cluster_size;
    }
    if (offset != place->guest)
        check_corruption(c,
                         "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64
                         "): names offset %#" PRIx64 " of the data file, which must be the guest's",
                         place->offset, place->guest, offset);
    else if (!(entry & QCOW2_COPIED))
        check_corruption(c,
                         "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64
                         "): no COPIED flag on a cluster of the data file",
                         place->offset, place->guest);
    return 0;
}

static void count_allocated(struct checker *c, uint64_t offset)
{
    c->result->allocated_clusters++;
    if (c->next_contiguous != 0 && offset != c->next_contiguous)
        c->result->fragmented_clusters++;
    c->next_contiguous = offset + c->cluster_size;
}

static int walk_standard(struct checker *c, uint64_t entry, const struct l2_place *place)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    uint64_t reserved = QCOW2_L2_RESERVED;
    if (c->version == 2 || c->extended_l2)
        reserved |= QCOW2_ZERO;
    if (entry & reserved)
        check_corruption(c,
                         "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64
                         "): reserved bits "
                         "are set (%#" PRIx64 ")",
                         place->offset, place->guest, entry);
    if (c->external_data)
        return walk_external(c, entry, place);
    if (offset == 0) {
        if (entry & QCOW2_COPIED)
            check_corruption(c,
                             "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64
                             "): COPIED flag "
                             "without a cluster",
                             place->offset, place->guest);
        return 0;
    }
    if (place->active)
        count_allocated(c, offset);
    if (check_target(c, "L2 entry", place->offset, offset) != 0)
        return 0;
    int result = check_claim_cluster(c, offset >> c->cluster_bits, CHECK_DATA, place->times,
                                     "data cluster", place->offset);
    if (result == 0 && place->active)
        check_note_copied(c, offset, entry);
    return MIN(result, 0);
}

/* The second half of an extended entry. */
static void check_bitmap(struct checker *c, uint64_t entry, uint64_t bitmap,
                         const struct l2_place *place)
{
    const char *wrong = NULL;
    if (entry & QCOW2_COMPRESSED) {
        if (bitmap != 0)
            wrong = "a compressed cluster has a subcluster bitmap";
    } else if ((uint32_t)bitmap & (uint32_t)(bitmap >> 32)) {
        wrong = "subclusters are marked both allocated and zero";
    } else if ((uint32_t)bitmap != 0 && (entry & QCOW2_OFFSET_MASK) == 0 && !c->external_data) {
        wrong = "subclusters are marked allocated without a cluster";
    }
    if (wrong)
        check_corruption(c, "L2 entry at offset %#" PRIx64 " (guest offset %#" PRIx64 "): %s",
                         place->offset, place->guest, wrong);
}

/* The entry that nearly all are: a cluster of its own. @return false where it is something else. */
static bool walk_plain(struct checker *c, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    if (offset == 0 || !is_aligned(offset, c->cluster_size) ||
        offset >> c->cluster_bits >= c->file_clusters ||
        !check_map_once(&c->map, offset >> c->cluster_bits))
        return false;
    count_allocated(c, offset);
    return true;
}

static uint64_t l2_offset(struct checker *c, size_t index)
{
    return c->l2[index].offset;
}

static int walk_l2(struct checker *c, size_t index, uint8_t *table)
{
    if (!table)
        return 0;
    const struct check_l2 *l2 = &c->l2[index];
    uint64_t cluster = l2->offset >> c->cluster_bits;
    size_t entry_bytes = c->extended_l2 ? 16 : 8, entries = c->cluster_size / entry_bytes;
    c->next_contiguous =
        0; /* as qemu-img counts: the first cluster of a table is never fragmented */
    struct l2_place place = {.times = check_map_count(&c->map, cluster), .active = l2->active};
    bool plain = l2->active && place.times == 1 && !c->extended_l2 && !c->external_data;
    for (size_t i = 0; i < entries; i++) {
        uint64_t entry = load_be64(table + i * entry_bytes);
        uint64_t bitmap = c->extended_l2 ? load_be64(table + i * entry_bytes + 8) : 0;
        int result = 0;
        if (entry == 0 && bitmap == 0)
            continue;
        if (plain && (entry & ~QCOW2_OFFSET_MASK) == QCOW2_COPIED && walk_plain(c, entry))
            continue;
        place.offset = l2->offset + i * entry_bytes;
        place.guest = (l2->l1_index * entries + i) << c->cluster_bits;
        if (c->extended_l2)
            check_bitmap(c, entry, bitmap, &place);
        if (entry & QCOW2_COMPRESSED)
            result = walk_compressed(c, entry, &place);
        else if (entry != 0)
            result = walk_standard(c, entry, &place);
        if (result < 0)
            return result;
    }
    return 0;
}

/* ---- all of it ---- */

static int co_walk_snapshots(struct checker *c)
{
    int result = co_check_snapshots(c);
    for (size_t i = 0; i < c->snapshots_read && result >= 0; i++) {
        const struct check_snapshot *snapshot = &c->snapshots[i];
        char what[48];
        snprintf(what, sizeof(what), "L1 table of snapshot %zu", i);
        if (!snapshot->unusable)
            result =
                co_walk_l1(c, snapshot->l1_offset, snapshot->l1_entries, false, what, snapshot->at);
    }
    return result < 0 ? result : check_claim_snapshots(c);
}

static int walk_crypt_header(struct checker *c)
{
    if (c->crypt_length <= CHECK_CRYPT_BYTES_MAX)
        return c->crypt_length ? check_claim_area(c, c->crypt_offset, c->crypt_length,
                                                  CHECK_CRYPT_HEADER, "encryption header", 0)
                               : 0;
    check_corruption(c,
                     "header extension of the encryption header: its length %" PRIu64
                     " is more than the limit",
                     c->crypt_length);
    return 0;
}

int co_check_walk(struct checker *c)
{
    int result = check_claim_cluster(c, 0, CHECK_HEADER, 1, "header", 0);
    if (result >= 0)
        result = co_check_walk_refcounts(c);
    if (result >= 0)
        result = co_walk_l1(c, c->l1_offset, c->l1_entries, true, "active L1 table", 40);
    if (result >= 0)
        result = co_walk_snapshots(c);
    if (result >= 0)
        result = co_check_bitmaps(c);
    if (result >= 0)
        result = walk_crypt_header(c);
    c->steps_total = c->l2_count;
    for (uint64_t i = 0; i < c->refcount_entries; i++)
        c->steps_total += c->block_state[i] == CHECK_BLOCK_PRESENT;
    if (result >= 0)
        result = co_check_each_table(c, c->l2_count, l2_offset, walk_l2);
    return MIN(result, 0);
}
