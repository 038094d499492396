/*
 * The life of a run: making images, opening, snapshots, closing, and what must hold afterwards.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "world.h"
#include <signal.h>
#include <stdarg.h>

/* ---- telling ---- */

static const struct world *noted;
static const char *noted_program = "", *noted_text = "";

static void tell(const struct world *world)
{
    plan_print(&world->plan);
    fprintf(stderr, "again: %s %llu %s\n", noted_program, (unsigned long long)world->plan.seed,
            noted_text);
}

void world_fail(const struct world *world, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAILED: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    tell(world);
    fflush(stderr);
    _exit(1);
}

/* Not async-signal-safe, but the program is at its end and the answer is worth it. */
static void on_signal(int number)
{
    signal(number, SIG_DFL);
    fprintf(stderr, "FAILED: %s\n",
            number == SIGALRM ? "it takes too long: a livelock?" : "aborted");
    if (noted)
        tell(noted);
    raise(number);
}

void world_note(const struct world *world, const char *program, const char *note)
{
    noted = world;
    noted_program = program;
    noted_text = note;
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    alarm(120);
}

struct run {
    struct world *world;
    void (*fn)(void *world);
};

static void run_main(void *arg)
{
    struct run *run = arg;
    run->fn(run->world);
    run->world->done = true;
}

void world_run(struct world *world, void (*fn)(void *world))
{
    struct run run = {world, fn};
    world->done = false;
    int result = rt_run(world->rt, run_main, &run);
    if (result < 0 || !world->done)
        world_fail(world, "the run did not reach its end: %s", strerror(-result));
}

/** A step of the control path: @return true when it succeeded; ends the test where it had to. */
static bool succeeded(struct world *world, int result, const struct hws_error *err,
                      const char *what)
{
    if (result == 0)
        return true;
    world->clean = false;
    if (result > 0)
        world_fail(world, "%s: returned %d", what, result);
    if (!world->tolerant)
        world_fail(world, "%s: %s (%s)", what, err->text, strerror(-result));
    return false;
}

/* ---- images ---- */

bool co_world_create(struct world *world, unsigned layer)
{
    struct hws_error err = {0};
    struct block_policy policy = plan_policy(&world->plan);
    json_t *options = plan_create_options(&world->plan, layer);
    int result = co_block_create(options, false, &policy, &err);
    json_decref(options);
    return succeeded(world, result, &err, "create");
}

static int co_open_layer(struct world *world, unsigned layer, unsigned flags, bool filtered,
                         struct block_node **ret, struct hws_error *err)
{
    struct block_policy policy = plan_policy(&world->plan);
    json_t *description = plan_open_description(&world->plan, layer, filtered);
    int result = co_block_open(description, flags, &policy, ret, err);
    json_decref(description);
    return result;
}

bool co_world_open(struct world *world)
{
    struct hws_error err = {0};
    struct block_node *node;
    int result =
        co_open_layer(world, world->top, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, true, &node, &err);
    if (!succeeded(world, result, &err, "open"))
        return false;
    struct block_root_options options = {.cache = world->plan.cache,
                                         .discard = world->plan.discard,
                                         .detect_zeroes = world->plan.detect_zeroes};
    world->root = block_root_new(node, &options);
    uint64_t start = guest_now(world->guest);
    result = co_block_close(node, &err); /* the root has its own reference */
    if (!world->root)
        return succeeded(world, -ENOMEM, &err, "root");
    (void)start;
    if (!succeeded(world, result, &err, "close of the first reference") && !world->root)
        return false;
    co_world_bitmap_opened(world);
    return true;
}

bool co_world_close(struct world *world)
{
    struct hws_error err = {0};
    uint64_t start = guest_now(world->guest);
    int result = co_block_root_free(world->root, &err);
    world->root = NULL;
    if (!succeeded(world, result, &err, "close"))
        return false;
    guest_flushed(world->guest, start);
    return true;
}

bool co_world_push(struct world *world)
{
    struct hws_error err = {0};
    unsigned next = world->top + 1;
    struct block_node *overlay;
    assert(next < PLAN_LAYERS_MAX);
    world->plan.layer[next].sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    if (!co_world_create(world, next))
        return false;
    int result =
        co_open_layer(world, next, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE | BLOCK_OPEN_NO_BACKING,
                      false, &overlay, &err);
    if (!succeeded(world, result, &err, "open of the overlay"))
        return false;
    uint64_t start = guest_now(world->guest);
    result = co_root_push(world->root, overlay, &err);
    if (!succeeded(world, result, &err, "push")) {
        co_block_close(overlay, NULL);
        return false;
    }
    guest_flushed(world->guest, start);
    world->top = next;
    co_world_bitmap_opened(world);
    return true;
}

