/*
 * EXTENDED COPY between the disks that a nexus sees and no others, its results, and access states
 * of ports. In the simulator.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/scsi_test.h"

#define SIZE  (2 * MiB)
#define BLOCK 512

static struct bed bed;
static struct block_root *other_root;
static struct scsi_disk *other, *hidden;
static struct scsi_lun *second; /* `other`, as LUN 5 of nexus 0 only */
static uint8_t data[65536], back[65536], list[2048];

static void co_open_all(void)
{
    struct scsi_disk_options options = {.name = "other", .block_bytes = 4096};
    struct hws_error err = {0};
    bed_open(&bed, SIZE, NULL);
    other_root = co_root_open(SIZE, false);
    CHECK_EQUAL(scsi_disk_new(other_root, &options, &other, &err), 0);
    options.name = "hidden";
    CHECK_EQUAL(scsi_disk_new(other_root, &options, &hidden, &err), 0);
    CHECK_EQUAL(scsi_map(bed.nexus[0], 5, other, &second), 0);
    settle(bed.lun[0]);
    settle(second);
}

static void co_close_all(void)
{
    co_scsi_unmap(second);
    scsi_disk_free(other);
    scsi_disk_free(hidden);
    CHECK_EQUAL(co_block_root_free(other_root, NULL), 0);
    co_bed_close(&bed);
}

static void run(co_fn *body)
{
    struct sim_options options = {.seed = 5, .latency_max_ns = 1};
    struct rt *rt;
    CHECK_EQUAL(sim_create(&options, &rt), 0);
    CHECK_EQUAL(rt_run(rt, body, NULL), 0);
    rt_free(rt);
}

#define TEST(name)                    \
    static void co_body_##name(void); \
    static void co_##name(void *arg)  \
    {                                 \
        co_open_all();                \
        co_body_##name();             \
        co_close_all();               \
    }                                 \
    static void name(void **state)    \
    {                                 \
        run(co_##name);               \
    }                                 \
    static void co_body_##name(void)

static void put_cscd(unsigned index, const struct scsi_disk *disk)
{
    uint8_t *d = list + 16 + 32 * index;
    d[0] = 0xe4;
    d[4] = 1;
    d[5] = 3;
    d[7] = 8;
    scsi_disk_naa(disk, d + 8);
}

/* A list with two CSCDs and one segment. @return its length. */
static size_t make_list(const struct scsi_disk *from, const struct scsi_disk *to, uint64_t from_lba,
                        uint64_t to_lba, uint16_t count)
{
    memset(list, 0, sizeof(list));
    list[0] = 42;
    store_be16(list + 2, 64);
    store_be32(list + 8, 28);
    put_cscd(0, from);
    put_cscd(1, to);
    uint8_t *s = list + 16 + 64;
    s[0] = 0x02;
    s[3] = 24;
    s[7] = 1;
    store_be16(s + 10, count);
    store_be64(s + 12, from_lba);
    store_be64(s + 20, to_lba);
    return 16 + 64 + 28;
}

static struct outcome co_copy(size_t length)
{
    uint8_t cdb[16] = {0x83};
    store_be32(cdb + 10, (uint32_t)length);
    return co_send(bed.lun[0], cdb, 16, list, length, NULL, 0);
}

static void co_fill_source(void)
{
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 31 + i / 997);
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 128, 0), data, 65536, NULL, 0));
}

TEST(blocks_are_copied_between_block_sizes)
{
    co_fill_source();
    CHECK_GOOD(co_copy(make_list(bed.disk, other, 8, 3, 64)));
    CHECK_GOOD(co_send(second, CDB(0x28, 0, 0, 0, 0, 3, 0, 0, 8, 0), NULL, 0, back, 32768));
    CHECK(!memcmp(back, data + 4096, 32768));
    /* not a whole number of the other's blocks */
    CHECK_SENSE(co_copy(make_list(bed.disk, other, 8, 3, 63)), 5, ASC_INVALID_FIELD_IN_PARAMETERS);
    CHECK_SENSE(co_copy(make_list(bed.disk, other, 8, SIZE / 4096, 8)), 0xa, ASC_NONE);
    struct outcome o = co_copy(make_list(bed.disk, other, UINT64_MAX, 0, 8));
    CHECK_SENSE(o, 0xa, ASC_NONE);
    CHECK_EQUAL(load_be16(o.sense + 16), 16 + 2 * 32 + 12); /* the source's address is at fault */
}

