/*
 * An HTTP/1.1 server on a unix socket, or on TCP with mutual TLS. One thread of libmicrohttpd holds
 * all connections of a socket; complete requests go to workers, so that a slow client costs no
 * thread and a slow operation holds up nobody.
 *
 *   accept -> head, body up to the limit -> queue -> a worker: handler(request, reply) -> answer
 *                                             ^                       |
 *                                             +-- http_server_wake() --+ nothing yet (wait_ms)
 *
 * What clients can make it hold is bounded: connections, bodies in all, replies in all. Where
 * connections get few, those that send nothing lose theirs first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_HTTP_SERVER_H
#define API_HTTP_SERVER_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>
#include <sys/types.h>

#define HTTP_ID_BYTES        17
#define HTTP_BODY_MAX        ((size_t)1 * MiB)
#define HTTP_HEAD_MAX        ((size_t)32 * KiB)
#define HTTP_CONNECTIONS_MAX 1200
/** From here on, who sends nothing for HTTP_CROWDED_MS is cut off. */
#define HTTP_CROWDED    900
#define HTTP_CROWDED_MS ((uint64_t)3000)
/** Of all connections of a server at a time. */
#define HTTP_BODIES_MAX  ((size_t)32 * MiB)
#define HTTP_REPLIES_MAX ((size_t)64 * MiB)

#define HTTP_GROUPS_MAX  64

/** Who is at the other end. */
struct http_peer {
    bool local; /* at a unix socket, with uid and groups; else by a certificate */
    uid_t uid;
    gid_t groups[HTTP_GROUPS_MAX];
    unsigned group_count;
    char name[129], unit[129]; /* CN and OU of the certificate's subject; "": none */
    char fingerprint[65];      /* SHA-256 of the certificate, in lower case */
};

struct http_request {
    const char *method, *path;
    const char *body; /* NUL-terminated; may be empty */
    size_t body_length;
    char id[HTTP_ID_BYTES]; /* for logs and answers */
    int role;               /* what http_options.admit answered for this connection */
    uint64_t waited_ms;     /* since it was complete */
    bool last;              /* an answer is due now: the server ends */
    void *connection;       /* for http_query() */
};

/** An argument of the query string, decoded; NULL where it is not given. */
const char *http_query(const struct http_request *request, const char *name);

/** Calls @each with every argument until it returns false; one without a value has "". */
void http_query_each(const struct http_request *request,
                     bool (*each)(void *arg, const char *name, const char *value), void *arg);

/** PID of the client's process; 0 where it is not known: of another name space, or gone. */
uint64_t http_peer_process(const struct http_request *request);

/** A body without an end. */
struct http_stream {
    /** Fills up to @size bytes; 0: nothing now, and it is asked again after a wake or some seconds.
     * On the server's thread: it must not block. NULL: this is no stream. */
    size_t (*read)(void *arg, char *buffer, size_t size);
    void (*end)(void *arg);
    void *arg;
};

struct http_reply {
    unsigned status;
    const char *type; /* NULL: JSON */
    char *body;       /* free()d by the server */
    size_t length;
    /** Not 0: no answer yet. The handler is called again after http_server_wake(), or once the
     * request has waited so long in all. */
    uint64_t wait_ms;
    struct http_stream stream;
    char sequence[24]; /* value of the header X-Sequence; "": none */
};

/** Ends @value as the reply's body. Takes over the reference. */
void http_reply_json(struct http_reply *reply, unsigned status, json_t *value);

typedef void http_handler(void *arg, const struct http_request *request, struct http_reply *reply);

struct http_workers;

/** @count threads. @return NULL with the reason in @err. */
struct http_workers *http_workers_start(unsigned count, struct hws_error *err);
/** Ends after what was queued has been answered; servers must be quiet by then. */
void http_workers_stop(struct http_workers *workers);

struct http_options {
    const char *path;       /* of the unix socket; replaced where nobody listens */
    const char *address;    /* "HOST:PORT" instead: TCP, with TLS */
    const char *tls_folder; /* of certificate and key, and of the CA that clients are held to */
    int fd;                 /* a listening socket instead, taken over; -1: none */
    bool everybody;         /* any user may connect to @path; @admit tells them apart */
    http_handler *handler;
    /** Answers what could not be handed to the handler: too large, not understood. */
    void (*refuse)(const struct http_request *request, unsigned status, const char *message,
                   struct http_reply *reply);
    /** Once a connection: what http_request.role is; negative: it is refused. NULL: 0. */
    int (*admit)(void *arg, const struct http_peer *peer);
    void *arg;
    void *admit_arg;
    const char *log_name; /* "rest" */
    /** From the connection, or the end of the answer before, to the end of a request. */
    unsigned request_s;
};

struct http_server;

HWS_MUST_CHECK int http_server_start(const struct http_options *options,
                                     struct http_workers *workers, struct http_server **ret,
                                     struct hws_error *err);
/** Something has happened that waiting requests and streams may tell. Any thread; short. */
void http_server_wake(struct http_server *server);
/** Takes no new connections, and lets all that waits end. */
void http_server_quiesce(struct http_server *server);
/** Closes what has not sent its request in time. To be called every second or so. */
void http_server_tick(struct http_server *server);
/** Ends; the workers must have stopped. @server may be NULL. Removes the socket. */
void http_server_stop(struct http_server *server);

#endif