/* ---- the scenario ---- */

void co_world_setup(void *arg)
{
    struct world *world = arg;
    world->guest = guest_new(world->plan.layer[0].sectors);
    for (unsigned i = 0; i < world->plan.depth; i++) {
        guest_layer(world->guest, world->plan.layer[i].sectors);
        world->top = i;
        if (!co_world_create(world, i) || !co_world_open(world))
            return;
        co_world_phase(world);
        /* What a shrink cut off is settled by looking at it. */
        co_world_resize(world, world->guest->sectors);
        co_world_read_all(world);
        co_world_close(world);
        if (!guest_settle(world->guest))
            world_fail(world, "internal: the model is not settled");
    }
    world->top = world->plan.depth;
    guest_layer(world->guest, world->plan.layer[world->top].sectors);
}

/** Between phases: nothing is in flight. @return false when the disk is closed. */
static bool co_pause(struct world *world)
{
    co_world_bitmap_pause(world);
    switch (random_below(&world->random, 5)) {
    case 0:
        co_world_flush(world);
        return true;
    case 4:
        co_world_snapshot(world);
        return true;
    case 1:
        /* Where a push fails the old top goes on. */
        if (world->top + 1 < PLAN_LAYERS_MAX && !world->plan.layer[world->top].raw &&
            !world->plan.filter)
            (void)co_world_push(world);
        return true;
    case 2:
        return co_world_close(world) && co_world_open(world);
    default:
        co_world_read_all(world);
        co_world_status(world, 0, block_root_size(world->root) / GUEST_SECTOR_BYTES, true);
        return true;
    }
}

void co_world_scenario(void *arg)
{
    struct world *world = arg;
    world->clean = true;
    if (!world->created && !co_world_create(world, world->top))
        return;
    world->created = true;
    if (!co_world_open(world))
        return;
    for (unsigned i = 0; i < world->phases; i++) {
        co_world_phase(world);
        if (!co_pause(world))
            return;
    }
    co_world_close(world);
}

/* ---- what must hold ---- */

static void report_line(void *arg, const char *line)
{
    fprintf(stderr, "  check: %s\n", line);
}

static void co_check(struct world *world, struct block_node *node, unsigned repair,
                     struct block_check *ret)
{
    struct hws_error err = {0};
    *ret = (struct block_check){0};
    int result = co_block_check(node, repair, ret, &err);
    if (result < 0)
        world_fail(world, "check: %s (%s)", err.text, strerror(-result));
    if (ret->corruptions == 0 && ret->errors == 0)
        return;
    struct block_check again = {.report = report_line};
    result = co_block_check(node, 0, &again, &err);
    world_fail(world, "check found %llu corruptions and %llu errors",
               (unsigned long long)ret->corruptions, (unsigned long long)ret->errors);
}

/** Is it marked as one whose refcounts may be wrong? */
static bool co_is_dirty(struct world *world, struct block_node *node)
{
    struct hws_error err = {0};
    json_t *info;
    if (co_block_info(node, &info, &err) < 0)
        world_fail(world, "info: %s", err.text);
    bool dirty = json_is_true(json_object_get(info, "dirty-flag"));
    json_decref(info);
    return dirty;
}

/** What a crash leaves of lazy refcounts is wrong until it is repaired, and all of it can be. */
static void co_mend_dirty(struct world *world, struct block_node *node)
{
    struct hws_error err = {0};
    struct block_check check = {0};
    if (!co_is_dirty(world, node))
        return;
    int result = co_block_check(node, BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS, &check, &err);
    if (result < 0)
        world_fail(world, "repair of a dirty image: %s", err.text);
    if (check.corruptions || check.leaks || check.errors || co_is_dirty(world, node))
        world_fail(world, "a dirty image is not repaired");
}

/** Opens the top as a checker does, and gives back its leaks. @mend: a dirty one is repaired first,
 * else left alone. @return leaks found. */
