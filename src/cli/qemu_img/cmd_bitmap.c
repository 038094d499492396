/*
 * qemu-img bitmap.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

#define ACTIONS_MAX 64

struct bitmap {
    const char *format, *source, *source_format, *name;
    unsigned reach, count;
    uint64_t granularity;
    bool adds, merges;
    struct hws_bitmap_action action[ACTIONS_MAX];
};

static const char *const action_names[] = {"add", "remove", "clear", "enable", "disable", "merge"};

static int fail(const struct bitmap *how, const struct hws_bitmap_action *action,
                const struct hws_error *err)
{
    const char *what = action_names[action->kind];
    const char *missing = action->kind == HWS_BITMAP_MERGE ? action->from : how->name;
    const char *prefix = "Operation";
    if (err->code == EEXIST)
        return qi_error("%s %s on bitmap %s failed: Bitmap already exists: %s", prefix, what,
                        how->name, how->name);
    if (err->code == ENOENT)
        return qi_error("%s %s on bitmap %s failed: Dirty bitmap '%s' not found", prefix, what,
                        how->name, missing);
    return qi_error("%s %s on bitmap %s failed: %s", prefix, what, how->name, err->text);
}

/* What qemu-img says of an action before it looks at the image. */
static int check_action(const struct bitmap *how, const struct hws_bitmap_action *action,
                        struct hws_error *err)
{
    if (action->kind != HWS_BITMAP_ADD)
        return 0;
    if (how->granularity && (how->granularity < 512 || !is_power_of_2(how->granularity)))
        return hws_fail(err, EINVAL, "Granularity must be power of 2 and at least 512");
    return *how->name ? 0 : hws_fail(err, EINVAL, "Bitmap name cannot be empty");
}

static int run(struct bitmap *how, const char *name)
{
    autooperand operand = {0}, source = {0};
    struct hws_error err = {0};
    if (qi_operand(&operand, name, how->format, NULL, how->reach | QI_WRITE) < 0)
        return 1;
    if (how->source && qi_operand(&source, how->source, how->source_format, NULL, 0) < 0)
        return 1;
    qi_warn_raw(&operand);
    for (unsigned i = 0; i < how->count; i++) {
        struct hws_bitmap_action *action = &how->action[i];
        bool other = action->kind == HWS_BITMAP_MERGE && how->source;
        action->granularity = action->kind == HWS_BITMAP_ADD ? how->granularity : 0;
        int r = check_action(how, action, &err);
        if (r == 0)
            r = hws_bitmap(&operand.image, how->name, action, 1, other ? &source.image : NULL,
                           &err);
        if (r == -EAGAIN)
            return qi_explain(&operand, &err);
        if (r < 0)
            return fail(how, action, &err);
    }
    return 0;
}

/* --add and the others, done in the order in which they stand; a row's bits are the kind. */
static int add_action(void *command, const struct qi_arg *arg, char *value)
{
    struct bitmap *how = command;
    if (how->count == ACTIONS_MAX)
        return qi_error("more than %d actions", ACTIONS_MAX);
    struct hws_bitmap_action *action = &how->action[how->count++];
    action->kind = (enum hws_bitmap_kind)arg->bits;
    action->from = value;
    how->adds |= action->kind == HWS_BITMAP_ADD;
    how->merges |= action->kind == HWS_BITMAP_MERGE;
    return 0;
}

static int check(const struct bitmap *how, int operands)
{
    if (qi_two_formats(how->format, how->reach))
        return 1;
    if (!how->count)
        return qi_error("Need at least one of --add, --remove, --clear, --enable, --disable, or "
                        "--merge");
    if (how->granularity && !how->adds)
        return qi_error("granularity only supported with --add");
    if (how->source_format && !how->source)
        return qi_error("-F only supported with -b");
    if (how->source && !how->merges)
        return qi_error("Merge bitmap source file only supported with --merge");
    return operands == 2 ? 0 : qi_error("Expecting filename and bitmap name");
}

#define ACTION(n, k, b)                                     \
    {                                                       \
        .name = n, .kind = k, .bits = b, .call = add_action \
    }

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct bitmap),
    ACTION("add", QI_ARG_DO, HWS_BITMAP_ADD),
    ACTION("remove", QI_ARG_DO, HWS_BITMAP_REMOVE),
    ACTION("clear", QI_ARG_DO, HWS_BITMAP_CLEAR),
    ACTION("enable", QI_ARG_DO, HWS_BITMAP_ENABLE),
    ACTION("disable", QI_ARG_DO, HWS_BITMAP_DISABLE),
    ACTION("merge", QI_ARG_TAKE, HWS_BITMAP_MERGE),
    QI_BYTES(struct bitmap, granularity, "granularity", 'g', "granularity", 1, INT64_MAX),
    QI_WORD(struct bitmap, source, "source-file", 'b'),
    QI_WORD(struct bitmap, source_format, "source-format", 'F'),
    QI_WORD(struct bitmap, format, NULL, 'f'),
};

int qi_bitmap(int argc, char **argv)
{
    struct bitmap how = {0};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (check(&how, argc - optind))
        return 1;
    how.name = argv[optind + 1];
    return run(&how, argv[optind]);
}
