/*
 * The log: one line a message on standard error, or to a sink that the program sets. Libraries do
 * not log above debug, except where corrupt input or a lost device must be told to the operator.
 * Any thread may log.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/common.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

typedef void log_sink(enum log_level level, const char *line, void *arg);

/** Messages above @level are dropped; LOG_LEVEL_WARNING at the start. */
void log_set_level(enum log_level level);

/** @sink NULL restores standard error. Call before other threads log. */
void log_set_sink(log_sink *sink, void *arg);

/** Longest context, with its terminator. */
#define LOG_CONTEXT_BYTES 24

/** What the calling thread works on from now on, the id of a request for instance; "": nothing. */
void log_set_context(const char *context);
/** What log_set_context() was given last by this thread; for sinks. */
const char *log_context(void);

void log_write(enum log_level level, const char *format, ...) HWS_PRINTF(2, 3);

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
