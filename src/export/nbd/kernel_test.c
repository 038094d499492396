/*
 * The kernel's connections: served without negotiation, handed over from server to server between
 * two requests while a client sends without pause, in pieces that end anywhere; all of an export
 * end with one. A thread stands for the kernel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "drivers/drivers.h"
#include "export/nbd/nbd.h"
#include "rt/rt.h"
#include "wire/nbd/nbd.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>

#include <cmocka.h>

#define SLOTS      48
#define SLOT_BYTES (160 * 1024) /* more than a chunk of the server's */
#define HANDOVERS  60

static int check(bool ok, const char *what, int line)
{
    if (!ok) {
        fprintf(stderr, "line %d: %s\n", line, what);
        abort();
    }
    return 0;
}
#define CHECK(x) check(x, #x, __LINE__)

/* ---- the client ---- */

struct slot {
    uint64_t cookie; /* of the request on its way; 0: none */
    uint16_t command;
    uint32_t length;
    uint64_t seed; /* what the slot holds, from its start; 0: zeroes */
    uint32_t filled;
};

struct client {
    int fd;
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct slot slot[SLOTS];
    bool stop, ended;
    uint64_t sent, answered;
    struct random random;
    uint8_t out[SLOT_BYTES + 64], in[SLOT_BYTES];
};

static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
    struct random random = random_seed(seed);
    size_t at = 0;
    for (; seed && at + 8 <= length; at += 8)
        store_be64(bytes + at, random_u64(&random));
    memset(bytes + at, 0, length - at);
}

/* In pieces of any length. */
static void send_all(struct client *client, const uint8_t *bytes, size_t length)
{
    while (length) {
        uint64_t dice = random_u64(&client->random);
        size_t piece = dice % 4 ? length : MIN(length, (size_t)(dice >> 8) % 97 + 1);
        ssize_t n = send(client->fd, bytes, piece, MSG_NOSIGNAL);
        CHECK(n > 0);
        bytes += n;
        length -= (size_t)n;
    }
}

static void receive_all(struct client *client, void *bytes, size_t length)
{
    for (size_t have = 0; have < length;) {
        ssize_t n = recv(client->fd, (uint8_t *)bytes + have, length - have, 0);
        CHECK(n > 0);
        have += (size_t)n;
    }
}

static size_t make_request(struct client *client, unsigned index, uint64_t cookie)
{
    struct slot *slot = &client->slot[index];
    uint64_t dice = random_u64(&client->random);
    slot->cookie = cookie;
    slot->command = dice % 8 == 0 ? NBD_CMD_FLUSH : dice % 2 ? NBD_CMD_WRITE : NBD_CMD_READ;
    slot->length = (uint32_t)((dice >> 8) % (SLOT_BYTES / 8) + 1) * 8;
    bool flush = slot->command == NBD_CMD_FLUSH;
    struct nbd_wire_request wire = {
        be32_of(NBD_MAGIC_REQUEST),
        be16_of(0),
        be16_of(slot->command),
        be64_of(cookie),
        be64_of(flush ? 0 : (uint64_t)index * SLOT_BYTES),
        be32_of(flush ? 0 : slot->length),
    };
    memcpy(client->out, &wire, sizeof(wire));
    if (slot->command != NBD_CMD_WRITE)
        return sizeof(wire);
    slot->seed = cookie;
    slot->filled = slot->length; /* what lies behind it is not looked at */
    fill(client->out + sizeof(wire), slot->length, cookie);
    return sizeof(wire) + slot->length;
}

static void *send_requests(void *arg)
{
    struct client *client = arg;
    pthread_mutex_lock(&client->lock);
    for (uint64_t cookie = 1; !client->stop; cookie++) {
        unsigned index = 0;
        while (index < SLOTS && client->slot[index].cookie)
            index++;
        if (index == SLOTS) {
            pthread_cond_wait(&client->freed, &client->lock);
            cookie--;
            continue;
        }
        size_t length = make_request(client, index, cookie);
        client->sent++;
        pthread_mutex_unlock(&client->lock);
        send_all(client, client->out, length);
        pthread_mutex_lock(&client->lock);
    }
    while (client->answered < client->sent)
        pthread_cond_wait(&client->freed, &client->lock);
    pthread_mutex_unlock(&client->lock);
    struct nbd_wire_request end = {.magic = be32_of(NBD_MAGIC_REQUEST),
                                   .command = be16_of(NBD_CMD_DISC)};
    send_all(client, (const uint8_t *)&end, sizeof(end));
    return NULL;
}

