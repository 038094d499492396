/*
 * Reservations: the conflicts of SPC-4's and SBC-4's tables, generated; what each PERSISTENT
 * RESERVE OUT does and whom it tells; APTPL; RESERVE and RELEASE. In the simulator.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/scsi_test_case.h"

#define SIZE (1 * MiB)

static uint8_t data[65536], back[65536];

struct keeper {
    uint8_t bytes[65536];
    size_t length;
    unsigned calls;
    int result;
};

static int co_keep(void *arg, const void *bytes, size_t length)
{
    struct keeper *k = arg;
    k->calls++;
    co_yield ();
    if (k->result < 0)
        return k->result;
    CHECK(length <= sizeof(k->bytes));
    memcpy(k->bytes, bytes, length);
    k->length = length;
    return 0;
}

static struct keeper keeper;
static const struct scsi_disk_options plain = {0};
static const struct scsi_disk_options kept = {.co_save = co_keep, .save_arg = &keeper};

static struct outcome co_pr(unsigned who, uint8_t action, uint8_t type, uint64_t key,
                            uint64_t action_key, uint8_t flags)
{
    uint8_t list[24] = {0}, cdb[10] = {0x5f, action, type, 0, 0, 0, 0, 0, 24, 0};
    store_be64(list, key);
    store_be64(list + 8, action_key);
    list[20] = flags;
    return co_send(bed.lun[who], cdb, sizeof(cdb), list, sizeof(list), NULL, 0);
}

static struct outcome co_ready(unsigned who)
{
    return co_send(bed.lun[who], CDB(0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0);
}

static uint8_t co_write_status(unsigned who)
{
    return co_send(bed.lun[who], CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), data, 512, NULL, 0).status;
}

static uint8_t co_read_status(unsigned who)
{
    return co_send(bed.lun[who], CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), NULL, 0, back, 512).status;
}

/* Type of the reservation, 0 where there is none; @ret_key its key. */
static uint8_t co_reservation(uint64_t *ret_key)
{
    CHECK_GOOD(co_send(bed.lun[2], CDB(0x5e, 1, 0, 0, 0, 0, 0, 1, 0, 0), NULL, 0, back, 256));
    if (load_be32(back + 4) == 0)
        return 0;
    CHECK_EQUAL(load_be32(back + 4), 16);
    if (ret_key)
        *ret_key = load_be64(back + 8);
    return back[21];
}

static unsigned co_key_count(void)
{
    CHECK_GOOD(co_send(bed.lun[2], CDB(0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0), NULL, 0, back, 256));
    return load_be32(back + 4) / 8;
}

/* ---- the tables ---- */

/*
 * SPC-4, table 65 and SBC-4, table 13. Columns: from another nexus under Write Exclusive and
 * Exclusive Access; from a registered one under a registrants type; from one that is not
 * registered, under Write Exclusive and Exclusive Access of registrants. A: allowed, C: conflict.
 */
