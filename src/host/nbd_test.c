/*
 * Requests to the kernel's NBD driver and its answers, with a pair of sockets in the kernel's
 * place: what is asked is what the kernel's header says, and no answer is believed that lies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/common.h"
#include "host/nbd_control.h"
#include "wire/netlink/genl.h"
#include <linux/nbd-netlink.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>

#include <cmocka.h>

#define FAMILY 0x23

struct peer {
    int fd; /* the kernel's end */
    struct nbd_control control;
};

static void peer_open(struct peer *peer)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    peer->fd = ends[0];
    peer->control = (struct nbd_control){.fd = ends[1], .family = FAMILY, .timeout_ms = 20};
}

static void peer_close(struct peer *peer)
{
    close(peer->fd);
    close(peer->control.fd);
}

static void tell(struct peer *peer, const void *bytes, size_t length)
{
    assert_int_equal(send(peer->fd, bytes, length, 0), length);
}

static void tell_error(struct peer *peer, int code)
{
    struct {
        struct nlmsghdr head;
        int code;
        struct nlmsghdr about;
    } message = {{.nlmsg_len = sizeof(message), .nlmsg_type = NLMSG_ERROR}, code, {0}};
    tell(peer, &message, sizeof(message));
}

static void tell_index(struct peer *peer, uint32_t index)
{
    struct genl_request message;
    genl_request_init(&message, FAMILY, NBD_CMD_CONNECT, 1, 0);
    genl_put_u32(&message, NBD_ATTR_INDEX, index);
    tell(peer, &message, message.head.nlmsg_len);
}

static void tell_status(struct peer *peer, uint32_t index, uint8_t connected)
{
    struct genl_request message;
    genl_request_init(&message, FAMILY, NBD_CMD_STATUS, 1, 0);
    size_t list = genl_nest(&message, NBD_ATTR_DEVICE_LIST);
    size_t item = genl_nest(&message, NBD_DEVICE_ITEM);
    genl_put_u32(&message, NBD_DEVICE_INDEX, index);
    genl_put(&message, NBD_DEVICE_CONNECTED, &connected, 1);
    genl_nest_end(&message, item);
    genl_nest_end(&message, list);
    tell(peer, &message, message.head.nlmsg_len);
}

/* What was asked of the kernel. */
static struct genl_message asked(struct peer *peer, uint8_t bytes[2048])
{
    struct genl_message message;
    ssize_t got = recv(peer->fd, bytes, 2048, MSG_DONTWAIT);
    assert_true(got > 0);
    const uint8_t *at = bytes;
    size_t length = (size_t)got;
    assert_int_equal(genl_message_next(&at, &length, &message), 0);
    assert_int_equal(length, 0);
    assert_int_equal(message.type, FAMILY);
    return message;
}

static uint64_t number(const struct genl_message *message, unsigned type, size_t bytes)
{
    uint64_t value = 0;
    size_t length;
    const uint8_t *at = genl_find(message->attributes, message->length, type, &length);
    assert_non_null(at);
    assert_int_equal(length, bytes);
    memcpy(&value, at, bytes);
    return value;
}

