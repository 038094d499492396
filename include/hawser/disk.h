/*
 * A disk: an image opened once, read and written by any thread.
 *
 * Calls block until they are done, and run in the thread that makes them: there is no hand-over to
 * another one. Several threads may be inside calls on one disk at a time; they work side by side.
 * hawser/queue.h has calls that do not block. Sizes and offsets are bytes. Functions return 0 or a
 * negative errno, with the reason in `err` (may be NULL).
 *
 * Requests in flight at the same time that overlap, one of them a change, have no order. What a
 * change wrote is durable once a flush that began after its end has ended, or the change itself
 * where it had HWS_FUA.
 *
 * Structs that a caller fills in begin with their size (struct_bytes = sizeof): later versions of
 * the library append fields, and 0 in a field that an older program does not know is what it was.
 *
 * A thread that has made a call keeps an I/O ring (two or three descriptors) until it ends, or
 * hws_thread_end(). After fork() the child may open disks of its own; those of its parent, and
 * their queues, answer -EPERM there. None of the calls may be made from a signal handler, or, but
 * for hws_disk_map()'s, from a callback of this library (-EDEADLK). A signal handler may run in
 * the midst of a call, on a stack of 64 KiB; it must return, and may not jump out. The library
 * changes no signal handlers; its threads block all signals. Where the kernel takes down an I/O
 * ring of a thread, it may end a wait of that thread (epoll_wait) early, with EINTR, as for a
 * signal.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HAWSER_DISK_H
#define HAWSER_DISK_H

#include "hawser/image.h"
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/** An open disk. Opaque. */
struct hws_disk;

/** The most iovecs in one request. */
#define HWS_IOV_MAX 1024

/** Flags of requests; others are refused with -EINVAL. */
#define HWS_FUA         (1u << 0) /* of writes and zeroes: durable before it completes */
#define HWS_UNMAP       (1u << 1) /* of zeroes: what holds them may be given back to the storage */
#define HWS_NO_FALLBACK (1u << 2) /* of zeroes: -ENOTSUP rather than writing them as data */

/** How a disk is opened. Zero-initialise, then set struct_bytes. */
struct hws_disk_options {
    size_t struct_bytes; /* sizeof(struct hws_disk_options) */
    bool read_only;
    bool ignore_discard;  /* discards do nothing, and HWS_UNMAP does not count */
    bool detect_zeroes;   /* written zeroes become holes where the format has them */
    uint64_t cache_bytes; /* for metadata of the whole chain; 0: 16 MiB */
};

/**
 * Opens an image, by image->cache as its cache mode. It stays locked until hws_disk_close(), as
 * QEMU's tools lock it. @image is not needed afterwards. @options NULL: all zero.
 * @ret ended by hws_disk_close(). Thread-safe.
 * @return 0; -EAGAIN where somebody else has the image open for writing (or, to write, at all);
 * -EINVAL; -ENOENT, -EACCES and whatever else the storage says.
 */
int hws_disk_open(const struct hws_image *image, const struct hws_disk_options *options,
                  struct hws_disk **ret, struct hws_error *err);

/**
 * Writes out what is cached, durably, unlocks the image and frees @disk, which may be NULL. No
 * other call on it may be under way or come. In a child of fork() nothing happens: -EPERM.
 * @return 0; -EBUSY while there are queues of it, or where I/O cannot start on this thread, and
 * -EDEADLK in a callback: then it stays open; else what the last flush failed with: the disk is
 * gone even so.
 */
int hws_disk_close(struct hws_disk *disk, struct hws_error *err);

/* ---- what it is ---- */

/** The size now. Another thread's resize may change it. Thread-safe, never blocks. */
uint64_t hws_disk_size(const struct hws_disk *disk);

/** Is it open for reading only? Thread-safe, never blocks. */
bool hws_disk_read_only(const struct hws_disk *disk);

/** What requests should look like. All sizes in bytes. */
struct hws_disk_limits {
    size_t struct_bytes;        /* sizeof(struct hws_disk_limits); set by the caller */
    uint32_t request_alignment; /* what is not aligned so is read and written in full */
    uint32_t memory_alignment;  /* buffers that are not aligned so are copied */
    uint32_t optimal_bytes;     /* the best size and alignment of requests (a cluster) */
    uint32_t zero_alignment;    /* what is not aligned so is written as data */
    uint32_t discard_alignment; /* what is not aligned so is not discarded */
    uint32_t iov_max;           /* HWS_IOV_MAX of the library */
    uint64_t transfer_max;      /* longer reads and writes are cut into pieces */
};

/** Fills in @ret. Any request is taken; these are the ones that cost least. Thread-safe. */
int hws_disk_limits(struct hws_disk *disk, struct hws_disk_limits *ret, struct hws_error *err);

