/*
 * The model of a guest's disk; see guest.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "guest.h"
#include "base/random.h"
#include "base/sgl.h"

#define NEVER     UINT64_MAX

#define TAG_MAGIC 0x6861777365722121ull

/* ---- memory that is there even where a test makes malloc() fail ---- */

static void *take(void *old, size_t count, size_t bytes)
{
    void *memory = reallocarray(old, MAX(count, (size_t)1), bytes);
    if (!memory)
        abort();
    return memory;
}

/* ---- tags ---- */

static void tag_make(uint64_t sector, uint64_t value, uint8_t *bytes)
{
    if (value == 0) {
        memset(bytes, 0, GUEST_SECTOR_BYTES);
        return;
    }
    uint64_t head[3] = {TAG_MAGIC, sector, value};
    memcpy(bytes, head, sizeof(head));
    struct random fill = random_seed(sector * 0x10001 + value);
    random_fill(&fill, bytes + sizeof(head), GUEST_SECTOR_BYTES - sizeof(head));
}

static void tag_print(const uint8_t *bytes)
{
    uint64_t head[3];
    memcpy(head, bytes, sizeof(head));
    uint8_t whole[GUEST_SECTOR_BYTES];
    if (buffer_is_zero(bytes, GUEST_SECTOR_BYTES)) {
        fprintf(stderr, "zeroes");
        return;
    }
    if (head[0] != TAG_MAGIC) {
        fprintf(stderr, "bytes that no guest wrote:");
        for (unsigned i = 0; i < 32; i++)
            fprintf(stderr, " %02x", bytes[i]);
        return;
    }
    tag_make(head[1], head[2], whole);
    fprintf(stderr, "sector %#llx of write %llu%s", (unsigned long long)head[1],
            (unsigned long long)head[2],
            memcmp(whole, bytes, sizeof(whole)) == 0 ? "" : ", damaged");
}

/** @return true and the number of the write, or 0 for zeroes, where @bytes belong to @sector. */
static bool tag_read(uint64_t sector, const uint8_t *bytes, uint64_t *ret_value)
{
    uint8_t whole[GUEST_SECTOR_BYTES];
    uint64_t head[3];
    memcpy(head, bytes, sizeof(head));
    *ret_value = head[0] == TAG_MAGIC ? head[2] : 0;
    tag_make(sector, *ret_value, whole);
    return memcmp(whole, bytes, sizeof(whole)) == 0;
}

/* ---- cells ---- */

static void cell_add(struct guest_cell *cell, uint64_t value, uint64_t submitted)
{
    if (!cell->values) {
        cell->values = take(NULL, 2, sizeof(cell->values[0]));
        cell->values[0] = (struct guest_value){.value = cell->settled, .past = NEVER};
        cell->count = 1;
    } else {
        cell->values = take(cell->values, cell->count + 1, sizeof(cell->values[0]));
    }
    cell->values[cell->count++] =
        (struct guest_value){.value = value, .submitted = submitted, .ended = NEVER, .past = NEVER};
}

/** Forgets what neither a crash nor a read that began at @oldest_read or later can show. */
static void cell_prune(struct guest_cell *cell, uint64_t oldest_read)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < cell->count; i++) {
        const struct guest_value *v = &cell->values[i];
        if (!v->gone || v->past > oldest_read)
            cell->values[kept++] = *v;
    }
    cell->count = kept;
    if (kept == 1 && cell->values[0].ended != NEVER) {
        cell->settled = cell->values[0].value;
        free(cell->values);
        cell->values = NULL;
        cell->count = 0;
    }
}

/** What was past at @time is gone. */
static void cell_flush(struct guest_cell *cell, uint64_t time, uint64_t oldest_read)
{
    for (unsigned i = 0; i < cell->count; i++)
        cell->values[i].gone |= cell->values[i].past <= time;
    cell_prune(cell, oldest_read);
}

/** The change that was submitted at @submitted ended. */
static void cell_end(struct guest_cell *cell, uint64_t submitted, uint64_t now,
                     enum guest_result result)
{
    for (unsigned i = 0; i < cell->count; i++) {
        struct guest_value *v = &cell->values[i];
        if (v->submitted == submitted) {
            v->ended = now;
        } else if (result != GUEST_UNSURE && v->ended < submitted) {
            v->past = MIN(v->past, now);
            /* What was over when this one was submitted cannot come back. */
            v->gone |= result == GUEST_DURABLE;
        }
    }
}

/* Instead of the start of a read: what a crash may show. */
#define AFTER_CRASH 0

