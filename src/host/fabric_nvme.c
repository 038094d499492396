/*
 * NVMe over fabrics by the kernel's target; see host/fabric.h. The subsystem and its ports are made
 * by host/nvmet.h; here are the options, and the order.
 *
 *     volume -> SCSI disk of this host (loopback) -> namespace -> subsystem -> port
 *
 * The kernel's NVMe target has no fabric of the SCSI target, so it works on a block device of this
 * host. Without a list of initiators there is no way in, unless any-initiator says that everybody
 * who reaches a port may.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/fabrics.h"
#include "host/nvmet.h"
#include "host/portal.h"
#include "host/secrets.h"
#include "host/wwn.h"
#include "rt/rt.h"

#define NVME_PORT 4420 /* registered for NVMe over fabrics */

struct nvme_options {
    char *target, *portals, *initiators, *secrets;
    bool any_initiator, fcloop;
};

#define OPTION(field) offsetof(struct nvme_options, field)

static const struct option_desc option_table[] = {
    {"target", OPTION_STRING, OPTION(target), "NQN of the subsystem; made up if not given"},
    {"portals", OPTION_STRING, OPTION(portals),
     "addresses with ports to listen on for TCP, with commas; 0.0.0.0:4420 without fcloop"},
    {"fcloop", OPTION_BOOL, OPTION(fcloop), "Fibre Channel within this host (nvme-fcloop)"},
    {"initiators", OPTION_STRING, OPTION(initiators), "host NQNs that may connect, with commas"},
    {"any-initiator", OPTION_BOOL, OPTION(any_initiator), "everybody may connect, and write"},
    {"secrets", OPTION_STRING, OPTION(secrets), "file of DH-HMAC-CHAP keys"},
    OPTION_END,
};

struct work {
    const struct fabric_export *export;
    const struct nvme_options *options;
    json_t *out;
    struct hws_error *err;
};

/* ---- options ---- */

static int resolve_portals(const char *text, json_t *object, struct hws_error *err)
{
    char all[FABRIC_LIST_MAX * (PORTAL_BYTES + 1)] = "", one[PORTAL_BYTES];
    size_t used = 0;
    struct fabric_list list, clean;
    int r = fabric_list_split(text, "portals", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++) {
        r = portal_parse(list.item[i], NVME_PORT, one, err);
        if (r == 0)
            used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s", i ? "," : "", one);
    }
    fabric_list_free(&list);
    if (r == 0) /* doubles that were written differently */
        r = fabric_list_split(all, "portals", &clean, err);
    if (r < 0)
        return r;
    fabric_list_free(&clean);
    json_object_set_new(object, "portals", json_string(all));
    return 0;
}

static int check_initiators(const struct nvme_options *options, struct hws_error *err)
{
    struct fabric_list list;
    int r = fabric_list_split(options->initiators, "initiators", &list, err);
    bool named = r == 0 && list.count;
    for (unsigned i = 0; r == 0 && i < list.count; i++)
        r = nqn_check(list.item[i], "initiator", err);
    fabric_list_free(&list);
    if (r < 0)
        return r;
    if (named && options->any_initiator)
        return hws_fail(err, EINVAL,
                        "either --initiator names who may connect, or --any-initiator lets "
                        "everybody in");
    if (!named && !options->any_initiator)
        return hws_fail(err, EINVAL,
                        "who may connect? --initiator NQN names a host (in Linux: "
                        "/etc/nvme/hostnqn); --any-initiator lets everybody who reaches the "
                        "portal read and write");
    if (options->secrets && !named)
        return hws_fail(err, EINVAL,
                        "keys belong to hosts, which --initiator names; --any-initiator has none");
    return 0;
}

static int load_keys(const char *path, struct nvmet_keys *ret, struct hws_error *err)
{
    char text[SECRETS_MAX + 1];
    int r = secrets_read(path, text, err);
    if (r == 0)
        r = nvmet_keys_parse(text, path, ret, err);
    explicit_bzero(text, sizeof(text));
    return r;
}

static int resolve(const char *name, const void *arg, json_t *object, struct hws_error *err)
{
    const struct nvme_options *options = arg;
    char target[NQN_UUID_BYTES], uuid[UUID_TEXT_BYTES];
    uint8_t digest[16];
    struct nvmet_keys keys;
    bool listens = options->portals && options->portals[0];
    int r = check_initiators(options, err);
    if (r == 0 && options->target)
        r = nqn_check(options->target, "target", err);
    if (r == 0 && (listens || !options->fcloop))
        r = resolve_portals(listens ? options->portals : "0.0.0.0", object, err);
    if (r == 0 && options->secrets) {
        r = load_keys(options->secrets, &keys, err);
        explicit_bzero(&keys, sizeof(keys));
    }
    if (r < 0 || options->target)
        return r;
    name_digest("nvme", name, digest);
    uuid_text(digest, uuid);
    snprintf(target, sizeof(target), "nqn.2014-08.org.nvmexpress:uuid:%s", uuid);
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
    return (struct work){.export = export, .options = export->options, .err = err};
}

/* ---- making ---- */

static int make_subsystem(const struct work *w)
{
    struct fabric_list hosts;
    struct nvmet_keys keys;
    bool with_keys = w->options->secrets != NULL;
    int r = fabric_list_split(w->options->initiators, "initiators", &hosts, w->err);
    if (r == 0 && with_keys)
        r = load_keys(w->options->secrets, &keys, w->err);
    if (r == 0) {
        struct nvmet_subsystem subsystem = {
            .nqn = w->options->target,
            .export = w->export,
            .hosts = &hosts,
            .keys = with_keys ? &keys : NULL,
        };
        r = nvmet_subsystem_make(&subsystem, w->err);
    }
    explicit_bzero(&keys, sizeof(keys));
    fabric_list_free(&hosts);
    return r;
}

