/*
 * Fibre Channel by the kernel's SCSI target; see host/fabric.h.
 *
 *     FABRIC/WWPN/tpgt_1/lun/lun_N          the images, in the order given
 *     FABRIC/WWPN/tpgt_1/acls/INITIATOR     one for each port that may log in
 *     FABRIC/WWPN/tpgt_1/enable             where the fabric has it: written last
 *
 * FABRIC is the driver's: qla2xxx for QLogic's adapters in target mode, fc for every port of the
 * kernel's libfc (software FCoE, and adapters that offload it). The target is a port of this host,
 * so its name cannot be made up; a port carries one export.
 *
 * Ports that logged in before the target was there were told that there is none, and do not ask
 * again. So the port is reset once the target is complete, unless this host itself uses disks
 * through it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "host/fabrics.h"
#include "host/lio_target.h"
#include "host/wwn.h"
#include "rt/rt.h"

#define TPG       "%s/%s/tpgt_1"
#define FC_HOST   "/sys/class/fc_host"
#define FC_REMOTE "/sys/class/fc_remote_ports"

struct fc_options {
    char *target, *initiators;
};

#define OPTION(field) offsetof(struct fc_options, field)

static const struct option_desc option_table[] = {
    {"target", OPTION_STRING, OPTION(target),
     "WWPN of this host's port; needed where there are several"},
    {"initiators", OPTION_STRING, OPTION(initiators),
     "WWPNs of the ports that may use the disks, with commas", .required = true},
    OPTION_END,
};

struct work {
    const struct fabric_export *export;
    const struct fc_options *options;
    struct lio_target target;
    unsigned host; /* N of hostN */
    json_t *out;
    struct hws_error *err;
};

/* ---- this host's ports ---- */

struct ports {
    uint64_t wanted; /* 0: any */
    unsigned count, host;
    uint64_t found;
    char names[512];
};

static int look_at_port(const char *name, void *arg)
{
    struct ports *ports = arg;
    char text[64], state[32];
    unsigned host;
    uint64_t wwn;
    if (sscanf(name, "host%u", &host) != 1 ||
        configfs_read(text, sizeof(text), FC_HOST "/%s/port_name", name) < 0 ||
        wwn_parse(text, "port", &wwn, NULL) < 0)
        return 0;
    if (configfs_read(state, sizeof(state), FC_HOST "/%s/port_state", name) < 0)
        snprintf(state, sizeof(state), "state unknown");
    size_t used = strlen(ports->names);
    char colons[WWN_COLONS_BYTES];
    wwn_colons(wwn, colons);
    snprintf(ports->names + used, sizeof(ports->names) - used, "%s%s (%s)", used ? ", " : "",
             colons, state);
    if (ports->wanted && wwn != ports->wanted)
        return 0;
    ports->count++;
    ports->host = host;
    ports->found = wwn;
    return 0;
}

static int find_port(uint64_t wanted, struct ports *ret, struct hws_error *err)
{
    *ret = (struct ports){.wanted = wanted};
    (void)configfs_each(look_at_port, ret, true, FC_HOST);
    if (!ret->names[0])
        return hws_fail(err, ENODEV, "this host has no Fibre Channel port (" FC_HOST " is empty)");
    if (wanted && !ret->count)
        return hws_fail(err, ENODEV, "this host has no Fibre Channel port of that name; it has %s",
                        ret->names);
    if (!wanted && ret->count > 1)
        return hws_fail(err, EINVAL, "which port? This host has %s", ret->names);
    return 0;
}

/* The target's folder and module go by the driver of the port. */
static bool is_qlogic(unsigned host)
{
    char driver[64];
    return configfs_read(driver, sizeof(driver), "/sys/class/scsi_host/host%u/proc_name", host) >
               0 &&
           !strcmp(driver, "qla2xxx");
}

/* ---- options ---- */

static int resolve_initiators(const char *text, json_t *object, struct hws_error *err)
{
    char clean[FABRIC_LIST_MAX * WWN_COLONS_BYTES] = "", one[WWN_COLONS_BYTES];
    struct fabric_list list;
    uint64_t wwn;
    int r = fabric_list_split(text, "initiators", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++) {
        r = wwn_parse(list.item[i], "initiator", &wwn, err);
        if (r < 0)
            break;
        wwn_colons(wwn, one);
        if (strstr(clean, one))
            r = hws_fail(err, EINVAL, "initiator %s is there twice", one);
        size_t used = strlen(clean);
        snprintf(clean + used, sizeof(clean) - used, "%s%s", i ? "," : "", one);
    }
    if (r == 0 && !list.count)
        r = hws_fail(err, EINVAL,
                     "who may use the disks? --initiator WWPN names a port (in Linux: "
                     "/sys/class/fc_host/host*/port_name)");
    fabric_list_free(&list);
    if (r == 0)
        json_object_set_new(object, "initiators", json_string(clean));
    return r;
}

static int resolve(const char *name, const void *arg, json_t *object, struct hws_error *err)
{
    const struct fc_options *options = arg;
    char target[WWN_COLONS_BYTES];
    struct ports port;
    uint64_t wwn = 0;
    (void)name;
    int r = resolve_initiators(options->initiators, object, err);
    if (r == 0 && options->target)
        r = wwn_parse(options->target, "target", &wwn, err);
    if (r == 0 && !wwn) {
        r = find_port(0, &port, err);
        wwn = port.found;
    }
    if (r < 0)
        return r;
    wwn_colons(wwn, target);
    json_object_set_new(object, "target", json_string(target));
    return 0;
}

static int probe(struct hws_error *why)
{
    struct ports port;
    if (access("/sys/kernel/config", W_OK) < 0)
        return hws_fail_errno(why, errno, "/sys/kernel/config cannot be used");
    int r = find_port(0, &port, why);
    return r == -EINVAL ? 0 : r; /* several */
}

