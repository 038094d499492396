/*
 * Where a file has data and where holes: SEEK_DATA and SEEK_HOLE, with the last extent remembered,
 * so that a walk in small steps over a large extent asks the kernel once.
 *
 * The memory must never call data a hole. Writers therefore report each completed change, but pay
 * for it only while somebody asks: `active` is false until the first question, and a question that
 * ran while a change completed does not remember its answer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_FILE_MAP_H
#define BACKEND_FILE_MAP_H

#include "rt/sync.h"
#include <stdatomic.h>

struct file_extent {
    uint64_t start, end;
    bool data;
};

struct file_map {
    _Atomic bool active;
    struct rt_mutex guard;
    unsigned questions;        /* running now */
    uint64_t generation;       /* counts changes while active */
    struct file_extent extent; /* empty: nothing remembered */
    bool holes;                /* holes may be remembered: nobody else can write to the file */
};

void file_map_init(struct file_map *map, bool holes);
void file_map_destroy(struct file_map *map);

/**
 * The extent around @offset, which lies below @size. @return 0, or -errno of lseek (-EINVAL and
 * -EOPNOTSUPP: not supported).
 */
HWS_MUST_CHECK int co_file_map_find(struct file_map *map, struct rt_file *file, uint64_t offset,
                                    uint64_t size, struct file_extent *ret);

void file_map_forget_slow(struct file_map *map, uint64_t offset, uint64_t length, bool made_hole);

/** After each completed change of the file. @made_hole: data may have become a hole too. */
static inline void file_map_forget(struct file_map *map, uint64_t offset, uint64_t length,
                                   bool made_hole)
{
    if (unlikely(atomic_load(&map->active)))
        file_map_forget_slow(map, offset, length, made_hole);
}

#endif
