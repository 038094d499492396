/*
 * Inside TLS: credentials (tls_load.c, tls_psk.c) and sessions (tls_session.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_TLS_INTERNAL_H
#define EXPORT_NBD_TLS_INTERNAL_H

#include "export/nbd/internal.h"
#include "export/nbd/openssl.h"
#include "export/nbd/tls.h"

/* ---- keys.psk ---- */

#define NBD_PSK_NAME_MAX  128
#define NBD_PSK_BYTES_MIN 16
#define NBD_PSK_BYTES_MAX 64
#define NBD_PSK_KEYS_MAX  4096u

struct nbd_psk_key {
    char name[NBD_PSK_NAME_MAX + 1];
    uint8_t bytes[NBD_PSK_BYTES_MAX];
    unsigned length;
};

struct nbd_psk {
    struct nbd_psk_key *keys;
    unsigned count;
    uint8_t decoy[32]; /* for names that are not there: they fail as a wrong key does */
};

/** Takes the keys from the text of a file. @where is its path, for messages. */
HWS_MUST_CHECK int nbd_psk_parse(const char *text, size_t length, const char *where,
                                 struct nbd_psk *ret, struct hws_error *err);
void nbd_psk_free(struct nbd_psk *psk);
/** @return the key of @name, or NULL. */
const struct nbd_psk_key *nbd_psk_find(const struct nbd_psk *psk, const char *name);

/* ---- credentials ---- */

struct nbd_tls {
    _Atomic unsigned references;
    SSL_CTX *context;
    BIO_METHOD *method;
    struct nbd_psk psk;
    struct nbd_tls_info info;
};

/* ---- sessions ---- */

/* A session's BIO reads from the socket and writes into `out`, which goes to the socket as a whole:
 * many records, one system call. */
struct nbd_tls_session {
    struct nbd_tls *tls;
    struct nbd_lane *lane;
    SSL *ssl;
    int fd;
    bool established;
    bool drained;     /* the last recv() took all that there was */
    bool ended;       /* nothing comes any more */
    int error;        /* of recv(); or 0 */
    uint8_t hello[9]; /* what it sent first */
    unsigned hello_bytes;

    struct nbd_chunk *out; /* NULL: nothing waits */
    size_t out_start, out_end;
    uint64_t records; /* sent with the present key */

    const struct nbd_psk_key *key;       /* that the client named, or NULL */
    char identity[NBD_PSK_NAME_MAX + 1]; /* what it said, fit for the log */
    char reason[128];                    /* why the handshake failed */
};

/** A session for @c, whose handshake has not begun. @return 0 or -ENOMEM. */
HWS_MUST_CHECK int nbd_tls_session_new(struct nbd_connection *c, struct nbd_tls *tls,
                                       struct nbd_tls_session **ret);
/** @return 0, or -errno with session->reason set where TLS itself failed. */
HWS_MUST_CHECK int co_nbd_tls_handshake(struct nbd_negotiation *n, struct nbd_tls_session *session);
/** The subject of @certificate, as RFC 2253 writes it. */
void nbd_tls_subject(const X509 *certificate, char *text, size_t bytes);
/** Who the other side has said that it is. */
void nbd_tls_describe(const struct nbd_tls_session *session, char *text, size_t bytes);

/** Records that are sent with one key; only tests change it. */
extern uint64_t nbd_tls_records_max;

BIO_METHOD *nbd_tls_bio_method(void);
/** OpenSSL's callback for the key of an identity. */
unsigned nbd_tls_psk_callback(SSL *ssl, const char *identity, unsigned char *key, unsigned max);

#endif
