/*
 * The checker's repair of what follows from the tables: refcounts that are wrong, refcount blocks
 * that are missing or cannot be used, a refcount table that cannot, and COPIED flags. In an order
 * that a crash may cut anywhere:
 *
 *   1. missing refcount blocks, and a new table where they do not fit the old one, written behind
 * the end of the file; synced; then the table entries, or the header's pointer to the new table;
 * synced
 *   2. counts that are too low raised; synced          (now no cluster in use can be given out)
 *   3. COPIED flags that are wrongly set, cleared; synced
 *   4. counts that are too high lowered; synced        (only where every table could be followed)
 *   5. COPIED flags that are missing, set; synced
 *
 * Afterwards check.c looks again and says by name what is left.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check.h"
#include <inttypes.h>

int co_check_sync(struct checker *c)
{
    int result = co_block_flush(c->file);
    if (result < 0)
        return hws_fail_errno(c->err, -result, "repairing %s: sync", block_filename(c->file));
    return 0;
}

/* ---- counts ---- */

static uint64_t present_block(struct checker *c, size_t index)
{
    uint8_t state = c->block_state[index];
    if (state != CHECK_BLOCK_PRESENT && state != CHECK_BLOCK_COMPARED)
        return 0;
    return load_be64(c->refcount_table + index * 8) & QCOW2_REFTABLE_OFFSET_MASK;
}

/* Brings a block nearer to the map, in the direction of this pass. @return 1 when it changed. */
static int repair_block(struct checker *c, size_t block_index, uint8_t *block)
{
    uint64_t entries = check_block_entries(c), base = block_index * entries;
    struct check_view view = {0};
    int changed = 0;
    if (!block)
        return 0;
    for (uint64_t i = 0; i < entries; i++) {
        if (i % CHECK_CHUNK_CLUSTERS == 0)
            view = check_map_view(&c->map, base + i);
        if (check_view_is_empty(&view) && !c->lower) {
            i |= CHECK_CHUNK_CLUSTERS - 1;
            continue;
        }
        uint64_t found = qcow2_refcount_read(block, c->refcount_order, (uint32_t)i);
        uint64_t count = check_view_count(&view, i % CHECK_CHUNK_CLUSTERS);
        count = MIN(count, check_refcount_max(c));
        if (c->lower ? found <= count : found >= count)
            continue;
        qcow2_refcount_write(block, c->refcount_order, (uint32_t)i, count);
        changed = 1;
    }
    return changed;
}

static int co_repair_counts(struct checker *c, bool lower)
{
    c->lower = lower;
    c->read_holes = !lower; /* a block that is a hole holds zeroes: counts to be raised */
    int result = co_check_each_table(c, c->refcount_entries, present_block, repair_block);
    c->read_holes = false;
    return result < 0 ? result : co_check_sync(c);
}

/* ---- missing refcount blocks ---- */

/* The blocks to make, and where the file will end. */
struct rebuild {
    uint64_t *index;   /* of blocks in the refcount table, in the order found */
    uint64_t *cluster; /* where they will lie */
    size_t count, room;
    uint64_t next;          /* first free cluster behind the end */
    uint64_t table_cluster; /* of the larger table; 0: the present one is large enough */
    uint64_t table_clusters;
    uint64_t old_clusters; /* of the table that it replaces; 0: that one could not be used */
};

static bool block_is_usable(const struct checker *c, uint64_t index)
{
    return index < c->refcount_entries && c->block_state[index] != CHECK_BLOCK_ABSENT &&
           c->block_state[index] != CHECK_BLOCK_BAD;
}

