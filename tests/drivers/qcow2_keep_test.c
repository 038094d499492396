/*
 * qcow2 with a keep, where it is not a kill that matters: the mark in the header, keeps that may
 * not be applied, images inside images, and what a clean end leaves. Kills are in tests/sim and
 * keep_kill_test.c.
 *
 * A death is made by copying the keep's file while changes are in it; the image is then closed,
 * which writes them, or thrown back to the bytes that it had.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"
#include "base/byteorder.h"
#include "base/log.h"
#include "block/core.h"
#include "block/keep.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#define IMAGE      "/image"
#define DISK_BYTES (8 * MiB)
#define MARK_AT    88 /* of the autoclear bits in a header of version 3 */

#define OPEN_IMAGE \
    "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"" IMAGE "\"}}"
#define NEW_IMAGE(more)                                                             \
    "{\"driver\":\"qcow2\",\"size\":8388608," more "\"file\":{\"driver\":\"file\"," \
    "\"filename\":\"" IMAGE "\"}}"

struct bytes {
    void *data;
    size_t length;
};

static char folder[40], path[64];

static int setup(void **state)
{
    snprintf(folder, sizeof(folder), "%s/hawser-keep-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "%s/keep", folder);
    return 0;
}

static int teardown(void **state)
{
    unlink(path);
    return rmdir(folder);
}

static struct block_keep *keep_open(void)
{
    struct block_keep *keep = NULL;
    struct hws_error err = {0};
    int r = block_keep_open(path, &keep, &err);
    if (r < 0)
        print_message("%s\n", err.text);
    assert_int_equal(r, 0);
    return keep;
}

static struct bytes keep_copy(void)
{
    struct bytes b = {.data = malloc(4 * MiB)};
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && b.data);
    ssize_t got = read(fd, b.data, 4 * MiB);
    assert_true(got > 0 && got < (ssize_t)(4 * MiB));
    close(fd);
    b.length = (size_t)got;
    return b;
}

static void keep_put_back(struct bytes *b)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, b->data, b->length), b->length);
    close(fd);
    free(b->data);
}

static struct bytes image_copy(void)
{
    struct bytes b;
    assert_int_equal(sim_file_load(rt_current(), IMAGE, &b.data, &b.length), 0);
    return b;
}

static void image_put_back(struct bytes *b)
{
    assert_int_equal(sim_file_store(rt_current(), IMAGE, b->data, b->length), 0);
    free(b->data);
}

static uint64_t image_mark(void)
{
    struct bytes b = image_copy();
    uint64_t mark = load_be64((char *)b.data + MARK_AT);
    free(b.data);
    return mark;
}

static int co_try(const char *text, unsigned flags, struct block_keep *keep,
                  struct block_node **ret, struct hws_error *err)
{
    struct block_policy policy = {.keep = keep};
    json_t *d = json_loads(text, 0, NULL);
    assert_non_null(d);
    *err = (struct hws_error){0};
    int r = co_block_open(d, flags, &policy, ret, err);
    json_decref(d);
    return r;
}

static struct block_node *co_must(const char *text, struct block_keep *keep)
{
    struct hws_error err;
    struct block_node *node = NULL;
    int r = co_try(text, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, keep, &node, &err);
    if (r < 0)
        print_message("%s\n", err.text);
    assert_int_equal(r, 0);
    return node;
}

/* A process wrote 0x11 and flushed, wrote 0x22 elsewhere, and died: keep and image are as then. */
static void co_die_with_changes(const char *image)
{
    must_create(image);
    struct block_keep *keep = keep_open();
    struct block_node *node = co_must(OPEN_IMAGE, keep);
    assert_int_equal(write_fill(node, 0, 0x11, 65536), 0);
    assert_int_equal(co_block_flush(node), 0);
    assert_int_equal(write_fill(node, 4 * MiB, 0x22, 65536), 0);
    struct bytes left = image_copy(), kept = keep_copy();
    must_close(node);
    assert_null(block_keep_close(keep));
    image_put_back(&left);
    keep_put_back(&kept);
}

static void co_expect_recovered(void)
{
    struct bytes before = image_copy();
    struct block_keep *keep = keep_open();
    assert_true(block_keep_pending(keep));
    struct block_node *node = co_must(OPEN_IMAGE, keep);
    assert_false(block_keep_pending(keep));
    struct bytes now = image_copy(); /* nothing waits for a sync of the guest's data */
    assert_int_equal(now.length, before.length);
    assert_memory_equal(now.data, before.data, now.length);
    free(now.data);
    free(before.data);
    assert_int_equal(read_fill(node, 0, 0x11, 65536), 0);
    assert_int_equal(read_fill(node, 4 * MiB, 0x22, 65536), 0);
    must_close(node);
    block_keep_close(keep);
    assert_int_equal(access(path, F_OK), -1);
}

