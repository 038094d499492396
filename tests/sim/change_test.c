/*
 * Changes of a whole image (a smaller or larger size, amended options, compaction) that are cut
 * off:
 *
 *   crash    the world stops at the k-th storage operation; power cuts and a kill
 *   fault    the k-th storage operation fails, once or from then on, EIO or ENOSPC
 *   alloc    the k-th allocation fails, once or from then on
 *
 * Whatever is left checks clean but for leaks, has the old size or the new one, and reads as
 * before; what a smaller size was to cut off may read as zeroes. A run that nothing disturbs
 * succeeds, and leaves no leak.
 *
 * The linker routes the engine's allocations through alloc_fail.c (--wrap); the simulator's and the
 * harness's own go another way.
 *
 *   PROGRAM [NAME [KIND K]]    one change, and of its sweep only one point
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "alloc_fail.h"
#include "base/log.h"
#include "base/random.h"
#include "block/block.h"
#include "drivers/drivers.h"
#include "rt/sim.h"
#include <inttypes.h>

#define PATH      "/image"
#define BASE      "/base"
#define CLUSTER   512
#define GUEST     (80 * KiB)
#define SURVIVORS 3

struct change {
    const char *name;
    const char *create; /* JSON of creation options */
    const char *amend;  /* JSON of amend options, or NULL */
    bool backing, compact, zeroes, lazy;
    uint64_t size, again; /* resized to, and then to; 0: not */
};

static const struct change changes[] = {
    {"shrink", "{}", .size = 27 * KiB + 512},
    {"shrink-backing", "{}", .backing = true, .size = 27 * KiB + 512},
    {"shrink-v2", "{\"compat\": \"0.10\"}", .backing = true, .size = 9 * KiB},
    {"shrink-grow", "{}", .backing = true, .size = 10 * KiB, .again = GUEST + 4096},
    {"upgrade", "{\"compat\": \"0.10\"}", .amend = "{\"compat\": \"1.1\"}"},
    {"downgrade", "{}", .amend = "{\"compat\": \"0.10\"}"},
    {"downgrade-backing", "{}", .amend = "{\"compat\": \"0.10\"}", .backing = true},
    {"narrower", "{}", .amend = "{\"refcount_bits\": 1}"},
    {"wider", "{\"refcount_bits\": 2}", .amend = "{\"refcount_bits\": 64}"},
    {"lazy", "{}", .amend = "{\"lazy_refcounts\": \"on\"}", .lazy = true},
    {"not-lazy", "{\"lazy_refcounts\": true}", .amend = "{\"lazy_refcounts\": \"off\"}",
     .lazy = true},
    {"everything", "{\"compat\": \"0.10\"}",
     .amend = "{\"compat\": \"1.1\", \"refcount_bits\": 32, \"size\": 102400}", .size = 102400},
    {"compact", "{}", .compact = true},
    {"compact-zeroes", "{}", .backing = true, .compact = true, .zeroes = true},
    {"compact-wide", "{\"refcount_bits\": 64}", .compact = true},
};

struct run {
    const struct change *change;
    struct rt *rt;
    int result;
    bool lenient; /* something was to fail */
    uint64_t leaks;
    uint8_t *content; /* what the guest reads at first */
};

/* ---- telling ---- */

static char note[96];
static bool quiet = true;

static void fail(const struct run *run, const char *what, const char *why)
{
    fprintf(stderr, "FAILED: %s: %s%s%s; again: sim_change %s %s\n", run->change->name, what,
            why ? ": " : "", why ? why : "", run->change->name, note);
    fflush(stderr);
    _exit(1);
}

static void keep_quiet(enum log_level level, const char *line, void *arg)
{
    if (!quiet)
        fprintf(stderr, "log: %s\n", line);
}

static void report_line(void *arg, const char *line)
{
    fprintf(stderr, "  check: %s\n", line);
}

/* ---- coroutines ---- */

