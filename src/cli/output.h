/*
 * How the command speaks: errors that teach on standard error, results on standard output, colour
 * only on a terminal that wants it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

/** "hawser NAME: error: TEXT" on standard error. @return @exit_code. */
int out_error(const char *command, int exit_code, const struct hws_error *err);

/** A line of advice on standard error: "hawser NAME: note: ...". */
void out_note(const char *command, const char *format, ...) HWS_PRINTF(2, 3);

/** Prints @value as indented JSON; takes over its reference. */
void out_json(json_t *value);

/** On one line. */
void out_json_line(json_t *value);

/** The same of JSON text; ends it with free(). */
void out_json_text(char *text);

/** @text as a JSON string; bytes that are no UTF-8 become "\\xNN". @return a new reference. */
json_t *out_string(const char *text);

/** True where @stream is a terminal, NO_COLOR is not set, and TERM is not "dumb". */
bool out_colour(FILE *stream);

/** "10 GiB (10737418240 bytes)" in @buffer (64 bytes at least). @return @buffer. */
const char *out_size(uint64_t bytes, char *buffer, size_t buffer_size);

/** Prints "label: value" aligned. */
void out_field(const char *label, const char *format, ...) HWS_PRINTF(2, 3);

/** Prints @text with what is no printable text (control characters, escapes) as \xNN. */
void out_safe(FILE *stream, const char *text);

#endif
