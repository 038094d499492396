/*
 * Jobs of an engine; see engine/jobs.h.
 *
 * Names. A layer in the middle that falls out leaves a file that nobody names. Where the top itself
 * goes down into a layer below, its path must not go on to name an image that the guest's later
 * writes pass by. So that name is given, in one step and before the first such write, to an empty
 * overlay over the layer that takes its place, made beforehand: whoever attaches the volume by it
 * gets the whole content, at every moment. The state file names the layer itself as the top; a
 * death in between leaves the one or the other, which read the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/jobs.h"
#include "base/log.h"
#include "job/overlay/overlay.h"
#include <limits.h>
#include <sys/stat.h>

enum job_end { JOB_RUNS, JOB_CONCLUDED, JOB_FAILED, JOB_CANCELLED };

static const char *const kind_names[] = {"commit", "stream"};
static const char *const end_names[] = {NULL, "concluded", "failed", "cancelled"};

struct job {
    struct list link;
    struct engine *engine;
    struct volume *volume; /* NULL once it has ended */
    unsigned number;
    enum job_kind kind;
    bool remove, of_top;
    enum job_end end;
    char *layer, *base, *fresh; /* fresh: the empty overlay, under its temporary name */
    char *name;                 /* of the base, as the image above the gap is to have it */
    json_t *fallen;             /* paths */
    struct live_job live;
    struct live_control control;
    struct hws_error failure;
    json_t *told; /* of a predecessor: all that is known */
};

/* ---- what there is ---- */

static struct job *job_free(struct job *job)
{
    if (!job)
        return NULL;
    free(job->layer);
    free(job->base);
    free(job->fresh);
    free(job->name);
    json_decref(job->fallen);
    json_decref(job->told);
    free(job);
    return NULL;
}

static const char *state_of(const struct job *job)
{
    if (job->end != JOB_RUNS)
        return end_names[job->end];
    switch (atomic_load(&job->control.phase)) {
    case LIVE_WAITING:
        return "waiting";
    case LIVE_SWITCHING:
        return "concluding";
    default:
        return atomic_load(&job->control.pause) ? "paused" : "running";
    }
}

json_t *job_status(const struct job *job)
{
    if (job->told)
        return json_deep_copy(job->told);
    char id[24];
    snprintf(id, sizeof(id), "job-%u", job->number);
    const struct live_control *c = &job->control;
    json_t *status = json_pack(
        "{s:s, s:s, s:s, s:s, s:s*, s:I, s:I, s:I, s:I}", "id", id, "type", kind_names[job->kind],
        "state", state_of(job), "layer", job->layer, "base", job->base, "done-bytes",
        (json_int_t)atomic_load(&c->done_bytes), "total-bytes",
        (json_int_t)atomic_load(&c->total_bytes), "moved-bytes",
        (json_int_t)atomic_load(&c->moved_bytes), "speed", (json_int_t)atomic_load(&c->rate_bytes));
    if (job->volume)
        json_object_set_new(status, "volume", json_string(job->volume->config.name));
    if (job->end == JOB_CONCLUDED) {
        json_object_set_new(status, "pause-ns", json_integer((json_int_t)job->live.ret_pause_ns));
        json_object_set(status, "fallen", job->fallen);
    }
    if (job->end == JOB_FAILED)
        json_object_set_new(status, "error", json_string(job->failure.text));
    return status;
}

json_t *jobs_status(const struct engine *engine)
{
    json_t *list = json_array();
    list_for_each (link, &engine->jobs)
        json_array_append_new(list, job_status(list_entry(link, struct job, link)));
    return list;
}

struct job *job_find(struct engine *engine, const char *id, struct hws_error *err)
{
    list_for_each (link, &engine->jobs) {
        struct job *job = list_entry(link, struct job, link);
        char own[24];
        snprintf(own, sizeof(own), "job-%u", job->number);
        if (!strcmp(own, id))
            return job;
    }
    hws_fail(err, ENOENT, "there is no job '%.40s'; 'job-list' lists them", id);
    return NULL;
}

static void add(struct engine *engine, struct job *job)
{
    unsigned count = 0;
    list_push_back(&engine->jobs, &job->link);
    list_for_each (link, &engine->jobs)
        count++;
    for (struct list *at = engine->jobs.next; count > JOBS_KEPT && at != &engine->jobs;) {
        struct job *old = list_entry(at, struct job, link);
        at = at->next;
        if (old->end == JOB_RUNS)
            continue;
        list_del(&old->link);
        job_free(old);
        count--;
    }
}

