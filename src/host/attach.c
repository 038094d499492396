/*
 * Attach paths; see host/attach.h. Probes look for the device nodes and configuration files that
 * each path starts from; only opening can fail later for lack of rights, and is reported then.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/attach.h"
#include "host/nbd.h"
#include <sys/stat.h>

static int need(const char *path, const char *what, struct hws_error *why)
{
    if (access(path, F_OK) == 0)
        return 0;
    return hws_fail(why, ENODEV, "%s: %s missing", what, path);
}

static int need_usable(const char *path, const char *what, struct hws_error *why)
{
    int r = need(path, what, why);
    if (r == 0 && access(path, R_OK | W_OK) < 0)
        r = hws_fail_errno(why, errno, "%s: %s cannot be used (root is needed)", what, path);
    return r;
}

static int probe_ublk(struct hws_error *why)
{
    return need_usable("/dev/ublk-control", "kernel has no ublk_drv", why);
}

static int probe_tcmu(struct hws_error *why)
{
    int r = need("/sys/kernel/config/target",
                 "kernel has no target_core_mod, or configfs is not "
                 "mounted",
                 why);
    if (r == 0)
        r = need("/sys/module/target_core_user", "the kernel's target_core_user is not loaded",
                 why);
    return r < 0 ? r : need_usable("/sys/kernel/config/target/core", "the SCSI target", why);
}

static int probe_nbd(struct hws_error *why)
{
    return nbd_device_probe(why);
}

static int probe_fuse_loop(struct hws_error *why)
{
    int r = need_usable("/dev/fuse", "kernel has no fuse", why);
    return r < 0 ? r : need_usable("/dev/loop-control", "kernel has no loop", why);
}

const struct attach_path attach_paths[] = {
    {"ublk", "ublk block device over io_uring", false, probe_ublk},
    {"tcmu", "SCSI disk by the kernel's target on tcm_loop", true, probe_tcmu},
    {"nbd", "the kernel's NBD client on a socket pair", true, probe_nbd},
    {"fuse+loop", "loop device with direct I/O on a FUSE file", true, probe_fuse_loop},
    {0},
};

/* Why @path cannot be used, or 0. */
static int usable(const struct attach_path *path, struct hws_error *why)
{
    if (!path->supported)
        return hws_fail(why, EOPNOTSUPP, "not supported by this version");
    return path->probe(why);
}

const struct attach_path *attach_path_choose(const char *name, struct hws_error *err)
{
    char reasons[HWS_ERROR_TEXT_BYTES] = "";
    size_t used = 0;
    bool known = false;
    for (const struct attach_path *path = attach_paths; path->name; path++) {
        struct hws_error why = {0};
        if (name && strcmp(name, path->name) != 0)
            continue;
        known = true;
        if (usable(path, &why) == 0)
            return path;
        int n = snprintf(reasons + used, sizeof(reasons) - used, "%s%s: %s", used ? "; " : "",
                         path->name, why.text);
        used = MIN(used + (size_t)MAX(n, 0), sizeof(reasons) - 1);
    }
    if (!known)
        (void)hws_fail(err, EINVAL, "%s: no such attach path (ublk, tcmu, nbd, fuse+loop)", name);
    else
        (void)hws_fail(err, ENODEV, "no way to attach: %s", reasons);
    return NULL;
}