static bool cell_may_be(const struct guest_cell *cell, uint64_t value, uint64_t since)
{
    if (!cell->values)
        return cell->settled == value;
    for (unsigned i = 0; i < cell->count; i++) {
        const struct guest_value *v = &cell->values[i];
        if (v->value == value && (since == AFTER_CRASH ? !v->gone : v->past > since))
            return true;
    }
    return false;
}

/** A read saw @value while nothing was in flight: the other possible values are past. */
static void cell_saw(struct guest_cell *cell, uint64_t value, uint64_t start, uint64_t now)
{
    bool current = false;
    for (unsigned i = 0; i < cell->count; i++) {
        const struct guest_value *v = &cell->values[i];
        if (v->ended > start) /* in flight, or was when the read began */
            return;
        current |= v->value == value && v->past == NEVER;
    }
    if (!current)
        return;
    bool kept = false;
    for (unsigned i = cell->count; i-- > 0;) {
        struct guest_value *v = &cell->values[i];
        if (v->past != NEVER)
            continue;
        if (v->value == value && !kept)
            kept = true;
        else
            v->past = now;
    }
}

static void cell_print(const struct guest_cell *cell)
{
    if (!cell->values)
        fprintf(stderr, " %llu", (unsigned long long)cell->settled);
    for (unsigned i = 0; i < cell->count; i++) {
        const struct guest_value *v = &cell->values[i];
        fprintf(stderr, " %llu%s", (unsigned long long)v->value,
                v->ended == NEVER  ? " (in flight)"
                : v->gone          ? " (gone)"
                : v->past != NEVER ? " (overwritten)"
                                   : "");
    }
}

static void cell_copy(struct guest_cell *to, const struct guest_cell *from)
{
    *to = *from;
    if (from->values) {
        to->values = take(NULL, from->count, sizeof(from->values[0]));
        memcpy(to->values, from->values, from->count * sizeof(from->values[0]));
    }
}

/* ---- life ---- */

struct guest *guest_new(uint64_t sectors)
{
    struct guest *guest = take(NULL, 1, sizeof(*guest));
    *guest = (struct guest){.size = {.settled = sectors}, .clock = 1};
    guest_layer(guest, sectors);
    return guest;
}

struct guest *guest_free(struct guest *guest)
{
    if (!guest)
        return NULL;
    for (uint64_t i = 0; i < guest->sectors; i++)
        free(guest->sector[i].values);
    for (unsigned i = 0; i < GUEST_HELD_MAX; i++)
        guest_unhold(&guest->held[i]);
    free(guest->size.values);
    free(guest->sector);
    free(guest);
    return NULL;
}

struct guest *guest_clone(const struct guest *guest)
{
    struct guest *clone = take(NULL, 1, sizeof(*clone));
    *clone = *guest;
    clone->sector = take(NULL, guest->sectors, sizeof(clone->sector[0]));
    for (uint64_t i = 0; i < guest->sectors; i++)
        cell_copy(&clone->sector[i], &guest->sector[i]);
    cell_copy(&clone->size, &guest->size);
    for (unsigned i = 0; i < GUEST_HELD_MAX; i++)
        if (guest->held[i].disk)
            clone->held[i].disk = guest_clone(guest->held[i].disk);
    return clone;
}

static void sectors_grow(struct guest *guest, uint64_t sectors)
{
    if (sectors <= guest->sectors)
        return;
    guest->sector = take(guest->sector, sectors, sizeof(guest->sector[0]));
    memset(guest->sector + guest->sectors, 0,
           (sectors - guest->sectors) * sizeof(guest->sector[0]));
    guest->sectors = sectors;
}

void guest_layer(struct guest *guest, uint64_t sectors)
{
    for (uint64_t i = sectors; i < guest->sectors; i++) {
        assert(!guest->sector[i].values);
        guest->sector[i].settled = 0;
    }
    guest->sectors = MIN(guest->sectors, sectors);
    sectors_grow(guest, sectors);
    assert(!guest->size.values);
    guest->size.settled = sectors;
}

static bool cell_settle(struct guest_cell *cell)
{
    cell_flush(cell, NEVER - 1, NEVER - 1);
    return !cell->values;
}

bool guest_settle(struct guest *guest)
{
    bool settled = cell_settle(&guest->size);
    for (uint64_t i = 0; i < guest->sectors; i++)
        settled &= cell_settle(&guest->sector[i]);
    return settled;
}

void guest_bytes(const struct guest *guest, uint64_t first, uint64_t count, uint8_t *bytes)
{
    for (uint64_t i = 0; i < count; i++) {
        assert(!guest->sector[first + i].values);
        tag_make(first + i, guest->sector[first + i].settled, bytes + i * GUEST_SECTOR_BYTES);
    }
}

/* ---- requests ---- */

