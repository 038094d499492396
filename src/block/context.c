/*
 * What the nodes of one open call share: the policy and the budget of metadata caches.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

#define CACHE_BYTES_DEFAULT (16 * MiB)

static void free_allow(const char *const *allow)
{
    for (const char *const *entry = allow; entry && *entry; entry++)
        free((char *)*entry);
    free((void *)allow);
}

/* NULL stays NULL; @return false when out of memory. */
static bool copy_allow(const char *const *allow, const char *const **ret)
{
    size_t count = 0;
    *ret = NULL;
    if (!allow)
        return true;
    while (allow[count])
        count++;
    const char **copy = calloc(count + 1, sizeof(*copy));
    for (size_t i = 0; copy && i < count; i++) {
        copy[i] = strdup(allow[i]);
        if (!copy[i]) {
            free_allow(copy);
            return false;
        }
    }
    *ret = copy;
    return copy;
}

struct block_context *context_new(const struct block_policy *policy)
{
    struct block_context *context = calloc(1, sizeof(*context));
    if (!context)
        return NULL;
    atomic_init(&context->references, 1);
    if (policy) {
        context->policy = *policy;
        if (!copy_allow(policy->allow, &context->policy.allow)) {
            free(context);
            return NULL;
        }
    }
    if (!context->policy.cache_bytes)
        context->policy.cache_bytes = CACHE_BYTES_DEFAULT;
    return context;
}

struct block_context *context_ref(struct block_context *context)
{
    atomic_fetch_add(&context->references, 1);
    return context;
}

void context_unref(struct block_context *context)
{
    if (!context || atomic_fetch_sub(&context->references, 1) != 1)
        return;
    free_allow(context->policy.allow);
    free(context);
}

const struct block_policy *block_policy_of(const struct block_node *node)
{
    return &node->context->policy;
}

bool block_cache_reserve(struct block_context *context, uint64_t bytes)
{
    uint64_t used = atomic_load(&context->cache_used);
    do {
        if (!range_fits(used, bytes, context->policy.cache_bytes))
            return false;
    } while (!atomic_compare_exchange_weak(&context->cache_used, &used, used + bytes));
    return true;
}

void block_cache_release(struct block_context *context, uint64_t bytes)
{
    uint64_t before = atomic_fetch_sub(&context->cache_used, bytes);
    assert(before >= bytes);
}

uint64_t block_cache_budget(const struct block_context *context)
{
    return context->policy.cache_bytes;
}