static void check_read(struct client *client, const struct slot *slot)
{
    static uint8_t expected[SLOT_BYTES];
    receive_all(client, client->in, slot->length);
    size_t known = slot->seed ? MIN(slot->filled, slot->length) : slot->length;
    fill(expected, known, slot->seed);
    CHECK(!memcmp(client->in, expected, known));
}

static void *receive_replies(void *arg)
{
    struct client *client = arg;
    for (;;) {
        struct nbd_simple_reply reply;
        ssize_t n = recv(client->fd, &reply, sizeof(reply), MSG_PEEK);
        if (n == 0)
            break;
        receive_all(client, &reply, sizeof(reply));
        CHECK(be32_get(reply.magic) == NBD_MAGIC_SIMPLE_REPLY && be32_get(reply.error) == 0);
        pthread_mutex_lock(&client->lock);
        struct slot *slot = NULL; /* answered once, and asked for */
        for (unsigned i = 0; i < SLOTS && !slot; i++)
            if (client->slot[i].cookie == be64_get(reply.cookie))
                slot = &client->slot[i];
        pthread_mutex_unlock(&client->lock);
        CHECK(slot && be64_get(reply.cookie));
        if (slot->command == NBD_CMD_READ)
            check_read(client, slot);
        pthread_mutex_lock(&client->lock);
        slot->cookie = 0;
        client->answered++;
        pthread_cond_signal(&client->freed);
        pthread_mutex_unlock(&client->lock);
    }
    pthread_mutex_lock(&client->lock);
    client->ended = true;
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

/* ---- the servers ---- */

struct ends {
    _Atomic unsigned count, asked;
};

static void note_end(void *arg, bool asked)
{
    struct ends *ends = arg;
    ends->asked += asked;
    ends->count++;
}

static struct block_root *co_open_disk(uint64_t bytes)
{
    struct block_node *node = NULL;
    json_t *description = json_pack("{s:s, s:I}", "driver", "mem", "size", (json_int_t)bytes);
    CHECK(co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, NULL) == 0);
    struct block_root *root = block_root_new(node, &(struct block_root_options){0});
    CHECK(co_block_close(node, NULL) == 0 && root);
    json_decref(description);
    return root;
}

struct side {
    struct nbd_server *server;
    struct nbd_export *export;
};

static void co_side_start(struct side *side, struct block_root *root, struct ends *ends)
{
    struct nbd_server_options server = {.threads = 2};
    struct nbd_export_options export = {
        .name = "", .kernel_ended = note_end, .kernel_ended_arg = ends};
    CHECK(co_nbd_server_start(&server, &side->server, NULL) == 0);
    CHECK(co_nbd_export_add(side->server, root, &export, &side->export, NULL) == 0);
}

static void co_side_stop(struct side *side)
{
    CHECK(co_nbd_export_remove(side->export, true, NULL) == 0);
    co_nbd_server_stop(side->server);
}

static void co_wait_answered(struct client *client, uint64_t more)
{
    pthread_mutex_lock(&client->lock);
    uint64_t until = client->answered + more;
    while (client->answered < until) {
        pthread_mutex_unlock(&client->lock);
        co_sleep_ns(200000);
        pthread_mutex_lock(&client->lock);
    }
    pthread_mutex_unlock(&client->lock);
}

static void co_hand_over(void *arg)
{
    static struct client client;
    struct ends ends = {0};
    struct side side[2];
    struct block_root *root = co_open_disk((uint64_t)SLOTS * SLOT_BYTES);
    int fds[2], socket[NBD_KERNEL_CONNECTIONS_MAX];
    pthread_t sender, receiver;
    co_side_start(&side[0], root, &ends);
    co_side_start(&side[1], root, &ends);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    memset(&client, 0, sizeof(client));
    client.fd = fds[0];
    client.random = random_seed(7);
    pthread_mutex_init(&client.lock, NULL);
    pthread_cond_init(&client.freed, NULL);
    CHECK(pthread_create(&sender, NULL, send_requests, &client) == 0);
    CHECK(pthread_create(&receiver, NULL, receive_replies, &client) == 0);
    socket[0] = fds[1];
    for (unsigned i = 0; i < HANDOVERS; i++) {
        struct side *now = &side[i % 2];
        int copies[NBD_KERNEL_CONNECTIONS_MAX];
        CHECK(nbd_serve_kernel(now->export, socket[0], NULL) == 0);
        co_wait_answered(&client, i % 7 * 5);
        CHECK(nbd_export_copy_sockets(now->export, copies) == 1);
        close(copies[0]);
        CHECK(co_nbd_export_park(now->export, socket) == 1);
        CHECK(ends.count == i + 1 && ends.asked == 0);
    }
    CHECK(nbd_serve_kernel(side[0].export, socket[0], NULL) == 0);
    co_wait_answered(&client, 10);
    pthread_mutex_lock(&client.lock);
    client.stop = true;
    pthread_mutex_unlock(&client.lock);
    for (bool ended = false; !ended;) {
        co_sleep_ns(1000000);
        pthread_mutex_lock(&client.lock);
        ended = client.ended;
        pthread_mutex_unlock(&client.lock);
    }
    pthread_join(sender, NULL);
    pthread_join(receiver, NULL);
    while (ends.count < HANDOVERS + 1) /* told right after the socket's end */
        co_sleep_ns(1000000);
    CHECK(ends.count == HANDOVERS + 1 && ends.asked == 1);
    close(fds[0]);
    co_side_stop(&side[0]);
    co_side_stop(&side[1]);
    CHECK(co_block_root_free(root, NULL) == 0);
}

