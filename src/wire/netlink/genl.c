/*
 * Generic netlink; see genl.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "wire/netlink/genl.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#define ANSWER_MS    5000
#define ANSWER_BYTES 8192

/* ---- requests ---- */

void genl_request_init(struct genl_request *request, uint16_t family, uint8_t command,
                       uint8_t version, uint16_t flags)
{
    *request = (struct genl_request){
        .head = {.nlmsg_len = offsetof(struct genl_request, attributes),
                 .nlmsg_type = family,
                 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)},
        .generic = {.cmd = command, .version = version},
    };
}

static size_t used(const struct genl_request *request)
{
    return request->head.nlmsg_len - offsetof(struct genl_request, attributes);
}

bool genl_has_room(const struct genl_request *request, size_t length)
{
    size_t room = sizeof(request->attributes) - used(request);
    return length <= sizeof(request->attributes) && (size_t)NLA_ALIGN(NLA_HDRLEN + length) <= room;
}

void genl_put(struct genl_request *request, uint16_t type, const void *value, size_t length)
{
    size_t at = used(request);
    struct nlattr head = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = type};
    assert(genl_has_room(request, length));
    memcpy(request->attributes + at, &head, sizeof(head));
    if (length)
        memcpy(request->attributes + at + NLA_HDRLEN, value, length);
    request->head.nlmsg_len += (uint32_t)NLA_ALIGN(head.nla_len);
}

void genl_put_u32(struct genl_request *request, uint16_t type, uint32_t value)
{
    genl_put(request, type, &value, sizeof(value));
}

void genl_put_u64(struct genl_request *request, uint16_t type, uint64_t value)
{
    genl_put(request, type, &value, sizeof(value));
}

size_t genl_nest(struct genl_request *request, uint16_t type)
{
    size_t at = used(request);
    genl_put(request, type | NLA_F_NESTED, NULL, 0);
    return at;
}

void genl_nest_end(struct genl_request *request, size_t nest)
{
    struct nlattr head;
    memcpy(&head, request->attributes + nest, sizeof(head));
    head.nla_len = (uint16_t)(used(request) - nest);
    memcpy(request->attributes + nest, &head, sizeof(head));
}

/* ---- the socket ---- */

