/*
 * TLS sessions against OpenSSL's client: new keys in the middle, renegotiation, records of one
 * byte, a socket with hardly any room, goodbyes, floods; and the file of pre-shared keys.
 *
 * The client is blocking code on a worker thread; the server runs as it does in an engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "drivers/drivers.h"
#include "export/nbd/nbd.h"
#include "export/nbd/tls.h"
#include "wire/nbd/nbd.h"
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

/* On any thread; cmocka's own are for the main one. */
#define CHECK(what)                                                    \
    do {                                                               \
        if (!(what)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            ERR_print_errors_fp(stderr);                               \
            abort();                                                   \
        }                                                              \
    } while (0)

#define DISK_BYTES (8 * MiB)
#define PATIENCE_S 60

struct client {
    SSL_CTX *context;
    SSL *ssl;
    int fd;
};

struct test {
    int version; /* TLS1_2_VERSION, TLS1_3_VERSION */
    void (*talk)(struct client *client);
    bool goodbye_is_not_checked;
    int send_buffer, receive_buffer;
    struct nbd_server *server;
    int fd;
};

static const char key_text[] = "alice:000102030405060708090a0b0c0d0e0f\n";

/* ---- the client ---- */

static unsigned on_psk(SSL *ssl, const char *hint, char *name, unsigned room, unsigned char *key,
                       unsigned key_room)
{
    CHECK(room > 6 && key_room >= 16);
    memcpy(name, "alice", 6);
    for (unsigned i = 0; i < 16; i++)
        key[i] = (uint8_t)i;
    return 16;
}

static void put(struct client *c, const void *bytes, size_t length)
{
    size_t n;
    CHECK(SSL_write_ex(c->ssl, bytes, length, &n) == 1 && n == length);
}

static void get(struct client *c, void *bytes, size_t length)
{
    for (size_t n; length > 0; length -= n, bytes = (uint8_t *)bytes + n)
        CHECK(SSL_read_ex(c->ssl, bytes, length, &n) == 1);
}

static void plain(int fd, void *bytes, size_t length)
{
    for (ssize_t n; length > 0; length -= (size_t)n, bytes = (uint8_t *)bytes + n) {
        n = recv(fd, bytes, length, 0);
        CHECK(n > 0);
    }
}

static void put_option(struct client *c, uint32_t option, const void *data, uint32_t length)
{
    uint8_t bytes[64];
    struct nbd_option head = {be64_of(NBD_MAGIC_OPTION), be32_of(option), be32_of(length)};
    memcpy(bytes, &head, sizeof(head));
    if (length)
        memcpy(bytes + sizeof(head), data, length);
    put(c, bytes, sizeof(head) + length);
}

static void get_reply(struct client *c, uint32_t type)
{
    struct nbd_option_reply reply;
    uint8_t data[256];
    do {
        get(c, &reply, sizeof(reply));
        CHECK(be32_get(reply.length) <= sizeof(data));
        get(c, data, be32_get(reply.length));
    } while (be32_get(reply.type) == NBD_REP_INFO);
    CHECK(be32_get(reply.type) == type);
}

static struct nbd_wire_request request(uint16_t command, uint64_t offset, uint32_t length)
{
    return (struct nbd_wire_request){be32_of(NBD_MAGIC_REQUEST),
                                     be16_of(0),
                                     be16_of(command),
                                     be64_of(offset),
                                     be64_of(offset),
                                     be32_of(length)};
}

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset / 4096 * 7 + offset % 251);
}

/* The reply to a read: any of those that are in flight. */
static void get_data(struct client *c, uint32_t length)
{
    struct nbd_simple_reply reply;
    get(c, &reply, sizeof(reply));
    CHECK(be32_get(reply.error) == 0);
    uint64_t offset = be64_get(reply.cookie);
    uint8_t *data = malloc(length);
    CHECK(data);
    get(c, data, length);
    for (uint32_t i = 0; i < length; i++)
        CHECK(data[i] == byte_at(offset + i));
    free(data);
}

static void read_and_check(struct client *c, uint64_t offset, uint32_t length)
{
    struct nbd_wire_request q = request(NBD_CMD_READ, offset, length);
    put(c, &q, sizeof(q));
    get_data(c, length);
}

static void fill(struct client *c)
{
    enum { BYTES = 1 << 20 };
    uint8_t *data = malloc(BYTES);
    CHECK(data);
    for (uint64_t at = 0; at < DISK_BYTES; at += BYTES) {
        struct nbd_wire_request q = request(NBD_CMD_WRITE, at, BYTES);
        struct nbd_simple_reply reply;
        for (uint32_t i = 0; i < BYTES; i++)
            data[i] = byte_at(at + i);
        put(c, &q, sizeof(q));
        put(c, data, BYTES);
        get(c, &reply, sizeof(reply));
        CHECK(be32_get(reply.error) == 0);
    }
    free(data);
}

