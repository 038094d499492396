/*
 * Each command does what SPC-4 and SBC-4 say, in the simulator.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/scsi_test_case.h"

#define SIZE (8 * MiB)

static uint8_t data[IO_MAX], back[IO_MAX];

static struct outcome co_in(const uint8_t *cdb, size_t cdb_length, size_t room)
{
    memset(back, 0xee, sizeof(back));
    return co_send(bed.lun[0], cdb, cdb_length, NULL, 0, back, room);
}

static struct outcome co_out(const uint8_t *cdb, size_t cdb_length, size_t length)
{
    return co_send(bed.lun[0], cdb, cdb_length, data, length, NULL, 0);
}

static void fill(uint8_t seed, size_t length)
{
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(seed + i * 7 + i / 251);
}

static const struct scsi_disk_options blocks_4096 = {.block_bytes = 4096};
static const struct scsi_disk_options read_only = {.read_only = true};

/* ---- what the disk is ---- */

TEST(inquiry_names_the_disk, NULL)
{
    CHECK_GOOD(co_in(CDB(0x12, 0, 0, 0, 96, 0), 255));
    CHECK_EQUAL(back[0], 0);
    CHECK_EQUAL(back[2], 6);
    CHECK_EQUAL(back[4], 91);
    CHECK(!memcmp(back + 8, "HAWSER  HAWSER DISK     0.1 ", 28));
    struct outcome o = co_in(CDB(0x12, 0, 0, 0, 5, 0), 255);
    CHECK_EQUAL(o.length, 5);
    CHECK_EQUAL(o.residual, -250);
    o = co_in(CDB(0x12, 0, 0, 0, 96, 0), 36);
    CHECK_EQUAL(o.length, 36);
    CHECK_EQUAL(o.residual, 60);
    CHECK_SENSE(co_in(CDB(0x12, 0, 0x80, 0, 96, 0), 96), 5, ASC_INVALID_FIELD_IN_CDB);
}

TEST(every_listed_log_page_answers, NULL)
{
    uint8_t list[64];
    CHECK_GOOD(co_in(CDB(0x4d, 0, 0x40, 0xff, 0, 0, 0, 1, 0, 0), 256));
    size_t length = load_be16(back + 2);
    CHECK(back[0] == 0x40 && back[1] == 0xff && length >= 4 && length <= sizeof(list));
    memcpy(list, back + 4, length);
    for (size_t i = 0; i < length; i += 2) {
        const uint8_t cdb[] = {0x4d, 0, 0x40 | list[i], list[i + 1], 0, 0, 0, 1, 0, 0};
        struct outcome o = co_in(cdb, sizeof(cdb), 256);
        CHECK_GOOD(o);
        CHECK_EQUAL(back[0] & 0x3f, list[i]);
        CHECK_EQUAL(back[1], list[i + 1]);
        CHECK_EQUAL(o.length, 4u + load_be16(back + 2));
    }
    CHECK_GOOD(co_in(CDB(0x4d, 0, 0x40, 0, 0, 0, 0, 1, 0, 0), 256));
    CHECK_EQUAL(load_be16(back + 2), 2);
    CHECK(back[4] == 0x00 && back[5] == 0x2f);
    CHECK_GOOD(co_in(CDB(0x4d, 0, 0x6f, 0, 0, 0, 0, 1, 0, 0), 256));
    CHECK_EQUAL(load_be16(back + 4), 0); /* the general parameter */
    CHECK_EQUAL(load_be16(back + 8), 0); /* no exception */
    CHECK_EQUAL(back[10], 0xff);         /* no thermometer */
    CHECK_EQUAL(co_in(CDB(0x4d, 0, 0x6f, 0, 0, 0, 0, 0, 6, 0), 256).length, 6);
    CHECK_SENSE(co_in(CDB(0x4d, 0, 0x4d, 0, 0, 0, 0, 1, 0, 0), 256), 5, ASC_INVALID_FIELD_IN_CDB);
    CHECK_SENSE(co_in(CDB(0x4d, 0, 0x6f, 1, 0, 0, 0, 1, 0, 0), 256), 5, ASC_INVALID_FIELD_IN_CDB);
    CHECK_SENSE(co_in(CDB(0x4d, 1, 0x40, 0, 0, 0, 0, 1, 0, 0), 256), 5, ASC_INVALID_FIELD_IN_CDB);
}

