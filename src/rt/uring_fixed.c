/*
 * What is registered with a ring: files, which then need no lookup and no reference count for each
 * operation, and long-lived buffers, which need no pinning.
 *
 * A file is registered with a queue's ring once it has been used there for a while. A ring is only
 * touched by its own thread, so who closes a file drops it from his own ring at once and mails the
 * other rings that know it:
 *
 *   real_file.ring[n] -> slot of ring n           rings[n] -> the queue
 *   uring_queue.slot_file[slot] -> the file       uring_queue.drop[slot]: the mail
 *
 * Until the mail arrives the other ring keeps the kernel's open file alive; that is why locks are
 * given up explicitly on closing. `registry` guards rings[] and the meeting of a file that closes
 * with a queue that ends.
 *
 * Kernels before 6.14 free a dropped file only after other requests of the ring, or a second, have
 * passed, so that a closed image would keep its file system busy: there no file is registered.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/uring.h"

/* Tells kernels of 6.14 and later; named IORING_FEAT_RW_ATTR there. */
#define FEATURE_OF_6_14 (1u << 16)

/* Uses of a file on one queue after which it is worth registering. */
#define USES_BEFORE 64

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct rt_queue *rings[REAL_FILE_RINGS];

/* ---- files ---- */

static void empty_slot(struct uring_queue *u, unsigned slot)
{
    int none = -1;
    int result = io_uring_register_files_update(&u->ring, slot, &none, 1);
    assert(result == 1);
    u->slots_free[slot / 64] |= 1ull << slot % 64;
}

static void deliver_drop(struct rt_queue *q, struct rt_mail *mail)
{
    struct uring_queue *u = q->impl;
    empty_slot(u, (unsigned)(mail - u->drop));
}

void uring_files_init(struct rt_queue *q, unsigned features)
{
    struct uring_queue *u = q->impl;
    u->number = -1;
    /* A lent queue may rest for good while the file that it knows is closed. */
    if (q->lent || !(features & FEATURE_OF_6_14) ||
        io_uring_register_files_sparse(&u->ring, URING_SLOTS))
        return;
    for (unsigned i = 0; i < URING_SLOTS; i++)
        u->drop[i].deliver = deliver_drop;
    memset(u->slots_free, 0xff, sizeof(u->slots_free));
    pthread_mutex_lock(&registry);
    for (int i = 0; i < REAL_FILE_RINGS && u->number < 0; i++) {
        if (!rings[i]) {
            rings[i] = q;
            u->number = i;
        }
    }
    pthread_mutex_unlock(&registry);
}

void uring_files_fini(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    if (u->number < 0)
        return;
    pthread_mutex_lock(&registry);
    rings[u->number] = NULL;
    for (unsigned slot = 0; slot < URING_SLOTS; slot++) {
        struct real_file *f = u->slot_file[slot];
        if (f) {
            f->ring[u->number].slot = f->ring[u->number].uses = 0;
            atomic_fetch_and(&f->rings, ~(1u << u->number));
        }
    }
    pthread_mutex_unlock(&registry);
    /* Nobody sends drops from here on; take those that are under way. */
    queue_settle(q);
}

static void register_file(struct rt_queue *q, struct real_file *f)
{
    struct uring_queue *u = q->impl;
    for (unsigned i = 0; i < ARRAY_LEN(u->slots_free); i++) {
        if (u->slots_free[i] == 0)
            continue;
        unsigned slot = i * 64 + (unsigned)__builtin_ctzll(u->slots_free[i]);
        if (io_uring_register_files_update(&u->ring, slot, &f->file.fd, 1) != 1)
            return;
        u->slots_free[i] &= u->slots_free[i] - 1;
        u->slot_file[slot] = f;
        f->ring[u->number].slot = (uint16_t)(slot + 1);
        atomic_fetch_or(&f->rings, 1u << u->number);
        return;
    }
}

void uring_use_slot(struct rt_queue *q, struct rt_file *file, struct io_uring_sqe *sqe)
{
    struct uring_queue *u = q->impl;
    if (u->number < 0)
        return;
    struct real_file *f = real_file(file);
    struct real_file_ring *ring = &f->ring[u->number];
    if (ring->slot == 0 && ring->uses <= USES_BEFORE && ring->uses++ == USES_BEFORE)
        register_file(q, f);
    if (ring->slot > 0) {
        sqe->fd = ring->slot - 1;
        sqe->flags |= IOSQE_FIXED_FILE;
    }
}

void uring_file_closing(struct real_file *f)
{
    if (atomic_load(&f->rings) == 0)
        return;
    pthread_mutex_lock(&registry);
    for (int i = 0; i < REAL_FILE_RINGS; i++) {
        if (f->ring[i].slot == 0)
            continue;
        struct uring_queue *u = rings[i]->impl;
        unsigned slot = f->ring[i].slot - 1u;
        u->slot_file[slot] = NULL;
        if (co_on_queue(rings[i]))
            empty_slot(u, slot);
        else
            queue_post(rings[i], &u->drop[slot]);
    }
    pthread_mutex_unlock(&registry);
}

/* ---- registered buffers ---- */

void uring_buffers_forget(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    if (u->buffer_count == 0)
        return;
    (void)io_uring_unregister_buffers(&u->ring);
    free(steal_ptr(&u->buffers));
    u->buffer_count = 0;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct iovec *)a)->iov_base;
    uintptr_t y = (uintptr_t)((const struct iovec *)b)->iov_base;
    return (x > y) - (x < y);
}

void uring_buffers_register(struct rt_queue *q, const struct iovec *buffers, unsigned count)
{
    struct uring_queue *u = q->impl;
    uring_buffers_forget(q);
    if (count == 0)
        return;
    struct iovec *sorted = calloc(count, sizeof(*sorted));
    if (!sorted)
        return;
    memcpy(sorted, buffers, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), by_address);
    if (io_uring_register_buffers(&u->ring, sorted, count) < 0) {
        free(sorted);
        return;
    }
    u->buffers = sorted;
    u->buffer_count = count;
}

int uring_find_buffer(const struct uring_queue *u, const struct iovec *piece)
{
    unsigned low = 0, high = u->buffer_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if ((uintptr_t)u->buffers[middle].iov_base <= (uintptr_t)piece->iov_base)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return -1;
    const struct iovec *b = &u->buffers[low - 1];
    uint64_t offset = (uintptr_t)piece->iov_base - (uintptr_t)b->iov_base;
    return range_fits(offset, piece->iov_len, b->iov_len) ? (int)low - 1 : -1;
}