static const struct {
    const char *columns;
    uint8_t cdb[16];
    size_t length;
} rows[] = {
    {"AAAAA", {0x00}, 6},
    {"AAAAA", {0x03, 0, 0, 0, 18}, 6},
    {"AAAAA", {0x12, 0, 0, 0, 96}, 6},
    {"AAAAA", {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16}, 12},
    {"AAAAA", {0x25}, 10},
    {"AAAAA", {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32}, 16},
    {"AAAAA", {0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64}, 12},
    {"AAAAA", {0x5e, 0, 0, 0, 0, 0, 0, 0, 64}, 10},
    {"AAAAA", {0x1b, 0, 0, 0, 1}, 6},
    {"AAAAA", {0x1e}, 6},
    {"AAAAA", {0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255}, 10},
    {"ACAAC", {0x08, 0, 0, 0, 1}, 6},
    {"ACAAC", {0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 10},
    {"ACAAC", {0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 12},
    {"ACAAC", {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"ACAAC", {0x2f, 0, 0, 0, 0, 0, 0, 0, 1}, 10},
    {"ACAAC", {0xaf, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 12},
    {"ACAAC", {0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"ACAAC", {0x34, 0, 0, 0, 0, 0, 0, 0, 1}, 10},
    {"ACAAC", {0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"ACAAC", {0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24}, 16},
    {"CCACC", {0x0a, 0, 0, 0, 1}, 6},
    {"CCACC", {0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 10},
    {"CCACC", {0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 12},
    {"CCACC", {0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"CCACC", {0x2e, 0, 0, 0, 0, 0, 0, 0, 1}, 10},
    {"CCACC", {0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"CCACC", {0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"CCACC", {0x41, 0, 0, 0, 0, 0, 0, 0, 1}, 10},
    {"CCACC", {0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 16},
    {"CCACC", {0x42}, 10},
    {"CCACC", {0x04}, 6},
    {"CCACC", {0x35}, 10},
    {"CCACC", {0x91}, 16},
    {"CCACC", {0x1b, 0, 0, 0, 0}, 6},
    {"CCACC", {0x1e, 0, 0, 0, 1}, 6},
    {"CCACC", {0x15, 0x10}, 6},
    {"CCACC", {0x55, 0x10}, 10},
    {"CCACC", {0x1a, 0, 0x3f, 0, 255}, 6},
    {"CCACC", {0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255}, 10},
    {"CCACC", {0x1d, 4}, 6},
    {"CCACC", {0x83}, 16},
    {"CCACC", {0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64}, 16},
    {"CCACC", {0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 1, 0}, 12},
    {"CCACC", {0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 16}, 12},
};

static unsigned column_of(uint8_t type, bool registered)
{
    if (type == PR_WRITE_EXCLUSIVE)
        return 0;
    if (type == PR_EXCLUSIVE_ACCESS)
        return 1;
    if (registered)
        return 2;
    return type == PR_WRITE_EXCLUSIVE_REGISTRANTS_ONLY || type == PR_WRITE_EXCLUSIVE_ALL_REGISTRANTS
               ? 3
               : 4;
}

static const uint8_t types[] = {1, 3, 5, 6, 7, 8};

static void co_check_row(unsigned row, unsigned who, bool conflicts)
{
    uint8_t opcode = rows[row].cdb[0];
    size_t out = opcode == 0x41 || opcode == 0x93 ? 512 : 1024; /* WRITE SAME: one block */
    memset(data, 0, 1024);
    struct outcome o =
        co_send(bed.lun[who], rows[row].cdb, rows[row].length, data, out, back, sizeof(back));
    if ((o.status == SCSI_RESERVATION_CONFLICT) != conflicts)
        fprintf(stderr, "opcode %02x, nexus %u: status %02x\n", opcode, who, o.status);
    CHECK((o.status == SCSI_RESERVATION_CONFLICT) == conflicts);
    CHECK(conflicts || o.status == SCSI_GOOD || o.key == SCSI_KEY_NOT_READY);
    (void)co_send(bed.lun[0], CDB(0x1b, 0, 0, 0, 1, 0), NULL, 0, NULL, 0);
}

TEST(commands_conflict_as_the_tables_say, &plain)
{
    for (unsigned t = 0; t < ARRAY_LEN(types); t++) {
        CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
        CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
        CHECK_GOOD(co_pr(0, 1, types[t], 11, 0, 0));
        for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
            const char *columns = rows[r].columns;
            co_check_row(r, 0, false);
            co_check_row(r, 1, columns[column_of(types[t], true)] == 'C');
            co_check_row(r, 2, columns[column_of(types[t], false)] == 'C');
        }
        CHECK_GOOD(co_pr(0, 3, 0, 11, 0, 0));
        for (unsigned i = 0; i < 3; i++)
            settle(bed.lun[i]);
    }
}

/* SPC-4, table 66: who may send which PERSISTENT RESERVE OUT. */
TEST(only_registered_nexuses_change_reservations, &plain)
{
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0));
    for (uint8_t action = 1; action < 8; action++)
        if (action != 6)
            CHECK_EQUAL(co_pr(2, action, 1, 0, 5, 0).status, SCSI_RESERVATION_CONFLICT);
    for (uint8_t action = 1; action < 8; action++) /* with a wrong key */
        if (action != 6)
            CHECK_EQUAL(co_pr(0, action, 1, 12, 5, 0).status, SCSI_RESERVATION_CONFLICT);
    CHECK_EQUAL(co_pr(0, 0, 0, 12, 13, 0).status, SCSI_RESERVATION_CONFLICT);
    CHECK_EQUAL(co_pr(2, 0, 0, 12, 13, 0).status, SCSI_RESERVATION_CONFLICT);
    CHECK_GOOD(co_pr(2, 6, 0, 99, 13, 0));
    CHECK_EQUAL(co_key_count(), 2);
    CHECK_EQUAL(co_pr(2, 1, 1, 13, 0, 0).status, SCSI_RESERVATION_CONFLICT);
    CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0)); /* again: as it is */
    CHECK_EQUAL(co_pr(0, 1, 3, 11, 0, 0).status, SCSI_RESERVATION_CONFLICT);
}

/* ---- what each service action does ---- */

TEST(release_tells_the_registrants, &plain)
{
    for (unsigned t = 0; t < ARRAY_LEN(types); t++) {
        CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
        CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
        CHECK_GOOD(co_pr(0, 1, types[t], 11, 0, 0));
        CHECK_EQUAL(co_reservation(NULL), types[t]);
        CHECK_SENSE(co_pr(0, 2, types[t] == 1 ? 3 : 1, 11, 0, 0), 5, ASC_INVALID_RELEASE);
        CHECK_GOOD(co_pr(0, 2, types[t], 11, 0, 0));
        CHECK_EQUAL(co_reservation(NULL), 0);
        CHECK_GOOD(co_ready(0));
        CHECK_GOOD(co_ready(2));
        if (types[t] >= 5)
            CHECK_SENSE(co_ready(1), 6, ASC_RESERVATIONS_RELEASED);
        CHECK_GOOD(co_ready(1));
        CHECK_GOOD(co_pr(0, 3, 0, 11, 0, 0));
        CHECK_SENSE(co_ready(1), 6, ASC_RESERVATIONS_PREEMPTED);
        CHECK_EQUAL(co_key_count(), 0);
    }
}

TEST(a_holder_that_unregisters_releases, &plain)
{
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
    CHECK_GOOD(co_pr(0, 1, 5, 11, 0, 0));
    CHECK_GOOD(co_pr(0, 0, 0, 11, 0, 0));
    CHECK_EQUAL(co_reservation(NULL), 0);
    CHECK_SENSE(co_ready(1), 6, ASC_RESERVATIONS_RELEASED);
    /* All registrants hold it: it ends with the last one. */
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(0, 1, 7, 11, 0, 0));
    CHECK_GOOD(co_pr(0, 0, 0, 11, 0, 0));
    CHECK_EQUAL(co_reservation(NULL), 7);
    CHECK_GOOD(co_pr(1, 0, 0, 22, 0, 0));
    CHECK_EQUAL(co_reservation(NULL), 0);
}

TEST(preempting_takes_the_reservation_over, &plain)
{
    uint64_t key = 0;
    for (uint8_t action = 4; action <= 5; action++) {
        CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
        CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
        CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0));
        CHECK_EQUAL(co_pr(1, action, 3, 22, 33, 0).status, SCSI_RESERVATION_CONFLICT);
        CHECK_SENSE(co_pr(1, action, 3, 22, 0, 0), 5, ASC_INVALID_FIELD_IN_PARAMETERS);
        CHECK_GOOD(co_pr(1, action, 3, 22, 11, 0));
        CHECK_EQUAL(co_reservation(&key), 3);
        CHECK_EQUAL(key, 22);
        CHECK_EQUAL(co_key_count(), 1);
        CHECK_EQUAL(co_write_status(0), SCSI_RESERVATION_CONFLICT);
        CHECK_SENSE(co_ready(0), 6, ASC_REGISTRATIONS_PREEMPTED);
        CHECK_EQUAL(co_write_status(1), SCSI_GOOD);
        CHECK_GOOD(co_pr(1, 3, 0, 22, 0, 0));
    }
    /* all registrants: key 0 is everybody */
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
    CHECK_GOOD(co_pr(0, 1, 8, 11, 0, 0));
    CHECK_GOOD(co_pr(1, 4, 6, 22, 0, 0));
    CHECK_EQUAL(co_reservation(&key), 6);
    CHECK_EQUAL(co_key_count(), 1);
}

static bool written, preempted;

static void co_late_write(void *arg)
{
    CHECK_EQUAL(co_write_status(0), SCSI_GOOD);
    CHECK(!preempted);
    written = true;
}

static void co_preempt_and_abort(void *arg)
{
    CHECK_GOOD(co_pr(1, 5, 3, 22, 11, 0));
    CHECK(written);
    preempted = true;
}

/* What fencing relies on: no write of the preempted nexus lands after the answer. */
TEST(preempt_and_abort_waits_for_the_writes_of_the_preempted, &plain)
{
    struct range_entry entry;
    written = preempted = false;
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
    CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0));
    co_range_lock(&bed.disk->ranges, &entry, 0, 512, true); /* keeps the write in flight */
    CHECK_EQUAL(rt_spawn(NULL, co_late_write, NULL), 0);
    co_sleep_ns(1000);
    CHECK_EQUAL(rt_spawn(NULL, co_preempt_and_abort, NULL), 0);
    co_sleep_ns(1000000);
    CHECK(!written && !preempted);
    CHECK_EQUAL(co_write_status(0), SCSI_RESERVATION_CONFLICT); /* new ones are out already */
    range_unlock(&bed.disk->ranges, &entry);
    while (!preempted)
        co_sleep_ns(1000);
}

TEST(registering_and_moving_hands_over, &plain)
{
    uint8_t list[300] = {0}, cdb[10] = {0x5f, 7, 0};
    const struct identity *to = &bed.nexus[1]->who;
    uint64_t key;
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0));
    store_be64(list, 11);
    store_be64(list + 8, 77);
    list[17] = 0x02; /* UNREG */
    store_be16(list + 18, to->port_id);
    store_be32(list + 20, to->length);
    memcpy(list + 24, to->transport_id, to->length);
    cdb[8] = (uint8_t)(24 + to->length);
    for (size_t cut = 24; cut < 24u + to->length; cut++) {
        cdb[8] = (uint8_t)cut;
        CHECK_SENSE(co_send(bed.lun[0], cdb, 10, list, cut, NULL, 0), 5, ASC_PARAMETER_LIST_LENGTH);
    }
    cdb[8] = (uint8_t)(24 + to->length);
    CHECK_GOOD(co_send(bed.lun[0], cdb, 10, list, 24u + to->length, NULL, 0));
    CHECK_EQUAL(co_reservation(&key), 1);
    CHECK_EQUAL(key, 77);
    CHECK_EQUAL(co_key_count(), 1);
    CHECK_EQUAL(co_write_status(1), SCSI_GOOD);
    CHECK_EQUAL(co_write_status(0), SCSI_RESERVATION_CONFLICT);
}

