/*
 * Inside the library: a disk, and one request on it, which blocking calls and queues share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LIB_DISK_H
#define LIB_DISK_H

#include "block/block.h"
#include "hawser/queue.h"
#include "rt/sync.h"

struct hws_disk {
    struct block_root *root;
    char *name;   /* as it was opened, for messages */
    unsigned era; /* lib_era() when it was opened */
    bool read_only;
    _Atomic unsigned queues;
    struct co_mutex changes; /* one at a time: resize, snapshots */
    struct hws_image image;  /* a copy: how overlays of it are opened */
    enum block_cache cache;
};

/** A request that was checked. `one` is where a single buffer's iovec lies. */
struct disk_request {
    uint64_t offset, length;
    struct sgl data;
    struct iovec one;
    uint32_t op;
    unsigned flags; /* of the block core */
};

/** Refuses what no disk takes, what this one does not, and handles from before a fork(). @err may
 * be NULL. @ret must not move afterwards. */
HWS_MUST_CHECK int disk_request_check(const struct hws_disk *disk, const struct hws_request *from,
                                      struct disk_request *ret, struct hws_error *err);

/** Carries it out. @return 0 or -errno. */
HWS_MUST_CHECK int co_disk_request(struct hws_disk *disk, const struct disk_request *request);

/** -EPERM for a disk of before a fork(). */
HWS_MUST_CHECK int disk_check(const struct hws_disk *disk, struct hws_error *err);

/**
 * Copies a struct that a caller made, whose first member is its size, into @to of @to_bytes: what
 * the caller did not know becomes 0. -EINVAL where it knows more than we do, and uses it, or the
 * size is none.
 */
HWS_MUST_CHECK int lib_take_struct(void *to, size_t to_bytes, const void *from, const char *what,
                                   struct hws_error *err);

#endif