TEST(medium_removal_may_be_prevented, NULL)
{
    CHECK_GOOD(co_in(CDB(0x1e, 0, 0, 0, 1, 0), 0));
    CHECK_GOOD(co_in(CDB(0x1e, 0, 0, 0, 0, 0), 0));
    CHECK_SENSE(co_in(CDB(0x1e, 0, 0, 0, 4, 0), 0), 5, ASC_INVALID_FIELD_IN_CDB);
}

TEST(every_listed_vital_product_page_answers, NULL)
{
    uint8_t list[32];
    CHECK_GOOD(co_in(CDB(0x12, 1, 0, 0, 255, 0), 255));
    unsigned count = back[3];
    CHECK(count >= 7 && count < sizeof(list));
    memcpy(list, back + 4, count);
    for (unsigned i = 0; i < count; i++) {
        const uint8_t cdb[] = {0x12, 1, list[i], 1, 0, 0};
        struct outcome o = co_in(cdb, sizeof(cdb), 256);
        CHECK_GOOD(o);
        CHECK_EQUAL(back[1], list[i]);
        CHECK_EQUAL(load_be16(back + 2) + 4, o.length);
        CHECK(i == 0 || list[i] > list[i - 1]);
    }
    CHECK_SENSE(co_in(CDB(0x12, 1, 0xb6, 0, 255, 0), 255), 5, ASC_INVALID_FIELD_IN_CDB);
}

TEST(identification_page_is_well_formed_and_stable, NULL)
{
    struct outcome o = co_in(CDB(0x12, 1, 0x83, 1, 0, 0), 256);
    uint8_t naa[8];
    scsi_disk_naa(bed.disk, naa);
    CHECK_EQUAL(naa[0] >> 4, 3);
    size_t at = 4;
    while (at < o.length) {
        if (back[at + 1] == 3)
            CHECK(!memcmp(back + at + 4, naa, 8));
        at += 4u + back[at + 3];
    }
    CHECK_EQUAL(at, o.length);
    CHECK_EQUAL(strlen(scsi_disk_serial(bed.disk)), 32);
    /* Never to change: initiators know volumes by it. */
    CHECK(!strcmp(scsi_disk_serial(bed.disk), "cce1b79a8134fed56de3d97502423efe"));
}

TEST(capacity_is_that_of_the_image, NULL)
{
    CHECK_GOOD(co_in(CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), 8));
    CHECK_EQUAL(load_be32(back), SIZE / 512 - 1);
    CHECK_EQUAL(load_be32(back + 4), 512);
    CHECK_GOOD(co_in(CDB(0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), 32));
    CHECK_EQUAL(load_be64(back), SIZE / 512 - 1);
    CHECK_EQUAL(back[13], 3);
    CHECK_EQUAL(back[14], 0xc0);
}

TEST(capacity_counts_4096_byte_blocks, &blocks_4096)
{
    CHECK_GOOD(co_in(CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), 8));
    CHECK_EQUAL(load_be32(back), SIZE / 4096 - 1);
    CHECK_EQUAL(load_be32(back + 4), 4096);
}

TEST(resize_is_told_to_everybody_once, NULL)
{
    CHECK_EQUAL(co_root_resize(bed.root, SIZE * 2, NULL), 0);
    scsi_disk_resized(bed.disk);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_SENSE(co_send(bed.lun[i], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0), 6,
                    ASC_CAPACITY_CHANGED);
        CHECK_GOOD(co_send(bed.lun[i], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0));
    }
    CHECK_GOOD(co_in(CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), 8));
    CHECK_EQUAL(load_be32(back), 2 * SIZE / 512 - 1);
}

/* ---- the medium ---- */

