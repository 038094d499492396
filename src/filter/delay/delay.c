/*
 * The delay filter: operations take longer, by a fixed time each and a random one on top. For tests
 * of time-outs, ordering and queue depth on storage that is too fast to show them.
 *
 * The wait comes before the request, and requests wait side by side: the filter adds latency, it
 * does not limit throughput.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter/delay/delay.h"
#include "base/random.h"
#include "rt/sync.h"

/* A longer wait than a minute is a mistake in the unit. */
#define DELAY_MAX_US 60000000

struct delay_options {
    uint64_t read_us, write_us, zero_us, discard_us, flush_us;
    uint64_t jitter_us;
    uint64_t seed;
};

struct delay_filter {
    struct delay_options delay;
    struct rt_mutex guard; /* of random */
    struct random random;
};

static int co_delay_open(struct block_node *node, const void *options, struct hws_error *err)
{
    struct delay_filter *f = node->state;

    f->delay = *(const struct delay_options *)options;
    f->random = random_seed(f->delay.seed);
    rt_mutex_init(&f->guard);
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, block_size(node->child[BLOCK_FILE]));
    return 0;
}

static int co_delay_close(struct block_node *node, struct hws_error *err)
{
    struct delay_filter *f = node->state;

    rt_mutex_destroy(&f->guard);
    return 0;
}

/* Operations whose own delay is 0 are not touched, jitter or not. */
static void co_wait(struct delay_filter *f, uint64_t delay_us)
{
    if (delay_us == 0)
        return;
    if (f->delay.jitter_us) {
        rt_mutex_lock(&f->guard);
        delay_us += random_below(&f->random, f->delay.jitter_us + 1);
        rt_mutex_unlock(&f->guard);
    }
    co_sleep_ns(delay_us * 1000);
}

static int co_delay_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags)
{
    struct delay_filter *f = node->state;
    co_wait(f, f->delay.read_us);
    return co_block_read(node->child[BLOCK_FILE], offset, buffer, flags);
}

static int co_delay_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                          unsigned flags)
{
    struct delay_filter *f = node->state;
    co_wait(f, f->delay.write_us);
    return co_block_write(node->child[BLOCK_FILE], offset, buffer, flags);
}

static int co_delay_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                                 unsigned flags)
{
    struct delay_filter *f = node->state;
    co_wait(f, f->delay.zero_us);
    return co_block_write_zeroes(node->child[BLOCK_FILE], offset, length, flags);
}

static int co_delay_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct delay_filter *f = node->state;
    co_wait(f, f->delay.discard_us);
    return co_block_discard(node->child[BLOCK_FILE], offset, length);
}

/* The core flushes the file node afterwards. */
static int co_delay_flush(struct block_node *node)
{
    struct delay_filter *f = node->state;
    co_wait(f, f->delay.flush_us);
    return 0;
}

static int co_delay_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    int r = co_block_resize(node->child[BLOCK_FILE], size_bytes, err);
    if (r == 0)
        atomic_store(&node->size_bytes, size_bytes);
    return r;
}

static const struct option_desc delay_table[] = {
    {"read-us", OPTION_UINT, offsetof(struct delay_options, read_us),
     "microseconds that a read waits", "0", .max = DELAY_MAX_US},
    {"write-us", OPTION_UINT, offsetof(struct delay_options, write_us),
     "microseconds that a write waits", "0", .max = DELAY_MAX_US},
    {"zero-us", OPTION_UINT, offsetof(struct delay_options, zero_us),
     "microseconds that writing zeroes waits", "0", .max = DELAY_MAX_US},
    {"discard-us", OPTION_UINT, offsetof(struct delay_options, discard_us),
     "microseconds that a discard waits", "0", .max = DELAY_MAX_US},
    {"flush-us", OPTION_UINT, offsetof(struct delay_options, flush_us),
     "microseconds that a flush waits", "0", .max = DELAY_MAX_US},
    {"jitter-us", OPTION_UINT, offsetof(struct delay_options, jitter_us),
     "up to this much more, by chance, where an operation waits", "0", .max = DELAY_MAX_US},
    {"seed", OPTION_UINT, offsetof(struct delay_options, seed), "seed of the chance", "0"},
    OPTION_END,
};

const struct block_driver delay_filter = {
    .name = "delay",
    .help = "makes requests slower, for tests",
    .kind = BLOCK_FILTER,
    .needs_file = true,
    .state_bytes = sizeof(struct delay_filter),
    .options = delay_table,
    .options_bytes = sizeof(struct delay_options),
    .co_open = co_delay_open,
    .co_close = co_delay_close,
    .co_read = co_delay_read,
    .co_write = co_delay_write,
    .co_write_zeroes = co_delay_write_zeroes,
    .co_discard = co_delay_discard,
    .co_flush = co_delay_flush,
    .co_resize = co_delay_resize,
};
