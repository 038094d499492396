/*
 * TLS of the client: the server is who its certificate says, or both know one key.
 *
 * The files of a folder have QEMU's names: ca-cert.pem (who is trusted), ca-crl.pem (who is not any
 * more), client-cert.pem and client-key.pem (who we are, if the server wants to know); or keys.psk,
 * "NAME:KEY" lines. OpenSSL is loaded when it is needed, so that a program that only lists a
 * server's exports without TLS does not carry it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/nbd_client/internal.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>

#define KEY_BYTES_MAX   256
#define SECURITY_CIPHER "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
#define PSK_CIPHER      "DHEPSK+AESGCM:ECDHEPSK+CHACHA20:PSK+AESGCM"

/* clang-format off */
#define FUNCTIONS(f) \
    f(ERR_clear_error) f(ERR_peek_last_error) f(ERR_reason_error_string) f(SSL_CTX_ctrl) \
    f(SSL_CTX_free) f(SSL_CTX_get_cert_store) f(SSL_CTX_load_verify_file) f(SSL_CTX_new) \
    f(SSL_CTX_set_cipher_list) f(SSL_CTX_set_psk_client_callback) f(SSL_CTX_set_verify) \
    f(SSL_CTX_use_PrivateKey_file) f(SSL_CTX_use_certificate_chain_file) f(SSL_connect) \
    f(SSL_ctrl) f(SSL_free) f(SSL_get0_param) f(SSL_get_error) f(SSL_get_ex_data) \
    f(SSL_get_verify_result) f(SSL_new) f(SSL_read) f(SSL_set_ex_data) f(SSL_set_fd) \
    f(SSL_shutdown) f(SSL_write) f(TLS_client_method) f(X509_STORE_load_file) \
    f(X509_STORE_set_flags) f(X509_VERIFY_PARAM_set1_host) f(X509_VERIFY_PARAM_set1_ip_asc) \
    f(X509_verify_cert_error_string) f(OPENSSL_cleanse)
/* clang-format on */

#define FIELD(name) __typeof__(&name) name##_;
static struct {
    FUNCTIONS(FIELD)
} ssl;

struct nbd_client_session {
    struct nbd_socket *socket;
    SSL_CTX *context;
    SSL *ssl;
    char name[KEY_BYTES_MAX];
    uint8_t key[KEY_BYTES_MAX];
    unsigned key_bytes;
};

static int load_library(struct hws_error *err)
{
    static void *library;
    /* libssl brings libcrypto, whose names are found through it. */
    if (!library && !(library = dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL)))
        return hws_fail(err, ENOENT, "TLS needs OpenSSL 3: %s", dlerror());
