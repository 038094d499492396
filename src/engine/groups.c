/*
 * The control group of an attachment's engine (host/cgroup.h): "cgroup" of its configuration. The
 * engine makes and enters it itself, before its keeper, and before it opens any image, so that who
 * starts it anew, a keeper, a detach, or another attach, has it in the same place.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/internal.h"
#include "host/cgroup.h"
#include <limits.h>

static struct cgroup_base base;

void attach_use_groups(const char *setting)
{
    cgroup_base_free(&base);
    cgroup_find(setting, &cgroup_this_host, &base);
    if (!base.folder) {
        log_info("engines get no control groups of their own: %s", base.reason);
        return;
    }
    unsigned left = cgroup_clean(base.folder);
    log_info("engines get control groups in %s, with%s%s", base.folder,
             base.controllers ? " controllers " : "out controllers",
             base.controllers ? base.controllers : "");
    if (left)
        log_info("%u control groups of engines that are gone were removed", left);
}

json_t *attach_describe_groups(void)
{
    json_t *controllers = json_array();
    autofree char *words = strdup(base.controllers ? base.controllers : "");
    for (char *rest = NULL, *word = words ? strtok_r(words, " ", &rest) : NULL; word;
         word = strtok_r(NULL, " ", &rest))
        json_array_append_new(controllers, json_string(word));
    return json_pack("{s:s*, s:o, s:s*}", "folder", base.folder, "controllers", controllers,
                     "reason", base.reason);
}

/*
 * "engine-ID"; where attachments are kept elsewhere than they are by default, with a number that
 * stands for that place: two of one name there and here must never share a group, as one is killed.
 */
static void add_new_group(const char *name, json_t *config)
{
    char path[PATH_MAX], root[PATH_MAX], place[16] = "";
    uint32_t hash = 2166136261u; /* FNV-1a */
    if (strcmp(attachment_root(root, sizeof(root)), "/run/hawser") != 0) {
        for (const char *at = root; *at; at++)
            hash = (hash ^ (uint8_t)*at) * 16777619u;
        snprintf(place, sizeof(place), "-%08x", hash);
    }
    if (snprintf(path, sizeof(path), "%s/" CGROUP_ENGINE_PREFIX "%s%s", base.folder, name, place) <
        (int)sizeof(path))
        json_object_set_new(config, "cgroup", json_string(path));
}

void group_configure(const char *name, const json_t *old, json_t *config)
{
    json_t *group = json_object_get(old, "cgroup");
    if (group)
        json_object_set(config, "cgroup", group);
    else if (!old && base.folder)
        add_new_group(name, config);
}

static const char *group_of(const struct attachment *attachment)
{
    const char *folder = json_string_value(json_object_get(attachment->config, "cgroup"));
    const char *slash = folder ? strrchr(folder, '/') : NULL;
    return slash && !strncmp(slash + 1, CGROUP_ENGINE_PREFIX, strlen(CGROUP_ENGINE_PREFIX)) ? folder
                                                                                            : NULL;
}

void group_remove(const struct attachment *attachment, bool force)
{
    struct hws_error err = {0};
    const char *folder = group_of(attachment);
    if (folder && cgroup_remove(folder, force, &err) < 0)
        log_warning("'%s': %s; it is removed when it is empty", attachment->name, err.text);
}

const char *attachment_group(const struct attachment *attachment)
{
    const char *folder = group_of(attachment);
    pid_t pid = (pid_t)json_integer_value(json_object_get(attachment->state, "pid"));
    return folder && cgroup_has(folder, pid) ? folder : NULL;
}

json_t *attachment_group_usage(const struct attachment *attachment)
{
    struct cgroup_usage usage;
    const char *folder = group_of(attachment);
    if (!folder || cgroup_usage(folder, &usage, NULL) < 0)
        return NULL;
    json_t *ret = json_pack("{s:I}", "cpu-us", (json_int_t)usage.cpu_us);
    if (ret && usage.has_memory)
        json_object_set_new(ret, "memory", json_integer((json_int_t)usage.memory_bytes));
    return ret;
}
