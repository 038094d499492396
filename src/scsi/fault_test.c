/*
 * An image that fails: the k-th operation of the storage fails, for every k. Each command then ends
 * with GOOD, or with the sense for what happened; what GOOD promised is there; reservations are as
 * the last GOOD left them. In the simulator, on an image file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/scsi_test.h"
#include "backend/file/file.h"

#define SIZE  (64 * KiB)
#define K_MAX 200
#define IMAGE "/image"

static const struct block_driver *const all_drivers[] = {&file_driver, NULL};
static char state_path[] = "/state";

struct sweep {
    unsigned errors[16]; /* by sense key */
    bool finished;       /* a run in which nothing failed */
    bool failed;
};

static void co_note(struct sweep *sweep, struct outcome o)
{
    CHECK(o.status == SCSI_GOOD || o.status == SCSI_CHECK_CONDITION || o.status == SCSI_BUSY);
    if (o.status == SCSI_CHECK_CONDITION) {
        CHECK(o.key == SCSI_KEY_MEDIUM_ERROR || o.key == SCSI_KEY_HARDWARE_ERROR ||
              o.key == SCSI_KEY_COPY_ABORTED);
        sweep->errors[o.key]++;
    }
    sweep->failed |= o.status != SCSI_GOOD;
}

static struct outcome co_block(struct scsi_lun *lun, uint8_t opcode, uint8_t flags, void *buffer)
{
    uint8_t cdb[10] = {opcode, flags, 0, 0, 0, 3, 0, 0, 1, 0};
    return opcode == 0x28 ? co_send(lun, cdb, 10, NULL, 0, buffer, 512)
                          : co_send(lun, cdb, 10, buffer, 512, NULL, 0);
}

static void co_medium(struct sweep *sweep, struct scsi_lun *lun)
{
    uint8_t block[1024], back[512];
    memset(block, 7, sizeof(block));
    struct outcome wrote = co_block(lun, 0x2a, 0x08, block);
    co_note(sweep, wrote);
    struct outcome o = co_block(lun, 0x28, 0, back);
    co_note(sweep, o);
    if (wrote.status == SCSI_GOOD && o.status == SCSI_GOOD)
        CHECK(!memcmp(block, back, 512));
    co_note(sweep, co_block(lun, 0x2f, 0, block));
    co_note(sweep, co_block(lun, 0x41, 0, block));
    co_note(sweep, co_send(lun, CDB(0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0), block, 512,
                           NULL, 0));
    memset(block, 0, 512);
    co_note(sweep, co_send(lun, CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0), block,
                           1024, NULL, 0));
    co_note(sweep, co_send(lun, CDB(0x93, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0), NULL, 0,
                           NULL, 0));
    co_note(sweep, co_send(lun, CDB(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), NULL, 0, NULL, 0));
}

static unsigned co_keys(struct scsi_lun *lun)
{
    uint8_t back[256];
    CHECK_GOOD(co_send(lun, CDB(0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0), NULL, 0, back, 256));
    return load_be32(back + 4) / 8;
}

static void co_reserve_durably(struct sweep *sweep, struct bed *bed)
{
    unsigned expected = 0;
    for (unsigned i = 0; i < 3; i++) {
        uint8_t list[24] = {0};
        store_be64(list + 8, i + 1);
        list[20] = 1;
        struct outcome o =
            co_send(bed->lun[i], CDB(0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0), list, 24, NULL, 0);
        co_note(sweep, o);
        expected += o.status == SCSI_GOOD;
        CHECK_EQUAL(co_keys(bed->lun[i]), expected);
    }
}

static void co_run(void *arg)
{
    struct sweep *sweep = arg;
    struct hws_error err = {0};
    struct bed bed = {0};
    struct block_node *node = NULL;
    struct block_root_options root_options = {0};
    struct scsi_disk_options options = {.co_save = co_scsi_state_save, .save_arg = state_path};
    json_t *description = json_pack("{s:s, s:s}", "driver", "file", "filename", IMAGE);
    block_drivers_register(all_drivers);
    int result = co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, &err);
    json_decref(description);
    sweep->failed = result < 0;
    if (result < 0)
        return;
    bed.root = block_root_new(node, &root_options);
    (void)co_block_close(node, &err);
    bed_open(&bed, SIZE, &options);
    co_medium(sweep, bed.lun[0]);
    co_reserve_durably(sweep, &bed);
    for (unsigned i = 0; i < 3; i++) {
        co_scsi_unmap(bed.lun[i]);
        scsi_nexus_free(bed.nexus[i]);
    }
    scsi_disk_free(bed.disk);
    if (co_block_root_free(bed.root, NULL) < 0)
        sweep->failed = true;
    sweep->finished = !sweep->failed;
}

static void every_failure_of_the_storage_is_told(void **state)
{
    static uint8_t image[SIZE];
    struct sweep sweep = {0};
    uint64_t k = 0;
    while (!sweep.finished) {
        struct sim_options options = {.seed = 1, .fail_at = ++k};
        struct rt *rt;
        CHECK(k < K_MAX);
        CHECK_EQUAL(sim_create(&options, &rt), 0);
        CHECK_EQUAL(sim_file_store(rt, IMAGE, image, sizeof(image)), 0);
        CHECK_EQUAL(rt_run(rt, co_run, &sweep), 0);
        sweep.finished &= sim_operations(rt) < k; /* else a failure was got over */
        rt_free(rt);
    }
    CHECK(sweep.errors[SCSI_KEY_MEDIUM_ERROR] >= 8);
    CHECK(sweep.errors[SCSI_KEY_HARDWARE_ERROR] >= 3); /* what could not be saved */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failure_of_the_storage_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