static int co_open_image(const char *path, unsigned flags, struct block_node **ret,
                         struct hws_error *err)
{
    json_t *description = json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver",
                                    "file", "filename", path);
    int r = description ? co_block_open(description, flags, NULL, ret, err) : -ENOMEM;
    json_decref(description);
    return r;
}

static int co_create(const char *path, const char *more, const char *backing)
{
    struct hws_error err = {0};
    json_t *options = json_pack("{s:s, s:{s:s, s:s}, s:I, s:i, s:s}", "driver", "qcow2", "file",
                                "driver", "file", "filename", path, "size", (json_int_t)GUEST,
                                "cluster_size", CLUSTER, "extended_l2", "off");
    json_t *extra = json_loads(more, 0, NULL);
    json_object_update(options, extra);
    if (backing) {
        json_object_set_new(options, "backing_file", json_string(backing));
        json_object_set_new(options, "backing_fmt", json_string("qcow2"));
    }
    int r = co_block_create(options, false, NULL, &err);
    json_decref(extra);
    json_decref(options);
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    return r;
}

/* Clusters in a random order, some with zeroes, some zeroed or discarded afterwards. */
static int co_fill(const char *path, uint64_t seed)
{
    struct random random = random_seed(seed);
    struct block_node *node;
    uint8_t bytes[3 * CLUSTER];
    int r = co_open_image(path, BLOCK_OPEN_WRITE, &node, NULL);
    for (unsigned i = 0; i < 150 && r == 0; i++) {
        struct iovec iov;
        uint64_t length = CLUSTER * (1 + random_below(&random, 3));
        uint64_t at = random_below(&random, (GUEST - length) / CLUSTER) * CLUSTER;
        random_fill(&random, bytes, sizeof(bytes));
        if (random_one_in(&random, 6))
            memset(bytes, 0, sizeof(bytes));
        r = i % 5 == 4 ? co_block_write_zeroes(node, at, length, i % 2 ? BLOCK_MAY_UNMAP : 0)
                       : co_block_write(node, at, sgl_one(&iov, bytes, length), 0);
        if (r == 0 && i % 7 == 6)
            (void)!co_block_discard(node, at + CLUSTER, 2 * CLUSTER);
    }
    /* What was written first lies in front: holes there. */
    if (r == 0)
        (void)!co_block_discard(node, GUEST / 2, GUEST / 4);
    return r < 0 ? r : co_block_close(node, NULL);
}

static void co_make(void *arg)
{
    struct run *run = arg;
    const struct change *c = run->change;
    struct block_node *node;
    struct iovec iov;
    int r = c->backing ? co_create(BASE, "{}", NULL) : 0;
    if (r == 0 && c->backing)
        r = co_fill(BASE, 3);
    if (r == 0)
        r = co_create(PATH, c->create, c->backing ? BASE : NULL);
    if (r == 0)
        r = co_fill(PATH, 4);
    if (r == 0)
        r = co_open_image(PATH, 0, &node, NULL);
    if (r == 0) {
        r = co_block_read(node, 0, sgl_one(&iov, run->content, GUEST), 0);
        (void)!co_block_close(node, NULL);
    }
    run->result = r;
}

static int co_apply(const struct change *c, struct block_node *node, struct hws_error *err)
{
    struct block_compact done;
    int r = 0;
    if (c->amend) {
        json_t *options = json_loads(c->amend, 0, NULL);
        r = options ? co_block_amend(node, options, true, NULL, err) : -ENOMEM;
        json_decref(options);
    }
    if (r == 0 && c->size)
        r = co_block_resize(node, c->size, err);
    if (r == 0 && c->again)
        r = co_block_resize(node, c->again, err);
    return r == 0 && c->compact ? co_block_compact(node, c->zeroes, NULL, &done, err) : r;
}

