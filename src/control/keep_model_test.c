/*
 * Volumes, their snapshots, the trash and groups against a model: operations at random, a part of
 * them killed at a random point. After each the catalog tells what the model does, and files and
 * engines match; after a kill it is as before the operation, or as after it.
 *
 * HAWSER_KEEP_STEPS: how many; HAWSER_KEEP_SEED: which.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/test_world.h"
#include <sys/wait.h>

#define VOLUMES 4
#define GROUPS  2
#define NAMES   4
#define KILLED  42

/** Bits of a volume's snapshots are names; of a group's, volumes. */
struct model {
    struct {
        bool live, attached;
        unsigned own, of_group; /* snapshots */
        bool trashed;
        unsigned kept; /* snapshots of the one in the trash */
    } volume[VOLUMES];
    struct {
        bool there;
        unsigned members, taken, of[NAMES];
    } group[GROUPS];
};

struct step {
    unsigned what, volume, group, name, members;
};

static uint64_t seed;

static unsigned any(unsigned below)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)((seed >> 33) % below);
}

/* ---- the model ---- */

static bool is_member(const struct model *m, unsigned volume)
{
    bool member = false;
    for (unsigned i = 0; i < GROUPS; i++)
        member |= m->group[i].there && (m->group[i].members >> volume & 1);
    return member;
}

static unsigned live_mask(const struct model *m)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < VOLUMES; i++)
        mask |= (unsigned)m->volume[i].live << i;
    return mask;
}

static int expect_discard(struct model *m, unsigned v, bool purge)
{
    if (!m->volume[v].live)
        return -ENOENT;
    if (m->volume[v].attached || is_member(m, v) || m->volume[v].of_group ||
        (purge && m->volume[v].own))
        return -EBUSY;
    m->volume[v].live = false;
    if (!purge) {
        m->volume[v].trashed = true;
        m->volume[v].kept = m->volume[v].own;
    }
    m->volume[v].own = 0;
    return 0;
}

static int expect_restore(struct model *m, unsigned v)
{
    if (!m->volume[v].trashed || m->volume[v].live)
        return m->volume[v].trashed ? -EEXIST : -ENOENT;
    m->volume[v].live = true;
    m->volume[v].trashed = false;
    m->volume[v].own = m->volume[v].kept;
    return 0;
}

static int expect_snapshot(struct model *m, unsigned v, unsigned name, bool deletes)
{
    unsigned bit = 1U << name;
    if (!m->volume[v].live)
        return -ENOENT;
    if (deletes && !((m->volume[v].own | m->volume[v].of_group) & bit))
        return -ENOENT;
    if (deletes ? m->volume[v].of_group & bit : (m->volume[v].own | m->volume[v].of_group) & bit)
        return deletes ? -EBUSY : -EEXIST;
    m->volume[v].own ^= bit;
    return 0;
}

static int expect_members(struct model *m, unsigned g, unsigned members, bool fresh)
{
    if (!fresh && !m->group[g].there)
        return -ENOENT;
    if (members & ~live_mask(m))
        return -ENOENT;
    if (fresh && m->group[g].there)
        return -EEXIST;
    m->group[g].there = true;
    m->group[g].members = members;
    return 0;
}

static int expect_group_snapshot(struct model *m, unsigned g, unsigned name)
{
    unsigned bit = 1U << name;
    if (!m->group[g].there)
        return -ENOENT;
    if (!m->group[g].members)
        return -EINVAL;
    bool taken = m->group[g].taken & bit;
    for (unsigned i = 0; i < VOLUMES; i++)
        taken |=
            (m->group[g].members >> i & 1) && ((m->volume[i].own | m->volume[i].of_group) & bit);
    if (taken)
        return -EEXIST;
    m->group[g].taken |= bit;
    m->group[g].of[name] = m->group[g].members;
    for (unsigned i = 0; i < VOLUMES; i++)
        if (m->group[g].members >> i & 1)
            m->volume[i].of_group |= bit;
    return 0;
}

