/*
 * Unit tests of the simulator as a runtime: determinism, faults, crashes, alignment, locks, queues,
 * deadlocks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim.h"
#include "base/random.h"
#include "rt/sync.h"
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <cmocka.h>

#define RUNS 32

static struct rt *sim_with(struct sim_options options)
{
    struct rt *rt;
    assert_int_equal(sim_create(&options, &rt), 0);
    return rt;
}

static struct rt_file *file_open(const char *path, int flags)
{
    struct rt_open how = {.flags = flags, .mode = 0600};
    struct rt_file *file;
    assert_int_equal(co_open(path, &how, &file, NULL), 0);
    return file;
}

static int write_bytes(struct rt_file *file, uint64_t offset, const void *bytes, size_t length)
{
    struct iovec iov;
    return co_pwrite(file, offset, sgl_one(&iov, (void *)bytes, length), 0);
}

static ssize_t read_bytes(struct rt_file *file, uint64_t offset, void *bytes, size_t length)
{
    struct iovec iov;
    return co_pread(file, offset, sgl_one(&iov, bytes, length));
}

/* ---- a busy program ---- */

struct busy {
    struct rt_file *file;
    struct co_group group;
    struct co_mutex mutex;
    uint64_t sum;
    unsigned failures;
};

static void busy_worker(void *arg)
{
    struct busy *busy = arg;
    uint8_t bytes[3000];
    for (unsigned i = 0; i < 20; i++) {
        uint64_t place = rt_random_u64() % 60000;
        memset(bytes, (int)i, sizeof(bytes));
        busy->failures += write_bytes(busy->file, place, bytes, sizeof(bytes)) < 0;
        co_mutex_lock(&busy->mutex);
        busy->failures += read_bytes(busy->file, place / 2, bytes, 100) < 0;
        busy->sum = busy->sum * 31 + bytes[0] + rt_now_ns();
        co_mutex_unlock(&busy->mutex);
        if (i % 5 == 0)
            co_sleep_ns(5000);
        busy->failures += i % 7 == 0 && co_fdatasync(busy->file) < 0;
    }
    co_group_done(&busy->group);
}

static void busy_main(void *arg)
{
    struct busy *busy = arg;
    struct rt_queue *queue[3] = {NULL};
    busy->file = file_open("/busy", O_RDWR | O_CREAT);
    for (unsigned i = 1; i < 3; i++)
        assert_int_equal(rt_queue_start(rt_current(), "worker", &queue[i], NULL), 0);
    co_group_add(&busy->group, 9);
    for (unsigned i = 0; i < 9; i++)
        assert_int_equal(rt_spawn(queue[i % 3], busy_worker, busy), 0);
    co_group_wait(&busy->group);
    for (unsigned i = 1; i < 3; i++)
        co_queue_stop(queue[i]);
    rt_file_close(busy->file);
}

static struct busy busy_run(struct rt *rt)
{
    struct busy busy = {0};
    co_group_init(&busy.group);
    co_mutex_init(&busy.mutex);
    assert_int_equal(rt_run(rt, busy_main, &busy), 0);
    co_group_destroy(&busy.group);
    co_mutex_destroy(&busy.mutex);
    return busy;
}

static void equal_seeds_give_equal_runs(void **state)
{
    uint64_t digest[RUNS];
    for (unsigned seed = 0; seed < RUNS; seed++) {
        struct rt *one = sim_with((struct sim_options){.seed = seed});
        struct rt *two = sim_with((struct sim_options){.seed = seed});
        struct busy busy_one = busy_run(one), busy_two = busy_run(two);
        assert_true(sim_digest(one) == sim_digest(two) && busy_one.sum == busy_two.sum);
        assert_true(sim_operations(one) == sim_operations(two) && sim_operations(one) > 300);
        assert_int_equal(busy_one.failures, 0);
        digest[seed] = sim_digest(one);
        for (unsigned i = 0; i < seed; i++)
            assert_true(digest[i] != digest[seed]);
        rt_free(one);
        rt_free(two);
    }
}

