/*
 * Inside the NBD server.
 *
 *   lane        a queue thread, the connections on it, and its free memory
 *   connection  a socket: negotiation in a coroutine of its own, then transmission
 *   request     one command: its payload, its execution in a coroutine, its reply
 *
 *   socket --(watch)--> transmission.c --spawn--> request.c --> send.c --(one sendmsg)--> socket
 *        chunks of received bytes                 roots         replies that are ready
 *
 * A connection that waits for its client has no coroutine and no buffer. Payload of a write stays
 * in the chunk in which it was received, where it fits one.
 *
 * Everything of a connection runs on its lane's thread; the server's lists are guarded by
 * server->lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_INTERNAL_H
#define EXPORT_NBD_INTERNAL_H

#include "export/nbd/nbd.h"
#include "rt/sync.h"
#include "wire/nbd/nbd.h"

/* ---- what a client may cost ---- */

#define NBD_CHUNK_BYTES   (64 * KiB) /* received at a time */
#define NBD_PAYLOAD_MAX   (32 * MiB) /* of one read or write */
#define NBD_PIECE_BYTES   (2 * MiB)  /* longer reads and writes are done in pieces of this */
#define NBD_AT_ONCE_BYTES (64 * KiB) /* reads up to here may be done without a coroutine */
#define NBD_AT_ONCE_MAX   32u        /* of those, before their replies go out */
#define NBD_STATUS_BYTES  (64 * KiB) /* of a block status reply, all contexts together */
#define NBD_REQUESTS_MAX  256u       /* in flight on a connection; then it is not read from */
#define NBD_IN_FLIGHT_MAX (16 * MiB) /* bytes of them, likewise */
#define NBD_HANDSHAKE_NS  ((uint64_t)15 * 1000000000) /* for the whole negotiation */
#define NBD_SEND_NS       ((uint64_t)60 * 1000000000) /* without taking a byte of its replies */
#define NBD_GOODBYE_NS    ((uint64_t)2 * 1000000000)  /* to take the last replies at an end */
#define NBD_PARK_NS       ((uint64_t)10 * 1000000000) /* to get to the end of what was taken */
#define NBD_OPTION_MAX    (64 * KiB)                  /* data of an option */
#define NBD_CONTEXTS_MAX  16u
#define NBD_QUERIES_MAX   64u
#define NBD_REQUEST_COST  (16 * KiB) /* of a request beside its buffers */
#define NBD_STALLS_MAX    5u         /* seconds without progress while memory is short */

/* ---- memory of a thread (pool.c) ---- */

#define NBD_POOL_CLASSES 6 /* 4 KiB, 16 KiB, ..., 4 MiB */

struct nbd_chunk {
    struct nbd_chunk *next; /* free ones */
    unsigned references;    /* the connection that receives into it, and requests */
    uint8_t *bytes;         /* NBD_CHUNK_BYTES, page-aligned */
};

struct nbd_pool {
    void *buffer[NBD_POOL_CLASSES]; /* free ones, linked through their first word */
    size_t buffer_bytes;            /* of all free ones */
    struct nbd_chunk *chunk;
    unsigned chunks;
    struct nbd_request *request;
    bool watched; /* the lane will give back what is not used */
    bool used;    /* since it looked last */
};

/* ---- memory of all (memory.c) ---- */

struct nbd_lane;
struct nbd_connection;

void nbd_memory_init(struct nbd_server *server, uint64_t memory);
/** Takes @bytes, whatever is free. */
void nbd_memory_charge(struct nbd_lane *lane, uint64_t bytes);
void nbd_memory_give(struct nbd_lane *lane, uint64_t bytes);
/** Takes @bytes for a request of @c. Where there are not enough it is in line then, and woken
 *  (c->blocked) when it may try again; until nbd_memory_sated(). */
HWS_MUST_CHECK bool nbd_memory_take(struct nbd_connection *c, uint64_t bytes);
void nbd_memory_sated(struct nbd_connection *c);
/** Whether somebody waits; then the lane calls nbd_memory_tick() every second and when woken. */
bool nbd_memory_is_short(struct nbd_lane *lane);
void nbd_memory_tick(struct nbd_lane *lane);

