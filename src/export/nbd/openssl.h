/*
 * OpenSSL, as the TLS of this folder uses it: loaded when credentials are, so that an engine
 * without TLS has neither its memory (0.4 MiB a process) nor the time to bind it.
 *
 * The functions' own names are kept, and OpenSSL's macros work: a function that is used and not in
 * the list does not link.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_OPENSSL_H
#define EXPORT_NBD_OPENSSL_H

#include "base/common.h"
#include "hawser/error.h"
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

/* clang-format off */
#define NBD_OPENSSL_FUNCTIONS(f) \
    f(ASN1_TIME_to_tm) f(BIO_clear_flags) f(BIO_free) f(BIO_get_data) f(BIO_get_new_index) \
    f(BIO_meth_free) f(BIO_meth_new) f(BIO_meth_set_ctrl) f(BIO_meth_set_read) \
    f(BIO_meth_set_write) f(BIO_new) f(BIO_new_mem_buf) f(BIO_read) f(BIO_s_mem) f(BIO_set_data) \
    f(BIO_set_flags) f(BIO_set_init) f(ERR_clear_error) f(ERR_peek_last_error) \
    f(ERR_reason_error_string) f(EVP_PKEY_free) f(OPENSSL_cleanse) f(PEM_read_bio_PrivateKey) \
    f(PEM_read_bio_X509) f(PEM_read_bio_X509_CRL) f(RAND_bytes) f(SSL_CIPHER_get_name) \
    f(SSL_CTX_add_client_CA) f(SSL_CTX_clear_options) f(SSL_CTX_ctrl) f(SSL_CTX_free) \
    f(SSL_CTX_get0_certificate) f(SSL_CTX_get_cert_store) f(SSL_CTX_new) \
    f(SSL_CTX_set_cipher_list) f(SSL_CTX_set_ciphersuites) \
    f(SSL_CTX_set_default_read_buffer_len) f(SSL_CTX_set_num_tickets) f(SSL_CTX_set_options) \
    f(SSL_CTX_set_psk_server_callback) f(SSL_CTX_set_security_level) f(SSL_CTX_set_verify) \
    f(SSL_CTX_set_verify_depth) f(SSL_CTX_use_PrivateKey) f(SSL_CTX_use_certificate) \
    f(SSL_accept) f(SSL_free) f(SSL_get0_peer_certificate) f(SSL_get_current_cipher) \
    f(SSL_get_error) f(SSL_get_ex_data) f(SSL_get_verify_result) f(SSL_get_version) \
    f(SSL_key_update) f(SSL_new) f(SSL_read_ex) f(SSL_set_bio) f(SSL_set_ex_data) \
    f(SSL_shutdown) f(SSL_version) f(SSL_write_ex) f(TLS_server_method) f(X509_CRL_free) \
    f(X509_CRL_get0_lastUpdate) f(X509_CRL_get0_nextUpdate) f(X509_NAME_print_ex) \
    f(X509_STORE_CTX_get_error) f(X509_STORE_CTX_get_error_depth) f(X509_STORE_CTX_set_error) \
    f(X509_STORE_add_cert) f(X509_STORE_add_crl) f(X509_STORE_set_flags) \
    f(X509_check_private_key) f(X509_cmp_current_time) f(X509_free) f(X509_get0_notAfter) \
    f(X509_get0_notBefore) f(X509_get_subject_name) f(X509_verify_cert_error_string)
/* clang-format on */

#define NBD_OPENSSL_FIELD(name) __typeof__(&name) name##_;
struct nbd_openssl {
    NBD_OPENSSL_FUNCTIONS(NBD_OPENSSL_FIELD)
};

extern struct nbd_openssl nbd_openssl;

/** Before any of them is called. Any thread; blocks. -ENOENT, -ENOSYS. */
HWS_MUST_CHECK int nbd_openssl_load(struct hws_error *err);

