/*
 * Tests of disks: what blocking calls do, from one thread and from several, and what they refuse.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "library_test.h"
#include <sys/wait.h>

static const char *const formats[] = {"qcow2", "raw"};

static void data_written_is_read(void **state)
{
    struct hws_error err = {0};
    static uint8_t out[300 * 1024], in[300 * 1024];
    for (unsigned f = 0; f < 2; f++) {
        make_image("rw", formats[f], 8 * MiB);
        struct hws_disk *disk = open_disk(test_path, formats[f]);
        CHECK(hws_disk_size(disk) == 8 * MiB && !hws_disk_read_only(disk));
        fill(out, sizeof(out), f + 1);
        OK(hws_disk_write(disk, 12345, sizeof(out), out, 0, &err));
        OK(hws_disk_read(disk, 12345, sizeof(in), in, 0, &err));
        CHECK(memcmp(in, out, sizeof(in)) == 0);
        struct iovec iov[3] = {{in, 1000}, {in + 5000, 0}, {in + 1000, 2000}};
        memset(in, 0, sizeof(in));
        OK(hws_disk_readv(disk, 12345, iov, 3, 0, &err));
        CHECK(memcmp(in, out, 3000) == 0);
        OK(hws_disk_writev(disk, 4 * MiB, iov, 3, HWS_FUA, &err));
        size_t same;
        OK(hws_disk_compare(disk, 4 * MiB, 3000, out, &same, &err));
        CHECK(same == 3000);
        out[2999] ^= 1;
        OK(hws_disk_compare(disk, 4 * MiB, 3000, out, &same, &err));
        CHECK(same == 2999);
        OK(hws_disk_zero(disk, 4 * MiB, MiB, HWS_UNMAP, &err));
        OK(hws_disk_read(disk, 4 * MiB, 3000, in, 0, &err));
        for (unsigned i = 0; i < 3000; i++)
            CHECK(in[i] == 0);
        OK(hws_disk_discard(disk, 6 * MiB, MiB, &err));
        OK(hws_disk_flush(disk, &err));
        OK(hws_disk_read(disk, 8 * MiB, 0, NULL, 0, &err));
        OK(hws_disk_close(disk, &err));
        out[2999] ^= 1;
        disk = open_disk(test_path, formats[f]);
        OK(hws_disk_compare(disk, 12345, sizeof(out), out, &same, &err));
        CHECK(same == sizeof(out));
        OK(hws_disk_close(disk, &err));
    }
}

static void what_it_is_can_be_asked(void **state)
{
    struct hws_error err = {0};
    make_image("ask", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    struct hws_disk_limits limits = {.struct_bytes = sizeof(limits)};
    OK(hws_disk_limits(disk, &limits, &err));
    CHECK(limits.struct_bytes == sizeof(limits) && limits.request_alignment >= 1 &&
          limits.optimal_bytes >= 4096 && limits.iov_max == HWS_IOV_MAX &&
          limits.transfer_max >= MiB);
    /* An older program knows less. */
    struct hws_disk_limits older = {.struct_bytes = 16};
    memset((char *)&older + 16, 0x55, sizeof(older) - 16);
    OK(hws_disk_limits(disk, &older, &err));
    CHECK(older.struct_bytes == 16 && older.request_alignment == limits.request_alignment &&
          older.optimal_bytes == 0x55555555);
    char *text;
    OK(hws_disk_info(disk, true, &text, &err));
    CHECK(text[0] == '[' && strstr(text, "\"qcow2\""));
    free(text);
    uint8_t byte = 7;
    OK(hws_disk_write(disk, 0, 1, &byte, 0, &err));
    OK(hws_disk_stats(disk, &text, &err));
    CHECK(strstr(text, "\"write\":{\"operations\":1,\"bytes\":1,"));
    free(text);
    CHECK(strcmp(hws_version(), "0.1.0") == 0);
    OK(hws_disk_close(disk, &err));
    OK(hws_disk_close(NULL, &err));
}

