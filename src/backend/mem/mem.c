/*
 * The mem backend: sparse memory that is gone when the node is closed. For tests and scratch data.
 *
 *     table[group] -> group[slot] -> chunk of 64 KiB, NULL: zeroes
 *
 * Memory is bounded by the option `limit`, whatever the size: writes past it get -ENOSPC. A chunk
 * whose bytes are all discarded or zeroed is given back. Groups of chunks share 64 locks; a lock is
 * held while one chunk is copied, which is longer than rt_mutex is made for, but bounded and never
 * across a suspension.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/mem/mem.h"
#include "rt/sync.h"

#define CHUNK_BYTES  (64 * KiB)
#define GROUP_CHUNKS 4096u
#define GROUP_BYTES  (CHUNK_BYTES * GROUP_CHUNKS) /* 256 MiB */
#define SIZE_MAX_MEM (1024 * GiB)                 /* the table then has 4096 groups */
#define LOCKS        64u
#define STATUS_STEPS 16384u /* chunks or absent groups that one answer looks at */

struct mem_options {
    uint64_t size_bytes;
    uint64_t limit_bytes;
};

struct mem_group {
    uint8_t *chunk[GROUP_CHUNKS];
};

struct mem {
    struct mem_group *_Atomic table[SIZE_MAX_MEM / GROUP_BYTES];
    struct rt_mutex lock[LOCKS]; /* of the chunks whose index is i modulo LOCKS */
    _Atomic uint64_t used_bytes;
    uint64_t limit_bytes;
};

/* One chunk's share of a request. */
struct piece {
    uint64_t index; /* of the chunk */
    size_t start, length;
};

static struct piece piece_at(uint64_t offset, uint64_t length)
{
    struct piece p = {.index = offset / CHUNK_BYTES, .start = offset % CHUNK_BYTES};
    p.length = (size_t)MIN(CHUNK_BYTES - p.start, length);
    return p;
}

/* Takes @bytes of the limit. */
static bool take_memory(struct mem *m, uint64_t bytes)
{
    uint64_t used = atomic_load(&m->used_bytes);
    do {
        if (bytes > m->limit_bytes - used)
            return false;
    } while (!atomic_compare_exchange_weak(&m->used_bytes, &used, used + bytes));
    return true;
}

/* The place of a chunk's pointer; NULL where its group is not there. */
static uint8_t **slot_of(struct mem *m, uint64_t index)
{
    struct mem_group *group = atomic_load(&m->table[index / GROUP_CHUNKS]);
    return group ? &group->chunk[index % GROUP_CHUNKS] : NULL;
}

static uint8_t **make_slot(struct mem *m, uint64_t index)
{
    uint8_t **slot = slot_of(m, index);
    if (slot)
        return slot;
    struct mem_group *fresh = calloc(1, sizeof(*fresh)), *none = NULL;
    if (!fresh)
        return NULL;
    if (!atomic_compare_exchange_strong(&m->table[index / GROUP_CHUNKS], &none, fresh))
        free(fresh); /* another thread was faster */
    return slot_of(m, index);
}

static struct rt_mutex *lock_of(struct mem *m, uint64_t index)
{
    return &m->lock[index % LOCKS];
}

/* ---- driver functions ---- */

static int co_mem_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct mem_options *o = options;
    struct mem *m = node->state;

    m->limit_bytes = o->limit_bytes;
    for (unsigned i = 0; i < LOCKS; i++)
        rt_mutex_init(&m->lock[i]);
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    node->limits.optimal_bytes = CHUNK_BYTES;
    atomic_store(&node->size_bytes, o->size_bytes);
    return 0;
}

static int co_mem_close(struct block_node *node, struct hws_error *err)
{
    struct mem *m = node->state;

    for (size_t g = 0; g < ARRAY_LEN(m->table); g++) {
        struct mem_group *group = atomic_load(&m->table[g]);
        for (unsigned i = 0; group && i < GROUP_CHUNKS; i++)
            free(group->chunk[i]);
        free(group);
    }
    for (unsigned i = 0; i < LOCKS; i++)
        rt_mutex_destroy(&m->lock[i]);
    return 0;
}

static int co_mem_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct mem *m = node->state;

    for (size_t done = 0; done < buffer.length;) {
        struct piece p = piece_at(offset + done, buffer.length - done);
        struct sgl part = sgl_slice(buffer, done, p.length);
        rt_mutex_lock(lock_of(m, p.index));
        uint8_t **slot = slot_of(m, p.index);
        if (slot && *slot)
            sgl_from_buffer(part, *slot + p.start);
        else
            sgl_fill(part, 0);
        rt_mutex_unlock(lock_of(m, p.index));
        done += p.length;
    }
    return 0;
}

