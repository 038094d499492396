/*
 * The transport over io_uring (Linux 6.14 and later, where root has switched it on): an entry is a
 * pair of buffers that the kernel fills with a request; one command hands the answer in and asks
 * for the next request. One coroutine an entry, so a request and its answer cost one ring
 * submission, shared by all that happen at once.
 *
 * The kernel keeps a queue for every possible CPU and starts to use them when each has an entry; a
 * request goes to the queue of the CPU that it was made on. The queues are shared out over our
 * threads. FORGET and INTERRUPT still come through /dev/fuse, so device.c runs beside, and takes
 * everything when registering fails.
 *
 * Buffers are touched only as far as requests reach; the answer of an entry and its data lie in its
 * payload buffer, page-aligned, which goes straight into block requests.
 *
 * Thread: the channel's queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/fuse/internal.h"
#include <ctype.h>
#include <sys/mman.h>

#define CPUS_MAX 4096

/**
 * Entries of all queues together, and of each: a queue carries as many requests at a time as it has
 * entries. An idle entry costs about 4.3 KiB, mostly its coroutine's stack.
 */
#define ENTRIES_TOTAL     256
#define ENTRIES_QUEUE_MIN 4
#define ENTRIES_QUEUE_MAX 32

/** With more CPUs, entries for all of them take more than an idle engine may: 2.2 MiB. */
#define CPUS_AUTO_MAX 128

/** More threads than this only where the caller asks for them. */
#define THREADS_DEFAULT_MAX 8

/** An entry's payload buffer shrinks back to this at the first small request after a large one. */
#define PAYLOAD_KEEP_BYTES 65536

struct entry {
    struct fuse_ring *ring;
    uint16_t queue;
    bool fat;
    uint8_t *payload;
    struct iovec buffers[FUSE_RING_IOVECS];
    struct fuse_ring_headers headers;
};

struct fuse_ring {
    struct fuse_channel *channel;
    unsigned entry_count;
    uint8_t *payloads;
    struct entry entry[];
};

/* "0-3,8-11" -> 8; 0 when it cannot be told. The kernel numbers its queues 0..count-1. */
static unsigned possible_cpus(void)
{
    autofd int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
    char text[256];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    unsigned count = 0;
    if (n <= 0)
        return 0;
    text[n] = 0;
    for (char *p = text; isdigit((unsigned char)*p);) {
        unsigned long first = strtoul(p, &p, 10), last = first;
        if (*p == '-')
            last = strtoul(p + 1, &p, 10);
        if (last < first || last >= CPUS_MAX)
            return 0;
        count += (unsigned)(last - first + 1);
        if (*p == ',')
            p++;
    }
    return MIN(count, (unsigned)CPUS_MAX);
}

bool fuse_ring_is_costly(void)
{
    return possible_cpus() > CPUS_AUTO_MAX;
}

bool co_fuse_ring_works(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct rt_file *file = NULL;
    struct fuse_ring_request request = {0};
    if (copy < 0)
        return false;
    if (rt_file_adopt(copy, &file) < 0) {
        close(copy);
        return false;
    }
    /* Without a connection it must fail, but not for lack of the feature. */
    int r = co_uring_command(file, FUSE_RING_REGISTER, &request, sizeof(request), 0, 0);
    rt_file_close(file);
    return possible_cpus() != 0 && r != -EOPNOTSUPP && r != -ENOSYS && r != -EINVAL;
}

/* ---- entries ---- */

static void co_handle(struct entry *e)
{
    struct fuse_ring_headers *h = &e->headers;
    struct fuse_request request = {.payload = e->payload, .fixed = h->operation};
    memcpy(&request.header, h->header, sizeof(request.header));
    request.payload_bytes = MIN(h->entry.payload_bytes, FUSE_PAYLOAD_BYTES);
    request.fixed_bytes = sizeof(h->operation);
    co_fuse_serve(e->ring->channel->export, &request);

    struct fuse_out_header out = {
        .length = (uint32_t)(sizeof(out) + request.answer_bytes),
        .error = request.error,
        .unique = request.header.unique,
    };
    memcpy(h->header, &out, sizeof(out));
    h->entry.payload_bytes = (uint32_t)request.answer_bytes;
    size_t used = MAX(request.payload_bytes, request.answer_bytes);
    if (e->fat && used <= PAYLOAD_KEEP_BYTES) {
        (void)madvise(e->payload + PAYLOAD_KEEP_BYTES, FUSE_PAYLOAD_BYTES - PAYLOAD_KEEP_BYTES,
                      MADV_DONTNEED);
        e->fat = false;
    }
    if (used > PAYLOAD_KEEP_BYTES)
        e->fat = true;
}

