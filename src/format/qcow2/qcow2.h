/*
 * The open qcow2 image: state shared by the files of this folder, and the functions between them.
 *
 *   guest offset --L1 (in memory)--> L2 slice (cache.c) --> host offset          l2.c, read.c
 *   host cluster --refcount table (in memory)--> refcount slice (cache.c)         refcount.c,
 * alloc.c
 *
 * Locks, outermost first:
 *   alloc_lock  (co_mutex) refcounts and the growth of tables; may be held while suspended
 *   flush_*     one flush pass at a time; a ticket, not a lock (flush.c)
 *   lock        (rt_mutex) everything else in memory: caches, L1, lists; never held while suspended
 *
 * Life of a host cluster: allocated (refcount raised in memory) -> data written -> L2 entry set in
 * memory -> flush pass: refcounts, sync, L2, sync. Dropped from L2 in memory -> on the freed list
 * -> a flush pass made that durable, and every request that might still use it has ended (grace
 * period)
 * -> refcount lowered, reusable. So a crash leaves leaks at most.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_QCOW2_H
#define QCOW2_QCOW2_H

#include "block/driver.h"
#include "block/keep.h"
#include "format/qcow2/bitmap.h"
#include "format/qcow2/header.h"
#include "format/qcow2/qcow2_driver.h"
#include "format/qcow2/snapshot.h"
#include "rt/sync.h"

/* ---- metadata cache (cache.c) ---- */

/* Metadata is cached in slices of this size, or of a cluster where that is smaller. */
#define QCOW2_SLICE_BYTES_MAX 4096u
/* Slices that an image may hold even when the chain's budget is used up: read-only, writable. */
#define QCOW2_SLICES_MIN       8u
#define QCOW2_SLICES_MIN_WRITE 64u
/* Slices that one read brings in for who goes over the whole map. */
#define QCOW2_SLICES_AHEAD 64u

enum qcow2_table { QCOW2_TABLE_L2, QCOW2_TABLE_REFCOUNT };

struct qcow2_slice {
    struct qcow2_slice *hash_next;
    struct list link; /* in `clean` (clock order) or `dirty`, or in a flush pass */
    uint64_t offset;  /* of the slice in the file */
    uint8_t *data;
    struct block_keep_slot *kept; /* NULL: the memory is the process's own (keep.c) */
    uint8_t *shadow;         /* what a running flush pass must write, where `data` has moved on */
    unsigned pins;           /* users that must not lose it; guards nothing else */
    uint8_t table;           /* enum qcow2_table */
    bool loading;            /* being read; wait on `waiters` */
    bool dirty;              /* changed since the last pass took it */
    bool flushing;           /* belongs to the running pass; not yet on disk */
    bool copied;             /* the pass has taken its copy: no shadow needed any more */
    _Atomic bool referenced; /* used since the clock hand came by */
    /* For look-ups without the lock (l2.c): */
    _Atomic uint64_t covers;  /* its number in the guest's order, from 1; 0: not to be used so */
    _Atomic uint64_t map;     /* q->map_version when that was found */
    _Atomic uint64_t version; /* moves when the slice leaves the hash */
};

struct qcow2_cache {
    struct qcow2_slice **buckets;
    unsigned buckets_count;  /* power of two */
    struct list clean;       /* on disk as they are; candidates for eviction, oldest first */
    struct list dirty[2];    /* by enum qcow2_table */
    struct list unused;      /* without content */
    struct list arenas;      /* the memory of slices, freed at close */
    struct co_waitq waiters; /* a load ended, or a pass let go of a slice */
    uint32_t slice_bytes;
    unsigned slices;         /* in memory, unused ones included */
    unsigned used;           /* in the hash */
    uint64_t reserved_bytes; /* taken from the chain's budget */
};

/* The file grows this far ahead of the allocation; what is left over goes at close. */
#define QCOW2_AHEAD_BYTES (4 * MiB)

/* ---- other parts of the state ---- */

/* A host extent that L2 tables no longer name; see the life of a cluster above. */
struct qcow2_freed {
    uint64_t host;
    uint32_t clusters;
    uint64_t epoch; /* of the grace period in which it was dropped */
    uint64_t pass;  /* reusable when this flush pass has completed; 0: was never on disk */
};

struct qcow2_freed_list { /* a ring, oldest first */
    struct qcow2_freed *entry;
    unsigned capacity; /* power of two, or 0 */
    unsigned first, count;
    unsigned reserved; /* entries promised to running requests */
    uint64_t clusters;
};

/* What survives the process (keep.c). The cache's slices lie in segments of the keep themselves; of
 * the tables in memory it has a copy of each sector that is not on disk. */
struct qcow2_kept {
    struct block_keep_image *image; /* NULL: nothing is kept */
    uint64_t mark;                  /* in the header while there may be changes; 0: not yet */
    struct list sectors;            /* dirty ones of L1 and refcount table */
    struct list spare;              /* without content */
    struct list arenas;
    unsigned spare_count;
    bool whole; /* it held all that the predecessor had not written: refcounts need no rebuilding */
};

