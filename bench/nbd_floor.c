/*
 * The floor of an NBD server on one connection: a loop that does nothing but what no server can
 * leave out, on a raw file, without any image format, limits, concurrency or error handling.
 *
 *   bench-nbd-floor SOCKET FILE WAY
 *     pread    a batch of requests is received, each read by pread() into a buffer of its own, all
 *              replies sent by one sendmsg(). Writes: pwrite() from where they were received
 *     warm     the same, but a large reply is read and sent in pieces of 64 KiB, one buffer
 *     mapping  replies are sent from a mapping of the file: one copy less
 *     window   the same, and the pages are unmapped again, so that they do not count as ours
 *     splice   replies are sendfile()d: the kernel passes pages, no copy
 *     null     replies carry the buffer as it is: protocol and socket alone
 *
 * For bench-nbd-client and fio: simple replies only, whatever export is asked for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/common.h"
#include "bench/give.h"
#include "wire/nbd/nbd.h"
#include <err.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define RECV_BYTES (1 * MiB)
#define BATCH_MAX  256
#define WARM_BYTES (64 * KiB)

enum way { PREAD, WARM, MAPPING, WINDOW, SPLICE, NOTHING };

static enum way way;
static int file;
static uint64_t file_bytes;
static uint8_t *mapping, *input, *output;
static size_t output_bytes = 1 * MiB;

struct reply {
    struct nbd_simple_reply head;
    uint64_t offset;
    size_t bytes; /* of data behind the head */
};