/* Plans the block that covers @cluster where there is none. */
static int need_block(struct checker *c, struct rebuild *r, uint64_t cluster)
{
    uint64_t index = cluster / check_block_entries(c);
    if (block_is_usable(c, index))
        return 0;
    /* The list is sorted: it grows in file order, and new clusters lie behind all others. */
    for (size_t i = r->count; i-- > 0 && r->index[i] >= index;)
        if (r->index[i] == index)
            return 0;
    if (r->count == r->room) {
        size_t room = r->room ? r->room * 2 : 64;
        uint64_t *indexes = reallocarray(r->index, room, sizeof(*indexes));
        if (!indexes)
            return -ENOMEM;
        r->index = indexes;
        uint64_t *clusters = reallocarray(r->cluster, room, sizeof(*clusters));
        if (!clusters)
            return -ENOMEM;
        r->cluster = clusters;
        r->room = room;
    }
    r->index[r->count] = index;
    r->cluster[r->count++] = r->next;
    return check_map_set(&c->map, r->next++, 1, CHECK_REFCOUNT_BLOCK);
}

/* Blocks for the planned blocks, and for a larger table, until nothing is missing. */
static int plan_closure(struct checker *c, struct rebuild *r)
{
    uint64_t entries_a_cluster = c->cluster_size / 8, highest = 0;
    int result;
    for (size_t i = 0; i < r->count; i++) {
        if ((result = need_block(c, r, r->cluster[i])) < 0)
            return result;
        highest = MAX(highest, r->index[i]);
    }
    if (highest < c->refcount_entries)
        return 0;
    /* One cluster more than needed holds the entries of the blocks that cover the table itself. */
    r->table_clusters = div_round_up(highest + 1, entries_a_cluster) + 1;
    if (r->table_clusters * c->cluster_size > QCOW2_REFTABLE_BYTES_MAX) {
        check_note(c, "the refcount table cannot grow to %" PRIu64 " clusters: more than the limit",
                   r->table_clusters);
        return -EFBIG;
    }
    r->table_cluster = r->next;
    r->next += r->table_clusters;
    for (uint64_t i = 0; i < r->table_clusters; i++) {
        result = check_map_set(&c->map, r->table_cluster + i, 1, CHECK_REFCOUNT_TABLE);
        if (result >= 0)
            result = need_block(c, r, r->table_cluster + i);
        if (result < 0)
            return result;
    }
    for (size_t i = 0; i < r->count; i++)
        if ((result = need_block(c, r, r->cluster[i])) < 0)
            return result;
    return 0;
}

static bool is_in_use(struct checker *c, uint64_t first)
{
    struct check_view view = check_map_view(&c->map, first);
    for (unsigned i = 0; i < CHECK_CHUNK_CLUSTERS; i++)
        if (check_view_count(&view, i) != 0)
            return true;
    return false;
}

static int plan(struct checker *c, struct rebuild *r)
{
    autofree uint64_t *first = NULL;
    int64_t groups = check_map_groups(&c->map, &first);
    if (groups < 0)
        return (int)groups;
    r->next = c->file_clusters;
    for (uint64_t i = 0; i < (uint64_t)groups * CHECK_GROUP_CHUNKS; i++) {
        uint64_t base =
            first[i / CHECK_GROUP_CHUNKS] + i % CHECK_GROUP_CHUNKS * CHECK_CHUNK_CLUSTERS;
        int result = is_in_use(c, base) ? need_block(c, r, base) : 0;
        if (result < 0)
            return result;
    }
    return r->count ? plan_closure(c, r) : 0;
}

static int co_write_blocks(struct checker *c, const struct rebuild *r)
{
    autofree uint8_t *block = qcow2_buffer(c->cluster_size);
    if (!block)
        return -ENOMEM;
    c->lower = false;
    for (size_t i = 0; i < r->count; i++) {
        memset(block, 0, c->cluster_size);
        repair_block(c, r->index[i], block);
        int result = co_check_write(c, r->cluster[i] << c->cluster_bits, block, c->cluster_size);
        if (result < 0)
            return result;
    }
    return co_check_sync(c);
}

static int grow_table(struct checker *c, uint64_t entries)
{
    uint8_t *table = qcow2_buffer(entries * 8), *state = calloc(entries, 1);
    if (!table || !state) {
        free(table);
        free(state);
        return -ENOMEM;
    }
    if (c->refcount_entries) {
        memcpy(table, c->refcount_table, c->refcount_entries * 8);
        memcpy(state, c->block_state, c->refcount_entries);
    }
    free(c->refcount_table);
    free(c->block_state);
    c->refcount_table = table;
    c->block_state = state;
    c->refcount_entries = entries;
    return 0;
}

