/*
 * `user` backstores of the kernel's SCSI target; see host/lio.h.
 *
 *     core/user_N            an HBA; ours count from LIO_HBA_FIRST, clear of targetcli's, which
 *                            takes the lowest free numbers
 *     core/user_N/NAME       control, enable, attrib/, wwn/, action/
 *     /sys/class/uio/uioM    name: "tcm-user/N/NAME/hawser-attach/..."; there once it is enabled
 *
 * Everything runs on worker threads, under configfs_lock() where the tree changes. A backstore that
 * was not enabled yet has no uio device: its maker died, and it is found and removed like any
 * other, with minor LIO_NO_MINOR.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/lio.h"
#include "rt/rt.h"
#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define HBA_COUNT 65536
/* A command that no answer comes to: TCMU fails it, so that no task waits for ever. */
#define TIMEOUT_DEFAULT_S 600
/* The kernel's 128 (64 KiB) would cut every large request to pieces; 1 MiB is where a larger one
 * gains nothing and still leaves room for many in the data area. */
#define MAX_SECTORS_DEFAULT 2048
#define NODE_TRIES          200
#define NODE_RETRY_US       5000

struct work {
    const struct lio_backstore_options *options;
    const struct lio_backstore *backstore;
    struct lio_backstore *ret;
    const char *name, *value, *attribute;
    struct hws_error *err;
};

/* ---- finding ---- */

struct uio_search {
    unsigned hba, minor;
    char prefix[LIO_NAME_MAX + 48];
};

static int look_at_uio(const char *name, void *arg)
{
    struct uio_search *search = arg;
    char text[512];
    unsigned minor;
    if (sscanf(name, "uio%u", &minor) != 1 ||
        configfs_read(text, sizeof(text), "/sys/class/uio/%s/name", name) < 0 ||
        strncmp(text, search->prefix, strlen(search->prefix)) != 0)
        return 0;
    search->minor = minor;
    return 1;
}

/* @return the minor number of the uio device, LIO_NO_MINOR where there is none. */
static unsigned find_minor(unsigned hba, const char *name)
{
    struct uio_search search = {.hba = hba, .minor = LIO_NO_MINOR};
    snprintf(search.prefix, sizeof(search.prefix), "tcm-user/%u/%s/", hba, name);
    (void)configfs_each(look_at_uio, &search, true, "/sys/class/uio");
    return search.minor;
}

static int look_at_hba(const char *name, void *arg)
{
    struct work *w = arg;
    unsigned hba;
    char rest;
    if (sscanf(name, "user_%u%c", &hba, &rest) != 1 ||
        !configfs_exists("core/user_%u/%s", hba, w->name))
        return 0;
    w->ret->hba = hba;
    return 1;
}

static int find(const char *name, struct lio_backstore *ret)
{
    struct lio_backstore found = {0};
    struct work w = {.name = name, .ret = &found};
    if (!configfs_each(look_at_hba, &w, false, "core"))
        return -ENOENT;
    snprintf(found.name, sizeof(found.name), "%s", name);
    found.minor = find_minor(found.hba, name);
    *ret = found;
    return 0;
}

static bool name_is_valid(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > LIO_NAME_MAX || name[0] == '.')
        return false;
    for (const char *at = name; *at; at++)
        if (!isalnum((unsigned char)*at) && !strchr("._-", *at))
            return false;
    return true;
}

static int find_blocking(void *arg)
{
    struct work *w = arg;
    int r = name_is_valid(w->name) ? find(w->name, w->ret) : -ENOENT;
    return r < 0 ? hws_fail(w->err, ENOENT, "there is no backstore '%.80s'", w->name) : 0;
}

int co_lio_backstore_find(const char *name, struct lio_backstore *ret, struct hws_error *err)
{
    struct work w = {.name = name, .ret = ret, .err = err};
    return co_work(find_blocking, &w);
}

/* ---- making ---- */

