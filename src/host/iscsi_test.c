/*
 * iSCSI's words: names, portals and secrets as people and files give them; and the options of the
 * iSCSI fabric, resolved without a kernel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/fabric.h"
#include "host/iscsi.h"
#include "host/portal.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

/* ---- names ---- */

static int check_name(const char *text)
{
    char name[512];
    struct hws_error err = {0};
    snprintf(name, sizeof(name), "%s", text);
    int r = iscsi_name_check(name, "target", &err);
    assert_int_equal(r < 0, err.text[0] != 0);
    return r;
}

static void names_of_the_standard_are_taken(void **state)
{
    assert_int_equal(check_name("iqn.2026-11.org.example:disk1"), 0);
    assert_int_equal(check_name("iqn.2026-11.org.example"), 0);
    assert_int_equal(check_name("iqn.1993-08.org.debian:01:abcdef"), 0);
    assert_int_equal(check_name("iqn.1991-05.com.microsoft:host.example.org"), 0);
    assert_int_equal(check_name("eui.0123456789abcdef"), 0);
    assert_int_equal(check_name("naa.52004567ba64678d"), 0);
    assert_int_equal(check_name("naa.62004567ba64678d0123456789abcdef"), 0);
}

static void names_are_compared_in_lower_case(void **state)
{
    char name[] = "IQN.2026-11.Org.Example:DISK";
    assert_int_equal(iscsi_name_check(name, "target", NULL), 0);
    assert_string_equal(name, "iqn.2026-11.org.example:disk");
}

static void what_is_no_name_is_refused(void **state)
{
    char name[400];
    static const char *const wrong[] = {
        "",
        "disk",
        "iqn.",
        "iqn.2026",
        "iqn.2026-13.org.example",
        "iqn.2026-00.org.example",
        "iqn.2026-1.org.example",
        "iqn.2026-11.",
        "iqn.2026-11.:x",
        "iqn.2026-11..example",
        "iqn.2026-11.example.",
        "iqn.2026-11.org.example:",
        "iqn.2026-11.org.example:a b",
        "iqn.2026-11.org.example:a_b",
        "iqn.2026-11.org.example:a/../b",
        "iqn.2026-11.org.example:\xc3\xa4",
        "eui.0123456789abcde",
        "eui.0123456789abcdeg",
        "naa.123",
        "nqn.2014-08.org.nvmexpress:x",
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(check_name(wrong[i]), -EINVAL);
    memset(name, 'a', sizeof(name));
    memcpy(name, "iqn.2026-11.org.example:", 24);
    name[FABRIC_NAME_MAX] = '\0';
    assert_int_equal(check_name(name), 0);
    name[FABRIC_NAME_MAX] = 'a';
    name[FABRIC_NAME_MAX + 1] = '\0';
    assert_int_equal(check_name(name), -EINVAL);
}

static void made_up_names_are_valid_and_stay_the_same(void **state)
{
    char first[FABRIC_NAME_MAX + 1], second[FABRIC_NAME_MAX + 1], other[FABRIC_NAME_MAX + 1];
    iscsi_name_make("My_Disk.1", first);
    iscsi_name_make("My_Disk.1", second);
    iscsi_name_make("other", other);
    assert_int_equal(check_name(first), 0);
    assert_string_equal(first, second);
    assert_string_not_equal(first, other);
    assert_non_null(strstr(first, ":my-disk.1"));
}

/* ---- portals ---- */

static void check_portal(const char *text, const char *expected)
{
    char portal[ISCSI_PORTAL_BYTES] = "";
    struct hws_error err = {0};
    int r = iscsi_portal_parse(text, portal, &err);
    assert_int_equal(r, expected ? 0 : -EINVAL);
    if (expected)
        assert_string_equal(portal, expected);
    else
        assert_non_null(strstr(err.text, "portal"));
}

static void portals_are_addresses_with_ports(void **state)
{
    check_portal("192.0.2.1", "192.0.2.1:3260");
    check_portal("192.0.2.1:860", "192.0.2.1:860");
    check_portal("0.0.0.0", "0.0.0.0:3260");
    check_portal("::1", "[::1]:3260");
    check_portal("[::1]", "[::1]:3260");
    check_portal("[2001:DB8::0:1]:861", "[2001:db8::1]:861");
    check_portal("2001:db8::1", "[2001:db8::1]:3260");
}

static void what_is_no_portal_is_refused(void **state)
{
    static const char *const wrong[] = {
        "",        "host",         "host:3260",       "192.0.2.1:",       "192.0.2.1:0",
        ":3260",   "192.0.2.256",  "192.0.2.1:65536", "192.0.2.1:-1",     "192.0.2.1:32 60",
        "[::1",    "::1]",         "[::1]x",          "[::1]:",           "[192.0.2.1]:3260",
        "[]:3260", "fe80::1%eth0", "../np",           "192.0.2.1:3260/x",
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        check_portal(wrong[i], NULL);
}

static void a_portal_that_is_taken_is_told(void **state)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(here);
    char portal[PORTAL_BYTES];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof(here)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&here, &length), 0);
    snprintf(portal, sizeof(portal), "127.0.0.1:%u", ntohs(here.sin_port));
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(portal_try(portal), -EADDRINUSE);
    close(fd);
    assert_int_equal(portal_try(portal), 0);
}

