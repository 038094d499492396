/*
 * The REST API, version 1; docs/control.md lists its calls.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_REST_REST_H
#define API_REST_REST_H

#include "api/http/server.h"
#include "control/control.h"

/** The handler of its server; @control is a struct control. */
void rest_handle(void *control, const struct http_request *request, struct http_reply *reply);

/** Answers in its manner what could not be handed to it. */
void rest_refuse(const struct http_request *request, unsigned status, const char *message,
                 struct http_reply *reply);

#endif
