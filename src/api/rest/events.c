/*
 * GET /v1/events: at once, after a wait, or as a stream of lines.
 *
 * A stream keeps its place as the number of the last event that it has sent, and the one line that
 * it is at: who reads slowly finds a gap told, as who asks late does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"
#include <time.h>

#define LINE_MAX_BYTES 2048
#define BEAT_S         10

struct stream {
    struct control *control;
    uint64_t after;
    time_t told; /* when something was sent last */
    size_t length, sent;
    char line[LINE_MAX_BYTES];
};

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* @return whether there is one. A gap is a line of its own, before what follows it. */
static bool next_line(struct stream *stream)
{
    auto_json *answer = NULL;
    json_t *told = NULL;
    if (control_events(stream->control, stream->after, 1, &answer, NULL) < 0)
        return false;
    bool gap = json_object_get(answer, "gap") != NULL;
    json_t *event = json_array_get(json_object_get(answer, "items"), 0);
    uint64_t next = (uint64_t)json_integer_value(json_object_get(answer, "next"));
    if (gap) {
        stream->after = event ? next - 1 : next;
        told = json_pack("{s:b, s:I}", "gap", true, "next", (json_int_t)stream->after);
    } else if (event) {
        stream->after = next;
        told = json_incref(event);
    } else if (now_s() - stream->told < BEAT_S) {
        return false;
    }
    stream->length = told ? json_dumpb(told, stream->line, LINE_MAX_BYTES - 1, JSON_COMPACT) : 0;
    json_decref(told);
    if (stream->length > LINE_MAX_BYTES - 1)
        stream->length = 0; /* names are shorter than that */
    stream->line[stream->length++] = '\n';
    stream->sent = 0;
    stream->told = now_s();
    return true;
}

static size_t read_stream(void *arg, char *buffer, size_t size)
{
    struct stream *stream = arg;
    size_t used = 0;
    while (used < size && (stream->sent < stream->length || next_line(stream))) {
        size_t count = MIN(size - used, stream->length - stream->sent);
        memcpy(buffer + used, stream->line + stream->sent, count);
        stream->sent += count;
        used += count;
    }
    return used;
}

static int start_stream(const struct rest_call *call, uint64_t after, struct hws_error *err)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return hws_fail(err, ENOMEM, "out of memory");
    stream->control = call->control;
    stream->after = after;
    stream->told = now_s() - BEAT_S; /* a first empty line tells that it has begun */
    call->reply->status = 200;
    call->reply->type = "application/x-ndjson";
    call->reply->stream = (struct http_stream){.read = read_stream, .end = free, .arg = stream};
    return 0;
}

int rest_events(const struct rest_call *call, json_t **ret, struct hws_error *err)
{
    uint64_t last = control_events_last(call->control);
    uint64_t after = rest_number(call, "after", last);
    uint64_t wait_ms = rest_number(call, "wait", 0) * 1000;
    if (http_query(call->request, "stream"))
        return start_stream(call, after, err);
    if (after == last && !call->request->last && call->request->waited_ms < wait_ms) {
        if (http_query(call->request, "after")) {
            call->reply->wait_ms = wait_ms;
            return 0;
        }
    }
    return control_events(call->control, after, (unsigned)rest_number(call, "limit", 100), ret,
                          err);
}
