/*
 * Work on image files: create, look at, check, map, resize, and take overlay snapshots.
 *
 * Every call blocks until the work is done, runs its own I/O runtime inside, and shares nothing
 * with other calls, so any thread may make any of them at any time; none of them may be called from
 * a signal handler. Sizes and offsets are bytes. Functions return 0 or a negative errno, with the
 * reason in `err` (may be NULL; other pointers may not unless it says so). Images are locked as
 * QEMU's tools lock them: an image that somebody else writes is refused with -EAGAIN unless
 * `force_share` is set.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HAWSER_IMAGE_H
#define HAWSER_IMAGE_H

#include "hawser/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How to reach an image. Zero-initialise; only `path` is required. */
struct hws_image {
    /** A path, a URI, "driver:..." or "json:{...}". */
    const char *path;
    /** The format driver of a plain path. NULL: found from the image's header; never answers raw.
     */
    const char *format;
    /** Folders in which the image may name other files; NULL-terminated. NULL: the image's own. */
    const char *const *allow;
    /** Neither take nor test the image locks. Results may be torn when somebody writes. */
    bool force_share;
    /** An internal snapshot, by its ID or else by its name: what is read is its content, and
     * nothing can be written. NULL: the image as it is. */
    const char *snapshot;
    /** Open whatever the image names, wherever that lies: `allow` does not count. For images that
     * the caller trusts as it trusts its own command line. */
    bool trust_names;
    /** A file without a known header is raw, also where an image names it without a format. A guest
     * that writes another format's header into such a disk makes the next open follow it. */
    bool probe_raw;
    /** none, writeback, writethrough, directsync or unsafe; NULL: writeback. */
    const char *cache;
};

/**
 * The name of the format that begins like the @length bytes at @head (512 are enough), where it is
 * one that others read and this library does not; NULL where it is none. Pure.
 */
const char *hws_foreign_format(const void *head, size_t length);

/** The name of the format of this library that begins so, or NULL: raw, foreign or unknown. Pure.
 */
const char *hws_probe(const void *head, size_t length);

/** Marks a size that was not given. */
#define HWS_SIZE_UNSET UINT64_MAX

/**
 * Told how far long work is after each piece of it, never twice at a time, from any thread. A
 * result other than 0 ends the work: it returns -ECANCELED.
 */
typedef int hws_progress_fn(void *arg, uint64_t done_bytes, uint64_t total_bytes);

struct hws_create {
    /** Virtual size; HWS_SIZE_UNSET takes that of the backing image. */
    uint64_t size_bytes;
    /** As it shall be recorded: relative names count from the new image's folder. NULL: none. */
    const char *backing;
    /** Format of the backing image; NULL finds it from the header. */
    const char *backing_format;
    /** "name=value,name=value" texts of the format's own options; NULL-terminated, may be NULL. */
    const char *const *options;
    /** Record the backing file without opening it: size and backing format must be given. */
    bool unsafe_backing;
    /** Replace an existing file. */
    bool overwrite;
    /** Told while preallocation writes; may be NULL. What was begun is removed when it ends it. */
    hws_progress_fn *progress;
    void *progress_arg;
};

/**
 * Makes an image. `image->format` NULL means qcow2. A failure leaves no file that this call made.
 * @ret_json the new image as hws_info() tells it; ended with free(); NULL if not wanted.
 */
int hws_create(const struct hws_image *image, const struct hws_create *create, char **ret_json,
               struct hws_error *err);

/**
 * What an image is, as JSON: an object, or with @chain an array from the image down to the last
 * backing file. @ret_json ended with free().
 */
int hws_info(const struct hws_image *image, bool chain, char **ret_json, struct hws_error *err);

enum hws_repair {
    HWS_REPAIR_LEAKS = 1 << 0,  /* clusters that nothing uses */
    HWS_REPAIR_ERRORS = 1 << 1, /* what else the driver can mend */
};

struct hws_check {
    uint64_t corruptions, leaks;             /* found, and still there */
    uint64_t corruptions_fixed, leaks_fixed; /* found and mended by this call */
    uint64_t errors;                         /* parts that could not be read */
    uint64_t image_end_offset;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    const char *format; /* of the image: a driver's name, valid for good */
};

/** Receives one finding, without a newline. */
typedef void hws_report_fn(void *arg, const char *line);

/**
 * Checks an image's metadata, and repairs what @repair (bits of enum hws_repair) names.
 * @report told each finding; may be NULL. @progress may be NULL; it counts bytes of metadata, and
 * begins anew with each pass over them (a repair takes several). What a repair that was ended, or
 * cut off, leaves behind can be repaired again.
 * @return 0 when the check ran: the verdict is in @ret. -ENOTSUP when the format has no check.
 */
