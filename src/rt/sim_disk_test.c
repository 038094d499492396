/*
 * Unit tests of the simulated disk: images, names, syncs, and what crashes leave.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_disk.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define TIB ((uint64_t)1 << 40)

static struct sim_inode *file_of(struct sim_disk *disk, const char *path)
{
    struct sim_inode *inode = NULL;
    assert_int_equal(sim_disk_open(disk, path, O_CREAT, &inode), 0);
    return inode;
}

static struct sim_op *write_begin(struct sim_inode *inode, uint64_t offset, void *bytes,
                                  size_t length)
{
    struct iovec iov;
    return sim_op_begin(inode, SIM_OP_WRITE, offset, length, sgl_one(&iov, bytes, length));
}

static void write_complete(struct sim_disk *disk, struct sim_op *op, void *bytes, bool durable)
{
    struct iovec iov;
    struct random random = random_seed(1);
    sim_op_complete(disk, op, sgl_one(&iov, bytes, op->length), durable, &random);
}

static void write_fill(struct sim_disk *disk, struct sim_inode *inode, uint64_t offset,
                       size_t length, uint8_t byte, bool durable)
{
    autofree uint8_t *bytes = sim_alloc(NULL, length, 1);
    memset(bytes, byte, length);
    write_complete(disk, write_begin(inode, offset, bytes, length), bytes, durable);
}

static uint8_t byte_at(const struct sim_image *image, uint64_t offset)
{
    uint8_t byte;
    sim_image_read(image, offset, &byte, 1);
    return byte;
}

/* ---- images ---- */

static void images_hold_what_a_flat_array_would(void **state)
{
    enum { BYTES = 40000 };
    struct random random = random_seed(7);
    autofree uint8_t *model = sim_alloc(NULL, 2 * BYTES, 1);
    autofree uint8_t *bytes = sim_alloc(NULL, 2 * BYTES, 1);
    memset(model, 0, 2 * BYTES);
    struct sim_image image = {0};
    for (int i = 0; i < 3000; i++) {
        uint64_t offset = random_below(&random, BYTES), length = random_below(&random, 9000);
        switch (random_below(&random, 4)) {
        case 0:
        case 1:
            random_fill(&random, bytes, length);
            if (length > 0)
                sim_image_write(&image, offset, bytes, length);
            memcpy(model + offset, bytes, length);
            break;
        case 2:
            sim_image_zero(&image, offset, length);
            memset(model + offset, 0, length);
            break;
        default:
            sim_image_resize(&image, offset);
            memset(model + offset, 0, 2 * BYTES - offset);
        }
        sim_image_read(&image, 0, bytes, 2 * BYTES);
        assert_memory_equal(bytes, model, 2 * BYTES);
    }
    sim_image_clear(&image);
}

static void images_are_sparse_and_tell_holes_from_data(void **state)
{
    struct sim_image image = {0};
    sim_image_write(&image, 8 * TIB, "x", 1);
    assert_true(image.size_bytes == 8 * TIB + 1 && image.count == 1);
    assert_true(sim_image_seek(&image, 0, SEEK_DATA) == (int64_t)(8 * TIB));
    assert_true(sim_image_seek(&image, 0, SEEK_HOLE) == 0);
    assert_true(sim_image_seek(&image, 8 * TIB, SEEK_HOLE) == (int64_t)(8 * TIB + 1));
    assert_true(sim_image_seek(&image, 8 * TIB + 1, SEEK_DATA) == -ENXIO);
    assert_true(sim_image_holes(&image, 8 * TIB - 1, 4098) == 2);
    sim_image_zero(&image, 0, 16 * TIB);
    assert_true(image.count == 0 && image.size_bytes == 8 * TIB + 1);
    sim_image_clear(&image);
}

static void copies_of_images_share_pages_but_not_changes(void **state)
{
    struct sim_image a = {0}, b = {0};
    sim_image_write(&a, 100, "first", 5);
    sim_image_copy(&b, &a);
    sim_image_write(&a, 100, "other", 5);
    char text[6] = "";
    sim_image_read(&b, 100, text, 5);
    assert_string_equal(text, "first");
    sim_image_clear(&a);
    sim_image_read(&b, 100, text, 5);
    assert_string_equal(text, "first");
    sim_image_clear(&b);
}

/* ---- names ---- */

static void names_are_cleaned_and_held_to_folders(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *a = file_of(disk, "/d//e/../a"), *b;
    assert_int_equal(sim_disk_open(disk, "/d/./a", 0, &b), 0);
    assert_ptr_equal(a, b);
    assert_int_equal(sim_disk_open(disk, "/d/a", O_CREAT | O_EXCL, &b), -EEXIST);
    assert_int_equal(sim_disk_open(disk, "d/a", 0, &b), -ENOENT);
    assert_true(sim_disk_beneath("/d/x/a", "/d"));
    assert_false(sim_disk_beneath("/d/../a", "/d"));
    assert_false(sim_disk_beneath("/dd/a", "/d"));
    assert_true(sim_disk_beneath("/a", "/"));
    sim_disk_free(disk);
}

