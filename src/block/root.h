/*
 * The inside of a root, shared by root.c, drain.c, push.c and stats.c.
 *
 * Each queue thread that uses a root has a lane of its own: its counters lie in cache lines that
 * only it writes, and are summed when somebody asks. A thread gets a number at its first request,
 * and gives it back when it ends; threads beyond LANES_MAX - 1 share the last lane.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_ROOT_H
#define BLOCK_ROOT_H

#include "block/core.h"
#include "block/gate.h"

#define LANES_MAX 64

struct root_lane {
    bool shared; /* by several threads */
    _Atomic uint64_t in_flight;
    _Atomic uint64_t operations[BLOCK_OPS], bytes[BLOCK_OPS], failures[BLOCK_OPS];
    _Atomic uint64_t latency_ns[BLOCK_OPS];
    struct histogram latency[BLOCK_OPS];
} __attribute__((aligned(128)));

struct block_root {
    struct block_node *node;     /* changes only while drained */
    struct block_gate *gate;     /* likewise; NULL: changes go straight to the node */
    _Atomic uint64_t size_bytes; /* of the node; users ask for it outside of requests */
    struct block_root_options options;
    _Atomic(struct root_lane *) lane[LANES_MAX];
    _Atomic unsigned drained; /* nesting */

    struct rt_mutex guard;
    struct co_waitq idle;  /* drainers, until nothing is in flight */
    struct co_waitq ready; /* requests, until nobody drains */

    void (*on_resize)(void *arg, uint64_t size_bytes);
    void *on_resize_arg;
};

/** The calling thread's number, below LANES_MAX. */
unsigned lane_number(void);
/** The calling thread's lane of @root; never NULL. */
struct root_lane *root_lane(struct block_root *root);

/** Takes over the node's size. The root is drained, or not in use yet. */
void root_take_size(struct block_root *root);

/** Tells the listener. The controlling coroutine calls this after a change of size. */
void root_tell_size(struct block_root *root, uint64_t old_size);

#endif
