/*
 * The control path of the file backend: image locks, creation, kinds of file, full disks, block
 * devices, copies inside the storage.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/file_test.h"
#include <sys/mount.h>
#include <sys/statfs.h>

/* A folder of our own on a real file system; each test names its files in it. */
static char folder[] = "/var/tmp/hawser-control-XXXXXX";

static char *path_of(const char *name, char buffer[256])
{
    snprintf(buffer, 256, "%s/%s", folder, name);
    return buffer;
}

static void run_sim(uint64_t fail_at, co_fn *fn, void *arg)
{
    struct sim_options options = {.seed = 5, .fail_at = fail_at};
    struct rt *rt;
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(rt_run(rt, fn, arg), 0);
    rt_free(rt);
}

static void assert_open_fails(const char *path, unsigned flags, int code, const char *words)
{
    struct hws_error err;
    int r;
    struct block_node *node = try_open(path, flags, NULL, "off", &err, &r);
    assert_null(node);
    if (r != -code || !strstr(err.text, words))
        print_message("got %d: %s\n", r, err.text);
    assert_int_equal(r, -code);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.text, words));
    assert_non_null(strstr(err.text, path));
}

/* ---- locks ---- */

static void hold_locks(void *arg)
{
    const char *path = arg;
    unsigned rights[] = {BLOCK_OPEN_WRITE, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE};
    must_create(path, 64 * KiB);

    for (unsigned i = 0; i < ARRAY_LEN(rights); i++) {
        struct block_node *writer = must_open(path, rights[i], "off");
        assert_open_fails(path, BLOCK_OPEN_WRITE, EAGAIN, "lets nobody else write");
        assert_open_fails(path, 0, EAGAIN, "for writing; stop it, or use --force-share");
        must_close(must_open(path, BLOCK_OPEN_NO_LOCK, "off"));
        must_close(writer);
    }
    struct block_node *reader = must_open(path, 0, "off"), *second = must_open(path, 0, "off");
    assert_open_fails(path, BLOCK_OPEN_WRITE, EAGAIN, "lets nobody else write");
    must_close(reader);
    assert_open_fails(path, BLOCK_OPEN_WRITE, EAGAIN, "lets nobody else write");
    must_close(second);
    must_close(must_open(path, BLOCK_OPEN_WRITE, "off"));
    assert_open_fails(path, BLOCK_OPEN_WRITE | BLOCK_OPEN_NO_LOCK, EINVAL, "--force-share");
    assert_int_equal(co_unlink(path, NULL), 0);
}

static void one_writer_or_many_readers(void **state)
{
    char path[256];
    run_real(RT_AUTO, hold_locks, path_of("locks", path));
    run_sim(0, hold_locks, (void *)"/d/locks");
}

static void change_rights(void *arg)
{
    const char *path = arg;
    struct hws_error err = {0};
    must_create(path, 64 * KiB);
    struct block_node *top = must_open(path, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, "off");
    int (*set_read_only)(struct block_node *, bool, struct hws_error *) =
        top->driver->co_set_read_only;

    assert_int_equal(set_read_only(top, true, &err), 0);
    struct block_node *reader = must_open(path, 0, "off");
    assert_int_equal(set_read_only(top, false, &err), -EAGAIN);
    /* Nothing has changed by the attempt. */
    must_close(must_open(path, 0, "off"));
    must_close(reader);
    assert_int_equal(set_read_only(top, false, &err), 0);
    assert_open_fails(path, 0, EAGAIN, "for writing");
    assert_int_equal(write_fill(top, 0, 1, 512, 0), 0);
    must_close(top);

    /* A file that was opened to read is opened again to write. */
    top = must_open(path, 0, "off");
    assert_int_equal(set_read_only(top, false, &err), 0);
    top->read_only = false;
    assert_open_fails(path, 0, EAGAIN, "for writing");
    assert_int_equal(write_fill(top, 0, 2, 512, 0), 0);
    assert_int_equal(set_read_only(top, true, &err), 0);
    must_close(must_open(path, 0, "off"));
    must_close(top);
    assert_int_equal(co_unlink(path, NULL), 0);
}

