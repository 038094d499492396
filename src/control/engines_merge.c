/*
 * Layers that take the data of the one below them: by a job of the engine where the volume is in
 * use, and by `hawser rebase` where it is not. Both record the new name of what lies below last, in
 * one step; until then the layer reads through the old one, and what was copied does no harm.
 *
 * The engine's job goes on when this process ends, and is cancelled by the next, which looks first
 * whether it has ended well. The tool ends with the thread that started it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/engines.h"
#include "control/objects.h"
#include "control/tool.h"
#include "engine/client.h"
#include <sys/stat.h>

#define LOOK_TIMEOUT_MS 60000
#define LOOK_TRIES      50
#define LOOK_AGAIN_US   100000
#define WAIT_MS         200
#define CALL_TIMEOUT_MS 60000

static bool same_file(const char *a, const char *b)
{
    struct stat first, second;
    if (!a || !b)
        return a == b;
    return !stat(a, &first) && !stat(b, &second) && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* ---- not in use ---- */

static int merge_files(const struct engine_merge *merge, struct hws_error *err)
{
    /* A tool that went on without this process would hold up the volume. */
    char *arguments[ENGINES_ARGUMENTS_MAX] = {(char *)"setpriv", (char *)"--pdeathsig",
                                              (char *)"TERM", (char *)engines_program(),
                                              (char *)"rebase"};
    unsigned used = 5;
    arguments[used++] = (char *)"-q";
    arguments[used++] = (char *)"--progress-json";
    arguments[used++] = (char *)"-f";
    arguments[used++] = (char *)"qcow2";
    used = engines_add_allow(arguments, used, merge->allow);
    arguments[used++] = (char *)"-b";
    arguments[used++] =
        (char *)(merge->below ? engines_name_beside(merge->path, merge->below) : "");
    if (merge->below) {
        arguments[used++] = (char *)"-F";
        arguments[used++] = (char *)merge->below_format;
    }
    arguments[used++] = (char *)merge->path;
    return engines_run_long(arguments, merge->progress, merge->arg, err);
}

