/*
 * Random operations against a model of what they should lead to, with engines that pretend. Some
 * run in a process that is killed at some point; what is then there must be what was before or what
 * is afterwards, and the recovery is killed now and then too. Every step compares volumes,
 * snapshots and users with the model; every so often everything is compared with everything, and
 * the doctor must find nothing.
 *
 *   HAWSER_SOAK_STEPS   how many; 3,000 if not given, and 1,000 with the address sanitizer
 *   HAWSER_SOAK_SEED    of another run
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "control/test_world.h"
#include <sys/wait.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SOAK_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(SOAK_ASAN)
#define STEPS 1000 /* its processes take ten times as long */
#else
#define STEPS 3000
#endif
#define SLOTS      8
#define SNAPSHOTS  4
#define USERS      3
#define SIZE_MAX_B (64 * MiB)
#define KILLED     42
/** Most operations pass so many points. */
#define POINTS 12
/** Steps between two full comparisons. */
#define CHECK_EVERY 25

struct model_volume {
    bool there, renamed, protected;
    uint64_t size;
    unsigned users;               /* bits */
    uint64_t snapshot[SNAPSHOTS]; /* sizes; 0: there is none */
};

struct model {
    struct model_volume volume[SLOTS];
};

enum kind {
    CREATE,
    DELETE,
    CLONE,
    CLONE_NOW,
    SNAPSHOT,
    SNAPSHOT_DELETE,
    REVERT,
    RESIZE,
    ATTACH,
    DETACH,
    DETACH_FORCE,
    RENAME,
    PROTECT,
    MERGE,
    KINDS
};

static const char *const kind_names[KINDS] = {
    "create", "delete", "clone",  "clone now",       "snapshot", "snapshot delete", "revert",
    "resize", "attach", "detach", "detach by force", "rename",   "protect",         "merge"};

struct step {
    enum kind kind;
    unsigned slot, other, snapshot, user;
    uint64_t size;
};

static struct random draw;
static unsigned number; /* of the step */
static uint64_t seed;
static unsigned passed, last, kills, refused;

static void crash_at(void *arg, const char *where)
{
    if (++passed == last)
        _exit(KILLED);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

/* ---- the model ---- */

static void make_clone(struct model *model, const struct step *step, uint64_t size)
{
    model->volume[step->other] = (struct model_volume){.there = true, .size = size};
}

static bool has_snapshots(const struct model_volume *volume)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        any |= volume->snapshot[i];
    return any != 0;
}

/* A name is taken where the slot is, unless its volume has another name by now. */
static bool is_free(const struct model *model, unsigned slot)
{
    return !model->volume[slot].there;
}

/* Changes the model as the step does. @return whether the step succeeds. */
static bool predict(struct model *model, const struct step *step)
{
    struct model_volume *volume = &model->volume[step->slot];
    uint64_t *snapshot = &volume->snapshot[step->snapshot];
    if (step->kind == MERGE)
        return true;
    if (step->kind == CREATE) {
        if (volume->there)
            return false;
        *volume = (struct model_volume){.there = true, .size = step->size};
        return true;
    }
    if (!volume->there)
        return false;
    switch (step->kind) {
    case DELETE:
        if (volume->protected || volume->users || has_snapshots(volume))
            return false;
        *volume = (struct model_volume){0};
        return true;
    case CLONE:
        if (!*snapshot || !is_free(model, step->other))
            return false;
        make_clone(model, step, *snapshot);
        return true;
    case CLONE_NOW:
        if (!is_free(model, step->other))
            return false;
        make_clone(model, step, volume->size);
        return true;
    case SNAPSHOT:
        if (*snapshot)
            return false;
        *snapshot = volume->size;
        return true;
    case SNAPSHOT_DELETE:
        if (!*snapshot)
            return false;
        *snapshot = 0;
        return true;
    case REVERT:
        if (!*snapshot || volume->users)
            return false;
        volume->size = *snapshot;
        return true;
    case RESIZE:
        if (step->size < volume->size)
            return false;
        volume->size = step->size;
        return true;
    case ATTACH:
        volume->users |= 1u << step->user;
        return true;
    case DETACH:
        if (volume->users && !(volume->users & 1u << step->user))
            return false;
        volume->users &= ~(1u << step->user);
        return true;
    case DETACH_FORCE:
        volume->users = 0;
        return true;
    case RENAME:
        volume->renamed = !volume->renamed;
        return true;
    case PROTECT:
        volume->protected = !volume->protected;
        return true;
    default:
        return false;
    }
}

/* ---- doing it ---- */