TEST(lists_are_refused_for_what_is_wrong_with_them)
{
    size_t length = make_list(bed.disk, other, 8, 3, 64), segment = 16 + 2 * 32;
    list[segment] = 0x03; /* stream to stream, which is shorter */
    store_be32(list + 8, 20);
    CHECK_SENSE(co_copy(length - 8), 5, ASC_BAD_SEGMENT_TYPE);
    length = make_list(bed.disk, other, 8, 3, 64);
    store_be32(list + 8, 27);
    CHECK_SENSE(co_copy(length - 1), 5, ASC_INVALID_FIELD_IN_PARAMETERS);
    length = make_list(bed.disk, other, 8, 3, 64);
    store_be16(list + segment + 6, 2); /* there are two CSCDs: 0 and 1 */
    CHECK_SENSE(co_copy(length), 0xa, ASC_COPY_TARGET_NOT_REACHABLE);
    length = make_list(bed.disk, other, 8, 3, 64);
    list[16] = 0xe0; /* a Fibre Channel name */
    CHECK_SENSE(co_copy(length), 5, ASC_BAD_TARGET_TYPE);
    length = make_list(bed.disk, other, 8, 3, 64);
    list[16 + 1] = 0x20; /* NUL */
    CHECK_SENSE(co_copy(length), 5, ASC_INVALID_FIELD_IN_PARAMETERS);
    length = make_list(bed.disk, other, 8, 3, 64);
    list[16 + 1] = 0xc0; /* LU ID TYPE means nothing for an identification descriptor */
    CHECK_GOOD(co_copy(length));
}

TEST(overlapping_copies_are_as_if_read_first)
{
    for (int shift = -9; shift <= 9; shift += 6) {
        co_fill_source();
        CHECK_GOOD(co_copy(make_list(bed.disk, bed.disk, 20, (uint64_t)(20 + shift), 64)));
        uint8_t cdb[10] = {0x28, 0, 0, 0, 0, (uint8_t)(20 + shift), 0, 0, 64, 0};
        CHECK_GOOD(co_send(bed.lun[0], cdb, 10, NULL, 0, back, 64 * BLOCK));
        CHECK(!memcmp(back, data + 20 * BLOCK, 64 * BLOCK));
    }
}

TEST(a_disk_that_the_nexus_does_not_see_is_out_of_reach)
{
    co_fill_source();
    size_t length = make_list(bed.disk, hidden, 0, 0, 8);
    CHECK_SENSE(co_copy(length), SCSI_KEY_COPY_ABORTED, ASC_COPY_TARGET_NOT_REACHABLE);
    /* Nexus 1 sees the first disk, but not the other one, which nexus 0 does. */
    length = make_list(bed.disk, other, 0, 0, 8);
    uint8_t cdb[16] = {0x83};
    store_be32(cdb + 10, (uint32_t)length);
    CHECK_SENSE(co_send(bed.lun[1], cdb, 16, list, length, NULL, 0), SCSI_KEY_COPY_ABORTED,
                ASC_COPY_TARGET_NOT_REACHABLE);
    CHECK_GOOD(co_send(second, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0), NULL, 0, back, 32768));
    CHECK(buffer_is_zero(back, 32768));
}

static bool write_allowed, read_allowed;
static unsigned times_asked;

static bool co_ask(void *arg, uint16_t asked, uint16_t to, bool write)
{
    CHECK(arg == &times_asked && asked == 0 && to == 5);
    times_asked++;
    co_yield ();
    return write ? write_allowed : read_allowed;
}

TEST(where_a_nexus_stands_for_many_its_owner_says_what_is_seen_together)
{
    co_fill_source();
    bed.nexus[0]->co_may_copy = co_ask;
    bed.nexus[0]->may_copy_arg = &times_asked;
    write_allowed = false;
    read_allowed = true;
    CHECK_SENSE(co_copy(make_list(bed.disk, other, 0, 0, 8)), SCSI_KEY_COPY_ABORTED,
                ASC_COPY_TARGET_NOT_REACHABLE);
    CHECK_GOOD(co_copy(make_list(other, bed.disk, 0, 0, 1)));
    write_allowed = true;
    read_allowed = false;
    CHECK_SENSE(co_copy(make_list(other, bed.disk, 0, 0, 1)), SCSI_KEY_COPY_ABORTED,
                ASC_COPY_TARGET_NOT_REACHABLE);
    CHECK_GOOD(co_copy(make_list(bed.disk, other, 0, 0, 8)));
    CHECK_EQUAL(times_asked, 4);
    CHECK_GOOD(co_copy(make_list(bed.disk, bed.disk, 0, 64, 8))); /* to itself: not asked */
    CHECK_EQUAL(times_asked, 4);
    bed.nexus[0]->co_may_copy = NULL;
}

