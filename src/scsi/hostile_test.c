/*
 * Commands as no sane initiator sends them, generated: every operation code with every service
 * action, every length of CDB, random fields and hostile parameter lists. Whatever comes, the
 * status is a legal one, sense data goes with CHECK CONDITION, and nothing outside of the buffers
 * is touched. In the simulator.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/scsi_test.h"
#include "base/random.h"

#define SIZE   (4 * MiB)
#define BUFFER 4096
#define GUARD  64
#define TRIES  6

static void check_legal(const struct scsi_task *task)
{
    CHECK(task->status == SCSI_GOOD || task->status == SCSI_CHECK_CONDITION ||
          task->status == SCSI_RESERVATION_CONFLICT || task->status == SCSI_BUSY ||
          task->status == SCSI_CONDITION_MET);
    CHECK((task->status == SCSI_CHECK_CONDITION) == (task->sense_length >= 8));
    CHECK(task->data_in_length <= task->data_in.length);
    if (task->status == SCSI_CHECK_CONDITION) {
        uint8_t format = task->sense[0] & 0x7f;
        CHECK(format == 0x70 || format == 0x72);
        CHECK_EQUAL(task->sense[7] + 8, task->sense_length);
    }
}

/* A parameter list that is random, but often has small and plausible lengths in it. */
static void fill_list(struct random *random, uint8_t *list, size_t length)
{
    random_fill(random, list, length);
    if (random_one_in(random, 2))
        for (size_t i = 0; i < length; i++)
            if (!random_one_in(random, 4))
                list[i] = 0;
    if (length >= 16 && random_one_in(random, 2)) {
        store_be16(list + random_below(random, 8) * 2, (uint16_t)random_below(random, 300));
        store_be16(list + 2, (uint16_t)(16 * random_below(random, 20)));
    }
}

static void co_try(struct bed *bed, struct random *random, uint8_t opcode, uint8_t action,
                   size_t cdb_length)
{
    static uint8_t out[BUFFER], in[BUFFER + 2 * GUARD];
    uint8_t cdb[20];
    struct iovec out_iov[2], in_iov[2];
    unsigned who = (unsigned)random_below(random, 3);
    fill_list(random, cdb, sizeof(cdb));
    cdb[0] = opcode;
    cdb[1] = (uint8_t)((random_one_in(random, 3) ? cdb[1] & 0xe0 : 0) | action);
    if (random_one_in(random, 2)) { /* a small length, at every place where one may be */
        cdb[4] = cdb[8] = cdb[13] = (uint8_t)random_below(random, 80);
        cdb[6] = cdb[7] = cdb[10] = cdb[11] = cdb[12] = 0;
        cdb[2] = cdb[3] = 0;
    }
    size_t out_length = random_below(random, BUFFER + 1), in_length = random_below(random, BUFFER);
    if (random_one_in(random, 4))
        out_length = random_below(random, 64);
    fill_list(random, out, out_length);
    memset(in, 0xa5, sizeof(in));
    size_t out_cut = out_length / 3, in_cut = in_length / 2;
    out_iov[0] = (struct iovec){out, out_cut};
    out_iov[1] = (struct iovec){out + out_cut, out_length - out_cut};
    in_iov[0] = (struct iovec){in + GUARD, in_cut};
    in_iov[1] = (struct iovec){in + GUARD + in_cut, in_length - in_cut};
    uint8_t *exact = malloc(cdb_length ? cdb_length : 1); /* a read past its end is seen */
    CHECK(exact);
    memcpy(exact, cdb, cdb_length);
    struct scsi_task task = {.cdb = exact,
                             .cdb_length = cdb_length,
                             .data_out = sgl_of(out_iov, 2),
                             .data_in = sgl_of(in_iov, 2)};
    bool no_lun = random_one_in(random, 16);
    co_scsi_execute(bed->nexus[who], no_lun ? NULL : bed->lun[who], &task);
    free(exact);
    check_legal(&task);
    CHECK(in[GUARD - 1] == 0xa5 && in[GUARD + in_length] == 0xa5);
    /* Whatever was reserved, stopped or protected, does not hide the rest. */
    if (random_one_in(random, 40)) {
        reservations_clear(&bed->disk->pr);
        bed->disk->spc2_holder = NULL;
        atomic_store(&bed->disk->gate, 0);
        atomic_store(&bed->disk->software_write_protect, false);
    }
    if (!random_one_in(random, 8))
        settle(bed->lun[who]);
}

static void co_everything(void *arg)
{
    struct random random = random_seed(*(const uint64_t *)arg);
    static const uint8_t lengths[] = {0, 1, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 20};
    struct scsi_disk_options options = {.block_bytes = random_one_in(&random, 2) ? 512 : 4096,
                                        .explicit_access = random_one_in(&random, 2)};
    struct bed bed = {0};
    bed_open(&bed, SIZE, &options);
    for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned action = 0; action < 32; action++) {
            for (unsigned i = 0; i < ARRAY_LEN(lengths); i++)
                co_try(&bed, &random, (uint8_t)opcode, (uint8_t)action, lengths[i]);
            bool known;
            if (command_find((uint8_t)opcode, (uint8_t)action, &known))
                for (unsigned i = 0; i < TRIES; i++)
                    co_try(&bed, &random, (uint8_t)opcode, (uint8_t)action, 16);
        }
    co_bed_close(&bed);
}

static void any_command_gets_a_legal_answer(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct sim_options options = {.seed = seed, .latency_max_ns = 1};
        struct rt *rt;
        CHECK_EQUAL(sim_create(&options, &rt), 0);
        CHECK_EQUAL(rt_run(rt, co_everything, &seed), 0);
        rt_free(rt);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_command_gets_a_legal_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
