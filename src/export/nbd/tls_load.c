/*
 * Credentials: the files, and what OpenSSL is told of them and of what is allowed.
 *
 * A key that everybody on the host can read is refused: whoever has read it can be this server, or
 * any of its clients. Group access is the operator's choice.
 *
 * OpenSSL's own configuration file cannot loosen what is set here.
 *
 * Runs on a worker thread (co_work): it reads files, and parses what is too deep for a coroutine's
 * stack.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/nbd/tls_internal.h"
#include <sys/stat.h>

#define FILE_MAX  (1 * MiB)
#define CERTS_MAX 256u /* in one file */
#define DEPTH_MAX 8    /* of a client's chain */
/* Bytes of certificates that a client may send. */
#define CLIENT_CERTS_MAX (32 * KiB)
/* Taken from the socket at a time. Longer ones malloc() maps and unmaps each time here. */
#define READ_BYTES (56 * KiB)
/* What "112 bits" leaves out: RSA below 2048 bits, SHA-1. */
#define SECURITY_LEVEL 2

/* Of what a client offers the cheapest; but where it puts ChaCha20 first, which those without AES
 * in hardware do, that. Forward secrecy first; RSA key exchange and CBC are not offered at all, but
 * that a client which knows no group still gets its pre-shared key used. */
#define CIPHERS_TLS13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define CIPHERS_X509                                             \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:" \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:" \
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384"
#define CIPHERS_PSK                                                                    \
    "DHE-PSK-AES128-GCM-SHA256:DHE-PSK-AES256-GCM-SHA384:ECDHE-PSK-CHACHA20-POLY1305:" \
    "DHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384"

struct load {
    const struct nbd_tls_options *options;
    struct nbd_tls *tls;
    struct hws_error *err;
};

/* ---- files ---- */

/* One that is being read. */
struct file {
    char path[PATH_MAX];
    char *bytes;
    size_t length;
};

static void free_file(struct file *file)
{
    if (file->bytes)
        OPENSSL_cleanse(file->bytes, file->length);
    free(steal_ptr(&file->bytes));
}

#define autofile __attribute__((cleanup(free_file)))

static int path_of(const char *folder, const char *name, char path[PATH_MAX], struct hws_error *err)
{
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        return hws_fail(err, ENAMETOOLONG, "the folder's path is too long");
    return 0;
}

static bool is_there(const char *folder, const char *name)
{
    char path[PATH_MAX];
    return path_of(folder, name, path, NULL) == 0 && access(path, F_OK) == 0;
}

static int read_all(int fd, struct file *file, size_t bytes)
{
    file->bytes = malloc(bytes + 1);
    if (!file->bytes)
        return -ENOMEM;
    while (file->length < bytes) {
        ssize_t n = read(fd, file->bytes + file->length, bytes - file->length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        file->length += (size_t)n;
    }
    return 0;
}

static int read_file(const char *folder, const char *name, bool secret, struct file *file,
                     struct hws_error *err)
{
    struct stat st;
    int r = path_of(folder, name, file->path, err);
    if (r < 0)
        return r;
    autofd int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return hws_fail_errno(err, errno, "TLS: cannot read %s", file->path);
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)FILE_MAX)
        return hws_fail(err, EINVAL, "TLS: %s is no ordinary file of up to 1 MiB", file->path);
    if (secret && st.st_mode & (S_IROTH | S_IWOTH))
        return hws_fail(err, EPERM,
                        "TLS: everybody on this host can read or write the key in %s: make another "
                        "one, or, if nobody has, chmod o-rwx",
                        file->path);
    r = read_all(fd, file, (size_t)st.st_size);
    return r < 0 ? hws_fail_errno(err, -r, "TLS: cannot read %s", file->path) : 0;
}

/* ---- what OpenSSL says ---- */

static int library_failed(struct hws_error *err, const char *what)
{
    const char *why = ERR_reason_error_string(ERR_peek_last_error());
    return hws_fail(err, EINVAL, "TLS: %s: %s", what, why ? why : "the library does not say why");
}

static int no_password(char *buffer, int room, int writing, void *arg)
{
    return -1;
}