/* The bitmaps that the image has; alloc_lock, and the node is idle where one comes or goes. */
struct qcow2_bitmaps {
    bool valid; /* the extension is on disk, whole, and the autoclear bit stands for it */
    struct qcow2_bitmaps_place place; /* where valid: of the directory on disk */
    struct qcow2_bitmap *entry;       /* as on disk, but for those that came or went since */
    uint32_t count;
    bool changed; /* some came or went */
};

/* Guest range whose clusters somebody is allocating or filling; others wait (alloc.c). */
struct qcow2_in_flight {
    struct list link;
    uint64_t start, end; /* guest bytes */
    struct co_waitq waiters;
};

enum qcow2_switch { QCOW2_AUTO, QCOW2_ON, QCOW2_OFF };

/* Queues beyond that many share lines. */
#define QCOW2_USER_LANES 8

/* Host clusters that are open for more compressed ones. */
#define QCOW2_PACKS 8

struct qcow2 {
    struct block_node *node;
    struct block_node *file;
    struct block_node *data; /* of guest clusters: `file`, or the external data file */
    struct qcow2_header
        header; /* as on disk, but for what a running resize or growth has not written */

    /* Constants of the image. */
    unsigned cluster_bits, l2_bits,
        refcount_block_bits;  /* log2: bytes, entries a table, entries a block */
    unsigned subcluster_bits; /* = cluster_bits without extended L2 */
    uint64_t cluster_size, subcluster_size;
    unsigned l2_entry_bytes; /* 8, or 16 with extended L2 */
    unsigned refcount_order; /* log2 of the width in bits */
    uint64_t refcount_max;
    bool extended_l2;

    struct rt_mutex lock;

    uint64_t *l1;       /* host order, header.l1_size entries (one more than 0, never NULL) */
    uint64_t *l1_dirty; /* bitmap of 512-byte sectors of L1 to write */
    bool l1_any_dirty;
    uint64_t *reftable; /* host order, reftable_entries */
    uint64_t reftable_entries;
    uint64_t *reftable_dirty; /* as l1_dirty */
    bool reftable_any_dirty;
    struct qcow2_snapshots snapshots; /* as on disk; changes only with the node drained */
    bool snapshots_unreadable;        /* their table: then the image is not written */
    bool shows_snapshot;              /* L1 and size are those of one; read-only for good */
    /* Ranges of the file that no guest data may lie in: header, L1, refcount table, snapshot table,
     * bitmap directory. */
    struct {
        uint64_t offset, length;
    } reserved_range[5];
    uint64_t *guard; /* guard.c; NULL while read-only */
    unsigned guard_order;

    struct qcow2_cache cache;
    _Atomic(struct qcow2_hints *) hints; /* l2.c; NULL: none yet */
    _Atomic uint64_t map_version;        /* moves when an L1 entry changes */

    struct list in_flight; /* struct qcow2_in_flight */

    /* Allocation; guarded by alloc_lock. */
    struct co_mutex alloc_lock;
    uint64_t free_hint; /* no cluster below this index is known to be free */
    bool freed_any;     /* counts fell to 0: the end of the file may be free */
    /* Everything that is ever written lies in front of this cluster index. Read without the lock;
     * an L2 entry is set after it has moved past the cluster. */
    _Atomic uint64_t fresh_cluster;

    /* Host offsets from which on compressed clusters are packed, 0: none; compressed_write.c. */
    uint64_t pack_next[QCOW2_PACKS];

    /* Freed clusters and the grace period. */
    struct qcow2_freed_list freed;
    _Atomic uint64_t epoch;
    /* Requests in flight by parity of their epoch; each queue counts in a cache line of its own. */
    struct qcow2_users {
        _Atomic uint32_t count[2];
        uint8_t apart[56];
    } users[QCOW2_USER_LANES];

    /* Flush passes, numbered from 1. */
    uint64_t pass_started, pass_ended; /* equal: none runs */
    uint64_t pass_durable;             /* the last one that succeeded */
    uint64_t pass_whole;               /* up to this one none may leave refcounts for later */
    enum qcow2_switch lazy_refcounts;  /* as opened; AUTO: as the image says */
    int pass_error;                    /* of the last one that failed */
    struct co_waitq pass_waiters;
    uint8_t *pass_buffer; /* QCOW2_PASS_BUFFER_BYTES, made by the first pass */

    struct qcow2_kept kept;

    struct qcow2_bitmaps bitmaps;

    void *compressed; /* compressed.c: what it keeps between reads; NULL at open */
    void *encoders;   /* compressed_write.c: the same between writes */

    bool discard_no_unref; /* discarded clusters stay mapped, as zeroes, with holes in the file */

    _Atomic bool writable_prepared; /* autoclear bits were cleared, so writing may start */
    _Atomic int broken;             /* negative errno: memory and disk may differ; read only then */
};

/* Buffers for host I/O suit O_DIRECT, so that the layer below need not copy them. */
#define QCOW2_BUFFER_ALIGNMENT 4096

