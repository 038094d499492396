/*
 * LD_PRELOADed below libiscsi's tests: who closes a connection to the target goes on only when the
 * target has forgotten its session.
 *
 * The kernel's target answers a logout, or meets the end of a connection, first and takes the
 * session apart later, in threads of its own: only then it lets go of what the session had
 * reserved. The tests of RESERVE (6) go on at once (or after three seconds), and on a slow machine
 * meet the reservation of a session that is about to end. That says nothing of the disk.
 *
 * HAWSER_SESSIONS names the target's file dynamic_sessions in configfs, one initiator a line, and
 * HAWSER_INITIATOR what the initiators of this process have in common and no other has.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 60000
#define FDS_MAX     64
#define STEP_MS     20
/* A session leaves the list just before its reservations go. */
#define SETTLE_MS 200

static void sleep_ms(long ms)
{
    struct timespec delay = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&delay, NULL);
}

/* How many sessions of this process's initiators the target has; -1: that cannot be told. */
static int sessions(void)
{
    const char *path = getenv("HAWSER_SESSIONS"), *mine = getenv("HAWSER_INITIATOR");
    FILE *file = path && mine ? fopen(path, "re") : NULL;
    char line[512];
    int count = 0;
    if (!file)
        return -1;
    while (fgets(line, sizeof(line), file))
        count += strstr(line, mine) != NULL;
    fclose(file);
    return count;
}

static bool is_connection(int fd)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer);
    return getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
}

static int connections(void)
{
    int count = 0;
    for (int fd = 0; fd < FDS_MAX; fd++)
        count += is_connection(fd);
    return count;
}

int close(int fd)
{
    int (*real_close)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
    bool is_ours = is_connection(fd);
    int r = real_close(fd);
    if (!is_ours)
        return r;
    for (int waited = 0; waited < PATIENCE_MS && sessions() > connections(); waited += STEP_MS)
        sleep_ms(STEP_MS);
    sleep_ms(SETTLE_MS);
    return r;
}
