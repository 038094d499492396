/*
 * The socket to TCM-USER; see netlink.h.
 *
 * A message that finds the receive buffer full is lost, and its causer may wait in the kernel for
 * ever. So the buffer is forced to RECEIVE_BYTES, against the system's limit; NETLINK_NO_ENOBUFS
 * keeps one loss from making the kernel drop all that follows; and the socket's count of drops
 * tells that one happened.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/netlink.h"
#include "export/tcmu/netlink_wire.h"
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define RECEIVE_BYTES   (8 << 20)
#define MESSAGE_BYTES   (32 << 10) /* more than the kernel puts into one datagram */
#define ANSWER_DELAY_MS 5000       /* for the kernel to answer a request of ours */
#define GROUPS_SHOWN    32         /* /proc/net/netlink shows the first word of the mask */

struct tcmu_netlink {
    int fd;      /* in the group; its messages are events only */
    int call_fd; /* for requests and answers */
    int stop_fd;
    uint16_t family;
    uint32_t group;
    uint32_t drops;
    _Alignas(8) uint8_t buffer[MESSAGE_BYTES];
};

/* ---- requests ---- */

struct request {
    struct nlmsghdr head;
    struct genlmsghdr generic;
    uint8_t attributes[64];
};
static_assert(offsetof(struct request, attributes) == NLMSG_HDRLEN + GENL_HDRLEN, "no holes");

static void request_init(struct request *request, uint16_t family, uint8_t command, uint8_t version,
                         uint16_t flags)
{
    *request = (struct request){
        .head = {.nlmsg_len = offsetof(struct request, attributes),
                 .nlmsg_type = family,
                 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)},
        .generic = {.cmd = command, .version = version},
    };
}

static void request_add(struct request *request, uint16_t type, const void *value, size_t length)
{
    size_t at = request->head.nlmsg_len - offsetof(struct request, attributes);
    struct nlattr head = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = type};
    assert(at + NLA_ALIGN(head.nla_len) <= sizeof(request->attributes));
    memcpy(request->attributes + at, &head, sizeof(head));
    memcpy(request->attributes + at + NLA_HDRLEN, value, length);
    request->head.nlmsg_len += (uint32_t)NLA_ALIGN(head.nla_len);
}

static int request_send(int fd, const struct request *request)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    ssize_t sent;
    do
        sent = sendto(fd, request, request->head.nlmsg_len, 0, (struct sockaddr *)&kernel,
                      sizeof(kernel));
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

/* One datagram of the kernel's, which answers what was asked. @return its length, or -errno. */
static ssize_t receive_answer(int fd, void *buffer, size_t bytes)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    for (;;) {
        int ready = poll(&wait, 1, ANSWER_DELAY_MS);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return ready < 0 ? -errno : -ETIMEDOUT;
        struct sockaddr_nl from = {0};
        socklen_t from_length = sizeof(from);
        ssize_t got = recvfrom(fd, buffer, bytes, 0, (struct sockaddr *)&from, &from_length);
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (got >= (ssize_t)sizeof(struct nlmsghdr) && from.nl_pid == 0)
            return got;
    }
}

/* What an NLMSG_ERROR says: 0 is an acknowledgement. 1: it is another message. */
static int error_of(const void *bytes, size_t length)
{
    struct nlmsghdr head;
    int code;
    memcpy(&head, bytes, sizeof(head));
    if (head.nlmsg_type != NLMSG_ERROR)
        return 1;
    if (length < NLMSG_HDRLEN + sizeof(code))
        return -EBADMSG;
    memcpy(&code, (const uint8_t *)bytes + NLMSG_HDRLEN, sizeof(code));
    return code > 0 ? -EBADMSG : code;
}

/* ---- finding the family ---- */

/* The value of attribute @type among @length bytes of attributes, of @ret_length bytes; NULL. */
static const uint8_t *find_attribute(const uint8_t *at, size_t length, unsigned type,
                                     size_t *ret_length)
{
    struct nlattr head;
    while (length >= sizeof(head)) {
        memcpy(&head, at, sizeof(head));
        if (head.nla_len < sizeof(head) || head.nla_len > length)
            return NULL;
        if ((head.nla_type & NLA_TYPE_MASK) == type) {
            *ret_length = head.nla_len - sizeof(head);
            return at + sizeof(head);
        }
        size_t step = MIN((size_t)NLA_ALIGN(head.nla_len), length);
        at += step;
        length -= step;
    }
    return NULL;
}