/** A zeroed I/O buffer for free(); NULL when out of memory. */
static inline void *qcow2_buffer(size_t bytes)
{
    size_t size = align_up(MAX(bytes, (size_t)1), QCOW2_BUFFER_ALIGNMENT);
    void *buffer = aligned_alloc(QCOW2_BUFFER_ALIGNMENT, size);
    return buffer ? memset(buffer, 0, size) : NULL;
}

static inline struct qcow2 *qcow2_of(const struct block_node *node)
{
    return node->state;
}

/** Where plain guest clusters lie; compressed ones and all metadata lie in q->file. */
static inline struct block_node *qcow2_data(const struct qcow2 *q)
{
    return q->data;
}

/** Guest clusters lie in an external data file, at their guest offsets, and have no refcounts. */
static inline bool qcow2_has_data_file(const struct qcow2 *q)
{
    return q->data != q->file;
}

/** The data file holds what the guest sees, byte for byte, without the image's metadata. */
static inline bool qcow2_data_is_raw(const struct qcow2 *q)
{
    return qcow2_has_data_file(q) && (q->header.autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
}

/**
 * The host cluster that a plain L2 entry names. In a data file it may be the one at 0, told from
 * none by the COPIED flag. @return false: none.
 */
static inline bool qcow2_entry_host(const struct qcow2 *q, uint64_t entry, uint64_t *ret_host)
{
    *ret_host = entry & QCOW2_OFFSET_MASK;
    return *ret_host || (qcow2_has_data_file(q) && (entry & QCOW2_COPIED));
}

/* ---- geometry ---- */

static inline uint64_t qcow2_l1_index(const struct qcow2 *q, uint64_t guest)
{
    return guest >> (q->cluster_bits + q->l2_bits);
}

static inline uint32_t qcow2_l2_index(const struct qcow2 *q, uint64_t guest)
{
    return (uint32_t)(guest >> q->cluster_bits) & ((1u << q->l2_bits) - 1);
}

static inline uint64_t qcow2_in_cluster(const struct qcow2 *q, uint64_t offset)
{
    return offset & (q->cluster_size - 1);
}

static inline unsigned qcow2_subcluster_index(const struct qcow2 *q, uint64_t guest)
{
    return (unsigned)(qcow2_in_cluster(q, guest) >> q->subcluster_bits);
}

/* ---- header and life (tables.c, qcow2.c) ---- */

/** Writes the fixed header fields from q->header into the file: one sector, durably. */
HWS_MUST_CHECK int qcow2_co_header_store(struct qcow2 *q);
/**
 * Puts @h, a changed qcow2_header_copy() of q->header, into the file and in q->header's place,
 * durably, so that a crash leaves the one or the other; @h then holds the old one. Caller holds
 * alloc_lock. Where a failure leaves open which one the disk has, the image is `broken`.
 * -ENOSPC: does not fit; nothing has changed. header_replace.c
 */
HWS_MUST_CHECK int qcow2_co_header_replace(struct qcow2 *q, struct qcow2_header *h,
                                           struct hws_error *err);
/** The driver's co_make_empty; shrink.c. */
HWS_MUST_CHECK int qcow2_co_make_empty(struct block_node *node, struct hws_error *err);
/** The driver's co_change_backing. */
HWS_MUST_CHECK int qcow2_co_change_backing(struct block_node *node, const char *file,
                                           const char *format, struct hws_error *err);
/** Reads and checks the header and the tables that it places into a zeroed @q; tables.c. */
HWS_MUST_CHECK int qcow2_co_tables_load(struct qcow2 *q, struct hws_error *err);
void qcow2_tables_free(struct qcow2 *q);
/** Recomputes reserved_range from the header. Caller holds q->lock or is alone. */
void qcow2_reserve_ranges(struct qcow2 *q);
/** The constants of the image, from its header. */
void qcow2_set_geometry(struct qcow2 *q);

/** Makes the state of a node over its open file, and takes it apart (without writing anything). */
HWS_MUST_CHECK int qcow2_co_start(struct block_node *node, struct hws_error *err);
void qcow2_stop(struct block_node *node);

/**
 * Cuts the file behind its last cluster in use: what it grew ahead of the allocation goes, and what
 * was freed at its end (trim.c). Takes alloc_lock. @return 0 also where the storage has a fixed
 * size; -errno: the image is as whole as before.
 */
HWS_MUST_CHECK int qcow2_co_trim(struct qcow2 *q);

/** Clears autoclear bits and whatever else must be durable before the first change of the image. */
HWS_MUST_CHECK int qcow2_co_prepare_write(struct qcow2 *q);
/** The same for a change of metadata that leaves the guest's bytes alone: bitmaps do not mind. */
HWS_MUST_CHECK int qcow2_co_prepare_metadata(struct qcow2 *q);

/** Drops all cached metadata and reads header and tables again: after a repair. Image must be idle.
 */
HWS_MUST_CHECK int qcow2_co_reload(struct qcow2 *q, struct hws_error *err);

/* ---- compressed clusters (compressed.c) and check (check.c) ---- */

/**
 * Reads @buffer.length bytes at @offset inside the guest cluster that the L2 entry @entry (bit 62
 * set, as on disk but in host order) describes. @return 0, -EIO where the stream is corrupt,
 * -errno.
 */
HWS_MUST_CHECK int qcow2_co_read_compressed(struct qcow2 *q, uint64_t entry, uint32_t offset,
                                            struct sgl buffer);

/** Frees what compressed.c cached for this image; called at close. */
void qcow2_compressed_forget(struct qcow2 *q);
/** The same of one entry, which is about to stand for other bytes. */
void qcow2_compressed_drop(struct qcow2 *q, uint64_t entry);

/** The driver's co_write_compressed; compressed_write.c. */
HWS_MUST_CHECK int qcow2_co_write_compressed(struct block_node *node, uint64_t offset,
                                             struct sgl buffer, int level);
void qcow2_encoders_free(struct qcow2 *q);
/** The cluster becomes free: nothing more is packed into it. Caller holds alloc_lock. */
void qcow2_pack_forget(struct qcow2 *q, uint64_t cluster);

/**
 * The host bytes that a compressed entry covers: from the exact offset to the end of its last
 * 512-byte sector. @return false where they lie beyond what an entry may name.
 */
static inline bool qcow2_compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *ret_host,
                                          uint64_t *ret_length)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t host = entry & ((1ull << x) - 1);
    uint64_t sectors = ((entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x) + 1;
    *ret_host = host;
    *ret_length = sectors * 512 - (host & 511);
    return host < QCOW2_HOST_END;
}

