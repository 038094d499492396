/*
 * Writing compressed clusters.
 *
 *     cluster of the guest --encoder, on a worker--> bytes --packed--> host
 *
 * Compressed clusters follow each other in the host file without gaps, across host clusters where
 * these are neighbours. The refcount of a host cluster counts the compressed clusters that touch
 * it. What does not get smaller is written as it is.
 *
 *     | host cluster 1            | host cluster 2            |
 *     | A........B.......C........|.....D..........           |
 *       refcount 3                  refcount 2             ^ pack_next
 *
 * Some clusters are open at a time, so that what other writers allocate in between leaves no gaps
 * behind. pack_next is guarded by alloc_lock. A place is forgotten when the cluster that it lies in
 * becomes free (free.c), and all at close: the rest of those clusters stays unused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/compressed_codec.h"
#include "format/qcow2/cow.h"

/* Encoders that are kept for the next write: as many as four threads with four requests each use.
 */
#define ENCODERS_KEPT 16

/* ---- encoders ---- */

struct encoding {
    struct list link; /* while idle */
    struct qcow2_encoder encoder;
    enum qcow2_compression type;
    int level;
    const uint8_t *input; /* a cluster */
    uint8_t *padded;      /* a cluster: input that is not contiguous, or ends with the image */
    uint8_t *output;      /* a cluster, aligned */
    size_t bytes;         /* of output; 0: it did not get smaller */
};

struct encoders {
    struct list idle;
    unsigned count;
};

static struct encoding *encoding_free(struct encoding *e)
{
    qcow2_encoder_free(&e->encoder);
    free(e->padded);
    free(e->output);
    free(e);
    return NULL;
}

static struct encoding *encoding_new(const struct qcow2 *q)
{
    struct encoding *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->padded = qcow2_buffer(q->cluster_size);
    e->output = qcow2_buffer(q->cluster_size);
    return e->padded && e->output ? e : encoding_free(e);
}

static struct encoding *take_encoding(struct qcow2 *q)
{
    struct encoding *e = NULL;
    rt_mutex_lock(&q->lock);
    struct encoders *all = q->encoders;
    if (all && !list_empty(&all->idle)) {
        e = list_entry(list_pop_front(&all->idle), struct encoding, link);
        all->count--;
    }
    rt_mutex_unlock(&q->lock);
    return e ? e : encoding_new(q);
}

static void give_encoding(struct qcow2 *q, struct encoding *e)
{
    rt_mutex_lock(&q->lock);
    struct encoders *all = q->encoders;
    if (!all && (all = calloc(1, sizeof(*all)))) {
        list_init(&all->idle);
        q->encoders = all;
    }
    bool keep = all && all->count < ENCODERS_KEPT;
    if (keep) {
        list_push_front(&all->idle, &e->link);
        all->count++;
    }
    rt_mutex_unlock(&q->lock);
    if (!keep)
        encoding_free(e);
}

void qcow2_encoders_free(struct qcow2 *q)
{
    struct encoders *all = q->encoders;
    while (all && !list_empty(&all->idle))
        encoding_free(list_entry(list_pop_front(&all->idle), struct encoding, link));
    free(all);
    q->encoders = NULL;
    memset(q->pack_next, 0, sizeof(q->pack_next));
}

/* On a worker. */
static int encode(void *arg)
{
    struct encoding *e = arg;
    size_t cluster_bytes = e->bytes;
    ssize_t made = qcow2_codec_encode(&e->encoder, e->type, e->level, e->input, cluster_bytes,
                                      e->output, cluster_bytes - 1);
    e->bytes = made > 0 ? (size_t)made : 0;
    return made < 0 ? (int)made : 0;
}

