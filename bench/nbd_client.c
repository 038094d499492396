/*
 * A client that costs little, for measuring an NBD server: depth requests in flight on each of
 * some connections, a thread a connection, nothing looked at but the headers.
 *
 *   bench-nbd-client SOCKET EXPORT randread|randwrite|read|write BYTES DEPTH SECONDS [CONNECTIONS
 * [CPU]] bench-nbd-client SOCKET EXPORT idle CONNECTIONS       connects, prints "ready", waits for
 * EOF
 *
 * fio's nbd engine makes one system call a request and looks at each reply by itself; this one
 * sends all requests that the last recv() made room for by one call, so it can ask for more than
 * fio can. Simple replies, as the kernel's client asks for them. CPU binds all of its threads.
 *
 * Prints one line of JSON: requests, seconds, the client's own CPU time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "bench/give.h"
#include "bench/rounds.h"
#include "wire/nbd/nbd.h"
#include <err.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEPTH_MAX   512
#define RECV_BYTES  (256 * KiB)
#define BYTES_MAX   (32 * MiB)
#define CONNECTIONS 2048

static const char *path, *export;
static bool writes, sequential;
static size_t block_bytes;
static unsigned depth;
static double seconds;
static const uint8_t *payload;

struct stream {
    pthread_t thread;
    unsigned number, of;
    uint64_t requests;
};

static double now(void)
{
    return (double)cpu_ns(CLOCK_MONOTONIC) / 1e9;
}

static void take(int fd, void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = recv(fd, (char *)bytes + done, length - done, 0);
        if (n <= 0)
            errx(1, "the server hung up");
        done += (size_t)n;
    }
}

/* Up to the transmission of the export. @return the descriptor; @ret_size of the export. */
static int negotiate(uint64_t *ret_size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct nbd_greeting greeting;
    size_t name = strlen(export);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        err(1, "%s", path);
    take(fd, &greeting, sizeof(greeting));
    struct be32 flags = be32_of(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    struct nbd_option go = {be64_of(NBD_MAGIC_OPTION), be32_of(NBD_OPT_GO),
                            be32_of((uint32_t)name + 6)};
    struct be32 name_bytes = be32_of((uint32_t)name);
    struct be16 infos = be16_of(0);
    struct iovec iov[] = {{&flags, 4},
                          {&go, sizeof(go)},
                          {&name_bytes, 4},
                          {(void *)(uintptr_t) export, name},
                          {&infos, 2}};
    give(fd, iov, ARRAY_LEN(iov));
    for (;;) {
        uint8_t data[4096];
        struct nbd_option_reply reply;
        take(fd, &reply, sizeof(reply));
        uint32_t length = be32_get(reply.length), type = be32_get(reply.type);
        if (length > sizeof(data))
            errx(1, "an option's reply has %u bytes", length);
        take(fd, data, length);
        if (type == NBD_REP_ACK)
            return fd;
        if (type != NBD_REP_INFO)
            errx(1, "the export '%s' was refused: %#x", export, type);
        if (length == sizeof(struct nbd_info_export) && load_be16(data) == NBD_INFO_EXPORT)
            *ret_size = load_be64(data + 2);
    }
}

/* ---- one connection ---- */

struct state {
    int fd;
    uint64_t blocks, next;
    struct random random;
    struct nbd_wire_request header[DEPTH_MAX];
    struct iovec iov[2 * DEPTH_MAX];
};

static void send_requests(struct state *s, unsigned count)
{
    unsigned pieces = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t block = sequential ? s->next++ % s->blocks : random_below(&s->random, s->blocks);
        s->header[i] = (struct nbd_wire_request){be32_of(NBD_MAGIC_REQUEST),
                                                 be16_of(0),
                                                 be16_of(writes ? NBD_CMD_WRITE : NBD_CMD_READ),
                                                 be64_of(i),
                                                 be64_of(block * block_bytes),
                                                 be32_of((uint32_t)block_bytes)};
        s->iov[pieces++] = (struct iovec){&s->header[i], sizeof(s->header[i])};
        if (writes)
            s->iov[pieces++] = (struct iovec){(void *)(uintptr_t)payload, block_bytes};
    }
    give(s->fd, s->iov, pieces);
}