TEST(a_copy_may_do_no_more_than_its_initiator)
{
    uint8_t reserve[24] = {0};
    struct scsi_lun *holder;
    co_fill_source();
    CHECK_EQUAL(scsi_map(bed.nexus[2], 9, other, &holder), 0);
    settle(holder);
    store_be64(reserve + 8, 7);
    CHECK_GOOD(co_send(holder, CDB(0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0), reserve, 24, NULL, 0));
    store_be64(reserve, 7);
    CHECK_GOOD(co_send(holder, CDB(0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0), reserve, 24, NULL, 0));
    CHECK_SENSE(co_copy(make_list(bed.disk, other, 0, 0, 8)), SCSI_KEY_COPY_ABORTED,
                ASC_THIRD_PARTY_FAILURE);
    CHECK_GOOD(co_copy(make_list(other, bed.disk, 0, 0, 1))); /* reading is allowed */
    co_scsi_unmap(holder);
}

TEST(every_cut_and_every_flipped_byte_of_a_list_is_survived)
{
    size_t length = make_list(bed.disk, other, 0, 0, 8);
    for (size_t cut = 1; cut < length; cut++)
        CHECK(co_copy(cut).status == SCSI_CHECK_CONDITION);
    for (size_t i = 0; i < length; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            (void)make_list(bed.disk, other, 0, 0, 8);
            list[i] ^= (uint8_t)(1u << bit);
            struct outcome o = co_copy(length);
            CHECK(o.status == SCSI_GOOD || o.status == SCSI_CHECK_CONDITION);
        }
}

TEST(results_can_be_asked_for)
{
    CHECK_GOOD(co_copy(make_list(bed.disk, other, 0, 0, 64)));
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x84, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), NULL,
                       0, back, 64));
    CHECK_EQUAL(back[4], 1);
    CHECK_EQUAL(load_be16(back + 5), 1);
    CHECK_EQUAL(load_be32(back + 8), 32); /* KiB */
    CHECK_SENSE(co_send(bed.lun[0], CDB(0x84, 0, 43, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), NULL,
                        0, back, 64),
                5, ASC_INVALID_FIELD_IN_CDB);
    CHECK(co_copy(make_list(bed.disk, hidden, 0, 0, 64)).status);
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x84, 4, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0), NULL,
                       0, back, 255));
    CHECK_EQUAL(load_be32(back) + 4, 60 + load_be16(back + 58));
    CHECK_EQUAL(back[60 + 2], SCSI_KEY_COPY_ABORTED);
    struct outcome o = co_send(bed.lun[0], CDB(0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0),
                               NULL, 0, back, 255);
    CHECK_GOOD(o);
    CHECK_EQUAL(load_be32(back) + 4, o.length);
    CHECK_EQUAL(back[43], o.length - 44);
}

static bool copied;

static void co_long_copy(void *arg)
{
    struct outcome o = co_copy(make_list(bed.disk, other, 0, 0, SIZE / BLOCK));
    CHECK_EQUAL(o.status, SCSI_TASK_ABORTED);
    copied = true;
}

TEST(a_reset_ends_a_long_copy)
{
    struct range_entry entry;
    copied = false;
    co_range_lock(&other->ranges, &entry, 0, 512, true); /* keeps the first piece in flight */
    CHECK_EQUAL(rt_spawn(NULL, co_long_copy, NULL), 0);
    co_sleep_ns(1000000);
    atomic_fetch_add(&second->epoch, 1); /* what a reset begins with */
    CHECK(!copied);
    range_unlock(&other->ranges, &entry);
    while (!copied)
        co_sleep_ns(1000);
    co_scsi_disk_reset(other);
    CHECK_SENSE(co_send(second, CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0), 6, ASC_DEVICE_RESET);
}

TEST(the_page_of_third_party_copies_says_what_the_copy_manager_takes)
{
    struct outcome o = co_send(bed.lun[0], CDB(0x12, 1, 0x8f, 1, 0, 0), NULL, 0, back, 256);
    static const uint8_t commands_supported[] = {0, 1, 0, 12, 8, 0x83, 1, 0, 0x84, 3, 0, 3, 4};
    CHECK_GOOD(o);
    CHECK_EQUAL(load_be16(back + 2) + 4, o.length);
    CHECK(!memcmp(back + 4, commands_supported, sizeof(commands_supported)));
    /* Each descriptor begins where the one before it ends, and the last one ends the page. */
    static const uint16_t types[] = {0x0001, 0x0004, 0x0008, 0x8001};
    size_t at = 4, found[ARRAY_LEN(types)];
    for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
        CHECK_EQUAL(load_be16(back + at), types[i]);
        CHECK_EQUAL(load_be16(back + at + 2) % 4, 0);
        found[i] = at;
        at += 4u + load_be16(back + at + 2);
    }
    CHECK_EQUAL(at, o.length);
    CHECK_EQUAL(load_be16(back + found[1] + 2), 0x1c);
    CHECK_EQUAL(load_be16(back + found[3] + 2), 0x20);
    /* The same limits as RECEIVE COPY OPERATING PARAMETERS. */
    uint8_t page[64];
    memcpy(page, back + found[1], 32);
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), NULL, 0,
                       back, 64));
    CHECK(!memcmp(page + 8, back + 8, 8));
}

