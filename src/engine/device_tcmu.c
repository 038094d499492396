/*
 * Devices by the kernel's SCSI target.
 *
 *   tcmu     volume -> backstore of the SCSI target -> loopback fabric -> /dev/sdX
 *   target   volume -> backstore of the SCSI target, for fabrics to export
 *
 * The disk stays when the engine is killed, and the next one serves it (engine/target.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/device.h"
#include "engine/target.h"
#include "host/attach.h"

struct tcmu_device {
    struct device device;
    struct target *target;
    struct lio_disk disk; /* path "": none */
};

static struct tcmu_device *tcmu_device(struct device *device)
{
    return container_of(device, struct tcmu_device, device);
}

/* The disk that a predecessor left, or a new one. */
static int co_start_disk(struct tcmu_device *tcmu, struct hws_error *err)
{
    uint8_t naa[8];
    target_naa(tcmu->target, naa);
    int r = -ENOENT;
    if (target_is_adopted(tcmu->target))
        r = co_lio_disk_find(naa, &tcmu->disk, NULL);
    if (r < 0) /* before a disk can be scanned, its commands must get through */
        r = co_target_unblock(tcmu->target, err);
    else
        return 0;
    return r < 0 ? r : co_lio_disk_add(target_backstore(tcmu->target), naa, &tcmu->disk, err);
}

static int co_start(struct volume *volume, bool with_disk, struct device **ret,
                    struct hws_error *err)
{
    struct tcmu_device *tcmu = calloc(1, sizeof(*tcmu));
    if (!tcmu)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = co_target_start(volume, &tcmu->target, err);
    if (r == 0 && with_disk)
        r = co_start_disk(tcmu, err);
    if (r == 0)
        r = co_target_unblock(tcmu->target, err);
    if (r == 0 && tcmu->disk.path[0]) /* it was set offline where nobody was to serve it again */
        r = co_lio_disk_set_online(&tcmu->disk, true, err);
    if (r == 0) {
        *ret = &tcmu->device;
        return 0;
    }
    if (tcmu->target && target_is_adopted(tcmu->target))
        co_target_leave(tcmu->target);
    else if (tcmu->target && co_target_stop(tcmu->target, NULL) < 0)
        log_error("%s: the backstore is left behind", volume->config.name);
    free(tcmu);
    return r;
}

static int co_start_tcmu(struct volume *volume, struct device **ret, struct hws_error *err)
{
    return co_start(volume, true, ret, err);
}

static int co_start_target(struct volume *volume, struct device **ret, struct hws_error *err)
{
    return co_start(volume, false, ret, err);
}

static int co_stop_disk(struct tcmu_device *tcmu, bool force, struct hws_error *err)
{
    char users[768];
    int r = force ? 0 : co_block_device_refuse_open(tcmu->disk.path, err);
    if (r < 0)
        return r;
    r = co_lio_disk_remove(&tcmu->disk, force, err);
    if (r == -EBUSY && co_block_device_users(tcmu->disk.path, users, sizeof(users)))
        hws_fail(err, EBUSY, "%s is in use: %.600s", tcmu->disk.path, users);
    return r;
}

static int co_stop(struct device *device, bool force, struct hws_error *err)
{
    struct tcmu_device *tcmu = tcmu_device(device);
    int r = tcmu->disk.path[0] ? co_stop_disk(tcmu, force, err) : 0;
    if (r < 0)
        return r;
    tcmu->disk.path[0] = '\0';
    r = co_target_stop(tcmu->target, err);
    if (r == 0)
        free(tcmu);
    return r;
}

static void co_leave(struct device *device)
{
    struct tcmu_device *tcmu = tcmu_device(device);
    co_target_leave(tcmu->target);
    free(tcmu);
}

static bool is_adopted(const struct device *device)
{
    const struct tcmu_device *tcmu = container_of(device, const struct tcmu_device, device);
    return target_is_adopted(tcmu->target);
}

static int co_resized(struct device *device, struct hws_error *err)
{
    struct tcmu_device *tcmu = tcmu_device(device);
    int r = co_target_resized(tcmu->target, err);
    return r < 0 || !tcmu->disk.path[0] ? r : co_lio_disk_rescan(&tcmu->disk, err);
}

static int co_claim(struct device *device, int *ret_claim, struct hws_error *err)
{
    struct tcmu_device *tcmu = tcmu_device(device);
    if (!tcmu->disk.path[0])
        return hws_fail(err, EBUSY,
                        "who uses the backstore '%s' cannot be told; make sure that nobody does, "
                        "then say --force",
                        target_backstore(tcmu->target)->name);
    return co_block_device_claim(tcmu->disk.path, ret_claim, err);
}

static void co_release(struct device *device, int claim)
{
    struct tcmu_device *tcmu = tcmu_device(device);
    if (tcmu->disk.path[0])
        co_block_device_release(tcmu->disk.path, claim);
    else if (claim >= 0)
        close(claim);
}

static void describe(const struct device *device, json_t *out)
{
    const struct tcmu_device *tcmu = container_of(device, const struct tcmu_device, device);
    target_describe(tcmu->target, out);
    if (tcmu->disk.path[0]) {
        json_object_set_new(out, "device", json_string(tcmu->disk.path));
        json_object_set_new(out, "target", json_string(tcmu->disk.target));
    }
}

/* "tcmu" of host/attach.h looks, and loads nothing: "auto" takes what is there. */
static int probe_tcmu(struct hws_error *why)
{
    return attach_path_choose("tcmu", why) ? 0 : -ENODEV;
}

const struct device_way device_tcmu = {
    .name = "tcmu",
    .probe = probe_tcmu,
    .co_start = co_start_tcmu,
    .co_stop = co_stop,
    .co_leave = co_leave,
    .is_adopted = is_adopted,
    .co_is_there = co_target_is_there,
    .co_abandon = co_target_abandon,
    .co_clear = co_target_clear,
    .co_resized = co_resized,
    .co_claim = co_claim,
    .co_release = co_release,
    .describe = describe,
};

const struct device_way device_target = {
    .name = "target",
    .co_start = co_start_target,
    .co_stop = co_stop,
    .co_leave = co_leave,
    .is_adopted = is_adopted,
    .co_is_there = co_target_is_there,
    .co_abandon = co_target_abandon,
    .co_clear = co_target_clear,
    .co_resized = co_resized,
    .co_claim = co_claim,
    .co_release = co_release,
    .describe = describe,
};
