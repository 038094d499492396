/*
 * The export against a fake kernel: random commands against a model, with answers out of order,
 * wraps, padding, a full ring and several threads; stops and task management while commands are in
 * flight; commands and rings that are broken.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "drivers/drivers.h"
#include "export/tcmu/fake_kernel.h"
#include "rt/rt_test.h"

#define BLOCKS     8192u
#define BLOCK      512u
#define DEPTH      64
#define PART       (BLOCKS / DEPTH) /* blocks that one slot of commands has to itself */
#define OPERATIONS 4000

struct bed {
    bool edge;
    struct block_root *root;
    struct scsi_disk *disk;
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;
    struct fake_kernel kernel;
    struct tcmu_export *export;
    struct rt_queue **queues; /* NULL: the export has its own */
    uint8_t model[BLOCKS * BLOCK];
};

static struct bed bed;

static void co_open_root(struct bed *b, unsigned delay_us)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    json_t *description =
        json_pack("{s:s, s:i, s:i, s:i, s:{s:s, s:I}}", "driver", "delay", "read-us", (int)delay_us,
                  "write-us", (int)delay_us, "jitter-us", (int)delay_us, "file", "driver", "mem",
                  "size", (json_int_t)BLOCKS * BLOCK);
    drivers_register();
    CHECK_EQUAL(co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, &err), 0);
    json_decref(description);
    b->root = block_root_new(node, &(struct block_root_options){0});
    CHECK(b->root);
    CHECK_EQUAL(co_block_close(node, &err), 0);
}

static void co_start(struct bed *b, unsigned threads)
{
    struct hws_error err = {0};
    struct tcmu_device device = fake_device(&b->kernel);
    struct tcmu_export_options options = {
        .name = "test", .nexus = b->nexus, .lun = b->lun, .threads = threads, .queues = b->queues};
    CHECK_EQUAL(co_tcmu_export_serve(&options, &device, &b->export, &err), 0);
}

static void co_stop(struct bed *b)
{
    co_tcmu_export_stop(b->export);
    b->export = NULL;
}

static void co_bed_open(struct bed *b, uint32_t ring_bytes, unsigned threads, unsigned delay_us)
{
    struct hws_error err = {0};
    struct scsi_disk_options disk = {.name = "test"};
    memset(b->model, 0, sizeof(b->model));
    b->edge = strcmp(rt_name(rt_current()), "io_uring") == 0;
    co_open_root(b, delay_us);
    CHECK_EQUAL(scsi_disk_new(b->root, &disk, &b->disk, &err), 0);
    CHECK_EQUAL(scsi_nexus_new(&(struct scsi_nexus_options){.initiator = "iqn.2026-01.test:a"},
                               &b->nexus, &err),
                0);
    CHECK_EQUAL(scsi_map(b->nexus, 0, b->disk, &b->lun), 0);
    fake_init(&b->kernel, ring_bytes, b->edge, 7);
    co_start(b, threads);
}

static void co_bed_close(struct bed *b)
{
    if (b->export)
        co_stop(b);
    fake_fini(&b->kernel);
    co_scsi_unmap(b->lun);
    CHECK(scsi_nexus_free(b->nexus) == NULL);
    CHECK(scsi_disk_free(b->disk) == NULL);
    CHECK_EQUAL(co_block_root_free(b->root, NULL), 0);
}

/* ---- commands ---- */

static struct fake_command simple(uint8_t opcode)
{
    static const uint8_t lengths[8] = {6, 10, 10, 12, 16, 12, 10, 10};
    struct fake_command c = {.cdb = {opcode}};
    c.cdb_length = lengths[opcode >> 5];
    return c;
}

static struct fake_command transfer(uint8_t opcode, uint32_t lba, uint16_t count, uint8_t *bytes)
{
    struct fake_command c = simple(opcode);
    store_be32(c.cdb + 2, lba);
    store_be16(c.cdb + 7, count);
    c.length = (size_t)count * BLOCK;
    c.out = opcode == OP_WRITE_10 ? bytes : NULL;
    c.in = opcode == OP_READ_10 ? bytes : NULL;
    return c;
}

