/*
 * 4 KiB reads through libhawser, in each of its ways; bench/library.py runs it beside its peers.
 *
 *   bench-library IMAGE WAY DEPTH COUNT
 *
 *   WAY: blocking, thread, caller, event-thread, event-caller
 *
 * The places are those of `qemu-img bench -S STEP`, which has no chance: far steps, so that
 * neighbours are never read one after the other. Prints requests a second and CPU time a request.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "places.h"
#include <hawser/hawser.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static _Noreturn void fail(const char *what, const struct hws_error *err)
{
    fprintf(stderr, "bench-library: %s: %s\n", what, err->text);
    exit(1);
}

static void read_blocking(struct hws_disk *disk, unsigned char *buffer, uint64_t count)
{
    struct hws_error err = {0};
    for (uint64_t i = 0; i < count; i++)
        if (hws_disk_read(disk, place(), BYTES, buffer, 0, &err) < 0)
            fail("read", &err);
}

static void read_queue(struct hws_disk *disk, unsigned char *buffer, uint64_t count, unsigned depth,
                       const char *way)
{
    struct hws_error err = {0};
    struct hws_queue *queue;
    struct hws_request batch[DEPTH_MAX];
    struct hws_completion done[DEPTH_MAX];
    struct hws_queue_options options = {.struct_bytes = sizeof(options),
                                        .depth = depth,
                                        .flags = strstr(way, "caller") ? HWS_QUEUE_CALLER : 0};
    int events = strncmp(way, "event", 5) == 0;
    if (hws_queue_open(disk, &options, &queue, &err) < 0)
        fail("queue", &err);
    struct pollfd event = {.fd = events ? hws_queue_fd(queue) : -1, .events = POLLIN};
    uint64_t submitted = 0, completed = 0;
    for (unsigned i = 0; i < depth; i++)
        done[i].tag = i;
    for (unsigned got = depth; completed < count;) {
        unsigned some = 0;
        for (unsigned i = 0; i < got && submitted < count; i++, submitted++)
            batch[some++] = (struct hws_request){.op = HWS_OP_READ,
                                                 .tag = done[i].tag,
                                                 .offset = place(),
                                                 .length = BYTES,
                                                 .buffer = buffer + done[i].tag * BYTES};
        if (hws_queue_submit(queue, batch, some) != (int)some)
            fail("submit", &err);
        int n;
        do {
            if (events)
                (void)!poll(&event, 1, -1);
            n = events ? hws_queue_reap(queue, done, depth)
                       : hws_queue_wait(queue, done, depth, -1);
        } while (n == 0);
        for (int i = 0; i < n; i++)
            if (done[i].result < 0)
                fail("read", &err);
        got = (unsigned)n;
        completed += got;
    }
    if (hws_queue_close(queue, &err) < 0)
        fail("close", &err);
}

int main(int argc, char **argv)
{
    struct hws_error err = {0};
    struct hws_disk *disk;
    if (argc != 5) {
        fprintf(stderr, "usage: bench-library IMAGE WAY DEPTH COUNT\n");
        return 2;
    }
    struct hws_image image = {.path = argv[1]};
    struct hws_disk_options options = {.struct_bytes = sizeof(options), .read_only = true};
    unsigned depth = (unsigned)strtoul(argv[3], NULL, 10);
    uint64_t count = strtoull(argv[4], NULL, 10);
    if (depth < 1 || depth > DEPTH_MAX || hws_disk_open(&image, &options, &disk, &err) < 0)
        fail(argv[1], &err);
    size = hws_disk_size(disk);
    unsigned char *buffer = aligned_alloc(4096, DEPTH_MAX * BYTES);
    if (!buffer)
        return 1;
    memset(buffer, 1, DEPTH_MAX * BYTES);
    for (int warm = 1; warm >= 0; warm--) {
        int64_t started = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        uint64_t requests = warm ? count / 10 + depth : count;
        if (strcmp(argv[2], "blocking") == 0)
            read_blocking(disk, buffer, requests);
        else
            read_queue(disk, buffer, requests, depth, argv[2]);
        if (!warm)
            printf("%.0f requests/s, %.3f us of CPU a request\n",
                   (double)count * 1e9 / (double)(now_ns(CLOCK_MONOTONIC) - started),
                   (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e3 / (double)count);
    }
    free(buffer);
    hws_disk_close(disk, NULL);
    return 0;
}