/*
 * The port may be gone by now: of the two folders, the one that has the target. @return false where
 * neither has.
 */
static bool find_target(struct work *w)
{
    static const char *const fabric_names[] = {"fc", "qla2xxx"};
    for (unsigned i = 0; i < ARRAY_LEN(fabric_names); i++) {
        w->target = (struct lio_target){.fabric = fabric_names[i], .target = w->options->target};
        if (lio_target_is_ours(&w->target))
            return true;
    }
    return false;
}

static struct work work_of(const struct fabric_export *export, struct hws_error *err)
{
    return (struct work){.export = export, .options = export->options, .err = err};
}

/* ---- making ---- */

static int look_at_remote_port(const char *name, void *arg)
{
    struct work *w = arg;
    unsigned host;
    char roles[128];
    return sscanf(name, "rport-%u:", &host) == 1 && host == w->host &&
           configfs_read(roles, sizeof(roles), FC_REMOTE "/%s/roles", name) > 0 &&
           strstr(roles, "Target");
}

static void log_in_again(struct work *w)
{
    if (configfs_each(look_at_remote_port, w, true, FC_REMOTE))
        log_warning("export '%s': this host uses disks through its port %s, so the port is not "
                    "reset; initiators see the export when they log in next",
                    w->export->name, w->options->target);
    else
        (void)configfs_write(NULL, "1", FC_HOST "/host%u/issue_lip", w->host);
}

static int fill(void *arg, struct hws_error *err)
{
    struct work *w = arg;
    struct fabric_list list = {0};
    int r = lio_target_add_luns(&w->target, w->export, err);
    if (r == 0)
        r = fabric_list_split(w->options->initiators, "initiators", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++)
        r = lio_target_add_acl(&w->target, list.item[i], w->export, err);
    fabric_list_free(&list);
    if (r == 0 && configfs_exists(TPG "/enable", w->target.fabric, w->target.target))
        r = configfs_write(err, "1", TPG "/enable", w->target.fabric, w->target.target);
    return r;
}

static int make_blocking(void *arg)
{
    struct work *w = arg;
    struct ports port;
    uint64_t wwn;
    int r = wwn_parse(w->options->target, "target", &wwn, w->err);
    if (r == 0)
        r = find_port(wwn, &port, w->err);
    if (r < 0)
        return hws_wrap(w->err, r, "%s", w->options->target);
    bool qlogic = is_qlogic(port.host);
    w->host = port.host;
    w->target =
        (struct lio_target){.fabric = qlogic ? "qla2xxx" : "fc", .target = w->options->target};
    r = configfs_load_module("target_core_mod", w->err);
    if (r == 0)
        r = configfs_load_module(qlogic ? "tcm_qla2xxx" : "tcm_fc", w->err);
    if (r == 0)
        r = lio_target_build(&w->target, fill, w, w->err);
    if (r == 0)
        log_in_again(w);
    return r;
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
    char enabled[8] = "1";
    if (!find_target(w) || !lio_target_is_whole(&w->target, w->export))
        return -ENOENT;
    return configfs_read(enabled, sizeof(enabled), TPG "/enable", w->target.fabric,
                         w->target.target) != -ENOENT &&
                   strcmp(enabled, "1") != 0
               ? -ENOENT
               : 0;
}

static int co_find(const struct fabric_export *export)
{
    struct work w = work_of(export, NULL);
    return co_work(find_blocking, &w);
}

/* ---- who is logged in ---- */

/* This file of a LUN can be read only while the initiator has a session. */
static int look_at_acl(const char *name, void *arg)
{
    struct work *w = arg;
    char text[CONFIGFS_VALUE_MAX];
    if (configfs_read(text, sizeof(text),
                      TPG "/acls/%s/lun_0/statistics/scsi_att_intr_port/port_ident",
                      w->target.fabric, w->target.target, name) > 0)
        json_array_append_new(w->out, json_string(name));
    return 0;
}

static int sessions_blocking(void *arg)
{
    struct work *w = arg;
    if (find_target(w))
        (void)configfs_each(look_at_acl, w, false, TPG "/acls", w->target.fabric, w->target.target);
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
    const struct fc_options *options = export->options;
    json_object_set_new(out, "initiators", json_string(options->initiators));
    json_object_set_new(out, "sessions", co_sessions(export));
}

/* ---- removing ---- */

/* Where the fabric has it: initiators are cut. */
static void close_target(void *arg)
{
    struct work *w = arg;
    configfs_write(NULL, "0", TPG "/enable", w->target.fabric, w->target.target);
}

static int remove_blocking(void *arg)
{
    struct work *w = arg;
    return find_target(w) ? lio_target_remove(&w->target, w->export, close_target, w, w->err) : 0;
}

/*
 * A port stays logged in to every target that it may use, whether its host has the disks mounted or
 * not; the two cannot be told from here, so the safe answer is that it has.
 */
static int co_remove(const struct fabric_export *export, bool force, struct hws_error *err)
{
    struct work w = work_of(export, err);
    int r = force
                ? 0
                : fabric_refuse_sessions(co_sessions(export), export->name,
                                         "once the disks are not in use there, --force removes it",
                                         err);
    return r < 0 ? r : co_work(remove_blocking, &w);
}

const struct fabric fabric_fc = {
    .name = "fc",
    .help = "Fibre Channel, by a port of this host in target mode",
    .needs = FABRIC_BACKSTORE,
    .options = option_table,
    .options_bytes = sizeof(struct fc_options),
    .probe = probe,
    .resolve = resolve,
    .co_make = co_make,
    .co_find = co_find,
    .co_remove = co_remove,
    .co_describe = co_describe,
};
