/*
 * An HTTP/1.1 server on a unix socket. One thread of libmicrohttpd holds all connections of a
 * socket; complete requests go to workers, so that a slow client costs no thread and a slow
 * operation holds up nobody.
 *
 *   accept -> head, body up to the limit -> queue -> a worker: handler(request, reply) -> answer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_HTTP_SERVER_H
#define API_HTTP_SERVER_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

#define HTTP_ID_BYTES        17
#define HTTP_BODY_MAX        ((size_t)1 * MiB)
#define HTTP_HEAD_MAX        ((size_t)32 * KiB)
#define HTTP_CONNECTIONS_MAX 512

struct http_request {
    const char *method, *path;
    const char *body; /* NUL-terminated; may be empty */
    size_t body_length;
    char id[HTTP_ID_BYTES]; /* for logs and answers */
    void *connection;       /* for http_query() */
};

/** An argument of the query string, decoded; NULL where it is not given. */
const char *http_query(const struct http_request *request, const char *name);

/** Calls @each with every argument until it returns false; one without a value has "". */
void http_query_each(const struct http_request *request,
                     bool (*each)(void *arg, const char *name, const char *value), void *arg);

struct http_reply {
    unsigned status;
    const char *type; /* NULL: JSON */
    char *body;       /* free()d by the server */
    size_t length;
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
    const char *path; /* of the unix socket; replaced where nobody listens */
    int fd;           /* a listening socket instead, taken over; -1: none */
    http_handler *handler;
    /** Answers what could not be handed to the handler: too large, not understood. */
    void (*refuse)(const struct http_request *request, unsigned status, const char *message,
                   struct http_reply *reply);
    void *arg;
    const char *log_name; /* "rest" */
    /** From the connection, or the end of the answer before, to the end of a request. */
    unsigned request_s;
};

struct http_server;

HWS_MUST_CHECK int http_server_start(const struct http_options *options,
                                     struct http_workers *workers, struct http_server **ret,
                                     struct hws_error *err);
/** Takes no new connections. */
void http_server_quiesce(struct http_server *server);
/** Closes what has not sent its request in time. To be called every second or so. */
void http_server_tick(struct http_server *server);
/** Ends; the workers must have stopped. @server may be NULL. Removes the socket. */
void http_server_stop(struct http_server *server);

#endif