static void one_planned_failure_fails_one_operation(void **state)
{
    for (unsigned k = 2; k < 300; k += 7) {
        struct rt *rt = sim_with((struct sim_options){.seed = k, .fail_at = k});
        assert_int_equal(busy_run(rt).failures, 1);
        rt_free(rt);
        rt = sim_with((struct sim_options){.seed = k, .fail_at = k, .fail_sticky = true});
        assert_in_range(busy_run(rt).failures, 2, 1000);
        rt_free(rt);
    }
}

static void after_a_crash_every_operation_fails_and_the_program_ends(void **state)
{
    for (unsigned k = 2; k < 300; k += 7) {
        struct rt *rt = sim_with((struct sim_options){.seed = k, .crash_at = k});
        assert_in_range(busy_run(rt).failures, 1, 1000);
        assert_true(sim_crashed(rt));
        rt_free(rt);
    }
}

/* ---- a log writer: right, and deliberately wrong ---- */

struct writer {
    bool flushes;    /* data are durable before the record that points to them is written */
    unsigned claims; /* records whose flush succeeded */
};

/* Writes data blocks, each followed by a count in block 0 that claims that they are there. */
static void writer_main(void *arg)
{
    struct writer *writer = arg;
    struct rt_open how = {.flags = O_RDWR | O_CREAT, .mode = 0600};
    struct rt_file *file;
    if (co_open("/log", &how, &file, NULL) < 0)
        return;
    uint8_t block[1024];
    for (unsigned i = 1; i <= 6; i++) {
        memset(block, (int)i, sizeof(block));
        int result = write_bytes(file, i * sizeof(block), block, sizeof(block));
        if (result == 0 && writer->flushes)
            result = co_fdatasync(file);
        memset(block, 0, sizeof(block));
        block[0] = (uint8_t)i;
        if (result == 0)
            result = write_bytes(file, 0, block, 512);
        if (result == 0)
            result = co_fdatasync(file);
        if (result < 0)
            break;
        writer->claims = i;
    }
    rt_file_close(file);
}

/** True when the record on the crashed disk claims only what is there, and all that was flushed. */
static bool log_is_sound(const struct rt *rt, unsigned claims)
{
    autofree uint8_t *bytes = NULL;
    size_t length;
    void *loaded;
    if (sim_file_load(rt, "/log", &loaded, &length) < 0)
        return claims == 0;
    bytes = loaded;
    unsigned recorded = length > 0 ? bytes[0] : 0;
    for (size_t i = 1; i <= recorded; i++) {
        for (size_t at = i * 1024; at < (i + 1) * 1024; at++) {
            if (at >= length || bytes[at] != i)
                return false;
        }
    }
    return recorded >= claims;
}

static unsigned unsound_crashes(bool flushes)
{
    unsigned unsound = 0;
    for (unsigned k = 1; k <= 26; k++) {
        struct rt *rt = sim_with((struct sim_options){.seed = k, .crash_at = k});
        struct writer writer = {.flushes = flushes};
        assert_int_equal(rt_run(rt, writer_main, &writer), 0);
        for (unsigned seed = 0; seed < 20; seed++) {
            struct rt *left;
            assert_int_equal(sim_after_crash(rt, &(struct sim_options){.seed = seed}, &left), 0);
            unsound += !log_is_sound(left, writer.claims);
            rt_free(left);
        }
        rt_free(rt);
    }
    return unsound;
}

static void crashes_find_a_missing_flush(void **state)
{
    assert_int_equal(unsound_crashes(true), 0);
    assert_in_range(unsound_crashes(false), 1, 1000);
}

/* ---- files ---- */