TEST(full_status_names_who_registered, &plain)
{
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0x04)); /* ALL_TG_PT */
    CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 0));
    CHECK_GOOD(co_pr(1, 1, 3, 22, 0, 0));
    struct outcome o =
        co_send(bed.lun[2], CDB(0x5e, 3, 0, 0, 0, 0, 0, 4, 0, 0), NULL, 0, back, 1024);
    CHECK_GOOD(o);
    CHECK_EQUAL(load_be32(back + 4) + 8, o.length);
    CHECK_EQUAL(load_be64(back + 8), 11);
    CHECK_EQUAL(back[8 + 12], 0x02);
    size_t next = 8 + 24 + load_be32(back + 8 + 20);
    CHECK_EQUAL(load_be64(back + next), 22);
    CHECK_EQUAL(back[next + 12], 0x01);
    CHECK_EQUAL(back[next + 13], 3);
    CHECK(!memcmp(back + next + 24, bed.nexus[1]->who.transport_id, bed.nexus[1]->who.length));
    CHECK_EQUAL(next + 24 + bed.nexus[1]->who.length, o.length);
}

TEST(listed_transport_ids_are_registered_all_or_none, &plain)
{
    uint8_t list[700] = {0}, cdb[10] = {0x5f, 0};
    size_t at = 28;
    store_be64(list + 8, 5);
    list[20] = 0x08;
    for (unsigned i = 1; i < 3; i++) {
        memcpy(list + at, bed.nexus[i]->who.transport_id, bed.nexus[i]->who.length);
        at += bed.nexus[i]->who.length;
    }
    store_be32(list + 24, (uint32_t)(at - 28));
    store_be16(cdb + 7, (uint16_t)at);
    list[30] ^= 0x40; /* a broken length */
    CHECK_SENSE(co_send(bed.lun[0], cdb, 10, list, at, NULL, 0), 5,
                ASC_INVALID_FIELD_IN_PARAMETERS);
    CHECK_EQUAL(co_key_count(), 0);
    list[30] ^= 0x40;
    CHECK_GOOD(co_send(bed.lun[0], cdb, 10, list, at, NULL, 0));
    CHECK_EQUAL(co_key_count(), 3);
}

