/*
 * Requests to the netlink family "nbd", and its answers; see nbd_control.h.
 *
 *     CONNECT      -> CONNECT with the index, acknowledgement
 *     RECONFIGURE  -> acknowledgement
 *     DISCONNECT   -> acknowledgement
 *     STATUS       -> STATUS with a list of devices, acknowledgement
 *
 * or an error in the place of all that.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/nbd_control.h"
#include "wire/netlink/genl.h"
#include <linux/nbd-netlink.h>

#define ANSWER_BYTES 8192

/* ---- answers ---- */

static void take_status(const uint8_t *list, size_t length, uint32_t wanted,
                        struct nbd_control_answer *answer)
{
    unsigned type;
    const uint8_t *item;
    size_t item_length, flag_length;
    while (genl_each(&list, &length, &type, &item, &item_length)) {
        uint32_t index;
        if (type != NBD_DEVICE_ITEM ||
            !genl_find_u32(item, item_length, NBD_DEVICE_INDEX, &index) || index != wanted)
            continue;
        const uint8_t *flag = genl_find(item, item_length, NBD_DEVICE_CONNECTED, &flag_length);
        answer->has_status = true;
        answer->connected = flag && flag_length == 1 && *flag;
    }
}

int nbd_control_parse(const uint8_t *bytes, size_t length, uint16_t family, uint32_t wanted,
                      struct nbd_control_answer *answer)
{
    struct genl_message message;
    int r;
    while ((r = genl_message_next(&bytes, &length, &message)) == 0) {
        if (message.type == NLMSG_ERROR) {
            answer->complete = true;
            answer->error = message.error;
        } else if (message.type == family && message.command == NBD_CMD_CONNECT) {
            answer->has_index =
                genl_find_u32(message.attributes, message.length, NBD_ATTR_INDEX, &answer->index);
        } else if (message.type == family && message.command == NBD_CMD_STATUS) {
            size_t list_length;
            const uint8_t *list =
                genl_find(message.attributes, message.length, NBD_ATTR_DEVICE_LIST, &list_length);
            if (list)
                take_status(list, list_length, wanted, answer);
        }
    }
    return r == -ENODATA ? 0 : r;
}

static int call(const struct nbd_control *control, const struct genl_request *request,
                uint32_t wanted, struct nbd_control_answer *answer)
{
    uint8_t bytes[ANSWER_BYTES];
    int r = genl_send(control->fd, request);
    *answer = (struct nbd_control_answer){0};
    while (r == 0 && !answer->complete) {
        ssize_t got = genl_receive(control->fd, bytes, sizeof(bytes), control->timeout_ms);
        r = got < 0 ? (int)got
                    : nbd_control_parse(bytes, (size_t)got, control->family, wanted, answer);
    }
    return r < 0 ? r : answer->error;
}

/* ---- requests ---- */

static void begin(struct genl_request *request, const struct nbd_control *control, uint8_t command)
{
    genl_request_init(request, control->family, command, NBD_GENL_VERSION, NLM_F_ACK);
}

static void put_sockets(struct genl_request *request, const int *sockets, unsigned count)
{
    assert(count <= NBD_DEVICE_SOCKETS_MAX);
    size_t list = genl_nest(request, NBD_ATTR_SOCKETS);
    for (unsigned i = 0; i < count; i++) {
        size_t item = genl_nest(request, NBD_SOCK_ITEM);
        genl_put_u32(request, NBD_SOCK_FD, (uint32_t)sockets[i]);
        genl_nest_end(request, item);
    }
    genl_nest_end(request, list);
}

static void put_backend(struct genl_request *request, const char *backend)
{
    if (backend)
        genl_put(request, NBD_ATTR_BACKEND_IDENTIFIER, backend, strlen(backend) + 1);
}

int nbd_control_connect(const struct nbd_control *control, const struct nbd_device_options *options,
                        unsigned *ret_index)
{
    struct genl_request request;
    struct nbd_control_answer answer;
    begin(&request, control, NBD_CMD_CONNECT);
    if (options->index >= 0)
        genl_put_u32(&request, NBD_ATTR_INDEX, (uint32_t)options->index);
    genl_put_u64(&request, NBD_ATTR_SIZE_BYTES, options->size_bytes);
    genl_put_u64(&request, NBD_ATTR_BLOCK_SIZE_BYTES,
                 options->block_bytes ? options->block_bytes : 512);
    genl_put_u64(&request, NBD_ATTR_SERVER_FLAGS, options->flags);
    if (options->timeout_s)
        genl_put_u64(&request, NBD_ATTR_TIMEOUT, options->timeout_s);
    if (options->dead_timeout_s)
        genl_put_u64(&request, NBD_ATTR_DEAD_CONN_TIMEOUT, options->dead_timeout_s);
    if (options->disconnect_on_close) /* NBD_CFLAG_DISCONNECT_ON_CLOSE of linux/nbd.h */
        genl_put_u64(&request, NBD_ATTR_CLIENT_FLAGS, 1 << 1);
    put_sockets(&request, options->sockets, options->socket_count);
    put_backend(&request, options->backend);
    int r = call(control, &request, 0, &answer);
    if (r == 0 && !answer.has_index)
        r = -EBADMSG;
    if (r == 0)
        *ret_index = answer.index;
    return r;
}

int nbd_control_reconnect(const struct nbd_control *control, unsigned index, const char *backend,
                          const int *sockets, unsigned socket_count)
{
    struct genl_request request;
    struct nbd_control_answer answer;
    begin(&request, control, NBD_CMD_RECONFIGURE);
    genl_put_u32(&request, NBD_ATTR_INDEX, index);
    if (socket_count)
        put_sockets(&request, sockets, socket_count);
    put_backend(&request, backend);
    return call(control, &request, index, &answer);
}

int nbd_control_resize(const struct nbd_control *control, unsigned index, const char *backend,
                       uint64_t size_bytes)
{
    struct genl_request request;
    struct nbd_control_answer answer;
    begin(&request, control, NBD_CMD_RECONFIGURE);
    genl_put_u32(&request, NBD_ATTR_INDEX, index);
    genl_put_u64(&request, NBD_ATTR_SIZE_BYTES, size_bytes);
    put_backend(&request, backend);
    return call(control, &request, index, &answer);
}

int nbd_control_disconnect(const struct nbd_control *control, unsigned index)
{
    struct genl_request request;
    struct nbd_control_answer answer;
    begin(&request, control, NBD_CMD_DISCONNECT);
    genl_put_u32(&request, NBD_ATTR_INDEX, index);
    return call(control, &request, index, &answer);
}

int nbd_control_status(const struct nbd_control *control, unsigned index, bool *ret)
{
    struct genl_request request;
    struct nbd_control_answer answer;
    begin(&request, control, NBD_CMD_STATUS);
    genl_put_u32(&request, NBD_ATTR_INDEX, index);
    int r = call(control, &request, index, &answer);
    if (r == 0)
        *ret = answer.has_status && answer.connected;
    return r;
}
