/*
 * "    (12.34/100%)", on standard output with -p, and whenever SIGUSR1 asks for it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"
#include <signal.h>

static volatile sig_atomic_t asked;

static void ask(int number)
{
    (void)number;
    asked = 1;
}

static void print_part(FILE *out, int hundredths, const char *end)
{
    fprintf(out, "    (%d.%02d/100%%)%s", hundredths / 100, hundredths % 100, end);
    fflush(out);
}

void qi_progress_start(struct qi_progress *progress, bool on)
{
    struct sigaction action = {.sa_handler = ask, .sa_flags = SA_RESTART};
    *progress = (struct qi_progress){.on = on};
    sigaction(SIGUSR1, &action, NULL);
    if (on)
        print_part(stdout, 0, "\r");
}

int qi_progress_step(void *arg, uint64_t done, uint64_t total)
{
    struct qi_progress *progress = arg;
    int part = total ? (int)((double)MIN(done, total) / (double)total * 10000) : 10000;
    if (asked) {
        asked = 0;
        print_part(stderr, part, "\n");
    }
    /* A line at every hundredth part of the work is enough. */
    if (progress->on && part >= progress->last + 100 && part < 10000) {
        progress->last = part;
        print_part(stdout, part, "\r");
    }
    return 0;
}

void qi_progress_end(struct qi_progress *progress, bool complete)
{
    if (!progress->on)
        return;
    if (complete)
        print_part(stdout, 10000, "\r");
    putchar('\n');
}
