/*
 * Replacing the whole header: extensions, names and fixed fields, in steps that each leave an image
 * that opens, whichever sectors of a torn write reach the disk. A sector of 512 bytes is the only
 * thing that is written whole or not at all.
 *
 *   0      fixed fields, |extensions, backing name ...........|              old
 *   1                    |....................................|  new copy    written where nothing
 *                                                                            is, durable
 *   2      fixed fields, |FILLER extension over the dead bytes>  new copy    one sector: the switch
 *   3                    |extensions, backing name ...........|              rewritten below the
 *                                                                            filler, durable
 *   4      fixed fields, |extensions, backing name ...........|              one sector
 *
 * What fits sector 0 altogether is one write. The filler is an extension of a type that nobody
 * knows: programs pass over those, and keep them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

#define SECTOR 512u

/* ---- headers in memory ---- */

static int copy_text(const char *text, char **ret)
{
    *ret = text ? strdup(text) : NULL;
    return text && !*ret ? -ENOMEM : 0;
}

int qcow2_header_copy(const struct qcow2_header *header, struct qcow2_header *ret)
{
    *ret = *header;
    ret->extensions = 0;
    ret->more_fields = NULL;
    ret->backing_file = ret->backing_format = ret->data_file = NULL;
    int r = copy_text(header->backing_file, &ret->backing_file);
    if (r == 0)
        r = copy_text(header->backing_format, &ret->backing_format);
    if (r == 0)
        r = copy_text(header->data_file, &ret->data_file);
    if (r == 0 && header->more_fields_bytes) {
        ret->more_fields = malloc(header->more_fields_bytes);
        if (ret->more_fields)
            memcpy(ret->more_fields, header->more_fields, header->more_fields_bytes);
        else
            r = -ENOMEM;
    }
    for (unsigned i = 0; r == 0 && i < header->extensions; i++) {
        const struct qcow2_extension *from = &header->extension[i];
        struct qcow2_extension *to = &ret->extension[i];
        *to = *from;
        to->data = malloc(from->length ? from->length : 1);
        if (!to->data) {
            r = -ENOMEM;
            break;
        }
        memcpy(to->data, from->data, from->length);
        ret->extensions++;
    }
    if (r < 0)
        qcow2_header_free(ret);
    return r;
}

/* What the header uses of its cluster: up to the end mark, or the backing name behind it. */
static uint64_t used_bytes(const struct qcow2_header *h)
{
    uint64_t end = h->header_length + sizeof(struct qcow2_disk_extension);
    for (unsigned i = 0; i < h->extensions; i++)
        end += sizeof(struct qcow2_disk_extension) + align_up(h->extension[i].length, 8);
    /* Without an offset the size means nothing, and may be anything. */
    return h->backing_file ? MAX(end, h->backing_file_offset + h->backing_file_size) : end;
}

/* ---- steps ---- */

static int co_write(struct qcow2 *q, uint8_t *cluster, uint64_t start, uint64_t end)
{
    struct iovec iov;
    int r = co_block_write(q->file, start, sgl_one(&iov, cluster + start, end - start), 0);
    return r < 0 ? r : co_block_flush(q->file);
}

/* The header in memory is what sector 0 now says. @h keeps what was. */
static void adopt(struct qcow2 *q, struct qcow2_header *h)
{
    struct qcow2_header before = q->header;
    rt_mutex_lock(&q->lock);
    q->header = *h;
    rt_mutex_unlock(&q->lock);
    *h = before;
}

/* Dead bytes become zeroes again; nothing depends on it. */
static void co_clear(struct qcow2 *q, uint8_t *cluster, uint64_t start, uint64_t end)
{
    struct iovec iov;
    if (start >= end)
        return;
    memset(cluster + start, 0, end - start);
    (void)!co_block_write(q->file, start, sgl_one(&iov, cluster + start, end - start), 0);
}

/* @other: a cluster with the header as it is between: a filler up to @place, then the rest. */
static void make_between(const struct qcow2_header *h, const uint8_t *cluster, uint64_t place,
                         uint64_t end, uint8_t *other)
{
    struct qcow2_header moved = *h;
    uint64_t start = h->header_length;
    memcpy(other, cluster, start);
    store_be32(other + start, QCOW2_EXT_FILLER);
    store_be32(other + start + 4, (uint32_t)(place - start - sizeof(struct qcow2_disk_extension)));
    memcpy(other + place, cluster + start, end - start);
    if (moved.backing_file_offset)
        moved.backing_file_offset += place - start;
    qcow2_header_store_fixed(&moved, other);
}

/*
 * A write failed: the way back, in an order that leaves a whole header at every step, @between
 * (NULL: there is none) first. Where that fails too nobody knows which header is there.
 */
static int co_undo(struct qcow2 *q, uint8_t *between, uint8_t *old, uint64_t end, int failure,
                   struct hws_error *err)
{
    int r = between ? co_write(q, between, 0, SECTOR) : 0;
    if (r == 0 && between)
        r = co_write(q, old, SECTOR, align_up(end, SECTOR));
    if (r == 0)
        r = co_write(q, old, 0, SECTOR);
    if (r < 0)
        atomic_store(&q->broken, failure);
    return hws_fail_errno(err, -failure, "'%.200s': writing the header", q->node->filename);
}