static uint64_t co_check_top(struct world *world, bool mend)
{
    struct hws_error err = {0};
    struct block_node *node;
    struct block_check check;
    if (world->plan.layer[world->top].raw)
        return 0;
    unsigned flags = BLOCK_OPEN_WRITE | BLOCK_OPEN_CHECK;
    int result = co_open_layer(world, world->top, flags, false, &node, &err);
    if (result < 0)
        world_fail(world, "open for check: %s", err.text);
    if (mend)
        co_mend_dirty(world, node);
    check = (struct block_check){0};
    if (mend || !co_is_dirty(world, node))
        co_check(world, node, 0, &check);
    uint64_t leaks = check.leaks;
    if (leaks > 0) {
        co_check(world, node, BLOCK_REPAIR_LEAKS, &check);
        co_check(world, node, 0, &check);
        if (check.leaks > 0)
            world_fail(world, "%llu leaks are left after their repair",
                       (unsigned long long)check.leaks);
    }
    if (co_block_close(node, &err) < 0)
        world_fail(world, "close after check: %s", err.text);
    return leaks;
}

static void co_read_crashed(struct world *world, struct block_node *node)
{
    uint64_t sectors = block_size(node) / GUEST_SECTOR_BYTES, step = 2048;
    autofree uint8_t *bytes = reallocarray(NULL, step, GUEST_SECTOR_BYTES);
    bool bitmap = co_world_bitmap_crashed(world, node);
    if (!guest_crash_size_check(world->guest, sectors, world->plan.layer[world->top].raw))
        world_fail(world, "the size is wrong after a crash");
    for (uint64_t at = 0; at < sectors; at += step) {
        uint64_t count = MIN(step, sectors - at);
        struct iovec iov;
        struct sgl buffer = sgl_one(&iov, bytes, count * GUEST_SECTOR_BYTES);
        int result = co_block_read(node, at * GUEST_SECTOR_BYTES, buffer, 0);
        if (result < 0)
            world_fail(world, "read after a crash at sector %#llx: %s", (unsigned long long)at,
                       strerror(-result));
        if (!guest_crash_check(world->guest, at, count, bytes))
            world_fail(world, "wrong bytes after a crash");
        if (bitmap)
            co_world_bitmap_crash_check(world, node, at, count, bytes);
    }
}

/** Writes to what the crash left, and looks again. */
static void co_use_crashed(struct world *world, struct block_node *node)
{
    uint64_t size_bytes = block_size(node), length = MIN(size_bytes, 64 * KiB);
    autofree uint8_t *bytes = reallocarray(NULL, length, 1);
    autofree uint8_t *back = reallocarray(NULL, length, 1);
    memset(bytes, 0x77, length);
    struct iovec iov;
    uint64_t offset = (size_bytes - length) / 2;
    int result = co_block_write(node, offset, sgl_one(&iov, bytes, length), 0);
    if (result == 0)
        result = co_block_flush(node);
    if (result == 0)
        result = co_block_read(node, offset, sgl_one(&iov, back, length), 0);
    if (result < 0)
        world_fail(world, "use after a crash: %s", strerror(-result));
    if (memcmp(bytes, back, length) != 0)
        world_fail(world, "a write after a crash does not read back");
}

void co_world_verify_crash(void *arg)
{
    struct world *world = arg;
    struct hws_error err = {0};
    struct block_node *node;
    world->tolerant = false;
    /* An image whose making was not finished may be missing or refused, and is made anew. */
    if (!world->created)
        return;
    /* A dirty image is repaired by the check or by whoever opens it for writing. */
    co_check_top(world, world->plan.seed & 1);
    co_world_verify_snapshots(world);
    int result = co_open_layer(world, world->top, BLOCK_OPEN_WRITE, true, &node, &err);
    if (result < 0)
        world_fail(world, "open after a crash: %s", err.text);
    co_read_crashed(world, node);
    co_use_crashed(world, node);
    if (co_block_close(node, &err) < 0)
        world_fail(world, "close after a crash: %s", err.text);
    if (co_check_top(world, true) > 0)
        world_fail(world, "leaks after repair, use and a clean close");
    co_world_verify_snapshots(world);
}

void co_world_verify_closed(void *arg)
{
    struct world *world = arg;
    world->tolerant = false;
    uint64_t leaks = co_check_top(world, true);
    if (leaks > 0)
        world_fail(world, "%llu leaks after a clean close", (unsigned long long)leaks);
    co_world_verify_snapshots(world);
    if (!co_world_open(world))
        return;
    co_world_read_all(world);
    co_world_status(world, 0, block_root_size(world->root) / GUEST_SECTOR_BYTES, true);
    co_world_close(world);
}
