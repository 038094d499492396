/*
 * The data path of the file backend, on the simulator and on real file systems: seeded random
 * operations against a model, holes, and failed flushes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/file_test.h"

#define MODEL_BYTES (256 * KiB + 777) /* ends inside a block of any size */
#define OPERATIONS  600

struct model_run {
    char path[256];
    const char *direct;
    uint64_t seed;
    uint8_t *model;
    uint64_t size;
    uint8_t *scratch; /* room for one request, one more byte for odd addresses */
};

static struct sgl random_range(struct model_run *run, struct random *random, struct iovec *iov,
                               uint64_t *ret_offset)
{
    uint64_t longest = random_one_in(random, 4) ? run->size : 9000;
    *ret_offset = random_below(random, run->size);
    uint64_t length = 1 + random_below(random, MIN(longest, run->size - *ret_offset));
    if (random_one_in(random, 3)) { /* some are aligned */
        *ret_offset = align_down(*ret_offset, 4096);
        length = MIN(align_up(length, 4096), run->size - *ret_offset);
    }
    return sgl_one(iov, run->scratch + random_below(random, 2), length);
}

static void check_read(struct model_run *run, struct block_node *node, struct sgl range,
                       uint64_t offset)
{
    sgl_fill(range, 0xee);
    assert_int_equal(co_block_read(node, offset, range, 0), 0);
    assert_memory_equal(sgl_flat(range), run->model + offset, range.length);
}

/* After a discard each byte is what it was or zero, and stays so. */
static void check_discarded(struct model_run *run, struct block_node *node, struct sgl range,
                            uint64_t offset)
{
    const uint8_t *now = sgl_flat(range);
    assert_int_equal(co_block_read(node, offset, range, 0), 0);
    for (size_t i = 0; i < range.length; i++) {
        assert_true(now[i] == 0 || now[i] == run->model[offset + i]);
        run->model[offset + i] = now[i];
    }
}

static void check_status(struct model_run *run, struct block_node *node, uint64_t offset,
                         uint64_t length)
{
    struct block_extent extent;
    assert_int_equal(co_block_status(node, offset, length, &extent), 0);
    assert_in_range(extent.length, 1, length);
    if (extent.flags & BLOCK_STATUS_ZERO)
        assert_true(buffer_is_zero(run->model + offset, extent.length));
    else
        assert_true(extent.flags & BLOCK_STATUS_DATA);
}

static void resize(struct model_run *run, struct block_node *node, struct random *random)
{
    uint64_t size = MODEL_BYTES - 40000 + random_below(random, 40000);
    assert_int_equal(co_block_resize(node, size, NULL), 0);
    if (size > run->size)
        memset(run->model + run->size, 0, size - run->size);
    run->size = size;
}

static void one_operation(struct model_run *run, struct block_node *node, struct random *random)
{
    struct iovec iov;
    uint64_t offset;
    struct sgl range = random_range(run, random, &iov, &offset);
    unsigned fua = random_one_in(random, 8) ? BLOCK_FUA : 0;

    switch (random_below(random, 10)) {
    case 0 ... 3:
        random_fill(random, sgl_flat(range), range.length);
        memcpy(run->model + offset, sgl_flat(range), range.length);
        assert_int_equal(co_block_write(node, offset, range, fua), 0);
        break;
    case 4:
        memset(run->model + offset, 0, range.length);
        assert_int_equal(co_block_write_zeroes(node, offset, range.length, fua | BLOCK_MAY_UNMAP),
                         0);
        break;
    case 5:
        memset(run->model + offset, 0, range.length);
        assert_int_equal(co_block_write_zeroes(node, offset, range.length, fua), 0);
        break;
    case 6:
        assert_int_equal(co_block_discard(node, offset, range.length), 0);
        check_discarded(run, node, range, offset);
        break;
    case 7:
        check_status(run, node, offset, range.length);
        if (random_one_in(random, 20))
            resize(run, node, random);
        break;
    case 8:
        assert_int_equal(co_block_flush(node), 0);
        break;
    default:
        check_read(run, node, range, offset);
    }
}

