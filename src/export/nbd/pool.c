/*
 * What a thread keeps for its next requests: buffers by size, chunks, request structs. Fresh memory
 * costs a page fault a page, several times what reading the page costs.
 *
 * What was not used for a while is given back (lane.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/internal.h"

/* Free memory that is kept while requests come. */
#define KEEP_BYTES  (4 * MiB)
#define KEEP_CHUNKS 16u
/* And afterwards. */
#define REST_CLASS 1 /* the smallest ones only */

static unsigned class_of(size_t bytes)
{
    unsigned class = 0;
    while (class < NBD_POOL_CLASSES && bytes > (4096ull << (2 * class)))
        class ++;
    return class;
}

static size_t class_bytes(unsigned class)
{
    return (size_t)4096 << (2 * class);
}

static void free_class(struct nbd_pool *pool, unsigned class)
{
    void *at;
    while ((at = pool->buffer[class])) {
        memcpy(&pool->buffer[class], at, sizeof(void *));
        pool->buffer_bytes -= class_bytes(class);
        free(at);
    }
}

static void free_chunks(struct nbd_pool *pool)
{
    struct nbd_chunk *at;
    while ((at = pool->chunk)) {
        pool->chunk = at->next;
        pool->chunks--;
        free(at->bytes);
        free(at);
    }
}

void nbd_pool_trim(struct nbd_pool *pool)
{
    for (unsigned class = REST_CLASS; class < NBD_POOL_CLASSES; class ++)
        free_class(pool, class);
    free_chunks(pool);
}

static void note_use(struct nbd_pool *pool)
{
    pool->used = true;
    if (unlikely(!pool->watched))
        nbd_lane_watch_pool(container_of(pool, struct nbd_lane, pool));
}

void *nbd_buffer_get(struct nbd_pool *pool, size_t bytes)
{
    unsigned class = class_of(bytes);
    if (class == NBD_POOL_CLASSES)
        return aligned_alloc(4096, align_up(bytes, (size_t)4096));
    void *at = pool->buffer[class];
    if (!at)
        return aligned_alloc(4096, class_bytes(class));
    memcpy(&pool->buffer[class], at, sizeof(void *));
    pool->buffer_bytes -= class_bytes(class);
    return at;
}

void nbd_buffer_put(struct nbd_pool *pool, void *buffer, size_t bytes)
{
    unsigned class = class_of(bytes);
    if (!buffer)
        return;
    if (class == NBD_POOL_CLASSES || pool->buffer_bytes + class_bytes(class) > KEEP_BYTES) {
        free(buffer);
        return;
    }
    memcpy(buffer, &pool->buffer[class], sizeof(void *));
    pool->buffer[class] = buffer;
    pool->buffer_bytes += class_bytes(class);
    if (class >= REST_CLASS)
        note_use(pool);
}

struct nbd_chunk *nbd_chunk_get(struct nbd_pool *pool)
{
    struct nbd_chunk *chunk = pool->chunk;
    if (chunk) {
        pool->chunk = chunk->next;
        pool->chunks--;
    } else {
        chunk = calloc(1, sizeof(*chunk));
        if (chunk)
            chunk->bytes = aligned_alloc(4096, NBD_CHUNK_BYTES);
        if (!chunk || !chunk->bytes) {
            free(chunk);
            return NULL;
        }
    }
    nbd_memory_charge(container_of(pool, struct nbd_lane, pool), NBD_CHUNK_BYTES);
    chunk->references = 1;
    return chunk;
}

void nbd_chunk_put(struct nbd_pool *pool, struct nbd_chunk *chunk)
{
    if (!chunk || --chunk->references > 0)
        return;
    nbd_memory_give(container_of(pool, struct nbd_lane, pool), NBD_CHUNK_BYTES);
    if (pool->chunks >= KEEP_CHUNKS) {
        free(chunk->bytes);
        free(chunk);
        return;
    }
    chunk->next = pool->chunk;
    pool->chunk = chunk;
    pool->chunks++;
    note_use(pool);
}

struct nbd_request *nbd_request_get(struct nbd_pool *pool)
{
    struct nbd_request *request = pool->request;
    if (!request)
        return calloc(1, sizeof(*request));
    pool->request = request->next;
    memset(request, 0, offsetof(struct nbd_request, head));
    request->head_bytes = 0;
    request->data_bytes = 0;
    request->sender = NULL;
    return request;
}

void nbd_request_put(struct nbd_pool *pool, struct nbd_request *request)
{
    request->next = pool->request;
    pool->request = request;
}

void nbd_pool_free(struct nbd_pool *pool)
{
    for (unsigned class = 0; class < NBD_POOL_CLASSES; class ++)
        free_class(pool, class);
    free_chunks(pool);
    struct nbd_request *request;
    while ((request = pool->request)) {
        pool->request = request->next;
        free(request);
    }
}
