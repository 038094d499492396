/*
 * Changing the header extension of bitmaps in place, so that a crash leaves a whole header.
 *
 *   fixed header | extension ... extension | end mark | (gap) backing file name
 *
 * A sector is written as a whole or not at all; of several a crash may leave any. So
 *
 * - a new extension goes behind the last one: first its payload and a new end mark, behind the old
 *   end mark, where nobody looks; then, over the old end mark, its type and length, which are 8
 *   aligned bytes of one sector. Where the name of the backing file is in the way it is copied to
 *   sectors of its own first, and then the fixed header, one sector, names that place;
 * - fields of one that is there change with one write where they lie in one sector. Else the
 *   autoclear bit goes first: without it nobody looks at them;
 * - one goes by an end mark in its place if it is the last, else by moving up what follows it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

#define SECTOR         512u
#define EXTENSION_HEAD sizeof(struct qcow2_disk_extension)
#define PAYLOAD        sizeof(struct qcow2_disk_bitmaps_extension)
/* Nothing was written. No write says so, as one does of a full disk (ENOSPC). */
#define NO_ROOM (-E2BIG)

struct area {
    struct qcow2 *q;
    uint8_t *bytes; /* the header cluster */
    size_t at;      /* of the extension; 0: it is not there */
    size_t length;  /* of the extension, its head and padding included */
    size_t end;     /* of the end mark, or where one would be */
    size_t limit;   /* extensions end here: at the backing file name, or with the cluster */
};

/* ---- reading ---- */

static void find(struct area *a)
{
    const struct qcow2_header *h = &a->q->header;
    a->limit = a->q->cluster_size;
    a->at = a->length = 0;
    if (h->backing_file_offset >= h->header_length && h->backing_file_offset < a->limit)
        a->limit = h->backing_file_offset;
    a->end = h->header_length;
    while (a->limit - a->end >= EXTENSION_HEAD) {
        uint32_t type = load_be32(a->bytes + a->end);
        size_t length = EXTENSION_HEAD + align_up(load_be32(a->bytes + a->end + 4), 8);
        if (type == QCOW2_EXT_END || length > a->limit - a->end)
            break;
        if (type == QCOW2_EXT_BITMAPS && !a->at) {
            a->at = a->end;
            a->length = length;
        }
        a->end += length;
    }
}

static int co_read(struct area *a)
{
    struct iovec iov;
    a->bytes = qcow2_buffer(a->q->cluster_size);
    if (!a->bytes)
        return -ENOMEM;
    int r = co_block_read_padded(a->q->file, 0, sgl_one(&iov, a->bytes, a->q->cluster_size));
    if (r == 0)
        find(a);
    return r;
}

/* ---- writing ---- */

/* The sectors that hold [from, to), durably. */
static int co_write(struct area *a, size_t from, size_t to)
{
    struct iovec iov;
    size_t start = align_down(from, SECTOR), stop = align_up(to, SECTOR);
    int r = co_block_write(a->q->file, start, sgl_one(&iov, a->bytes + start, stop - start), 0);
    return r < 0 ? r : co_block_flush(a->q->file);
}

static bool one_sector(size_t from, size_t to)
{
    return from / SECTOR == (to - 1) / SECTOR;
}

static int co_store_fixed(struct area *a)
{
    qcow2_header_store_fixed(&a->q->header, a->bytes);
    return co_write(a, 0, SECTOR);
}

static int co_set_bit(struct area *a, bool set)
{
    uint64_t *features = &a->q->header.autoclear_features;
    uint64_t before = *features, bit = QCOW2_AUTOCLEAR_BITMAPS;
    *features = set ? before | bit : before & ~bit;
    return *features == before ? 0 : co_store_fixed(a);
}

/* The name of the backing file makes room for extensions up to @wanted. */
static int co_move_name(struct area *a, size_t wanted)
{
    struct qcow2_header *h = &a->q->header;
    size_t bytes = h->backing_file_size, old = h->backing_file_offset;
    size_t to = align_up(MAX(wanted, old + bytes), SECTOR);
    if (a->limit == a->q->cluster_size || to > a->q->cluster_size ||
        bytes > a->q->cluster_size - to)
        return NO_ROOM;
    memmove(a->bytes + to, a->bytes + old, bytes);
    int r = co_write(a, to, to + MAX(bytes, (size_t)1));
    if (r < 0)
        return r;
    h->backing_file_offset = to;
    r = co_store_fixed(a);
    if (r < 0) {
        h->backing_file_offset = old;
        return r;
    }
    /* The old name lies where an end mark or an extension may come to lie. */
    memset(a->bytes + old, 0, bytes);
    a->limit = to;
    return 0;
}

