/*
 * Changes of an image that one write of the header makes valid, all at once.
 *
 * Taking, applying and deleting a snapshot change the counts of every cluster that it reaches, the
 * COPIED flags in every L2 table of the image, its L1 table and the snapshot table. Done in place
 * a crash would leave flags that contradict counts. So whatever changes gets a new place, beside
 * the old one that stays valid:
 *
 *   refcount table'  --> refcount blocks with changed counts'     L1 table' --> L2 tables with
 *                        (others are shared with the old table)                 changed flags'
 *   snapshot table'
 *
 * and the header's one sector, which names all tables, switches from the old to the new. Before
 * that a crash leaves clusters that nobody uses; after it the old places are such.
 *
 * New places are taken from the allocator as usual, so they are counted in the old blocks; the new
 * blocks begin as copies of these, and what is taken later is counted in both. Caller holds
 * alloc_lock throughout, and nothing is in flight.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_SNAPSHOT_CHANGE_H
#define QCOW2_SNAPSHOT_CHANGE_H

#include "format/qcow2/qcow2.h"

struct qcow2_shadow_block {
    uint64_t block;
    uint8_t *data; /* a cluster; NULL: not in use yet */
    bool dirty;    /* newer than at its new place */
    bool referenced;
};

struct qcow2_taken {
    uint64_t cluster, count;
};

/* Refcount blocks at new places. */
struct qcow2_shadow {
    struct qcow2 *q;
    uint64_t *host; /* by number of the block: the new place, 0: it has none */
    uint32_t *slot; /* the same: where in `loaded` it is, plus 1 */
    uint64_t entries;
    struct qcow2_shadow_block *loaded;
    unsigned slots, hand;
    uint64_t count; /* blocks that have a new place */
    struct qcow2_taken *taken;
    size_t taken_count, taken_room;
};

HWS_MUST_CHECK int qcow2_shadow_init(struct qcow2_shadow *s, struct qcow2 *q);
/** Memory only. */
void qcow2_shadow_free(struct qcow2_shadow *s);

/** @count neighbouring clusters, which count as used once each. */
HWS_MUST_CHECK int qcow2_co_shadow_alloc(struct qcow2_shadow *s, uint32_t count,
                                         uint64_t *ret_host);

/**
 * @delta more references to @cluster. @return -EOVERFLOW where the width of the counts does not
 * hold that, -EIO where the count was wrong.
 */
HWS_MUST_CHECK int qcow2_co_shadow_add(struct qcow2_shadow *s, uint64_t cluster, int delta);
/** The same for [host, host + length). */
HWS_MUST_CHECK int qcow2_co_shadow_add_range(struct qcow2_shadow *s, uint64_t host, uint64_t length,
                                             int delta);

/** The count as it will be. */
HWS_MUST_CHECK int qcow2_co_shadow_get(struct qcow2_shadow *s, uint64_t cluster, uint64_t *ret);

/** Writes what is not at its new place yet. */
HWS_MUST_CHECK int qcow2_co_shadow_write(struct qcow2_shadow *s);

/** Gives back all that was taken: nothing has changed then. */
void qcow2_co_shadow_undo(struct qcow2_shadow *s);

/**
 * The header names the new table: the blocks' old places become free, and holes are punched where
 * counts have fallen to 0. @old places by number of the block.
 */
void qcow2_co_shadow_settle(struct qcow2_shadow *s, const uint64_t *old);

#endif
