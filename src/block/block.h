/*
 * The block engine as its users see it: opening a graph of nodes, requests on it, and roots.
 *
 *     export, job           src/export, src/job
 *        |
 *     block_root            statistics, limits, drain, cache mode, the top that can be replaced
 *        |
 *     block_node  qcow2     format driver:   image container -> linear device
 *        |    \
 *        |     backing ---> block_node qcow2 ---> ...
 *        |
 *     block_node  file      backend driver:  bytes from somewhere
 *
 * Offsets and lengths are bytes. Data-path calls return 0 or a negative errno. Any queue thread may
 * issue requests on a node; structural changes (open, close, resize, replace) come from one
 * coroutine at a time, the one that controls the graph.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include "base/common.h"
#include "base/histogram.h"
#include "base/sgl.h"
#include "hawser/error.h"
#include "rt/rt.h"
#include <jansson.h>

struct block_node;
struct block_root;
struct block_context;
struct block_driver;
struct block_bitmap;
struct block_keep;

/** Chains deeper than this are refused: public clouds have seen 1,000 files. */
#define BLOCK_DEPTH_MAX 4096

/** Virtual sizes end at the largest offset that the kernel takes. */
#define BLOCK_SIZE_MAX ((uint64_t)INT64_MAX & ~(uint64_t)4095)

/* ---- opening ---- */

/* Cache modes, as qemu's: how a root treats flushes, how the backend opens its file. */
enum block_cache {
    BLOCK_CACHE_WRITEBACK,    /* page cache; durable at flush */
    BLOCK_CACHE_NONE,         /* O_DIRECT; durable at flush */
    BLOCK_CACHE_WRITETHROUGH, /* page cache; every write is durable when it completes */
    BLOCK_CACHE_UNSAFE,       /* flushes are ignored: for scratch data only */
    BLOCK_CACHE_DIRECTSYNC,   /* O_DIRECT; every write is durable when it completes */
};

enum block_discard { BLOCK_DISCARD_UNMAP, BLOCK_DISCARD_IGNORE };

enum block_detect_zeroes { BLOCK_DETECT_OFF, BLOCK_DETECT_ON, BLOCK_DETECT_UNMAP };

enum block_open_flags {
    BLOCK_OPEN_WRITE = 1 << 0,      /* else read-only */
    BLOCK_OPEN_NO_BACKING = 1 << 1, /* leave out what the image names as backing file */
    BLOCK_OPEN_NO_LOCK = 1 << 2,    /* do not take or test the image locks (--force-share) */
    BLOCK_OPEN_CHECK = 1 << 3,      /* for check/repair: open images that are marked corrupt */
    BLOCK_OPEN_PROBE = 1 << 4,      /* find the format of the top image out; never answers raw */
    BLOCK_OPEN_RESIZE = 1 << 5,     /* the node will be resized: take that permission too. The core
                                       sets it for the file below a writable format */
};

