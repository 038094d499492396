/*
 * `hawser job`: what hawserd is doing and has done, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct job_options {
    struct control_command control;
    bool ended, quiet;
};

static const struct control_column columns[] = {
    {"JOB", "id"},
    {"OPERATION", "operation"},
    {"OF", "object", CONTROL_REF, "/v1/volumes/"},
    {"STATE", "state"},
    {"DONE", "done", CONTROL_SIZE},
    {"OF ALL", "total", CONTROL_LIMIT},
    {"SINCE", "created", CONTROL_TIME},
    {NULL},
};

static const struct control_column fields[] = {
    {"job", "id"},
    {"operation", "operation"},
    {"of", "object", CONTROL_REF, "/v1/volumes/"},
    {"state", "state"},
    {"error", "error"},
    {"done", "done", CONTROL_SIZE},
    {"of all", "total", CONTROL_LIMIT},
    {"since", "created", CONTROL_TIME},
    {"ended", "ended", CONTROL_TIME},
    {NULL},
};

/* Those that are under way now. */
static int wait_for_all(const struct control_run *run, bool quiet, struct hws_error *err)
{
    json_t *jobs = NULL, *job;
    size_t i;
    int r = control_list(run->control, "/v1/jobs", &jobs, err);
    json_array_foreach(jobs, i, job)
    {
        struct hws_error why = {0};
        const char *id = json_string_value(json_object_get(job, "id"));
        int one = id ? control_wait(run->control, id, "waiting", quiet, &why) : 0;
        if (one < 0 && one != -ENOENT) /* ended meanwhile, and not one that is remembered */
            r = hws_fail(err, -one, "%s", why.text);
    }
    json_decref(jobs);
    return r;
}

static int wait_for(const struct control_run *run, struct hws_error *err)
{
    const struct job_options *options = (const void *)run->control;
    return run->count ? control_wait(run->control, run->operands[0], "waiting", options->quiet, err)
                      : wait_for_all(run, options->quiet, err);
}

static const struct cli_verb verbs[] = {
    {"list", "", "show what is under way, or with --ended what has ended", "GET", "/v1/jobs", NULL,
     columns, true},
    {"show", "JOB", "show all of one", "GET", "/v1/jobs/%", NULL, fields},
    {"wait", "[JOB...]",
     "wait until these, or all that are under way, have ended; fails where one failed or was "
     "cancelled",
     "GET", "/v1/jobs/%", .run = wait_for},
    {"cancel", "JOB...", "end it; what it has done so far is kept or taken back", "POST",
     "/v1/jobs/%/cancel"},
    {NULL},
};

static const struct cli_option table[] = {
    {"ended", 0, CLI_FLAG, offsetof(struct job_options, ended), NULL,
     "the last thousand that have ended, the oldest first", .verbs = "list",
     .member = "?state=ended"},
    {"quiet", 'q', CLI_FLAG, offsetof(struct job_options, quiet), NULL, "show no progress",
     .verbs = "wait"},
    CLI_WATCH_OPTION(struct job_options, "list show"),
    CLI_CONTROL_OPTIONS(struct job_options),
    {NULL},
};

const struct cli_command cli_job_command = {
    .name = "job",
    .summary = "Show, await and cancel what hawserd is doing",
    .description =
        "Jobs are operations that are under way, such as the merges that follow the deletion of a "
        "snapshot; an operation that could not be finished, its pool being away for instance, "
        "stays among them and is tried again. Who stops waiting for a job does not end it.",
    .examples = {{"what is going on", "hawser job list --watch"},
                 {"what has ended", "hawser job list --ended"}},
    .options = table,
    .options_bytes = sizeof(struct job_options),
    .verbs = verbs,
};