/* ---- APTPL ---- */

static void co_reopen(const struct scsi_disk_options *given)
{
    co_bed_close(&bed);
    bed_open(&bed, SIZE, given);
}

TEST(reservations_outlive_a_restart_with_aptpl, &kept)
{
    struct scsi_disk_options restored = kept;
    keeper = (struct keeper){0};
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 1));
    CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 1));
    CHECK_GOOD(co_pr(0, 1, 3, 11, 0, 0));
    CHECK_EQUAL(keeper.calls, 3);
    restored.saved = keeper.bytes;
    restored.saved_length = keeper.length;
    co_reopen(&restored);
    uint64_t key;
    CHECK_EQUAL(co_reservation(&key), 3);
    CHECK_EQUAL(key, 11);
    CHECK_EQUAL(co_key_count(), 2);
    CHECK_EQUAL(co_write_status(0), SCSI_GOOD);
    CHECK_EQUAL(co_read_status(1), SCSI_RESERVATION_CONFLICT);
    /* Without APTPL from now on: what is saved is nothing. */
    CHECK_GOOD(co_pr(0, 0, 0, 11, 12, 0));
    restored.saved_length = keeper.length;
    co_reopen(&restored);
    CHECK_EQUAL(co_key_count(), 0);
    CHECK_EQUAL(co_reservation(NULL), 0);
}

