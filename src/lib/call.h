/*
 * Inside the library: running one piece of image work as a coroutine of a private runtime, and
 * opening the image that a caller described.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LIB_CALL_H
#define LIB_CALL_H

#include "block/block.h"
#include "block/options.h"
#include "hawser/image.h"
#include "job/copy/copy.h"

typedef int call_fn(void *arg, struct hws_error *err);

/** Makes the drivers known to the core, once. */
void call_prepare(void);

/** Runs @fn(@arg) in a coroutine of a new runtime on the calling thread. @return what @fn returned.
 */
HWS_MUST_CHECK int call_run(call_fn *fn, void *arg, struct hws_error *err);

/** Is there an image, and has it a path? Else -EINVAL. */
HWS_MUST_CHECK int call_check_image(const struct hws_image *image, struct hws_error *err);

/** Opens @image with @flags (enum block_open_flags) on top of what the image itself asks for. */
HWS_MUST_CHECK int co_call_open(const struct hws_image *image, unsigned flags,
                                struct block_node **ret, struct hws_error *err);

/**
 * The same for who goes over the image once, from its start to its end: metadata that was passed is
 * not kept.
 */
HWS_MUST_CHECK int co_call_open_pass(const struct hws_image *image, unsigned flags,
                                     struct block_node **ret, struct hws_error *err);

/** The same with the cache mode that counts where @image names none; co_call_open() takes
 * BLOCK_CACHE_WRITEBACK. */
HWS_MUST_CHECK int co_call_open_cached(const struct hws_image *image, unsigned flags,
                                       enum block_cache cache, struct block_node **ret,
                                       struct hws_error *err);

/** The same with somebody who is told how far work inside the driver is, and may end it. */
HWS_MUST_CHECK int co_call_open_told(const struct hws_image *image, unsigned flags,
                                     hws_progress_fn *progress, void *progress_arg,
                                     struct block_node **ret, struct hws_error *err);

/** The same for a disk that stays open. @ret_cache the mode that image->cache names. */
HWS_MUST_CHECK int co_call_open_disk(const struct hws_image *image, uint64_t cache_bytes,
                                     unsigned flags, enum block_cache *ret_cache,
                                     struct block_node **ret, struct hws_error *err);

/** The name of a cache mode, as hws_image.cache takes it. */
const char *call_cache_name(enum block_cache cache);

/** Does the load keep within what jobs take? */
HWS_MUST_CHECK int call_check_load(const struct job_load *load, struct hws_error *err);

/** Closes @node. @return @result where that is not 0, else what closing returned. */
HWS_MUST_CHECK int co_call_close(struct block_node *node, int result, struct hws_error *err);

/** Refuses (-EBUSY) where @node has internal snapshots: what they do not hold themselves they read
 * from its backing file, so that they would change when @what does. @way out for the message. */
HWS_MUST_CHECK int co_call_refuse_snapshots(struct block_node *node, const char *what,
                                            const char *way, struct hws_error *err);

/** Makes the image as hws_create() does. */
HWS_MUST_CHECK int co_call_create(const struct hws_image *image, const struct hws_create *create,
                                  struct hws_error *err);

/** "name=value,..." texts (NULL-terminated, may be NULL) into @out, - and _ as the table has them.
 */
HWS_MUST_CHECK int call_add_options(const struct option_desc *table, const char *const *texts,
                                    json_t *out, struct hws_error *err);

/** Where the file @name that @image records lies: names count from the image's folder. @ret free().
 */
HWS_MUST_CHECK int call_resolve_beside(const char *image, const char *name, char **ret,
                                       struct hws_error *err);

/** Ends @value as compact JSON text in @ret; takes over the reference of @value. */
HWS_MUST_CHECK int call_json_text(json_t *value, char **ret, struct hws_error *err);

/** An extent in the words of the public header. */
struct hws_extent call_extent(uint64_t start, const struct block_extent *found);

/** Does @b, which begins where @a ends, go on with what @a is? */
bool call_extents_join(const struct hws_extent *a, const struct hws_extent *b);

/** Ranges are asked about in pieces of this many bytes. */
#define CALL_MAP_STEP ((uint64_t)1 << 50)

/** `info` of one open node, or of its whole chain. */
HWS_MUST_CHECK int co_call_info(struct block_node *node, bool chain, json_t **ret,
                                struct hws_error *err);

#endif
