/*
 * Crash points, for the tests' own hawserd: the process is killed when it passes the Nth point, N
 * as HAWSER_CRASH_AT says. Points are counted from the first request on ($HAWSER_CRASH_FROM exists
 * then), so that a test can prepare what it needs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "daemon/daemon.h"
#include <pthread.h>
#include <signal.h>

static void pass(void *arg, const char *where)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static unsigned long passed;
    const char *number = getenv("HAWSER_CRASH_AT"), *from = getenv("HAWSER_CRASH_FROM");
    if (!number || (from && access(from, F_OK) < 0))
        return;
    pthread_mutex_lock(&mutex);
    if (++passed == strtoul(number, NULL, 10)) {
        fprintf(stderr, "killed at point %lu: %s\n", passed, where);
        kill(getpid(), SIGKILL);
    }
    pthread_mutex_unlock(&mutex);
}

void crash_points(struct control_options *options)
{
    options->at = pass;
}