static void a_device_is_made_with_all_that_was_said(void **state)
{
    struct peer peer;
    uint8_t bytes[2048];
    unsigned index = 0;
    const int sockets[] = {7, 9};
    struct nbd_device_options options = {
        .index = 5,
        .size_bytes = 1ull << 40,
        .block_bytes = 4096,
        .flags = 0x16d,
        .timeout_s = 30,
        .dead_timeout_s = 600,
        .backend = "hawser/x",
        .sockets = sockets,
        .socket_count = 2,
    };
    peer_open(&peer);
    tell_index(&peer, 5);
    tell_error(&peer, 0);
    assert_int_equal(nbd_control_connect(&peer.control, &options, &index), 0);
    assert_int_equal(index, 5);
    struct genl_message message = asked(&peer, bytes);
    assert_int_equal(message.command, NBD_CMD_CONNECT);
    assert_int_equal(number(&message, NBD_ATTR_INDEX, 4), 5);
    assert_int_equal(number(&message, NBD_ATTR_SIZE_BYTES, 8), 1ull << 40);
    assert_int_equal(number(&message, NBD_ATTR_BLOCK_SIZE_BYTES, 8), 4096);
    assert_int_equal(number(&message, NBD_ATTR_SERVER_FLAGS, 8), 0x16d);
    assert_int_equal(number(&message, NBD_ATTR_TIMEOUT, 8), 30);
    assert_int_equal(number(&message, NBD_ATTR_DEAD_CONN_TIMEOUT, 8), 600);
    size_t length, item_length;
    const uint8_t *backend =
        genl_find(message.attributes, message.length, NBD_ATTR_BACKEND_IDENTIFIER, &length);
    assert_int_equal(length, sizeof("hawser/x"));
    assert_string_equal((const char *)backend, "hawser/x");
    const uint8_t *list = genl_find(message.attributes, message.length, NBD_ATTR_SOCKETS, &length);
    unsigned type;
    const uint8_t *item;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t fd;
        assert_true(genl_each(&list, &length, &type, &item, &item_length));
        assert_int_equal(type, NBD_SOCK_ITEM);
        assert_true(genl_find_u32(item, item_length, NBD_SOCK_FD, &fd));
        assert_int_equal(fd, sockets[i]);
    }
    assert_int_equal(length, 0);
    peer_close(&peer);
}

static void the_kernel_chooses_the_index(void **state)
{
    struct peer peer;
    uint8_t bytes[2048];
    unsigned index = 0;
    size_t length;
    const int socket = 7;
    struct nbd_device_options options = {
        .index = NBD_DEVICE_ANY, .size_bytes = 4096, .sockets = &socket, .socket_count = 1};
    peer_open(&peer);
    tell_index(&peer, 31);
    tell_error(&peer, 0);
    assert_int_equal(nbd_control_connect(&peer.control, &options, &index), 0);
    assert_int_equal(index, 31);
    struct genl_message message = asked(&peer, bytes);
    assert_null(genl_find(message.attributes, message.length, NBD_ATTR_INDEX, &length));
    assert_null(genl_find(message.attributes, message.length, NBD_ATTR_TIMEOUT, &length));
    assert_null(genl_find(message.attributes, message.length, NBD_ATTR_CLIENT_FLAGS, &length));
    assert_int_equal(number(&message, NBD_ATTR_BLOCK_SIZE_BYTES, 8), 512);
    peer_close(&peer);
}

static void a_refusal_is_told(void **state)
{
    struct peer peer;
    unsigned index = 77;
    bool connected = true;
    const int socket = 7;
    struct nbd_device_options options = {
        .index = 1, .size_bytes = 4096, .sockets = &socket, .socket_count = 1};
    peer_open(&peer);
    tell_error(&peer, -EBUSY);
    assert_int_equal(nbd_control_connect(&peer.control, &options, &index), -EBUSY);
    tell_error(&peer, -EINVAL);
    assert_int_equal(nbd_control_reconnect(&peer.control, 1, NULL, &socket, 1), -EINVAL);
    tell_error(&peer, -EPERM);
    assert_int_equal(nbd_control_disconnect(&peer.control, 1), -EPERM);
    tell_error(&peer, -EPERM);
    assert_int_equal(nbd_control_status(&peer.control, 1, &connected), -EPERM);
    assert_int_equal(index, 77);
    assert_true(connected);
    /* Acknowledged, but which device it is was never told. */
    tell_error(&peer, 0);
    assert_int_equal(nbd_control_connect(&peer.control, &options, &index), -EBADMSG);
    /* No answer, then nobody there. */
    assert_int_equal(nbd_control_disconnect(&peer.control, 1), -ETIMEDOUT);
    close(peer.fd);
    assert_true(nbd_control_disconnect(&peer.control, 1) < 0);
    close(peer.control.fd);
}

