/*
 * Internal snapshots of a run: taken, applied and deleted while requests wait for their drain, and
 * looked at when the run is over.
 *
 * The model keeps what each snapshot holds (guest.h). One whose taking or deleting failed, or was
 * cut off, may be there or not; where it is, it holds what it should.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "world.h"

static const char *name_of(const struct guest_held *held)
{
    static char name[24];
    snprintf(name, sizeof(name), "s%llu", (unsigned long long)held->number);
    return name;
}

/* Counts of few bits may be full, and then nothing changes. */
static bool is_full(const struct world *world, int result)
{
    return result == -EOVERFLOW && world->plan.layer[world->top].refcount_bits < 16;
}

/* @return true when it was done. */
static bool done(struct world *world, int result, const char *what, const struct hws_error *err)
{
    if (result == 0 || is_full(world, result))
        return result == 0;
    world->clean = false;
    if (!world->tolerant)
        world_fail(world, "%s a snapshot: %s", what, err->text);
    return false;
}

static void co_take(struct world *world, struct guest_held *held)
{
    struct hws_error err = {0};
    guest_hold(world->guest, held, world->top);
    uint64_t start = guest_now(world->guest);
    int result = co_root_snapshot(world->root, BLOCK_SNAPSHOT_CREATE, name_of(held), &err);
    if (done(world, result, "taking", &err)) {
        held->certain = true;
        guest_flushed(world->guest, start);
    } else if (is_full(world, result)) {
        guest_unhold(held);
    }
}

static void co_delete(struct world *world, struct guest_held *held)
{
    struct hws_error err = {0};
    bool certain = held->certain;
    held->certain = false;
    int result = co_root_snapshot(world->root, BLOCK_SNAPSHOT_DELETE, name_of(held), &err);
    if (result == -ENOENT && !certain)
        guest_unhold(held);
    else if (done(world, result, "deleting", &err))
        guest_unhold(held);
}

static void co_apply(struct world *world, struct guest_held *held)
{
    struct hws_error err = {0};
    struct guest_write write = guest_apply_begin(world->guest, held);
    int result = co_root_snapshot(world->root, BLOCK_SNAPSHOT_APPLY, name_of(held), &err);
    bool absent = result == -ENOENT && !held->certain;
    bool applied = !absent && done(world, result, "applying", &err);
    guest_apply_end(world->guest, &write, applied ? GUEST_DURABLE : GUEST_UNSURE);
    if (absent)
        guest_unhold(held);
}

void co_world_snapshot(struct world *world)
{
    struct random *r = &world->random;
    struct guest_held *held = NULL, *unused = NULL;
    /* An external data file has no counts. */
    if (world->plan.layer[world->top].raw || world->plan.layer[world->top].data_file)
        return;
    for (unsigned i = 0; i < GUEST_HELD_MAX; i++) {
        struct guest_held *at = &world->guest->held[i];
        if (!at->disk)
            unused = at;
        else if (at->layer == world->top && (!held || random_one_in(r, 2)))
            held = at;
    }
    uint64_t what = random_below(r, 4);
    co_root_drain(world->root);
    if (unused && (!held || what < 2))
        co_take(world, unused);
    else if (held && what == 2 && !world->plan.filter)
        co_apply(world, held);
    else if (held)
        co_delete(world, held);
    co_root_undrain(world->root);
}

bool world_has_snapshots(const struct world *world)
{
    for (unsigned i = 0; i < GUEST_HELD_MAX; i++)
        if (world->guest->held[i].disk && world->guest->held[i].layer == world->top)
            return true;
    return false;
}

/* ---- what must hold ---- */

static void co_compare(struct world *world, struct block_node *node, const struct guest *disk)
{
    uint64_t sectors = block_size(node) / GUEST_SECTOR_BYTES, step = 2048;
    autofree uint8_t *bytes = reallocarray(NULL, step, GUEST_SECTOR_BYTES);
    if (!guest_crash_size_check(disk, sectors, false))
        world_fail(world, "a snapshot has the wrong size");
    for (uint64_t at = 0; at < sectors; at += step) {
        uint64_t count = MIN(step, sectors - at);
        struct iovec iov;
        int result = co_block_read(node, at * GUEST_SECTOR_BYTES,
                                   sgl_one(&iov, bytes, count * GUEST_SECTOR_BYTES), 0);
        if (result < 0)
            world_fail(world, "read of a snapshot at sector %#llx: %s", (unsigned long long)at,
                       strerror(-result));
        if (!guest_crash_check(disk, at, count, bytes))
            world_fail(world, "a snapshot holds wrong bytes");
    }
}

static void co_verify(struct world *world, const struct guest_held *held)
{
    struct hws_error err = {0};
    struct block_policy policy = plan_policy(&world->plan);
    struct block_node *node;
    json_t *description = plan_open_description(&world->plan, held->layer, false);
    json_object_set_new(description, "snapshot", json_string(name_of(held)));
    policy.keep = NULL;
    int result = co_block_open(description, 0, &policy, &node, &err);
    json_decref(description);
    if (result == -ENOENT && !held->certain)
        return;
    if (result < 0)
        world_fail(world, "open of the snapshot %s of layer %u: %s", name_of(held), held->layer,
                   err.text);
    co_compare(world, node, held->disk);
    if (co_block_close(node, &err) < 0)
        world_fail(world, "close of a snapshot: %s", err.text);
}

void co_world_verify_snapshots(struct world *world)
{
    for (unsigned i = 0; i < GUEST_HELD_MAX; i++)
        if (world->guest->held[i].disk)
            co_verify(world, &world->guest->held[i]);
}