static void names_become_durable_with_a_sync_or_a_rename(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *synced = file_of(disk, "synced");
    struct sim_inode *moved = file_of(disk, "moved"), *found;
    write_fill(disk, moved, 0, 512, 1, false);
    sim_inode_sync(disk, synced, sim_disk_sequence(disk));
    assert_int_equal(sim_disk_rename_begin(disk, "moved", "target"), 0);
    sim_disk_rename_complete(disk);
    assert_int_equal(sim_disk_unlink(disk, "synced"), 0);
    assert_int_equal(sim_disk_unlink(disk, "synced"), -ENOENT);
    (void)file_of(disk, "fresh");
    unsigned present[2] = {0};
    for (unsigned seed = 0; seed < 64; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *left = sim_disk_crash(disk, &random);
        assert_int_equal(sim_disk_open(left, "target", 0, &found), 0);
        assert_int_equal(sim_disk_open(left, "moved", 0, &found), -ENOENT);
        bool gone = sim_disk_open(left, "synced", 0, &found) != 0;
        bool made = sim_disk_open(left, "fresh", 0, &found) == 0;
        assert_true(gone || !made);
        present[0] += gone;
        present[1] += made;
        sim_disk_free(left);
    }
    assert_in_range(present[0], 1, 63);
    assert_in_range(present[1], 1, 63);
    sim_disk_free(disk);
}

/* ---- syncs and crashes ---- */

static void a_sync_covers_what_completed_before_it_began(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f"), *left_inode;
    write_fill(disk, inode, 0, 512, 1, false);
    uint8_t late[512];
    memset(late, 2, sizeof(late));
    struct sim_op *op = write_begin(inode, 512, late, sizeof(late));
    uint64_t covers = sim_disk_sequence(disk);
    write_complete(disk, op, late, false); /* completes during the sync: not covered */
    sim_inode_sync(disk, inode, covers);
    assert_int_equal(byte_at(&inode->durable_image, 0), 1);
    assert_int_equal(byte_at(&inode->durable_image, 512), 0);
    unsigned kept = 0;
    for (unsigned seed = 0; seed < 64; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *left = sim_disk_crash(disk, &random);
        assert_int_equal(sim_disk_open(left, "f", 0, &left_inode), 0);
        assert_int_equal(byte_at(&left_inode->volatile_image, 0), 1);
        uint8_t byte = byte_at(&left_inode->volatile_image, 700);
        assert_true(byte == 0 || byte == 2);
        kept += byte == 2;
        sim_disk_free(left);
    }
    assert_in_range(kept, 1, 63);
    sim_disk_free(disk);
}

static void a_failed_sync_loses_changes_for_good(void **state)
{
    bool kept = false, lost = false;
    for (unsigned seed = 0; seed < 16; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *disk = sim_disk_new();
        struct sim_inode *inode = file_of(disk, "f");
        write_fill(disk, inode, 0, 512, 1, false);
        sim_inode_sync_failed(inode, sim_disk_sequence(disk), &random);
        sim_inode_sync(disk, inode, sim_disk_sequence(disk));
        assert_int_equal(byte_at(&inode->volatile_image, 0), 1);
        *(byte_at(&inode->durable_image, 0) == 1 ? &kept : &lost) = true;
        sim_disk_free(disk);
    }
    assert_true(kept && lost);
}

static void written_through_bytes_win_over_older_unsynced_ones(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f"), *left_inode;
    sim_inode_sync(disk, inode, 0);
    write_fill(disk, inode, 0, 1024, 1, false);
    write_fill(disk, inode, 0, 512, 2, true);
    for (unsigned seed = 0; seed < 64; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *left = sim_disk_crash(disk, &random);
        assert_int_equal(sim_disk_open(left, "f", 0, &left_inode), 0);
        assert_int_equal(byte_at(&left_inode->volatile_image, 0), 2);
        sim_disk_free(left);
    }
    sim_disk_free(disk);
}

/* Two overlapping writes of four sectors: every mixture of old and new must turn up, and only
 * sectors. */
static void crashes_show_every_subset_of_unsynced_sectors(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f"), *left_inode;
    write_fill(disk, inode, 0, 4 * 512, 0, false);
    sim_inode_sync(disk, inode, sim_disk_sequence(disk));
    write_fill(disk, inode, 0, 3 * 512, 1, false);
    write_fill(disk, inode, 512, 3 * 512, 2, false);
    bool seen[81] = {0};
    unsigned kinds = 0;
    for (unsigned seed = 0; seed < 20000; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *left = sim_disk_crash(disk, &random);
        assert_int_equal(sim_disk_open(left, "f", 0, &left_inode), 0);
        unsigned state_of_all = 0;
        for (unsigned sector = 0; sector < 4; sector++) {
            uint8_t first = byte_at(&left_inode->volatile_image, sector * 512);
            assert_int_equal(first, byte_at(&left_inode->volatile_image, sector * 512 + 511));
            assert_true(!(sector == 0 && first == 2) && !(sector == 3 && first == 1));
            state_of_all = state_of_all * 3 + first;
        }
        kinds += !seen[state_of_all];
        seen[state_of_all] = true;
        sim_disk_free(left);
    }
    assert_int_equal(kinds, 2 * 3 * 3 * 2);
    sim_disk_free(disk);
}

