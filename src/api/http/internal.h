/*
 * What the HTTP server's files share.
 *
 *   server.c     connections, their deadlines, start and end
 *   exchange.c   one request: its body, its turn at a worker, waiting, its reply
 *   stream.c     replies that have no end
 *   listen.c     listening sockets
 *   tls.c        certificates
 *
 * libmicrohttpd calls back on its one thread. `mutex` guards lists; what is called with it held
 * takes no other lock of this program but that of the workers' queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_HTTP_INTERNAL_H
#define API_HTTP_INTERNAL_H

#include "api/http/server.h"
#include "api/http/workers.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

struct http_tls;

struct http_server {
    struct http_options options;
    char *path; /* of the socket, to be removed; NULL: not ours */
    struct http_workers *workers;
    struct MHD_Daemon *daemon;
    struct http_tls *tls;
    pthread_mutex_t mutex;
    struct list clients, waiting, streams; /* connections; exchanges; streams that have nothing */
    unsigned client_count;
    uint64_t beat_ms; /* when streams were let look last */
    uint64_t wakes;   /* how often http_server_wake() was called */
    bool stopping;
    atomic_size_t body_bytes, reply_bytes; /* of all connections */
    atomic_uint answering;                 /* requests whose answers are not through yet */
};

/* A connection, for its deadline, and who it is. */
struct client {
    struct list node;
    int fd;
    uint64_t since_ms; /* when it began to send a request; 0: one is being worked on */
    bool known;        /* @role is set */
    int role;
};

/* A request and its reply. */
struct exchange {
    struct http_work work;
    struct list waits; /* in server->waiting */
    struct http_server *server;
    struct MHD_Connection *connection;
    struct client *client;
    struct http_request request;
    struct http_reply reply;
    char *method, *path, *body;
    size_t capacity, reply_bytes; /* what is charged to the server */
    uint64_t started_ms;
    unsigned refused; /* status with which it is refused; 0: none */
    bool done;
};

uint64_t http_now_ms(void);

/* ---- exchange.c ---- */

enum MHD_Result http_access(void *server, struct MHD_Connection *connection, const char *path,
                            const char *method, const char *version, const char *data,
                            size_t *length, void **context);
void http_completed(void *server, struct MHD_Connection *connection, void **context,
                    enum MHD_RequestTerminationCode code);
/** Hands what waits, and has waited long enough (@all: everything), to the workers. Locked. */
void http_waiting_run(struct http_server *server, bool all);

/* ---- stream.c ---- */

/** A response that reads @stream, which it takes over. @return NULL when out of memory. */
struct MHD_Response *http_stream_response(struct http_server *server,
                                          struct MHD_Connection *connection,
                                          const struct http_stream *stream);
/** Lets all streams look whether there is more. Locked. */
void http_streams_run(struct http_server *server);

/* ---- listen.c ---- */

/** Listens at a unix socket, which is replaced where nobody listens. @everybody may connect. */
HWS_MUST_CHECK int http_listen_unix(const char *path, bool everybody, int *ret,
                                    struct hws_error *err);
/** Listens at "HOST:PORT" or "[ADDRESS]:PORT". */
HWS_MUST_CHECK int http_listen_tcp(const char *address, int *ret, struct hws_error *err);

/* ---- tls.c ---- */

/** Reads ca-cert.pem, ca-crl.pem (may be missing), server-cert.pem and server-key.pem. */
HWS_MUST_CHECK int http_tls_read(const char *folder, struct http_tls **ret, struct hws_error *err);
void http_tls_free(struct http_tls *tls);
#define HTTP_TLS_OPTIONS 5
/** What libmicrohttpd needs of it: HTTP_TLS_OPTIONS of them. */
void http_tls_options(const struct http_tls *tls, struct MHD_OptionItem *ret);
/** Who is at the other end, by a certificate that holds. -EACCES, with the reason in @err. */
HWS_MUST_CHECK int http_tls_peer(const struct http_tls *tls, struct MHD_Connection *connection,
                                 struct http_peer *ret, struct hws_error *err);

#endif