/* ---- secrets ---- */

static int parse_chap(const char *text, struct iscsi_chap *chap, struct hws_error *err)
{
    *err = (struct hws_error){0};
    int r = iscsi_chap_parse(text, "FILE", chap, err);
    assert_int_equal(r < 0, err->text[0] != 0);
    return r;
}

static void secrets_of_both_directions_are_read(void **state)
{
    struct iscsi_chap chap;
    struct hws_error err;
    assert_int_equal(parse_chap("# who logs in\nuser=alice\npassword=a secret = 12345\n\n"
                                "mutual-user=target\r\nmutual-password=another secret",
                                &chap, &err),
                     0);
    assert_string_equal(chap.user, "alice");
    assert_string_equal(chap.password, "a secret = 12345");
    assert_string_equal(chap.mutual_user, "target");
    assert_string_equal(chap.mutual_password, "another secret");
    assert_int_equal(parse_chap("user=alice\npassword=abcdefghijkl\n", &chap, &err), 0);
    assert_string_equal(chap.mutual_user, "");
}

static void secrets_that_are_weak_or_half_are_refused_and_never_told(void **state)
{
    static const char *const wrong[] = {
        "",
        "user=alice\n",
        "password=hush-hush-hush\n",
        "user=alice\npassword=hush-hush\n",
        "user=alice\npassword=\n",
        "user=\npassword=hush-hush-hush\n",
        "user=alice\npassword=hush-hush-hush\nmutual-user=t\n",
        "user=alice\npassword=hush-hush-hush\nmutual-password=hush-hush-hush2\n",
        "user=alice\npassword=hush-hush-hush\nmutual-user=t\nmutual-password=hush\n",
        "user=alice\npassword=hush-hush-hush\nmutual-user=t\nmutual-password=hush-hush-hush\n",
        "user=alice\nuser=bob\npassword=hush-hush-hush\n",
        "user=alice\npassword=hush-hush-hush\nother=hush\n",
        "user=alice\nhush-hush-hush\n",
        "user=alice\npassword=NULLhush-hush-hush\n",
        "user=alice\npassword=hush-hush-hush\x01\n",
    };
    struct iscsi_chap chap;
    struct hws_error err;
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(parse_chap(wrong[i], &chap, &err), -EINVAL);
        assert_null(strstr(err.text, "hush"));
    }
}

static void files_that_others_can_read_hold_no_secrets(void **state)
{
    char path[] = "/tmp/hawser-chap-XXXXXX";
    struct iscsi_chap chap;
    struct hws_error err = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_true(write(fd, "user=alice\npassword=abcdefghijkl\n", 33) == 33);
    assert_int_equal(iscsi_chap_load(path, &chap, &err), 0);
    assert_int_equal(fchmod(fd, 0640), 0);
    assert_int_equal(iscsi_chap_load(path, &chap, &err), -EPERM);
    assert_non_null(strstr(err.text, "chmod"));
    assert_int_equal(fchmod(fd, 0600), 0);
    assert_int_equal(ftruncate(fd, 100000), 0);
    assert_int_equal(iscsi_chap_load(path, &chap, &err), -EFBIG);
    close(fd);
    unlink(path);
    assert_int_equal(iscsi_chap_load(path, &chap, &err), -ENOENT);
}

/* ---- options ---- */

static int resolve(json_t *object, struct hws_error *err)
{
    const struct fabric *fabric = fabric_find("iscsi", NULL);
    *err = (struct hws_error){0};
    return fabric_resolve(fabric, "disk", object, err);
}

