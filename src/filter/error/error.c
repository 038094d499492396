/*
 * The error filter: requests that match a rule fail with a chosen errno before they reach the file
 * node. For tests of everything above: the error paths of formats, exports and guests.
 *
 * One filter holds one rule; stack filters for more. Of the requests that match operation and
 * range, the first `after` pass, then each fails with probability `percent`, until `count` have
 * failed. Same seed and same order of requests, same failures.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter/error/error.h"
#include "base/random.h"
#include "rt/sync.h"

enum error_operation { ON_ANY, ON_READ, ON_WRITE, ON_ZERO, ON_DISCARD, ON_FLUSH, ON_STATUS };

struct error_options {
    int operation; /* enum error_operation */
    uint64_t offset_bytes;
    uint64_t length_bytes; /* 0: no end */
    uint64_t after, count; /* count 0: no end */
    uint64_t percent;
    int error; /* index into error_names */
    uint64_t seed;
};

static const char *const error_names[] = {"EIO",        "ENOSPC",    "EAGAIN", "EINVAL", "ENOMEM",
                                          "ETIMEDOUT",  "ENODEV",    "EROFS",  "EDQUOT", "ENOTSUP",
                                          "ECONNRESET", "EREMOTEIO", NULL};
static const int error_numbers[] = {EIO,    ENOSPC, EAGAIN, EINVAL,  ENOMEM,     ETIMEDOUT,
                                    ENODEV, EROFS,  EDQUOT, ENOTSUP, ECONNRESET, EREMOTEIO};
static_assert(ARRAY_LEN(error_names) == ARRAY_LEN(error_numbers) + 1, "one number a name");

struct error_filter {
    struct error_options rule;
    struct rt_mutex guard; /* of what follows */
    struct random random;
    uint64_t matched, failed;
};

static int co_error_open(struct block_node *node, const void *options, struct hws_error *err)
{
    struct error_filter *f = node->state;

    f->rule = *(const struct error_options *)options;
    f->random = random_seed(f->rule.seed);
    rt_mutex_init(&f->guard);
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, block_size(node->child[BLOCK_FILE]));
    return 0;
}

static int co_error_close(struct block_node *node, struct hws_error *err)
{
    struct error_filter *f = node->state;

    rt_mutex_destroy(&f->guard);
    return 0;
}

/* 0, or the negative errno that this request is to fail with. A flush has no range. */
static int verdict(struct block_node *node, enum error_operation operation, uint64_t offset,
                   uint64_t length)
{
    struct error_filter *f = node->state;
    const struct error_options *rule = &f->rule;
    uint64_t end = 0;
    int result = 0;

    if (rule->operation != ON_ANY && rule->operation != (int)operation)
        return 0;
    if (rule->length_bytes == 0 || add_overflows(rule->offset_bytes, rule->length_bytes, &end))
        end = UINT64_MAX;
    if (operation != ON_FLUSH && !(offset < end && rule->offset_bytes < offset + length))
        return 0;

    rt_mutex_lock(&f->guard);
    if (f->matched++ >= rule->after && (rule->count == 0 || f->failed < rule->count) &&
        random_below(&f->random, 100) < rule->percent) {
        f->failed++;
        result = -error_numbers[rule->error];
    }
    rt_mutex_unlock(&f->guard);
    return result;
}

static int co_error_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags)
{
    int r = verdict(node, ON_READ, offset, buffer.length);
    return r < 0 ? r : co_block_read(node->child[BLOCK_FILE], offset, buffer, flags);
}

static int co_error_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                          unsigned flags)
{
    int r = verdict(node, ON_WRITE, offset, buffer.length);
    return r < 0 ? r : co_block_write(node->child[BLOCK_FILE], offset, buffer, flags);
}

static int co_error_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                                 unsigned flags)
{
    int r = verdict(node, ON_ZERO, offset, length);
    return r < 0 ? r : co_block_write_zeroes(node->child[BLOCK_FILE], offset, length, flags);
}

static int co_error_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    int r = verdict(node, ON_DISCARD, offset, length);
    return r < 0 ? r : co_block_discard(node->child[BLOCK_FILE], offset, length);
}

/* The core flushes the file node afterwards. */
static int co_error_flush(struct block_node *node)
{
    return verdict(node, ON_FLUSH, 0, 0);
}

/* A filter has no layer below it: it answers for the whole chain. */
static int co_error_status(struct block_node *node, uint64_t offset, uint64_t length,
                           struct block_extent *ret)
{
    int r = verdict(node, ON_STATUS, offset, length);
    if (r == 0)
        r = co_block_status_chain(node->child[BLOCK_FILE], offset, length, ret);
    if (r == 0)
        ret->flags |= BLOCK_STATUS_ALLOCATED;
    return r;
}

static int co_error_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    int r = co_block_resize(node->child[BLOCK_FILE], size_bytes, err);
    if (r == 0)
        atomic_store(&node->size_bytes, size_bytes);
    return r;
}

static int co_error_info(struct block_node *node, json_t *info, struct hws_error *err)
{
    struct error_filter *f = node->state;

    rt_mutex_lock(&f->guard);
    json_t *counts =
        json_pack("{s:I, s:I}", "matched", (json_int_t)f->matched, "failed", (json_int_t)f->failed);
    rt_mutex_unlock(&f->guard);
    if (json_object_set_new(info, "injected", counts))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

static const char *const operation_names[] = {"any",     "read",  "write",  "zero",
                                              "discard", "flush", "status", NULL};

static const struct option_desc error_table[] = {
    {"operation", OPTION_ENUM, offsetof(struct error_options, operation),
     "requests that the rule is for", "any", .choices = operation_names},
    {"offset", OPTION_SIZE, offsetof(struct error_options, offset_bytes),
     "start of the range that the rule is for", "0"},
    {"length", OPTION_SIZE, offsetof(struct error_options, length_bytes),
     "length of that range; 0: up to the end", "0"},
    {"after", OPTION_UINT, offsetof(struct error_options, after),
     "matching requests that pass before the rule begins", "0"},
    {"count", OPTION_UINT, offsetof(struct error_options, count),
     "requests that fail before the rule ends; 0: it does not end", "0"},
    {"percent", OPTION_UINT, offsetof(struct error_options, percent),
     "chance that a matching request fails", "100", .max = 100},
    {"errno", OPTION_ENUM, offsetof(struct error_options, error), "what it fails with", "EIO",
     .choices = error_names},
    {"seed", OPTION_UINT, offsetof(struct error_options, seed), "seed of the chance", "0"},
    OPTION_END,
};

const struct block_driver error_filter = {
    .name = "error",
    .help = "fails chosen requests, for tests",
    .kind = BLOCK_FILTER,
    .needs_file = true,
    .state_bytes = sizeof(struct error_filter),
    .options = error_table,
    .options_bytes = sizeof(struct error_options),
    .co_open = co_error_open,
    .co_close = co_error_close,
    .co_read = co_error_read,
    .co_write = co_error_write,
    .co_write_zeroes = co_error_write_zeroes,
    .co_discard = co_error_discard,
    .co_flush = co_error_flush,
    .co_status = co_error_status,
    .co_resize = co_error_resize,
    .co_info = co_error_info,
};
