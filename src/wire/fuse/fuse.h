/*
 * The FUSE protocol as the kernel speaks it on /dev/fuse and, since 7.42, over io_uring: the part
 * that a file system with one regular file needs. Declared here because the headers of older
 * distributions lack the io_uring half.
 *
 * All numbers are in the host's byte order: both sides are one machine. A request on /dev/fuse:
 *
 *   | fuse_in_header 40 | fixed part of the operation 0..128 | payload (data of a WRITE, names)  |
 *
 * and its answer:
 *
 *   | fuse_out_header 16 | fixed part or data |
 *
 * Over io_uring the three parts of a request lie in fuse_ring_headers.header, .operation and in a
 * separate payload buffer; an answer has its header in .header and everything else in the payload.
 *
 * Reference: the kernel's Documentation/filesystems/fuse/, and its user API, version 7.45.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRE_FUSE_FUSE_H
#define WIRE_FUSE_FUSE_H

#include "base/common.h"
#include <sys/ioctl.h>

#define FUSE_VERSION_MAJOR 7
#define FUSE_VERSION_MINOR 42

/** Below this the kernel has neither max_pages nor the 64-byte INIT answer; Linux 4.20 has it. */
#define FUSE_VERSION_MINOR_LEAST 28

#define FUSE_NODE_ROOT           1

enum fuse_operation {
    FUSE_LOOKUP = 1,
    FUSE_FORGET = 2, /* no answer */
    FUSE_GETATTR = 3,
    FUSE_SETATTR = 4,
    FUSE_OPEN = 14,
    FUSE_READ = 15,
    FUSE_WRITE = 16,
    FUSE_STATFS = 17,
    FUSE_RELEASE = 18,
    FUSE_FSYNC = 20,
    FUSE_FLUSH = 25,
    FUSE_INIT = 26,
    FUSE_ACCESS = 34,
    FUSE_INTERRUPT = 36, /* no answer needed */
    FUSE_DESTROY = 38,
    FUSE_BATCH_FORGET = 42, /* no answer */
    FUSE_FALLOCATE = 43,
    FUSE_LSEEK = 46,
};

/* Flags of INIT; bits from 32 up travel in flags2, which is there when FUSE_INIT_EXT is set. */
#define FUSE_ASYNC_READ           (1ULL << 0)
#define FUSE_ASYNC_DIO            (1ULL << 15)
#define FUSE_PARALLEL_DIROPS      (1ULL << 18)
#define FUSE_ABORT_ERROR          (1ULL << 21)
#define FUSE_MAX_PAGES            (1ULL << 22)
#define FUSE_BIG_WRITES           (1ULL << 5)
#define FUSE_INIT_EXT             (1ULL << 30)
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#define FUSE_OVER_IO_URING        (1ULL << 41)

/* Flags in the answer of OPEN. */
#define FOPEN_DIRECT_IO              (1U << 0)
#define FOPEN_NOFLUSH                (1U << 5)
#define FOPEN_PARALLEL_DIRECT_WRITES (1U << 6)

/* Which members of fuse_setattr_in count. */
#define FATTR_MODE           (1U << 0)
#define FATTR_UID            (1U << 1)
#define FATTR_GID            (1U << 2)
#define FATTR_SIZE           (1U << 3)

#define FUSE_FSYNC_DATA_ONLY (1U << 0)

/* Codes of unsolicited messages: fuse_out_header with unique 0 and the code in `error`. */
#define FUSE_NOTIFY_INVAL_INODE 2

struct fuse_in_header {
    uint32_t length; /* of the whole request */
    uint32_t opcode;
    uint64_t unique;
    uint64_t node;
    uint32_t uid, gid, pid;
    uint16_t extension_length; /* in 8-byte units, at the end of the request */
    uint16_t padding;
};

struct fuse_out_header {
    uint32_t length; /* of the whole answer */
    int32_t error;   /* 0 or a negative errno above -512 */
    uint64_t unique;
};

struct fuse_init_in {
    uint32_t major, minor;
    uint32_t max_readahead;
    uint32_t flags, flags2;
    uint32_t unused[11];
};

