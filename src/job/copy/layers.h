/*
 * Moving data between the layers of a chain: what rebase and commit do before anything changes
 * its place. Both only ever write what reads the same before and after, so that they may be cut
 * short at any moment.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOB_COPY_LAYERS_H
#define JOB_COPY_LAYERS_H

#include "block/block.h"
#include "job/copy/copy.h"

/**
 * Gives @top, writable, over its own backing chain, what that chain and @backing (NULL: none)
 * tell differently, so that it reads the same over @backing. What both find at the same place of
 * the same storage, and holes of both, are not read. Not flushed.
 */
HWS_MUST_CHECK int co_copy_up(struct block_node *top, struct block_node *backing,
                              const struct job_load *load, struct hws_error *err);

/**
 * Gives @to, which holds nothing itself yet and is over a backing file, what @from tells otherwise
 * than that file, so that both read the same. As co_copy_up() does; of the options it takes load,
 * compress and level. Not flushed.
 */
HWS_MUST_CHECK int co_copy_over(struct block_node *from, struct block_node *to,
                                const struct copy_options *options, struct hws_error *err);

/**
 * Copies what the layers from @top down to, and without, @base hold into @base, a layer of @top's
 * own chain that is writable and at least as long. All that is read is where @base does not answer
 * itself; zeroes stay zeroes. What @top reads as does not change at any moment. Not flushed.
 */
HWS_MUST_CHECK int co_copy_down(struct block_node *top, struct block_node *base,
                                const struct job_load *load, struct hws_error *err);

#endif
