/*
 * Dirty bitmaps: which parts of a node were written since somebody last asked, for incremental
 * backup.
 *
 *   one bit a grain (512 bytes to 2 GiB)      1: written, or not known    0: not written
 *   one summary bit for 4096 bits             0: all of them are 0
 *
 * An enabled bitmap is set by every change of the node that goes through the core (write,
 * write-zeroes, discard, compressed write, copy), after the driver has returned and before the
 * request completes, failed requests included. So who clears the bits and then reads the data
 * never misses a change: it has either the new bytes, or the bit again. Setting takes no lock, and
 * where a grain is dirty already one load.
 *
 * A bitmap without a name lives as long as its owner wants; a persistent one has a name and belongs
 * to the node's format, which finds it at open, loads its bits when they are needed, and stores it
 * when the node is closed, becomes read-only, or co_block_bitmaps_store() is called.
 *
 * Who may call. Setting and reading bits: any thread, at any time. All that clears, adds,
 * removes, enables, disables, stores or resizes: the coroutine that controls the graph, with the
 * node idle (drained).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_BITMAP_H
#define BLOCK_BITMAP_H

#include "base/list.h"
#include "block/block.h"
#include <stdatomic.h>

#define BLOCK_BITMAP_NAME_MAX             1023u
#define BLOCK_BITMAP_GRANULARITY_BITS_MIN 9u  /* 512 bytes */
#define BLOCK_BITMAP_GRANULARITY_BITS_MAX 31u /* 2 GiB */
/* Where nobody says: the node's cluster size, within these. */
#define BLOCK_BITMAP_GRANULARITY_DEFAULT_MIN (4 * KiB)
#define BLOCK_BITMAP_GRANULARITY_DEFAULT_MAX (64 * KiB)
/* 2^32 grains: 2 TiB in grains of 512 bytes, 256 TiB in grains of 64 KiB. */
#define BLOCK_BITMAP_BYTES_MAX (512 * MiB)
/* Of all bitmaps of one node whose bits are in memory. */
#define BLOCK_BITMAPS_BYTES_MAX (1 * GiB)

/* Bits that one summary bit stands for. */
#define BLOCK_BITMAP_GROUP_BITS 4096u

struct block_bitmap {
    struct list link; /* of the node's bitmaps */
    struct block_node *node;
    char *name; /* NULL: nobody finds it, and no format stores it */
    unsigned granularity_bits;
    bool persistent;
    bool enabled; /* follows changes; a persistent one from the image's first change on */
    _Atomic bool inconsistent; /* was not stored by whoever used it last: its bits mean nothing */
    bool changed;              /* differs from what the format has stored */
    void *stored;              /* the format's own */

    uint64_t bits; /* grains, the last one may be cut short by the end of the node */
    uint64_t capacity_words;
    _Atomic uint64_t *word;    /* bit i: word[i / 64] >> i % 64. NULL: not loaded */
    _Atomic uint64_t *summary; /* never cleared while the node may be written */
    _Atomic bool loaded;       /* the bits are all there */
    bool tracked;
    struct block_bitmap *_Atomic next_tracked;
};

enum block_bitmap_flags {
    BLOCK_BITMAP_PERSISTENT = 1 << 0,
    BLOCK_BITMAP_DISABLED = 1 << 1,
};

/* ---- the bitmaps of a node ---- */

/**
 * Adds a bitmap, all clean. @name NULL or 1 to 1023 bytes, unique on the node; persistent ones have
 * one. @granularity in bytes, a power of two of 512 to 2 GiB; 0: the default. @flags of
 * enum block_bitmap_flags. @ret (may be NULL) belongs to the node.
 * @return 0, -EINVAL, -EEXIST, -EFBIG (too many grains), -ENOTSUP (the format stores none), -ENOMEM
 */
HWS_MUST_CHECK int co_block_bitmap_add(struct block_node *node, const char *name,
                                       uint64_t granularity, unsigned flags,
                                       struct block_bitmap **ret, struct hws_error *err);
/** Takes it from the node, and from what is stored when that is next done. */
HWS_MUST_CHECK int co_block_bitmap_remove(struct block_bitmap *bitmap, struct hws_error *err);
/** Makes it follow changes, or stop doing so. -EUCLEAN where it is inconsistent. */
HWS_MUST_CHECK int co_block_bitmap_enable(struct block_bitmap *bitmap, bool enabled,
                                          struct hws_error *err);
