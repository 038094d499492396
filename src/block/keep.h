/*
 * Memory that outlives the process: what an image has in memory and not yet on disk survives a
 * crash or a kill of the process that serves it, so that the users of its device, who live on, lose
 * no write that was completed. It does not survive the machine: there, as on every disk with a
 * write cache, what was not flushed may be lost.
 *
 * A keep is a file, best on tmpfs, mapped and shared. A process opens images with the keep in
 * their policy; after its death the next process opens the same images with the same keep and finds
 * the changes that were not written, which the format driver applies in the order of a flush before
 * it serves anything. A clean close empties the keep. One that is of another boot of the machine,
 * of another image, or damaged is told and refused, never applied.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_KEEP_H
#define BLOCK_KEEP_H

#include "base/common.h"
#include "hawser/error.h"

struct block_keep;

/**
 * Opens the keep at @path, making it (mode 0600) where there is none, and locks it: one process has
 * it at a time. @ret ended by block_keep_close(), after all images that use it.
 * @return 0, -EAGAIN where another process holds it, -errno.
 */
HWS_MUST_CHECK int block_keep_open(const char *path, struct block_keep **ret,
                                   struct hws_error *err);

/** Closes it; the file is removed where nothing is in it. @keep may be NULL. @return NULL. */
struct block_keep *block_keep_close(struct block_keep *keep);

/** True where a predecessor left changes that have not been applied yet. */
bool block_keep_pending(const struct block_keep *keep);

#endif