static void begin(struct client *c, int version)
{
    static const uint8_t flags[] = {0, 0, 0, 3};
    struct nbd_greeting greeting;
    struct nbd_option option = {be64_of(NBD_MAGIC_OPTION), be32_of(NBD_OPT_STARTTLS), be32_of(0)};
    struct nbd_option_reply reply;
    plain(c->fd, &greeting, sizeof(greeting));
    CHECK(send(c->fd, flags, 4, 0) == 4 && send(c->fd, &option, sizeof(option), 0) > 0);
    plain(c->fd, &reply, sizeof(reply));
    CHECK(be32_get(reply.type) == NBD_REP_ACK);
    c->context = SSL_CTX_new(TLS_client_method());
    CHECK(c->context);
    SSL_CTX_set_psk_client_callback(c->context, on_psk);
    CHECK(SSL_CTX_set_cipher_list(c->context, "PSK:DHE-PSK-AES128-GCM-SHA256") == 1);
    CHECK(SSL_CTX_set_min_proto_version(c->context, version) == 1);
    CHECK(SSL_CTX_set_max_proto_version(c->context, version) == 1);
    c->ssl = SSL_new(c->context);
    CHECK(c->ssl && SSL_set_fd(c->ssl, c->fd) == 1 && SSL_connect(c->ssl) == 1);
    CHECK(SSL_version(c->ssl) == version);
    put_option(c, NBD_OPT_GO, "\0\0\0\0\0\0", 6);
    get_reply(c, NBD_REP_ACK);
}

static int run_client(void *arg)
{
    struct test *test = arg;
    struct timeval patience = {.tv_sec = PATIENCE_S};
    struct client c = {.fd = test->fd};
    uint8_t byte;
    CHECK(setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
    CHECK(setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0);
    begin(&c, test->version);
    fill(&c);
    test->talk(&c);
    if (!test->goodbye_is_not_checked) {
        struct nbd_wire_request q = request(NBD_CMD_DISC, 0, 0);
        size_t n;
        put(&c, &q, sizeof(q));
        int r = SSL_read_ex(c.ssl, &byte, 1, &n);
        CHECK(r != 1 && SSL_get_error(c.ssl, r) == SSL_ERROR_ZERO_RETURN);
    }
    close(c.fd);
    SSL_free(c.ssl);
    SSL_CTX_free(c.context);
    return 0;
}

/* ---- the server ---- */

static struct block_root *co_open_disk(void)
{
    struct block_node *node = NULL;
    json_t *description = json_pack("{s:s, s:I}", "driver", "mem", "size", (json_int_t)DISK_BYTES);
    int r = co_block_open(description, BLOCK_OPEN_WRITE, NULL, &node, NULL);
    CHECK(r == 0);
    struct block_root *root = block_root_new(node, &(struct block_root_options){0});
    r = co_block_close(node, NULL);
    CHECK(r == 0 && root);
    json_decref(description);
    return root;
}

static struct nbd_tls *co_credentials(void)
{
    char folder[] = "/tmp/hawser-tls-XXXXXX", path[64];
    struct nbd_tls *tls = NULL;
    struct hws_error err = {0};
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/keys.psk", folder);
    FILE *file = fopen(path, "we");
    CHECK(file && fputs(key_text, file) >= 0 && fclose(file) == 0 && chmod(path, 0600) == 0);
    struct nbd_tls_options options = {.folder = folder, .required = true};
    int r = co_nbd_tls_load(&options, &tls, &err);
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    CHECK(r == 0 && unlink(path) == 0 && rmdir(folder) == 0);
    return tls;
}

static void set_buffer(int fd, int which, int bytes)
{
    CHECK(!bytes || setsockopt(fd, SOL_SOCKET, which, &bytes, sizeof(bytes)) == 0);
}

static void co_main(void *arg)
{
    struct test *test = arg;
    struct nbd_server_options options = {.threads = 1};
    struct nbd_export *export;
    struct block_root *root = co_open_disk();
    int fd[2];
    CHECK(co_nbd_server_start(&options, &test->server, NULL) == 0);
    nbd_server_set_tls(test->server, co_credentials());
    CHECK(co_nbd_export_add(test->server, root, &(struct nbd_export_options){.name = ""}, &export,
                            NULL) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    CHECK(fcntl(fd[1], F_SETFL, O_NONBLOCK) == 0);
    set_buffer(fd[1], SO_SNDBUF, test->send_buffer);
    set_buffer(fd[0], SO_RCVBUF, test->receive_buffer);
    test->fd = fd[0];
    nbd_server_adopt(test->server, fd[1]);
    CHECK(co_work(run_client, test) == 0);
    CHECK(co_nbd_export_remove(export, true, NULL) == 0);
    co_nbd_server_stop(test->server);
    CHECK(co_block_root_free(root, NULL) == 0);
}

static void serve(struct test test)
{
    struct rt_options options = {.kind = RT_AUTO, .workers_max = 4};
    struct rt *rt = NULL;
    drivers_register();
    log_set_level(LOG_LEVEL_ERROR);
    CHECK(rt_create(&options, &rt, NULL) == 0);
    CHECK(rt_run(rt, co_main, &test) == 0);
    rt_free(rt);
}

/* ---- what it says ---- */

static void talk_much_at_once(struct client *c)
{
    enum { REQUESTS = 40, BYTES = 150000 };
    for (unsigned i = 0; i < REQUESTS; i++) {
        struct nbd_wire_request q = request(NBD_CMD_READ, i * 4096 + 1, BYTES);
        put(c, &q, sizeof(q));
    }
    for (unsigned i = 0; i < REQUESTS; i++)
        get_data(c, BYTES);
}

static void talk_with_new_keys(struct client *c)
{
    for (unsigned i = 0; i < 200; i++) {
        int kind = i % 2 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED;
        CHECK(SSL_key_update(c->ssl, kind) == 1);
        read_and_check(c, i * 4096, i % 3 ? 4096 : 100000);
    }
}

static void new_keys_in_the_middle(void **state)
{
    serve((struct test){.version = TLS1_3_VERSION, .talk = talk_with_new_keys});
}

/* The server answers until the socket is full, and takes no more of them meanwhile; or it hangs up,
 * since OpenSSL allows only so many without data between them. */
#define FLOOD 200000u /* far more than two sockets hold */

static void talk_a_flood_of_keys(struct client *c)
{
    struct timeval patience = {.tv_sec = 1};
    unsigned count = 0;
    CHECK(setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0);
    while (count < FLOOD && SSL_key_update(c->ssl, SSL_KEY_UPDATE_REQUESTED) == 1 &&
           SSL_do_handshake(c->ssl) == 1)
        count++;
    CHECK(count < FLOOD);
}

static void a_flood_of_keys_is_held_up(void **state)
{
    serve((struct test){
        .version = TLS1_3_VERSION, .talk = talk_a_flood_of_keys, .goodbye_is_not_checked = true});
}

extern uint64_t nbd_tls_records_max;

static void new_keys_after_so_many_records(void **state)
{
    uint64_t usual = nbd_tls_records_max;
    nbd_tls_records_max = 3;
    serve((struct test){.version = TLS1_3_VERSION, .talk = talk_much_at_once});
    serve((struct test){.version = TLS1_2_VERSION, .talk = talk_much_at_once});
    nbd_tls_records_max = usual;
}

static void talk_renegotiation(struct client *c)
{
    read_and_check(c, 0, 4096);
    CHECK(SSL_renegotiate(c->ssl) == 1);
    CHECK(SSL_do_handshake(c->ssl) != 1);
}

static void renegotiation_is_refused(void **state)
{
    serve((struct test){
        .version = TLS1_2_VERSION, .talk = talk_renegotiation, .goodbye_is_not_checked = true});
}

static void talk_in_single_bytes(struct client *c)
{
    struct nbd_wire_request q = request(NBD_CMD_WRITE, 4096, 300);
    uint8_t data[300];
    struct nbd_simple_reply reply;
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = byte_at(4096 + i);
    for (unsigned i = 0; i < sizeof(q); i++)
        put(c, (uint8_t *)&q + i, 1);
    for (unsigned i = 0; i < sizeof(data); i++)
        put(c, data + i, 1);
    get(c, &reply, sizeof(reply));
    CHECK(be32_get(reply.error) == 0);
    read_and_check(c, 0, 8192);
}

static void records_of_one_byte(void **state)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
        serve((struct test){.version = version, .talk = talk_in_single_bytes});
}

static void replies_for_a_socket_without_room(void **state)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
        serve((struct test){.version = version,
                            .talk = talk_much_at_once,
                            .send_buffer = 4096,
                            .receive_buffer = 4096});
}