/** The driver's co_check. Works on the file, not on the cache: flushes before, reloads after
 * repair. */
HWS_MUST_CHECK int qcow2_co_check(struct block_node *node, unsigned repair,
                                  struct block_check *check, struct hws_error *err);

/* ---- bitmap_open.c, bitmap_store.c, header_change.c: dirty bitmaps ---- */

/** Reads the directory and makes the node's bitmaps. What is damaged is told and left out. */
HWS_MUST_CHECK int qcow2_co_bitmaps_open(struct qcow2 *q, struct hws_error *err);
/** The header was read again, after a repair: another directory than before is read again too. */
HWS_MUST_CHECK int qcow2_co_bitmaps_reopen(struct qcow2 *q, struct hws_error *err);
void qcow2_bitmaps_close(struct qcow2 *q);
/**
 * Before the first change of the image: the bitmaps that follow changes do so from now on, and are
 * marked in use on disk, durably. With @all every bitmap is marked: the size changes. Caller holds
 * alloc_lock.
 */
HWS_MUST_CHECK int qcow2_co_bitmaps_begin(struct qcow2 *q, bool all);
/** The driver's functions (block/driver.h). */
HWS_MUST_CHECK int qcow2_co_bitmap_load(struct block_node *node, struct block_bitmap *live,
                                        struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_bitmap_add(struct block_node *node, struct block_bitmap *live,
                                       struct hws_error *err);
void qcow2_bitmap_remove(struct block_node *node, struct block_bitmap *live);
HWS_MUST_CHECK int qcow2_co_bitmaps_store(struct block_node *node, struct hws_error *err);

/** Calls @fn for each entry of a bitmap table, all of them valid, until it fails. */
typedef int qcow2_co_table_fn(struct qcow2 *q, uint32_t index, uint64_t entry, void *arg);
HWS_MUST_CHECK int qcow2_co_bitmap_table_walk(struct qcow2 *q, uint64_t table_offset,
                                              uint32_t entries, qcow2_co_table_fn *fn, void *arg);

static inline struct qcow2_bitmap_limits qcow2_bitmap_limits(const struct qcow2 *q)
{
    return (struct qcow2_bitmap_limits){.cluster_bits = q->cluster_bits,
                                        .file_bytes = block_size(q->file)};
}

/**
 * The extension names the directory @place, durably, and the autoclear bit stands for it; with a
 * count of 0 there is no extension any more. A crash leaves the old one, the new one, or none that
 * counts. -ENOSPC where the header cluster has no room. Caller holds alloc_lock.
 */
HWS_MUST_CHECK int qcow2_co_bitmaps_switch(struct qcow2 *q, const struct qcow2_bitmaps_place *place,
                                           struct hws_error *err);

/* ---- cache.c ---- */

HWS_MUST_CHECK int qcow2_cache_init(struct qcow2 *q);
/** Drops every slice, dirty or not. */
void qcow2_cache_free(struct qcow2 *q);
/** Empties it and gives its memory back. Nothing is dirty, and no request is in flight. */
void qcow2_cache_restart(struct qcow2 *q);

/** Look-up only. The caller holds q->lock. @return NULL where it is absent or still loading. */
struct qcow2_slice *qcow2_cache_find(struct qcow2 *q, uint64_t offset);

enum qcow2_slice_flags {
    QCOW2_SLICE_NEW = 1 << 0,      /* do not read: fill with zeroes (the file holds zeroes there) */
    QCOW2_SLICE_NO_FLUSH = 1 << 1, /* never start a flush pass to make room */
    QCOW2_SLICE_READ = 1 << 2,     /* not to be changed: had even where a pass fails (full disk) */
};

/**
 * Makes the slice at @offset (a multiple of slice_bytes) present and pins it: qcow2_slice_unpin().
 * Must not be called with q->lock held. Loads of one slice by several coroutines are joined.
 */
HWS_MUST_CHECK int qcow2_co_slice_get(struct qcow2 *q, enum qcow2_table table, uint64_t offset,
                                      unsigned flags, struct qcow2_slice **ret);
/**
 * Brings up to @count slices of one L2 table, from @offset on, in with one read: for who goes over
 * the map. Stops at one that is there. @return false where nothing came.
 */
bool qcow2_co_slices_ahead(struct qcow2 *q, uint64_t offset, unsigned count);
/** The caller holds q->lock. */
void qcow2_slice_unpin(struct qcow2 *q, struct qcow2_slice *slice);

/**
 * To be called, with q->lock held and the slice pinned, before its data is changed; marks it dirty.
 * @return 0, or -ENOMEM (nothing changed) when a running pass needs the old bytes and no copy could
 * be made.
 */
HWS_MUST_CHECK int qcow2_slice_touch(struct qcow2 *q, struct qcow2_slice *slice);

/**
 * Forgets slices in a host range that gets a new use. @return -EIO where one is in use: then
 * refcounts are wrong and the range is live metadata. Takes q->lock.
 */
HWS_MUST_CHECK int qcow2_cache_invalidate(struct qcow2 *q, uint64_t offset, uint64_t length);
/** Forgets all slices; they are clean and nobody has one pinned. Takes q->lock. */
void qcow2_cache_forget(struct qcow2 *q);
/** Forgets them, dirty ones too, for a roll-back; waits for a flush pass that holds them. */
void qcow2_co_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t length);
/** For a flush pass, with q->lock held: the slice is on disk (or not: @error) and goes back. */
void qcow2_slice_flushed(struct qcow2 *q, struct qcow2_slice *slice, int error);

