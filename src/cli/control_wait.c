/*
 * Waiting for hawserd: for changes, and for jobs; see cli/control.h.
 *
 * Whoever stops waiting stops nothing else: the job goes on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include "cli/progress.h"

#define LOOK_US 200000

int control_await(const struct control_command *command, uint64_t *after, unsigned seconds,
                  struct hws_error *err)
{
    char path[96] = "/v1/events";
    json_t *answer = NULL;
    if (*after)
        snprintf(path, sizeof(path), "/v1/events?limit=1000&wait=%u&after=%llu", seconds,
                 (unsigned long long)*after);
    int r = control_ask(command, "GET", path, NULL, &answer, err);
    if (r == 0)
        *after = (uint64_t)json_integer_value(json_object_get(answer, "next"));
    json_decref(answer);
    return r;
}

static const char *text_of(const json_t *job, const char *name)
{
    const char *text = json_string_value(json_object_get(job, name));
    return text ? text : "";
}

static bool has_ended(const json_t *job)
{
    return json_integer_value(json_object_get(job, "ended")) != 0;
}

static int outcome(const char *id, const json_t *job, struct hws_error *err)
{
    const char *state = text_of(job, "state"), *error = text_of(job, "error");
    if (!strcmp(state, "failed"))
        return hws_fail(err, EIO, "job %.60s failed: %.500s", id, *error ? error : "no reason");
    if (!strcmp(state, "cancelled"))
        return hws_fail(err, ECANCELED, "job %.60s was cancelled", id);
    return 0;
}

/* @ret_ended also where it is not remembered any more, but was seen. */
static int look(const struct control_command *command, const char *id, bool seen, json_t **ret,
                bool *ret_ended, struct hws_error *err)
{
    struct hws_error why = {0};
    int r = control_call(command, "GET", NULL, ret, &why, "/v1/jobs/%s", id);
    *ret_ended = r == 0 ? has_ended(*ret) : seen && r == -ENOENT;
    if (r < 0 && !*ret_ended)
        return hws_fail(err, -r, "%s", why.text);
    return 0;
}

int control_wait(const struct control_command *command, const char *job, const char *what,
                 bool quiet, struct hws_error *err)
{
    struct progress progress;
    bool seen = false, ended = false;
    json_t *now = NULL;
    int r;
    progress_start(&progress, what, quiet || command->output == CLI_JSON);
    while ((r = look(command, job, seen, &now, &ended, err)) == 0 && !ended) {
        seen = true;
        uint64_t done = (uint64_t)json_integer_value(json_object_get(now, "done"));
        uint64_t total = (uint64_t)json_integer_value(json_object_get(now, "total"));
        json_decref(now);
        now = NULL;
        if (progress_step(&progress, done, total)) {
            progress_hide(&progress);
            out_note("job", "it goes on without being waited for; 'hawser job cancel %s' ends it",
                     job);
            break;
        }
        usleep(LOOK_US);
    }
    progress_end(&progress);
    if (r == 0)
        r = outcome(job, now, err);
    json_decref(now);
    return r;
}
