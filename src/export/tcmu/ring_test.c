/*
 * The ring as plain memory: what a mailbox must look like, entries that lie about their lengths and
 * places, answers in another order than the commands came.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/ring.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define RING_AT    256u
#define RING_BYTES 2048u
#define DATA_AT    (RING_AT + RING_BYTES)
#define DATA_BYTES 4096u
#define MAP_BYTES  (DATA_AT + DATA_BYTES)

static struct tcmu_ring ring;
static struct tcmu_command command;
static struct tcmu_notice notice;
static struct hws_error err;
static _Alignas(64) uint8_t map[MAP_BYTES];

static struct tcmu_mailbox *mailbox(void)
{
    return (struct tcmu_mailbox *)(void *)map;
}

static int setup(void **state)
{
    memset(map, 0, sizeof(map));
    memset(&ring, 0, sizeof(ring));
    *mailbox() = (struct tcmu_mailbox){.version = TCMU_VERSION,
                                       .flags = TCMU_CAN_REORDER | TCMU_CAN_READ_LEN,
                                       .ring_offset = RING_AT,
                                       .ring_bytes = RING_BYTES};
    assert_int_equal(tcmu_ring_init(&ring, map, MAP_BYTES, &err), 0);
    return 0;
}

static void put(const void *bytes, size_t length)
{
    assert_true(mailbox()->head + length <= RING_BYTES);
    memcpy(map + RING_AT + mailbox()->head, bytes, length);
}

static void advance(uint32_t bytes)
{
    mailbox()->head = (mailbox()->head + bytes) % RING_BYTES;
}

/* READ (10) of one block into one piece of 512 bytes. */
struct entry {
    struct tcmu_request request;
    struct iovec iov[4];
    uint8_t cdb[16];
};
#define ENTRY sizeof(struct entry)
static_assert(ENTRY == 128, "");

static struct entry entry_of(uint16_t id)
{
    struct entry e = {
        .request = {.header = {.length_kind = (uint32_t)ENTRY | TCMU_KIND_COMMAND, .id = id},
                    .iov_count = 1,
                    .cdb_offset = RING_AT + mailbox()->head + offsetof(struct entry, cdb)},
        .iov = {{.iov_base = (void *)(uintptr_t)DATA_AT, .iov_len = 512}},
        .cdb = {0x28, 0, 0, 0, 0, 0, 0, 0, 1},
    };
    return e;
}

static void put_entry(const struct entry *e)
{
    put(e, sizeof(*e));
    advance(sizeof(*e));
}

static int take(void)
{
    return tcmu_ring_take(&ring, 7, &command, &notice, &err);
}

static void answer(uint16_t id)
{
    tcmu_ring_answer(&ring, &(struct tcmu_answer){.id = id, .status = 8});
}

/* ---- the mailbox ---- */

static void mailboxes_that_cannot_be_are_refused(void **state)
{
    const struct tcmu_mailbox good = *mailbox();
    const struct {
        struct tcmu_mailbox m;
        uint64_t bytes;
        int error;
    } wrong[] = {
        {{.version = 1, .flags = 1, .ring_offset = RING_AT, .ring_bytes = 512}, MAP_BYTES, -EPROTO},
        {{.version = 2, .flags = 0, .ring_offset = RING_AT, .ring_bytes = 512},
         MAP_BYTES,
         -EOPNOTSUPP},
        {{.version = 2, .flags = 1, .ring_offset = 8, .ring_bytes = 512}, MAP_BYTES, -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = RING_AT + 4, .ring_bytes = 512},
         MAP_BYTES,
         -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = RING_AT, .ring_bytes = 0}, MAP_BYTES, -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = RING_AT, .ring_bytes = 516}, MAP_BYTES, -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = RING_AT, .ring_bytes = MAP_BYTES},
         MAP_BYTES,
         -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = 0xffffff00, .ring_bytes = 0xffffff00},
         MAP_BYTES,
         -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = RING_AT, .ring_bytes = 512, .tail = 512},
         MAP_BYTES,
         -EPROTO},
        {{.version = 2, .flags = 1, .ring_offset = RING_AT, .ring_bytes = 512, .tail = 4},
         MAP_BYTES,
         -EPROTO},
        {good, 64, -EPROTO},
        {good, DATA_AT - 8, -EPROTO},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        *mailbox() = wrong[i].m;
        memset(&err, 0, sizeof(err));
        assert_int_equal(tcmu_ring_init(&ring, map, wrong[i].bytes, &err), wrong[i].error);
        assert_true(err.text[0]);
    }
}

