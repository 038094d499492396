/*
 * The checker's map of references; see check_map.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check_map.h"

#define NARROW_MAX 254

static size_t slot_of(const struct check_map *map, uint64_t number)
{
    /* Fibonacci hashing: neighbouring groups spread over the table. */
    return (size_t)((number * 0x9e3779b97f4a7c15ull) >> 20) & (map->slot_count - 1);
}

int check_map_init(struct check_map *map, size_t limit)
{
    *map = (struct check_map){.slot_count = 64, .limit = limit};
    map->slots = calloc(map->slot_count, sizeof(*map->slots));
    return map->slots ? 0 : -ENOMEM;
}

static void group_free(struct check_group *group)
{
    for (unsigned i = 0; group && group->chunk && i < CHECK_GROUP_CHUNKS; i++) {
        if (group->chunk[i])
            free(group->chunk[i]->wide);
        free(group->chunk[i]);
    }
    if (group)
        free(group->chunk);
    free(group);
}

void check_map_free(struct check_map *map)
{
    for (size_t i = 0; i < map->slot_count && map->slots; i++)
        group_free(map->slots[i]);
    free(map->slots);
    *map = (struct check_map){0};
}

static struct check_group **probe(struct check_map *map, uint64_t number)
{
    size_t slot = slot_of(map, number);
    while (map->slots[slot] && map->slots[slot]->number != number)
        slot = (slot + 1) & (map->slot_count - 1);
    return &map->slots[slot];
}

static bool grow(struct check_map *map)
{
    struct check_map bigger = *map;
    bigger.slot_count = map->slot_count * 2;
    bigger.slots = calloc(bigger.slot_count, sizeof(*bigger.slots));
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < map->slot_count; i++)
        if (map->slots[i])
            *probe(&bigger, map->slots[i]->number) = map->slots[i];
    free(map->slots);
    *map = bigger;
    return true;
}

/* @return false at the limit. */
static bool take_unit(struct check_map *map)
{
    if (map->used >= map->limit) {
        map->limit_hit = true;
        return false;
    }
    map->used++;
    return true;
}

struct check_group *check_map_group(struct check_map *map, uint64_t cluster)
{
    uint64_t number = cluster / CHECK_GROUP_CLUSTERS;
    if (map->last && map->last->number == number)
        return map->last;
    struct check_group *group = map->slots ? *probe(map, number) : NULL;
    if (group)
        map->last = group;
    return group;
}

struct check_group *check_map_make_group(struct check_map *map, uint64_t cluster)
{
    struct check_group *group = check_map_group(map, cluster);
    if (group || !take_unit(map))
        return group;
    if ((map->groups + 1) * 4 > map->slot_count * 3 && !grow(map))
        return NULL;
    group = calloc(1, sizeof(*group));
    if (!group)
        return NULL;
    group->number = cluster / CHECK_GROUP_CLUSTERS;
    *probe(map, group->number) = group;
    map->groups++;
    map->last = group;
    return group;
}

/* The bits of 64 clusters become bytes. */
static struct check_chunk *expand(struct check_map *map, struct check_group *group, unsigned index)
{
    if (!group->chunk)
        group->chunk = calloc(CHECK_GROUP_CHUNKS, sizeof(struct check_chunk *));
    if (!group->chunk || !take_unit(map))
        return NULL;
    struct check_chunk *chunk = calloc(1, sizeof(*chunk));
    if (!chunk)
        return NULL;
    for (unsigned i = 0; i < CHECK_CHUNK_CLUSTERS; i++) {
        if (!(group->once[index] >> i & 1))
            continue;
        chunk->count[i] = 1;
        chunk->kind[i] = CHECK_DATA | CHECK_COPIED_SET;
    }
    group->once[index] = 0;
    group->chunk[index] = chunk;
    return chunk;
}

struct check_chunk *check_map_make(struct check_map *map, uint64_t cluster)
{
    unsigned index = cluster / CHECK_CHUNK_CLUSTERS % CHECK_GROUP_CHUNKS;
    struct check_group *group = check_map_make_group(map, cluster);
    if (!group)
        return NULL;
    return group->chunk && group->chunk[index] ? group->chunk[index] : expand(map, group, index);
}

struct check_view check_map_view(struct check_map *map, uint64_t cluster)
{
    unsigned index = cluster / CHECK_CHUNK_CLUSTERS % CHECK_GROUP_CHUNKS;
    const struct check_group *group = check_map_group(map, cluster);
    if (!group)
        return (struct check_view){0};
    return (struct check_view){group->chunk ? group->chunk[index] : NULL, group->once[index]};
}

uint64_t check_map_count(struct check_map *map, uint64_t cluster)
{
    struct check_view view = check_map_view(map, cluster);
    return check_view_count(&view, cluster % CHECK_CHUNK_CLUSTERS);
}

uint8_t check_map_kind(struct check_map *map, uint64_t cluster)
{
    struct check_view view = check_map_view(map, cluster);
    return check_view_kind(&view, cluster % CHECK_CHUNK_CLUSTERS);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return (*left > *right) - (*left < *right);
}

int64_t check_map_groups(const struct check_map *map, uint64_t **ret_first)
{
    size_t count = 0;
    uint64_t *first = calloc(map->groups + 1, sizeof(*first));
    if (!first)
        return -ENOMEM;
    for (size_t i = 0; i < map->slot_count; i++)
        if (map->slots[i])
            first[count++] = map->slots[i]->number * CHECK_GROUP_CLUSTERS;
    qsort(first, count, sizeof(*first), by_value);
    *ret_first = first;
    return (int64_t)count;
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
