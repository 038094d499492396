/*
 * Conversions that can go on where they were cut off: the journal beside the unfinished target.
 *
 *   TARGET.convert-partial    the target as far as it is
 *   TARGET.convert-journal    what is copied of what into what, and how far that is durable
 *
 * The journal is replaced as a whole, durably, after the target was flushed: what it says is true
 * after a kill and after a power cut. It names each file of the source with inode, size and time of
 * change; where one of them or a choice of the user differs, nothing is resumed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LIB_RESUME_H
#define LIB_RESUME_H

#include "block/block.h"
#include "hawser/image.h"

struct resume {
    char *journal, *fresh; /* the file, and its successor's name */
    char *partial;         /* the unfinished target */
    char *key;             /* the text up to the number */
    bool found;            /* somebody began */
    uint64_t durable;      /* bytes of the target that need not be copied again */
};

void resume_free(struct resume *resume);

/**
 * Looks for the journal of the target at @path, and reads it. @source: @count open sources; @size
 * the target's.
 * @return -ESTALE where it is of something else, -ENOTSUP where a source is no file of this host.
 */
HWS_MUST_CHECK int co_resume_find(struct resume *ret, const char *path,
                                  struct block_node *const *source, unsigned count, uint64_t size,
                                  const struct hws_image *from, const struct hws_image *to,
                                  const struct hws_convert *how, struct hws_error *err);

/** @durable bytes of the target are. */
HWS_MUST_CHECK int co_resume_note(struct resume *resume, uint64_t durable, struct hws_error *err);

/** The target is complete. */
void co_resume_end(struct resume *resume);

#endif
