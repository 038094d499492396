/*
 * Our threads inside tcmu-runner; see threads.h.
 *
 * They block every signal, so tcmu-runner's handlers run where it expects them. What the engine
 * logs goes to tcmu-runner's log. Nothing else of the process is touched: no signal dispositions,
 * no malloc options, no exit handlers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu-runner/threads.h"
#include "base/log.h"
#include "block/keep.h"
#include "drivers/drivers.h"
#include "export/tcmu-runner/interface.h"
#include <pthread.h>
#include <semaphore.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

/* A device belongs to one queue thread; more than a few of them only add wake-ups. */
#define QUEUES_MAX  4

#define KEEP_FOLDER "/run/hawser"
#define KEEP_TRIES  200
#define KEEP_TRY_MS 50

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static struct rt *rt;
static struct rt_queue *control, *queue[QUEUES_MAX];
static unsigned queue_count, queue_next;
static struct block_keep *keep;

static void log_to_runner(enum log_level level, const char *line, void *arg)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        tcmu_err_message(NULL, "hawser", 0, "%s\n", line);
        break;
    case LOG_LEVEL_WARNING:
        tcmu_warn_message(NULL, "hawser", 0, "%s\n", line);
        break;
    case LOG_LEVEL_INFO:
        tcmu_info_message(NULL, "hawser", 0, "%s\n", line);
        break;
    default:
        tcmu_dbg_message(NULL, "hawser", 0, "%s\n", line);
    }
}

/* Of this thread and those that do its I/O: memory reclaim that these allocations start does not
 * come back to the device. Refused without CAP_SYS_RESOURCE; it then works as before. */
static void be_io_flusher(void *arg)
{
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

/* ---- life; `starting` is held ---- */

static void co_stop_queues(void *arg)
{
    for (unsigned i = 0; i < queue_count; i++)
        co_queue_stop(queue[i]);
    if (control)
        co_queue_stop(control);
}

static void stop(void)
{
    /* Queues are stopped from a coroutine of another one: this thread serves as that. */
    if (queue_count || control) {
        int r = rt_run(rt, co_stop_queues, NULL);
        if (r < 0) {
            log_error("cannot end the I/O threads: %s", strerror(-r));
            return;
        }
    }
    rt = rt_free(rt);
    control = NULL;
    queue_count = 0;
    keep = block_keep_close(keep);
}

static int start_queue(const char *name, struct rt_queue **ret, struct hws_error *err)
{
    int r = rt_queue_start(rt, name, ret, err);
    if (r == 0 && rt_spawn(*ret, be_io_flusher, NULL) < 0)
        log_debug("out of memory");
    return r;
}

/*
 * What images have in memory only outlives a tcmu-runner that is killed. The predecessor may be
 * dying still: it holds the file until all its I/O has ended.
 */
static int open_keep(struct hws_error *err)
{
    const char *path = secure_getenv("HAWSER_TCMU_RUNNER_KEEP");
    if (!path) {
        path = KEEP_FOLDER "/tcmu-runner.keep";
        if (mkdir(KEEP_FOLDER, 0755) < 0 && errno != EEXIST)
            return hws_fail_errno(err, errno, "cannot make the folder " KEEP_FOLDER);
    }
    int r;
    for (unsigned tries = 0; (r = block_keep_open(path, &keep, err)) == -EAGAIN; tries++) {
        if (tries == KEEP_TRIES)
            break;
        nanosleep(&(struct timespec){.tv_nsec = KEEP_TRY_MS * 1000000}, NULL);
    }
    return r;
}

static int start(struct hws_error *err)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned wanted = processors < 1 ? 1 : (unsigned)MIN(processors, QUEUES_MAX);
    log_set_sink(log_to_runner, NULL);
    drivers_register();
    int r = open_keep(err);
    if (r < 0)
        return r;
    r = rt_create(NULL, &rt, err);
    if (r == 0)
        r = start_queue("hawser", &control, err);
    for (; r == 0 && queue_count < wanted; queue_count += r == 0) {
        char name[16];
        snprintf(name, sizeof(name), "hawser-io%u", queue_count);
        r = start_queue(name, &queue[queue_count], err);
    }
    if (r < 0)
        stop();
    return r;
}

void threads_stop(void)
{
    pthread_mutex_lock(&starting);
    if (rt)
        stop();
    pthread_mutex_unlock(&starting);
}

struct block_keep *threads_keep(void)
{
    return keep;
}

struct rt_queue *threads_next(void)
{
    return queue[queue_next++ % queue_count];
}

/* ---- calls ---- */

struct call {
    threads_fn *co_run;
    void *arg;
    struct hws_error *err;
    int result;
    sem_t done;
};

static void co_run_call(void *arg)
{
    struct call *call = arg;
    call->result = call->co_run(call->arg, call->err);
    sem_post(&call->done);
}

static int call_and_wait(threads_fn *co_run, void *arg, struct hws_error *err)
{
    pthread_mutex_lock(&starting);
    int r = rt ? 0 : start(err);
    pthread_mutex_unlock(&starting);
    if (r < 0)
        return r;
    struct call call = {.co_run = co_run, .arg = arg, .err = err};
    sem_init(&call.done, 0, 0);
    r = rt_spawn(control, co_run_call, &call);
    if (r < 0)
        r = hws_fail(err, -r, "out of memory");
    else
        while (sem_wait(&call.done)) /* EINTR */
            ;
    sem_destroy(&call.done);
    return r < 0 ? r : call.result;
}

int threads_call(threads_fn *co_run, void *arg, struct hws_error *err)
{
    /* The caller may be a thread that tcmu-runner cancels: not between taking and giving back. */
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    int r = call_and_wait(co_run, arg, err);
    pthread_setcancelstate(before, NULL);
    return r;
}
