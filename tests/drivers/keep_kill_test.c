/*
 * The keep with real processes: a child serves an image on the real runtime with several queue
 * threads, is killed with SIGKILL at any moment, and the next child opens image and keep.
 *
 * The device is cut into cells. A cell has one writer, who says in memory shared with the parent
 * which content he begins to write and which has been completed. After a kill each cell must hold
 * what was completed last, or, sector by sector, what had begun. At the end the image is closed,
 * the keep must be gone, and qemu-img must find leaks at most.
 *
 * This samples kills between any two instructions, which the simulator's sweep (tests/sim) cannot.
 * HAWSER_KEEP_ROUNDS: kills a shape.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"
#include "base/log.h"
#include "block/keep.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ROUNDS_DEFAULT 25u
#define QUEUES         2u
#define WRITERS        12u
#define CELLS          600u
#define CELL_MAX       (64 * KiB)
#define GROWTH_BYTES   (256 * KiB)
#define GROWTH_MAX     (8 * MiB)
#define SERVE_US_MAX   12000u
#define PATIENCE_NS    60000000000ull

struct cell {
    _Atomic uint64_t begun, done; /* seed of the content; 0: zeroes */
};

struct shared {
    _Atomic uint32_t serving, finish, recovered;
    _Atomic uint64_t size_begun, size_done, waited_ns_max;
    struct cell cell[CELLS];
};

struct shape {
    const char *name, *options;
    uint64_t cell_bytes, cache_bytes;
    enum block_cache cache;
};

struct job {
    const struct shape *shape;
    struct shared *shared;
    char image[96], keep[96];
    struct block_keep *kept;
    struct block_root *root;
    struct co_group group;
    uint64_t seed;
};

struct writer {
    struct job *job;
    unsigned number;
    struct random random;
    uint8_t *buffer;
};

/* In the child: cmocka's asserts would jump off the coroutine's stack. */
#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                                     \
        }                                                                                 \
    } while (0)

static void content(uint64_t seed, uint8_t *buffer, uint64_t bytes)
{
    struct random r = random_seed(seed);
    if (seed)
        random_fill(&r, buffer, bytes);
    else
        memset(buffer, 0, bytes);
}

/* ---- opening after a death ---- */

static int co_open_once(struct job *job, struct block_node **ret, struct hws_error *err)
{
    struct block_policy policy = {
        .cache = job->shape->cache, .cache_bytes = job->shape->cache_bytes, .keep = job->kept};
    json_t *d = json_pack("{ss s{ss ss}}", "driver", "qcow2", "file", "driver", "file", "filename",
                          job->image);
    int r = co_block_open(d, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, &policy, ret, err);
    json_decref(d);
    return r;
}

/* The locks of the dead are free once its requests have ended. */
static struct block_node *co_open_image(struct job *job)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    uint64_t start = rt_now_ns();
    int r;
    while ((r = block_keep_open(job->keep, &job->kept, &err)) == -EAGAIN &&
           rt_now_ns() - start < PATIENCE_NS)
        co_sleep_ns(1000000);
    if (r == 0) {
        job->shared->recovered += block_keep_pending(job->kept);
        while ((r = co_open_once(job, &node, &err)) == -EAGAIN && rt_now_ns() - start < PATIENCE_NS)
            co_sleep_ns(1000000);
    }
    if (r < 0)
        fprintf(stderr, "open: %s\n", err.text);
    CHECK(r == 0);
    job->shared->waited_ns_max = MAX(job->shared->waited_ns_max, rt_now_ns() - start);
    CHECK(!block_keep_pending(job->kept));
    return node;
}

/* ---- what must be there ---- */

static bool cell_holds(const uint8_t *got, const uint8_t *a, const uint8_t *b, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += 512)
        if (memcmp(got + at, a + at, 512) != 0 && memcmp(got + at, b + at, 512) != 0)
            return false;
    return true;
}

