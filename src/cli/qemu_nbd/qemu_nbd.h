/*
 * The qemu-nbd personality.
 *
 * Called by the name qemu-nbd, the program takes that tool's command line and serves one image as
 * it does: an engine in this process, without a control socket. Everything here is learnt from the
 * manual page and from running version 7.2 next to this one; tests/interop/qemu_nbd.py holds both
 * side by side.
 *
 *     main.c     the options, and what they forbid each other
 *     image.c    the image as a volume of the engine: -o, -l, -s
 *     listen.c   where it listens, sockets of a service manager
 *     daemon.c   --fork, --pid-file
 *     kernel.c   -c, -d: devices of the kernel
 *     object.c   --object: credentials for TLS
 *     list.c     -L: what another server exports
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QEMU_NBD_H
#define QEMU_NBD_H

#include "cli/qemu/qemu.h"

/** Runs the command line; @return the exit code. */
int qemu_nbd_main(int argc, char **argv);

#define QN_BITMAPS_MAX 14      /* contexts that the server offers beside its own two */
#define QN_VOLUME      "image" /* what the engine calls it */
#define QN_STRING_MAX  4096

/* The command line. */
struct qn_command {
    const char *port, *bind, *socket;
    const char *name, *description, *pid_file;
    const char *format, *file; /* file: the operand */
    const char *connect;       /* device of -c */
    const char *tls_creds, *tls_authz, *tls_hostname;
    struct qn_object *objects;
    const char *cache, *aio, *discard, *detect_zeroes, *snapshot;
    const char *bitmap[QN_BITMAPS_MAX + 1];
    unsigned bitmaps;
    unsigned reach; /* enum qi_reach */
    unsigned shared;
    uint64_t offset;
    bool offset_given;
    bool persistent, verbose, fork, read_only, temporary, list, depth, disconnect;
};

/* ---- image.c ---- */

/* The image as the engine is to open it. */
struct qn_image {
    struct qi_operand operand;
    char *temporary; /* of -s: the file that takes the writes; NULL */
    json_t *volume;  /* of the engine's configuration */
};

/** Tells what is wrong. @return 0 or 1. */
int qn_image(const struct qn_command *command, struct qn_image *image);
/** The temporary file needs its name no more. */
void qn_image_unlink(struct qn_image *image);
void qn_image_free(struct qn_image *image);

/* ---- listen.c ---- */

/** Sockets that a service manager hands over: how many. */
unsigned qn_activated(void);
/** -b and -p, or what they are by themselves. */
const char *qn_host(const struct qn_command *command);
const char *qn_port(const struct qn_command *command);
/** @return a listening socket, or -1 told. */
int qn_listen(const struct qn_command *command);

/* ---- kernel.c ---- */

/** Does the rest of the command line go with -c? @return 0, or 1 told. */
int qn_check_connect(const struct qn_command *command);
/** Is the device there? @return 0, or 1 told. */
int qn_check_device(const struct qn_command *command);
/** -d. @return the exit code. */
int qn_disconnect(const char *device);

/* ---- object.c ---- */

struct qn_object;

struct qn_creds {
    char *folder, *username;
    bool psk, server, verify_peer;
};

/** Takes one --object. @return 0, or 1 told. */
int qn_object_add(struct qn_object **objects, const char *text);
/** The credentials called @id, of a server or of a client. NULL: told. */
const struct qn_creds *qn_creds_find(struct qn_object *objects, const char *id, bool server);
void qn_objects_free(struct qn_object *objects);

/* ---- list.c ---- */

/** Prints what the server at the address exports; @creds NULL: without TLS. @return the exit code.
 */
int qn_list(const struct qn_command *command, const struct qn_creds *creds);

/* ---- daemon.c ---- */

struct qn_daemon {
    int told, ready; /* of --fork: pipes to the process that waits; -1 */
    int pid_file;    /* its lock; -1 */
};

/**
 * Goes into the background: returns in the new process only. The one that called waits until that
 * one serves, hands on what it tells, and ends.
 */
void qn_fork(struct qn_daemon *daemon);
/** It serves. @return 0 or 1, told. */
int qn_daemon_ready(struct qn_daemon *daemon, const char *pid_file);

#endif
