/*
 * The fabrics beside iSCSI, as far as no kernel is needed: NVMe's keys, and the options of NVMe,
 * Fibre Channel and vhost-scsi, resolved.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/nvmet.h"
#include "host/wwn.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

#define HOST  "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
#define KEY_1 "DHHC-1:00:Es6OBves8HqTWKTdcoZb1xC2IWTcy9WiYO5bTSm97gWU2yfQ:"
#define KEY_2 "DHHC-1:01:WviAtPjGZwN8Q1Fx7Wv4/jWMJLcl8S4ARTSPNfBVnDS++SOD:"

/* ---- keys ---- */

static void keys_of_both_directions_are_read(void **state)
{
    struct nvmet_keys keys;
    assert_int_equal(nvmet_keys_parse("# of the rack\nhost-key=" KEY_1
                                      "\r\n\ncontroller-key=" KEY_2,
                                      "file", &keys, NULL),
                     0);
    assert_string_equal(keys.host, KEY_1);
    assert_string_equal(keys.controller, KEY_2);
    assert_int_equal(nvmet_keys_parse("host-key=" KEY_1 "\n", "file", &keys, NULL), 0);
    assert_string_equal(keys.controller, "");
}

static void what_is_no_key_is_refused_and_never_told(void **state)
{
    static const char *const wrong[] = {
        "",
        "controller-key=" KEY_2 "\n",
        "host-key=\n",
        "host-key=Es6OBves8HqTWKTdcoZb1xC2IWTcy9WiYO5bTSm97gWU2yfQ\n",
        "host-key=DHHC-1:04:Es6OBves8HqTWKTdcoZb1xC2IWTcy9WiYO5bTSm97gWU2yfQ:\n",
        "host-key=DHHC-1:00:Es6OBves8HqTWKTdcoZb1xC2IWTcy9WiYO5bTSm97gWU2yfQ\n",
        "host-key=DHHC-1:00:Es6OBves8Hq TWKTdcoZb1xC2IWTcy9WiYO5bTSm97gWU2yfQ:\n",
        "host-key=DHHC-1:00::\nDHHC-1:00:Es6O\n",
        "host-key=" KEY_1 "\nhost-key=" KEY_2 "\n",
        "host-key=" KEY_1 "\ncontroller-key=" KEY_1 "\n",
        "password=Es6OBves8HqTWKTdcoZb\n",
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        struct nvmet_keys keys;
        struct hws_error err = {0};
        assert_int_equal(nvmet_keys_parse(wrong[i], "file", &keys, &err), -EINVAL);
        assert_non_null(strstr(err.text, "file"));
        assert_null(strstr(err.text, "Es6O"));
    }
}

/* ---- options ---- */

static json_t *resolve(const char *fabric, const char *text, int expected, const char *word)
{
    struct hws_error err = {0};
    json_t *object = json_loads(text, 0, NULL);
    assert_non_null(object);
    assert_int_equal(fabric_resolve(fabric_find(fabric, NULL), "disk", object, &err), expected);
    if (expected == 0)
        return object;
    json_decref(object);
    if (!strstr(err.text, word))
        print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, word));
    return NULL;
}

static void assert_member(const json_t *object, const char *name, const char *expected)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    assert_string_equal(text, expected);
}

static void nvme_options_are_completed_once_and_for_all(void **state)
{
    json_t *first = resolve("nvme", "{\"initiators\": \"" HOST "\"}", 0, NULL);
    json_t *second = json_deep_copy(first);
    assert_member(first, "portals", "0.0.0.0:4420");
    assert_int_equal(nqn_check(json_string_value(json_object_get(first, "target")), "", NULL), 0);
    assert_int_equal(fabric_resolve(fabric_find("nvme", NULL), "disk", second, NULL), 0);
    assert_true(json_equal(first, second));
    json_decref(first);
    json_decref(second);

    first = resolve("nvme", "{\"any-initiator\": true, \"fcloop\": true}", 0, NULL);
    assert_null(json_object_get(first, "portals"));
    json_decref(first);

    first =
        resolve("nvme",
                "{\"any-initiator\": true, \"fcloop\": true, \"portals\": "
                "\"192.0.2.1,[2001:DB8:0::1]:8009\", \"target\": \"nqn.2026-01.org.example:a\"}",
                0, NULL);
    assert_member(first, "portals", "192.0.2.1:4420,[2001:db8::1]:8009");
    assert_member(first, "target", "nqn.2026-01.org.example:a");
    json_decref(first);
}