static void rights_change_while_open(void **state)
{
    char path[256];
    run_real(RT_AUTO, change_rights, path_of("rights", path));
    run_sim(0, change_rights, (void *)"/d/rights");
}

/* ---- creation ---- */

static void create_files(void *arg)
{
    char path[256], *bytes;
    struct hws_error err;
    struct iovec iov;
    path_of("made", path);
    must_create(path, 64 * KiB);
    struct block_node *node = must_open(path, BLOCK_OPEN_WRITE, "off");
    assert_int_equal(write_fill(node, 0, 7, 64 * KiB, 0), 0);

    assert_int_equal(create(path, 4096, "off", false, &err), -EEXIST);
    assert_non_null(strstr(err.text, "exists"));
    /* Not while somebody uses it, and nothing is lost by trying. */
    assert_int_equal(create(path, 4096, "off", true, &err), -EAGAIN);
    bytes = malloc(64 * KiB);
    assert_int_equal(co_block_read(node, 0, sgl_one(&iov, bytes, 64 * KiB), 0), 0);
    assert_true(bytes[0] == 7 && bytes[64 * KiB - 1] == 7);
    must_close(node);
    assert_int_equal(create(path, 4096, "off", true, &err), 0);
    node = must_open(path, 0, "off");
    assert_int_equal(block_size(node), 4096);
    assert_int_equal(co_block_read(node, 0, sgl_one(&iov, bytes, 4096), 0), 0);
    assert_true(buffer_is_zero(bytes, 4096));
    must_close(node);
    assert_int_equal(co_unlink(path, NULL), 0);
    free(bytes);
}

static void creation_is_exclusive_and_keeps_out_of_others_way(void **state)
{
    run_real(RT_AUTO, create_files, NULL);
}

static void preallocate(void *arg)
{
    static const char *const modes[] = {"off", "falloc", "full"};
    char path[256];
    struct hws_error err;
    struct stat st;
    path_of("preallocated", path);
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        assert_int_equal(create(path, 3 * MiB + 4096, modes[i], i > 0, &err), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 3 * MiB + 4096);
        if (i == 0)
            assert_int_equal(st.st_blocks, 0);
        else
            assert_true((uint64_t)st.st_blocks * 512 >= 3 * MiB + 4096);
    }
    assert_int_equal(co_unlink(path, NULL), 0);
}

static void preallocation_takes_the_blocks(void **state)
{
    run_real(RT_AUTO, preallocate, NULL);
}

static void create_or_leave_nothing(void *arg)
{
    int *ret = arg;
    struct hws_error err;
    struct rt_open how = {.flags = O_RDONLY};
    struct rt_file *file = NULL;
    *ret = create("/d/image", 3 * MiB, "full", false, &err);
    int r = co_open("/d/image", &how, &file, NULL);
    assert_true(*ret == 0 || r == -ENOENT);
    rt_file_close(file);
    assert_true(*ret == 0 || err.text[0] != '\0');
}

static void a_creation_that_fails_leaves_nothing(void **state)
{
    int result = -1;
    unsigned failures = 0;
    for (uint64_t fail_at = 1; result != 0; fail_at++) {
        run_sim(fail_at, create_or_leave_nothing, &result);
        failures += result != 0;
        assert_true(fail_at < 100);
    }
    assert_true(failures >= 4);
}

/* ---- faults ---- */

struct fault_run {
    uint64_t operations;
    bool all_well;
};