#define LOAD(name)                                  \
    *(void **)&ssl.name##_ = dlsym(library, #name); \
    if (!ssl.name##_)                               \
        return hws_fail(err, ENOSYS, "TLS: OpenSSL has no " #name);
    FUNCTIONS(LOAD)
    return 0;
}

static const char *reason(void)
{
    const char *why = ssl.ERR_reason_error_string_(ssl.ERR_peek_last_error_());
    return why ? why : "no reason is given";
}

/* ---- keys ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

static bool take_key(struct nbd_client_session *session, const char *text, size_t length)
{
    if (length == 0 || length % 2 || length / 2 > sizeof(session->key))
        return false;
    for (size_t i = 0; i < length; i += 2) {
        int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0)
            return false;
        session->key[i / 2] = (uint8_t)(high << 4 | low);
    }
    session->key_bytes = (unsigned)(length / 2);
    return true;
}

static int find_key(struct nbd_client_session *session, const char *path, const char *name,
                    struct hws_error *err)
{
    char line[2 * KEY_BYTES_MAX + 600];
    size_t length = strlen(name);
    FILE *file = fopen(path, "re");
    int r = -ENOENT;
    if (!file)
        return hws_fail_errno(err, errno, "cannot read %s", path);
    if (length >= sizeof(session->name))
        r = hws_fail(err, ENAMETOOLONG, "the username is longer than %zu bytes",
                     sizeof(session->name) - 1);
    while (r == -ENOENT && fgets(line, sizeof(line), file)) {
        if (strncmp(line, name, length) != 0 || line[length] != ':')
            continue;
        const char *key = line + length + 1;
        r = take_key(session, key, strcspn(key, "\r\n"))
                ? 0
                : hws_fail(err, EINVAL, "the key of %s in %s is not hexadecimal", name, path);
    }
    fclose(file);
    ssl.OPENSSL_cleanse_(line, sizeof(line));
    if (r == -ENOENT)
        return hws_fail(err, ENOENT, "Username %s not found in PSK file %s", name, path);
    memcpy(session->name, name, length < sizeof(session->name) ? length : 0);
    return r;
}

static unsigned give_key(SSL *connection, const char *hint, char *identity, unsigned identity_max,
                         unsigned char *key, unsigned key_max)
{
    const struct nbd_client_session *session = ssl.SSL_get_ex_data_(connection, 0);
    (void)hint;
    if (strlen(session->name) >= identity_max || session->key_bytes > key_max)
        return 0;
    memcpy(identity, session->name, strlen(session->name) + 1);
    memcpy(key, session->key, session->key_bytes);
    return session->key_bytes;
}

/* ---- credentials ---- */

static int use_psk(struct nbd_client_session *session, const struct nbd_client_tls *tls,
                   struct hws_error *err)
{
    autofree char *path = NULL;
    if (asprintf(&path, "%s/keys.psk", tls->folder) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = find_key(session, path, tls->username, err);
    if (r < 0)
        return r;
    ssl.SSL_CTX_set_psk_client_callback_(session->context, give_key);
    return ssl.SSL_CTX_set_cipher_list_(session->context, PSK_CIPHER) == 1
               ? 0
               : hws_fail(err, EINVAL, "TLS: %s", reason());
}

static int use_authorities(struct nbd_client_session *session, const char *folder,
                           struct hws_error *err)
{
    autofree char *authority = NULL, *revoked = NULL;
    if (asprintf(&authority, "%s/ca-cert.pem", folder) < 0 ||
        asprintf(&revoked, "%s/ca-crl.pem", folder) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    if (ssl.SSL_CTX_load_verify_file_(session->context, authority) != 1)
        return hws_fail(err, EINVAL, "Unable to import client CA certificate %s: %s", authority,
                        reason());
    X509_STORE *store = ssl.SSL_CTX_get_cert_store_(session->context);
    if (access(revoked, F_OK) < 0)
        return 0;
    if (ssl.X509_STORE_load_file_(store, revoked) != 1 ||
        ssl.X509_STORE_set_flags_(store, X509_V_FLAG_CRL_CHECK) != 1)
        return hws_fail(err, EINVAL, "Unable to load the revocations in %s: %s", revoked, reason());
    return 0;
}

static int use_own(struct nbd_client_session *session, const char *folder, struct hws_error *err)
{
    autofree char *certificate = NULL, *key = NULL;
    if (asprintf(&certificate, "%s/client-cert.pem", folder) < 0 ||
        asprintf(&key, "%s/client-key.pem", folder) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    if (access(certificate, F_OK) < 0)
        return 0; /* a server may not ask */
    if (ssl.SSL_CTX_use_certificate_chain_file_(session->context, certificate) != 1 ||
        ssl.SSL_CTX_use_PrivateKey_file_(session->context, key, SSL_FILETYPE_PEM) != 1)
        return hws_fail(err, EINVAL, "Unable to load certificate %s & key %s: %s", certificate, key,
                        reason());
    return 0;
}

static int use_certificates(struct nbd_client_session *session, const struct nbd_client_tls *tls,
                            struct hws_error *err)
{
    ssl.SSL_CTX_set_verify_(session->context, SSL_VERIFY_PEER, NULL);
    int r = use_authorities(session, tls->folder, err);
    if (r == 0)
        r = use_own(session, tls->folder, err);
    if (r == 0 && ssl.SSL_CTX_set_cipher_list_(session->context, SECURITY_CIPHER) != 1)
        r = hws_fail(err, EINVAL, "TLS: %s", reason());
    return r;
}

/* Whom the certificate must be about. */
static int expect_host(struct nbd_client_session *session, const char *host, struct hws_error *err)
{
    uint8_t address[16];
    X509_VERIFY_PARAM *wanted = ssl.SSL_get0_param_(session->ssl);
    bool number = inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
    int done = number ? ssl.X509_VERIFY_PARAM_set1_ip_asc_(wanted, host)
                      : ssl.X509_VERIFY_PARAM_set1_host_(wanted, host, 0);
    if (done == 1 && !number)
        done = (int)ssl.SSL_ctrl_(session->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
                                  TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)host);
    return done == 1 ? 0 : hws_fail(err, EINVAL, "'%.200s' is no host's name", host);
}

/* ---- bytes ---- */

/* After @result of a call of OpenSSL: waits for the socket where that is all. @return 0: again. */
static int go_on(struct nbd_client_session *session, int result, struct hws_error *err)
{
    int kind = ssl.SSL_get_error_(session->ssl, result);
    int r = kind == SSL_ERROR_WANT_READ    ? nbd_socket_wait(session->socket, POLLIN)
            : kind == SSL_ERROR_WANT_WRITE ? nbd_socket_wait(session->socket, POLLOUT)
                                           : -EPIPE;
    if (r == -EPIPE)
        return hws_fail(err, EPIPE, "%s",
                        kind == SSL_ERROR_SSL ? reason()
                                              : "Unexpected end-of-file before all data were read");
    return r < 0 ? hws_fail_errno(err, -r, "TLS connection") : 0;
}

static struct nbd_client_session *session_of(struct nbd_channel *channel)
{
    return container_of(channel, struct nbd_socket, channel)->tls;
}

static int tls_receive(struct nbd_channel *channel, void *bytes, size_t length,
                       struct hws_error *err)
{
    struct nbd_client_session *session = session_of(channel);
    int r = 0;
    for (size_t done = 0; done < length && r == 0;) {
        ssl.ERR_clear_error_();
        int got = ssl.SSL_read_(session->ssl, (char *)bytes + done,
                                (int)MIN(length - done, (size_t)INT32_MAX));
        done += got > 0 ? (size_t)got : 0;
        r = got > 0 ? 0 : go_on(session, got, err);
    }
    return r;
}

static int tls_send(struct nbd_channel *channel, const void *bytes, size_t length,
                    struct hws_error *err)
{
    struct nbd_client_session *session = session_of(channel);
    int r = 0;
    for (size_t done = 0; done < length && r == 0;) {
        ssl.ERR_clear_error_();
        int sent = ssl.SSL_write_(session->ssl, (const char *)bytes + done,
                                  (int)MIN(length - done, (size_t)INT32_MAX));
        done += sent > 0 ? (size_t)sent : 0;
        r = sent > 0 ? 0 : go_on(session, sent, err);
    }
    return r;
}

/* ---- the beginning and the end ---- */

static int shake_hands(struct nbd_client_session *session, const char *host, struct hws_error *err)
{
    struct hws_error why = {0};
    int r = 0, done;
    do {
        ssl.ERR_clear_error_();
        done = ssl.SSL_connect_(session->ssl);
        r = done == 1 ? 0 : go_on(session, done, &why);
    } while (done != 1 && r == 0);
    long verified = ssl.SSL_get_verify_result_(session->ssl);
    if (r == 0)
        return 0;
    if (verified == X509_V_ERR_HOSTNAME_MISMATCH || verified == X509_V_ERR_IP_ADDRESS_MISMATCH)
        return hws_fail(err, EACCES, "Certificate does not match the hostname %s", host);
    if (verified != X509_V_OK)
        return hws_fail(err, EACCES, "The certificate of the server is not trusted: %s",
                        ssl.X509_verify_cert_error_string_(verified));
    return hws_fail(err, -r, "TLS handshake failed: %s", why.text);
}

static int begin(struct nbd_client_session *session, const struct nbd_client_tls *tls,
                 struct hws_error *err)
{
    session->context = ssl.SSL_CTX_new_(ssl.TLS_client_method_());
    if (!session->context)
        return hws_fail(err, ENOMEM, "TLS: %s", reason());
    ssl.SSL_CTX_ctrl_(session->context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
    int r = tls->psk ? use_psk(session, tls, err) : use_certificates(session, tls, err);
    if (r < 0)
        return r;
    session->ssl = ssl.SSL_new_(session->context);
    if (!session->ssl || ssl.SSL_set_ex_data_(session->ssl, 0, session) != 1 ||
        ssl.SSL_set_fd_(session->ssl, session->socket->fd) != 1)
        return hws_fail(err, ENOMEM, "TLS: %s", reason());
    if (!tls->psk)
        r = expect_host(session, tls->host, err);
    return r < 0 ? r : shake_hands(session, tls->host, err);
}

void nbd_socket_end_tls(struct nbd_socket *socket)
{
    struct nbd_client_session *session = steal_ptr(&socket->tls);
    if (!session)
        return;
    if (session->ssl) {
        (void)ssl.SSL_shutdown_(session->ssl);
        ssl.SSL_free_(session->ssl);
    }
    if (session->context)
        ssl.SSL_CTX_free_(session->context);
    ssl.OPENSSL_cleanse_(session->key, sizeof(session->key));
    free(session);
}

int nbd_socket_start_tls(struct nbd_channel *channel, const struct nbd_client_tls *tls,
                         struct hws_error *err)
{
    struct nbd_socket *socket = container_of(channel, struct nbd_socket, channel);
    if (!tls->psk && !tls->host)
        return hws_fail(err, EINVAL, "No hostname for certificate validation");
    int r = load_library(err);
    if (r < 0)
        return r;
    socket->tls = calloc(1, sizeof(*socket->tls));
    if (!socket->tls)
        return hws_fail(err, ENOMEM, "out of memory");
    socket->tls->socket = socket;
    r = begin(socket->tls, tls, err);
    if (r == 0) {
        channel->receive = tls_receive;
        channel->send = tls_send;
    }
    return r;
}
