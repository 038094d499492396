/*
 * hawserd's parts: its settings, and the crash points of its tests.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "api/http/server.h"
#include "control/control.h"

struct settings {
    char *state;         /* folder of catalog and mount points */
    char *socket;        /* of the REST API */
    char *docker_socket; /* of the volume plugin; "none": not served */
    char *docker_scope;  /* what the plugin tells of its volumes: local or global */
    char *program;       /* `hawser` */
    char *cgroup;        /* where engines have groups of their own; NULL: looked for */
    char *log_level, *log_format, *master_key;
    char *listen; /* "HOST:PORT" of the REST API over TLS; NULL: not served */
    char *tls;    /* folder of certificates; NULL: none */
    json_t *roles;
    uint64_t workers;
    uint64_t events;    /* that are remembered */
    char *host;         /* what shared pools know this host by; NULL: its machine id */
    uint64_t lease_s;   /* 0: the usual */
    uint64_t request_s; /* for a client to send a request */
};

/** Defaults, then the configuration file, then the command line. @return 0, -errno, or 1: the
 * program ends with exit code 0 (--help, --version). */
HWS_MUST_CHECK int settings_read(int argc, char **argv, struct settings *ret,
                                 struct hws_error *err);
void settings_free(struct settings *settings);

/* ---- roles.c ---- */

HWS_MUST_CHECK int roles_check(const json_t *roles, struct hws_error *err);
/** Whether users of this host are among them, beside root. */
bool roles_have_users(const json_t *roles);
/** http_options.admit; @roles is the table. */
int roles_admit(void *roles, const struct http_peer *peer);

/* ---- activation.c ---- */

enum { ACTIVATED_REST, ACTIVATED_DOCKER, ACTIVATED_TCP, ACTIVATED_SOCKETS };

struct activation {
    int fd[ACTIVATED_SOCKETS]; /* -1: none was passed */
};

/** Takes what a service manager has passed, once. */
HWS_MUST_CHECK int activation_take(struct activation *ret, struct hws_error *err);

/* ---- log.c ---- */

/** @format "text" or "json". */
void daemon_log(const char *level, const char *format);

/** Sets control_options.at in the program of the tests; does nothing in hawserd itself. */
void crash_points(struct control_options *options);

#endif
