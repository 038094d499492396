/*
 * Secrets, as the rest of the control plane uses them. Their values are in the catalog sealed only,
 * and leave it for engines alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_SECRETS_H
#define CONTROL_SECRETS_H

#include "control/internal.h"

#define SECRET_PSK       "psk"
#define SECRET_CHAP      "chap"
#define SECRET_X509      "x509"

#define SECRET_FILES_MAX 4

/** A secret as files of an NBD server's credentials; their names are src/export/nbd/tls.h's. */
struct secret_files {
    const char *name[SECRET_FILES_MAX];
    char *text[SECRET_FILES_MAX]; /* unsealed */
    unsigned count;
    uint64_t version;
};

/** Unseals the secret @id into files. @ret: secret_files_free(), after a failure too. */
HWS_MUST_CHECK int secret_files(struct control *control, const char *id, struct secret_files *ret,
                                struct hws_error *err);
void secret_files_free(struct secret_files *files);

/** Completes a change of the master key that was cut off. */
HWS_MUST_CHECK int secrets_recover(struct control *control, struct hws_error *err);

/** The members of a certificate's request, and the files that they become. */
struct secret_part {
    const char *member, *file;
    bool required;
};
extern const struct secret_part secret_parts[SECRET_FILES_MAX];

#endif
