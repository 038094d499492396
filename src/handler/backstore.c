/*
 * What configfs and sysfs tell of backstores. Everything blocks and runs on worker threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "handler/internal.h"
#include "host/configfs.h"

#define UIO_FOLDER "/sys/class/uio"

struct read_work {
    const struct tcmu_device_name *name;
    struct backstore *ret;
    struct hws_error *err;
};

/* Numbers and texts are read as they are; the kernel made them. */
static int read_number(const struct tcmu_device_name *name, const char *attribute, uint64_t *ret,
                       struct hws_error *err)
{
    char text[64], *end;
    int r =
        configfs_read(text, sizeof(text), "core/user_%u/%s/%s", name->hba, name->name, attribute);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot read its %s", attribute);
    errno = 0;
    *ret = strtoull(text, &end, 0);
    if (errno || end == text)
        return hws_fail(err, EINVAL, "its %s is '%s'", attribute, text);
    return 0;
}

static void read_serial(const struct tcmu_device_name *name, char ret[BACKSTORE_SERIAL_MAX + 1])
{
    static const char label[] = "T10 VPD Unit Serial Number: ";
    char text[CONFIGFS_VALUE_MAX];
    *ret = '\0';
    int r = configfs_read(text, sizeof(text), "core/user_%u/%s/wwn/vpd_unit_serial", name->hba,
                          name->name);
    const char *at = r < 0 ? NULL : strstr(text, label);
    if (!at)
        return;
    at += sizeof(label) - 1;
    size_t length = MIN(strcspn(at, "\n"), (size_t)BACKSTORE_SERIAL_MAX);
    memcpy(ret, at, length);
    ret[length] = '\0';
}

static int read_blocking(void *arg)
{
    struct read_work *w = arg;
    struct backstore backstore = {0};
    uint64_t block = 0, cache = 0, awaited = 0;
    int r = read_number(w->name, "attrib/dev_size", &backstore.size_bytes, w->err);
    if (r == 0)
        r = read_number(w->name, "attrib/hw_block_size", &block, w->err);
    if (r == 0)
        r = read_number(w->name, "attrib/emulate_write_cache", &cache, w->err);
    if (r < 0)
        return r;
    if (block == 0)
        block = 512;
    if (block != 512 && block != 4096)
        return hws_fail(w->err, EINVAL, "its hw_block_size is %llu; this handler has 512 and 4096",
                        (unsigned long long)block);
    backstore.block_bytes = (uint32_t)block;
    backstore.write_cache = cache != 0;
    backstore.is_awaited = read_number(w->name, "attrib/nl_reply_supported", &awaited, NULL) < 0 ||
                           (int64_t)awaited > 0;
    read_serial(w->name, backstore.serial);
    *w->ret = backstore;
    return 0;
}

int co_backstore_read(const struct tcmu_device_name *name, struct backstore *ret,
                      struct hws_error *err)
{
    struct read_work w = {name, ret, err};
    return co_work(read_blocking, &w);
}

static int exists_blocking(void *arg)
{
    const struct tcmu_device_name *name = arg;
    return configfs_exists("core/user_%u/%s", name->hba, name->name);
}

bool co_backstore_exists(const struct tcmu_device_name *name)
{
    struct tcmu_device_name own = *name;
    return co_work(exists_blocking, &own) != 0;
}

struct write_work {
    const struct tcmu_device_name *name;
    const char *attribute;
    int64_t value;
};

static int write_blocking(void *arg)
{
    struct write_work *w = arg;
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)w->value);
    return configfs_write(NULL, text, "core/user_%u/%s/%s", w->name->hba, w->name->name,
                          w->attribute);
}

int co_backstore_write(const struct tcmu_device_name *name, const char *attribute, int64_t value)
{
    struct write_work w = {name, attribute, value};
    return co_work(write_blocking, &w);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool backstore_serial_uuid(const char *serial, uint8_t ret[16])
{
    uint8_t uuid[16] = {0};
    unsigned digits = 0;
    for (; *serial; serial++) {
        int value = hex_value(*serial);
        if (*serial == '-')
            continue;
        if (value < 0 || digits == 32)
            return false;
        uuid[digits / 2] |= (uint8_t)(value << (digits % 2 ? 0 : 4));
        digits++;
    }
    if (digits != 32)
        return false;
    memcpy(ret, uuid, sizeof(uuid));
    return true;
}

/* ---- the uio devices ---- */

struct found {
    struct tcmu_device_name name;
    unsigned minor;
};

struct scan_work {
    const char *handler;
    struct found *found;
    size_t count, room;
};

static int scan_one(const char *entry, void *arg)
{
    struct scan_work *w = arg;
    char text[CONFIGFS_VALUE_MAX], *end;
    if (strncmp(entry, "uio", 3) != 0 || entry[3] < '0' || entry[3] > '9')
        return 0;
    unsigned long minor = strtoul(entry + 3, &end, 10);
    struct found found = {.minor = (unsigned)minor};
    int length = configfs_read(text, sizeof(text), UIO_FOLDER "/%.32s/name", entry);
    if (*end || length < 0 || tcmu_device_name_parse(text, (size_t)length, &found.name) < 0 ||
        !tcmu_config_is_for(found.name.config, w->handler))
        return 0;
    if (w->count == w->room) {
        size_t room = MAX(w->room * 2, (size_t)64);
        struct found *grown = realloc(w->found, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        w->found = grown;
        w->room = room;
    }
    w->found[w->count++] = found;
    return 0;
}

static int scan_blocking(void *arg)
{
    return configfs_each(scan_one, arg, true, UIO_FOLDER);
}

int co_backstores_scan(const char *handler, backstore_found *found, void *arg)
{
    struct scan_work w = {.handler = handler};
    int r = co_work(scan_blocking, &w);
    for (size_t i = 0; r == 0 && i < w.count; i++)
        found(arg, &w.found[i].name, w.found[i].minor);
    free(w.found);
    return r;
}