static bool at_end_of_pem(void)
{
    unsigned long code = ERR_peek_last_error();
    return ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
}

/* ---- certificates ---- */

static void format_time(const ASN1_TIME *time, char *text, size_t bytes)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(time, &tm) != 1 || !strftime(text, bytes, "%Y-%m-%dT%H:%M:%SZ", &tm))
        snprintf(text, bytes, "an unreadable date");
}

static void warn_of_dates(const char *path, const ASN1_TIME *from, const ASN1_TIME *until)
{
    char when[32];
    if (from && X509_cmp_current_time(from) > 0) {
        format_time(from, when, sizeof(when));
        log_warning("nbd: TLS: %s: not valid before %s: clients will refuse it", path, when);
    }
    if (until && X509_cmp_current_time(until) < 0) {
        format_time(until, when, sizeof(when));
        log_warning("nbd: TLS: %s: expired at %s: clients will be refused or refuse it", path,
                    when);
    }
}

static void describe_certificate(const X509 *certificate, struct nbd_tls_info *info)
{
    nbd_tls_subject(certificate, info->subject, sizeof(info->subject));
    format_time(X509_get0_notAfter(certificate), info->expires, sizeof(info->expires));
}

/* The certificates of a file in turn: @take owns each. */
static int each_certificate(const struct file *file, struct nbd_tls *tls,
                            int (*take)(struct nbd_tls *tls, X509 *certificate, unsigned i),
                            struct hws_error *err)
{
    BIO *bio = BIO_new_mem_buf(file->bytes, (int)file->length);
    unsigned count = 0;
    int r = bio ? 0 : hws_fail(err, ENOMEM, "out of memory");
    for (X509 *certificate; r == 0; count++) {
        ERR_clear_error();
        certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
        if (!certificate && count && at_end_of_pem())
            break;
        if (!certificate && at_end_of_pem())
            r = hws_fail(err, EINVAL, "TLS: %s holds no certificate in PEM format", file->path);
        else if (!certificate)
            r = library_failed(err, file->path);
        else if (count == CERTS_MAX)
            r = hws_fail(err, E2BIG, "TLS: %s holds more than %u certificates", file->path,
                         CERTS_MAX);
        if (r < 0) {
            X509_free(certificate);
            break;
        }
        warn_of_dates(file->path, X509_get0_notBefore(certificate),
                      X509_get0_notAfter(certificate));
        if (take(tls, certificate, count) != 1)
            r = library_failed(err, file->path);
    }
    BIO_free(bio);
    return r;
}

static int take_own(struct nbd_tls *tls, X509 *certificate, unsigned i)
{
    int done;
    if (i == 0) {
        describe_certificate(certificate, &tls->info);
        done = SSL_CTX_use_certificate(tls->context, certificate);
    } else {
        done = SSL_CTX_add1_chain_cert(tls->context, certificate);
    }
    X509_free(certificate);
    return done;
}

static int take_authority(struct nbd_tls *tls, X509 *certificate, unsigned i)
{
    int done = X509_STORE_add_cert(SSL_CTX_get_cert_store(tls->context), certificate);
    if (done == 1 && tls->info.verify_peer)
        done = SSL_CTX_add_client_CA(tls->context, certificate);
    X509_free(certificate);
    return done;
}

static int load_key(struct load *load, const char *certificates)
{
    autofile struct file file = {.length = 0};
    SSL_CTX *context = load->tls->context;
    int r = read_file(load->options->folder, "server-key.pem", true, &file, load->err);
    if (r < 0)
        return r;
    BIO *bio = BIO_new_mem_buf(file.bytes, (int)file.length);
    ERR_clear_error();
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    static const char mark[] = "PRIVATE KEY-----";
    if (!key && !memmem(file.bytes, file.length, mark, sizeof(mark) - 1))
        return hws_fail(load->err, EINVAL, "TLS: %s holds no private key in PEM format", file.path);
    if (!key)
        return hws_fail(load->err, EINVAL,
                        "TLS: the key in %s cannot be read: it is damaged, or has a password (take "
                        "it off: openssl pkey -in OLD -out NEW)",
                        file.path);
    if (X509_check_private_key(SSL_CTX_get0_certificate(context), key) != 1)
        r = hws_fail(load->err, EINVAL,
                     "TLS: the key in %s is not the one of the first certificate in %s", file.path,
                     certificates);
    else if (SSL_CTX_use_PrivateKey(context, key) != 1)
        r = library_failed(load->err, file.path);
    EVP_PKEY_free(key);
    return r;
}

