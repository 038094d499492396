/*
 * A run: the plan, the simulated machine, the engine's root, and the model of what the guest may
 * see.
 *
 * Every request goes to the engine and to the model. Where the run is `tolerant` (faults or a crash
 * are planned) requests may fail, and the model takes note; else a failure ends the test.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "guest.h"
#include "plan.h"
#include "rt/sync.h"

struct world {
    struct plan plan;
    struct guest *guest;
    struct rt *rt;
    bool tolerant;
    uint64_t steps; /* requests of each worker a phase */
    unsigned phases;
    struct random random; /* the run's own choices */

    /* How far it got. */
    unsigned top;          /* index of the layer that is the top */
    bool created;          /* the top was made */
    bool clean;            /* every operation, the close included, succeeded */
    bool done;             /* the coroutine reached its end */
    unsigned bitmap_layer; /* 1 + the layer whose dirty bitmap the model follows; 0: none */
    struct block_root *root;
    struct co_group group;
};

/** Tells what went wrong, the plan and how to see it again, and ends the test. */
void world_fail(const struct world *world, const char *format, ...) HWS_PRINTF(2, 3)
    __attribute__((noreturn));

/** Makes what world_fail(), a failed assertion and a time-out print. @note: e.g. "fail_at 7". */
void world_note(const struct world *world, const char *program, const char *note);

/** Runs @fn(@world) on @world->rt and sees to it that it ended. */
void world_run(struct world *world, void (*fn)(void *world));

/** Makes the layers below the top, with data. Never under faults. */
void co_world_setup(void *world);

/** Makes the top, works on it in phases, closes it. */
void co_world_scenario(void *world);

/** The image after a crash or a kill: whole, and with everything that was flushed. */
void co_world_verify_crash(void *world);

/** The image after a clean close. */
void co_world_verify_closed(void *world);

/** A run of @worker coroutines on the root; see work.c. */
void co_world_phase(struct world *world);
/** The same, with something of the caller's beside it, on the controlling coroutine. */
void co_world_phase_beside(struct world *world, void (*co_beside)(struct world *world));

/* ---- its dirty bitmap (bitmap.c) ---- */

/** The top was opened, or pushed: it has a bitmap, and if it had one, that is right. */
void co_world_bitmap_opened(struct world *world);
/** Between phases: looks at it, and clears or stores it now and then. */
void co_world_bitmap_pause(struct world *world);
/** After a crash: true where it is there and not in use, and so must be right. */
bool co_world_bitmap_crashed(struct world *world, struct block_node *top);
void co_world_bitmap_crash_check(struct world *world, struct block_node *top, uint64_t first,
                                 uint64_t count, const uint8_t *bytes);

/* ---- requests to engine and model (request.c) ---- */

void co_world_read(struct world *world, uint64_t first, uint64_t count);
void co_world_write(struct world *world, uint64_t first, uint64_t count, unsigned flags);
/** Whole clusters, or up to the end. Where the top cannot, nothing is written. */
void co_world_write_compressed(struct world *world, uint64_t first, uint64_t count);
/** Writes a buffer of zeroes. */
void co_world_write_zero_bytes(struct world *world, uint64_t first, uint64_t count);
void co_world_write_zeroes(struct world *world, uint64_t first, uint64_t count, unsigned flags);
void co_world_discard(struct world *world, uint64_t first, uint64_t count);
void co_world_flush(struct world *world);
void co_world_resize(struct world *world, uint64_t sectors);
void co_world_status(struct world *world, uint64_t first, uint64_t count, bool idle);
/** Takes, applies or deletes an internal snapshot; snapshots.c. */
void co_world_snapshot(struct world *world);
/** Has the top any, or may it? */
bool world_has_snapshots(const struct world *world);
/** Reads and compares all snapshots, with the images closed. */
void co_world_verify_snapshots(struct world *world);
/** Takes a snapshot by overlay. No request may be in flight. @return false when it failed. */
bool co_world_push(struct world *world);
/** Reads and compares the whole disk. */
void co_world_read_all(struct world *world);

/** @return false when it failed. */
bool co_world_create(struct world *world, unsigned layer);
bool co_world_open(struct world *world);
bool co_world_close(struct world *world);

#endif
