/*
 * The simulated disk while it runs: names, changes and syncs; see sim_disk.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_disk_internal.h"
#include <fcntl.h>

/* ---- names ---- */

static char *text_copy(const char *text, size_t length)
{
    char *copy = sim_alloc(NULL, length + 1, 1);
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

/** @path without empty, "." and ".." parts; to be freed. */
static char *path_clean(const char *path)
{
    size_t length = strlen(path), out = 0;
    char *clean = sim_alloc(NULL, length + 2, 1);
    bool absolute = path[0] == '/';
    for (const char *part = path; *part;) {
        size_t n = strcspn(part, "/");
        if (n == 2 && part[0] == '.' && part[1] == '.') {
            while (out > 0 && clean[--out] != '/')
                ;
        } else if (n > 0 && !(n == 1 && part[0] == '.')) {
            if (absolute || out > 0)
                clean[out++] = '/';
            memcpy(clean + out, part, n);
            out += n;
        }
        part += n;
        part += *part == '/';
    }
    clean[out] = '\0';
    return clean;
}

bool sim_disk_beneath(const char *path, const char *folder)
{
    autofree char *inner = path_clean(path);
    autofree char *outer = path_clean(folder);
    size_t length = strlen(outer);
    return strncmp(inner, outer, length) == 0 && inner[length] == '/';
}

struct sim_inode *sim_names_get(const struct sim_names *names, const char *path)
{
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->names[i].path, path) == 0)
            return names->names[i].inode;
    }
    return NULL;
}

/** @inode NULL removes the name. */
void sim_names_set(struct sim_names *names, const char *path, struct sim_inode *inode)
{
    size_t at = 0;
    while (at < names->count && strcmp(names->names[at].path, path) != 0)
        at++;
    if (inode && at == names->count) {
        names->names = sim_alloc(names->names, names->count + 1, sizeof(names->names[0]));
        names->names[names->count++].path = text_copy(path, strlen(path));
    }
    if (inode) {
        names->names[at].inode = inode;
    } else if (at < names->count) {
        free(names->names[at].path);
        names->names[at] = names->names[--names->count];
    }
}

void sim_names_apply(struct sim_names *names, const struct sim_name_op *op)
{
    sim_names_set(names, op->path, op->kind == SIM_NAME_LINK ? op->inode : NULL);
}

void sim_name_log_add(struct sim_disk *disk, enum sim_name_op_kind kind, const char *path,
                      struct sim_inode *inode)
{
    disk->name_log = sim_alloc(disk->name_log, disk->name_log_count + 1, sizeof(disk->name_log[0]));
    disk->name_log[disk->name_log_count++] =
        (struct sim_name_op){.kind = kind, .path = text_copy(path, strlen(path)), .inode = inode};
}

/** Makes the first @count entries of the log durable: a file system's journal keeps their order. */
static void name_log_commit(struct sim_disk *disk, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sim_names_apply(&disk->durable_names, &disk->name_log[i]);
        free(disk->name_log[i].path);
    }
    disk->name_log_count -= count;
    if (count > 0)
        memmove(disk->name_log, disk->name_log + count,
                disk->name_log_count * sizeof(disk->name_log[0]));
}

int sim_disk_open(struct sim_disk *disk, const char *path, int flags, struct sim_inode **ret)
{
    autofree char *clean = path_clean(path);
    struct sim_inode *inode = sim_names_get(&disk->volatile_names, clean);
    if (inode && (flags & O_CREAT) && (flags & O_EXCL))
        return -EEXIST;
    if (!inode) {
        if (!(flags & O_CREAT))
            return -ENOENT;
        inode = sim_inode_add(disk);
        sim_names_set(&disk->volatile_names, clean, inode);
        sim_name_log_add(disk, SIM_NAME_LINK, clean, inode);
    } else if ((flags & O_TRUNC) && inode->volatile_image.size_bytes > 0) {
        struct sim_op *op = sim_op_begin(inode, SIM_OP_RESIZE, 0, 0, (struct sgl){0});
        sim_op_complete(disk, op, (struct sgl){0}, false, NULL);
    }
    *ret = inode;
    return 0;
}

