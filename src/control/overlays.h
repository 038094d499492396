/*
 * New layers over others; see overlays.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_OVERLAYS_H
#define CONTROL_OVERLAYS_H

#include "control/internal.h"

/** What the calls below want to know of @layer, which is to lie over @below, for @volume. */
HWS_MUST_CHECK int overlay_params(const struct volume *volume, const struct pool *pool,
                                  const struct layer *layer, const struct layer *below,
                                  json_t **ret, struct hws_error *err);

/** Is the pool there? */
HWS_MUST_CHECK int overlay_check_pool(struct control *control, const json_t *params,
                                      struct hws_error *err);

/** Makes the file; one that is there is replaced. The pool is checked. */
HWS_MUST_CHECK int overlay_make(struct control *control, const json_t *params,
                                struct hws_error *err);

/** Removes it. The pool is checked. */
HWS_MUST_CHECK int overlay_unmake(struct control *control, const json_t *params,
                                  struct hws_error *err);

/**
 * Adds to @batch that the layer is the top of @volume now, whose content is that of the "snapshot"
 * of @params. The volume's old top has been dropped.
 */
HWS_MUST_CHECK int overlay_revert(struct control *control, struct volume *volume,
                                  const json_t *params, struct batch *batch, struct hws_error *err);

#endif