static void files_main(void *arg)
{
    struct rt_file *file = file_open("/d/f", O_RDWR | O_CREAT | O_EXCL);
    struct rt_file *other;
    struct hws_error err = {0};
    struct rt_open exclusive = {.flags = O_RDWR | O_CREAT | O_EXCL}, inside = {.beneath = "/e"};
    assert_int_equal(co_open("/d/f", &exclusive, &other, &err), -EEXIST);
    assert_non_null(strstr(err.text, "/d/f"));
    assert_int_equal(co_open("/e/../d/f", &inside, &other, &err), -EXDEV);
    assert_int_equal(write_bytes(file, 5 * GiB, "end", 3), 0);
    struct rt_stat stat;
    assert_int_equal(co_stat(file, &stat), 0);
    assert_true(stat.size_bytes == 5 * GiB + 3 && stat.allocated_bytes == 4096 && stat.is_regular);
    char text[8] = "";
    assert_int_equal(read_bytes(file, 5 * GiB, text, sizeof(text)), 3);
    assert_string_equal(text, "end");
    assert_true(co_seek(file, 0, SEEK_DATA) == (int64_t)(5 * GiB));
    int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    assert_int_equal(co_fallocate(file, punch, 0, 6 * GiB), 0);
    assert_int_equal(co_seek(file, 0, SEEK_DATA), -ENXIO);
    assert_int_equal(co_truncate(file, 100), 0);
    assert_int_equal(co_fallocate(file, FALLOC_FL_ZERO_RANGE, 50, 100), 0);
    assert_int_equal(co_stat(file, &stat), 0);
    assert_true(stat.size_bytes == 150);
    assert_int_equal(co_fallocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, 50), -EOPNOTSUPP);
    assert_int_equal(write_bytes(file, 0, "copied", 6), 0);
    other = file_open("/d/g", O_RDWR | O_CREAT);
    assert_int_equal(co_copy_range(file, 0, other, 10, 6), 6);
    assert_int_equal(read_bytes(other, 10, text, 6), 6);
    assert_memory_equal(text, "copied", 6);
    assert_null(rt_file_close(file));
    assert_int_equal(co_rename("/d/g", "/d/f", &err), 0);
    assert_int_equal(co_unlink("/d/g", &err), -ENOENT);
    file = file_open("/d/f", O_RDONLY);
    assert_int_equal(read_bytes(file, 10, text, 6), 6);
    assert_int_equal(write_bytes(file, 0, "x", 1), -EBADF);
    rt_file_close(file);
    rt_file_close(other);
    *(bool *)arg = true;
}

static void files_behave_as_the_kernels(void **state)
{
    for (unsigned seed = 0; seed < RUNS; seed++) {
        bool done = false;
        struct rt *rt = sim_with((struct sim_options){.seed = seed});
        assert_int_equal(rt_run(rt, files_main, &done), 0);
        assert_true(done);
        rt_free(rt);
    }
}

static void direct_main(void *arg)
{
    struct rt_file *file = file_open("/f", O_RDWR | O_CREAT | O_DIRECT);
    _Alignas(4096) static uint8_t bytes[8192];
    assert_int_equal(write_bytes(file, 4096, bytes, 4096), 0);
    assert_int_equal(write_bytes(file, 512, bytes, 4096), -EINVAL);
    assert_int_equal(write_bytes(file, 4096, bytes, 512), -EINVAL);
    assert_int_equal(write_bytes(file, 4096, bytes + 512, 4096), -EINVAL);
    assert_int_equal(read_bytes(file, 0, bytes + 1, 4096), -EINVAL);
    assert_int_equal(read_bytes(file, 0, bytes, 8192), 8192);
    rt_file_close(file);
}

static void direct_files_want_alignment(void **state)
{
    for (unsigned seed = 0; seed < RUNS; seed++) {
        struct rt *rt = sim_with((struct sim_options){.seed = seed, .offset_alignment = 4096});
        assert_int_equal(rt_run(rt, direct_main, NULL), 0);
        rt_free(rt);
    }
}

