/*
 * Threads that run requests, in the order in which they came; see api/http/workers.h. The queue
 * holds at most one request a connection, so connections bound it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/workers.h"
#include <pthread.h>

/** JSON that is nested as deep as its parser takes needs the most; what is not used costs nothing.
 */
#define STACK_BYTES ((size_t)4 * MiB)

struct http_workers {
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct list queue;
    bool stopping;
    unsigned count;
    pthread_t threads[];
};

static void *work_on(void *arg)
{
    struct http_workers *workers = arg;
    pthread_mutex_lock(&workers->mutex);
    while (!workers->stopping || !list_empty(&workers->queue)) {
        struct list *node = list_pop_front(&workers->queue);
        if (!node) {
            pthread_cond_wait(&workers->more, &workers->mutex);
            continue;
        }
        pthread_mutex_unlock(&workers->mutex);
        struct http_work *work = list_entry(node, struct http_work, node);
        work->run(work);
        pthread_mutex_lock(&workers->mutex);
    }
    pthread_mutex_unlock(&workers->mutex);
    return NULL;
}

struct http_workers *http_workers_start(unsigned count, struct hws_error *err)
{
    struct http_workers *workers = calloc(1, sizeof(*workers) + count * sizeof(pthread_t));
    pthread_attr_t attributes;
    if (!workers) {
        hws_fail(err, ENOMEM, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&workers->mutex, NULL);
    pthread_cond_init(&workers->more, NULL);
    list_init(&workers->queue);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int r = 0;
    while (r == 0 && workers->count < count) {
        r = pthread_create(&workers->threads[workers->count], &attributes, work_on, workers);
        workers->count += r == 0;
    }
    pthread_attr_destroy(&attributes);
    if (r == 0)
        return workers;
    http_workers_stop(workers);
    hws_fail_errno(err, r, "cannot start a thread");
    return NULL;
}

bool http_workers_add(struct http_workers *workers, struct http_work *work)
{
    pthread_mutex_lock(&workers->mutex);
    bool taken = !workers->stopping;
    if (taken) {
        list_push_back(&workers->queue, &work->node);
        pthread_cond_signal(&workers->more);
    }
    pthread_mutex_unlock(&workers->mutex);
    return taken;
}

void http_workers_stop(struct http_workers *workers)
{
    if (!workers)
        return;
    pthread_mutex_lock(&workers->mutex);
    workers->stopping = true;
    pthread_cond_broadcast(&workers->more);
    pthread_mutex_unlock(&workers->mutex);
    for (unsigned i = 0; i < workers->count; i++)
        pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->more);
    pthread_mutex_destroy(&workers->mutex);
    free(workers);
}