static int look_at_file(const struct engine_merge *merge, bool *ret, struct hws_error *err)
{
    char *arguments[ENGINES_ARGUMENTS_MAX] = {(char *)engines_program(), (char *)"info",
                                              (char *)"--output=json", (char *)"-f",
                                              (char *)"qcow2"};
    autofree char *output = NULL, *beside = NULL;
    unsigned used = engines_add_allow(arguments, 5, merge->allow);
    if (merge->id) /* its engine has it open; no job is about to change that name */
        arguments[used++] = (char *)"-U";
    arguments[used++] = (char *)merge->path;
    int r = -EIO;
    /* A tool that was told to end with its hawserd may hold the image a moment longer. */
    for (unsigned i = 0; r == -EIO && i < LOOK_TRIES; i++) {
        if (i > 0)
            usleep(LOOK_AGAIN_US);
        r = tool_run(arguments, LOOK_TIMEOUT_MS, &output, err);
    }
    if (r < 0)
        return r;
    auto_json *info = json_loads(output ? output : "", 0, NULL);
    const char *name = json_string_value(json_object_get(info, "backing-filename"));
    const char *slash = strrchr(merge->path, '/');
    if (!info || !slash)
        return hws_fail(err, EIO, "nobody can tell what %.300s lies on", merge->path);
    if (name && name[0] != '/' &&
        asprintf(&beside, "%.*s/%s", (int)(slash - merge->path), merge->path, name) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    *ret = same_file(beside ? beside : name, merge->below);
    return 0;
}

/* ---- in use ---- */

static const char *text_of(const json_t *job, const char *member)
{
    const char *text = json_string_value(json_object_get(job, member));
    return text ? text : "";
}

static bool has_ended(const json_t *job)
{
    const char *state = text_of(job, "state");
    return !strcmp(state, "concluded") || !strcmp(state, "failed") || !strcmp(state, "cancelled") ||
           !*state;
}

static int ask(const struct attachment *engine, const char *method, json_t *params, json_t **ret,
               struct hws_error *err)
{
    *ret = NULL;
    return attachment_call_within(engine, method, params, CALL_TIMEOUT_MS, ret, err);
}

static bool tell(const struct engine_merge *merge, const json_t *job)
{
    uint64_t done = (uint64_t)json_integer_value(json_object_get(job, "done-bytes"));
    uint64_t total = (uint64_t)json_integer_value(json_object_get(job, "total-bytes"));
    return merge->progress && merge->progress(merge->arg, done, total);
}

/* Waits for the end of @job, cancelling it when it is to. @return how it ended; a new reference. */
static int wait_for(const struct attachment *engine, json_t *job, const struct engine_merge *merge,
                    bool cancel, json_t **ret, struct hws_error *err)
{
    json_t *now = json_incref(job);
    bool asked = false;
    int r = 0;
    while (r == 0 && !has_ended(now)) {
        cancel |= tell(merge, now);
        if (cancel && !asked) {
            auto_json *answer = NULL;
            asked = true; /* one that concludes already has its end near */
            (void)!ask(engine, "job-cancel", json_pack("{s:s}", "id", text_of(job, "id")), &answer,
                       NULL);
        }
        json_decref(now);
        r = ask(engine, "job-wait",
                json_pack("{s:s, s:i}", "id", text_of(job, "id"), "timeout-ms", WAIT_MS), &now,
                err);
    }
    if (r < 0)
        return r;
    (void)tell(merge, now);
    *ret = now;
    return 0;
}

static int end_others(const struct attachment *engine, struct hws_error *err)
{
    const struct engine_merge nobody = {0};
    auto_json *told = NULL;
    size_t i;
    json_t *job;
    int r = ask(engine, "job-list", json_object(), &told, err);
    json_array_foreach(json_object_get(told, "jobs"), i, job)
    {
        auto_json *ended = NULL;
        if (r == 0 && !has_ended(job))
            r = wait_for(engine, job, &nobody, true, &ended, err);
    }
    return r;
}

static int merge_live(const struct attachment *engine, const struct engine_merge *merge,
                      struct hws_error *err)
{
    auto_json *job = NULL, *ended = NULL;
    int r = ask(engine, "stream",
                json_pack("{s:s, s:s*}", "layer", merge->path, "base", merge->below), &job, err);
    if (r == 0)
        r = wait_for(engine, job, merge, false, &ended, err);
    if (r < 0 || !strcmp(text_of(ended, "state"), "concluded"))
        return r;
    return !strcmp(text_of(ended, "state"), "cancelled")
               ? hws_fail(err, ECANCELED, "the engine's job was cancelled")
               : hws_fail(err, EIO, "%s", text_of(ended, "error"));
}

/* ---- both ---- */

/* @ret NULL where no engine runs. */
static int find_engine(const struct engine_merge *merge, struct attachment **ret,
                       struct hws_error *err)
{
    *ret = NULL;
    if (!merge->id)
        return 0;
    int r = attachment_find(merge->id, ret, err);
    if (r == 0 && (!(*ret)->running || strcmp((*ret)->name, merge->id) != 0)) {
        *ret = attachment_free(*ret);
        r = hws_fail(err, EIO, "its engine died");
    }
    return r;
}

int engines_is_merged(const struct engine_merge *merge, bool *ret, struct hws_error *err)
{
    struct attachment *engine;
    int r = find_engine(merge, &engine, err);
    if (r == 0 && engine)
        r = end_others(engine, err);
    if (r == 0)
        r = look_at_file(merge, ret, err);
    attachment_free(engine);
    return r;
}

int engines_merge(const struct engine_merge *merge, struct hws_error *err)
{
    struct attachment *engine;
    int r = find_engine(merge, &engine, err);
    if (r == 0)
        r = engine ? merge_live(engine, merge, err) : merge_files(merge, err);
    attachment_free(engine);
    return r;
}