TEST(every_read_sees_what_every_write_wrote, NULL)
{
    static const uint8_t writes[] = {0x0a, 0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e};
    static const uint8_t reads[] = {0x08, 0x28, 0xa8, 0x88};
    for (unsigned w = 0; w < ARRAY_LEN(writes); w++) {
        for (unsigned r = 0; r < ARRAY_LEN(reads); r++) {
            const uint8_t ops[2] = {writes[w], reads[r]};
            fill((uint8_t)(w * 4 + r), 2048);
            for (unsigned i = 0; i < 2; i++) {
                uint8_t cdb[16] = {ops[i]};
                size_t length = ops[i] < 0x20 ? 6 : ops[i] < 0x60 ? 10 : ops[i] < 0xa0 ? 16 : 12;
                cdb[length == 6 ? 3 : length == 16 ? 9 : 5] = 9;
                cdb[length == 6 ? 4 : length == 10 ? 8 : length == 12 ? 9 : 13] = 4;
                CHECK_GOOD(i == 0 ? co_out(cdb, length, 2048) : co_in(cdb, length, 2048));
            }
            CHECK(!memcmp(data, back, 2048));
        }
    }
}

TEST(transfers_beyond_the_end_are_refused, NULL)
{
    CHECK_SENSE(co_in(CDB(0x28, 0, 0, 0, 0x40, 0, 0, 0, 1, 0), 512), 5, ASC_LBA_OUT_OF_RANGE);
    CHECK_SENSE(co_in(CDB(0x28, 0, 0, 0, 0x3f, 0xff, 0, 0, 2, 0), 1024), 5, ASC_LBA_OUT_OF_RANGE);
    CHECK_SENSE(co_in(CDB(0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 0, 0), 512),
                5, ASC_LBA_OUT_OF_RANGE);
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0x3f, 0xff, 0, 0, 1, 0), 512));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0));
}

TEST(a_write_with_too_little_data_writes_nothing, NULL)
{
    fill(1, 1024);
    struct outcome o = co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0), 512);
    CHECK_SENSE(o, 5, ASC_INVALID_FIELD_IN_INFORMATION_UNIT);
    CHECK_EQUAL(o.residual, 512);
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0), 1024));
    CHECK(buffer_is_zero(back, 1024));
}

TEST(read_only_media_refuse_writes, &read_only)
{
    CHECK_SENSE(co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512), 7, ASC_WRITE_PROTECTED);
    CHECK_GOOD(co_in(CDB(0x1a, 8, 8, 0, 255, 0), 255));
    CHECK_EQUAL(back[2], 0x90);
}

TEST(verify_compares, NULL)
{
    fill(3, 1024);
    CHECK_GOOD(co_out(CDB(0x2a, 0, 0, 0, 0, 4, 0, 0, 2, 0), 1024));
    CHECK_GOOD(co_out(CDB(0x2f, 0, 0, 0, 0, 4, 0, 0, 2, 0), 0));
    CHECK_GOOD(co_out(CDB(0x2f, 2, 0, 0, 0, 4, 0, 0, 2, 0), 1024));
    CHECK_SENSE(co_out(CDB(0x2f, 4, 0, 0, 0, 4, 0, 0, 2, 0), 1024), 5, ASC_INVALID_FIELD_IN_CDB);
    data[700] ^= 1;
    struct outcome o = co_out(CDB(0x2f, 2, 0, 0, 0, 4, 0, 0, 2, 0), 1024);
    CHECK_SENSE(o, 0xe, ASC_MISCOMPARE);
    CHECK_EQUAL(load_be32(o.sense + 3), 700);
    CHECK_GOOD(co_out(CDB(0x2f, 6, 0, 0, 0, 4, 0, 0, 1, 0), 512));
    CHECK_SENSE(co_out(CDB(0x2f, 6, 0, 0, 0, 4, 0, 0, 2, 0), 512), 0xe, ASC_MISCOMPARE);
}