/* ---- revocations ---- */

/* Revoked is who the list of his issuer says so. Issuers above the last one need not have a list.
 */
static int verified(int ok, X509_STORE_CTX *context)
{
    if (!ok && X509_STORE_CTX_get_error(context) == X509_V_ERR_UNABLE_TO_GET_CRL &&
        X509_STORE_CTX_get_error_depth(context) > 0) {
        X509_STORE_CTX_set_error(context, X509_V_OK);
        return 1;
    }
    return ok;
}

static int take_revocations(struct load *load, const struct file *file, BIO *bio)
{
    X509_STORE *store = SSL_CTX_get_cert_store(load->tls->context);
    for (unsigned count = 0;; count++) {
        ERR_clear_error();
        X509_CRL *list = PEM_read_bio_X509_CRL(bio, NULL, no_password, NULL);
        if (!list && count && at_end_of_pem())
            return 0;
        if (!list && at_end_of_pem())
            return hws_fail(load->err, EINVAL, "TLS: %s holds no revocation list in PEM format",
                            file->path);
        if (!list)
            return library_failed(load->err, file->path);
        warn_of_dates(file->path, X509_CRL_get0_lastUpdate(list), X509_CRL_get0_nextUpdate(list));
        int added = count < CERTS_MAX ? X509_STORE_add_crl(store, list) : 0;
        X509_CRL_free(list);
        if (added != 1)
            return library_failed(load->err, file->path);
    }
}

static int load_revocations(struct load *load)
{
    autofile struct file file = {.length = 0};
    int r = read_file(load->options->folder, "ca-crl.pem", false, &file, load->err);
    if (r < 0)
        return r;
    BIO *bio = BIO_new_mem_buf(file.bytes, (int)file.length);
    r = bio ? take_revocations(load, &file, bio) : hws_fail(load->err, ENOMEM, "out of memory");
    BIO_free(bio);
    X509_STORE_set_flags(SSL_CTX_get_cert_store(load->tls->context),
                         X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    load->tls->info.revocations = true;
    return r;
}

/* ---- both kinds ---- */

static int load_x509(struct load *load)
{
    autofile struct file own = {.length = 0}, authorities = {.length = 0};
    const char *folder = load->options->folder;
    SSL_CTX *context = load->tls->context;
    bool verify = load->options->verify_peer;
    load->tls->info.verify_peer = verify;
    int r = read_file(folder, "server-cert.pem", false, &own, load->err);
    if (r == 0)
        r = each_certificate(&own, load->tls, take_own, load->err);
    if (r == 0)
        r = load_key(load, own.path);
    if (r == 0 && verify && !is_there(folder, "ca-cert.pem"))
        return hws_fail(
            load->err, ENOENT,
            "TLS: %s/ca-cert.pem is missing, so no client's certificate can be checked: "
            "put it there, or let clients in without one (\"verify-peer\": false)",
            folder);
    if (r == 0 && verify)
        r = read_file(folder, "ca-cert.pem", false, &authorities, load->err);
    if (r == 0 && verify)
        r = each_certificate(&authorities, load->tls, take_authority, load->err);
    if (r == 0 && verify && is_there(folder, "ca-crl.pem"))
        r = load_revocations(load);
    if (r < 0)
        return r;
    SSL_CTX_set_verify(context,
                       verify ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE,
                       verified);
    SSL_CTX_set_verify_depth(context, DEPTH_MAX);
    SSL_CTX_set_max_cert_list(context, CLIENT_CERTS_MAX);
    return SSL_CTX_set_cipher_list(context, CIPHERS_X509) == 1
               ? 0
               : library_failed(load->err, "the list of ciphers");
}

static int load_psk(struct load *load)
{
    autofile struct file file = {.length = 0};
    int r = read_file(load->options->folder, "keys.psk", true, &file, load->err);
    if (r == 0)
        r = nbd_psk_parse(file.bytes, file.length, file.path, &load->tls->psk, load->err);
    if (r < 0)
        return r;
    load->tls->info.keys = load->tls->psk.count;
    SSL_CTX_set_psk_server_callback(load->tls->context, nbd_tls_psk_callback);
    return SSL_CTX_set_cipher_list(load->tls->context, CIPHERS_PSK) == 1
               ? 0
               : library_failed(load->err, "the list of ciphers");
}

static int choose_mode(const struct nbd_tls_options *options, enum nbd_tls_mode *ret,
                       struct hws_error *err)
{
    const char *folder = options->folder;
    bool x509 = is_there(folder, "server-cert.pem"), psk = is_there(folder, "keys.psk");
    *ret = options->mode != NBD_TLS_AUTO ? options->mode : x509 ? NBD_TLS_X509 : NBD_TLS_PSK;
    if (options->mode != NBD_TLS_AUTO)
        return 0;
    if (x509 && psk)
        return hws_fail(
            err, EINVAL,
            "TLS: %s has both server-cert.pem and keys.psk: say which to use (mode x509 "
            "or psk)",
            folder);
    if (!x509 && !psk)
        return hws_fail(
            err, ENOENT,
            "TLS: %s has neither server-cert.pem (with server-key.pem, ca-cert.pem) nor "
            "keys.psk",
            folder);
    return 0;
}

static int set_up(struct nbd_tls *tls)
{
    static const uint64_t options = SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                    SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
                                    SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF;
    SSL_CTX *context = tls->context;
    SSL_CTX_set_security_level(context, SECURITY_LEVEL);
    SSL_CTX_clear_options(context, UINT32_MAX);
    SSL_CTX_set_options(context, options);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_BYTES);
    SSL_CTX_set_dh_auto(context, 1);
    return SSL_CTX_set_ciphersuites(context, CIPHERS_TLS13) == 1 &&
           SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(context, 0) == 1 &&
           SSL_CTX_set_num_tickets(context, 0) == 1;
}