/** What one open call shares between all nodes that it opens. All fields may be zero. */
struct block_policy {
    enum block_cache cache;
    /* What images may name: folders, single files, and descriptions that are no path (URIs, JSON),
       word for word; NULL-terminated. NULL: only the folder of the image that does the naming.
       {"/", NULL}: any path */
    const char *const *allow;
    bool trust_names;     /* `allow` does not count: any name, wherever it leads */
    bool probe_raw;       /* BLOCK_OPEN_PROBE answers raw where no header is known */
    uint64_t cache_bytes; /* metadata cache budget of the whole chain; 0: 16 MiB */
    struct block_keep
        *keep; /* NULL, or where unwritten changes survive the process (block/keep.h) */
    /* NULL, or told how far long work inside a call is; not 0: it ends with -ECANCELED. */
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

/**
 * An open description from what a user typed:
 *   qcow2:file:/a/b.qcow2     drivers named, outermost first
 *   /a/b.qcow2 or b.qcow2     a plain path: {"driver": <probe>, "file": {"driver": "file", ...}}
 *   file:///a/b, null://1G    a URI: the scheme is the driver
 *   json:{...} or {...}       {"driver": "qcow2", "file": {...}, "backing": {...}|null, option:
 * value}
 * @format NULL, or the driver to put on top of a plain path or URI ("raw" included).
 * @ret a new reference: json_decref().
 */
HWS_MUST_CHECK int block_describe(const char *text, const char *format, json_t **ret,
                                  struct hws_error *err);

/**
 * Opens the graph that @description describes. Backing and data files that images name are opened
 * too, read-only, where @policy allows. @ret one reference, ended by co_block_close().
 */
HWS_MUST_CHECK int co_block_open(const json_t *description, unsigned flags,
                                 const struct block_policy *policy, struct block_node **ret,
                                 struct hws_error *err);

/**
 * Drops a reference; the last one flushes (when writable), marks the image clean and closes the
 * children. The node is gone whatever is returned. @return 0 or what the final flush or clean mark
 * failed with, told in @err (may be NULL). @node may be NULL.
 */
int co_block_close(struct block_node *node, struct hws_error *err);

struct block_node *block_ref(struct block_node *node);

/* ---- what a node is ---- */

enum block_role { BLOCK_FILE, BLOCK_BACKING, BLOCK_DATA, BLOCK_ROLES };

uint64_t block_size(const struct block_node *node);
bool block_is_read_only(const struct block_node *node);
const char *block_driver_name(const struct block_node *node);
/** Path or description for messages. */
const char *block_filename(const struct block_node *node);
/** True where both nodes are known to be the same file or device, opened once or twice. */
bool block_same_storage(const struct block_node *a, const struct block_node *b);
/** NULL where there is none. Not a new reference. */
struct block_node *block_child(const struct block_node *node, enum block_role role);

/**
 * Everything worth knowing, for `info`: driver, filename, virtual-size, actual-size, cluster-size,
 * backing-filename, format-specific{...}, children. @ret a new reference.
 */
HWS_MUST_CHECK int co_block_info(struct block_node *node, json_t **ret, struct hws_error *err);

/* ---- requests on a node ---- */

enum block_request_flags {
    BLOCK_FUA = 1 << 0,         /* durable before it completes */
    BLOCK_MAY_UNMAP = 1 << 1,   /* write-zeroes may deallocate */
    BLOCK_NO_FALLBACK = 1 << 2, /* write-zeroes: -ENOTSUP rather than writing zeroes slowly */
    BLOCK_OWN = 1 << 3, /* write-zeroes: this layer must hold them itself, although the layers below
                           read as zeroes there already: they are about to change */
};

/*
 * The core checks the range, splits at the driver's limits, pads what is not aligned, and emulates
 * what the driver has not got. Requests past the end: -EINVAL (reads and writes of 0 bytes
 * succeed).
 */
HWS_MUST_CHECK int co_block_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                                 unsigned flags);
/** Outside of coroutines too: reads what takes no waiting, all of it, or -EAGAIN. */
HWS_MUST_CHECK int block_try_read(struct block_node *node, uint64_t offset, void *bytes,
                                  size_t length);
HWS_MUST_CHECK int co_block_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                                  unsigned flags);
HWS_MUST_CHECK int co_block_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                                         unsigned flags);
/**
 * Writes compressed, where the format can: -ENOTSUP. @offset a multiple of the cluster size
 * (block_cluster_bytes()), the length too unless it ends with the image. @level of the image's
 * codec; 0: its default. -EINVAL beyond block_compress_level_max().
 */
HWS_MUST_CHECK int co_block_write_compressed(struct block_node *node, uint64_t offset,
                                             struct sgl buffer, int level);
