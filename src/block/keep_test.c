/*
 * The keep's file: locks, what is refused, segments and their owners, what a successor finds.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/keep.h"
#include "base/log.h"
#include "block/test_drivers.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

#define HEAD_BYTES    4096
#define SEGMENT_BYTES (4096 + 32768)
#define BOOT_AT       24 /* of the boot id in the file */

static char folder[32], path[48];

/* The linker takes it for posix_fallocate(): two calls of three are interrupted. */
int __real_posix_fallocate64(int fd, off_t at, off_t length);
int __wrap_posix_fallocate64(int fd, off_t at, off_t length);
static unsigned fallocate_calls;

int __wrap_posix_fallocate64(int fd, off_t at, off_t length)
{
    return fallocate_calls++ % 3 < 2 ? EINTR : __real_posix_fallocate64(fd, at, length);
}

static int setup(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/hawser-keep-XXXXXX");
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

static struct block_keep *must_open(void)
{
    struct block_keep *keep = NULL;
    struct hws_error err = {0};
    int r = block_keep_open(path, &keep, &err);
    if (r < 0)
        print_message("%s\n", err.text);
    assert_int_equal(r, 0);
    return keep;
}

static void assert_refused(int code, const char *why)
{
    struct block_keep *keep = NULL;
    struct hws_error err = {0};
    assert_int_equal(block_keep_open(path, &keep, &err), -code);
    assert_non_null(strstr(err.text, why));
    assert_null(keep);
}

static void patch(off_t at, const void *bytes, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, length, at), length);
    close(fd);
}

/* An image, as far as the keep looks at it: storage with an identity. */
static struct block_node *co_image(const char *name, struct block_keep *keep)
{
    struct block_policy policy = {.keep = keep};
    struct block_node *node = NULL;
    struct hws_error err = {0};
    json_t *d =
        json_pack("{ss s{ss ss}}", "driver", "raw", "file", "driver", "file", "filename", name);
    int r = co_block_open(d, BLOCK_OPEN_WRITE, &policy, &node, &err);
    json_decref(d);
    assert_int_equal(r, 0);
    return node;
}

static struct block_keep_image *attach(struct block_node *node)
{
    struct block_keep_image *image = NULL;
    assert_int_equal(block_keep_attach(node, &image, NULL), 0);
    assert_non_null(image);
    return image;
}

/* A dirty slot of @image with @byte in it. */
static struct block_keep_segment *leave_change(struct block_keep_image *image, uint64_t offset,
                                               uint8_t byte)
{
    struct block_keep_segment *s = block_keep_segment_new(image, 512);
    assert_non_null(s);
    assert_int_equal(s->slots, 64);
    block_keep_slot_dirty(&s->slot[5], offset, 2);
    memset(s->data + 5 * 512, byte, 512);
    return s;
}

/* ---- the file ---- */

static void one_process_has_it_and_takes_it_away(void **state)
{
    struct block_keep *keep = must_open();
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fallocate_calls, 3);
    assert_refused(EAGAIN, "another process");
    assert_false(block_keep_pending(keep));
    assert_null(block_keep_close(keep));
    assert_int_equal(access(path, F_OK), -1);
    assert_null(block_keep_close(NULL));
}

static void what_is_no_keep_is_refused_and_left(void **state)
{
    char text[100] = "a file that somebody named by mistake", back[100];
    patch(0, text, sizeof(text));
    assert_refused(EUCLEAN, "no keep");
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, back, sizeof(back)), sizeof(back));
    close(fd);
    assert_memory_equal(text, back, sizeof(text));
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    struct block_keep *keep = NULL;
    assert_true(block_keep_open(path, &keep, NULL) < 0);
    rmdir(path);
}

static void rights_of_others_and_links_are_refused(void **state)
{
    patch(0, "", 0);
    chmod(path, 0660);
    assert_refused(EPERM, "0600");
    unlink(path);
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_refused(ELOOP, "keep");
}

static void killed_while_it_was_made_it_is_made_anew(void **state)
{
    char zeroes[HEAD_BYTES] = {0};
    patch(0, zeroes, sizeof(zeroes));
    block_keep_close(must_open());
    uint32_t version = 1;
    patch(8, &version, sizeof(version));
    block_keep_close(must_open());
    assert_int_equal(access(path, F_OK), -1);
}

/* ---- what a successor finds ---- */

static void co_leave(void *arg)
{
    struct block_keep *keep = must_open();
    test_disk_new("a", 65536);
    test_disk_new("b", 65536);
    struct block_node *a = co_image("a", keep), *b = co_image("b", keep);
    struct block_keep_image *of_a = attach(a), *of_b = attach(b), *again = NULL;
    assert_int_equal(block_keep_attach(a, &again, NULL), -EBUSY);
    block_keep_mark(of_a, 77);
    leave_change(of_a, 4096, 0xaa);
    leave_change(of_b, 512, 0xbb);
    struct block_keep_segment *clean = leave_change(of_b, 1024, 0xbc);
    block_keep_slot_clean(&clean->slot[5]);
    block_keep_segment_free(of_b, leave_change(of_b, 2048, 0xbd));
    assert_false(block_keep_pending(keep)); /* of its own, not of a predecessor */
    block_keep_detach(of_a);
    block_keep_detach(of_b);
    assert_true(block_keep_holds(a));
    co_block_close(a, NULL);
    co_block_close(b, NULL);
    block_keep_close(keep);
}

