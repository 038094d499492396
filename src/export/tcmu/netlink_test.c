/*
 * The parser of the kernel's events: what it takes, what it refuses, and that no truncation or
 * lying length makes it read past the message.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/netlink.h"
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/target_core_user.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define FAMILY 31

struct message {
    _Alignas(8) uint8_t bytes[1024];
    size_t length;
};

static void begin(struct message *m, uint8_t command, uint8_t version)
{
    struct nlmsghdr head = {.nlmsg_type = FAMILY};
    struct genlmsghdr generic = {.cmd = command, .version = version};
    memset(m, 0, sizeof(*m));
    memcpy(m->bytes, &head, sizeof(head));
    memcpy(m->bytes + NLMSG_HDRLEN, &generic, sizeof(generic));
    m->length = NLMSG_HDRLEN + GENL_HDRLEN;
}

static void add(struct message *m, uint16_t type, const void *value, size_t length)
{
    struct nlattr head = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = type};
    memcpy(m->bytes + m->length, &head, sizeof(head));
    memcpy(m->bytes + m->length + NLA_HDRLEN, value, length);
    m->length += NLA_ALIGN(head.nla_len);
    assert_true(m->length <= sizeof(m->bytes));
}

static void add_text(struct message *m, uint16_t type, const char *text)
{
    add(m, type, text, strlen(text) + 1);
}

static void add_device(struct message *m, const char *name)
{
    uint32_t minor = 7, id = 42;
    add_text(m, TCMU_ATTR_DEVICE, name);
    add(m, TCMU_ATTR_MINOR, &minor, sizeof(minor));
    add(m, TCMU_ATTR_DEVICE_ID, &id, sizeof(id));
}

static int parse(struct message *m, struct tcmu_event *ret)
{
    uint32_t length = (uint32_t)m->length;
    memcpy(m->bytes, &length, sizeof(length));
    /* On the heap, to the byte, so that a sanitizer sees a read past the end. */
    uint8_t *copy = malloc(m->length);
    assert_non_null(copy);
    memcpy(copy, m->bytes, m->length);
    int r = tcmu_event_parse(copy, m->length, FAMILY, ret);
    free(copy);
    return r;
}

static void an_added_device_is_told(void **state)
{
    struct message m;
    struct tcmu_event event;
    begin(&m, TCMU_CMD_ADDED_DEVICE, 2);
    add_device(&m, "tcm-user/3/disk/hawser//srv/a.qcow2;cache=none");
    assert_int_equal(parse(&m, &event), 0);
    assert_int_equal(event.kind, TCMU_ADDED);
    assert_int_equal(event.minor, 7);
    assert_int_equal(event.device_id, 42);
    assert_true(event.can_be_answered);
    assert_int_equal(event.device.hba, 3);
    assert_string_equal(event.device.name, "disk");
    assert_string_equal(event.device.config, "hawser//srv/a.qcow2;cache=none");
}

static void an_old_kernel_wants_no_answer(void **state)
{
    struct message m;
    struct tcmu_event event;
    uint32_t minor = 1;
    begin(&m, TCMU_CMD_REMOVED_DEVICE, 1);
    add_text(&m, TCMU_ATTR_DEVICE, "tcm-user/0/x/foo/y");
    add(&m, TCMU_ATTR_MINOR, &minor, sizeof(minor));
    assert_int_equal(parse(&m, &event), 0);
    assert_false(event.can_be_answered);
}

static void the_three_reconfigurations_are_told_apart(void **state)
{
    struct message m;
    struct tcmu_event event;
    uint64_t size = 5 * GiB;
    uint8_t on = 1;
    begin(&m, TCMU_CMD_RECONFIG_DEVICE, 2);
    add_device(&m, "tcm-user/0/x/hawser//a");
    add(&m, TCMU_ATTR_DEV_SIZE, &size, sizeof(size));
    assert_int_equal(parse(&m, &event), 0);
    assert_true(event.has_size && !event.has_config && !event.has_write_cache);
    assert_int_equal(event.size_bytes, size);
    begin(&m, TCMU_CMD_RECONFIG_DEVICE, 2);
    add_device(&m, "tcm-user/0/x/hawser//a");
    add(&m, TCMU_ATTR_WRITECACHE, &on, sizeof(on));
    assert_int_equal(parse(&m, &event), 0);
    assert_true(event.has_write_cache && event.write_cache);
    begin(&m, TCMU_CMD_RECONFIG_DEVICE, 2);
    add_device(&m, "tcm-user/0/x/hawser//a");
    add_text(&m, TCMU_ATTR_DEV_CFG, "hawser//b\n");
    assert_int_equal(parse(&m, &event), 0);
    assert_true(event.has_config);
    assert_string_equal(event.config, "hawser//b");
}

