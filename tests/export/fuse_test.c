/*
 * The FUSE export and loop devices on it, as their users see them, over every transport that this
 * kernel has. Needs root, /dev/fuse and /dev/loop-control; skips with the reason elsewhere.
 *
 * Where io_uring is off for FUSE, the test switches it on for its own run and back off at the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/export/server.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#define SIZE         (64 * MiB)
#define URING_SWITCH "/sys/module/fuse/parameters/enable_uring"

static struct server_options options;
static struct server server;
static char folder[64], mount_path[96], target[96], image_path[96];

/* ---- scaffolding ---- */

static void make_file(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static int shell(const char *format, ...) HWS_PRINTF(1, 2);

static int shell(const char *format, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    return system(command);
}

/* A fresh image for each test, made by the reference tool. */
static void start(void)
{
    make_file(mount_path);
    if (options.image)
        assert_int_equal(shell("qemu-img create -q -f qcow2 %s 64M", image_path), 0);
    int r = server_start(&options, &server);
    if (r < 0)
        print_error("start: %s\n", server.text);
    assert_int_equal(r, 0);
}

static void command_ok(char command, uint64_t argument)
{
    int r = server_command(&server, command, argument);
    if (r < 0)
        print_error("command '%c': %s\n", command, server.text);
    assert_int_equal(r, 0);
}

static void stop(void)
{
    command_ok(SERVER_STOP, 0);
    assert_int_equal(server_wait(&server), 0);
    if (options.image)
        assert_int_equal(shell("qemu-img check -q -f qcow2 %s", image_path), 0);
}

static int open_mount(int flags)
{
    int fd = open(mount_path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void fill(uint8_t *buffer, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        buffer[i] = (uint8_t)(seed >> 56);
    }
}

static void write_at(int fd, const void *buffer, size_t length, off_t offset)
{
    assert_int_equal(pwrite(fd, buffer, length, offset), length);
}

static void expect_at(int fd, const uint8_t *want, size_t length, off_t offset)
{
    uint8_t *got = malloc(length);
    assert_non_null(got);
    assert_int_equal(pread(fd, got, length, offset), length);
    assert_memory_equal(got, want, length);
    free(got);
}

static void expect_zero(int fd, size_t length, off_t offset)
{
    uint8_t *zero = calloc(1, length);
    expect_at(fd, zero, length, offset);
    free(zero);
}

/* ---- the file ---- */

static void the_file_has_the_size_and_mode_of_the_export(void **state)
{
    struct stat st;
    start();
    assert_int_equal(stat(mount_path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, SIZE);
    assert_int_equal(st.st_blksize, 4096);
    assert_int_equal(chmod(mount_path, 0640), 0);
    assert_int_equal(stat(mount_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    stop();
    assert_int_equal(stat(mount_path, &st), 0);
    assert_int_equal(st.st_size, 0);
}

static void data_comes_back_at_any_alignment(void **state)
{
    static const struct {
        size_t offset, length;
    } cases[] = {{0, 1},          {1, 511},     {4095, 2}, {777, 70001}, {1 << 20, 3 << 20},
                 {5000001, 4097}, {SIZE - 3, 3}};
    static uint8_t data[3 << 20];
    start();
    int fd = open_mount(O_RDWR);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        fill(data, cases[i].length, i + 1);
        write_at(fd, data, cases[i].length, (off_t)cases[i].offset);
        expect_at(fd, data, cases[i].length, (off_t)cases[i].offset);
    }
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(fdatasync(fd), 0);
    close(fd);
    stop();
}

static void direct_io_and_mappings_see_the_same_bytes(void **state)
{
    uint8_t *data = aligned_alloc(4096, 65536);
    start();
    int direct = open_mount(O_RDWR | O_DIRECT), plain = open_mount(O_RDWR);
    fill(data, 65536, 7);
    write_at(direct, data, 65536, 8192);
    expect_at(plain, data, 65536, 8192);
    uint8_t *map = mmap(NULL, 65536, PROT_READ, MAP_PRIVATE, plain, 8192);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_memory_equal(map, data, 65536);
    munmap(map, 65536);
    /* Shared mappings of uncached files came with Linux 6.6. */
    map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, plain, 8192);
    if (map != MAP_FAILED) {
        assert_memory_equal(map, data, 65536);
        fill(map + 5000, 100, 9);
        fill(data + 5000, 100, 9);
        assert_int_equal(msync(map, 65536, MS_SYNC), 0);
        munmap(map, 65536);
        expect_at(plain, data, 65536, 8192);
    } else {
        assert_int_equal(errno, ENODEV);
    }
    close(direct);
    close(plain);
    free(data);
    stop();
}

static void the_size_is_fixed(void **state)
{
    uint8_t data[8192] = {1};
    struct stat st;
    start();
    int fd = open_mount(O_RDWR);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(ftruncate(fd, SIZE / 2), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, SIZE * 2), -1);
    assert_int_equal(pwrite(fd, data, sizeof(data), SIZE), -1);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(pwrite(fd, data, sizeof(data), SIZE - 4096), 4096);
    assert_int_equal(pread(fd, data, sizeof(data), SIZE - 4096), 4096);
    assert_int_equal(pread(fd, data, sizeof(data), SIZE), 0);
    assert_int_equal(fallocate(fd, 0, SIZE, 4096), -1);
    assert_int_equal(fallocate(fd, FALLOC_FL_ZERO_RANGE, SIZE - 4096, 8192), -1);
    assert_int_equal(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -1);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    close(fd);
    stop();
}

static void holes_read_as_zeroes_and_can_be_found(void **state)
{
    static uint8_t data[MiB];
    start();
    int fd = open_mount(O_RDWR);
    fill(data, sizeof(data), 3);
    for (off_t at = 0; at < 4 * (off_t)MiB; at += MiB)
        write_at(fd, data, sizeof(data), at);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MiB, MiB), 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_ZERO_RANGE, 2 * MiB + 100, 5000), 0);
    assert_int_equal(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE - 4096, 1 << 20), 0);
    expect_at(fd, data, MiB, 0);
    expect_zero(fd, MiB, MiB);
    expect_at(fd, data, 100, 2 * MiB);
    expect_zero(fd, 5000, 2 * MiB + 100);
    expect_at(fd, data + 5100, MiB - 5100, 2 * MiB + 5100);
    assert_int_equal(lseek(fd, 0, SEEK_HOLE), MiB);
    assert_int_equal(lseek(fd, MiB, SEEK_DATA), 2 * MiB);
    assert_int_equal(lseek(fd, 3 * MiB, SEEK_HOLE), 4 * MiB);
    assert_int_equal(lseek(fd, 8 * MiB, SEEK_DATA), -1);
    assert_int_equal(errno, ENXIO);
    assert_int_equal(lseek(fd, SIZE, SEEK_HOLE), -1);
    close(fd);
    stop();
}