static int co_append(struct area *a, const uint8_t *payload)
{
    size_t length = EXTENSION_HEAD + PAYLOAD, wanted = a->end + length + EXTENSION_HEAD;
    int r = wanted > a->limit ? co_move_name(a, wanted) : 0;
    if (r < 0)
        return r;
    uint8_t *at = a->bytes + a->end;
    memcpy(at + EXTENSION_HEAD, payload, PAYLOAD);
    memset(at + length, 0, EXTENSION_HEAD);
    r = co_write(a, a->end + EXTENSION_HEAD, wanted);
    if (r < 0)
        return r;
    store_be32(at, QCOW2_EXT_BITMAPS);
    store_be32(at + 4, (uint32_t)PAYLOAD);
    return co_write(a, a->end, a->end + EXTENSION_HEAD);
}

static int co_replace(struct area *a, const uint8_t *payload)
{
    size_t from = a->at + EXTENSION_HEAD, to = from + PAYLOAD;
    int r = one_sector(from, to) ? 0 : co_set_bit(a, false);
    memcpy(a->bytes + from, payload, PAYLOAD);
    return r < 0 ? r : co_write(a, from, to);
}

static int co_remove(struct area *a)
{
    if (!a->at)
        return 0;
    size_t tail = a->end - (a->at + a->length), stop = MIN(a->end + EXTENSION_HEAD, a->limit);
    memmove(a->bytes + a->at, a->bytes + a->at + a->length, tail);
    memset(a->bytes + a->at + tail, 0, stop - (a->at + tail));
    return tail ? co_write(a, a->at, stop) : co_write(a, a->at, a->at + EXTENSION_HEAD);
}

/* ---- the switch ---- */

static int co_change(struct area *a, const struct qcow2_bitmaps_place *place)
{
    uint8_t payload[PAYLOAD];
    qcow2_bitmaps_place_store(place, payload);
    int r;
    if (place->count == 0) {
        r = co_set_bit(a, false);
        return r < 0 ? r : co_remove(a);
    }
    if (a->at && a->length == EXTENSION_HEAD + PAYLOAD) {
        r = co_replace(a, payload);
    } else {
        r = co_remove(a); /* of a length that cannot be: nobody looks at it */
        find(a);
        r = r < 0 ? r : co_append(a, payload);
    }
    return r < 0 ? r : co_set_bit(a, true);
}

/* The header in memory follows the one on disk. */
static int remember(struct qcow2 *q, const struct qcow2_bitmaps_place *place)
{
    uint8_t payload[PAYLOAD];
    qcow2_bitmaps_place_store(place, payload);
    int r = qcow2_header_set_extension(&q->header, QCOW2_EXT_BITMAPS, place->count ? payload : NULL,
                                       place->count ? PAYLOAD : 0);
    rt_mutex_lock(&q->lock);
    q->bitmaps.place = *place;
    q->bitmaps.valid = place->count;
    qcow2_reserve_ranges(q);
    rt_mutex_unlock(&q->lock);
    return r;
}

int qcow2_co_bitmaps_switch(struct qcow2 *q, const struct qcow2_bitmaps_place *place,
                            struct hws_error *err)
{
    struct area a = {.q = q};
    const char *name = q->node->filename;
    int r = co_read(&a);
    if (r == 0)
        r = co_change(&a, place);
    free(a.bytes);
    if (r == NO_ROOM && !q->bitmaps.valid)
        return hws_fail(err, ENOSPC,
                        "'%.200s': the header cluster (%llu bytes) has no room for bitmaps: use "
                        "larger clusters",
                        name, (unsigned long long)q->cluster_size);
    if (r == 0)
        r = remember(q, place);
    if (r == 0)
        return 0;
    /* Which directory the disk names is open. */
    atomic_store(&q->broken, r);
    return hws_fail_errno(err, -r, "'%.200s': writing the header", name);
}
