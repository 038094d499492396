/*
 * The inside of a target portal group; see host/lio_target.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/lio_target.h"
#include "host/lio_reservations.h"

#define TARGET "%s/%s"
#define TPG    TARGET "/tpgt_1"

/* ---- making ---- */

static int make(const struct lio_target *t, struct hws_error *err)
{
    int r = configfs_mkdir_marked(err, "%s", t->fabric);
    if (r < 0 && r != -EEXIST)
        return r;
    r = configfs_mkdir_marked(err, TARGET, t->fabric, t->target);
    if (r == -EEXIST)
        return hws_fail(err, EEXIST,
                        "there is a target %s already, and it is not of this export; choose "
                        "another name",
                        t->target);
    if (r < 0)
        return r;
    r = configfs_mkdir(err, TPG, t->fabric, t->target);
    if (r < 0)
        configfs_rmdir(NULL, TARGET, t->fabric, t->target);
    return r;
}

int lio_target_add_luns(const struct lio_target *t, const struct fabric_export *export,
                        struct hws_error *err)
{
    int r = lio_reservations_prepare(err);
    for (unsigned n = 0; r == 0 && n < export->unit_count; n++) {
        char core[LIO_NAME_MAX + 32];
        const struct lio_backstore *b = &export->units[n].backstore;
        snprintf(core, sizeof(core), "core/user_%u/%s", b->hba, b->name);
        r = lio_reservations_restore(b, err);
        if (r == 0)
            r = configfs_mkdir(err, TPG "/lun/lun_%u", t->fabric, t->target, n);
        if (r == 0)
            r = configfs_link(err, core, TPG "/lun/lun_%u/unit", t->fabric, t->target, n);
    }
    return r;
}

int lio_target_add_acl(const struct lio_target *t, const char *initiator,
                       const struct fabric_export *export, struct hws_error *err)
{
    int r = configfs_mkdir(err, TPG "/acls/%s", t->fabric, t->target, initiator);
    for (unsigned n = 0; r == 0 && n < export->unit_count; n++) {
        char lun[CONFIGFS_PATH_MAX];
        snprintf(lun, sizeof(lun), TPG "/lun/lun_%u", t->fabric, t->target, n);
        r = configfs_mkdir(err, TPG "/acls/%s/lun_%u", t->fabric, t->target, initiator, n);
        if (r == 0)
            r = configfs_link(err, lun, TPG "/acls/%s/lun_%u/unit", t->fabric, t->target, initiator,
                              n);
        if (r == 0)
            r = configfs_write(err, export->units[n].read_only ? "1" : "0",
                               TPG "/acls/%s/lun_%u/write_protect", t->fabric, t->target, initiator,
                               n);
    }
    return r;
}

/* ---- whose it is ---- */

struct look {
    const struct lio_target *t;
    const struct fabric_export *export;
    const char *lun;
    unsigned known, foreign;
};

static int look_at_link(const char *name, void *arg)
{
    struct look *look = arg;
    char tail[CONFIGFS_PATH_MAX];
    configfs_link_tail(tail, sizeof(tail), TPG "/lun/%s/%s", look->t->fabric, look->t->target,
                       look->lun, name);
    const char *backstore = strchr(tail, '/');
    bool known = false;
    if (!backstore)
        return 0;
    for (unsigned i = 0; i < look->export->unit_count; i++)
        known = known || !strcmp(look->export->units[i].backstore.name, backstore + 1);
    look->known += known;
    look->foreign += !known;
    return 0;
}

static int look_at_lun(const char *name, void *arg)
{
    struct look *look = arg;
    look->lun = name;
    return configfs_each(look_at_link, look, true, TPG "/lun/%s", look->t->fabric, look->t->target,
                         name);
}

static struct look look_at(const struct lio_target *t, const struct fabric_export *export)
{
    struct look look = {.t = t, .export = export};
    (void)configfs_each(look_at_lun, &look, false, TPG "/lun", t->fabric, t->target);
    return look;
}

bool lio_target_is_ours(const struct lio_target *t)
{
    return configfs_is_marked(TARGET, t->fabric, t->target);
}

bool lio_target_belongs(const struct lio_target *t, const struct fabric_export *export)
{
    return lio_target_is_ours(t) && look_at(t, export).foreign == 0;
}