static bool take(int fd, void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = recv(fd, (char *)bytes + done, length - done, 0);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static void option_reply(int fd, uint32_t option, uint32_t type, const void *data, size_t length)
{
    struct nbd_option_reply reply = {be64_of(NBD_MAGIC_OPTION_REPLY), be32_of(option),
                                     be32_of(type), be32_of((uint32_t)length)};
    struct iovec iov[] = {{&reply, sizeof(reply)}, {(void *)(uintptr_t)data, length}};
    give(fd, iov, 2);
}

static bool negotiate(int fd)
{
    struct nbd_greeting greeting = {be64_of(NBD_MAGIC_INIT), be64_of(NBD_MAGIC_OPTION),
                                    be16_of(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)};
    struct iovec iov = {&greeting, sizeof(greeting)};
    struct be32 flags;
    struct nbd_option option;
    give(fd, &iov, 1);
    if (!take(fd, &flags, sizeof(flags)))
        return false;
    while (take(fd, &option, sizeof(option))) {
        uint32_t code = be32_get(option.option), length = be32_get(option.length);
        if (length > RECV_BYTES || !take(fd, input, length))
            return false;
        if (code != NBD_OPT_GO && code != NBD_OPT_INFO) {
            option_reply(fd, code, NBD_REP_ERR_UNSUP, NULL, 0);
            continue;
        }
        struct nbd_info_export info = {be16_of(NBD_INFO_EXPORT), be64_of(file_bytes),
                                       be16_of(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH)};
        option_reply(fd, code, NBD_REP_INFO, &info, sizeof(info));
        option_reply(fd, code, NBD_REP_ACK, NULL, 0);
        if (code == NBD_OPT_GO)
            return true;
    }
    return false;
}

static void room(size_t bytes)
{
    if (bytes <= output_bytes)
        return;
    free(output);
    output = aligned_alloc(4096, output_bytes = align_up(bytes, (size_t)4096));
    if (!output)
        errx(1, "out of memory");
}

static void send_spliced(int fd, struct reply *r)
{
    off_t at = (off_t)r->offset;
    if (send(fd, &r->head, sizeof(r->head), r->bytes ? MSG_MORE : 0) != sizeof(r->head))
        err(1, "send");
    for (size_t left = r->bytes; left > 0;) {
        ssize_t n = sendfile(fd, file, &at, left);
        if (n <= 0)
            err(1, "sendfile");
        left -= (size_t)n;
    }
}

static void send_warm(int fd, struct reply *r)
{
    for (size_t done = 0; done < r->bytes || done == 0; done += WARM_BYTES) {
        size_t part = MIN(r->bytes - done, (size_t)WARM_BYTES);
        struct iovec iov[] = {{&r->head, sizeof(r->head)}, {output, part}};
        if (part && pread(file, output, part, (off_t)(r->offset + done)) != (ssize_t)part)
            err(1, "pread");
        give(fd, iov + (done > 0), 2 - (done > 0));
        if (r->bytes == 0)
            break;
    }
}

static void send_batch(int fd, struct reply *reply, unsigned count)
{
    static struct iovec iov[2 * BATCH_MAX];
    unsigned pieces = 0;
    size_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += reply[i].bytes;
    room(sum);
    sum = 0;
    for (unsigned i = 0; i < count; i++) {
        struct reply *r = &reply[i];
        if (way == SPLICE || (way == WARM && r->bytes > WARM_BYTES)) {
            (way == SPLICE ? send_spliced : send_warm)(fd, r);
            continue;
        }
        uint8_t *at = way == MAPPING || way == WINDOW ? mapping + r->offset : output + sum;
        sum += r->bytes;
        if (r->bytes && (way == PREAD || way == WARM) &&
            pread(file, at, r->bytes, (off_t)r->offset) != (ssize_t)r->bytes)
            err(1, "pread");
        iov[pieces++] = (struct iovec){&r->head, sizeof(r->head)};
        if (r->bytes)
            iov[pieces++] = (struct iovec){at, r->bytes};
    }
    give(fd, iov, pieces);
    for (unsigned i = 0; i < count && way == WINDOW; i++)
        if (reply[i].bytes)
            (void)madvise(mapping + align_down(reply[i].offset, (uint64_t)4096),
                          align_up(reply[i].bytes, (size_t)4096), MADV_DONTNEED);
}

static void serve(int fd)
{
    static struct reply reply[BATCH_MAX];
    size_t have = 0;
    if (!negotiate(fd))
        return;
    for (;;) {
        size_t used = 0;
        unsigned count = 0;
        ssize_t n = recv(fd, input + have, RECV_BYTES - have, 0);
        if (n <= 0)
            return;
        have += (size_t)n;
        while (count < BATCH_MAX && have - used >= sizeof(struct nbd_wire_request)) {
            struct nbd_wire_request wire;
            memcpy(&wire, input + used, sizeof(wire));
            uint16_t command = be16_get(wire.command);
            size_t length = be32_get(wire.length), body = command == NBD_CMD_WRITE ? length : 0;
            uint64_t offset = be64_get(wire.offset);
            if (be32_get(wire.magic) != NBD_MAGIC_REQUEST || command == NBD_CMD_DISC ||
                body > RECV_BYTES / 2 || !range_fits(offset, length, file_bytes))
                return;
            if (have - used < sizeof(wire) + body)
                break;
            if (body && way != NOTHING &&
                pwrite(file, input + used + sizeof(wire), body, (off_t)offset) != (ssize_t)body)
                err(1, "pwrite");
            used += sizeof(wire) + body;
            reply[count++] =
                (struct reply){{be32_of(NBD_MAGIC_SIMPLE_REPLY), be32_of(0), wire.cookie},
                               offset,
                               command == NBD_CMD_READ ? length : 0};
        }
        memmove(input, input + used, have - used);
        have -= used;
        if (count)
            send_batch(fd, reply, count);
    }
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"pread", "warm", "mapping", "window", "splice", "null"};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    if (argc != 4)
        errx(2, "usage: SOCKET FILE pread|warm|mapping|window|splice|null");
    while (way < ARRAY_LEN(names) && strcmp(argv[3], names[way]))
        way++;
    file = open(argv[2], O_RDWR | O_CLOEXEC);
    if (way == ARRAY_LEN(names) || file < 0 || fstat(file, &st))
        err(1, "%s, %s", argv[2], argv[3]);
    file_bytes = (uint64_t)st.st_size;
    mapping = mmap(NULL, file_bytes, PROT_READ, MAP_SHARED, file, 0);
    input = aligned_alloc(4096, RECV_BYTES);
    output = aligned_alloc(4096, output_bytes);
    if (mapping == MAP_FAILED || !input || !output)
        errx(1, "out of memory");
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[1]);
    if (listening < 0 || bind(listening, (struct sockaddr *)&address, sizeof(address)) ||
        listen(listening, 8))
        err(1, "%s", argv[1]);
    for (;;) {
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            err(1, "accept");
        serve(fd);
        close(fd);
    }
}