static void random_operations(void *arg)
{
    struct model_run *run = arg;
    struct random random = random_seed(run->seed);
    struct iovec iov;

    run->model = calloc(1, MODEL_BYTES);
    run->scratch = malloc(MODEL_BYTES + 4096);
    run->size = MODEL_BYTES;
    must_create(run->path, MODEL_BYTES);
    struct block_node *node =
        must_open(run->path, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, run->direct);
    assert_int_equal(block_size(node), MODEL_BYTES);
    for (unsigned i = 0; i < OPERATIONS; i++)
        one_operation(run, node, &random);
    must_close(node);

    /* What was closed is there, with the size that it had. */
    node = must_open(run->path, 0, "off");
    assert_int_equal(block_size(node), run->size);
    check_read(run, node, sgl_one(&iov, run->scratch, run->size), 0);
    must_close(node);
    assert_int_equal(co_unlink(run->path, NULL), 0);
    free(run->model);
    free(run->scratch);
}

static void real_model(const char *folder, const char *direct)
{
    static const enum rt_kind kinds[] = {RT_URING, RT_THREADS};
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        struct model_run run = {.direct = direct, .seed = 7 + i};
        snprintf(run.path, sizeof(run.path), "%s/hawser-file-test-%d-%u", folder, (int)getpid(), i);
        run_real(kinds[i], random_operations, &run);
    }
}

static void files_on_disk_hold_what_was_written(void **state)
{
    real_model("/var/tmp", "off");
}

static void direct_files_take_any_alignment(void **state)
{
    real_model("/var/tmp", "on");
}

static void files_in_memory_hold_what_was_written(void **state)
{
    if (access("/dev/shm", W_OK))
        skip();
    real_model("/dev/shm", "off");
}

static void simulated_files_hold_what_was_written(void **state)
{
    for (uint64_t seed = 1; seed <= 24; seed++) {
        struct sim_options options = {
            .seed = seed,
            .no_direct_offload = seed % 3 == 0,
            .offset_alignment = seed % 2 ? 512 : 4096,
        };
        struct model_run run = {
            .path = "/d/image", .seed = seed, .direct = seed % 4 ? "on" : "off"};
        struct rt *rt;
        assert_int_equal(sim_create(&options, &rt), 0);
        assert_int_equal(rt_run(rt, random_operations, &run), 0);
        rt_free(rt);
    }
}

static void grow_by_writing(void *arg)
{
    struct model_run *run = arg;
    struct iovec iov;
    uint8_t bytes[20000];
    must_create(run->path, 1000);
    struct block_node *node =
        must_open(run->path, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, run->direct);
    struct block_extent extent;
    assert_int_equal(co_block_status(node, 0, 1000, &extent), 0);
    assert_int_equal(write_fill(node, 1000, 1, 3001, 0), 0);
    assert_int_equal(block_size(node), 4001);
    assert_int_equal(write_fill(node, 10000, 2, 77, 0), 0);
    assert_int_equal(block_size(node), 10077);
    assert_int_equal(write_fill(node, 10070, 3, 4096, BLOCK_FUA), 0);
    must_close(node);

    node = must_open(run->path, 0, "off");
    assert_int_equal(block_size(node), 14166);
    assert_int_equal(co_block_read(node, 0, sgl_one(&iov, bytes, 14166), 0), 0);
    for (unsigned at = 0; at < 14166; at++)
        assert_int_equal(bytes[at], at < 1000    ? 0
                                    : at < 4001  ? 1
                                    : at < 10000 ? 0
                                    : at < 10070 ? 2
                                                 : 3);
    assert_int_equal(co_block_read(node, 14166, sgl_one(&iov, bytes, 1), 0), -EINVAL);
    must_close(node);
    assert_int_equal(co_unlink(run->path, NULL), 0);
}

