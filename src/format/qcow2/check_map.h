/*
 * How often each host cluster of an image is referenced, and by what: the checker's picture of what
 * the refcounts should be.
 *
 * Memory follows the references that were found, not what the header or the file's length claims.
 * Clusters are grouped 512 a group, found by a hash table of their numbers; a group exists only
 * once one of its clusters was referenced. Nearly all clusters of nearly all images are data to
 * which the active tables refer once, with the COPIED flag: those take one bit. Where 64 clusters
 * hold anything else they get a chunk of bytes; counts past 254 (hundreds of internal snapshots)
 * move to a wide array of that chunk.
 *
 *   group number -> hash slot -> group { once[8] words of 64 bits; chunk[8] -> chunk or NULL }
 *                                chunk { count[64], kind[64], wide -> u64[64] or NULL }
 *
 * One coroutine uses it at a time; nothing here suspends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_CHECK_MAP_H
#define QCOW2_CHECK_MAP_H

#include "base/common.h"

#define CHECK_CHUNK_CLUSTERS 64
#define CHECK_GROUP_CHUNKS   8
#define CHECK_GROUP_CLUSTERS (CHECK_CHUNK_CLUSTERS * CHECK_GROUP_CHUNKS)

/* What a host cluster is used for. Exclusive kinds may be referenced once. */
enum check_kind {
    CHECK_FREE,
    CHECK_HEADER,
    CHECK_REFCOUNT_TABLE,
    CHECK_REFCOUNT_BLOCK,
    CHECK_L1,
    CHECK_SNAPSHOT_TABLE,
    CHECK_BITMAP_DIRECTORY,
    CHECK_BITMAP_TABLE,
    CHECK_BITMAP_DATA,
    CHECK_CRYPT_HEADER,
    CHECK_L2,         /* shared between internal snapshots */
    CHECK_DATA,       /* shared too */
    CHECK_COMPRESSED, /* shared by compressed clusters that lie in it */
    CHECK_KIND_MASK = 0x0f,
    CHECK_COPIED_SET = 0x10,   /* the active tables refer to it with the COPIED flag */
    CHECK_COPIED_CLEAR = 0x20, /* ... and without */
    CHECK_OVERLAP = 0x40,      /* an overlap was reported */
};

struct check_chunk {
    uint64_t *wide;
    uint8_t count[CHECK_CHUNK_CLUSTERS];
    uint8_t kind[CHECK_CHUNK_CLUSTERS];
};

struct check_group {
    uint64_t number;
    uint64_t once[CHECK_GROUP_CHUNKS]; /* where there is no chunk */
    struct check_chunk **chunk;        /* CHECK_GROUP_CHUNKS of them; NULL: none */
};

struct check_map {
    struct check_group **slots; /* power of two of them, at most 3/4 full */
    size_t slot_count, groups;
    size_t used, limit;       /* groups and chunks */
    bool limit_hit;           /* one was refused because there were `limit` of them */
    struct check_group *last; /* references come in runs */
};

/** What is known of 64 clusters. */
struct check_view {
    const struct check_chunk *chunk; /* NULL: `once` says it */
    uint64_t once;
};

/** @limit bounds the memory: at most 160 bytes a unit; one reference takes up to two of them. */
HWS_MUST_CHECK int check_map_init(struct check_map *map, size_t limit);
void check_map_free(struct check_map *map);

/** The group of a cluster, or NULL where nothing in it was referenced. */
struct check_group *check_map_group(struct check_map *map, uint64_t cluster);
/** Makes it where there is none. @return NULL when out of memory, or at the limit. */
struct check_group *check_map_make_group(struct check_map *map, uint64_t cluster);

/** Makes the chunk of a cluster where there is none. @return NULL when out of memory, or at the
 * limit. */
struct check_chunk *check_map_make(struct check_map *map, uint64_t cluster);

/** The 64 clusters that @cluster is one of. */
struct check_view check_map_view(struct check_map *map, uint64_t cluster);

uint64_t check_map_count(struct check_map *map, uint64_t cluster);
uint8_t check_map_kind(struct check_map *map, uint64_t cluster);

/**
 * Counts a data cluster to which an active table refers with the COPIED flag, where it is the first
 * reference. @return false where it is not, or there is no memory: then nothing has changed.
 */
static inline bool check_map_once(struct check_map *map, uint64_t cluster)
{
    struct check_group *group = map->last;
    if (!group || group->number != cluster / CHECK_GROUP_CLUSTERS)
        group = check_map_make_group(map, cluster);
    if (!group)
        return false;
    unsigned chunk = cluster / CHECK_CHUNK_CLUSTERS % CHECK_GROUP_CHUNKS;
    uint64_t bit = 1ull << cluster % CHECK_CHUNK_CLUSTERS;
    if ((group->chunk && group->chunk[chunk]) || (group->once[chunk] & bit))
        return false;
    group->once[chunk] |= bit;
    return true;
}

/**
 * First clusters of all groups, ascending. @return their number, or -ENOMEM; @ret_first for free().
 */
HWS_MUST_CHECK int64_t check_map_groups(const struct check_map *map, uint64_t **ret_first);

/** Adds @times references. @return 0 or -ENOMEM. Saturates at UINT64_MAX. */
HWS_MUST_CHECK int check_chunk_add(struct check_chunk *chunk, unsigned index, uint64_t times);

/** Sets the count of a cluster (repair: a table moved away). */
HWS_MUST_CHECK int check_map_set(struct check_map *map, uint64_t cluster, uint64_t count,
                                 enum check_kind kind);

static inline uint64_t check_chunk_count(const struct check_chunk *chunk, unsigned index)
{
    return chunk->wide ? chunk->wide[index] : chunk->count[index];
}

static inline uint64_t check_view_count(const struct check_view *view, unsigned index)
{
    return view->chunk ? check_chunk_count(view->chunk, index) : view->once >> index & 1;
}

static inline uint8_t check_view_kind(const struct check_view *view, unsigned index)
{
    return view->chunk               ? view->chunk->kind[index]
           : view->once >> index & 1 ? CHECK_DATA | CHECK_COPIED_SET
                                     : CHECK_FREE;
}

/** Nothing in the 64 clusters is referenced. */
static inline bool check_view_is_empty(const struct check_view *view)
{
    return !view->chunk && view->once == 0;
}

static inline bool check_kind_is_exclusive(enum check_kind kind)
{
    return kind >= CHECK_HEADER && kind <= CHECK_CRYPT_HEADER;
}

/** For messages: "L2 table", "refcount block", ... */
const char *check_kind_name(enum check_kind kind);

#endif