static int expect_group_drop(struct model *m, unsigned g, unsigned name)
{
    unsigned bit = 1U << name;
    if (!m->group[g].there || !(m->group[g].taken & bit))
        return -ENOENT;
    m->group[g].taken &= ~bit;
    for (unsigned i = 0; i < VOLUMES; i++)
        if (m->group[g].of[name] >> i & 1)
            m->volume[i].of_group &= ~bit;
    return 0;
}

static int expect_group_revert(const struct model *m, unsigned g, unsigned name)
{
    if (!m->group[g].there || !(m->group[g].taken >> name & 1))
        return -ENOENT;
    for (unsigned i = 0; i < VOLUMES; i++)
        if ((m->group[g].of[name] >> i & 1) && m->volume[i].attached)
            return -EBUSY;
    return 0;
}

static int expect_group_delete(struct model *m, unsigned g)
{
    if (!m->group[g].there)
        return -ENOENT;
    if (m->group[g].taken)
        return -EBUSY;
    m->group[g].there = false;
    m->group[g].members = 0;
    return 0;
}

/* ---- the same, done ---- */

static const char *with_members(const struct step *s, bool fresh)
{
    static char text[256];
    int used = snprintf(text, sizeof(text), "{");
    if (fresh)
        used += snprintf(text + used, sizeof(text) - (size_t)used, "\"name\": \"g%u\", ", s->group);
    used += snprintf(text + used, sizeof(text) - (size_t)used, "\"volumes\": [");
    const char *comma = "";
    for (unsigned i = 0; i < VOLUMES; i++) {
        if (!(s->members >> i & 1))
            continue;
        used += snprintf(text + used, sizeof(text) - (size_t)used, "%s\"v%u\"", comma, i);
        comma = ", ";
    }
    snprintf(text + used, sizeof(text) - (size_t)used, "]}");
    return text;
}

static int discard(struct control *control, const char *volume, const char *text)
{
    json_t *body = request(text);
    int r = control_volume_discard(control, volume, body, &error);
    json_decref(body);
    return r;
}

static int create_group(struct control *control, const struct step *s)
{
    json_t *body = request(with_members(s, true));
    int r = CALL(control_group_create, control, body);
    json_decref(body);
    return r;
}

static int merge_all(struct control *control)
{
    json_t *put_off = json_object();
    int r;
    do {
        r = merge_one(control, NULL, put_off, &error);
    } while (r > 0);
    json_decref(put_off);
    return r;
}

#define KINDS 15

/* Runs the step where @control is there, and tells what is to come of it, with @m changed so. */
static int run(struct control *control, const struct step *s, struct model *m, int *ret_expected)
{
    char v[8], g[8], name[8], create[64], named[64], revert[64];
    snprintf(v, sizeof(v), "v%u", s->volume);
    snprintf(g, sizeof(g), "g%u", s->group);
    snprintf(name, sizeof(name), "s%u", s->name);
    snprintf(create, sizeof(create), "{\"name\": \"%s\", \"size\": 1048576}", v);
    snprintf(named, sizeof(named), "{\"name\": \"%s\"}", name);
    snprintf(revert, sizeof(revert), "{\"snapshot\": \"%s\"}", name);
    bool live = m->volume[s->volume].live;
    bool attached = m->volume[s->volume].attached;
    switch (s->what) {
    case 0:
        *ret_expected = live ? -EEXIST : 0;
        m->volume[s->volume].live = true;
        return control ? volume_create(control, create) : 0;
    case 1: /* one of a name in the trash is enough */
        *ret_expected = 0;
        if (m->volume[s->volume].trashed)
            return 0;
        *ret_expected = expect_discard(m, s->volume, false);
        return control ? discard(control, v, "{\"trash-retention\": 1000}") : 0;
    case 2:
        *ret_expected = expect_discard(m, s->volume, true);
        return control ? discard(control, v, "{\"purge\": true}") : 0;
    case 3:
        *ret_expected = expect_restore(m, s->volume);
        return control ? with(control_trash_restore, control, v, "{}") : 0;
    case 4:
        *ret_expected = m->volume[s->volume].trashed ? 0 : -ENOENT;
        m->volume[s->volume].trashed = false;
        return control ? control_trash_delete(control, v, &error) : 0;
    case 5:
        *ret_expected = expect_snapshot(m, s->volume, s->name, false);
        return control ? with(control_snapshot_create, control, v, named) : 0;
    case 6:
        *ret_expected = expect_snapshot(m, s->volume, s->name, true);
        return control ? control_snapshot_delete(control, v, name, &error) : 0;
    case 7:
        *ret_expected = live ? 0 : -ENOENT;
        m->volume[s->volume].attached = live;
        return control ? with(control_volume_attach, control, v, "{\"user\": \"a\"}") : 0;
    case 8:
        *ret_expected = !live ? -ENOENT : 0;
        m->volume[s->volume].attached = false;
        return control && (attached || !live) ? detach(control, v, "{\"user\": \"a\"}") : 0;
    case 9:
        *ret_expected = expect_members(m, s->group, s->members, true);
        return control ? create_group(control, s) : 0;
    case 10:
        *ret_expected = expect_members(m, s->group, s->members, false);
        return control ? with(control_group_change, control, g, with_members(s, false)) : 0;
    case 11:
        *ret_expected = expect_group_delete(m, s->group);
        return control ? control_group_delete(control, g, &error) : 0;
    case 12:
        *ret_expected = expect_group_snapshot(m, s->group, s->name);
        return control ? with(control_group_snapshot_create, control, g, named) : 0;
    case 13:
        *ret_expected = expect_group_drop(m, s->group, s->name);
        return control ? control_group_snapshot_delete(control, g, name, &error) : 0;
    default:
        *ret_expected = expect_group_revert(m, s->group, s->name);
        return control ? with(control_group_revert, control, g, revert) : 0;
    }
}

