/*
 * The raw format: the bytes of the file are the bytes of the device, or a window on them.
 *
 *     file   |--------|=============================|------------|
 *            0      offset        device      offset + size
 *
 * Raw images have no header, so raw is never found by probing: a guest could write another format's
 * header into its disk and have the next open follow it to other files. The user says raw. Where a
 * program guesses it for its user all the same, "guessed" refuses such writes.
 *
 * Alignment and limits are the file node's: requests pass through and the core fits them there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/raw/raw.h"
#include "rt/sync.h"

struct raw_options {
    uint64_t offset_bytes;
    uint64_t size_bytes; /* 0: up to the end of the file */
    bool guessed;
};

enum raw_preallocation { RAW_PREALLOC_OFF, RAW_PREALLOC_FALLOC, RAW_PREALLOC_FULL };

struct raw_create_options {
    uint64_t size_bytes;
    int preallocation;
};

struct raw {
    uint64_t start_bytes;
    bool fixed_size;      /* the user gave the size of the window */
    bool guessed;         /* nothing may be written that looks like another format's header */
    struct co_mutex head; /* if guessed: writers to the first bytes, so that two halves do not slip
                             by each other */
};

/* What formats are found by. */
#define HEAD_BYTES 512u

static struct block_node *file_of(const struct block_node *node)
{
    return node->child[BLOCK_FILE];
}

static int co_raw_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct raw_options *o = options;
    struct raw *raw = node->state;
    uint64_t file_bytes = block_size(file_of(node));

    if (o->offset_bytes > file_bytes)
        return hws_fail(err, EINVAL, "'%s': offset is %llu, but the file has only %llu bytes",
                        node->filename, (unsigned long long)o->offset_bytes,
                        (unsigned long long)file_bytes);
    if (o->size_bytes > file_bytes - o->offset_bytes)
        return hws_fail(err, EINVAL,
                        "'%s': offset %llu and size %llu go past the end of the file (%llu bytes)",
                        node->filename, (unsigned long long)o->offset_bytes,
                        (unsigned long long)o->size_bytes, (unsigned long long)file_bytes);
    raw->start_bytes = o->offset_bytes;
    raw->fixed_size = o->size_bytes != 0;
    raw->guessed = o->guessed && o->offset_bytes == 0;
    if (raw->guessed)
        co_mutex_init(&raw->head);
    node->limits.optimal_bytes = file_of(node)->limits.optimal_bytes;
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, raw->fixed_size ? o->size_bytes : file_bytes - o->offset_bytes);
    return 0;
}

static int co_raw_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct raw *raw = node->state;
    return co_block_read(file_of(node), raw->start_bytes + offset, buffer, flags);
}

/* ---- writes, and what a guessed image must not become ---- */

/* Looks at what the head would be with @length bytes of @buffer (NULL: zeroes) at @offset in it. */
static int co_check_head(struct block_node *node, uint64_t offset, uint64_t length,
                         const struct sgl *buffer)
{
    uint8_t head[HEAD_BYTES] = {0};
    struct iovec iov;
    size_t bytes = (size_t)MIN(HEAD_BYTES, atomic_load(&node->size_bytes));
    size_t covered = (size_t)MIN(length, HEAD_BYTES - offset);
    int r = 0;
    if (covered < bytes)
        r = co_block_read(file_of(node), 0, sgl_one(&iov, head, bytes), 0);
    if (r < 0)
        return r;
    if (buffer)
        sgl_to_buffer(sgl_slice(*buffer, 0, covered), head + offset);
    else
        memset(head + offset, 0, covered);
    return block_probe(head, bytes) || block_foreign_format(head, bytes) ? -EPERM : 0;
}

/* @return 0 with raw->head locked, where the range begins in the head of a guessed image. */
static int co_enter(struct block_node *node, uint64_t offset, uint64_t length,
                    const struct sgl *buffer)
{
    struct raw *raw = node->state;
    if (!raw->guessed || offset >= HEAD_BYTES)
        return 0;
    co_mutex_lock(&raw->head);
    int r = co_check_head(node, offset, length, buffer);
    if (r < 0)
        co_mutex_unlock(&raw->head);
    return r;
}