static void inherit(struct engine *engine, json_t *told)
{
    unsigned number;
    const char *id = json_string_value(json_object_get(told, "id"));
    const char *state = json_string_value(json_object_get(told, "state"));
    if (!id || !state || sscanf(id, "job-%u", &number) != 1 || number >= UINT_MAX / 2)
        return;
    struct job *job = calloc(1, sizeof(*job));
    if (!job)
        return;
    job->engine = engine;
    job->number = number;
    job->end = !strcmp(state, end_names[JOB_CONCLUDED])   ? JOB_CONCLUDED
               : !strcmp(state, end_names[JOB_CANCELLED]) ? JOB_CANCELLED
                                                          : JOB_FAILED;
    job->told = json_deep_copy(told);
    if (job->end == JOB_FAILED && strcmp(state, end_names[JOB_FAILED]) != 0) {
        json_object_set_new(job->told, "state", json_string(end_names[JOB_FAILED]));
        json_object_set_new(job->told, "error",
                            json_string("its engine ended before it did; nothing is lost, and it "
                                        "may be started anew"));
    }
    engine->last_job = MAX(engine->last_job, number);
    add(engine, job);
}

void jobs_inherit(struct engine *engine)
{
    const char *path = engine->config->state_file;
    json_t *state = path ? json_load_file(path, 0, NULL) : NULL, *told;
    size_t i;
    json_array_foreach(json_object_get(state, "jobs"), i, told) inherit(engine, told);
    json_decref(state);
}

void jobs_free(struct engine *engine)
{
    struct list *link;
    while ((link = list_pop_front(&engine->jobs)))
        job_free(list_entry(link, struct job, link));
}

/* ---- steering ---- */

static int refuse_ended(const struct job *job, struct hws_error *err)
{
    return job->end == JOB_RUNS ? 0
                                : hws_fail(err, EINVAL, "job-%u has ended: it is %s", job->number,
                                           end_names[job->end]);
}

int job_cancel(struct job *job, struct hws_error *err)
{
    int r = refuse_ended(job, err);
    if (r == 0 && atomic_load(&job->control.phase) == LIVE_SWITCHING)
        r = hws_fail(err, EBUSY, "job-%u is concluding: it cannot be cancelled any more",
                     job->number);
    if (r == 0)
        atomic_store(&job->control.cancel, true);
    return r;
}

int job_pause(struct job *job, bool pause, struct hws_error *err)
{
    int r = refuse_ended(job, err);
    if (r == 0 && pause && atomic_load(&job->control.phase) > LIVE_COPYING)
        r = hws_fail(err, EINVAL, "job-%u has nothing left to copy", job->number);
    if (r == 0)
        atomic_store(&job->control.pause, pause);
    return r;
}

int job_complete(struct job *job, struct hws_error *err)
{
    int r = refuse_ended(job, err);
    if (r == 0)
        atomic_store(&job->control.hold, false);
    return r;
}

int job_set_speed(struct job *job, uint64_t bytes_per_second, struct hws_error *err)
{
    int r = refuse_ended(job, err);
    if (r == 0)
        atomic_store(&job->control.rate_bytes, bytes_per_second);
    return r;
}

void co_job_wait(struct job *job, uint64_t timeout_ns)
{
    struct engine *engine = job->engine;
    const uint64_t deadline = rt_now_ns() + timeout_ns;
    unsigned number = job->number;
    rt_mutex_lock(&engine->guard);
    for (bool runs = true, in_time = true; runs && in_time;) {
        /* It may be forgotten while somebody waits. */
        runs = false;
        list_for_each (link, &engine->jobs) {
            const struct job *at = list_entry(link, struct job, link);
            runs = runs || (at->number == number && at->end == JOB_RUNS);
        }
        if (runs)
            in_time = co_waitq_wait_until(&engine->jobs_changed, &engine->guard, deadline);
    }
    rt_mutex_unlock(&engine->guard);
}

int volume_refuse_job(const struct volume *volume, struct hws_error *err)
{
    return volume->job
               ? hws_fail(err, EBUSY,
                          "job-%u (%s) changes the chain of volume '%s': wait for its end, "
                          "or cancel it",
                          volume->job->number, kind_names[volume->job->kind], volume->config.name)
               : 0;
}

void co_volume_end_job(struct volume *volume)
{
    while (volume->job) {
        atomic_store(&volume->job->control.cancel, true);
        co_job_wait(volume->job, 1000000000);
    }
}

/* ---- the switch ---- */

static int co_prepare(void *arg, struct hws_error *err)
{
    struct job *job = arg;
    if (!job->of_top)
        return 0;
    return co_overlay_prepare_merged(job->live.upper, job->live.base, job->layer, &job->fresh, err);
}

