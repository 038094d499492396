/*
 * Fuzz target: what an NBD client sends behind STARTTLS, to a server that requires TLS.
 *
 *     u8 kind (below) | u8 bytes a record, in steps of 16 from 1 on | bytes
 *
 *   0  the bytes are what comes in place of a handshake
 *   1  a handshake by pre-shared key; the bytes are what it sends inside
 *   2  the same behind a negotiation
 *   3  a handshake and a negotiation; the bytes then come without TLS around them
 *
 * Whatever it sends, the server ends the connection once the client has shut its side, and serves
 * the next one, which reads the disk's last byte. The client is blocking code on a worker thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "drivers/drivers.h"
#include "export/nbd/nbd.h"
#include "export/nbd/tls.h"
#include "fuzz.h"
#include "wire/nbd/nbd.h"
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define DISK_BYTES  (256 * KiB)
#define PATIENCE_MS 20000

struct talk {
    int fd;
    unsigned kind;
    size_t step, length;
    const uint8_t *bytes;
    size_t answered;
};

static SSL_CTX *client_context;
static struct nbd_tls *credentials;

static unsigned on_psk(SSL *ssl, const char *hint, char *name, unsigned room, unsigned char *key,
                       unsigned key_room)
{
    memcpy(name, "alice", 6);
    memset(key, 0x11, 16);
    return 16;
}

static void co_prepare(void)
{
    char folder[] = "/tmp/hawser-fuzz-XXXXXX", path[64];
    struct nbd_tls_options options = {.folder = folder, .required = true};
    bool made = mkdtemp(folder);
    assert(made);
    snprintf(path, sizeof(path), "%s/keys.psk", folder);
    FILE *file = fopen(path, "we");
    assert(file);
    int r = fputs("alice:11111111111111111111111111111111\n", file) < 0 || fclose(file) ||
            chmod(path, 0600);
    assert(r == 0);
    r = co_nbd_tls_load(&options, &credentials, NULL);
    assert(r == 0);
    (void)unlink(path);
    (void)rmdir(folder);
    client_context = SSL_CTX_new(TLS_client_method());
    assert(client_context);
    SSL_CTX_set_psk_client_callback(client_context, on_psk);
    SSL_CTX_set_mode(client_context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static void await(int fd, short events)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};
    int r = poll(&poll_fd, 1, PATIENCE_MS);
    assert(r > 0);
}

/* ---- what is sent ---- */

static size_t put_option(uint8_t *at, uint32_t option, const void *data, size_t length)
{
    struct nbd_option head = {be64_of(NBD_MAGIC_OPTION), be32_of(option),
                              be32_of((uint32_t)length)};
    memcpy(at, &head, sizeof(head));
    if (length)
        memcpy(at + sizeof(head), data, length);
    return sizeof(head) + length;
}