static void writes_past_the_end_grow_the_file_by_what_was_asked(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct model_run run = {.direct = i ? "on" : "off"};
        snprintf(run.path, sizeof(run.path), "/var/tmp/hawser-file-test-%d-grow", (int)getpid());
        run_real(RT_URING, grow_by_writing, &run);
        run_real(RT_THREADS, grow_by_writing, &run);
    }
}

/* ---- holes ---- */

static struct block_extent status_at(struct block_node *node, uint64_t offset)
{
    struct block_extent extent;
    assert_int_equal(co_block_status(node, offset, block_size(node) - offset, &extent), 0);
    return extent;
}

static void assert_extent(struct block_node *node, uint64_t offset, uint64_t length, unsigned flag)
{
    struct block_extent extent = status_at(node, offset);
    assert_int_equal(extent.length, length);
    assert_true(extent.flags & flag);
    assert_true(extent.flags & BLOCK_STATUS_ALLOCATED);
    assert_true(extent.flags & BLOCK_STATUS_MAPPED);
    assert_int_equal(extent.host_offset, offset);
    assert_ptr_equal(extent.file, node);
}

static void look_at_holes(void *arg)
{
    const char *path = arg;
    must_create(path, MiB);
    struct block_node *node = must_open(path, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, "off");

    assert_extent(node, 0, MiB, BLOCK_STATUS_ZERO);
    assert_extent(node, 4096, MiB - 4096, BLOCK_STATUS_ZERO);
    /* A write into a hole that was remembered. */
    assert_int_equal(write_fill(node, 256 * KiB, 1, 64 * KiB, 0), 0);
    assert_extent(node, 0, 256 * KiB, BLOCK_STATUS_ZERO);
    assert_extent(node, 256 * KiB, 64 * KiB, BLOCK_STATUS_DATA);
    assert_extent(node, 260 * KiB, 60 * KiB, BLOCK_STATUS_DATA);
    /* A hole in data that was remembered. */
    assert_int_equal(co_block_write_zeroes(node, 272 * KiB, 16 * KiB, BLOCK_MAY_UNMAP), 0);
    assert_extent(node, 272 * KiB, 16 * KiB, BLOCK_STATUS_ZERO);
    assert_int_equal(co_block_discard(node, 288 * KiB, 16 * KiB), 0);
    assert_extent(node, 288 * KiB, 16 * KiB, BLOCK_STATUS_ZERO);
    assert_extent(node, 320 * KiB, MiB - 320 * KiB, BLOCK_STATUS_ZERO);
    /* Growth shows as a hole. */
    assert_int_equal(co_block_resize(node, 2 * MiB, NULL), 0);
    assert_extent(node, 320 * KiB, 2 * MiB - 320 * KiB, BLOCK_STATUS_ZERO);
    must_close(node);
    assert_int_equal(co_unlink(path, NULL), 0);
}

static void holes_are_seen_as_they_come_and_go(void **state)
{
    char path[256];
    snprintf(path, sizeof(path), "/var/tmp/hawser-file-test-%d-holes", (int)getpid());
    run_real(RT_AUTO, look_at_holes, path);
}

static void write_without_holes(void *arg)
{
    must_create("/d/image", 64 * KiB);
    struct block_node *node = must_open("/d/image", BLOCK_OPEN_WRITE, "off");
    assert_int_equal(write_fill(node, 0, 9, 64 * KiB, 0), 0);
    assert_int_equal(co_block_write_zeroes(node, 4096, 8192, 0), 0);
    assert_int_equal(co_block_write_zeroes(node, 4096, 8192, BLOCK_NO_FALLBACK), -ENOTSUP);
    assert_int_equal(co_block_discard(node, 0, 4096), 0);
    struct file *f = node->state;
    assert_true(file_refused(f, FILE_NO_ZERO_RANGE) && file_refused(f, FILE_NO_PUNCH));
    uint64_t operations = sim_operations(rt_current());
    assert_int_equal(co_block_discard(node, 0, 4096), 0);
    assert_int_equal(sim_operations(rt_current()), operations);
    must_close(node);
}

