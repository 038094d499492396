/*
 * Errors of the control path.
 *
 * A function that can fail returns a negative errno. On the control path it also takes, as its last
 * argument, a caller-owned `struct hws_error` (or NULL), filled once where the failure is known and
 * wrapped with context on the way up. The data path returns the errno alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HAWSER_ERROR_H
#define HAWSER_ERROR_H

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes of text that an error holds, terminator included; longer text is cut with "...". */
#define HWS_ERROR_TEXT_BYTES 768

/** What went wrong, in words. Starts as {0}; `code` is a positive errno, 0 where nothing failed. */
struct hws_error {
    int code;
    char text[HWS_ERROR_TEXT_BYTES];
};

/**
 * Records a failure and returns -code, so that a caller writes `return hws_fail(err, EINVAL,
 * "...")`.
 * @code positive errno. @err may be NULL. An earlier failure in @err is overwritten.
 */
int hws_fail(struct hws_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/** As hws_fail(), with ": strerror(code)" appended to the text. */
int hws_fail_errno(struct hws_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/**
 * Puts "context: " in front of the text in @err and returns @result, which it leaves as it is.
 * Where the failing callee left no text (a data-path call), the text becomes "context: strerror".
 * @result negative errno.
 */
int hws_wrap(struct hws_error *err, int result, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

#ifdef __cplusplus
}
#endif
#endif