static void crashes_are_chosen_by_the_seed_alone(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f"), *one, *two;
    sim_inode_sync(disk, inode, 0);
    for (unsigned i = 1; i < 50; i++)
        write_fill(disk, inode, i * 777, 1500, (uint8_t)i, false);
    struct random a = random_seed(5), b = random_seed(5);
    struct sim_disk *left_a = sim_disk_crash(disk, &a), *left_b = sim_disk_crash(disk, &b);
    assert_int_equal(sim_disk_open(left_a, "f", 0, &one), 0);
    assert_int_equal(sim_disk_open(left_b, "f", 0, &two), 0);
    assert_true(one->volatile_image.size_bytes == two->volatile_image.size_bytes);
    uint8_t bytes_a[40000], bytes_b[40000];
    sim_image_read(&one->volatile_image, 0, bytes_a, sizeof(bytes_a));
    sim_image_read(&two->volatile_image, 0, bytes_b, sizeof(bytes_b));
    assert_memory_equal(bytes_a, bytes_b, sizeof(bytes_a));
    sim_disk_free(left_a);
    sim_disk_free(left_b);
    sim_disk_free(disk);
}

static void truncations_count_as_changes(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f"), *left_inode;
    write_fill(disk, inode, 0, 4096, 1, true);
    sim_inode_sync(disk, inode, sim_disk_sequence(disk));
    assert_int_equal(sim_disk_open(disk, "f", O_TRUNC, &inode), 0);
    assert_true(inode->volatile_image.size_bytes == 0);
    bool seen_old = false, seen_new = false;
    for (unsigned seed = 0; seed < 64; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *left = sim_disk_crash(disk, &random);
        assert_int_equal(sim_disk_open(left, "f", 0, &left_inode), 0);
        uint64_t size = left_inode->volatile_image.size_bytes;
        assert_true(size == 0 || size == 4096);
        *(size ? &seen_old : &seen_new) = true;
        sim_disk_free(left);
    }
    assert_true(seen_old && seen_new);
    sim_disk_free(disk);
}

static void a_killed_program_leaves_what_it_saw(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f"), *left_inode;
    write_fill(disk, inode, 0, 512, 1, false);
    uint8_t flying[512];
    memset(flying, 2, sizeof(flying));
    (void)write_begin(inode, 512, flying, sizeof(flying));
    bool landed = false, lost = false;
    for (unsigned seed = 0; seed < 32; seed++) {
        struct random random = random_seed(seed);
        struct sim_disk *left = sim_disk_kill(disk, &random);
        assert_int_equal(sim_disk_open(left, "f", 0, &left_inode), 0);
        assert_int_equal(byte_at(&left_inode->volatile_image, 0), 1);
        assert_int_equal(byte_at(&left_inode->durable_image, 0), 0);
        *(byte_at(&left_inode->volatile_image, 512) == 2 ? &landed : &lost) = true;
        sim_inode_sync(left, left_inode, sim_disk_sequence(left));
        assert_int_equal(byte_at(&left_inode->durable_image, 0), 1);
        sim_disk_free(left);
    }
    assert_true(landed && lost);
    sim_disk_free(disk);
}

static void buffers_changed_in_flight_give_a_mixture(void **state)
{
    struct sim_disk *disk = sim_disk_new();
    struct sim_inode *inode = file_of(disk, "f");
    uint8_t bytes[64 * 512];
    memset(bytes, 1, sizeof(bytes));
    struct sim_op *op = write_begin(inode, 0, bytes, sizeof(bytes));
    memset(bytes, 2, sizeof(bytes));
    write_complete(disk, op, bytes, false);
    unsigned count[3] = {0};
    for (unsigned i = 0; i < 64; i++)
        count[byte_at(&inode->volatile_image, i * 512)]++;
    assert_true(count[0] == 0 && count[1] > 5 && count[2] > 5);
    sim_disk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_hold_what_a_flat_array_would),
        cmocka_unit_test(images_are_sparse_and_tell_holes_from_data),
        cmocka_unit_test(copies_of_images_share_pages_but_not_changes),
        cmocka_unit_test(names_are_cleaned_and_held_to_folders),
        cmocka_unit_test(names_become_durable_with_a_sync_or_a_rename),
        cmocka_unit_test(a_sync_covers_what_completed_before_it_began),
        cmocka_unit_test(a_failed_sync_loses_changes_for_good),
        cmocka_unit_test(written_through_bytes_win_over_older_unsynced_ones),
        cmocka_unit_test(crashes_show_every_subset_of_unsynced_sectors),
        cmocka_unit_test(crashes_are_chosen_by_the_seed_alone),
        cmocka_unit_test(truncations_count_as_changes),
        cmocka_unit_test(a_killed_program_leaves_what_it_saw),
        cmocka_unit_test(buffers_changed_in_flight_give_a_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
