/*
 * iSCSI by the kernel's target; see host/fabric.h.
 *
 *     iscsi/TARGET/tpgt_1/lun/lun_N       the images, in the order given
 *     iscsi/TARGET/tpgt_1/acls/INITIATOR  one for each initiator that may log in, with its CHAP
 *     iscsi/TARGET/tpgt_1/np/PORTAL       where the kernel listens
 *     iscsi/TARGET/tpgt_1/enable          written last: nobody logs in to half a target
 *
 * Without a list of initiators there is no way in, unless any-initiator says that everybody who
 * reaches a portal (and knows the CHAP secret, if there is one) may.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/fabrics.h"
#include "host/iscsi.h"
#include "host/lio_target.h"
#include "host/portal.h"
#include "rt/rt.h"

#define TPG "iscsi/%s/tpgt_1"
/* Initiators that are named where one is asked who is logged in. */
#define SESSIONS_MAX 256

struct iscsi_options {
    char *target, *portals, *initiators, *secrets;
    bool any_initiator;
};

#define OPTION(field) offsetof(struct iscsi_options, field)

static const struct option_desc option_table[] = {
    {"target", OPTION_STRING, OPTION(target), "iSCSI name of the target; made up if not given"},
    {"portals", OPTION_STRING, OPTION(portals), "addresses with ports to listen on, with commas",
     "0.0.0.0:3260"},
    {"initiators", OPTION_STRING, OPTION(initiators), "iSCSI names that may log in, with commas"},
    {"any-initiator", OPTION_BOOL, OPTION(any_initiator), "everybody may log in, and write"},
    {"secrets", OPTION_STRING, OPTION(secrets), "file of CHAP names and secrets"},
    OPTION_END,
};

struct work {
    const struct fabric_export *export;
    const struct iscsi_options *options;
    struct lio_target target;
    json_t *out;
    struct hws_error *err;
};

/* ---- options ---- */

/* Each item through @change, and joined again. */
static int join(const struct fabric_list *list, const char *name, json_t *object,
                struct hws_error *err)
{
    char text[FABRIC_LIST_MAX * (FABRIC_NAME_MAX + 1) + 1] = "";
    size_t used = 0;
    for (unsigned i = 0; i < list->count; i++)
        used +=
            (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", i ? "," : "", list->item[i]);
    if (json_object_set_new(object, name, json_string(text)) < 0)
        return hws_fail(err, EINVAL, "%s: no text", name);
    return 0;
}

static int resolve_portals(const char *text, json_t *object, struct hws_error *err)
{
    char clean[FABRIC_LIST_MAX][ISCSI_PORTAL_BYTES];
    struct fabric_list list;
    int r = fabric_list_split(text, "portals", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++) {
        r = iscsi_portal_parse(list.item[i], clean[i], err);
        for (unsigned j = 0; r == 0 && j < i; j++)
            if (!strcmp(clean[i], clean[j]))
                r = hws_fail(err, EINVAL, "portal %s is there twice", clean[i]);
    }
    for (unsigned i = 0; r == 0 && i < list.count; i++)
        list.item[i] = clean[i];
    if (r == 0 && !list.count)
        r = hws_fail(err, EINVAL, "a target needs a portal");
    if (r == 0)
        r = join(&list, "portals", object, err);
    fabric_list_free(&list);
    return r;
}

static int resolve_initiators(const char *text, json_t *object, struct hws_error *err)
{
    struct fabric_list list;
    int r = fabric_list_split(text, "initiators", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++) {
        r = iscsi_name_check(list.item[i], "initiator", err);
        for (unsigned j = 0; r == 0 && j < i; j++)
            if (!strcmp(list.item[i], list.item[j]))
                r = hws_fail(err, EINVAL, "initiator %s is there twice", list.item[i]);
    }
    if (r == 0)
        r = join(&list, "initiators", object, err);
    fabric_list_free(&list);
    return r;
}

static int resolve(const char *name, const void *arg, json_t *object, struct hws_error *err)
{
    const struct iscsi_options *options = arg;
    char target[FABRIC_NAME_MAX + 1];
    struct iscsi_chap chap;
    bool named = options->initiators && options->initiators[0];
    if (named == options->any_initiator)
        return named ? hws_fail(err, EINVAL,
                                "either --initiator names who may log in, or --any-initiator lets "
                                "everybody in")
                     : hws_fail(err, EINVAL,
                                "who may log in? --initiator IQN names one (in Linux: "
                                "/etc/iscsi/initiatorname.iscsi); --any-initiator lets everybody "
                                "who reaches the portal read and write");
    if (options->target && strlen(options->target) > FABRIC_NAME_MAX)
        return hws_fail(err, EINVAL, "target: an iSCSI name has 1 to %d bytes", FABRIC_NAME_MAX);
    if (options->target)
        snprintf(target, sizeof(target), "%s", options->target);
    else
        iscsi_name_make(name, target);
    int r = iscsi_name_check(target, "target", err);
    if (r == 0)
        r = resolve_portals(options->portals, object, err);
    if (r == 0 && named)
        r = resolve_initiators(options->initiators, object, err);
    if (r == 0 && options->secrets) {
        r = iscsi_chap_load(options->secrets, &chap, err);
        explicit_bzero(&chap, sizeof(chap));
    }
    if (r == 0)
        json_object_set_new(object, "target", json_string(target));
    return r;
}

static int probe(struct hws_error *why)
{
    if (access("/sys/kernel/config", W_OK) < 0)
        return hws_fail_errno(why, errno, "/sys/kernel/config cannot be used");
    return 0;
}

/* ---- making ---- */

static int write_chap(const char *folder, const struct iscsi_chap *chap, struct hws_error *err)
{
    int r = configfs_write_secret(err, chap->user, "%s/auth/userid", folder);
    if (r == 0)
        r = configfs_write_secret(err, chap->password, "%s/auth/password", folder);
    if (r == 0 && chap->mutual_user[0])
        r = configfs_write_secret(err, chap->mutual_user, "%s/auth/userid_mutual", folder);
    if (r == 0 && chap->mutual_user[0])
        r = configfs_write_secret(err, chap->mutual_password, "%s/auth/password_mutual", folder);
    return r;
}

/*
 * Who gets in. A dynamic ACL is cached, because a persistent reservation is kept by it. Parameters
 * of the session: the kernel's defaults make a small request wait for a round trip.
 */
static int set_attributes(const struct work *w, bool chap, struct hws_error *err)
{
    const char *any = w->options->any_initiator ? "1" : "0";
    const struct {
        const char *file, *value;
    } attributes[] = {
        {"attrib/authentication", chap ? "1" : "0"},
        {"attrib/generate_node_acls", any},
        {"attrib/cache_dynamic_acls", any},
        {"attrib/demo_mode_write_protect", "0"},
        {"param/InitialR2T", "No"},
        {"param/MaxRecvDataSegmentLength", "262144"},
        {"param/MaxXmitDataSegmentLength", "262144"},
    };
    int r = 0;
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(attributes); i++)
        r = configfs_write(err, attributes[i].value, TPG "/%s", w->options->target,
                           attributes[i].file);
    return r;
}

