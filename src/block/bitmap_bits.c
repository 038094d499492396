/*
 * The bits of a dirty bitmap: setting without a lock, finding the next dirty or clean one,
 * counting.
 *
 * A summary bit is set before the bits that it stands for and never taken away while others may
 * write, so it may say "perhaps" of clean bits, and never "none" of a dirty one.
 *
 * The order with the data: a change's I/O has ended before its bit is looked at or set, and who
 * takes bits away does so before it reads the data. Loads and exchanges are sequentially
 * consistent: a change that found its bit set has ended before that bit is taken away.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "block/core.h"

#define GROUP_WORDS (BLOCK_BITMAP_GROUP_BITS / 64)

static inline uint64_t mask_of(uint64_t word, uint64_t first, uint64_t last)
{
    uint64_t mask = UINT64_MAX;
    if (word == first / 64)
        mask &= UINT64_MAX << (first % 64);
    if (word == last / 64)
        mask &= UINT64_MAX >> (63 - last % 64);
    return mask;
}

static inline void set_word(struct block_bitmap *b, uint64_t word, uint64_t mask)
{
    if ((atomic_load(&b->word[word]) & mask) == mask)
        return;
    uint64_t group = word / GROUP_WORDS, group_mask = 1ull << (group % 64);
    if (!(atomic_load(&b->summary[group / 64]) & group_mask))
        atomic_fetch_or(&b->summary[group / 64], group_mask);
    atomic_fetch_or(&b->word[word], mask);
}

void block_bitmap_set(struct block_bitmap *b, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> b->granularity_bits;
    if (length == 0 || first >= b->bits)
        return;
    uint64_t last = MIN((offset + length - 1) >> b->granularity_bits, b->bits - 1);
    if (likely(first / 64 == last / 64)) {
        set_word(b, first / 64, mask_of(first / 64, first, last));
        return;
    }
    for (uint64_t word = first / 64; word <= last / 64; word++)
        set_word(b, word, mask_of(word, first, last));
}

void bitmaps_note(struct block_bitmap *first, uint64_t offset, uint64_t length)
{
    for (struct block_bitmap *b = first; b; b = atomic_load(&b->next_tracked))
        block_bitmap_set(b, offset, length);
}

/* ---- finding ---- */

/* The next word at @word or behind whose summary does not say that it is 0. */
static uint64_t skip_clean(const struct block_bitmap *b, uint64_t word)
{
    uint64_t words = div_round_up(b->bits, 64), group = word / GROUP_WORDS;
    uint64_t groups = div_round_up(words, GROUP_WORDS);
    uint64_t left = atomic_load(&b->summary[group / 64]) & UINT64_MAX << (group % 64);
    uint64_t at = group / 64;
    while (!left && ++at * 64 < groups)
        left = atomic_load(&b->summary[at]);
    if (!left)
        return words;
    uint64_t found = (at * 64 + (unsigned)__builtin_ctzll(left)) * GROUP_WORDS;
    return MAX(found, word);
}

/* The first bit from @bit on that is @wanted; b->bits where there is none. */
static uint64_t find(const struct block_bitmap *b, uint64_t bit, bool wanted)
{
    uint64_t words = div_round_up(b->bits, 64), word = bit / 64;
    uint64_t flip = wanted ? 0 : UINT64_MAX, first = UINT64_MAX << (bit % 64);
    while (word < words) {
        if (wanted && (word % GROUP_WORDS == 0 || first != UINT64_MAX)) {
            uint64_t next = skip_clean(b, word);
            if (next != word) {
                word = next;
                first = UINT64_MAX;
                continue;
            }
        }
        uint64_t found = (atomic_load(&b->word[word]) ^ flip) & first;
        if (found)
            return MIN(word * 64 + (unsigned)__builtin_ctzll(found), b->bits);
        first = UINT64_MAX;
        word++;
    }
    return b->bits;
}

bool bitmap_run(const struct block_bitmap *b, uint64_t offset, uint64_t length,
                uint64_t *ret_length)
{
    uint64_t bit = offset >> b->granularity_bits;
    bool dirty = atomic_load(&b->word[bit / 64]) >> (bit % 64) & 1;
    uint64_t end = find(b, bit, !dirty);
    uint64_t run = end == b->bits ? length : (end << b->granularity_bits) - offset;
    *ret_length = MIN(length, run);
    return dirty;
}

uint64_t bitmap_dirty_bytes(const struct block_bitmap *b)
{
    uint64_t words = div_round_up(b->bits, 64), count = 0;
    for (uint64_t word = skip_clean(b, 0); word < words;) {
        count += (unsigned)__builtin_popcountll(atomic_load(&b->word[word]));
        word++;
        if (word % GROUP_WORDS == 0 && word < words)
            word = skip_clean(b, word);
    }
    uint64_t bytes = count << b->granularity_bits;
    if (b->bits && find(b, b->bits - 1, true) < b->bits)
        bytes -= (b->bits << b->granularity_bits) - block_size(b->node);
    return bytes;
}

/* ---- memory ---- */

void bitmap_clear_bits(struct block_bitmap *b)
{
    uint64_t words = div_round_up(b->bits, 64);
    for (uint64_t word = skip_clean(b, 0); word < words;) {
        if (atomic_load(&b->word[word]))
            atomic_store(&b->word[word], 0);
        word++;
        if (word % GROUP_WORDS == 0 && word < words)
            word = skip_clean(b, word);
    }
}

void bitmap_merge_bits(struct block_bitmap *to, const struct block_bitmap *from)
{
    uint64_t end = MIN(from->bits << from->granularity_bits, to->bits << to->granularity_bits);
    for (uint64_t bit = find(from, 0, true); bit < from->bits;) {
        uint64_t stop = find(from, bit, false);
        uint64_t start = bit << from->granularity_bits;
        block_bitmap_set(to, start, MIN(stop << from->granularity_bits, end) - start);
        bit = find(from, stop, true);
    }
}

static uint64_t summary_words(uint64_t words)
{
    return div_round_up(div_round_up(words, GROUP_WORDS), 64);
}

int bitmap_reserve(struct block_bitmap *b, uint64_t bits)
{
    uint64_t words = div_round_up(bits, 64);
    if (b->word && words <= b->capacity_words)
        return 0;
    /* Large ones are the kernel's zero pages until they are written. */
    _Atomic uint64_t *word = calloc(MAX(words, 1ull), sizeof(*word));
    _Atomic uint64_t *summary = calloc(MAX(summary_words(words), 1ull), sizeof(*summary));
    if (!word || !summary) {
        free(word);
        free(summary);
        return -ENOMEM;
    }
    if (b->word) {
        memcpy(word, b->word, b->capacity_words * sizeof(*word));
        memcpy(summary, b->summary, summary_words(b->capacity_words) * sizeof(*summary));
        free(b->word);
        free(b->summary);
    }
    b->word = word;
    b->summary = summary;
    b->capacity_words = words;
    return 0;
}

void bitmap_set_bits(struct block_bitmap *b, uint64_t bits)
{
    assert(div_round_up(bits, 64) <= b->capacity_words);
    /* What a shorter one no longer has must be clean when it becomes longer again. */
    for (uint64_t word = bits / 64; word < div_round_up(b->bits, 64) && bits < b->bits; word++)
        b->word[word] &= word == bits / 64 ? (1ull << (bits % 64)) - 1 : 0;
    b->bits = bits;
}