uint64_t guest_now(struct guest *guest)
{
    return ++guest->clock;
}

struct guest_write guest_write_begin(struct guest *guest, uint64_t first, uint64_t count,
                                     bool zeroes)
{
    assert(range_fits(first, count, guest->sectors));
    struct guest_write write = {.first = first, .count = count, .submitted = guest_now(guest)};
    write.value = zeroes ? 0 : ++guest->last_write;
    for (uint64_t i = first; i < first + count; i++) {
        cell_add(&guest->sector[i], write.value, write.submitted);
        guest->sector[i].touched = true;
    }
    return write;
}

void guest_write_fill(const struct guest_write *write, uint8_t *bytes)
{
    for (uint64_t i = 0; i < write->count; i++)
        tag_make(write->first + i, write->value, bytes + i * GUEST_SECTOR_BYTES);
}

void guest_write_end(struct guest *guest, const struct guest_write *write, enum guest_result result)
{
    uint64_t now = guest_now(guest);
    for (uint64_t i = write->first; i < write->first + write->count; i++)
        cell_end(&guest->sector[i], write->submitted, now, result);
}

void guest_flushed(struct guest *guest, uint64_t start)
{
    uint64_t oldest_read = guest->clock;
    for (unsigned i = 0; i < GUEST_READS_MAX; i++) {
        if (guest->read_start[i] != 0)
            oldest_read = MIN(oldest_read, guest->read_start[i]);
    }
    cell_flush(&guest->size, start, oldest_read);
    for (uint64_t i = 0; i < guest->sectors; i++) {
        if (guest->sector[i].values)
            cell_flush(&guest->sector[i], start, oldest_read);
    }
}

static void cell_stop(struct guest_cell *cell, uint64_t now)
{
    for (unsigned i = 0; i < cell->count; i++)
        cell->values[i].ended = MIN(cell->values[i].ended, now);
}

void guest_killed(struct guest *guest)
{
    uint64_t now = guest_now(guest);
    memset(guest->read_start, 0, sizeof(guest->read_start));
    cell_stop(&guest->size, now);
    for (uint64_t i = 0; i < guest->sectors; i++)
        cell_stop(&guest->sector[i], now);
}

struct guest_write guest_resize_begin(struct guest *guest, uint64_t sectors)
{
    sectors_grow(guest, sectors);
    struct guest_write write = {.value = sectors, .submitted = guest_now(guest)};
    cell_add(&guest->size, sectors, write.submitted);
    return write;
}

void guest_resize_end(struct guest *guest, const struct guest_write *write,
                      enum guest_result result)
{
    cell_end(&guest->size, write->submitted, guest_now(guest), result);
}

/* ---- snapshots ---- */

void guest_hold(struct guest *guest, struct guest_held *held, unsigned layer)
{
    struct guest plain = *guest;
    memset(plain.held, 0, sizeof(plain.held));
    memset(plain.read_start, 0, sizeof(plain.read_start));
    *held = (struct guest_held){
        .disk = guest_clone(&plain), .number = ++guest->last_held, .layer = layer};
    /* What was overwritten is not in it, flushed or not. */
    guest_flushed(held->disk, guest_now(held->disk));
}

void guest_unhold(struct guest_held *held)
{
    guest_free(held->disk);
    memset(held, 0, sizeof(*held));
}

/** @cell may have each value that @from may have. */
static void cell_take(struct guest_cell *cell, const struct guest_cell *from, uint64_t submitted)
{
    if (!from->values)
        cell_add(cell, from->settled, submitted);
    for (unsigned i = 0; i < from->count; i++)
        cell_add(cell, from->values[i].value, submitted);
}

struct guest_write guest_apply_begin(struct guest *guest, const struct guest_held *held)
{
    static const struct guest_cell zero;
    const struct guest *disk = held->disk;
    sectors_grow(guest, disk->sectors);
    struct guest_write write = {.count = guest->sectors, .submitted = guest_now(guest)};
    for (uint64_t i = 0; i < guest->sectors; i++) {
        cell_take(&guest->sector[i], i < disk->sectors ? &disk->sector[i] : &zero, write.submitted);
        guest->sector[i].touched = true;
        guest->sector[i].base_known &= !disk->size.values && i < disk->size.settled;
    }
    cell_take(&guest->size, &disk->size, write.submitted);
    return write;
}

void guest_apply_end(struct guest *guest, const struct guest_write *write, enum guest_result result)
{
    uint64_t now = guest_now(guest);
    for (uint64_t i = 0; i < write->count; i++)
        cell_end(&guest->sector[i], write->submitted, now, result);
    cell_end(&guest->size, write->submitted, now, result);
}

