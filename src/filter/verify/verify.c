/*
 * The verify filter: a device that watches itself. Each read is compared
 *
 *     with `image`    a second image of the same content, which gets every write too;
 *     without         sums of what was read and written through this node before (model.h).
 *
 * The first difference is logged with its offset and the world stops: that read and every request
 * after it fail with -EIO, so that the evidence stays.
 *
 * Requests on one range are kept in order (reads beside reads, writes alone), because the content
 * under a read that races a write is nobody's promise. Discards write zeroes, for the same reason.
 * A write that fails leaves its range unknown; with a second image the two may differ then, and the
 * world stops as well.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter/verify/verify.h"
#include "base/log.h"
#include "block/range_lock.h"
#include "filter/verify/model.h"

/* Bytes of the second image that one request compares at a time. */
#define COMPARE_BYTES (256 * KiB)

struct verify_options {
    char *image;
    char *image_format;
    uint64_t limit_bytes;
};

struct verify {
    struct range_lock ranges;
    struct model model; /* table NULL: a second image is compared */
    atomic_bool stopped;
};

static struct block_node *file_of(const struct block_node *node)
{
    return node->child[BLOCK_FILE];
}

static struct block_node *image_of(const struct block_node *node)
{
    return node->child[BLOCK_DATA];
}

/* ---- opening ---- */

static int co_open_image(struct block_node *node, const struct verify_options *o,
                         struct hws_error *err)
{
    uint64_t size = block_size(file_of(node));

    int r = co_block_open_named(node, BLOCK_DATA, o->image, o->image_format, err);
    if (r < 0)
        return hws_wrap(err, r, "opening the image to compare with");
    if (block_size(image_of(node)) == size)
        return 0;
    return hws_fail(err, EINVAL, "'%s' has %llu bytes and '%s' has %llu: they cannot be compared",
                    block_filename(file_of(node)), (unsigned long long)size, o->image,
                    (unsigned long long)block_size(image_of(node)));
}

static int open_model(struct block_node *node, const struct verify_options *o,
                      struct hws_error *err)
{
    struct verify *v = node->state;
    uint64_t size = block_size(file_of(node));

    if (size > MODEL_SIZE_MAX)
        return hws_fail(err, EFBIG,
                        "'%s' has %llu bytes; above %llu give a second image to compare with",
                        block_filename(file_of(node)), (unsigned long long)size,
                        (unsigned long long)MODEL_SIZE_MAX);
    if (model_init(&v->model, size, o->limit_bytes) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    /* Only whole sectors can be remembered: the core reads around smaller writes. */
    node->limits.request_alignment = MODEL_SECTOR_BYTES;
    return 0;
}

static int co_verify_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct verify_options *o = options;
    struct verify *v = node->state;

    int r = o->image ? co_open_image(node, o, err) : open_model(node, o, err);
    if (r < 0)
        return r;
    range_lock_init(&v->ranges);
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, block_size(file_of(node)));
    return 0;
}

static int co_verify_close(struct block_node *node, struct hws_error *err)
{
    struct verify *v = node->state;

    model_destroy(&v->model);
    range_lock_destroy(&v->ranges);
    return 0;
}

/* ---- requests ---- */

static int stop_world(struct block_node *node)
{
    struct verify *v = node->state;

    atomic_store(&v->stopped, true);
    return -EIO;
}

static HWS_COLD int report_bytes(struct block_node *node, uint64_t offset, unsigned got,
                                 unsigned expected)
{
    log_error("verify: '%s' differs from '%s' at offset %llu: 0x%02x instead of 0x%02x; all "
              "requests fail from now on",
              block_filename(file_of(node)), block_filename(image_of(node)),
              (unsigned long long)offset, got, expected);
    return stop_world(node);
}

/* Compares @got, read at @offset, with the second image. */
static int co_compare_image(struct block_node *node, uint64_t offset, struct sgl got)
{
    size_t room = (size_t)MIN(COMPARE_BYTES, got.length);
    autofree uint8_t *bytes = NULL;

    /* Both halves are page-aligned, for images that are open with O_DIRECT. */
    if (posix_memalign((void **)&bytes, 4096, 2 * align_up(room, 4096)))
        return -ENOMEM;
    uint8_t *have = bytes, *want = bytes + align_up(room, 4096);
    for (size_t at = 0; at < got.length;) {
        struct iovec iov;
        size_t length = MIN(room, got.length - at);
        int r = co_block_read(image_of(node), offset + at, sgl_one(&iov, want, length), 0);
        if (r < 0)
            return r;
        sgl_to_buffer(sgl_slice(got, at, length), have);
        if (memcmp(have, want, length)) {
            size_t i = 0;
            while (have[i] == want[i])
                i++;
            return report_bytes(node, offset + at + i, have[i], want[i]);
        }
        at += length;
    }
    return 0;
}

static int compare_model(struct block_node *node, uint64_t offset, struct sgl got)
{
    struct verify *v = node->state;
    uint64_t differs;

    if (model_check(&v->model, offset, got, &differs))
        return 0;
    log_error("verify: the sector at offset %llu of '%s' is not what was last read or written "
              "there; all requests fail from now on",
              (unsigned long long)differs, block_filename(file_of(node)));
    return stop_world(node);
}

