/*
 * The map from guest clusters to host clusters: decoding of L2 entries, and L2 tables of our own.
 *
 * An entry of 8 bytes describes a cluster; with extended L2 8 more describe its 32 subclusters.
 * Decoding runs under q->lock on a cached slice and never suspends: this is the hot path of every
 * request. Reads of stored data mostly do without the lock, by hints at slices:
 *
 *   guest --> hints->slot[number of its slice] --> slice --> entries
 *
 * Slices are never freed while the image is open, so a hint may be stale but not wild. The slice
 * says itself what it stands for (`covers`, `map`), and whether it left the cache meanwhile
 * (`version`). An entry that is changed while it is read is read as before or after: that request
 * and the change ran beside each other. Its cluster is not reused, for the reader has counted
 * itself as a user before it looked, in an epoch that was the running one after it had.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/read.h"

/* ---- one entry ---- */

/* Aligned, and beyond all guests: what an entry says itself is checked, not whether it fits. */
#define ANY_GUEST (1ull << 63)

/* Subclusters from @first on whose bit in @bits equals that of @first. */
static unsigned same_bits(uint32_t bits, unsigned first)
{
    uint32_t shifted = bits >> first;
    if (shifted & 1)
        shifted = ~shifted;
    unsigned run = shifted ? (unsigned)__builtin_ctz(shifted) : QCOW2_SUBCLUSTERS;
    return MIN(run, QCOW2_SUBCLUSTERS - first);
}

/* @return false where the entry is invalid. @ret length: bytes from @guest, at most to its
 * cluster's end. */
static bool decode_extended(const struct qcow2 *q, uint64_t bitmap, uint64_t guest,
                            struct qcow2_extent *ret)
{
    uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    unsigned sub = qcow2_subcluster_index(q, guest);
    if ((allocated & zero) || (allocated && !ret->has_host))
        return false;
    ret->kind = allocated >> sub & 1 ? QCOW2_KIND_DATA
                : zero >> sub & 1    ? QCOW2_KIND_ZERO
                                     : QCOW2_KIND_UNALLOCATED;
    unsigned run = MIN(same_bits(allocated, sub), same_bits(zero, sub));
    ret->length = ((uint64_t)(sub + run) << q->subcluster_bits) - qcow2_in_cluster(q, guest);
    return true;
}

static bool decode(const struct qcow2 *q, const uint8_t *at, uint64_t guest,
                   struct qcow2_extent *ret)
{
    uint64_t entry = load_be64(at), host;
    ret->length = q->cluster_size - qcow2_in_cluster(q, guest);
    ret->entry = entry;
    if (entry & QCOW2_COMPRESSED) {
        ret->kind = QCOW2_KIND_COMPRESSED;
        ret->has_host = ret->copied = false;
        ret->host = 0;
        return !qcow2_has_data_file(q);
    }
    ret->has_host = qcow2_entry_host(q, entry, &host);
    ret->copied = ret->has_host && (entry & QCOW2_COPIED);
    ret->host = host + qcow2_in_cluster(q, guest);
    if (!is_aligned(host, q->cluster_size))
        return false;
    /* "The offset field must match the guest offset." */
    if (qcow2_has_data_file(q) && ret->has_host && guest != ANY_GUEST && ret->host != guest)
        return false;
    if (q->extended_l2)
        return !(entry & QCOW2_ZERO) && decode_extended(q, load_be64(at + 8), guest, ret);
    ret->kind = entry & QCOW2_ZERO ? QCOW2_KIND_ZERO
                : ret->has_host    ? QCOW2_KIND_DATA
                                   : QCOW2_KIND_UNALLOCATED;
    return q->header.version >= 3 || !(entry & QCOW2_ZERO);
}

bool qcow2_entry_valid(const struct qcow2 *q, const uint8_t *at)
{
    struct qcow2_extent e;
    return decode(q, at, ANY_GUEST, &e);
}

/* ---- runs ---- */

static bool continues(const struct qcow2_extent *run, const struct qcow2_extent *next)
{
    return next->kind == run->kind && next->has_host == run->has_host &&
           next->copied == run->copied && (!run->has_host || next->host == run->host + run->length);
}

static int corrupt_entry(struct qcow2 *q, uint64_t at, uint64_t entry)
{
    return block_corrupt(q->node, at, NULL, "L2 entry is invalid: %#llx",
                         (unsigned long long)entry);
}

/*
 * Plain entries that continue @run as their bytes show, without decoding each: the next cluster,
 * with the same flags. @entry the one that the run ends with, @end of the slice. @return how many.
 */