static void co_entry(void *arg)
{
    struct entry *e = arg;
    struct fuse_channel *channel = e->ring->channel;
    struct fuse_ring_request command = {.queue = e->queue};
    int r = co_uring_command(channel->file, FUSE_RING_REGISTER, &command, sizeof(command),
                             (uintptr_t)e->buffers, FUSE_RING_IOVECS);
    if (r < 0 && r != -ENOTCONN && r != -ECONNABORTED)
        fuse_export_ring_failed(channel->export, r);
    while (r >= 0) {
        atomic_fetch_add_explicit(&channel->requests, 1, memory_order_relaxed);
        command.commit_id = e->headers.entry.commit_id;
        co_handle(e);
        r = co_uring_command(channel->file, FUSE_RING_COMMIT_AND_FETCH, &command, sizeof(command),
                             0, 0);
    }
}

/* ---- life ---- */

/* Neighbouring CPUs, which share caches, fall to one thread. */
static unsigned first_queue(const struct fuse_export *export, unsigned index, unsigned cpus)
{
    return (unsigned)((uint64_t)index * cpus / export->channel_count);
}

unsigned fuse_ring_threads(void)
{
    return MIN(possible_cpus(), (unsigned)THREADS_DEFAULT_MAX);
}

/* The thread stays on the CPUs whose requests it serves; see affinity.c. */
static void co_stay(void *arg)
{
    const struct fuse_channel *channel = arg;
    unsigned cpus = possible_cpus();
    unsigned first = first_queue(channel->export, channel->index, cpus);
    unsigned next = first_queue(channel->export, channel->index + 1, cpus);
    struct fuse_affinity affinity;
    fuse_affinity_init(&affinity);
    fuse_affinity_bind(&affinity, first, next - first);
}

int fuse_ring_start(struct fuse_channel *channel)
{
    unsigned cpus = possible_cpus();
    unsigned first = first_queue(channel->export, channel->index, cpus);
    unsigned queues = first_queue(channel->export, channel->index + 1, cpus) - first;
    unsigned each = MAX(ENTRIES_TOTAL / MAX(cpus, 1U), (unsigned)ENTRIES_QUEUE_MIN);
    unsigned count = queues * MIN(each, (unsigned)ENTRIES_QUEUE_MAX);
    if (count == 0)
        return 0;
    int r = rt_spawn(channel->queue, co_stay, channel);
    if (r < 0)
        return r;
    struct fuse_ring *ring = calloc(1, sizeof(*ring) + count * sizeof(struct entry));
    if (!ring)
        return -ENOMEM;
    ring->payloads = mmap(NULL, (size_t)count * FUSE_PAYLOAD_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ring->payloads == MAP_FAILED) {
        free(ring);
        return -ENOMEM;
    }
    (void)madvise(ring->payloads, (size_t)count * FUSE_PAYLOAD_BYTES, MADV_NOHUGEPAGE);
    ring->channel = channel;
    ring->entry_count = count;
    channel->ring = ring;
    for (unsigned i = 0; i < count; i++) {
        struct entry *e = &ring->entry[i];
        e->ring = ring;
        e->queue = (uint16_t)(first + i % queues);
        e->payload = ring->payloads + (size_t)i * FUSE_PAYLOAD_BYTES;
        e->buffers[0] = (struct iovec){&e->headers, sizeof(e->headers)};
        e->buffers[1] = (struct iovec){e->payload, FUSE_PAYLOAD_BYTES};
        r = rt_spawn(channel->queue, co_entry, e);
        if (r < 0)
            return r;
    }
    return 0;
}

void fuse_ring_free(struct fuse_channel *channel)
{
    if (!channel->ring)
        return;
    (void)munmap(channel->ring->payloads, (size_t)channel->ring->entry_count * FUSE_PAYLOAD_BYTES);
    free(steal_ptr(&channel->ring));
}
