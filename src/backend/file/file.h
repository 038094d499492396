/*
 * State of the file backend, shared by its sources. See file.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_FILE_FILE_H
#define BACKEND_FILE_FILE_H

#include "backend/file/lock.h"
#include "backend/file/map.h"
#include "block/driver.h"

/** Operations that the file system or device refused once: they are not tried again. */
enum file_refused {
    FILE_NO_ZERO_RANGE = 1 << 0,
    FILE_NO_PUNCH = 1 << 1,
    FILE_NO_ALLOCATE = 1 << 2,
    FILE_NO_SEEK = 1 << 3,
    FILE_NO_COPY = 1 << 4,
    FILE_NO_DISCARD = 1 << 5, /* block devices: BLKDISCARD */
};

struct file {
    struct rt_file *handle;
    char *path;
    struct image_lock lock;
    struct rt_stat stat; /* as of the opening: identity and kind */
    bool writable;       /* how the descriptor is open */
    bool direct;
    bool locking;             /* image locks are held */
    int locking_option;       /* enum file_locking */
    bool ignore_flush;        /* cache mode "unsafe" */
    _Atomic unsigned refused; /* enum file_refused */
    _Atomic int flush_error;  /* the first failed flush; sticky */
    struct file_map map;
};

enum file_locking { FILE_LOCKING_AUTO, FILE_LOCKING_ON, FILE_LOCKING_OFF };
enum file_direct { FILE_DIRECT_AUTO, FILE_DIRECT_ON, FILE_DIRECT_OFF };

/** Options of an open description. */
struct file_options {
    char *filename;
    int direct;  /* enum file_direct */
    int locking; /* enum file_locking */
};

enum file_preallocation { FILE_PREALLOC_OFF, FILE_PREALLOC_FALLOC, FILE_PREALLOC_FULL };

struct file_create_options {
    struct file_options open; /* first, so that one table of offsets serves both */
    uint64_t size_bytes;
    int preallocation; /* enum file_preallocation */
    bool nocow;
    bool overwrite;
};

extern const struct block_driver file_driver;
extern const struct option_desc file_create_table[];

/* zero.c */
int co_file_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags);
int co_file_discard(struct block_node *node, uint64_t offset, uint64_t length);

/* create.c */
int co_file_create(const void *create_options, struct block_node *file, struct hws_error *err);
int co_file_remove(const void *create_options, struct hws_error *err);

/** True when @bit of enum file_refused is set. */
static inline bool file_refused(struct file *f, unsigned bit)
{
    return atomic_load_explicit(&f->refused, memory_order_relaxed) & bit;
}

static inline void file_refuse(struct file *f, unsigned bit)
{
    atomic_fetch_or_explicit(&f->refused, bit, memory_order_relaxed);
}

#endif
