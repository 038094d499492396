/*
 * What a secret's value may be, and the files that it becomes; see control/secret_value.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_SECRET_VALUE_H
#define CONTROL_SECRET_VALUE_H

#include "control/secrets.h"
#include "control/vault.h"

/** A request that makes or replaces a secret. */
struct secret_request {
    char *name, *kind, *value, *generate;
    char *part[SECRET_FILES_MAX]; /* as secret_parts[] */
};

/**
 * Checks what is given, or generates it (request->value tells it then). @ret what is sealed:
 * vault_free_text().
 */
HWS_MUST_CHECK int secret_value(struct secret_request *request, const char *name,
                                const char **ret_kind, char **ret, struct hws_error *err);

/** The files of an unsealed value, added to @ret. */
HWS_MUST_CHECK int secret_value_files(const char *kind, const char *value, struct secret_files *ret,
                                      struct hws_error *err);

#endif