static void assert_refused(unsigned flags, int code, const char *why)
{
    struct block_keep *keep = keep_open();
    struct block_node *node = NULL;
    struct hws_error err;
    struct bytes before = image_copy(), after;
    assert_int_equal(co_try(OPEN_IMAGE, flags, keep, &node, &err), -code);
    assert_non_null(strstr(err.text, why));
    assert_true(block_keep_pending(keep));
    block_keep_close(keep);
    assert_int_equal(access(path, F_OK), 0); /* for whoever can make use of it */
    after = image_copy();
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.data, after.data, before.length);
    free(before.data);
    free(after.data);
}

/* ---- tests ---- */

static void co_versions(void *arg)
{
    co_die_with_changes(arg);
    co_expect_recovered();
}

static void changes_of_the_dead_are_applied(void **state)
{
    run_sim(1, co_versions, (char *)NEW_IMAGE(""));
    run_sim(2, co_versions, (char *)NEW_IMAGE("\"compat\":\"0.10\","));
    run_sim(3, co_versions, (char *)NEW_IMAGE("\"cluster_size\":512,"));
    run_sim(4, co_versions, (char *)NEW_IMAGE("\"extended_l2\":\"on\","));
}

static void co_mark(void *arg)
{
    must_create(NEW_IMAGE(""));
    struct block_keep *keep = keep_open();
    struct block_node *node = co_must(OPEN_IMAGE, keep);
    assert_int_equal(image_mark(), 0);
    assert_int_equal(write_fill(node, 0, 1, 512), 0);
    uint64_t mark = image_mark();
    assert_true(mark >> 32 != 0 && (uint32_t)mark == 0);
    must_close(node);
    assert_int_equal(image_mark(), 0);
    node = co_must(OPEN_IMAGE, keep);
    assert_int_equal(write_fill(node, 0, 2, 512), 0);
    assert_true(image_mark() != 0 && image_mark() != mark);
    /* A layer that is read-only for a while, as when a push fails. */
    assert_int_equal(co_node_set_read_only(node, true, NULL), 0);
    assert_int_equal(image_mark(), 0);
    assert_int_equal(co_node_set_read_only(node, false, NULL), 0);
    assert_int_equal(write_fill(node, 0, 3, 512), 0);
    assert_true(image_mark() != 0);
    must_close(node);
    block_keep_close(keep);
}

static void the_header_is_marked_while_changes_may_be_kept(void **state)
{
    run_sim(1, co_mark, NULL);
}

static void co_stale(void *arg)
{
    co_die_with_changes(NEW_IMAGE(""));
    struct block_node *node = co_must(OPEN_IMAGE, NULL);
    assert_int_equal(write_fill(node, MiB, 0x33, 512), 0);
    must_close(node);
    assert_refused(BLOCK_OPEN_WRITE, ESTALE, "changed by somebody else");
    /* Nor when another use of a keep has marked it since. */
    struct bytes kept = keep_copy();
    unlink(path);
    struct block_keep *keep = keep_open();
    node = co_must(OPEN_IMAGE, keep);
    assert_int_equal(write_fill(node, MiB, 0x44, 512), 0);
    struct bytes left = image_copy();
    must_close(node);
    block_keep_close(keep);
    image_put_back(&left);
    keep_put_back(&kept);
    assert_refused(BLOCK_OPEN_WRITE, ESTALE, "changed by somebody else");
}

static void a_keep_is_stale_once_somebody_else_wrote(void **state)
{
    run_sim(1, co_stale, NULL);
}

/* Counts a cluster that nobody refers to: what a kill between two steps of a pass leaves. */
static void make_leak(void)
{
    struct bytes b = image_copy();
    uint8_t *bytes = b.data;
    uint64_t block = load_be64(bytes + load_be64(bytes + 48)), last = b.length / 65536 - 1;
    assert_int_equal(load_be16(bytes + block + last * 2), 0);
    store_be16(bytes + block + last * 2, 1);
    image_put_back(&b);
}