static uint64_t plain_run(const struct qcow2 *q, const uint8_t *entry, const uint8_t *end,
                          uint64_t clusters_max)
{
    uint64_t value = load_be64(entry), run = 0;
    uint64_t step = value & QCOW2_OFFSET_MASK ? q->cluster_size : 0;
    while (run < clusters_max && (entry += 8) != end && load_be64(entry) == value + step) {
        value += step;
        run++;
    }
    return run;
}

/* Where the L2 slice of @guest lies. @ret 0: there is no table. */
static int slice_offset(struct qcow2 *q, uint64_t guest, uint64_t *ret)
{
    uint64_t index = qcow2_l1_index(q, guest);
    uint64_t table = index < q->header.l1_size ? q->l1[index] & QCOW2_OFFSET_MASK : 0;
    if (!is_aligned(table, q->cluster_size))
        return block_corrupt(q->node, q->header.l1_table_offset + index * 8, NULL,
                             "L1 entry %llu is invalid: %#llx", (unsigned long long)index,
                             (unsigned long long)q->l1[index]);
    uint64_t at = (uint64_t)qcow2_l2_index(q, guest) * q->l2_entry_bytes;
    *ret = table ? table + align_down(at, q->cache.slice_bytes) : 0;
    return 0;
}

/* ---- hints ---- */

#define HINTS_MIN 16u
#define HINTS_MAX 4096u /* 128 GiB of plain clusters of 64 KiB */

struct qcow2_hints {
    unsigned mask;
    _Atomic(struct qcow2_slice *) slot[];
};

/* Of the slice that describes @guest, in the guest's order, from 1. */
static uint64_t slice_number(const struct qcow2 *q, uint64_t guest)
{
    return (guest >> q->cluster_bits) / (q->cache.slice_bytes / q->l2_entry_bytes) + 1;
}

/* Without memory for them look-ups take the lock, as ever. */
static struct qcow2_hints *make_hints(struct qcow2 *q)
{
    uint64_t slices = slice_number(q, q->header.size);
    unsigned count = HINTS_MIN;
    while (count < slices && count < HINTS_MAX)
        count *= 2;
    struct qcow2_hints *hints = calloc(1, sizeof(*hints) + count * sizeof(hints->slot[0]));
    if (hints)
        hints->mask = count - 1;
    atomic_store_explicit(&q->hints, hints, memory_order_release);
    return hints;
}

/* @slice describes @guest now. Caller holds q->lock. */
static void note_slice(struct qcow2 *q, struct qcow2_slice *slice, uint64_t guest)
{
    struct qcow2_hints *hints = atomic_load_explicit(&q->hints, memory_order_relaxed);
    uint64_t number = slice_number(q, guest);
    uint64_t map = atomic_load_explicit(&q->map_version, memory_order_relaxed);
    if (!hints && !(hints = make_hints(q)))
        return;
    if (atomic_load_explicit(&slice->covers, memory_order_relaxed) != number ||
        atomic_load_explicit(&slice->map, memory_order_relaxed) != map) {
        /* Never both new and old: nobody may use it in between. */
        atomic_store(&slice->covers, 0);
        atomic_store(&slice->map, map);
        atomic_store(&slice->covers, number);
    }
    _Atomic(struct qcow2_slice *) *slot = &hints->slot[number & hints->mask];
    if (atomic_load_explicit(slot, memory_order_relaxed) != slice)
        atomic_store_explicit(slot, slice, memory_order_release);
}

/* What a thread reads while another may write it is checked afterwards: no race to report. */
#if defined(__SANITIZE_THREAD__)
#define UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#endif
#endif
#ifndef UNCHECKED
#define UNCHECKED
#endif

/* A copy of the entry at @at. @return false where its two words do not belong together. */
UNCHECKED static bool copy_entry(const struct qcow2 *q, const uint8_t *at, uint8_t *ret)
{
    const uint64_t *word = (const uint64_t *)(const void *)at;
    uint64_t first = __atomic_load_n(word, __ATOMIC_ACQUIRE), second;
    memcpy(ret, &first, sizeof(first));
    if (!q->extended_l2)
        return true;
    second = __atomic_load_n(word + 1, __ATOMIC_ACQUIRE);
    memcpy(ret + 8, &second, sizeof(second));
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) == first;
}

