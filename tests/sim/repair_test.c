/*
 * The repair of qcow2 images under crashes: an image is damaged, its repair is cut off at every
 * storage operation, what is left on the disk is repaired again; then nothing is found, and the
 * guest reads what it wrote, but for the clusters whose own entries were damaged. So no order of
 * the repair's writes makes an image worse.
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

/* Damages that a repair mends; each changes bytes of the file. Those from ENTRY_PAST_END on cost
 * the guest the clusters whose entries they change. */
enum damage {
    COUNTS_ZERO,
    COUNTS_HIGH,
    TABLE_EMPTY,
    TABLE_CUT,
    TABLE_PAST_END,
    TABLE_OVER_DATA,
    BLOCKS_OVER_DATA,
    FLAGS_CLEAR,
    ENTRY_PAST_END,
    ENTRIES_MIXED,
    TABLES_DANGLE,
};

#define GUEST_CLUSTERS (GUEST_BYTES / CLUSTER)

struct step {
    void (*co_run)(struct step *step);
    uint64_t findings;
    int refcount_bits; /* of co_make() */
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
                                "cluster_size", CLUSTER, "refcount_bits", step->refcount_bits);
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

/* The n-th data cluster's L2 entry, and that cluster. */
static uint8_t *entry_of(uint8_t *file, uint64_t guest_cluster)
{
    uint64_t l1 = load_be64(file + 40);
    uint64_t l2 = load_be64(file + l1 + guest_cluster / (CLUSTER / 8) * 8) & 0x00fffffffffffe00ull;
    return file + l2 + guest_cluster % (CLUSTER / 8) * 8;
}

static uint64_t host_of(uint8_t *file, uint64_t guest_cluster)
{
    return load_be64(entry_of(file, guest_cluster)) & 0x00fffffffffffe00ull;
}

static void damage_refcounts(enum damage kind, uint8_t *file, size_t length)
{
    uint64_t table = load_be64(file + 48);
    if (kind == TABLE_PAST_END)
        store_be64(file + 48, length + 1024 * CLUSTER);
    if (kind == TABLE_OVER_DATA)
        store_be64(file + 48, host_of(file, 5));
    for (unsigned i = 0; i < 3 && kind == BLOCKS_OVER_DATA; i++)
        store_be64(file + table + i * 8, host_of(file, 100 + i));
}

/* Entries of their own, of each other's, of tables' and of nobody's clusters. */
static void damage_entries(enum damage kind, uint8_t *file, size_t length, struct random *random,
                           bool *lost)
{
    uint64_t l1 = load_be64(file + 40), table = load_be64(file + 48),
             block = load_be64(file + table);
    for (unsigned i = 0; i < 12; i++) {
        uint64_t guest = random_below(random, GUEST_CLUSTERS);
        uint64_t other = random_below(random, GUEST_CLUSTERS);
        uint64_t to[] = {length + i * CLUSTER, l1, table, block, host_of(file, other)};
        unsigned which = kind == ENTRY_PAST_END ? 0 : i % ARRAY_LEN(to);
        store_be64(entry_of(file, guest),
                   (to[which] + CLUSTER - 1) / CLUSTER * CLUSTER | 1ull << 63);
        lost[guest] = true;
    }
}

static void damage_l1(uint8_t *file, size_t length, bool *lost)
{
    const unsigned per_table = CLUSTER / 8;
    uint64_t l1 = load_be64(file + 40);
    uint64_t to[] = {(length + CLUSTER) / CLUSTER * CLUSTER, l1, load_be64(file + 48)};
    for (unsigned i = 0; i < ARRAY_LEN(to); i++) {
        store_be64(file + l1 + (2 * i + 1) * 8, to[i] | 1ull << 63);
        memset(lost + (2 * i + 1) * per_table, true, per_table);
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
    bool lost[GUEST_CLUSTERS]; /* of the damage under test */
};

static void make_image(struct image *image, int refcount_bits)
{
    struct step *step = calloc(1, sizeof(*step));
    struct sim_options options = {.seed = 1};
    struct rt *rt = NULL;
    assert_non_null(step);
    step->refcount_bits = refcount_bits;
    assert_int_equal(sim_create(&options, &rt), 0);
    run(rt, step, co_make);
    assert_int_equal(sim_file_load(rt, PATH, (void **)&image->file, &image->length), 0);
    image->guest = malloc(GUEST_BYTES);
    assert_non_null(image->guest);
    memcpy(image->guest, step->guest, GUEST_BYTES);
    rt_free(rt);
    free(step);
}

/* With wide counts, and with counts that cannot say "shared". */
static int make_images(void **state)
{
    struct image *images = calloc(2, sizeof(*images));
    assert_non_null(images);
    drivers_register();
    log_set_sink(drop_log, NULL);
    make_image(&images[0], 64);
    make_image(&images[1], 1);
    *state = images;
    return 0;
}

static int free_images(void **state)
{
    struct image *images = *state;
    for (unsigned i = 0; i < 2; i++) {
        free(images[i].file);
        free(images[i].guest);
    }
    free(images);
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
    for (unsigned i = 0; i < GUEST_CLUSTERS; i++)
        if (!image->lost[i])
            assert_memory_equal(step->guest + i * CLUSTER, image->guest + i * CLUSTER, CLUSTER);
    rt_free(rt);
    free(step);
}

static void sweep(struct image *image, enum damage kind)
{
    struct random random = random_seed(kind);
    autofree uint8_t *file = malloc(image->length);
    struct step *step = calloc(1, sizeof(*step));
    assert_non_null(file);
    assert_non_null(step);
    memcpy(file, image->file, image->length);
    memset(image->lost, 0, sizeof(image->lost));
    damage_refcounts(kind, file, image->length);
    if (kind == ENTRY_PAST_END || kind == ENTRIES_MIXED)
        damage_entries(kind, file, image->length, &random, image->lost);
    else if (kind == TABLES_DANGLE)
        damage_l1(file, image->length, image->lost);
    else if (kind <= TABLE_CUT || kind == FLAGS_CLEAR)
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

static void refcounts_are_made_anew_whatever_a_crash_leaves(void **state)
{
    struct image *images = *state;
    for (enum damage kind = TABLE_PAST_END; kind <= BLOCKS_OVER_DATA; kind++) {
        sweep(&images[0], kind);
        sweep(&images[1], kind);
    }
}

static void entries_are_mended_whatever_a_crash_leaves(void **state)
{
    struct image *images = *state;
    for (enum damage kind = ENTRY_PAST_END; kind <= TABLES_DANGLE; kind++) {
        sweep(&images[0], kind);
        sweep(&images[1], kind);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(low_counts_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(high_counts_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(missing_blocks_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(missing_flags_are_mended_whatever_a_crash_leaves),
        cmocka_unit_test(refcounts_are_made_anew_whatever_a_crash_leaves),
        cmocka_unit_test(entries_are_mended_whatever_a_crash_leaves),
    };
    return cmocka_run_group_tests(tests, make_images, free_images);
}