static void wrong_nvme_options_are_named(void **state)
{
    static const struct {
        const char *text, *word;
    } wrong[] = {
        {"{}", "--initiator"},
        {"{\"initiators\": \"" HOST "\", \"any-initiator\": true}", "either"},
        {"{\"initiators\": \"iqn.2026-11.org.example:x\"}", "initiator"},
        {"{\"any-initiator\": true, \"target\": \"../../x\"}", "target"},
        {"{\"any-initiator\": true, \"target\": \"nqn.2014-08.org.nvmexpress.discovery\"}",
         "discovery"},
        {"{\"any-initiator\": true, \"portals\": \"localhost:4420\"}", "localhost"},
        {"{\"any-initiator\": true, \"portals\": \"192.0.2.1,192.0.2.1:4420\"}", "twice"},
        {"{\"any-initiator\": true, \"portals\": \"192.0.2.1:0\"}", "192.0.2.1:0"},
        {"{\"any-initiator\": true, \"secrets\": \"/etc/passwd\"}", "keys"},
        {"{\"any-initiator\": true, \"nqn\": \"x\"}", "nqn"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        resolve("nvme", wrong[i].text, -EINVAL, wrong[i].word);
    resolve("nvme", "{\"initiators\": \"" HOST "\", \"secrets\": \"/no/such/file\"}", -ENOENT,
            "/no/such/file");
}

static void keys_that_others_can_read_are_refused(void **state)
{
    char path[] = "/tmp/hawser-nvme-XXXXXX", text[256];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_true(write(fd, "host-key=" KEY_1, 9 + strlen(KEY_1)) > 0);
    snprintf(text, sizeof(text), "{\"initiators\": \"" HOST "\", \"secrets\": \"%s\"}", path);
    json_decref(resolve("nvme", text, 0, NULL));
    assert_int_equal(fchmod(fd, 0644), 0);
    resolve("nvme", text, -EPERM, "chmod 600");
    close(fd);
    unlink(path);
}

static void the_ports_of_a_loop_are_four_names(void **state)
{
    struct nvmet_loop a, b;
    struct nvmet_port port;
    nvmet_loop_names("a", &a);
    nvmet_loop_names("b", &b);
    assert_true(a.target_wwnn != a.target_wwpn && a.target_wwpn != a.host_wwpn &&
                a.host_wwpn != a.host_wwnn && a.target_wwpn != b.target_wwpn);
    nvmet_port_fc(0x3000000000000001, 0x3000000000000002, &port);
    assert_string_equal(port.address, "nn-0x3000000000000001:pn-0x3000000000000002");
    nvmet_port_tcp("[2001:db8::1]:4420", &port);
    assert_string_equal(port.address, "2001:db8::1");
    assert_string_equal(port.family, "ipv6");
    nvmet_port_tcp("192.0.2.1:8009", &port);
    assert_string_equal(port.address, "192.0.2.1");
    assert_string_equal(port.service, "8009");
    assert_string_equal(port.family, "ipv4");
}

static void vhost_names_are_made_up_or_checked(void **state)
{
    json_t *made = resolve("vhost-scsi", "{}", 0, NULL);
    assert_int_equal(
        strncmp(json_string_value(json_object_get(made, "target")), "naa.3", strlen("naa.3")), 0);
    json_decref(made);
    made = resolve("vhost-scsi", "{\"target\": \"50:01:40:50:00:00:00:0A\"}", 0, NULL);
    assert_member(made, "target", "naa.500140500000000a");
    json_decref(made);
    resolve("vhost-scsi", "{\"target\": \"naa.5\"}", -EINVAL, "target");
    resolve("vhost-scsi", "{\"initiators\": \"naa.500140500000000a\"}", -EINVAL, "initiators");
}

static void fibre_channel_names_are_checked(void **state)
{
    json_t *made = resolve("fc",
                           "{\"target\": \"0x21000024ff000001\", \"initiators\": "
                           "\"21000024FF000002,naa.21000024ff000003\"}",
                           0, NULL);
    assert_member(made, "target", "21:00:00:24:ff:00:00:01");
    assert_member(made, "initiators", "21:00:00:24:ff:00:00:02,21:00:00:24:ff:00:00:03");
    json_decref(made);
    resolve("fc", "{\"target\": \"0x21000024ff000001\"}", -EINVAL, "initiators");
    resolve("fc", "{\"target\": \"0x21000024ff000001\", \"initiators\": \"\"}", -EINVAL,
            "--initiator");
    resolve("fc", "{\"target\": \"0x2100\", \"initiators\": \"21000024ff000002\"}", -EINVAL,
            "0x2100");
    resolve("fc",
            "{\"target\": \"0x21000024ff000001\", \"initiators\": "
            "\"21000024ff000002,21:00:00:24:ff:00:00:02\"}",
            -EINVAL, "twice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_both_directions_are_read),
        cmocka_unit_test(what_is_no_key_is_refused_and_never_told),
        cmocka_unit_test(nvme_options_are_completed_once_and_for_all),
        cmocka_unit_test(wrong_nvme_options_are_named),
        cmocka_unit_test(keys_that_others_can_read_are_refused),
        cmocka_unit_test(the_ports_of_a_loop_are_four_names),
        cmocka_unit_test(vhost_names_are_made_up_or_checked),
        cmocka_unit_test(fibre_channel_names_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
