/*
 * Reading compressed clusters.
 *
 * A compressed cluster is decoded as a whole or not at all, so the last ones decoded are kept: 4
 * KiB reads in sequence decode each cluster once, not 16 times. Each slot of the small pool owns a
 * decoder, an input buffer and one decoded cluster:
 *
 *     slot   entry   the L2 entry whose cluster `output` holds, 0: none
 *            state   EMPTY -> LOADING (one reader fills it, others wait) -> READY
 *            users   readers that copy out of it; it is not reused meanwhile
 *
 * Slots are made when needed; past the first they count against the chain's cache budget. When all
 * are busy, readers wait. The key is the L2 entry: whoever writes a compressed cluster drops what
 * is kept of an older one with the same entry.
 *
 * Any queue thread. Small clusters are decoded where they are needed; large ones, and several at a
 * time, on the worker threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/compressed_codec.h"
#include "format/qcow2/qcow2.h"
#include <inttypes.h>

#define SLOTS_MAX 4

/* Decoding this much takes about as long as handing it to a worker and back. */
#define INLINE_BYTES (16 * KiB)
/* Up to here a lone request is decoded in place too: it would only wait longer. */
#define INLINE_ALONE_BYTES (64 * KiB)

enum slot_state { SLOT_EMPTY, SLOT_LOADING, SLOT_READY };

struct slot {
    struct qcow2_codec codec;
    enum slot_state state;
    uint64_t entry;
    unsigned users;
    struct co_waitq filled; /* readers of the cluster that is being loaded */
    uint64_t last_use;
    uint64_t reserved; /* bytes of the chain's budget */
    uint8_t *output;   /* a cluster */
    uint8_t *input;
    size_t input_room;
};

struct qcow2_compressed {
    struct rt_mutex lock;
    struct co_waitq waiters; /* readers that need a slot: one is woken for each that becomes idle */
    struct slot slots[SLOTS_MAX];
    unsigned count, loading;
    uint64_t clock;
};

/* One decoding, as a worker sees it. */
struct job {
    struct qcow2_codec *codec;
    enum qcow2_compression type;
    const uint8_t *input;
    size_t input_bytes;
    uint8_t *output;
    size_t output_bytes;
};

static int decode(void *arg)
{
    struct job *job = arg;
    return qcow2_codec_decode(job->codec, job->type, job->input, job->input_bytes, job->output,
                              job->output_bytes);
}

/* The image's pool, made by the first reader. NULL: out of memory. */
static struct qcow2_compressed *pool_of(struct qcow2 *q)
{
    rt_mutex_lock(&q->lock);
    struct qcow2_compressed *pool = q->compressed;
    if (!pool && (pool = calloc(1, sizeof(*pool)))) {
        rt_mutex_init(&pool->lock);
        co_waitq_init(&pool->waiters);
        q->compressed = pool;
    }
    rt_mutex_unlock(&q->lock);
    return pool;
}

void qcow2_compressed_forget(struct qcow2 *q)
{
    struct qcow2_compressed *pool = q->compressed;
    if (!pool)
        return;
    for (unsigned i = 0; i < pool->count; i++) {
        struct slot *slot = &pool->slots[i];
        assert(slot->users == 0 && slot->state != SLOT_LOADING);
        qcow2_codec_free(&slot->codec);
        free(slot->output);
        free(slot->input);
        if (slot->reserved)
            block_cache_release(q->node->context, slot->reserved);
    }
    rt_mutex_destroy(&pool->lock);
    free(pool);
    q->compressed = NULL;
}

/* ---- slots; all with the pool's lock held ---- */

static struct slot *find(struct qcow2_compressed *pool, uint64_t entry)
{
    for (unsigned i = 0; i < pool->count; i++)
        if (pool->slots[i].state != SLOT_EMPTY && pool->slots[i].entry == entry)
            return &pool->slots[i];
    return NULL;
}

/* A slot to decode into: an idle one, longest unused first, a new one where the budget has room. */
static struct slot *take(struct qcow2 *q, struct qcow2_compressed *pool)
{
    struct slot *oldest = NULL;
    for (unsigned i = 0; i < pool->count; i++) {
        struct slot *slot = &pool->slots[i];
        if (slot->users > 0 || slot->state == SLOT_LOADING)
            continue;
        if (slot->state == SLOT_EMPTY)
            return slot;
        if (!oldest || slot->last_use < oldest->last_use)
            oldest = slot;
    }
    uint64_t bytes = q->cluster_size * 2;
    if (pool->count == SLOTS_MAX ||
        (pool->count > 0 && oldest && oldest->last_use + 1 < pool->clock))
        return oldest;
    bool reserved = block_cache_reserve(q->node->context, bytes);
    if (!reserved && pool->count > 0)
        return oldest;
    struct slot *slot = &pool->slots[pool->count];
    *slot = (struct slot){.output = malloc(q->cluster_size), .reserved = reserved ? bytes : 0};
    if (!slot->output) {
        if (reserved)
            block_cache_release(q->node->context, bytes);
        return oldest;
    }
    co_waitq_init(&slot->filled);
    pool->count++;
    return slot;
}

