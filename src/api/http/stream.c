/*
 * Replies that have no end: the server asks for more when the client has taken what there was.
 * Where there is nothing, the connection is suspended until something happens. Nothing is kept for
 * a client that reads slowly: it is the stream that knows where it was.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/internal.h"

#define BLOCK_BYTES ((size_t)8 * KiB)

struct reader {
    struct list node; /* in server->streams while it has nothing */
    struct http_server *server;
    struct MHD_Connection *connection;
    struct http_stream stream;
};

static ssize_t read_more(void *arg, uint64_t position, char *buffer, size_t size)
{
    struct reader *reader = arg;
    struct http_server *server = reader->server;
    for (;;) {
        pthread_mutex_lock(&server->mutex);
        uint64_t wakes_seen = server->wakes;
        bool stopping = server->stopping;
        pthread_mutex_unlock(&server->mutex);
        if (stopping)
            return MHD_CONTENT_READER_END_OF_STREAM;
        size_t count = reader->stream.read(reader->stream.arg, buffer, size);
        if (count > 0)
            return (ssize_t)count;
        pthread_mutex_lock(&server->mutex);
        bool nothing = server->wakes == wakes_seen && !server->stopping;
        if (nothing) {
            MHD_suspend_connection(reader->connection);
            list_push_back(&server->streams, &reader->node);
        }
        pthread_mutex_unlock(&server->mutex);
        if (nothing)
            return 0;
    }
}

static void end(void *arg)
{
    struct reader *reader = arg;
    pthread_mutex_lock(&reader->server->mutex);
    list_del(&reader->node);
    pthread_mutex_unlock(&reader->server->mutex);
    reader->stream.end(reader->stream.arg);
    free(reader);
}

void http_streams_run(struct http_server *server)
{
    struct list *node;
    while ((node = list_pop_front(&server->streams)))
        MHD_resume_connection(list_entry(node, struct reader, node)->connection);
}

struct MHD_Response *http_stream_response(struct http_server *server,
                                          struct MHD_Connection *connection,
                                          const struct http_stream *stream)
{
    struct reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return NULL;
    *reader = (struct reader){.server = server, .connection = connection, .stream = *stream};
    list_init(&reader->node);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_more, reader, end);
    if (!response)
        free(reader);
    return response;
}
