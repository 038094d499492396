/*
 * Typed option tables. One table beside a driver yields its parser, its --help, its JSON-RPC schema
 * and its documentation.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_OPTIONS_H
#define BLOCK_OPTIONS_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

enum option_type {
    OPTION_BOOL,   /* bool */
    OPTION_UINT,   /* uint64_t, min..max */
    OPTION_SIZE,   /* uint64_t, min..max, human sizes accepted */
    OPTION_STRING, /* char *, owned by the option struct; NULL when not given and no default */
    OPTION_ENUM,   /* int, the index into choices */
    OPTION_LIST,   /* char **, texts with a NULL behind them, owned by the option struct; NULL when
                      not given. A JSON array, or one text: a list of it. `max` items, 0: 64 */
};

struct option_desc {
    const char *name;
    enum option_type type;
    size_t offset;            /* of the field in the driver's option struct */
    const char *help;         /* one line, no full stop */
    const char *default_text; /* NULL: zero / NULL / required, as `required` says */
    bool required;
    uint64_t min, max;          /* OPTION_UINT and OPTION_SIZE; max 0: no upper bound */
    const char *const *choices; /* OPTION_ENUM, NULL-terminated */
};

/** Ends a table. */
#define OPTION_END \
    {              \
        0          \
    }

/**
 * Fills @out (zeroed by this function, @out_bytes long) from the members of @object, strings and
 * native JSON types alike. Members that the table does not know are errors that list the known
 * ones; members in @ignore (NULL-terminated, may be NULL) are passed over. @owner names the driver
 * in messages. On failure nothing is left allocated.
 */
HWS_MUST_CHECK int options_parse(const struct option_desc *table, const json_t *object,
                                 const char *const *ignore, const char *owner, void *out,
                                 size_t out_bytes, struct hws_error *err);

/** Frees the strings and lists of an option struct. */
void options_free(const struct option_desc *table, void *out);

/** "name=value,name=value" (",," is a literal comma) into the JSON object @object, as strings. */
HWS_MUST_CHECK int options_from_text(const char *text, json_t *object, struct hws_error *err);

/** JSON schema of a table: an array of {name, type, help, default, min, max, choices, required}. */
HWS_MUST_CHECK json_t *options_schema(const struct option_desc *table);

#endif