/* TCM-USER has one group, "config": the first of the list. */
static int parse_family(struct tcmu_netlink *netlink, const uint8_t *bytes, size_t length)
{
    size_t id_length = 0, groups_length = 0, first_length = 0, group_length = 0;
    if (length < NLMSG_HDRLEN + GENL_HDRLEN)
        return -EBADMSG;
    bytes += NLMSG_HDRLEN + GENL_HDRLEN;
    length -= NLMSG_HDRLEN + GENL_HDRLEN;
    const uint8_t *id = find_attribute(bytes, length, CTRL_ATTR_FAMILY_ID, &id_length);
    const uint8_t *groups = find_attribute(bytes, length, CTRL_ATTR_MCAST_GROUPS, &groups_length);
    const uint8_t *first = groups ? find_attribute(groups, groups_length, 1, &first_length) : NULL;
    const uint8_t *group =
        first ? find_attribute(first, first_length, CTRL_ATTR_MCAST_GRP_ID, &group_length) : NULL;
    if (!id || !group || id_length != sizeof(netlink->family) ||
        group_length != sizeof(netlink->group))
        return -EBADMSG;
    memcpy(&netlink->family, id, sizeof(netlink->family));
    memcpy(&netlink->group, group, sizeof(netlink->group));
    return 0;
}

static int resolve(struct tcmu_netlink *netlink, struct hws_error *err)
{
    static const char name[] = "TCM-USER";
    struct request request;
    request_init(&request, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1, 0);
    request_add(&request, CTRL_ATTR_FAMILY_NAME, name, sizeof(name));
    int r = request_send(netlink->call_fd, &request);
    ssize_t got =
        r < 0 ? r : receive_answer(netlink->call_fd, netlink->buffer, sizeof(netlink->buffer));
    r = got < 0 ? (int)got : error_of(netlink->buffer, (size_t)got);
    if (r == 1)
        r = parse_family(netlink, netlink->buffer, (size_t)got);
    else if (r == 0)
        r = -EBADMSG;
    if (r == -ENOENT)
        return hws_fail(err, ENOENT,
                        "the kernel has no TCMU (netlink family %s): load its module with "
                        "'modprobe target_core_user'",
                        name);
    return r < 0 ? hws_fail_errno(err, -r, "netlink family %s", name) : 0;
}

/* ---- life ---- */

static int open_socket(struct hws_error *err)
{
    struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    autofd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
        return hws_fail_errno(err, errno, "cannot open a netlink socket");
    return steal_fd(&fd);
}

static int join(struct tcmu_netlink *netlink, struct hws_error *err)
{
    int bytes = RECEIVE_BYTES, on = 1;
    if (setsockopt(netlink->fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0)
        return hws_fail_errno(err, errno,
                              "cannot have a receive buffer of %d bytes for the kernel's events "
                              "(CAP_NET_ADMIN is needed)",
                              bytes);
    if (setsockopt(netlink->fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on)) < 0 ||
        setsockopt(netlink->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &netlink->group,
                   sizeof(netlink->group)) < 0)
        return hws_fail_errno(err, errno, "cannot join the netlink group of TCM-USER");
    return 0;
}

int tcmu_netlink_open(struct tcmu_netlink **ret, struct hws_error *err)
{
    struct tcmu_netlink *netlink = malloc(sizeof(*netlink));
    if (!netlink)
        return hws_fail(err, ENOMEM, "out of memory");
    *netlink = (struct tcmu_netlink){.fd = -1, .call_fd = -1, .stop_fd = -1};
    int r = netlink->call_fd = open_socket(err);
    if (r >= 0)
        r = netlink->fd = open_socket(err);
    if (r >= 0) {
        netlink->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = netlink->stop_fd < 0 ? hws_fail_errno(err, errno, "eventfd") : 0;
    }
    if (r >= 0)
        r = resolve(netlink, err);
    if (r >= 0)
        r = join(netlink, err);
    if (r < 0) {
        tcmu_netlink_close(netlink);
        return r;
    }
    *ret = netlink;
    return 0;
}

struct tcmu_netlink *tcmu_netlink_close(struct tcmu_netlink *netlink)
{
    if (netlink) {
        cleanup_fd_(&netlink->fd);
        cleanup_fd_(&netlink->call_fd);
        cleanup_fd_(&netlink->stop_fd);
    }
    free(netlink);
    return NULL;
}

void tcmu_netlink_stop(struct tcmu_netlink *netlink)
{
    uint64_t one = 1;
    ssize_t written = write(netlink->stop_fd, &one, sizeof(one));
    assert(written == sizeof(one)); /* the counter never overflows */
}

/* ---- events ---- */