static void co_change(void *arg)
{
    struct run *run = arg;
    struct hws_error err = {0};
    struct block_node *node;
    alloc_fail.counting = true;
    run->result = co_open_image(PATH, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, &node, &err);
    if (run->result == 0) {
        run->result = co_apply(run->change, node, &err);
        int closed = co_block_close(node, &err);
        run->result = run->result < 0 ? run->result : closed;
    }
    alloc_fail.counting = false;
    if (run->result < 0 && !run->lenient)
        fail(run, "the change", err.text);
}

static void co_check(struct run *run, struct block_node *node, unsigned repair)
{
    struct hws_error err = {0};
    struct block_check check = {0}, again = {.report = report_line};
    if (co_block_check(node, repair, &check, &err) < 0)
        fail(run, "check", err.text);
    run->leaks = check.leaks;
    if (check.corruptions || check.errors) {
        (void)!co_block_check(node, 0, &again, &err);
        fail(run, "the check finds errors", NULL);
    }
}

static void co_check_closed(struct run *run, unsigned repair)
{
    struct hws_error err = {0};
    struct block_node *node;
    if (co_open_image(PATH, BLOCK_OPEN_WRITE | BLOCK_OPEN_CHECK, &node, &err) < 0)
        fail(run, "open for check", err.text);
    co_check(run, node, repair);
    if (co_block_close(node, &err) < 0)
        fail(run, "close", err.text);
}

static bool size_is_right(const struct change *c, uint64_t size, bool lenient)
{
    uint64_t wanted = c->again ? c->again : c->size ? c->size : (uint64_t)GUEST;
    return size == wanted || (lenient && (size == GUEST || size == c->size));
}

static void co_compare(struct run *run, struct block_node *node)
{
    uint64_t size = block_size(node), kept = MIN((uint64_t)GUEST, size);
    uint64_t cut = run->change->size ? MIN(run->change->size, (uint64_t)GUEST) : (uint64_t)GUEST;
    uint8_t *bytes = reallocarray(NULL, size, 1);
    struct iovec iov;
    if (!size_is_right(run->change, size, run->lenient))
        fail(run, "the size is wrong", NULL);
    if (co_block_read(node, 0, sgl_one(&iov, bytes, size), 0) < 0)
        fail(run, "read", NULL);
    for (uint64_t i = 0; i < size; i++) {
        bool old = i < kept && bytes[i] == run->content[i] && (i < cut || run->lenient);
        if (!old && !(i >= cut && bytes[i] == 0)) {
            fprintf(stderr, "offset %#" PRIx64 " of %#" PRIx64 ": %#x, was %#x\n", i, size,
                    bytes[i], i < kept ? run->content[i] : 0);
            fail(run, "the content is wrong", NULL);
        }
    }
    free(bytes);
}

static void co_verify(void *arg)
{
    struct run *run = arg;
    struct hws_error err = {0};
    struct block_node *node;
    /* With lazy refcounts opening for writing counts anew. */
    if (!run->change->lazy) {
        co_check_closed(run, 0);
        if (!run->lenient && run->leaks)
            fail(run, "leaks after a change that succeeded", NULL);
    }
    if (co_open_image(PATH, BLOCK_OPEN_WRITE, &node, &err) < 0)
        fail(run, "open", err.text);
    co_compare(run, node);
    if (co_block_close(node, &err) < 0)
        fail(run, "close", err.text);
    co_check_closed(run, BLOCK_REPAIR_LEAKS);
    co_check_closed(run, 0);
    if (run->leaks)
        fail(run, "leaks after their repair", NULL);
}

/* ---- sweeps ---- */

static void run_on(struct run *run, struct rt *rt, void (*co_run)(void *))
{
    run->rt = rt;
    if (rt_run(rt, co_run, run) < 0)
        fail(run, "the run did not end", NULL);
}

static struct rt *after(const struct run *run, const struct rt *old, struct sim_options *options,
                        bool crash)
{
    struct rt *rt;
    if ((crash ? sim_after_crash : sim_after_kill)(old, options, &rt) < 0)
        fail(run, "cannot make the simulator", NULL);
    return rt;
}