/* The name of the old top; see above. */
static int co_give_name(struct job *job, struct hws_error *err)
{
    struct hws_error why = {0};
    int r = co_rename(job->fresh, job->layer, &why);
    /* What only could not be made durable has taken place, and cannot be taken back. */
    if (r < 0 && access(job->fresh, F_OK) == 0) {
        if (err)
            *err = why;
        return r;
    }
    if (r < 0)
        log_warning("%s: has its new content, but that is not known to be durable: %s", job->layer,
                    why.text);
    free(steal_ptr(&job->fresh));
    r = volume_note_top(job->volume, job->base, block_driver_name(job->live.base), &why);
    if (r < 0) /* the next engine begins with the overlay, which reads the same */
        log_warning("%s", why.text);
    return 0;
}

static int co_switch(void *arg, struct hws_error *err)
{
    struct job *job = arg;
    return job->of_top ? co_give_name(job, err) : 0;
}

/* ---- running ---- */

static void co_remove_fallen(struct job *job)
{
    size_t i;
    json_t *path;
    json_array_foreach(job->fallen, i, path)
    {
        struct hws_error err = {0};
        const char *name = json_string_value(path), *image = job->volume->config.image;
        /* What the volume is attached by stays, as an empty overlay. */
        bool configured = job->of_top && i == 0 && !strcmp(name, image);
        if (!configured && co_unlink(name, &err) < 0)
            log_warning("%s", err.text);
    }
}

static void conclude(struct job *job, int r)
{
    struct engine *engine = job->engine;
    struct hws_error err = {0};
    rt_mutex_lock(&engine->guard);
    job->end = r == 0 ? JOB_CONCLUDED : r == -ECANCELED ? JOB_CANCELLED : JOB_FAILED;
    job->volume->job = NULL;
    rt_mutex_unlock(&engine->guard);
    if (volume_note_merging(job->volume, NULL, NULL, &err) < 0)
        log_warning("%s", err.text);
    log_info("volume '%s': job-%u (%s) %s%s%s", job->volume->config.name, job->number,
             kind_names[job->kind], end_names[job->end], r < 0 ? ": " : "", job->failure.text);
    job->volume = NULL;
    rt_mutex_lock(&engine->guard);
    co_waitq_wake_all(&engine->jobs_changed);
    rt_mutex_unlock(&engine->guard);
}

static void co_job(void *arg)
{
    struct job *job = arg;
    int r = job->kind == JOB_COMMIT ? co_live_commit(&job->live, &job->failure)
                                    : co_live_stream(&job->live, &job->failure);
    if (r == 0 && job->remove)
        co_remove_fallen(job);
    if (job->fresh && co_unlink(job->fresh, NULL) < 0)
        log_warning("%s: cannot remove it; nothing uses it", job->fresh);
    conclude(job, r);
}

/* ---- starting ---- */

