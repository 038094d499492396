/*
 * hawserd's log: a line a message on standard error, as text or as JSON. Both tell the request that
 * the message belongs to: the context that the HTTP server gives its workers (base/log.h), which is
 * in answers (X-Request-Id), in events, in the journal's operations, and in what the engines log of
 * the calls that hawserd makes for it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "daemon/daemon.h"
#include <time.h>

static const char *const levels[] = {"error", "warning", "info", "debug"};

static void write_text(enum log_level level, const char *line, void *arg)
{
    const char *context = log_context();
    bool told = !*context || strstr(line, context);
    fprintf(stderr, "hawserd: %s: %s%s%s%s\n", levels[level], line, told ? "" : " [",
            told ? "" : context, told ? "" : "]");
}

/* What is no UTF-8 (a path, a foreign program's words) is told with its bytes replaced. */
static json_t *printable(const char *line)
{
    char copy[1024];
    snprintf(copy, sizeof(copy), "%s", line);
    json_t *text = json_string(copy);
    for (char *at = copy; !text && *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    return text ? text : json_string(copy);
}

static void write_json(enum log_level level, const char *line, void *arg)
{
    struct timespec now;
    struct tm parts;
    char when[32], stamp[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(stamp, sizeof(stamp), "%s.%06ldZ", when, now.tv_nsec / 1000);
    const char *context = log_context();
    json_t *entry = json_pack("{s:s, s:s, s:s*, s:o}", "time", stamp, "level", levels[level],
                              "request", *context ? context : NULL, "message", printable(line));
    char *text = entry ? json_dumps(entry, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (text)
        fprintf(stderr, "%s\n", text);
    free(text);
    json_decref(entry);
}

void daemon_log(const char *level, const char *format)
{
    for (unsigned i = 0; i < ARRAY_LEN(levels); i++)
        if (!strcmp(level, levels[i]))
            log_set_level((enum log_level)i);
    log_set_sink(!strcmp(format, "json") ? write_json : write_text, NULL);
}
