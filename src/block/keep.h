/*
 * Memory that outlives the process: what an image has in memory and not yet on disk survives a
 * crash or a kill of the process that serves it, so that the users of its device, who live on, lose
 * no write that was completed. It does not survive the machine: there, as on every disk with a
 * write cache, what was not flushed may be lost.
 *
 * A keep is a file, best on tmpfs, mapped and shared. A process opens images with the keep in
 * their policy; after its death the next process opens the same images with the same keep and finds
 * the changes that were not written, which the format driver takes over, as changes of its own,
 * before it serves anything. A clean close empties the keep. One that is of another boot of the
 * machine is told and emptied; one that is damaged, or whose image somebody else has changed since,
 * is refused (EUCLEAN, ESTALE), never applied.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_KEEP_H
#define BLOCK_KEEP_H

#include "base/common.h"
#include "base/list.h"
#include "hawser/error.h"
#include <stdatomic.h>

struct block_keep;
struct block_node;

/**
 * Opens the keep at @path, making it (mode 0600) where there is none, and locks it: one process has
 * it at a time. @ret ended by block_keep_close(), after all images that use it.
 * @return 0, -EAGAIN where another process holds it (a dying one does until all its I/O has ended),
 * -EUCLEAN where it is damaged or no keep at all (left as it is), -ENOTSUP where another version of
 * the program made it, -EPERM where another user can write it, -errno.
 */
HWS_MUST_CHECK int block_keep_open(const char *path, struct block_keep **ret,
                                   struct hws_error *err);

/** Closes it; the file is removed where nothing is in it. @keep may be NULL. @return NULL. */
struct block_keep *block_keep_close(struct block_keep *keep);

/** True where a predecessor left changes that nobody has taken over yet. */
bool block_keep_pending(const struct block_keep *keep);

/* ---- for format drivers ---- */

/*
 * The keep holds pieces of the image's file in slots of one size, in segments of 32 KiB and a page
 * of headers. A slot that is dirty holds what its place in the file shall hold; others mean
 * nothing. A driver works on the slot's memory itself. No system call but for a new segment.
 *
 * Order. A kill stops each thread between two instructions, and what it stored before is in the
 * mapping; no other process looks meanwhile. So the order of the compiled program is the order that
 * counts, compiler barriers keep it, and one aligned store of up to 8 bytes happens or does not. A
 * slot's place is stored before its state says dirty, and that before its bytes change.
 */
#define BLOCK_KEEP_DATA_BYTES (32 * KiB)
#define BLOCK_KEEP_SLOT_MIN   512u

#define BLOCK_KEEP_CLEAN      0u
#define BLOCK_KEEP_DIRTY      0x7972644bu

struct block_keep_slot { /* in the mapping */
    _Atomic uint32_t state;
    uint32_t kind;   /* the driver's */
    uint64_t offset; /* in the image's file */
};

struct block_keep_image; /* one open image's part of a keep */

struct block_keep_segment {
    struct block_keep_slot *slot; /* `slots` of them, in the mapping */
    uint8_t *data;                /* page-aligned, slot after slot, in the mapping */
    uint32_t slot_bytes, slots;
};

/** What a predecessor left: the copied headers, and the bytes in the mapping. */
struct block_keep_change {
    uint64_t offset;
    uint32_t kind, length;
    uint8_t *data;
};

/** A dirty slot for [offset, offset + slot_bytes); its bytes are as in the file, or change next. */
static inline void block_keep_slot_dirty(struct block_keep_slot *slot, uint64_t offset,
                                         uint32_t kind)
{
    slot->offset = offset;
    slot->kind = kind;
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&slot->state, BLOCK_KEEP_DIRTY, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

/** The file holds the slot's bytes, as far as this machine's programs can see. */
static inline void block_keep_slot_clean(struct block_keep_slot *slot)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&slot->state, BLOCK_KEEP_CLEAN, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

/**
 * The part of the image @node in the keep of its policy, with what a predecessor left. After the
 * image's file is open and locked. @ret NULL where there is no keep, or the image lies in no file;
 * ended by block_keep_detach(). @return 0, -EBUSY where the keep serves that image already,
 * -ENOMEM.
 */
HWS_MUST_CHECK int block_keep_attach(struct block_node *node, struct block_keep_image **ret,
                                     struct hws_error *err);

/** True where the policy's keep holds changes of the image @node, which is not attached. */
bool block_keep_holds(struct block_node *node);

/**
 * What the predecessor left for @image. @ret to be freed; @ret_mark the mark that was set then.
 * @return 0, -EUCLEAN where it contradicts itself, -ENOMEM.
 */
HWS_MUST_CHECK int block_keep_changes(struct block_keep_image *image,
                                      struct block_keep_change **ret, size_t *ret_count,
                                      uint64_t *ret_mark, struct hws_error *err);

/** What the predecessor left is in the image, or in slots of ours: it goes from the keep. */
void block_keep_applied(struct block_keep_image *image);

/**
 * A number that tells this use of the image from others, for the image to hold as well: a change by
 * somebody who does not know the keep takes it away there. No slot is dirty.
 */
void block_keep_mark(struct block_keep_image *image, uint64_t mark);

/**
 * A segment with clean slots of @slot_bytes, a power of two of BLOCK_KEEP_SLOT_MIN at least. Any
 * thread. @return NULL where there is no room.
 */
HWS_MUST_CHECK struct block_keep_segment *block_keep_segment_new(struct block_keep_image *image,
                                                                 uint32_t slot_bytes);
/** Gives a segment back, dirty slots too. No I/O may be under way in it. */
void block_keep_segment_free(struct block_keep_image *image, struct block_keep_segment *segment);

/**
 * Ends the use of the image's part. What is dirty stays pending for the next one who attaches it;
 * the rest is given back. @image may be NULL.
 */
void block_keep_detach(struct block_keep_image *image);

#endif
