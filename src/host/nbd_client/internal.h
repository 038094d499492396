/*
 * Inside the NBD client.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_NBD_CLIENT_INTERNAL_H
#define HOST_NBD_CLIENT_INTERNAL_H

#include "host/nbd_client/client.h"
#include "wire/nbd/nbd.h"

struct nbd_client_session;

struct nbd_socket {
    struct nbd_channel channel;
    int fd;
    uint64_t deadline_ms;
    struct nbd_client_session *tls; /* or NULL */
};

/** Until the socket is ready for @events. @return 0, -ETIMEDOUT or another -errno. */
HWS_MUST_CHECK int nbd_socket_wait(const struct nbd_socket *socket, short events);
HWS_MUST_CHECK int nbd_socket_receive(struct nbd_channel *channel, void *bytes, size_t length,
                                      struct hws_error *err);
HWS_MUST_CHECK int nbd_socket_send(struct nbd_channel *channel, const void *bytes, size_t length,
                                   struct hws_error *err);

/** The channel's `start_tls`. */
HWS_MUST_CHECK int nbd_socket_start_tls(struct nbd_channel *channel,
                                        const struct nbd_client_tls *tls, struct hws_error *err);
/** Where it began. */
void nbd_socket_end_tls(struct nbd_socket *socket);

#endif