/* The new table lies beside the old one until the header names it: 12 bytes of one sector. */
static int co_switch_table(struct checker *c, const struct rebuild *r)
{
    uint64_t old = c->refcount_table_offset >> c->cluster_bits;
    uint8_t fields[12];
    int result = co_check_write(c, r->table_cluster << c->cluster_bits, c->refcount_table,
                                c->refcount_entries * 8);
    if (result >= 0)
        result = co_check_sync(c);
    if (result < 0)
        return result;
    store_be64(fields, r->table_cluster << c->cluster_bits);
    store_be32(fields + 8, (uint32_t)r->table_clusters);
    result = co_check_write(c, offsetof(struct qcow2_disk_header, refcount_table_offset), fields,
                            sizeof(fields));
    /* The old table is to be freed, where it was one. */
    for (uint64_t i = 0; i < r->old_clusters && result >= 0; i++)
        result = check_map_set(&c->map, old + i, 0, CHECK_FREE);
    c->too_high += r->old_clusters;
    c->refcount_table_offset = r->table_cluster << c->cluster_bits;
    c->refcount_table_clusters = (uint32_t)r->table_clusters;
    return result < 0 ? result : co_check_sync(c);
}

static int co_link_blocks(struct checker *c, const struct rebuild *r)
{
    int result = 0;
    if (r->table_cluster && (result = grow_table(c, r->table_clusters * (c->cluster_size / 8))) < 0)
        return result;
    for (size_t i = 0; i < r->count; i++) {
        uint64_t index = r->index[i];
        store_be64(c->refcount_table + index * 8, r->cluster[i] << c->cluster_bits);
        c->block_state[index] = CHECK_BLOCK_PRESENT;
        if (r->table_cluster)
            continue;
        result = co_check_write(c, c->refcount_table_offset + index * 8,
                                c->refcount_table + index * 8, 8);
        if (result < 0)
            return result;
    }
    return r->table_cluster ? co_switch_table(c, r) : co_check_sync(c);
}

static int co_repair_missing_blocks(struct checker *c)
{
    struct rebuild r = {.old_clusters = c->refcount_entries ? c->refcount_table_clusters : 0};
    int result = plan(c, &r);
    if (result >= 0 && r.count > 0) {
        result = co_write_blocks(c, &r);
        if (result >= 0)
            result = co_link_blocks(c, &r);
        c->file_size = block_size(c->file);
        c->file_clusters = div_round_up(c->file_size, c->cluster_size);
    }
    free(r.index);
    free(r.cluster);
    return result;
}

/* ---- COPIED flags ---- */

/* @return true when the flag of this entry was changed. */
static bool repair_entry(struct checker *c, uint8_t *entry_bytes)
{
    uint64_t entry = load_be64(entry_bytes), offset = entry & QCOW2_OFFSET_MASK;
    if (offset == 0 || !is_aligned(offset, c->cluster_size) ||
        offset >> c->cluster_bits >= c->file_clusters)
        return false;
    bool single = check_map_count(&c->map, offset >> c->cluster_bits) == 1;
    if (c->set_copied ? !single || (entry & QCOW2_COPIED) : single || !(entry & QCOW2_COPIED))
        return false;
    store_be64(entry_bytes, entry ^ QCOW2_COPIED);
    return true;
}

static uint64_t active_l2(struct checker *c, size_t index)
{
    return c->l2[index].active ? c->l2[index].offset : 0;
}

static int repair_l2(struct checker *c, size_t index, uint8_t *table)
{
    size_t step = c->extended_l2 ? 16 : 8;
    int changed = 0;
    for (size_t at = 0; table && at < c->cluster_size; at += step)
        if (!(load_be64(table + at) & QCOW2_COMPRESSED))
            changed |= repair_entry(c, table + at);
    return changed;
}