static int load_all(void *arg)
{
    struct load *load = arg;
    struct nbd_tls *tls = load->tls;
    tls->info.required = load->options->required;
    int r = nbd_openssl_load(load->err);
    if (r == 0)
        r = choose_mode(load->options, &tls->info.mode, load->err);
    if (r < 0)
        return r;
    ERR_clear_error();
    tls->method = nbd_tls_bio_method();
    tls->context = SSL_CTX_new(TLS_server_method());
    if (!tls->context || !tls->method || set_up(tls) != 1)
        return library_failed(load->err, "the library cannot be set up");
    r = tls->info.mode == NBD_TLS_X509 ? load_x509(load) : load_psk(load);
    ERR_clear_error();
    return r;
}

int co_nbd_tls_load(const struct nbd_tls_options *options, struct nbd_tls **ret,
                    struct hws_error *err)
{
    struct nbd_tls *tls = calloc(1, sizeof(*tls));
    if (!tls)
        return hws_fail(err, ENOMEM, "out of memory");
    struct load load = {.options = options, .tls = tls, .err = err};
    atomic_init(&tls->references, 1);
    int r = co_work(load_all, &load);
    if (r < 0)
        nbd_tls_free(tls);
    else
        *ret = tls;
    return r;
}

struct nbd_tls *nbd_tls_share(struct nbd_tls *tls)
{
    atomic_fetch_add(&tls->references, 1);
    return tls;
}

struct nbd_tls *nbd_tls_free(struct nbd_tls *tls)
{
    if (!tls || atomic_fetch_sub(&tls->references, 1) > 1)
        return NULL;
    if (tls->context)
        SSL_CTX_free(tls->context);
    if (tls->method)
        BIO_meth_free(tls->method);
    nbd_psk_free(&tls->psk);
    free(tls);
    return NULL;
}

void nbd_tls_info(const struct nbd_tls *tls, struct nbd_tls_info *ret)
{
    *ret = tls->info;
}