static int leave(struct block_node *node, uint64_t offset, int result)
{
    struct raw *raw = node->state;
    if (raw->guessed && offset < HEAD_BYTES)
        co_mutex_unlock(&raw->head);
    return result;
}

static int raw_try_read(struct block_node *node, uint64_t offset, void *bytes, size_t length)
{
    struct raw *raw = node->state;
    return block_try_read(file_of(node), raw->start_bytes + offset, bytes, length);
}

static int co_raw_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct raw *raw = node->state;
    int r = co_enter(node, offset, buffer.length, &buffer);
    return r < 0 ? r
                 : leave(node, offset,
                         co_block_write(file_of(node), raw->start_bytes + offset, buffer, flags));
}

static int co_raw_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                               unsigned flags)
{
    struct raw *raw = node->state;
    int r = co_enter(node, offset, length, NULL);
    return r < 0 ? r
                 : leave(node, offset,
                         co_block_write_zeroes(file_of(node), raw->start_bytes + offset, length,
                                               flags));
}

static int co_raw_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct raw *raw = node->state;
    int r = co_enter(node, offset, length, NULL);
    return r < 0 ? r
                 : leave(node, offset,
                         co_block_discard(file_of(node), raw->start_bytes + offset, length));
}

static int co_raw_close(struct block_node *node, struct hws_error *err)
{
    struct raw *raw = node->state;
    if (raw->guessed)
        co_mutex_destroy(&raw->head);
    return 0;
}

static int co_raw_status(struct block_node *node, uint64_t offset, uint64_t length,
                         struct block_extent *ret)
{
    struct raw *raw = node->state;
    int r = co_block_status(file_of(node), raw->start_bytes + offset, length, ret);

    if (r == 0)
        ret->flags |= BLOCK_STATUS_ALLOCATED; /* there is no layer below a raw image */
    return r;
}

static int64_t co_raw_copy_range(struct block_node *from, uint64_t from_offset,
                                 struct block_node *to, uint64_t to_offset, uint64_t length)
{
    struct raw *raw = to->state;
    uint64_t copied = 0;
    if (raw->guessed && to_offset < HEAD_BYTES)
        return -ENOTSUP; /* it is read and written, and looked at */
    int r = co_block_copy_range(from, from_offset, file_of(to), raw->start_bytes + to_offset,
                                length, &copied);
    return copied > 0 ? (int64_t)copied : r;
}

static int co_raw_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct raw *raw = node->state;

    if (raw->fixed_size)
        return hws_fail(err, EINVAL,
                        "'%s' was opened with a fixed size; open it without the size option",
                        node->filename);
    if (size_bytes > BLOCK_SIZE_MAX - raw->start_bytes)
        return hws_fail(err, EFBIG, "'%s': %llu bytes are too many", node->filename,
                        (unsigned long long)size_bytes);
    int r = co_block_resize(file_of(node), raw->start_bytes + size_bytes, err);
    if (r == 0)
        atomic_store(&node->size_bytes, size_bytes);
    return r;
}

/* Writes zeroes, so that blocks are not only reserved but initialised. */
static int co_write_full(struct block_node *file, uint64_t start, uint64_t length,
                         struct hws_error *err)
{
    autofree void *zeroes = calloc(1, MiB);
    if (!zeroes)
        return hws_fail(err, ENOMEM, "out of memory");
    for (uint64_t done = 0; done < length;) {
        struct iovec iov;
        size_t piece = (size_t)MIN(MiB, length - done);
        int r = co_block_write(file, start + done, sgl_one(&iov, zeroes, piece), 0);
        done += piece;
        if (r == 0)
            r = block_progress(file, done, length);
        if (r < 0)
            return hws_fail_errno(err, -r, "writing '%s' at offset %llu", block_filename(file),
                                  (unsigned long long)(start + done - piece));
    }
    return 0;
}

