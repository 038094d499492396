/*
 * What the tests of the control plane share: a folder of their own with a catalog, engines that
 * pretend, short calls, states to begin in, and sweeps that kill the process at every point where a
 * crash makes a difference, or let a step fail.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_TEST_WORLD_H
#define CONTROL_TEST_WORLD_H

#include "control/control_check.h"
#include "control/fake_engines.h"

/** To be run around a group of tests: makes the folder `top`, and removes it. */
int world_make(void **state);
int world_remove(void **state);

/** Empties the folder of the test; "roots" in it is there for images. */
void clean(void);
/** Opens the catalog in the test's folder; @at is called at every point, and may be NULL. */
struct control *open_control(void (*at)(void *, const char *));
/** The same with the thread that merges; @at is called by the engines alone. */
struct control *open_background(void (*at)(void *, const char *));
unsigned count_layers(struct control *control);

/* ---- short calls; a failure is returned, with its text in `error` ---- */

/** Parses JSON that is right. */
json_t *request(const char *text);

/** Calls a function that ends in (json_t **ret, struct hws_error *err), and drops the result. */
#define CALL(function, ...)                               \
    ({                                                    \
        json_t *result_ = NULL;                           \
        error.code = 0;                                   \
        int r_ = function(__VA_ARGS__, &result_, &error); \
        json_decref(r_ == 0 ? result_ : NULL);            \
        r_;                                               \
    })

/** A call of something on an object, with a request in JSON. */
int with(int (*function)(struct control *, const char *, const json_t *, json_t **,
                         struct hws_error *),
         struct control *control, const char *object, const char *text);
/** The pool "pool". */
int pool_create(struct control *control);
int volume_create(struct control *control, const char *text);
int detach(struct control *control, const char *volume, const char *text);

/* ---- states to begin in: the volume "v", its snapshots "s" and "t" ---- */

void need_nothing(struct control *control);
void need_pool(struct control *control);
void need_volume(struct control *control);
void need_attached(struct control *control);
void need_two_users(struct control *control);
void need_snapshot(struct control *control);
void need_two_snapshots(struct control *control);
void need_image(struct control *control);
void need_middle_deleted(struct control *control);
void need_lowest_deleted(struct control *control);
void need_deleted_in_use(struct control *control);

/* ---- sweeps ---- */

/** An operation, and what it needs. */
struct scenario {
    const char *name;
    void (*prepare)(struct control *control);
    int (*run)(struct control *control);
    /* The operation may be called again after a crash: that is what it then answers. */
    int again;
};

/**
 * Kills each at its 1st, 2nd, ... last point; the catalog opened again must match what is there,
 * and the operation must work, or have been done.
 */
void world_kill_operations(const struct scenario *scenarios, unsigned count);
/** The same, and what recovers is killed too, at every other point, and the one after it. */
void world_kill_recovery(const struct scenario *scenarios, unsigned count);

/** The function of the engines that fails once, and what the operation then answers. */
struct failing_step {
    const char *function;
    void (*prepare)(struct control *control);
    int (*run)(struct control *control);
    int result;
};

/** Nothing is left of the operation that failed, and it works when called again. */
void world_fail_steps(const struct failing_step *cases, unsigned count);

#endif