static int check(const struct lio_backstore_options *options, struct hws_error *err)
{
    const char *name = options->name, *config = options->config;
    if (!name_is_valid(name))
        return hws_fail(err, EINVAL,
                        "'%.80s' is no name of a backstore: use up to %d letters, digits, '.', "
                        "'_' and '-'",
                        name, LIO_NAME_MAX);
    if (strlen(LIO_HANDLER) + strlen(config) > LIO_CONFIG_MAX || strpbrk(config, ":,\n"))
        return hws_fail(err, EINVAL,
                        "backstore %s: its description is longer than %d characters or has "
                        "one of ':' and ','",
                        name, LIO_CONFIG_MAX);
    if ((options->block_bytes != 512 && options->block_bytes != 4096) || !options->size_bytes ||
        !is_aligned(options->size_bytes, options->block_bytes))
        return hws_fail(err, EINVAL,
                        "backstore %s: size %llu and block size %u do not fit together (blocks of "
                        "512 or 4096 bytes, at least one)",
                        name, (unsigned long long)options->size_bytes, options->block_bytes);
    if (strlen(options->serial) > 254)
        return hws_fail(err, EINVAL, "backstore %s: its serial number is too long", name);
    return 0;
}

static int make_hba(unsigned *ret, struct hws_error *err)
{
    for (unsigned n = 0; n < HBA_COUNT; n++) {
        int r = configfs_mkdir(err, "core/user_%u", LIO_HBA_FIRST + n);
        if (r == -EEXIST)
            continue;
        *ret = LIO_HBA_FIRST + n;
        return r;
    }
    return hws_fail(err, ENOSPC, "there are %d user backstores already", HBA_COUNT);
}

static int set_up(const struct lio_backstore *b, const struct lio_backstore_options *o,
                  struct hws_error *err)
{
    char control[CONFIGFS_VALUE_MAX], number[16];
    size_t used = (size_t)snprintf(
        control, sizeof(control),
        "dev_config=" LIO_HANDLER
        "%s,dev_size=%llu,hw_block_size=%u,hw_max_sectors=%u,nl_reply_supported="
        "-1",
        o->config, (unsigned long long)o->size_bytes, o->block_bytes,
        (o->max_sectors ? o->max_sectors : MAX_SECTORS_DEFAULT) / (o->block_bytes / 512));
    if (o->data_area_mib)
        used += (size_t)snprintf(control + used, sizeof(control) - used, ",max_data_area_mb=%u",
                                 o->data_area_mib);
    if (o->ring_mib)
        snprintf(control + used, sizeof(control) - used, ",cmd_ring_size_mb=%u", o->ring_mib);
    int r = configfs_write(err, control, "core/user_%u/%s/control", b->hba, b->name);
    if (r == 0 && o->serial[0])
        r = configfs_write(err, o->serial, "core/user_%u/%s/wwn/vpd_unit_serial", b->hba, b->name);
    snprintf(number, sizeof(number), "%u", o->timeout_s ? o->timeout_s : TIMEOUT_DEFAULT_S);
    if (r == 0)
        r = configfs_write(err, number, "core/user_%u/%s/attrib/cmd_time_out", b->hba, b->name);
    if (r == 0)
        r = configfs_write(err, o->write_cache ? "1" : "0",
                           "core/user_%u/%s/attrib/emulate_write_cache", b->hba, b->name);
    /* Who serves it is told of aborts and resets (Linux 5.10). */
    if (r == 0 && configfs_exists("core/user_%u/%s/attrib/tmr_notification", b->hba, b->name))
        r = configfs_write(err, "1", "core/user_%u/%s/attrib/tmr_notification", b->hba, b->name);
    if (r == 0)
        r = configfs_write(err, "1", "core/user_%u/%s/enable", b->hba, b->name);
    return r;
}

