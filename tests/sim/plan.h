/*
 * What one run is made of, drawn from its seed: the images of the chain, how they are opened, and
 * how the storage below behaves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_PLAN_H
#define TESTS_SIM_PLAN_H

#include "base/random.h"
#include "block/block.h"
#include "rt/sim.h"

#define PLAN_DEPTH_MAX 5
/* Backing files, the top, and the overlays pushed during the run. */
#define PLAN_LAYERS_MAX 12

struct plan_layer {
    bool raw;
    unsigned cluster_bits, version, refcount_bits;
    bool extended_l2, lazy_refcounts;
    bool preallocate; /* metadata, at creation; the base only */
    bool data_file;   /* external; raw where it is the base */
    bool no_unref;    /* opened with discard-no-unref */
    unsigned lazy;    /* how it is opened: auto, on, off */
    uint64_t sectors;
};

struct plan {
    uint64_t seed;
    const char *plain; /* the driver of layers that are `raw`, if not "raw" itself */
    unsigned depth;    /* backing files below the first top */
    struct plan_layer layer[PLAN_LAYERS_MAX]; /* from the base up; those past the top: overlays */
    unsigned bitmap_bits; /* log2 of the granularity of a dirty bitmap on each top; 0: none */
    bool imported;        /* the first top is made by qemu-img, of compressed clusters */
    bool snapshot;        /* and has an internal snapshot */
    const char *filter;   /* driver on top of the chain, or NULL */
    enum block_cache cache;
    enum block_discard discard;
    enum block_detect_zeroes detect_zeroes;
    uint32_t alignment; /* of the storage, for O_DIRECT */
    bool no_offload;
    uint64_t cache_bytes;    /* metadata cache of the chain */
    struct block_keep *keep; /* or NULL; never drawn */
    unsigned queues, workers;
    bool churn; /* mostly whole clusters, dropped and written anew: host clusters change their users
                 */
    uint64_t sectors_max; /* the disk may grow to this */
    bool fixed_size;      /* it may neither grow nor shrink */
};

/** @small: images of a few clusters, for sweeps that run the same thing thousands of times. */
struct plan plan_make(uint64_t seed, bool small);

void plan_print(const struct plan *plan);

/** The path of layer @index in the simulated storage; valid until the next eight calls. */
const char *plan_path(unsigned index);

/** The path of its external data file, likewise. */
const char *plan_data_path(unsigned index);

/** Description for co_block_create(); a new reference. */
json_t *plan_create_options(const struct plan *plan, unsigned index);

/** Description for co_block_open(), the filter on top where wanted; a new reference. */
json_t *plan_open_description(const struct plan *plan, unsigned index, bool filtered);

struct block_policy plan_policy(const struct plan *plan);

#endif