int sim_disk_unlink(struct sim_disk *disk, const char *path)
{
    autofree char *clean = path_clean(path);
    struct sim_inode *inode = sim_names_get(&disk->volatile_names, clean);
    if (!inode)
        return -ENOENT;
    sim_names_set(&disk->volatile_names, clean, NULL);
    sim_name_log_add(disk, SIM_NAME_UNLINK, clean, inode);
    return 0;
}

int sim_disk_rename_begin(struct sim_disk *disk, const char *from, const char *to)
{
    autofree char *clean = path_clean(from);
    assert(!disk->rename_from);
    if (!sim_names_get(&disk->volatile_names, clean))
        return -ENOENT;
    disk->rename_from = steal_ptr(&clean);
    disk->rename_to = path_clean(to);
    return 0;
}

void sim_disk_rename_cancel(struct sim_disk *disk)
{
    free(disk->rename_from);
    free(disk->rename_to);
    disk->rename_from = disk->rename_to = NULL;
}

void sim_disk_rename_complete(struct sim_disk *disk)
{
    struct sim_inode *inode = sim_names_get(&disk->volatile_names, disk->rename_from);
    if (inode) {
        sim_name_log_add(disk, SIM_NAME_UNLINK, disk->rename_from, inode);
        sim_name_log_add(disk, SIM_NAME_LINK, disk->rename_to, inode);
        sim_names_set(&disk->volatile_names, disk->rename_from, NULL);
        sim_names_set(&disk->volatile_names, disk->rename_to, inode);
        name_log_commit(disk, disk->name_log_count);
    }
    sim_disk_rename_cancel(disk);
}

/* ---- disk and files ---- */

struct sim_disk *sim_disk_new(void)
{
    struct sim_disk *disk = sim_alloc(NULL, 1, sizeof(*disk));
    *disk = (struct sim_disk){0};
    return disk;
}

struct sim_inode *sim_inode_add(struct sim_disk *disk)
{
    struct sim_inode *inode = sim_alloc(NULL, 1, sizeof(*inode));
    *inode = (struct sim_inode){.index = (unsigned)disk->inode_count};
    list_init(&inode->log);
    list_init(&inode->in_flight);
    disk->inodes = sim_alloc(disk->inodes, disk->inode_count + 1, sizeof(disk->inodes[0]));
    disk->inodes[disk->inode_count++] = inode;
    return inode;
}

static void op_free(struct sim_op *op)
{
    list_del(&op->link);
    free(op->bytes);
    free(op);
}

static void inode_free(struct sim_inode *inode)
{
    list_for_each_safe (link, &inode->log)
        op_free(list_entry(link, struct sim_op, link));
    list_for_each_safe (link, &inode->in_flight)
        op_free(list_entry(link, struct sim_op, link));
    sim_image_clear(&inode->volatile_image);
    sim_image_clear(&inode->durable_image);
    free(inode);
}

static void names_free(struct sim_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->names[i].path);
    free(names->names);
}

struct sim_disk *sim_disk_free(struct sim_disk *disk)
{
    if (!disk)
        return NULL;
    for (size_t i = 0; i < disk->inode_count; i++)
        inode_free(disk->inodes[i]);
    free(disk->inodes);
    names_free(&disk->volatile_names);
    names_free(&disk->durable_names);
    for (size_t i = 0; i < disk->name_log_count; i++)
        free(disk->name_log[i].path);
    free(disk->name_log);
    free(disk->rename_from);
    free(disk->rename_to);
    free(disk);
    return NULL;
}

uint64_t sim_disk_allocated(const struct sim_disk *disk)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < disk->volatile_names.count; i++)
        pages += disk->volatile_names.names[i].inode->volatile_image.count;
    return pages * SIM_PAGE_BYTES;
}

uint64_t sim_disk_sequence(const struct sim_disk *disk)
{
    return disk->sequence;
}

/* ---- changes ---- */

