/*
 * The checker's map of references; see check_map.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check_map.h"

#define NARROW_MAX 254

static size_t slot_of(const struct check_map *map, uint64_t number)
{
    /* Fibonacci hashing: neighbouring chunks spread over the table. */
    return (size_t)((number * 0x9e3779b97f4a7c15ull) >> 20) & (map->slot_count - 1);
}

int check_map_init(struct check_map *map, size_t chunks_max)
{
    *map = (struct check_map){.slot_count = 64, .limit = chunks_max};
    map->slots = calloc(map->slot_count, sizeof(*map->slots));
    return map->slots ? 0 : -ENOMEM;
}

void check_map_free(struct check_map *map)
{
    for (size_t i = 0; i < map->slot_count && map->slots; i++) {
        if (map->slots[i])
            free(map->slots[i]->wide);
        free(map->slots[i]);
    }
    free(map->slots);
    *map = (struct check_map){0};
}

static struct check_chunk **probe(struct check_map *map, uint64_t number)
{
    size_t slot = slot_of(map, number);
    while (map->slots[slot] && map->slots[slot]->number != number)
        slot = (slot + 1) & (map->slot_count - 1);
    return &map->slots[slot];
}

static bool grow(struct check_map *map)
{
    struct check_map bigger = {
        .slot_count = map->slot_count * 2, .used = map->used, .limit = map->limit};
    bigger.slots = calloc(bigger.slot_count, sizeof(*bigger.slots));
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < map->slot_count; i++)
        if (map->slots[i])
            *probe(&bigger, map->slots[i]->number) = map->slots[i];
    free(map->slots);
    bigger.last = map->last;
    *map = bigger;
    return true;
}

struct check_chunk *check_map_find(struct check_map *map, uint64_t cluster)
{
    uint64_t number = cluster / CHECK_CHUNK_CLUSTERS;
    if (map->last && map->last->number == number)
        return map->last;
    struct check_chunk *chunk = *probe(map, number);
    if (chunk)
        map->last = chunk;
    return chunk;
}

struct check_chunk *check_map_make(struct check_map *map, uint64_t cluster)
{
    struct check_chunk *chunk = check_map_find(map, cluster);
    if (chunk)
        return chunk;
    if (map->used >= map->limit) {
        map->limit_hit = true;
        return NULL;
    }
    if ((map->used + 1) * 4 > map->slot_count * 3 && !grow(map))
        return NULL;
    chunk = calloc(1, sizeof(*chunk));
    if (!chunk)
        return NULL;
    chunk->number = cluster / CHECK_CHUNK_CLUSTERS;
    *probe(map, chunk->number) = chunk;
    map->used++;
    map->last = chunk;
    return chunk;
}

uint64_t check_map_count(struct check_map *map, uint64_t cluster)
{
    struct check_chunk *chunk = check_map_find(map, cluster);
    return chunk ? check_chunk_count(chunk, cluster % CHECK_CHUNK_CLUSTERS) : 0;
}

uint8_t check_map_kind(struct check_map *map, uint64_t cluster)
{
    struct check_chunk *chunk = check_map_find(map, cluster);
    return chunk ? chunk->kind[cluster % CHECK_CHUNK_CLUSTERS] : CHECK_FREE;
}

/* Counts of this chunk no longer fit in bytes. */
static int widen(struct check_chunk *chunk)
{
    chunk->wide = calloc(CHECK_CHUNK_CLUSTERS, sizeof(*chunk->wide));
    if (!chunk->wide)
        return -ENOMEM;
    for (unsigned i = 0; i < CHECK_CHUNK_CLUSTERS; i++)
        chunk->wide[i] = chunk->count[i];
    return 0;
}

static int store(struct check_chunk *chunk, unsigned index, uint64_t count)
{
    if (!chunk->wide && count > NARROW_MAX && widen(chunk) < 0)
        return -ENOMEM;
    if (chunk->wide)
        chunk->wide[index] = count;
    else
        chunk->count[index] = (uint8_t)count;
    return 0;
}

int check_chunk_add(struct check_chunk *chunk, unsigned index, uint64_t times)
{
    uint64_t sum;
    if (add_overflows(check_chunk_count(chunk, index), times, &sum))
        sum = UINT64_MAX;
    return store(chunk, index, sum);
}

int check_map_set(struct check_map *map, uint64_t cluster, uint64_t count, enum check_kind kind)
{
    struct check_chunk *chunk = check_map_make(map, cluster);
    if (!chunk)
        return -ENOMEM;
    unsigned index = cluster % CHECK_CHUNK_CLUSTERS;
    chunk->kind[index] = (uint8_t)kind;
    return store(chunk, index, count);
}

const char *check_kind_name(enum check_kind kind)
{
    static const char *const names[] = {
        [CHECK_FREE] = "free cluster",
        [CHECK_HEADER] = "header",
        [CHECK_REFCOUNT_TABLE] = "refcount table",
        [CHECK_REFCOUNT_BLOCK] = "refcount block",
        [CHECK_L1] = "L1 table",
        [CHECK_SNAPSHOT_TABLE] = "snapshot table",
        [CHECK_BITMAP_DIRECTORY] = "bitmap directory",
        [CHECK_BITMAP_TABLE] = "bitmap table",
        [CHECK_BITMAP_DATA] = "bitmap data",
        [CHECK_CRYPT_HEADER] = "encryption header",
        [CHECK_L2] = "L2 table",
        [CHECK_DATA] = "data cluster",
        [CHECK_COMPRESSED] = "compressed data",
    };
    return names[kind & CHECK_KIND_MASK];
}