/** The highest level of co_block_write_compressed() on @node; 0: there is no such writing. */
int block_compress_level_max(const struct block_node *node);
/** What the format allocates in, 0 where it does not. */
uint32_t block_cluster_bytes(const struct block_node *node);
/** Does its data lie on a disk that turns? That of the layers below is not looked at. */
bool block_is_rotational(const struct block_node *node);
/** A hint; parts that the driver cannot discard are left. */
HWS_MUST_CHECK int co_block_discard(struct block_node *node, uint64_t offset, uint64_t length);
/** All writes completed before are durable on return, in the node and what it writes to. */
HWS_MUST_CHECK int co_block_flush(struct block_node *node);

enum block_status_flags {
    BLOCK_STATUS_DATA = 1 << 0,      /* the bytes are stored somewhere */
    BLOCK_STATUS_ZERO = 1 << 1,      /* reads as zeroes */
    BLOCK_STATUS_ALLOCATED = 1 << 2, /* this layer answers; else look at the backing node */
    BLOCK_STATUS_MAPPED = 1 << 3,    /* `file` and `host_offset` are valid */
    BLOCK_STATUS_COMPRESSED = 1 << 4,
};

struct block_extent {
    uint64_t length; /* > 0 */
    unsigned flags;
    uint64_t host_offset; /* where the bytes lie in `file` */
    const struct block_node *file;
    unsigned depth; /* layers below the asked node down to the one that answered; 0: itself */
};

/** What lies at @offset: one extent of at most @length bytes, looking into this layer only. */
HWS_MUST_CHECK int co_block_status(struct block_node *node, uint64_t offset, uint64_t length,
                                   struct block_extent *ret);
/** The same through the whole chain: `depth` tells the layer. Past a short backing file: ZERO. */
HWS_MUST_CHECK int co_block_status_chain(struct block_node *node, uint64_t offset, uint64_t length,
                                         struct block_extent *ret);

/**
 * Copies @length bytes inside the storage (reflink, copy_file_range, server-side copy), as far as
 * it goes; both ranges must lie inside their nodes. Formats pass it on where their clusters allow.
 * @ret_copied bytes copied, also on failure; the rest is the caller's to read and write.
 * @return 0 when all was copied, -ENOTSUP where no offload is possible, or another -errno.
 */
HWS_MUST_CHECK int co_block_copy_range(struct block_node *from, uint64_t from_offset,
                                       struct block_node *to, uint64_t to_offset, uint64_t length,
                                       uint64_t *ret_copied);

/** Changes the virtual size. The new end reads as zeroes, whatever a backing file holds there. */
HWS_MUST_CHECK int co_block_resize(struct block_node *node, uint64_t size_bytes,
                                   struct hws_error *err);

/**
 * Records another backing file in an image, durably and in one step; @file NULL: none, else
 * @format is that of the file. The node goes on with the backing node that it has: for images that
 * are about to be closed. What the image reads as is the caller's care.
 */
HWS_MUST_CHECK int co_block_change_backing(struct block_node *node, const char *file,
                                           const char *format, struct hws_error *err);

/**
 * Gives a layer below the top the right to write, and its files: for data that is committed into
 * it. Nothing else of the graph may be in use meanwhile but reading, and only the caller's.
 */
HWS_MUST_CHECK int co_block_allow_write(struct block_node *node, struct hws_error *err);

/** Takes that right away again: writes back, and tells it by the image's locks. Likewise. */
HWS_MUST_CHECK int co_block_forbid_write(struct block_node *node, struct hws_error *err);

/**
 * Drops all that this layer holds: it reads as what is below it. Durable on return; a crash leaves
 * parts, so that what is below must tell the same already.
 */
HWS_MUST_CHECK int co_block_make_empty(struct block_node *node, struct hws_error *err);

/* ---- internal snapshots ---- */

struct block_snapshot {
    char *id, *name; /* bytes as the image has them, up to the first zero */
    uint64_t vm_state_bytes, disk_bytes;
    uint64_t date_sec; /* since 1970, UTC */
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    bool has_icount;
    uint64_t icount;
};