/* The first command meets the unit attention of a disk that is new. */
static void settle(struct bed *b)
{
    struct fake_command c = simple(OP_TEST_UNIT_READY);
    fake_send(&b->kernel, &c);
    CHECK_EQUAL(c.status, SCSI_CHECK_CONDITION);
    CHECK_EQUAL(c.key, SCSI_KEY_UNIT_ATTENTION);
    struct fake_command again = simple(OP_TEST_UNIT_READY);
    fake_send(&b->kernel, &again);
    CHECK_EQUAL(again.status, SCSI_GOOD);
}

/* ---- the model ---- */

struct slot {
    struct fake_command c;
    uint8_t bytes[PART * BLOCK];
    uint32_t lba;
    bool busy;
};

static struct slot slots[DEPTH];
static unsigned finished;

static void check_done(struct fake_command *c)
{
    struct slot *s = container_of(c, struct slot, c);
    size_t at = (size_t)s->lba * BLOCK;
    switch (c->cdb[0]) {
    case OP_READ_10:
        CHECK_EQUAL(c->status, SCSI_GOOD);
        CHECK(!c->has_length);
        CHECK(memcmp(s->bytes, bed.model + at, c->length) == 0);
        break;
    case OP_WRITE_10:
        CHECK_EQUAL(c->status, SCSI_GOOD);
        memcpy(bed.model + at, s->bytes, c->length);
        break;
    case OP_INQUIRY:
        CHECK_EQUAL(c->status, SCSI_GOOD);
        CHECK(c->has_length && c->read_length >= 36 && c->read_length < 255);
        CHECK(memcmp(s->bytes + 8, "HAWSER  ", 8) == 0);
        break;
    default:
        CHECK_EQUAL(c->status, SCSI_CHECK_CONDITION);
        CHECK_EQUAL(c->key, SCSI_KEY_ILLEGAL_REQUEST);
        CHECK_EQUAL(c->asc, c->cdb[0] == 0xff ? ASC_INVALID_OPCODE : ASC_LBA_OUT_OF_RANGE);
    }
    s->busy = false;
    finished++;
}

static void prepare(struct slot *s, unsigned index, struct random *random)
{
    uint16_t count = (uint16_t)(1 + random_below(random, random_below(random, 4) ? 16 : PART));
    uint32_t from = (uint32_t)random_below(random, PART - count + 1u);
    s->lba = index * PART + from;
    switch (random_below(random, 10)) {
    case 0:
        s->c = simple(OP_INQUIRY);
        s->c.cdb[4] = 255;
        s->c.length = 255;
        s->c.in = s->bytes;
        break;
    case 1:
        s->c = simple(random_below(random, 2) ? 0xff : OP_READ_16);
        store_be64(s->c.cdb + 2, BLOCKS);
        store_be32(s->c.cdb + 10, 1);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
        s->c = transfer(OP_READ_10, s->lba, count, s->bytes);
        break;
    default:
        s->c = transfer(OP_WRITE_10, s->lba, count, s->bytes);
        for (size_t i = 0; i < s->c.length; i += 8)
            store_be64(s->bytes + i, random_u64(random));
    }
    s->c.done = check_done;
}

/* As many as fit at once, then one event, as a busy kernel does. */
static int run_model(void *arg)
{
    struct bed *b = arg;
    struct random random = random_seed(11);
    settle(b);
    finished = 0;
    for (unsigned sent = 0; finished < OPERATIONS;) {
        unsigned before = sent, burst = 1 + (unsigned)random_below(&random, DEPTH);
        for (unsigned n = 0; n < burst && sent < OPERATIONS; n++) {
            unsigned index = (unsigned)random_below(&random, DEPTH);
            struct slot *s = &slots[index];
            if (s->busy)
                continue;
            prepare(s, index, &random);
            if (!fake_submit(&b->kernel, &s->c))
                break;
            s->busy = true;
            sent++;
        }
        if (sent > before)
            fake_notify(&b->kernel);
        if (b->kernel.in_flight)
            CHECK(fake_wait(&b->kernel, FAKE_PATIENCE_MS));
    }
    CHECK_EQUAL(b->kernel.in_flight, 0);
    CHECK(b->kernel.pads > 10);
    return 0;
}

