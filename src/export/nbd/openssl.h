/*
 * OpenSSL, as the TLS of this folder uses it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_OPENSSL_H
#define EXPORT_NBD_OPENSSL_H

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#endif