static void full_main(void *arg)
{
    struct rt_file *file = file_open("/f", O_RDWR | O_CREAT);
    static uint8_t bytes[4096];
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(write_bytes(file, i * 4096, bytes, 4096), i < 16 ? 0 : -ENOSPC);
    assert_int_equal(write_bytes(file, 4096, bytes, 4096), 0);
    int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    assert_int_equal(co_fallocate(file, punch, 0, 4096), 0);
    assert_int_equal(write_bytes(file, 1 * MiB, bytes, 4096), 0);
    rt_file_close(file);
}

static void full_disks_refuse_new_blocks_only(void **state)
{
    struct rt *rt = sim_with((struct sim_options){.disk_bytes = 65536});
    assert_int_equal(rt_run(rt, full_main, NULL), 0);
    rt_free(rt);
}

static void locks_main(void *arg)
{
    struct rt_file *a = file_open("/f", O_RDWR | O_CREAT), *b = file_open("/f", O_RDWR);
    assert_int_equal(rt_file_lock(a, 100, 10, RT_LOCK_SHARED), 0);
    assert_int_equal(rt_file_lock(b, 105, 1, RT_LOCK_SHARED), 0);
    assert_int_equal(rt_file_lock(b, 105, 1, RT_LOCK_EXCLUSIVE), -EAGAIN);
    assert_int_equal(rt_file_lock_test(b, 109, 1), -EAGAIN);
    assert_int_equal(rt_file_lock_test(b, 110, 1), 0);
    assert_int_equal(rt_file_lock_test(a, 100, 5), 0);
    assert_int_equal(rt_file_lock(a, 104, 3, RT_UNLOCK), 0);
    assert_int_equal(rt_file_lock(b, 105, 1, RT_LOCK_EXCLUSIVE), 0);
    assert_int_equal(rt_file_lock(b, 107, 1, RT_LOCK_EXCLUSIVE), -EAGAIN);
    rt_file_close(a);
    assert_int_equal(rt_file_lock(b, 0, 0, RT_LOCK_EXCLUSIVE), 0);
    rt_file_close(b);
}

static void locks_belong_to_open_files(void **state)
{
    struct rt *rt = sim_with((struct sim_options){.seed = 1});
    assert_int_equal(rt_run(rt, locks_main, NULL), 0);
    rt_free(rt);
}

/* ---- the scheduler ---- */

static void forgotten_main(void *arg)
{
    co_suspend();
}

static void deadlocks_are_reported_not_waited_for(void **state)
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipes[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        struct rt *rt;
        if (sim_create(&(struct sim_options){.seed = 1}, &rt) == 0)
            _exit(rt_run(rt, forgotten_main, NULL) != 0);
    }
    close(pipes[1]);
    char text[256] = "";
    assert_true(read(pipes[0], text, sizeof(text) - 1) > 0);
    close(pipes[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "deadlock"));
}

static void sleeper_main(void *arg)
{
    uint64_t start_ns = rt_now_ns();
    co_sleep_ns(3600 * 1000000000ull);
    *(uint64_t *)arg = rt_now_ns() - start_ns;
}

static void time_is_simulated(void **state)
{
    uint64_t slept_ns = 0;
    struct rt *rt = sim_with((struct sim_options){.seed = 1});
    assert_int_equal(rt_run(rt, sleeper_main, &slept_ns), 0);
    assert_in_range(slept_ns, 3600 * 1000000000ull, 3601 * 1000000000ull);
    rt_free(rt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_seeds_give_equal_runs),
        cmocka_unit_test(one_planned_failure_fails_one_operation),
        cmocka_unit_test(after_a_crash_every_operation_fails_and_the_program_ends),
        cmocka_unit_test(crashes_find_a_missing_flush),
        cmocka_unit_test(files_behave_as_the_kernels),
        cmocka_unit_test(direct_files_want_alignment),
        cmocka_unit_test(full_disks_refuse_new_blocks_only),
        cmocka_unit_test(locks_belong_to_open_files),
        cmocka_unit_test(deadlocks_are_reported_not_waited_for),
        cmocka_unit_test(time_is_simulated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
