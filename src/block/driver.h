/*
 * What a driver is: the one table that a format, backend or filter fills in. For driver authors;
 * users of the engine include block/block.h.
 *
 * The core calls a driver only with requests that are inside the node's size, aligned to its limits
 * and no larger than them, never with length 0, never with a flag that the driver does not support,
 * and never writes on a read-only node. Drivers assert nothing of this again. Two widenings, both
 * for what lies below formats: where size_bytes is no multiple of request_alignment, the last
 * request may end at the size rounded up (reads give zeroes there); and writes to a driver that
 * `grows` may go past the end.
 *
 * Depth. Chains have up to BLOCK_DEPTH_MAX layers and coroutine stacks are small, so nothing walks
 * backing files by recursion: co_block_open_named() only notes a backing file, which the core opens
 * after co_open has returned, and co_read_layer() only names the holes of its layer, which the core
 * fills from the layers below.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_DRIVER_H
#define BLOCK_DRIVER_H

#include "block/block.h"
#include "block/options.h"
#include <stdatomic.h>

enum block_kind { BLOCK_FORMAT, BLOCK_BACKEND, BLOCK_FILTER };

/** Filled by co_open, constant afterwards. Zero means no limit (1 for alignments). */
struct block_limits {
    uint32_t request_alignment; /* offsets and lengths of reads and writes; power of two */
    uint32_t memory_alignment;  /* addresses of buffers; power of two */
    uint32_t zero_alignment;    /* co_write_zeroes gets multiples of this; the core writes the rest
                                   as data, unless it reads as zeroes already. The end
                                   of the image counts as aligned */
    uint32_t discard_alignment; /* smaller discards do nothing; likewise at the end */
    uint32_t optimal_bytes;     /* best request size and alignment (a cluster) */
    uint64_t transfer_max;      /* bytes a read or write */
    uint64_t zero_max, discard_max;
    bool rotational; /* it lies on a disk that turns; of formats, what their data lies on */
};

struct block_node {
    const struct block_driver *driver;
    void
        *state; /* the driver's, allocated zeroed by the core (state_bytes), freed after co_close */
    char *filename; /* path, or a short description; set by the core before co_open, may be replaced
                     */
    _Atomic uint64_t size_bytes; /* set by co_open, changed by co_resize */
    struct block_limits limits;
    unsigned write_flags; /* enum block_request_flags that co_write takes; the core emulates FUA */
    unsigned zero_flags;  /* the same for co_write_zeroes */
    int compress_level_max; /* of co_write_compressed; set by co_open where the driver has it */
    bool read_only;
    bool check_only;     /* opened for check/repair: tolerate what the checker is there to find */
    unsigned open_flags; /* enum block_open_flags */
    struct block_node *child[BLOCK_ROLES]; /* BACKING: NULL in co_open; may change while drained */
    const char *beneath; /* not NULL: the file must resolve below this folder (rt_open.beneath);
                            set by the core for files that images name */
    struct block_context *context; /* shared by the whole graph: policy, cache budget */
    struct block_core *core; /* the core's own: references, serialised requests, permissions */
};

/*
 * What a read of one layer left to the layers below. More holes than fit are no error: the core
 * asks again from the first one that did not.
 */
#define BLOCK_HOLES 16

struct block_holes {
    unsigned count;
    bool overflowed;
    uint64_t resume; /* where overflowed: the first byte not covered by the holes noted */
    struct block_hole {
        uint64_t offset, length;
    } hole[BLOCK_HOLES];
};

/** Notes a hole of the running co_read_layer(); neighbours are joined. Ascending offsets. */
void block_hole(struct block_holes *holes, uint64_t offset, uint64_t length);

struct block_driver {
    const char *name;
    const char *help; /* one line */
    enum block_kind kind;
    bool needs_file; /* the description must have a "file" child; opened before co_open */
    bool grows; /* backends: co_write past the end makes it longer; the core updates size_bytes */
    /* The option that takes the text after "name:" ("filename" of file:/a/b, "size" of null://1G);
       NULL: it has no such form. Backends only */
    const char *text_option;
    size_t state_bytes;
    const struct option_desc *options; /* of open descriptions */
    size_t options_bytes;
    const struct option_desc *create_options;
    size_t create_options_bytes;
    const struct option_desc *amend_options; /* of co_amend; what is not given stays as it is */
    size_t amend_options_bytes;

    /** How surely the first @length bytes of a file are this format, 0..100. Pure. Formats only. */
    int (*probe)(const uint8_t *head, size_t length);

    /**
     * Opens. @options points to a parsed struct of the `options` table, valid during the call.
     * node->child[BLOCK_FILE] is open where needs_file. Sets size_bytes and limits. On failure
     * frees what it took (not node->state, not the children).
     */
    int (*co_open)(struct block_node *node, const void *options, struct hws_error *err);
    /** Writes back and marks clean where writable, frees what co_open took, whatever happens. */
    int (*co_close)(struct block_node *node, struct hws_error *err);

