/*
 * Against memory: random reads, writes, write same, unmap, compare and write, orwrite and copies by
 * several initiators at once, on an image in memory and on qcow2 in the simulator, and on real
 * queue threads. And one counter that all of them raise by COMPARE AND WRITE: no raise is lost.
 *
 * Each initiator has blocks of its own, so that it knows what they hold; the locks, the counters
 * and the disk are common.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/scsi_test.h"
#include "backend/file/file.h"
#include "base/random.h"
#include "format/qcow2/qcow2_driver.h"

#define USERS     3
#define BLOCKS    256 /* of one user */
#define BYTES     (BLOCKS * 512)
#define COUNTER   (USERS * BLOCKS) /* the block that counts */
#define SIZE      ((COUNTER + 8) * 512)
#define OPERATION 400

struct user {
    struct bed *bed;
    unsigned index;
    uint64_t seed;
    uint8_t model[BYTES], buffer[2 * BYTES];
    struct random random;
    struct co_group *group;
    unsigned raised;
};

static const struct block_driver *const all_drivers[] = {&mem_driver, &file_driver, &qcow2_driver,
                                                         NULL};

static void cdb_16(uint8_t cdb[16], uint8_t opcode, uint64_t lba, uint32_t count)
{
    memset(cdb, 0, 16);
    cdb[0] = opcode;
    store_be64(cdb + 2, lba);
    store_be32(cdb + 10, count);
}

static struct outcome co_ask(struct user *u, const uint8_t cdb[16], const void *out, size_t length,
                             void *in, size_t room)
{
    struct scsi_lun *lun = u->bed->lun[u->index];
    struct outcome o = co_send(lun, cdb, 16, out, length, in, room);
    while (o.status == SCSI_TASK_ABORTED ||
           (o.status == SCSI_CHECK_CONDITION && o.key == SCSI_KEY_UNIT_ATTENTION))
        o = co_send(lun, cdb, 16, out, length, in, room);
    return o;
}

static void co_unmap_blocks(struct user *u, uint64_t lba, uint32_t count)
{
    uint8_t cdb[16] = {0x42, 0, 0, 0, 0, 0, 0, 0, 24}, list[24] = {0, 22, 0, 16};
    struct outcome o;
    store_be64(list + 8, lba);
    store_be32(list + 16, count);
    do
        o = co_send(u->bed->lun[u->index], cdb, 10, list, 24, NULL, 0);
    while (o.status == SCSI_CHECK_CONDITION && o.key == SCSI_KEY_UNIT_ATTENTION);
    CHECK_GOOD(o);
}

/* What was unmapped reads as zeroes. */
static void co_check_unmapped(struct user *u, uint64_t first, uint32_t at, uint32_t count)
{
    uint8_t cdb[16];
    cdb_16(cdb, 0x88, first + at, count);
    CHECK_GOOD(co_ask(u, cdb, NULL, 0, u->buffer, count * 512));
    for (uint32_t i = 0; i < count; i++) {
        CHECK(buffer_is_zero(u->buffer + (size_t)i * 512, 512));
        memset(u->model + (size_t)(at + i) * 512, 0, 512);
    }
}

static void co_compare_swap(struct user *u, uint64_t first, uint32_t at, uint32_t count)
{
    uint8_t cdb[16], *model = u->model + (size_t)at * 512;
    size_t bytes = (size_t)count * 512;
    bool spoil = random_one_in(&u->random, 3);
    cdb_16(cdb, 0x89, first + at, count);
    memcpy(u->buffer, model, bytes);
    random_fill(&u->random, u->buffer + bytes, bytes);
    if (spoil)
        u->buffer[random_below(&u->random, bytes)] ^= 0x80;
    struct outcome o = co_ask(u, cdb, u->buffer, 2 * bytes, NULL, 0);
    CHECK_EQUAL(o.status, spoil ? SCSI_CHECK_CONDITION : SCSI_GOOD);
    CHECK(!spoil || o.asc == ASC_MISCOMPARE);
    if (!spoil)
        memcpy(model, u->buffer + bytes, bytes);
}