/** @bytes at most NBD_PIECE_BYTES or NBD_PAYLOAD_MAX; page-aligned. NULL when out of memory. */
void *nbd_buffer_get(struct nbd_pool *pool, size_t bytes);
void nbd_buffer_put(struct nbd_pool *pool, void *buffer, size_t bytes);
struct nbd_chunk *nbd_chunk_get(struct nbd_pool *pool);
void nbd_chunk_put(struct nbd_pool *pool, struct nbd_chunk *chunk);
struct nbd_request *nbd_request_get(struct nbd_pool *pool);
void nbd_request_put(struct nbd_pool *pool, struct nbd_request *request);
/** Gives back all but a few small ones. */
void nbd_pool_trim(struct nbd_pool *pool);
void nbd_pool_free(struct nbd_pool *pool);

/* ---- server ---- */

struct nbd_lane {
    struct nbd_server *server;
    struct rt_queue *queue;
    unsigned connections; /* guarded by server->lock */
    struct nbd_pool pool;
    struct rt_mutex lock;
    struct co_waitq woken;
    struct co_mutex handshake; /* one TLS handshake's arithmetic at a time */
    struct list ended;         /* connections to be freed */
    bool ending;
    int64_t credit; /* bytes of server->memory_used that nobody has yet */
    struct list hungry;
    _Atomic unsigned hungry_count;
    uint64_t swept_ns;
};

/** Has it look around. Any thread. */
void nbd_lane_wake(struct nbd_lane *lane);

/** The coroutine of a lane: frees what has ended, and memory that rests. */
void co_nbd_lane(void *arg);
/** The pool has something to give back, later. On the lane's thread. */
void nbd_lane_watch_pool(struct nbd_lane *lane);
/** Ends co_nbd_lane(). Any thread. */
void nbd_lane_end(struct nbd_lane *lane);

struct nbd_server {
    struct rt_mutex lock;
    struct co_waitq changed; /* a connection or a listener ended */
    struct list exports, connections, listeners;
    struct nbd_tls *tls; /* or NULL */
    unsigned refusals;   /* by TLS, that were told of since refusals_ns */
    uint64_t refusals_ns;
    unsigned connection_count, connections_max;
    bool stopping;
    bool clients_wait;
    void (*left)(void *arg);
    void *left_arg;
    uint64_t memory_max;
    _Atomic uint64_t memory_used;         /* by the lanes, their credit among it */
    _Atomic unsigned hungry;              /* connections that wait for memory */
    struct nbd_connection *_Atomic claim; /* the one that all wait for; only compared */
    _Atomic uint64_t accepted, refused, cut;
    unsigned lanes;
    struct nbd_lane lane[NBD_THREADS_MAX];
};

/* Written by one thread, read by any. */
struct nbd_counts {
    _Atomic uint64_t requests, sent_bytes, received_bytes;
};

/** Adds to a counter that no other thread writes. */
static inline void nbd_count(_Atomic uint64_t *counter, uint64_t more)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + more, memory_order_relaxed);
}

struct nbd_connection;

struct nbd_export {
    struct list link;
    struct nbd_server *server;
    struct block_root *root;
    char *name, *description;
    uint32_t preferred_bytes; /* of requests, as clients are told */
    bool rotational;          /* likewise */
    char **bitmaps;           /* that clients may see, NULL at the end; NULL: all */
    bool read_only, no_depth, removed;
    unsigned connections, connections_max;
    unsigned looks;          /* who negotiates, and only looks so far */
    struct nbd_counts ended; /* of connections that are gone */
    void (*kernel_ended)(void *arg, bool asked);
    void *kernel_ended_arg;
    int parked[NBD_KERNEL_CONNECTIONS_MAX]; /* sockets to be handed over */
    unsigned parked_count;
};

/**
 * Finds the export that a client names and counts the connection as its user. -ENOENT, -EUSERS (it
 * has as many as it may), -ESHUTDOWN.
 */
