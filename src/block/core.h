/*
 * What the files of the core share and drivers do not see.
 *
 *   options.c describe.c  text and JSON     drivers.c  the table of drivers
 *   open.c policy.c node.c context.c        the life of a graph
 *   request.c read.c write.c zero.c flush.c the request path
 *   shortcut.c                              fast ways through long chains
 *   bounce.c serial.c                       what unaligned requests need
 *   status.c resize.c copy.c create.c info.c backing.c
 *   bitmap.c bitmap_bits.c                  dirty bitmaps
 *   status.c resize.c amend.c copy.c create.c info.c backing.c
 *   root.c push.c stats.c                   what users hold
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_CORE_H
#define BLOCK_CORE_H

#include "block/bitmap.h"
#include "block/driver.h"
#include "block/shortcut.h"
#include "rt/sync.h"

/* Files below files in one description (filters, containers in containers). Recursion, so small. */
#define BLOCK_NESTING_MAX 16

/* One bounce buffer, and how many of them a node may have in use. 1 MiB a node at the worst. */
#define BOUNCE_BYTES ((size_t)64 << 10)
#define BOUNCE_MAX   16
#define BOUNCE_KEEP  2
/* Fits every O_DIRECT device there is. */
#define BOUNCE_ALIGNMENT 4096

/* The largest piece that a driver without a limit of its own is given. */
#define TRANSFER_MAX (1 * GiB)

/* Distinct places of corruption that a node logs. */
#define CORRUPT_PLACES 16

struct bounce_pool {
    struct rt_mutex guard;
    struct co_waitq waiters;
    unsigned in_use, kept;
    void *keep[BOUNCE_KEEP];
};

/* Writes in flight on a node whose requests must be aligned; see serial.c. */
struct serial_set {
    struct rt_mutex guard;
    struct co_waitq waiters;
    struct list active;
};

struct flush_state {
    struct rt_mutex guard;
    struct co_waitq waiters;
    struct list requests;
    bool running;
    _Atomic bool dirty; /* something was written since the last flush began */
};

/* A backing file that an image named, until the core opens it. */
struct named_file {
    char *name;   /* as the image has it */
    char *format; /* or NULL */
};

struct block_core {
    struct block_node *node;
    atomic_uint references;
    struct block_node *above; /* the node that this one was opened for; valid while opening only */
    uint64_t device, inode;   /* what storage this is; 0, 0: unknown or none */
    uint64_t birth_ns;        /* of that storage; 0: unknown */
    bool identified;
    unsigned depth;   /* backing edges above, when it was opened */
    unsigned nesting; /* file edges above, likewise */
    struct named_file backing;
    const json_t *backing_given; /* the description's own; JSON null: none. While opening only */
    struct list pending;         /* in opening->pending */
    struct opening *opening;     /* valid while opening only */
    char *beneath;               /* node->beneath, owned */
    struct block_node *new_data; /* block_create_data(); while a format is being made only */

    struct bounce_pool bounce;
    struct serial_set serial;
    struct flush_state flush;

    struct rt_mutex shortcut_guard;
    _Atomic(struct shortcut *) shortcut;
    _Atomic uint64_t shortcut_refused; /* the epoch in which the node was found to have none */
    _Atomic uint64_t changed_epoch;    /* when its rights or its backing edge last changed */

    struct list bitmaps;                  /* of struct block_bitmap; bitmap.c */
    uint64_t bitmap_bytes;                /* of the bits in memory */
    struct co_mutex bitmap_loading;       /* of their bits */
    struct block_bitmap *_Atomic tracked; /* those that follow changes now */

    struct rt_mutex corrupt_guard; /* and the making of `tracked` */
    const char *corrupt_place[CORRUPT_PLACES];
    _Atomic uint64_t corruptions;
};

struct block_context {
    atomic_uint references;
    struct block_policy policy; /* `allow` is a deep copy */
    _Atomic uint64_t cache_used;
    atomic_uint shortcuts; /* nodes that have one */
};

/* One co_block_open() under way. */
struct opening {
    struct block_context *context;
    struct list pending; /* of block_core.pending: nodes whose backing file is still to be opened */
};

/* ---- open.c, context.c ---- */

struct block_context *context_new(const struct block_policy *policy);
struct block_context *context_ref(struct block_context *context);
void context_unref(struct block_context *context);

/* ---- node.c ---- */

/** Frees a node that never opened, or has been closed; not its children. */
void node_free(struct block_node *node);
/** Takes the right to write away from a node and the files that it writes to, or gives it back. */
HWS_MUST_CHECK int co_node_set_read_only(struct block_node *node, bool read_only,
                                         struct hws_error *err);

/* ---- policy.c ---- */

/**
 * Where the file @name that the image @naming names lies, and the folder that it may not leave.
 * Pure but for the working folder. @ret_path, @ret_beneath to be freed; both NULL where @name is
 * not a path but listed word for word, so that it may be opened as a description.
 * @return -EACCES where the policy does not allow it.
 */
