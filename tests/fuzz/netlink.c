/*
 * Fuzz target: what the kernel tells about backstores, by netlink and by the names of their uio
 * devices, and the configuration strings in them; what it answers about network block devices.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/config_string.h"
#include "drivers/drivers.h"
#include "export/tcmu/netlink.h"
#include "fuzz.h"
#include "host/nbd_control.h"

static void check_name(const struct tcmu_device_name *name)
{
    struct config_string config;
    struct hws_error err = {0};
    assert(name->name[0] && !strchr(name->name, '/'));
    assert(strcmp(name->name, ".") != 0 && strcmp(name->name, "..") != 0);
    int r = config_string_parse(name->config, &config, &err);
    assert(r == 0 ? config.image[0] == '/' : err.text[0] != '\0');
    if (r == 0)
        config_string_free(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct tcmu_event event;
    struct tcmu_device_name name;
    drivers_register();
    if (tcmu_device_name_parse((const char *)bytes, length, &name) == 0)
        check_name(&name);
    if (length < 8)
        return 0;
    /* The family is that of the message, so that most inputs get past the first check. */
    uint16_t family;
    memcpy(&family, bytes + 4, sizeof(family));
    struct nbd_control_answer answer = {0};
    if (nbd_control_parse(bytes, length, family, 1, &answer) == 0)
        assert(!answer.connected || answer.has_status);
    if (tcmu_event_parse(bytes, length, family, &event) == 0) {
        assert(event.kind >= TCMU_ADDED && event.kind <= TCMU_RECONFIG);
        check_name(&event.device);
    }
    return 0;
}
