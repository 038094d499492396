/*
 * Generic netlink: requests to a part of the kernel (a family, found by its name) and its answers.
 *
 *     struct nlmsghdr | struct genlmsghdr | struct nlattr, value, padding | ...
 *
 * Integers are in host order, attributes are aligned to 4 bytes and may nest. The kernel works on a
 * request while it is being sent, so an answer is there when genl_send() returns, however long
 * that takes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRE_NETLINK_GENL_H
#define WIRE_NETLINK_GENL_H

#include "base/common.h"
#include "hawser/error.h"
#include <linux/genetlink.h>
#include <linux/netlink.h>

/** More than any request needs: 16 sockets and a name. */
#define GENL_ATTRIBUTES_MAX 1024

struct genl_request {
    struct nlmsghdr head;
    struct genlmsghdr generic;
    uint8_t attributes[GENL_ATTRIBUTES_MAX];
};
static_assert(offsetof(struct genl_request, attributes) == NLMSG_HDRLEN + GENL_HDRLEN, "no holes");

/* ---- requests ---- */

/** @flags NLM_F_ACK, NLM_F_DUMP beside NLM_F_REQUEST. */
void genl_request_init(struct genl_request *request, uint16_t family, uint8_t command,
                       uint8_t version, uint16_t flags);
/** Whether an attribute with @length bytes still fits; the functions below assert that. */
bool genl_has_room(const struct genl_request *request, size_t length);
void genl_put(struct genl_request *request, uint16_t type, const void *value, size_t length);
void genl_put_u32(struct genl_request *request, uint16_t type, uint32_t value);
void genl_put_u64(struct genl_request *request, uint16_t type, uint64_t value);
/** What is put until genl_nest_end() is inside of it. @return for that call. */
size_t genl_nest(struct genl_request *request, uint16_t type);
void genl_nest_end(struct genl_request *request, size_t nest);

/* ---- the socket ---- */

/** @return a socket to the kernel, owned by the caller, or -errno. */
HWS_MUST_CHECK int genl_open(struct hws_error *err);
HWS_MUST_CHECK int genl_send(int fd, const struct genl_request *request);
/**
 * One datagram of the kernel's; others' are passed over. @return its length, at least that of a
 * struct nlmsghdr; -ETIMEDOUT, -EMSGSIZE where it is longer than @bytes, -errno.
 */
HWS_MUST_CHECK ssize_t genl_receive(int fd, void *buffer, size_t bytes, int timeout_ms);

struct genl_family {
    uint16_t id;
    uint32_t group; /* the first multicast group of it; 0: none */
};

/** -ENOENT, without a text in @err, where the kernel has no such family. */
HWS_MUST_CHECK int genl_find_family(int fd, const char *name, struct genl_family *ret,
                                    struct hws_error *err);

/* ---- answers: pure ---- */

/** A message within a datagram. */
struct genl_message {
    uint16_t type; /* the family's number, or NLMSG_ERROR, NLMSG_DONE */
    uint8_t command;
    int error; /* of NLMSG_ERROR: 0 acknowledges, else -errno */
    const uint8_t *attributes;
    size_t length; /* of them */
};

/**
 * Takes the first message off the @length bytes at @bytes. @return 0; -ENODATA at the end,
 * -EBADMSG.
 */
HWS_MUST_CHECK int genl_message_next(const uint8_t **bytes, size_t *length,
                                     struct genl_message *ret);

/** The value of the first attribute @type among @length bytes of them; NULL: it is not there. */
const uint8_t *genl_find(const uint8_t *attributes, size_t length, unsigned type,
                         size_t *ret_length);
/** The same of a number; false where there is none of this length. */
bool genl_find_u32(const uint8_t *attributes, size_t length, unsigned type, uint32_t *ret);

/** Walks attributes: @at and @length move on. @return false at the end. */
bool genl_each(const uint8_t **at, size_t *length, unsigned *ret_type, const uint8_t **ret_value,
               size_t *ret_length);

#endif