/** What the image is, as hws_info() tells it. @ret_json ended with free(). Thread-safe. */
int hws_disk_info(struct hws_disk *disk, bool chain, char **ret_json, struct hws_error *err);

/**
 * Counters since the disk was opened: {"in-flight", "operations": {"read": {"operations", "bytes",
 * "failures", "latency-ns-mean", "latency-ns-p50", "latency-ns-p99"}, "write", "write-zeroes",
 * "discard", "flush"}}. @ret_json ended with free(). Thread-safe.
 */
int hws_disk_stats(struct hws_disk *disk, char **ret_json, struct hws_error *err);

/* ---- requests; all thread-safe ---- */

/** Reads @length bytes at @offset. Past the end: -EINVAL. @flags 0. */
int hws_disk_read(struct hws_disk *disk, uint64_t offset, size_t length, void *buffer,
                  unsigned flags, struct hws_error *err);

/** Reads into @count buffers, at most HWS_IOV_MAX, one behind the other. */
int hws_disk_readv(struct hws_disk *disk, uint64_t offset, const struct iovec *iov, unsigned count,
                   unsigned flags, struct hws_error *err);

/** Writes @length bytes at @offset. @flags HWS_FUA or 0. A read-only disk: -EROFS. */
int hws_disk_write(struct hws_disk *disk, uint64_t offset, size_t length, const void *buffer,
                   unsigned flags, struct hws_error *err);

/** Writes from @count buffers, at most HWS_IOV_MAX, one behind the other. */
int hws_disk_writev(struct hws_disk *disk, uint64_t offset, const struct iovec *iov, unsigned count,
                    unsigned flags, struct hws_error *err);

/** Makes a range read as zeroes. @flags HWS_FUA, HWS_UNMAP, HWS_NO_FALLBACK. */
int hws_disk_zero(struct hws_disk *disk, uint64_t offset, uint64_t length, unsigned flags,
                  struct hws_error *err);

/** Tells that a range is not needed any more: what it reads as afterwards is not defined. */
int hws_disk_discard(struct hws_disk *disk, uint64_t offset, uint64_t length,
                     struct hws_error *err);

/** What was written by requests that have ended is durable afterwards. */
int hws_disk_flush(struct hws_disk *disk, struct hws_error *err);

/**
 * Compares a range with @buffer. @ret_same_bytes how many bytes from the start are the same:
 * @length where all are. @return 0 when the comparison was made.
 */
int hws_disk_compare(struct hws_disk *disk, uint64_t offset, size_t length, const void *buffer,
                     size_t *ret_same_bytes, struct hws_error *err);

/**
 * What lies at @offset, through the whole chain: one extent of at most @length bytes.
 * ret->file is valid until the disk is closed.
 */
int hws_disk_status(struct hws_disk *disk, uint64_t offset, uint64_t length, struct hws_extent *ret,
                    struct hws_error *err);

/**
 * Calls @fn for every extent of the range, cut at the disk's end, neighbours of one kind merged. A
 * result of @fn other than 0 ends the walk and is returned. @fn may make calls on the disk.
 */
int hws_disk_map(struct hws_disk *disk, uint64_t offset, uint64_t length, hws_extent_fn *fn,
                 void *arg, struct hws_error *err);

/* ---- changes of the disk itself; thread-safe, one after the other ---- */

/**
 * Changes the size; the new end reads as zeroes. Requests wait meanwhile. Smaller only with
 * @shrink: what lies past the new end is lost.
 */
int hws_disk_resize(struct hws_disk *disk, uint64_t size_bytes, bool shrink, struct hws_error *err);

/**
 * Takes a snapshot of the running disk: makes the image @overlay, of @format (NULL: qcow2), and
 * goes on in it. What was on top until now is its backing file from then on and does not change
 * any more. Requests wait for as long as a flush takes. A failure leaves all as it was.
 */
int hws_disk_snapshot(struct hws_disk *disk, const char *overlay, const char *format,
                      struct hws_error *err);

/** As hws_internal_snapshot(), on the running disk. HWS_SNAPSHOT_APPLY may change its size. */
int hws_disk_internal_snapshot(struct hws_disk *disk, enum hws_snapshot_action action,
                               const char *name, struct hws_error *err);

/* ---- threads, the library ---- */

/**
 * Gives back what the calling thread keeps for its calls; the end of the thread does so too.
 * Further calls are allowed. @return 0; -EBUSY while it has queues made with HWS_QUEUE_CALLER;
 * -EDEADLK in a callback.
 */
int hws_thread_end(struct hws_error *err);

/** The version of the library in use, "0.1.0". Valid for good. */
const char *hws_version(void);

#ifdef __cplusplus
}
#endif
#endif