/* ---- good entries ---- */

static void a_command_comes_out_as_it_went_in(void **state)
{
    struct entry e = entry_of(9);
    assert_int_equal(take(), TCMU_TAKEN_NOTHING);
    put_entry(&e);
    assert_true(tcmu_ring_has_more(&ring));
    assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    assert_false(tcmu_ring_has_more(&ring));
    assert_null(command.malformed);
    assert_int_equal(command.id, 9);
    assert_int_equal(command.cdb_length, 10);
    assert_memory_equal(command.cdb, e.cdb, 10);
    assert_int_equal(command.iov_count, 1);
    assert_ptr_equal(command.iov[0].iov_base, map + DATA_AT);
    assert_int_equal(command.iov[0].iov_len, 512);
    assert_int_equal(take(), TCMU_TAKEN_NOTHING);
}

static void answers_take_the_oldest_place_and_keep_its_length(void **state)
{
    struct tcmu_response r;
    for (uint16_t id = 1; id <= 3; id++) {
        struct entry e = entry_of(id);
        put_entry(&e);
        assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    }
    uint8_t sense[200];
    memset(sense, 0xab, sizeof(sense));
    tcmu_ring_answer(&ring, &(struct tcmu_answer){.id = 3,
                                                  .status = 2,
                                                  .has_length = true,
                                                  .length = 99,
                                                  .sense = sense,
                                                  .sense_length = sizeof(sense)});
    assert_int_equal(mailbox()->tail, 0);
    assert_true(tcmu_ring_tell(&ring));
    assert_false(tcmu_ring_tell(&ring));
    assert_int_equal(mailbox()->tail, ENTRY);
    memcpy(&r, map + RING_AT, sizeof(r));
    assert_int_equal(r.header.length_kind, ENTRY | TCMU_KIND_COMMAND);
    assert_int_equal(r.header.id, 3);
    assert_int_equal(r.header.user_flags, TCMU_HAS_READ_LEN);
    assert_int_equal(r.status, 2);
    assert_int_equal(r.read_length, 99);
    assert_memory_equal(r.sense, sense, sizeof(r.sense));
    answer(1);
    answer(2);
    assert_true(tcmu_ring_tell(&ring));
    assert_int_equal(mailbox()->tail, 3 * ENTRY);
}

static void padding_and_unknown_kinds_are_passed(void **state)
{
    struct tcmu_header pad = {.length_kind = 64 | TCMU_KIND_PAD};
    struct tcmu_header unknown = {.length_kind = 8 | 6};
    put(&pad, sizeof(pad));
    advance(64);
    put(&unknown, sizeof(unknown));
    advance(8);
    assert_int_equal(take(), TCMU_TAKEN_NOTHING);
    assert_int_equal(map[RING_AT + 64 + 7], TCMU_UNKNOWN_KIND);
    assert_int_equal(ring.unknown, 1);
    assert_true(tcmu_ring_tell(&ring));
    assert_int_equal(mailbox()->tail, 72);
}

static void management_names_the_commands_in_flight(void **state)
{
    struct entry e = entry_of(300);
    put_entry(&e);
    assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    struct {
        struct tcmu_management m;
        uint16_t ids[4];
    } t = {.m = {.header = {.length_kind = sizeof(t) | TCMU_KIND_MANAGEMENT},
                 .function = TCMU_LUN_RESET,
                 .id_count = 1000000},
           .ids = {1, 300, 65535, 0}};
    put(&t, sizeof(t));
    advance(sizeof(t));
    assert_int_equal(take(), TCMU_TAKEN_NOTICE);
    assert_int_equal(notice.function, TCMU_LUN_RESET);
    assert_int_equal(notice.count, 4); /* what there is room for, whatever it says */
    assert_int_equal(tcmu_ring_aborted(&ring, &notice, 0), -1);
    assert_int_equal(tcmu_ring_aborted(&ring, &notice, 1), 7);
    assert_int_equal(tcmu_ring_aborted(&ring, &notice, 2), -1);
    assert_int_equal(tcmu_ring_aborted(&ring, &notice, 3), -1);
}

