/*
 * Tables of fields: one table for a struct yields its JSON in both directions, with types, ranges
 * and unknown fields told in words. The catalog's objects and the calls of the REST API are
 * records.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_RECORD_H
#define CONTROL_RECORD_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

enum record_kind {
    RECORD_TEXT,   /* char *; NULL where absent */
    RECORD_UINT,   /* uint64_t up to INT64_MAX; 0 where absent */
    RECORD_SIZE,   /* the same in bytes, also read from text such as "10G" */
    RECORD_BOOL,   /* bool */
    RECORD_LABELS, /* json_t *: an object of texts; never NULL once parsed */
    RECORD_LIST,   /* json_t *: an array of texts; never NULL once parsed */
};

/** Limits of texts, labels and lists that have none of their own. */
#define RECORD_TEXT_MAX    1024
#define RECORD_MEMBERS_MAX 64

struct record_field {
    const char *name; /* NULL ends a table */
    enum record_kind kind;
    size_t offset;
    const char *help;
    bool required;
    uint64_t max;               /* of texts in bytes, of numbers, of members; 0: the usual */
    const char *const *choices; /* of a text; NULL: any */
    bool sparse;                /* a number that is left out of the JSON where it is 0 */
};

/**
 * Reads @given (an object) into @out, which is cleared first. Unknown and doubtful fields are
 * refused. @what for messages. A failure leaves @out cleared.
 */
HWS_MUST_CHECK int record_parse(const struct record_field *fields, const json_t *given,
                                const char *what, void *out, size_t out_bytes,
                                struct hws_error *err);

/** @return a new object; texts that are NULL are left out. */
json_t *record_json(const struct record_field *fields, const void *record);

/** Moves what @request gives from @from, which was parsed from it, to @to: the same struct. */
void record_change(const struct record_field *fields, const json_t *request, void *from, void *to);

/** Frees what the fields own, and clears them. */
void record_free(const struct record_field *fields, void *record);

/** Sets a text field of a record: frees the old one. @return 0 or -ENOMEM. */
HWS_MUST_CHECK int record_set_text(char **field, const char *text);

#endif