bool lio_target_is_whole(const struct lio_target *t, const struct fabric_export *export)
{
    struct look look = look_at(t, export);
    return lio_target_is_ours(t) && look.foreign == 0 && look.known == export->unit_count;
}

/* ---- taking apart ---- */

/*
 * One entry of a folder, the first that is found. A folder is read again after each removal,
 * because readdir(3) promises nothing about folders that change meanwhile.
 */
struct clearing {
    const char *folder;
    char name[256];
};

static int take_name(const char *name, void *arg)
{
    struct clearing *c = arg;
    snprintf(c->name, sizeof(c->name), "%s", name);
    return 1;
}

static int take_lun_name(const char *name, void *arg)
{
    return strncmp(name, "lun_", 4) ? 0 : take_name(name, arg);
}

static int is_link(const char *name, void *arg)
{
    struct clearing *c = arg;
    char tail[CONFIGFS_PATH_MAX];
    configfs_link_tail(tail, sizeof(tail), "%s/%s", c->folder, name);
    return tail[0] ? take_name(name, arg) : 0;
}

/* All links in @folder, whatever they are called. */
static int clear_links(const char *folder, struct hws_error *err)
{
    struct clearing c = {.folder = folder};
    int r = 0;
    while (r == 0 && configfs_each(is_link, &c, true, "%s", folder))
        r = configfs_unlink(err, "%s/%s", folder, c.name);
    return r;
}

static int clear_acl(const struct lio_target *t, const char *acl, struct hws_error *err)
{
    struct clearing c = {0};
    char folder[CONFIGFS_PATH_MAX];
    int r = 0;
    while (r == 0 &&
           configfs_each(take_lun_name, &c, false, TPG "/acls/%s", t->fabric, t->target, acl)) {
        snprintf(folder, sizeof(folder), TPG "/acls/%s/%s", t->fabric, t->target, acl, c.name);
        r = clear_links(folder, err);
        if (r == 0)
            r = configfs_rmdir(err, "%s", folder);
    }
    return r < 0 ? r : configfs_rmdir(err, TPG "/acls/%s", t->fabric, t->target, acl);
}

static int clear_luns(const struct lio_target *t, struct hws_error *err)
{
    struct clearing c = {0};
    char folder[CONFIGFS_PATH_MAX];
    int r = 0;
    while (r == 0 && configfs_each(take_lun_name, &c, false, TPG "/lun", t->fabric, t->target)) {
        snprintf(folder, sizeof(folder), TPG "/lun/%s", t->fabric, t->target, c.name);
        r = clear_links(folder, err);
        if (r == 0)
            r = configfs_rmdir(err, "%s", folder);
    }
    return r;
}

static int take_apart(const struct lio_target *t, struct hws_error *err)
{
    struct clearing c = {0};
    int r = 0;
    while (r == 0 && configfs_each(take_name, &c, false, TPG "/acls", t->fabric, t->target))
        r = clear_acl(t, c.name, err);
    while (r == 0 && configfs_each(take_name, &c, false, TPG "/np", t->fabric, t->target))
        r = configfs_rmdir(err, TPG "/np/%s", t->fabric, t->target, c.name);
    if (r == 0)
        r = clear_luns(t, err);
    if (r == 0)
        r = configfs_rmdir(err, TPG, t->fabric, t->target);
    if (r == 0)
        r = configfs_rmdir(err, TARGET, t->fabric, t->target);
    if (r == 0 && configfs_is_marked("%s", t->fabric))
        configfs_rmdir(NULL, "%s", t->fabric); /* stays while it has other targets */
    return r;
}

int lio_target_build(const struct lio_target *t, int (*fill)(void *arg, struct hws_error *err),
                     void *arg, struct hws_error *err)
{
    autofd int lock = configfs_lock(err);
    int r = lock < 0 ? lock : make(t, err);
    if (r < 0)
        return r;
    r = fill(arg, err);
    if (r < 0 && take_apart(t, NULL) < 0)
        return hws_wrap(err, r, "the half-made target %s is left behind", t->target);
    return r;
}

int lio_target_remove(const struct lio_target *t, const struct fabric_export *export,
                      void (*close)(void *arg), void *arg, struct hws_error *err)
{
    if (!lio_target_is_ours(t))
        return 0;
    autofd int lock = configfs_lock(err);
    if (lock < 0)
        return lock;
    if (!lio_target_belongs(t, export))
        return 0;
    if (close)
        close(arg);
    return take_apart(t, err);
}