static void a_newer_kernel_s_reconfiguration_is_none_of_them(void **state)
{
    struct message m;
    struct tcmu_event event;
    begin(&m, TCMU_CMD_RECONFIG_DEVICE, 2);
    add_device(&m, "tcm-user/0/x/hawser//a");
    add(&m, TCMU_ATTR_MAX + 5, "?", 1);
    assert_int_equal(parse(&m, &event), 0);
    assert_false(event.has_size || event.has_config || event.has_write_cache);
}

static void what_is_no_event_is_left(void **state)
{
    struct message m;
    struct tcmu_event event;
    begin(&m, TCMU_CMD_SET_FEATURES, 2);
    assert_int_equal(parse(&m, &event), -ENOMSG);
    begin(&m, TCMU_CMD_ADDED_DEVICE, 2);
    m.bytes[4] = FAMILY + 1;
    assert_int_equal(parse(&m, &event), -ENOMSG);
}

static void every_truncation_is_refused(void **state)
{
    struct message whole, cut;
    struct tcmu_event event;
    begin(&whole, TCMU_CMD_RECONFIG_DEVICE, 2);
    add_device(&whole, "tcm-user/3/disk/hawser//srv/a.qcow2");
    for (size_t length = 0; length < whole.length; length++) {
        cut = whole;
        cut.length = length;
        if (length < NLMSG_HDRLEN)
            assert_int_equal(tcmu_event_parse(cut.bytes, length, FAMILY, &event), -EBADMSG);
        else
            assert_int_equal(parse(&cut, &event), -EBADMSG);
    }
}

static void wrong_lengths_of_attributes_are_refused(void **state)
{
    struct message m;
    struct tcmu_event event;
    uint16_t minor16 = 1;
    begin(&m, TCMU_CMD_ADDED_DEVICE, 2);
    add_text(&m, TCMU_ATTR_DEVICE, "tcm-user/0/x/hawser//a");
    add(&m, TCMU_ATTR_MINOR, &minor16, sizeof(minor16));
    assert_int_equal(parse(&m, &event), -EBADMSG);
    begin(&m, TCMU_CMD_ADDED_DEVICE, 2);
    add_device(&m, "tcm-user/0/x/hawser//a");
    for (unsigned lie = 0; lie <= 0xffff; lie += 17) {
        uint16_t length = (uint16_t)lie;
        memcpy(m.bytes + NLMSG_HDRLEN + GENL_HDRLEN, &length, sizeof(length));
        if (length != NLA_HDRLEN + sizeof("tcm-user/0/x/hawser//a"))
            assert_int_equal(parse(&m, &event), -EBADMSG);
    }
}

static void names_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "tcm-user",
        "tcm-user/",
        "tcm-user//x/y",
        "tcm-user/1",
        "tcm-user/1/",
        "tcm-user/1//y",
        "tcm-user/1/./y",
        "rbd",
        "tcm-user/a/x",
        "tcm-user/-1/x/y",
        "tcm-user/99999999999/x/y",
        "tcm-user/1/..",
        "tcm-user/1/../hawser//a",
    };
    struct tcmu_device_name name;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(tcmu_device_name_parse(bad[i], strlen(bad[i]), &name), -EINVAL);
    assert_int_equal(tcmu_device_name_parse("tcm-user/1/a\0b/c", 16, &name), -EINVAL);
    assert_int_equal(tcmu_device_name_parse("tcm-user/1/x", 12, &name), 0);
    assert_string_equal(name.config, "");
}

static void the_handler_is_the_whole_first_part(void **state)
{
    assert_true(tcmu_config_is_for("hawser//a", "hawser"));
    assert_false(tcmu_config_is_for("hawser-attach/a", "hawser"));
    assert_false(tcmu_config_is_for("hawser", "hawser"));
    assert_false(tcmu_config_is_for("haw/a", "hawser"));
    assert_false(tcmu_config_is_for("", "hawser"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_added_device_is_told),
        cmocka_unit_test(an_old_kernel_wants_no_answer),
        cmocka_unit_test(the_three_reconfigurations_are_told_apart),
        cmocka_unit_test(a_newer_kernel_s_reconfiguration_is_none_of_them),
        cmocka_unit_test(what_is_no_event_is_left),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(wrong_lengths_of_attributes_are_refused),
        cmocka_unit_test(names_that_lead_elsewhere_are_refused),
        cmocka_unit_test(the_handler_is_the_whole_first_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
