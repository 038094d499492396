/*
 * What the control plane's files share.
 *
 * Locks, in the order in which they are taken: an object's (locks.h; a whole operation), the
 * model's (reading, deciding, and the transaction that follows from it), the store's own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_INTERNAL_H
#define CONTROL_INTERNAL_H

#include "control/control.h"
#include "control/engines.h"
#include "control/events.h"
#include "control/journal.h"
#include "control/locks.h"
#include "control/metrics.h"
#include "control/requests.h"
#include <stdatomic.h>
#include <time.h>

/** How long an operation waits for another one on the same object. */
#define OBJECT_WAIT_MS 60000

struct merger;
struct exporter;
struct vault;
struct scheduler;
struct importer;
struct leases;

struct control {
    struct store *store;
    const struct engine_driver *engines;
    char *folder;
    char boot[ID_BYTES];
    struct locks locks;
    pthread_mutex_t model;
    time_t retried, retry_s;
    time_t watched_s; /* of the monotonic clock: when engines were looked at */
    struct events *events;
    struct metrics *metrics;
    uint64_t users_looked, users_looked_old; /* seconds since the boot */
    struct merger *merger;                   /* NULL: nothing is merged in the background */
    struct importer *importer;               /* the same of images */
    struct exporter *exporter;               /* NULL: exports are mended when asked for */
    struct vault *vault;
    struct leases *leases;       /* of shared pools */
    struct scheduler *scheduler; /* NULL: no snapshots are taken by the clock */
    void (*now)(void *arg, struct control_now *ret);
    uint64_t clock_offset_s, clock_saved_s; /* clock.c; the latter with the model locked */
    void (*at)(void *arg, const char *where);
    void *at_arg;
};

static inline void control_at(struct control *control, const char *where)
{
    if (control->at)
        control->at(control->at_arg, where);
}

static inline void control_lock_model(struct control *control)
{
    pthread_mutex_lock(&control->model);
}

static inline void control_unlock_model(struct control *control)
{
    pthread_mutex_unlock(&control->model);
}

extern const struct operation pool_create_operation, pool_delete_operation, volume_create_operation,
    volume_resize_operation, volume_attach_operation, volume_detach_operation,
    snapshot_create_operation, volume_revert_operation, merge_operation, purge_operation,
    export_serve_operation, export_delete_operation, layer_drop_operation, group_snapshot_operation,
    group_member_operation, group_revert_operation, volume_import_operation;

/* ---- op_merge.c, merger.c ---- */

