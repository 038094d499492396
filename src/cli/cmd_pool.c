/*
 * `hawser pool`: folders of images, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include <limits.h>

struct pool_options {
    struct control_command control;
    uint64_t capacity, quota, overcommit;
    struct cli_list roots, labels;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"STATE", "state"},
    {"VOLUMES", "volumes", CONTROL_NUMBER},
    {"PROVISIONED", "provisioned", CONTROL_SIZE},
    {"FREE", "free", CONTROL_SIZE},
    {"PATH", "path"},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"state", "state"},
    {"path", "path"},
    {"volumes", "volumes", CONTROL_NUMBER},
    {"provisioned", "provisioned", CONTROL_SIZE},
    {"capacity", "capacity", CONTROL_SIZE},
    {"free", "free", CONTROL_SIZE},
    {"quota", "quota", CONTROL_SIZE},
    {"overcommit", "overcommit-percent", CONTROL_NUMBER},
    {NULL},
};

static int list(const void *arg, char **operands, struct hws_error *err)
{
    const struct pool_options *options = arg;
    json_t *items;
    int r = control_list(&options->control, "/v1/pools", &items, err);
    if (r == 0)
        control_print_list(&options->control, items, columns);
    return r;
}

static int show(const void *arg, char **operands, struct hws_error *err)
{
    const struct pool_options *options = arg;
    json_t *pool;
    int r = control_call(&options->control, "GET", NULL, &pool, err, "/v1/pools/%s", operands[0]);
    if (r == 0)
        control_print_one(&options->control, pool, fields);
    return r;
}

/* Paths are hawserd's: relative ones count from here. */
static int absolute(const char *path, char *buffer, struct hws_error *err)
{
    char here[PATH_MAX];
    if (path[0] != '/' && !getcwd(here, sizeof(here)))
        return hws_fail_errno(err, errno, "the current folder");
    int length = path[0] == '/' ? snprintf(buffer, PATH_MAX, "%s", path)
                                : snprintf(buffer, PATH_MAX, "%s/%s", here, path);
    return length < PATH_MAX ? 0 : hws_fail(err, ENAMETOOLONG, "%.200s: too long", path);
}

static int create(const void *arg, char **operands, struct hws_error *err)
{
    const struct pool_options *options = arg;
    char path[PATH_MAX];
    json_t *body = json_object(), *pool, *roots = json_array();
    control_set_text(body, "name", operands[0]);
    control_set_size(body, "capacity", options->capacity);
    control_set_size(body, "quota", options->quota);
    control_set_size(body, "overcommit-percent", options->overcommit);
    int r = absolute(operands[1], path, err);
    control_set_text(body, "path", path);
    for (unsigned i = 0; r == 0 && i < options->roots.count; i++) {
        r = absolute(options->roots.item[i], path, err);
        json_array_append_new(roots, json_string(path));
    }
    json_object_set_new(body, "image-roots", roots);
    if (r == 0)
        r = control_set_labels(body, &options->labels, err);
    if (r < 0) {
        json_decref(body);
        return r;
    }
    r = control_call(&options->control, "POST", body, &pool, err, "/v1/pools");
    if (r == 0)
        control_print_one(&options->control, pool, fields);
    return r;
}

static int delete (const void *arg, char **operands, struct hws_error *err)
{
    const struct pool_options *options = arg;
    json_t *none;
    return control_call(&options->control, "DELETE", NULL, &none, err, "/v1/pools/%s", operands[0]);
}

static const struct control_action actions[] = {
    {"list", 0, "", list},
    {"show", 1, "POOL", show},
    {"create", 2, "POOL FOLDER", create},
    {"delete", 1, "POOL", delete},
    {NULL},
};

static int run(const void *options, char **operands, unsigned count)
{
    return control_run_action("pool", actions, options, operands, count);
}

static const struct cli_option table[] = {
    {"capacity", 0, CLI_SIZE, offsetof(struct pool_options, capacity), "SIZE",
     "create: what it can hold; its file system's size if not given"},
    {"quota", 0, CLI_SIZE, offsetof(struct pool_options, quota), "SIZE",
     "create: the most that the sizes of its volumes may add up to"},
    {"overcommit", 0, CLI_UINT, offsetof(struct pool_options, overcommit), "PERCENT",
     "create: the same in percent of the capacity; any if not given"},
    {"image-root", 0, CLI_LIST, offsetof(struct pool_options, roots), "DIR",
     "create: a folder from which images become volumes in place (may be repeated)", NULL,
     CLI_COMPLETE_FOLDER},
    {"label", 0, CLI_LIST, offsetof(struct pool_options, labels), "NAME=VALUE",
     "create: a text of your own (may be repeated)"},
    CLI_CONTROL_OPTIONS(struct pool_options),
    {NULL},
};

const struct cli_command cli_pool_command = {
    .name = "pool",
    .summary = "Manage pools: folders that volumes live in",
    .synopsis = "[OPTION...] list\n[OPTION...] create POOL FOLDER\n[OPTION...] show|delete POOL",
    .description =
        "A pool is a folder in which hawserd keeps the images of volumes. The folder is made where "
        "it is missing, and marked, so that the empty mount point of a disk that is not there is "
        "never taken for it. Only a pool without volumes can be deleted; what else lies in the "
        "folder stays.",
    .operands = {{"ACTION", "list, show, create or delete", CLI_COMPLETE_NONE},
                 {"POOL", "its name or id", CLI_COMPLETE_NONE},
                 {"FOLDER", "where its images lie", CLI_COMPLETE_FOLDER}},
    .examples = {{"a pool", "hawser pool create default /var/lib/hawser/pool"},
                 {"one that cannot grow past 100 GiB",
                  "hawser pool create --quota=100G small /srv/small"},
                 {"what there is", "hawser pool list"}},
    .options = table,
    .options_bytes = sizeof(struct pool_options),
    .operands_min = 1,
    .operands_max = 3,
    .run = run,
};