/* Makes the node where neither devtmpfs nor udev does (containers), and waits for udev's. */
static int wait_node(unsigned minor, struct hws_error *err)
{
    char node[32], number[32];
    unsigned major, minor_of;
    snprintf(node, sizeof(node), "/dev/uio%u", minor);
    for (unsigned n = 0; n < NODE_TRIES; n++) {
        if (access(node, F_OK) == 0)
            return 0;
        usleep(NODE_RETRY_US);
    }
    if (configfs_read(number, sizeof(number), "/sys/class/uio/uio%u/dev", minor) < 0 ||
        sscanf(number, "%u:%u", &major, &minor_of) != 2)
        return hws_fail(err, ENODEV, "%s does not appear", node);
    if (mknod(node, S_IFCHR | 0600, makedev(major, minor_of)) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make %s", node);
    return 0;
}

static int remove_now(const struct lio_backstore *b, struct hws_error *err)
{
    int r = configfs_rmdir(err, "core/user_%u/%s", b->hba, b->name);
    if (r < 0)
        return r;
    if (b->hba >= LIO_HBA_FIRST)
        (void)configfs_rmdir(NULL, "core/user_%u", b->hba); /* stays while others are in it */
    return 0;
}

static int explain_taken(const struct lio_backstore *old, struct hws_error *err)
{
    return hws_fail(err, EEXIST,
                    "there is a backstore '%s' already, core/user_%u/%s; remove it or use another "
                    "name",
                    old->name, old->hba, old->name);
}

static int make_blocking(void *arg)
{
    struct work *w = arg;
    const struct lio_backstore_options *o = w->options;
    struct lio_backstore b = {.minor = LIO_NO_MINOR}, old;
    int r = configfs_load_module("target_core_user", w->err);
    if (r < 0)
        return r;
    autofd int lock = configfs_lock(w->err);
    if (lock < 0)
        return lock;
    if (find(o->name, &old) == 0)
        return explain_taken(&old, w->err);
    r = make_hba(&b.hba, w->err);
    if (r < 0)
        return r;
    snprintf(b.name, sizeof(b.name), "%s", o->name);
    r = configfs_mkdir(w->err, "core/user_%u/%s", b.hba, b.name);
    if (r == 0)
        r = set_up(&b, o, w->err);
    if (r == 0 && (b.minor = find_minor(b.hba, b.name)) == LIO_NO_MINOR)
        r = hws_fail(w->err, ENODEV, "backstore %s: the kernel made no uio device", b.name);
    if (r == 0)
        r = wait_node(b.minor, w->err);
    if (r < 0) {
        (void)remove_now(&b, NULL);
        return hws_wrap(w->err, r, "backstore %s", o->name);
    }
    *w->ret = b;
    return 0;
}

int co_lio_backstore_make(const struct lio_backstore_options *options, struct lio_backstore *ret,
                          struct hws_error *err)
{
    struct work w = {.options = options, .ret = ret, .err = err};
    int r = check(options, err);
    return r < 0 ? r : co_work(make_blocking, &w);
}

/* ---- removing ---- */

static int remove_blocking(void *arg)
{
    struct work *w = arg;
    const struct lio_backstore *b = w->backstore;
    if (!configfs_exists("core/user_%u/%s", b->hba, b->name))
        return 0;
    autofd int lock = configfs_lock(w->err);
    if (lock < 0)
        return lock;
    if (b->minor == LIO_NO_MINOR && find_minor(b->hba, b->name) != LIO_NO_MINOR)
        return hws_fail(w->err, EBUSY,
                        "backstore %s: another process made it, and serves it by now", b->name);
    int r = remove_now(b, w->err);
    if (r == -EBUSY || r == -ENOTEMPTY)
        return hws_fail(w->err, EBUSY,
                        "backstore %s is exported still: a LUN of a target names core/user_%u/%s",
                        b->name, b->hba, b->name);
    return r;
}

int co_lio_backstore_remove(const struct lio_backstore *backstore, struct hws_error *err)
{
    struct work w = {.backstore = backstore, .err = err};
    return co_work(remove_blocking, &w);
}

/* ---- attributes ---- */

static int attribute_blocking(void *arg)
{
    struct work *w = arg;
    return configfs_write(w->err, w->value, "core/user_%u/%s/%s", w->backstore->hba,
                          w->backstore->name, w->attribute);
}

static int co_set(const struct lio_backstore *b, const char *attribute, const char *value,
                  struct hws_error *err)
{
    struct work w = {.backstore = b, .attribute = attribute, .value = value, .err = err};
    return co_work(attribute_blocking, &w);
}

int co_lio_backstore_resize(const struct lio_backstore *backstore, uint64_t size_bytes,
                            struct hws_error *err)
{
    char value[48];
    /* Not by attrib/dev_size, which fails where nobody listens to TCMU's netlink events. */
    snprintf(value, sizeof(value), "dev_size=%llu", (unsigned long long)size_bytes);
    return co_set(backstore, "control", value, err);
}

int co_lio_backstore_block(const struct lio_backstore *backstore, bool blocked,
                           struct hws_error *err)
{
    return co_set(backstore, "action/block_dev", blocked ? "1" : "0", err);
}

int co_lio_backstore_reset_ring(const struct lio_backstore *backstore, struct hws_error *err)
{
    /* 1 hands what is in the ring back with BUSY, to be sent again; 2 would fail it. */
    return co_set(backstore, "action/reset_ring", "1", err);
}
