/*
 * Fuzz target: what NBD clients send, to a server with a disk in memory and two exports of it.
 *
 *     u8 how | bytes                                                      of one client
 *     u8 how | { u8 client 0..3 | flags, u16 length, bytes } ...          of several
 *
 * `how`: bits 0-1 the kind of negotiation put in front (0: none), bits 2-3 clients beside the
 * first, 0x10 two threads, 0x20 the exports are removed by force at the end, 0x40 little memory,
 * 0x80 the first client is the kernel's. Flags of a piece: 0x04 the client vanishes after it, 0x08
 * it takes no more replies until all have sent.
 *
 * Whatever they send, the server ends their connections once they have shut their sides, and serves
 * the next one, which reads the disk's last byte.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "block/bitmap.h"
#include "drivers/drivers.h"
#include "export/nbd/nbd.h"
#include "fuzz.h"
#include "wire/nbd/nbd.h"
#include <poll.h>
#include <sys/socket.h>

#define DISK_BYTES    (256 * KiB)
#define LITTLE_MEMORY (2 * MiB)
#define PATIENCE      ((uint64_t)40 * 1000000000)
#define CLIENTS_MAX   4u

enum how { TWO_THREADS = 0x10, FORCED_END = 0x20, LITTLE = 0x40, KERNEL = 0x80 };
enum piece { VANISHES = 0x04, TAKES_NOTHING = 0x08 };

struct client {
    int fd; /* -1: gone */
    bool takes_nothing;
    size_t answered;
};

struct run {
    const uint8_t *bytes;
    size_t length;
    uint8_t how;
    struct nbd_server *server;
    struct nbd_export *export, *other;
    struct client client[CLIENTS_MAX];
    unsigned clients;
    uint64_t deadline;
    bool ended; /* the exports are gone */
};

static size_t put_option(uint8_t *at, uint32_t option, const void *data, size_t length)
{
    struct nbd_option head = {be64_of(NBD_MAGIC_OPTION), be32_of(option),
                              be32_of((uint32_t)length)};
    memcpy(at, &head, sizeof(head));
    if (length)
        memcpy(at + sizeof(head), data, length);
    return sizeof(head) + length;
}

/* Simple, structured or extended, with three contexts. */
static size_t put_negotiation(uint8_t *at, unsigned kind)
{
    static const uint8_t contexts[] = "\0\0\0\0\0\0\0\3\0\0\0\017base:allocation\0\0\0\025"
                                      "qemu:allocation-depth\0\0\0\024qemu:dirty-bitmap:b0",
                         go[] = {0, 0, 0, 0, 0, 0};
    size_t n = 4;
    memcpy(at, "\0\0\0\3", 4);
    if (kind >= 2)
        n += put_option(at + n, kind == 2 ? NBD_OPT_STRUCTURED_REPLY : NBD_OPT_EXTENDED_HEADERS,
                        NULL, 0);
    if (kind >= 2)
        n += put_option(at + n, NBD_OPT_SET_META_CONTEXT, contexts, sizeof(contexts) - 1);
    return n + put_option(at + n, NBD_OPT_GO, go, sizeof(go));
}

/* ---- clients ---- */

static void connect_client(struct run *run, struct client *client, bool kernel)
{
    int fd[2];
    int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd);
    assert(r == 0);
    *client = (struct client){.fd = fd[0]};
    if (kernel)
        r = nbd_serve_kernel(run->export, fd[1], NULL);
    else
        nbd_server_adopt(run->server, fd[1]);
    assert(r == 0);
}

static void vanish(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
}

/* Takes what is answered. @return whether there was something, the end among it. */
static bool take_answers(struct client *client)
{
    static uint8_t buffer[64 * KiB];
    bool some = false;
    while (client->fd >= 0 && !client->takes_nothing) {
        ssize_t n = recv(client->fd, buffer, sizeof(buffer), 0);
        if (n < 0 && errno == EAGAIN)
            break;
        some = true;
        if (n > 0)
            client->answered += (size_t)n;
        else
            vanish(client);
    }
    return some;
}

/* Until one of the clients may have something, or @sender room. */
static void co_wait(struct run *run, const struct client *sender)
{
    bool some = false;
    for (unsigned i = 0; i < run->clients; i++)
        some |= take_answers(&run->client[i]);
    assert(rt_now_ns() < run->deadline);
    if (some)
        return;
    int r = sender && run->clients == 1
                ? co_poll_timeout(sender->fd, POLLIN | POLLOUT, run->deadline - rt_now_ns())
                : 1;
    assert(r >= 0);
    if (run->clients > 1)
        co_sleep_ns(50000);
}

