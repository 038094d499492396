/*
 * A connection's TLS: the handshake, and its bytes on their way to and from the socket.
 *
 *   receive   socket --(one recv)--> OpenSSL's buffer --decrypts--> where the reader wants them
 *   send      heads and data of many replies -> records of 16 KiB -> out --(one sendmsg)--> socket
 *
 * Records are filled before they are encrypted: a reply's head and its data, and the replies that
 * go together, share one. What is encrypted and not yet taken by the socket stays in `out`, one
 * chunk of the thread's memory; without traffic a session holds no buffers.
 *
 * The handshake's arithmetic is done on a worker thread, one handshake a lane at a time: other
 * clients of the lane are served meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/stream.h"
#include "export/nbd/tls_internal.h"
#include <poll.h>

#define RECORD_BYTES SSL3_RT_MAX_PLAIN_LENGTH
/* Of a client's first message. OpenSSL would make room for 128 KiB at its word. */
#define HELLO_MAX (16 * KiB)
/* What a record needs beside its plaintext, and a message that OpenSSL sends of its own. */
#define RECORD_EXTRA 1024

/* Below the 2^24.5 full records that RFC 8446, section 5.5 allows AES-GCM. TLS 1.2 knows no new
 * keys but by renegotiation. */
uint64_t nbd_tls_records_max = 1 << 24;

static_assert(RECORD_BYTES + RECORD_EXTRA < NBD_CHUNK_BYTES, "");

/* ---- out ---- */

static int need_out(struct nbd_tls_session *s)
{
    if (!s->out) {
        s->out = nbd_chunk_get(&s->lane->pool);
        s->out_start = s->out_end = 0;
    }
    return s->out ? 0 : -ENOMEM;
}

/* @return 0 when all is gone, -EAGAIN when the socket is full, -errno. */
static int flush_out(struct nbd_tls_session *s, bool *ret_progress)
{
    while (s->out_start < s->out_end) {
        ssize_t n = send(s->fd, s->out->bytes + s->out_start, s->out_end - s->out_start,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        s->out_start += (size_t)n;
        *ret_progress = true;
    }
    s->out_start = s->out_end = 0;
    return 0;
}

static void drop_out(struct nbd_tls_session *s)
{
    if (s->out && s->out_start == s->out_end)
        nbd_chunk_put(&s->lane->pool, steal_ptr(&s->out));
}

bool nbd_tls_unsent(const struct nbd_tls_session *s)
{
    return s->out && s->out_start < s->out_end;
}

/* ---- OpenSSL's side of the socket ---- */

/* Looks at the first bytes: a record's head (5 bytes), and the head of the message in it (4). */
static bool hello_is_too_long(struct nbd_tls_session *s, const char *at, size_t length)
{
    size_t n = MIN(length, sizeof(s->hello) - s->hello_bytes);
    if (n == 0)
        return false;
    memcpy(s->hello + s->hello_bytes, at, n);
    s->hello_bytes += (unsigned)n;
    const uint8_t *size = s->hello + 6;
    return s->hello_bytes == sizeof(s->hello) &&
           (size[0] << 16 | size[1] << 8 | size[2]) > (int)HELLO_MAX;
}

static int bio_read(BIO *bio, char *at, int room)
{
    struct nbd_tls_session *s = BIO_get_data(bio);
    ssize_t n = -1;
    BIO_clear_retry_flags(bio);
    if (s->drained) {
        BIO_set_retry_read(bio);
        return -1;
    }
    do {
        n = recv(s->fd, at, (size_t)room, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    s->drained = n < room;
    if (n > 0 && hello_is_too_long(s, at, (size_t)n)) {
        n = -1;
        errno = EMSGSIZE;
    }
    if (n > 0)
        return (int)n;
    if (n < 0 && errno == EAGAIN) {
        BIO_set_retry_read(bio);
        return -1;
    }
    s->error = n < 0 ? errno : 0;
    s->ended = true;
    return n < 0 ? -1 : 0;
}

static int bio_write(BIO *bio, const char *bytes, int length)
{
    struct nbd_tls_session *s = BIO_get_data(bio);
    size_t n = need_out(s) == 0 ? MIN((size_t)length, NBD_CHUNK_BYTES - s->out_end) : 0;
    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_write(bio);
        return -1;
    }
    memcpy(s->out->bytes + s->out_end, bytes, n);
    s->out_end += n;
    return (int)n;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    const struct nbd_tls_session *s = BIO_get_data(bio);
    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1; /* whoever wrote flushes */
    case BIO_CTRL_EOF:
        return s->ended && !s->error;
    default:
        return 0;
    }
}

BIO_METHOD *nbd_tls_bio_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "nbd");
    if (!method)
        return NULL;
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_ctrl(method, bio_control);
    return method;
}