TEST(compare_and_write_swaps_only_what_matches, NULL)
{
    fill(9, 1024);
    memset(data, 0, 512);
    CHECK_GOOD(co_out(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0), 1024));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0), 512));
    CHECK(!memcmp(back, data + 512, 512));
    struct outcome o = co_out(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0), 1024);
    CHECK_SENSE(o, 0xe, ASC_MISCOMPARE);
    CHECK_SENSE(co_out(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0), 1023), 5,
                ASC_INVALID_FIELD_IN_INFORMATION_UNIT);
    CHECK_GOOD(co_out(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0), 0));
}

TEST(data_that_does_not_fit_the_command_is_refused, NULL)
{
    fill(9, 2048);
    CHECK_SENSE(co_out(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0), 2048), 5,
                ASC_INVALID_FIELD_IN_CDB);
    CHECK_SENSE(co_out(CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0), 1024), 5,
                ASC_INVALID_FIELD_IN_CDB);
    CHECK_SENSE(co_out(CDB(0x93, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0), 1024), 5,
                ASC_INVALID_FIELD_IN_INFORMATION_UNIT);
    CHECK_SENSE(co_out(CDB(0x41, 8, 0, 0, 0, 5, 0, 0, 1, 0), 256), 5,
                ASC_INVALID_FIELD_IN_INFORMATION_UNIT);
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0), 512));
    CHECK(buffer_is_zero(back, 512));
}

TEST(orwrite_sets_bits, NULL)
{
    memset(data, 0x0f, 512);
    CHECK_GOOD(co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512));
    memset(data, 0x31, 512);
    CHECK_GOOD(co_out(CDB(0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), 512));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512));
    memset(data, 0x3f, 512);
    CHECK(!memcmp(back, data, 512));
}

TEST(write_same_repeats_its_block, NULL)
{
    fill(77, 512);
    CHECK_GOOD(co_out(CDB(0x41, 0, 0, 0, 0, 1, 0, 2, 1, 0), 512));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 2, 3, 0), 515 * 512));
    CHECK(buffer_is_zero(back, 512) && buffer_is_zero(back + 514 * 512, 512));
    for (unsigned i = 1; i < 514; i++)
        CHECK(!memcmp(back + i * 512, data, 512));
    /* NDOB: zeroes without data; UNMAP with zeroes */
    CHECK_GOOD(co_out(CDB(0x93, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0), 0));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 8, 0, 0, 17, 0), 17 * 512));
    CHECK(buffer_is_zero(back, 16 * 512) && !memcmp(back + 16 * 512, data, 512));
    CHECK_SENSE(co_out(CDB(0x41, 0, 0, 0, 0, 1, 0, 0, 0, 0), 512), 5, ASC_INVALID_FIELD_IN_CDB);
    CHECK_SENSE(co_out(CDB(0x41, 0x10, 0, 0, 0, 1, 0, 0, 1, 0), 512), 5, ASC_INVALID_FIELD_IN_CDB);
}

static void unmap_list(unsigned count, uint64_t lba, uint32_t blocks)
{
    memset(data, 0, 8 + 16 * count);
    store_be16(data, (uint16_t)(6 + 16 * count));
    store_be16(data + 2, (uint16_t)(16 * count));
    for (unsigned i = 0; i < count; i++) {
        store_be64(data + 8 + 16 * i, lba);
        store_be32(data + 16 + 16 * i, blocks);
    }
}

TEST(unmapped_blocks_read_as_zeroes_and_show_it, NULL)
{
    fill(5, 65536);
    CHECK_GOOD(co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 128, 0), 65536));
    unmap_list(1, 0, 128);
    CHECK_GOOD(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 24));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 128, 0), 65536));
    CHECK(buffer_is_zero(back, 65536));
    CHECK_GOOD(co_in(CDB(0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0), 24));
    CHECK_EQUAL(back[20] & 0x0f, 1);
    CHECK(load_be32(back + 16) >= 128);
}