    int (*co_read)(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags);
    /**
     * Instead of co_read, for formats with backing files: reads what this layer has, and calls
     * block_hole() for each range that the layer below answers, in ascending order. It leaves the
     * bytes of holes alone; without a backing node the core zeroes them.
     */
    int (*co_read_layer)(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags, struct block_holes *holes);
    /**
     * Reads what takes no waiting: all of @length bytes, inside the node, or -EAGAIN and the core
     * reads them in a coroutine. Suspends never. NULL: always waits.
     */
    int (*try_read)(struct block_node *node, uint64_t offset, void *bytes, size_t length);
    int (*co_write)(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags);
    /* Whole units of limits.optimal_bytes (the last one may be cut by the end of the image), one a
       call; @level 0 (the driver's choice) to node->compress_level_max. What does not get smaller
       is written as it is. NULL: not offered. */
    int (*co_write_compressed)(struct block_node *node, uint64_t offset, struct sgl buffer,
                               int level);
    /* NULL: the core writes zeroes. -ENOTSUP: the core writes zeroes for this request. */
    int (*co_write_zeroes)(struct block_node *node, uint64_t offset, uint64_t length,
                           unsigned flags);
    int (*co_discard)(struct block_node *node, uint64_t offset, uint64_t length);
    /* NULL: nothing to write back. The core flushes BLOCK_FILE and BLOCK_DATA afterwards, unless
       flushes_children says that the driver has done that itself, in its own order. */
    int (*co_flush)(struct block_node *node);
    bool flushes_children;
    /* NULL: all of it is data in this layer (filters: what the file child answers). */
    int (*co_status)(struct block_node *node, uint64_t offset, uint64_t length,
                     struct block_extent *ret);
    int (*co_resize)(struct block_node *node, uint64_t size_bytes, struct hws_error *err);
    /* Of a range inside the node that reads as zeroes. NULL: not offered. */
    int (*co_preallocate)(struct block_node *node, uint64_t offset, uint64_t length,
                          enum block_preallocation mode, struct hws_error *err);
    bool prealloc_metadata; /* it takes BLOCK_PREALLOC_METADATA */
    int (*co_create)(const void *create_options, struct block_node *file, struct hws_error *err);
    /** Backends: takes away what co_create, which returned 1, has made. */
    int (*co_remove)(const void *create_options, struct hws_error *err);
    /**
     * Copies inside the storage, of @to's driver; @from, of any driver, is the node that stores the
     * bytes. May copy less than @length. @return bytes copied, > 0, or -ENOTSUP: the caller reads
     * and writes. NULL: not offered.
     */
    int64_t (*co_copy_range)(struct block_node *from, uint64_t from_offset, struct block_node *to,
                             uint64_t to_offset, uint64_t length);
    int (*co_check)(struct block_node *node, unsigned repair, struct block_check *check,
                    struct hws_error *err);
    /**
     * Internal snapshots. @ret as block_snapshots_free() takes it. Changes come with nothing in
     * flight on the node; one that fails has changed nothing. Names are @name's bytes; @id_or_name
     * is an ID, else the first of that name: -ENOENT. co_snapshot_apply sets size_bytes.
     */
    int (*co_snapshots)(struct block_node *node, struct block_snapshot **ret, size_t *ret_count,
                        struct hws_error *err);
    int (*co_snapshot_create)(struct block_node *node, const char *name, struct hws_error *err);
    int (*co_snapshot_apply)(struct block_node *node, const char *id_or_name,
                             struct hws_error *err);
    int (*co_snapshot_delete)(struct block_node *node, const char *id_or_name,
                              struct hws_error *err);
    /** Adds the driver's own members to @info. */
    int (*co_info)(struct block_node *node, json_t *info, struct hws_error *err);

    /** Drops all data of this layer, so that it reads as the one below. Durable on return. */
    int (*co_make_empty)(struct block_node *node, struct hws_error *err);
    /**
     * Records another backing file (NULL: none) with its format; the node reads on from where it
     * read before. Durable on return, and a crash leaves the one or the other. After all that was
     * written before.
     */
    int (*co_change_backing)(struct block_node *node, const char *file, const char *format,
                             struct hws_error *err);
    /**
     * The host bytes that an image of these creation options would take. @source what will be
     * copied into it, or NULL: nothing.
     */
    int (*co_measure)(const void *create_options, struct block_node *source,
                      struct block_measure *ret, struct hws_error *err);
    /*
     * Dirty bitmaps that the image stores (block/bitmap.h); co_open makes them with
     * block_bitmap_attach(), co_close stores them. NULL: it stores none. All but co_bitmap_load
     * with the node idle.
     */
    /** Reads the bits of @bitmap, which has room for them, all clean. */
    int (*co_bitmap_load)(struct block_node *node, struct block_bitmap *bitmap,
                          struct hws_error *err);
    /** May @bitmap, which is new, be stored? Only notes it: co_bitmaps_store writes. */
    int (*co_bitmap_add)(struct block_node *node, struct block_bitmap *bitmap,
                         struct hws_error *err);
    /** Forgets one; likewise. */
    void (*bitmap_remove)(struct block_node *node, struct block_bitmap *bitmap);
    /** Stores all as they are, durably, at once. */
    int (*co_bitmaps_store)(struct block_node *node, struct hws_error *err);