struct walk {
    struct hws_disk *disk;
    unsigned data, holes;
    int stop;
};

static int see_extent(void *arg, const struct hws_extent *extent)
{
    struct walk *walk = arg;
    struct hws_error err = {0};
    uint8_t byte;
    walk->data += extent->data;
    walk->holes += extent->zero;
    OK(hws_disk_read(walk->disk, extent->start, 1, &byte, 0, &err)); /* allowed here */
    CHECK((byte == 9) == extent->data);
    return walk->stop;
}

static void the_map_tells_what_lies_where(void **state)
{
    struct hws_error err = {0};
    static uint8_t data[65536];
    make_image("map", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    memset(data, 9, sizeof(data));
    OK(hws_disk_write(disk, 0, sizeof(data), data, 0, &err));
    OK(hws_disk_write(disk, 2 * MiB, sizeof(data), data, 0, &err));
    struct walk walk = {.disk = disk};
    OK(hws_disk_map(disk, 0, UINT64_MAX, see_extent, &walk, &err));
    CHECK(walk.data == 2 && walk.holes == 2);
    walk.stop = 42;
    CHECK(hws_disk_map(disk, 0, UINT64_MAX, see_extent, &walk, &err) == 42);
    struct hws_extent extent;
    OK(hws_disk_status(disk, 2 * MiB + 100, 1000, &extent, &err));
    CHECK(extent.data && extent.mapped && extent.length == 1000 && extent.start == 2 * MiB + 100 &&
          strcmp(extent.file, test_path) == 0);
    OK(hws_disk_close(disk, &err));
}

static void size_and_snapshots_change_under_use(void **state)
{
    struct hws_error err = {0};
    char overlay[256];
    uint8_t a[4096], b[4096], in[4096];
    make_image("change", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    OK(hws_disk_resize(disk, 16 * MiB, false, &err));
    CHECK(hws_disk_size(disk) == 16 * MiB);
    FAILS(EINVAL, hws_disk_resize(disk, 4 * MiB, false, &err));
    FAILS(EFBIG, hws_disk_resize(disk, UINT64_MAX, false, &err));
    OK(hws_disk_resize(disk, 12 * MiB, true, &err));
    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    OK(hws_disk_write(disk, 0, sizeof(a), a, 0, &err));
    OK(hws_disk_internal_snapshot(disk, HWS_SNAPSHOT_CREATE, "one", &err));
    OK(hws_disk_write(disk, 0, sizeof(b), b, 0, &err));
    OK(hws_disk_internal_snapshot(disk, HWS_SNAPSHOT_APPLY, "one", &err));
    OK(hws_disk_read(disk, 0, sizeof(in), in, 0, &err));
    CHECK(memcmp(in, a, sizeof(a)) == 0);
    OK(hws_disk_internal_snapshot(disk, HWS_SNAPSHOT_DELETE, "one", &err));
    FAILS(ENOENT, hws_disk_internal_snapshot(disk, HWS_SNAPSHOT_DELETE, "one", &err));
    snprintf(overlay, sizeof(overlay), "%s/overlay", test_folder);
    OK(hws_disk_snapshot(disk, overlay, NULL, &err));
    OK(hws_disk_write(disk, 0, sizeof(b), b, 0, &err));
    FAILS(EEXIST, hws_disk_snapshot(disk, overlay, NULL, &err));
    OK(hws_disk_read(disk, 0, sizeof(in), in, 0, &err));
    CHECK(memcmp(in, b, sizeof(b)) == 0);
    OK(hws_disk_close(disk, &err));
    /* The old top did not change; the overlay has what came later. */
    size_t same;
    disk = open_disk(test_path, NULL);
    OK(hws_disk_compare(disk, 0, sizeof(a), a, &same, &err));
    CHECK(same == sizeof(a));
    OK(hws_disk_close(disk, &err));
    disk = open_disk(overlay, NULL);
    OK(hws_disk_compare(disk, 0, sizeof(b), b, &same, &err));
    CHECK(same == sizeof(b) && hws_disk_size(disk) == 12 * MiB);
    OK(hws_disk_close(disk, &err));
}

static void wrong_arguments_are_told(void **state)
{
    struct hws_error err = {0};
    uint8_t byte = 0;
    struct hws_disk *disk, *none;
    struct hws_extent extent;
    make_image("wrong", "qcow2", MiB);
    disk = open_disk(test_path, NULL);
    FAILS(EINVAL, hws_disk_open(NULL, NULL, &none, &err));
    FAILS(EINVAL, hws_disk_open(&(struct hws_image){0}, NULL, &none, &err));
    FAILS(EINVAL, hws_disk_open(&(struct hws_image){.path = test_path}, NULL, NULL, &err));
    FAILS(EINVAL, hws_disk_open(&(struct hws_image){.path = test_path, .cache = "best"}, NULL,
                                &none, &err));
    struct hws_disk_options options = {0};
    FAILS(EINVAL, hws_disk_open(&(struct hws_image){.path = test_path}, &options, &none, &err));
    struct {
        struct hws_disk_options options;
        uint64_t later;
    } newer = {.options.struct_bytes = sizeof(newer), .options.read_only = true, .later = 1};
    FAILS(EINVAL,
          hws_disk_open(&(struct hws_image){.path = test_path}, &newer.options, &none, &err));
    FAILS(ENOENT, hws_disk_open(&(struct hws_image){.path = "/no/such/image"}, NULL, &none, &err));
    FAILS(EAGAIN, hws_disk_open(&(struct hws_image){.path = test_path}, NULL, &none, &err));
    FAILS(EINVAL, hws_disk_read(NULL, 0, 1, &byte, 0, &err));
    FAILS(EINVAL, hws_disk_read(disk, MiB, 1, &byte, 0, &err));
    FAILS(EINVAL, hws_disk_read(disk, UINT64_MAX, 1, &byte, 0, &err));
    FAILS(EINVAL, hws_disk_read(disk, 0, SIZE_MAX, &byte, 0, &err));
    FAILS(EINVAL, hws_disk_read(disk, 0, 1, NULL, 0, &err));
    FAILS(EINVAL, hws_disk_read(disk, 0, 1, &byte, HWS_FUA, &err));
    FAILS(EINVAL, hws_disk_write(disk, 0, 1, &byte, 1u << 31, &err));
    FAILS(EINVAL, hws_disk_write(disk, MiB - 1, 2, &byte, 0, &err));
    FAILS(EINVAL, hws_disk_zero(disk, 0, MiB + 1, 0, &err));
    FAILS(EINVAL, hws_disk_discard(disk, UINT64_MAX - 1, 2, &err));
    FAILS(EINVAL, hws_disk_readv(disk, 0, NULL, 1, 0, &err));
    struct iovec iov[2] = {{&byte, SIZE_MAX}, {&byte, 2}};
    FAILS(EINVAL, hws_disk_readv(disk, 0, iov, 2, 0, &err));
    FAILS(EINVAL, hws_disk_readv(disk, 0, iov, HWS_IOV_MAX + 1, 0, &err));
    FAILS(EINVAL, hws_disk_compare(disk, 0, 1, &byte, NULL, &err));
    FAILS(EINVAL, hws_disk_status(disk, 0, 0, &extent, &err));
    FAILS(EINVAL, hws_disk_status(disk, MiB, 1, &extent, &err));
    FAILS(EINVAL, hws_disk_map(disk, 0, 1, NULL, NULL, &err));
    FAILS(EINVAL, hws_disk_limits(disk, &(struct hws_disk_limits){0}, &err));
    FAILS(EINVAL, hws_disk_info(disk, false, NULL, &err));
    FAILS(EINVAL, hws_disk_snapshot(disk, NULL, NULL, &err));
    FAILS(EINVAL, hws_disk_internal_snapshot(disk, 77, "x", &err));
    FAILS(EINVAL, hws_disk_internal_snapshot(disk, HWS_SNAPSHOT_CREATE, NULL, &err));
    FAILS(EINVAL, hws_queue_open(disk, &(struct hws_queue_options){0}, NULL, &err));
    CHECK(hws_queue_submit(NULL, NULL, 0) == -EINVAL && hws_queue_fd(NULL) == -EINVAL);
    CHECK(hws_disk_read(disk, MiB, 1, &byte, 0, NULL) == -EINVAL); /* nobody reads the text */
    OK(hws_disk_close(disk, &err));
    options = (struct hws_disk_options){.struct_bytes = sizeof(options), .read_only = true};
    OK(hws_disk_open(&(struct hws_image){.path = test_path}, &options, &disk, &err));
    FAILS(EROFS, hws_disk_write(disk, 0, 1, &byte, 0, &err));
    FAILS(EROFS, hws_disk_resize(disk, 2 * MiB, false, &err));
    OK(hws_disk_flush(disk, &err));
    OK(hws_disk_close(disk, &err));
}

static void images_without_a_name_are_told(void **state)
{
    struct hws_error err = {0};
    struct hws_image none = {0};
    struct hws_check check;
    struct hws_compacted compacted;
    struct hws_difference difference;
    struct hws_resize resize = {0};
    struct hws_commit commit = {0};
    struct hws_rebase rebase = {.backing = ""};
    struct hws_compact compact = {0};
    struct hws_compare compare = {0};
    uint64_t size;
    char *text;
    FAILS(EINVAL, hws_info(NULL, false, &text, &err));
    FAILS(EINVAL, hws_info(&none, false, &text, &err));
    FAILS(EINVAL, hws_check(&none, 0, NULL, NULL, NULL, NULL, &check, &err));
    FAILS(EINVAL, hws_map(&none, 0, 1, see_extent, NULL, &err));
    FAILS(EINVAL, hws_resize(&none, &resize, &size, &err));
    FAILS(EINVAL, hws_snapshot(&none, "x", NULL, &err));
    FAILS(EINVAL, hws_revert(&none, NULL, &text, &err));
    FAILS(EINVAL, hws_internal_snapshots(&none, &text, &err));
    FAILS(EINVAL, hws_internal_snapshot(&none, HWS_SNAPSHOT_CREATE, "x", &err));
    FAILS(EINVAL, hws_commit(&none, &commit, &err));
    FAILS(EINVAL, hws_rebase(&none, &rebase, &err));
    FAILS(EINVAL, hws_compact(&none, &compact, &compacted, &err));
    FAILS(EINVAL, hws_compare(&none, &none, &compare, &difference, &err));
    FAILS(EINVAL, hws_create(&none, &(struct hws_create){.size_bytes = MiB}, NULL, &err));
}

/* ---- threads ---- */

#define THREADS 6
#define ROUNDS  150

struct part {
    struct hws_disk *disk;
    unsigned number;
};

static void *use_a_part(void *arg)
{
    struct part *part = arg;
    struct hws_error err = {0};
    uint8_t out[6000], in[6000];
    uint64_t start = part->number * MiB;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t offset = start + (i * 7919u) % (MiB - sizeof(out));
        fill(out, sizeof(out), start + i);
        OK(hws_disk_write(part->disk, offset, sizeof(out), out, i % 16 == 0 ? HWS_FUA : 0, &err));
        if (i % 32 == 0)
            OK(hws_disk_flush(part->disk, &err));
        OK(hws_disk_read(part->disk, offset, sizeof(in), in, 0, &err));
        CHECK(memcmp(in, out, sizeof(in)) == 0);
    }
    if (part->number % 2)
        OK(hws_thread_end(&err));
    return NULL;
}

static void threads_share_a_disk(void **state)
{
    struct hws_error err = {0};
    pthread_t thread[THREADS];
    struct part part[THREADS];
    make_image("threads", "qcow2", THREADS * MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        part[i] = (struct part){disk, i};
        CHECK(pthread_create(&thread[i], NULL, use_a_part, &part[i]) == 0);
    }
    for (unsigned i = 0; i < 8; i++) {
        OK(hws_disk_resize(disk, (THREADS + 1 + i % 2) * MiB, true, &err));
        usleep(2000);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    OK(hws_disk_close(disk, &err));
    struct hws_check found;
    OK(hws_check(&(struct hws_image){.path = test_path}, 0, NULL, NULL, NULL, NULL, &found, &err));
    CHECK(found.corruptions == 0 && found.leaks == 0);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void opening_and_closing_leaves_nothing(void **state)
{
    struct hws_error err = {0};
    uint8_t byte = 1;
    make_image("loop", "qcow2", MiB);
    OK(hws_thread_end(&err));
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < 60; i++) {
        struct hws_disk *disk = open_disk(test_path, NULL);
        OK(hws_disk_write(disk, i, 1, &byte, 0, &err));
        OK(hws_disk_close(disk, &err));
        if (i % 3 == 0)
            OK(hws_thread_end(&err));
    }
    OK(hws_thread_end(&err));
    CHECK(open_descriptors() == before);
}

/* ---- fork ---- */

static int child(struct hws_disk *disk, const char *other)
{
    struct hws_error err = {0};
    uint8_t byte = 3;
    struct hws_queue *queue;
    FAILS(EPERM, hws_disk_write(disk, 0, 1, &byte, 0, &err));
    FAILS(EPERM, hws_disk_resize(disk, 2 * MiB, false, &err));
    FAILS(EPERM, hws_queue_open(disk, NULL, &queue, &err));
    FAILS(EPERM, hws_disk_close(disk, &err));
    struct hws_disk *own = open_disk(other, NULL);
    OK(hws_disk_write(own, 0, 1, &byte, 0, &err));
    OK(hws_disk_close(own, &err));
    return 0;
}

static void a_child_has_disks_of_its_own(void **state)
{
#ifdef __SANITIZE_THREAD__
    skip(); /* it does not follow a fork of several threads */
#endif
    struct hws_error err = {0};
    char other[256];
    snprintf(other, sizeof(other), "%s", make_image("other", "qcow2", MiB));
    make_image("parent", "qcow2", MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    uint8_t byte = 5, in;
    OK(hws_disk_write(disk, 0, 1, &byte, 0, &err));
    pid_t pid = fork();
    if (pid == 0)
        _exit(child(disk, other));
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(hws_disk_read(disk, 0, 1, &in, 0, &err));
    CHECK(in == 5);
    OK(hws_disk_close(disk, &err));
}

static int call_back(void *arg, const struct hws_extent *extent)
{
    struct hws_error err = {0};
    struct hws_disk *disk;
    char *text;
    uint8_t byte;
    FAILS(EDEADLK, hws_disk_read(arg, 0, 1, &byte, 0, &err));
    FAILS(EDEADLK, hws_disk_open(&(struct hws_image){.path = test_path}, NULL, &disk, &err));
    FAILS(EDEADLK, hws_info(&(struct hws_image){.path = test_path}, false, &text, &err));
    return 5;
}

static void callbacks_may_not_call_back(void **state)
{
    struct hws_error err = {0};
    char other[256];
    snprintf(other, sizeof(other), "%s", make_image("callback", "qcow2", MiB));
    make_image("callback2", "qcow2", MiB);
    struct hws_disk *disk = open_disk(other, NULL);
    CHECK(hws_map(&(struct hws_image){.path = test_path}, 0, MiB, call_back, disk, &err) == 5);
    OK(hws_disk_close(disk, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_written_is_read),
        cmocka_unit_test(what_it_is_can_be_asked),
        cmocka_unit_test(the_map_tells_what_lies_where),
        cmocka_unit_test(size_and_snapshots_change_under_use),
        cmocka_unit_test(wrong_arguments_are_told),
        cmocka_unit_test(images_without_a_name_are_told),
        cmocka_unit_test(threads_share_a_disk),
        cmocka_unit_test(opening_and_closing_leaves_nothing),
        cmocka_unit_test(a_child_has_disks_of_its_own),
        cmocka_unit_test(callbacks_may_not_call_back),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