static bool same_file(const char *a, const char *b)
{
    struct stat first, second;
    return a && b && !stat(a, &first) && !stat(b, &second) && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* @path NULL: the top. */
static int find_layer(struct volume *volume, const char *path, struct block_node **ret,
                      struct hws_error *err)
{
    struct block_node *top = block_root_node(volume->root);
    *ret = top;
    if (!path || same_file(path, overlay_node_path(top)))
        return 0;
    return overlay_find_layer(top, path, ret, err);
}

static int file_of(const struct block_node *node, char **ret, struct hws_error *err)
{
    const char *path = overlay_node_path(node);
    if (!path)
        return hws_fail(err, ENOTSUP, "layer '%.200s' is not a file of this host",
                        block_filename(node));
    *ret = realpath(path, NULL);
    return *ret ? 0 : hws_fail_errno(err, errno, "cannot find '%.300s'", path);
}

static int find_layers(struct job *job, const struct job_options *options, struct hws_error *err)
{
    struct live_job *live = &job->live;
    int r = find_layer(job->volume, options->layer, &live->upper, err);
    if (r == 0 && options->base)
        r = find_layer(job->volume, options->base, &live->base, err);
    else if (r == 0 && job->kind == JOB_COMMIT)
        live->base = block_child(live->upper, BLOCK_BACKING);
    if (r == 0)
        r = job->kind == JOB_COMMIT ? co_live_check_commit(live, err)
                                    : co_live_check_stream(live, err);
    if (r == 0)
        r = file_of(live->upper, &job->layer, err);
    if (r == 0 && live->base)
        r = file_of(live->base, &job->base, err);
    return r;
}

/* The image that is to name the base, and how. */
static int find_name(struct job *job, struct hws_error *err)
{
    struct live_job *live = &job->live;
    struct block_node *above = block_root_node(job->volume->root);
    struct stat stat_of;
    if (job->kind == JOB_STREAM)
        above = live->upper;
    else if (above == live->upper)
        job->of_top = true;
    else
        while (block_child(above, BLOCK_BACKING) != live->upper)
            above = block_child(above, BLOCK_BACKING);
    if (job->of_top)
        return stat(job->layer, &stat_of) == 0 && S_ISREG(stat_of.st_mode)
                   ? 0
                   : hws_fail(err, ENOTSUP,
                              "'%.200s' is no regular file, so its name cannot be given to "
                              "another image; let it take the data instead (stream)",
                              job->layer);
    if (!live->base)
        return 0;
    autofree char *path = NULL;
    int r = file_of(above, &path, err);
    if (r == 0)
        r = overlay_backing_name(path, job->base, &job->name, err);
    live->name = job->name;
    live->format = block_driver_name(live->base);
    return r;
}

/* What will have fallen out, uppermost first. */
static int list_fallen(struct job *job, struct hws_error *err)
{
    const struct live_job *live = &job->live;
    struct block_node *at = live->upper;
    if (job->kind == JOB_STREAM)
        at = block_child(at, BLOCK_BACKING);
    job->fallen = json_array();
    for (; at && at != live->base; at = block_child(at, BLOCK_BACKING)) {
        autofree char *path = NULL;
        int r = file_of(at, &path, err);
        if (r == 0 && json_array_append_new(job->fallen, json_string(path)) < 0)
            r = hws_fail(err, EINVAL, "'%.200s' is no UTF-8, so nobody could be told of it", path);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_begin(struct job *job, const struct job_options *options, struct hws_error *err)
{
    struct live_job *live = &job->live;
    live->root = job->volume->root;
    live->control = &job->control;
    live->co_prepare = co_prepare;
    live->co_switch = co_switch;
    live->arg = job;
    atomic_store(&job->control.rate_bytes, options->speed);
    atomic_store(&job->control.hold, options->hold);
    int r = find_layers(job, options, err);
    if (r == 0)
        r = find_name(job, err);
    if (r == 0)
        r = list_fallen(job, err);
    if (r < 0)
        return r;
    struct block_node *takes = job->kind == JOB_COMMIT ? live->base : live->upper;
    r = volume_note_merging(job->volume, job->kind == JOB_COMMIT ? job->base : job->layer,
                            block_driver_name(takes), err);
    if (r == 0 && rt_spawn(NULL, co_job, job) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        (void)!volume_note_merging(job->volume, NULL, NULL, NULL);
    return r;
}

int co_job_start(struct volume *volume, const struct job_options *options, struct job **ret,
                 struct hws_error *err)
{
    int r = volume_refuse_job(volume, err);
    if (r < 0)
        return r;
    struct job *job = calloc(1, sizeof(*job));
    if (!job)
        return hws_fail(err, ENOMEM, "out of memory");
    job->engine = volume->engine;
    job->volume = volume;
    job->kind = options->kind;
    job->remove = options->remove;
    job->number = volume->engine->last_job + 1;
    r = co_begin(job, options, err);
    if (r < 0) {
        job_free(job);
        return r;
    }
    volume->engine->last_job++;
    volume->job = job;
    add(volume->engine, job);
    *ret = job;
    return 0;
}

/* ---- giving up a state ---- */

static uint64_t co_stored_bytes(struct block_node *node)
{
    json_t *info;
    if (co_block_info(node, &info, NULL) < 0)
        return 0;
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(info, "actual-size"));
    json_decref(info);
    return bytes;
}

int co_job_start_merge(struct volume *volume, const struct job_options *options, struct job **ret,
                       struct hws_error *err)
{
    struct block_node *top = block_root_node(volume->root), *layer, *above = top;
    struct job_options merge = *options;
    int r = find_layer(volume, options->layer, &layer, err);
    if (r < 0)
        return r;
    if (layer == top)
        return hws_fail(err, EINVAL, "'%.300s' is what the volume is now, and no snapshot of it",
                        block_filename(layer));
    while (block_child(above, BLOCK_BACKING) != layer)
        above = block_child(above, BLOCK_BACKING);
    struct block_node *below = block_child(layer, BLOCK_BACKING);
    bool down = !below || co_stored_bytes(above) < co_stored_bytes(layer);
    merge.kind = down ? JOB_COMMIT : JOB_STREAM;
    merge.layer = overlay_node_path(above);
    merge.base = overlay_node_path(down ? layer : below);
    if (!merge.layer || !merge.base)
        return hws_fail(err, ENOTSUP, "the layers around '%.200s' are no files of this host",
                        block_filename(layer));
    return co_job_start(volume, &merge, ret, err);
}