int hws_check(const struct hws_image *image, unsigned repair, hws_report_fn *report,
              void *report_arg, hws_progress_fn *progress, void *progress_arg,
              struct hws_check *ret, struct hws_error *err);

struct hws_extent {
    uint64_t start, length;
    unsigned depth; /* layers below the image that answered; 0: the image itself */
    bool present;   /* some layer of the chain holds these bytes */
    bool data;      /* stored bytes, not known zeroes */
    bool zero;      /* reads as zeroes */
    bool compressed;
    bool mapped;      /* `file` and `offset` are valid */
    uint64_t offset;  /* where the bytes lie in `file` */
    const char *file; /* valid during the call only */
};

/** Receives one extent; a non-zero result stops the walk and is returned by hws_map(). */
typedef int hws_extent_fn(void *arg, const struct hws_extent *extent);

/** Calls @fn for every extent of [@start, @start + @length), neighbours of one kind merged. */
int hws_map(const struct hws_image *image, uint64_t start, uint64_t length, hws_extent_fn *fn,
            void *arg, struct hws_error *err);

struct hws_resize {
    uint64_t size_bytes; /* absolute, or the change where `relative` is not 0 */
    int relative;        /* -1, 0 or 1 */
    bool shrink;         /* cutting data off is meant */
    /* Storage for what is added: "off", "metadata" (formats with tables), "falloc" (reserved) or
       "full" (zeroes written); NULL: off */
    const char *preallocation;
    hws_progress_fn *progress; /* told while preallocation writes; may be NULL */
    void *progress_arg;
};

/** Changes the virtual size; the new end reads as zeroes. @ret_size_bytes the new size. */
int hws_resize(const struct hws_image *image, const struct hws_resize *resize,
               uint64_t *ret_size_bytes, struct hws_error *err);

/**
 * The internal snapshots of an image, as JSON: [{"id", "name", "vm-state-size", "date-sec",
 * "date-nsec", "vm-clock-sec", "vm-clock-nsec", "icount" (where known)}]; empty where the format
 * has none. @ret_json ended with free().
 */
int hws_internal_snapshots(const struct hws_image *image, char **ret_json, struct hws_error *err);

enum hws_snapshot_action {
    HWS_SNAPSHOT_CREATE,
    HWS_SNAPSHOT_APPLY, /* the image becomes what the snapshot is, its size included */
    HWS_SNAPSHOT_DELETE,
};

/**
 * Takes an internal snapshot named @name, or works on the one with the ID @name, else the first one
 * of that name (-ENOENT). A failure leaves the image as it was. -ENOTSUP: the format has no
 * internal snapshots.
 */
int hws_internal_snapshot(const struct hws_image *image, enum hws_snapshot_action action,
                          const char *name, struct hws_error *err);

enum hws_bitmap_kind {
    HWS_BITMAP_ADD, /* all clean, enabled, stored with the image */
    HWS_BITMAP_REMOVE,
    HWS_BITMAP_CLEAR,
    HWS_BITMAP_ENABLE,
    HWS_BITMAP_DISABLE,
    HWS_BITMAP_MERGE, /* what is dirty in `from` becomes so */
};

struct hws_bitmap_action {
    enum hws_bitmap_kind kind;
    uint64_t granularity; /* of ADD: bytes a bit, a power of two of 512 to 2 GiB; 0: the default */
    const char *from;     /* of MERGE: a bitmap of the source */
};

/**
 * Does @count things to the bitmap @name of the image, in order. The first one that fails (-ENOENT,
 * -EEXIST, -EUCLEAN where the bitmap is inconsistent, ...) ends it; those before it stay done.
 * @source the image that has what is merged; NULL: the image itself. hws_info() lists bitmaps:
 * format-specific.data.bitmaps [{"name", "granularity", "flags": ["in-use", "auto"]}].
 */
int hws_bitmap(const struct hws_image *image, const char *name,
               const struct hws_bitmap_action *actions, unsigned count,
               const struct hws_image *source, struct hws_error *err);

/**
 * Makes @overlay with the image as its backing file: the image is the snapshot from then on, and
 * work goes on in the overlay. @format of the overlay; NULL: qcow2.
 */
int hws_snapshot(const struct hws_image *image, const char *overlay, const char *format,
                 struct hws_error *err);

/**
 * Goes back to a snapshot: the image is replaced, in one step that a crash cannot cut in two, by an
 * empty overlay over @layer, a file of its backing chain (NULL: its backing file). What the image
 * and the layers between held is given up; files between are left. @ret_layer what it went back to;
 * free().
 */
int hws_revert(const struct hws_image *image, const char *layer, char **ret_layer,
               struct hws_error *err);

/** What to measure: an image of this format and these options. */
struct hws_measure {
    /** Format of the target; NULL: qcow2. */
    const char *format;
    /** "name=value,..." texts of the format's creation options; NULL-terminated, may be NULL. */
    const char *const *options;
    /** Virtual size of the target; HWS_SIZE_UNSET: that of the source. */
    uint64_t size_bytes;
};