static void what_a_file_system_refuses_is_asked_once(void **state)
{
    struct sim_options options = {.seed = 1, .no_direct_offload = true};
    struct rt *rt;
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(rt_run(rt, write_without_holes, NULL), 0);
    rt_free(rt);
}

/* ---- flushes ---- */

struct flush_run {
    uint64_t before; /* operations before the flush */
    bool fails;
    unsigned fua;
};

static void flush_twice(void *arg)
{
    struct flush_run *run = arg;
    int expected = run->fails ? -EIO : 0;
    must_create("/d/image", 64 * KiB);
    struct block_node *node = must_open("/d/image", BLOCK_OPEN_WRITE, "off");
    assert_int_equal(write_fill(node, 0, 1, 4096, 0), 0);
    run->before = sim_operations(rt_current());
    assert_int_equal(run->fua ? write_fill(node, 8192, 1, 4096, BLOCK_FUA) : co_block_flush(node),
                     expected);
    /* The disk works again, but what it lost is lost. */
    assert_int_equal(co_block_flush(node), expected);
    assert_int_equal(write_fill(node, 4096, 2, 4096, 0), 0);
    assert_int_equal(co_block_flush(node), expected);
    assert_int_equal(write_fill(node, 4096, 2, 4096, BLOCK_FUA), expected);
    assert_int_equal(co_block_close(node, NULL), expected);

    node = must_open("/d/image", BLOCK_OPEN_WRITE, "off");
    assert_int_equal(write_fill(node, 0, 1, 4096, 0), 0);
    assert_int_equal(co_block_flush(node), 0);
    must_close(node);
}

static void run_flush(struct flush_run *run, uint64_t fail_at)
{
    struct sim_options options = {.seed = 1, .fail_at = fail_at};
    struct rt *rt;
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(rt_run(rt, flush_twice, run), 0);
    rt_free(rt);
}

static void failed_flushes_stay_failed_until_the_file_is_opened_again(void **state)
{
    for (unsigned fua = 0; fua < 2; fua++) {
        struct flush_run run = {.fua = fua};
        run_flush(&run, 0);
        run.fails = true;
        run_flush(&run, run.before + 1);
    }
}

static void flush_unsafe(void *arg)
{
    struct block_policy policy = {.cache = BLOCK_CACHE_UNSAFE};
    struct hws_error err;
    int r;
    must_create("/d/image", 64 * KiB);
    struct block_node *node = try_open("/d/image", BLOCK_OPEN_WRITE, &policy, "auto", &err, &r);
    assert_non_null(node);
    assert_int_equal(write_fill(node, 0, 1, 4096, BLOCK_FUA), 0);
    uint64_t operations = sim_operations(rt_current());
    assert_int_equal(co_block_flush(node), 0);
    assert_int_equal(sim_operations(rt_current()), operations);
    must_close(node);
}

static void unsafe_mode_never_flushes(void **state)
{
    struct sim_options options = {.seed = 1};
    struct rt *rt;
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(rt_run(rt, flush_unsafe, NULL), 0);
    rt_free(rt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_on_disk_hold_what_was_written),
        cmocka_unit_test(direct_files_take_any_alignment),
        cmocka_unit_test(files_in_memory_hold_what_was_written),
        cmocka_unit_test(simulated_files_hold_what_was_written),
        cmocka_unit_test(writes_past_the_end_grow_the_file_by_what_was_asked),
        cmocka_unit_test(holes_are_seen_as_they_come_and_go),
        cmocka_unit_test(what_a_file_system_refuses_is_asked_once),
        cmocka_unit_test(failed_flushes_stay_failed_until_the_file_is_opened_again),
        cmocka_unit_test(unsafe_mode_never_flushes),
    };
    block_drivers_register(test_drivers);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