/** The snapshots inside the image, in its order. None where the format has no such thing. */
HWS_MUST_CHECK int co_block_snapshots(struct block_node *node, struct block_snapshot **ret,
                                      size_t *ret_count, struct hws_error *err);
void block_snapshots_free(struct block_snapshot *snapshots, size_t count);
/** The same as JSON in QEMU's words: [{"id", "name", "vm-state-size", ...}]; a new reference. */
HWS_MUST_CHECK int co_block_snapshots_json(struct block_node *node, json_t **ret,
                                           struct hws_error *err);

enum block_snapshot_action {
    BLOCK_SNAPSHOT_CREATE,
    BLOCK_SNAPSHOT_APPLY, /* the image's state becomes that of the snapshot, size included */
    BLOCK_SNAPSHOT_DELETE,
};

/** The longest name, as other implementations have it. */
#define BLOCK_SNAPSHOT_NAME_MAX 255

/**
 * With no request in flight on @node (co_root_snapshot() sees to that). @name of a new snapshot;
 * else its ID, or its name where no ID is the same. A failure changes nothing.
 */
HWS_MUST_CHECK int co_block_snapshot(struct block_node *node, enum block_snapshot_action action,
                                     const char *name, struct hws_error *err);
/** Told how far long work is, in bytes; a result other than 0 ends it with -ECANCELED. */
struct block_progress {
    int (*step)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};
/** @progress may be NULL. @return 0 or -ECANCELED. */
HWS_MUST_CHECK int block_progress_step(const struct block_progress *progress, uint64_t done_bytes,
                                       uint64_t total_bytes);

/**
 * Changes options that the image was made with: members of @options by the driver's table
 * (amend_options). No request may be in flight. A failure leaves a whole image, in which some of
 * the options may have changed; @force: a smaller size is meant.
 * @return 0; -EOPNOTSUPP the format has none; -ENOTSUP the option is for new images only; -EINVAL a
 * value, or an option that nobody knows; more from the driver.
 */
HWS_MUST_CHECK int co_block_amend(struct block_node *node, const json_t *options, bool force,
                                  const struct block_progress *progress, struct hws_error *err);

enum block_preallocation {
    BLOCK_PREALLOC_OFF,
    BLOCK_PREALLOC_METADATA, /* tables only */
    BLOCK_PREALLOC_FALLOC,   /* blocks reserved */
    BLOCK_PREALLOC_FULL,     /* zeroes written */
};

/** Does @node know preallocation of that kind? To be asked before it is resized. */
HWS_MUST_CHECK int block_preallocation_check(const struct block_node *node,
                                             enum block_preallocation mode, struct hws_error *err);

/**
 * Gives a range that reads as zeroes, as after a resize, storage of its own, as far as it has none;
 * what it reads as stays. Tells the policy's progress. An error leaves a part of it done.
 */
HWS_MUST_CHECK int co_block_preallocate(struct block_node *node, uint64_t offset, uint64_t length,
                                        enum block_preallocation mode, struct hws_error *err);

struct block_compact {
    uint64_t bytes_before, bytes_after; /* of the file */
    uint64_t moved_bytes, zeroed_bytes;
};

/**
 * Makes the file smaller without changing what it holds. No request may be in flight. With @zeroes
 * stored clusters of zeroes are dropped too. The work may end at any moment: an image is whole
 * throughout. -EOPNOTSUPP where the format does not have it.
 */
HWS_MUST_CHECK int co_block_compact(struct block_node *node, bool zeroes,
                                    const struct block_progress *progress,
                                    struct block_compact *ret, struct hws_error *err);

/* ---- making and checking images ---- */

/**
 * Makes an image: @options {"driver": "qcow2", "file": {...}, "size": ..., option: value}. Existing
 * files are replaced only with @overwrite. A failure leaves no file that this call made.
 */