/* ---- keep.c: what survives the process ---- */

/* Kinds of slots; their numbers are the order in which they are written. */
enum qcow2_kept_kind {
    QCOW2_KEPT_REFCOUNT,
    QCOW2_KEPT_REFTABLE,
    QCOW2_KEPT_L2,
    QCOW2_KEPT_L1,
    QCOW2_KEPT_KINDS,
};

/**
 * Takes the keep into use, and what a predecessor left there over, as changes of our own that are
 * not written yet. Right after qcow2_co_start().
 */
HWS_MUST_CHECK int qcow2_co_keep_open(struct qcow2 *q, struct hws_error *err);
/**
 * The same for an image that was opened read-only and is to be written, with no request in flight.
 */
HWS_MUST_CHECK int qcow2_co_keep_begin(struct qcow2 *q, struct hws_error *err);
/** Ends its use. Where something is not on disk (the last flush failed) it stays in the keep. */
void qcow2_keep_close(struct qcow2 *q);

/** Forgets the copies of tables, before they are read again. */
void qcow2_keep_reset(struct qcow2 *q);

/** A new value for the header's autoclear bits before the first change: 0 without a keep. */
uint64_t qcow2_keep_mark(struct qcow2 *q);
/** Everything is on disk: the mark goes from the header. */
HWS_MUST_CHECK int qcow2_co_keep_settle(struct qcow2 *q);
/**
 * Before a repair changes the file behind the cache: a mark that is not of this use goes, durably,
 * so that what some keep holds is not put over what was repaired. @return 0, -errno.
 */
HWS_MUST_CHECK int qcow2_co_keep_give_up(struct qcow2 *q);

/** Room for @sectors more dirty sectors of tables. Caller holds alloc_lock, until they are marked.
 */
HWS_MUST_CHECK int qcow2_keep_reserve(struct qcow2 *q, uint64_t sectors);
/** A pass has ended well that wrote these sectors of the table at @host. Caller holds q->lock. */
void qcow2_keep_written(struct qcow2 *q, uint64_t host, const uint32_t *sector, size_t count,
                        const uint64_t *dirty);
/** Entry @index of L1, or of the refcount table, has changed. Caller holds q->lock. */
void qcow2_mark_l1(struct qcow2 *q, uint64_t index);
void qcow2_mark_reftable(struct qcow2 *q, uint64_t index);

/**
 * A word of a table in the keep: one store, which a kill leaves done or not, before whatever the
 * program stores next. @at is aligned to 8.
 */
