/*
 * qemu-img snapshot.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct snapshot {
    int action; /* its letter; 0: nothing to do */
    const char *name;
    unsigned reach;
};

static int list(const struct qi_operand *operand)
{
    char *text;
    uint64_t size;
    struct hws_error err = {0};
    if (qi_virtual_size(operand, &size, &err) < 0)
        return qi_explain(operand, &err);
    if (hws_internal_snapshots(&operand->image, &text, &err) < 0)
        return qi_explain(operand, &err);
    json_t *all = json_loads(text, 0, NULL);
    free(text);
    if (json_array_size(all)) {
        printf("Snapshot list:\n");
        qi_print_snapshots(all);
    }
    json_decref(all);
    return 0;
}

static int tell(const struct snapshot *how, const struct qi_operand *operand,
                const struct hws_error *err)
{
    if (err->code == EAGAIN)
        return qi_explain(operand, err);
    switch (how->action) {
    case 'c':
        return qi_error("Could not create snapshot '%s': %d (%s)", how->name, -err->code,
                        strerror(err->code));
    case 'a':
        return qi_error("Could not apply snapshot '%s': %s%s", how->name,
                        err->code == ENOENT ? "Failed to load snapshot: " : "",
                        err->code == ENOENT || err->code == ENOTSUP ? strerror(err->code)
                                                                    : err->text);
    default:
        return qi_error("Could not delete snapshot '%s': %s", how->name,
                        err->code == ENOENT || err->code == ENOTSUP ? "snapshot not found"
                                                                    : err->text);
    }
}

static int run(const struct snapshot *how, const char *name)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    enum hws_snapshot_action action = how->action == 'c'   ? HWS_SNAPSHOT_CREATE
                                      : how->action == 'a' ? HWS_SNAPSHOT_APPLY
                                                           : HWS_SNAPSHOT_DELETE;
    unsigned reach = how->reach | (how->action && how->action != 'l' ? QI_WRITE : 0);
    if (qi_operand(&operand, name, NULL, NULL, reach) < 0)
        return 1;
    if (how->action == 'l')
        return list(&operand);
    uint64_t size;
    if (qi_virtual_size(&operand, &size, &err) < 0)
        return qi_explain(&operand, &err);
    if (!how->action)
        return 0;
    qi_warn_raw(&operand);
    /* Applied by ID or name, deleted by name alone; the library looks at IDs first. */
    struct qi_snapshot_key key = {.either = how->action == 'a' ? (char *)how->name : NULL,
                                  .name = how->action == 'd' ? (char *)how->name : NULL};
    autofree char *id = NULL;
    int r = how->action == 'c' ? 0 : qi_snapshot_find(&operand, &key, &id, &err);
    if (r == 0)
        r = hws_internal_snapshot(&operand.image, action, id ? id : how->name, &err);
    return r < 0 ? tell(how, &operand, &err) : 0;
}

static int take_action(void *command, const struct qi_arg *arg, char *value)
{
    struct snapshot *how = command;
    if (how->action)
        return qi_usage("Cannot mix '-l', '-a', '-c', '-d'");
    how->action = arg->letter;
    how->name = value;
    return 0;
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct snapshot),
    QI_SHARE(struct snapshot),
    QI_DO(NULL, 'l', take_action),
    QI_TAKE(NULL, 'a', take_action),
    QI_TAKE(NULL, 'c', take_action),
    QI_TAKE(NULL, 'd', take_action),
    QI_NOTHING(NULL, 'q'),
};

int qi_snapshot(int argc, char **argv)
{
    struct snapshot how = {0};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    return run(&how, argv[optind]);
}
