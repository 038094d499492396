/*
 * What qcow2 adds to a read whose clusters are allocated: the look-up alone, with the lock and
 * without, and 4 KiB random reads through qcow2 against the same reads through raw on the same
 * file, interleaved; then look-ups and reads on two queues at once, to those of one.
 *
 *   bench-qcow2-read [FOLDER]      default /dev/shm
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "drivers/drivers.h"
#include "format/qcow2/read.h"
#include "bench/rounds.h"
#include "rt/sync.h"

#define ROUNDS  11
#define LOOKUPS 200000
#define READS   20000
#define BYTES   (1 * GiB)

static const char *folder = "/dev/shm";

struct result {
    double round[ROUNDS];
};

static void print(const char *what, struct result *r)
{
    struct rounds all = rounds_of(r->round, ROUNDS);
    printf("%-36s %8.1f ns of CPU  (%.1f to %.1f)\n", what, all.median, all.least, all.most);
}

static void must(int result, const struct hws_error *err)
{
    if (result < 0) {
        fprintf(stderr, "%s\n", err ? err->text : strerror(-result));
        exit(1);
    }
}

static struct block_node *co_open_as(const char *driver, const char *path)
{
    struct hws_error err = {0};
    struct block_node *node;
    json_t *json = json_pack("{s:s,s:{s:s,s:s}}", "driver", driver, "file", "driver", "file",
                             "filename", path);
    must(co_block_open(json, 0, NULL, &node, &err), &err);
    json_decref(json);
    return node;
}

static double co_lookups(struct block_node *node)
{
    struct qcow2 *q = qcow2_of(node);
    struct random r = random_seed(1);
    uint64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID), sum = 0;
    for (unsigned i = 0; i < LOOKUPS; i++) {
        struct qcow2_extent e;
        if (qcow2_co_map_lock(q, random_below(&r, BYTES / 4096) * 4096, 4096, &e) < 0)
            exit(1);
        sum += e.host;
        rt_mutex_unlock(&q->lock);
    }
    return sum ? (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start) / LOOKUPS : 0;
}

static double unlocked_lookups(struct block_node *node)
{
    struct qcow2 *q = qcow2_of(node);
    struct random r = random_seed(1);
    uint64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned i = 0; i < LOOKUPS; i++) {
        uint64_t host, epoch;
        if (qcow2_map_unlocked(q, random_below(&r, BYTES / 4096) * 4096, 4096, &host, &epoch))
            qcow2_leave(q, epoch);
        else
            exit(1);
    }
    return (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start) / LOOKUPS;
}

/* ---- several queues ---- */

enum work { LOCKED, UNLOCKED, READS_WORK };

struct share {
    struct block_node *node;
    enum work work;
    struct co_group *group;
    double cpu_ns; /* an operation */
};

static double co_reads(struct block_node *node);

static void co_share(void *arg)
{
    struct share *s = arg;
    s->cpu_ns = s->work == LOCKED     ? co_lookups(s->node)
                : s->work == UNLOCKED ? unlocked_lookups(s->node)
                                      : co_reads(s->node);
    co_group_done(s->group);
}

/* CPU time an operation on each of @count queues that work at the same time. */
static double co_together(struct block_node *node, enum work work, unsigned count)
{
    struct rt_queue *queue[2];
    struct share share[2];
    struct co_group group;
    double sum = 0;
    co_group_init(&group);
    co_group_add(&group, count);
    for (unsigned i = 0; i < count; i++) {
        share[i] = (struct share){.node = node, .work = work, .group = &group};
        must(rt_queue_start(rt_current(), "share", &queue[i], NULL), NULL);
        must(rt_spawn(queue[i], co_share, &share[i]), NULL);
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < count; i++) {
        co_queue_stop(queue[i]);
        sum += share[i].cpu_ns;
    }
    co_group_destroy(&group);
    return sum / count;
}

static void co_compare(struct block_node *node)
{
    static const char *const names[] = {"look-up with the lock", "look-up without the lock",
                                        "4 KiB read"};
    for (enum work work = LOCKED; work <= READS_WORK; work++) {
        struct result one, two;
        char text[64];
        for (unsigned i = 0; i < ROUNDS; i++) {
            one.round[i] = co_together(node, work, 1);
            two.round[i] = co_together(node, work, 2);
        }
        snprintf(text, sizeof(text), "%s, one queue", names[work]);
        print(text, &one);
        snprintf(text, sizeof(text), "%s, two queues", names[work]);
        print(text, &two);
    }
}

static double co_reads(struct block_node *node)
{
    char buffer[4096] __attribute__((aligned(4096)));
    struct random r = random_seed(2);
    uint64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned i = 0; i < READS; i++) {
        struct iovec iov;
        if (co_block_read(node, random_below(&r, BYTES / 4096) * 4096,
                          sgl_one(&iov, buffer, sizeof(buffer)), 0) < 0)
            exit(1);
    }
    return (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start) / READS;
}

static void co_bench(void *arg)
{
    char path[256];
    struct hws_error err = {0};
    struct result lookup, qcow2, raw;
    snprintf(path, sizeof(path), "%s/hawser-bench-%d.qcow2", folder, (int)getpid());
    json_t *json =
        json_pack("{s:s,s:I,s:s,s:{s:s,s:s}}", "driver", "qcow2", "size", (json_int_t)BYTES,
                  "preallocation", "metadata", "file", "driver", "file", "filename", path);
    must(co_block_create(json, true, NULL, &err), &err);
    json_decref(json);
    struct block_node *as_qcow2 = co_open_as("qcow2", path), *as_raw = co_open_as("raw", path);
    for (unsigned i = 0; i < ROUNDS; i++) {
        lookup.round[i] = co_lookups(as_qcow2);
        qcow2.round[i] = co_reads(as_qcow2);
        raw.round[i] = co_reads(as_raw);
    }
    print("look-up", &lookup);
    print("4 KiB read through qcow2", &qcow2);
    print("4 KiB read through raw", &raw);
    co_compare(as_qcow2);
    co_block_close(as_qcow2, NULL);
    co_block_close(as_raw, NULL);
    unlink(path);
}

int main(int argc, char **argv)
{
    struct rt *rt;
    struct hws_error err = {0};
    if (argc > 1)
        folder = argv[1];
    drivers_register();
    must(rt_create(NULL, &rt, &err), &err);
    int r = rt_run(rt, co_bench, NULL);
    rt_free(rt);
    return r < 0;
}