/* SO_MEMINFO tells how many messages the full buffer cost so far. */
static bool drops_changed(struct tcmu_netlink *netlink)
{
    uint32_t info[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof(info);
    if (getsockopt(netlink->fd, SOL_SOCKET, SO_MEMINFO, info, &length) < 0)
        return false;
    bool changed = info[SK_MEMINFO_DROPS] != netlink->drops;
    netlink->drops = info[SK_MEMINFO_DROPS];
    return changed;
}

static void split_datagram(struct tcmu_netlink *netlink, size_t length, tcmu_event_fn *fn,
                           void *arg)
{
    const uint8_t *at = netlink->buffer;
    struct nlmsghdr head;
    while (length >= sizeof(head)) {
        struct tcmu_event event;
        memcpy(&head, at, sizeof(head));
        if (head.nlmsg_len < sizeof(head) || head.nlmsg_len > length)
            return;
        if (tcmu_event_parse(at, head.nlmsg_len, netlink->family, &event) == 0)
            fn(arg, &event);
        size_t step = MIN((size_t)NLMSG_ALIGN(head.nlmsg_len), length);
        at += step;
        length -= step;
    }
}

int tcmu_netlink_receive(struct tcmu_netlink *netlink, tcmu_event_fn *fn, void *arg, bool *ret_lost)
{
    struct pollfd wait[] = {{.fd = netlink->fd, .events = POLLIN},
                            {.fd = netlink->stop_fd, .events = POLLIN}};
    *ret_lost = false;
    if (poll(wait, ARRAY_LEN(wait), -1) < 0)
        return errno == EINTR ? 0 : -errno;
    if (wait[1].revents)
        return -ECANCELED;
    struct sockaddr_nl from = {0};
    socklen_t from_length = sizeof(from);
    ssize_t got = recvfrom(netlink->fd, netlink->buffer, sizeof(netlink->buffer), MSG_TRUNC,
                           (struct sockaddr *)&from, &from_length);
    if (got < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
        return -errno;
    if (got > (ssize_t)sizeof(netlink->buffer))
        *ret_lost = true; /* longer than any that is known */
    else if (got > 0 && from.nl_pid == 0)
        split_datagram(netlink, (size_t)got, fn, arg);
    if (drops_changed(netlink))
        *ret_lost = true;
    return 0;
}

/* ---- answers ---- */

int tcmu_netlink_answer(struct tcmu_netlink *netlink, const struct tcmu_event *event, int status)
{
    static const uint8_t done[] = {[TCMU_ADDED] = TCMU_WIRE_ADDED_DONE,
                                   [TCMU_REMOVED] = TCMU_WIRE_REMOVED_DONE,
                                   [TCMU_RECONFIG] = TCMU_WIRE_RECONFIG_DONE};
    if (!event->can_be_answered)
        return 0;
    struct request request;
    int32_t code = status;
    request_init(&request, netlink->family, done[event->kind], TCMU_WIRE_VERSION, 0);
    request_add(&request, TCMU_WIRE_ATTR_STATUS, &code, sizeof(code));
    request_add(&request, TCMU_WIRE_ATTR_DEVICE_ID, &event->device_id, sizeof(event->device_id));
    int r = request_send(netlink->call_fd, &request);
    /* The kernel tells errors only: that nobody waited is one, and none to us. */
    uint8_t told[512];
    while (r == 0 && recv(netlink->call_fd, told, sizeof(told), 0) > 0)
        continue;
    return r;
}

int tcmu_netlink_features(struct tcmu_netlink *netlink, bool answers, struct hws_error *err)
{
    autofd int fd = open_socket(err); /* its own, so that it mixes with no other answer */
    if (fd < 0)
        return fd;
    struct request request;
    uint8_t on = answers, told[512];
    request_init(&request, netlink->family, TCMU_WIRE_SET_FEATURES, TCMU_WIRE_VERSION, NLM_F_ACK);
    request_add(&request, TCMU_WIRE_ATTR_ANSWERS, &on, sizeof(on));
    int r = request_send(fd, &request);
    ssize_t got = r < 0 ? r : receive_answer(fd, told, sizeof(told));
    r = got < 0 ? (int)got : error_of(told, (size_t)got);
    if (r == 1)
        r = -EBADMSG;
    return r < 0 ? hws_fail_errno(err, -r, "cannot tell the kernel that events are answered") : 0;
}

/* ---- the machine's other handlers ---- */

int tcmu_netlink_others(const struct tcmu_netlink *netlink)
{
    if (netlink->group == 0 || netlink->group > GROUPS_SHOWN)
        return -ENOTSUP;
    struct sockaddr_nl own = {0};
    socklen_t length = sizeof(own);
    FILE *file = fopen("/proc/net/netlink", "re");
    if (!file || getsockname(netlink->fd, (struct sockaddr *)&own, &length) < 0) {
        if (file)
            fclose(file);
        return -ENOTSUP;
    }
    char line[256];
    int others = 0;
    while (fgets(line, sizeof(line), file)) {
        unsigned protocol, port, groups;
        if (sscanf(line, "%*s %u %u %x", &protocol, &port, &groups) == 3 &&
            protocol == NETLINK_GENERIC && port != own.nl_pid &&
            groups & 1u << (netlink->group - 1))
            others++;
    }
    fclose(file);
    return others;
}

static int write_parameter(const char *name, const char *value, struct hws_error *err)
{
    char path[96];
    snprintf(path, sizeof(path), "/sys/module/target_core_user/parameters/%s", name);
    autofd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        return hws_fail_errno(err, errno, "cannot write %s to %s", value, path);
    return 0;
}

int tcmu_netlink_reset(struct hws_error *err)
{
    int r = write_parameter("block_netlink", "1", err);
    if (r < 0)
        return r;
    r = write_parameter("reset_netlink", "1", err);
    struct hws_error unblock_err = {0};
    int unblocked = write_parameter("block_netlink", "0", &unblock_err);
    if (r == 0 && unblocked < 0 && err)
        *err = unblock_err;
    return r < 0 ? r : unblocked;
}