/* @length bytes from @guest on are stored data, one after the other, as @slice has it now. */
static bool is_stored(const struct qcow2 *q, struct qcow2_slice *slice, uint64_t guest,
                      uint64_t length, uint64_t *ret_host)
{
    const uint8_t *at = qcow2_l2_entry(q, slice, guest);
    const uint8_t *end = slice->data + q->cache.slice_bytes;
    for (uint64_t done = 0; done < length; at += q->l2_entry_bytes) {
        uint8_t entry[16];
        struct qcow2_extent e;
        if (at == end || !copy_entry(q, at, entry) || !decode(q, entry, guest + done, &e) ||
            e.kind != QCOW2_KIND_DATA || (done && e.host != *ret_host + done))
            return false;
        if (done == 0)
            *ret_host = e.host;
        done += e.length;
        if (done < length && qcow2_in_cluster(q, guest + done) != 0)
            return false;
    }
    return true;
}

bool qcow2_map_unlocked(struct qcow2 *q, uint64_t guest, uint64_t length, uint64_t *ret_host,
                        uint64_t *ret_epoch)
{
    struct qcow2_hints *hints = atomic_load_explicit(&q->hints, memory_order_acquire);
    uint64_t number = slice_number(q, guest);
    if (unlikely(!hints))
        return false;
    struct qcow2_slice *slice =
        atomic_load_explicit(&hints->slot[number & hints->mask], memory_order_acquire);
    if (unlikely(!slice))
        return false;
    uint64_t epoch = atomic_load(&q->epoch);
    atomic_fetch_add(qcow2_users_of(q, epoch), 1);
    uint64_t version = atomic_load(&slice->version);
    bool found = atomic_load(&q->epoch) == epoch &&
                 atomic_load_explicit(&slice->covers, memory_order_acquire) == number &&
                 atomic_load_explicit(&slice->map, memory_order_acquire) ==
                     atomic_load_explicit(&q->map_version, memory_order_acquire) &&
                 is_stored(q, slice, guest, length, ret_host);
    atomic_thread_fence(memory_order_acquire);
    if (unlikely(!found || atomic_load_explicit(&slice->version, memory_order_relaxed) != version ||
                 atomic_load_explicit(&slice->covers, memory_order_relaxed) != number)) {
        qcow2_leave(q, epoch);
        return false;
    }
    if (unlikely(!atomic_load_explicit(&slice->referenced, memory_order_relaxed)))
        atomic_store_explicit(&slice->referenced, true, memory_order_relaxed);
    *ret_epoch = epoch;
    return true;
}

/* ---- under the lock ---- */

int qcow2_map(struct qcow2 *q, uint64_t guest, uint64_t length, struct qcow2_extent *ret,
              uint64_t *ret_load)
{
    uint64_t at;
    int r = slice_offset(q, guest, &at);
    if (r < 0)
        return r;
    if (at == 0) {
        uint64_t table_bytes = 1ull << (q->cluster_bits + q->l2_bits);
        *ret =
            (struct qcow2_extent){.kind = QCOW2_KIND_UNALLOCATED,
                                  .length = MIN(length, table_bytes - (guest & (table_bytes - 1)))};
        return 0;
    }
    struct qcow2_slice *slice = qcow2_cache_find(q, at);
    if (!slice) {
        *ret_load = at;
        return -EAGAIN;
    }
    note_slice(q, slice, guest);
    const uint8_t *entry = qcow2_l2_entry(q, slice, guest);
    const uint8_t *end = slice->data + q->cache.slice_bytes;
    if (!decode(q, entry, guest, ret))
        return corrupt_entry(q, at + (uint64_t)(entry - slice->data), ret->entry);
    if (!q->extended_l2 && ret->kind != QCOW2_KIND_COMPRESSED && ret->length < length) {
        uint64_t run =
            plain_run(q, entry, end, div_round_up(length - ret->length, q->cluster_size));
        ret->length += run << q->cluster_bits;
        entry += run * 8;
    }
    /* Further entries only where this run reaches its cluster's end. */
    while (ret->kind != QCOW2_KIND_COMPRESSED && ret->length < length &&
           qcow2_in_cluster(q, guest + ret->length) == 0) {
        struct qcow2_extent next;
        entry += q->l2_entry_bytes;
        if (entry == end || !decode(q, entry, guest + ret->length, &next) || !continues(ret, &next))
            break;
        ret->length += next.length;
    }
    ret->length = MIN(ret->length, length);
    return 0;
}

/* Slices of the table of @guest that a look-up of @length reads: more than one by who goes over the
 * map, since a slice covers more than a read or write may ask for. */