static void co_verify(struct job *job)
{
    uint64_t bytes = job->shape->cell_bytes, size = block_root_size(job->root);
    uint8_t *got = malloc(3 * bytes), *begun = got + bytes, *done = got + 2 * bytes;
    CHECK(size == job->shared->size_begun || size == job->shared->size_done);
    job->shared->size_begun = size;
    job->shared->size_done = size;
    for (unsigned i = 0; i < CELLS; i++) {
        struct cell *cell = &job->shared->cell[i];
        struct iovec iov;
        CHECK(co_root_read(job->root, i * bytes, sgl_one(&iov, got, bytes), 0) == 0);
        content(cell->begun, begun, bytes);
        content(cell->done, done, bytes);
        if (!cell_holds(got, begun, done, bytes)) {
            fprintf(stderr, "cell %u: neither content %llu nor, if it may be, %llu\n", i,
                    (unsigned long long)cell->done, (unsigned long long)cell->begun);
            _exit(1);
        }
        /* A mixture is made whole, so that it is one content again. */
        if (memcmp(got, done, bytes) != 0) {
            if (memcmp(got, begun, bytes) != 0)
                CHECK(co_root_write(job->root, i * bytes, sgl_one(&iov, begun, bytes), 0) == 0);
            cell->done = cell->begun;
        }
        cell->begun = cell->done;
    }
    free(got);
}

/* ---- serving ---- */

static void co_change(struct writer *w)
{
    struct job *job = w->job;
    uint64_t bytes = job->shape->cell_bytes;
    unsigned index = w->number + WRITERS * (unsigned)random_below(&w->random, CELLS / WRITERS);
    struct cell *cell = &job->shared->cell[index];
    bool zero = random_one_in(&w->random, 3);
    uint64_t seed = zero ? 0 : random_u64(&w->random) | 1;
    struct iovec iov;
    int r;
    content(seed, w->buffer, bytes);
    cell->begun = seed;
    if (zero)
        r = co_root_write_zeroes(job->root, index * bytes, bytes,
                                 random_one_in(&w->random, 2) ? BLOCK_MAY_UNMAP : 0);
    else
        r = co_root_write(job->root, index * bytes, sgl_one(&iov, w->buffer, bytes), 0);
    CHECK(r == 0);
    cell->done = seed;
}

static void co_writer(void *arg)
{
    struct writer *w = arg;
    while (!w->job->shared->finish) {
        co_change(w);
        if (random_one_in(&w->random, 40))
            CHECK(co_root_flush(w->job->root) == 0);
    }
    co_group_done(&w->job->group);
}

/* Grows the disk now and then, until it is to end. */
static void co_control(struct job *job)
{
    struct random random = random_seed(job->seed);
    while (!job->shared->finish) {
        struct hws_error err = {0};
        co_sleep_ns(1000000);
        uint64_t size = block_root_size(job->root) + GROWTH_BYTES;
        if (size > CELLS * job->shape->cell_bytes + GROWTH_MAX || !random_one_in(&random, 6))
            continue;
        job->shared->size_begun = size;
        CHECK(co_root_resize(job->root, size, &err) == 0);
        job->shared->size_done = size;
    }
}

static void co_serve(void *arg)
{
    struct job *job = arg;
    struct hws_error err = {0};
    struct block_root_options options = {.cache = job->shape->cache};
    struct rt_queue *queue[QUEUES];
    struct writer writer[WRITERS];
    struct block_node *node = co_open_image(job);
    job->root = block_root_new(node, &options);
    CHECK(job->root);
    co_block_close(node, NULL);
    co_verify(job);
    job->shared->serving = 1;
    co_group_init(&job->group);
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK(rt_queue_start(rt_current(), "writer", &queue[i], &err) == 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writer[i] = (struct writer){.job = job,
                                    .number = i,
                                    .random = random_seed(job->seed * WRITERS + i),
                                    .buffer = malloc(CELL_MAX)};
        co_group_add(&job->group, 1);
        CHECK(rt_spawn(queue[i % QUEUES], co_writer, &writer[i]) == 0);
    }
    co_control(job);
    co_group_wait(&job->group);
    for (unsigned i = 0; i < QUEUES; i++)
        co_queue_stop(queue[i]);
    CHECK(co_block_root_free(job->root, &err) == 0);
    job->kept = block_keep_close(job->kept);
    for (unsigned i = 0; i < WRITERS; i++)
        free(writer[i].buffer);
}

static void child(struct job *job)
{
    static const enum rt_kind kinds[] = {RT_URING, RT_THREADS};
    struct rt_options options = {.kind = kinds[job->seed % 2]};
    struct hws_error err = {0};
    struct rt *rt;
    if (rt_create(&options, &rt, &err) < 0) {
        options.kind = RT_THREADS; /* no io_uring here */
        CHECK(rt_create(&options, &rt, &err) == 0);
    }
    CHECK(rt_run(rt, co_serve, job) == 0);
    rt_free(rt);
    _exit(0);
}

/* ---- the parent ---- */