/* Replies in @at; what is not whole yet is moved to its front. @ret_have bytes of that, @skip of
 * payload that is still to come. @return replies that are complete. */
static unsigned take_replies(uint8_t *at, size_t *ret_have, size_t *skip)
{
    size_t have = *ret_have, used = 0;
    unsigned complete = 0;
    for (;;) {
        size_t part = MIN(*skip, have - used);
        used += part;
        *skip -= part;
        if (part && *skip == 0)
            complete++;
        if (*skip || have - used < sizeof(struct nbd_simple_reply))
            break;
        if (load_be32(at + used) != NBD_MAGIC_SIMPLE_REPLY || load_be32(at + used + 4) != 0)
            errx(1, "the server answered with an error");
        used += sizeof(struct nbd_simple_reply);
        if (writes)
            complete++;
        else
            *skip = block_bytes;
    }
    memmove(at, at + used, have - used);
    *ret_have = have - used;
    return complete;
}

static void *run_stream(void *arg)
{
    struct stream *stream = arg;
    struct state *s = calloc(1, sizeof(*s));
    uint8_t *buffer = aligned_alloc(4096, RECV_BYTES);
    uint64_t size = 0;
    size_t have = 0, skip = 0;
    unsigned out = depth, done;
    if (!s || !buffer)
        errx(1, "out of memory");
    s->fd = negotiate(&size);
    s->blocks = size / block_bytes;
    s->next = s->blocks * stream->number / stream->of;
    s->random = random_seed(stream->number + 1);
    double end = now() + seconds;
    send_requests(s, out);
    while (out > 0) {
        ssize_t n = recv(s->fd, buffer + have, RECV_BYTES - have, 0);
        if (n <= 0)
            errx(1, "the server hung up");
        have += (size_t)n;
        done = take_replies(buffer, &have, &skip);
        stream->requests += done;
        out -= done;
        if (done && now() < end) {
            send_requests(s, done);
            out += done;
        }
    }
    close(s->fd);
    free(buffer);
    free(s);
    return NULL;
}

/* ---- the program ---- */

static size_t number(const char *text, size_t most)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end || end == text || value > most)
        errx(2, "'%s' is no number up to %zu", text, most);
    return (size_t)value;
}

static int idle(unsigned count)
{
    uint64_t size;
    for (unsigned i = 0; i < count; i++)
        (void)negotiate(&size);
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}

int main(int argc, char **argv)
{
    static struct stream stream[CONNECTIONS];
    if (argc < 5)
        errx(2, "usage: SOCKET EXPORT RW BYTES DEPTH SECONDS [CONNECTIONS [CPU]]");
    path = argv[1];
    export = argv[2];
    if (!strcmp(argv[3], "idle"))
        return idle((unsigned)number(argv[4], CONNECTIONS));
    if (argc < 7)
        errx(2, "usage: SOCKET EXPORT RW BYTES DEPTH SECONDS [CONNECTIONS [CPU]]");
    writes = strstr(argv[3], "write");
    sequential = strncmp(argv[3], "rand", 4) != 0;
    block_bytes = number(argv[4], BYTES_MAX);
    depth = (unsigned)number(argv[5], DEPTH_MAX);
    seconds = atof(argv[6]);
    unsigned count = argc > 7 ? (unsigned)number(argv[7], CONNECTIONS) : 1;
    if (!block_bytes || !depth || !count)
        errx(2, "BYTES, DEPTH and CONNECTIONS are at least 1");
    if (argc > 8) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(number(argv[8], CPU_SETSIZE - 1), &set);
        sched_setaffinity(0, sizeof(set), &set);
    }
    uint8_t *bytes = malloc(block_bytes);
    if (!bytes)
        errx(1, "out of memory");
    memset(bytes, 0x5a, block_bytes);
    payload = bytes;
    double start = now();
    uint64_t requests = 0;
    for (unsigned i = 0; i < count; i++) {
        stream[i].number = i;
        stream[i].of = count;
        if (pthread_create(&stream[i].thread, NULL, run_stream, &stream[i]))
            errx(1, "no thread");
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(stream[i].thread, NULL);
        requests += stream[i].requests;
    }
    printf("{\"requests\": %llu, \"seconds\": %.6f, \"client-cpu\": %.6f}\n",
           (unsigned long long)requests, now() - start,
           (double)cpu_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9);
    return 0;
}
