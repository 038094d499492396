/*
 * qcow2 under several queue threads: many writers share clusters, nobody may see another's bytes,
 * and qemu-img finds nothing to complain about afterwards.
 *
 * The device is cut into cells; writer k owns the cells whose number is k modulo the writers, so
 * neighbouring cells of one cluster always belong to different writers. A cell is written, zeroed
 * or discarded as a whole and remembers what it must hold.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"
#include "base/random.h"
#include "rt/sync.h"
#include <sys/wait.h>

#define QUEUES     3u
#define WRITERS    24u
#define DISK_BYTES (48 * MiB)

struct job {
    const char *options;
    uint64_t cell_bytes;
    unsigned rounds;
    uint64_t cache_bytes;
    char folder[64], image[96];
    struct block_node *node;
    struct co_group group;
    uint64_t *cell; /* 0: zeroes, else the seed of the content */
};

struct writer {
    struct job *job;
    unsigned number;
    struct random random;
    void *buffer, *wanted;
};

static void content(uint64_t seed, void *buffer, uint64_t bytes)
{
    struct random r = random_seed(seed);
    if (seed)
        random_fill(&r, buffer, bytes);
    else
        memset(buffer, 0, bytes);
}

static void check_cell(struct writer *w, uint64_t cell)
{
    struct iovec iov;
    uint64_t bytes = w->job->cell_bytes;
    /* Both ways: without suspending, which takes no lock either, where that is possible. */
    if (cell % 2 || block_try_read(w->job->node, cell * bytes, w->buffer, bytes) < 0)
        assert_int_equal(
            co_block_read(w->job->node, cell * bytes, sgl_one(&iov, w->buffer, bytes), 0), 0);
    content(w->job->cell[cell], w->wanted, bytes);
    assert_memory_equal(w->buffer, w->wanted, bytes);
}

static void change_cell(struct writer *w, uint64_t cell)
{
    struct iovec iov;
    struct job *job = w->job;
    uint64_t bytes = job->cell_bytes, offset = cell * bytes, kind = random_below(&w->random, 10);
    if (kind < 6) {
        job->cell[cell] = random_u64(&w->random) | 1;
        content(job->cell[cell], w->buffer, bytes);
        assert_int_equal(co_block_write(job->node, offset, sgl_one(&iov, w->buffer, bytes), 0), 0);
    } else if (kind < 9) {
        job->cell[cell] = 0;
        unsigned flags = kind < 8 ? BLOCK_MAY_UNMAP : 0;
        assert_int_equal(co_block_write_zeroes(job->node, offset, bytes, flags), 0);
    } else if (bytes >= 2 * MiB || bytes % (128 * KiB) == 0) {
        job->cell[cell] = 0;
        assert_int_equal(co_block_discard(job->node, offset, bytes), 0);
    }
}

static void co_writer(void *arg)
{
    struct writer *w = arg;
    uint64_t mine = DISK_BYTES / w->job->cell_bytes / WRITERS;
    for (unsigned i = 0; i < w->job->rounds; i++) {
        /* Half of the time near each other, so that several writers meet in a cluster. */
        uint64_t pick = random_below(&w->random, i & 1 ? mine : MIN(mine, (uint64_t)8));
        uint64_t cell = pick * WRITERS + w->number;
        if (random_one_in(&w->random, 3))
            check_cell(w, cell);
        else
            change_cell(w, cell);
        if (random_one_in(&w->random, 40))
            assert_int_equal(co_block_flush(w->job->node), 0);
    }
    co_group_done(&w->job->group);
}

static void check_all(struct job *job)
{
    struct writer w = {
        .job = job, .buffer = malloc(job->cell_bytes), .wanted = malloc(job->cell_bytes)};
    for (uint64_t cell = 0; cell < DISK_BYTES / job->cell_bytes / WRITERS * WRITERS; cell++)
        check_cell(&w, cell);
    free(w.buffer);
    free(w.wanted);
}