/* With the chunk's lock held. */
static int write_piece(struct mem *m, struct piece p, struct sgl part)
{
    uint8_t **slot = make_slot(m, p.index);
    if (!slot)
        return -ENOMEM;
    if (!*slot) {
        if (!take_memory(m, CHUNK_BYTES))
            return -ENOSPC;
        *slot = calloc(1, CHUNK_BYTES);
        if (!*slot) {
            atomic_fetch_sub(&m->used_bytes, CHUNK_BYTES);
            return -ENOMEM;
        }
    }
    sgl_to_buffer(part, *slot + p.start);
    return 0;
}

static int co_mem_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct mem *m = node->state;

    for (size_t done = 0; done < buffer.length;) {
        struct piece p = piece_at(offset + done, buffer.length - done);
        rt_mutex_lock(lock_of(m, p.index));
        int r = write_piece(m, p, sgl_slice(buffer, done, p.length));
        rt_mutex_unlock(lock_of(m, p.index));
        if (r < 0)
            return r;
        done += p.length;
    }
    return 0;
}

/* Drops whole chunks, clears parts of others. */
static void clear_range(struct mem *m, uint64_t offset, uint64_t length)
{
    for (uint64_t done = 0; done < length;) {
        struct piece p = piece_at(offset + done, length - done);
        uint8_t *dropped = NULL;
        rt_mutex_lock(lock_of(m, p.index));
        uint8_t **slot = slot_of(m, p.index);
        if (slot && *slot && p.length == CHUNK_BYTES)
            dropped = steal_ptr(slot);
        else if (slot && *slot)
            memset(*slot + p.start, 0, p.length);
        rt_mutex_unlock(lock_of(m, p.index));
        if (dropped) {
            free(dropped);
            atomic_fetch_sub(&m->used_bytes, CHUNK_BYTES);
        }
        /* A group that is not there is 4096 chunks of zeroes. */
        done += slot ? p.length : MIN(GROUP_BYTES - (offset + done) % GROUP_BYTES, length - done);
    }
}

static int co_mem_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                               unsigned flags)
{
    clear_range(node->state, offset, length);
    return 0;
}

static int co_mem_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    clear_range(node->state, offset, length);
    return 0;
}

static bool has_chunk(struct mem *m, uint64_t index)
{
    rt_mutex_lock(lock_of(m, index));
    uint8_t **slot = slot_of(m, index);
    bool there = slot && *slot;
    rt_mutex_unlock(lock_of(m, index));
    return there;
}

static int co_mem_status(struct block_node *node, uint64_t offset, uint64_t length,
                         struct block_extent *ret)
{
    struct mem *m = node->state;
    bool data = has_chunk(m, offset / CHUNK_BYTES);
    uint64_t end = MIN(align_down(offset, CHUNK_BYTES) + CHUNK_BYTES, offset + length);

    for (unsigned i = 0; i < STATUS_STEPS && end < offset + length; i++) {
        bool no_group = !slot_of(m, end / CHUNK_BYTES);
        if (no_group ? data : has_chunk(m, end / CHUNK_BYTES) != data)
            break;
        uint64_t step = no_group ? GROUP_BYTES : CHUNK_BYTES;
        end = MIN(align_down(end, step) + step, offset + length);
    }
    *ret = (struct block_extent){
        .length = end - offset,
        .flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_MAPPED |
                 (data ? BLOCK_STATUS_DATA : BLOCK_STATUS_ZERO),
        .host_offset = offset,
        .file = node,
    };
    return 0;
}

static int co_mem_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    uint64_t old = atomic_load(&node->size_bytes);

    if (size_bytes > SIZE_MAX_MEM)
        return hws_fail(err, EFBIG, "%s: a mem device has at most %llu bytes", node->filename,
                        (unsigned long long)SIZE_MAX_MEM);
    atomic_store(&node->size_bytes, size_bytes);
    if (size_bytes < old)
        clear_range(node->state, size_bytes, old - size_bytes);
    return 0;
}

static int co_mem_info(struct block_node *node, json_t *info, struct hws_error *err)
{
    struct mem *m = node->state;
    json_int_t used = (json_int_t)atomic_load(&m->used_bytes);

    if (json_object_set_new(info, "actual-size", json_integer(used)))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

static const struct option_desc mem_table[] = {
    {"size", OPTION_SIZE, offsetof(struct mem_options, size_bytes), "size of the device", "1G",
     .max = SIZE_MAX_MEM},
    {"limit", OPTION_SIZE, offsetof(struct mem_options, limit_bytes),
     "memory that written data may take", "1G", .max = SIZE_MAX_MEM},
    OPTION_END,
};

const struct block_driver mem_driver = {
    .name = "mem",
    .help = "sparse memory, gone when closed: for tests and scratch data",
    .kind = BLOCK_BACKEND,
    .text_option = "size",
    .state_bytes = sizeof(struct mem),
    .options = mem_table,
    .options_bytes = sizeof(struct mem_options),
    .co_open = co_mem_open,
    .co_close = co_mem_close,
    .co_read = co_mem_read,
    .co_write = co_mem_write,
    .co_write_zeroes = co_mem_write_zeroes,
    .co_discard = co_mem_discard,
    .co_status = co_mem_status,
    .co_resize = co_mem_resize,
    .co_info = co_mem_info,
};
