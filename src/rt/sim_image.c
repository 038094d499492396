/*
 * Sparse images with shared pages; see sim_image.h.
 *
 * The page table is a sorted array: look-up is a binary search, and inserting moves 16 bytes a page
 * behind, which for the few thousand pages of a test costs less than a tree.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_image.h"

struct sim_page {
    unsigned references;
    uint8_t bytes[SIM_PAGE_BYTES];
};

void *sim_alloc(void *old, size_t count, size_t bytes)
{
    void *memory = reallocarray(old, MAX(count, (size_t)1), bytes);
    if (!memory) {
        fprintf(stderr, "sim: out of memory (%zu x %zu bytes)\n", count, bytes);
        abort();
    }
    return memory;
}

static void page_unref(struct sim_page *page)
{
    assert(page->references > 0);
    if (--page->references == 0)
        free(page);
}

/** First slot whose index is not below @index. */
static size_t slot_find(const struct sim_image *image, uint64_t index)
{
    size_t low = 0, high = image->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (image->slots[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool slot_is(const struct sim_image *image, size_t at, uint64_t index)
{
    return at < image->count && image->slots[at].index == index;
}

/** The page at @index for writing: made, or taken out of sharing, where needed. */
static struct sim_page *page_writable(struct sim_image *image, uint64_t index)
{
    size_t at = slot_find(image, index);
    struct sim_page *page;
    if (!slot_is(image, at, index)) {
        if (image->count == image->capacity) {
            image->capacity = image->capacity ? image->capacity * 2 : 16;
            image->slots = sim_alloc(image->slots, image->capacity, sizeof(image->slots[0]));
        }
        page = sim_alloc(NULL, 1, sizeof(*page));
        *page = (struct sim_page){.references = 1};
        memmove(&image->slots[at + 1], &image->slots[at],
                (image->count - at) * sizeof(image->slots[0]));
        image->slots[at] = (struct sim_slot){.index = index, .page = page};
        image->count++;
        return page;
    }
    page = image->slots[at].page;
    if (page->references > 1) {
        struct sim_page *own = sim_alloc(NULL, 1, sizeof(*own));
        memcpy(own, page, sizeof(*own));
        own->references = 1;
        page_unref(page);
        image->slots[at].page = page = own;
    }
    return page;
}

static void slots_drop(struct sim_image *image, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        page_unref(image->slots[i].page);
    if (to > from && to < image->count)
        memmove(&image->slots[from], &image->slots[to],
                (image->count - to) * sizeof(image->slots[0]));
    image->count -= to - from;
}

void sim_image_clear(struct sim_image *image)
{
    slots_drop(image, 0, image->count);
    free(image->slots);
    *image = (struct sim_image){0};
}

void sim_image_copy(struct sim_image *to, const struct sim_image *from)
{
    sim_image_clear(to);
    to->size_bytes = from->size_bytes;
    if (from->count == 0)
        return;
    to->slots = sim_alloc(NULL, from->count, sizeof(to->slots[0]));
    to->count = to->capacity = from->count;
    memcpy(to->slots, from->slots, from->count * sizeof(to->slots[0]));
    for (size_t i = 0; i < to->count; i++)
        to->slots[i].page->references++;
}

void sim_image_read(const struct sim_image *image, uint64_t offset, void *bytes, size_t length)
{
    uint8_t *out = bytes;
    memset(out, 0, length);
    uint64_t end = offset + length;
    for (size_t at = slot_find(image, offset / SIM_PAGE_BYTES); at < image->count; at++) {
        uint64_t start = image->slots[at].index * SIM_PAGE_BYTES;
        if (start >= end)
            break;
        uint64_t from = MAX(start, offset), to = MIN(start + SIM_PAGE_BYTES, end);
        memcpy(out + (from - offset), image->slots[at].page->bytes + (from - start), to - from);
    }
}

void sim_image_write(struct sim_image *image, uint64_t offset, const void *bytes, size_t length)
{
    const uint8_t *in = bytes;
    uint64_t end = offset + length;
    while (offset < end) {
        size_t within = offset % SIM_PAGE_BYTES;
        size_t piece = MIN((size_t)(end - offset), SIM_PAGE_BYTES - within);
        memcpy(page_writable(image, offset / SIM_PAGE_BYTES)->bytes + within, in, piece);
        offset += piece;
        in += piece;
    }
    image->size_bytes = MAX(image->size_bytes, end);
}

void sim_image_zero(struct sim_image *image, uint64_t offset, uint64_t length)
{
    uint64_t end = MIN(offset + length, align_up(image->size_bytes, SIM_PAGE_BYTES));
    if (offset >= end)
        return;
    uint64_t first = div_round_up(offset, SIM_PAGE_BYTES), last = end / SIM_PAGE_BYTES;
    if (first < last)
        slots_drop(image, slot_find(image, first), slot_find(image, last));
    /* The partial pages at both ends, which may be one and the same. */
    uint64_t edges[2] = {offset / SIM_PAGE_BYTES, (end - 1) / SIM_PAGE_BYTES};
    for (int i = 0; i < 2; i++) {
        if (!slot_is(image, slot_find(image, edges[i]), edges[i]))
            continue;
        uint64_t start = edges[i] * SIM_PAGE_BYTES;
        uint64_t from = MAX(start, offset), to = MIN(start + SIM_PAGE_BYTES, end);
        memset(page_writable(image, edges[i])->bytes + (from - start), 0, to - from);
    }
}

void sim_image_resize(struct sim_image *image, uint64_t size_bytes)
{
    /* Zeroes behind the new end now, so that growing again finds none of the old bytes. */
    if (size_bytes < image->size_bytes)
        sim_image_zero(image, size_bytes, align_up(image->size_bytes, SIM_PAGE_BYTES) - size_bytes);
    image->size_bytes = size_bytes;
}

uint64_t sim_image_holes(const struct sim_image *image, uint64_t offset, uint64_t length)
{
    if (length == 0)
        return 0;
    uint64_t first = offset / SIM_PAGE_BYTES;
    uint64_t last = (offset + length - 1) / SIM_PAGE_BYTES + 1;
    return last - first - (slot_find(image, last) - slot_find(image, first));
}

int64_t sim_image_seek(const struct sim_image *image, uint64_t offset, int whence)
{
    if (offset >= image->size_bytes)
        return -ENXIO;
    uint64_t index = offset / SIM_PAGE_BYTES;
    size_t at = slot_find(image, index);
    if (whence == SEEK_DATA) {
        if (at == image->count)
            return -ENXIO;
        uint64_t start = MAX(image->slots[at].index * SIM_PAGE_BYTES, offset);
        return start < image->size_bytes ? (int64_t)start : -ENXIO;
    }
    uint64_t hole = offset;
    for (; slot_is(image, at, index); at++)
        hole = ++index * SIM_PAGE_BYTES;
    return (int64_t)MIN(hole, image->size_bytes);
}
