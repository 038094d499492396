/*
 * What the files of the REST API share: the table of its calls, from which both the server and the
 * description of the API (openapi.c) are made.
 *
 * A row names everything that the server checks before it runs a call (who may, which arguments the
 * query string and the body may have) and what its answer looks like, so that the description
 * cannot differ from what is served. openapi_test.c fails where a row tells too little.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_REST_INTERNAL_H
#define API_REST_INTERNAL_H

#include "api/rest/rest.h"
#include "control/events.h"
#include "control/objects.h"
#include "control/requests.h"

#define REST_ARGUMENTS_MAX 2

/** One call: what its path names, and its body. */
struct rest_call {
    struct control *control;
    const struct http_request *request;
    char argument[REST_ARGUMENTS_MAX][256]; /* what stands where the route has a '*' */
    const json_t *body;                     /* an object; of tables' fields alone */
    struct control_page page;               /* of lists */
    struct http_reply *reply;               /* for calls that wait, or answer a stream */
};

/** An argument of the query string. */
struct rest_query {
    const char *name; /* NULL ends a table */
    const char *help;
    const char *const *choices; /* NULL: any text */
    uint64_t max;               /* a number of @min to this; 0: a text */
    uint64_t min;
};

struct rest_route {
    const char *method, *pattern;
    unsigned status; /* of a success: 200, 201, 204 */
    int (*run)(const struct rest_call *call, json_t **ret, struct hws_error *err);
    const char *summary; /* a sentence for the description */

    const struct record_field *request; /* the body's fields; NULL: it takes none */
    const char *answer;                 /* name of a row of rest_schemas; NULL: no body */
    bool list;                          /* {"items": [answers], "next"} */
    const struct rest_query *query;     /* NULL: takes none */
    enum rest_role role; /* by default who may look for GET, who may change things for others */
    const char *type;    /* of an answer that is no JSON, given as a JSON text; NULL: JSON */
};

extern const struct rest_route rest_routes[];     /* ended by one without a method */
extern const struct rest_query rest_query_page[]; /* of lists that come in pages */

extern const struct rest_query rest_query_watch[]; /* of objects */

/** Seconds for which a call may wait, and for which it does where it is not said. */
#define REST_WAIT_MAX     300
#define REST_WAIT_DEFAULT 30

/** Of calls that answer objects of the catalog, which can be watched: rows for their tables. */
#define REST_QUERY_WATCH                                                                      \
    {"watch", "answers once something has happened behind this event (X-Sequence)", .min = 0, \
     .max = INT64_MAX},                                                                       \
    {                                                                                         \
        "wait", "seconds to watch at most, 30 if not given; then the answer comes as it is",  \
            .min = 1, .max = REST_WAIT_MAX                                                    \
    }

/** The role that @route asks for. */
enum rest_role rest_role_of(const struct rest_route *route);
/** "viewer", "operator", "admin". */
const char *rest_role_name(enum rest_role role);

/** A member of an answer that no object's table has. */
struct rest_member {
    const char *name; /* NULL ends a table */
    /** A type of JSON Schema ("integer"), a row of rest_schemas ("Pool"), or an array ("[Pool]").
     */
    const char *kind;
    const char *help;
};

/** What an answer looks like. */
struct rest_schema {
    const char *name; /* NULL ends the table */
    const char *help;
    const struct object_type *type; /* its members; NULL: those in @more alone */
    const struct rest_member *more; /* not all are in every answer; NULL: none */
};

extern const struct rest_schema rest_schemas[];

/** GET /v1/events. */
HWS_MUST_CHECK int rest_events(const struct rest_call *call, json_t **ret, struct hws_error *err);

/** The number that an argument has, within what its row allows; @missing where it is not given. */
uint64_t rest_number(const struct rest_call *call, const char *name, uint64_t missing);

/** The OpenAPI 3.1 document of all calls. @ret a new object. */
HWS_MUST_CHECK int rest_openapi(json_t **ret, struct hws_error *err);

/** /metrics, in Prometheus' text format. */
HWS_MUST_CHECK int rest_metrics(struct control *control, char **ret, struct hws_error *err);

#endif