    /**
     * Changes the options that @amend_options (parsed from the table of that name) gives, while
     * nothing is in flight.
     */
    int (*co_amend)(struct block_node *node, const void *amend_options, bool force,
                    const struct block_progress *progress, struct hws_error *err);

    /**
     * Moves what lies at the end of the file into holes in front of it, and cuts the file, while
     * nothing is in flight. @zeroes: clusters of zeroes are dropped before. @ret is filled also
     * where it fails.
     */
    int (*co_compact)(struct block_node *node, bool zeroes, const struct block_progress *progress,
                      struct block_compact *ret, struct hws_error *err);

    /** A live push changes roles: the node loses or regains the right to write. Writes back first.
     */
    int (*co_set_read_only)(struct block_node *node, bool read_only, struct hws_error *err);
};

/*
 * Backends create and open their own storage: `co_create` gets file == NULL and makes the file that
 * its create options name. Their create table holds the open options too, and `overwrite`, a bool
 * that the core fills in. It returns 1 where the file is new, so that the core calls co_remove when
 * a later step fails, and 0 where it replaced the content of one. Formats get the opened, writable,
 * empty file.
 */

/**
 * In a format's co_create: the opened, writable, empty data file that its option `data_file` names,
 * which the core has made beside the image's own @file; NULL where none was named.
 */
struct block_node *block_create_data(const struct block_node *file);

/**
 * Backends: tells what storage @node is, after co_stat and before the file is locked. Refuses
 * (-ELOOP) storage that a node above uses already: an image that backs itself.
 */
HWS_MUST_CHECK int block_identify(struct block_node *node, uint64_t device, uint64_t inode,
                                  struct hws_error *err);

/** Tells as well when that storage was made (rt_stat.birth_ns); 0 or no call: unknown. */
void block_identify_birth(struct block_node *node, uint64_t birth_ns);

/** Tells the policy's progress. @return 0 or -ECANCELED. */
HWS_MUST_CHECK int block_progress(const struct block_node *node, uint64_t done_bytes,
                                  uint64_t total_bytes);

/** What the open call that made @node shares between its nodes; never NULL. */
const struct block_policy *block_policy_of(const struct block_node *node);

/**
 * Opens the file that an image names, as child @role of @node: resolves @name against the folder of
 * @node's own file, holds it to the policy, refuses loops and chains past BLOCK_DEPTH_MAX. Called
 * in co_open. BLOCK_DATA is open on return, with the rights of BLOCK_FILE; BLOCK_BACKING is only
 * noted, opened read-only by the core once co_open has returned, and left out with
 * BLOCK_OPEN_NO_BACKING or where the description gives (or, with null, denies) a backing node
 * itself.
 * @format the driver that the image records, or NULL: then the format is probed, and a file without
 * a known header is refused (raw is never found by probing), with a hint on what to do. A data file
 * without a format is opened as plain storage.
 */
HWS_MUST_CHECK int co_block_open_named(struct block_node *node, enum block_role role,
                                       const char *name, const char *format, struct hws_error *err);

/**
 * Reads from a child that may be shorter than its parent (a backing file, or a container file whose
 * last cluster is cut): bytes past its end, or all of them where @child is NULL, are zeroes. Walks
 * down any number of layers without recursion.
 */
HWS_MUST_CHECK int co_block_read_padded(struct block_node *child, uint64_t offset,
                                        struct sgl buffer);

/** Takes @bytes from the chain's metadata cache budget. @return false where it is used up. */
bool block_cache_reserve(struct block_context *context, uint64_t bytes);
void block_cache_release(struct block_context *context, uint64_t bytes);
/** The whole budget. */
uint64_t block_cache_budget(const struct block_context *context);

/**
 * The one path for corrupt input: counts it on the node, logs it once a place, and returns -EIO
 * (data path) with the text in @err (may be NULL). @offset where in the file the bad bytes lie.
 */
HWS_MUST_CHECK int block_corrupt(struct block_node *node, uint64_t offset, struct hws_error *err,
                                 const char *format, ...) HWS_PRINTF(4, 5);

#endif
