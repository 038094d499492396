/*
 * What a read costs the block core, and what the depth of a chain adds: CPU time of 4 KiB random
 * reads through a root, for holes in the whole chain and for data in the last layer.
 *
 *   chain                  qcow2 chains of 0 to 128 images in a temporary folder
 *   chain null://1G ...    the given images instead
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/block.h"
#include "base/random.h"
#include "drivers/drivers.h"
#include "rt/rt.h"
#include "bench/rounds.h"

#define READS      20000u
#define ROUNDS     5u
#define DATA_BYTES (64 * KiB) /* written into the last layer */
#define SIZE       "64M"

static const unsigned depths[] = {0, 1, 8, 32, 128};

static void die(const struct hws_error *err)
{
    fprintf(stderr, "chain: %s\n", err->text);
    exit(1);
}

static struct block_node *open_text(const char *text, unsigned flags)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    json_t *description = NULL;
    if (block_describe(text, NULL, &description, &err) < 0 ||
        co_block_open(description, flags, NULL, &node, &err) < 0)
        die(&err);
    json_decref(description);
    return node;
}

/* Nanoseconds a read over the first @span bytes: the median round; @ret_spread between the
 * extremes. */
static double read_cost(struct block_root *root, uint64_t span, double *ret_spread)
{
    static char buffer[4096] __attribute__((aligned(4096)));
    struct random random = random_seed(1);
    double cost[ROUNDS];
    struct iovec iov;
    struct sgl list = sgl_one(&iov, buffer, sizeof(buffer));
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t start = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
        for (unsigned i = 0; i < READS; i++)
            if (co_root_read(root, random_below(&random, span / 4096) * 4096, list, 0) < 0)
                abort();
        cost[round] = (double)(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - start) / READS;
    }
    struct rounds all = rounds_of(cost, ROUNDS);
    *ret_spread = all.most - all.least;
    return all.median;
}

static void measure(const char *text)
{
    uint64_t start = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    struct block_node *node = open_text(text, 0);
    double open_ms = (double)(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - start) / 1e6, spread, data_spread;
    struct block_root *root = block_root_new(node, &(struct block_root_options){.read_only = true});
    if (!root)
        abort();
    double anywhere = read_cost(root, block_size(node), &spread);
    double data = read_cost(root, MIN(DATA_BYTES, block_size(node)), &data_spread);
    printf("%-40s open %6.1f ms   anywhere %7.0f ns (spread %.0f)   first 64 KiB %7.0f ns (%.0f)\n",
           text, open_ms, anywhere, spread, data, data_spread);
    (void)!co_block_close(node, NULL);
    (void)!co_block_root_free(root, NULL);
}

/* DIR/<index>.qcow2 over its predecessor. */
static void make_image(const char *folder, unsigned index)
{
    struct hws_error err = {0};
    char path[256], below[32];
    snprintf(path, sizeof(path), "%s/%u.qcow2", folder, index);
    snprintf(below, sizeof(below), "%u.qcow2", index - 1);
    json_t *options = json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", "qcow2", "size", SIZE, "file",
                                "driver", "file", "filename", path);
    if (index) {
        json_object_set_new(options, "backing_file", json_string(below));
        json_object_set_new(options, "backing_fmt", json_string("qcow2"));
    }
    if (co_block_create(options, false, NULL, &err) < 0)
        die(&err);
    json_decref(options);
}

static void fill_base(const char *folder)
{
    char text[300];
    autofree char *bytes = malloc(DATA_BYTES);
    struct iovec iov;
    snprintf(text, sizeof(text), "qcow2:file:%s/0.qcow2", folder);
    struct block_node *node = open_text(text, BLOCK_OPEN_WRITE);
    memset(bytes, 0x5a, DATA_BYTES);
    if (co_block_write(node, 0, sgl_one(&iov, bytes, DATA_BYTES), 0) < 0 ||
        co_block_close(node, NULL) < 0)
        abort();
}

static void measure_chains(void)
{
    char folder[] = "/tmp/hawser-chain-XXXXXX";
    if (!mkdtemp(folder))
        abort();
    unsigned made = 0;
    for (unsigned i = 0; i < ARRAY_LEN(depths); i++) {
        char text[300];
        for (; made <= depths[i]; made++) {
            make_image(folder, made);
            if (made == 0)
                fill_base(folder);
        }
        snprintf(text, sizeof(text), "qcow2:file:%s/%u.qcow2", folder, depths[i]);
        measure(text);
    }
    while (made--) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%u.qcow2", folder, made);
        unlink(path);
    }
    rmdir(folder);
}

static void run(void *arg)
{
    char **texts = arg;
    if (!*texts)
        measure_chains();
    for (; *texts; texts++)
        measure(*texts);
}

int main(int argc, char **argv)
{
    struct hws_error err = {0};
    struct rt *rt = NULL;
    drivers_register();
    if (rt_create(NULL, &rt, &err) < 0)
        die(&err);
    int r = rt_run(rt, run, argv + 1);
    rt_free(rt);
    return r < 0;
}
