/*
 * TLS for the NBD server: whom it shows itself as, and whom it lets in.
 *
 * The files of a folder have the names that QEMU and nbdkit use:
 *
 *   x509   server-cert.pem (its issuers may follow in it), server-key.pem; ca-cert.pem tells whose
 *          certificates clients must show, ca-crl.pem which of those are revoked
 *   PSK    keys.psk: a line "NAME:KEY IN HEXADECIMAL" a client, as psktool writes it
 *
 * They are read once, by co_nbd_tls_load(); a server takes what was loaded, also while it runs.
 * TLS 1.2 and 1.3, no renegotiation, no session tickets.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_TLS_H
#define EXPORT_NBD_TLS_H

#include "base/common.h"
#include "hawser/error.h"

struct nbd_server;
struct nbd_tls;

enum nbd_tls_mode {
    NBD_TLS_AUTO, /* as the files say; both kinds there: an error */
    NBD_TLS_X509,
    NBD_TLS_PSK,
};

struct nbd_tls_options {
    const char *folder;
    enum nbd_tls_mode mode;
    bool required;    /* nothing is told to clients without it */
    bool verify_peer; /* x509: clients show a certificate of ca-cert.pem; PSK: no meaning */
};

/**
 * Reads the files. Errors name the file, what is wrong with it and what to do; what only will be
 * wrong (a certificate that has expired) is logged. @ret: nbd_tls_free(). From a coroutine.
 */
HWS_MUST_CHECK int co_nbd_tls_load(const struct nbd_tls_options *options, struct nbd_tls **ret,
                                   struct hws_error *err);

/** Another reference to @tls, so that several servers may have it. @return @tls. */
struct nbd_tls *nbd_tls_share(struct nbd_tls *tls);

/** Gives up the caller's reference; connections keep their own. @tls may be NULL. @return NULL. */
struct nbd_tls *nbd_tls_free(struct nbd_tls *tls);

/** Connections from here on use @tls, whose reference passes to the server. Any thread. */
void nbd_server_set_tls(struct nbd_server *server, struct nbd_tls *tls);

struct nbd_tls_info {
    enum nbd_tls_mode mode; /* NBD_TLS_X509 or NBD_TLS_PSK */
    bool required, verify_peer, revocations;
    char subject[256]; /* of the certificate; "" with PSK */
    char expires[32];  /* 2027-01-31T12:00:00Z, likewise */
    unsigned keys;     /* PSK: how many */
};

void nbd_tls_info(const struct nbd_tls *tls, struct nbd_tls_info *ret);

#endif