void qcow2_compressed_drop(struct qcow2 *q, uint64_t entry)
{
    rt_mutex_lock(&q->lock);
    struct qcow2_compressed *pool = q->compressed;
    rt_mutex_unlock(&q->lock);
    if (!pool)
        return;
    rt_mutex_lock(&pool->lock);
    struct slot *slot = find(pool, entry);
    /* Nobody has it in use: its host range was free, so the grace period of the old one is over. */
    assert(!slot || (slot->users == 0 && slot->state == SLOT_READY));
    if (slot)
        slot->state = SLOT_EMPTY;
    rt_mutex_unlock(&pool->lock);
}

/* ---- filling a slot ---- */

/* The compressed bytes, into the slot's input buffer. */
static int co_fetch(struct qcow2 *q, struct slot *slot, uint64_t entry, size_t *ret_length)
{
    uint64_t host, length;
    struct iovec iov;
    bool fits = qcow2_compressed_range(q, entry, &host, &length);
    if (!fits || host >= block_size(q->file))
        return block_corrupt(
            q->node, host, NULL,
            "compressed cluster at offset %#" PRIx64 " lies past the end of the file", host);
    if (length > slot->input_room) {
        uint8_t *bigger = realloc(slot->input, length);
        if (!bigger)
            return -ENOMEM;
        slot->input = bigger;
        slot->input_room = length;
    }
    /* The last sector may be cut short by the end of the file. */
    *ret_length = MIN(length, block_size(q->file) - host);
    return co_block_read(q->file, host, sgl_one(&iov, slot->input, *ret_length), 0);
}

static int co_fill(struct qcow2 *q, struct slot *slot, uint64_t entry, uint8_t *output, bool alone)
{
    struct job job = {.codec = &slot->codec,
                      .type = q->header.compression_type,
                      .output = output,
                      .output_bytes = q->cluster_size};
    int result = co_fetch(q, slot, entry, &job.input_bytes);
    if (result < 0)
        return result;
    job.input = slot->input;
    if (q->cluster_size <= (alone ? INLINE_ALONE_BYTES : INLINE_BYTES))
        result = decode(&job);
    else
        result = co_work(decode, &job);
    if (result == -EIO) {
        uint64_t host, length;
        (void)qcow2_compressed_range(q, entry, &host, &length);
        return block_corrupt(q->node, host, NULL,
                             "compressed cluster at offset %#" PRIx64 ": its %" PRIu64
                             " bytes do not decompress to a cluster",
                             host, length);
    }
    return result;
}

static void release(struct qcow2_compressed *pool, struct slot *slot)
{
    slot->users--;
    slot->last_use = ++pool->clock;
    if (slot->users == 0)
        co_waitq_wake_one(&pool->waiters);
}

/*
 * The slot that holds @entry's cluster, with one more user; or a slot that this caller has to fill
 * (state LOADING). Called and returns with the pool's lock held.
 */
static struct slot *co_slot(struct qcow2 *q, struct qcow2_compressed *pool, uint64_t entry)
{
    for (bool woken = false;; woken = true) {
        struct slot *slot = find(pool, entry);
        if (slot) {
            /* An idle slot that this reader was woken for, and does not need, is another's. */
            if (woken)
                co_waitq_wake_one(&pool->waiters);
            if (slot->state == SLOT_READY) {
                slot->users++;
                return slot;
            }
            co_waitq_wait(&slot->filled, &pool->lock);
            continue;
        }
        if ((slot = take(q, pool))) {
            slot->state = SLOT_LOADING;
            slot->entry = entry;
            slot->users = 1;
            pool->loading++;
            return slot;
        }
        if (pool->count == 0)
            return NULL; /* no memory, and nobody to wait for */
        co_waitq_wait(&pool->waiters, &pool->lock);
    }
}

int qcow2_co_read_compressed(struct qcow2 *q, uint64_t entry, uint32_t offset, struct sgl buffer)
{
    struct qcow2_compressed *pool = pool_of(q);
    int result = 0;
    if (!pool)
        return -ENOMEM;
    assert(range_fits(offset, buffer.length, q->cluster_size));
    rt_mutex_lock(&pool->lock);
    struct slot *slot = co_slot(q, pool, entry);
    bool fill = slot && slot->state == SLOT_LOADING, alone = pool->loading <= 1;
    rt_mutex_unlock(&pool->lock);
    if (!slot)
        return -ENOMEM;

    /* A whole cluster goes straight to its reader and is not kept: nobody comes back for the rest.
     */
    uint8_t *direct = buffer.length == q->cluster_size ? sgl_flat(buffer) : NULL;
    if (fill)
        result = co_fill(q, slot, entry, direct ? direct : slot->output, alone);
    if (result == 0 && !(fill && direct))
        sgl_from_buffer(buffer, slot->output + offset);
    rt_mutex_lock(&pool->lock);
    if (fill) {
        slot->state = result == 0 && !direct ? SLOT_READY : SLOT_EMPTY;
        pool->loading--;
        co_waitq_wake_all(&slot->filled);
    }
    release(pool, slot);
    rt_mutex_unlock(&pool->lock);
    return result;
}
