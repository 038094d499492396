/*
 * NBD_OPT_STARTTLS, and what a client may do without it.
 *
 * Where TLS is required, every option before it but ABORT is refused in the same words, whatever it
 * asks for: names, sizes and even whether an option is known stay untold (the protocol's
 * FORCEDTLS).
 *
 * What was agreed on in the clear is forgotten, and bytes that came in the clear behind STARTTLS
 * end the connection: somebody between the two could have put them there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/nbd/stream.h"
#include "export/nbd/tls_internal.h"
#include <arpa/inet.h>
#include <netinet/in.h>

/* Lines in the log of clients that were refused, at most, in so long. */
#define REFUSALS_MAX 50u
#define REFUSALS_NS  ((uint64_t)60 * 1000000000)

/* The server's credentials, as a reference of the caller's, or NULL. */
static struct nbd_tls *tls_of(struct nbd_server *server)
{
    rt_mutex_lock(&server->lock);
    struct nbd_tls *tls = server->tls ? nbd_tls_share(server->tls) : NULL;
    rt_mutex_unlock(&server->lock);
    return tls;
}

void nbd_server_set_tls(struct nbd_server *server, struct nbd_tls *tls)
{
    rt_mutex_lock(&server->lock);
    struct nbd_tls *old = server->tls;
    server->tls = tls;
    rt_mutex_unlock(&server->lock);
    nbd_tls_free(old);
}

bool nbd_tls_is_wanted(struct nbd_connection *c)
{
    if (c->tls)
        return false;
    struct nbd_tls *tls = tls_of(c->lane->server);
    bool wanted = tls && tls->info.required;
    nbd_tls_free(tls);
    return wanted;
}

static void describe_peer(int fd, char *text, size_t bytes)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof(address);
    char host[INET6_ADDRSTRLEN] = "";
    if (getpeername(fd, (struct sockaddr *)&address, &length) < 0)
        address.ss_family = AF_UNSPEC;
    if (address.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&address)->sin_addr, host, sizeof(host));
    else if (address.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&address)->sin6_addr, host, sizeof(host));
    snprintf(text, bytes, "%s", *host ? host : "a local socket");
}

/* May one more line be written of clients that do not get in? They could fill the disk with them.
 */
static bool may_tell(struct nbd_server *server)
{
    uint64_t now = rt_now_ns();
    rt_mutex_lock(&server->lock);
    if (now - server->refusals_ns >= REFUSALS_NS) {
        server->refusals_ns = now;
        server->refusals = 0;
    }
    unsigned count = ++server->refusals;
    rt_mutex_unlock(&server->lock);
    if (count == REFUSALS_MAX)
        log_info("nbd: more clients are refused by TLS; the next minute they are not told of");
    return count < REFUSALS_MAX;
}

static void tell(const struct nbd_connection *c, const struct nbd_tls_session *s, int result)
{
    char peer[64], who[320];
    describe_peer(c->fd, peer, sizeof(peer));
    nbd_tls_describe(s, who, sizeof(who));
    if (result == 0)
        log_info("nbd: a client at %s, %s, %s: %s", peer, SSL_get_version(s->ssl),
                 SSL_get_cipher_name(s->ssl), who);
    else if (may_tell(c->lane->server))
        log_info("nbd: a client at %s was refused by TLS: %s (%s)", peer,
                 s->reason[0] ? s->reason : strerror(-result), who);
}

/* The negotiation begins anew. */
static void forget(struct nbd_connection *c)
{
    c->structured = c->extended = false;
    nbd_contexts_clear(c);
    free(steal_ptr(&c->contexts_export));
}

static int co_begin(struct nbd_negotiation *n, struct nbd_tls *tls)
{
    struct nbd_connection *c = n->connection;
    struct nbd_tls_session *session;
    char byte;
    if (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        return -EPROTO;
    int r = nbd_tls_session_new(c, tls, &session);
    if (r < 0)
        return r;
    r = co_nbd_option_reply(n, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    if (r == 0) {
        forget(c);
        r = co_nbd_tls_handshake(n, session);
        tell(c, session, r);
    }
    if (r < 0)
        nbd_tls_session_free(session);
    else
        c->tls = session;
    return r;
}

int co_nbd_starttls(struct nbd_negotiation *n, size_t length)
{
    if (n->connection->tls)
        return co_nbd_option_error(n, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "TLS is on already");
    struct nbd_tls *tls = tls_of(n->connection->lane->server);
    if (!tls)
        return co_nbd_option_error(n, NBD_OPT_STARTTLS, NBD_REP_ERR_UNSUP,
                                   "this server has no TLS");
    int r = length ? co_nbd_option_error(n, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID,
                                         "this option has no data")
                   : co_begin(n, tls);
    nbd_tls_free(tls);
    return r;
}
