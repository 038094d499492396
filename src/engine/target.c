/*
 * A volume as a backstore of the kernel's SCSI target; see engine/target.h.
 *
 * Taking a place that is there: the uio device can be opened by one process. While it cannot, a
 * predecessor lives or is just dying, and is waited for a little; after that it is ours, and what a
 * killed one left in the ring is sent back before the export looks at it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/target.h"
#include "base/log.h"
#include "export/tcmu/tcmu.h"

#define INITIATOR "iqn.2016-01.local.hawser:tcmu"
/** What a dying process takes to let go of its descriptors, its rings' among them. */
#define ADOPT_PATIENCE_NS ((uint64_t)5000000000)

/*
 * One nexus and what it sees: volumes of a group share it. It stands for all initiators, because
 * TCMU does not tell who asks; so whether a copy may reach from one volume to another follows from
 * what is exported to whom.
 */
struct target_nexus {
    struct scsi_nexus *scsi;
    unsigned users;
    struct rt_mutex lock;
    struct lio_backstore backstore[ENGINE_VOLUMES_MAX]; /* by LUN; name "": none */
};

struct target {
    struct volume *volume;
    struct target_identity identity;
    struct scsi_disk *disk;
    struct target_nexus *nexus;
    struct scsi_lun *lun;
    struct lio_backstore backstore;
    struct tcmu_export *export;
    bool have_backstore, adopted, blocked;
};

/* ---- the SCSI disk ---- */

static uint32_t co_cluster_bytes(struct volume *volume)
{
    json_t *info;
    if (co_block_info(block_root_node(volume->root), &info, NULL) < 0)
        return 0;
    json_int_t bytes = json_integer_value(json_object_get(info, "cluster-size"));
    json_decref(info);
    return bytes > 0 && bytes <= UINT32_MAX ? (uint32_t)bytes : 0;
}

/* Volumes of one group share the nexus; all others see themselves alone. */
static struct target_nexus *group_nexus(const struct volume *volume)
{
    const char *group = volume->config.group;
    for (unsigned i = 0; group && i < volume->engine->config->volume_count; i++) {
        const struct volume *other = &volume->engine->volumes[i];
        if (other->target && other->config.group && !strcmp(other->config.group, group))
            return other->target->nexus;
    }
    return NULL;
}

/* On queue threads. */
static bool co_may_copy(void *arg, uint16_t asked, uint16_t other, bool write)
{
    struct target_nexus *nexus = arg;
    assert(asked < ENGINE_VOLUMES_MAX && other < ENGINE_VOLUMES_MAX);
    rt_mutex_lock(&nexus->lock);
    struct lio_backstore from = nexus->backstore[asked], to = nexus->backstore[other];
    rt_mutex_unlock(&nexus->lock);
    return from.name[0] && to.name[0] && co_lio_covisible(&from, &to, write);
}

static int get_nexus(struct target *target, struct hws_error *err)
{
    struct target_nexus *nexus = group_nexus(target->volume);
    if (!nexus) {
        nexus = calloc(1, sizeof(*nexus));
        struct scsi_nexus_options options = {
            .initiator = INITIATOR, .co_may_copy = co_may_copy, .may_copy_arg = nexus};
        int r = nexus ? scsi_nexus_new(&options, &nexus->scsi, err)
                      : hws_fail(err, ENOMEM, "out of memory");
        if (r < 0) {
            free(nexus);
            return r;
        }
        rt_mutex_init(&nexus->lock);
    }
    nexus->users++;
    target->nexus = nexus;
    return 0;
}

static void put_nexus(struct target_nexus *nexus)
{
    if (!nexus || --nexus->users > 0)
        return;
    scsi_nexus_free(nexus->scsi);
    rt_mutex_destroy(&nexus->lock);
    free(nexus);
}

