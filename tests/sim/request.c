/*
 * Requests to the engine and to the model; see world.h.
 *
 * Buffers lie at odd addresses and in several pieces now and then, as those of guests do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "world.h"

#define PIECES_MAX 5

struct buffer {
    uint8_t *memory, *bytes;
    size_t length;
    struct iovec iov[PIECES_MAX];
    struct sgl sgl;
};

static struct buffer *buffer_new(struct world *world, uint64_t sectors)
{
    struct random *r = &world->random;
    struct buffer *b = reallocarray(NULL, 1, sizeof(*b));
    size_t length = sectors * GUEST_SECTOR_BYTES;
    b->memory = reallocarray(NULL, length + 8192, 1);
    uintptr_t aligned = align_up((uintptr_t)b->memory, 4096);
    uint64_t skip = random_one_in(r, 2) ? 0 : random_one_in(r, 2) ? 512 : random_below(r, 4096);
    b->bytes = (uint8_t *)aligned + skip;
    b->length = length;
    memset(b->bytes, 0x5a, length);
    unsigned pieces = random_one_in(r, 2) ? 1 : 1 + (unsigned)random_below(r, PIECES_MAX);
    uint8_t *at = b->bytes;
    for (unsigned i = 0; i < pieces; i++) {
        size_t left = (size_t)(b->bytes + length - at);
        size_t piece = i == pieces - 1 ? left : random_below(r, left + 1);
        if (random_one_in(r, 2) && i < pieces - 1)
            piece = align_down(piece, GUEST_SECTOR_BYTES);
        b->iov[i] = (struct iovec){at, piece};
        at += piece;
    }
    b->sgl = sgl_of(b->iov, pieces);
    return b;
}

static void buffer_free(struct buffer *b)
{
    free(b->memory);
    free(b);
}

/** Did a shrink, while the request waited for its drain, move the end of the disk in front of it?
 */
static bool is_cut_off(const struct world *world, int result, uint64_t first, uint64_t count)
{
    uint64_t sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    return result == -EINVAL && first + count > sectors;
}

/** What the model is told of a change that ended with @result. */
static enum guest_result outcome(struct world *world, int result, unsigned flags, const char *what,
                                 uint64_t first, uint64_t count)
{
    if (result < 0) {
        bool cut_off = count && is_cut_off(world, result, first, count);
        world->clean &= cut_off;
        if (!world->tolerant && !cut_off)
            world_fail(world, "%s of %llu sectors at sector %#llx: %s", what,
                       (unsigned long long)count, (unsigned long long)first, strerror(-result));
        return GUEST_UNSURE;
    }
    bool durable = (flags & BLOCK_FUA) || world->plan.cache == BLOCK_CACHE_WRITETHROUGH;
    return durable ? GUEST_DURABLE : GUEST_DONE;
}

void co_world_read(struct world *world, uint64_t first, uint64_t count)
{
    struct buffer *b = buffer_new(world, count);
    uint64_t start = guest_read_begin(world->guest);
    int result = co_root_read(world->root, first * GUEST_SECTOR_BYTES, b->sgl, 0);
    if (!guest_read_end(world->guest, start, first, count, result == 0 ? b->bytes : NULL))
        world_fail(world, "a read of %llu sectors at sector %#llx gave wrong bytes",
                   (unsigned long long)count, (unsigned long long)first);
    (void)outcome(world, result, 0, "read", first, count);
    buffer_free(b);
}

static void write_buffer(struct world *world, uint64_t first, uint64_t count, unsigned flags,
                         bool zeroes)
{
    struct buffer *b = buffer_new(world, count);
    struct guest_write write = guest_write_begin(world->guest, first, count, zeroes);
    guest_write_fill(&write, b->bytes);
    int result = co_root_write(world->root, first * GUEST_SECTOR_BYTES, b->sgl, flags);
    guest_write_end(world->guest, &write, outcome(world, result, flags, "write", first, count));
    buffer_free(b);
}

void co_world_write(struct world *world, uint64_t first, uint64_t count, unsigned flags)
{
    write_buffer(world, first, count, flags, false);
}

void co_world_write_compressed(struct world *world, uint64_t first, uint64_t count)
{
    struct buffer *b = buffer_new(world, count);
    struct guest_write write = guest_write_begin(world->guest, first, count, false);
    guest_write_fill(&write, b->bytes);
    int result = co_root_write_compressed(world->root, first * GUEST_SECTOR_BYTES, b->sgl, 1);
    enum guest_result end = GUEST_UNSURE;
    /* -EINVAL: the disk grew meanwhile, and what ended with it no longer does. */
    if (result != -ENOTSUP && result != -EINVAL)
        end = outcome(world, result, 0, "compressed write", first, count);
    guest_write_end(world->guest, &write, end);
    buffer_free(b);
}

void co_world_write_zero_bytes(struct world *world, uint64_t first, uint64_t count)
{
    write_buffer(world, first, count, 0, true);
}

