/*
 * The journal: operations as lists of steps, written down before they act.
 *
 *   begin   one transaction: the intent, and what the operation reserves
 *   steps   each may be run again after it was run or begun, and taken back in the same way
 *   end     one transaction: the outcome, and the intent is gone
 *
 * What a crash or a failing step leaves is completed or taken back; which, the operation says
 * (`direction`), by itself or by looking at what is there. Steps are taken back in the opposite
 * order, all of them: those that never ran have nothing to take back.
 *
 * While an intent is there, its object answers "not finished" to other operations.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_JOURNAL_H
#define CONTROL_JOURNAL_H

#include "control/batch.h"

struct operation;
struct merge_watch;

/** An operation that is under way. */
struct op {
    struct control *control;
    const struct operation *type;
    char id[ID_BYTES];
    char object[ID_BYTES];           /* that it works on; locked */
    json_t *params;                  /* what the steps need; written with the intent */
    json_t *result;                  /* for the caller alone */
    const struct merge_watch *watch; /* of work in the background; NULL: nobody */
    bool failed;                     /* a step has failed in this run */
};

struct op_step {
    const char *name;
    int (*run)(struct op *op, struct hws_error *err);
    int (*undo)(struct op *op, struct hws_error *err); /* NULL: there is nothing to take back */
};

enum op_direction { OP_BACK, OP_FORWARD };

#define OP_STEPS_MAX 8

struct operation {
    const char *name;
    struct op_step steps[OP_STEPS_MAX + 1]; /* ended by one without a name */
    /** Which way, after a crash or a failing step. */
    enum op_direction (*direction)(struct op *op);
    /** Adds the outcome to @batch. Called with the model locked. */
    int (*end)(struct op *op, struct batch *batch, struct hws_error *err);
    /** Adds what is to be changed when all was taken back; NULL: it cannot be taken back. */
    int (*undone)(struct op *op, struct batch *batch, struct hws_error *err);
    /** It only marks its object as worked on by another operation, which ends it. */
    bool follows;
    /** Takes long: a thread of its own runs it (journal_work()), and nobody waits for it. */
    bool background;
};

/** The direction of an operation that is never completed. */
enum op_direction op_always_back(struct op *op);

/**
 * Runs an operation on @object, which the caller has locked. @begin what it reserves; committed
 * with the intent; the caller has held the model's lock since it decided on it, and this function
 * releases that. @params is taken over. @ret_result may be NULL.
 */
HWS_MUST_CHECK int journal_run(struct control *control, const struct operation *type,
                               const char *object, json_t *params, struct batch *begin,
                               json_t **ret_result, struct hws_error *err);

/** The same of a merge, which is watched. */
HWS_MUST_CHECK int journal_run_watched(struct control *control, const struct operation *type,
                                       const char *object, json_t *params, struct batch *begin,
                                       const struct merge_watch *watch, struct hws_error *err);

/** Adds an intent of @type to @batch, to be run by journal_finish(). @params is taken over. */
void journal_add(struct batch *batch, const struct operation *type, const char *object,
                 json_t *params);

/** Adds to @batch that the intent on @object is gone, whatever it was. The model is locked. */
HWS_MUST_CHECK int journal_drop(struct control *control, const char *object, struct batch *batch,
                                struct hws_error *err);

/** Runs what was added for @object, which need not be locked. What fails is tried again later. */
void journal_finish(struct control *control, const char *object);

/**
 * Runs an operation in the background that waits: one of @type whose object is not locked, and
 * whose id is not a member of @put_off. What cannot be finished now is added there. @return 1 where
 * one was run, 0 where none waits, or -errno.
 */
HWS_MUST_CHECK int journal_work(struct control *control, const struct operation *type,
                                const struct merge_watch *watch, json_t *put_off,
                                struct hws_error *err);

/** Sets a member of the parameters of an operation that is not finished. -ENOENT: it is. */
HWS_MUST_CHECK int journal_mark(struct control *control, const char *id, const char *member,
                                struct hws_error *err);

/** Whether operations called @name are run in the background. */
bool journal_is_background(const char *name);

/** Whether operations called @name wait without being stuck: in the background, or for another. */
bool journal_waits(const char *name);

/** The id of the operation in the background that works on the object; "" where none does. */
void journal_background(struct control *control, const char *object, char id[ID_BYTES]);

/** Whether the object has an operation that is not finished: -EBUSY. */
HWS_MUST_CHECK int journal_check(struct control *control, const char *object,
                                 struct hws_error *err);

/** Completes or takes back all intents whose objects are not locked. @return how many are left. */
unsigned journal_recover(struct control *control);

/** A text of the operation's parameters; NULL where there is none. */
const char *op_text(const struct op *op, const char *name);
uint64_t op_number(const struct op *op, const char *name);

#endif
