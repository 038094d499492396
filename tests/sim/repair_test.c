/*
 * The repair of qcow2 images under crashes: an image is damaged, its repair is cut off at every
 * storage operation, what is left on the disk is repaired again; then nothing is found, and the
 * guest reads what it wrote. So no order of the repair's writes makes an image worse.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/byteorder.h"
#include "base/log.h"
#include "base/random.h"
#include "block/block.h"
#include "drivers/drivers.h"
#include "rt/sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define PATH        "/image"
#define CLUSTER     512
#define GUEST_BYTES (300 * KiB)
#define REPAIR_ALL  (BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS)

/* Damages that a repair mends completely; each changes bytes of the file. */
enum damage { COUNTS_ZERO, COUNTS_HIGH, TABLE_EMPTY, TABLE_CUT, FLAGS_CLEAR };

struct step {
    void (*co_run)(struct step *step);
    uint64_t findings;
    int result;
    uint8_t guest[GUEST_BYTES];
};

/* ---- coroutines ---- */

static int co_open_image(unsigned flags, struct block_node **ret)
{
    struct hws_error err = {0};
    json_t *description = json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver",
                                    "file", "filename", PATH);
    int result = co_block_open(description, flags, NULL, ret, &err);
    json_decref(description);
    return result;
}

static void co_make(struct step *step)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    struct iovec iov;
    json_t *options = json_pack("{s:s, s:{s:s, s:s}, s:I, s:i, s:i}", "driver", "qcow2", "file",
                                "driver", "file", "filename", PATH, "size", (json_int_t)GUEST_BYTES,
                                "cluster_size", CLUSTER, "refcount_bits", 64);
    step->result = co_block_create(options, false, NULL, &err);
    json_decref(options);
    assert_int_equal(step->result, 0);
    assert_int_equal(co_open_image(BLOCK_OPEN_WRITE, &node), 0);
    struct random random = random_seed(7);
    random_fill(&random, step->guest, sizeof(step->guest));
    struct sgl all = sgl_one(&iov, step->guest, sizeof(step->guest));
    assert_int_equal(co_block_write(node, 0, all, 0), 0);
    assert_int_equal(co_block_close(node, &err), 0);
}

static void co_repair(struct step *step)
{
    struct block_check check = {0};
    struct hws_error err = {0};
    struct block_node *node = NULL;
    step->findings = UINT64_MAX;
    step->result = co_open_image(BLOCK_OPEN_WRITE | BLOCK_OPEN_CHECK, &node);
    if (step->result < 0)
        return;
    step->result = co_block_check(node, REPAIR_ALL, &check, &err);
    if (step->result == 0)
        step->findings = check.corruptions + check.leaks + check.errors;
    int closed = co_block_close(node, &err);
    step->result = step->result < 0 ? step->result : closed;
}

static void co_look(struct step *step)
{
    struct block_check check = {0};
    struct hws_error err = {0};
    struct block_node *node = NULL;
    struct iovec iov;
    assert_int_equal(co_open_image(0, &node), 0);
    assert_int_equal(co_block_check(node, 0, &check, &err), 0);
    step->findings = check.corruptions + check.leaks + check.errors;
    struct sgl all = sgl_one(&iov, step->guest, sizeof(step->guest));
    step->result = co_block_read(node, 0, all, 0);
    (void)co_block_close(node, &err);
}

static void co_step(void *arg)
{
    struct step *step = arg;
    step->co_run(step);
}

static void run(struct rt *rt, struct step *step, void (*co_run)(struct step *step))
{
    step->co_run = co_run;
    assert_int_equal(rt_run(rt, co_step, step), 0);
}

/* ---- damage ---- */

static void damage_file(enum damage kind, uint8_t *file, struct random *random)
{
    uint64_t table = load_be64(file + 48), l1 = load_be64(file + 40);
    uint32_t table_bytes = load_be32(file + 56) * CLUSTER, l1_size = load_be32(file + 36);
    for (uint32_t i = 0; i < table_bytes / 8 && kind != FLAGS_CLEAR; i++) {
        uint64_t block = load_be64(file + table + i * 8);
        if (block == 0)
            continue;
        for (unsigned j = 0; j < CLUSTER / 8 && kind == COUNTS_ZERO; j++)
            if (random_one_in(random, 2))
                store_be64(file + block + j * 8, 0);
        for (unsigned j = 0; j < CLUSTER / 8 && kind == COUNTS_HIGH; j++)
            if (random_one_in(random, 2))
                store_be64(file + block + j * 8, 3);
        if (kind == TABLE_EMPTY)
            store_be64(file + table + i * 8, 0);
    }
    if (kind == TABLE_CUT)
        for (uint32_t i = 2; i < table_bytes / 8; i++)
            store_be64(file + table + i * 8, 0);
    for (uint32_t i = 0; i < l1_size && kind == FLAGS_CLEAR; i++) {
        uint64_t entry = load_be64(file + l1 + i * 8), l2 = entry & 0x00fffffffffffe00ull;
        for (unsigned j = 0; l2 && j < CLUSTER / 8; j += 3)
            store_be64(file + l2 + j * 8, load_be64(file + l2 + j * 8) & INT64_MAX);
        store_be64(file + l1 + i * 8, entry & INT64_MAX);
    }
}