/** What INIT carried before 7.36. */
#define FUSE_INIT_IN_LEAST_BYTES 16

struct fuse_init_out {
    uint32_t major, minor;
    uint32_t max_readahead;
    uint32_t flags;
    uint16_t max_background;
    uint16_t congestion_threshold;
    uint32_t max_write;
    uint32_t time_granularity_ns;
    uint16_t max_pages;
    uint16_t map_alignment;
    uint32_t flags2;
    uint32_t max_stack_depth;
    uint16_t request_timeout;
    uint16_t unused[11];
};

struct fuse_attr {
    uint64_t inode;
    uint64_t size;
    uint64_t blocks; /* of 512 bytes */
    uint64_t atime, mtime, ctime;
    uint32_t atime_ns, mtime_ns, ctime_ns;
    uint32_t mode, links, uid, gid, rdev;
    uint32_t block_size;
    uint32_t flags;
};

struct fuse_attr_out {
    uint64_t valid_s;
    uint32_t valid_ns;
    uint32_t padding;
    struct fuse_attr attr;
};

struct fuse_getattr_in {
    uint32_t flags;
    uint32_t padding;
    uint64_t handle;
};

struct fuse_setattr_in {
    uint32_t valid;
    uint32_t padding;
    uint64_t handle;
    uint64_t size;
    uint64_t lock_owner;
    uint64_t atime, mtime, ctime;
    uint32_t atime_ns, mtime_ns, ctime_ns;
    uint32_t mode;
    uint32_t unused4;
    uint32_t uid, gid;
    uint32_t unused5;
};

struct fuse_open_in {
    uint32_t flags; /* of open(2) */
    uint32_t open_flags;
};

struct fuse_open_out {
    uint64_t handle;
    uint32_t open_flags; /* FOPEN_* */
    int32_t backing_id;
};

struct fuse_release_in {
    uint64_t handle;
    uint32_t flags;
    uint32_t release_flags;
    uint64_t lock_owner;
};

struct fuse_flush_in {
    uint64_t handle;
    uint32_t unused, padding;
    uint64_t lock_owner;
};

struct fuse_read_in {
    uint64_t handle;
    uint64_t offset;
    uint32_t size;
    uint32_t read_flags;
    uint64_t lock_owner;
    uint32_t flags; /* of open(2) */
    uint32_t padding;
};

struct fuse_write_in {
    uint64_t handle;
    uint64_t offset;
    uint32_t size;
    uint32_t write_flags;
    uint64_t lock_owner;
    uint32_t flags; /* of open(2) */
    uint32_t padding;
};

struct fuse_write_out {
    uint32_t size;
    uint32_t padding;
};

struct fuse_statfs_out {
    uint64_t blocks, blocks_free, blocks_available;
    uint64_t files, files_free;
    uint32_t block_size;
    uint32_t name_length;
    uint32_t fragment_size;
    uint32_t padding;
    uint32_t spare[6];
};

struct fuse_fsync_in {
    uint64_t handle;
    uint32_t fsync_flags;
    uint32_t padding;
};

struct fuse_fallocate_in {
    uint64_t handle;
    uint64_t offset;
    uint64_t length;
    uint32_t mode; /* FALLOC_FL_* */
    uint32_t padding;
};

struct fuse_lseek_in {
    uint64_t handle;
    uint64_t offset;
    uint32_t whence;
    uint32_t padding;
};

struct fuse_lseek_out {
    uint64_t offset;
};

struct fuse_notify_inval_inode_out {
    uint64_t node;
    int64_t offset; /* negative: attributes only */
    int64_t length; /* 0 or less: to the end */
};

/** Makes a descriptor of /dev/fuse one more channel of the connection that the argument names. */
#define FUSE_DEV_IOC_CLONE _IOR(229, 0, uint32_t)

/* ---- over io_uring ---- */

enum fuse_ring_command {
    FUSE_RING_REGISTER = 1, /* offers an entry's buffers; completes with its first request */
    FUSE_RING_COMMIT_AND_FETCH = 2, /* answers, and completes with the entry's next request */
};