static void a_read_only_export_cannot_be_written(void **state)
{
    struct stat st;
    options.read_only = true;
    start();
    assert_int_equal(open(mount_path, O_RDWR | O_CLOEXEC), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(stat(mount_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0400);
    int fd = open_mount(O_RDONLY);
    expect_zero(fd, 65536, 0);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    stop();
}

/* ---- many users ---- */

/* Writes and reads back its own interleaved 4 KiB blocks, each stamped with writer, place and
 * round. */
static int writer(unsigned id, unsigned writers, unsigned rounds)
{
    uint8_t *block = aligned_alloc(4096, 4096), *want = aligned_alloc(4096, 4096);
    int fd = open(mount_path, O_RDWR | O_DIRECT | O_CLOEXEC);
    uint64_t seed = id + 1;
    if (fd < 0 || !block || !want)
        return 1;
    for (unsigned n = 0; n < rounds; n++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        uint64_t index = (seed >> 33) % 1024 * writers + id;
        fill(want, 4096, index * 1000003 + n);
        if (pwrite(fd, want, 4096, (off_t)(index * 4096)) != 4096)
            return 2;
        if (n % 64 == 0 && fdatasync(fd) < 0)
            return 3;
        if (pread(fd, block, 4096, (off_t)(index * 4096)) != 4096)
            return 4;
        if (memcmp(block, want, 4096) != 0)
            return 5;
    }
    return 0;
}

static void fork_writers(pid_t *pids, unsigned writers, unsigned rounds)
{
    fflush(NULL);
    for (unsigned i = 0; i < writers; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(writer(i, writers, rounds));
    }
}

static void concurrent_writers_do_not_disturb_each_other(void **state)
{
    pid_t pids[8];
    start();
    fork_writers(pids, ARRAY_LEN(pids), 500);
    for (unsigned i = 0; i < ARRAY_LEN(pids); i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    stop();
}

/* ---- ends ---- */

static void a_stop_while_in_use_is_refused_and_harmless(void **state)
{
    uint8_t data[4096];
    start();
    int fd = open_mount(O_RDWR);
    assert_int_equal(server_command(&server, SERVER_STOP, 0), -EBUSY);
    assert_non_null(strstr(server.text, "in use"));
    fill(data, sizeof(data), 1);
    write_at(fd, data, sizeof(data), 0);
    expect_at(fd, data, sizeof(data), 0);
    close(fd);
    stop();
}

static void a_forced_stop_under_load_ends_cleanly(void **state)
{
    pid_t pids[4];
    start();
    fork_writers(pids, ARRAY_LEN(pids), 1000000);
    usleep(200000);
    command_ok(SERVER_STOP, 1);
    assert_int_equal(server_wait(&server), 0);
    for (unsigned i = 0; i < ARRAY_LEN(pids); i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 5);
    }
}

static void an_unmount_by_hand_ends_the_server(void **state)
{
    start();
    assert_int_equal(umount2(mount_path, 0), 0);
    assert_int_equal(server_wait(&server), 0);
}

static void a_lazy_unmount_does_not_end_open_files(void **state)
{
    uint8_t data[4096];
    start();
    int fd = open_mount(O_RDWR);
    fill(data, sizeof(data), 1);
    write_at(fd, data, sizeof(data), 0);
    assert_int_equal(umount2(mount_path, MNT_DETACH), 0);
    assert_int_equal(server_command(&server, SERVER_STOP, 0), -EBUSY);
    assert_non_null(strstr(server.text, "lazily"));
    expect_at(fd, data, sizeof(data), 0);
    close(fd);
    assert_int_equal(server_wait(&server), 0);
}

static void a_forced_stop_ends_a_lazily_unmounted_export(void **state)
{
    uint8_t data[4096];
    start();
    int fd = open_mount(O_RDWR);
    assert_int_equal(umount2(mount_path, MNT_DETACH), 0);
    command_ok(SERVER_STOP, 1);
    assert_int_equal(server_wait(&server), 0);
    assert_int_equal(pread(fd, data, sizeof(data), 0), -1);
    close(fd);
}

static void a_killed_server_leaves_a_place_that_can_be_used_again(void **state)
{
    pid_t pids[2];
    struct stat st;
    start();
    fork_writers(pids, ARRAY_LEN(pids), 1000000);
    usleep(100000);
    server_kill(&server);
    for (unsigned i = 0; i < ARRAY_LEN(pids); i++)
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
    assert_int_equal(stat(mount_path, &st), -1);
    assert_true(errno == ENOTCONN || errno == ECONNABORTED);
    /* The kernel takes a killed process's rings apart in its own time, and with them the locks on
     * the image. */
    int r = -EAGAIN;
    for (unsigned n = 0; n < 9000 && r == -EAGAIN; n++) {
        r = server_start(&options, &server);
        if (r == -EAGAIN)
            usleep(10000);
    }
    assert_int_equal(r, 0);
    assert_int_equal(stat(mount_path, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    command_ok(SERVER_STOP, 0);
    assert_int_equal(server_wait(&server), 0);
    if (!options.image)
        return;
    int status = WEXITSTATUS(shell("qemu-img check -q -f qcow2 %s", image_path));
    assert_true(status == 0 || status == 3); /* leaks are allowed after a kill, damage is not */
}

static void bad_mount_points_are_refused(void **state)
{
    struct server_options bad = options;
    struct server s;
    bad.path = folder;
    assert_int_equal(server_start(&bad, &s), -EINVAL);
    char path[128];
    snprintf(path, sizeof(path), "%s/missing", folder);
    bad.path = path;
    assert_int_equal(server_start(&bad, &s), -ENOENT);
    assert_non_null(strstr(s.text, "missing"));
    snprintf(path, sizeof(path), "%s/full", folder);
    assert_int_equal(shell("echo content > %s", path), 0);
    assert_int_equal(server_start(&bad, &s), -EEXIST);
    assert_non_null(strstr(s.text, "8 bytes"));
}

/* ---- block devices ---- */

static uint64_t device_size(const char *path)
{
    uint64_t size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, BLKGETSIZE64, &size), 0);
    close(fd);
    return size;
}

static void a_resize_reaches_file_and_loop_device(void **state)
{
    struct stat st;
    char device[32];
    start();
    assert_int_equal(stat(mount_path, &st), 0);
    command_ok(SERVER_LOOP, 512);
    snprintf(device, sizeof(device), "%.31s", server.text);
    assert_int_equal(device_size(device), SIZE);
    command_ok(SERVER_RESIZE, 2 * SIZE);
    assert_int_equal(stat(mount_path, &st), 0);
    assert_int_equal(st.st_size, 2 * SIZE);
    command_ok(SERVER_LOOP_RESIZE, 0);
    assert_int_equal(device_size(device), 2 * SIZE);
    command_ok(SERVER_LOOP_DETACH, 0);
    stop();
}

static void loop_with_ext4(uint32_t block_bytes)
{
    char device[32];
    start();
    command_ok(SERVER_LOOP, block_bytes);
    snprintf(device, sizeof(device), "%.31s", server.text);
    assert_int_equal(shell("mkfs.ext4 -q -F %s 2>&1", device), 0);
    assert_int_equal(mount(device, target, "ext4", MS_NODEV, NULL), 0);
    assert_int_equal(shell("head -c 20000000 /dev/urandom > %s/data && cp %s/data %s/file && sync",
                           folder, folder, target),
                     0);
    assert_int_equal(server_command(&server, SERVER_LOOP_DETACH, 0), -EBUSY);
    assert_non_null(strstr(server.text, target));
    assert_int_equal(umount2(target, 0), 0);
    assert_int_equal(shell("e2fsck -fn %s > /dev/null 2>&1", device), 0);
    assert_int_equal(mount(device, target, "ext4", MS_NODEV | MS_RDONLY, NULL), 0);
    assert_int_equal(shell("cmp %s/data %s/file", folder, target), 0);
    assert_int_equal(umount2(target, 0), 0);
    command_ok(SERVER_LOOP_DETACH, 0);
    stop();
}

static void ext4_on_a_loop_device_keeps_its_files(void **state)
{
    loop_with_ext4(512);
    loop_with_ext4(4096);
}

/* ---- the runs
 * ------------------------------------------------------------------------------------------------
 */

/* A failed test leaves its server: take it and its mount away before the next. */
static int teardown(void **state)
{
    (void)umount2(target, MNT_DETACH);
    if (server.pid > 0 && kill(server.pid, 0) == 0 && waitpid(server.pid, NULL, WNOHANG) == 0)
        server_kill(&server);
    server.pid = 0;
    (void)umount2(mount_path, MNT_DETACH);
    options.read_only = false;
    return 0;
}

#define RUN(test) cmocka_unit_test_teardown(test, teardown)

static int run_all(const char *name)
{
    const struct CMUnitTest tests[] = {
        RUN(the_file_has_the_size_and_mode_of_the_export),
        RUN(data_comes_back_at_any_alignment),
        RUN(direct_io_and_mappings_see_the_same_bytes),
        RUN(the_size_is_fixed),
        RUN(holes_read_as_zeroes_and_can_be_found),
        RUN(a_read_only_export_cannot_be_written),
        RUN(concurrent_writers_do_not_disturb_each_other),
        RUN(a_stop_while_in_use_is_refused_and_harmless),
        RUN(a_forced_stop_under_load_ends_cleanly),
        RUN(an_unmount_by_hand_ends_the_server),
        RUN(a_lazy_unmount_does_not_end_open_files),
        RUN(a_forced_stop_ends_a_lazily_unmounted_export),
        RUN(a_killed_server_leaves_a_place_that_can_be_used_again),
        RUN(bad_mount_points_are_refused),
        RUN(a_resize_reaches_file_and_loop_device),
        RUN(ext4_on_a_loop_device_keeps_its_files),
    };
    print_message("---- %s ----\n", name);
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

static int set_uring(char value)
{
    int fd = open(URING_SWITCH, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, &value, 1);
    if (fd >= 0)
        close(fd);
    return n == 1 ? 0 : -1;
}

static char get_uring(void)
{
    char value = 0;
    int fd = open(URING_SWITCH, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &value, 1) != 1)
        value = 0;
    if (fd >= 0)
        close(fd);
    return value;
}

static void the_transport_is_the_best_that_works(void **state)
{
    options.transport = FUSE_TRANSPORT_AUTO;
    start();
    assert_string_equal(server.text, "io_uring");
    stop();
    options.runtime = RT_THREADS;
    start();
    assert_string_equal(server.text, "device");
    stop();
    options.transport = FUSE_TRANSPORT_URING;
    assert_int_equal(server_start(&options, &server), -EOPNOTSUPP);
    assert_non_null(strstr(server.text, "enable_uring"));
    options.runtime = RT_AUTO;
    start(); /* the refused one left nothing behind */
    stop();
}

/* The switch is the whole host's: runs of this test take turns. */
static int run_over_uring(void)
{
    autofd int lock = open(URING_SWITCH, O_RDONLY | O_CLOEXEC);
    if (lock >= 0)
        (void)flock(lock, LOCK_EX);
    char before = get_uring();
    if (before == 0 || (before == 'N' && set_uring('Y') < 0)) {
        printf("this kernel has no FUSE over io_uring: that transport is not tested\n");
        return 0;
    }
    options.transport = FUSE_TRANSPORT_URING;
    options.threads = 1;
    int failed = run_all("io_uring, one thread");
    const struct CMUnitTest choice[] = {RUN(the_transport_is_the_best_that_works)};
    failed += cmocka_run_group_tests_name("choice", choice, NULL, NULL);
    options.transport = FUSE_TRANSPORT_URING;
    options.runtime = RT_AUTO;
    options.threads = 2;
    failed += run_all("io_uring, two threads");
    if (before == 'N')
        (void)set_uring('N');
    return failed;
}

static int missing(const char *what)
{
    printf("SKIP: %s\n", what);
    return 77;
}

static int run_qcow2(void)
{
    char image[128];
    if (shell("command -v qemu-img > /dev/null") != 0) {
        printf("qemu-img is missing: qcow2 images are not tested here\n");
        return 0;
    }
    snprintf(image_path, sizeof(image_path), "%s/image.qcow2", folder);
    snprintf(image, sizeof(image), "qcow2:file:%s", image_path);
    options.image = image;
    int failed = run_all("device, a qcow2 image");
    options.image = NULL;
    return failed;
}

int main(void)
{
    if (geteuid() != 0)
        return missing("root is needed to mount");
    if (access("/dev/fuse", R_OK | W_OK) < 0)
        return missing("/dev/fuse is missing");
    if (access("/dev/loop-control", R_OK | W_OK) < 0)
        return missing("/dev/loop-control is missing");
    /* Mounts of our own: whatever happens to a test, the host keeps none of them. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return missing("a mount name space of its own is refused");
    snprintf(folder, sizeof(folder), "/tmp/hawser-fuse.XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(mount_path, sizeof(mount_path), "%s/file", folder);
    snprintf(target, sizeof(target), "%s/mnt", folder);
    if (mkdir(target, 0700) < 0)
        return 1;
    options = (struct server_options){
        .path = mount_path, .transport = FUSE_TRANSPORT_DEVICE, .threads = 1};
    int failed = run_all("device, one thread");
    failed += run_qcow2();
    options.threads = 2;
    failed += run_all("device, two threads");
    options.runtime = RT_THREADS;
    failed += run_all("device, runtime without io_uring");
    options.runtime = RT_AUTO;
    failed += run_over_uring();
    if (shell("rm -rf --one-file-system %s", folder) != 0)
        failed++;
    return failed ? 1 : 0;
}