static void co_repair(void *arg)
{
    struct hws_error err = {0};
    for (int leaks = 0; leaks < 2; leaks++) {
        struct block_check check = {0};
        co_die_with_changes(NEW_IMAGE(""));
        if (leaks)
            make_leak();
        struct block_node *node = co_must(OPEN_IMAGE, NULL);
        assert_int_equal(co_block_check(node, BLOCK_REPAIR_LEAKS, &check, &err), 0);
        assert_int_equal(check.leaks_fixed, leaks);
        must_close(node);
        if (leaks)
            assert_refused(BLOCK_OPEN_WRITE, ESTALE, "changed by somebody else");
        else
            co_expect_recovered();
        assert_int_equal(co_unlink(IMAGE, &err), 0);
        unlink(path);
    }
}

static void a_keep_is_stale_once_the_image_was_repaired(void **state)
{
    run_sim(1, co_repair, NULL);
}

static void co_read_only(void *arg)
{
    co_die_with_changes(NEW_IMAGE(""));
    assert_refused(0, EROFS, "open it for writing");
    co_expect_recovered();
}

static void an_image_with_kept_changes_is_not_read_without_them(void **state)
{
    run_sim(1, co_read_only, NULL);
}

/* Where the slots' headers lie in the keep's file, and what one with changes looks like. */
#define SEGMENT_BYTES (4096 + 32768)
#define SLOTS_AT      (4096 + 48)
#define DIRTY         0x7972644bu

/* Moves the first dirty slot of @kind to @offset. */
static void move_slot(uint32_t kind, uint64_t offset)
{
    struct bytes b = keep_copy();
    uint8_t *bytes = b.data;
    for (size_t segment = 0; segment + SEGMENT_BYTES <= b.length; segment += SEGMENT_BYTES) {
        for (size_t i = 0; i < 64; i++) {
            uint8_t *slot = bytes + segment + SLOTS_AT + i * 16;
            uint32_t head[2];
            memcpy(head, slot, sizeof(head));
            if (head[0] != DIRTY || head[1] != kind)
                continue;
            memcpy(slot + 8, &offset, sizeof(offset));
            keep_put_back(&b);
            return;
        }
    }
    fail_msg("no slot of kind %u", kind);
}

static void co_hostile(void *arg)
{
    /* kind: 0 counts, 2 L2, 3 L1. Header, tables, guest data, past the end, not aligned. */
    static const struct {
        uint32_t kind;
        uint64_t offset;
    } places[] = {{2, 0},
                  {0, 0},
                  {2, 12 * 4096},
                  {0, 12 * 4096},
                  {2, 1ull << 40},
                  {2, UINT64_MAX},
                  {0, UINT64_MAX - 4095},
                  {2, 123},
                  {3, 0},
                  {3, UINT64_MAX},
                  {3, 1}};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        co_die_with_changes(NEW_IMAGE("\"cluster_size\":4096,"));
        struct bytes image = image_copy();
        move_slot(places[i].kind, places[i].offset);
        image_put_back(&image);
        assert_refused(BLOCK_OPEN_WRITE, EUCLEAN, "does not fit");
        struct hws_error err = {0};
        assert_int_equal(co_unlink(IMAGE, &err), 0);
        unlink(path);
    }
}

static void slots_that_lie_elsewhere_are_refused_as_a_whole(void **state)
{
    run_sim(1, co_hostile, NULL);
}

/* A successor took over and was killed before the keep let go of the old slots; with @half, before
 * it had taken all over. */
static void co_twice(void *arg)
{
    bool half = arg;
    co_die_with_changes(NEW_IMAGE("\"cluster_size\":4096,"));
    struct bytes first = keep_copy(), image = image_copy(), second;
    struct block_keep *keep = keep_open();
    struct block_node *node = co_must(OPEN_IMAGE, keep);
    second = keep_copy();
    must_close(node);
    block_keep_close(keep);
    image_put_back(&image);
    /* The old segments come first, and are free in the second copy. */
    assert_true(second.length >= 2 * first.length - 4096);
    uint8_t *bytes = second.data;
    for (size_t segment = first.length - 4096; half && segment + SEGMENT_BYTES <= second.length;
         segment += SEGMENT_BYTES)
        for (size_t i = 0; i < 64; i += 2)
            memset(bytes + segment + SLOTS_AT + i * 16, 0, 4);
    memcpy(bytes, first.data, first.length);
    free(first.data);
    keep_put_back(&second);
    co_expect_recovered();
    node = co_must(OPEN_IMAGE, NULL);
    struct block_check check = {0};
    struct hws_error err = {0};
    assert_int_equal(co_block_check(node, 0, &check, &err), 0);
    assert_int_equal(check.corruptions + check.errors, 0);
    must_close(node);
    assert_int_equal(co_unlink(IMAGE, &err), 0);
}

