/*
 * One request; see api/http/client.h. HTTP/1.0, so that the answer ends with the connection, and no
 * chunks need to be parsed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/client.h"
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define ANSWER_MAX ((size_t)64 * MiB)
#define TIMEOUT_S  900

static int connect_to(const char *path, int *ret, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    if (strlen(path) >= sizeof(address.sun_path))
        return hws_fail(err, ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(address.sun_path, path, strlen(path));
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return hws_fail_errno(err, errno, "cannot reach hawserd at %s (does it run?)", path);
    *ret = steal_fd(&fd);
    return 0;
}

static int send_all(int fd, const char *text, size_t length, struct hws_error *err)
{
    while (length > 0) {
        ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return hws_fail_errno(err, errno, "cannot ask hawserd");
        if (n > 0) {
            text += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

/* All until the end. @ret NUL-terminated; free(). */
static int receive_all(int fd, char **ret, struct hws_error *err)
{
    size_t used = 0, capacity = 64 * KiB;
    autofree char *text = malloc(capacity);
    while (text) {
        ssize_t n = recv(fd, text + used, capacity - used - 1, 0);
        if (n < 0 && errno != EINTR)
            return hws_fail_errno(err, errno, "hawserd does not answer");
        if (n == 0) {
            text[used] = '\0';
            *ret = steal_ptr(&text);
            return 0;
        }
        used += n > 0 ? (size_t)n : 0;
        if (used + 1 < capacity)
            continue;
        if (capacity >= ANSWER_MAX)
            return hws_fail(err, EMSGSIZE, "hawserd's answer is too long");
        char *grown = realloc(text, capacity *= 2);
        if (!grown)
            break;
        steal_ptr(&text);
        text = grown;
    }
    return hws_fail(err, ENOMEM, "out of memory");
}

int http_call(const char *socket_path, const char *method, const char *path, const json_t *body,
              unsigned *ret_status, json_t **ret, struct hws_error *err)
{
    autofree char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    autofree char *request = NULL, *answer = NULL;
    autofd int fd = -1;
    if (body && !text)
        return hws_fail(err, EINVAL, "the request holds text that is no UTF-8");
    if (asprintf(&request,
                 "%s %s HTTP/1.0\r\nHost: hawserd\r\nContent-Type: application/json\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 method, path, text ? strlen(text) : 0, text ? text : "") < 0) {
        request = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    int r = connect_to(socket_path, &fd, err);
    if (r == 0)
        r = send_all(fd, request, strlen(request), err);
    if (r == 0)
        r = receive_all(fd, &answer, err);
    if (r < 0)
        return r;
    const char *at = strstr(answer, "\r\n\r\n");
    if (sscanf(answer, "HTTP/1.%*u %u", ret_status) != 1 || !at)
        return hws_fail(err, EPROTO, "what listens at %s is no hawserd", socket_path);
    *ret = json_loads(at + 4, 0, NULL);
    if (at[4] && !*ret && *ret_status < 400)
        return hws_fail(err, EPROTO, "what listens at %s answers no JSON", socket_path);
    return 0;
}