static int co_encode(struct qcow2 *q, struct encoding *e, struct sgl buffer, int level)
{
    e->type = q->header.compression_type;
    e->level = level;
    e->bytes = q->cluster_size;
    e->input = buffer.length == q->cluster_size ? sgl_flat(buffer) : NULL;
    if (!e->input) {
        sgl_to_buffer(buffer, e->padded);
        memset(e->padded + buffer.length, 0, q->cluster_size - buffer.length);
        e->input = e->padded;
    }
    return co_work(encode, e);
}

/* ---- packing ---- */

/* One more compressed cluster touches @cluster. -ERANGE: more than its refcount can say. */
static int co_raise(struct qcow2 *q, uint64_t cluster)
{
    struct qcow2_slice *slice;
    uint32_t index;
    int r = qcow2_co_refcount_slice(q, cluster, 0, &slice, &index);
    if (r < 0)
        return r;
    if (!slice)
        return -EIO;
    rt_mutex_lock(&q->lock);
    uint64_t value = qcow2_refcount_read(slice->data, q->refcount_order, index);
    r = value == 0 || value >= q->refcount_max ? -ERANGE : qcow2_slice_touch(q, slice);
    if (r == 0)
        qcow2_refcount_write(slice->data, q->refcount_order, index, value + 1);
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return r;
}

void qcow2_pack_forget(struct qcow2 *q, uint64_t cluster)
{
    for (unsigned i = 0; i < QCOW2_PACKS; i++)
        if (q->pack_next[i] >> q->cluster_bits == cluster)
            q->pack_next[i] = 0;
}

static uint64_t room_at(const struct qcow2 *q, uint64_t next)
{
    return next ? q->cluster_size - qcow2_in_cluster(q, next) : 0;
}

/* The open cluster with the least room that suffices; NULL: none has as much. */
static uint64_t *find_room(struct qcow2 *q, size_t bytes)
{
    uint64_t *best = NULL;
    for (unsigned i = 0; i < QCOW2_PACKS; i++) {
        uint64_t room = room_at(q, q->pack_next[i]);
        if (room >= bytes && (!best || room < room_at(q, *best)))
            best = &q->pack_next[i];
    }
    return best;
}

/* The open cluster in front of the one at @host; else, the place of the one with the least room. */
static uint64_t *find_neighbour(struct qcow2 *q, uint64_t host, bool *ret_neighbour)
{
    uint64_t *least = &q->pack_next[0];
    for (unsigned i = 0; i < QCOW2_PACKS; i++) {
        uint64_t *at = &q->pack_next[i];
        *ret_neighbour = *at && *at + room_at(q, *at) == host;
        if (*ret_neighbour)
            return at;
        if (room_at(q, *at) < room_at(q, *least))
            least = at;
    }
    return least;
}

static void advance_pack(struct qcow2 *q, uint64_t *place, uint64_t next)
{
    *place = qcow2_in_cluster(q, next) ? next : 0;
}

/* Room for @bytes, less than a cluster. Caller holds alloc_lock. */
static int co_pack_locked(struct qcow2 *q, size_t bytes, uint64_t *ret_host)
{
    uint64_t *place, fresh;
    uint32_t got;
    bool neighbour;
    while ((place = find_room(q, bytes))) {
        *ret_host = *place;
        if (co_raise(q, *place >> q->cluster_bits) == 0) {
            advance_pack(q, place, *ret_host + bytes);
            return 0;
        }
        *place = 0;
    }
    int r = qcow2_co_alloc_locked(q, 1, false, &fresh, &got);
    if (r < 0)
        return r;
    place = find_neighbour(q, fresh, &neighbour);
    bool joined = neighbour && co_raise(q, *place >> q->cluster_bits) == 0;
    *ret_host = joined ? *place : fresh;
    advance_pack(q, place, *ret_host + bytes);
    return 0;
}

static uint64_t entry_of(const struct qcow2 *q, uint64_t host, size_t bytes)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t more_sectors = (host + bytes - 1) / 512 - host / 512;
    return QCOW2_COMPRESSED | more_sectors << x | host;
}