static struct block_node *open_image(const struct job *job)
{
    char text[256];
    struct hws_error err = {0};
    struct block_node *node = NULL;
    struct block_policy policy = {.cache_bytes = job->cache_bytes};
    snprintf(text, sizeof(text),
             "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
             job->image);
    json_t *json = json_loads(text, 0, NULL);
    if (co_block_open(json, BLOCK_OPEN_WRITE, &policy, &node, &err) < 0)
        fail_msg("%s", err.text);
    json_decref(json);
    return node;
}

static void co_job(void *arg)
{
    struct job *job = arg;
    struct rt_queue *queue[QUEUES];
    struct writer writer[WRITERS];
    char text[512];
    struct hws_error err = {0};
    snprintf(text, sizeof(text),
             "{\"driver\":\"qcow2\",\"size\":%llu,%s\"file\":{\"driver\":\"file\","
             "\"filename\":\"%s\"}}",
             (unsigned long long)DISK_BYTES, job->options, job->image);
    json_t *json = json_loads(text, 0, NULL);
    if (co_block_create(json, true, NULL, &err) < 0)
        fail_msg("%s", err.text);
    json_decref(json);
    job->node = open_image(job);
    co_group_init(&job->group);
    co_group_add(&job->group, WRITERS);
    for (unsigned i = 0; i < QUEUES; i++)
        assert_int_equal(rt_queue_start(rt_current(), "writers", &queue[i], NULL), 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writer[i] = (struct writer){.job = job,
                                    .number = i,
                                    .random = random_seed(i + 1),
                                    .buffer = malloc(job->cell_bytes),
                                    .wanted = malloc(job->cell_bytes)};
        assert_int_equal(rt_spawn(queue[i % QUEUES], co_writer, &writer[i]), 0);
    }
    co_group_wait(&job->group);
    co_group_destroy(&job->group);
    for (unsigned i = 0; i < QUEUES; i++)
        co_queue_stop(queue[i]);
    check_all(job);
    assert_int_equal(co_block_close(job->node, NULL), 0);
    job->node = open_image(job);
    check_all(job);
    assert_int_equal(co_block_close(job->node, NULL), 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        free(writer[i].buffer);
        free(writer[i].wanted);
    }
}

static void run_job(const char *options, uint64_t cell_bytes, unsigned rounds, uint64_t cache_bytes)
{
    struct rt *rt;
    struct job job = {.options = options,
                      .cell_bytes = cell_bytes,
                      .rounds = rounds,
                      .cache_bytes = cache_bytes,
                      .folder = "/tmp/hawser-qcow2-XXXXXX"};
    char command[160];
    assert_non_null(mkdtemp(job.folder));
    snprintf(job.image, sizeof(job.image), "%s/disk.qcow2", job.folder);
    job.cell = calloc(DISK_BYTES / cell_bytes, sizeof(job.cell[0]));
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, co_job, &job), 0);
    rt_free(rt);
    free(job.cell);
    if (access("/usr/bin/qemu-img", X_OK) == 0) {
        snprintf(command, sizeof(command), "qemu-img check -q %s", job.image);
        assert_int_equal(system(command), 0);
    }
    unlink(job.image);
    rmdir(job.folder);
}

static void subclusters_are_shared_by_writers(void **state)
{
    run_job("", 4096, 300, 0);
}

static void sectors_of_plain_clusters_are_shared_by_writers(void **state)
{
    run_job("\"extended_l2\":false,", 1536, 300, 0);
}

static void tiny_clusters_grow_all_tables(void **state)
{
    run_job("\"cluster_size\":512,\"refcount_bits\":64,", 4096, 300, 256 * KiB);
}

static void whole_clusters_come_and_go(void **state)
{
    run_job("\"extended_l2\":true,", 128 * KiB, 150, 0);
}

static void a_small_cache_is_enough(void **state)
{
    run_job("\"cluster_size\":4096,", 4096, 400, 64 * KiB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subclusters_are_shared_by_writers),
        cmocka_unit_test(sectors_of_plain_clusters_are_shared_by_writers),
        cmocka_unit_test(tiny_clusters_grow_all_tables),
        cmocka_unit_test(whole_clusters_come_and_go),
        cmocka_unit_test(a_small_cache_is_enough),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
