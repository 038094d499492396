/*
 * What the files of the doctor share.
 *
 * The catalog is read once, with the model locked, so that an operation is seen before or after its
 * transaction; then files, engines and mounts are compared with it. What an operation may be at is
 * left alone: an object that is locked, or that an intent names. Each finding is looked at once
 * more where it is told of, and once more before it is repaired.
 *
 * No repair deletes what may hold data: files go to the folder lost+found of their pool.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_DOCTOR_H
#define CONTROL_DOCTOR_H

#include "control/internal.h"

/** The catalog as it was at one moment. Members are by id. */
struct doctor {
    struct control *control;
    json_t *pools, *volumes, *trash, *snapshots, *layers, *attachments;
    json_t *intents;   /* an array */
    char *intent_text; /* all of them: what is named there may be changing */
    json_t *away;      /* ids of pools that are not there: nothing is said of what lies in them */
    json_t *children;  /* layers by the layer below: how many */
    json_t *wanted;    /* ids of layers that volumes and snapshots say are theirs */
    bool deep;         /* images are looked into */
    json_t *findings;
};

/** Adds a finding on the object @id; @path what it is about besides, or NULL. */
__attribute__((format(printf, 5, 6))) void doctor_tell(struct doctor *doctor, const char *code,
                                                       const char *id, const char *path,
                                                       const char *format, ...);

/** Whether an operation that is not finished names @id. */
bool doctor_is_busy(const struct doctor *doctor, const char *id);
/** A text of an object; "" where it has none. */
const char *doctor_text(const json_t *object, const char *member);
/** The same of the object @id of a kind of the catalog. */
const char *doctor_text_of(const json_t *kind, const char *id, const char *member);

/* ---- what is looked at ---- */

HWS_MUST_CHECK int doctor_pools(struct doctor *doctor, struct hws_error *err);
HWS_MUST_CHECK int doctor_layers(struct doctor *doctor, struct hws_error *err);
HWS_MUST_CHECK int doctor_volumes(struct doctor *doctor, struct hws_error *err);
HWS_MUST_CHECK int doctor_attachments(struct doctor *doctor, struct hws_error *err);
HWS_MUST_CHECK int doctor_engines(struct doctor *doctor, struct hws_error *err);
HWS_MUST_CHECK int doctor_mounts(struct doctor *doctor, struct hws_error *err);
HWS_MUST_CHECK int doctor_operations(struct doctor *doctor, struct hws_error *err);

/* ---- repairs: each looks again first, and does nothing where all is well by now ---- */

typedef int doctor_repair(struct control *control, const char *id, const char *path,
                          struct hws_error *err);

doctor_repair doctor_bring_back_file, doctor_move_foreign, doctor_forget_layer,
    doctor_correct_reference, doctor_correct_depth, doctor_correct_size, doctor_settle_state,
    doctor_detach, doctor_remount, doctor_stop_engine, doctor_remove_mount, doctor_run_operation;

/* ---- doctor_repair.c ---- */

/** Whether a program has the file open as an image: its locks tell. */
bool doctor_is_open(const char *path);
/** Whether an operation names @id now. */
HWS_MUST_CHECK int doctor_names(struct control *control, const char *id, bool *ret,
                                struct hws_error *err);
/** Path of a pool's lost+found, or of @name in it; free(). NULL when out of memory. */
char *doctor_lost_path(const char *pool_path, const char *name);

#endif
