/*
 * The reads of bench/library.c by libnbd from an NBD server; bench/library.py runs it.
 *
 *   bench-library-nbd SOCKET DEPTH COUNT
 *
 * Prints requests a second and the client's CPU time a request.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "places.h"
#include <libnbd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static _Noreturn void fail(void)
{
    fprintf(stderr, "bench-library-nbd: %s\n", nbd_get_error());
    exit(1);
}

static void read_all(struct nbd_handle *nbd, unsigned char *buffer, uint64_t count, unsigned depth)
{
    int64_t cookie[DEPTH_MAX] = {0};
    uint64_t submitted = 0, completed = 0;
    while (completed < count) {
        for (unsigned i = 0; i < depth; i++) {
            int done = cookie[i] ? nbd_aio_command_completed(nbd, (uint64_t)cookie[i]) : 1;
            if (done < 0)
                fail();
            if (!done)
                continue;
            completed += cookie[i] != 0;
            cookie[i] = 0;
            if (submitted == count)
                continue;
            cookie[i] =
                nbd_aio_pread(nbd, buffer + i * BYTES, BYTES, place(), NBD_NULL_COMPLETION, 0);
            if (cookie[i] < 0)
                fail();
            submitted++;
        }
        if (completed < count && nbd_poll(nbd, -1) < 0)
            fail();
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: bench-library-nbd SOCKET DEPTH COUNT\n");
        return 2;
    }
    unsigned depth = (unsigned)strtoul(argv[2], NULL, 10);
    uint64_t count = strtoull(argv[3], NULL, 10);
    struct nbd_handle *nbd = nbd_create();
    unsigned char *buffer = malloc(DEPTH_MAX * BYTES);
    if (!nbd || !buffer || depth < 1 || depth > DEPTH_MAX || nbd_connect_unix(nbd, argv[1]) < 0)
        fail();
    size = (uint64_t)nbd_get_size(nbd);
    int64_t started = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    read_all(nbd, buffer, count, depth);
    printf("%.0f requests/s, %.3f us of CPU a request\n",
           (double)count * 1e9 / (double)(now_ns(CLOCK_MONOTONIC) - started),
           (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e3 / (double)count);
    nbd_shutdown(nbd, 0);
    nbd_close(nbd);
    free(buffer);
    return 0;
}