/* @cluster: the new header cluster; it ends at @end, the @old one at @old_end. */
static int co_switch(struct qcow2 *q, struct qcow2_header *h, uint8_t *cluster, uint64_t end,
                     uint8_t *old, uint64_t old_end, struct hws_error *err)
{
    uint64_t place = align_up(MAX(end, old_end), SECTOR);
    uint64_t place_end = align_up(place + end - h->header_length, SECTOR);
    if (place_end > q->cluster_size ||
        h->header_length + sizeof(struct qcow2_disk_extension) > SECTOR)
        return hws_fail(err, ENOSPC,
                        "'%.200s': clusters of %llu bytes are too small to replace this header in "
                        "a way that a power cut cannot break; use a shorter backing file name",
                        q->node->filename, (unsigned long long)q->cluster_size);
    autofree uint8_t *between = qcow2_buffer(q->cluster_size);
    if (!between)
        return hws_fail(err, ENOMEM, "out of memory");
    make_between(h, cluster, place, end, between);
    int r = co_write(q, between, place, place_end);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': writing the new header", q->node->filename);
    r = co_write(q, between, 0, SECTOR);
    if (r == 0)
        r = co_write(q, cluster, SECTOR, align_up(end, SECTOR));
    if (r == 0)
        r = co_write(q, cluster, 0, SECTOR);
    if (r < 0)
        return co_undo(q, between, old, MAX(end, old_end), r, err);
    adopt(q, h);
    co_clear(q, between, place, place_end);
    return 0;
}

int qcow2_co_header_replace(struct qcow2 *q, struct qcow2_header *h, struct hws_error *err)
{
    struct iovec iov;
    autofree uint8_t *cluster = qcow2_buffer(q->cluster_size);
    autofree uint8_t *old = qcow2_buffer(q->cluster_size);
    if (!cluster || !old)
        return hws_fail(err, ENOMEM, "out of memory");
    /* One that an interrupted call left. */
    (void)!qcow2_header_set_extension(h, QCOW2_EXT_FILLER, NULL, 0);
    uint64_t old_end = used_bytes(&q->header);
    int r = qcow2_header_serialise(h, cluster, q->cluster_size, err);
    if (r < 0)
        return r;
    r = co_block_read_padded(q->file, 0, sgl_one(&iov, old, q->cluster_size));
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': reading the header", q->node->filename);
    uint64_t end = used_bytes(h);
    if (end > SECTOR)
        return co_switch(q, h, cluster, end, old, old_end, err);
    r = co_write(q, cluster, 0, SECTOR);
    if (r < 0)
        return co_undo(q, NULL, old, 0, r, err);
    adopt(q, h);
    co_clear(q, cluster, SECTOR, align_up(old_end, SECTOR));
    return 0;
}

/* ---- the backing file ---- */

static int check_names(const struct qcow2 *q, const char *file, const char *format,
                       struct hws_error *err)
{
    if (file && (!*file || strlen(file) > QCOW2_BACKING_NAME_MAX))
        return hws_fail(err, EINVAL, "'%.200s': the name of a backing file has 1 to %d bytes",
                        q->node->filename, QCOW2_BACKING_NAME_MAX);
    if (file && (!format || !*format || strlen(format) > QCOW2_BACKING_FORMAT_MAX))
        return hws_fail(err, EINVAL,
                        "'%.200s': the format of a backing file must be recorded with it, in 1 to "
                        "%d bytes",
                        q->node->filename, QCOW2_BACKING_FORMAT_MAX);
    return 0;
}

static int set_backing(struct qcow2_header *h, const char *file, const char *format)
{
    free(steal_ptr(&h->backing_file));
    free(steal_ptr(&h->backing_format));
    int r = copy_text(file, &h->backing_file);
    if (r == 0 && file)
        r = copy_text(format, &h->backing_format);
    if (r == 0)
        r = qcow2_header_set_extension(h, QCOW2_EXT_BACKING_FORMAT, file ? format : NULL,
                                       file ? strlen(format) : 0);
    return r;
}

int qcow2_co_change_backing(struct block_node *node, const char *file, const char *format,
                            struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct qcow2_header *h = calloc(1, sizeof(*h));
    if (!h)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = check_names(q, file, format, err);
    if (r == 0) {
        r = qcow2_co_prepare_write(q);
        /* What the image holds itself must be there before it is read over another file. */
        if (r == 0)
            r = qcow2_co_flush(node);
        if (r < 0)
            hws_fail_errno(err, -r, "'%.200s': writing metadata back", node->filename);
    }
    if (r == 0) {
        co_mutex_lock(&q->alloc_lock);
        r = qcow2_header_copy(&q->header, h);
        if (r == 0)
            r = set_backing(h, file, format);
        r = r < 0 ? hws_fail_errno(err, -r, "'%.200s': recording its backing file", node->filename)
                  : qcow2_co_header_replace(q, h, err);
        co_mutex_unlock(&q->alloc_lock);
        qcow2_header_free(h);
    }
    free(h);
    return r;
}