static int add_acls(const struct work *w, const struct iscsi_chap *chap, struct hws_error *err)
{
    char folder[CONFIGFS_PATH_MAX];
    struct fabric_list list;
    int r = fabric_list_split(w->options->initiators, "initiators", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++) {
        r = lio_target_add_acl(&w->target, list.item[i], w->export, err);
        snprintf(folder, sizeof(folder), TPG "/acls/%s", w->options->target, list.item[i]);
        if (r == 0 && chap)
            r = write_chap(folder, chap, err);
    }
    fabric_list_free(&list);
    if (r == 0 && chap && w->options->any_initiator) {
        snprintf(folder, sizeof(folder), TPG, w->options->target);
        r = write_chap(folder, chap, err);
    }
    return r;
}

/*
 * The kernel answers EINVAL whatever keeps it from listening; what it is shows when we try. An
 * address that this host has not got yet is none: the kernel listens once it is there.
 */
static int add_portal(const struct work *w, const char *portal, struct hws_error *err)
{
    int r = configfs_mkdir(err, TPG "/np/%s", w->options->target, portal);
    int why = r < 0 ? portal_try(portal) : 0;
    if (why == -EADDRINUSE)
        return hws_fail(err, EADDRINUSE,
                        "portal %s: another program listens there; choose another port, or "
                        "another address",
                        portal);
    return why < 0 ? hws_fail_errno(err, -why, "portal %s: cannot listen there", portal) : r;
}

static int add_portals(const struct work *w, struct hws_error *err)
{
    struct fabric_list list;
    int r = fabric_list_split(w->options->portals, "portals", &list, err);
    for (unsigned i = 0; r == 0 && i < list.count; i++)
        r = add_portal(w, list.item[i], err);
    fabric_list_free(&list);
    return r;
}