/* ---- what the catalog tells ---- */

static unsigned names_of(const json_t *list, const char *prefix, unsigned *ret_count)
{
    unsigned mask = 0;
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(list, "items"), i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        assert_true(name && !strncmp(name, prefix, strlen(prefix)));
        mask |= 1U << strtoul(name + strlen(prefix), NULL, 10);
    }
    *ret_count = (unsigned)i;
    return mask;
}

static unsigned masked(struct control *control,
                       int (*list)(struct control *, const struct control_page *, json_t **,
                                   struct hws_error *),
                       const char *prefix)
{
    const struct control_page page = {0};
    auto_json *answer = NULL;
    unsigned count;
    must(list(control, &page, &answer, &error));
    return names_of(answer, prefix, &count);
}

static unsigned snapshots_of(struct control *control,
                             int (*list)(struct control *, const char *,
                                         const struct control_page *, json_t **,
                                         struct hws_error *),
                             const char *prefix, unsigned index)
{
    const struct control_page page = {0};
    auto_json *answer = NULL;
    char name[8];
    unsigned count;
    snprintf(name, sizeof(name), "%s%u", prefix, index);
    must(list(control, name, &page, &answer, &error));
    return names_of(answer, "s", &count);
}

static unsigned members_of(struct control *control, unsigned group)
{
    auto_json *shown = NULL;
    char name[8];
    unsigned mask = 0;
    size_t i;
    json_t *member;
    snprintf(name, sizeof(name), "g%u", group);
    must(control_group_show(control, name, &shown, &error));
    json_array_foreach(json_object_get(shown, "members"), i, member) mask |=
        1U << strtoul(json_string_value(member) + 1, NULL, 10);
    return mask;
}