/* ---- checks
 * ------------------------------------------------------------------------------------------------
 */

static bool sector_check(const struct guest *guest, uint64_t sector, uint64_t since,
                         const uint8_t *bytes, uint64_t *ret_value)
{
    const struct guest_cell *cell = &guest->sector[sector];
    if (tag_read(sector, bytes, ret_value) && cell_may_be(cell, *ret_value, since))
        return true;
    fprintf(stderr, "guest sector %#llx: found ", (unsigned long long)sector);
    tag_print(bytes);
    fprintf(stderr, "; expected one of the writes");
    cell_print(cell);
    fprintf(stderr, "\n");
    return false;
}

uint64_t guest_read_begin(struct guest *guest)
{
    uint64_t start = guest_now(guest);
    for (unsigned i = 0; i < GUEST_READS_MAX; i++) {
        if (guest->read_start[i] == 0) {
            guest->read_start[i] = start;
            return start;
        }
    }
    abort();
}

bool guest_read_end(struct guest *guest, uint64_t start, uint64_t first, uint64_t count,
                    const uint8_t *bytes)
{
    uint64_t now = guest_now(guest);
    unsigned told = 0;
    for (unsigned i = 0; i < GUEST_READS_MAX; i++) {
        if (guest->read_start[i] == start)
            guest->read_start[i] = 0;
    }
    for (uint64_t i = 0; bytes && i < count && told < 8; i++) {
        uint64_t value;
        if (sector_check(guest, first + i, start, bytes + i * GUEST_SECTOR_BYTES, &value))
            cell_saw(&guest->sector[first + i], value, start, now);
        else
            told++;
    }
    return told == 0;
}

bool guest_crash_check(const struct guest *guest, uint64_t first, uint64_t count,
                       const uint8_t *bytes)
{
    unsigned told = 0;
    for (uint64_t i = 0; i < count && told < 8; i++) {
        uint64_t value;
        told +=
            !sector_check(guest, first + i, AFTER_CRASH, bytes + i * GUEST_SECTOR_BYTES, &value);
    }
    return told == 0;
}

bool guest_crash_size_check(const struct guest *guest, uint64_t sectors, bool between)
{
    if (cell_may_be(&guest->size, sectors, AFTER_CRASH))
        return true;
    uint64_t least = NEVER, most = 0;
    for (unsigned i = 0; i < guest->size.count; i++) {
        least = MIN(least, guest->size.values[i].value);
        most = MAX(most, guest->size.values[i].value);
    }
    if (between && least <= sectors && sectors <= most)
        return true;
    fprintf(stderr, "the size is %llu sectors; expected", (unsigned long long)sectors);
    cell_print(&guest->size);
    fprintf(stderr, "\n");
    return false;
}

bool guest_may_be_zero(const struct guest *guest, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        if (!cell_may_be(&guest->sector[i], 0, NEVER - 1))
            return false;
    }
    return true;
}

/* ---- a dirty bitmap ---- */

/* The one value that the cell has now, if it is certain. */
static bool cell_now(const struct guest_cell *cell, uint64_t *ret)
{
    unsigned current = 0;
    *ret = cell->settled;
    for (unsigned i = 0; i < cell->count; i++) {
        if (cell->values[i].past != NEVER)
            continue;
        *ret = cell->values[i].value;
        current += cell->values[i].ended == NEVER ? 2 : 1;
    }
    return !cell->values || current == 1;
}

void guest_bitmap_cleared(struct guest *guest)
{
    for (uint64_t i = 0; i < guest->sectors; i++) {
        struct guest_cell *cell = &guest->sector[i];
        cell->base_known = cell_now(cell, &cell->base);
        cell->touched = false;
    }
}

void guest_bitmap_resized(struct guest *guest, uint64_t first, uint64_t end, bool done)
{
    for (uint64_t i = first; i < MIN(end, guest->sectors); i++) {
        guest->sector[i].base = 0;
        guest->sector[i].base_known = done;
        guest->sector[i].touched = true;
    }
}

bool guest_has_changed(const struct guest *guest, uint64_t sector)
{
    const struct guest_cell *cell = &guest->sector[sector];
    uint64_t now;
    return cell->base_known && cell_now(cell, &now) && now != cell->base;
}

bool guest_bytes_have_changed(const struct guest *guest, uint64_t sector, const uint8_t *bytes)
{
    const struct guest_cell *cell = &guest->sector[sector];
    uint64_t value;
    return cell->base_known && tag_read(sector, bytes, &value) && value != cell->base;
}

bool guest_was_touched(const struct guest *guest, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < MIN(first + count, guest->sectors); i++)
        if (guest->sector[i].touched)
            return true;
    return false;
}
