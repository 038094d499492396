/*
 * The REST API, version 1; docs/control.md lists its calls.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_REST_REST_H
#define API_REST_REST_H

#include "api/http/server.h"
#include "control/control.h"

/** Who may call: each may what those before it may. http_request.role is one of them. */
enum rest_role { ROLE_BY_METHOD, ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };

/** ROLE_BY_METHOD where there is none of that name. */
enum rest_role rest_role_named(const char *name);

/** The handler of its server; @control is a struct control. */
void rest_handle(void *control, const struct http_request *request, struct http_reply *reply);

/** Answers in its manner what could not be handed to it. */
void rest_refuse(const struct http_request *request, unsigned status, const char *message,
                 struct http_reply *reply);

#endif