static struct rt *new_world(const uint8_t *file, size_t length, uint64_t crash_at, uint64_t seed)
{
    struct rt *rt = NULL;
    struct sim_options options = {.seed = seed, .crash_at = crash_at};
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(sim_file_store(rt, PATH, file, length), 0);
    return rt;
}

/* ---- tests ---- */

/* Crashed worlds complain about every flush. */
static void drop_log(enum log_level level, const char *line, void *arg)
{
}

struct image {
    uint8_t *file;
    size_t length;
    uint8_t *guest;
};

static int make_image(void **state)
{
    struct image *image = calloc(1, sizeof(*image));
    struct step *step = calloc(1, sizeof(*step));
    struct sim_options options = {.seed = 1};
    struct rt *rt = NULL;
    drivers_register();
    log_set_sink(drop_log, NULL);
    assert_non_null(image);
    assert_non_null(step);
    assert_int_equal(sim_create(&options, &rt), 0);
    run(rt, step, co_make);
    assert_int_equal(sim_file_load(rt, PATH, (void **)&image->file, &image->length), 0);
    image->guest = malloc(GUEST_BYTES);
    assert_non_null(image->guest);
    memcpy(image->guest, step->guest, GUEST_BYTES);
    rt_free(rt);
    free(step);
    *state = image;
    return 0;
}

static int free_image(void **state)
{
    struct image *image = *state;
    free(image->file);
    free(image->guest);
    free(image);
    return 0;
}

/* Repairs what the crash left, and expects the image whole. */
static void expect_mended(struct rt *crashed, const struct image *image, uint64_t seed)
{
    struct sim_options options = {.seed = seed};
    struct step *step = calloc(1, sizeof(*step));
    struct rt *rt = NULL;
    assert_non_null(step);
    assert_int_equal(sim_after_crash(crashed, &options, &rt), 0);
    run(rt, step, co_repair);
    assert_int_equal(step->result, 0);
    run(rt, step, co_look);
    assert_int_equal(step->result, 0);
    assert_int_equal(step->findings, 0);
    assert_memory_equal(step->guest, image->guest, GUEST_BYTES);
    rt_free(rt);
    free(step);
}

static void sweep(const struct image *image, enum damage kind)
{
    struct random random = random_seed(kind);
    autofree uint8_t *file = malloc(image->length);
    struct step *step = calloc(1, sizeof(*step));
    assert_non_null(file);
    assert_non_null(step);
    memcpy(file, image->file, image->length);
    damage_file(kind, file, &random);
    assert_memory_not_equal(file, image->file, image->length);

    struct rt *rt = new_world(file, image->length, 0, 1);
    run(rt, step, co_repair);
    assert_int_equal(step->result, 0);
    assert_int_equal(step->findings, 0);
    uint64_t operations = sim_operations(rt);
    expect_mended(rt, image, 1);
    rt_free(rt);
    assert_true(operations > 10);

    uint64_t stride = MAX(operations / 150, (uint64_t)1);
    for (uint64_t at = 1; at <= operations; at += stride) {
        rt = new_world(file, image->length, at, at);
        run(rt, step, co_repair);
        for (uint64_t seed = 0; seed < 3; seed++)
            expect_mended(rt, image, at * 10 + seed);
        rt_free(rt);
    }
    free(step);
}

static void low_counts_are_mended_whatever_a_crash_leaves(void **state)
{
    sweep(*state, COUNTS_ZERO);
}

static void high_counts_are_mended_whatever_a_crash_leaves(void **state)
{
    sweep(*state, COUNTS_HIGH);
}

static void missing_blocks_are_mended_whatever_a_crash_leaves(void **state)
{
    sweep(*state, TABLE_EMPTY);
    sweep(*state, TABLE_CUT);
}

static void missing_flags_are_mended_whatever_a_crash_leaves(void **state)
{
    sweep(*state, FLAGS_CLEAR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(low_counts_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(high_counts_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(missing_blocks_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(missing_flags_are_mended_whatever_a_crash_leaves),
    };
    return cmocka_run_group_tests(tests, make_image, free_image);
}
