/*
 * What a guest may see on its disk: the model that the engine is compared with.
 *
 * Every sector that a test writes carries its own guest address and the number of the write, so
 * bytes that turn up at another address, or an old version that was overwritten and flushed, are
 * told exactly. For each sector the model keeps the values that it may have:
 *
 *   write submitted            another value that the sector may have
 *   write completed            values that had completed before its submission are past; a read
 * that begins now may not see them flush submitted, done      values that were past when the flush
 * was submitted are gone; no crash may bring them back write failed               the value stays
 * possible next to the old ones discard                    as a failed write of zeroes
 *
 * So requests may overlap, fail and be in flight at a crash, and the answer is still exact. The
 * size of the disk is modelled as one more such value.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_GUEST_H
#define TESTS_SIM_GUEST_H

#include "base/common.h"

#define GUEST_SECTOR_BYTES 512

struct guest_value {
    uint64_t value; /* 0: zeroes; else the number of the write */
    uint64_t submitted, ended;
    uint64_t past; /* when a later write overwrote it; UINT64_MAX: it is current */
    bool gone;     /* no crash may bring it back; kept for reads that began before `past` */
};

/* One thing that has a value: a sector, or the size. */
struct guest_cell {
    struct guest_value *values; /* NULL: only `settled`, current since ever */
    unsigned count;
    uint64_t settled;
    /* For a dirty bitmap (sectors only): the value when it was cleared, where that is known, and
     * whether some request was to change it since. */
    uint64_t base;
    bool base_known, touched;
};

/* Reads that may run at once. */
#define GUEST_READS_MAX 64

/* Snapshots that the model keeps at a time. */
#define GUEST_HELD_MAX 4

/* What a snapshot holds. */
struct guest_held {
    struct guest *disk; /* NULL: none */
    uint64_t number;
    unsigned layer; /* of the image that it is in */
    bool certain;   /* else it may be there or not */
};

struct guest {
    struct guest_cell *sector;
    uint64_t sectors;
    struct guest_cell size; /* in sectors */
    uint64_t clock;
    uint64_t last_write;
    uint64_t read_start[GUEST_READS_MAX]; /* of those that run; 0: free */
    struct guest_held held[GUEST_HELD_MAX];
    uint64_t last_held;
};

struct guest_write {
    uint64_t first, count; /* sectors */
    uint64_t value;
    uint64_t submitted;
};

/** All zeroes, @sectors long. */
struct guest *guest_new(uint64_t sectors);
struct guest *guest_free(struct guest *guest);
struct guest *guest_clone(const struct guest *guest);

/** Cuts off or adds zeroes at once: for making the layers of a chain. All values must be settled.
 */
void guest_layer(struct guest *guest, uint64_t sectors);

/** The bytes of a settled disk. */
void guest_bytes(const struct guest *guest, uint64_t first, uint64_t count, uint8_t *bytes);

/** Forgets all but the one value that each cell has; asserts that there is one: nothing in flight.
 */
bool guest_settle(struct guest *guest);

/** A write, or with @zeroes a write of zeroes or a discard, is submitted. */
struct guest_write guest_write_begin(struct guest *guest, uint64_t first, uint64_t count,
                                     bool zeroes);
/** The bytes of the write. */
void guest_write_fill(const struct guest_write *write, uint8_t *bytes);

enum guest_result {
    GUEST_DONE,    /* it is what reads return now */
    GUEST_DURABLE, /* and it survives a crash */
    GUEST_UNSURE,  /* it failed, or was a hint: perhaps all, some or none of it took place */
};
void guest_write_end(struct guest *guest, const struct guest_write *write,
                     enum guest_result result);

/** The moment of now, to be given to guest_flushed(). */
uint64_t guest_now(struct guest *guest);

/** A read is submitted. @return the moment, to be given to guest_read_end(). */
uint64_t guest_read_begin(struct guest *guest);

/** A flush that was submitted at @start succeeded. */
void guest_flushed(struct guest *guest, uint64_t start);

/** The program was killed: what was in flight took place or did not, and will not any more. */
void guest_killed(struct guest *guest);

/** The size is to become @sectors. What a smaller size cuts off is a write of zeroes beside it. */
struct guest_write guest_resize_begin(struct guest *guest, uint64_t sectors);
void guest_resize_end(struct guest *guest, const struct guest_write *write,
                      enum guest_result result);

/** A snapshot of what the disk has now begins; it is not certain yet. */
void guest_hold(struct guest *guest, struct guest_held *held, unsigned layer);
void guest_unhold(struct guest_held *held);
/** The disk is to become, all at once, what @held has, its size included. */
struct guest_write guest_apply_begin(struct guest *guest, const struct guest_held *held);
void guest_apply_end(struct guest *guest, const struct guest_write *write,
                     enum guest_result result);

/**
 * The read that was submitted at @start ended; @bytes NULL: it failed. @return true when each
 * sector had a value that it may have had in this time; else tells on standard error which had not,
 * and what was there.
 */
bool guest_read_end(struct guest *guest, uint64_t start, uint64_t first, uint64_t count,
                    const uint8_t *bytes);

/** As above, for reads after a crash. */
bool guest_crash_check(const struct guest *guest, uint64_t first, uint64_t count,
                       const uint8_t *bytes);
/**
 * @sectors: the size that was found after a crash. @between: sizes between those that it may have
 * are as good (a raw file that is written to while it grows).
 */
bool guest_crash_size_check(const struct guest *guest, uint64_t sectors, bool between);

/** The dirty bitmap is cleared now, with nothing in flight. */
void guest_bitmap_cleared(struct guest *guest);
/** Sectors [first, end) come or go; with @done they have, and are new to the bitmap. */
void guest_bitmap_resized(struct guest *guest, uint64_t first, uint64_t end, bool done);
/** Does the sector have another value than when the bitmap was cleared, as far as is known? */
bool guest_has_changed(const struct guest *guest, uint64_t sector);
bool guest_bytes_have_changed(const struct guest *guest, uint64_t sector, const uint8_t *bytes);
/** Was some request to change one of the sectors since? */
bool guest_was_touched(const struct guest *guest, uint64_t first, uint64_t count);

/** True when the sectors may be zeroes now. */
bool guest_may_be_zero(const struct guest *guest, uint64_t first, uint64_t count);

#endif