HWS_MUST_CHECK int policy_resolve(const struct block_policy *policy, const char *naming,
                                  const char *name, char **ret_path, char **ret_beneath,
                                  struct hws_error *err);

/* ---- describe.c ---- */

HWS_MUST_CHECK json_t *describe_file(const char *path);
/** The driver whose "name:" @text begins with, or NULL; @ret_rest what follows. */
const struct block_driver *describe_prefix(const char *text, const char **ret_rest);

/* ---- bounce.c ---- */

void bounce_init(struct bounce_pool *pool);
void bounce_destroy(struct bounce_pool *pool);
/** BOUNCE_BYTES of memory; waits while the node has too many in use. NULL: out of memory. */
void *co_bounce_get(struct bounce_pool *pool);
void bounce_put(struct bounce_pool *pool, void *buffer);

/* ---- serial.c ---- */

struct serial_entry {
    struct list link;
    uint64_t start, end;
    bool rewrites; /* reads and writes back bytes that it was not asked to write */
};

void serial_init(struct serial_set *set);
void serial_destroy(struct serial_set *set);
/** Waits until @entry may run beside those that are active, and makes it active. */
void co_serial_begin(struct serial_set *set, struct serial_entry *entry);
void serial_end(struct serial_set *set, struct serial_entry *entry);

/* ---- request.c, read.c, write.c: ranges that have been checked ---- */

/** True when the driver can take this request as it is. */
static inline bool request_is_direct(const struct block_node *node, uint64_t offset,
                                     struct sgl buffer)
{
    const struct block_limits *limits = &node->limits;
    return is_aligned(offset | buffer.length, limits->request_alignment) &&
           buffer.length <= limits->transfer_max &&
           (limits->memory_alignment == 1 || sgl_is_aligned(buffer, limits->memory_alignment));
}

/** The end that aligned requests may reach. */
static inline uint64_t node_end(const struct block_node *node)
{
    return align_up(block_size(node), node->limits.request_alignment);
}

/**
 * How much of a request that is not direct one call takes, from its start.
 * @ret_bounce whether that has to go through a bounce buffer; the padded piece fits one then.
 */
size_t request_next_length(const struct block_node *node, uint64_t offset, struct sgl buffer,
                           bool *ret_bounce);

HWS_MUST_CHECK int co_read_checked(struct block_node *node, uint64_t offset, struct sgl buffer,
                                   unsigned flags);
/** A request that is direct already; may end at node_end(). */
HWS_MUST_CHECK int co_read_aligned(struct block_node *node, uint64_t offset, struct sgl buffer);
HWS_MUST_CHECK int co_write_checked(struct block_node *node, uint64_t offset, struct sgl buffer,
                                    unsigned flags);
/** Writes zeroes as data. */
HWS_MUST_CHECK int co_write_zero_data(struct block_node *node, uint64_t offset, uint64_t length,
                                      unsigned flags);

/* ---- bitmap.c, bitmap_bits.c ---- */

/** Sets the range in @first and those behind it. */
void bitmaps_note(struct block_bitmap *first, uint64_t offset, uint64_t length);
/** Is @offset dirty, and how far; the bits are loaded, the range lies inside the node. */
bool bitmap_run(const struct block_bitmap *bitmap, uint64_t offset, uint64_t length,
                uint64_t *ret_length);
uint64_t bitmap_dirty_bytes(const struct block_bitmap *bitmap);
void bitmap_clear_bits(struct block_bitmap *bitmap);
void bitmap_merge_bits(struct block_bitmap *to, const struct block_bitmap *from);
/** Memory for @bits grains; keeps what is there. The node is idle. */
HWS_MUST_CHECK int bitmap_reserve(struct block_bitmap *bitmap, uint64_t bits);
/** The bitmap has @bits grains, for which there is memory; new ones are clean. */
void bitmap_set_bits(struct block_bitmap *bitmap, uint64_t bits);
/** Loads all bitmaps and makes room for the grains of a larger node. */
HWS_MUST_CHECK int co_bitmaps_reserve(struct block_node *node, uint64_t size_bytes,
                                      struct hws_error *err);
/** The node has its new size. */
void bitmaps_resize(struct block_node *node, uint64_t size_bytes);
void bitmaps_free(struct block_node *node);
/** Loads all bitmaps that can be, before the node's content is replaced. */
HWS_MUST_CHECK int co_bitmaps_load(struct block_node *node, struct hws_error *err);
/** The content was replaced, and perhaps the size (a snapshot): what follows changes is dirty. */
void bitmaps_replaced(struct block_node *node);

/**
 * What changed the bytes of a range must call once the driver has returned, whatever it said, and
 * before the request completes.
 */
static inline void node_note_change(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct block_bitmap *first = atomic_load_explicit(&node->core->tracked, memory_order_acquire);
    if (unlikely(first))
        bitmaps_note(first, offset, length);
}

/** What changes a node must call once the driver has returned, whatever it said. */
static inline void node_mark_dirty(struct block_node *node)
{
    if (!atomic_load_explicit(&node->core->flush.dirty, memory_order_relaxed))
        atomic_store(&node->core->flush.dirty, true);
}

#endif
