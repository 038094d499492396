/*
 * Fuzz target: what a TCMU ring may contain.
 *
 *     u8 flags | repeated: be16 place | u8 count | bytes
 *
 * Each step writes bytes anywhere into the shared area (the mailbox included), takes all that can
 * be taken, and answers some of it, in an order that the bytes choose. Beside crashes and sanitizer
 * reports it holds: pieces of data lie in the data area, a CDB is no longer than its copy, and the
 * tail that the kernel is told lies in the ring.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "export/tcmu/ring.h"
#include "fuzz.h"

#define RING_AT    128u
#define RING_BYTES 2048u
#define DATA_AT    (RING_AT + RING_BYTES)
#define MAP_BYTES  (DATA_AT + 1024u)
#define STEPS_MAX  64

struct run {
    struct tcmu_ring ring;
    struct tcmu_command command;
    uint16_t flight[TCMU_TASKS_MAX];
    unsigned in_flight;
};

static void check_command(const struct run *run, const uint8_t *map)
{
    const struct tcmu_command *c = &run->command;
    assert(c->cdb_length <= TCMU_CDB_MAX);
    assert(!c->malformed || c->iov_count + c->bidi_count == 0);
    for (unsigned i = 0; i < c->iov_count + c->bidi_count; i++) {
        uint64_t at = (uint64_t)((uint8_t *)c->iov[i].iov_base - map);
        assert(at >= run->ring.data_offset && range_fits(at, c->iov[i].iov_len, MAP_BYTES));
    }
}

static void check_notice(const struct run *run, const struct tcmu_notice *notice)
{
    for (uint32_t i = 0; i < notice->count; i++)
        assert(tcmu_ring_aborted(&run->ring, notice, i) < TCMU_TASKS_MAX);
}

static void take_all(struct run *run, const uint8_t *map)
{
    struct tcmu_notice notice;
    struct hws_error err;
    int taken = TCMU_TAKEN_NOTICE;
    while (taken > 0 && run->in_flight < TCMU_TASKS_MAX) {
        uint16_t tag = (uint16_t)run->in_flight;
        taken = tcmu_ring_take(&run->ring, tag, &run->command, &notice, &err);
        if (taken == TCMU_TAKEN_COMMAND) {
            check_command(run, map);
            tcmu_command_release(&run->command);
            run->flight[run->in_flight++] = run->command.id;
        } else if (taken == TCMU_TAKEN_NOTICE) {
            check_notice(run, &notice);
        }
    }
}

static void answer_one(struct run *run, unsigned index)
{
    static const uint8_t sense[252];
    struct tcmu_answer answer = {.id = run->flight[index],
                                 .status = 2,
                                 .has_length = index & 1,
                                 .sense = sense,
                                 .sense_length = index & 2 ? sizeof(sense) : 0};
    tcmu_ring_answer(&run->ring, &answer);
    run->flight[index] = run->flight[--run->in_flight];
}

static void step(struct run *run, struct cursor *c, uint8_t *map)
{
    uint16_t place = cursor_be16(c);
    uint8_t count = cursor_u8(c);
    size_t length = MIN((size_t)count, cursor_left(c));
    const uint8_t *bytes = cursor_take(c, length);
    if (c->failed)
        return;
    place %= MAP_BYTES;
    memcpy(map + place, bytes, MIN(length, (size_t)(MAP_BYTES - place)));
    take_all(run, map);
    for (unsigned n = place % 4; n > 0 && run->in_flight; n--)
        answer_one(run, count % run->in_flight);
    (void)tcmu_ring_tell(&run->ring);
    assert(run->ring.tail < run->ring.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct cursor c = cursor_of(bytes, length);
    struct hws_error err;
    struct run *run = calloc(1, sizeof(*run));
    uint8_t *map = aligned_alloc(64, align_up(MAP_BYTES, 64));
    struct tcmu_mailbox mailbox = {.version = TCMU_VERSION,
                                   .flags = TCMU_CAN_REORDER,
                                   .ring_offset = RING_AT,
                                   .ring_bytes = RING_BYTES};
    uint8_t flags = cursor_u8(&c);
    assert(run && map);
    memset(map, 0, MAP_BYTES);
    memcpy(map, &mailbox, sizeof(mailbox));
    if (flags & 1) /* the mailbox too */
        memcpy(map, bytes, MIN(length, sizeof(mailbox)));
    if (tcmu_ring_init(&run->ring, map, MAP_BYTES, &err) == 0)
        for (unsigned i = 0; i < STEPS_MAX && cursor_left(&c) > 0; i++)
            step(run, &c, map);
    free(map);
    free(run);
    return 0;
}
