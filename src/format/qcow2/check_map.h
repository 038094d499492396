/*
 * How often each host cluster of an image is referenced, and by what: the checker's picture of what
 * the refcounts should be.
 *
 * Memory follows the references that were found, not what the header or the file's length claims:
 * clusters are grouped 64 a chunk, a chunk exists only once one of its clusters was referenced, and
 * takes about 2.5 bytes a cluster. The chunks are found by a hash table of their numbers. Counts
 * past 254 (hundreds of internal snapshots) move to a wide array of that chunk.
 *
 *   chunk_number -> hash slot -> chunk { count[64], kind[64], wide -> u64[64] or NULL }
 *
 * One coroutine uses it at a time; nothing here suspends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_CHECK_MAP_H
#define QCOW2_CHECK_MAP_H

#include "base/common.h"

#define CHECK_CHUNK_CLUSTERS 64

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
    uint64_t number;
    uint64_t *wide;
    uint8_t count[CHECK_CHUNK_CLUSTERS];
    uint8_t kind[CHECK_CHUNK_CLUSTERS];
};

struct check_map {
    struct check_chunk **slots; /* power of two of them, at most 3/4 full */
    size_t slot_count, used, limit;
    bool limit_hit;           /* a chunk was refused because there were `limit` of them */
    struct check_chunk *last; /* references come in runs */
};

/** @chunks_max bounds the memory: about 150 bytes a chunk. */
HWS_MUST_CHECK int check_map_init(struct check_map *map, size_t chunks_max);
void check_map_free(struct check_map *map);

/** The chunk that holds @cluster, or NULL where nothing in it was referenced. */
struct check_chunk *check_map_find(struct check_map *map, uint64_t cluster);

/** Makes the chunk where there is none. @return NULL when out of memory, or at the limit. */
struct check_chunk *check_map_make(struct check_map *map, uint64_t cluster);

uint64_t check_map_count(struct check_map *map, uint64_t cluster);
uint8_t check_map_kind(struct check_map *map, uint64_t cluster);

/** Adds @times references. @return 0 or -ENOMEM. Saturates at UINT64_MAX. */
HWS_MUST_CHECK int check_chunk_add(struct check_chunk *chunk, unsigned index, uint64_t times);

/** Sets the count of a cluster (repair: a table moved away). */
HWS_MUST_CHECK int check_map_set(struct check_map *map, uint64_t cluster, uint64_t count,
                                 enum check_kind kind);

static inline uint64_t check_chunk_count(const struct check_chunk *chunk, unsigned index)
{
    return chunk->wide ? chunk->wide[index] : chunk->count[index];
}

static inline bool check_kind_is_exclusive(enum check_kind kind)
{
    return kind >= CHECK_HEADER && kind <= CHECK_CRYPT_HEADER;
}

/** For messages: "L2 table", "refcount block", ... */
const char *check_kind_name(enum check_kind kind);

#endif