/* @backstore NULL: it goes. */
static void tell_nexus(struct target *target, const struct lio_backstore *backstore)
{
    const struct volume *volume = target->volume;
    struct target_nexus *nexus = target->nexus;
    rt_mutex_lock(&nexus->lock);
    nexus->backstore[volume - volume->engine->volumes] =
        backstore ? *backstore : (struct lio_backstore){0};
    rt_mutex_unlock(&nexus->lock);
}

static int co_make_disk(struct target *target, struct hws_error *err)
{
    struct volume *volume = target->volume;
    const struct volume_config *config = &volume->config;
    struct scsi_disk_options options = {
        .block_bytes = (uint32_t)config->block_bytes,
        .read_only = config->read_only,
        .write_through = config->cache == BLOCK_CACHE_WRITETHROUGH,
        .unmap_granularity_bytes =
            config->discard == BLOCK_DISCARD_UNMAP ? co_cluster_bytes(volume) : 0,
    };
    memcpy(options.uuid, target->identity.uuid, sizeof(options.uuid));
    int r = scsi_disk_new(volume->root, &options, &target->disk, err);
    if (r == 0)
        r = get_nexus(target, err);
    if (r < 0)
        return r;
    r = scsi_map(target->nexus->scsi, (uint16_t)(volume - volume->engine->volumes), target->disk,
                 &target->lun);
    return r < 0 ? hws_fail_errno(err, -r, "cannot map the SCSI disk") : 0;
}

/* ---- the backstore ---- */

static uint64_t size_in_blocks(const struct target *target)
{
    return align_down(block_root_size(target->volume->root), target->volume->config.block_bytes);
}

static int co_make_backstore(struct target *target, struct hws_error *err)
{
    struct lio_backstore_options options = {
        .name = target->identity.backstore,
        .config = target->identity.config,
        .size_bytes = size_in_blocks(target),
        .block_bytes = (uint32_t)target->volume->config.block_bytes,
        .serial = scsi_disk_serial(target->disk),
        .write_cache = scsi_disk_write_cache(target->disk),
    };
    int r = co_lio_backstore_make(&options, &target->backstore, err);
    target->have_backstore = r == 0;
    return r;
}

static int co_hold_off(struct target *target, struct hws_error *err)
{
    int r = co_lio_backstore_block(&target->backstore, true, err);
    if (r == 0) {
        target->blocked = true;
        r = co_lio_backstore_reset_ring(&target->backstore, err);
    }
    return r;
}

/* -ENOENT: there is nothing to adopt. */
static int co_adopt_backstore(struct target *target, struct hws_error *err)
{
    struct lio_backstore there;
    int r = co_target_find(&target->volume->config, &there, err);
    if (r < 0)
        return r;
    if (there.minor == LIO_NO_MINOR) { /* its maker died before it was whole */
        r = co_lio_backstore_remove(&there, err);
        return r < 0 ? r : -ENOENT;
    }
    r = co_target_wait_free(&there, ADOPT_PATIENCE_NS, err);
    if (r < 0)
        return r;
    target->backstore = there;
    target->have_backstore = target->adopted = true;
    if (!target->volume->engine->succeeds)
        r = co_hold_off(target, err);
    return r < 0 ? r : co_lio_backstore_resize(&there, size_in_blocks(target), err);
}

/* ---- life ---- */

static int co_serve(struct target *target, struct hws_error *err)
{
    struct tcmu_export_options options = {
        .minor = target->backstore.minor,
        .name = target->volume->config.name,
        .nexus = target->nexus->scsi,
        .lun = target->lun,
        .threads = (unsigned)target->volume->config.queues,
    };
    return co_tcmu_export_start(&options, &target->export, err);
}

/* What is in the kernel stays. */
static void co_target_free(struct target *target)
{
    if (target->export)
        co_tcmu_export_stop(target->export);
    target->export = NULL; /* `status` may ask until all is gone */
    if (target->lun)
        co_scsi_unmap(target->lun);
    if (target->volume->target == target)
        target->volume->target = NULL;
    if (target->nexus)
        tell_nexus(target, NULL);
    put_nexus(target->nexus);
    scsi_disk_free(target->disk);
    free(target);
}