static const char *name_of(const struct model *model, unsigned slot)
{
    static char names[4][16];
    static unsigned next;
    char *name = names[next++ % 4];
    bool renamed = model->volume[slot].there && model->volume[slot].renamed;
    snprintf(name, sizeof(names[0]), "%s%u", renamed ? "renamed-" : "v", slot);
    return name;
}

static int merge_all(struct control *control)
{
    auto_json *put_off = json_object();
    int r;
    do {
        r = merge_one(control, NULL, put_off, &error);
    } while (r > 0);
    return r;
}

static int create(struct control *control, const char *name, const char *clone, uint64_t size)
{
    json_t *body = json_pack("{s:s, s:s*}", "name", name, "clone", clone);
    if (size)
        json_object_set_new(body, "size", json_integer((json_int_t)size));
    int r = CALL(control_volume_create, control, body);
    json_decref(body);
    return r;
}

static int perform(struct control *control, const struct model *model, const struct step *step)
{
    const char *name = name_of(model, step->slot);
    char text[128], snapshot[8];
    snprintf(snapshot, sizeof(snapshot), "s%u", step->snapshot);
    switch (step->kind) {
    case CREATE:
        return create(control, name, NULL, step->size);
    case CLONE:
        snprintf(text, sizeof(text), "%s@%s", name, snapshot);
        return create(control, name_of(model, step->other), text, 0);
    case CLONE_NOW:
        return create(control, name_of(model, step->other), name, 0);
    case DELETE:
        return control_volume_delete(control, name, &error);
    case SNAPSHOT:
        snprintf(text, sizeof(text), "{\"name\": \"%s\"}", snapshot);
        return with(control_snapshot_create, control, name, text);
    case SNAPSHOT_DELETE:
        return control_snapshot_delete(control, name, snapshot, &error);
    case REVERT:
        snprintf(text, sizeof(text), "{\"snapshot\": \"%s\"}", snapshot);
        return with(control_volume_revert, control, name, text);
    case RESIZE:
        snprintf(text, sizeof(text), "{\"size\": %llu}", (unsigned long long)step->size);
        return with(control_volume_resize, control, name, text);
    case ATTACH:
        snprintf(text, sizeof(text), "{\"user\": \"u%u\"}", step->user);
        return with(control_volume_attach, control, name, text);
    case DETACH:
        snprintf(text, sizeof(text), "{\"user\": \"u%u\"}", step->user);
        return detach(control, name, text);
    case DETACH_FORCE:
        return detach(control, name, "{\"force\": true}");
    case RENAME:
        snprintf(text, sizeof(text), "{\"name\": \"%s%u\"}",
                 model->volume[step->slot].renamed ? "v" : "renamed-", step->slot);
        return with(control_volume_change, control, name, text);
    case PROTECT:
        snprintf(text, sizeof(text), "{\"protected\": %s}",
                 model->volume[step->slot].protected ? "false" : "true");
        return with(control_volume_change, control, name, text);
    default:
        return merge_all(control);
    }
}

static struct step draw_step(void)
{
    /* What makes volumes and ends attachments is drawn more often, so that there are some. */
    static const enum kind often[] = {CREATE, CREATE, SNAPSHOT, ATTACH, DETACH, DETACH_FORCE};
    unsigned kind = (unsigned)random_below(&draw, KINDS + ARRAY_LEN(often));
    struct step step = {
        .kind = kind < KINDS ? (enum kind)kind : often[kind - KINDS],
        .slot = (unsigned)random_below(&draw, SLOTS),
        .other = (unsigned)random_below(&draw, SLOTS),
        .snapshot = (unsigned)random_below(&draw, SNAPSHOTS),
        .user = (unsigned)random_below(&draw, USERS),
        .size = (1 + random_below(&draw, SIZE_MAX_B / MiB)) * MiB,
    };
    return step;
}

/* ---- comparing ---- */

static uint64_t number_in(const json_t *value, const char *member)
{
    return (uint64_t)json_integer_value(json_object_get(value, member));
}

static bool same_users(const json_t *shown, unsigned users)
{
    const json_t *list = json_object_get(json_object_get(shown, "attachment"), "users");
    unsigned found = 0;
    size_t i;
    json_t *user;
    json_array_foreach(list, i, user) found |= 1u << (json_string_value(user)[1] - '0');
    return found == users && !list == !users;
}