HWS_MUST_CHECK int nbd_export_use(struct nbd_server *server, const char *name, size_t length,
                                  struct nbd_export **ret);
/** The same for who only wants to know of it; there may be any number. */
HWS_MUST_CHECK int nbd_export_look(struct nbd_server *server, const char *name, size_t length,
                                   struct nbd_export **ret);
void nbd_export_join(struct nbd_export *export);
void nbd_export_leave(struct nbd_export *export, bool look);
/** A connection is out of the server's list: it leaves, its counts stay. Caller holds server->lock.
 */
void nbd_export_ended(struct nbd_connection *connection);
/** Takes the connection's socket, for co_nbd_export_park(). */
void nbd_export_keep_socket(struct nbd_connection *connection);
/** Ends all its connections. Any thread. */
void nbd_export_cut(struct nbd_export *export);
/** Whether clients may see the bitmap called @name. */
bool nbd_export_shows(const struct nbd_export *export, const char *name);
/** The export's transmission flags, for a client with structured replies or without. */
uint16_t nbd_export_flags(const struct nbd_export *export, bool structured);

/* ---- connection ---- */

enum nbd_context_kind { NBD_CONTEXT_ALLOCATION, NBD_CONTEXT_DEPTH, NBD_CONTEXT_BITMAP };

struct nbd_context {
    enum nbd_context_kind kind;
    char *bitmap; /* its name; NULL but for NBD_CONTEXT_BITMAP */
};

struct nbd_connection {
    struct list link;  /* in server->connections */
    struct list ended; /* in lane->ended */
    struct nbd_lane *lane;
    struct nbd_export *export; /* NULL during negotiation, until one is chosen */
    int fd;
    struct nbd_tls_session *tls; /* NULL: in the clear */

    bool kernel;  /* the other end is the kernel's driver */
    bool asked;   /* the client said that it would end */
    bool parking; /* it ends between two requests, its socket does not */
    bool parked;

    /* negotiated */
    bool no_zeroes, structured, extended;
    struct nbd_context contexts[NBD_CONTEXTS_MAX]; /* in the order asked for */
    unsigned context_count;
    char *contexts_export; /* the export that they were set for */

    /* receiving */
    struct rt_watch *watch;
    struct nbd_chunk *chunk; /* NULL: nothing is buffered */
    size_t start, end;       /* unread bytes in it */
    uint8_t aside[32];       /* part of a header, while no chunk is there */
    unsigned aside_bytes;
    bool readable;      /* the watch has fired since the last recv() */
    bool dry;           /* the last recv() found nothing */
    bool reading;       /* the reader's coroutine is there */
    struct co *waiting; /* the reader, for the socket */
    struct co *blocked; /* the reader, for requests to end */
    bool closing;       /* no request is taken any more */
    bool broken;        /* nothing can be sent any more */

    /* requests */
    unsigned in_flight;
    uint64_t in_flight_bytes;
    unsigned at_once; /* reads done by the reader since replies were sent last */

    /* memory.c */
    struct list hungry;
    uint64_t hungry_since_ns;
    struct nbd_counts counts;
    uint64_t seen_sent_bytes, seen_received_bytes;
    unsigned stalls;

    /* sending */
    struct list replies;
    size_t sent;      /* bytes of the first one that are gone */
    bool sending;     /* a coroutine waits for room in the socket */
    bool negotiating; /* the coroutine that does it is there */
    bool ending;      /* it waits to be freed */
    struct rt_later flush;
};

/** Negotiates. @return 0 with connection->export set: transmission may begin; -errno: hang up. */
HWS_MUST_CHECK int co_nbd_negotiate(struct nbd_connection *connection);

/** The coroutine of a new connection. */
void co_nbd_connection(void *arg);
/** Something of the connection has ended: where that was the last thing, the lane frees it. */
void nbd_connection_touch(struct nbd_connection *connection);
void co_nbd_connection_free(struct nbd_connection *connection);
/** Ends the connection between two requests, and keeps its socket for co_nbd_export_park(). On the
 * lane's thread. */
