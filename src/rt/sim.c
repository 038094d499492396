/*
 * The simulator's scheduler and its life; see sim.h. Operations are in sim_io.c, the disk in
 * sim_disk.c and sim_crash.c.
 *
 * One OS thread serves all queues. Each step runs one thing that is possible now, chosen by the
 * seed: a runnable coroutine of any queue, or an operation whose time has come. When nothing is,
 * the clock jumps to the next event. When there is none either, the program is deadlocked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_internal.h"

#define LATENCY_NS_DEFAULT 100000

/* A step takes some time, so that a coroutine which yields in a loop does see the clock move. */
#define STEP_NS_MAX 200

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(SIM_ASAN)
#define SIM_STACK_BYTES (256 * KiB) /* red zones make frames several times as large */
#else
#define SIM_STACK_BYTES 0
#endif

/* ---- the loop ---- */

static void deadlock(struct sim *sim)
{
    fprintf(stderr, "sim: deadlock at %llu ns: nothing is runnable and nothing will happen\n",
            (unsigned long long)sim->now_ns);
    for (size_t i = 0; i < sim->queue_count; i++) {
        const struct rt_queue *q = sim->queues[i];
        fprintf(stderr, "sim: queue '%s': %llu coroutines suspended%s%s\n", q->name,
                (unsigned long long)q->alive, q->stopping ? ", stopping" : "",
                q->stopper ? ", somebody waits for its end" : "");
    }
    sim_io_dump(sim);
    abort();
}

/** Delivers mail and timers everywhere and ends the queues that are done, but for @main. */
static unsigned settle_queues(struct sim *sim, const struct rt_queue *main)
{
    unsigned runnable = 0;
    for (size_t i = 0; i < sim->queue_count;) {
        struct rt_queue *q = sim->queues[i];
        struct rt_queue *before = queue_enter(q);
        queue_deliver(q);
        queue_fire_timers(q, sim->now_ns);
        bool finished = q != main && queue_finished(q);
        if (finished) {
            sim->queues[i] = sim->queues[--sim->queue_count];
            queue_end(q);
        } else {
            runnable += queue_runnable(q);
            i++;
        }
        queue_enter(before);
        if (finished) /* it sent mail, perhaps to a queue before it */
            i = 0, runnable = 0;
    }
    return runnable;
}

static void run_coroutine(struct sim *sim, unsigned index)
{
    for (size_t i = 0; i < sim->queue_count; i++) {
        unsigned here = queue_runnable(sim->queues[i]);
        if (index < here) {
            struct rt_queue *before = queue_enter(sim->queues[i]);
            queue_run(sim->queues[i], index);
            (void)queue_run_later(sim->queues[i]);
            queue_enter(before);
            return;
        }
        index -= here;
    }
    abort();
}

static unsigned flights_due(const struct sim *sim, uint64_t *ret_next_ns)
{
    unsigned due = 0;
    list_for_each (link, &sim->in_flight) {
        const struct sim_flight *flight = list_entry(link, struct sim_flight, link);
        due += flight->due_ns <= sim->now_ns;
        *ret_next_ns = MIN(*ret_next_ns, flight->due_ns);
    }
    return due;
}

static void land_flight(struct sim *sim, unsigned index)
{
    list_for_each (link, &sim->in_flight) {
        struct sim_flight *flight = list_entry(link, struct sim_flight, link);
        if (flight->due_ns > sim->now_ns || index-- > 0)
            continue;
        sim_io_land(sim, flight);
        return;
    }
    abort();
}

static void serve(struct rt_queue *main)
{
    struct sim *sim = sim_of(main->rt);
    assert(!sim->serving);
    sim->serving = true;
    for (;;) {
        unsigned runnable = settle_queues(sim, main);
        if (queue_finished(main))
            break;
        uint64_t next_ns = RT_FOREVER;
        unsigned due = flights_due(sim, &next_ns);
        if (runnable + due == 0) {
            for (size_t i = 0; i < sim->queue_count; i++)
                next_ns = MIN(next_ns, queue_next_timer_ns(sim->queues[i]));
            if (next_ns == RT_FOREVER)
                deadlock(sim);
            sim->now_ns = MAX(sim->now_ns, next_ns);
            continue;
        }
        unsigned choice = (unsigned)random_below(&sim->schedule, runnable + due);
        if (choice < runnable)
            run_coroutine(sim, choice);
        else
            land_flight(sim, choice - runnable);
        sim->now_ns += random_below(&sim->schedule, STEP_NS_MAX);
    }
    assert(list_empty(&sim->in_flight) && sim->queue_count == 1);
    sim->serving = false;
}

/* ---- the table ---- */

static int queue_init(struct rt_queue *q)
{
    struct sim *sim = sim_of(q->rt);
    sim->queues = sim_alloc(sim->queues, sim->queue_count + 1, sizeof(sim->queues[0]));
    sim->queues[sim->queue_count++] = q;
    return 0;
}

static void queue_fini(struct rt_queue *q)
{
    struct sim *sim = sim_of(q->rt);
    for (size_t i = 0; i < sim->queue_count; i++) {
        if (sim->queues[i] == q) {
            sim->queues[i] = sim->queues[--sim->queue_count];
            return;
        }
    }
}

static int queue_start(struct rt_queue *q)
{
    return sim_of(q->rt)->serving ? 0 : -EINVAL; /* only while rt_run() is going on */
}