/* The core may pad the last request to the alignment; the file node ends where it ends. */
static uint64_t inside(struct block_node *node, uint64_t offset, uint64_t length)
{
    return MIN(length, block_size(node) - offset);
}

static int co_verify_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                          unsigned flags)
{
    struct verify *v = node->state;
    struct range_entry entry;
    uint64_t length = inside(node, offset, buffer.length);
    struct sgl real = sgl_slice(buffer, 0, length);

    if (atomic_load(&v->stopped))
        return -EIO;
    sgl_fill(sgl_slice(buffer, length, buffer.length - length), 0);
    co_range_lock(&v->ranges, &entry, offset, length, false);
    int r = co_block_read(file_of(node), offset, real, flags);
    if (r == 0)
        r = v->model.table ? compare_model(node, offset, real)
                           : co_compare_image(node, offset, real);
    range_unlock(&v->ranges, &entry);
    return r;
}

/* After a change of the file node ended with @r and one of the second image with @image_r. */
static int settle(struct block_node *node, uint64_t offset, uint64_t length, int r, int image_r)
{
    struct verify *v = node->state;

    if (r == 0 && image_r == 0)
        return 0;
    if (v->model.table) {
        model_forget(&v->model, offset, length);
        return r;
    }
    log_error("verify: writing at offset %llu gave %d for '%s' and %d for '%s': they may differ; "
              "all requests fail from now on",
              (unsigned long long)offset, r, block_filename(file_of(node)), image_r,
              block_filename(image_of(node)));
    return stop_world(node);
}

static int co_verify_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                           unsigned flags)
{
    struct verify *v = node->state;
    struct range_entry entry;
    uint64_t length = inside(node, offset, buffer.length);
    struct sgl real = sgl_slice(buffer, 0, length);
    int image_r = 0;

    if (atomic_load(&v->stopped))
        return -EIO;
    co_range_lock(&v->ranges, &entry, offset, length, true);
    int r = co_block_write(file_of(node), offset, real, flags);
    if (image_of(node))
        image_r = co_block_write(image_of(node), offset, real, flags);
    else if (r == 0)
        model_store(&v->model, offset, real);
    r = settle(node, offset, length, r, image_r);
    range_unlock(&v->ranges, &entry);
    return r;
}

static int co_verify_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                                  unsigned flags)
{
    struct verify *v = node->state;
    struct range_entry entry;
    int image_r = 0;

    if (atomic_load(&v->stopped))
        return -EIO;
    length = inside(node, offset, length);
    co_range_lock(&v->ranges, &entry, offset, length, true);
    int r = co_block_write_zeroes(file_of(node), offset, length, flags);
    if (r != -ENOTSUP) {
        if (image_of(node))
            image_r = co_block_write_zeroes(image_of(node), offset, length,
                                            flags & ~(unsigned)BLOCK_NO_FALLBACK);
        else if (r == 0)
            model_store_zeroes(&v->model, offset, length);
        r = settle(node, offset, length, r, image_r);
    }
    range_unlock(&v->ranges, &entry);
    return r;
}

static int co_verify_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    return co_verify_write_zeroes(node, offset, length, BLOCK_MAY_UNMAP);
}

static int co_verify_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct verify *v = node->state;
    uint64_t old = block_size(node);

    if (v->model.table) {
        int r = model_resize(&v->model, old, size_bytes);
        if (r < 0)
            return hws_fail_errno(err, -r, "remembering %llu bytes",
                                  (unsigned long long)size_bytes);
    }
    int r = co_block_resize(file_of(node), size_bytes, err);
    if (r == 0 && image_of(node))
        r = co_block_resize(image_of(node), size_bytes, err);
    if (r < 0)
        return r;
    atomic_store(&node->size_bytes, size_bytes);
    return 0;
}

static const struct option_desc verify_table[] = {
    {"image", OPTION_STRING, offsetof(struct verify_options, image),
     "a second image of the same content; without it sums are kept in memory"},
    {"image-format", OPTION_STRING, offsetof(struct verify_options, image_format),
     "format of the second image"},
    {"limit", OPTION_SIZE, offsetof(struct verify_options, limit_bytes),
     "memory for sums; 1/64 of what they cover", "256M", .max = MODEL_SIZE_MAX / 64},
    OPTION_END,
};

const struct block_driver verify_filter = {
    .name = "verify",
    .help = "compares every read with a second image or with what was seen before",
    .kind = BLOCK_FILTER,
    .needs_file = true,
    .state_bytes = sizeof(struct verify),
    .options = verify_table,
    .options_bytes = sizeof(struct verify_options),
    .co_open = co_verify_open,
    .co_close = co_verify_close,
    .co_read = co_verify_read,
    .co_write = co_verify_write,
    .co_write_zeroes = co_verify_write_zeroes,
    .co_discard = co_verify_discard,
    .co_resize = co_verify_resize,
};
