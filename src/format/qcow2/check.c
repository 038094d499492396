/*
 * Checking a qcow2 image: entry point, header, findings, and reading tables.
 *
 * The walk (check_walk.c) follows everything that the header leads to and counts what each host
 * cluster is used for; the comparison (check_compare.c) holds the refcounts on disk and the COPIED
 * flags against that; the repair (check_repair.c) puts right what it can. Each L2 table is read
 * once, however many snapshots share it: its references count as often as the table itself is
 * referenced. So time and memory follow the size of the file, not what its tables claim.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check.h"
#include "rt/sync.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>

/* Bytes of tables read ahead at a time, and how many reads that may be. */
#define AHEAD_BYTES (4 * MiB)
#define AHEAD_MAX   32
/* Units of the map that no stored byte has to justify: 10 MB. */
#define CHUNKS_FREE 65536
/* Below this a hole is cheaper read than asked about. */
#define HOLE_BYTES 4096

/* ---- findings ---- */

/* A repair tells what it does (@mended), not again what is wrong. */
static void tell(struct checker *c, const char *kind, bool mended, const char *format, va_list args)
{
    char line[512];
    if (!c->result->report || (c->mend && !mended))
        return;
    if (c->findings++ >= CHECK_REPORT_MAX)
        return;
    int length = snprintf(line, sizeof(line), "%s: ", c->prefix ? c->prefix : kind);
    vsnprintf(line + length, sizeof(line) - (size_t)length, format, args);
    c->result->report(c->result->report_arg, line);
}

void check_corruption(struct checker *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    c->result->corruptions++;
    tell(c, "ERROR", false, format, args);
    va_end(args);
}

void check_leak(struct checker *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    c->result->leaks++;
    tell(c, "LEAK", false, format, args);
    va_end(args);
}

void check_trouble(struct checker *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    c->result->errors++;
    tell(c, "NOT CHECKED", false, format, args);
    va_end(args);
}

void check_note(struct checker *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    tell(c, "NOTE", true, format, args);
    va_end(args);
}

void check_lost(struct checker *c, uint64_t guest, uint64_t length)
{
    c->lost_bytes += length;
    if (c->lost_end > c->lost_start && guest != c->lost_end)
        check_lost_tell(c);
    if (c->lost_end == c->lost_start)
        c->lost_start = guest;
    c->lost_end = guest + length;
}

void check_lost_tell(struct checker *c)
{
    if (c->lost_end > c->lost_start)
        check_note(c,
                   "given up: the data of guest offsets %#" PRIx64 "..%#" PRIx64
                   "; nothing that can be used says where they lie",
                   c->lost_start, c->lost_end);
    c->lost_start = c->lost_end = 0;
}

/* ---- reading and writing ---- */

int co_check_read(struct checker *c, uint64_t offset, size_t length, void *buffer, bool *ret_zero)
{
    struct iovec iov;
    if (ret_zero) {
        struct block_extent extent;
        *ret_zero = offset >= c->file_size;
        if (*ret_zero)
            return 0;
        uint64_t inside = MIN((uint64_t)length, c->file_size - offset);
        if (length >= HOLE_BYTES && co_block_status(c->file, offset, inside, &extent) == 0 &&
            extent.length >= inside && (extent.flags & BLOCK_STATUS_ZERO)) {
            *ret_zero = true;
            return 0;
        }
    }
    int result = co_block_read_padded(c->file, offset, sgl_one(&iov, buffer, length));
    if (result < 0)
        check_trouble(c, "reading %zu bytes at offset %#" PRIx64 " failed: %s", length, offset,
                      strerror(-result));
    return result;
}

int co_check_write(struct checker *c, uint64_t offset, const void *buffer, size_t length)
{
    struct iovec iov;
    c->changed = true;
    int result = co_block_write(c->file, offset, sgl_one(&iov, (void *)buffer, length), 0);
    if (result < 0)
        return hws_fail(c->err, -result,
                        "repairing %s: writing %zu bytes at offset %#" PRIx64 ": %s",
                        block_filename(c->file), length, offset, strerror(-result));
    return 0;
}

