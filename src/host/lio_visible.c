/*
 * Who sees which backstore of the kernel's SCSI target; see co_lio_covisible() in host/lio.h.
 *
 *     FABRIC/TARGET/tpgt_T/lun/lun_L/X -> core/user_N/NAME        a LUN of a target portal group
 *     FABRIC/TARGET/tpgt_T/acls/I/lun_M/Y -> ../../lun/lun_L      what initiator I sees of it
 *
 * An initiator that may use one disk of this process and not another must not reach the other by
 * EXTENDED COPY; nor write by it to what is write-protected for somebody who could have asked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/lio.h"
#include "rt/rt.h"

#define WORD_MAX  256
#define VALUE_MAX (LIO_NAME_MAX + 32)

struct search {
    const char *fabric, *target, *tpg, *acl;
    char from[VALUE_MAX], to[VALUE_MAX]; /* "user_N/NAME" */
    bool write;                          /* to `to` */
    bool sees_from, sees_to;             /* of the group or ACL that is looked at */
    char from_lun[WORD_MAX], to_lun[WORD_MAX];
};

struct link {
    struct search *search;
    const char *lun;
};

/* ---- a target portal group ---- */

static int look_at_lun_link(const char *name, void *arg)
{
    struct link *link = arg;
    struct search *s = link->search;
    char tail[CONFIGFS_PATH_MAX];
    configfs_link_tail(tail, sizeof(tail), "%s/%s/%s/lun/%s/%s", s->fabric, s->target, s->tpg,
                       link->lun, name);
    if (!strcmp(tail, s->from)) {
        s->sees_from = true;
        snprintf(s->from_lun, sizeof(s->from_lun), "%s", link->lun);
    }
    if (!strcmp(tail, s->to)) {
        s->sees_to = true;
        snprintf(s->to_lun, sizeof(s->to_lun), "%s", link->lun);
    }
    return 0;
}

static int look_at_lun(const char *name, void *arg)
{
    struct search *s = arg;
    struct link link = {s, name};
    return configfs_each(look_at_lun_link, &link, true, "%s/%s/%s/lun/%s", s->fabric, s->target,
                         s->tpg, name);
}

/* ---- an ACL ---- */

static int look_at_mapped_link(const char *name, void *arg)
{
    struct link *link = arg;
    struct search *s = link->search;
    char tail[CONFIGFS_PATH_MAX], protect[8] = "";
    configfs_link_tail(tail, sizeof(tail), "%s/%s/%s/acls/%s/%s/%s", s->fabric, s->target, s->tpg,
                       s->acl, link->lun, name);
    const char *lun = strrchr(tail, '/');
    if (!lun)
        return 0;
    s->sees_from = s->sees_from || !strcmp(lun + 1, s->from_lun);
    if (strcmp(lun + 1, s->to_lun) != 0)
        return 0;
    if (!s->write ||
        configfs_read(protect, sizeof(protect), "%s/%s/%s/acls/%s/%s/write_protect", s->fabric,
                      s->target, s->tpg, s->acl, link->lun) < 0 ||
        strcmp(protect, "1") != 0)
        s->sees_to = true;
    return 0;
}

static int look_at_mapped(const char *name, void *arg)
{
    struct search *s = arg;
    struct link link = {s, name};
    if (strncmp(name, "lun_", 4) != 0)
        return 0;
    return configfs_each(look_at_mapped_link, &link, true, "%s/%s/%s/acls/%s/%s", s->fabric,
                         s->target, s->tpg, s->acl, name);
}

static int look_at_acl(const char *name, void *arg)
{
    struct search *s = arg;
    s->acl = name;
    s->sees_from = s->sees_to = false;
    (void)configfs_each(look_at_mapped, s, false, "%s/%s/%s/acls/%s", s->fabric, s->target, s->tpg,
                        name);
    return s->sees_from && !s->sees_to;
}

/* ---- the tree; each returns 1 once somebody sees the one and not the other ---- */

static int look_at_group(const char *name, void *arg)
{
    struct search *s = arg;
    if (strncmp(name, "tpgt_", 5) != 0)
        return 0;
    s->tpg = name;
    s->sees_from = s->sees_to = false;
    (void)configfs_each(look_at_lun, s, false, "%s/%s/%s/lun", s->fabric, s->target, name);
    if (!s->sees_from)
        return 0;
    if (!s->sees_to)
        return 1;
    return configfs_each(look_at_acl, s, false, "%s/%s/%s/acls", s->fabric, s->target, name);
}

/* Whatever the loopback fabric exports, each by a target of its own, this host sees all of it. */
static int look_at_own_group(const char *name, void *arg)
{
    struct search *s = arg;
    if (strncmp(name, "tpgt_", 5) != 0)
        return 0;
    s->tpg = name;
    return configfs_each(look_at_lun, s, false, "%s/%s/%s/lun", s->fabric, s->target, name);
}

static int look_at_own_target(const char *name, void *arg)
{
    struct search *s = arg;
    s->target = name;
    return configfs_each(look_at_own_group, s, false, "%s/%s", s->fabric, name);
}

static int look_at_target(const char *name, void *arg)
{
    struct search *s = arg;
    s->target = name;
    return configfs_each(look_at_group, s, false, "%s/%s", s->fabric, name);
}

static int look_at_fabric(const char *name, void *arg)
{
    struct search *s = arg;
    if (!strcmp(name, "core"))
        return 0;
    s->fabric = name;
    if (strcmp(name, "loopback") != 0)
        return configfs_each(look_at_target, s, false, "%s", name);
    s->sees_from = s->sees_to = false;
    (void)configfs_each(look_at_own_target, s, false, "%s", name);
    return s->sees_from && !s->sees_to;
}

static int look_blocking(void *arg)
{
    return configfs_each(look_at_fabric, arg, false, ".");
}

bool co_lio_covisible(const struct lio_backstore *from, const struct lio_backstore *to, bool write)
{
    struct search s = {.write = write};
    snprintf(s.from, sizeof(s.from), "user_%u/%s", from->hba, from->name);
    snprintf(s.to, sizeof(s.to), "user_%u/%s", to->hba, to->name);
    return co_work(look_blocking, &s) == 0;
}
