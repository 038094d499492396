/*
 * Holding the requests of several volumes for a moment: their file systems are frozen (freeze.c),
 * so that what programs wrote one after the other to several of them is kept in that order, then
 * each engine holds what comes to its device.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/engines.h"
#include "control/name.h"

/** File systems thaw after the engines have let go. */
#define FREEZE_MS (ENGINE_HOLD_MS + 2000)

struct hold {
    struct freeze *freeze;
    unsigned count; /* that hold */
    char id[][ID_BYTES];
};

/* @return 0, or -ETIMEDOUT where one did not hold until now. */
static int let_go(struct hold *hold, struct hws_error *err)
{
    int r = 0;
    for (unsigned i = 0; i < hold->count; i++) {
        struct hws_error why = {0};
        json_t *result = NULL;
        int released = engines_call(hold->id[i], "release", NULL, &result, &why);
        if (released == 0 && !json_is_true(json_object_get(result, "held")))
            released = hws_fail(&why, ETIMEDOUT, "its requests did not wait as long");
        if (released < 0 && r == 0)
            r = hws_fail(err, ETIMEDOUT, "volume %s: %s", hold->id[i], why.text);
        json_decref(result);
    }
    int thawed = hold->freeze ? freeze_end(hold->freeze, r == 0 ? err : NULL) : 0;
    free(hold);
    return r < 0 ? r : thawed;
}

static int hold_engines(struct hold *hold, const struct engine_held *held, unsigned count,
                        struct hws_error *err)
{
    for (unsigned i = 0; i < count; i++) {
        json_t *result = NULL;
        int r = engines_call(held[i].id, "hold", json_pack("{s:i}", "timeout", ENGINE_HOLD_MS),
                             &result, err);
        json_decref(result);
        if (r < 0)
            return hws_wrap(err, r, "volume %s", held[i].id);
        snprintf(hold->id[hold->count++], ID_BYTES, "%s", held[i].id);
    }
    return 0;
}

int engines_hold(const struct engine_held *held, unsigned count, void **ret, struct hws_error *err)
{
    const char *mountpoints[64] = {NULL};
    unsigned mounts = 0;
    struct hold *hold = calloc(1, sizeof(*hold) + count * sizeof(hold->id[0]));
    if (!hold)
        return hws_fail(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < count && mounts < ARRAY_LEN(mountpoints); i++)
        if (held[i].mountpoint)
            mountpoints[mounts++] = held[i].mountpoint;
    int r = freeze_begin(mountpoints, mounts, FREEZE_MS, &hold->freeze, err);
    if (r == 0)
        r = hold_engines(hold, held, count, err);
    if (r < 0) {
        if (let_go(hold, NULL) < 0)
            return r; /* which is told anyway */
        return r;
    }
    *ret = hold;
    return 0;
}

int engines_release(void *hold, struct hws_error *err)
{
    return let_go(hold, err);
}

int engines_settle(const char *id, struct hws_error *err)
{
    struct engine_place place = {0};
    json_t *result = NULL;
    int r = engines_real.find(id, &place, NULL);
    bool runs = r == 0 && place.running;
    engine_place_free(&place);
    if (!runs)
        return 0;
    /* Changes of an engine come one after the other: this one after a snapshot. */
    r = engines_call(id, "release", NULL, &result, err);
    json_decref(result);
    return r;
}
