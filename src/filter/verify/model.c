/*
 * The verify filter's memory; see filter/verify/model.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter/verify/model.h"

int model_init(struct model *m, uint64_t size_bytes, uint64_t limit_bytes)
{
    assert(size_bytes <= MODEL_SIZE_MAX);
    *m = (struct model){
        .groups = div_round_up(size_bytes, MODEL_GROUP_BYTES),
        .limit_bytes = limit_bytes,
    };
    m->table = calloc(MAX(m->groups, 1u), sizeof(*m->table));
    return m->table ? 0 : -ENOMEM;
}

void model_destroy(struct model *m)
{
    for (uint64_t g = 0; m->table && g < m->groups; g++)
        free(atomic_load(&m->table[g]));
    free(m->table);
    m->table = NULL;
}

int model_resize(struct model *m, uint64_t old_bytes, uint64_t new_bytes)
{
    uint64_t groups = div_round_up(new_bytes, MODEL_GROUP_BYTES);

    if (new_bytes > MODEL_SIZE_MAX)
        return -EFBIG;
    model_forget(m, MIN(old_bytes, new_bytes),
                 m->groups * MODEL_GROUP_BYTES - MIN(old_bytes, new_bytes));
    if (groups <= m->groups)
        return 0; /* forgotten groups stay for the next growth */
    struct model_group *_Atomic *table = calloc(groups, sizeof(*table));
    if (!table)
        return -ENOMEM;
    for (uint64_t g = 0; g < m->groups; g++)
        atomic_store(&table[g], atomic_load(&m->table[g]));
    free(m->table);
    m->table = table;
    m->groups = groups;
    return 0;
}

/* The place of a sector's sum; NULL where it is not there and not to be made, or past the limit. */
static _Atomic uint64_t *sum_at(struct model *m, uint64_t offset, bool make)
{
    uint64_t g = offset / MODEL_GROUP_BYTES;
    assert(g < m->groups);
    struct model_group *group = atomic_load(&m->table[g]), *none = NULL;

    if (!group && make) {
        if (atomic_fetch_add(&m->used_bytes, sizeof(*group)) + sizeof(*group) <= m->limit_bytes)
            group = calloc(1, sizeof(*group));
        if (!group) {
            atomic_fetch_sub(&m->used_bytes, sizeof(*group));
            return NULL;
        }
        if (!atomic_compare_exchange_strong(&m->table[g], &none, group)) {
            free(group); /* another thread was faster */
            atomic_fetch_sub(&m->used_bytes, sizeof(*group));
            group = none;
        }
    }
    return group ? &group->sum[offset % MODEL_GROUP_BYTES / MODEL_SECTOR_BYTES] : NULL;
}

/* Never 0. */
static uint64_t sum_of(const void *sector)
{
    const uint8_t *bytes = sector;
    uint64_t sum = 0x243f6a8885a308d3ull;

    for (unsigned i = 0; i < MODEL_SECTOR_BYTES; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        sum = (sum ^ word) * 0x9fb21c651e98df25ull;
        sum ^= sum >> 32;
    }
    return sum | 1;
}

static uint64_t sum_of_piece(struct sgl buffer, size_t at)
{
    uint8_t sector[MODEL_SECTOR_BYTES];

    sgl_to_buffer(sgl_slice(buffer, at, MODEL_SECTOR_BYTES), sector);
    return sum_of(sector);
}

void model_store(struct model *m, uint64_t offset, struct sgl buffer)
{
    for (size_t at = 0; at + MODEL_SECTOR_BYTES <= buffer.length; at += MODEL_SECTOR_BYTES) {
        _Atomic uint64_t *sum = sum_at(m, offset + at, true);
        if (sum)
            atomic_store(sum, sum_of_piece(buffer, at));
    }
}

void model_store_zeroes(struct model *m, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[MODEL_SECTOR_BYTES];
    uint64_t zero_sum = sum_of(zeroes);

    for (uint64_t at = offset; at + MODEL_SECTOR_BYTES <= offset + length;) {
        _Atomic uint64_t *sum = sum_at(m, at, true);
        if (sum)
            atomic_store(sum, zero_sum);
        at = sum ? at + MODEL_SECTOR_BYTES : align_down(at, MODEL_GROUP_BYTES) + MODEL_GROUP_BYTES;
    }
}

void model_forget(struct model *m, uint64_t offset, uint64_t length)
{
    uint64_t end = MIN(offset + length, m->groups * MODEL_GROUP_BYTES);

    for (uint64_t at = align_down(offset, MODEL_SECTOR_BYTES); at < end;) {
        _Atomic uint64_t *sum = sum_at(m, at, false);
        if (sum)
            atomic_store(sum, 0);
        at = sum ? at + MODEL_SECTOR_BYTES : align_down(at, MODEL_GROUP_BYTES) + MODEL_GROUP_BYTES;
    }
}

bool model_check(struct model *m, uint64_t offset, struct sgl buffer, uint64_t *ret_offset)
{
    for (size_t at = 0; at + MODEL_SECTOR_BYTES <= buffer.length; at += MODEL_SECTOR_BYTES) {
        _Atomic uint64_t *known = sum_at(m, offset + at, true);
        if (!known)
            continue;
        uint64_t sum = sum_of_piece(buffer, at), before = atomic_load(known);
        if (before != 0 && before != sum) {
            *ret_offset = offset + at;
            return false;
        }
        atomic_store(known, sum);
    }
    return true;
}