static int co_repair_l1(struct checker *c)
{
    uint64_t bytes = (uint64_t)c->l1_entries * 8;
    uint8_t piece[4096];
    if (!is_aligned(c->l1_offset, c->cluster_size) ||
        check_map_kind(&c->map, c->l1_offset >> c->cluster_bits) != CHECK_L1)
        return 0;
    for (uint64_t at = 0; at < bytes; at += sizeof(piece)) {
        size_t length = MIN(bytes - at, (uint64_t)sizeof(piece));
        bool changed = false;
        if (co_check_read(c, c->l1_offset + at, length, piece, NULL) < 0)
            continue;
        for (size_t i = 0; i < length; i += 8)
            changed |= repair_entry(c, piece + i);
        int result = changed ? co_check_write(c, c->l1_offset + at, piece, length) : 0;
        if (result < 0)
            return result;
    }
    return 0;
}

static int co_repair_copied(struct checker *c, bool set)
{
    c->set_copied = set;
    int result = co_repair_l1(c);
    if (result >= 0)
        result = co_check_each_table(c, c->l2_count, active_l2, repair_l2);
    return result < 0 ? result : co_check_sync(c);
}

/* ---- all of it ---- */

/* Entries that cannot be used, where no block was needed in their place; and reserved bits. */
static int co_clean_table(struct checker *c)
{
    for (uint64_t i = 0; i < c->refcount_entries; i++) {
        uint8_t *at = c->refcount_table + i * 8;
        uint64_t entry = load_be64(at);
        uint64_t clean = block_is_usable(c, i) ? entry & QCOW2_REFTABLE_OFFSET_MASK : 0;
        if (entry == clean)
            continue;
        store_be64(at, clean);
        int result = co_check_write(c, c->refcount_table_offset + i * 8, at, 8);
        if (result < 0)
            return result;
    }
    return 0;
}

int co_check_repair(struct checker *c, unsigned repair)
{
    struct block_check *found = c->result;
    bool incomplete = c->incomplete || found->errors > 0;
    bool errors = (repair & BLOCK_REPAIR_ERRORS) && (found->corruptions > 0 || c->mend);
    int result = 0;
    if (errors) {
        result = co_repair_missing_blocks(c);
        if (result >= 0)
            result = co_clean_table(c);
        if (result >= 0)
            result = co_repair_counts(c, false);
        if (result >= 0 && !c->external_data)
            result = co_repair_copied(c, false);
    }
    if (result < 0)
        return result == -EFBIG ? 0 : result; /* -EFBIG: told as not repairable */
    bool lowered = c->too_high == 0;
    if (incomplete && c->too_high > 0) {
        check_note(
            c, "refcounts are not lowered: a table could not be followed, so that clusters may be "
               "in use that nothing seems to refer to");
    } else if ((repair & BLOCK_REPAIR_LEAKS) && c->too_high > 0) {
        result = co_repair_counts(c, true);
        lowered = true;
    }
    /* A count lowered to one makes the flag due; but tables that may overlap are not written. */
    bool whole = errors || (c->too_high > 0 && found->corruptions == 0);
    if (result >= 0 && whole && lowered && !incomplete && !c->external_data)
        result = co_repair_copied(c, true);
    return result;
}

static int co_set_incompatible(struct checker *c, uint64_t bits)
{
    uint8_t field[8];
    if (c->version < 3 || bits == c->incompatible)
        return 0;
    int result = co_check_sync(c);
    if (result < 0)
        return result;
    store_be64(field, bits);
    result = co_check_write(c, offsetof(struct qcow2_disk_header, incompatible_features), field,
                            sizeof(field));
    c->incompatible = bits;
    return result < 0 ? result : co_check_sync(c);
}

int co_check_mark(struct checker *c, bool corrupt)
{
    uint64_t others = c->incompatible & ~(uint64_t)QCOW2_INCOMPAT_CORRUPT;
    return co_set_incompatible(c, others | (corrupt ? QCOW2_INCOMPAT_CORRUPT : 0));
}

int co_check_clear_marks(struct checker *c, unsigned repair)
{
    uint64_t marks = QCOW2_INCOMPAT_DIRTY;
    if (repair & BLOCK_REPAIR_ERRORS)
        marks |= QCOW2_INCOMPAT_CORRUPT;
    return co_set_incompatible(c, c->incompatible & ~marks);
}