/* ---- data ---- */

/* @result of an SSL call that did not succeed. @return -EAGAIN, 0 at the end, -errno. */
static int why(struct nbd_tls_session *s, int result)
{
    switch (SSL_get_error(s->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return s->ended ? 0 : -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return s->error ? -s->error : -EPROTO;
    default:
        return -EPROTO;
    }
}

ssize_t nbd_tls_receive(struct nbd_tls_session *s, void *at, size_t room, bool *ret_more)
{
    size_t got = 0, n;
    bool progress;
    int r = -EAGAIN;
    *ret_more = false;
    s->drained = s->ended;
    while (got < room) {
        ERR_clear_error();
        r = SSL_read_ex(s->ssl, (uint8_t *)at + got, room - got, &n);
        if (r != 1) {
            r = why(s, r);
            break;
        }
        got += n;
    }
    (void)flush_out(s, &progress); /* an alert, or the answer to a change of keys */
    drop_out(s);
    /* The end comes again at the next call: the socket may not tell of it a second time. */
    *ret_more = got == room || (got && r != -EAGAIN);
    return got ? (ssize_t)got : r;
}

/* Where encrypting has come to in what is to be sent. */
struct source {
    const struct iovec *iov;
    unsigned left;
    size_t done; /* of *iov */
};

static size_t take(struct source *from, uint8_t *to, size_t room)
{
    size_t got = 0;
    while (from->left && got < room) {
        size_t n = MIN(from->iov->iov_len - from->done, room - got);
        memcpy(to + got, (const uint8_t *)from->iov->iov_base + from->done, n);
        got += n;
        from->done += n;
        if (from->done == from->iov->iov_len) {
            from->iov++;
            from->left--;
            from->done = 0;
        }
    }
    return got;
}

/* One record. A long piece is encrypted where it lies. @return plaintext bytes, or -errno. */
static ssize_t encrypt_record(struct nbd_tls_session *s, struct source *from, uint8_t *staging)
{
    const uint8_t *bytes = staging;
    size_t length = RECORD_BYTES, n;
    if (++s->records > nbd_tls_records_max && SSL_version(s->ssl) == TLS1_3_VERSION) {
        if (SSL_key_update(s->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
            return -EPROTO;
        s->records = 1;
    }
    if (from->iov->iov_len - from->done > RECORD_BYTES) {
        bytes = (const uint8_t *)from->iov->iov_base + from->done;
        from->done += RECORD_BYTES;
    } else {
        length = take(from, staging, RECORD_BYTES);
    }
    ERR_clear_error();
    int r = SSL_write_ex(s->ssl, bytes, length, &n);
    return r == 1 && n == length ? (ssize_t)n : -EPIPE;
}

/* As many as there is room for. @return plaintext bytes, or -errno. */
static ssize_t encrypt(struct nbd_tls_session *s, struct source *from, uint8_t *staging)
{
    size_t taken = 0;
    while (from->left && NBD_CHUNK_BYTES - s->out_end >= RECORD_BYTES + RECORD_EXTRA) {
        ssize_t n = encrypt_record(s, from, staging);
        if (n < 0)
            return n;
        taken += (size_t)n;
    }
    return (ssize_t)taken;
}

ssize_t nbd_tls_send(struct nbd_tls_session *s, const struct iovec *iov, unsigned count)
{
    struct source from = {.iov = iov, .left = count};
    struct nbd_pool *pool = &s->lane->pool;
    uint8_t *staging = nbd_buffer_get(pool, RECORD_BYTES);
    ssize_t taken = 0, n = 0;
    bool progress = false;
    int r = staging ? need_out(s) : -ENOMEM;
    if (r == 0)
        r = flush_out(s, &progress);
    while (r == 0 && from.left) {
        n = encrypt(s, &from, staging);
        taken += MAX(n, (ssize_t)0);
        r = n < 0 ? (int)n : flush_out(s, &progress);
    }
    nbd_buffer_put(pool, staging, RECORD_BYTES);
    drop_out(s);
    if (r == -EAGAIN && (taken || progress))
        return taken;
    return r < 0 ? r : taken;
}

/* ---- handshake ---- */

/* Why it failed, for the log: what the certificate's check says tells more than the alert. */
static void note_reason(struct nbd_tls_session *s)
{
    long verdict = SSL_get_verify_result(s->ssl);
    const char *text = verdict != X509_V_OK ? X509_verify_cert_error_string(verdict)
                                            : ERR_reason_error_string(ERR_peek_last_error());
    if (!text)
        text = s->error ? strerror(s->error) : "the client went away";
    snprintf(s->reason, sizeof(s->reason), "%s", text);
}

/* On a worker thread. @return 0 done, -EAGAIN: more is wanted of the client, -ENOBUFS: `out` is
 * full, other -errno: it failed. */
static int step(void *arg)
{
    struct nbd_tls_session *s = arg;
    ERR_clear_error();
    s->drained = s->ended;
    int r = SSL_accept(s->ssl), result = 0;
    if (r != 1 && SSL_get_error(s->ssl, r) == SSL_ERROR_WANT_WRITE)
        result = -ENOBUFS;
    else if (r != 1)
        result = why(s, r) ? why(s, r) : -EPIPE;
    if (result < 0 && result != -EAGAIN && result != -ENOBUFS)
        note_reason(s);
    s->established = r == 1;
    ERR_clear_error();
    return result;
}

static int co_flush(struct nbd_negotiation *n, struct nbd_tls_session *s)
{
    bool progress;
    int r;
    while ((r = flush_out(s, &progress)) == -EAGAIN) {
        r = co_nbd_wait(n, POLLOUT);
        if (r < 0)
            return r;
    }
    return r;
}

int co_nbd_tls_handshake(struct nbd_negotiation *n, struct nbd_tls_session *s)
{
    int r = -EAGAIN, waited = 0;
    while (waited == 0 && (r == -EAGAIN || r == -ENOBUFS)) {
        waited = need_out(s);
        if (waited < 0)
            break;
        co_mutex_lock(&s->lane->handshake);
        r = co_work(step, s);
        co_mutex_unlock(&s->lane->handshake);
        waited = co_flush(n, s);
        if (waited == 0 && r == -EAGAIN)
            waited = co_nbd_wait(n, POLLIN);
    }
    drop_out(s);
    return r == -EAGAIN || r == -ENOBUFS || r == 0 ? waited : r;
}

/* ---- life ---- */

int nbd_tls_session_new(struct nbd_connection *c, struct nbd_tls *tls, struct nbd_tls_session **ret)
{
    struct nbd_tls_session *s = calloc(1, sizeof(*s));
    BIO *bio = s ? BIO_new(tls->method) : NULL;
    if (s)
        s->ssl = SSL_new(tls->context);
    if (!bio || !s->ssl) {
        BIO_free(bio);
        if (s)
            SSL_free(s->ssl);
        ERR_clear_error();
        free(s);
        return -ENOMEM;
    }
    s->tls = nbd_tls_share(tls);
    s->lane = c->lane;
    s->fd = c->fd;
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(s->ssl, bio, bio);
    SSL_set_app_data(s->ssl, s);
    *ret = s;
    return 0;
}

void nbd_tls_session_free(struct nbd_tls_session *s)
{
    bool progress;
    if (!s)
        return;
    if (s->established) {
        ERR_clear_error();
        (void)SSL_shutdown(s->ssl);
        (void)flush_out(s, &progress);
    }
    if (s->out)
        nbd_chunk_put(&s->lane->pool, s->out);
    SSL_free(s->ssl);
    nbd_tls_free(s->tls);
    ERR_clear_error();
    free(s);
}

/* ---- whom it is with ---- */

void nbd_tls_subject(const X509 *certificate, char *text, size_t bytes)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int n = 0;
    /* RFC 2253 escapes what would spoil a line of the log. */
    if (bio && X509_NAME_print_ex(bio, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0)
        n = BIO_read(bio, text, (int)bytes - 1);
    text[MAX(n, 0)] = 0;
    BIO_free(bio);
    ERR_clear_error();
}

void nbd_tls_describe(const struct nbd_tls_session *s, char *text, size_t bytes)
{
    char subject[256];
    X509 *certificate = SSL_get0_peer_certificate(s->ssl);
    if (certificate)
        nbd_tls_subject(certificate, subject, sizeof(subject));
    if (certificate)
        snprintf(text, bytes, "certificate '%s'", subject);
    else if (s->identity[0])
        snprintf(text, bytes, "%s '%s'", s->key ? "key of" : "unknown key name", s->identity);
    else
        snprintf(text, bytes, "no certificate");
}
