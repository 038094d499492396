/*
 * What the parts of the FUSE export share.
 *
 *   export.c      start, stop, ended; the threads
 *   mount.c       /dev/fuse, mount point, mount and unmount (blocking calls, on worker threads)
 *   device.c      transport: read and write on /dev/fuse
 *   ring.c        transport: io_uring commands
 *   affinity.c    on which CPUs the threads run
 *   operations.c  what each request does; knows nothing of transports
 *
 * Threads: a channel belongs to one queue thread. fuse_export is written by the controlling
 * coroutine and by the INIT request before `ready`; afterwards only atomics and what `guard`
 * protects change.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_FUSE_INTERNAL_H
#define EXPORT_FUSE_INTERNAL_H

#include "export/fuse/fuse.h"
#include "rt/sync.h"
#include "wire/fuse/fuse.h"
#include <sched.h>
#include <stdatomic.h>

/** Largest READ and WRITE, and its pages; the kernel's own default ceiling. */
#define FUSE_PAYLOAD_BYTES ((uint32_t)MiB)
#define FUSE_PAYLOAD_PAGES (FUSE_PAYLOAD_BYTES / 4096)

/** Requests that one thread works on at a time. */
#define FUSE_WORKERS_MAX 64

/** Requests in the background (asynchronous direct I/O, read-ahead) that the kernel sends at once.
 */
#define FUSE_BACKGROUND_MAX 128

/** For stat(2) and loop devices: their direct I/O is aligned to this. */
#define FUSE_BLOCK_BYTES 4096

/** How long a stop waits for those who have the file open. */
#define FUSE_STOP_PATIENCE_NS ((uint64_t)2 * 1000000000)

/** A request as an operation sees it, whichever way it came. */
struct fuse_request {
    struct fuse_in_header header;
    const void *fixed; /* fixed part; may lie where the answer goes, so it is copied out first */
    size_t fixed_bytes;
    uint8_t *payload; /* page-aligned, FUSE_PAYLOAD_BYTES: data of a WRITE in, any answer out */
    size_t payload_bytes;
    int error;           /* answer: 0 or -errno */
    size_t answer_bytes; /* answer: bytes in payload */
    bool no_answer;
};

/** One queue thread's way to the kernel. */
struct fuse_channel {
    struct fuse_export *export;
    unsigned index;
    struct rt_queue *queue;
    int fd;               /* non-blocking /dev/fuse; channel 0: the one that was mounted */
    struct rt_file *file; /* the same, for ring commands; NULL without ring */
    struct fuse_device *device;
    struct fuse_ring *ring;
    _Atomic uint64_t requests;
};

struct fuse_export {
    struct block_root *root;
    char *path;
    bool read_only;
    enum fuse_transport transport; /* what was asked for */
    _Atomic bool over_ring;        /* what is in use */
    bool ring_wanted;              /* offer FUSE_OVER_IO_URING at INIT */
    bool negotiated;               /* INIT came and could be answered */
    unsigned kernel_minor;
    uint64_t device_id; /* st_dev of the mount, to recognise it */
    bool mounted;
    int abort_fd; /* of one that was mounted before; -1: unmounted at the end */
    unsigned channel_count;
    bool threads_chosen; /* by the caller; else by what measured best */
    struct fuse_channel channel[FUSE_THREADS_MAX];

    struct rt_mutex guard; /* of everything below */
    struct co_waitq changed;
    bool ready;     /* INIT is answered */
    bool ended;     /* the kernel closed the connection */
    bool stopping;  /* co_fuse_export_stop() is unmounting */
    bool disposing; /* ... and has: the watcher goes */
    bool watching;  /* the coroutine that calls ended() */
    int init_error;
    uint32_t mode, uid, gid;
    void (*ended_fn)(void *arg);
    void *ended_arg;
};

/* operations.c */

/** Does what @request asks and fills its answer. */
void co_fuse_serve(struct fuse_export *export, struct fuse_request *request);

/* export.c: called by the transports, from any queue */

void fuse_export_became_ready(struct fuse_export *export, int error);
void fuse_export_has_ended(struct fuse_export *export);
void fuse_export_ring_failed(struct fuse_export *export, int error);

/* device.c */

/** Buffers and state for @channel, and its first coroutine on its queue. */
HWS_MUST_CHECK int fuse_device_start(struct fuse_channel *channel);
/** Once its queue has ended. */
void fuse_device_free(struct fuse_channel *channel);

/* affinity.c: all on the thread that they are about */

struct fuse_affinity {
    cpu_set_t allowed; /* what the thread started with */
    bool usable, bound;
};

void fuse_affinity_init(struct fuse_affinity *a);
void fuse_affinity_bind(struct fuse_affinity *a, unsigned first_cpu, unsigned count);
void fuse_affinity_release(struct fuse_affinity *a);
/** A thread that looks for the best place to serve users that wait for each answer. */
struct fuse_follow {
    struct fuse_affinity affinity;
    unsigned requests; /* of the running window */
    uint64_t window_start_ns;
    uint64_t cost_ns[2]; /* last window: free, bound; 0: not known */
    unsigned windows;    /* since the last change */
    unsigned crowd;      /* up with polls that bring several requests, down with others */
};

/** A poll brought one request, made by thread @pid. */
void fuse_follow_one(struct fuse_follow *f, uint32_t pid);
/** A poll brought several. */
void fuse_follow_many(struct fuse_follow *f);

/** Where the thread @pid of this pid name space ran last; -1 when that cannot be told. */
int fuse_cpu_of_thread(uint32_t pid);

/* ring.c */

/** Can this runtime and kernel carry ring commands? @fd an unmounted /dev/fuse. */
bool co_fuse_ring_works(int fd);
/** Has this host so many CPUs that their entries would cost more memory than they are worth? */
bool fuse_ring_is_costly(void);
/** How many threads serve the CPUs of this host best. */
unsigned fuse_ring_threads(void);
/** Registers the entries of the CPUs that fall to @channel. */
HWS_MUST_CHECK int fuse_ring_start(struct fuse_channel *channel);
void fuse_ring_free(struct fuse_channel *channel);

/* mount.c */

HWS_MUST_CHECK int fuse_device_open(int *ret, struct hws_error *err);
/** One more channel of the connection of @mounted_fd. */
HWS_MUST_CHECK int fuse_device_clone(int mounted_fd, int *ret);
/** Mounts over export->path, where it is an empty file. */
HWS_MUST_CHECK int co_fuse_mount(struct fuse_export *export, struct hws_error *err);
/** Learns device_id; the server must be answering. */
HWS_MUST_CHECK int co_fuse_identify(struct fuse_export *export, struct hws_error *err);
/** @return 0 when our mount is gone from the path, -EBUSY, -errno. */
HWS_MUST_CHECK int co_fuse_unmount(struct fuse_export *export, bool force, struct hws_error *err);
/** Ends a connection that outlives its mount, because somebody unmounted lazily. */
HWS_MUST_CHECK int co_fuse_abort(struct fuse_export *export, struct hws_error *err);

#endif