struct fuse_ring_entry {
    uint64_t flags;
    uint64_t commit_id; /* to be given back with the answer */
    uint32_t payload_bytes;
    uint32_t padding;
    uint64_t reserved;
};

struct fuse_ring_headers {
    _Alignas(8) uint8_t header[128];    /* fuse_in_header, then fuse_out_header */
    _Alignas(8) uint8_t operation[128]; /* fixed part of the operation, inwards only */
    struct fuse_ring_entry entry;
};

/** The command area of the 128-byte submission entry. */
struct fuse_ring_request {
    uint64_t flags;
    uint64_t commit_id;
    uint16_t queue; /* one a possible CPU */
    uint8_t padding[6];
};

/** addr of a REGISTER entry points at two iovecs, headers and payload; len is their number. */
#define FUSE_RING_IOVECS 2

#define FUSE_ASSERT_SIZE(type, bytes) \
    static_assert(sizeof(struct type) == (bytes), #type " is not as the kernel lays it out")
FUSE_ASSERT_SIZE(fuse_in_header, 40);
FUSE_ASSERT_SIZE(fuse_out_header, 16);
FUSE_ASSERT_SIZE(fuse_init_in, 64);
FUSE_ASSERT_SIZE(fuse_init_out, 64);
FUSE_ASSERT_SIZE(fuse_attr, 88);
FUSE_ASSERT_SIZE(fuse_attr_out, 104);
FUSE_ASSERT_SIZE(fuse_getattr_in, 16);
FUSE_ASSERT_SIZE(fuse_setattr_in, 88);
FUSE_ASSERT_SIZE(fuse_open_in, 8);
FUSE_ASSERT_SIZE(fuse_open_out, 16);
FUSE_ASSERT_SIZE(fuse_release_in, 24);
FUSE_ASSERT_SIZE(fuse_flush_in, 24);
FUSE_ASSERT_SIZE(fuse_read_in, 40);
FUSE_ASSERT_SIZE(fuse_write_in, 40);
FUSE_ASSERT_SIZE(fuse_write_out, 8);
FUSE_ASSERT_SIZE(fuse_statfs_out, 80);
FUSE_ASSERT_SIZE(fuse_fsync_in, 16);
FUSE_ASSERT_SIZE(fuse_fallocate_in, 32);
FUSE_ASSERT_SIZE(fuse_lseek_in, 24);
FUSE_ASSERT_SIZE(fuse_lseek_out, 8);
FUSE_ASSERT_SIZE(fuse_notify_inval_inode_out, 24);
FUSE_ASSERT_SIZE(fuse_ring_entry, 32);
FUSE_ASSERT_SIZE(fuse_ring_headers, 288);
FUSE_ASSERT_SIZE(fuse_ring_request, 24);

static_assert(offsetof(struct fuse_in_header, unique) == 8, "unique");
static_assert(offsetof(struct fuse_in_header, extension_length) == 36, "extension_length");
static_assert(offsetof(struct fuse_init_in, flags2) == 16, "flags2");
static_assert(offsetof(struct fuse_init_out, max_write) == 20, "max_write");
static_assert(offsetof(struct fuse_init_out, max_pages) == 28, "max_pages");
static_assert(offsetof(struct fuse_init_out, flags2) == 32, "flags2");
static_assert(offsetof(struct fuse_attr, mode) == 60, "mode");
static_assert(offsetof(struct fuse_attr, block_size) == 80, "block_size");
static_assert(offsetof(struct fuse_setattr_in, mode) == 68, "mode");
static_assert(offsetof(struct fuse_setattr_in, uid) == 76, "uid");
static_assert(offsetof(struct fuse_read_in, flags) == 32, "flags");
static_assert(offsetof(struct fuse_write_in, flags) == 32, "flags");
static_assert(offsetof(struct fuse_fallocate_in, mode) == 24, "mode");
static_assert(offsetof(struct fuse_ring_headers, operation) == 128, "operation");
static_assert(offsetof(struct fuse_ring_headers, entry) == 256, "entry");
static_assert(offsetof(struct fuse_ring_request, queue) == 16, "queue");

#endif