struct hws_measured {
    uint64_t required;        /* host bytes with what the source holds, as metadata and data */
    uint64_t fully_allocated; /* host bytes once every byte of the device was written */
    uint64_t bitmaps;         /* host bytes for the source's persistent bitmaps, on top */
    bool has_bitmaps;         /* source and target can have persistent bitmaps */
};

/**
 * Tells how many bytes of storage an image will take, before it is made: to size a volume for it.
 * The numbers are those of qemu-img's `measure`. @source what will be converted, or NULL: then an
 * empty image of measure->size_bytes. -ENOTSUP where the format does not say.
 */
int hws_measure(const struct hws_image *source, const struct hws_measure *measure,
                struct hws_measured *ret, struct hws_error *err);

struct hws_commit {
    /** The layer of the chain to commit into, by path; NULL: the backing file. */
    const char *base;
    /** Leave the image as it is. Always so with a base further down: what lies between reads
     * wrongly afterwards, the image does not. */
    bool keep;
    uint64_t rate_bytes;       /* of data moved a second; 0: no limit */
    hws_progress_fn *progress; /* may be NULL */
    void *progress_arg;
};

/**
 * Writes what the image (and what lies between) holds into a layer below, which grows if it is
 * shorter, and empties the image. The base is durable before anything is dropped: the work may be
 * cut short at any moment and begun anew, and the image reads the same throughout.
 */
int hws_commit(const struct hws_image *image, const struct hws_commit *commit,
               struct hws_error *err);

struct hws_rebase {
    /** As it shall be recorded: relative names count from the image's folder. "": none. */
    const char *backing;
    /** Its format; NULL finds it from the header. */
    const char *backing_format;
    /** Only record it: the caller knows that the image reads as it should over that file. */
    bool unsafe;
    hws_progress_fn *progress; /* may be NULL */
    void *progress_arg;
};

/**
 * Puts the image over another backing file. Unless `unsafe`, what it reads as does not change: what
 * the old and the new backing file tell differently is copied into it first. The new name is
 * recorded last, when all of that is durable, and in one step: the work may be cut short at any
 * moment.
 */
int hws_rebase(const struct hws_image *image, const struct hws_rebase *rebase,
               struct hws_error *err);

struct hws_amend {
    /** "name=value,..." texts of the format's amend options; NULL-terminated. */
    const char *const *options;
    bool force;                /* a smaller size is meant: what lies past it is lost */
    hws_progress_fn *progress; /* may be NULL */
    void *progress_arg;
};

/**
 * Changes options that the image was made with, as far as its format can. A failure leaves a whole
 * image, in which some of the options may have changed; all are looked at before the first change.
 * @return 0, -EOPNOTSUPP where the format has no such options, -ENOTSUP for one that only a new
 * image can choose, -EINVAL for a bad value or an unknown option, -EPERM for another backing file
 * (hws_rebase()), -ENODATA for a data file where the image has none, -EEXIST for data_file_raw=on,
 * -EPROTONOSUPPORT for what the wanted version cannot hold, -EOVERFLOW where a reference count does
 * not fit the wanted width, -ERANGE for a smaller size without `force`.
 */
int hws_amend(const struct hws_image *image, const struct hws_amend *amend, struct hws_error *err);

struct hws_compact {
    bool zeroes;               /* drop stored clusters that hold zeroes alone */
    hws_progress_fn *progress; /* may be NULL */
    void *progress_arg;
};

struct hws_compacted {
    uint64_t bytes_before, bytes_after; /* of the image's file */
    uint64_t moved_bytes;               /* copied inside the file */
    uint64_t zeroed_bytes;              /* dropped, as they held zeroes */
};

/**
 * Makes the image's file smaller without changing what it holds: clusters at its end move into
 * holes in front of them, and the file is cut. The image is whole at every moment, and a call that
 * was cut short may be made again. What internal snapshots share, and compressed clusters, stay
 * where they are. -EOPNOTSUPP where the format does not have it.
 */
int hws_compact(const struct hws_image *image, const struct hws_compact *compact,
                struct hws_compacted *ret, struct hws_error *err);

