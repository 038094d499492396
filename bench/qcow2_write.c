/*
 * What a 4 KiB random write costs in CPU time, 32 at a time on one queue: the first touch of an
 * empty image, then the same offsets again, for subclusters and for plain clusters.
 *
 *   bench-qcow2-write [FOLDER]      default /dev/shm
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "block/block.h"
#include "drivers/drivers.h"
#include "rt/sync.h"
#include "bench/rounds.h"

#define ROUNDS  5
#define WRITERS 32
#define WRITES  (16384 / WRITERS)
#define BYTES   (4 * GiB)

static const char *folder = "/dev/shm";
static char buffer[4096] __attribute__((aligned(4096)));

struct result {
    double round[ROUNDS];
};

struct writer {
    struct block_node *node;
    struct co_group *group;
    uint64_t seed;
};

static void print(const char *image, const char *what, struct result *r)
{
    struct rounds all = rounds_of(r->round, ROUNDS);
    printf("%-22s %-14s %8.0f ns of CPU  (%.0f to %.0f)\n", image, what, all.median, all.least,
           all.most);
}

static void must(int result, const struct hws_error *err)
{
    if (result < 0) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

static void co_writer(void *arg)
{
    struct writer *w = arg;
    struct random r = random_seed(w->seed);
    for (unsigned i = 0; i < WRITES; i++) {
        struct iovec iov;
        if (co_block_write(w->node, random_below(&r, BYTES / 4096) * 4096,
                           sgl_one(&iov, buffer, sizeof(buffer)), 0) < 0)
            exit(1);
    }
    co_group_done(w->group);
}

static double co_writes(struct block_node *node)
{
    struct writer writer[WRITERS];
    struct co_group group;
    uint64_t start = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    co_group_init(&group);
    co_group_add(&group, WRITERS);
    for (unsigned i = 0; i < WRITERS; i++) {
        writer[i] = (struct writer){.node = node, .group = &group, .seed = i};
        if (rt_spawn(NULL, co_writer, &writer[i]) < 0)
            exit(1);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    return (double)(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - start) / (WRITERS * WRITES);
}

static void co_image(const char *name, const char *extended)
{
    char path[256];
    struct result first, again;
    snprintf(path, sizeof(path), "%s/hawser-bench-%d.qcow2", folder, (int)getpid());
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct hws_error err = {0};
        struct block_node *node;
        json_t *json =
            json_pack("{s:s,s:I,s:s,s:{s:s,s:s}}", "driver", "qcow2", "size", (json_int_t)BYTES,
                      "extended_l2", extended, "file", "driver", "file", "filename", path);
        must(co_block_create(json, true, NULL, &err), &err);
        json_object_del(json, "size");
        json_object_del(json, "extended_l2");
        must(co_block_open(json, BLOCK_OPEN_WRITE, NULL, &node, &err), &err);
        json_decref(json);
        first.round[i] = co_writes(node);
        again.round[i] = co_writes(node);
        must(co_block_close(node, &err), &err);
        unlink(path);
    }
    print(name, "first touch", &first);
    print(name, "again", &again);
}

static void co_bench(void *arg)
{
    co_image("128 KiB subclusters", "on");
    co_image("64 KiB clusters", "off");
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
