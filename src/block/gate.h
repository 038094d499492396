/*
 * A gate: what a job sets up at a root while it moves data under a running guest.
 *
 * Each change that comes through the root holds its range of the gate, alone, while the node below
 * is changed and until the job has been told; the job holds what it copies. So neither puts bytes
 * that it read before a change over the bytes of that change, and two changes of the same bytes
 * reach the job in the order in which they took place. Reads pass.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_GATE_H
#define BLOCK_GATE_H

#include "block/block.h"
#include "block/range_lock.h"

struct block_gate {
    struct range_lock ranges;
    /**
     * After a change, in the coroutine that made it, with the range held. @data what was written;
     * NULL: zeroes, a discard, or a write that failed, so that the bytes there are open. May be
     * NULL.
     */
    void (*co_changed)(struct block_gate *gate, uint64_t offset, uint64_t length,
                       const struct sgl *data);
};

/** Sets up @gate, or with NULL takes it away. The root is drained. */
void block_root_set_gate(struct block_root *root, struct block_gate *gate);

#endif
