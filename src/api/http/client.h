/*
 * One request to a server of this project at a unix socket, for the command. Blocks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_HTTP_CLIENT_H
#define API_HTTP_CLIENT_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

/**
 * @body borrowed, may be NULL. @ret_status of the answer; @ret its JSON, NULL where it has none.
 * -ECONNREFUSED or -ENOENT where no server is there.
 */
HWS_MUST_CHECK int http_call(const char *socket_path, const char *method, const char *path,
                             const json_t *body, unsigned *ret_status, json_t **ret,
                             struct hws_error *err);

#endif
