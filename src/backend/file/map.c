/*
 * Data and holes of a file; see backend/file/map.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/map.h"

void file_map_init(struct file_map *map, bool holes)
{
    *map = (struct file_map){.holes = holes};
    rt_mutex_init(&map->guard);
}

void file_map_destroy(struct file_map *map)
{
    rt_mutex_destroy(&map->guard);
}

static int co_ask_kernel(struct rt_file *file, uint64_t offset, uint64_t size,
                         struct file_extent *ret)
{
    int64_t data = co_seek(file, offset, SEEK_DATA);
    if (data == -ENXIO) { /* no data up to the end */
        *ret = (struct file_extent){offset, size, false};
        return 0;
    }
    if (data < 0)
        return (int)data;
    if ((uint64_t)data > offset) {
        *ret = (struct file_extent){offset, MIN((uint64_t)data, size), false};
        return 0;
    }
    int64_t hole = co_seek(file, offset, SEEK_HOLE);
    if (hole < 0 && hole != -ENXIO)
        return (int)hole;
    /* A hole punched between the two calls: data is the safe answer, for this one byte. */
    uint64_t end = hole == -ENXIO ? size : MAX((uint64_t)hole, offset + 1);
    *ret = (struct file_extent){offset, MIN(end, size), true};
    return 0;
}

int co_file_map_find(struct file_map *map, struct rt_file *file, uint64_t offset, uint64_t size,
                     struct file_extent *ret)
{
    rt_mutex_lock(&map->guard);
    if (offset >= map->extent.start && offset < MIN(map->extent.end, size)) {
        *ret = map->extent;
        ret->end = MIN(ret->end, size);
        rt_mutex_unlock(&map->guard);
        return 0;
    }
    map->questions++;
    uint64_t generation = map->generation;
    atomic_store(&map->active, true); /* before the kernel looks: see file_map_forget() */
    rt_mutex_unlock(&map->guard);

    struct file_extent found;
    int r = co_ask_kernel(file, offset, size, &found);

    rt_mutex_lock(&map->guard);
    map->questions--;
    if (r == 0 && generation == map->generation && (found.data || map->holes))
        map->extent = found;
    if (map->questions == 0 && map->extent.end == map->extent.start)
        atomic_store(&map->active, false);
    rt_mutex_unlock(&map->guard);
    if (r == 0)
        *ret = found;
    return r;
}

void file_map_forget_slow(struct file_map *map, uint64_t offset, uint64_t length, bool made_hole)
{
    rt_mutex_lock(&map->guard);
    map->generation++;
    const struct file_extent *e = &map->extent;
    if ((made_hole || !e->data) && ranges_overlap(e->start, e->end - e->start, offset, length))
        map->extent = (struct file_extent){0};
    if (map->questions == 0 && map->extent.end == map->extent.start)
        atomic_store(&map->active, false);
    rt_mutex_unlock(&map->guard);
}
