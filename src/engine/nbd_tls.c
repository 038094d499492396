/*
 * TLS of an engine's NBD server: its part of the configuration, and what `status` tells of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/nbd_tls.h"
#include "base/log.h"
#include "export/nbd/tls.h"

struct tls_options {
    char *credentials;
    bool required, verify_peer;
    int mode; /* enum nbd_tls_mode */
};

static const char *const modes[] = {
    [NBD_TLS_AUTO] = "auto", [NBD_TLS_X509] = "x509", [NBD_TLS_PSK] = "psk", NULL};

static const struct option_desc table[] = {
    {"credentials", OPTION_STRING, offsetof(struct tls_options, credentials),
     "folder with server-cert.pem, server-key.pem, ca-cert.pem, ca-crl.pem, or keys.psk",
     .required = true},
    {"required", OPTION_BOOL, offsetof(struct tls_options, required),
     "clients without TLS are told nothing", "true"},
    {"verify-peer", OPTION_BOOL, offsetof(struct tls_options, verify_peer),
     "x509: clients must show a certificate of ca-cert.pem", "true"},
    {"mode", OPTION_ENUM, offsetof(struct tls_options, mode), "which of the files to use", "auto",
     .choices = modes},
    OPTION_END,
};

static json_t *describe(const struct nbd_tls_info *info)
{
    json_t *state = json_pack("{s:s, s:b}", "mode", modes[info->mode], "required", info->required);
    if (info->mode == NBD_TLS_PSK) {
        json_object_set_new(state, "keys", json_integer((json_int_t)info->keys));
        return state;
    }
    json_object_set_new(state, "verify-peer", json_boolean(info->verify_peer));
    json_object_set_new(state, "revocations", json_boolean(info->revocations));
    json_object_set_new(state, "subject", json_string(info->subject));
    json_object_set_new(state, "expires", json_string(info->expires));
    return state;
}

static int co_load(const struct tls_options *options, bool verify_given, struct nbd_tls **ret,
                   struct hws_error *err)
{
    struct nbd_tls_options wanted = {.folder = options->credentials,
                                     .mode = (enum nbd_tls_mode)options->mode,
                                     .required = options->required,
                                     .verify_peer = options->verify_peer};
    struct nbd_tls_info info;
    int r = co_nbd_tls_load(&wanted, ret, err);
    if (r < 0)
        return r;
    nbd_tls_info(*ret, &info);
    if (info.mode != NBD_TLS_PSK || !verify_given)
        return 0;
    *ret = nbd_tls_free(*ret);
    return hws_fail(err, EINVAL,
                    "nbd: tls: \"verify-peer\" is about certificates: leave it out with "
                    "pre-shared keys, which every client must have");
}

int co_nbd_tls_apply(const json_t *config, struct nbd_server *server, json_t **ret_state,
                     struct hws_error *err)
{
    struct tls_options options;
    struct nbd_tls_info info;
    struct nbd_tls *tls;
    if (!json_is_object(config))
        return hws_fail(err, EINVAL, "nbd: \"tls\" is an object");
    int r = options_parse(table, config, NULL, "nbd: tls", &options, sizeof(options), err);
    if (r < 0)
        return r;
    r = co_load(&options, json_object_get(config, "verify-peer") != NULL, &tls, err);
    if (r == 0) {
        nbd_tls_info(tls, &info);
        log_info("nbd: TLS is %s: %s %s", info.required ? "required" : "offered",
                 info.mode == NBD_TLS_PSK ? "pre-shared keys of" : "certificates of",
                 options.credentials);
        *ret_state = describe(&info);
        nbd_server_set_tls(server, tls);
    }
    options_free(table, &options);
    return r;
}