static void co_operation(struct user *u)
{
    uint64_t first = (uint64_t)u->index * BLOCKS;
    uint32_t at = (uint32_t)random_below(&u->random, BLOCKS);
    uint32_t count = 1 + (uint32_t)random_below(&u->random, MIN(BLOCKS - at, 64u));
    size_t bytes = (size_t)count * 512;
    uint8_t cdb[16], *model = u->model + (size_t)at * 512;
    switch (random_below(&u->random, 7)) {
    case 0:
    case 1:
        random_fill(&u->random, model, bytes);
        cdb_16(cdb, 0x8a, first + at, count);
        CHECK_GOOD(co_ask(u, cdb, model, bytes, NULL, 0));
        break;
    case 2:
        random_fill(&u->random, u->buffer, 512);
        if (random_one_in(&u->random, 2))
            memset(u->buffer, 0, 512);
        cdb_16(cdb, 0x93, first + at, count);
        cdb[1] = random_one_in(&u->random, 2) ? 8 : 0;
        CHECK_GOOD(co_ask(u, cdb, u->buffer, 512, NULL, 0));
        for (uint32_t i = 0; i < count; i++)
            memcpy(model + (size_t)i * 512, u->buffer, 512);
        break;
    case 3:
        co_unmap_blocks(u, first + at, count);
        co_check_unmapped(u, first, at, count);
        break;
    case 4:
        co_compare_swap(u, first, at, count);
        break;
    case 5:
        random_fill(&u->random, u->buffer, bytes);
        cdb_16(cdb, 0x8b, first + at, count);
        CHECK_GOOD(co_ask(u, cdb, u->buffer, bytes, NULL, 0));
        for (size_t i = 0; i < bytes; i++)
            model[i] |= u->buffer[i];
        break;
    default:
        cdb_16(cdb, 0x88, first + at, count);
        CHECK_GOOD(co_ask(u, cdb, NULL, 0, u->buffer, bytes));
        CHECK(!memcmp(u->buffer, model, bytes));
    }
}

/* Reads the counter and tries to raise it; another may have been quicker. */
static void co_raise(struct user *u)
{
    uint8_t cdb[16], *block = u->buffer;
    cdb_16(cdb, 0x88, COUNTER, 1);
    CHECK_GOOD(co_ask(u, cdb, NULL, 0, block, 512));
    memcpy(block + 512, block, 512);
    store_be64(block + 512, load_be64(block) + 1);
    cdb_16(cdb, 0x89, COUNTER, 1);
    struct outcome o = co_ask(u, cdb, block, 1024, NULL, 0);
    CHECK(o.status == SCSI_GOOD || o.asc == ASC_MISCOMPARE);
    u->raised += o.status == SCSI_GOOD;
}

static void co_disturb(struct user *u)
{
    uint8_t list[24] = {0};
    uint8_t action = (uint8_t)random_below(&u->random, 7);
    store_be64(list, u->index + 1u);
    store_be64(list + 8, u->index + 1u);
    uint8_t cdb[10] = {0x5f, action == 1 || action == 4 ? 6 : action, 0, 0, 0, 0, 0, 0, 24, 0};
    (void)co_send(u->bed->lun[u->index], cdb, 10, list, 24, NULL, 0);
    if (random_one_in(&u->random, 4))
        scsi_disk_set_write_cache(u->bed->disk, random_one_in(&u->random, 2));
    if (random_one_in(&u->random, 8))
        co_scsi_disk_reset(u->bed->disk);
}

static void co_user(void *arg)
{
    struct user *u = arg;
    u->random = random_seed(u->seed * USERS + u->index);
    for (unsigned i = 0; i < OPERATION; i++) {
        co_operation(u);
        if (i % 4 == 0)
            co_raise(u);
        if (i % 16 == 0)
            co_disturb(u);
    }
    if (u->group)
        co_group_done(u->group);
}

static struct user users[USERS];

