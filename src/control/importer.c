/*
 * The threads that import images, each one at a time; what waits is begun in the order of its ids.
 * They end between two questions of a copy, which is then kept and goes on at the next start.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

#define THREADS 2
/** Until what could not be finished, its pool being away, is tried again. */
#define AGAIN_S 3

struct worker {
    struct importer *importer;
    pthread_t thread;
    char volume[ID_BYTES]; /* that is worked on; empty: none */
    uint64_t done_bytes, total_bytes;
};

struct importer {
    struct control *control;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t wishes; /* grows with each */
    bool stop;
    unsigned count;
    struct worker worker[THREADS];
};

static bool must_stop(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes)
{
    struct worker *worker = arg;
    struct importer *importer = worker->importer;
    pthread_mutex_lock(&importer->mutex);
    snprintf(worker->volume, sizeof(worker->volume), "%s", volume);
    worker->done_bytes = done_bytes;
    worker->total_bytes = total_bytes;
    bool stop = importer->stop;
    pthread_mutex_unlock(&importer->mutex);
    return stop;
}

/* @return whether something was put off. */
static bool import_all(struct worker *worker)
{
    const struct merge_watch watch = {.progress = must_stop, .arg = worker};
    auto_json *put_off = json_object();
    struct hws_error err = {0};
    int r;
    do {
        r = import_one(worker->importer->control, &watch, put_off, &err);
    } while (!must_stop(worker, "", 0, 0) && r > 0);
    if (r < 0)
        log_warning("images are imported later: %s", err.text);
    return r < 0 || json_object_size(put_off);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct importer *importer = worker->importer;
    pthread_mutex_lock(&importer->mutex);
    while (!importer->stop) {
        struct timespec end;
        uint64_t seen = importer->wishes;
        pthread_mutex_unlock(&importer->mutex);
        bool again = import_all(worker);
        clock_gettime(CLOCK_MONOTONIC, &end);
        end.tv_sec += AGAIN_S;
        int waited = 0;
        pthread_mutex_lock(&importer->mutex);
        while (!importer->stop && importer->wishes == seen && waited == 0)
            waited = again ? pthread_cond_timedwait(&importer->changed, &importer->mutex, &end)
                           : pthread_cond_wait(&importer->changed, &importer->mutex);
    }
    pthread_mutex_unlock(&importer->mutex);
    return NULL;
}

int importer_start(struct control *control, struct hws_error *err)
{
    struct importer *importer = calloc(1, sizeof(*importer));
    pthread_condattr_t attributes;
    if (!importer)
        return hws_fail(err, ENOMEM, "out of memory");
    importer->control = control;
    control->importer = importer;
    pthread_mutex_init(&importer->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&importer->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    for (; importer->count < THREADS; importer->count++) {
        struct worker *worker = &importer->worker[importer->count];
        worker->importer = importer;
        int r = pthread_create(&worker->thread, NULL, work, worker);
        if (r != 0)
            return hws_fail_errno(err, r, "cannot start a thread");
    }
    return 0;
}

void importer_stop(struct control *control)
{
    struct importer *importer = control->importer;
    if (!importer)
        return;
    pthread_mutex_lock(&importer->mutex);
    importer->stop = true;
    pthread_cond_broadcast(&importer->changed);
    pthread_mutex_unlock(&importer->mutex);
    for (unsigned i = 0; i < importer->count; i++)
        pthread_join(importer->worker[i].thread, NULL);
    pthread_cond_destroy(&importer->changed);
    pthread_mutex_destroy(&importer->mutex);
    free(importer);
    control->importer = NULL;
}

void importer_wake(struct control *control)
{
    struct importer *importer = control->importer;
    if (!importer)
        return;
    pthread_mutex_lock(&importer->mutex);
    importer->wishes++;
    pthread_cond_broadcast(&importer->changed);
    pthread_mutex_unlock(&importer->mutex);
}

void importer_describe(struct control *control, json_t *intent)
{
    struct importer *importer = control->importer;
    const char *object = json_string_value(json_object_get(intent, "object"));
    const char *operation = json_string_value(json_object_get(intent, "operation"));
    if (!object || !operation || strcmp(operation, volume_import_operation.name) != 0)
        return;
    json_object_set_new(intent, "state", json_string("waiting"));
    if (!importer)
        return;
    pthread_mutex_lock(&importer->mutex);
    for (unsigned i = 0; i < importer->count; i++) {
        const struct worker *worker = &importer->worker[i];
        if (strcmp(worker->volume, object) != 0)
            continue;
        json_object_set_new(intent, "state", json_string("running"));
        json_object_set_new(intent, "done", json_integer((json_int_t)worker->done_bytes));
        json_object_set_new(intent, "total", json_integer((json_int_t)worker->total_bytes));
    }
    pthread_mutex_unlock(&importer->mutex);
}
