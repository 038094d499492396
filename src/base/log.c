/*
 * The log; see base/log.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>

static _Atomic int max_level = LOG_LEVEL_WARNING;
static log_sink *current_sink;
static void *current_arg;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

void log_set_sink(log_sink *sink, void *arg)
{
    current_sink = sink;
    current_arg = arg;
}

static _Thread_local char thread_context[LOG_CONTEXT_BYTES];

void log_set_context(const char *context)
{
    snprintf(thread_context, sizeof(thread_context), "%s", context);
}

const char *log_context(void)
{
    return thread_context;
}

void log_write(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (current_sink)
        current_sink(level, line, current_arg);
    else
        fprintf(stderr, "hawser: %s: %s\n", names[level], line);
}
