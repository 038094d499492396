/*
 * Shortcuts through chains of backing files.
 *
 * A read that finds a hole asks layer after layer, and pays for each. Backing files do not change
 * while they are open, so what was found once stays true: a node with many layers below it
 * remembers, for each granule of the device, how many layers from itself on have nothing there.
 *
 *     granule   0   1   2   3
 *     node      .   .   x   .        entry of granule 0: skip 3
 *     layer 1   .   x   x   .                         1: skip 1
 *     layer 2   .   .   .   .                         2: skip 0
 *     base      x   x   x   x                         3: skip 3
 *
 * An entry is one atomic word and states a fact, so threads need no lock. When a node regains the
 * right to write, or an edge changes, the epoch moves on: at the next use each shortcut looks
 * whether one of its layers has changed, and starts anew if so.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_SHORTCUT_H
#define BLOCK_SHORTCUT_H

#include "block/driver.h"

/* 4,096 granules of 64 KiB: 256 MiB in 32 KiB of memory. */
#define SHORTCUT_GRANULE (64 * KiB)
#define SHORTCUT_ENTRIES 4096u
/* Fewer layers are walked as fast. */
#define SHORTCUT_LAYERS_MIN 4u
/* Nodes of one graph that remember: 1 MiB at the worst, and 32 KiB for pointers each. */
#define SHORTCUTS_MAX 32u

struct shortcut;

/** NULL is taken. */
void shortcut_free(struct shortcut *shortcut);

/**
 * The first layer, from @layer (may be NULL) down, that may have something in @holes before @limit.
 * May look into the layers' metadata.
 */
struct block_node *co_shortcut(struct block_node *layer, const struct block_holes *holes,
                               uint64_t limit);

/** The rights of @node have changed, or its backing edge. Its graphs are drained. */
void shortcut_changed(struct block_node *node);

#endif
