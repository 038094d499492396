/*
 * The content of one image copied into another, or compared with another, whatever their drivers:
 * conversion, verification, and later mirrors and backups.
 *
 * Holes of the source stay holes, runs of zeroes inside data become holes, and data that the
 * storage can copy by itself is not moved through this process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOB_COPY_COPY_H
#define JOB_COPY_COPY_H

#include "block/block.h"

#define JOB_THREADS_MAX  16
#define JOB_REQUESTS_MAX 64 /* a thread */

/** How hard a job works, and who is told of it. */
struct job_load {
    unsigned threads;  /* queue threads, the caller's included, 1..JOB_THREADS_MAX; 0: one a CPU, up
                          to 4 */
    unsigned requests; /* in flight on each thread, 1..JOB_REQUESTS_MAX; 0: 4 */
    uint64_t rate_bytes; /* of data moved a second, all threads together; 0: no limit */
    /**
     * Called after each piece, from any thread, never twice at a time. A result other than 0 ends
     * the job, which returns -ECANCELED. May be NULL.
     */
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
    /**
     * Called now and then where set, never twice at a time: all that lies in front of @done_offset
     * (of the target) is copied. A failure ends the job, with its text in @err.
     */
    int (*co_checkpoint)(void *arg, uint64_t done_offset, struct hws_error *err);
    void *checkpoint_arg;
    uint64_t checkpoint_ns; /* the least time between two calls */
};

struct copy_options {
    struct job_load load;
    /* Runs of zeroes of this many bytes, a power of two, become holes. 0: 4096; UINT32_MAX: none */
    uint32_t sparse_bytes;
    bool compress; /* write compressed clusters; -ENOTSUP where the target's format has none */
    int level;     /* of the target's codec; 0: its default */
    struct block_bitmap *only; /* of the source: only what it marks dirty; NULL: all */
    bool target_is_zero;       /* the target reads as zeroes: holes need no request */
    bool offload; /* let the storage copy what it can; zeroes inside data are not looked for then */
    /* What cannot be read becomes zeroes. `lost` is told of each such range, never two at a time;
       may be NULL. */
    bool salvage;
    void (*lost)(void *arg, uint64_t offset, uint64_t length, int error);
    void *lost_arg;
};

/** Which bytes go where. Both ranges lie in their images. */
struct copy_range {
    uint64_t from, to, length;
};

struct copy_result {
    uint64_t data_bytes;    /* read and written */
    uint64_t offload_bytes; /* copied by the storage */
    uint64_t zero_bytes;    /* holes */
    uint64_t lost_bytes;    /* could not be read */
};

/**
 * Copies a range of @from into @to. The target is not flushed: closing it does that. On failure the
 * target's content is undefined.
 * @return 0 or -errno; @err tells at which offset, and of which image.
 */
HWS_MUST_CHECK int co_copy(struct block_node *from, struct block_node *to, struct copy_range range,
                           const struct copy_options *options, struct copy_result *ret,
                           struct hws_error *err);

/**
 * Compares bytes [0, @length) of two images; past the end of one there are zeroes.
 * @ret_offset the first byte that differs, or @length where none does.
 */
HWS_MUST_CHECK int co_compare(struct block_node *a, struct block_node *b, uint64_t length,
                              const struct job_load *load, uint64_t *ret_offset,
                              struct hws_error *err);

/** The same of ranges that both images have. @ret_offset counts from the start of the range. */
HWS_MUST_CHECK int co_compare_range(struct block_node *from, struct block_node *to,
                                    struct copy_range range, const struct job_load *load,
                                    uint64_t *ret_offset, struct hws_error *err);

#endif