/* Connected, so that a test can put any other pair of sockets in its place. */
int genl_open(struct hws_error *err)
{
    struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    autofd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 ||
        connect(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
        return hws_fail_errno(err, errno, "cannot open a netlink socket");
    return steal_fd(&fd);
}

int genl_send(int fd, const struct genl_request *request)
{
    ssize_t sent;
    do
        sent = send(fd, request, request->head.nlmsg_len, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

/* Any process may send to a netlink socket; only the kernel has the number 0. */
static bool is_kernels(const struct sockaddr_nl *from, socklen_t length)
{
    return length < sizeof(*from) || from->nl_family != AF_NETLINK || from->nl_pid == 0;
}

ssize_t genl_receive(int fd, void *buffer, size_t bytes, int timeout_ms)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    for (;;) {
        int ready = poll(&wait, 1, timeout_ms);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return ready < 0 ? -errno : -ETIMEDOUT;
        struct sockaddr_nl from = {0};
        socklen_t from_length = sizeof(from);
        ssize_t got =
            recvfrom(fd, buffer, bytes, MSG_TRUNC, (struct sockaddr *)&from, &from_length);
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (got == 0)
            return -EPIPE;
        if (got < 0 || !is_kernels(&from, from_length))
            continue;
        if ((size_t)got > bytes)
            return -EMSGSIZE;
        return got < (ssize_t)sizeof(struct nlmsghdr) ? -EBADMSG : got;
    }
}

static int parse_family(const uint8_t *bytes, size_t length, struct genl_family *ret)
{
    struct genl_message message;
    size_t id_length = 0, groups_length = 0, first_length = 0;
    int r = genl_message_next(&bytes, &length, &message);
    if (r < 0 || message.type == NLMSG_ERROR)
        return r < 0 ? r : message.error < 0 ? message.error : -EBADMSG;
    const uint8_t *id =
        genl_find(message.attributes, message.length, CTRL_ATTR_FAMILY_ID, &id_length);
    if (!id || id_length != sizeof(ret->id))
        return -EBADMSG;
    struct genl_family family = {0};
    memcpy(&family.id, id, sizeof(family.id));
    const uint8_t *groups =
        genl_find(message.attributes, message.length, CTRL_ATTR_MCAST_GROUPS, &groups_length);
    const uint8_t *first = groups ? genl_find(groups, groups_length, 1, &first_length) : NULL;
    if (first)
        (void)genl_find_u32(first, first_length, CTRL_ATTR_MCAST_GRP_ID, &family.group);
    *ret = family;
    return 0;
}

int genl_find_family(int fd, const char *name, struct genl_family *ret, struct hws_error *err)
{
    struct genl_request request;
    uint8_t answer[ANSWER_BYTES];
    genl_request_init(&request, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1, 0);
    genl_put(&request, CTRL_ATTR_FAMILY_NAME, name, strlen(name) + 1);
    int r = genl_send(fd, &request);
    ssize_t got = r < 0 ? r : genl_receive(fd, answer, sizeof(answer), ANSWER_MS);
    r = got < 0 ? (int)got : parse_family(answer, (size_t)got, ret);
    return r == 0 || r == -ENOENT ? r : hws_fail_errno(err, -r, "netlink family %s", name);
}

/* ---- answers ---- */

int genl_message_next(const uint8_t **bytes, size_t *length, struct genl_message *ret)
{
    struct nlmsghdr head;
    struct genlmsghdr generic;
    if (*length < sizeof(head))
        return *length ? -EBADMSG : -ENODATA;
    memcpy(&head, *bytes, sizeof(head));
    if (head.nlmsg_len < sizeof(head) || head.nlmsg_len > *length)
        return -EBADMSG;
    const uint8_t *body = *bytes + NLMSG_HDRLEN;
    size_t body_length = head.nlmsg_len - NLMSG_HDRLEN;
    struct genl_message message = {.type = head.nlmsg_type};
    if (head.nlmsg_type == NLMSG_ERROR) {
        if (body_length < sizeof(message.error))
            return -EBADMSG;
        memcpy(&message.error, body, sizeof(message.error));
        if (message.error > 0 || message.error < -4095)
            return -EBADMSG;
    } else if (head.nlmsg_type >= NLMSG_MIN_TYPE) {
        if (body_length < GENL_HDRLEN)
            return -EBADMSG;
        memcpy(&generic, body, sizeof(generic));
        message.command = generic.cmd;
        message.attributes = body + GENL_HDRLEN;
        message.length = body_length - GENL_HDRLEN;
    }
    size_t step = MIN((size_t)NLMSG_ALIGN(head.nlmsg_len), *length);
    *bytes += step;
    *length -= step;
    *ret = message;
    return 0;
}

bool genl_each(const uint8_t **at, size_t *length, unsigned *ret_type, const uint8_t **ret_value,
               size_t *ret_length)
{
    struct nlattr head;
    if (*length < sizeof(head))
        return false;
    memcpy(&head, *at, sizeof(head));
    if (head.nla_len < sizeof(head) || head.nla_len > *length)
        return false;
    *ret_type = head.nla_type & NLA_TYPE_MASK;
    *ret_value = *at + sizeof(head);
    *ret_length = head.nla_len - sizeof(head);
    size_t step = MIN((size_t)NLA_ALIGN(head.nla_len), *length);
    *at += step;
    *length -= step;
    return true;
}

const uint8_t *genl_find(const uint8_t *attributes, size_t length, unsigned type,
                         size_t *ret_length)
{
    unsigned found;
    const uint8_t *value;
    size_t value_length;
    while (genl_each(&attributes, &length, &found, &value, &value_length))
        if (found == type) {
            *ret_length = value_length;
            return value;
        }
    return NULL;
}

bool genl_find_u32(const uint8_t *attributes, size_t length, unsigned type, uint32_t *ret)
{
    size_t value_length;
    const uint8_t *value = genl_find(attributes, length, type, &value_length);
    if (!value || value_length != sizeof(*ret))
        return false;
    memcpy(ret, value, sizeof(*ret));
    return true;
}
