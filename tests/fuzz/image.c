/*
 * Fuzz target: a whole qcow2 image, in the simulator: opened, read, asked for its status, checked,
 * repaired, written.
 *
 * Beside crashes and sanitizer reports, it holds these promises: an image that the check finds
 * clean reads back what is written to it, and is clean again after being written and closed; a
 * repair that says that nothing is left leaves nothing; and where the header's own places can be
 * used, a repair leaves nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "block/block.h"
#include "drivers/drivers.h"
#include "fuzz.h"
#include "rt/sim.h"

#define IMAGE_BYTES_MAX MiB
#define PATH            "/image"
#define PIECE_MAX       8192
#define OPERATIONS      6

struct run {
    const uint8_t *bytes;
    size_t length;
    struct random random; /* follows from the image alone */
    bool clean;
};

static struct block_node *co_open_image(unsigned flags)
{
    struct block_node *node = NULL;
    struct hws_error err = {0};
    json_t *description = json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver",
                                    "file", "filename", PATH);
    assert(description);
    struct block_policy policy = {.cache_bytes = MiB};
    int result = co_block_open(description, flags, &policy, &node, &err);
    assert(result < 0 ? err.text[0] != '\0' : node != NULL);
    json_decref(description);
    return result < 0 ? NULL : node;
}

static void co_close_image(struct block_node *node)
{
    struct hws_error err = {0};
    (void)co_block_close(node, &err);
}

static int co_transfer(struct block_node *node, uint64_t offset, uint8_t *buffer, size_t length,
                       bool write)
{
    struct iovec iov;
    struct sgl list = sgl_one(&iov, buffer, length);
    return write ? co_block_write(node, offset, list, 0) : co_block_read(node, offset, list, 0);
}

/* A place near the start, near the end, or anywhere. */
static size_t pick_range(struct run *run, uint64_t size, uint64_t *ret_offset)
{
    uint64_t offset = random_below(&run->random, size);
    if (random_one_in(&run->random, 3))
        offset = random_below(&run->random, MIN(size, (uint64_t)65536));
    else if (random_one_in(&run->random, 3))
        offset = size - 1 - random_below(&run->random, MIN(size, (uint64_t)4096));
    *ret_offset = offset;
    return MIN(1 + random_below(&run->random, PIECE_MAX), size - offset);
}

static char last_finding[512]; /* shown by expect_clean() */
static bool beyond_repair;     /* a place that only the header knows */

static uint64_t flags_missing; /* findings that a write to a cluster that two entries name leaves */

static void keep_finding(void *arg, const char *line)
{
    flags_missing += strstr(line, "lacks the COPIED flag") != NULL;
    beyond_repair |= strstr(line, "active L1 table") || strstr(line, "ncryption header") ||
                     strstr(line, "more than the limit");
    snprintf(last_finding, sizeof(last_finding), "%s", line);
}

/* Counts corruptions and leaks; UINT64_MAX where the check itself could not be made. */
static uint64_t co_count_findings(unsigned repair)
{
    struct block_check check = {.report = keep_finding};
    struct hws_error err = {0};
    uint64_t findings = UINT64_MAX;
    beyond_repair = false;
    flags_missing = 0;
    struct block_node *node = co_open_image(BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING |
                                            (repair ? (unsigned)BLOCK_OPEN_WRITE : 0));
    if (!node)
        return findings;
    if (co_block_check(node, repair, &check, &err) == 0)
        findings = check.corruptions + check.leaks + check.errors;
    co_close_image(node);
    return findings;
}

