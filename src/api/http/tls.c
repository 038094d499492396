/*
 * Mutual TLS: the server's certificate, and the CA that clients are held to. The handshake is
 * libmicrohttpd's, by GnuTLS; whether the client's certificate holds is looked at here, before its
 * first request: its chain to our CA, its time, its purpose, and our list of those that were
 * revoked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/internal.h"
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/stat.h>

#define FILE_MAX   ((size_t)1 * MiB)
#define CHAIN_MAX  8
#define PRIORITIES "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-SHA1"

struct http_tls {
    char *key, *certificate, *ca;
    gnutls_x509_trust_list_t trust;
};

/* @ret NUL-terminated; NULL where @optional and not there. */
static int read_file(const char *folder, const char *name, bool optional, char **ret,
                     struct hws_error *err)
{
    autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        path = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    FILE *file = fopen(path, "re");
    if (!file)
        return optional && errno == ENOENT ? 0 : hws_fail_errno(err, errno, "tls: %s", path);
    char *text = malloc(FILE_MAX + 1);
    size_t length = text ? fread(text, 1, FILE_MAX + 1, file) : 0;
    bool whole = text && !ferror(file) && length <= FILE_MAX;
    fclose(file);
    if (!whole) {
        free(text);
        return hws_fail(err, EIO, "tls: %s cannot be read, or is larger than 1 MiB", path);
    }
    text[length] = '\0';
    *ret = text;
    return 0;
}

static int fail_gnutls(struct hws_error *err, const char *name, int result)
{
    return hws_fail(err, EINVAL, "tls: %s: %s", name, gnutls_strerror(result));
}

static int read_trust(struct http_tls *tls, const char *crl, struct hws_error *err)
{
    gnutls_datum_t ca = {(unsigned char *)tls->ca, (unsigned)strlen(tls->ca)};
    gnutls_datum_t revoked = {(unsigned char *)crl, crl ? (unsigned)strlen(crl) : 0};
    int r = gnutls_x509_trust_list_init(&tls->trust, 0);
    if (r < 0)
        return fail_gnutls(err, "ca-cert.pem", r);
    r = gnutls_x509_trust_list_add_trust_mem(tls->trust, &ca, NULL, GNUTLS_X509_FMT_PEM, 0, 0);
    if (r <= 0)
        return fail_gnutls(err, "ca-cert.pem", r < 0 ? r : GNUTLS_E_NO_CERTIFICATE_FOUND);
    if (!crl)
        return 0;
    r = gnutls_x509_trust_list_add_trust_mem(tls->trust, NULL, &revoked, GNUTLS_X509_FMT_PEM, 0,
                                             GNUTLS_TL_VERIFY_CRL);
    return r <= 0 ? fail_gnutls(err, "ca-crl.pem", r < 0 ? r : GNUTLS_E_NO_CERTIFICATE_FOUND) : 0;
}

/* Certificate and key must be one pair, told here rather than at the first handshake. */
static int check_pair(const struct http_tls *tls, struct hws_error *err)
{
    gnutls_datum_t key = {(unsigned char *)tls->key, (unsigned)strlen(tls->key)};
    gnutls_datum_t certificate = {(unsigned char *)tls->certificate,
                                  (unsigned)strlen(tls->certificate)};
    gnutls_certificate_credentials_t both;
    int r = gnutls_certificate_allocate_credentials(&both);
    if (r < 0)
        return fail_gnutls(err, "server-cert.pem", r);
    r = gnutls_certificate_set_x509_key_mem(both, &certificate, &key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(both);
    return r < 0 ? fail_gnutls(err, "server-cert.pem, server-key.pem", r) : 0;
}

int http_tls_read(const char *folder, struct http_tls **ret, struct hws_error *err)
{
    struct http_tls *tls = calloc(1, sizeof(*tls));
    autofree char *crl = NULL;
    if (!tls)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = read_file(folder, "ca-cert.pem", false, &tls->ca, err);
    if (r == 0)
        r = read_file(folder, "server-cert.pem", false, &tls->certificate, err);
    if (r == 0)
        r = read_file(folder, "server-key.pem", false, &tls->key, err);
    if (r == 0)
        r = read_file(folder, "ca-crl.pem", true, &crl, err);
    if (r == 0)
        r = read_trust(tls, crl, err);
    if (r == 0)
        r = check_pair(tls, err);
    if (r < 0)
        http_tls_free(tls);
    else
        *ret = tls;
    return r;
}

void http_tls_free(struct http_tls *tls)
{
    if (!tls)
        return;
    if (tls->trust)
        gnutls_x509_trust_list_deinit(tls->trust, 1);
    if (tls->key)
        explicit_bzero(tls->key, strlen(tls->key));
    free(tls->key);
    free(tls->certificate);
    free(tls->ca);
    free(tls);
}

void http_tls_options(const struct http_tls *tls, struct MHD_OptionItem *ret)
{
    ret[0] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, tls->key};
    ret[1] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, tls->certificate};
    ret[2] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_TRUST, 0, tls->ca};
    ret[3] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, (char *)PRIORITIES};
    ret[4] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
}

