/*
 * Filling of buffers with seeded bytes; see base/random.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"

void random_fill(struct random *r, void *buffer, size_t length)
{
    uint8_t *at = buffer;
    while (length) {
        uint64_t word = random_u64(r);
        size_t piece = MIN(length, sizeof(word));
        memcpy(at, &word, piece);
        at += piece;
        length -= piece;
    }
}
