/*
 * A server in a child process, for tests of exports and of host devices: the child opens an image,
 * exports it, and obeys commands over a socket; the parent is the user of the file or device.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_EXPORT_SERVER_H
#define TESTS_EXPORT_SERVER_H

#include "export/fuse/fuse.h"

struct server_options {
    const char *image; /* open description; NULL: 64 MiB of memory */
    const char *path;  /* mount point */
    bool read_only;
    unsigned threads;
    enum fuse_transport transport;
    enum rt_kind runtime;
};

struct server {
    pid_t pid;
    int socket;
    char text[512]; /* what the last command said: an error, or the transport or device name */
};

/** @return 0, or the -errno with which the export could not start; server->text says why. */
int server_start(const struct server_options *options, struct server *server);

/** Sends one command and waits for its result. */
int server_command(struct server *server, char command, uint64_t argument);

/* Argument 1: by force. -EBUSY leaves it running. */
#define SERVER_STOP        'q'
#define SERVER_RESIZE      's' /* argument: new size in bytes */
#define SERVER_LOOP        'l' /* loop device on the mount; argument: block size. text: its path */
#define SERVER_LOOP_RESIZE 'r'
#define SERVER_LOOP_DETACH 'd'

/** Waits for the child's exit. @return its status: 0 for a clean end, negative for a signal. */
int server_wait(struct server *server);

/** SIGKILL, and wait. */
void server_kill(struct server *server);

#endif