/* Reserving is one call of the file system where that can do it, and quick. */
static int co_reserve(struct block_node *file, uint64_t start, uint64_t length,
                      struct hws_error *err)
{
    int r = co_block_write_zeroes(file, start, length, BLOCK_NO_FALLBACK);
    if (r == -ENOTSUP)
        return hws_fail(err, ENOTSUP,
                        "the storage of '%s' cannot reserve blocks; use preallocation=full or "
                        "preallocation=off",
                        block_filename(file));
    return r < 0 ? hws_fail_errno(err, -r, "reserving %llu bytes for '%s'",
                                  (unsigned long long)length, block_filename(file))
                 : 0;
}

static int co_raw_preallocate(struct block_node *node, uint64_t offset, uint64_t length,
                              enum block_preallocation mode, struct hws_error *err)
{
    struct raw *raw = node->state;
    return mode == BLOCK_PREALLOC_FULL
               ? co_write_full(file_of(node), raw->start_bytes + offset, length, err)
               : co_reserve(file_of(node), raw->start_bytes + offset, length, err);
}

static int co_raw_create(const void *create_options, struct block_node *file, struct hws_error *err)
{
    const struct raw_create_options *o = create_options;

    int r = co_block_resize(file, o->size_bytes, err);
    if (r < 0 || o->size_bytes == 0)
        return r;
    if (o->preallocation == RAW_PREALLOC_FULL)
        return co_write_full(file, 0, o->size_bytes, err);
    return o->preallocation == RAW_PREALLOC_FALLOC ? co_reserve(file, 0, o->size_bytes, err) : 0;
}

/* As other tools: every byte of the device, in sectors, whatever lies in it. */
static int co_raw_measure(const void *create_options, struct block_node *source,
                          struct block_measure *ret, struct hws_error *err)
{
    const struct raw_create_options *o = create_options;
    (void)source;
    (void)err;
    ret->required = ret->fully_allocated = align_up(o->size_bytes, 512);
    return 0;
}

static const char *const preallocation_names[] = {"off", "falloc", "full", NULL};

static const struct option_desc raw_table[] = {
    {"offset", OPTION_SIZE, offsetof(struct raw_options, offset_bytes),
     "where in the file the device begins", "0", .max = BLOCK_SIZE_MAX},
    {"size", OPTION_SIZE, offsetof(struct raw_options, size_bytes),
     "size of the device; 0: up to the end of the file", "0", .max = BLOCK_SIZE_MAX},
    {"guessed", OPTION_BOOL, offsetof(struct raw_options, guessed),
     "nothing may be written that would be taken for another format's header"},
    OPTION_END,
};

static const struct option_desc raw_create_table[] = {
    {"size", OPTION_SIZE, offsetof(struct raw_create_options, size_bytes), "size of the device",
     .required = true, .max = BLOCK_SIZE_MAX},
    {"preallocation", OPTION_ENUM, offsetof(struct raw_create_options, preallocation),
     "off: sparse; falloc: blocks reserved; full: zeroes written", "off",
     .choices = preallocation_names},
    OPTION_END,
};

const struct block_driver raw_driver = {
    .name = "raw",
    .help = "the bytes of the file as they are, or a part of them",
    .kind = BLOCK_FORMAT,
    .needs_file = true,
    .state_bytes = sizeof(struct raw),
    .options = raw_table,
    .options_bytes = sizeof(struct raw_options),
    .create_options = raw_create_table,
    .create_options_bytes = sizeof(struct raw_create_options),
    .co_open = co_raw_open,
    .co_close = co_raw_close,
    .co_read = co_raw_read,
    .try_read = raw_try_read,
    .co_write = co_raw_write,
    .co_write_zeroes = co_raw_write_zeroes,
    .co_discard = co_raw_discard,
    .co_status = co_raw_status,
    .co_copy_range = co_raw_copy_range,
    .co_resize = co_raw_resize,
    .co_preallocate = co_raw_preallocate,
    .co_create = co_raw_create,
    .co_measure = co_raw_measure,
};