static void co_model(unsigned threads, unsigned delay_us)
{
    struct tcmu_export_info info;
    co_bed_open(&bed, 8192 + 8 * 5, threads, delay_us);
    CHECK_EQUAL(co_work(run_model, &bed), 0);
    tcmu_export_info(bed.export, &info);
    CHECK_EQUAL(info.threads, threads);
    CHECK_EQUAL(info.commands, OPERATIONS + 2);
    CHECK_EQUAL(info.malformed, 0);
    CHECK(info.failures > 1 && info.failures < OPERATIONS / 5);
    CHECK(info.wakeups < info.commands);
    CHECK_EQUAL(info.ring_bytes, 8192 + 8 * 5);
    CHECK(info.out_of_order && info.read_length && info.task_management);
    co_bed_close(&bed);
}

TEST(commands_on_one_thread_match_the_model)
{
    co_model(1, 0);
}

TEST(commands_on_four_threads_match_the_model)
{
    co_model(4, 0);
}

TEST(answers_out_of_order_match_the_model)
{
    co_model(1, 300);
}

TEST(answers_out_of_order_on_three_threads_match_the_model)
{
    co_model(3, 300);
}

/* ---- more than there are tasks ---- */

#define MANY (TCMU_TASKS_MAX + 100)

static int send_many(void *arg)
{
    struct bed *b = arg;
    static struct fake_command many[MANY];
    static uint8_t bytes[MANY][BLOCK];
    settle(b);
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = transfer(OP_READ_10, i, 1, bytes[i]);
        CHECK(fake_submit(&b->kernel, &many[i]));
    }
    fake_notify(&b->kernel);
    fake_wait_all(&b->kernel);
    for (unsigned i = 0; i < MANY; i++)
        CHECK_EQUAL(many[i].status, SCSI_GOOD);
    return 0;
}

TEST(what_finds_no_task_waits_in_the_ring)
{
    for (unsigned threads = 1; threads <= 2; threads++) {
        co_bed_open(&bed, 256 * 1024, threads, 2000);
        CHECK_EQUAL(co_work(send_many, &bed), 0);
        co_bed_close(&bed);
    }
}

/* ---- stop ---- */

static struct fake_command flight[40];
static uint8_t flight_bytes[40][BLOCK];

static int launch(void *arg)
{
    struct bed *b = arg;
    for (unsigned i = 0; i < ARRAY_LEN(flight); i++) {
        flight[i] = transfer(OP_READ_10, i, 1, flight_bytes[i]);
        CHECK(fake_submit(&b->kernel, &flight[i]));
        fake_notify(&b->kernel);
    }
    return 0;
}

static int land_all(void *arg)
{
    struct bed *b = arg;
    while (fake_wait(&b->kernel, 0))
        ;
    fake_wait_all(&b->kernel);
    return 0;
}

static int settle_it(void *arg)
{
    settle(arg);
    return 0;
}

TEST(a_stop_completes_what_was_taken_and_the_next_export_does_the_rest)
{
    for (unsigned round = 0; round < 6; round++) {
        co_bed_open(&bed, 16384, 1 + round % 3, 3000);
        CHECK_EQUAL(co_work(settle_it, &bed), 0);
        CHECK_EQUAL(co_work(launch, &bed), 0);
        if (round % 2)
            co_sleep_ns(1000000);
        co_stop(&bed);
        fake_clean(&bed.kernel);
        unsigned left = bed.kernel.in_flight;
        CHECK_EQUAL(left == 0, bed.kernel.cleaned == bed.kernel.head);
        co_start(&bed, 1);
        CHECK_EQUAL(co_work(land_all, &bed), 0);
        for (unsigned i = 0; i < ARRAY_LEN(flight); i++)
            CHECK(flight[i].answered && flight[i].status == SCSI_GOOD);
        co_bed_close(&bed);
    }
}

/* The queues live on, and nothing of an export that is gone may be left on them. */
TEST(exports_come_and_go_on_queues_that_stay)
{
    struct rt_queue *queues[2];
    struct hws_error err = {0};
    for (unsigned i = 0; i < ARRAY_LEN(queues); i++)
        CHECK_EQUAL(rt_queue_start(rt_current(), "shared", &queues[i], &err), 0);
    bed.queues = queues;
    for (unsigned round = 0; round < 20; round++) {
        co_bed_open(&bed, 16384, 1 + round % 2, round % 3 ? 0 : 1000);
        CHECK_EQUAL(co_work(settle_it, &bed), 0);
        CHECK_EQUAL(co_work(launch, &bed), 0);
        co_stop(&bed);
        fake_clean(&bed.kernel);
        co_start(&bed, 2);
        CHECK_EQUAL(co_work(land_all, &bed), 0);
        co_bed_close(&bed);
    }
    bed.queues = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(queues); i++)
        co_queue_stop(queues[i]);
}

