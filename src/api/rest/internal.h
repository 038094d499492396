/*
 * What the files of the REST API share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_REST_INTERNAL_H
#define API_REST_INTERNAL_H

#include "api/rest/rest.h"

#define REST_ARGUMENTS_MAX 2

/** One call: what its path names, and its body. */
struct rest_call {
    struct control *control;
    const struct http_request *request;
    char argument[REST_ARGUMENTS_MAX][256]; /* what stands where the route has a '*' */
    const json_t *body;                     /* an object */
    struct control_page page;               /* of lists */
};

struct rest_route {
    const char *method, *pattern;
    unsigned status; /* of a success: 200, 201, 204 */
    int (*run)(const struct rest_call *call, json_t **ret, struct hws_error *err);
};

extern const struct rest_route rest_routes[]; /* ended by one without a method */

/** /metrics, in Prometheus' text format. */
HWS_MUST_CHECK int rest_metrics(struct control *control, char **ret, struct hws_error *err);

#endif