static void a_recovery_that_was_killed_is_repeated(void **state)
{
    run_sim(1, co_twice, NULL);
    run_sim(1, co_twice, (void *)1);
}

#define OPEN_INNER "{\"driver\":\"qcow2\",\"file\":" OPEN_IMAGE "}"

/* An image that lies in the other's disk. */
static void co_make_inner(struct block_node *outer)
{
    struct iovec iov;
    struct bytes inner;
    must_create("{\"driver\":\"qcow2\",\"size\":1048576,\"cluster_size\":4096,\"file\":{\"driver\":"
                "\"file\",\"filename\":\"/inner\"}}");
    assert_int_equal(sim_file_load(rt_current(), "/inner", &inner.data, &inner.length), 0);
    assert_int_equal(co_block_write(outer, 0, sgl_one(&iov, inner.data, inner.length), 0), 0);
    free(inner.data);
}

static void co_nested(void *arg)
{
    must_create(NEW_IMAGE(""));
    struct block_keep *keep = keep_open();
    struct block_node *node = co_must(OPEN_IMAGE, keep);
    co_make_inner(node);
    must_close(node);
    node = co_must(OPEN_INNER, keep);
    assert_int_equal(write_fill(node, 0, 0x55, 65536), 0);
    assert_int_equal(write_fill(node, 512 * KiB, 0x66, 4096), 0);
    struct bytes left = image_copy(), kept = keep_copy();
    must_close(node);
    block_keep_close(keep);
    image_put_back(&left);
    keep_put_back(&kept);
    keep = keep_open();
    assert_true(block_keep_pending(keep));
    node = co_must(OPEN_INNER, keep);
    assert_false(block_keep_pending(keep));
    assert_int_equal(read_fill(node, 0, 0x55, 65536), 0);
    assert_int_equal(read_fill(node, 512 * KiB, 0x66, 4096), 0);
    must_close(node);
    block_keep_close(keep);
    assert_int_equal(access(path, F_OK), -1);
}

static void images_inside_images_have_their_own_parts(void **state)
{
    run_sim(1, co_nested, NULL);
}

/* The file system of the keep is full: the cache does with what it has. */
static void co_full(void *arg)
{
    must_create(NEW_IMAGE("\"cluster_size\":512,"));
    struct block_keep *keep = keep_open();
    struct block_node *node = co_must(OPEN_IMAGE, keep);
    assert_int_equal(write_fill(node, 0, 0, 512), 0);
    struct bytes now = keep_copy();
    free(now.data);
    struct rlimit all, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
    limit = (struct rlimit){.rlim_cur = now.length + SEGMENT_BYTES, .rlim_max = all.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (uint64_t at = 0; at < DISK_BYTES; at += 64 * KiB)
        assert_int_equal(write_fill(node, at, (uint8_t)(at >> 16), 64 * KiB), 0);
    for (uint64_t at = 0; at < DISK_BYTES; at += 64 * KiB)
        assert_int_equal(read_fill(node, at, (uint8_t)(at >> 16), 64 * KiB), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    now = keep_copy();
    assert_true(now.length <= limit.rlim_cur);
    free(now.data);
    must_close(node);
    block_keep_close(keep);
}

static void a_keep_that_cannot_grow_makes_the_cache_smaller(void **state)
{
    run_sim(1, co_full, NULL);
}

static void drop_message(enum log_level level, const char *line, void *arg)
{
}

int main(void)
{
    drivers_register();
    log_set_sink(drop_message, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(changes_of_the_dead_are_applied, setup, teardown),
        cmocka_unit_test_setup_teardown(the_header_is_marked_while_changes_may_be_kept, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_keep_is_stale_once_somebody_else_wrote, setup, teardown),
        cmocka_unit_test_setup_teardown(a_keep_is_stale_once_the_image_was_repaired, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_image_with_kept_changes_is_not_read_without_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(slots_that_lie_elsewhere_are_refused_as_a_whole, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_recovery_that_was_killed_is_repeated, setup, teardown),
        cmocka_unit_test_setup_teardown(a_keep_that_cannot_grow_makes_the_cache_smaller, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(images_inside_images_have_their_own_parts, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