static size_t put_negotiation(uint8_t *at)
{
    size_t n = put_option(at, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    return n + put_option(at + n, NBD_OPT_GO, "\0\0\0\0\0\0", 6);
}

/* In the clear, until STARTTLS is granted. */
static void start_tls(int fd)
{
    uint8_t hello[32] = {0, 0, 0, 3};
    size_t n = 4 + put_option(hello + 4, NBD_OPT_STARTTLS, NULL, 0), got = 0;
    uint8_t answer[sizeof(struct nbd_greeting) + sizeof(struct nbd_option_reply)];
    ssize_t r = send(fd, hello, n, MSG_NOSIGNAL);
    assert(r == (ssize_t)n);
    while (got < sizeof(answer)) {
        r = recv(fd, answer + got, sizeof(answer) - got, 0);
        assert(r != 0 && (r > 0 || errno == EAGAIN));
        got += r > 0 ? (size_t)r : 0;
        if (r < 0)
            await(fd, POLLIN);
    }
}

static void wait_for(SSL *ssl, int result)
{
    int error = SSL_get_error(ssl, result);
    assert(error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE);
    await(SSL_get_fd(ssl), error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT);
}

static SSL *shake_hands(int fd)
{
    SSL *ssl = SSL_new(client_context);
    assert(ssl);
    int r = SSL_set_fd(ssl, fd);
    assert(r == 1);
    while ((r = SSL_connect(ssl)) != 1)
        wait_for(ssl, r);
    return ssl;
}

/* ---- both ways at once ---- */

/* @return bytes, 0 where there are none now, -1 at the end. */
static int take(int fd, SSL *ssl, uint8_t *buffer, size_t room)
{
    if (!ssl) {
        ssize_t n = recv(fd, buffer, room, 0);
        return n > 0 ? (int)n : n < 0 && errno == EAGAIN ? 0 : -1;
    }
    int n = SSL_read(ssl, buffer, (int)room);
    if (n > 0)
        return n;
    return SSL_get_error(ssl, n) == SSL_ERROR_WANT_READ ? 0 : -1;
}

static int give(int fd, SSL *ssl, const uint8_t *bytes, size_t length)
{
    if (!ssl) {
        ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
        return n >= 0 ? (int)n : errno == EAGAIN ? 0 : -1;
    }
    int n = SSL_write(ssl, bytes, (int)length);
    if (n > 0)
        return n;
    return SSL_get_error(ssl, n) == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static size_t converse(int fd, SSL *in, SSL *out, const uint8_t *bytes, size_t length, size_t step)
{
    static uint8_t buffer[64 * KiB];
    size_t sent = 0, answered = 0;
    for (bool shut = false;;) {
        int n = take(fd, in, buffer, sizeof(buffer));
        if (n < 0)
            return answered;
        answered += (size_t)n;
        if (n > 0)
            continue;
        if (sent < length) {
            n = give(fd, out, bytes + sent, MIN(step, length - sent));
            sent = n < 0 ? length : sent + (size_t)n;
        } else if (!shut) {
            shutdown(fd, SHUT_WR);
            shut = true;
        }
        if (n == 0)
            await(fd, (short)(POLLIN | (sent < length ? POLLOUT : 0)));
    }
}

static int run_talk(void *arg)
{
    struct talk *talk = arg;
    uint8_t head[256];
    SSL *ssl = NULL;
    start_tls(talk->fd);
    if (talk->kind)
        ssl = shake_hands(talk->fd);
    if (talk->kind >= 2) {
        size_t n = put_negotiation(head), done;
        int r = SSL_write_ex(ssl, head, n, &done);
        assert(r == 1 && done == n);
    }
    talk->answered = converse(talk->fd, ssl, talk->kind == 3 ? NULL : ssl, talk->bytes,
                              talk->length, talk->step);
    SSL_free(ssl);
    return 0;
}

static size_t co_talk(struct nbd_server *server, struct talk talk)
{
    int fd[2];
    int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd);
    assert(r == 0);
    nbd_server_adopt(server, fd[1]);
    talk.fd = fd[0];
    r = co_work(run_talk, &talk);
    assert(r == 0);
    close(fd[0]);
    return talk.answered;
}

/* ---- the server ---- */

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
    const struct talk *talk = arg;
    struct nbd_server_options options = {.threads = 1};
    struct nbd_wire_request read = {be32_of(NBD_MAGIC_REQUEST), be16_of(0),
                                    be16_of(NBD_CMD_READ),      be64_of(1),
                                    be64_of(DISK_BYTES - 1),    be32_of(1)};
    struct nbd_server *server;
    struct nbd_export *export;
    struct block_root *root = co_open_disk();
    if (!credentials)
        co_prepare();
    int r = co_nbd_server_start(&options, &server, NULL);
    assert(r == 0);
    nbd_server_set_tls(server, nbd_tls_share(credentials));
    r = co_nbd_export_add(server, root, &(struct nbd_export_options){.name = ""}, &export, NULL);
    assert(r == 0);
    (void)co_talk(server, *talk);
    struct talk good = {.kind = 1, .step = SIZE_MAX};
    uint8_t bytes[256];
    good.bytes = bytes;
    good.length = put_negotiation(bytes);
    memcpy(bytes + good.length, &read, sizeof(read));
    good.length += sizeof(read);
    size_t answered = co_talk(server, good);
    assert(answered > 2 * sizeof(struct nbd_option_reply));
    r = co_nbd_export_remove(export, true, NULL);
    assert(r == 0);
    co_nbd_server_stop(server);
    (void)co_block_root_free(root, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct rt_options options = {.kind = RT_THREADS, .workers_max = 3};
    struct rt *rt = NULL;
    if (length < 2)
        return 0;
    struct talk talk = {.kind = bytes[0] % 4,
                        .step = ((size_t)bytes[1] + 1) * 16 - 15,
                        .bytes = bytes + 2,
                        .length = length - 2};
    drivers_register();
    log_set_level(LOG_LEVEL_ERROR);
    int result = rt_create(&options, &rt, NULL);
    assert(result == 0);
    result = rt_run(rt, co_main, &talk);
    assert(result == 0);
    rt_free(rt);
    return 0;
}