static void options_are_completed_once_and_for_all(void **state)
{
    struct hws_error err;
    json_t *object =
        json_pack("{s:s, s:s}", "initiators", "IQN.2026-11.org.example:A,eui.0123456789abcdef",
                  "portals", "192.0.2.1,[::1]:1");
    assert_int_equal(resolve(object, &err), 0);
    assert_string_equal(json_string_value(json_object_get(object, "initiators")),
                        "iqn.2026-11.org.example:a,eui.0123456789abcdef");
    assert_string_equal(json_string_value(json_object_get(object, "portals")),
                        "192.0.2.1:3260,[::1]:1");
    json_t *again = json_deep_copy(object);
    assert_int_equal(resolve(again, &err), 0);
    assert_true(json_equal(again, object));
    json_decref(again);
    json_decref(object);
}

static void nobody_is_let_in_unasked(void **state)
{
    struct hws_error err;
    json_t *object = json_object();
    assert_int_equal(resolve(object, &err), -EINVAL);
    assert_non_null(strstr(err.text, "--any-initiator"));
    json_object_set_new(object, "any-initiator", json_true());
    assert_int_equal(resolve(object, &err), 0);
    json_object_set_new(object, "initiators", json_string("iqn.2026-11.org.example:a"));
    assert_int_equal(resolve(object, &err), -EINVAL);
    json_decref(object);
}

static void wrong_options_are_named(void **state)
{
    static const struct {
        const char *name, *value, *told;
    } wrong[] = {
        {"initiators", "iqn.2026-11.org.example:a,", "initiators"},
        {"initiators", "iqn.2026-11.org.example:a,IQN.2026-11.org.example:a", "twice"},
        {"initiators", "somebody", "somebody"},
        {"portals", "192.0.2.1,192.0.2.1:3260", "twice"},
        {"portals", "example.org", "example.org"},
        {"target", "disk", "disk"},
        {"secrets", "/nonexistent/secrets", "/nonexistent/secrets"},
        {"sekrets", "x", "sekrets"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        struct hws_error err;
        json_t *object = json_pack("{s:s}", "initiators", "iqn.2026-11.org.example:a");
        json_object_set_new(object, wrong[i].name, json_string(wrong[i].value));
        assert_true(resolve(object, &err) < 0);
        assert_non_null(strstr(err.text, wrong[i].told));
        json_decref(object);
    }
}

static void lists_have_an_end(void **state)
{
    char text[4096] = "";
    size_t used = 0;
    struct fabric_list list;
    struct hws_error err = {0};
    for (unsigned i = 0; i < FABRIC_LIST_MAX; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%u", i ? "," : "", i);
    assert_int_equal(fabric_list_split(text, "things", &list, &err), 0);
    assert_int_equal(list.count, FABRIC_LIST_MAX);
    assert_string_equal(list.item[63], "63");
    fabric_list_free(&list);
    snprintf(text + used, sizeof(text) - used, ",64");
    assert_int_equal(fabric_list_split(text, "things", &list, &err), -EINVAL);
    assert_non_null(strstr(err.text, "things"));
    assert_int_equal(fabric_list_split(NULL, "things", &list, &err), 0);
    assert_int_equal(list.count, 0);
    assert_int_equal(fabric_list_split("a, b", "things", &list, &err), -EINVAL);
}

static void an_unknown_fabric_is_told_the_known_ones(void **state)
{
    struct hws_error err = {0};
    assert_null(fabric_find("pigeon", &err));
    assert_non_null(strstr(err.text, "pigeon"));
    assert_non_null(strstr(err.text, "iscsi"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_the_standard_are_taken),
        cmocka_unit_test(names_are_compared_in_lower_case),
        cmocka_unit_test(what_is_no_name_is_refused),
        cmocka_unit_test(made_up_names_are_valid_and_stay_the_same),
        cmocka_unit_test(portals_are_addresses_with_ports),
        cmocka_unit_test(what_is_no_portal_is_refused),
        cmocka_unit_test(a_portal_that_is_taken_is_told),
        cmocka_unit_test(secrets_of_both_directions_are_read),
        cmocka_unit_test(secrets_that_are_weak_or_half_are_refused_and_never_told),
        cmocka_unit_test(files_that_others_can_read_hold_no_secrets),
        cmocka_unit_test(options_are_completed_once_and_for_all),
        cmocka_unit_test(nobody_is_let_in_unasked),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(lists_have_an_end),
        cmocka_unit_test(an_unknown_fabric_is_told_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