static void verify(const struct run *base, const struct rt *old, bool crash, uint64_t seed)
{
    struct run run = *base;
    struct sim_options options = {.seed = seed};
    struct rt *rt = after(base, old, &options, crash);
    run_on(&run, rt, co_verify);
    rt_free(rt);
}

/* @return false when the change ended before the point of @options or @alloc came. */
static bool disturb(const struct run *base, struct sim_options *options, uint64_t alloc)
{
    struct run run = *base;
    run.lenient = true;
    struct rt *rt = after(base, base->rt, options, false);
    alloc_fail.count = 0;
    alloc_fail.fail_at = alloc;
    run_on(&run, rt, co_change);
    alloc_fail.fail_at = 0;
    for (uint64_t i = 0; options->crash_at && i < SURVIVORS; i++)
        verify(&run, rt, true, options->crash_at * 10 + i);
    verify(&run, rt, false, 1);
    bool reached = alloc               ? alloc_fail.count >= alloc
                   : options->crash_at ? sim_crashed(rt)
                                       : sim_operations(rt) >= options->fail_at;
    rt_free(rt);
    return reached;
}

enum kind { CRASH, EIO_ONCE, EIO_STICKY, FULL_STICKY, ALLOC, ALLOC_STICKY, KINDS };
static const char *const kind_names[KINDS] = {"crash",       "eio",   "eio-sticky",
                                              "full-sticky", "alloc", "alloc-sticky"};

static bool disturb_at(const struct run *base, enum kind kind, uint64_t k)
{
    struct sim_options options = {.seed = k};
    bool alloc = kind == ALLOC || kind == ALLOC_STICKY;
    snprintf(note, sizeof(note), "%s %" PRIu64, kind_names[kind], k);
    alloc_fail.sticky = kind == ALLOC_STICKY;
    if (kind == CRASH) {
        options.crash_at = k;
    } else if (!alloc) {
        options.fail_at = k;
        options.fail_errno = kind == FULL_STICKY ? ENOSPC : EIO;
        options.fail_sticky = kind != EIO_ONCE;
    }
    options.trace = !quiet;
    return disturb(base, &options, alloc ? k : 0);
}

static uint64_t sweep(const struct change *change, const char *only_kind, uint64_t only)
{
    struct run run = {.change = change, .content = reallocarray(NULL, GUEST, 1)};
    struct sim_options options = {.seed = 1};
    uint64_t points = 0;
    note[0] = 0;
    if (sim_create(&options, &run.rt) < 0)
        fail(&run, "cannot make the simulator", NULL);
    run_on(&run, run.rt, co_make);
    if (run.result < 0)
        fail(&run, "making the image", strerror(-run.result));
    struct run whole = run;
    struct rt *rt = after(&run, run.rt, &options, false);
    run_on(&whole, rt, co_change);
    verify(&whole, rt, true, 1);
    rt_free(rt);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        if (only_kind && strcmp(only_kind, kind_names[kind]) != 0)
            continue;
        uint64_t k = only ? only : 1;
        for (; disturb_at(&run, kind, k) && !only; k++)
            points++;
    }
    rt_free(run.rt);
    free(run.content);
    return points;
}

int main(int argc, char **argv)
{
    uint64_t points = 0;
    quiet = argc < 4;
    log_set_sink(keep_quiet, NULL);
    drivers_register();
    alarm(300);
    for (unsigned i = 0; i < ARRAY_LEN(changes); i++)
        if (argc < 2 || strcmp(argv[1], changes[i].name) == 0)
            points += sweep(&changes[i], argc > 2 ? argv[2] : NULL,
                            argc > 3 ? strtoull(argv[3], NULL, 10) : 0);
    printf("%zu changes, %" PRIu64 " times disturbed\n", ARRAY_LEN(changes), points);
    return points || argc > 3 ? 0 : 1;
}