static int co_begin(struct target *target, struct hws_error *err)
{
    int r = co_make_disk(target, err);
    if (r < 0)
        return r;
    r = co_adopt_backstore(target, err);
    if (r == -ENOENT)
        r = co_make_backstore(target, err);
    if (r < 0)
        return r;
    tell_nexus(target, &target->backstore);
    return co_serve(target, err);
}

int co_target_start(struct volume *volume, struct target **ret, struct hws_error *err)
{
    struct target *target = calloc(1, sizeof(*target));
    if (!target)
        return hws_fail(err, ENOMEM, "out of memory");
    target->volume = volume;
    target_identify(&volume->config, &target->identity);
    int r = co_begin(target, err);
    if (r < 0) {
        /* What a predecessor left is in use and stays, held off, for the next who tries. */
        if (target->have_backstore && !target->adopted &&
            co_lio_backstore_remove(&target->backstore, NULL) < 0)
            log_error("cannot remove the backstore '%s' again", target->backstore.name);
        co_target_free(target);
        return r;
    }
    volume->target = target;
    *ret = target;
    return 0;
}

int co_target_stop(struct target *target, struct hws_error *err)
{
    /* Not served while it goes: nothing may come, or it is not ours to take away. */
    if (target->export)
        co_tcmu_export_stop(target->export);
    target->export = NULL;
    int r = co_lio_backstore_remove(&target->backstore, err);
    if (r == 0) {
        co_target_free(target);
        return 0;
    }
    struct hws_error why = {0};
    if (co_serve(target, &why) < 0)
        log_error("%s: cannot serve it any more: %s", target->backstore.name, why.text);
    return r;
}

void co_target_leave(struct target *target)
{
    co_target_free(target);
}

int co_target_unblock(struct target *target, struct hws_error *err)
{
    if (!target->blocked)
        return 0;
    int r = co_lio_backstore_block(&target->backstore, false, err);
    target->blocked = r < 0;
    return r;
}

int co_target_resized(struct target *target, struct hws_error *err)
{
    int r = co_lio_backstore_resize(&target->backstore, size_in_blocks(target), err);
    scsi_disk_resized(target->disk);
    return r;
}

const struct lio_backstore *target_backstore(const struct target *target)
{
    return &target->backstore;
}

bool target_is_adopted(const struct target *target)
{
    return target->adopted;
}

void target_naa(const struct target *target, uint8_t ret[8])
{
    memcpy(ret, target->identity.naa, sizeof(target->identity.naa));
}

void target_describe(const struct target *target, json_t *out)
{
    char backstore[LIO_NAME_MAX + 32];
    struct tcmu_export_info info = {.minor = target->backstore.minor};
    if (target->export) /* none while it goes */
        tcmu_export_info(target->export, &info);
    snprintf(backstore, sizeof(backstore), "user_%u/%s", target->backstore.hba,
             target->backstore.name);
    json_object_set_new(out, "transport", json_string("tcmu"));
    json_object_set_new(out, "backstore", json_string(backstore));
    json_object_set_new(out, "serial", json_string(scsi_disk_serial(target->disk)));
    json_object_set_new(out, "queues", json_integer(info.threads));
    json_object_set_new(out, "uio", json_integer(info.minor));
    json_object_set_new(out, "adopted", json_boolean(target->adopted));
    json_object_set_new(out, "commands", json_integer((json_int_t)info.commands));
    json_object_set_new(out, "failures", json_integer((json_int_t)info.failures));
    json_object_set_new(out, "malformed", json_integer((json_int_t)info.malformed));
    json_object_set_new(out, "aborts", json_integer((json_int_t)info.aborts));
}