static void co_one_for_all(void *arg)
{
    struct ends ends = {0};
    struct side side;
    struct block_root *root = co_open_disk(1 << 20);
    int fds[3][2], socket[NBD_KERNEL_CONNECTIONS_MAX];
    co_side_start(&side, root, &ends);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds[i]) == 0);
        CHECK(nbd_serve_kernel(side.export, fds[i][1], NULL) == 0);
    }
    CHECK(shutdown(fds[1][0], SHUT_RDWR) == 0);
    while (ends.count < 3)
        co_sleep_ns(1000000);
    CHECK(ends.asked == 0);
    char byte;
    for (unsigned i = 0; i < 3; i++) {
        CHECK(recv(fds[i][0], &byte, 1, MSG_DONTWAIT) == 0);
        close(fds[i][0]);
    }
    CHECK(co_nbd_export_park(side.export, socket) == 0);
    co_side_stop(&side);
    CHECK(co_block_root_free(root, NULL) == 0);
}

/* What the kernel has sent of a request when it goes, is none. */
static void co_half_a_request(void *arg)
{
    struct ends ends = {0};
    struct side side;
    struct block_root *root = co_open_disk(1 << 20);
    struct nbd_wire_request wire = {be32_of(NBD_MAGIC_REQUEST),
                                    be16_of(0),
                                    be16_of(NBD_CMD_WRITE),
                                    be64_of(1),
                                    be64_of(0),
                                    be32_of(16)};
    uint8_t bytes[sizeof(wire) + 16], read[16];
    struct iovec iov;
    memcpy(bytes, &wire, sizeof(wire));
    memset(bytes + sizeof(wire), 0x5a, 16);
    co_side_start(&side, root, &ends);
    for (size_t length = 0; length < sizeof(bytes); length++) {
        int fds[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        CHECK(nbd_serve_kernel(side.export, fds[1], NULL) == 0);
        CHECK(length == 0 || send(fds[0], bytes, length, 0) == (ssize_t)length);
        close(fds[0]);
        while (ends.count <= length)
            co_sleep_ns(200000);
        CHECK(co_root_read(root, 0, sgl_one(&iov, read, 16), 0) == 0);
        for (unsigned i = 0; i < 16; i++)
            CHECK(read[i] == 0);
    }
    co_side_stop(&side);
    CHECK(co_block_root_free(root, NULL) == 0);
}

/* ---- */

static void run_in(enum rt_kind kind, co_fn *fn)
{
    struct rt_options options = {.kind = kind};
    struct rt *rt;
    assert_int_equal(rt_create(&options, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, fn, NULL), 0);
    rt_free(rt);
}

static void sockets_are_handed_over_under_load(void **state)
{
    run_in(RT_AUTO, co_hand_over);
}

static void sockets_are_handed_over_under_load_by_threads(void **state)
{
    run_in(RT_THREADS, co_hand_over);
}

static void all_connections_end_with_one(void **state)
{
    run_in(RT_AUTO, co_one_for_all);
}

static void half_a_request_does_nothing(void **state)
{
    run_in(RT_AUTO, co_half_a_request);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(sockets_are_handed_over_under_load),
        cmocka_unit_test(sockets_are_handed_over_under_load_by_threads),
        cmocka_unit_test(all_connections_end_with_one),
        cmocka_unit_test(half_a_request_does_nothing),
    };
    drivers_register();
    return cmocka_run_group_tests_name("nbd kernel", tests, NULL, NULL);
}