/* A little of everything, as far as it goes. */
static void live_through_faults(void *arg)
{
    struct fault_run *run = arg;
    struct hws_error err;
    struct block_extent extent;
    struct iovec iov;
    autofree uint8_t *bytes = malloc(64 * KiB);
    int r, failures = create("/d/image", 256 * KiB, "off", false, &err) < 0;
    struct block_node *node =
        try_open("/d/image", BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, NULL, "on", &err, &r);
    assert_true(node || err.text[0]);
    if (node) {
        failures += write_fill(node, 777, 5, 64 * KiB, 0) < 0;
        failures += co_block_write_zeroes(node, 4096, 8192, BLOCK_MAY_UNMAP) < 0;
        failures += co_block_write_zeroes(node, 16384, 8192, 0) < 0;
        failures += co_block_discard(node, 65536, 65536) < 0;
        failures += co_block_status(node, 0, 256 * KiB, &extent) < 0;
        failures += co_block_flush(node) < 0;
        failures += write_fill(node, 8192, 6, 512, BLOCK_FUA) < 0;
        failures += co_block_resize(node, 300 * KiB + 1, &err) < 0;
        failures += co_block_read(node, 1, sgl_one(&iov, bytes, 64 * KiB), 0) < 0;
        failures += node->driver->co_set_read_only(node, true, &err) < 0;
        failures += node->driver->co_set_read_only(node, false, &err) < 0;
        failures += co_block_close(node, &err) < 0;
    }
    /* Nobody's lock is left behind. */
    node = try_open("/d/image", BLOCK_OPEN_WRITE, NULL, "off", &err, &r);
    assert_int_not_equal(r, -EAGAIN);
    run->all_well = node && failures == 0;
    if (node && co_block_close(node, NULL) < 0)
        run->all_well = false;
    run->operations = sim_operations(rt_current());
}

static void any_operation_may_fail(void **state)
{
    struct fault_run run = {0};
    run_sim(0, live_through_faults, &run);
    assert_true(run.all_well && run.operations > 15);
    uint64_t operations = run.operations, told = 0;
    for (uint64_t fail_at = 1; fail_at <= operations; fail_at++) {
        run_sim(fail_at, live_through_faults, &run);
        told += !run.all_well;
    }
    /* All but what can be made good: a look-up of holes, a hint. */
    assert_true(told + 4 >= operations);
}

/* ---- kinds of file ---- */

static void open_oddities(void *arg)
{
    char path[256];
    struct hws_error err;
    assert_int_equal(mkfifo(path_of("fifo", path), 0600), 0);
    assert_open_fails(path, 0, EINVAL, "neither a regular file nor a block device");
    assert_int_equal(unlink(path), 0);
    assert_open_fails(folder, 0, EINVAL, "neither a regular file nor a block device");
    assert_open_fails("/dev/zero", 0, EINVAL, "neither a regular file nor a block device");
    assert_open_fails(path_of("absent", path), 0, ENOENT, "No such file");
    assert_open_fails(path_of("absent/below", path), 0, ENOENT, "No such file");
    assert_int_equal(create(path_of("absent/below", path), 1, "off", false, &err), -ENOENT);
    assert_int_equal(create("/dev/null", 1, "off", true, &err), -EINVAL);
    /* A dangling link is not followed to make a file somewhere else. */
    assert_int_equal(symlink("/nonexistent-hawser/x", path_of("link", path)), 0);
    assert_int_equal(create(path, 1, "off", false, &err), -EEXIST);
    assert_int_equal(unlink(path), 0);
}

static void what_is_no_file_is_refused_without_hanging(void **state)
{
    run_real(RT_URING, open_oddities, NULL);
    run_real(RT_THREADS, open_oddities, NULL);
}

/* ---- full disks ---- */