static void cdbs_have_the_length_of_their_code_but_no_more_than_there_is(void **state)
{
    static const struct {
        uint8_t code, length;
    } known[] = {{0x00, 6},  {0x28, 10}, {0x5a, 10}, {0x88, 16}, {0xa8, 12},
                 {0x7e, 16}, {0x7f, 8},  {0x63, 12}, {0xff, 10}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        setup(state);
        struct entry e = entry_of(1);
        e.cdb[0] = known[i].code;
        put_entry(&e);
        assert_int_equal(take(), TCMU_TAKEN_COMMAND);
        assert_null(command.malformed);
        assert_int_equal(command.cdb_length, known[i].length);
    }
    setup(state);
    struct entry e = entry_of(1);
    e.request.cdb_offset += 12; /* four bytes before the end of the entry */
    e.cdb[12] = 0x28;
    put_entry(&e);
    assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    assert_int_equal(command.cdb_length, 4);
}

static void many_pieces_are_taken_too(void **state)
{
    enum { PIECES = TCMU_IOVS_INLINE + 40, LENGTH = 48 + PIECES * 16 + 16, BIG = 8192 };
    static _Alignas(64) uint8_t big[BIG + MAP_BYTES];
    memcpy(big, map, sizeof(struct tcmu_mailbox));
    struct tcmu_mailbox *m = (struct tcmu_mailbox *)(void *)big;
    m->ring_bytes = BIG;
    assert_int_equal(tcmu_ring_init(&ring, big, sizeof(big), &err), 0);
    struct tcmu_request r = {.header = {.length_kind = LENGTH | TCMU_KIND_COMMAND, .id = 1},
                             .iov_count = PIECES - 1,
                             .bidi_count = 1,
                             .cdb_offset = RING_AT + LENGTH - 16};
    memcpy(big + RING_AT, &r, sizeof(r));
    for (unsigned i = 0; i < PIECES; i++) {
        struct iovec v = {(void *)(uintptr_t)(RING_AT + BIG + i), 1};
        memcpy(big + RING_AT + sizeof(r) + i * sizeof(v), &v, sizeof(v));
    }
    m->head = LENGTH;
    assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    assert_null(command.malformed);
    assert_int_equal(command.iov_count, PIECES - 1);
    assert_int_equal(command.bidi_count, 1);
    assert_ptr_equal(command.iov[PIECES - 1].iov_base, big + RING_AT + BIG + PIECES - 1);
    tcmu_command_release(&command);
}

/* ---- malformed: can be answered ---- */

static void expect_malformed(struct entry *e)
{
    put_entry(e);
    assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    assert_non_null(command.malformed);
    assert_int_equal(command.iov_count, 0);
    assert_int_equal(command.bidi_count, 0);
    answer(command.id);
    assert_true(tcmu_ring_tell(&ring));
}

static void data_outside_of_the_data_area_is_malformed(void **state)
{
    static const struct {
        uint64_t base, length;
    } wrong[] = {{0, 512},
                 {64, 4},
                 {RING_AT, 64},
                 {DATA_AT - 1, 512},
                 {MAP_BYTES, 1},
                 {MAP_BYTES - 511, 512},
                 {UINT64_MAX, 512},
                 {DATA_AT, UINT64_MAX},
                 {DATA_AT, DATA_BYTES + 1ull}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct entry e = entry_of((uint16_t)i);
        e.iov[0].iov_base = (void *)(uintptr_t)wrong[i].base;
        e.iov[0].iov_len = wrong[i].length;
        expect_malformed(&e);
    }
    setup(state);
    struct entry e = entry_of(1); /* the second piece, which is of the bidirectional part */
    e.request.bidi_count = 1;
    e.iov[1] = (struct iovec){(void *)(uintptr_t)8, 8};
    expect_malformed(&e);
}

static void pieces_that_do_not_fit_into_the_entry_are_malformed(void **state)
{
    static const uint32_t counts[][2] = {{6, 0},          {0, 6},          {3, 3},
                                         {UINT32_MAX, 0}, {0, UINT32_MAX}, {UINT32_MAX, UINT32_MAX},
                                         {0x10000000, 0}, {5, 0}};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        struct entry e = entry_of((uint16_t)i);
        e.request.iov_count = counts[i][0];
        e.request.bidi_count = counts[i][1];
        expect_malformed(&e);
    }
}

static void a_cdb_outside_of_its_entry_is_malformed(void **state)
{
    static const uint64_t offsets[] = {0,       64,         RING_AT,
                                       DATA_AT, UINT64_MAX, RING_AT + sizeof(struct tcmu_request)};
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
        struct entry e = entry_of((uint16_t)i);
        e.request.cdb_offset = offsets[i];
        expect_malformed(&e);
    }
    setup(state);
    struct entry e = entry_of(1);
    e.request.cdb_offset = RING_AT + ENTRY;
    expect_malformed(&e);
}