TEST(a_change_that_cannot_be_saved_did_not_happen, &kept)
{
    keeper = (struct keeper){0};
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 1));
    CHECK_GOOD(co_pr(1, 0, 0, 0, 22, 1));
    CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0));
    keeper.result = -EIO;
    CHECK_SENSE(co_pr(1, 4, 3, 22, 11, 0), 4, ASC_INTERNAL_FAILURE);
    CHECK_GOOD(co_ready(0));
    CHECK_EQUAL(co_reservation(NULL), 1);
    CHECK_EQUAL(co_key_count(), 2);
    CHECK_EQUAL(co_write_status(0), SCSI_GOOD);
    CHECK_EQUAL(co_write_status(1), SCSI_RESERVATION_CONFLICT);
}

TEST(damaged_saved_reservations_are_refused, &kept)
{
    struct scsi_disk *disk = NULL;
    struct scsi_disk_options options = kept;
    struct hws_error err = {0};
    keeper = (struct keeper){0};
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 1));
    options.name = "x";
    options.saved = keeper.bytes;
    for (size_t length = 1; length < keeper.length; length++) {
        options.saved_length = length;
        CHECK_EQUAL(scsi_disk_new(bed.root, &options, &disk, &err), -EINVAL);
    }
    options.saved_length = keeper.length;
    for (size_t i = 0; i < keeper.length; i++) {
        keeper.bytes[i] ^= 0x10;
        CHECK_EQUAL(scsi_disk_new(bed.root, &options, &disk, &err), -EINVAL);
        keeper.bytes[i] ^= 0x10;
    }
    CHECK_EQUAL(scsi_disk_new(bed.root, &options, &disk, &err), 0);
    scsi_disk_free(disk);
}

static char state_path[] = "/state";

TEST(a_file_keeps_the_state_whole, &plain)
{
    void *bytes = NULL;
    size_t length;
    struct hws_error err = {0};
    CHECK_EQUAL(co_scsi_state_load(state_path, &bytes, &length, &err), -ENOENT);
    for (unsigned round = 1; round < 3; round++) {
        memset(data, (int)round, 1000);
        CHECK_EQUAL(co_scsi_state_save(state_path, data, 1000 / round), 0);
        CHECK_EQUAL(co_scsi_state_load(state_path, &bytes, &length, &err), 0);
        CHECK_EQUAL(length, 1000 / round);
        CHECK(!memcmp(bytes, data, length));
        free(bytes);
    }
}

TEST(aptpl_without_a_keeper_is_refused, &plain)
{
    CHECK_SENSE(co_pr(0, 0, 0, 0, 11, 1), 5, ASC_INVALID_FIELD_IN_PARAMETERS);
    CHECK_EQUAL(co_key_count(), 0);
}

/* ---- RESERVE and RELEASE ---- */