HWS_MUST_CHECK int co_block_create(const json_t *options, bool overwrite,
                                   const struct block_policy *policy, struct hws_error *err);

/** What an image needs of its storage. */
struct block_measure {
    uint64_t required;        /* with what the source holds, if there is one */
    uint64_t fully_allocated; /* with every byte of the device written */
    uint64_t bitmaps;         /* for the source's persistent bitmaps, on top */
    bool has_bitmaps;         /* source and target can have some */
};

/**
 * Measures an image that co_block_create() would make of @options (as there; "file" is not needed
 * and not looked at) and that @source would be copied into. @source NULL: an empty one.
 * -ENOTSUP where the format does not say.
 */
HWS_MUST_CHECK int co_block_measure(const json_t *options, struct block_node *source,
                                    struct block_measure *ret, struct hws_error *err);

enum block_repair { BLOCK_REPAIR_LEAKS = 1 << 0, BLOCK_REPAIR_ERRORS = 1 << 1 };

struct block_check {
    uint64_t corruptions, leaks, errors; /* what is left after a repair; errors: not checked */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t image_end_offset;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    /** One line a finding, if set; the first ones, then a count. */
    void (*report)(void *arg, const char *line);
    void *report_arg;
    /** If set: how many bytes of how many were looked at in this pass. Not 0 ends it: -ECANCELED.
     */
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

/** @repair bits of enum block_repair. @return 0 when the check ran (look at @check), or -errno. */
HWS_MUST_CHECK int co_block_check(struct block_node *node, unsigned repair,
                                  struct block_check *check, struct hws_error *err);

/* ---- drivers ---- */

/**
 * Hands the table of all drivers to the core, once, at the start of the program and before anything
 * is opened: drivers_register() of src/drivers, or a test's own table. NULL-terminated, not copied.
 */
void block_drivers_register(const struct block_driver *const *table);

/**
 * The format that begins like the @length bytes at @head, where it is one that others read and no
 * driver here does; else NULL. @head is the first 512 bytes of a file, or what it has. Pure.
 */
const char *block_foreign_format(const void *head, size_t length);
/** The format driver that is surest of the @length bytes at @head, or NULL. Pure. */
const struct block_driver *block_probe(const uint8_t *head, size_t length);

/** NULL-terminated table of all drivers, and look-up by name (NULL where there is none). */
const struct block_driver *const *block_drivers(void);
const struct block_driver *block_driver_find(const char *name);

/* ---- roots ---- */

enum block_op {
    BLOCK_OP_READ,
    BLOCK_OP_WRITE,
    BLOCK_OP_ZERO,
    BLOCK_OP_DISCARD,
    BLOCK_OP_FLUSH,
    BLOCK_OPS
};

/** Counters of one root; summed over its queues by block_root_stats(). */
struct block_stats {
    uint64_t operations[BLOCK_OPS];
    uint64_t bytes[BLOCK_OPS];
    uint64_t failures[BLOCK_OPS];
    uint64_t latency_ns_total[BLOCK_OPS];
    uint64_t latency_ns_p50[BLOCK_OPS], latency_ns_p99[BLOCK_OPS];
    uint64_t in_flight;
};

struct block_root_options {
    enum block_cache cache;
    enum block_discard discard;
    enum block_detect_zeroes detect_zeroes;
    bool read_only;
};

/** Takes its own reference to @node. @return NULL when out of memory. */
HWS_MUST_CHECK struct block_root *block_root_new(struct block_node *node,
                                                 const struct block_root_options *options);
/**
 * Drains, then drops the reference. No request of another thread may be running or come: exports
 * end first. @return as co_block_close().
 */
int co_block_root_free(struct block_root *root, struct hws_error *err);

/** The top node now; not a new reference; only the controlling coroutine may keep it. */
struct block_node *block_root_node(const struct block_root *root);
uint64_t block_root_size(const struct block_root *root);

/* Requests of users. They wait while the root is drained, are counted, and follow the root's modes.
 */
HWS_MUST_CHECK int co_root_read(struct block_root *root, uint64_t offset, struct sgl buffer,
                                unsigned flags);
/** As block_try_read(), on a queue's thread; -EAGAIN also while the root is drained. */
HWS_MUST_CHECK int root_try_read(struct block_root *root, uint64_t offset, void *bytes,
                                 size_t length);
HWS_MUST_CHECK int co_root_write(struct block_root *root, uint64_t offset, struct sgl buffer,
                                 unsigned flags);
HWS_MUST_CHECK int co_root_write_compressed(struct block_root *root, uint64_t offset,
                                            struct sgl buffer, int level);
HWS_MUST_CHECK int co_root_write_zeroes(struct block_root *root, uint64_t offset, uint64_t length,
                                        unsigned flags);
HWS_MUST_CHECK int co_root_discard(struct block_root *root, uint64_t offset, uint64_t length);
HWS_MUST_CHECK int co_root_flush(struct block_root *root);
HWS_MUST_CHECK int co_root_status(struct block_root *root, uint64_t offset, uint64_t length,
                                  struct block_extent *ret);

/**
 * Stops new requests and waits for those in flight. Nests. Requests that arrive meanwhile wait
 * until the last co_root_undrain().
 */
void co_root_drain(struct block_root *root);
void co_root_undrain(struct block_root *root);

/** Resizes with the root drained. Exports learn of it from their own size callback (below). */
HWS_MUST_CHECK int co_root_resize(struct block_root *root, uint64_t size_bytes,
                                  struct hws_error *err);

/** co_block_snapshot() of the top, with the root drained. */
HWS_MUST_CHECK int co_root_snapshot(struct block_root *root, enum block_snapshot_action action,
                                    const char *name, struct hws_error *err);

/**
 * Takes an overlay snapshot of a live chain: drains and flushes, then @overlay, which was created
 * with the present top as its backing file and opened with BLOCK_OPEN_NO_BACKING, becomes the top,
 * and the old top its backing child, read-only. @overlay's reference passes to the root on success.
 * On failure the chain is as it was.
 */
HWS_MUST_CHECK int co_root_push(struct block_root *root, struct block_node *overlay,
                                struct hws_error *err);

/**
 * Replaces the top by @node of the same or another chain, with the root drained; the old top is
 * closed. Used to go back to a snapshot. @node's reference passes to the root on success.
 */
HWS_MUST_CHECK int co_root_replace(struct block_root *root, struct block_node *node,
                                   struct hws_error *err);

/**
 * With the root drained: the layers between @above and @below, both of its chain, fall out of it,
 * and the image @above records @name and @format (of @below, as @above is to name it) durably
 * first.
 * @below NULL: all layers under @above fall out, and it has no backing file then. What @above reads
 * as must be the same before and after. @ret_fallen the uppermost of them, to be closed by
 * co_block_close(). On failure the chain is as it was.
 */
HWS_MUST_CHECK int co_root_cut(struct block_root *root, struct block_node *above,
                               struct block_node *below, const char *name, const char *format,
                               struct block_node **ret_fallen, struct hws_error *err);

/**
 * With the root drained: @below, a layer of its chain with the same size and the same content,
 * becomes the top. @return the old top, which all layers that were above @below hang on, to be
 * closed by co_block_close().
 */
struct block_node *block_root_sink(struct block_root *root, struct block_node *below);

void block_root_stats(const struct block_root *root, struct block_stats *ret);
/** The whole latency histogram of one kind of request, summed over queues. */
void block_root_histogram(const struct block_root *root, enum block_op op,
                          uint64_t ret_count[HISTOGRAM_BUCKETS]);

/** @fn runs on the controlling coroutine after the size changed. One listener an export. */
void block_root_on_resize(struct block_root *root, void (*fn)(void *arg, uint64_t size_bytes),
                          void *arg);

#endif