/* ---- access states ---- */

TEST(a_port_that_is_not_active_serves_only_what_it_may)
{
    static const struct {
        enum scsi_access_state state;
        uint16_t asc;
    } states[] = {{SCSI_STANDBY, ASC_NOT_READY_STANDBY},
                  {SCSI_UNAVAILABLE, ASC_NOT_READY_UNAVAILABLE},
                  {SCSI_OFFLINE, ASC_NOT_READY_OFFLINE},
                  {SCSI_TRANSITIONING, ASC_NOT_READY_TRANSITION}};
    for (unsigned i = 0; i < ARRAY_LEN(states); i++) {
        CHECK_EQUAL(scsi_disk_set_access_state(bed.disk, 0, states[i].state), 0);
        CHECK_SENSE(co_send(bed.lun[0], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0), 6,
                    ASC_ACCESS_STATE_CHANGED);
        CHECK_SENSE(co_send(bed.lun[0], CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), NULL, 0, back, 512),
                    2, states[i].asc);
        CHECK_GOOD(co_send(bed.lun[0], CDB(0x12, 0, 0, 0, 96, 0), NULL, 0, back, 96));
        CHECK_GOOD(
            co_send(bed.lun[0], CDB(0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), NULL, 0, back, 64));
        CHECK_EQUAL(back[4] & 0x0f, states[i].state);
        struct outcome o = co_send(bed.lun[0], CDB(0x1a, 8, 8, 0, 255, 0), NULL, 0, back, 255);
        CHECK(states[i].state == SCSI_STANDBY ? o.status == SCSI_GOOD : o.asc == states[i].asc);
    }
    CHECK_EQUAL(scsi_disk_set_access_state(bed.disk, 0, SCSI_ACTIVE_NON_OPTIMIZED), 0);
    settle(bed.lun[0]);
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), NULL, 0, back, 512));
}

TEST(initiators_set_states_only_where_they_may)
{
    const uint8_t set[] = {0, 0, 0, 0, 2, 0, 0, 0}, unknown[] = {0, 0, 0, 0, 2, 0, 0, 9};
    CHECK_SENSE(co_send(bed.lun[0], CDB(0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0), set, 8, NULL, 0),
                5, ASC_INVALID_FIELD_IN_CDB);
    bed.disk->explicit_access = true;
    CHECK_SENSE(
        co_send(bed.lun[0], CDB(0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0), unknown, 8, NULL, 0), 5,
        ASC_INVALID_FIELD_IN_PARAMETERS);
    CHECK_GOOD(co_send(bed.lun[0], CDB(0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0), set, 8, NULL, 0));
    CHECK_SENSE(co_send(bed.lun[1], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0), 6,
                ASC_ACCESS_STATE_CHANGED);
    CHECK_SENSE(co_send(bed.lun[1], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0), 2,
                ASC_NOT_READY_STANDBY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_copied_between_block_sizes),
        cmocka_unit_test(lists_are_refused_for_what_is_wrong_with_them),
        cmocka_unit_test(overlapping_copies_are_as_if_read_first),
        cmocka_unit_test(a_disk_that_the_nexus_does_not_see_is_out_of_reach),
        cmocka_unit_test(where_a_nexus_stands_for_many_its_owner_says_what_is_seen_together),
        cmocka_unit_test(a_copy_may_do_no_more_than_its_initiator),
        cmocka_unit_test(every_cut_and_every_flipped_byte_of_a_list_is_survived),
        cmocka_unit_test(results_can_be_asked_for),
        cmocka_unit_test(a_reset_ends_a_long_copy),
        cmocka_unit_test(the_page_of_third_party_copies_says_what_the_copy_manager_takes),
        cmocka_unit_test(a_port_that_is_not_active_serves_only_what_it_may),
        cmocka_unit_test(initiators_set_states_only_where_they_may),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