static void co_look(struct run *run)
{
    static uint8_t buffer[PIECE_MAX];
    struct block_node *node = co_open_image(BLOCK_OPEN_NO_BACKING);
    if (!node)
        return;
    uint64_t size = block_size(node), at = 0;
    for (unsigned i = 0; i < OPERATIONS && size > 0; i++) {
        uint64_t offset;
        size_t length = pick_range(run, size, &offset);
        (void)!co_transfer(node, offset, buffer, length, false);
    }
    for (unsigned i = 0; i < 4 * OPERATIONS && at < size; i++) {
        struct block_extent extent;
        if (co_block_status(node, at, size - at, &extent) < 0)
            break;
        assert(extent.length > 0 && extent.length <= size - at);
        at += extent.length;
    }
    json_t *info = NULL;
    if (co_block_info(node, &info, &(struct hws_error){0}) == 0)
        json_decref(info);
    co_close_image(node);
}

static void co_write_some(struct run *run, struct block_node *node)
{
    static uint8_t written[PIECE_MAX], read[PIECE_MAX];
    uint64_t size = block_size(node), offset, other;
    for (unsigned i = 0; i < OPERATIONS; i++) {
        size_t length = pick_range(run, size, &offset);
        random_fill(&run->random, written, length);
        int result = co_transfer(node, offset, written, length, true);
        if (result == 0 && random_one_in(&run->random, 3))
            (void)!co_block_flush(node);
        if (result == 0 && co_transfer(node, offset, read, length, false) == 0)
            assert(!run->clean || !memcmp(written, read, length));
        size_t more = pick_range(run, size, &other);
        if (random_one_in(&run->random, 2))
            (void)!co_block_write_zeroes(node, other, more, i & 1 ? BLOCK_MAY_UNMAP : 0);
        else
            (void)!co_block_discard(node, other, more);
    }
}

static void co_expect_clean(void)
{
    uint64_t findings = co_count_findings(0);
    findings -= findings == UINT64_MAX ? 0 : MIN(findings, flags_missing);
    if (findings != 0)
        fprintf(stderr, "%llu findings, the last: %s\n", (unsigned long long)findings,
                last_finding);
    assert(findings == 0);
}

/* Bitmaps go stale with the first write, and their clusters leak: that is the format's way. */
static bool has_bitmaps(const struct run *run)
{
    return run->length >= 104 && run->bytes[7] == 3 && (run->bytes[95] & 1);
}

static void co_change(struct run *run)
{
    struct hws_error err = {0};
    struct block_node *node = co_open_image(BLOCK_OPEN_WRITE | BLOCK_OPEN_NO_BACKING);
    if (!node)
        return;
    if (block_size(node) > 0)
        co_write_some(run, node);
    if (random_one_in(&run->random, 4))
        (void)!co_block_resize(node, block_size(node) + random_below(&run->random, 100000), &err);
    bool closed = co_block_close(node, &err) == 0;
    if (run->clean && closed && !has_bitmaps(run))
        co_expect_clean();
}

static void co_main(void *arg)
{
    struct run *run = arg;
    co_look(run);
    run->clean = co_count_findings(0) == 0;
    co_change(run);
    uint64_t left = co_count_findings(BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS);
    if (left == 0)
        co_expect_clean();
    else if (left != UINT64_MAX && !beyond_repair)
        fprintf(stderr, "%llu findings are left, the last: %s\n", (unsigned long long)left,
                last_finding);
    assert(left == 0 || left == UINT64_MAX || beyond_repair);
    run->clean = co_count_findings(0) == 0;
    co_change(run);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct sim_options options = {.seed = 1, .latency_max_ns = 1, .disk_bytes = 64 * MiB};
    struct rt *rt = NULL;
    struct run run = {.bytes = bytes, .length = length, .random = random_seed(length)};
    if (length > IMAGE_BYTES_MAX)
        return 0;
    for (size_t i = 0; i < length; i += 509)
        run.random.state = run.random.state * 31 + bytes[i];
    drivers_register();
    int result = sim_create(&options, &rt);
    assert(result == 0);
    result = sim_file_store(rt, PATH, bytes, length);
    assert(result == 0);
    result = rt_run(rt, co_main, &run);
    assert(result == 0);
    rt_free(rt);
    return 0;
}
