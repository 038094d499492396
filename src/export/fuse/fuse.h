/*
 * The FUSE export: one root as one regular file, at a path that the caller chooses. The file is the
 * root of its own mount, over an existing empty file. A loop device with direct I/O on it is a
 * block device that needs no kernel module.
 *
 * Two transports carry the requests: io_uring, where the kernel has it switched on
 * (/sys/module/fuse/parameters/enable_uring) and the runtime was made with uring_commands; else
 * reads and writes of /dev/fuse. Mounting needs CAP_SYS_ADMIN.
 *
 * Everything here is called from one coroutine, the one that controls the graph.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_FUSE_FUSE_H
#define EXPORT_FUSE_FUSE_H

#include "block/block.h"

struct fuse_export;

enum fuse_transport {
    FUSE_TRANSPORT_AUTO,   /* io_uring where it works, else the device */
    FUSE_TRANSPORT_DEVICE, /* read and write on /dev/fuse */
    FUSE_TRANSPORT_URING,  /* io_uring or an error */
};

/** A file that was mounted before its export, while the process still could mount. */
struct fuse_premount {
    int fd;       /* of the connection; -1: none */
    int abort_fd; /* ends it */
};

struct fuse_export_options {
    const char *path;  /* an existing, empty, regular file: the mount point */
    bool read_only;    /* else as the root's node is */
    uint32_t mode;     /* permission bits of the file; 0: 0600, or 0400 when read-only */
    uint32_t uid, gid; /* its owner */
    unsigned threads;  /* queue threads, 1..FUSE_THREADS_MAX; 0: what measured best */
    enum fuse_transport transport;
    /** From fuse_premount(), taken over whatever comes; NULL: mounts @path itself. */
    const struct fuse_premount *premount;
    /**
     * The connection ended without co_fuse_export_stop(): somebody unmounted the file or aborted
     * the connection. Runs as a coroutine on the queue of co_fuse_export_start(), and may call
     * co_fuse_export_stop(). May be NULL.
     */
    void (*ended)(void *arg);
    void *ended_arg;
};

#define FUSE_THREADS_MAX 16

/**
 * Mounts and serves @root, which must outlive the export. On return the file can be opened.
 * Registers the root's resize listener: after a resize stat(2) tells the new size.
 * @ret owned by the caller: co_fuse_export_stop(). @return 0 or -errno, @err says what and where.
 */
HWS_MUST_CHECK int co_fuse_export_start(struct block_root *root,
                                        const struct fuse_export_options *options,
                                        struct fuse_export **ret, struct hws_error *err);

/**
 * Mounts over @path, an empty file, and answers nothing yet: for co_fuse_export_start(), in a
 * process that will have lost the right to mount and unmount. Such an export is stopped by ending
 * its connection, whoever has the file open; the mount goes with its name space. Blocks.
 */
HWS_MUST_CHECK int fuse_premount(const char *path, bool read_only, struct fuse_premount *ret,
                                 struct hws_error *err);

/**
 * Unmounts, waits for requests in flight, joins the threads and frees @export. A mount that is
 * already gone is no error. While somebody has the file open: with @force the connection is aborted
 * (users get errors), else -EBUSY after two seconds and the export goes on as before.
 * @return 0, or -errno with @export alive.
 */
HWS_MUST_CHECK int co_fuse_export_stop(struct fuse_export *export, bool force,
                                       struct hws_error *err);

struct fuse_export_info {
    const char *path;
    const char *transport; /* "io_uring" or "device" */
    unsigned threads;
    unsigned kernel_minor; /* protocol version 7.x of the kernel */
    bool read_only;
    uint64_t requests; /* of all kinds, since the start */
};

/** @ret strings live as long as @export. Any thread. */
void fuse_export_info(const struct fuse_export *export, struct fuse_export_info *ret);

#endif
