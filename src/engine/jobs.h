/*
 * Jobs of an engine: work on the chain of a volume in use that takes its time. One a volume.
 *
 *   running <--> paused        waiting: all is copied, and kept so, until it is completed
 *      |  \--> waiting --\     concluding: the chain gets its new shape
 *      |                  \--> concluding --> concluded
 *      \--> cancelled, failed: the chain has its old shape, and the volume reads as ever
 *
 * The control queue's thread runs them; what is copied goes through a thread of their own. The
 * last JOBS_KEPT that have ended are remembered, by the state file too: one that did not end before
 * its engine did is told as failed by the next, and may be started anew.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_JOBS_H
#define ENGINE_JOBS_H

#include "block/options.h"
#include "engine/engine.h"
#include "job/live/live.h"

#define JOBS_KEPT 32

enum job_kind { JOB_COMMIT, JOB_STREAM };

struct job_options {
    enum job_kind kind;
    const char *layer; /* commit: the uppermost that goes; stream: the one that takes; NULL: top */
    const char *base;  /* commit: the one that takes, NULL: the next below; stream: the one that
                          stays below, NULL: none */
    uint64_t speed;    /* bytes a second; 0: no limit */
    bool hold;         /* wait, when all is copied, for job_complete() */
    bool remove;       /* delete the files that fall out of the chain */
};

/** Starts one. Caller holds engine.control. @ret belongs to the engine. */
HWS_MUST_CHECK int co_job_start(struct volume *volume, const struct job_options *options,
                                struct job **ret, struct hws_error *err);

/**
 * Gives up the state that the layer @options->layer holds: it and the layer over it become one, in
 * the way that moves less. Likewise.
 */
HWS_MUST_CHECK int co_job_start_merge(struct volume *volume, const struct job_options *options,
                                      struct job **ret, struct hws_error *err);

/** The job @id; NULL with @err. */
struct job *job_find(struct engine *engine, const char *id, struct hws_error *err);

/** What may be asked of one that runs; -EINVAL where its state has no such change. */
HWS_MUST_CHECK int job_cancel(struct job *job, struct hws_error *err);
HWS_MUST_CHECK int job_pause(struct job *job, bool pause, struct hws_error *err);
HWS_MUST_CHECK int job_complete(struct job *job, struct hws_error *err);
HWS_MUST_CHECK int job_set_speed(struct job *job, uint64_t bytes_per_second, struct hws_error *err);

/** Waits until it has ended, at most @timeout_ns. */
void co_job_wait(struct job *job, uint64_t timeout_ns);

/** As `job-list` tells it; a new reference. */
json_t *job_status(const struct job *job);
json_t *jobs_status(const struct engine *engine);

/** What the state file says of the jobs of a predecessor. */
void jobs_inherit(struct engine *engine);
/** All have ended. */
void jobs_free(struct engine *engine);

/** -EBUSY while a job changes the volume's chain. */
HWS_MUST_CHECK int volume_refuse_job(const struct volume *volume, struct hws_error *err);
/** Cancels the volume's job, if there is one, and waits for its end. */
void co_volume_end_job(struct volume *volume);

/* ---- job_methods.c: rows of the table of methods ---- */

extern const struct option_desc job_commit_params[], job_stream_params[], job_merge_params[],
    job_id_params[], job_list_params[], job_speed_params[], job_wait_params[];

struct job_params {
    char *volume, *layer, *base, *id;
    uint64_t speed, timeout_ms;
    bool hold, remove;
};

int co_job_commit_method(struct engine *engine, const void *params, json_t **ret,
                         struct hws_error *err);
int co_job_stream_method(struct engine *engine, const void *params, json_t **ret,
                         struct hws_error *err);
int co_job_merge_method(struct engine *engine, const void *params, json_t **ret,
                        struct hws_error *err);
int co_job_list_method(struct engine *engine, const void *params, json_t **ret,
                       struct hws_error *err);
int co_job_wait_method(struct engine *engine, const void *params, json_t **ret,
                       struct hws_error *err);
int co_job_cancel_method(struct engine *engine, const void *params, json_t **ret,
                         struct hws_error *err);
int co_job_pause_method(struct engine *engine, const void *params, json_t **ret,
                        struct hws_error *err);
int co_job_resume_method(struct engine *engine, const void *params, json_t **ret,
                         struct hws_error *err);
int co_job_complete_method(struct engine *engine, const void *params, json_t **ret,
                           struct hws_error *err);
int co_job_speed_method(struct engine *engine, const void *params, json_t **ret,
                        struct hws_error *err);

#endif