TEST(reserve_keeps_others_out_until_release_or_reset, &plain)
{
    static const uint8_t pairs[2][2] = {{0x16, 0x17}, {0x56, 0x57}};
    for (unsigned i = 0; i < 2; i++) {
        uint8_t reserve[10] = {pairs[i][0]}, release[10] = {pairs[i][1]};
        size_t length = i ? 10 : 6;
        CHECK_GOOD(co_send(bed.lun[0], reserve, length, NULL, 0, NULL, 0));
        CHECK_EQUAL(co_read_status(1), SCSI_RESERVATION_CONFLICT);
        CHECK_EQUAL(co_send(bed.lun[1], reserve, length, NULL, 0, NULL, 0).status,
                    SCSI_RESERVATION_CONFLICT);
        CHECK_GOOD(co_send(bed.lun[1], CDB(0x12, 0, 0, 0, 96, 0), NULL, 0, back, 96));
        CHECK_GOOD(co_send(bed.lun[1], release, length, NULL, 0, NULL, 0)); /* no effect */
        CHECK_EQUAL(co_read_status(1), SCSI_RESERVATION_CONFLICT);
        CHECK_EQUAL(co_pr(0, 0, 0, 0, 11, 0).status, SCSI_RESERVATION_CONFLICT);
        CHECK_GOOD(co_send(bed.lun[0], release, length, NULL, 0, NULL, 0));
        CHECK_EQUAL(co_read_status(1), SCSI_GOOD);
        CHECK_GOOD(co_send(bed.lun[0], reserve, length, NULL, 0, NULL, 0));
        co_scsi_disk_reset(bed.disk);
        CHECK_SENSE(co_ready(1), 6, ASC_DEVICE_RESET);
        CHECK_SENSE(co_ready(0), 6, ASC_DEVICE_RESET);
        CHECK_EQUAL(co_read_status(1), SCSI_GOOD);
        settle(bed.lun[2]);
    }
}

TEST(reserve_beside_registrations_changes_nothing, &plain)
{
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(0, 1, 1, 11, 0, 0));
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x16, 0, 0, 0, 0, 0), NULL, 0, NULL, 0));
    CHECK_EQUAL(co_send(bed.lun[1], CDB(0x16, 0, 0, 0, 0, 0), NULL, 0, NULL, 0).status,
                SCSI_RESERVATION_CONFLICT);
    CHECK_EQUAL(co_read_status(1), SCSI_GOOD);
}

TEST(a_lost_nexus_leaves_its_registration_only, &plain)
{
    CHECK_GOOD(co_send(bed.lun[0], CDB(0x16, 0, 0, 0, 0, 0), NULL, 0, NULL, 0));
    scsi_nexus_lost(bed.nexus[1]); /* of another: it stays */
    CHECK_EQUAL(co_read_status(1), SCSI_RESERVATION_CONFLICT);
    scsi_nexus_lost(bed.nexus[0]);
    CHECK_SENSE(co_ready(1), 6, ASC_NEXUS_LOSS);
    CHECK_EQUAL(co_read_status(1), SCSI_GOOD);
    CHECK_SENSE(co_ready(0), 6, ASC_NEXUS_LOSS);
    CHECK_EQUAL(co_read_status(0), SCSI_GOOD); /* once */
    CHECK_GOOD(co_pr(0, 0, 0, 0, 11, 0));
    CHECK_GOOD(co_pr(0, 1, 3, 11, 0, 0));
    scsi_nexus_lost(bed.nexus[0]);
    CHECK_EQUAL(co_read_status(1), SCSI_RESERVATION_CONFLICT);
    CHECK_SENSE(co_ready(0), 6, ASC_NEXUS_LOSS);
    CHECK_EQUAL(co_key_count(), 1);
    CHECK_EQUAL(co_read_status(0), SCSI_GOOD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_conflict_as_the_tables_say),
        cmocka_unit_test(only_registered_nexuses_change_reservations),
        cmocka_unit_test(release_tells_the_registrants),
        cmocka_unit_test(a_holder_that_unregisters_releases),
        cmocka_unit_test(preempting_takes_the_reservation_over),
        cmocka_unit_test(preempt_and_abort_waits_for_the_writes_of_the_preempted),
        cmocka_unit_test(registering_and_moving_hands_over),
        cmocka_unit_test(full_status_names_who_registered),
        cmocka_unit_test(listed_transport_ids_are_registered_all_or_none),
        cmocka_unit_test(reservations_outlive_a_restart_with_aptpl),
        cmocka_unit_test(a_change_that_cannot_be_saved_did_not_happen),
        cmocka_unit_test(damaged_saved_reservations_are_refused),
        cmocka_unit_test(a_file_keeps_the_state_whole),
        cmocka_unit_test(aptpl_without_a_keeper_is_refused),
        cmocka_unit_test(reserve_keeps_others_out_until_release_or_reset),
        cmocka_unit_test(reserve_beside_registrations_changes_nothing),
        cmocka_unit_test(a_lost_nexus_leaves_its_registration_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
