/*
 * Fuzz target: what an NBD client sends, to a server with a disk in memory.
 *
 *     u8 kind of negotiation put in front (0: none) | bytes
 *
 * Whatever it sends, the server ends the connection once the client has shut its side, and serves
 * the next one, which reads the disk's last byte.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "drivers/drivers.h"
#include "export/nbd/nbd.h"
#include "fuzz.h"
#include "wire/nbd/nbd.h"
#include <poll.h>
#include <sys/socket.h>

#define DISK_BYTES (256 * KiB)
#define PATIENCE   ((uint64_t)20 * 1000000000)

struct run {
    const uint8_t *bytes;
    size_t length;
    struct nbd_server *server;
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

/* Simple, structured or extended, with both contexts. */
static size_t put_negotiation(uint8_t *at, unsigned kind)
{
    static const uint8_t contexts[] = "\0\0\0\0\0\0\0\2\0\0\0\017base:allocation\0\0\0\025"
                                      "qemu:allocation-depth",
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

/* Sends all, takes whatever is answered, until the server hangs up. @return bytes answered. */
static size_t co_talk(struct run *run, const uint8_t *bytes, size_t length, uint8_t *ret_last)
{
    int fd[2];
    size_t sent = 0, got = 0;
    uint64_t deadline = rt_now_ns() + PATIENCE;
    int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd);
    assert(r == 0);
    nbd_server_adopt(run->server, fd[1]);
    for (bool shut = false;;) {
        static uint8_t buffer[64 * KiB];
        ssize_t n = recv(fd[0], buffer, sizeof(buffer), 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            break;
        if (n > 0) {
            *ret_last = buffer[n - 1];
            got += (size_t)n;
            continue;
        }
        if (sent < length)
            n = send(fd[0], bytes + sent, length - sent, MSG_NOSIGNAL);
        else
            n = -1;
        sent += n > 0 ? (size_t)n : 0;
        if (n < 0 && sent < length && errno != EAGAIN)
            break;
        if (sent == length && !shut) {
            shutdown(fd[0], SHUT_WR);
            shut = true;
        }
        if (n <= 0) {
            uint64_t now = rt_now_ns();
            assert(now < deadline);
            r = co_poll_timeout(fd[0], POLLIN | (sent < length ? POLLOUT : 0), deadline - now);
            assert(r > 0);
        }
    }
    close(fd[0]);
    return got;
}

static struct block_root *co_open_disk(void)
{
    struct block_node *node = NULL;
    json_t *description = json_pack("{s:s, s:I}", "driver", "mem", "size", (json_int_t)DISK_BYTES);
    int r = co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, NULL);
    assert(r == 0);
    struct block_root *root = block_root_new(node, &(struct block_root_options){0});
    r = co_block_close(node, NULL);
    assert(r == 0 && root);
    json_decref(description);
    return root;
}

static void co_main(void *arg)
{
    struct run *run = arg;
    struct nbd_server_options options = {.threads = 1};
    struct nbd_export *export;
    struct block_root *root = co_open_disk();
    int r = co_nbd_server_start(&options, &run->server, NULL);
    assert(r == 0);
    r = co_nbd_export_add(run->server, root, &(struct nbd_export_options){.name = ""}, &export,
                          NULL);
    assert(r == 0);
    autofree uint8_t *stream = malloc(run->length + 256);
    uint8_t last = 0;
    size_t n = run->length && run->bytes[0] % 4 ? put_negotiation(stream, run->bytes[0] % 4) : 0;
    if (run->length > 1)
        memcpy(stream + n, run->bytes + 1, run->length - 1);
    (void)co_talk(run, stream, n + (run->length ? run->length - 1 : 0), &last);

    struct nbd_wire_request read = {be32_of(NBD_MAGIC_REQUEST), be16_of(0),
                                    be16_of(NBD_CMD_READ),      be64_of(1),
                                    be64_of(DISK_BYTES - 1),    be32_of(1)};
    uint8_t good[256];
    n = put_negotiation(good, 1);
    memcpy(good + n, &read, sizeof(read));
    size_t answered = co_talk(run, good, n + sizeof(read), &last);
    assert(answered > sizeof(struct nbd_simple_reply));
    r = co_nbd_export_remove(export, true, NULL);
    assert(r == 0);
    co_nbd_server_stop(run->server);
    (void)co_block_root_free(root, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct rt_options options = {.kind = RT_THREADS, .workers_max = 1};
    struct run run = {.bytes = bytes, .length = length};
    struct rt *rt = NULL;
    drivers_register();
    log_set_level(LOG_LEVEL_ERROR);
    int result = rt_create(&options, &rt, NULL);
    assert(result == 0);
    result = rt_run(rt, co_main, &run);
    assert(result == 0);
    rt_free(rt);
    return 0;
}