static int listen_tcp(const struct work *w)
{
    struct fabric_list portals;
    struct nvmet_port port;
    int r = fabric_list_split(w->options->portals, "portals", &portals, w->err);
    if (r == 0 && portals.count)
        r = configfs_load_module("nvmet_tcp", w->err);
    for (unsigned i = 0; r == 0 && i < portals.count; i++) {
        nvmet_port_tcp(portals.item[i], &port);
        r = nvmet_subsystem_listen(w->options->target, &port, w->err);
    }
    fabric_list_free(&portals);
    return r;
}

static int listen_loop(const struct work *w)
{
    struct nvmet_loop loop;
    struct nvmet_port port;
    if (!w->options->fcloop)
        return 0;
    nvmet_loop_names(w->export->name, &loop);
    nvmet_port_fc(loop.target_wwnn, loop.target_wwpn, &port);
    int r = nvmet_loop_add_target(&loop, w->err);
    if (r == 0)
        r = nvmet_subsystem_listen(w->options->target, &port, w->err);
    return r < 0 ? r : nvmet_loop_add_host(&loop, w->err);
}

static void remove_loop(const struct work *w)
{
    struct nvmet_loop loop;
    if (!w->options->fcloop)
        return;
    nvmet_loop_names(w->export->name, &loop);
    nvmet_loop_remove(&loop);
}

static int make_blocking(void *arg)
{
    struct work *w = arg;
    int r = configfs_load_module("nvmet", w->err);
    if (r < 0)
        return r;
    autofd int lock = nvmet_lock(w->err);
    if (lock < 0)
        return lock;
    r = make_subsystem(w);
    if (r < 0)
        return r;
    r = listen_tcp(w);
    if (r == 0)
        r = listen_loop(w);
    if (r == 0)
        return 0;
    int removed = nvmet_subsystem_remove(w->options->target, NULL);
    remove_loop(w);
    return removed < 0 ? hws_wrap(w->err, r, "the half-made subsystem %s is left behind",
                                  w->options->target)
                       : r;
}

static int co_make(const struct fabric_export *export, struct hws_error *err)
{
    struct work w = work_of(export, err);
    int r = co_work(make_blocking, &w);
    return r < 0 ? hws_wrap(err, r, "export '%s'", export->name) : 0;
}

static int find_blocking(void *arg)
{
    struct work *w = arg;
    return nvmet_subsystem_is_whole(w->options->target, w->export) ? 0 : -ENOENT;
}

static int co_find(const struct fabric_export *export)
{
    struct work w = work_of(export, NULL);
    return co_work(find_blocking, &w);
}

static int resized_blocking(void *arg)
{
    struct work *w = arg;
    return nvmet_subsystem_resized(w->options->target, w->err);
}

static int co_resized(const struct fabric_export *export, struct hws_error *err)
{
    struct work w = work_of(export, err);
    return co_work(resized_blocking, &w);
}

/* ---- who is connected ---- */

static int sessions_blocking(void *arg)
{
    struct work *w = arg;
    nvmet_subsystem_sessions(w->options->target, w->out);
    return 0;
}

static json_t *co_sessions(const struct fabric_export *export)
{
    struct work w = work_of(export, NULL);
    w.out = json_array();
    (void)co_work(sessions_blocking, &w);
    return w.out;
}

static void co_describe(const struct fabric_export *export, json_t *out)
{
    const struct nvme_options *options = export->options;
    struct nvmet_loop loop;
    struct nvmet_port target, host;
    if (options->portals)
        json_object_set_new(out, "portals", json_string(options->portals));
    if (options->fcloop) {
        nvmet_loop_names(export->name, &loop);
        nvmet_port_fc(loop.target_wwnn, loop.target_wwpn, &target);
        nvmet_port_fc(loop.host_wwnn, loop.host_wwpn, &host);
        json_object_set_new(out, "traddr", json_string(target.address));
        json_object_set_new(out, "host-traddr", json_string(host.address));
    }
    if (options->initiators)
        json_object_set_new(out, "initiators", json_string(options->initiators));
    json_object_set_new(out, "any-initiator", json_boolean(options->any_initiator));
    json_object_set_new(out, "chap", json_boolean(options->secrets != NULL));
    json_object_set_new(out, "sessions", co_sessions(export));
}

/* ---- removing ---- */

static int remove_blocking(void *arg)
{
    struct work *w = arg;
    if (!configfs_exists(NVMET_ROOT))
        return 0;
    autofd int lock = nvmet_lock(w->err);
    if (lock < 0)
        return lock;
    if (configfs_exists(NVMET_ROOT "/subsystems/%s", w->options->target)) {
        if (!nvmet_subsystem_belongs(w->options->target, w->export))
            return 0;
        int r = nvmet_subsystem_remove(w->options->target, w->err);
        if (r < 0)
            return r;
    }
    remove_loop(w);
    return 0;
}

static int co_remove(const struct fabric_export *export, bool force, struct hws_error *err)
{
    struct work w = work_of(export, err);
    int r = force ? 0
                  : fabric_refuse_sessions(co_sessions(export), export->name,
                                           "disconnect there first (nvme disconnect)", err);
    return r < 0 ? r : co_work(remove_blocking, &w);
}

const struct fabric fabric_nvme = {
    .name = "nvme",
    .help = "NVMe over fabrics: TCP, or Fibre Channel within this host",
    .needs = FABRIC_BLOCK_DEVICE,
    .options = option_table,
    .options_bytes = sizeof(struct nvme_options),
    .probe = probe,
    .resolve = resolve,
    .co_make = co_make,
    .co_find = co_find,
    .co_remove = co_remove,
    .co_resized = co_resized,
    .co_describe = co_describe,
};
