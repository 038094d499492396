/*
 * How the command speaks; see cli/output.h.
 *
 * Names come from images and folders that others made, so nothing of them reaches a terminal raw:
 * an escape sequence in a backing file's name stays visible text.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/output.h"
#include "base/size.h"
#include <stdarg.h>

#define LABEL_COLUMNS 18

bool out_colour(FILE *stream)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fileno(stream)) && !(no_colour && *no_colour) && term && strcmp(term, "dumb");
}

void out_safe(FILE *stream, const char *text)
{
    unsigned char before = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at; before = *at++) {
        /* C1 controls are two bytes in UTF-8, and some terminals obey them. */
        bool c1 =
            (*at == 0xc2 && (at[1] & 0xe0) == 0x80) || (before == 0xc2 && (*at & 0xe0) == 0x80);
        if (*at < 0x20 || *at == 0x7f || c1)
            fprintf(stream, "\\x%02x", *at);
        else
            fputc(*at, stream);
    }
}

static void speak(const char *command, const char *word, const char *colour, const char *text)
{
    bool coloured = out_colour(stderr);
    fprintf(stderr, "hawser%s%s: %s%s:%s ", command ? " " : "", command ? command : "",
            coloured ? colour : "", word, coloured ? "\033[0m" : "");
    out_safe(stderr, text);
    fputc('\n', stderr);
}

int out_error(const char *command, int exit_code, const struct hws_error *err)
{
    fflush(stdout);
    speak(command, "error", "\033[1;31m", err->text[0] ? err->text : strerror(err->code));
    return exit_code;
}

void out_note(const char *command, const char *format, ...)
{
    char text[HWS_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    speak(command, "note", "\033[1m", text);
}

void out_json(json_t *value)
{
    assert(value);
    json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    fputc('\n', stdout);
    json_decref(value);
}

void out_json_line(json_t *value)
{
    json_dumpf(value, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    fputc('\n', stdout);
    json_decref(value);
}

void out_json_text(char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    free(text);
    out_json(value);
}

json_t *out_string(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    size_t used = 0;
    autofree char *escaped = malloc(strlen(text) * 4 + 1);
    for (const char *at = text; escaped && *at; at++) {
        if ((unsigned char)*at < 0x80)
            escaped[used++] = *at;
        else
            used += (size_t)snprintf(escaped + used, 5, "\\x%02x", (unsigned char)*at);
    }
    return escaped ? json_stringn(escaped, used) : json_null();
}

const char *out_size(uint64_t bytes, char *buffer, size_t buffer_size)
{
    char human[32];
    snprintf(buffer, buffer_size, "%s (%llu bytes)", size_format(bytes, human, sizeof(human)),
             (unsigned long long)bytes);
    return buffer;
}

void out_field(const char *label, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    printf("%s:%*s", label, (int)MAX(LABEL_COLUMNS - (int)strlen(label), 1), "");
    out_safe(stdout, text);
    fputc('\n', stdout);
}