static bool same_snapshots(struct control *control, const char *name,
                           const struct model_volume *volume)
{
    const struct control_page page = {0};
    auto_json *list = NULL;
    uint64_t found[SNAPSHOTS] = {0};
    size_t i;
    json_t *item;
    must(control_snapshot_list(control, name, &page, &list, &error));
    json_array_foreach(json_object_get(list, "items"), i, item)
        found[json_string_value(json_object_get(item, "name"))[1] - '0'] = number_in(item, "size");
    return memcmp(found, volume->snapshot, sizeof(found)) == 0;
}

static bool is_like(struct control *control, const struct model *model)
{
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        const struct model_volume *volume = &model->volume[slot];
        const char *name = name_of(model, slot);
        auto_json *shown = NULL;
        int r = control_volume_show(control, name, &shown, &error);
        if (!volume->there && r == -ENOENT)
            continue;
        if (r < 0 || !volume->there || number_in(shown, "size") != volume->size ||
            json_is_true(json_object_get(shown, "protected")) != volume->protected ||
            !same_users(shown, volume->users) || !same_snapshots(control, name, volume))
            return false;
    }
    return true;
}

/* As text the list is what it is as JSON. */
static void compare_lists(struct control *control)
{
    const struct control_page page = {.limit = 5};
    auto_json *list = NULL, *parsed = NULL;
    autofree char *text = NULL;
    must(control_volume_list(control, &page, &list, &error));
    must(control_volume_list_text(control, &page, &text, &error));
    parsed = json_loads(text, 0, NULL);
    assert_true(json_equal(list, parsed));
}

static void compare_all(struct control *control)
{
    auto_json *body = request("{\"deep\": true}"), *told = NULL;
    check_all(control);
    compare_lists(control);
    must(control_doctor(control, body, &told, &error));
    if (json_array_size(json_object_get(told, "items"))) {
        autofree char *text = json_dumps(told, JSON_INDENT(2));
        fail_msg("seed %llu, step %u: %s", (unsigned long long)seed, number, text);
    }
}

static void fail_step(const struct step *step, const char *what)
{
    fail_msg("seed %llu, step %u, %s of slot %u: %s (%s)", (unsigned long long)seed, number,
             kind_names[step->kind], step->slot, what, error.text);
}

/* ---- steps ---- */

static void step_alive(struct control *control, struct model *model, const struct step *step)
{
    struct model after = *model;
    bool succeeds = predict(&after, step);
    int r = perform(control, model, step);
    if ((r == 0) != succeeds)
        fail_step(step, succeeds ? "it should work" : "it should be refused");
    refused += !succeeds;
    if (succeeds)
        *model = after;
    if (!is_like(control, model))
        fail_step(step, "what is there is not what should be");
}

/* @return whether the process was killed. */
static bool in_a_process(const struct model *model, const struct step *step, unsigned at)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        last = 0;
        struct control *control = open_control(crash_at);
        passed = 0;
        last = at;
        _exit(!step || perform(control, model, step) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status) == KILLED;
}

/* The recovery is cut off as well, before the one that is let go. */
static void cut_recovery(void)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        passed = 0;
        last = 1 + (unsigned)random_below(&draw, 10);
        open_control(crash_at);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    kills += WEXITSTATUS(status) == KILLED;
}

static struct control *step_killed(struct control *control, struct model *model,
                                   const struct step *step)
{
    struct model after = *model;
    bool succeeds = predict(&after, step);
    control_close(control);
    bool killed = in_a_process(model, step, 1 + (unsigned)random_below(&draw, POINTS));
    kills += killed;
    if (killed && random_one_in(&draw, 3))
        cut_recovery();
    control = open_control(NULL);
    bool before = is_like(control, model), done = succeeds && is_like(control, &after);
    if (!killed && succeeds && !done)
        fail_step(step, "it was not done");
    if (!before && !done)
        fail_step(step, "after a kill it is neither done nor undone");
    if (done)
        *model = after;
    return control;
}

static void random_operations_keep_to_the_model(void **state)
{
    unsigned steps = (unsigned)setting("HAWSER_SOAK_STEPS", STEPS);
    struct model model = {0};
    seed = setting("HAWSER_SOAK_SEED", 1);
    draw = (struct random){.state = seed};
    clean();
    struct control *control = open_control(NULL);
    must(pool_create(control));
    for (number = 0; number < steps; number++) {
        struct step step = draw_step();
        if (random_one_in(&draw, 3))
            control = step_killed(control, &model, &step);
        else
            step_alive(control, &model, &step);
        if (number % CHECK_EVERY == 0)
            compare_all(control);
    }
    compare_all(control);
    control_close(control);
    print_message("%u steps, %u refused, %u kills\n", steps, refused, kills);
    assert_true(kills > steps / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_keep_to_the_model),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
