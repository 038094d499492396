/*
 * Filling and wrapping of struct hws_error; see hawser/error.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hawser/error.h"
#include "base/common.h"

static const char *errno_text(int code, char *buffer, size_t size)
{
    return strerror_r(code, buffer, size);
}

/* Marks a text that did not fit, so that nobody takes it for the whole. */
static void mark_cut(char *text, int wanted)
{
    if (wanted >= HWS_ERROR_TEXT_BYTES)
        memcpy(text + HWS_ERROR_TEXT_BYTES - 4, "...", 4);
}

int hws_fail(struct hws_error *err, int code, const char *format, ...)
{
    assert(code > 0);
    if (err) {
        va_list args;
        va_start(args, format);
        int wanted = vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        mark_cut(err->text, wanted);
        err->code = code;
    }
    return -code;
}

int hws_fail_errno(struct hws_error *err, int code, const char *format, ...)
{
    assert(code > 0);
    if (err) {
        char context[HWS_ERROR_TEXT_BYTES], reason[128];
        va_list args;
        va_start(args, format);
        vsnprintf(context, sizeof(context), format, args);
        va_end(args);
        hws_fail(err, code, "%s: %s", context, errno_text(code, reason, sizeof(reason)));
    }
    return -code;
}

int hws_wrap(struct hws_error *err, int result, const char *format, ...)
{
    assert(result < 0);
    if (err) {
        char context[HWS_ERROR_TEXT_BYTES], inner[HWS_ERROR_TEXT_BYTES], reason[128];
        va_list args;
        va_start(args, format);
        vsnprintf(context, sizeof(context), format, args);
        va_end(args);
        if (err->code)
            memcpy(inner, err->text, sizeof(inner));
        else
            snprintf(inner, sizeof(inner), "%s", errno_text(-result, reason, sizeof(reason)));
        hws_fail(err, err->code ? err->code : -result, "%s: %s", context, inner);
    }
    return result;
}