static void talk_and_vanish(struct client *c)
{
    for (unsigned i = 0; i < 64; i++) {
        struct nbd_wire_request q = request(NBD_CMD_READ, 0, 1 << 20);
        put(c, &q, sizeof(q));
    }
}

static void a_client_that_vanishes_under_replies(void **state)
{
    serve((struct test){.version = TLS1_3_VERSION,
                        .talk = talk_and_vanish,
                        .goodbye_is_not_checked = true,
                        .send_buffer = 4096});
}

static void talk_garbage(struct client *c)
{
    static const uint8_t garbage[] = {23, 3,  3,  0,  32, 1,  2,  3,  4,  5,  6,  7,  8,
                                      9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};
    uint8_t byte;
    size_t n;
    read_and_check(c, 0, 4096);
    CHECK(send(c->fd, garbage, sizeof(garbage), 0) == sizeof(garbage));
    int r = SSL_read_ex(c->ssl, &byte, 1, &n);
    CHECK(r != 1 && SSL_get_error(c->ssl, r) == SSL_ERROR_SSL); /* the alert of a bad record */
    CHECK(ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
}

static void a_record_that_somebody_put_there(void **state)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
        serve((struct test){
            .version = version, .talk = talk_garbage, .goodbye_is_not_checked = true});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_keys_in_the_middle),
        cmocka_unit_test(a_flood_of_keys_is_held_up),
        cmocka_unit_test(new_keys_after_so_many_records),
        cmocka_unit_test(renegotiation_is_refused),
        cmocka_unit_test(records_of_one_byte),
        cmocka_unit_test(replies_for_a_socket_without_room),
        cmocka_unit_test(a_client_that_vanishes_under_replies),
        cmocka_unit_test(a_record_that_somebody_put_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