/** What is told of a merge while it runs, and asked of it. */
struct merge_watch {
    bool (*progress)(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

/**
 * Merges one layer that nobody refers to but the one layer over it. Those that cannot be merged now
 * are added to @put_off, an object by their ids, and passed over while they stand there. @return 1
 * where one was merged or tried, 0 where there is none, or -errno.
 */
HWS_MUST_CHECK int merge_one(struct control *control, const struct merge_watch *watch,
                             json_t *put_off, struct hws_error *err);

/** Starts the thread that merges; its end, with what it is at taken back. */
HWS_MUST_CHECK int merger_start(struct control *control, struct hws_error *err);
void merger_stop(struct control *control);
/** A layer may have lost its last name: it is looked for soon. */
void merger_wake(struct control *control);
/** Adds to the JSON of a merge's intent how far it is. */
void merger_describe(struct control *control, json_t *intent);
/** Stops the merge of that volume, and leaves it alone. -EINVAL where none runs. */
HWS_MUST_CHECK int merger_cancel(struct control *control, const char *volume,
                                 struct hws_error *err);
bool merger_is_cancelled(struct control *control, const char *volume);

/* ---- op_import.c, importer.c ---- */

/** Goes on with one import that waits: as journal_work(). */
HWS_MUST_CHECK int import_one(struct control *control, const struct merge_watch *watch,
                              json_t *put_off, struct hws_error *err);
/** Takes the import with that id back, running or not. */
HWS_MUST_CHECK int import_cancel(struct control *control, const char *job, struct hws_error *err);

/** As of the merger. After a failure importer_stop() is due, too. */
HWS_MUST_CHECK int importer_start(struct control *control, struct hws_error *err);
void importer_stop(struct control *control);
void importer_wake(struct control *control);
void importer_describe(struct control *control, json_t *intent);

/* ---- jobs.c ---- */

/** Adds to @batch that a merge has ended so, as its op->result tells; the oldest goes. */
HWS_MUST_CHECK int job_note(struct op *op, const char *state, struct batch *batch,
                            struct hws_error *err);

/* ---- op_pool.c ---- */

/** -EIO where the pool's folder is not there, or is another's. */
HWS_MUST_CHECK int pool_is_there(const struct pool *pool, struct hws_error *err);
/** The same, and lease_need(): whether an operation may change what lies there. */
HWS_MUST_CHECK int pool_check(struct control *control, const struct pool *pool,
                              struct hws_error *err);

/** Reads the pool of a volume, and checks it. */
HWS_MUST_CHECK int pool_of(struct control *control, const struct volume *volume, struct pool *ret,
                           struct hws_error *err);

/** -ENOSPC where @more bytes of volumes are more than the pool may hold. The model is locked. */
HWS_MUST_CHECK int pool_admit(struct control *control, const struct pool *pool, uint64_t more,
                              struct hws_error *err);

/** Most that overcommit-percent can be. */
#define OVERCOMMIT_MAX_PERCENT 1000000

/** Replaces the image roots by what they are without links. */
HWS_MUST_CHECK int pool_resolve_roots(struct pool *pool, struct hws_error *err);
/** Whether @path, which has no links, lies in an image root of the pool. */
bool pool_has_root_of(const struct pool *pool, const char *path);

/** Whether @path may be taken in place; @ret its real path, free(). */
HWS_MUST_CHECK int pool_allow_image(const struct pool *pool, const char *path, char **ret,
                                    struct hws_error *err);

/* ---- lease.c, lease_fence.c: of pools that other hosts use, too ---- */

/** The host's id is made of @host, NULL: of its machine id. @lease_s 0: LEASE_SECONDS. */
HWS_MUST_CHECK int leases_start(struct control *control, const char *host, unsigned lease_s,
                                bool threads, struct hws_error *err);
/** At hawserd's start: takes what is in use here, or stops the engines of it. */
void leases_adopt(struct control *control);
void leases_stop(struct control *control);
/** Whether this host may use a pool; takes it where it can be taken at once. -EBUSY: another's. */
HWS_MUST_CHECK int lease_need(struct control *control, const struct pool *pool,
                              struct hws_error *err);
/** The same, without taking anything. */
HWS_MUST_CHECK int lease_look(struct control *control, const struct pool *pool,
                              struct hws_error *err);
/** Whether the pool was used here, and must not be any more: long work on it ends. */
bool lease_is_gone(struct control *control, const char *pool);
/** The pool is deleted, or not shared any more. */
void lease_forget(struct control *control, const char *pool);

/* ---- watcher.c ---- */

/** Notes engines that died; every few seconds of those it is called in. */
void watcher_tick(struct control *control);
/** The same at once. */
void watcher_look(struct control *control);

/* ---- users.c ---- */

/** Drops users that their container engine lost; often enough, every second or so. */
void users_tidy(struct control *control);
/** What is kept of a user's process: PID, start, and now; free(). NULL where it does not live. */
char *users_process(uint64_t pid);

/* ---- op_attach.c ---- */

/** Detaches @user of the volume @id, if it is still the one that came with @process. */
HWS_MUST_CHECK int attachment_drop_user(struct control *control, const char *id, const char *user,
                                        const char *process, struct hws_error *err);

/* ---- layers.c ---- */

/** Path of a layer's file; free(). NULL when out of memory. */
char *layer_path(const struct pool *pool, const struct layer *layer);

/** Folders in which the chain of a pool's volume may lie, NULL-terminated. free() the array and its
 * texts with layer_allow_free(). */
char **layer_allow(const struct pool *pool);
/** Where the image roots begin in that: what an image of somebody else may name. */
#define LAYER_ALLOW_ROOTS 1
void layer_allow_free(char **allow);

/**
 * Adds to @batch that @id has lost what referred to it (it is no volume's top and no snapshot any
 * more): it goes, and what lies below and is nobody else's, unless a layer lies over it. @purge
 * gets the paths of the files that go, for purge_operation: {"pool", "files": [...]}. The model is
 * locked.
 */
HWS_MUST_CHECK int layer_drop(struct control *control, const char *id, struct batch *batch,
                              json_t **ret_purge, struct hws_error *err);

/** Makes a layer's record over @parent (NULL: none), not yet anybody's. */
HWS_MUST_CHECK int layer_make(const struct pool *pool, const struct layer *parent,
                              const char *format, uint64_t size_bytes, struct layer *ret,
                              struct hws_error *err);

/** Removes a file durably. One that is gone is no error. */
HWS_MUST_CHECK int file_unlink(const char *path, struct hws_error *err);

/** A step taken back: removes the file at op_text(@op, @key), once the pool of @op is there. */
HWS_MUST_CHECK int layer_unmake(struct op *op, const char *key, struct hws_error *err);
/** Makes what happened to names in the folder of @path durable. */
HWS_MUST_CHECK int folder_sync(const char *path, struct hws_error *err);

/**
 * Adds to @batch that the layer has no name any more, and the operation that looks what of it and
 * of those below may go; layers_finish() runs it. Several may lose their names at once, where
 * layer_drop() takes one. The model is locked.
 */
HWS_MUST_CHECK int layer_unname(struct control *control, const char *id, struct batch *batch,
                                struct hws_error *err);
void layers_finish(struct control *control, const json_t *ids);

/* ---- clock.c ---- */

/** The time of day, and the catalog's clock: see there which is for what. */
void clock_now(struct control *control, struct control_now *ret);
uint64_t clock_wall_s(struct control *control);
uint64_t clock_s(struct control *control);
/** Reads what was saved of it. */
HWS_MUST_CHECK int clock_open(struct control *control, struct hws_error *err);
/** Adds the clock as it is to @batch. The model is locked. */
void clock_note(struct control *control, struct batch *batch);
/** Saves it, when that is due. */
void clock_save(struct control *control);

/* ---- op_trash.c, op_group*.c, op_schedule.c, scheduler.c ---- */

/** Until what the clock began and what failed is tried again. */
#define TRASH_RETRY_S 60

/** Deletes what has been in the trash long enough. @return second of the catalog's clock at which
 * to look again. */
uint64_t trash_empty(struct control *control);

/** -EBUSY where a volume is in a group. The model is locked. */
HWS_MUST_CHECK int group_check_member(struct control *control, const struct volume *volume,
                                      struct hws_error *err);

/** Takes a snapshot of a group or of a volume, filled with what the caller wants of it. */
HWS_MUST_CHECK int group_snapshot_make(struct control *control, const char *group,
                                       struct group_snapshot *taken, struct hws_error *err);
HWS_MUST_CHECK int snapshot_make(struct control *control, const char *volume,
                                 struct snapshot *snapshot, struct hws_error *err);

/** Locks the schedule that @reference names, and reads it; released with locks_release(). */
HWS_MUST_CHECK int schedule_take(struct control *control, const char *reference,
                                 struct schedule *ret, struct hws_error *err);
/** Takes what is due, and deletes what no rule keeps. @return second of the time of day at which to
 * look again. */
uint64_t schedules_run(struct control *control);

/** Starts the thread that does what the clock says; its end. */
HWS_MUST_CHECK int scheduler_start(struct control *control, struct hws_error *err);
void scheduler_stop(struct control *control);
/** Something may be due earlier than it was. */
void scheduler_wake(struct control *control);
/** Every second or so: looks at the clock. */
void scheduler_tick(struct control *control);

/* ---- shared by operations ---- */

/** Deletes a volume that is taken, at once. */
HWS_MUST_CHECK int volume_delete_taken(struct control *control, const struct volume *volume,
                                       struct hws_error *err);

/** Fills what follows from the volume in a snapshot that has a name. */
HWS_MUST_CHECK int snapshot_fill(struct snapshot *snapshot, const struct volume *volume,
                                 struct hws_error *err);
/** What a new layer over the top of a volume, which is taken, is made with: for the journal. */
HWS_MUST_CHECK int snapshot_params(struct control *control, const struct volume *volume,
                                   struct layer *layer, json_t **ret, struct hws_error *err);
/** Whether the engine of the volume runs; its top then, free(). */
bool snapshot_engine_top(struct control *control, const char *volume, char **ret);
/** Whether an image of the pool is there as a whole. */
bool snapshot_is_whole(struct control *control, const struct pool *pool, const char *path);

/** Locks the volume that @reference names, checks that it is available, and reads it. */
HWS_MUST_CHECK int volume_take(struct control *control, const char *reference, struct volume *ret,
                               struct hws_error *err);
void volume_release(struct control *control, struct volume *volume);

/** Is there an attachment of the volume? @ret read where there is; ended by the caller always. */
HWS_MUST_CHECK int attachment_get(struct control *control, const char *volume,
                                  struct attachment_record *ret, bool *ret_there,
                                  struct hws_error *err);

/** Mounts an attached volume again where somebody has unmounted it; one without a mount point is
 * passed over. The volume is taken. */
HWS_MUST_CHECK int attachment_keep_mounted(struct control *control,
                                           const struct attachment_record *attachment,
                                           const struct volume *volume, struct hws_error *err);

/**
 * Makes @clone, with @clone_layer as its top, of a volume as it is now, in use or not: both go on
 * in layers of their own over what was the source's top. The source is taken.
 */
HWS_MUST_CHECK int snapshot_split(struct control *control, const struct volume *source,
                                  struct volume *clone, struct layer *clone_layer,
                                  struct hws_error *err);

/** The snapshot @name of a volume, by name or id. */
HWS_MUST_CHECK int snapshot_find(struct control *control, const struct volume *volume,
                                 const char *name, struct snapshot *ret, struct hws_error *err);

/** A page of objects as control.h tells it: {"items", "next"}. @edit may change each item. */
typedef int page_edit(struct control *control, json_t *item, struct hws_error *err);
HWS_MUST_CHECK int control_page(struct control *control, const struct object_type *type,
                                const char *owner, const struct control_page *page,
                                const char *prefix, page_edit *edit, json_t **ret,
                                struct hws_error *err);

/** -EINVAL where a page is asked to be larger than may be. */
HWS_MUST_CHECK int control_page_check(const struct control_page *page, struct hws_error *err);

/** Adds to a volume's JSON what callers want to know beside it. */
HWS_MUST_CHECK int volume_describe(struct control *control, json_t *item, struct hws_error *err);

#endif