/* clang-format off */
#define ASN1_TIME_to_tm nbd_openssl.ASN1_TIME_to_tm_
#define BIO_clear_flags nbd_openssl.BIO_clear_flags_
#define BIO_free nbd_openssl.BIO_free_
#define BIO_get_data nbd_openssl.BIO_get_data_
#define BIO_get_new_index nbd_openssl.BIO_get_new_index_
#define BIO_meth_free nbd_openssl.BIO_meth_free_
#define BIO_meth_new nbd_openssl.BIO_meth_new_
#define BIO_meth_set_ctrl nbd_openssl.BIO_meth_set_ctrl_
#define BIO_meth_set_read nbd_openssl.BIO_meth_set_read_
#define BIO_meth_set_write nbd_openssl.BIO_meth_set_write_
#define BIO_new nbd_openssl.BIO_new_
#define BIO_new_mem_buf nbd_openssl.BIO_new_mem_buf_
#define BIO_read nbd_openssl.BIO_read_
#define BIO_s_mem nbd_openssl.BIO_s_mem_
#define BIO_set_data nbd_openssl.BIO_set_data_
#define BIO_set_flags nbd_openssl.BIO_set_flags_
#define BIO_set_init nbd_openssl.BIO_set_init_
#define ERR_clear_error nbd_openssl.ERR_clear_error_
#define ERR_peek_last_error nbd_openssl.ERR_peek_last_error_
#define ERR_reason_error_string nbd_openssl.ERR_reason_error_string_
#define EVP_PKEY_free nbd_openssl.EVP_PKEY_free_
#define OPENSSL_cleanse nbd_openssl.OPENSSL_cleanse_
#define PEM_read_bio_PrivateKey nbd_openssl.PEM_read_bio_PrivateKey_
#define PEM_read_bio_X509 nbd_openssl.PEM_read_bio_X509_
#define PEM_read_bio_X509_CRL nbd_openssl.PEM_read_bio_X509_CRL_
#define RAND_bytes nbd_openssl.RAND_bytes_
#define SSL_CIPHER_get_name nbd_openssl.SSL_CIPHER_get_name_
#define SSL_CTX_add_client_CA nbd_openssl.SSL_CTX_add_client_CA_
#define SSL_CTX_clear_options nbd_openssl.SSL_CTX_clear_options_
#define SSL_CTX_ctrl nbd_openssl.SSL_CTX_ctrl_
#define SSL_CTX_free nbd_openssl.SSL_CTX_free_
#define SSL_CTX_get0_certificate nbd_openssl.SSL_CTX_get0_certificate_
#define SSL_CTX_get_cert_store nbd_openssl.SSL_CTX_get_cert_store_
#define SSL_CTX_new nbd_openssl.SSL_CTX_new_
#define SSL_CTX_set_cipher_list nbd_openssl.SSL_CTX_set_cipher_list_
#define SSL_CTX_set_ciphersuites nbd_openssl.SSL_CTX_set_ciphersuites_
#define SSL_CTX_set_default_read_buffer_len nbd_openssl.SSL_CTX_set_default_read_buffer_len_
#define SSL_CTX_set_num_tickets nbd_openssl.SSL_CTX_set_num_tickets_
#define SSL_CTX_set_options nbd_openssl.SSL_CTX_set_options_
#define SSL_CTX_set_psk_server_callback nbd_openssl.SSL_CTX_set_psk_server_callback_
#define SSL_CTX_set_security_level nbd_openssl.SSL_CTX_set_security_level_
#define SSL_CTX_set_verify nbd_openssl.SSL_CTX_set_verify_
#define SSL_CTX_set_verify_depth nbd_openssl.SSL_CTX_set_verify_depth_
#define SSL_CTX_use_PrivateKey nbd_openssl.SSL_CTX_use_PrivateKey_
#define SSL_CTX_use_certificate nbd_openssl.SSL_CTX_use_certificate_
#define SSL_accept nbd_openssl.SSL_accept_
#define SSL_free nbd_openssl.SSL_free_
#define SSL_get0_peer_certificate nbd_openssl.SSL_get0_peer_certificate_
#define SSL_get_current_cipher nbd_openssl.SSL_get_current_cipher_
#define SSL_get_error nbd_openssl.SSL_get_error_
#define SSL_get_ex_data nbd_openssl.SSL_get_ex_data_
#define SSL_get_verify_result nbd_openssl.SSL_get_verify_result_
#define SSL_get_version nbd_openssl.SSL_get_version_
#define SSL_key_update nbd_openssl.SSL_key_update_
#define SSL_new nbd_openssl.SSL_new_
#define SSL_read_ex nbd_openssl.SSL_read_ex_
#define SSL_set_bio nbd_openssl.SSL_set_bio_
#define SSL_set_ex_data nbd_openssl.SSL_set_ex_data_
#define SSL_shutdown nbd_openssl.SSL_shutdown_
#define SSL_version nbd_openssl.SSL_version_
#define SSL_write_ex nbd_openssl.SSL_write_ex_
#define TLS_server_method nbd_openssl.TLS_server_method_
#define X509_CRL_free nbd_openssl.X509_CRL_free_
#define X509_CRL_get0_lastUpdate nbd_openssl.X509_CRL_get0_lastUpdate_
#define X509_CRL_get0_nextUpdate nbd_openssl.X509_CRL_get0_nextUpdate_
#define X509_NAME_print_ex nbd_openssl.X509_NAME_print_ex_
#define X509_STORE_CTX_get_error nbd_openssl.X509_STORE_CTX_get_error_
#define X509_STORE_CTX_get_error_depth nbd_openssl.X509_STORE_CTX_get_error_depth_
#define X509_STORE_CTX_set_error nbd_openssl.X509_STORE_CTX_set_error_
#define X509_STORE_add_cert nbd_openssl.X509_STORE_add_cert_
#define X509_STORE_add_crl nbd_openssl.X509_STORE_add_crl_
#define X509_STORE_set_flags nbd_openssl.X509_STORE_set_flags_
#define X509_check_private_key nbd_openssl.X509_check_private_key_
#define X509_cmp_current_time nbd_openssl.X509_cmp_current_time_
#define X509_free nbd_openssl.X509_free_
#define X509_get0_notAfter nbd_openssl.X509_get0_notAfter_
#define X509_get0_notBefore nbd_openssl.X509_get0_notBefore_
#define X509_get_subject_name nbd_openssl.X509_get_subject_name_
#define X509_verify_cert_error_string nbd_openssl.X509_verify_cert_error_string_
/* clang-format on */

#endif
