/*
 * Fuzz target: the bitmaps extension and the bitmap directory. What parses must serialise to the
 * same bytes.
 *
 *   count of bitmaps, cluster bits, 24 bytes of extension, directory
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/bitmap.h"
#include "fuzz.h"

#define FIXED (2 + sizeof(struct qcow2_disk_bitmaps_extension))

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length < FIXED)
        return 0;
    struct qcow2_bitmap_limits limits = {.cluster_bits = 9 + bytes[1] % 13, .file_bytes = 1 << 30};
    struct qcow2_bitmaps_place place;
    struct hws_error err = {0};
    uint8_t stored[sizeof(struct qcow2_disk_bitmaps_extension)];
    int result = qcow2_bitmaps_place_parse(bytes + 2, sizeof(stored), &limits, &place, &err);
    assert(result == 0 || (err.code > 0 && err.text[0]));
    if (result == 0) {
        qcow2_bitmaps_place_store(&place, stored);
        assert(memcmp(stored, bytes + 2, sizeof(stored)) == 0);
    }
    struct qcow2_bitmap *bitmaps;
    uint32_t count = bytes[0];
    bytes += FIXED;
    length -= FIXED;
    result = qcow2_bitmaps_parse(bytes, length, count, &limits, &bitmaps, &err);
    assert(result == 0 || (err.code > 0 && err.text[0]));
    if (result < 0)
        return 0;
    assert(qcow2_bitmaps_bytes(bitmaps, count) == length);
    autofree uint8_t *again = malloc(length);
    assert(again);
    qcow2_bitmaps_serialise(bitmaps, count, again);
    assert(memcmp(again, bytes, length) == 0);
    for (uint32_t i = 0; i < count; i++)
        assert(bitmaps[i].name[0] && strlen(bitmaps[i].name) == bitmaps[i].name_bytes);
    qcow2_bitmaps_free(bitmaps, count);
    return 0;
}
