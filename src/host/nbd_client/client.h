/*
 * A small blocking NBD client: it negotiates with a server, asks what it exports, and leaves.
 *
 *     channel.c  bytes to and from a server, within deadlines      tls.c  the same in TLS
 *     list.c     the negotiation, over any channel
 *
 * The server is not trusted: what it may send is bounded, and how long it may take. Runs outside of
 * the runtime; one thread a channel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_NBD_CLIENT_CLIENT_H
#define HOST_NBD_CLIENT_CLIENT_H

#include "base/common.h"
#include "hawser/error.h"

/* What a server may cost. */
#define NBD_CLIENT_EXPORTS_MAX  4096u
#define NBD_CLIENT_CONTEXTS_MAX 512u       /* of one export */
#define NBD_CLIENT_INFOS_MAX    64u        /* of one export */
#define NBD_CLIENT_REPLY_MAX    (64 * KiB) /* payload of one reply */
#define NBD_CLIENT_BYTES_MAX    (64 * MiB) /* of all replies */
#define NBD_CLIENT_SILENCE_MS   30000      /* without a byte */
#define NBD_CLIENT_TOTAL_MS     600000     /* for all of it */

/* Who we are, and whom the server must be. */
struct nbd_client_tls {
    const char *folder; /* with ca-cert.pem, client-cert.pem and client-key.pem; or keys.psk */
    bool psk;
    const char *username; /* psk: ours */
    const char *host;     /* x509: that the certificate must be about */
};

/* A way for bytes. Both block, move all of @length or fail. */
struct nbd_channel {
    int (*receive)(struct nbd_channel *channel, void *bytes, size_t length, struct hws_error *err);
    int (*send)(struct nbd_channel *channel, const void *bytes, size_t length,
                struct hws_error *err);
    /** From here on in TLS. NULL: it cannot. */
    int (*start_tls)(struct nbd_channel *channel, const struct nbd_client_tls *tls,
                     struct hws_error *err);
    void (*close)(struct nbd_channel *channel);
};

struct nbd_client_address {
    const char *socket;      /* path of a unix socket; or NULL, and: */
    const char *host, *port; /* a name or number each */
};

/** Connects. @ret ended with nbd_channel_close(). */
HWS_MUST_CHECK int nbd_client_connect(const struct nbd_client_address *address,
                                      struct nbd_channel **ret, struct hws_error *err);
/** @return NULL. @channel may be NULL. */
struct nbd_channel *nbd_channel_close(struct nbd_channel *channel);

/* One export of a list. */
struct nbd_listed {
    char *name, *description; /* as the server sent them, without NUL bytes; description: or NULL */
    uint64_t size_bytes;
    uint16_t flags;                       /* enum nbd_transmission_flag; 0: the server did not tell
                                             more than the name */
    uint32_t minimum, preferred, maximum; /* sizes of requests; 0: not told */
    char **contexts;
    unsigned context_count;
};

struct nbd_list {
    struct nbd_listed *exports;
    unsigned count;
};

/** Asks for all exports and what can be known of them, in TLS unless @tls is NULL, and leaves. @ret
 * nbd_list_free(), also after a failure. SIGPIPE must be ignored. */
HWS_MUST_CHECK int nbd_client_list(struct nbd_channel *channel, const struct nbd_client_tls *tls,
                                   struct nbd_list *ret, struct hws_error *err);
void nbd_list_free(struct nbd_list *list);

#endif