struct sim_op *sim_op_begin(struct sim_inode *inode, enum sim_op_kind kind, uint64_t offset,
                            uint64_t length, struct sgl data)
{
    struct sim_op *op = sim_alloc(NULL, 1, sizeof(*op));
    *op = (struct sim_op){.inode = inode, .kind = kind, .offset = offset, .length = length};
    if (kind == SIM_OP_WRITE) {
        assert(data.length == length);
        op->bytes = sim_alloc(NULL, length, 1);
        sgl_to_buffer(data, op->bytes);
    }
    list_push_back(&inode->in_flight, &op->link);
    return op;
}

uint64_t sim_op_allocates(const struct sim_op *op)
{
    if (op->kind != SIM_OP_WRITE)
        return 0;
    return sim_image_holes(&op->inode->volatile_image, op->offset, op->length) * SIM_PAGE_BYTES;
}

/** Takes over, sector by sector, what the caller did to its buffer meanwhile. */
static void op_mix_data(struct sim_op *op, struct sgl data, struct random *random)
{
    autofree uint8_t *now = sim_alloc(NULL, op->length, 1);
    sgl_to_buffer(data, now);
    if (memcmp(now, op->bytes, op->length) == 0)
        return;
    for (uint64_t at = 0; at < op->length;) {
        uint64_t piece = SIM_SECTOR_BYTES - (op->offset + at) % SIM_SECTOR_BYTES;
        piece = MIN(piece, op->length - at);
        if (random_one_in(random, 2))
            memcpy(op->bytes + at, now + at, piece);
        at += piece;
    }
}

/** Makes the oldest change of the log durable, or loses it. */
static void log_settle_first(struct sim_inode *inode, bool lose)
{
    struct sim_op *op = list_entry(inode->log.next, struct sim_op, link);
    if (op->durable || !lose)
        sim_op_apply(op, &inode->durable_image);
    if (op->bytes)
        inode->log_bytes -= op->length;
    op_free(op);
}

void sim_op_complete(struct sim_disk *disk, struct sim_op *op, struct sgl data, bool durable,
                     struct random *random)
{
    struct sim_inode *inode = op->inode;
    if (op->kind == SIM_OP_WRITE)
        op_mix_data(op, data, random);
    sim_op_apply(op, &inode->volatile_image);
    op->sequence = ++disk->sequence;
    op->durable = durable;
    list_del(&op->link);
    list_push_back(&inode->log, &op->link);
    if (op->bytes)
        inode->log_bytes += op->length;
    while (inode->log_bytes > SIM_LOG_BYTES_MAX)
        log_settle_first(inode, false);
}

void sim_op_fail(struct sim_disk *disk, struct sim_op *op, bool torn, struct random *random)
{
    if (torn && op->kind == SIM_OP_WRITE && op->length > 0) {
        /* A piece of whole sectors got through; it is an ordinary unsynced write from now on. */
        uint64_t end = op->offset + random_below(random, op->length) + 1;
        end = align_down(end, SIM_SECTOR_BYTES);
        if (end > op->offset) {
            op->length = MIN(op->length, end - op->offset);
            struct iovec iov;
            struct sgl same = sgl_one(&iov, op->bytes, op->length);
            sim_op_complete(disk, op, same, false, random);
            return;
        }
    }
    op_free(op);
}

void sim_inode_sync(struct sim_disk *disk, struct sim_inode *inode, uint64_t sequence)
{
    while (!list_empty(&inode->log)) {
        if (list_entry(inode->log.next, struct sim_op, link)->sequence > sequence)
            break;
        log_settle_first(inode, false);
    }
    for (size_t i = disk->name_log_count; i-- > 0;) {
        if (disk->name_log[i].inode == inode && disk->name_log[i].kind == SIM_NAME_LINK) {
            name_log_commit(disk, i + 1);
            break;
        }
    }
}

void sim_inode_sync_failed(struct sim_inode *inode, uint64_t sequence, struct random *random)
{
    while (!list_empty(&inode->log)) {
        if (list_entry(inode->log.next, struct sim_op, link)->sequence > sequence)
            break;
        log_settle_first(inode, random_one_in(random, 2));
    }
}
