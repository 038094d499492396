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
#include "wire/netlink/genl.h"
#include <fcntl.h>
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

/* ---- finding the family ---- */

/* TCM-USER has one group, "config". */
static int resolve(struct tcmu_netlink *netlink, struct hws_error *err)
{
    static const char name[] = "TCM-USER";
    struct genl_family family;
    int r = genl_find_family(netlink->call_fd, name, &family, err);
    if (r == -ENOENT)
        return hws_fail(err, ENOENT,
                        "the kernel has no TCMU (netlink family %s): load its module with "
                        "'modprobe target_core_user'",
                        name);
    if (r == 0 && !family.group)
        r = hws_fail(err, EBADMSG, "netlink family %s has no group", name);
    if (r == 0) {
        netlink->family = family.id;
        netlink->group = family.group;
    }
    return r;
}

/* ---- life ---- */

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
    int r = netlink->call_fd = genl_open(err);
    if (r >= 0)
        r = netlink->fd = genl_open(err);
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
    struct genl_request request;
    genl_request_init(&request, netlink->family, done[event->kind], TCMU_WIRE_VERSION, 0);
    genl_put_u32(&request, TCMU_WIRE_ATTR_STATUS, (uint32_t)status);
    genl_put_u32(&request, TCMU_WIRE_ATTR_DEVICE_ID, event->device_id);
    int r = genl_send(netlink->call_fd, &request);
    /* The kernel tells errors only: that nobody waited is one, and none to us. */
    uint8_t told[512];
    while (r == 0 && recv(netlink->call_fd, told, sizeof(told), 0) > 0)
        continue;
    return r;
}

int tcmu_netlink_features(struct tcmu_netlink *netlink, bool answers, struct hws_error *err)
{
    autofd int fd = genl_open(err); /* its own, so that it mixes with no other answer */
    if (fd < 0)
        return fd;
    struct genl_request request;
    struct genl_message message;
    uint8_t on = answers, told[512];
    const uint8_t *at = told;
    genl_request_init(&request, netlink->family, TCMU_WIRE_SET_FEATURES, TCMU_WIRE_VERSION,
                      NLM_F_ACK);
    genl_put(&request, TCMU_WIRE_ATTR_ANSWERS, &on, sizeof(on));
    int r = genl_send(fd, &request);
    ssize_t got = r < 0 ? r : genl_receive(fd, told, sizeof(told), ANSWER_DELAY_MS);
    size_t length = (size_t)MAX(got, (ssize_t)0);
    r = got < 0 ? (int)got : genl_message_next(&at, &length, &message);
    if (r == 0)
        r = message.type == NLMSG_ERROR ? message.error : -EBADMSG;
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