static void co_find(void *arg)
{
    struct block_keep *keep = must_open();
    struct block_keep_change *change = NULL;
    size_t count = 0;
    uint64_t mark = 0;
    assert_true(block_keep_pending(keep));
    struct block_node *a = co_image("a", keep), *b = co_image("b", keep);
    assert_true(block_keep_holds(a));
    struct block_keep_image *of_a = attach(a);
    assert_false(block_keep_holds(a));
    assert_int_equal(block_keep_changes(of_a, &change, &count, &mark, NULL), 0);
    assert_int_equal(count, 1);
    assert_int_equal(mark, 77);
    assert_int_equal(change->offset, 4096);
    assert_int_equal(change->kind, 2);
    assert_int_equal(change->length, 512);
    assert_int_equal(change->data[0], 0xaa);
    free(change);
    /* New memory is not that of an image that was not opened yet. */
    struct block_keep_segment *own = leave_change(of_a, 0, 0xac);
    block_keep_applied(of_a);
    assert_int_equal(own->data[5 * 512], 0xac);
    assert_true(block_keep_holds(b));
    block_keep_segment_free(of_a, own);
    block_keep_detach(of_a);
    assert_true(block_keep_pending(keep)); /* b */
    struct block_keep_image *of_b = attach(b);
    assert_int_equal(block_keep_changes(of_b, &change, &count, &mark, NULL), 0);
    assert_int_equal(count, 1);
    assert_int_equal(change->data[511], 0xbb);
    free(change);
    block_keep_applied(of_b);
    assert_false(block_keep_pending(keep));
    block_keep_detach(of_b);
    co_block_close(a, NULL);
    co_block_close(b, NULL);
    block_keep_close(keep);
}

static void several_images_leave_changes_and_each_finds_its_own(void **state)
{
    test_run(co_leave, NULL);
    assert_int_equal(access(path, F_OK), 0);
    test_run(co_find, NULL);
    assert_int_equal(access(path, F_OK), -1);
}

static void co_find_new_file(void *arg)
{
    struct block_keep *keep = must_open();
    struct block_keep_change *change = NULL;
    size_t count = 1;
    uint64_t mark = 0;
    struct block_node *a = co_image("a", keep), *b = co_image("b", keep);
    block_identify_birth(block_child(a, BLOCK_FILE), 1234);
    assert_false(block_keep_holds(a));
    struct block_keep_image *of_a = attach(a);
    assert_int_equal(block_keep_changes(of_a, &change, &count, &mark, NULL), 0);
    assert_int_equal(count, 0);
    free(change);
    block_keep_detach(of_a);
    assert_true(block_keep_holds(b));
    struct block_keep_image *of_b = attach(b);
    block_keep_applied(of_b);
    block_keep_detach(of_b);
    assert_false(block_keep_pending(keep)); /* those of the old file went */
    co_block_close(a, NULL);
    co_block_close(b, NULL);
    block_keep_close(keep);
}

static void a_new_file_with_an_old_inode_is_another_image(void **state)
{
    test_run(co_leave, NULL);
    test_run(co_find_new_file, NULL);
    assert_int_equal(access(path, F_OK), -1);
}

static void another_boot_empties_it(void **state)
{
    test_run(co_leave, NULL);
    patch(BOOT_AT, "00000000", 8);
    struct block_keep *keep = must_open();
    assert_false(block_keep_pending(keep));
    block_keep_close(keep);
    assert_int_equal(access(path, F_OK), -1);
}

static void damage_and_other_versions_are_refused(void **state)
{
    uint32_t bad = 3;
    test_run(co_leave, NULL);
    patch(8, &bad, sizeof(bad));
    assert_refused(ENOTSUP, "another version");
    unlink(path);
    static const struct {
        off_t at;
        const char *why;
    } places[] = {{HEAD_BYTES, "state of a segment"},
                  {HEAD_BYTES + 4, "size of slots"},
                  {HEAD_BYTES + 48 + 5 * 16, "state of a slot"}};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        test_run(co_leave, NULL);
        patch(places[i].at, &bad, sizeof(bad));
        assert_refused(EUCLEAN, places[i].why);
        unlink(path);
    }
    test_run(co_leave, NULL);
    assert_int_equal(truncate(path, (off_t)40000 * SEGMENT_BYTES), 0);
    assert_refused(EUCLEAN, "its size");
    assert_int_equal(truncate(path, 100), 0);
    assert_refused(EUCLEAN, "its head");
}

static void drop_message(enum log_level level, const char *line, void *arg)
{
}

int main(void)
{
    log_set_sink(drop_message, NULL);
    test_drivers_register();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_process_has_it_and_takes_it_away, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_keep_is_refused_and_left, setup, teardown),
        cmocka_unit_test_setup_teardown(rights_of_others_and_links_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(killed_while_it_was_made_it_is_made_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(several_images_leave_changes_and_each_finds_its_own, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_new_file_with_an_old_inode_is_another_image, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(another_boot_empties_it, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_and_other_versions_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
