/*
 * The parser of the kernel's events: pure, bytes in, an event out. Netlink integers are in host
 * order, attributes are aligned to 4 bytes; strings may or may not end with a NUL.
 *
 *     struct nlmsghdr | struct genlmsghdr | struct nlattr, value, padding | ...
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/netlink.h"
#include "export/tcmu/netlink_wire.h"
#include "wire/netlink/genl.h"
#include <linux/target_core_user.h>

static_assert(TCMU_CMD_ADDED_DEVICE == 1 && TCMU_CMD_REMOVED_DEVICE == 2 &&
                  TCMU_CMD_RECONFIG_DEVICE == 3,
              "the kernel's numbers are ours");
static_assert((int)TCMU_WIRE_ADDED_DONE == TCMU_CMD_ADDED_DEVICE_DONE &&
                  (int)TCMU_WIRE_REMOVED_DONE == TCMU_CMD_REMOVED_DEVICE_DONE &&
                  (int)TCMU_WIRE_RECONFIG_DONE == TCMU_CMD_RECONFIG_DEVICE_DONE &&
                  (int)TCMU_WIRE_SET_FEATURES == TCMU_CMD_SET_FEATURES &&
                  (int)TCMU_WIRE_ATTR_STATUS == TCMU_ATTR_CMD_STATUS &&
                  (int)TCMU_WIRE_ATTR_DEVICE_ID == TCMU_ATTR_DEVICE_ID &&
                  (int)TCMU_WIRE_ATTR_ANSWERS == TCMU_ATTR_SUPP_KERN_CMD_REPLY,
              "netlink_wire.h says what the kernel's header says");

/* ---- the device's name ---- */

/* Decimal digits up to @end. @return NULL where there is none, or too many. */
static const char *parse_number(const char *at, const char *end, unsigned *ret)
{
    uint64_t value = 0;
    const char *start = at;
    for (; at < end && *at >= '0' && *at <= '9' && at - start < 10; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    if (at == start || value > UINT32_MAX)
        return NULL;
    *ret = (unsigned)value;
    return at;
}

int tcmu_device_name_parse(const char *text, size_t length, struct tcmu_device_name *ret)
{
    static const char prefix[] = "tcm-user/";
    const char *end = text + length;
    unsigned hba;
    if (length < sizeof(prefix) - 1 || memcmp(text, prefix, sizeof(prefix) - 1) != 0)
        return -EINVAL;
    const char *at = parse_number(text + sizeof(prefix) - 1, end, &hba);
    if (!at || at == end || *at++ != '/')
        return -EINVAL;
    const char *slash = memchr(at, '/', (size_t)(end - at));
    const char *config = slash ? slash + 1 : end;
    size_t name_length = (size_t)((slash ? slash : end) - at);
    size_t config_length = (size_t)(end - config);
    if (name_length == 0 || name_length > TCMU_NAME_MAX || config_length > TCMU_CONFIG_MAX ||
        memchr(text, '\0', length))
        return -EINVAL;
    /* The name becomes part of a path. */
    if (at[0] == '.' && (name_length == 1 || (name_length == 2 && at[1] == '.')))
        return -EINVAL;
    *ret = (struct tcmu_device_name){.hba = hba};
    memcpy(ret->name, at, name_length);
    memcpy(ret->config, config, config_length);
    return 0;
}

bool tcmu_config_is_for(const char *config, const char *handler)
{
    size_t length = strlen(handler);
    return strncmp(config, handler, length) == 0 && config[length] == '/';
}

/* ---- attributes ---- */

struct attribute {
    const uint8_t *value;
    size_t length;
};

/* Attributes by type; the last of a kind counts. @return false where a length lies. */
static bool split_attributes(const uint8_t *at, size_t left,
                             struct attribute ret[TCMU_ATTR_MAX + 1])
{
    unsigned type;
    const uint8_t *value;
    size_t length;
    while (genl_each(&at, &left, &type, &value, &length))
        if (type <= TCMU_ATTR_MAX)
            ret[type] = (struct attribute){value, length};
    return left < NLA_ALIGNTO;
}

static bool get_u32(const struct attribute *from, uint32_t *ret)
{
    if (from->length != sizeof(*ret))
        return false;
    memcpy(ret, from->value, sizeof(*ret));
    return true;
}

static size_t text_length(const struct attribute *from)
{
    return from->value ? strnlen((const char *)from->value, from->length) : 0;
}

static bool get_reconfig(const struct attribute *attributes, struct tcmu_event *event)
{
    const struct attribute *config = &attributes[TCMU_ATTR_DEV_CFG];
    const struct attribute *size = &attributes[TCMU_ATTR_DEV_SIZE];
    const struct attribute *cache = &attributes[TCMU_ATTR_WRITECACHE];
    if (config->value) {
        size_t length = text_length(config);
        /* What was written to the attribute, with the newline of `echo`. */
        while (length && config->value[length - 1] == '\n')
            length--;
        if (length == 0 || length > TCMU_CONFIG_MAX)
            return false;
        memcpy(event->config, config->value, length);
        event->has_config = true;
    } else if (size->value) {
        if (size->length != sizeof(event->size_bytes))
            return false;
        memcpy(&event->size_bytes, size->value, sizeof(event->size_bytes));
        event->has_size = true;
    } else if (cache->value) {
        if (cache->length != 1)
            return false;
        event->write_cache = *cache->value != 0;
        event->has_write_cache = true;
    }
    return true;
}

static int parse_event(const uint8_t *bytes, size_t length, const struct genlmsghdr *generic,
                       struct tcmu_event *event)
{
    struct attribute attributes[TCMU_ATTR_MAX + 1] = {{0}};
    if (!split_attributes(bytes, length, attributes))
        return -EBADMSG;
    const struct attribute *device = &attributes[TCMU_ATTR_DEVICE];
    event->kind = (enum tcmu_event_kind)generic->cmd;
    event->can_be_answered = generic->version > 1;
    if (!device->value || !get_u32(&attributes[TCMU_ATTR_MINOR], &event->minor) ||
        tcmu_device_name_parse((const char *)device->value, text_length(device), &event->device) <
            0)
        return -EBADMSG;
    if (!get_u32(&attributes[TCMU_ATTR_DEVICE_ID], &event->device_id) && event->can_be_answered)
        return -EBADMSG;
    if (event->kind == TCMU_RECONFIG && !get_reconfig(attributes, event))
        return -EBADMSG;
    return 0;
}

int tcmu_event_parse(const void *bytes, size_t length, uint16_t family, struct tcmu_event *ret)
{
    struct nlmsghdr head;
    struct genlmsghdr generic;
    if (length < sizeof(head))
        return -EBADMSG;
    memcpy(&head, bytes, sizeof(head));
    if (head.nlmsg_len < sizeof(head) || head.nlmsg_len > length)
        return -EBADMSG;
    if (head.nlmsg_type != family)
        return -ENOMSG;
    if (head.nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN)
        return -EBADMSG;
    memcpy(&generic, (const uint8_t *)bytes + NLMSG_HDRLEN, sizeof(generic));
    if (generic.cmd < TCMU_ADDED || generic.cmd > TCMU_RECONFIG)
        return -ENOMSG;
    struct tcmu_event event = {0};
    int r = parse_event((const uint8_t *)bytes + NLMSG_HDRLEN + GENL_HDRLEN,
                        head.nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN, &generic, &event);
    if (r == 0)
        *ret = event;
    return r;
}
