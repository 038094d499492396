/*
 * Giving up a snapshot of an attached volume; see merge_snapshot.h.
 *
 * The engine does it as a job; this side starts it, draws the bar and waits.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/merge_snapshot.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "engine/client.h"

#define WAIT_MS 200

static uint64_t number(const json_t *job, const char *member)
{
    return (uint64_t)json_integer_value(json_object_get(job, member));
}

static bool has_ended(const json_t *job)
{
    static const char *const ends[] = {"concluded", "failed", "cancelled"};
    const char *state = json_string_value(json_object_get(job, "state"));
    for (unsigned i = 0; state && i < ARRAY_LEN(ends); i++)
        if (!strcmp(state, ends[i]))
            return true;
    return !state;
}

static int ask(const struct attachment *attachment, const char *method, const char *id,
               json_t **job, struct hws_error *err)
{
    json_t *params = json_pack("{s:s}", "id", id), *told;
    if (!strcmp(method, "job-wait"))
        json_object_set_new(params, "timeout-ms", json_integer(WAIT_MS));
    int r = attachment_call(attachment, method, params, &told, err);
    if (r == 0) {
        json_decref(*job);
        *job = told;
    }
    return r;
}

/* @job the job as it was started; as it ended on return. */
static int wait_for(const struct attachment *attachment, json_t **job, struct progress *progress,
                    struct hws_error *err)
{
    const char *given = json_string_value(json_object_get(*job, "id"));
    autofree char *id = given ? strdup(given) : NULL;
    bool cancelled = false;
    int r = id ? 0 : hws_fail(err, EPROTO, "the engine did not name its job");
    while (r == 0 && !has_ended(*job)) {
        if (progress_step(progress, number(*job, "done-bytes"), number(*job, "total-bytes")) &&
            !cancelled) {
            cancelled = true;
            json_t *asked = NULL;
            /* Where it concludes already, its end is near. */
            (void)!ask(attachment, "job-cancel", id, &asked, NULL);
            json_decref(asked);
        }
        r = ask(attachment, "job-wait", id, job, err);
    }
    return r;
}

static int verdict(const json_t *job, struct hws_error *err)
{
    const char *state = json_string_value(json_object_get(job, "state"));
    const char *why = json_string_value(json_object_get(job, "error"));
    if (state && !strcmp(state, "concluded"))
        return 0;
    return state && !strcmp(state, "cancelled")
               ? hws_fail(err, ECANCELED, "cancelled; all snapshots are as they were")
               : hws_fail(err, EIO, "%s; all snapshots are as they were",
                          why ? why : "the engine does not say why");
}

static void print(const char *what, const char *layer, const json_t *job,
                  const struct merge_options *options)
{
    const json_t *fallen = json_object_get(job, "fallen");
    const char *base = json_string_value(json_object_get(job, "base"));
    bool commit = !strcmp(json_string_value(json_object_get(job, "type")), "commit");
    const char *holds = commit ? base : json_string_value(json_object_get(job, "layer"));
    if (options->json) {
        json_t *object = json_pack("{s:o, s:o, s:s*, s:O, s:I, s:I}", "merged", out_string(layer),
                                   "volume", out_string(what), "into", holds, "fallen", fallen,
                                   "moved-bytes", (json_int_t)number(job, "moved-bytes"),
                                   "pause-us", (json_int_t)(number(job, "pause-ns") / 1000));
        out_json(object);
        return;
    }
    if (options->quiet)
        return;
    out_safe(stdout, layer);
    printf(" is no snapshot of %s any more: ", what);
    out_safe(stdout, holds ? holds : "?");
    printf(" holds the next newer state; requests waited %.3f ms\n",
           (double)number(job, "pause-ns") / 1e6);
}

static int merge(const struct attachment *attachment, const char *what, const char *layer,
                 const struct merge_options *options, json_t **job, struct hws_error *err)
{
    struct progress progress;
    json_t *params =
        json_pack("{s:s, s:b, s:I, s:s*}", "layer", layer, "remove", !options->keep, "speed",
                  (json_int_t)(options->rate == UINT64_MAX ? 0 : options->rate), "volume",
                  attachment_volume(attachment, what));
    if (!params)
        return hws_fail(err, EINVAL, "the layer's name is no UTF-8");
    int r = attachment_call(attachment, "merge", params, job, err);
    if (r < 0)
        return r;
    progress_start(&progress, "merging", options->quiet || options->json);
    r = wait_for(attachment, job, &progress, err);
    progress_end(&progress);
    return r < 0 ? r : verdict(*job, err);
}

int cli_merge_snapshot(const char *what, const char *layer, const struct merge_options *options)
{
    struct hws_error err = {0};
    struct attachment *attachment = NULL;
    json_t *job = NULL;
    int r = cli_find_engine(what, &attachment, &err);
    if (r == 0)
        r = hws_fail(&err, EINVAL,
                     "'%.400s' is not attached; without an engine 'hawser rebase' gives up layers "
                     "below an image, and 'hawser commit' an image into the one below it",
                     what);
    if (r > 0)
        r = merge(attachment, what, layer, options, &job, &err);
    if (r == 0)
        print(what, layer, job, options);
    json_decref(job);
    attachment_free(attachment);
    return r < 0 ? out_error("snapshot", CLI_FAILED, &err) : CLI_OK;
}