/** All of it is clean. */
HWS_MUST_CHECK int co_block_bitmap_clear(struct block_bitmap *bitmap, struct hws_error *err);
/**
 * What is dirty in @from becomes dirty in @to. The granularities may differ, and so may the nodes;
 * -EINVAL where those have different sizes.
 */
HWS_MUST_CHECK int co_block_bitmap_merge(struct block_bitmap *to, struct block_bitmap *from,
                                         struct hws_error *err);
/**
 * Stores the persistent bitmaps as they are now, durably, all of them or none. What changes the
 * node next marks them in use again first.
 */
HWS_MUST_CHECK int co_block_bitmaps_store(struct block_node *node, struct hws_error *err);
/**
 * Copies all persistent bitmaps of @from to @to, which must have the same size and none of their
 * names: granularity, whether they are enabled, bits. Inconsistent ones are an error (-EUCLEAN), or
 * with @skip_broken left out. Stored when @to is. @return 0, or the first failure; what was copied
 * before it stays.
 */
HWS_MUST_CHECK int co_block_bitmaps_copy(struct block_node *from, struct block_node *to,
                                         bool skip_broken, struct hws_error *err);

/** By name; NULL where there is none. */
struct block_bitmap *block_bitmap_find(struct block_node *node, const char *name);
/** The one after @bitmap, NULL: the first. @return NULL at the end. In the order of their making.
 */
struct block_bitmap *block_bitmap_after(struct block_node *node, struct block_bitmap *bitmap);

/* ---- bits ---- */

/**
 * What is known of [@offset, @offset + @length), which lies inside the node: whether its start is
 * dirty, and how far all of it is so. Loads the bits where that was not done yet.
 * @ret_length > 0, at most @length. @return 0, -EUCLEAN where it is inconsistent, -errno
 */
HWS_MUST_CHECK int co_block_bitmap_next(struct block_bitmap *bitmap, uint64_t offset,
                                        uint64_t length, bool *ret_dirty, uint64_t *ret_length);
/** Bytes that are dirty, in whole grains but for the last one. As co_block_bitmap_next(). */
HWS_MUST_CHECK int co_block_bitmap_count(struct block_bitmap *bitmap, uint64_t *ret_bytes);
/** Makes the bits present; those of an inconsistent bitmap: -EUCLEAN. */
HWS_MUST_CHECK int co_block_bitmap_load(struct block_bitmap *bitmap, struct hws_error *err);

/** Marks a byte range dirty. The bits are loaded. */
void block_bitmap_set(struct block_bitmap *bitmap, uint64_t offset, uint64_t length);

/* ---- of a root's image, for its exports: any queue, held off by a drain ---- */

/** co_block_bitmap_next() of the bitmap called @name. -ENOENT. */
HWS_MUST_CHECK int co_root_bitmap_next(struct block_root *root, const char *name, uint64_t offset,
                                       uint64_t length, bool *ret_dirty, uint64_t *ret_length);
/** The name of the @index-th bitmap that has one, in @ret_name of BLOCK_BITMAP_NAME_MAX + 1 bytes.
 * -ENOENT past the last. */
HWS_MUST_CHECK int co_root_bitmap_name(struct block_root *root, unsigned index, char *ret_name);

/* ---- for format drivers ---- */

/** Makes a persistent bitmap that the image has; no bits yet. @name is copied. */
HWS_MUST_CHECK int block_bitmap_attach(struct block_node *node, const char *name,
                                       unsigned granularity_bits, bool enabled,
                                       struct block_bitmap **ret);
/** Frees it. Without a word to the format. */
void block_bitmap_detach(struct block_bitmap *bitmap);
/** Makes its bits, all clean, where it has none. -EFBIG beyond the limits, -ENOMEM. */
HWS_MUST_CHECK int block_bitmap_make_bits(struct block_bitmap *bitmap);
/** From now on changes of the node set it. The bits are loaded; idempotent; any thread. */
void block_bitmap_track(struct block_bitmap *bitmap);
/** Grains that @size_bytes make. */
static inline uint64_t block_bitmap_grains(unsigned granularity_bits, uint64_t size_bytes)
{
    return div_round_up(size_bytes, (uint64_t)1 << granularity_bits);
}

#endif
