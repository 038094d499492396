/*
 * The bytes of one simulated file: sparse, so that a file may be terabytes long, and cheap to copy,
 * because images share their pages until one of them writes.
 *
 * Out of memory ends the program: the simulator only ever runs in tests. It takes memory with
 * reallocarray(), so that a test which makes malloc() fail leaves it alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SIM_IMAGE_H
#define RT_SIM_IMAGE_H

#include "base/common.h"

/* A page is what a hole is made of, as a block of a file system. */
#define SIM_PAGE_BYTES 4096

struct sim_page;

struct sim_slot {
    uint64_t index; /* of the page in the file */
    struct sim_page *page;
};

struct sim_image {
    struct sim_slot *slots; /* sorted by index; what is not here is a hole */
    size_t count, capacity;
    uint64_t size_bytes;
};

/** Memory that is there, or the end of the program. */
void *sim_alloc(void *old, size_t count, size_t bytes);

/** Drops all pages; the image is empty then. */
void sim_image_clear(struct sim_image *image);

/** Makes @to, which is cleared first, a copy of @from. */
void sim_image_copy(struct sim_image *to, const struct sim_image *from);

/** Bytes of holes and past the end are zeroes. */
void sim_image_read(const struct sim_image *image, uint64_t offset, void *bytes, size_t length);

/** Grows the file where the bytes lie past its end. */
void sim_image_write(struct sim_image *image, uint64_t offset, const void *bytes, size_t length);

/** Makes zeroes of a range; whole pages become holes. Does not grow the file. */
void sim_image_zero(struct sim_image *image, uint64_t offset, uint64_t length);

/** Cuts off, or adds a hole at the end. */
void sim_image_resize(struct sim_image *image, uint64_t size_bytes);

/** Pages that a write would have to add. */
uint64_t sim_image_holes(const struct sim_image *image, uint64_t offset, uint64_t length);

/** As lseek() with SEEK_DATA or SEEK_HOLE. @return the offset, or -ENXIO. */
int64_t sim_image_seek(const struct sim_image *image, uint64_t offset, int whence);

#endif
