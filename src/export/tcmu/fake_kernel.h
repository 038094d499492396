/*
 * The kernel's side of a TCMU ring, for tests without one: puts entries in as the kernel does
 * (padding before a wrap, one byte always free), keeps pages of the data area in any order, and
 * looks at answers when the bell rings and only then, so that a bell that is missing shows.
 *
 * The ring lies in a memory file that both sides map. Its functions belong to one thread that is no
 * queue's (co_work()).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_FAKE_KERNEL_H
#define EXPORT_TCMU_FAKE_KERNEL_H

#include "base/random.h"
#include "export/tcmu/internal.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define FAKE_PAGE        4096u
#define FAKE_RING_AT     4096u
#define FAKE_DATA_PAGES  2048u
#define FAKE_PATIENCE_MS 20000

/* Like CHECK() of other tests; also for threads that are no queue's. */
#define FAKE_CHECK(condition)                                                             \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

struct fake_command {
    uint8_t cdb[16];
    unsigned cdb_length;
    uint8_t *out, *in; /* one of them, or none */
    size_t length;
    void (*done)(struct fake_command *c);
    void *arg;

    /* The answer. */
    uint8_t status, key;
    uint16_t asc;
    bool has_length;
    uint32_t read_length;
    bool answered;

    uint16_t pages[FAKE_DATA_PAGES / 8];
    unsigned page_count;
};

struct fake_kernel {
    int memory, event[2], bell[2]; /* [0] is for reading */
    bool edge;
    uint8_t *map;
    uint64_t map_bytes;
    uint32_t size, head, cleaned;
    uint64_t data_offset;
    struct fake_command *command[65536];
    unsigned in_flight;
    uint16_t next_id;
    bool page_used[FAKE_DATA_PAGES];
    struct random random;
    unsigned pads, bells;
    uint8_t unknown_flags; /* of the last entry of an unknown kind that came back */
};

static struct tcmu_mailbox *fake_mailbox(struct fake_kernel *k)
{
    return (struct tcmu_mailbox *)(void *)k->map;
}

static void *fake_entry(struct fake_kernel *k, uint32_t place)
{
    return k->map + FAKE_RING_AT + place;
}

