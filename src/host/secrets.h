/*
 * Files of secrets: who may hold them, and what stands in them.
 *
 *     # a comment
 *     word=the value, up to the end of the line
 *
 * What the words are is each fabric's business. Neither errors nor logs show a value. Who reads
 * secrets overwrites them when it is done (explicit_bzero()).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_SECRETS_H
#define HOST_SECRETS_H

#include "base/common.h"
#include "hawser/error.h"

#define SECRETS_MAX 4096 /* bytes of a file */

/**
 * Reads a file whole, or standard input where @path is "-". A file belongs to this user or root,
 * and nobody else can read it: -EPERM. Longer ones are refused (-EFBIG), and what is no text
 * (-EINVAL). Blocks. After a failure nothing of it is in @ret.
 */
HWS_MUST_CHECK int secrets_read(const char *path, char ret[SECRETS_MAX + 1], struct hws_error *err);

/** A line that there may be, once. A table of them ends with word NULL. */
struct secrets_field {
    const char *word; /* "password=" */
    char *value;      /* "" before; where the value goes */
    size_t size;      /* of it, the end included */
    /** What is wrong with a value, as it follows the word in an error; NULL where nothing is. */
    const char *(*check)(const char *value);
};

/**
 * Fills the fields from @text; @name of the file, for errors. A value that does not fit is given to
 * `check` as "". @return 0 or -EINVAL.
 */
HWS_MUST_CHECK int secrets_parse(const char *text, const char *name,
                                 const struct secrets_field *fields, struct hws_error *err);

#endif
