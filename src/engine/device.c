/*
 * The ways to make a device of a volume on this host: their table, and the choice among them. Each
 * way is a file device_*.c; see engine/device.h.
 *
 * "auto" takes the first way that this host has and tells which; "none" makes no device: the volume
 * has the control socket only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/device.h"
#include "base/log.h"

/* The best first: a SCSI disk outlives a crash of its engine without an error to its users. */
static const struct device_way *const ways[] = {
    [DEVICE_TCMU] = &device_tcmu, [DEVICE_TARGET] = &device_target,
    [DEVICE_NBD] = &device_nbd,   [DEVICE_FUSE_LOOP] = &device_fuse_loop,
    [DEVICE_FUSE] = &device_fuse,
};

const char *const device_way_names[] = {"auto",      "tcmu", "target", "nbd",
                                        "fuse-loop", "fuse", "none",   NULL};

bool device_way_needs_path(int way)
{
    return way < (int)ARRAY_LEN(ways) && ways[way] && ways[way]->needs_path;
}

static int co_start_way(struct volume *volume, const struct device_way *way, struct device **ret,
                        struct hws_error *err)
{
    if (way->needs_path && !volume->config.path)
        return hws_fail(err, EINVAL, "volume '%s' needs a path for its FUSE file",
                        volume->config.name);
    int r = way->co_start(volume, ret, err);
    if (r == 0) {
        (*ret)->way = way;
        (*ret)->volume = volume;
    }
    return r;
}

/* Looked for by "auto", from the first to the last. */
static bool is_candidate(unsigned i)
{
    return ways[i] && i != DEVICE_TARGET;
}

/* A device that is there has users: another way would leave them waiting. */
static const struct device_way *way_that_is_there(const struct volume_config *config)
{
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++)
        if (is_candidate(i) && ways[i]->co_is_there && ways[i]->co_is_there(config))
            return ways[i];
    return NULL;
}

/*
 * The first way that this host has. One that turns out not to work although it is there, such as
 * a SCSI target that a container may look at only, is told and passed over.
 */
static int co_start_any(struct volume *volume, struct device **ret, struct hws_error *err)
{
    struct hws_error first = {0}, why = {0};
    const struct device_way *there = way_that_is_there(&volume->config);
    if (there)
        return co_start_way(volume, there, ret, err);
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
        why = (struct hws_error){0};
        if (!is_candidate(i))
            continue;
        int r = ways[i]->probe(&why);
        if (r == 0) {
            r = co_start_way(volume, ways[i], ret, &why);
            if (r == 0 || ways[i]->needs_path || way_that_is_there(&volume->config)) {
                if (r < 0 && err)
                    *err = why;
                return r;
            }
            log_warning("via %s: %s", ways[i]->name, why.text);
        }
        if (!first.code)
            first = why;
    }
    if (err)
        *err = first;
    return -first.code;
}

int co_device_start(struct volume *volume, struct device **ret, struct hws_error *err)
{
    int way = volume->config.via;
    if (way == DEVICE_NONE)
        return 0;
    if (way == DEVICE_AUTO)
        return co_start_any(volume, ret, err);
    int r = ways[way]->needs_path ? ways[way]->probe(err) : 0;
    return r < 0 ? r : co_start_way(volume, ways[way], ret, err);
}

int co_device_stop(struct device *device, bool force, struct hws_error *err)
{
    return device->way->co_stop(device, force, err);
}

bool device_can_leave(const struct device *device)
{
    return device->way->co_leave != NULL;
}

void co_device_leave(struct device *device)
{
    device->way->co_leave(device);
}

bool device_way_outlives(int via)
{
    if (via != DEVICE_AUTO)
        return via < (int)ARRAY_LEN(ways) && ways[via]->co_leave;
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++)
        if (is_candidate(i) && ways[i]->probe(NULL) == 0)
            return ways[i]->co_leave;
    return false;
}

unsigned device_copy_sockets(const struct device *device, int ret_fds[VOLUME_SOCKETS_MAX])
{
    return device->way->copy_sockets ? device->way->copy_sockets(device, ret_fds) : 0;
}

bool device_is_adopted(const struct device *device)
{
    return device->way->is_adopted && device->way->is_adopted(device);
}

/* ---- what is left of a process that is gone ---- */

/* A way that may have left a device of a volume with this "via". "tcmu" stands for "target", too:
 * what is left is a backstore, with a disk or without. */
static const struct device_way *way_left(const struct volume_config *config, unsigned i)
{
    int via = config->via == DEVICE_TARGET ? DEVICE_TCMU : config->via;
    bool asked = via == DEVICE_AUTO || via == (int)i;
    return asked && is_candidate(i) && ways[i]->co_leave ? ways[i] : NULL;
}

bool co_device_is_there(const struct volume_config *config)
{
    bool there = false;
    for (unsigned i = 0; i < ARRAY_LEN(ways) && !there; i++) {
        const struct device_way *way = way_left(config, i);
        there = way && way->co_is_there(config);
    }
    return there;
}

int co_device_abandon(const struct volume_config *config, struct hws_error *err)
{
    int result = -ENOENT;
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
        const struct device_way *way = way_left(config, i);
        int r = way && way->co_is_there(config) ? way->co_abandon(config, err) : -ENOENT;
        if (r != -ENOENT)
            result = r;
        if (r < 0 && r != -ENOENT)
            break;
    }
    return result;
}

int co_device_clear(const struct volume_config *config, bool force, struct hws_error *err)
{
    int r = 0;
    for (unsigned i = 0; i < ARRAY_LEN(ways) && r == 0; i++) {
        const struct device_way *way = way_left(config, i);
        r = way ? way->co_clear(config, force, err) : 0;
    }
    return r;
}

int co_device_resized(struct device *device, struct hws_error *err)
{
    return device->way->co_resized ? device->way->co_resized(device, err) : 0;
}

int co_device_claim(struct device *device, int *ret_claim, struct hws_error *err)
{
    return device->way->co_claim ? device->way->co_claim(device, ret_claim, err) : 0;
}

void co_device_release(struct device *device, int claim)
{
    if (device->way->co_release)
        device->way->co_release(device, claim);
}

void device_describe(const struct device *device, json_t *out)
{
    json_object_set_new(out, "via", json_string(device->way->name));
    device->way->describe(device, out);
}
