/*
 * The methods of the control socket that are about jobs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/jobs.h"

#define PARAM(field) offsetof(struct job_params, field)
#define PARAM_VOLUME                                                                 \
    {                                                                                \
        "volume", OPTION_STRING, PARAM(volume), "which one, where there are several" \
    }
#define PARAM_SPEED                                                                            \
    {                                                                                          \
        "speed", OPTION_SIZE, PARAM(speed), "bytes a second that are copied; 0: no limit", "0" \
    }
#define PARAM_REMOVE                                                                        \
    {                                                                                       \
        "remove", OPTION_BOOL, PARAM(remove), "delete the files that fall out of the chain" \
    }
#define PARAM_HOLD                                                                   \
    {                                                                                \
        "hold", OPTION_BOOL, PARAM(hold), "wait for job-complete once all is copied" \
    }
#define PARAM_ID                                                       \
    {                                                                  \
        "id", OPTION_STRING, PARAM(id), "of the job", .required = true \
    }

const struct option_desc job_commit_params[] = {
    PARAM_VOLUME,
    {"layer", OPTION_STRING, PARAM(layer),
     "file of the chain: it and what is between go into the base; the top if not given"},
    {"base", OPTION_STRING, PARAM(base), "file that takes the data; the one below if not given"},
    PARAM_SPEED,
    PARAM_HOLD,
    PARAM_REMOVE,
    OPTION_END,
};

const struct option_desc job_stream_params[] = {
    PARAM_VOLUME,
    {"layer", OPTION_STRING, PARAM(layer),
     "file of the chain that takes the data of those below it; the top if not given"},
    {"base", OPTION_STRING, PARAM(base),
     "file that stays below it; none if not given: the layer stands alone then"},
    PARAM_SPEED,
    PARAM_HOLD,
    PARAM_REMOVE,
    OPTION_END,
};

const struct option_desc job_merge_params[] = {
    PARAM_VOLUME,
    {"layer", OPTION_STRING, PARAM(layer), "file of the chain whose state is given up",
     .required = true},
    PARAM_SPEED,
    PARAM_REMOVE,
    OPTION_END,
};

const struct option_desc job_id_params[] = {PARAM_ID, OPTION_END};

const struct option_desc job_list_params[] = {
    {"id", OPTION_STRING, PARAM(id), "one job; all if not given"},
    OPTION_END,
};

const struct option_desc job_speed_params[] = {
    PARAM_ID,
    {"speed", OPTION_SIZE, PARAM(speed), "bytes a second that are copied; 0: no limit",
     .required = true},
    OPTION_END,
};

const struct option_desc job_wait_params[] = {
    PARAM_ID,
    {"timeout-ms", OPTION_UINT, PARAM(timeout_ms), "answer after this time at the latest", "1000",
     .max = 60000},
    OPTION_END,
};

static int co_start(struct engine *engine, const struct job_params *params,
                    int (*co_begin)(struct volume *volume, const struct job_options *options,
                                    struct job **ret, struct hws_error *err),
                    enum job_kind kind, json_t **ret, struct hws_error *err)
{
    struct volume *volume = engine_volume(engine, params->volume, err);
    struct job_options options = {.kind = kind,
                                  .layer = params->layer,
                                  .base = params->base,
                                  .speed = params->speed,
                                  .hold = params->hold,
                                  .remove = params->remove};
    struct job *job;
    if (!volume)
        return -EINVAL;
    int r = co_begin(volume, &options, &job, err);
    if (r == 0)
        *ret = job_status(job);
    return r;
}

int co_job_commit_method(struct engine *engine, const void *params, json_t **ret,
                         struct hws_error *err)
{
    return co_start(engine, params, co_job_start, JOB_COMMIT, ret, err);
}

int co_job_stream_method(struct engine *engine, const void *params, json_t **ret,
                         struct hws_error *err)
{
    return co_start(engine, params, co_job_start, JOB_STREAM, ret, err);
}

int co_job_merge_method(struct engine *engine, const void *params, json_t **ret,
                        struct hws_error *err)
{
    return co_start(engine, params, co_job_start_merge, JOB_COMMIT, ret, err);
}

int co_job_list_method(struct engine *engine, const void *arg, json_t **ret, struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = params->id ? job_find(engine, params->id, err) : NULL;
    if (params->id && !job)
        return -ENOENT;
    json_t *list = job ? json_pack("[o]", job_status(job)) : jobs_status(engine);
    *ret = json_pack("{s:o}", "jobs", list);
    return 0;
}

int co_job_wait_method(struct engine *engine, const void *arg, json_t **ret, struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = job_find(engine, params->id, err);
    if (!job)
        return -ENOENT;
    co_job_wait(job, params->timeout_ms * 1000000);
    job = job_find(engine, params->id, err);
    if (!job)
        return -ENOENT;
    *ret = job_status(job);
    return 0;
}

/* What became of it is the answer. */
static int answer(struct engine *engine, const struct job_params *params, int r, json_t **ret,
                  struct hws_error *err)
{
    struct job *job = r == 0 ? job_find(engine, params->id, err) : NULL;
    if (r == 0 && !job)
        return -ENOENT;
    if (r == 0)
        *ret = job_status(job);
    return r;
}

int co_job_cancel_method(struct engine *engine, const void *arg, json_t **ret,
                         struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = job_find(engine, params->id, err);
    return answer(engine, params, job ? job_cancel(job, err) : -ENOENT, ret, err);
}

int co_job_pause_method(struct engine *engine, const void *arg, json_t **ret, struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = job_find(engine, params->id, err);
    return answer(engine, params, job ? job_pause(job, true, err) : -ENOENT, ret, err);
}

int co_job_resume_method(struct engine *engine, const void *arg, json_t **ret,
                         struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = job_find(engine, params->id, err);
    return answer(engine, params, job ? job_pause(job, false, err) : -ENOENT, ret, err);
}

int co_job_complete_method(struct engine *engine, const void *arg, json_t **ret,
                           struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = job_find(engine, params->id, err);
    return answer(engine, params, job ? job_complete(job, err) : -ENOENT, ret, err);
}

int co_job_speed_method(struct engine *engine, const void *arg, json_t **ret, struct hws_error *err)
{
    const struct job_params *params = arg;
    struct job *job = job_find(engine, params->id, err);
    return answer(engine, params, job ? job_set_speed(job, params->speed, err) : -ENOENT, ret, err);
}
