/*
 * The handler of targetcli's backstores: `hawser tcmu-handler`. One process serves every backstore
 * of the kernel's SCSI target whose configuration begins with "hawser/", whoever made it, alone or
 * beside a running tcmu-runner. docs/targetcli.md is the user's page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HANDLER_CLIENT_H
#define HANDLER_CLIENT_H

#include "base/common.h"
#include "hawser/error.h"

struct handler_options {
    const char *const *allow; /* folders that images must lie in, NULL-terminated; NULL: anywhere */
    unsigned threads;         /* that serve all devices together; 0: one a processor, at most 8 */
    int log_level;            /* enum log_level */
    bool no_dbus;             /* do not register with D-Bus */
    /*
     * Where tcmu-runner runs beside: let the kernel go on waiting for handlers' answers. Then
     * backstores must be made with control=nl_reply_supported=-1, or tcmu-runner, which refuses
     * what is not its own, may be faster than this handler, and the creation fails.
     */
    bool keep_answers;
};

/**
 * Serves until SIGTERM or SIGINT, and then leaves the devices to its successor: commands that come
 * meanwhile are sent again by the initiators. SIGHUP looks for devices anew.
 * @return 0, or -errno where it could not start.
 */
HWS_MUST_CHECK int handler_main(const struct handler_options *options, struct hws_error *err);

#endif