/* @return NULL, or what differs. */
static const char *differs(struct control *control, const struct model *m)
{
    unsigned live = 0, trashed = 0, groups = 0;
    for (unsigned i = 0; i < VOLUMES; i++) {
        live |= (unsigned)m->volume[i].live << i;
        trashed |= (unsigned)m->volume[i].trashed << i;
    }
    for (unsigned i = 0; i < GROUPS; i++)
        groups |= (unsigned)m->group[i].there << i;
    if (masked(control, control_volume_list, "v") != live)
        return "volumes";
    if (masked(control, control_trash_list, "v") != trashed)
        return "trash";
    if (masked(control, control_group_list, "g") != groups)
        return "groups";
    for (unsigned i = 0; i < VOLUMES; i++) {
        auto_volume volume = {0};
        char name[8];
        snprintf(name, sizeof(name), "v%u", i);
        if (!m->volume[i].live)
            continue;
        if (snapshots_of(control, control_snapshot_list, "v", i) !=
            (m->volume[i].own | m->volume[i].of_group))
            return "snapshots";
        must(object_find(control, &volume_type, name, &volume, &error));
        if (is_attached(control, volume.id) != m->volume[i].attached)
            return "attachments";
    }
    for (unsigned i = 0; i < GROUPS; i++)
        if (m->group[i].there && members_of(control, i) != m->group[i].members)
            return "members";
    for (unsigned i = 0; i < GROUPS; i++)
        if (m->group[i].there &&
            snapshots_of(control, control_group_snapshot_list, "g", i) != m->group[i].taken)
            return "groups' snapshots";
    return NULL;
}

/* ---- the walk ---- */

static unsigned left;

static void count_down(void *arg, const char *where)
{
    if (--left == 0)
        _exit(KILLED);
}

/* In a process that is killed at point @at. @return whether it was. */
static bool run_killed(const struct step *s, const struct model *m, unsigned at)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct model mine = *m;
        int expected;
        left = 0; /* nothing of the start */
        struct control *control = open_control(count_down);
        left = at;
        run(control, s, &mine, &expected);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status) == KILLED;
}

static struct step any_step(void)
{
    struct step s = {any(KINDS + 2), any(VOLUMES), any(GROUPS), any(NAMES),
                     any(1 << VOLUMES) & any(1 << VOLUMES)};
    if (s.what >= KINDS)
        s.what = 12 + s.what - KINDS; /* what this is about: as many go as come */
    return s;
}

static void check_model(struct control *control, const struct model *m, const struct step *s,
                        unsigned step)
{
    const char *what = differs(control, m);
    if (what)
        fail_msg("step %u (%u): %s differ", step, s->what, what);
    check_all(control);
}

/* @return whether it worked. */
static bool step_whole(struct control *control, struct model *m, const struct step *s,
                       unsigned step)
{
    struct model after = *m;
    int expected, r = run(control, s, &after, &expected);
    if (r != expected)
        fail_msg("step %u (%u): %d, not %d: %s", step, s->what, r, expected, error.text);
    if (r == 0)
        *m = after;
    check_model(control, m, s, step);
    return r == 0;
}

/* @return the catalog, opened again. */
static struct control *step_killed(struct control *control, struct model *m, const struct step *s,
                                   unsigned step, unsigned *killed_count)
{
    struct model after = *m;
    int expected;
    control_close(control);
    bool killed = run_killed(s, m, 1 + any(any(2) ? 3 : 25));
    *killed_count += killed;
    control = open_control(NULL);
    if (run(NULL, s, &after, &expected) == 0 && expected == 0 && (!killed || differs(control, m)))
        *m = after;
    check_model(control, m, s, step);
    return control;
}

static void the_model_and_the_catalog_agree(void **state)
{
    const char *steps = getenv("HAWSER_KEEP_STEPS"), *first = getenv("HAWSER_KEEP_SEED");
    unsigned count = steps ? (unsigned)strtoul(steps, NULL, 10) : 1000;
    struct model m = {0};
    unsigned killed = 0, done[KINDS] = {0};
    seed = first ? strtoull(first, NULL, 10) : 1;
    clean();
    struct control *control = open_control(NULL);
    must(pool_create(control));
    for (unsigned i = 0; i < count; i++) {
        struct step s = any_step();
        if (any(3) == 0)
            control = step_killed(control, &m, &s, i, &killed);
        else
            done[s.what] += step_whole(control, &m, &s, i);
        if (any(10) == 0)
            must(merge_all(control));
    }
    check_all(control);
    control_close(control);
    print_message("%u of %u steps were killed\n", killed, count);
    for (unsigned i = 0; i < KINDS; i++)
        if (!steps && !first && !done[i])
            fail_msg("step %u has never worked", i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_model_and_the_catalog_agree),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
