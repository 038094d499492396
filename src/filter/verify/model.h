/*
 * What the verify filter remembers of a device: a 64-bit sum of every 512-byte sector that was read
 * or written. 16 MiB of sums cover 1 GiB; memory is bounded, sectors beyond the bound are not
 * watched.
 *
 * The caller keeps requests on one range in order (the filter's range lock); calls for different
 * ranges may run side by side.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FILTER_VERIFY_MODEL_H
#define FILTER_VERIFY_MODEL_H

#include "base/sgl.h"
#include "rt/sync.h"
#include <stdatomic.h>

#define MODEL_SECTOR_BYTES 512u
/* A group of sums: 2 MiB of the device in 32 KiB of memory. */
#define MODEL_GROUP_SECTORS 4096u
#define MODEL_GROUP_BYTES   ((uint64_t)MODEL_SECTOR_BYTES * MODEL_GROUP_SECTORS)
/* The table of groups then takes 64 MiB of address space. */
#define MODEL_SIZE_MAX (16384 * GiB)

struct model_group {
    /* 0: not known. Atomic, because reads of one sector may run side by side. */
    _Atomic uint64_t sum[MODEL_GROUP_SECTORS];
};

struct model {
    struct model_group *_Atomic *table;
    uint64_t groups;
    uint64_t limit_bytes;
    _Atomic uint64_t used_bytes;
};

/** @size_bytes at most MODEL_SIZE_MAX. @return 0 or -ENOMEM. */
HWS_MUST_CHECK int model_init(struct model *m, uint64_t size_bytes, uint64_t limit_bytes);
void model_destroy(struct model *m);

/** Makes room for a new size; what lies past it is forgotten. Nothing else may run. */
HWS_MUST_CHECK int model_resize(struct model *m, uint64_t old_bytes, uint64_t new_bytes);

/** Remembers the whole sectors of @buffer, at @offset. */
void model_store(struct model *m, uint64_t offset, struct sgl buffer);
/** Remembers zeroes. */
void model_store_zeroes(struct model *m, uint64_t offset, uint64_t length);
/** Knows nothing of the range any more. */
void model_forget(struct model *m, uint64_t offset, uint64_t length);

/**
 * Compares what is known with @buffer and remembers the rest. @return true, or false with the first
 * sector that differs in @ret_offset.
 */
bool model_check(struct model *m, uint64_t offset, struct sgl buffer, uint64_t *ret_offset);

#endif
