/*
 * TLS of an engine's NBD server. Part of an engine's configuration:
 *
 *   "nbd": {..., "tls": {"credentials": "/etc/hawser/tls", "required": true, "verify-peer": true,
 *                        "mode": "x509"}}
 *
 * Everything runs on the control queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_NBD_TLS_H
#define ENGINE_NBD_TLS_H

#include "block/options.h"

struct nbd_server;

/**
 * Reads the credentials that @config ("tls") names and gives them to @server, in place of those
 * that it has. On failure it keeps those. @ret_state what `status` tells of them: a new reference.
 */
HWS_MUST_CHECK int co_nbd_tls_apply(const json_t *config, struct nbd_server *server,
                                    json_t **ret_state, struct hws_error *err);

#endif
