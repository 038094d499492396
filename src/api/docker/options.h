/*
 * The options of `docker volume create -o NAME=VALUE`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_DOCKER_OPTIONS_H
#define API_DOCKER_OPTIONS_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

/** The label that keeps a volume's options, so that the same call is known again. */
#define DOCKER_LABEL "docker.options"

/**
 * @opts as Docker sends them, may be NULL. @ret a request for control_volume_create(), whose fields
 * the options are: one of the API is an option by that alone.
 */
HWS_MUST_CHECK int docker_options(const char *name, const json_t *opts, json_t **ret,
                                  struct hws_error *err);

#endif