/* ---- clients ---- */

/* A part of the subject's name; "" where there is none, several, or one with a NUL in it. */
static void read_part(gnutls_x509_crt_t certificate, const char *oid, char *ret, size_t size)
{
    char more[8];
    size_t length = size, more_length = sizeof(more);
    if (gnutls_x509_crt_get_dn_by_oid(certificate, oid, 0, 0, ret, &length) < 0 ||
        strlen(ret) != length ||
        gnutls_x509_crt_get_dn_by_oid(certificate, oid, 1, 0, more, &more_length) !=
            GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
        ret[0] = '\0';
}

static int read_peer(gnutls_x509_crt_t certificate, struct http_peer *ret, struct hws_error *err)
{
    unsigned char digest[32];
    size_t length = sizeof(digest);
    int r = gnutls_x509_crt_get_fingerprint(certificate, GNUTLS_DIG_SHA256, digest, &length);
    if (r < 0)
        return hws_fail(err, EACCES, "the certificate has no fingerprint: %s", gnutls_strerror(r));
    for (unsigned i = 0; i < sizeof(digest); i++)
        snprintf(ret->fingerprint + 2 * i, 3, "%02x", digest[i]);
    read_part(certificate, GNUTLS_OID_X520_COMMON_NAME, ret->name, sizeof(ret->name));
    read_part(certificate, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, ret->unit, sizeof(ret->unit));
    return 0;
}

static int verify(const struct http_tls *tls, gnutls_x509_crt_t *chain, unsigned count,
                  struct hws_error *err)
{
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                     .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT};
    unsigned status = 0;
    int r =
        gnutls_x509_trust_list_verify_crt2(tls->trust, chain, count, &purpose, 1, 0, &status, NULL);
    if (r < 0)
        return hws_fail(err, EACCES, "its certificate: %s", gnutls_strerror(r));
    if (status == 0)
        return 0;
    gnutls_datum_t text = {0};
    r = gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    hws_fail(err, EACCES, "%s", r == 0 ? (const char *)text.data : "its certificate does not hold");
    gnutls_free(text.data);
    return -EACCES;
}

int http_tls_peer(const struct http_tls *tls, struct MHD_Connection *connection,
                  struct http_peer *ret, struct hws_error *err)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    gnutls_x509_crt_t chain[CHAIN_MAX];
    unsigned count = 0, made = 0;
    const gnutls_datum_t *given =
        info ? gnutls_certificate_get_peers((gnutls_session_t)info->tls_session, &count) : NULL;
    if (!given || count == 0)
        return hws_fail(err, EACCES, "it has no certificate");
    int r = count > CHAIN_MAX
                ? hws_fail(err, EACCES, "its chain has more than %d certificates", CHAIN_MAX)
                : 0;
    for (; r == 0 && made < count; made += r == 0) {
        if (gnutls_x509_crt_init(&chain[made]) < 0) {
            r = hws_fail(err, ENOMEM, "out of memory");
        } else if (gnutls_x509_crt_import(chain[made], &given[made], GNUTLS_X509_FMT_DER) < 0) {
            gnutls_x509_crt_deinit(chain[made]);
            r = hws_fail(err, EACCES, "its certificate cannot be read");
        }
    }
    if (r == 0)
        r = verify(tls, chain, count, err);
    if (r == 0)
        r = read_peer(chain[0], ret, err);
    while (made > 0)
        gnutls_x509_crt_deinit(chain[--made]);
    return r;
}
