/*
 * The volume plugin protocol of Docker, as podman speaks it too.
 *
 * https://docs.docker.com/engine/extend/plugins_volume/: every call is a POST with a JSON body, and
 * answers a JSON object whose "Err" tells a failure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_DOCKER_DOCKER_H
#define API_DOCKER_DOCKER_H

#include "api/http/server.h"
#include "control/control.h"

struct docker_plugin {
    struct control *control;
    const char *scope; /* "local", or "global": the same volumes on all hosts of a cluster */
};

/** The handler of its server; @plugin is a struct docker_plugin. */
void docker_handle(void *plugin, const struct http_request *request, struct http_reply *reply);

/** Answers in its manner what could not be handed to it. */
void docker_refuse(const struct http_request *request, unsigned status, const char *message,
                   struct http_reply *reply);

#endif
