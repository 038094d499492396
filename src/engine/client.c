/*
 * One call to an engine: connect, one JSON-RPC line out, one line back. Blocks, with a deadline.
 *
 * The engine is trusted no more than it needs to be: its answer is bounded, and its messages are
 * text.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/client.h"
#include "base/log.h"
#include "engine/internal.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CALL_TIMEOUT_MS  120000
#define ANSWER_BYTES_MAX ((size_t)16 * MiB)

/* An engine that hangs takes no more connections once its backlog is full: that counts, too. */
static int connect_to(const char *path, int timeout_ms, int *ret, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = timeout_ms / 1000,
                                     .tv_usec = timeout_ms % 1000 * 1000};
    if (strlen(path) >= sizeof(address.sun_path))
        return hws_fail(err, ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(address.sun_path, path, strlen(path));
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return hws_fail_errno(err, errno, "cannot reach the engine at %s", path);
    *ret = steal_fd(&fd);
    return 0;
}

static int send_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            text += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

/* Reads up to and without the newline. @ret free(). */
static int receive_line(int fd, int timeout_ms, char **ret)
{
    size_t used = 0, capacity = 4096;
    autofree char *buffer = malloc(capacity);
    while (buffer) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int ready = poll(&wait, 1, timeout_ms);
        if (ready == 0)
            return -ETIMEDOUT;
        ssize_t n = recv(fd, buffer + used, capacity - used - 1, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno != EINTR)
            return -errno;
        char *end = n > 0 ? memchr(buffer + used, '\n', (size_t)n) : NULL;
        used += n > 0 ? (size_t)n : 0;
        if (end) {
            *end = '\0';
            *ret = steal_ptr(&buffer);
            return 0;
        }
        if (used + 1 < capacity)
            continue;
        if (capacity >= ANSWER_BYTES_MAX)
            return -EMSGSIZE;
        char *grown = realloc(buffer, capacity *= 2);
        if (!grown)
            break;
        buffer = grown;
    }
    return -ENOMEM;
}

static int take_result(json_t *answer, json_t **ret, struct hws_error *err)
{
    json_t *result = json_object_get(answer, "result");
    json_t *error = json_object_get(answer, "error");
    if (result) {
        *ret = json_incref(result);
        return 0;
    }
    const char *message = json_string_value(json_object_get(error, "message"));
    json_int_t code = json_integer_value(json_object_get(json_object_get(error, "data"), "errno"));
    return hws_fail(err, code > 0 && code < 4096 ? (int)code : EIO, "%.700s",
                    message ? message : "the engine's answer makes no sense");
}

static int client_call(const char *socket_path, const char *method, json_t *params, int timeout_ms,
                       json_t **ret_result, struct hws_error *err)
{
    /* The request that this is done for, if any: the engine logs changes with it. */
    const char *context = log_context();
    json_t *request =
        json_pack("{s:s, s:s, s:s, s:o}", "jsonrpc", "2.0", "id", *context ? context : "1",
                  "method", method, "params", params ? params : json_object());
    autofree char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!text)
        return hws_fail(err, EINVAL, "the request holds text that is no UTF-8");
    autofd int fd = -1;
    int r = connect_to(socket_path, timeout_ms, &fd, err);
    if (r < 0)
        return r;
    size_t length = strlen(text);
    text[length] = '\n';
    autofree char *line = NULL;
    r = send_all(fd, text, length + 1);
    if (r == 0)
        r = receive_line(fd, timeout_ms, &line);
    if (r < 0)
        return hws_fail_errno(err, -r, "the engine at %s did not answer '%s'", socket_path, method);
    json_t *answer = json_loads(line, 0, NULL);
    r = take_result(answer, ret_result, err);
    json_decref(answer);
    return r;
}

int attachment_call_within(const struct attachment *attachment, const char *method, json_t *params,
                           int timeout_ms, json_t **ret_result, struct hws_error *err)
{
    autofree char *path = attachment_path(attachment, "control.sock");
    if (!path) {
        json_decref(params);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    if (!attachment->running) {
        json_decref(params);
        return hws_fail(err, ESRCH, "the engine of '%s' is dead; 'hawser detach %s' cleans up",
                        attachment->name, attachment->name);
    }
    return client_call(path, method, params, timeout_ms, ret_result, err);
}

int attachment_call(const struct attachment *attachment, const char *method, json_t *params,
                    json_t **ret_result, struct hws_error *err)
{
    return attachment_call_within(attachment, method, params, CALL_TIMEOUT_MS, ret_result, err);
}

pid_t attachment_engine_pid(const struct attachment *attachment)
{
    autofree char *path = attachment_path(attachment, "control.sock");
    autofd int fd = -1;
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (!path || connect_to(path, CALL_TIMEOUT_MS, &fd, NULL) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
        return -1;
    return peer.pid;
}