/* The target's folder is ours from here on: whatever fails, all of it goes. */
static int fill(void *arg, struct hws_error *err)
{
    const struct work *w = arg;
    struct iscsi_chap chap;
    bool with_chap = w->options->secrets != NULL;
    int r = with_chap ? iscsi_chap_load(w->options->secrets, &chap, err) : 0;
    if (r == 0)
        r = set_attributes(w, with_chap, err);
    if (r == 0)
        r = lio_target_add_luns(&w->target, w->export, err);
    if (r == 0)
        r = add_acls(w, with_chap ? &chap : NULL, err);
    explicit_bzero(&chap, sizeof(chap));
    if (r == 0)
        r = add_portals(w, err);
    if (r == 0)
        r = configfs_write(err, "1", TPG "/enable", w->options->target);
    return r;
}

static struct work work_of(const struct fabric_export *export)
{
    const struct iscsi_options *options = export->options;
    return (struct work){
        .export = export,
        .options = options,
        .target = {.fabric = "iscsi", .target = options->target},
    };
}

static int make_blocking(void *arg)
{
    struct work *w = arg;
    int r = configfs_load_module("target_core_mod", w->err);
    if (r == 0)
        r = configfs_load_module("iscsi_target_mod", w->err);
    return r < 0 ? r : lio_target_build(&w->target, fill, w, w->err);
}

static int co_make(const struct fabric_export *export, struct hws_error *err)
{
    struct work w = work_of(export);
    w.err = err;
    int r = co_work(make_blocking, &w);
    return r < 0 ? hws_wrap(err, r, "export '%s'", export->name) : 0;
}

/* ---- who is logged in ---- */

static int look_at_acl(const char *name, void *arg)
{
    struct work *w = arg;
    char text[CONFIGFS_VALUE_MAX];
    /* Without a session it says "No active iSCSI Session ..."; with one, its parameters. */
    if (configfs_read(text, sizeof(text), TPG "/acls/%s/info", w->options->target, name) > 0 &&
        strncmp(text, "InitiatorName:", 14) == 0 && json_array_size(w->out) < SESSIONS_MAX)
        json_array_append_new(w->out, json_string(name));
    return 0;
}

static int sessions_blocking(void *arg)
{
    struct work *w = arg;
    char text[CONFIGFS_VALUE_MAX];
    (void)configfs_each(look_at_acl, w, false, TPG "/acls", w->options->target);
    if (configfs_read(text, sizeof(text), TPG "/dynamic_sessions", w->options->target) <= 0)
        return 0;
    char *rest = text;
    for (char *name; (name = strsep(&rest, "\n"));)
        if (*name && json_array_size(w->out) < SESSIONS_MAX)
            json_array_append_new(w->out, json_string(name));
    return 0;
}

static json_t *co_sessions(const struct fabric_export *export)
{
    struct work w = work_of(export);
    w.out = json_array();
    (void)co_work(sessions_blocking, &w);
    return w.out;
}

static void co_describe(const struct fabric_export *export, json_t *out)
{
    const struct iscsi_options *options = export->options;
    json_object_set_new(out, "portals", json_string(options->portals));
    if (options->initiators)
        json_object_set_new(out, "initiators", json_string(options->initiators));
    json_object_set_new(out, "any-initiator", json_boolean(options->any_initiator));
    json_object_set_new(out, "chap", json_boolean(options->secrets != NULL));
    json_object_set_new(out, "sessions", co_sessions(export));
}

/* ---- removing ---- */

/* Nobody new, and those who are logged in are cut. Fails where it is not enabled yet. */
static void close_target(void *arg)
{
    struct work *w = arg;
    configfs_write(NULL, "0", TPG "/enable", w->options->target);
}

static int remove_blocking(void *arg)
{
    struct work *w = arg;
    return lio_target_remove(&w->target, w->export, close_target, w, w->err);
}

static int co_remove(const struct fabric_export *export, bool force, struct hws_error *err)
{
    struct work w = work_of(export);
    w.err = err;
    int r = force ? 0
                  : fabric_refuse_sessions(co_sessions(export), export->name, "log out there first",
                                           err);
    return r < 0 ? r : co_work(remove_blocking, &w);
}

static int find_blocking(void *arg)
{
    struct work *w = arg;
    char enabled[8];
    return lio_target_is_whole(&w->target, w->export) &&
                   configfs_read(enabled, sizeof(enabled), TPG "/enable", w->options->target) > 0 &&
                   !strcmp(enabled, "1")
               ? 0
               : -ENOENT;
}

static int co_find(const struct fabric_export *export)
{
    struct work w = work_of(export);
    return co_work(find_blocking, &w);
}

const struct fabric fabric_iscsi = {
    .name = "iscsi",
    .help = "iSCSI target over TCP",
    .needs = FABRIC_BACKSTORE,
    .options = option_table,
    .options_bytes = sizeof(struct iscsi_options),
    .probe = probe,
    .resolve = resolve,
    .co_make = co_make,
    .co_find = co_find,
    .co_remove = co_remove,
    .co_describe = co_describe,
};