/* ---- linking ---- */

/* Entry changed, or the room given back; two entries of the freed list were promised. */
static int link_end(struct qcow2 *q, struct qcow2_slice *slice, uint64_t guest,
                    struct qcow2_in_flight *in_flight, uint64_t entry, int r)
{
    rt_mutex_lock(&q->lock);
    uint8_t *at = qcow2_l2_entry(q, slice, guest);
    if (r == 0 && !qcow2_entry_valid(q, at))
        r = block_corrupt(q->node, slice->offset, NULL, "L2 entry is invalid: %#llx",
                          (unsigned long long)load_be64(at));
    if (r == 0)
        r = qcow2_slice_touch(q, slice);
    if (r == 0) {
        qcow2_free_entry(q, load_be64(at));
        /* The bitmap of a compressed cluster is 0. The entry goes first: until then the old bitmap
         * tells what the old cluster holds. */
        qcow2_store_entry(at, entry);
        if (q->extended_l2)
            qcow2_store_entry(at + 8, 0);
    } else if (entry) {
        qcow2_free_entry(q, entry);
    } else {
        q->freed.reserved--;
    }
    q->freed.reserved--;
    qcow2_in_flight_end(q, in_flight);
    rt_mutex_unlock(&q->lock);
    return r;
}

static int co_store(struct qcow2 *q, struct qcow2_slice *slice, uint64_t guest,
                    struct qcow2_in_flight *in_flight, const struct encoding *e)
{
    uint64_t host = 0, entry = 0;
    struct iovec iov;
    co_mutex_lock(&q->alloc_lock);
    int r = co_pack_locked(q, e->bytes, &host);
    co_mutex_unlock(&q->alloc_lock);
    if (r == 0) {
        entry = entry_of(q, host, e->bytes);
        qcow2_compressed_drop(q, entry);
        r = co_block_write(q->file, host, sgl_one(&iov, e->output, e->bytes), 0);
    }
    return link_end(q, slice, guest, in_flight, entry, r);
}

/* @return -EAGAIN after waiting for somebody else's allocation. */
static int co_link(struct qcow2 *q, uint64_t guest, const struct encoding *e)
{
    struct qcow2_in_flight in_flight;
    struct qcow2_slice *slice;
    uint64_t end = guest + q->cluster_size;
    int r = qcow2_co_l2_slice(q, guest, &slice);
    if (r < 0)
        return r;
    r = qcow2_freed_reserve(q, 2);
    rt_mutex_lock(&q->lock);
    if (r == 0) {
        struct qcow2_in_flight *other = qcow2_in_flight_find(q, guest, end);
        if (other) {
            q->freed.reserved -= 2;
            qcow2_co_in_flight_wait(q, other);
            r = -EAGAIN;
        } else {
            qcow2_in_flight_begin(q, &in_flight, guest, end);
            rt_mutex_unlock(&q->lock);
            r = co_store(q, slice, guest, &in_flight, e);
            rt_mutex_lock(&q->lock);
        }
    }
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return r;
}

int qcow2_co_write_compressed(struct block_node *node, uint64_t offset, struct sgl buffer,
                              int level)
{
    struct qcow2 *q = qcow2_of(node);
    int r = 0;
    if (!atomic_load_explicit(&q->writable_prepared, memory_order_acquire))
        r = qcow2_co_prepare_write(q);
    if (r == 0)
        r = atomic_load_explicit(&q->broken, memory_order_relaxed);
    if (r < 0)
        return r;
    struct encoding *e = take_encoding(q);
    if (!e)
        return -ENOMEM;
    r = co_encode(q, e, buffer, level);
    if (r == 0 && e->bytes == 0)
        r = qcow2_co_write(node, offset, buffer, 0);
    else if (r == 0)
        while ((r = co_link(q, offset, e)) == -EAGAIN)
            ;
    give_encoding(q, e);
    return r;
}