static void co_send(struct run *run, struct client *client, const uint8_t *bytes, size_t length)
{
    while (length && client->fd >= 0) {
        ssize_t n = send(client->fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return;
        if (n > 0) {
            bytes += n;
            length -= (size_t)n;
        } else {
            client->takes_nothing = false; /* it could wait for that */
            co_wait(run, client);
        }
    }
}

/* All that was not sent is, and all that is answered taken, until the server has hung up. */
static void co_finish(struct run *run)
{
    for (unsigned i = 0; i < run->clients; i++) {
        run->client[i].takes_nothing = false;
        if (run->client[i].fd >= 0)
            shutdown(run->client[i].fd, SHUT_WR);
    }
    for (unsigned i = 0; i < run->clients; i++)
        while (run->client[i].fd >= 0) {
            if (!take_answers(&run->client[i])) {
                assert(rt_now_ns() < run->deadline);
                co_sleep_ns(20000);
            }
            for (unsigned j = i + 1; j < run->clients; j++)
                (void)take_answers(&run->client[j]);
        }
}

static void co_talk(struct run *run)
{
    uint8_t front[256];
    unsigned kind = run->how % 4;
    size_t n = kind ? put_negotiation(front, kind) : 0;
    for (unsigned i = 0; i < run->clients; i++) {
        connect_client(run, &run->client[i], run->how & KERNEL && i == 0);
        if (!(run->how & KERNEL) || i)
            co_send(run, &run->client[i], front, n);
    }
    const uint8_t *at = run->bytes, *end = at + run->length;
    while (at < end) {
        uint8_t head = run->clients > 1 ? *at++ : 0;
        size_t length = (size_t)(end - at);
        if (run->clients > 1) {
            length = end - at >= 2 ? load_be16(at) : 0;
            at += MIN((size_t)(end - at), (size_t)2);
            length = MIN(length, (size_t)(end - at));
        }
        struct client *client = &run->client[head % 4 % run->clients];
        client->takes_nothing |= head & TAKES_NOTHING;
        co_send(run, client, at, length);
        at += length;
        if (head & VANISHES)
            vanish(client);
    }
}

/* ---- the server ---- */

static struct block_root *co_open_disk(void)
{
    struct block_node *node = NULL;
    json_t *description = json_pack("{s:s, s:I}", "driver", "mem", "size", (json_int_t)DISK_BYTES);
    int r = co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, NULL);
    assert(r == 0);
    for (const char *const *name = (const char *const[]){"b0", "b1", NULL}; *name; name++)
        if (r == 0)
            r = co_block_bitmap_add(node, *name, 512, 0, NULL, NULL);
    assert(r == 0);
    struct block_root *root = block_root_new(node, &(struct block_root_options){0});
    r = co_block_close(node, NULL);
    assert(r == 0 && root);
    json_decref(description);
    return root;
}

static void co_start(struct run *run, struct block_root *root)
{
    static const char *const shown[] = {"b1", NULL};
    struct nbd_server_options options = {.threads = run->how & TWO_THREADS ? 2 : 1,
                                         .memory = run->how & LITTLE ? LITTLE_MEMORY : 0};
    struct nbd_export_options first = {.name = ""}, second = {.name = "ro",
                                                              .description = "a second one",
                                                              .read_only = true,
                                                              .connections = 1,
                                                              .bitmaps = shown,
                                                              .no_depth = true};
    int r = co_nbd_server_start(&options, &run->server, NULL);
    assert(r == 0);
    r = co_nbd_export_add(run->server, root, &first, &run->export, NULL);
    assert(r == 0);
    r = co_nbd_export_add(run->server, root, &second, &run->other, NULL);
    assert(r == 0);
}

static void co_remove(void *arg)
{
    struct run *run = arg;
    int r = co_nbd_export_remove(run->export, true, NULL);
    assert(r == 0);
    r = co_nbd_export_remove(run->other, true, NULL);
    assert(r == 0);
    run->ended = true;
}

static void co_check(struct run *run)
{
    struct nbd_wire_request read = {be32_of(NBD_MAGIC_REQUEST), be16_of(0),
                                    be16_of(NBD_CMD_READ),      be64_of(1),
                                    be64_of(DISK_BYTES - 1),    be32_of(1)};
    struct nbd_server_info info;
    uint8_t good[256];
    size_t n = put_negotiation(good, 1);
    memcpy(good + n, &read, sizeof(read));
    run->clients = 1;
    run->deadline = rt_now_ns() + PATIENCE;
    connect_client(run, &run->client[0], false);
    co_send(run, &run->client[0], good, n + sizeof(read));
    co_finish(run);
    assert(run->client[0].answered > sizeof(struct nbd_simple_reply));
    /* Those who have vanished may take a moment to be gone. */
    for (;;) {
        nbd_server_info(run->server, &info);
        if (info.waiting == 0 && info.connections == 0)
            break;
        assert(rt_now_ns() < run->deadline);
        co_sleep_ns(20000);
    }
}

static void co_main(void *arg)
{
    struct run *run = arg;
    struct block_root *root = co_open_disk();
    co_start(run, root);
    run->deadline = rt_now_ns() + PATIENCE;
    run->clients = 1 + run->how / 4 % 4;
    co_talk(run);
    int r = run->how & FORCED_END ? rt_spawn(NULL, co_remove, run) : 0;
    assert(r == 0);
    co_finish(run);
    if (!(run->how & FORCED_END)) {
        co_check(run);
        co_remove(run);
    }
    while (!run->ended)
        co_sleep_ns(20000);
    co_nbd_server_stop(run->server);
    (void)co_block_root_free(root, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct rt_options options = {.kind = RT_THREADS, .workers_max = 1};
    struct run run = {.bytes = bytes + (length > 0), .length = length - (length > 0)};
    struct rt *rt = NULL;
    run.how = length ? bytes[0] : 0;
    drivers_register();
    log_set_level(LOG_LEVEL_ERROR);
    int result = rt_create(&options, &rt, NULL);
    assert(result == 0);
    result = rt_run(rt, co_main, &run);
    assert(result == 0);
    rt_free(rt);
    return 0;
}
