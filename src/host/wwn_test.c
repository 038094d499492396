/*
 * Names of Fibre Channel, vhost and NVMe: what is taken, what is refused, what comes out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/wwn.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void a_world_wide_name_is_read_in_every_form(void **state)
{
    static const char *const forms[] = {"21:00:00:24:ff:0a:b1:02", "0x21000024ff0ab102",
                                        "21000024FF0AB102", "naa.21000024ff0ab102"};
    char text[WWN_COLONS_BYTES];
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        uint64_t wwn = 0;
        assert_int_equal(wwn_parse(forms[i], "port", &wwn, NULL), 0);
        assert_true(wwn == 0x21000024ff0ab102ull);
    }
    wwn_colons(0x21000024ff0ab102ull, text);
    assert_string_equal(text, forms[0]);
    wwn_naa(0x21000024ff0ab102ull, text);
    assert_string_equal(text, forms[3]);
}

static void what_is_no_world_wide_name_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "0x",
        "naa.",
        "21:00:00:24:ff:0a:b1",
        "21:00:00:24:ff:0a:b1:02:",
        "21:00:00:24:ff:0a:b1:0g",
        "21-00-00-24-ff-0a-b1-02",
        "0x21:00:00:24:ff:0a:b1:02",
        "2:100:00:24:ff:0a:b1:02",
        "21000024ff0ab1021",
        "0000000000000000",
        "../21000024ff0ab1",
        "iqn.2001-04.com.example:x",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct hws_error err = {0};
        uint64_t wwn = 7;
        assert_int_equal(wwn_parse(bad[i], "port", &wwn, &err), -EINVAL);
        assert_true(wwn == 7);
        assert_non_null(strstr(err.text, "port: "));
    }
}

static void nvme_names_follow_the_specification(void **state)
{
    static const char *const good[] = {
        "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432",
        "nqn.2026-12.org.example",
    };
    static const char *const bad[] = {
        "",
        "nqn.",
        "iqn.2014-08.com.example:x",
        "nqn.2014-13.com.example:x",
        "nqn.2014-00.com.example:x",
        "nqn.14-08.com.example:x",
        "nqn.2014-08.:x",
        "nqn.2014-08.com.example:a/b",
        "nqn.2014-08.com.example:a b",
        "nqn.2014-08.com.example:a\n",
        "nqn.2014-08.org.nvmexpress:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
        "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf",
        "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf60",
        "nqn.2014-08.org.nvmexpress.discovery",
    };
    char name[NQN_MAX + 2];
    for (unsigned i = 0; i < ARRAY_LEN(good); i++)
        assert_int_equal(nqn_check(good[i], "target", NULL), 0);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct hws_error err = {0};
        assert_int_equal(nqn_check(bad[i], "target", &err), -EINVAL);
        assert_non_null(strstr(err.text, "target: "));
    }
    memset(name, 'x', sizeof(name));
    memcpy(name, "nqn.2014-08.a", 13);
    name[NQN_MAX + 1] = '\0';
    assert_int_equal(nqn_check(name, "target", NULL), 0 - EINVAL);
    name[NQN_MAX] = '\0';
    assert_int_equal(nqn_check(name, "target", NULL), 0);
}

static void made_up_names_stay_the_same_and_differ(void **state)
{
    uint8_t a[16], b[16], c[16], d[16];
    char text[UUID_TEXT_BYTES], name[NQN_UUID_BYTES];
    name_digest("nvme", "disk", a);
    name_digest("nvme", "disk", b);
    name_digest("nvme", "disk2", c);
    name_digest("vhost-scsi", "disk", d);
    assert_memory_equal(a, b, 16);
    assert_memory_not_equal(a, c, 16);
    assert_memory_not_equal(a, d, 16);
    uuid_text(a, text);
    snprintf(name, sizeof(name), "nqn.2014-08.org.nvmexpress:uuid:%s", text);
    assert_int_equal(nqn_check(name, "made up", NULL), 0);
    assert_int_equal(text[14], '8');
    assert_true(wwn_local(a) >> 60 == 3);
    assert_true(wwn_local(a) != wwn_local(c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_world_wide_name_is_read_in_every_form),
        cmocka_unit_test(what_is_no_world_wide_name_is_refused),
        cmocka_unit_test(nvme_names_follow_the_specification),
        cmocka_unit_test(made_up_names_stay_the_same_and_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
