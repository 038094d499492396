/*
 * vhost-scsi: the kernel's SCSI target answers a virtual machine's virtio-scsi requests itself;
 * see host/fabric.h.
 *
 *     vhost/naa.X/tpgt_1/lun/lun_N    the images, in the order given
 *     vhost/naa.X/tpgt_1/nexus        the name under which the machine's commands come
 *
 * Who opens /dev/vhost-scsi (QEMU's vhost-scsi-pci) says naa.X, and needs no other right than that
 * device: there are no initiators to name. The kernel holds the group while a machine uses it,
 * which a removal of the group's folder tells (EBUSY) where its LUNs alone would say ENOTEMPTY.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "host/fabrics.h"
#include "host/lio_target.h"
#include "host/wwn.h"
#include "rt/rt.h"

#define TPG "vhost/%s/tpgt_1"

struct vhost_options {
    char *target;
};

static const struct option_desc option_table[] = {
    {"target", OPTION_STRING, offsetof(struct vhost_options, target),
     "naa. and 16 hexadecimal digits; made up if not given"},
    OPTION_END,
};

struct work {
    const struct fabric_export *export;
    struct lio_target target;
    bool force, used;
    struct hws_error *err;
};

static int resolve(const char *name, const void *arg, json_t *object, struct hws_error *err)
{
    const struct vhost_options *options = arg;
    char target[WWN_NAA_BYTES];
    uint8_t digest[16];
    uint64_t wwn;
    name_digest("vhost-scsi", name, digest);
    int r = options->target ? wwn_parse(options->target, "target", &wwn, err) : 0;
    if (r < 0)
        return r;
    wwn_naa(options->target ? wwn : wwn_local(digest), target);
    json_object_set_new(object, "target", json_string(target));
    return 0;
}

static int probe(struct hws_error *why)
{
    if (access("/sys/kernel/config", W_OK) < 0)
        return hws_fail_errno(why, errno, "/sys/kernel/config cannot be used");
    return 0;
}

static struct work work_of(const struct fabric_export *export, struct hws_error *err)
{
    const struct vhost_options *options = export->options;
    return (struct work){
        .export = export,
        .target = {.fabric = "vhost", .target = options->target},
        .err = err,
    };
}

/* ---- making ---- */

/* The nexus last: without one no machine gets in, so none sees half the LUNs. */
static int fill(void *arg, struct hws_error *err)
{
    const struct work *w = arg;
    char nexus[WWN_NAA_BYTES];
    uint8_t digest[16];
    int r = lio_target_add_luns(&w->target, w->export, err);
    name_digest("vhost-scsi nexus", w->target.target, digest);
    wwn_naa(wwn_local(digest), nexus);
    return r < 0 ? r : configfs_write(err, nexus, TPG "/nexus", w->target.target);
}

/* A group whose LUNs are to be write-protected needs ACLs, which vhost has not got. */
static int refuse_read_only(const struct fabric_export *export, struct hws_error *err)
{
    for (unsigned n = 0; n < export->unit_count; n++)
        if (export->units[n].read_only)
            return hws_fail(err, ENOTSUP,
                            "volume '%s' is read-only, and the kernel's vhost-scsi cannot protect "
                            "a disk against writes",
                            export->units[n].name);
    return 0;
}

static int make_blocking(void *arg)
{
    struct work *w = arg;
    int r = configfs_load_module("target_core_mod", w->err);
    if (r == 0)
        r = configfs_load_module("vhost_scsi", w->err);
    return r < 0 ? r : lio_target_build(&w->target, fill, w, w->err);
}

static int co_make(const struct fabric_export *export, struct hws_error *err)
{
    struct work w = work_of(export, err);
    int r = refuse_read_only(export, err);
    if (r == 0)
        r = co_work(make_blocking, &w);
    return r < 0 ? hws_wrap(err, r, "export '%s'", export->name) : 0;
}

static int find_blocking(void *arg)
{
    struct work *w = arg;
    char nexus[64];
    return lio_target_is_whole(&w->target, w->export) &&
                   configfs_read(nexus, sizeof(nexus), TPG "/nexus", w->target.target) > 0
               ? 0
               : -ENOENT;
}

static int co_find(const struct fabric_export *export)
{
    struct work w = work_of(export, NULL);
    return co_work(find_blocking, &w);
}

/* ---- use, and removing ---- */

static int used_blocking(void *arg)
{
    struct work *w = arg;
    /* A group with LUNs is never removed by this; an empty one is a half-made one. */
    w->used = configfs_exists(TPG, w->target.target) &&
              configfs_rmdir(NULL, TPG, w->target.target) == -EBUSY;
    return 0;
}

static bool has_luns(const struct work *w)
{
    return configfs_exists(TPG "/lun/lun_0", w->target.target);
}

static int remove_blocking(void *arg)
{
    struct work *w = arg;
    if (!lio_target_belongs(&w->target, w->export))
        return 0;
    (void)used_blocking(w);
    if (w->used && !w->force)
        return hws_fail(w->err, EBUSY,
                        "a virtual machine uses the export '%s' (%s); end it or unplug its "
                        "vhost-scsi controller first",
                        w->export->name, w->target.target);
    int r = lio_target_remove(&w->target, w->export, NULL, NULL, w->err);
    if (r != -EBUSY || !w->used || has_luns(w))
        return r;
    log_warning("export '%s': a virtual machine still holds the empty target %s; the kernel lets "
                "it go with the machine",
                w->export->name, w->target.target);
    return 0;
}

static int co_remove(const struct fabric_export *export, bool force, struct hws_error *err)
{
    struct work w = work_of(export, err);
    w.force = force;
    return co_work(remove_blocking, &w);
}

static void co_describe(const struct fabric_export *export, json_t *out)
{
    struct work w = work_of(export, NULL);
    (void)co_work(used_blocking, &w);
    json_object_set_new(out, "sessions",
                        w.used ? json_pack("[s]", "virtual machine") : json_array());
}

const struct fabric fabric_vhost_scsi = {
    .name = "vhost-scsi",
    .help = "virtual machines of this host, without QEMU in the data path",
    .needs = FABRIC_BACKSTORE,
    .options = option_table,
    .options_bytes = sizeof(struct vhost_options),
    .probe = probe,
    .resolve = resolve,
    .co_make = co_make,
    .co_find = co_find,
    .co_remove = co_remove,
    .co_describe = co_describe,
};