TEST(unmapped_parts_of_clusters_read_as_zeroes_too, NULL)
{
    fill(5, 65536);
    CHECK_GOOD(co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 128, 0), 65536));
    for (uint32_t count = 1; count < 128; count += 21) {
        unmap_list(1, 0, count);
        CHECK_GOOD(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 24));
        CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 128, 0), 65536));
        CHECK(buffer_is_zero(back, count * 512));
        CHECK(!buffer_is_zero(back + count * 512, 512));
    }
}

TEST(unmapping_no_blocks_is_no_error_wherever, NULL)
{
    unmap_list(1, SIZE / 512, 0);
    CHECK_GOOD(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 24));
    unmap_list(1, UINT64_MAX, 0);
    CHECK_GOOD(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 24));
}

TEST(unmap_lists_are_checked_before_anything_goes, NULL)
{
    fill(5, 512);
    CHECK_GOOD(co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512));
    unmap_list(2, 0, 1);
    store_be64(data + 24, SIZE / 512);
    CHECK_SENSE(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), 40), 5, ASC_LBA_OUT_OF_RANGE);
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512));
    CHECK(!buffer_is_zero(back, 512));
    unmap_list(1, 0, 1);
    CHECK_SENSE(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 23, 0), 24), 5, ASC_PARAMETER_LIST_LENGTH);
    CHECK_SENSE(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 23), 5, ASC_PARAMETER_LIST_LENGTH);
    CHECK_SENSE(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0), 8), 5, ASC_PARAMETER_LIST_LENGTH);
    CHECK_GOOD(co_out(CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0));
}

TEST(format_unit_empties_the_disk, NULL)
{
    fill(5, 4096);
    CHECK_GOOD(co_out(CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0), 4096));
    memset(data, 0, 8);
    CHECK_GOOD(co_out(CDB(0x04, 0x10, 0, 0, 0, 0), 4));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0), 4096));
    CHECK(buffer_is_zero(back, 4096));
    CHECK_SENSE(co_out(CDB(0x04, 0x10, 0, 0, 0, 0), 3), 5, ASC_PARAMETER_LIST_LENGTH);
    CHECK_SENSE(co_out(CDB(0x04, 0x80, 0, 0, 0, 0), 3), 5, ASC_INVALID_FIELD_IN_CDB);
    data[1] = 0x88; /* FOV, IP */
    CHECK_SENSE(co_out(CDB(0x04, 0x10, 0, 0, 0, 0), 4), 5, ASC_INVALID_FIELD_IN_PARAMETERS);
}

TEST(a_stopped_unit_does_not_read, NULL)
{
    CHECK_GOOD(co_out(CDB(0x1b, 0, 0, 0, 0, 0), 0));
    CHECK_SENSE(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512), 2, ASC_NOT_READY_START_NEEDED);
    CHECK_GOOD(co_in(CDB(0x03, 0, 0, 0, 18, 0), 18));
    CHECK_EQUAL(back[2], 2);
    CHECK_GOOD(co_out(CDB(0x1b, 0, 0, 0, 1, 0), 0));
    CHECK_GOOD(co_in(CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 512));
}