static void fake_init(struct fake_kernel *k, uint32_t ring_bytes, bool edge, uint64_t seed)
{
    memset(k, 0, sizeof(*k));
    k->edge = edge;
    k->size = ring_bytes;
    k->data_offset = FAKE_RING_AT + (uint64_t)ring_bytes;
    k->map_bytes = align_up(k->data_offset + (uint64_t)FAKE_DATA_PAGES * FAKE_PAGE, FAKE_PAGE);
    k->random = random_seed(seed);
    k->next_id = 65500; /* soon wraps */
    k->memory = memfd_create("ring", MFD_CLOEXEC);
    FAKE_CHECK(k->memory >= 0 && ftruncate(k->memory, (off_t)k->map_bytes) == 0);
    k->map = mmap(NULL, k->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->memory, 0);
    FAKE_CHECK(k->map != MAP_FAILED);
    if (edge) {
        k->event[0] = k->event[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        FAKE_CHECK(k->event[0] >= 0);
    } else {
        FAKE_CHECK(pipe2(k->event, O_CLOEXEC | O_NONBLOCK) == 0);
    }
    FAKE_CHECK(pipe2(k->bell, O_CLOEXEC | O_NONBLOCK) == 0);
    *fake_mailbox(k) = (struct tcmu_mailbox){
        .version = TCMU_VERSION,
        .flags = TCMU_CAN_REORDER | TCMU_CAN_READ_LEN | TCMU_CAN_MANAGEMENT,
        .ring_offset = FAKE_RING_AT,
        .ring_bytes = ring_bytes,
    };
}

static void fake_fini(struct fake_kernel *k)
{
    munmap(k->map, k->map_bytes);
    close(k->memory);
    close(k->event[0]);
    if (!k->edge)
        close(k->event[1]);
    close(k->bell[0]);
    close(k->bell[1]);
}

/* For the export, which owns it. */
static struct tcmu_device fake_device(const struct fake_kernel *k)
{
    struct tcmu_device d = {
        .event_fd = fcntl(k->event[0], F_DUPFD_CLOEXEC, 0),
        .bell_fd = fcntl(k->bell[1], F_DUPFD_CLOEXEC, 0),
        .map_bytes = k->map_bytes,
        .map = mmap(NULL, k->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->memory, 0),
    };
    FAKE_CHECK(d.event_fd >= 0 && d.bell_fd >= 0 && d.map != MAP_FAILED);
    return d;
}

/* ---- entries ---- */

static void fake_notify(const struct fake_kernel *k)
{
    uint64_t one = 1;
    ssize_t n = write(k->event[1], &one, k->edge ? 8 : 4);
    FAKE_CHECK(n > 0 || errno == EAGAIN);
}

static void fake_publish(struct fake_kernel *k, uint32_t bytes)
{
    k->head = (k->head + bytes) % k->size;
    __atomic_store_n(&fake_mailbox(k)->head, k->head, __ATOMIC_RELEASE);
}

/* Room for an entry of @bytes at the head, which does not wrap; NULL: the ring is full. */
static void *fake_room(struct fake_kernel *k, uint32_t bytes)
{
    uint32_t to_end = k->size - k->head, used = (k->head + k->size - k->cleaned) % k->size;
    uint32_t needed = to_end >= bytes ? bytes : bytes + to_end;
    if (k->size - used - 1 < needed)
        return NULL;
    if (to_end < bytes) {
        struct tcmu_header pad = {.length_kind = to_end | TCMU_KIND_PAD};
        memcpy(fake_entry(k, k->head), &pad, sizeof(pad));
        fake_publish(k, to_end);
        k->pads++;
    }
    return fake_entry(k, k->head);
}

static bool fake_take_pages(struct fake_kernel *k, struct fake_command *c)
{
    unsigned wanted = (unsigned)div_round_up(c->length, FAKE_PAGE);
    FAKE_CHECK(wanted <= ARRAY_LEN(c->pages));
    c->page_count = 0;
    for (unsigned tries = 0; c->page_count < wanted && tries < 4 * FAKE_DATA_PAGES; tries++) {
        uint16_t page = (uint16_t)random_below(&k->random, FAKE_DATA_PAGES);
        if (c->page_count && random_below(&k->random, 2))
            page = (uint16_t)((c->pages[c->page_count - 1] + 1) % FAKE_DATA_PAGES);
        if (k->page_used[page])
            continue;
        k->page_used[page] = true;
        c->pages[c->page_count++] = page;
    }
    if (c->page_count == wanted)
        return true;
    while (c->page_count > 0)
        k->page_used[c->pages[--c->page_count]] = false;
    return false;
}

static size_t fake_page_bytes(const struct fake_command *c, unsigned index)
{
    return MIN((size_t)FAKE_PAGE, c->length - (size_t)index * FAKE_PAGE);
}

static uint64_t fake_page_at(const struct fake_kernel *k, const struct fake_command *c,
                             unsigned index)
{
    return k->data_offset + (uint64_t)c->pages[index] * FAKE_PAGE;
}

/* Neighbouring pages are one piece, as in the kernel. */
static unsigned fake_pieces(const struct fake_kernel *k, const struct fake_command *c,
                            struct iovec *iov)
{
    unsigned count = 0;
    for (unsigned i = 0; i < c->page_count; i++) {
        uint64_t at = fake_page_at(k, c, i);
        if (count && (uintptr_t)iov[count - 1].iov_base + iov[count - 1].iov_len == at)
            iov[count - 1].iov_len += fake_page_bytes(c, i);
        else
            iov[count++] = (struct iovec){(void *)(uintptr_t)at, fake_page_bytes(c, i)};
    }
    return count;
}

static uint16_t fake_new_id(struct fake_kernel *k)
{
    do
        k->next_id++;
    while (k->next_id == 0 || k->command[k->next_id]);
    return k->next_id;
}

/* @return false where there is no room now. The caller notifies. */
static bool fake_submit(struct fake_kernel *k, struct fake_command *c)
{
    struct iovec iov[FAKE_DATA_PAGES / 8];
    if (!fake_take_pages(k, c))
        return false;
    unsigned count = fake_pieces(k, c, iov);
    uint32_t fixed = (uint32_t)MAX(sizeof(struct tcmu_request) + count * sizeof(iov[0]),
                                   sizeof(struct tcmu_response));
    uint32_t bytes = (uint32_t)(fixed + align_up(c->cdb_length, 8));
    uint8_t *entry = fake_room(k, bytes);
    if (!entry) {
        while (c->page_count > 0)
            k->page_used[c->pages[--c->page_count]] = false;
        return false;
    }
    struct tcmu_request request = {
        .header = {.length_kind = bytes | TCMU_KIND_COMMAND, .id = fake_new_id(k)},
        .iov_count = count,
        .cdb_offset = FAKE_RING_AT + k->head + fixed,
    };
    memcpy(entry, &request, sizeof(request));
    memcpy(entry + sizeof(request), iov, count * sizeof(iov[0]));
    memcpy(entry + fixed, c->cdb, c->cdb_length);
    for (unsigned i = 0; i < c->page_count; i++) {
        uint8_t *page = k->map + fake_page_at(k, c, i);
        if (c->out)
            memcpy(page, c->out + (size_t)i * FAKE_PAGE, fake_page_bytes(c, i));
        else
            memset(page, 0xee, FAKE_PAGE); /* what others left there */
    }
    k->command[request.header.id] = c;
    c->answered = false;
    k->in_flight++;
    fake_publish(k, bytes);
    return true;
}

/* ---- answers ---- */

static void fake_finish(struct fake_kernel *k, const struct tcmu_response *r)
{
    struct fake_command *c = k->command[r->header.id];
    FAKE_CHECK(c); /* "cmd_id not found, ring is broken" */
    k->command[r->header.id] = NULL;
    k->in_flight--;
    c->answered = true;
    c->status = r->status;
    c->has_length = r->header.user_flags & TCMU_HAS_READ_LEN;
    c->read_length = c->has_length ? r->read_length : (uint32_t)c->length;
    c->key = r->status == SCSI_CHECK_CONDITION ? r->sense[2] & 0x0f : 0;
    c->asc = r->status == SCSI_CHECK_CONDITION ? load_be16(r->sense + 12) : 0;
    FAKE_CHECK(c->read_length <= c->length);
    for (unsigned i = 0; i < c->page_count; i++) {
        if (c->in)
            memcpy(c->in + (size_t)i * FAKE_PAGE, k->map + fake_page_at(k, c, i),
                   fake_page_bytes(c, i));
        k->page_used[c->pages[i]] = false;
    }
    if (c->done)
        c->done(c);
}

static void fake_clean(struct fake_kernel *k)
{
    uint32_t tail = __atomic_load_n(&fake_mailbox(k)->tail, __ATOMIC_ACQUIRE);
    while (k->cleaned != tail) {
        struct tcmu_response r;
        memcpy(&r, fake_entry(k, k->cleaned), sizeof(r.header));
        unsigned kind = r.header.length_kind & TCMU_KIND_MASK;
        if (kind == TCMU_KIND_COMMAND) {
            memcpy(&r, fake_entry(k, k->cleaned), sizeof(r));
            fake_finish(k, &r);
        } else if (kind > TCMU_KIND_MANAGEMENT) {
            k->unknown_flags = r.header.user_flags;
        }
        uint32_t length = r.header.length_kind & ~TCMU_KIND_MASK;
        FAKE_CHECK(length >= 8 && length <= k->size - k->cleaned);
        k->cleaned = (k->cleaned + length) % k->size;
    }
}

/* Waits for the bell at most @timeout_ms. @return whether it rang. */
static bool fake_wait(struct fake_kernel *k, int timeout_ms)
{
    struct pollfd p = {.fd = k->bell[0], .events = POLLIN};
    uint32_t ones[64];
    if (poll(&p, 1, timeout_ms) <= 0)
        return false;
    ssize_t n = read(k->bell[0], ones, sizeof(ones));
    FAKE_CHECK(n > 0);
    k->bells += (unsigned)n / 4;
    fake_clean(k);
    return true;
}

static void fake_wait_all(struct fake_kernel *k)
{
    while (k->in_flight > 0)
        FAKE_CHECK(fake_wait(k, FAKE_PATIENCE_MS));
}

/* Sends it when there is room, and waits for its answer. */
static void fake_send(struct fake_kernel *k, struct fake_command *c)
{
    while (!fake_submit(k, c))
        FAKE_CHECK(fake_wait(k, FAKE_PATIENCE_MS));
    fake_notify(k);
    while (!c->answered)
        FAKE_CHECK(fake_wait(k, FAKE_PATIENCE_MS));
}

/* The kernel has carried out a task management function that aborted what is in flight. */
static void fake_manage(struct fake_kernel *k, uint8_t function)
{
    uint16_t ids[512];
    uint32_t count = 0;
    for (unsigned id = 0; id < 65536 && count < ARRAY_LEN(ids); id++)
        if (k->command[id])
            ids[count++] = (uint16_t)id;
    struct tcmu_management m = {.function = function, .id_count = count};
    uint32_t bytes = (uint32_t)align_up(sizeof(m) + 2 * (uint64_t)count, 8);
    m.header.length_kind = bytes | TCMU_KIND_MANAGEMENT;
    uint8_t *entry = fake_room(k, bytes);
    FAKE_CHECK(entry);
    memcpy(entry, &m, sizeof(m));
    memcpy(entry + sizeof(m), ids, 2 * (size_t)count);
    fake_publish(k, bytes);
    fake_notify(k);
}

#endif
