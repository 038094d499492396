/*
 * Copies a disk image into another one, with many requests in flight: how queues and an event loop
 * go together.
 *
 *   copy SOURCE TARGET [DEPTH]      TARGET is made, a qcow2 of the source's size
 *
 *   cc -o copy copy.c $(pkg-config --cflags --libs hawser)
 *
 * Each of DEPTH buffers goes round: it is read into, and when that has completed, written out, or,
 * where it holds zeroes alone, a hole is made; then it takes the next piece of the source.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <hawser/hawser.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES 65536u
#define BATCH       64

struct piece {
    unsigned char *buffer;
    uint64_t offset;
    uint64_t length;
};

struct copy {
    struct hws_disk *source, *target;
    struct hws_queue *reads, *writes;
    struct piece *piece;
    uint64_t size, next; /* of the source; the first byte that nobody has taken */
    unsigned depth, busy;
    int error; /* the first one; nothing new is begun after it */
};

static int is_zero(const unsigned char *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

/* The queue has room for all pieces at once. */
static void submit(struct copy *copy, struct hws_queue *queue, uint32_t op, unsigned index)
{
    const struct piece *piece = &copy->piece[index];
    struct hws_request request;
    memset(&request, 0, sizeof(request));
    request.op = op;
    request.tag = index;
    request.offset = piece->offset;
    request.length = piece->length;
    request.buffer = op == HWS_OP_ZERO ? NULL : piece->buffer;
    int r = hws_queue_submit(queue, &request, 1);
    if (r != 1) {
        copy->error = r < 0 ? r : -EAGAIN;
        copy->busy--;
    }
}

/* Reads the next part of the source into the piece, if there is any left. */
static void begin(struct copy *copy, unsigned index)
{
    struct piece *piece = &copy->piece[index];
    if (copy->next == copy->size || copy->error)
        return;
    piece->offset = copy->next;
    piece->length = copy->size - copy->next < PIECE_BYTES ? copy->size - copy->next : PIECE_BYTES;
    copy->next += piece->length;
    copy->busy++;
    submit(copy, copy->reads, HWS_OP_READ, index);
}

/* What the reads or the writes have completed. */
static void serve(struct copy *copy, struct hws_queue *queue)
{
    struct hws_completion done[BATCH];
    int count = hws_queue_reap(queue, done, BATCH);
    for (int i = 0; i < count; i++) {
        unsigned index = (unsigned)done[i].tag;
        const struct piece *piece = &copy->piece[index];
        if (done[i].result < 0 && !copy->error)
            copy->error = (int)done[i].result;
        if (queue == copy->writes || copy->error) {
            copy->busy--;
            begin(copy, index);
        } else {
            int hole = is_zero(piece->buffer, piece->length);
            submit(copy, copy->writes, hole ? HWS_OP_ZERO : HWS_OP_WRITE, index);
        }
    }
    if (count < 0 && !copy->error)
        copy->error = count;
}

static int run(struct copy *copy)
{
    struct pollfd event[2];
    event[0].fd = hws_queue_fd(copy->reads);
    event[1].fd = hws_queue_fd(copy->writes);
    event[0].events = event[1].events = POLLIN;
    for (unsigned i = 0; i < copy->depth; i++)
        begin(copy, i);
    while (copy->busy > 0) {
        if (poll(event, 2, -1) < 0 && errno != EINTR)
            return -errno;
        if (event[0].revents)
            serve(copy, copy->reads);
        if (event[1].revents)
            serve(copy, copy->writes);
    }
    return copy->error;
}

static int open_both(struct copy *copy, const char *from, const char *to, struct hws_error *err)
{
    struct hws_image source, target;
    struct hws_disk_options read_only;
    struct hws_create create;
    memset(&source, 0, sizeof(source));
    memset(&target, 0, sizeof(target));
    memset(&read_only, 0, sizeof(read_only));
    memset(&create, 0, sizeof(create));
    source.path = from;
    target.path = to;
    target.format = "qcow2";
    read_only.struct_bytes = sizeof(read_only);
    read_only.read_only = true;
    int r = hws_disk_open(&source, &read_only, &copy->source, err);
    if (r < 0)
        return r;
    copy->size = create.size_bytes = hws_disk_size(copy->source);
    r = hws_create(&target, &create, NULL, err);
    return r < 0 ? r : hws_disk_open(&target, NULL, &copy->target, err);
}

static int open_queues(struct copy *copy, struct hws_error *err)
{
    struct hws_queue_options options;
    memset(&options, 0, sizeof(options));
    options.struct_bytes = sizeof(options);
    options.depth = copy->depth;
    copy->piece = (struct piece *)calloc(copy->depth, sizeof(*copy->piece));
    if (!copy->piece)
        return hws_fail(err, ENOMEM, "no memory for %u pieces", copy->depth);
    for (unsigned i = 0; i < copy->depth; i++) {
        copy->piece[i].buffer = (unsigned char *)aligned_alloc(4096, PIECE_BYTES);
        if (!copy->piece[i].buffer)
            return hws_fail(err, ENOMEM, "no memory for %u pieces", copy->depth);
    }
    /* The reads are done by a thread, the writes inside of our own calls. */
    int r = hws_queue_open(copy->source, &options, &copy->reads, err);
    options.flags = HWS_QUEUE_CALLER;
    return r < 0 ? r : hws_queue_open(copy->target, &options, &copy->writes, err);
}

/* Buffers are free only once the queues are closed. */
static int close_all(struct copy *copy, int result, struct hws_error *err)
{
    struct hws_error *told = result < 0 ? NULL : err;
    hws_queue_close(copy->reads, NULL);
    hws_queue_close(copy->writes, NULL);
    for (unsigned i = 0; copy->piece && i < copy->depth; i++)
        free(copy->piece[i].buffer);
    free(copy->piece);
    hws_disk_close(copy->source, NULL);
    int closed = hws_disk_close(copy->target, told); /* durable from here */
    return result < 0 ? result : closed;
}

int main(int argc, char **argv)
{
    struct hws_error err;
    struct copy copy;
    memset(&err, 0, sizeof(err));
    memset(&copy, 0, sizeof(copy));
    copy.depth = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 16;
    if (argc < 3 || argc > 4 || copy.depth < 1 || copy.depth > HWS_QUEUE_DEPTH_MAX) {
        fprintf(stderr, "usage: copy SOURCE TARGET [DEPTH, 1 to %d]\n", HWS_QUEUE_DEPTH_MAX);
        return 2;
    }
    int r = open_both(&copy, argv[1], argv[2], &err);
    if (r == 0)
        r = open_queues(&copy, &err);
    if (r == 0) {
        r = run(&copy);
        if (r < 0)
            hws_fail(&err, -r, "copying stopped at about %llu: %s", (unsigned long long)copy.next,
                     strerror(-r));
    }
    r = close_all(&copy, r, &err);
    if (r < 0)
        fprintf(stderr, "copy: %s\n", err.text);
    return r < 0 ? 1 : 0;
}