static void fill_disk(void *arg)
{
    char path[256];
    struct hws_error err;
    struct iovec iov;
    path_of("small/image", path);
    must_create(path, 8 * MiB);
    struct block_node *node = must_open(path, BLOCK_OPEN_WRITE, "off");
    int r = 0;
    uint64_t written = 0;
    for (; r == 0 && written < 8 * MiB; written += r == 0 ? 64 * KiB : 0)
        r = write_fill(node, written, (uint8_t)(1 + written / MiB), 64 * KiB, 0);
    assert_int_equal(r, -ENOSPC);
    assert_true(written >= 512 * KiB);
    /* What was written is there, and room given back is room again. */
    autofree uint8_t *bytes = malloc(64 * KiB);
    for (uint64_t at = 0; at < written; at += 64 * KiB) {
        assert_int_equal(co_block_read(node, at, sgl_one(&iov, bytes, 64 * KiB), 0), 0);
        assert_int_equal(bytes[0], 1 + at / MiB);
        assert_int_equal(bytes[64 * KiB - 1], 1 + at / MiB);
    }
    assert_int_equal(co_block_discard(node, 0, 128 * KiB), 0);
    assert_int_equal(write_fill(node, written, 1, 64 * KiB, 0), 0);
    assert_int_equal(co_block_flush(node), 0);
    must_close(node);
    assert_int_equal(create(path_of("small/other", path), 4 * MiB, "full", false, &err), -ENOSPC);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(create(path, 4 * MiB, "falloc", false, &err), -ENOSPC);
    assert_int_equal(access(path, F_OK), -1);
}

static void full_disks_lose_nothing(void **state)
{
    char path[256];
    path_of("small", path);
    assert_int_equal(mkdir(path, 0700), 0);
    if (mount("none", path, "tmpfs", 0, "size=2m")) {
        print_message("cannot mount a small tmpfs here: %s\n", strerror(errno));
        rmdir(path);
        skip();
    }
    run_real(RT_AUTO, fill_disk, NULL);
    assert_int_equal(umount(path), 0);
    assert_int_equal(rmdir(path), 0);
}

/* ---- block devices ---- */

static void use_device(void *arg)
{
    const char *device = arg;
    struct hws_error err;
    struct iovec iov;
    struct block_extent extent;
    autofree uint8_t *bytes = malloc(64 * KiB);
    static const char *const direct[] = {"off", "on"};

    for (unsigned i = 0; i < 2; i++) {
        struct block_node *node = must_open(device, BLOCK_OPEN_WRITE, direct[i]);
        assert_int_equal(block_size(node), 4 * MiB);
        assert_int_equal(write_fill(node, 1000, 5, 30000, BLOCK_FUA), 0);
        assert_int_equal(co_block_write_zeroes(node, 5001, 9000, BLOCK_MAY_UNMAP), 0);
        assert_int_equal(co_block_read(node, 0, sgl_one(&iov, bytes, 64 * KiB), 0), 0);
        for (unsigned at = 1000; at < 31000; at++)
            assert_int_equal(bytes[at], at >= 5001 && at < 14001 ? 0 : 5);
        assert_int_equal(co_block_discard(node, 0, 64 * KiB), 0);
        assert_int_equal(co_block_flush(node), 0);
        assert_int_equal(co_block_status(node, 0, 4 * MiB, &extent), 0);
        assert_int_equal(extent.length, 4 * MiB);
        assert_true(extent.flags & BLOCK_STATUS_DATA);
        assert_open_fails(device, BLOCK_OPEN_WRITE, EBUSY, "in use on this host");
        assert_open_fails(device, 0, EAGAIN, "for writing");
        must_close(node);
        node = must_open(device, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, direct[i]);
        assert_int_equal(co_block_resize(node, 8 * MiB, &err), -ENOSPC);
        assert_non_null(strstr(err.text, "grow it first"));
        must_close(node);
    }
    assert_int_equal(create(device, MiB, "off", false, &err), -EEXIST);
    assert_int_equal(create(device, MiB, "off", true, &err), 0);
    assert_int_equal(create(device, 5 * MiB, "off", true, &err), -ENOSPC);
    assert_int_equal(access(device, F_OK), 0);
}