struct hws_convert {
    /** "name=value,..." texts of the target format's own options; NULL-terminated, may be NULL. */
    const char *const *options;
    /** Virtual size of the target; HWS_SIZE_UNSET: that of the source. What lies past the source's
     * end reads as zeroes. */
    uint64_t size_bytes;
    /** Write into an image that exists and is large enough, whatever it holds. */
    bool existing;
    /** Replace an existing file. */
    bool overwrite;
    /** Read the target again and compare it with the source. */
    bool verify;
    /** Leave the target in the kernel's page cache: faster, and gone if the machine goes down. */
    bool no_sync;
    /** Write compressed clusters, where the target's format has them: -ENOTSUP. */
    bool compress;
    /** Level of the target's codec; 0: its default. */
    int level;
    /** Let the storage copy what it can (reflink, copy_file_range): zeroes inside data stay data.
     */
    bool offload;
    /** Runs of zeroes of this many bytes (a power of two from 512 on) become holes; 0: 4096;
     * UINT32_MAX: none. */
    uint32_t sparse_bytes;
    /** Queue threads; 0: one a CPU, up to 4. Requests in flight on each; 0: 4. */
    unsigned threads, requests;
    uint64_t rate_bytes;       /* of data moved a second; 0: no limit */
    hws_progress_fn *progress; /* may be NULL */
    void *progress_arg;
    /** The part of the source that is copied; length 0: up to its end. */
    uint64_t start, length;
    /** Further sources: the target holds one behind the other. */
    const struct hws_image *more;
    unsigned more_count;
    /** The target becomes an overlay of this file, recorded as in hws_create, and gets what the
     * source holds otherwise than that file, compared where they do not share storage. With
     * `existing`, not NULL means that the target's own backing file is to be used so. */
    const char *backing, *backing_format;
    /** Copy the persistent bitmaps of the source too; broken ones (left in use by somebody who
     * died) are an error, or left out. */
    bool bitmaps, skip_broken_bitmaps;
    /** Copy only what this bitmap of the source marks dirty: into an older copy of it (`existing`),
     * or an overlay of one (`backing`). */
    const char *bitmap;
    /** With `existing`: the target reads as zeroes, so that holes need not be written. */
    bool target_is_zero;
    /** Go on where a call before this one with the same source, target and options was cut off, by
     * whatever, and leave what is needed for that if this one is. It lies beside the target
     * (TARGET.convert-partial, TARGET.convert-journal). -ESTALE where the source has changed. */
    bool resume;
    /** What cannot be read becomes zeroes, and is reported. */
    bool salvage;
    hws_report_fn *report; /* told of each range that is lost; may be NULL */
    void *report_arg;
};

struct hws_converted {
    uint64_t virtual_size;
    uint64_t data_bytes;    /* read and written */
    uint64_t offload_bytes; /* copied by the storage itself */
    uint64_t zero_bytes;    /* holes */
    uint64_t resumed_bytes; /* copied by calls before this one */
    uint64_t lost_bytes;    /* could not be read; zeroes now */
};

/**
 * Copies an image, with all that its backing chain holds, into another of any format. `to->format`
 * NULL means qcow2. A new target has a temporary name beside its own until it is complete, so that
 * nothing half-made is ever found under the name; a failure removes it.
 */
int hws_convert(const struct hws_image *from, const struct hws_image *to,
                const struct hws_convert *convert, struct hws_converted *ret,
                struct hws_error *err);

/** Requests of one size, for measuring. */
struct hws_bench {
    bool write;              /* else they read */
    unsigned char pattern;   /* what the written bytes are */
    uint64_t count;          /* of requests */
    unsigned depth;          /* in flight at a time; 0: 64 */
    uint32_t buffer_bytes;   /* of a request; 0: 4096 */
    uint64_t step_bytes;     /* from one request to the next; 0: buffer_bytes */
    uint64_t offset;         /* of the first one; past the end they begin at 0 again */
    uint64_t flush_interval; /* with `write`: a flush after so many requests; 0: none */
    bool no_drain;           /* flush without waiting for the requests in flight */
};

struct hws_benched {
    uint64_t time_ns; /* from the first request to the last answer */
    uint64_t requests, flushes, bytes;
};

/** Sends requests to an image, on one thread, and tells how long they took. Writing destroys what
 * the image holds there. */
int hws_bench(const struct hws_image *image, const struct hws_bench *bench, struct hws_benched *ret,
              struct hws_error *err);

struct hws_compare {
    bool strict; /* sizes must be equal; else what lies past the shorter end must be zero */
    unsigned threads, requests;
    hws_progress_fn *progress; /* may be NULL */
    void *progress_arg;
};

struct hws_difference {
    bool different;
    bool size;                 /* it is the size (strict) */
    uint64_t offset;           /* of the first different byte */
    uint64_t a_bytes, b_bytes; /* the virtual sizes */
};

/** Compares what two images contain. @return 0 when the comparison was made: look at @ret. */
int hws_compare(const struct hws_image *a, const struct hws_image *b,
                const struct hws_compare *compare, struct hws_difference *ret,
                struct hws_error *err);

/**
 * All drivers with their options, as JSON: [{"name", "kind", "help", "options": [...],
 * "create-options": [...], "amend-options": [...]}]. @return NULL when out of memory; else ended
 * with free().
 */
char *hws_drivers(void);

#ifdef __cplusplus
}
#endif
#endif