/* @return 0, or -ECANCELED when the user has enough. */
static int step_forward(struct checker *c, uint64_t tables)
{
    const struct block_check *check = c->result;
    c->steps_done += tables;
    if (!check->progress)
        return 0;
    uint64_t total = MAX(c->steps_total, c->steps_done);
    if (check->progress(check->progress_arg, c->steps_done * c->cluster_size,
                        total * c->cluster_size))
        return hws_fail(c->err, ECANCELED, "checking %s was ended", block_filename(c->node));
    return 0;
}

/* One table on its way in. */
struct ahead {
    struct checker *c;
    struct co_group *group;
    size_t index;
    uint64_t offset;
    uint8_t *table;
    bool zero;
    int result;
};

static void co_fetch(void *arg)
{
    struct ahead *a = arg;
    a->result = co_check_read(a->c, a->offset, a->c->cluster_size, a->table, &a->zero);
    if (a->zero && a->c->read_holes) {
        memset(a->table, 0, a->c->cluster_size);
        a->zero = false;
    }
    co_group_done(a->group);
}

/* Reads up to @room tables from *@next on. @return how many. */
static size_t co_fetch_some(struct checker *c, struct ahead *ahead, size_t room, size_t *next,
                            size_t count, uint64_t (*offset_of)(struct checker *c, size_t index))
{
    struct co_group group;
    size_t filled = 0;
    co_group_init(&group);
    for (; *next < count && filled < room; (*next)++) {
        uint64_t offset = offset_of(c, *next);
        if (offset == 0)
            continue;
        struct ahead *a = &ahead[filled++];
        a->group = &group;
        a->zero = false;
        a->index = *next;
        a->offset = offset;
        co_group_add(&group, 1);
        /* Out of memory for a coroutine: read it here, one after the other. */
        if (rt_spawn(NULL, co_fetch, a) < 0)
            co_fetch(a);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    return filled;
}

int co_check_each_table(struct checker *c, size_t count,
                        uint64_t (*offset_of)(struct checker *c, size_t index),
                        int (*fn)(struct checker *c, size_t index, uint8_t *table))
{
    struct ahead ahead[AHEAD_MAX];
    size_t room = MIN(MAX(AHEAD_BYTES / c->cluster_size, (uint64_t)2), (uint64_t)AHEAD_MAX);
    autofree uint8_t *memory = NULL;
    int result = 0;
    if (posix_memalign((void **)&memory, 4096, room * c->cluster_size) != 0) {
        memory = NULL;
        return hws_fail(c->err, ENOMEM, "checking %s: out of memory for tables",
                        block_filename(c->node));
    }
    for (size_t i = 0; i < room; i++)
        ahead[i] = (struct ahead){.c = c, .table = memory + i * c->cluster_size};
    for (size_t next = 0; next < count && result >= 0;) {
        size_t filled = co_fetch_some(c, ahead, room, &next, count, offset_of);
        for (size_t i = 0; i < filled && result >= 0; i++) {
            if (ahead[i].zero)
                continue;
            result = fn(c, ahead[i].index, ahead[i].result < 0 ? NULL : ahead[i].table);
            if (result > 0)
                result = co_check_write(c, ahead[i].offset, ahead[i].table, c->cluster_size);
        }
        if (result >= 0)
            result = step_forward(c, filled);
    }
    return MIN(result, 0);
}

/* ---- the header ---- */

/* The two header extensions that refer to clusters. */
static void take_extensions(struct checker *c, const struct qcow2_header *header)
{
    const struct qcow2_extension *found = qcow2_header_extension(header, QCOW2_EXT_BITMAPS);
    /* Without its autoclear bit the extension is stale: somebody wrote who does not know bitmaps.
       What it names is as good as leaked, and that is how qemu-img counts it. */
    if (!(header->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
        found = NULL;
    if (found && found->length >= sizeof(struct qcow2_disk_bitmaps_extension)) {
        c->bitmap_count = load_be32(found->data);
        c->bitmap_directory_size = load_be64(found->data + 8);
        c->bitmap_directory_offset = load_be64(found->data + 16);
    } else if (found) {
        check_corruption(c, "header extension of bitmaps: %u bytes long, 24 are needed",
                         found->length);
    }
    found = qcow2_header_extension(header, QCOW2_EXT_LUKS);
    if (found && found->length >= 16) {
        c->crypt_offset = load_be64(found->data);
        c->crypt_length = load_be64(found->data + 8);
    } else if (found) {
        check_corruption(c,
                         "header extension of the encryption header: %u bytes long, 16 are needed",
                         found->length);
    }
}

int co_check_read_header(struct checker *c)
{
    struct qcow2_header header = {0};
    struct iovec iov;
    c->file_size = block_size(c->file);
    size_t length = MIN(c->file_size, (uint64_t)1 << QCOW2_CLUSTER_BITS_MAX);
    autofree uint8_t *head = qcow2_buffer(length + 1);
    if (!head)
        return -ENOMEM;
    int result = length ? co_block_read(c->file, 0, sgl_one(&iov, head, length), 0) : 0;
    if (result < 0)
        return hws_fail_errno(c->err, -result, "%s: reading the header", block_filename(c->file));
    if (length >= 24) {
        uint32_t cluster_bits = load_be32(head + 20);
        if (cluster_bits >= QCOW2_CLUSTER_BITS_MIN && cluster_bits < QCOW2_CLUSTER_BITS_MAX)
            length = MIN(length, (size_t)1 << cluster_bits);
    }
    result = qcow2_header_parse(head, length, c->file_size, true, &header, c->err);
    if (result < 0)
        return hws_wrap(c->err, result, "%s", block_filename(c->file));
    c->version = header.version;
    c->cluster_bits = header.cluster_bits;
    c->cluster_size = (uint64_t)1 << c->cluster_bits;
    c->file_clusters = div_round_up(c->file_size, c->cluster_size);
    c->refcount_order = header.refcount_order;
    c->virtual_size = header.size;
    c->l1_entries = header.l1_size;
    c->l1_offset = header.l1_table_offset;
    c->refcount_table_offset = header.refcount_table_offset;
    c->refcount_table_clusters = header.refcount_table_clusters;
    c->snapshot_count = header.nb_snapshots;
    c->snapshots_offset = header.snapshots_offset;
    c->incompatible = header.incompatible_features;
    c->autoclear = header.autoclear_features;
    c->has_backing = header.backing_file;
    c->external_data = c->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    c->extended_l2 = c->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
    take_extensions(c, &header);
    qcow2_header_free(&header);
    return 0;
}

/*
 * Units of the map that an image of this many stored bytes can need: 8 bytes of table refer to one
 * cluster, so to one group and one chunk. The first ones are free, for areas that are holes.
 */
static size_t co_chunks_max(struct checker *c)
{
    uint64_t stored = c->file_size;
    json_t *info = NULL;
    struct hws_error ignored = {0};
    if (co_block_info(c->file, &info, &ignored) == 0) {
        const json_t *actual = json_object_get(info, "actual-size");
        if (json_is_integer(actual) && json_integer_value(actual) >= 0)
            stored = MIN(stored, (uint64_t)json_integer_value(actual));
        json_decref(info);
    }
    return CHUNKS_FREE + stored / 4;
}

/* ---- the check ---- */

static int co_look(struct checker *c)
{
    int result = co_check_read_header(c);
    if (result < 0)
        return result;
    result = check_map_init(&c->map, co_chunks_max(c));
    if (result >= 0)
        result = co_check_walk(c);
    if (result >= 0)
        result = co_check_compare(c);
    c->result->total_clusters = div_round_up(c->virtual_size, c->cluster_size);
    return result;
}

/* Ends a run: the line that counts what was not told, and the memory. @return @result, with its
 * text. */
static int finish(struct checker *c, int result)
{
    if (c->findings > CHECK_REPORT_MAX && c->result->report) {
        char line[80];
        snprintf(line, sizeof(line), "... and %u more findings", c->findings - CHECK_REPORT_MAX);
        c->result->report(c->result->report_arg, line);
    }
    if (c->map.limit_hit)
        result = hws_fail(c->err, EFBIG,
                          "%s: its tables refer to far more clusters than the file stores; "
                          "it is damaged beyond what can be checked",
                          block_filename(c->node));
    else if (result == -ENOMEM)
        result = hws_fail(c->err, ENOMEM, "checking %s: out of memory", block_filename(c->node));
    check_map_free(&c->map);
    free(c->l2);
    free(c->snapshots);
    free(c->refcount_table);
    free(c->block_state);
    return result;
}

/* A checker that works on for the same user. */
static struct checker successor(const struct checker *c, struct block_check *result)
{
    *result = (struct block_check){
        .report = c->result->report,
        .report_arg = c->result->report_arg,
        .progress = c->result->progress,
        .progress_arg = c->result->progress_arg,
    };
    return (struct checker){.node = c->node, .file = c->file, .result = result, .err = c->err};
}

/*
 * The repair of all that can be repaired. Tables first, then what follows from them. Version 3
 * images are marked corrupt meanwhile, so that nobody writes one that a crash has left half
 * repaired: copies count as free until their refcounts are raised.
 */
static int co_mend(struct checker *c, unsigned repair)
{
    struct block_check scratch;
    struct checker m = successor(c, &scratch);
    int result = co_check_mark(c, true);
    if (result >= 0)
        result = co_check_mend(&m, &c->map);
    if (result >= 0)
        result = co_check_repair(&m, repair);
    check_lost_tell(&m);
    if (m.lost_bytes)
        check_note(&m, "given up in all: %" PRIu64 " bytes of guest data", m.lost_bytes);
    c->changed |= m.changed;
    return finish(&m, result);
}

/*
 * Looks again after a repair: only what is gone counts as fixed, and only an image that is whole
 * loses its dirty and corrupt marks; a mark that the repair has set (@marked: not) goes anyway.
 */
static int co_look_again(struct checker *before, unsigned repair, bool marked,
                         struct block_check *ret)
{
    struct checker c = successor(before, ret);
    c.prefix = "NOT REPAIRED";
    int result = co_look(&c);
    if (result >= 0 && ret->corruptions == 0 && ret->errors == 0)
        result = co_check_clear_marks(&c, repair);
    else if (result >= 0 && !marked && (repair & BLOCK_REPAIR_ERRORS))
        result = co_check_mark(&c, false);
    before->changed |= c.changed;
    return finish(&c, result);
}

static int co_repair(struct checker *c, unsigned repair)
{
    struct block_check *check = c->result, again = {0};
    int result = qcow2_co_keep_give_up(qcow2_of(c->node));
    if (result < 0)
        return hws_fail_errno(c->err, -result, "%s: writing the header", block_filename(c->node));
    if ((repair & BLOCK_REPAIR_ERRORS) && check->corruptions)
        result = co_mend(c, repair);
    else if (check->corruptions || check->leaks)
        result = co_check_repair(c, repair);
    if (result >= 0)
        result = co_look_again(c, repair, c->incompatible & QCOW2_INCOMPAT_CORRUPT, &again);
    if (result < 0)
        return result;
    again.corruptions_fixed = check->corruptions - MIN(check->corruptions, again.corruptions);
    again.leaks_fixed = check->leaks - MIN(check->leaks, again.leaks);
    *check = again;
    return 0;
}

int qcow2_co_check(struct block_node *node, unsigned repair, struct block_check *check,
                   struct hws_error *err)
{
    struct checker c = {.node = node, .file = node->child[BLOCK_FILE], .result = check, .err = err};
    if (repair && node->read_only)
        return hws_fail(err, EROFS, "%s is open read-only and cannot be repaired",
                        block_filename(node));
    int result = node->read_only ? 0 : qcow2_co_flush(node);
    if (result < 0)
        return hws_fail_errno(err, -result, "%s: writing back before the check",
                              block_filename(node));
    result = co_look(&c);
    bool marked = c.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    if (result >= 0 && repair && (check->corruptions || check->leaks || marked))
        result = co_repair(&c, repair);
    bool changed = c.changed;
    result = finish(&c, result);
    if (changed) {
        /* What is cached is of before the repair, whether that went well or not. */
        int reloaded = qcow2_co_reload(qcow2_of(node), result < 0 ? NULL : err);
        result = result < 0 ? result : reloaded;
    }
    return result;
}