/* @return the child's wait status. */
static int live(struct job *job, struct random *random, bool to_the_end)
{
    job->seed = random_u64(random);
    job->shared->serving = 0;
    job->shared->finish = to_the_end;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(job);
    int status = 0;
    if (!to_the_end) {
        /* Mostly under load; sometimes while it opens, which is when it recovers. */
        bool early = random_one_in(random, 6);
        for (unsigned waited = 0; !early && !job->shared->serving && waited < 20000; waited++) {
            if (waitpid(pid, &status, WNOHANG) == pid)
                return status; /* it found something */
            usleep(1000);
        }
        usleep((useconds_t)random_below(random, SERVE_US_MAX));
        kill(pid, SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void expect_clean_image(const struct job *job)
{
    char command[256];
    if (system("command -v qemu-img >/dev/null") != 0)
        return;
    snprintf(command, sizeof(command), "qemu-img check -q -f qcow2 %s >/dev/null 2>&1", job->image);
    int status = system(command);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3); /* 3: leaks alone */
}

static void co_make_image(void *arg)
{
    const struct job *job = arg;
    char text[512];
    snprintf(text, sizeof(text),
             "{\"driver\":\"qcow2\",\"size\":%llu,%s,\"file\":{\"driver\":\"file\",\"filename\":"
             "\"%s\"}}",
             (unsigned long long)(CELLS * job->shape->cell_bytes), job->shape->options, job->image);
    must_create(text);
}

static const struct shape shapes[] = {
    {"64K clusters", "\"cluster_size\":65536", 16 * KiB, MiB, BLOCK_CACHE_WRITEBACK},
    {"4K clusters, a small cache", "\"cluster_size\":4096", 4 * KiB, 96 * KiB,
     BLOCK_CACHE_WRITEBACK},
    {"extended L2", "\"cluster_size\":65536,\"extended_l2\":\"on\"", 8 * KiB, MiB,
     BLOCK_CACHE_WRITEBACK},
    {"512-byte clusters, one bit counts", "\"cluster_size\":512,\"refcount_bits\":1", 2 * KiB,
     256 * KiB, BLOCK_CACHE_WRITEBACK},
    {"version 2, direct", "\"cluster_size\":16384,\"compat\":\"0.10\"", 16 * KiB, 256 * KiB,
     BLOCK_CACHE_NONE},
    {"direct, 64-bit counts", "\"cluster_size\":4096,\"refcount_bits\":64", 16 * KiB, 256 * KiB,
     BLOCK_CACHE_NONE},
};

static void run_shape(const struct shape *shape, unsigned rounds)
{
    struct random random = random_seed(0x6b65 + (uint64_t)(shape - shapes));
    struct job job = {.shape = shape};
    char folder[64] = "/tmp/hawser-keep-XXXXXX";
    const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    struct rt_options options = {.kind = RT_THREADS};
    struct rt *rt;
    assert_non_null(mkdtemp(folder));
    snprintf(job.image, sizeof(job.image), "%s/image", folder);
    snprintf(job.keep, sizeof(job.keep), "%s/%s", memory, folder + strlen("/tmp/"));
    job.shared =
        mmap(NULL, sizeof(*job.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(job.shared != MAP_FAILED);
    job.shared->size_begun = job.shared->size_done = CELLS * shape->cell_bytes;
    assert_int_equal(rt_create(&options, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, co_make_image, &job), 0);
    rt_free(rt);
    for (unsigned i = 0; i < rounds; i++) {
        int status = live(&job, &random, false);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail_msg("%s, round %u: the server found something wrong", shape->name, i);
    }
    assert_int_equal(live(&job, &random, true), 0);
    assert_true(access(job.keep, F_OK) != 0);
    expect_clean_image(&job);
    print_message("%s: %u kills, %u of them left changes in the keep; longest open %llu ms\n",
                  shape->name, rounds, job.shared->recovered,
                  (unsigned long long)(job.shared->waited_ns_max / 1000000));
    assert_true(rounds < 10 || job.shared->recovered > 0);
    unlink(job.image);
    rmdir(folder);
    munmap(job.shared, sizeof(*job.shared));
}

static void what_was_completed_survives_a_kill(void **state)
{
    const char *text = getenv("HAWSER_KEEP_ROUNDS");
    unsigned rounds = text && *text ? (unsigned)strtoul(text, NULL, 10) : ROUNDS_DEFAULT;
    for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
        run_shape(&shapes[i], rounds);
}

int main(void)
{
    drivers_register();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_completed_survives_a_kill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
