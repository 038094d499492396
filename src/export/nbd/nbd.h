/*
 * The NBD server: roots of this process as network block devices.
 *
 * One server has any number of listening sockets and exports; a connection picks its export by
 * name, and is served by one of the server's queue threads for as long as it lives. An export may
 * have several connections: a flush on one of them covers what was completed on all
 * (NBD_FLAG_CAN_MULTI_CONN).
 *
 * Everything here is called from one coroutine, the one that controls the graph.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_NBD_H
#define EXPORT_NBD_NBD_H

#include "block/block.h"

struct nbd_server;
struct nbd_export;

#define NBD_THREADS_MAX         16
#define NBD_CONNECTIONS_DEFAULT 1024
#define NBD_MEMORY_DEFAULT      (256 * MiB)
#define NBD_MEMORY_MIN          (64 * MiB) /* the longest request, twice */
#define NBD_EXPORT_NAME_MAX     4096

struct nbd_server_options {
    unsigned threads;     /* queue threads, 1..NBD_THREADS_MAX; 0: one a CPU, up to 4 */
    unsigned connections; /* at a time; 0: NBD_CONNECTIONS_DEFAULT */
    uint64_t memory;      /* bytes, for all clients; 0: NBD_MEMORY_DEFAULT */
    bool clients_wait;    /* those beyond wait to be accepted; else they are refused */
    /** Called on any thread when the last of all connections has ended, if it had chosen an export.
     * It must not wait. NULL: nothing. */
    void (*left)(void *arg);
    void *left_arg;
};

HWS_MUST_CHECK int co_nbd_server_start(const struct nbd_server_options *options,
                                       struct nbd_server **ret, struct hws_error *err);

/**
 * Ends the listening sockets and all connections, once the requests that they have sent are
 * answered, and frees @server. Its exports must have been removed. NULL: nothing.
 */
void co_nbd_server_stop(struct nbd_server *server);

/**
 * A listening socket for "unix:PATH" or "tcp:HOST:PORT" ("tcp::PORT": all addresses of this host,
 * "[...]" around an IPv6 address). A unix socket gets mode 0600; one that nobody listens on any
 * more is replaced. "fd:N" is the descriptor N, which listens already and passes to the caller.
 * @ret_fd owned by the caller.
 */
HWS_MUST_CHECK int nbd_listen(const char *address, int *ret_fd, struct hws_error *err);

/** Accepts connections on @fd, which passes to the server also on failure. */
HWS_MUST_CHECK int co_nbd_server_listen(struct nbd_server *server, int fd, struct hws_error *err);

/** Serves the connected socket @fd, which passes to the server: it was accepted by somebody else.
 */
void nbd_server_adopt(struct nbd_server *server, int fd);

struct nbd_export_options {
    const char *name;        /* up to NBD_EXPORT_NAME_MAX bytes; "" is the default export */
    const char *description; /* or NULL */
    bool read_only;
    unsigned connections; /* at a time; 0: no limit but the server's */
    /**
     * Of the kernel's connections (nbd_serve_kernel()): one has ended, with all its requests;
     * @asked: the kernel said that it would. On a queue thread of the server; may not suspend.
     */
    void (*kernel_ended)(void *arg, bool asked);
    void *kernel_ended_arg;
    /* Names of the bitmaps that clients may see, with a NULL behind them; NULL: all. */
    const char *const *bitmaps;
    bool no_depth; /* do not offer qemu:allocation-depth */
};

/**
 * Serves @root, which must outlive the export. Where no export is called "", a client that names
 * none gets the first one. -EEXIST.
 */
HWS_MUST_CHECK int co_nbd_export_add(struct nbd_server *server, struct block_root *root,
                                     const struct nbd_export_options *options,
                                     struct nbd_export **ret, struct hws_error *err);

/**
 * Ends the export. -EBUSY while clients stay connected for two seconds, unless @force: then their
 * connections end, with what they have sent answered. @return 0 with @export freed.
 */
HWS_MUST_CHECK int co_nbd_export_remove(struct nbd_export *export, bool force,
                                        struct hws_error *err);

/**
 * Serves the kernel's own client (/dev/nbdN) on the connected stream socket @fd, which passes to
 * the server also on failure: no negotiation, simple replies. When one of the kernel's connections
 * to an export ends, for whatever reason, all of them do, so that what it sends again on another
 * one never runs beside the first.
 */
HWS_MUST_CHECK int nbd_serve_kernel(struct nbd_export *export, int fd, struct hws_error *err);

/** Connections of the kernel that one export has at most. */
#define NBD_KERNEL_CONNECTIONS_MAX 16

/**
 * Stops serving the kernel's connections between two requests, what was taken being answered, and
 * hands their sockets over: @ret_fds, owned by the caller. The kernel notices nothing; what it
 * sends meanwhile waits in them. A connection that does not get there within a few seconds is hung
 * up on. Afterwards the export has no connection. @return how many there are.
 */
unsigned co_nbd_export_park(struct nbd_export *export, int ret_fds[NBD_KERNEL_CONNECTIONS_MAX]);

/** Copies of their sockets' descriptors, close on exec, owned by the caller. @return how many. */
unsigned nbd_export_copy_sockets(struct nbd_export *export,
                                 int ret_fds[NBD_KERNEL_CONNECTIONS_MAX]);

/** The transmission flags that the kernel has to be told of @export. */
uint16_t nbd_kernel_flags(const struct nbd_export *export);

struct nbd_server_info {
    unsigned connections, connections_max; /* now, those that negotiate among them */
    unsigned waiting;                      /* connections that wait for memory */
    uint64_t accepted, refused;            /* connections since the start */
    uint64_t cut;                          /* for want of memory */
    uint64_t memory_bytes, memory_max_bytes;
};

void nbd_server_info(struct nbd_server *server, struct nbd_server_info *ret);

struct nbd_export_info {
    const char *name;
    bool read_only;
    unsigned connections;                /* now */
    uint64_t requests;                   /* since the start */
    uint64_t sent_bytes, received_bytes; /* of transmission, headers among them */
};

/** @ret strings live as long as @export. */
void nbd_export_info(const struct nbd_export *export, struct nbd_export_info *ret);

#endif