static inline void qcow2_store_entry(uint8_t *at, uint64_t value)
{
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n((uint64_t *)(void *)at, htobe64(value), __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

/* ---- refcount.c: one count ---- */

/** Entry @index of a refcount slice. Any width. */
uint64_t qcow2_refcount_read(const uint8_t *slice, unsigned order, uint32_t index);
void qcow2_refcount_write(uint8_t *slice, unsigned order, uint32_t index, uint64_t value);

/**
 * Stores 1 in the counts of clusters [cluster, cluster + count) whose
 * refcount blocks exist. Caller holds alloc_lock. On failure nothing has changed.
 */
HWS_MUST_CHECK int qcow2_co_refcount_set_used(struct qcow2 *q, uint64_t cluster, uint64_t count);

/**
 * Pins the refcount slice of @cluster. Caller holds alloc_lock. @ret NULL where there is no block.
 * @ret_index of the cluster's entry inside the slice.
 */
HWS_MUST_CHECK int qcow2_co_refcount_slice(struct qcow2 *q, uint64_t cluster, unsigned flags,
                                           struct qcow2_slice **ret, uint32_t *ret_index);

static inline uint32_t qcow2_refcounts_per_slice(const struct qcow2 *q)
{
    return (q->cache.slice_bytes * 8) >> q->refcount_order;
}

/* ---- alloc.c, reftable.c: host clusters ---- */

/**
 * Allocates up to @want neighbouring host clusters. Takes alloc_lock.
 * @ret_host the first one's offset, @ret_got how many (1..want), @ret_zero (may be NULL) whether
 * the file holds zeroes there: nothing was ever written so far behind its old end.
 */
HWS_MUST_CHECK int qcow2_co_alloc(struct qcow2 *q, uint32_t want, uint64_t *ret_host,
                                  uint32_t *ret_got, bool *ret_zero);
/** As above for a caller that holds alloc_lock; with @all, exactly @want or an error. */
HWS_MUST_CHECK int qcow2_co_alloc_locked(struct qcow2 *q, uint32_t want, bool all,
                                         uint64_t *ret_host, uint32_t *ret_got);
/** qcow2_co_reach() where the range ends behind fresh_cluster. Takes alloc_lock. */
HWS_MUST_CHECK int qcow2_co_reach_behind(struct qcow2 *q, uint64_t end_cluster);
/**
 * Before a write into clusters that the image had when it was opened: a file that was cut short may
 * end in front of them, and must neither be grown to less nor be trimmed to its allocations.
 */
HWS_MUST_CHECK static inline int qcow2_co_reach(struct qcow2 *q, uint64_t host, uint64_t length)
{
    uint64_t end_cluster = ((host + length - 1) >> q->cluster_bits) + 1;
    if (likely(end_cluster <= atomic_load_explicit(&q->fresh_cluster, memory_order_relaxed)))
        return 0;
    return qcow2_co_reach_behind(q, end_cluster);
}
/** Makes refcount block @block, in the first cluster that it describes. Caller holds alloc_lock. */
HWS_MUST_CHECK int qcow2_co_refcount_block_new(struct qcow2 *q, uint64_t block);
/**
 * @want neighbouring clusters behind all that refcount blocks describe, with the new blocks in
 * front of them; grows the refcount table where needed. Caller holds alloc_lock.
 */
HWS_MUST_CHECK int qcow2_co_alloc_region(struct qcow2 *q, uint64_t want, uint64_t *ret_host);
/** Makes the refcount table reach block @block. Caller holds alloc_lock. */
HWS_MUST_CHECK int qcow2_co_reftable_grow(struct qcow2 *q, uint64_t block);

/** -EIO where a host range lies over the header or a table that the header places. Holds q->lock.
 */
HWS_MUST_CHECK int qcow2_check_host(struct qcow2 *q, uint64_t host, uint64_t length);
/** The same, for a range that guest data is written to: no refcount block or L2 table either. */
HWS_MUST_CHECK int qcow2_check_data_host(struct qcow2 *q, uint64_t host, uint64_t length);
/** The same before guest data is written; whatever lies in a data file is guest data. */
HWS_MUST_CHECK static inline int qcow2_check_target(struct qcow2 *q, uint64_t host, uint64_t length)
{
    return qcow2_has_data_file(q) ? 0 : qcow2_check_data_host(q, host, length);
}
/** The filter behind it: from the tables in memory; and a table that was added since. */
HWS_MUST_CHECK int qcow2_guard_make(struct qcow2 *q);
void qcow2_guard_add(struct qcow2 *q, uint64_t host);
/** Writes zeroes to the file, also past its end. */
HWS_MUST_CHECK int qcow2_co_zero_host(struct qcow2 *q, uint64_t host, uint64_t length);
HWS_MUST_CHECK int qcow2_co_zero_blocks(struct block_node *file, uint64_t host, uint64_t length);
/** Marks the 512-byte sector of a table that holds entry @index for the next pass. Holds q->lock.
 */
static inline void qcow2_mark_entry(uint64_t *bitmap, bool *any, uint64_t index)
{
    bitmap[index / 64 / 64] |= 1ull << (index / 64 % 64);
    *any = true;
}
static inline size_t qcow2_dirty_words(uint64_t entries)
{
    return entries / 64 / 64 + 1;
}

/* ---- free.c: the freed list ---- */

/** Promises room for @entries calls of qcow2_freed_add(). Takes q->lock. */
HWS_MUST_CHECK int qcow2_freed_reserve(struct qcow2 *q, unsigned entries);
/** Gives promised room back. Takes q->lock. */
void qcow2_freed_unreserve(struct qcow2 *q, unsigned entries);
/**
 * The clusters are no longer referenced by L2 in memory. Uses one promised entry. Caller holds
 * q->lock.
 * @on_disk: L2 tables on disk may still name them.
 */
void qcow2_freed_add(struct qcow2 *q, uint64_t host, uint32_t clusters, bool on_disk);
/**
 * Lowers the counts of clusters that neither the disk nor a request refers to any more, at once.
 * What fails leaks. Caller holds alloc_lock.
 */
void qcow2_co_release(struct qcow2 *q, uint64_t cluster, uint64_t count);
/** Lowers the refcounts of freed clusters whose time has come. Takes alloc_lock. */
void qcow2_co_reclaim(struct qcow2 *q);
void qcow2_co_reclaim_locked(struct qcow2 *q);
/** Flushes and reclaims when so much was freed that waiting for the user's flush would grow the
 * file. */
void qcow2_co_reclaim_if_many(struct qcow2 *q);
/** More freed clusters than this wait: worth a flush pass of our own. 64 MiB, but 64 at least. */
static inline uint64_t qcow2_freed_many(const struct qcow2 *q)
{
    return MAX(64 * MiB >> q->cluster_bits, 64ull);
}

static inline _Atomic uint32_t *qcow2_users_of(struct qcow2 *q, uint64_t epoch)
{
    return &q->users[rt_queue_index() % QCOW2_USER_LANES].count[epoch & 1];
}

/** Marks a request's use of host clusters; the caller holds q->lock. @return its epoch. */
static inline uint64_t qcow2_enter(struct qcow2 *q)
{
    uint64_t epoch = atomic_load_explicit(&q->epoch, memory_order_relaxed);
    atomic_fetch_add_explicit(qcow2_users_of(q, epoch), 1, memory_order_relaxed);
    return epoch;
}

/** Ends it, after the host I/O; without a lock, on the same queue. */
static inline void qcow2_leave(struct qcow2 *q, uint64_t epoch)
{
    atomic_fetch_sub_explicit(qcow2_users_of(q, epoch), 1, memory_order_release);
}

/* ---- l2.c: the map ---- */

enum qcow2_kind {
    QCOW2_KIND_UNALLOCATED, /* ask the backing file */
    QCOW2_KIND_ZERO,
    QCOW2_KIND_DATA,
    QCOW2_KIND_COMPRESSED,
};

struct qcow2_extent {
    enum qcow2_kind kind;
    bool has_host;   /* `host` is valid: DATA, or preallocated ZERO or UNALLOCATED */
    bool copied;     /* the host clusters are ours alone: may be written in place */
    uint64_t length; /* guest bytes of one kind, contiguous in the host where has_host */
    uint64_t host;   /* of the first byte */
    uint64_t entry;  /* COMPRESSED: the L2 entry; `length` then ends with the cluster */
};

/**
 * What lies at the guest range; at most up to the end of the L2 slice. Caller holds q->lock.
 * @return 0, -EAGAIN with @ret_load set to a slice to load first, -EIO for a corrupt entry.
 */
HWS_MUST_CHECK int qcow2_map(struct qcow2 *q, uint64_t guest, uint64_t length,
                             struct qcow2_extent *ret, uint64_t *ret_load);

/** As qcow2_map(), loading what is needed, and returns with q->lock held where the result is 0. */
HWS_MUST_CHECK int qcow2_co_map_lock(struct qcow2 *q, uint64_t guest, uint64_t length,
                                     struct qcow2_extent *ret);

/**
 * The L2 slice that holds the entry of @guest, pinned, its table present and ours alone (allocated
 * or copied where needed). For changing entries.
 */
HWS_MUST_CHECK int qcow2_co_l2_slice(struct qcow2 *q, uint64_t guest, struct qcow2_slice **ret);

/** Address of the entry of @guest inside its slice. */
static inline uint8_t *qcow2_l2_entry(const struct qcow2 *q, struct qcow2_slice *slice,
                                      uint64_t guest)
{
    uint64_t at = (uint64_t)qcow2_l2_index(q, guest) * q->l2_entry_bytes;
    return slice->data + (at & (q->cache.slice_bytes - 1));
}

/** Does the entry at @at obey the format, as far as it says itself? Caller holds q->lock. */
bool qcow2_entry_valid(const struct qcow2 *q, const uint8_t *at);

/** Clusters from @guest to the end of its L2 slice. */
static inline uint32_t qcow2_slice_clusters_left(const struct qcow2 *q, uint64_t guest)
{
    uint32_t per_slice = q->cache.slice_bytes / q->l2_entry_bytes;
    return per_slice - (qcow2_l2_index(q, guest) & (per_slice - 1));
}

/* ---- requests ---- */

HWS_MUST_CHECK int qcow2_co_read_layer(struct block_node *node, uint64_t offset, struct sgl buffer,
                                       unsigned flags, struct block_holes *holes);
/** Reads guest bytes through this layer and the backing chain; zeroes past the virtual end. */
HWS_MUST_CHECK int qcow2_co_read_guest(struct qcow2 *q, uint64_t offset, struct sgl buffer);
HWS_MUST_CHECK int qcow2_co_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                                  unsigned flags);
HWS_MUST_CHECK int qcow2_co_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                                         unsigned flags);
HWS_MUST_CHECK int qcow2_co_discard(struct block_node *node, uint64_t offset, uint64_t length);
HWS_MUST_CHECK int qcow2_co_status(struct block_node *node, uint64_t offset, uint64_t length,
                                   struct block_extent *ret);