static uint64_t now_ns(struct rt *rt)
{
    return sim_of(rt)->now_ns;
}

/* The simulated world begins in 2020. */
static uint64_t wall_ns(struct rt *rt)
{
    return 1577836800ull * 1000000000u + sim_of(rt)->now_ns;
}

static uint64_t identifier(struct rt *rt)
{
    return random_u64(&sim_of(rt)->identifiers);
}

static void file_close(struct rt_file *file)
{
    struct sim_file *f = sim_file_of(file);
    assert(f->in_flight == 0);
    sim_lock_drop_owner(&f->sim->locks, f);
    free(f);
}

static int file_lock(struct rt_file *file, uint64_t start, uint64_t length, enum rt_lock lock)
{
    struct sim_file *f = sim_file_of(file);
    return sim_lock_set(&f->sim->locks, f->inode, f, start, length, lock);
}

static int file_lock_test(struct rt_file *file, uint64_t start, uint64_t length)
{
    struct sim_file *f = sim_file_of(file);
    return sim_lock_test(&f->sim->locks, f->inode, f, start, length);
}

static void sim_free(struct rt *rt)
{
    struct sim *sim = sim_of(rt);
    sim_disk_free(sim->disk);
    free(sim->queues);
    free(sim);
}

static const struct rt_ops sim_ops = {
    .name = "sim",
    .free = sim_free,
    .queue_init = queue_init,
    .queue_fini = queue_fini,
    .submit = sim_io_submit,
    .serve = serve,
    .queue_start = queue_start,
    .now_ns = now_ns,
    .wall_ns = wall_ns,
    .random_u64 = identifier,
    .file_close = file_close,
    .file_lock = file_lock,
    .file_lock_test = file_lock_test,
};

/* ---- life ---- */

/** Takes over @disk. */
static struct rt *sim_new(const struct sim_options *options, struct sim_disk *disk)
{
    struct sim *sim = sim_alloc(NULL, 1, sizeof(*sim));
    *sim = (struct sim){
        .options = *options,
        .disk = disk,
        .schedule = random_seed(options->seed),
        .identifiers = random_seed(~options->seed),
        .now_ns = 1000000000,
    };
    if (sim->options.latency_max_ns == 0)
        sim->options.latency_max_ns = LATENCY_NS_DEFAULT;
    if (sim->options.fail_errno == 0)
        sim->options.fail_errno = EIO;
    if (sim->options.offset_alignment == 0)
        sim->options.offset_alignment = 1;
    sim_locks_init(&sim->locks);
    list_init(&sim->in_flight);
    struct rt_options rt_options = {.stack_bytes = SIM_STACK_BYTES};
    rt_init(&sim->rt, &sim_ops, &rt_options);
    return &sim->rt;
}

int sim_create(const struct sim_options *options, struct rt **ret)
{
    *ret = sim_new(options, sim_disk_new());
    return 0;
}

/* Draws of its own, so that neither the schedule nor the surviving subset depends on the other. */
static struct random crash_random(const struct sim_options *options)
{
    return random_seed(options->seed * 3 + 0x5eed);
}

int sim_after_crash(const struct rt *old, const struct sim_options *options, struct rt **ret)
{
    struct random random = crash_random(options);
    *ret = sim_new(options, sim_disk_crash(sim_of(old)->disk, &random));
    return 0;
}

int sim_after_kill(const struct rt *old, const struct sim_options *options, struct rt **ret)
{
    struct random random = crash_random(options);
    *ret = sim_new(options, sim_disk_kill(sim_of(old)->disk, &random));
    return 0;
}

uint64_t sim_operations(const struct rt *rt)
{
    return sim_of(rt)->operations;
}

uint64_t sim_disk_bytes_used(const struct rt *rt)
{
    return sim_disk_allocated(sim_of(rt)->disk);
}

uint64_t sim_digest(const struct rt *rt)
{
    return sim_of(rt)->digest;
}

bool sim_crashed(const struct rt *rt)
{
    return sim_of(rt)->crashed;
}

int sim_file_store(struct rt *rt, const char *path, const void *bytes, size_t length)
{
    struct sim *sim = sim_of(rt);
    struct sim_inode *inode;
    int result = sim_disk_open(sim->disk, path, O_CREAT | O_TRUNC, &inode);
    if (result < 0)
        return result;
    if (length > 0) {
        struct iovec iov;
        struct sgl data = sgl_one(&iov, (void *)bytes, length);
        struct sim_op *op = sim_op_begin(inode, SIM_OP_WRITE, 0, length, data);
        sim_op_complete(sim->disk, op, data, true, &sim->schedule);
    }
    sim_inode_sync(sim->disk, inode, sim_disk_sequence(sim->disk));
    return 0;
}

int sim_file_load(const struct rt *rt, const char *path, void **ret, size_t *ret_length)
{
    struct sim_inode *inode;
    int result = sim_disk_open(sim_of(rt)->disk, path, 0, &inode);
    if (result < 0)
        return result;
    size_t length = inode->volatile_image.size_bytes;
    void *bytes = malloc(MAX(length, (size_t)1));
    if (!bytes)
        return -ENOMEM;
    sim_image_read(&inode->volatile_image, 0, bytes, length);
    *ret = bytes;
    *ret_length = length;
    return 0;
}