void nbd_transmission_park(struct nbd_connection *connection);
/** No request is taken any more; what was taken is answered. */
void nbd_connection_close(struct nbd_connection *connection);

/* ---- negotiation: option.c, meta.c ---- */

struct nbd_negotiation {
    struct nbd_connection *connection;
    uint64_t deadline_ns;
    bool fixed; /* the client knows error replies */
};

/** Until the socket has one of @events, at most to the negotiation's end. @return 0 or -errno. */
HWS_MUST_CHECK int co_nbd_wait(struct nbd_negotiation *n, unsigned events);
HWS_MUST_CHECK int co_nbd_send_all(struct nbd_negotiation *n, const void *bytes, size_t length);
HWS_MUST_CHECK int co_nbd_receive(struct nbd_negotiation *n, void *bytes, size_t length);
HWS_MUST_CHECK int co_nbd_option_reply(struct nbd_negotiation *n, uint32_t option, uint32_t type,
                                       const void *data, size_t length);
HWS_MUST_CHECK int co_nbd_option_error(struct nbd_negotiation *n, uint32_t option, uint32_t type,
                                       const char *text);
/** Tells why nbd_export_use() has failed with @result. */
HWS_MUST_CHECK int co_nbd_export_refused(struct nbd_negotiation *n, uint32_t option, int result);
/** OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT. */
HWS_MUST_CHECK int co_nbd_meta_context(struct nbd_negotiation *n, uint32_t option,
                                       const uint8_t *data, size_t length);
/** OPT_STARTTLS, with @length bytes of data. */
HWS_MUST_CHECK int co_nbd_starttls(struct nbd_negotiation *n, size_t length);
/** Must the client begin TLS before anything else? */
bool nbd_tls_is_wanted(struct nbd_connection *connection);
/** Forgets the contexts that were chosen. */
void nbd_contexts_clear(struct nbd_connection *connection);
/** Handles one option. @return 0, 1: transmission begins, -errno: hang up. */
HWS_MUST_CHECK int co_nbd_option(struct nbd_negotiation *n, uint32_t option, const uint8_t *data,
                                 size_t length);

/* ---- requests ---- */

struct nbd_request {
    struct nbd_request *next; /* free ones */
    struct nbd_connection *connection;
    uint16_t command, flags;
    uint64_t cookie, offset, length;
    uint64_t charged;  /* of in_flight_bytes */
    uint32_t contexts; /* of a block status: bit i is that of the connection's context i */

    struct nbd_chunk *chunk; /* where payload lies, or NULL */
    uint8_t *payload;
    uint8_t *buffer; /* or NULL */
    size_t buffer_bytes;

    /* the reply, or the running piece of it */
    struct list link;
    uint8_t head[64];
    unsigned head_bytes;
    const uint8_t *data;
    size_t data_bytes;
    struct co *sender; /* waits until the piece is sent; NULL: the request ends then */
};

/** Reader: takes requests from the socket until there is nothing to read. */
void nbd_transmission_start(struct nbd_connection *connection);
/** A read that takes no waiting is done here and answered. @return whether it was. */
bool nbd_read_at_once(struct nbd_request *request);
/** Executes and answers. A coroutine. */
void co_nbd_execute(void *arg);
/** The last reply of a request, without data: done, or why not. */
void nbd_answer(struct nbd_request *request, int result);

/** Block status: the reply's payload in request->buffer. */
HWS_MUST_CHECK int co_nbd_block_status(struct nbd_request *request);

uint32_t nbd_error_of(int result);

/* ---- send.c ---- */

/** Puts the reply in @request into the line; the request ends when it is sent. */
void nbd_send(struct nbd_request *request);
/** The same for one of several pieces: returns when it is sent. -EPIPE. */
HWS_MUST_CHECK int co_nbd_send_piece(struct nbd_request *request);
/** Sends what is ready now, rather than when the thread has nothing else to do. */
void nbd_send_now(struct nbd_connection *connection);
void nbd_send_init(struct nbd_connection *connection);
/** The request is over: its memory goes back, the connection has room for another. */
void nbd_request_end(struct nbd_request *request);

#endif