/* ---- broken: nothing behind it can be found ---- */

static void expect_broken(uint32_t length_kind, uint32_t head)
{
    struct entry e = entry_of(1);
    e.request.header.length_kind = length_kind;
    put(&e, sizeof(e));
    mailbox()->head = head;
    memset(&err, 0, sizeof(err));
    assert_int_equal(take(), -EPROTO);
    assert_true(err.text[0]);
    assert_int_equal(take(), -EPROTO);
}

static void lengths_that_cannot_be_break_the_ring(void **state)
{
    static const uint32_t wrong[] = {
        0 | TCMU_KIND_COMMAND,          0 | TCMU_KIND_PAD,          8 | TCMU_KIND_COMMAND,
        104 | TCMU_KIND_COMMAND,        24 | TCMU_KIND_MANAGEMENT,  136 | TCMU_KIND_COMMAND,
        RING_BYTES | TCMU_KIND_COMMAND, 0xfffffff8 | TCMU_KIND_PAD, 0x80000000 | TCMU_KIND_COMMAND};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        setup(state);
        expect_broken(wrong[i], ENTRY);
    }
}

static void entries_do_not_wrap(void **state)
{
    struct tcmu_header pad = {.length_kind = (RING_BYTES - 64) | TCMU_KIND_PAD};
    put(&pad, sizeof(pad));
    advance(RING_BYTES - 64);
    assert_int_equal(take(), TCMU_TAKEN_NOTHING);
    struct tcmu_header wraps = {.length_kind = 128 | TCMU_KIND_COMMAND, .id = 1};
    put(&wraps, sizeof(wraps));
    advance(128);
    assert_int_equal(take(), -EPROTO);
}

static void heads_outside_of_the_ring_break_it(void **state)
{
    static const uint32_t wrong[] = {RING_BYTES, RING_BYTES + 8, UINT32_MAX, 4, 0x80000000};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        setup(state);
        expect_broken(ENTRY | TCMU_KIND_COMMAND, wrong[i]);
    }
}

static void a_head_that_moves_back_breaks_the_ring(void **state)
{
    for (uint16_t id = 1; id <= 2; id++) {
        struct entry e = entry_of(id);
        put_entry(&e);
        assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    }
    mailbox()->head = ENTRY;
    assert_int_equal(take(), -EPROTO);
    mailbox()->head = 0; /* as a ring that was reset behind our back */
    assert_int_equal(take(), -EPROTO);
}

static void a_number_that_is_in_flight_breaks_the_ring(void **state)
{
    struct entry e = entry_of(5);
    put_entry(&e);
    assert_int_equal(take(), TCMU_TAKEN_COMMAND);
    struct entry again = entry_of(5);
    put_entry(&again);
    assert_int_equal(take(), -EPROTO);
    answer(5);
    assert_true(tcmu_ring_tell(&ring));
    assert_int_equal(take(), TCMU_TAKEN_COMMAND); /* with the other's end the number is free */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(mailboxes_that_cannot_be_are_refused, setup),
        cmocka_unit_test_setup(a_command_comes_out_as_it_went_in, setup),
        cmocka_unit_test_setup(answers_take_the_oldest_place_and_keep_its_length, setup),
        cmocka_unit_test_setup(padding_and_unknown_kinds_are_passed, setup),
        cmocka_unit_test_setup(management_names_the_commands_in_flight, setup),
        cmocka_unit_test_setup(cdbs_have_the_length_of_their_code_but_no_more_than_there_is, setup),
        cmocka_unit_test_setup(many_pieces_are_taken_too, setup),
        cmocka_unit_test_setup(data_outside_of_the_data_area_is_malformed, setup),
        cmocka_unit_test_setup(pieces_that_do_not_fit_into_the_entry_are_malformed, setup),
        cmocka_unit_test_setup(a_cdb_outside_of_its_entry_is_malformed, setup),
        cmocka_unit_test_setup(lengths_that_cannot_be_break_the_ring, setup),
        cmocka_unit_test_setup(entries_do_not_wrap, setup),
        cmocka_unit_test_setup(heads_outside_of_the_ring_break_it, setup),
        cmocka_unit_test_setup(a_head_that_moves_back_breaks_the_ring, setup),
        cmocka_unit_test_setup(a_number_that_is_in_flight_breaks_the_ring, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