void co_world_write_zeroes(struct world *world, uint64_t first, uint64_t count, unsigned flags)
{
    struct guest_write write = guest_write_begin(world->guest, first, count, true);
    int result = co_root_write_zeroes(world->root, first * GUEST_SECTOR_BYTES,
                                      count * GUEST_SECTOR_BYTES, flags);
    enum guest_result end = GUEST_UNSURE;
    if (result != -ENOTSUP || !(flags & BLOCK_NO_FALLBACK))
        end = outcome(world, result, flags, "write-zeroes", first, count);
    guest_write_end(world->guest, &write, end);
}

void co_world_discard(struct world *world, uint64_t first, uint64_t count)
{
    struct guest_write write = guest_write_begin(world->guest, first, count, true);
    int result =
        co_root_discard(world->root, first * GUEST_SECTOR_BYTES, count * GUEST_SECTOR_BYTES);
    (void)outcome(world, result, 0, "discard", first, count);
    guest_write_end(world->guest, &write, GUEST_UNSURE);
}

void co_world_flush(struct world *world)
{
    uint64_t start = guest_now(world->guest);
    int result = co_root_flush(world->root);
    if (outcome(world, result, 0, "flush", 0, 0) != GUEST_UNSURE)
        guest_flushed(world->guest, start);
}

/** Sometimes what is new gets storage at once, beside the requests of others. */
static void co_preallocate(struct world *world, uint64_t old_sectors, uint64_t sectors)
{
    struct hws_error err = {0};
    struct block_node *node = block_root_node(world->root);
    enum block_preallocation mode =
        random_one_in(&world->random, 3) ? BLOCK_PREALLOC_FULL : BLOCK_PREALLOC_METADATA;
    if (random_one_in(&world->random, 2) || block_preallocation_check(node, mode, &err) < 0)
        return;
    int result = co_block_preallocate(node, old_sectors * GUEST_SECTOR_BYTES,
                                      (sectors - old_sectors) * GUEST_SECTOR_BYTES, mode, &err);
    if (result < 0 && !world->tolerant)
        world_fail(world, "preallocation: %s", err.text);
}

void co_world_resize(struct world *world, uint64_t sectors)
{
    struct hws_error err = {0};
    uint64_t old_sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    struct guest_write cut = {0};
    if (sectors < old_sectors)
        cut = guest_write_begin(world->guest, sectors, old_sectors - sectors, true);
    struct guest_write write = guest_resize_begin(world->guest, sectors);
    uint64_t from = MIN(old_sectors, sectors), to = MAX(old_sectors, sectors);
    if (sectors > old_sectors)
        guest_bitmap_resized(world->guest, from, to, false);
    int result = co_root_resize(world->root, sectors * GUEST_SECTOR_BYTES, &err);
    if (result < 0 && !world->tolerant)
        world_fail(world, "resize to %llu sectors: %s", (unsigned long long)sectors, err.text);
    if (result == 0 && sectors > old_sectors)
        co_preallocate(world, old_sectors, sectors);
    enum guest_result end = outcome(world, result, 0, "resize", 0, 0);
    if (cut.count)
        guest_write_end(world->guest, &cut, end == GUEST_UNSURE ? end : GUEST_DONE);
    guest_resize_end(world->guest, &write, end == GUEST_UNSURE ? end : GUEST_DONE);
    if (result == 0)
        guest_bitmap_resized(world->guest, from, to, true);
    if (result == 0 && block_root_size(world->root) != sectors * GUEST_SECTOR_BYTES)
        world_fail(world, "resized to %llu sectors, but the root has %llu bytes",
                   (unsigned long long)sectors, (unsigned long long)block_root_size(world->root));
}

void co_world_status(struct world *world, uint64_t first, uint64_t count, bool idle)
{
    uint64_t at = first * GUEST_SECTOR_BYTES, end = at + count * GUEST_SECTOR_BYTES;
    while (at < end) {
        struct block_extent extent;
        int result = co_root_status(world->root, at, end - at, &extent);
        if (outcome(world, result, 0, "status", at / GUEST_SECTOR_BYTES, count) == GUEST_UNSURE)
            return;
        if (extent.length == 0 || extent.length > end - at)
            world_fail(world, "status at %llu: an extent of %llu bytes, asked for %llu",
                       (unsigned long long)at, (unsigned long long)extent.length,
                       (unsigned long long)(end - at));
        uint64_t inner = div_round_up(at, GUEST_SECTOR_BYTES);
        uint64_t outer = (at + extent.length) / GUEST_SECTOR_BYTES;
        if (idle && (extent.flags & BLOCK_STATUS_ZERO) && outer > inner &&
            !guest_may_be_zero(world->guest, inner, outer - inner))
            world_fail(world, "status says that %llu bytes at %llu are zeroes; they are not",
                       (unsigned long long)extent.length, (unsigned long long)at);
        at += extent.length;
    }
}

void co_world_read_all(struct world *world)
{
    uint64_t sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES, step = 2048;
    for (uint64_t at = 0; at < sectors; at += step)
        co_world_read(world, at, MIN(step, sectors - at));
}