TEST(an_idle_export_stops)
{
    for (unsigned threads = 1; threads <= TCMU_THREADS_MAX; threads += 5) {
        co_bed_open(&bed, 4096, threads, 0);
        co_bed_close(&bed);
    }
}

/* ---- task management ---- */

static int reset_in_flight(void *arg)
{
    struct bed *b = arg;
    struct fake_command after = simple(OP_TEST_UNIT_READY), last = simple(OP_TEST_UNIT_READY);
    settle(b);
    launch(b);
    fake_manage(&b->kernel, TCMU_LUN_RESET);
    CHECK(fake_submit(&b->kernel, &after));
    fake_notify(&b->kernel);
    while (!after.answered)
        CHECK(fake_wait(&b->kernel, FAKE_PATIENCE_MS));
    /* What was in flight has ended before the reset, and the reset before what came after it. */
    CHECK_EQUAL(b->kernel.in_flight, 0);
    CHECK_EQUAL(after.status, SCSI_CHECK_CONDITION);
    CHECK_EQUAL(after.asc, ASC_DEVICE_RESET);
    for (unsigned i = 0; i < ARRAY_LEN(flight); i++)
        CHECK(flight[i].status == SCSI_GOOD || flight[i].status == SCSI_TASK_ABORTED);
    fake_send(&b->kernel, &last);
    CHECK_EQUAL(last.status, SCSI_GOOD);
    return 0;
}

TEST(a_reset_lets_commands_end_and_is_told_to_those_that_come_after)
{
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct tcmu_export_info info;
        co_bed_open(&bed, 16384, threads, 100000);
        CHECK_EQUAL(co_work(reset_in_flight, &bed), 0);
        tcmu_export_info(bed.export, &info);
        CHECK(info.aborts > 0 && info.aborts <= ARRAY_LEN(flight));
        co_bed_close(&bed);
    }
}

static int abort_in_flight(void *arg)
{
    struct bed *b = arg;
    struct fake_command after = simple(OP_TEST_UNIT_READY);
    settle(b);
    launch(b);
    fake_manage(&b->kernel, TCMU_ABORT_TASK_SET);
    fake_send(&b->kernel, &after);
    CHECK_EQUAL(after.status, SCSI_GOOD);
    fake_wait_all(&b->kernel);
    /* With nothing in flight the entry is given back all the same. */
    fake_manage(&b->kernel, TCMU_ABORT_TASK);
    while (b->kernel.cleaned != b->kernel.head)
        CHECK(fake_wait(&b->kernel, FAKE_PATIENCE_MS));
    return 0;
}

TEST(aborted_commands_are_answered)
{
    struct tcmu_export_info info;
    co_bed_open(&bed, 16384, 2, 100000);
    CHECK_EQUAL(co_work(abort_in_flight, &bed), 0);
    tcmu_export_info(bed.export, &info);
    CHECK(info.aborts > 0 && info.aborts <= ARRAY_LEN(flight));
    co_bed_close(&bed);
}

/* ---- what is broken ---- */

static unsigned errors_logged;

static void count_errors(enum log_level level, const char *line, void *arg)
{
    errors_logged += level == LOG_LEVEL_ERROR;
}

