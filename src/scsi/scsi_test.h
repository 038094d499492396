/*
 * What the tests of the SCSI disk share: a disk on an image in memory, nexuses that see it, and
 * commands as one call each. CHECK() aborts: cmocka's own asserts would jump off the coroutine's
 * stack.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_SCSI_TEST_H
#define SCSI_SCSI_TEST_H

#include "backend/mem/mem.h"
#include "backend/null/null.h"
#include "rt/sim.h"
#include "scsi/internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

#define CHECK_EQUAL(a, b)                                                            \
    do {                                                                             \
        int64_t check_a_ = (int64_t)(a), check_b_ = (int64_t)(b);                    \
        if (check_a_ != check_b_) {                                                  \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #a, \
                    (long long)check_a_, (long long)check_b_);                       \
            abort();                                                                 \
        }                                                                            \
    } while (0)

#define IO_MAX (1 * MiB)

struct bed {
    struct block_root *root;
    struct scsi_disk *disk;
    struct scsi_nexus *nexus[3];
    struct scsi_lun *lun[3];
};

static const struct block_driver *const test_drivers[] = {&mem_driver, &null_driver, NULL};

static struct block_root *co_root_open(uint64_t size, bool read_only)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    struct block_root_options options = {.read_only = read_only};
    json_t *description = json_pack("{s:s, s:I}", "driver", "mem", "size", (json_int_t)size);
    block_drivers_register(test_drivers);
    CHECK_EQUAL(co_block_open(description, read_only ? 0 : BLOCK_OPEN_WRITE, NULL, &node, &err), 0);
    json_decref(description);
    struct block_root *root = block_root_new(node, &options);
    CHECK(root);
    CHECK_EQUAL(co_block_close(node, &err), 0);
    return root;
}

/* Commands that only find a unit attention are sent again. */
static __attribute__((unused)) void settle(struct scsi_lun *lun)
{
    atomic_store(&lun->attentions, 0);
}

static void bed_open(struct bed *bed, uint64_t size, const struct scsi_disk_options *given)
{
    static const char *const names[] = {"iqn.2026-01.test:a,i,0x1", "iqn.2026-01.test:b,i,0x2",
                                        "iqn.2026-01.test:c,i,0x3"};
    struct scsi_disk_options options = given ? *given : (struct scsi_disk_options){0};
    struct hws_error err = {0};
    if (!options.name)
        options.name = "test";
    if (!bed->root) /* else the test's own */
        bed->root = co_root_open(size, options.read_only);
    CHECK_EQUAL(scsi_disk_new(bed->root, &options, &bed->disk, &err), 0);
    for (unsigned i = 0; i < 3; i++) {
        struct scsi_nexus_options who = {.initiator = names[i], .port_id = (uint16_t)(i / 2 + 1)};
        CHECK_EQUAL(scsi_nexus_new(&who, &bed->nexus[i], &err), 0);
        CHECK_EQUAL(scsi_map(bed->nexus[i], 0, bed->disk, &bed->lun[i]), 0);
        settle(bed->lun[i]);
    }
}

static __attribute__((unused)) void co_bed_close(struct bed *bed)
{
    for (unsigned i = 0; i < 3; i++) {
        co_scsi_unmap(bed->lun[i]);
        CHECK(scsi_nexus_free(bed->nexus[i]) == NULL);
    }
    CHECK(scsi_disk_free(bed->disk) == NULL);
    CHECK_EQUAL(co_block_root_free(bed->root, NULL), 0);
    bed->root = NULL;
}

/* One command; @out and @in may be NULL. The sense's key and code are in @ret_sense. */
struct outcome {
    uint8_t status, key;
    uint16_t asc;
    size_t length;
    int64_t residual;
    uint8_t sense[SCSI_SENSE_MAX];
};

static __attribute__((unused)) struct outcome co_send(struct scsi_lun *lun, const uint8_t *cdb,
                                                      size_t cdb_length, const void *out,
                                                      size_t out_length, void *in, size_t in_length)
{
    struct iovec out_iov, in_iov;
    struct scsi_task task = {.cdb = cdb,
                             .cdb_length = cdb_length,
                             .data_out = sgl_one(&out_iov, (void *)(uintptr_t)out, out_length),
                             .data_in = sgl_one(&in_iov, in, in_length)};
    co_scsi_execute(lun->nexus, lun, &task);
    struct outcome o = {
        .status = task.status, .length = task.data_in_length, .residual = task.residual};
    memcpy(o.sense, task.sense, task.sense_length);
    if (task.sense_length) {
        bool descriptor = task.sense[0] == 0x72;
        CHECK(descriptor || task.sense[0] == 0x70 || task.sense[0] == 0xf0);
        o.key = task.sense[descriptor ? 1 : 2];
        o.asc = load_be16(task.sense + (descriptor ? 2 : 12));
    }
    return o;
}

#define CDB(...) ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__})

#define CHECK_GOOD(result)                                                                      \
    do {                                                                                        \
        struct outcome good_ = (result);                                                        \
        if (good_.status)                                                                       \
            fprintf(stderr, "status %02x sense %x/%04x\n", good_.status, good_.key, good_.asc); \
        CHECK(good_.status == SCSI_GOOD);                                                       \
    } while (0)

#define CHECK_SENSE(result, wanted_key, wanted_asc)                                          \
    do {                                                                                     \
        struct outcome bad_ = (result);                                                      \
        if (bad_.status != SCSI_CHECK_CONDITION || bad_.key != (wanted_key) ||               \
            bad_.asc != (wanted_asc))                                                        \
            fprintf(stderr, "status %02x sense %x/%04x\n", bad_.status, bad_.key, bad_.asc); \
        CHECK(bad_.status == SCSI_CHECK_CONDITION && bad_.key == (wanted_key) &&             \
              bad_.asc == (wanted_asc));                                                     \
    } while (0)

#endif