static void size_and_state_are_those_of_the_device(void **state)
{
    struct peer peer;
    uint8_t bytes[2048];
    bool connected = false;
    peer_open(&peer);
    tell_error(&peer, 0);
    assert_int_equal(nbd_control_resize(&peer.control, 3, "b", 8192), 0);
    struct genl_message message = asked(&peer, bytes);
    assert_int_equal(message.command, NBD_CMD_RECONFIGURE);
    assert_int_equal(number(&message, NBD_ATTR_INDEX, 4), 3);
    assert_int_equal(number(&message, NBD_ATTR_SIZE_BYTES, 8), 8192);
    tell_status(&peer, 4, 1);
    tell_error(&peer, 0);
    assert_int_equal(nbd_control_status(&peer.control, 4, &connected), 0);
    assert_true(connected);
    tell_status(&peer, 5, 1); /* another one's */
    tell_error(&peer, 0);
    assert_int_equal(nbd_control_status(&peer.control, 4, &connected), 0);
    assert_false(connected);
    peer_close(&peer);
}

/* Every cut and every changed byte of a whole answer: refused or read, never past its end. */
static void an_answer_may_lie(void **state)
{
    struct genl_request message;
    genl_request_init(&message, FAMILY, NBD_CMD_STATUS, 1, 0);
    size_t list = genl_nest(&message, NBD_ATTR_DEVICE_LIST);
    size_t item = genl_nest(&message, NBD_DEVICE_ITEM);
    genl_put_u32(&message, NBD_DEVICE_INDEX, 1);
    genl_put(&message, NBD_DEVICE_CONNECTED, "\1", 1);
    genl_nest_end(&message, item);
    genl_nest_end(&message, list);
    size_t whole = message.head.nlmsg_len;
    for (size_t length = 0; length < whole; length++) {
        struct nbd_control_answer answer = {0};
        autofree uint8_t *copy = malloc(length ? length : 1); /* a sanitizer sees its end */
        assert_non_null(copy);
        memcpy(copy, &message, length);
        assert_int_equal(nbd_control_parse(copy, length, FAMILY, 1, &answer),
                         length ? -EBADMSG : 0);
        assert_false(answer.connected);
    }
    for (size_t at = 0; at < whole; at++)
        for (unsigned value = 0; value < 256; value += 17) {
            struct nbd_control_answer answer = {0};
            autofree uint8_t *copy = malloc(whole);
            assert_non_null(copy);
            memcpy(copy, &message, whole);
            copy[at] = (uint8_t)value;
            int r = nbd_control_parse(copy, whole, FAMILY, 1, &answer);
            assert_true(r == 0 || r == -EBADMSG);
            assert_true(!answer.connected || answer.has_status);
        }
}

static void names_of_devices_are_read(void **state)
{
    unsigned index;
    char path[NBD_DEVICE_PATH_BYTES];
    assert_int_equal(nbd_device_index("/dev/nbd12", &index, NULL), 0);
    assert_int_equal(index, 12);
    assert_int_equal(nbd_device_index("nbd0", &index, NULL), 0);
    assert_int_equal(index, 0);
    nbd_device_path(3, path);
    assert_string_equal(path, "/dev/nbd3");
    static const char *const bad[] = {"/dev/nbd", "/dev/nbd1p1", "/dev/sda", "nbd-1", "nbd99999999",
                                      "",         "/dev/"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(nbd_device_index(bad[i], &index, NULL), -EINVAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_is_made_with_all_that_was_said),
        cmocka_unit_test(the_kernel_chooses_the_index),
        cmocka_unit_test(a_refusal_is_told),
        cmocka_unit_test(size_and_state_are_those_of_the_device),
        cmocka_unit_test(an_answer_may_lie),
        cmocka_unit_test(names_of_devices_are_read),
    };
    return cmocka_run_group_tests_name("nbd", tests, NULL, NULL);
}