/* Data outside of the data area, and an entry of no known kind. */
static int send_malformed(void *arg)
{
    struct bed *b = arg;
    static uint8_t bytes[BLOCK];
    settle(b);
    struct fake_command c = transfer(OP_READ_10, 0, 1, bytes);
    uint32_t at = b->kernel.head;
    CHECK(fake_submit(&b->kernel, &c));
    uint64_t wrong = 64; /* the mailbox */
    memcpy((uint8_t *)fake_entry(&b->kernel, at) + sizeof(struct tcmu_request), &wrong, 8);
    fake_notify(&b->kernel);
    fake_wait_all(&b->kernel);
    CHECK_EQUAL(c.status, SCSI_CHECK_CONDITION);
    CHECK_EQUAL(c.key, SCSI_KEY_HARDWARE_ERROR);
    struct tcmu_header unknown = {.length_kind = 64 | 5};
    memcpy(fake_entry(&b->kernel, b->kernel.head), &unknown, sizeof(unknown));
    fake_publish(&b->kernel, 64);
    fake_notify(&b->kernel);
    while (b->kernel.cleaned != b->kernel.head)
        CHECK(fake_wait(&b->kernel, FAKE_PATIENCE_MS));
    CHECK_EQUAL(b->kernel.unknown_flags, TCMU_UNKNOWN_KIND);
    struct fake_command good = transfer(OP_READ_10, 0, 1, bytes);
    fake_send(&b->kernel, &good);
    CHECK_EQUAL(good.status, SCSI_GOOD);
    return 0;
}

TEST(malformed_commands_are_answered_and_the_rest_goes_on)
{
    struct tcmu_export_info info;
    errors_logged = 0;
    log_set_sink(count_errors, NULL);
    co_bed_open(&bed, 16384, 1, 0);
    CHECK_EQUAL(co_work(send_malformed, &bed), 0);
    tcmu_export_info(bed.export, &info);
    CHECK_EQUAL(info.malformed, 1);
    co_bed_close(&bed);
    CHECK_EQUAL(errors_logged, 1);
    log_set_sink(NULL, NULL);
}

static int break_ring(void *arg)
{
    struct bed *b = arg;
    settle(b);
    launch(b);
    struct tcmu_header wrong = {.length_kind = 0 | TCMU_KIND_COMMAND};
    memcpy(fake_entry(&b->kernel, b->kernel.head), &wrong, sizeof(wrong));
    fake_publish(&b->kernel, 128);
    fake_notify(&b->kernel);
    fake_wait_all(&b->kernel); /* those before are answered */
    return 0;
}

TEST(a_broken_ring_ends_the_service_and_no_more)
{
    for (unsigned threads = 1; threads <= 2; threads++) {
        errors_logged = 0;
        log_set_sink(count_errors, NULL);
        co_bed_open(&bed, 16384, threads, 1000);
        CHECK_EQUAL(co_work(break_ring, &bed), 0);
        co_bed_close(&bed);
        CHECK_EQUAL(errors_logged, 1);
        log_set_sink(NULL, NULL);
    }
}

TEST(impossible_options_and_mailboxes_are_refused)
{
    struct hws_error err = {0};
    struct tcmu_export *export = NULL;
    fake_init(&bed.kernel, 4096, true, 1);
    struct tcmu_device device = fake_device(&bed.kernel);
    struct tcmu_export_options options = {.name = "test", .threads = TCMU_THREADS_MAX + 1};
    CHECK_EQUAL(co_tcmu_export_serve(&options, &device, &export, &err), -EINVAL);
    options.threads = 2;
    fake_mailbox(&bed.kernel)->version = 3;
    CHECK_EQUAL(co_tcmu_export_serve(&options, &device, &export, &err), -EPROTO);
    CHECK(strstr(err.text, "version is 3"));
    options.minor = 999999;
    CHECK(co_tcmu_export_start(&options, &export, &err) < 0);
    CHECK(strstr(err.text, "uio999999"));
    tcmu_uio_close(&device);
    fake_fini(&bed.kernel);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(commands_on_one_thread_match_the_model),
        ON_BOTH(commands_on_four_threads_match_the_model),
        ON_BOTH(answers_out_of_order_match_the_model),
        ON_BOTH(answers_out_of_order_on_three_threads_match_the_model),
        ON_BOTH(what_finds_no_task_waits_in_the_ring),
        ON_BOTH(a_stop_completes_what_was_taken_and_the_next_export_does_the_rest),
        ON_BOTH(exports_come_and_go_on_queues_that_stay),
        ON_BOTH(an_idle_export_stops),
        ON_BOTH(a_reset_lets_commands_end_and_is_told_to_those_that_come_after),
        ON_BOTH(aborted_commands_are_answered),
        ON_BOTH(malformed_commands_are_answered_and_the_rest_goes_on),
        ON_BOTH(a_broken_ring_ends_the_service_and_no_more),
        ON_BOTH(impossible_options_and_mailboxes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
