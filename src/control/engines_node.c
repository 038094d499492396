/*
 * What this host has, and putting another program in an engine's place; see control/engines.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/engines.h"
#include "control/objects.h"
#include "engine/client.h"
#include <linux/landlock.h>
#include <sys/syscall.h>

/** The engine waits a minute each for its successor to be prepared and ready. */
#define REPLACE_TIMEOUT_MS 180000

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Who made Landlock a part of the kernel did not always switch it on. */
static int landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version > 0 ? (int)version : 0;
}

json_t *engines_features(void)
{
    return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:i, s:b}", "tcmu",
                     is_there("/sys/module/target_core_user"), "nbd", is_there("/sys/module/nbd"),
                     "fuse", is_there("/dev/fuse"), "loop", is_there("/dev/loop-control"), "ublk",
                     is_there("/dev/ublk-control"), "io-uring-fuse",
                     is_there("/sys/module/fuse/parameters/enable_uring"), "landlock",
                     landlock_version(), "cgroup2",
                     is_there("/sys/fs/cgroup/cgroup.controllers") ||
                         is_there("/sys/fs/cgroup/unified/cgroup.controllers"));
}

void engines_use_groups(const char *setting)
{
    attach_use_groups(setting);
}

static int find_running(const char *id, struct attachment **ret, struct hws_error *err)
{
    int r = attachment_find(id, ret, err);
    if (r == 0 && (!(*ret)->running || strcmp((*ret)->name, id) != 0)) {
        *ret = attachment_free(*ret);
        r = hws_fail(err, ENOENT, "no engine runs");
    }
    return r;
}

int engines_describe(const char *id, json_t **ret, struct hws_error *err)
{
    struct attachment *attachment;
    int r = find_running(id, &attachment, err);
    if (r < 0)
        return r;
    const json_t *volume = json_array_get(json_object_get(attachment->state, "volumes"), 0);
    const json_t *sandbox = json_object_get(attachment->config, "sandbox");
    *ret = json_pack("{s:s, s:O*, s:O*, s:O*, s:b, s:s*}", "volume", id, "pid",
                     json_object_get(attachment->state, "pid"), "version",
                     json_object_get(attachment->state, "version"), "via",
                     json_object_get(volume, "via"), "sandbox", sandbox && !json_is_false(sandbox),
                     "cgroup", attachment_group(attachment));
    attachment_free(attachment);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

int engines_replace(const char *id, const char *program, json_t **ret, struct hws_error *err)
{
    struct attachment *attachment;
    autofree char *path = realpath(program ? program : engines_program(), NULL);
    if (!path)
        return hws_fail_errno(err, errno, "cannot find %s", program ? program : engines_program());
    int r = find_running(id, &attachment, err);
    if (r < 0)
        return r;
    r = attachment_call_within(attachment, "replace", json_pack("{s:s}", "program", path),
                               REPLACE_TIMEOUT_MS, ret, err);
    attachment_free(attachment);
    return r;
}
