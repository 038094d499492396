/*
 * Fuzz target: a stream of SCSI commands, from two initiators to two disks in memory.
 *
 *     repeated: u8 who | u8 cdb length (low 5 bits) | be16 data-out | be16 data-in | cdb | data-out
 *
 * Beside crashes and sanitizer reports it holds: a legal status, sense exactly with CHECK
 * CONDITION, no byte outside of the data-in buffer, and what was filled is no more than fits.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "block/block.h"
#include "drivers/drivers.h"
#include "fuzz.h"
#include "rt/sim.h"
#include "scsi/scsi.h"

#define DISK_BYTES   (256 * KiB)
#define IN_MAX       8192
#define GUARD        32
#define CDB_BYTES    31
#define COMMANDS_MAX 64

struct run {
    const uint8_t *bytes;
    size_t length;
    struct block_root *root[2];
    struct scsi_disk *disk[2];
    struct scsi_nexus *nexus[2];
    struct scsi_lun *lun[2][2];
};

static int co_save(void *arg, const void *bytes, size_t length)
{
    /* What is saved must be loadable. */
    struct run *run = arg;
    struct scsi_disk_options options = {
        .name = "again", .co_save = co_save, .saved = bytes, .saved_length = length};
    struct scsi_disk *disk = NULL;
    struct hws_error err = {0};
    int result = scsi_disk_new(run->root[0], &options, &disk, &err);
    assert(result == 0);
    scsi_disk_free(disk);
    return 0;
}

static void co_open_all(struct run *run)
{
    static const char *const names[] = {"iqn.2026-01.f:a,i,0x1", "iqn.2026-01.f:b"};
    struct hws_error err = {0};
    json_t *description = json_pack("{s:s, s:I}", "driver", "mem", "size", (json_int_t)DISK_BYTES);
    for (unsigned i = 0; i < 2; i++) {
        struct block_node *node = NULL;
        struct scsi_disk_options options = {.block_bytes = i ? 4096 : 512,
                                            .name = names[i],
                                            .explicit_access = i,
                                            .co_save = co_save,
                                            .save_arg = run};
        int result = co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, &err);
        assert(result == 0);
        run->root[i] = block_root_new(node, &(struct block_root_options){0});
        result = co_block_close(node, &err);
        assert(result == 0 && run->root[i]);
        result = scsi_disk_new(run->root[i], &options, &run->disk[i], &err);
        assert(result == 0);
        result = scsi_nexus_new(&(struct scsi_nexus_options){.initiator = names[i]}, &run->nexus[i],
                                &err);
        assert(result == 0);
    }
    json_decref(description);
    for (unsigned i = 0; i < 4; i++) {
        int result = scsi_map(run->nexus[i / 2], (uint16_t)(i % 2), run->disk[i % 2],
                              &run->lun[i / 2][i % 2]);
        assert(result == 0);
    }
}

static void co_close_all(struct run *run)
{
    for (unsigned i = 0; i < 4; i++)
        co_scsi_unmap(run->lun[i / 2][i % 2]);
    for (unsigned i = 0; i < 2; i++) {
        scsi_nexus_free(run->nexus[i]);
        scsi_disk_free(run->disk[i]);
        (void)co_block_root_free(run->root[i], NULL);
    }
}

static void co_command(struct run *run, struct cursor *c)
{
    static uint8_t in[IN_MAX + 2 * GUARD];
    uint8_t who = cursor_u8(c);
    size_t cdb_length = MIN(cursor_u8(c) & 31, (int)CDB_BYTES);
    size_t out_length = cursor_be16(c), in_length = cursor_be16(c) % (IN_MAX + 1);
    const uint8_t *cdb = cursor_take(c, MIN(cdb_length, cursor_left(c)));
    out_length = MIN(out_length, cursor_left(c));
    const uint8_t *out = cursor_take(c, out_length);
    if (c->failed || (size_t)(out - cdb) < cdb_length)
        return;
    struct iovec out_iov, in_iov;
    struct scsi_task task = {
        .cdb = cdb,
        .cdb_length = cdb_length,
        .data_out = sgl_one(&out_iov, (void *)(uintptr_t)out, out_length),
        .data_in = sgl_one(&in_iov, in + GUARD, in_length),
    };
    memset(in, 0x5a, sizeof(in));
    struct scsi_lun *lun = (who & 0x0c) == 0x0c ? NULL : run->lun[who & 1][(who >> 1) & 1];
    co_scsi_execute(run->nexus[who & 1], lun, &task);
    assert(task.status == SCSI_GOOD || task.status == SCSI_CHECK_CONDITION ||
           task.status == SCSI_RESERVATION_CONFLICT || task.status == SCSI_BUSY);
    assert((task.status == SCSI_CHECK_CONDITION) == (task.sense_length >= 8));
    assert(task.data_in_length <= in_length);
    assert(in[GUARD - 1] == 0x5a && in[GUARD + in_length] == 0x5a);
}

static void co_main(void *arg)
{
    struct run *run = arg;
    struct cursor c = cursor_of(run->bytes, run->length);
    co_open_all(run);
    for (unsigned i = 0; i < COMMANDS_MAX && cursor_left(&c) > 0; i++)
        co_command(run, &c);
    co_close_all(run);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct sim_options options = {.seed = 1, .latency_max_ns = 1};
    struct run run = {.bytes = bytes, .length = length};
    struct rt *rt = NULL;
    drivers_register();
    int result = sim_create(&options, &rt);
    assert(result == 0);
    result = rt_run(rt, co_main, &run);
    assert(result == 0);
    rt_free(rt);
    return 0;
}