static uint64_t co_counter(struct bed *bed)
{
    uint8_t cdb[16], block[512];
    settle(bed->lun[0]);
    cdb_16(cdb, 0x88, COUNTER, 1);
    CHECK_GOOD(co_send(bed->lun[0], cdb, 16, NULL, 0, block, 512));
    return load_be64(block);
}

static void co_run_users(struct bed *bed, uint64_t seed, bool threads)
{
    struct co_group group;
    struct rt_queue *queues[USERS] = {NULL};
    struct hws_error err = {0};
    uint64_t raised = 0;
    co_group_init(&group);
    co_group_add(&group, USERS);
    for (unsigned i = 0; i < USERS; i++) {
        memset(&users[i], 0, sizeof(users[i]));
        users[i].bed = bed;
        users[i].index = i;
        users[i].seed = seed;
        users[i].group = &group;
        if (threads)
            CHECK_EQUAL(rt_queue_start(rt_current(), "user", &queues[i], &err), 0);
        CHECK_EQUAL(rt_spawn(queues[i], co_user, &users[i]), 0);
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < USERS; i++) {
        if (queues[i])
            co_queue_stop(queues[i]);
        raised += users[i].raised;
    }
    CHECK(raised > 0);
    CHECK_EQUAL(co_counter(bed), raised);
    co_group_destroy(&group);
}

static void co_qcow2_root(struct bed *bed)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    struct block_root_options options = {0};
    json_t *create = json_pack("{s:s, s:{s:s, s:s}, s:s, s:s}", "driver", "qcow2", "file", "driver",
                               "file", "filename", "/image", "size", "400k", "cluster_size", "4k");
    json_t *open = json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver", "file",
                             "filename", "/image");
    CHECK_EQUAL(co_block_create(create, false, NULL, &err), 0);
    CHECK_EQUAL(co_block_open(open, BLOCK_OPEN_WRITE, NULL, &node, &err), 0);
    json_decref(create);
    json_decref(open);
    bed->root = block_root_new(node, &options);
    CHECK(bed->root);
    CHECK_EQUAL(co_block_close(node, &err), 0);
}

struct plan {
    uint64_t seed;
    bool qcow2, threads;
};

static void co_plan(void *arg)
{
    const struct plan *plan = arg;
    struct bed bed = {0};
    if (plan->qcow2) {
        block_drivers_register(all_drivers);
        co_qcow2_root(&bed);
    }
    bed_open(&bed, SIZE, NULL);
    co_run_users(&bed, plan->seed, plan->threads);
    co_bed_close(&bed);
}

static void in_the_simulator(bool qcow2)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct sim_options options = {.seed = seed};
        struct plan plan = {.seed = seed, .qcow2 = qcow2};
        struct rt *rt;
        CHECK_EQUAL(sim_create(&options, &rt), 0);
        CHECK_EQUAL(rt_run(rt, co_plan, &plan), 0);
        rt_free(rt);
    }
}

static void the_disk_is_what_memory_says_on_mem(void **state)
{
    in_the_simulator(false);
}

static void the_disk_is_what_memory_says_on_qcow2(void **state)
{
    in_the_simulator(true);
}

static void the_disk_is_what_memory_says_on_queue_threads(void **state)
{
    static const enum rt_kind kinds[] = {RT_URING, RT_THREADS};
    unsigned ran = 0;
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        struct rt_options options = {.kind = kinds[i]};
        struct plan plan = {.seed = 100 + i, .threads = true};
        struct hws_error err = {0};
        struct rt *rt;
        if (rt_create(&options, &rt, &err) < 0) {
            print_message("left out: %s\n", err.text);
            continue;
        }
        CHECK_EQUAL(rt_run(rt, co_plan, &plan), 0);
        rt_free(rt);
        ran++;
    }
    CHECK(ran > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_disk_is_what_memory_says_on_mem),
        cmocka_unit_test(the_disk_is_what_memory_says_on_qcow2),
        cmocka_unit_test(the_disk_is_what_memory_says_on_queue_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