static unsigned slices_wanted(const struct qcow2 *q, uint64_t guest, uint64_t length)
{
    uint64_t per_slice = q->cache.slice_bytes / q->l2_entry_bytes;
    uint64_t index = qcow2_l2_index(q, guest);
    uint64_t entries = MIN(length >> q->cluster_bits, (1ull << q->l2_bits) - index);
    return (unsigned)((index % per_slice + entries) / per_slice);
}

int qcow2_co_map_lock(struct qcow2 *q, uint64_t guest, uint64_t length, struct qcow2_extent *ret)
{
    for (;;) {
        uint64_t load;
        struct qcow2_slice *slice;
        rt_mutex_lock(&q->lock);
        int r = qcow2_map(q, guest, length, ret, &load);
        if (r == 0)
            return 0;
        rt_mutex_unlock(&q->lock);
        unsigned ahead = r == -EAGAIN ? slices_wanted(q, guest, length) : 0;
        if (ahead > 1 && qcow2_co_slices_ahead(q, load, ahead))
            continue;
        if (r == -EAGAIN)
            r = qcow2_co_slice_get(q, QCOW2_TABLE_L2, load, QCOW2_SLICE_READ, &slice);
        if (r < 0)
            return r;
        rt_mutex_lock(&q->lock);
        qcow2_slice_unpin(q, slice);
        rt_mutex_unlock(&q->lock);
    }
}

/* ---- L2 tables that may be written ---- */

/* The content of a shared table at its new place. */
static int co_copy_table(struct qcow2 *q, uint64_t from, uint64_t to)
{
    autofree uint8_t *buffer = qcow2_buffer(q->cluster_size);
    struct iovec iov;
    if (!buffer)
        return -ENOMEM;
    struct sgl list = sgl_one(&iov, buffer, q->cluster_size);
    int r = co_block_read_padded(q->file, from, list);
    return r < 0 ? r : co_block_write(q->file, to, list, 0);
}

/* A table of our own for L1 entry @index: new, or a copy of one that a snapshot shares. */
static int co_own_table_locked(struct qcow2 *q, uint64_t index)
{
    uint64_t old = q->l1[index], old_host = old & QCOW2_OFFSET_MASK, host;
    uint32_t got;
    if (old & QCOW2_COPIED && old_host)
        return 0; /* somebody else was faster */
    if (!is_aligned(old_host, q->cluster_size))
        return block_corrupt(q->node, q->header.l1_table_offset + index * 8, NULL,
                             "L1 entry %llu is invalid: %#llx", (unsigned long long)index,
                             (unsigned long long)old);
    int r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return r;
    r = qcow2_co_alloc_locked(q, 1, false, &host, &got);
    if (r < 0) {
        qcow2_freed_unreserve(q, 1);
        return r;
    }
    r = qcow2_keep_reserve(q, 1);
    if (r == 0)
        r = qcow2_cache_invalidate(q, host, q->cluster_size);
    if (r == 0)
        r = old_host ? co_copy_table(q, old_host, host)
                     : qcow2_co_zero_host(q, host, q->cluster_size);
    rt_mutex_lock(&q->lock);
    if (r < 0) {
        qcow2_freed_add(q, host, 1, false);
    } else {
        q->l1[index] = host | QCOW2_COPIED;
        qcow2_guard_add(q, host);
        qcow2_mark_l1(q, index);
        if (old_host)
            qcow2_freed_add(q, old_host, 1, true);
        else
            q->freed.reserved--;
    }
    rt_mutex_unlock(&q->lock);
    return r;
}

int qcow2_co_l2_slice(struct qcow2 *q, uint64_t guest, struct qcow2_slice **ret)
{
    uint64_t index = qcow2_l1_index(q, guest), at;
    assert(index < q->header.l1_size);
    rt_mutex_lock(&q->lock);
    bool own = (q->l1[index] & QCOW2_COPIED) && (q->l1[index] & QCOW2_OFFSET_MASK);
    rt_mutex_unlock(&q->lock);
    if (!own) {
        co_mutex_lock(&q->alloc_lock);
        int r = co_own_table_locked(q, index);
        co_mutex_unlock(&q->alloc_lock);
        if (r < 0)
            return r;
    }
    rt_mutex_lock(&q->lock);
    int r = slice_offset(q, guest, &at);
    if (r == 0)
        r = qcow2_check_host(q, at, q->cache.slice_bytes);
    rt_mutex_unlock(&q->lock);
    if (r == 0)
        r = qcow2_co_reach(q, at, q->cache.slice_bytes);
    return r < 0 ? r : qcow2_co_slice_get(q, QCOW2_TABLE_L2, at, 0, ret);
}
