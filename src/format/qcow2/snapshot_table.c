/*
 * The table of internal snapshots without I/O: parsing, serialising, looking up; see snapshot.h.
 *
 *   entry: 40 bytes | extra data | ID | name | padding to 8
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/snapshot.h"
#include "base/common.h"
#include "base/cursor.h"

#define VM_STATE_END  (QCOW2_SNAPSHOT_EXTRA_VM_STATE + 8)
#define DISK_SIZE_END (QCOW2_SNAPSHOT_EXTRA_DISK_SIZE + 8)
#define ICOUNT_END    (QCOW2_SNAPSHOT_EXTRA_ICOUNT + 8)

/* ---- one entry ---- */

void qcow2_snapshot_free(struct qcow2_snapshot *entry)
{
    free(entry->id);
    free(entry->name);
    free(entry->extra);
    memset(entry, 0, sizeof(*entry));
}

/* @bytes may be NULL where @length is 0. */
static void *copy_of(const void *bytes, size_t length)
{
    uint8_t *copy = malloc(length + 1);
    if (copy) {
        if (length)
            memcpy(copy, bytes, length);
        copy[length] = 0;
    }
    return copy;
}

/* The three variable parts. -ENOMEM: nothing is left allocated. */
static int set_parts(struct qcow2_snapshot *s, const void *id, const void *name, const void *extra)
{
    s->id = copy_of(id, s->id_bytes);
    s->name = copy_of(name, s->name_bytes);
    s->extra = copy_of(extra, s->extra_bytes);
    if (s->id && s->name && s->extra)
        return 0;
    qcow2_snapshot_free(s);
    return -ENOMEM;
}

static void read_extra(struct qcow2_snapshot *s)
{
    if (s->extra_bytes >= VM_STATE_END)
        s->vm_state_bytes = load_be64(s->extra + QCOW2_SNAPSHOT_EXTRA_VM_STATE);
    s->has_disk_bytes = s->extra_bytes >= DISK_SIZE_END;
    if (s->has_disk_bytes)
        s->disk_bytes = load_be64(s->extra + QCOW2_SNAPSHOT_EXTRA_DISK_SIZE);
    s->has_icount = s->extra_bytes >= ICOUNT_END;
    if (s->has_icount)
        s->icount = load_be64(s->extra + QCOW2_SNAPSHOT_EXTRA_ICOUNT);
}

void qcow2_snapshot_store_extra(struct qcow2_snapshot *s)
{
    if (s->extra_bytes >= VM_STATE_END)
        store_be64(s->extra + QCOW2_SNAPSHOT_EXTRA_VM_STATE, s->vm_state_bytes);
    if (s->extra_bytes >= DISK_SIZE_END)
        store_be64(s->extra + QCOW2_SNAPSHOT_EXTRA_DISK_SIZE, s->disk_bytes);
    if (s->extra_bytes >= ICOUNT_END)
        store_be64(s->extra + QCOW2_SNAPSHOT_EXTRA_ICOUNT, s->icount);
}

int qcow2_snapshot_make(const char *id, const char *name, struct qcow2_snapshot *ret)
{
    static const uint8_t extra[QCOW2_SNAPSHOT_EXTRA_OUR_BYTES];
    *ret = (struct qcow2_snapshot){.id_bytes = (uint16_t)strlen(id),
                                   .name_bytes = (uint16_t)strlen(name),
                                   .extra_bytes = sizeof(extra),
                                   .has_disk_bytes = true,
                                   .has_icount = true};
    return set_parts(ret, id, name, extra);
}

/* Bytes of one entry on disk, padding included. */
static uint64_t entry_bytes(const struct qcow2_snapshot *s)
{
    return align_up(sizeof(struct qcow2_disk_snapshot) + (uint64_t)s->extra_bytes + s->id_bytes +
                        s->name_bytes,
                    8);
}

/* -ENODATA where the bytes end before the entry does. */
static int parse_entry(struct cursor *c, uint32_t index, struct qcow2_snapshot *ret,
                       struct hws_error *err)
{
    struct qcow2_snapshot s = {0};
    s.l1_offset = cursor_be64(c);
    s.l1_entries = cursor_be32(c);
    s.id_bytes = cursor_be16(c);
    s.name_bytes = cursor_be16(c);
    s.date_sec = cursor_be32(c);
    s.date_nsec = cursor_be32(c);
    s.vm_clock_nsec = cursor_be64(c);
    s.vm_state_bytes = s.vm_state_low = cursor_be32(c);
    s.extra_bytes = cursor_be32(c);
    if (c->failed)
        return -ENODATA;
    if (s.extra_bytes > QCOW2_SNAPSHOT_EXTRA_MAX)
        return hws_fail(err, EFBIG,
                        "snapshot table entry %u: %u bytes of extra data, at most %d are supported",
                        index, s.extra_bytes, QCOW2_SNAPSHOT_EXTRA_MAX);
    const uint8_t *extra = cursor_take(c, s.extra_bytes);
    const uint8_t *id = cursor_take(c, s.id_bytes);
    const uint8_t *name = cursor_take(c, s.name_bytes);
    if (c->failed)
        return -ENODATA;
    /* The table may end with the last name: the padding is for the next entry. */
    cursor_take(c, MIN((size_t)(align_up(c->position, 8) - c->position), cursor_left(c)));
    if (set_parts(&s, id, name, extra) < 0)
        return hws_fail(err, ENOMEM, "out of memory for the snapshot table");
    read_extra(&s);
    *ret = s;
    return 0;
}

