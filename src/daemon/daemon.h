/*
 * hawserd's parts: its settings, and the crash points of its tests.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "control/control.h"

struct settings {
    char *state;         /* folder of catalog and mount points */
    char *socket;        /* of the REST API */
    char *docker_socket; /* of the volume plugin; "none": not served */
    char *program;       /* `hawser` */
    char *log_level;
    uint64_t workers;
    uint64_t request_s; /* for a client to send a request */
};

/** Defaults, then the configuration file, then the command line. @return 0, -errno, or 1: the
 * program ends with exit code 0 (--help, --version). */
HWS_MUST_CHECK int settings_read(int argc, char **argv, struct settings *ret,
                                 struct hws_error *err);
void settings_free(struct settings *settings);

/** Sets control_options.at in the program of the tests; does nothing in hawserd itself. */
void crash_points(struct control_options *options);

#endif
