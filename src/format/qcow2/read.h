/*
 * The way of a read that takes no lock and never waits; l2.c, read.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_READ_H
#define QCOW2_READ_H

#include "format/qcow2/qcow2.h"

/**
 * Where @length bytes of stored data lie, one after the other; without a lock, from what look-ups
 * with it left behind. @return true: they are in use until qcow2_leave() with @ret_epoch; false:
 * they may be there all the same.
 */
bool qcow2_map_unlocked(struct qcow2 *q, uint64_t guest, uint64_t length, uint64_t *ret_host,
                        uint64_t *ret_epoch);

/** The driver's try_read. */
HWS_MUST_CHECK int qcow2_try_read(struct block_node *node, uint64_t offset, void *bytes,
                                  size_t length);

#endif