/* Runs @command and reads its first word. */
static bool command_word(const char *command, char word[64])
{
    FILE *pipe = popen(command, "r");
    bool got = pipe && fscanf(pipe, "%63s", word) == 1;
    return pipe && pclose(pipe) == 0 && got;
}

static void block_devices_work_and_are_claimed(void **state)
{
    char command[600], device[64], path[256];
    snprintf(command, sizeof(command), "truncate -s 4M %s && losetup --show -f %s 2>/dev/null",
             path_of("disk", path), path_of("disk", path));
    if (!command_word(command, device)) {
        print_message("no loop device can be made here\n");
        unlink(path);
        skip();
    }
    run_real(RT_URING, use_device, device);
    run_real(RT_THREADS, use_device, device);
    snprintf(command, sizeof(command), "losetup -d %s", device);
    assert_int_equal(system(command), 0);
    assert_int_equal(unlink(path), 0);
}

/* ---- copies inside the storage ---- */

static void copy_files(void *arg)
{
    const char *prefix = arg;
    char from_path[256], to_path[256];
    struct iovec iov;
    uint64_t copied;
    autofree uint8_t *bytes = malloc(MiB);
    snprintf(from_path, sizeof(from_path), "%s/from", prefix);
    snprintf(to_path, sizeof(to_path), "%s/to", prefix);
    must_create(from_path, MiB);
    must_create(to_path, MiB);
    struct block_node *from = must_open(from_path, BLOCK_OPEN_WRITE, "off");
    struct block_node *to = must_open(to_path, BLOCK_OPEN_WRITE, "off");
    assert_int_equal(write_fill(from, 0, 3, 512 * KiB, 0), 0);

    int r = co_block_copy_range(from, 1000, to, 4096, 300000, &copied);
    if (r == 0) {
        assert_int_equal(copied, 300000);
        assert_int_equal(co_block_read(to, 0, sgl_one(&iov, bytes, MiB), 0), 0);
        for (unsigned at = 0; at < MiB; at++)
            assert_int_equal(bytes[at], at >= 4096 && at < 304096 ? 3 : 0);
        /* A hole has nothing to copy: what came before it is copied, the rest is the caller's. */
        assert_int_equal(co_block_copy_range(from, 500 * KiB, to, 0, 20 * KiB, &copied), -ENOTSUP);
        assert_int_equal(copied, 12 * KiB);
    } else {
        assert_int_equal(r, -ENOTSUP);
        assert_int_equal(copied, 0);
    }
    assert_int_equal(co_block_copy_range(from, 0, to, MiB - 1, 2, &copied), -EINVAL);
    assert_int_equal(co_block_copy_range(from, UINT64_MAX, to, 0, 2, &copied), -EINVAL);
    must_close(to);
    to = must_open(to_path, 0, "off");
    assert_int_equal(co_block_copy_range(from, 0, to, 0, 2, &copied), -EROFS);
    must_close(to);
    must_close(from);
    assert_int_equal(co_unlink(from_path, NULL), 0);
    assert_int_equal(co_unlink(to_path, NULL), 0);
}

static void files_are_copied_inside_the_storage(void **state)
{
    run_real(RT_URING, copy_files, folder);
    run_real(RT_THREADS, copy_files, folder);
    run_sim(0, copy_files, (void *)"/d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_writer_or_many_readers),
        cmocka_unit_test(rights_change_while_open),
        cmocka_unit_test(creation_is_exclusive_and_keeps_out_of_others_way),
        cmocka_unit_test(preallocation_takes_the_blocks),
        cmocka_unit_test(a_creation_that_fails_leaves_nothing),
        cmocka_unit_test(any_operation_may_fail),
        cmocka_unit_test(what_is_no_file_is_refused_without_hanging),
        cmocka_unit_test(full_disks_lose_nothing),
        cmocka_unit_test(block_devices_work_and_are_claimed),
        cmocka_unit_test(files_are_copied_inside_the_storage),
    };
    if (!mkdtemp(folder))
        return 1;
    block_drivers_register(test_drivers);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
