/*
 * Overlay snapshots: an empty image on top of another, and the way back.
 *
 *   snapshot:   base  <-  top          =>   base  <-  top  <-  overlay (new)
 *   revert:     base  <-  top          =>   base  <-  top (new and empty, the old one is gone)
 *
 * Used by image work on files and by the engine on live chains. Everything here runs on the
 * controlling coroutine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOB_OVERLAY_H
#define JOB_OVERLAY_H

#include "block/block.h"

struct overlay_spec {
    const char *path;           /* of the file to make */
    const char *format;         /* its driver; NULL: qcow2 */
    const char *backing;        /* path of the layer below, absolute or relative to this process */
    const char *backing_format; /* the driver of that layer */
    uint64_t size_bytes;
};

/**
 * Makes an empty overlay. The backing file is recorded relative to the overlay's folder where both
 * lie in one folder, so that the folder can be moved, and by its absolute path elsewhere. Never
 * replaces an existing file; a failure leaves none.
 */
HWS_MUST_CHECK int co_overlay_create(const struct overlay_spec *spec, struct hws_error *err);

/**
 * The layer of the chain under @top whose file is @path (compared by what the path resolves to), or
 * the first backing layer when @path is NULL. The result belongs to the chain.
 */
HWS_MUST_CHECK int overlay_find_layer(struct block_node *top, const char *path,
                                      struct block_node **ret, struct hws_error *err);

/** Path of the file that holds a format node's bytes; NULL where it is no file of this host. */
const char *overlay_node_path(const struct block_node *node);

/**
 * Makes a fresh overlay over @layer under a temporary name in the folder of @path, with the format
 * of
 * @top and the size of @layer. @ret_path the temporary path; free().
 */
HWS_MUST_CHECK int co_overlay_prepare_revert(struct block_node *top, struct block_node *layer,
                                             const char *path, char **ret_path,
                                             struct hws_error *err);

/**
 * The same with the size and the owner of @top, whose content @layer is about to hold: for the name
 * of @top, so that it goes on to be an image of the whole chain.
 */
HWS_MUST_CHECK int co_overlay_prepare_merged(struct block_node *top, struct block_node *layer,
                                             const char *path, char **ret_path,
                                             struct hws_error *err);

/**
 * The name by which an image at @path records the file @backing, as co_overlay_create() does. Both
 * paths as this process sees them. @ret free(). Blocks.
 */
HWS_MUST_CHECK int overlay_backing_name(const char *path, const char *backing, char **ret,
                                        struct hws_error *err);

/** @fresh, which is to take the place of @path, gets its owner and mode; no @path is no error. */
HWS_MUST_CHECK int overlay_keep_owner(const char *path, const char *fresh, struct hws_error *err);

/**
 * A file that a revert of @path left because it was killed: the fresh overlay, or after the
 * exchange the old top. Nothing uses it, but it may hold what was given up, so that only the user
 * deletes it. NULL where there is none; free(). Blocks.
 */
char *overlay_find_leftover(const char *path);

/**
 * Exchanges two files of one folder in one step and makes that durable. Each path names a whole
 * image at every moment, a crash included. Calling it again takes it back.
 */
HWS_MUST_CHECK int co_overlay_exchange(const char *a, const char *b, struct hws_error *err);

#endif
