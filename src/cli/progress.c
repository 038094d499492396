/*
 * The progress bar; see cli/progress.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/progress.h"
#include "base/size.h"
#include <time.h>

#define PATIENCE_NS ((uint64_t)500000000)
#define REDRAW_NS   ((uint64_t)100000000)
#define BAR_COLUMNS 30

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
static volatile sig_atomic_t caught;

static void catch (int number)
{
    caught = number;
}

/* Those that are ignored (nohup) stay so. */
static void hold_signals(struct progress *progress)
{
    struct sigaction action = {.sa_handler = catch, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    caught = 0;
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], NULL, &progress->before[i]);
        if (progress->before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
}

void progress_start(struct progress *progress, const char *what, bool off)
{
    const char *term = getenv("TERM");
    *progress = (struct progress){
        .what = what,
        .off = off || !isatty(STDERR_FILENO) || !term || !strcmp(term, "dumb"),
        .started_ns = now_ns(),
    };
    hold_signals(progress);
}

static void draw(struct progress *progress, uint64_t done, uint64_t total, uint64_t spent_ns)
{
    char bar[BAR_COLUMNS + 1], bytes[32], rate[32];
    double part = total ? (double)done / (double)total : 1;
    unsigned filled = (unsigned)(part * BAR_COLUMNS);
    for (unsigned i = 0; i < BAR_COLUMNS; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_COLUMNS] = '\0';
    double seconds = (double)spent_ns / 1e9;
    uint64_t per_second = (uint64_t)((double)done / seconds);
    unsigned left = done ? (unsigned)(seconds * (1 - part) / part + 0.5) : 0;
    fprintf(stderr, "\r%s [%s] %3.0f %%  %s/s  %u:%02u left of %s\033[K", progress->what, bar,
            part * 100, size_format(per_second, rate, sizeof(rate)), left / 60, left % 60,
            size_format(total, bytes, sizeof(bytes)));
    progress->shown = true;
}

/* The first and the last are told, and some in between. */
static void tell_line(struct progress *progress, uint64_t done, uint64_t total)
{
    uint64_t now = now_ns();
    if (progress->drawn_ns && done < total && now - progress->drawn_ns < REDRAW_NS)
        return;
    progress->drawn_ns = now;
    printf("{\"done\": %llu, \"total\": %llu}\n", (unsigned long long)done,
           (unsigned long long)total);
    fflush(stdout);
}

int progress_step(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *progress = arg;
    if (caught)
        return 1;
    if (progress->lines)
        tell_line(progress, done_bytes, total_bytes);
    if (progress->off || !total_bytes)
        return 0;
    uint64_t now = now_ns(), spent = now - progress->started_ns;
    if (spent < PATIENCE_NS || now - progress->drawn_ns < REDRAW_NS)
        return 0;
    progress->drawn_ns = now;
    draw(progress, done_bytes, total_bytes, spent);
    return 0;
}

void progress_hide(struct progress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = false;
}

void progress_end(struct progress *progress)
{
    progress_hide(progress);
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &progress->before[i], NULL);
    if (caught)
        raise(caught);
}