static uint8_t *store_entry(const struct qcow2_snapshot *s, uint8_t *at)
{
    struct qcow2_disk_snapshot *disk = (struct qcow2_disk_snapshot *)at;
    uint8_t *next = at + entry_bytes(s);
    memset(at, 0, entry_bytes(s));
    disk->l1_table_offset = be64_of(s->l1_offset);
    disk->l1_size = be32_of(s->l1_entries);
    disk->id_size = be16_of(s->id_bytes);
    disk->name_size = be16_of(s->name_bytes);
    disk->date_s = be32_of(s->date_sec);
    disk->date_ns = be32_of(s->date_nsec);
    disk->vm_clock_ns = be64_of(s->vm_clock_nsec);
    disk->vm_state_bytes = be32_of(s->vm_state_low);
    disk->extra_size = be32_of(s->extra_bytes);
    at += sizeof(*disk);
    memcpy(at, s->extra, s->extra_bytes);
    at += s->extra_bytes;
    memcpy(at, s->id, s->id_bytes);
    memcpy(at + s->id_bytes, s->name, s->name_bytes);
    return next;
}

/* ---- the table ---- */

int qcow2_snapshots_parse(const uint8_t *bytes, size_t length, uint32_t count,
                          struct qcow2_snapshots *ret, struct hws_error *err)
{
    struct cursor c = cursor_of(bytes, MIN(length, (size_t)QCOW2_SNAPSHOT_TABLE_BYTES_MAX));
    struct qcow2_snapshots table = {0};
    int r = 0;
    if (count > QCOW2_SNAPSHOTS_MAX)
        return hws_fail(err, EFBIG, "%u snapshots, at most %d are supported", count,
                        QCOW2_SNAPSHOTS_MAX);
    /* What is allocated is held to what is there: an entry has 40 bytes at least. */
    if (count > length / sizeof(struct qcow2_disk_snapshot))
        return -ENODATA;
    table.entry = calloc(MAX(count, 1u), sizeof(table.entry[0]));
    if (!table.entry)
        return hws_fail(err, ENOMEM, "out of memory for the snapshot table");
    while (r == 0 && table.count < count) {
        r = parse_entry(&c, table.count, &table.entry[table.count], err);
        table.count += r == 0;
    }
    if (r == -ENODATA && length >= QCOW2_SNAPSHOT_TABLE_BYTES_MAX)
        r = hws_fail(err, EFBIG, "the snapshot table is longer than 64 MiB");
    table.bytes = c.position;
    if (r < 0)
        qcow2_snapshots_free(&table);
    else
        *ret = table;
    return r;
}

uint64_t qcow2_snapshots_bytes(const struct qcow2_snapshots *table)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < table->count; i++)
        bytes += entry_bytes(&table->entry[i]);
    return bytes;
}

void qcow2_snapshots_serialise(const struct qcow2_snapshots *table, uint8_t *buffer)
{
    for (uint32_t i = 0; i < table->count; i++)
        buffer = store_entry(&table->entry[i], buffer);
}

void qcow2_snapshots_free(struct qcow2_snapshots *table)
{
    for (uint32_t i = 0; i < table->count; i++)
        qcow2_snapshot_free(&table->entry[i]);
    free(table->entry);
    memset(table, 0, sizeof(*table));
}

int qcow2_snapshots_copy(const struct qcow2_snapshots *table, struct qcow2_snapshots *ret)
{
    struct qcow2_snapshots copy = {0};
    copy.entry = calloc(MAX(table->count, 1u), sizeof(copy.entry[0]));
    if (!copy.entry)
        return -ENOMEM;
    for (; copy.count < table->count; copy.count++) {
        const struct qcow2_snapshot *from = &table->entry[copy.count];
        struct qcow2_snapshot *to = &copy.entry[copy.count];
        *to = *from;
        if (set_parts(to, from->id, from->name, from->extra) < 0) {
            qcow2_snapshots_free(&copy);
            return -ENOMEM;
        }
    }
    copy.bytes = table->bytes;
    *ret = copy;
    return 0;
}

int qcow2_snapshots_append(struct qcow2_snapshots *table, const struct qcow2_snapshot *entry)
{
    struct qcow2_snapshot *bigger =
        reallocarray(table->entry, (size_t)table->count + 1, sizeof(bigger[0]));
    if (!bigger)
        return -ENOMEM;
    table->entry = bigger;
    table->entry[table->count++] = *entry;
    return 0;
}

void qcow2_snapshots_remove(struct qcow2_snapshots *table, uint32_t index)
{
    assert(index < table->count);
    qcow2_snapshot_free(&table->entry[index]);
    memmove(&table->entry[index], &table->entry[index + 1],
            (table->count - index - 1) * sizeof(table->entry[0]));
    table->count--;
}

static int64_t find_id(const struct qcow2_snapshots *table, const char *id)
{
    size_t length = strlen(id);
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entry[i].id_bytes == length && memcmp(table->entry[i].id, id, length) == 0)
            return i;
    return -1;
}

int64_t qcow2_snapshots_find(const struct qcow2_snapshots *table, const char *id_or_name)
{
    size_t length = strlen(id_or_name);
    int64_t found = find_id(table, id_or_name);
    if (found >= 0)
        return found;
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entry[i].name_bytes == length &&
            memcmp(table->entry[i].name, id_or_name, length) == 0)
            return i;
    return -1;
}

void qcow2_snapshots_new_id(const struct qcow2_snapshots *table, char *ret)
{
    uint64_t highest = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct qcow2_snapshot *s = &table->entry[i];
        /* Numbers of more digits than this are somebody's names. */
        if (s->id_bytes <= 18 && strspn(s->id, "0123456789") == s->id_bytes)
            highest = MAX(highest, (uint64_t)strtoull(s->id, NULL, 10));
    }
    /* Such a name may still be what comes next. */
    do
        snprintf(ret, 24, "%llu", (unsigned long long)++highest);
    while (find_id(table, ret) >= 0);
}