HWS_MUST_CHECK int qcow2_co_resize(struct block_node *node, uint64_t size_bytes,
                                   struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_create(const void *options, struct block_node *file,
                                   struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_measure(const void *create_options, struct block_node *source,
                                    struct block_measure *ret, struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_info(struct block_node *node, json_t *info, struct hws_error *err);

/** Writes zeroes as guest data. */
HWS_MUST_CHECK int qcow2_co_write_data_zeroes(struct qcow2 *q, uint64_t offset, uint64_t length);
/** Version 3: [start, end), in multiples of a subcluster, reads as zeroes; clusters are dropped. */
HWS_MUST_CHECK int qcow2_co_zero_range(struct qcow2 *q, uint64_t start, uint64_t end);
/**
 * Whole clusters [start, end): what has L2 tables there reads as zeroes and is dropped; with @gone
 * (behind the end of the device) entries become unallocated, whatever a backing file holds.
 */
HWS_MUST_CHECK int qcow2_co_cut(struct qcow2 *q, uint64_t start, uint64_t end, bool gone);
/** A part of a cluster: written as zeroes where it would show something (resize.c). */
HWS_MUST_CHECK int qcow2_co_clear_part(struct qcow2 *q, uint64_t start, uint64_t end);
/** Shrinks the device to @size, a multiple of 512 (shrink.c); no request may be in flight. */
HWS_MUST_CHECK int qcow2_co_shrink(struct qcow2 *q, uint64_t size);

/** Everything written before is durable, in order (flush.c); concurrent calls are merged. */
HWS_MUST_CHECK int qcow2_co_flush(struct block_node *node);
/** One pass without reclaiming freed clusters: may be called with alloc_lock held. */
HWS_MUST_CHECK int qcow2_co_flush_pass(struct qcow2 *q);
/** The guest's flush: with lazy refcounts these stay in memory, while the dirty bit says so. */
HWS_MUST_CHECK int qcow2_co_flush_guest(struct block_node *node);

/** Refcounts need not be on disk before what they count; the dirty bit is set meanwhile. */
static inline bool qcow2_is_lazy(const struct qcow2 *q)
{
    return q->lazy_refcounts == QCOW2_ON ||
           (q->lazy_refcounts == QCOW2_AUTO &&
            (q->header.compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS));
}
/** Before the first refcount changes: the dirty bit, durably, where lazy. Caller holds alloc_lock.
 */
HWS_MUST_CHECK int qcow2_co_mark_dirty(struct qcow2 *q);
/** All is on disk: the dirty bit goes. Takes alloc_lock. */
HWS_MUST_CHECK int qcow2_co_clear_dirty(struct qcow2 *q);

/* ---- in-flight table (alloc.c) ---- */

/** NULL, or a running allocation that shares a byte with [start, end). Caller holds q->lock. */
struct qcow2_in_flight *qcow2_in_flight_find(struct qcow2 *q, uint64_t start, uint64_t end);
/** Waits until @other has ended or shrunk. Caller holds q->lock, which is released meanwhile. */
void qcow2_co_in_flight_wait(struct qcow2 *q, struct qcow2_in_flight *other);
void qcow2_in_flight_begin(struct qcow2 *q, struct qcow2_in_flight *self, uint64_t start,
                           uint64_t end);
void qcow2_in_flight_end(struct qcow2 *q, struct qcow2_in_flight *self);

/* ---- internal snapshots: the driver's operations; snapshot.c, snapshot_change.c ---- */

HWS_MUST_CHECK int qcow2_co_snapshots(struct block_node *node, struct block_snapshot **ret,
                                      size_t *ret_count, struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_snapshot_create(struct block_node *node, const char *name,
                                            struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_snapshot_apply(struct block_node *node, const char *id_or_name,
                                           struct hws_error *err);
HWS_MUST_CHECK int qcow2_co_snapshot_delete(struct block_node *node, const char *id_or_name,
                                            struct hws_error *err);

/* ---- options ---- */

struct qcow2_open {
    char *snapshot;
    int lazy_refcounts; /* enum qcow2_switch */
    bool discard_no_unref;
};

extern const struct option_desc qcow2_open_options[];
extern const struct option_desc qcow2_create_options[];

#endif
