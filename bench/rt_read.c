/*
 * What the runtime adds to a read: 4 KiB from the page cache at depth 1 and 32, against pread(2) in
 * a loop on the same file in the same process, interleaved.
 *
 *   rt_read [FILE]     FILE at least 16 MiB; a temporary one by default
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt.h"
#include "rt/sync.h"
#include "base/random.h"
#include "bench/rounds.h"
#include <sys/resource.h>

#define FILE_BYTES (16 * MiB)
#define READS      60000
#define ROUNDS     5
#define BLOCK      4096

struct reader {
    struct rt_file *file;
    struct co_group *group;
    unsigned reads;
    uint64_t seed;
};

static void fail(const char *what, int result)
{
    fprintf(stderr, "rt_read: %s: %s\n", what, strerror(-result));
    exit(1);
}

static void co_reader(void *arg)
{
    struct reader *r = arg;
    struct random random = random_seed(r->seed);
    char block[BLOCK];
    struct iovec v;
    for (unsigned i = 0; i < r->reads; i++) {
        uint64_t at = random_below(&random, FILE_BYTES / BLOCK) * BLOCK;
        ssize_t got = co_pread(r->file, at, sgl_one(&v, block, BLOCK));
        if (got != BLOCK)
            fail("short read", (int)MIN(got, (ssize_t)0));
    }
    co_group_done(r->group);
}

static void print(const char *what, uint64_t wall_ns, uint64_t busy_ns, double calls)
{
    printf("%-12s %7.0f ns wall  %7.0f ns CPU  %5.2f system calls a read\n", what,
           (double)wall_ns / READS, (double)busy_ns / READS, calls);
}

static void co_depth(struct rt_file *file, unsigned depth, const char *what)
{
    struct co_group group;
    struct reader readers[64];
    co_group_init(&group);
    co_group_add(&group, depth);
    uint64_t wall = rt_now_ns(), busy = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t calls = rt_queue_counters(NULL).system_calls;
    for (unsigned i = 0; i < depth; i++) {
        readers[i] = (struct reader){file, &group, READS / depth, i};
        if (rt_spawn(NULL, co_reader, &readers[i]))
            fail("spawn", -ENOMEM);
    }
    co_group_wait(&group);
    print(what, rt_now_ns() - wall, cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - busy,
          (double)(rt_queue_counters(NULL).system_calls - calls) / READS);
    co_group_destroy(&group);
}

static void plain(struct rt_file *file)
{
    struct random random = random_seed(1);
    char block[BLOCK];
    uint64_t wall = rt_now_ns(), busy = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < READS; i++) {
        uint64_t at = random_below(&random, FILE_BYTES / BLOCK) * BLOCK;
        if (pread(rt_file_fd(file), block, BLOCK, (off_t)at) != BLOCK)
            fail("pread", -errno);
    }
    print("pread(2)", rt_now_ns() - wall, cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - busy, 1);
}

static void co_main(void *arg)
{
    struct rt_file *file;
    int result = rt_file_adopt(*(int *)arg, &file);
    if (result < 0)
        fail("adopt", result);
    printf("%s\n", rt_name(rt_current()));
    for (int i = 0; i < ROUNDS; i++) {
        plain(file);
        co_depth(file, 1, "depth 1");
        co_depth(file, 32, "depth 32");
    }
    rt_file_close(file);
}

int main(int argc, char **argv)
{
    char name[] = "/tmp/rt_read-XXXXXX";
    struct hws_error err = {0};
    struct rt *rt;
    int fd = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : mkstemp(name);
    if (fd < 0)
        fail("open", -errno);
    if (argc == 1) {
        unlink(name);
        if (posix_fallocate(fd, 0, FILE_BYTES))
            fail("fallocate", -ENOSPC);
    }
    int result = rt_create(NULL, &rt, &err);
    if (result < 0) {
        fprintf(stderr, "rt_read: %s\n", err.text);
        return 1;
    }
    result = rt_run(rt, co_main, &fd);
    if (result < 0)
        fail("run", result);
    rt_free(rt);
    return 0;
}