TEST(caches_synchronise_and_prefetch_within_the_disk, NULL)
{
    CHECK_GOOD(co_out(CDB(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0));
    CHECK_GOOD(co_out(CDB(0x91, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0), 0));
    CHECK_GOOD(co_out(CDB(0x34, 0, 0, 0, 0, 0, 0, 0, 1, 0), 0));
    CHECK_SENSE(co_out(CDB(0x35, 0, 0, 0, 0x40, 0, 0, 0, 0, 0), 0), 5, ASC_LBA_OUT_OF_RANGE);
    CHECK_SENSE(co_out(CDB(0x90, 0, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0), 0), 5,
                ASC_LBA_OUT_OF_RANGE);
}

/* ---- mode pages ---- */

TEST(the_write_cache_can_be_switched_off, NULL)
{
    CHECK_GOOD(co_in(CDB(0x1a, 0, 0x08, 0, 255, 0), 255));
    CHECK_EQUAL(back[0], 3 + 8 + 20);
    CHECK_EQUAL(back[3], 8);
    CHECK_EQUAL(back[12 + 2] & 4, 4);
    memcpy(data, back, 32);
    data[0] = 0;
    data[2] = 0;
    data[12 + 2] &= (uint8_t)~4;
    CHECK_GOOD(co_out(CDB(0x15, 0x10, 0, 0, 32, 0), 32));
    CHECK(!scsi_disk_write_cache(bed.disk));
    CHECK_SENSE(co_send(bed.lun[1], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0), 6, ASC_MODE_CHANGED);
    CHECK_GOOD(co_out(CDB(0, 0, 0, 0, 0, 0), 0));
    CHECK_GOOD(co_in(CDB(0x1a, 8, 0x88, 0, 255, 0), 255)); /* the default stays */
    CHECK_EQUAL(back[4 + 2] & 4, 4);
    CHECK_GOOD(co_in(CDB(0x1a, 8, 0x48, 0, 255, 0), 255)); /* changeable */
    CHECK_EQUAL(back[4 + 2], 4);
}

TEST(mode_select_refuses_what_cannot_change, NULL)
{
    CHECK_GOOD(co_in(CDB(0x5a, 8, 0x3f, 0, 0, 0, 0, 1, 0, 0), 256));
    size_t length = load_be16(back) + 2u;
    memset(data, 0, 8);
    memcpy(data + 8, back + 8, length - 8);
    const uint8_t select[] = {0x55, 0x10, 0, 0, 0, 0, 0, 0, (uint8_t)length, 0};
    CHECK_GOOD(co_out(select, sizeof(select), length));
    unsigned allowed = 0;
    for (size_t i = 0; i < length * 8; i++) {
        data[i / 8] ^= (uint8_t)(1u << (i % 8));
        struct outcome o = co_out(select, sizeof(select), length);
        data[i / 8] ^= (uint8_t)(1u << (i % 8));
        if (i / 8 >= 8 && o.status == SCSI_GOOD)
            allowed++;
        settle(bed.lun[0]);
        (void)co_out(select, sizeof(select), length);
    }
    CHECK_EQUAL(allowed, 3); /* WCE, D_SENSE, SWP */
    for (size_t cut = 1; cut < length; cut++) {
        const uint8_t shorter[] = {0x55, 0x10, 0, 0, 0, 0, 0, 0, (uint8_t)cut, 0};
        struct outcome o = co_out(shorter, sizeof(shorter), cut);
        CHECK(o.status == SCSI_GOOD || o.asc == ASC_PARAMETER_LIST_LENGTH);
    }
}

TEST(descriptor_sense_when_asked_for, NULL)
{
    static const uint8_t list[] = {0, 0, 0, 0, 0x0a, 0x0a, 0x06, 0x10,
                                   0, 0, 0, 0, 0xff, 0xff, 0,    0};
    memcpy(data, list, sizeof(list));
    CHECK_GOOD(co_out(CDB(0x15, 0x10, 0, 0, sizeof(list), 0), sizeof(list)));
    struct outcome o = co_in(CDB(0x28, 0xe0, 0, 0, 0, 0, 0, 0, 1, 0), 512);
    CHECK_SENSE(o, 5, ASC_INVALID_FIELD_IN_CDB);
    CHECK_EQUAL(o.sense[0], 0x72);
    CHECK_EQUAL(o.sense[8], 0x02);
    CHECK_EQUAL(o.sense[12], 0xcf);
    CHECK_EQUAL(load_be16(o.sense + 13), 1);
}

/* ---- what is supported ---- */

TEST(operation_codes_are_reported_as_they_are, NULL)
{
    CHECK_GOOD(co_in(CDB(0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0x20, 0, 0, 0), 8192));
    size_t length = load_be32(back);
    CHECK_EQUAL(length % 20, 0);
    CHECK_EQUAL(length / 20, command_count - 1); /* SET TARGET PORT GROUPS is off */
    for (unsigned i = 0; i < command_count; i++) {
        const struct command *at = &commands[i];
        uint8_t action = at->service_action < 0 ? 0 : (uint8_t)at->service_action;
        const uint8_t cdb[] = {0xa3, 0x0c, 0x03, at->opcode, 0, action, 0, 0, 1, 0, 0, 0};
        CHECK_GOOD(co_in(cdb, sizeof(cdb), 256));
        if (at->opcode == OP_MAINTENANCE_OUT) {
            CHECK_EQUAL(back[1] & 7, 1);
            continue;
        }
        CHECK_EQUAL(back[1] & 7, 3);
        CHECK_EQUAL(load_be16(back + 2), at->length);
        CHECK_EQUAL(back[4], at->opcode);
    }
    CHECK_GOOD(co_in(CDB(0xa3, 0x0c, 0x01, 0xff, 0, 0, 0, 0, 1, 0, 0, 0), 256));
    CHECK_EQUAL(back[1] & 7, 1);
}

TEST(an_unmapped_lun_answers_what_it_must, NULL)
{
    struct iovec iov;
    uint8_t cdb[12] = {0x12, 0, 0, 0, 96};
    struct scsi_task task = {.cdb = cdb, .cdb_length = 6, .data_in = sgl_one(&iov, back, 256)};
    co_scsi_execute(bed.nexus[0], NULL, &task);
    CHECK_EQUAL(task.status, SCSI_GOOD);
    CHECK_EQUAL(back[0], 0x7f);
    memset(cdb, 0, sizeof(cdb));
    co_scsi_execute(bed.nexus[0], NULL, &task);
    CHECK_EQUAL(task.status, SCSI_CHECK_CONDITION);
    CHECK_EQUAL(load_be16(task.sense + 12), ASC_LUN_NOT_SUPPORTED);
    cdb[0] = 0xa0;
    cdb[9] = 64;
    task.cdb_length = 12;
    co_scsi_execute(bed.nexus[0], NULL, &task);
    CHECK_EQUAL(task.status, SCSI_GOOD);
    CHECK_EQUAL(load_be32(back), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inquiry_names_the_disk),
        cmocka_unit_test(every_listed_log_page_answers),
        cmocka_unit_test(medium_removal_may_be_prevented),
        cmocka_unit_test(every_listed_vital_product_page_answers),
        cmocka_unit_test(identification_page_is_well_formed_and_stable),
        cmocka_unit_test(capacity_is_that_of_the_image),
        cmocka_unit_test(capacity_counts_4096_byte_blocks),
        cmocka_unit_test(resize_is_told_to_everybody_once),
        cmocka_unit_test(every_read_sees_what_every_write_wrote),
        cmocka_unit_test(transfers_beyond_the_end_are_refused),
        cmocka_unit_test(a_write_with_too_little_data_writes_nothing),
        cmocka_unit_test(read_only_media_refuse_writes),
        cmocka_unit_test(verify_compares),
        cmocka_unit_test(compare_and_write_swaps_only_what_matches),
        cmocka_unit_test(data_that_does_not_fit_the_command_is_refused),
        cmocka_unit_test(orwrite_sets_bits),
        cmocka_unit_test(write_same_repeats_its_block),
        cmocka_unit_test(unmapped_blocks_read_as_zeroes_and_show_it),
        cmocka_unit_test(unmapped_parts_of_clusters_read_as_zeroes_too),
        cmocka_unit_test(unmapping_no_blocks_is_no_error_wherever),
        cmocka_unit_test(unmap_lists_are_checked_before_anything_goes),
        cmocka_unit_test(format_unit_empties_the_disk),
        cmocka_unit_test(a_stopped_unit_does_not_read),
        cmocka_unit_test(caches_synchronise_and_prefetch_within_the_disk),
        cmocka_unit_test(the_write_cache_can_be_switched_off),
        cmocka_unit_test(mode_select_refuses_what_cannot_change),
        cmocka_unit_test(descriptor_sense_when_asked_for),
        cmocka_unit_test(operation_codes_are_reported_as_they_are),
        cmocka_unit_test(an_unmapped_lun_answers_what_it_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
