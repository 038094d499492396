/*
 * Allocations that fail; see alloc_fail.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "alloc_fail.h"
#include <stdlib.h>

struct alloc_fail alloc_fail;

static bool fails(void)
{
    if (!alloc_fail.counting)
        return false;
    uint64_t k = ++alloc_fail.count;
    return alloc_fail.fail_at &&
           (k == alloc_fail.fail_at || (alloc_fail.sticky && k > alloc_fail.fail_at));
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}
