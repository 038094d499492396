/*
 * Entries out of the ring and answers into it; see ring.h for the picture.
 *
 * The kernel is trusted to be no attacker, but not to be right: a broken structure (lengths, head)
 * ends the use of the ring, since nothing behind it can be found. A command whose contents are
 * wrong is answered like any other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/ring.h"

#define HEADER_BYTES ((uint32_t)sizeof(struct tcmu_header))
#define ENTRY_BYTES  ((uint32_t)sizeof(struct tcmu_response)) /* the least of a command */
#define IOVS_AT      ((uint32_t)sizeof(struct tcmu_request))

/* Copies out of memory that somebody else may write: what was read is not read again. */
static void copy_out(void *to, const void *from, size_t length)
{
    memcpy(to, from, length);
    __asm__ volatile("" : : : "memory");
}

static uint8_t *ring_at(const struct tcmu_ring *ring, uint32_t place)
{
    return ring->map + ring->commands_offset + place;
}

static uint32_t *head_of(const struct tcmu_ring *ring)
{
    return (uint32_t *)(void *)(ring->map + offsetof(struct tcmu_mailbox, head));
}

static uint32_t *tail_of(const struct tcmu_ring *ring)
{
    return (uint32_t *)(void *)(ring->map + offsetof(struct tcmu_mailbox, tail));
}

/* Bytes from @from forward to @to. */
static uint32_t distance(const struct tcmu_ring *ring, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : ring->size - from + to;
}

/* ---- the mailbox ---- */

int tcmu_ring_init(struct tcmu_ring *ring, void *map, uint64_t map_bytes, struct hws_error *err)
{
    struct tcmu_mailbox mailbox;
    if (map_bytes < sizeof(mailbox))
        return hws_fail(err, EPROTO, "the shared area has %llu bytes, too few for a mailbox",
                        (unsigned long long)map_bytes);
    copy_out(&mailbox, map, sizeof(mailbox));
    if (mailbox.version != TCMU_VERSION)
        return hws_fail(err, EPROTO, "the ring's version is %u; this program knows version %u",
                        mailbox.version, TCMU_VERSION);
    if (!(mailbox.flags & TCMU_CAN_REORDER))
        return hws_fail(err, EOPNOTSUPP,
                        "this kernel's ring takes answers in order only; Linux 4.13 or later is "
                        "needed");
    if (mailbox.ring_offset < sizeof(mailbox) ||
        !is_aligned(mailbox.ring_offset, TCMU_ENTRY_ALIGN) ||
        mailbox.ring_bytes < 2 * ENTRY_BYTES || !is_aligned(mailbox.ring_bytes, TCMU_ENTRY_ALIGN) ||
        !range_fits(mailbox.ring_offset, mailbox.ring_bytes, map_bytes))
        return hws_fail(err, EPROTO,
                        "the mailbox says that the ring has %u bytes at offset %u, which do not "
                        "fit or are not aligned (the area has %llu bytes)",
                        mailbox.ring_bytes, mailbox.ring_offset, (unsigned long long)map_bytes);
    if (mailbox.tail >= mailbox.ring_bytes || !is_aligned(mailbox.tail, TCMU_ENTRY_ALIGN))
        return hws_fail(err, EPROTO, "the ring's tail %u lies outside of its %u bytes",
                        mailbox.tail, mailbox.ring_bytes);
    ring->map = map;
    ring->map_bytes = map_bytes;
    ring->commands_offset = mailbox.ring_offset;
    ring->size = mailbox.ring_bytes;
    ring->data_offset = (uint64_t)mailbox.ring_offset + mailbox.ring_bytes;
    ring->taken = ring->tail = mailbox.tail;
    ring->read_length = mailbox.flags & TCMU_CAN_READ_LEN;
    ring->task_management = mailbox.flags & TCMU_CAN_MANAGEMENT;
    return 0;
}

/* ---- taking ---- */

/* As the operation code says (SPC-4, 4.2.5.1); variable-length ones tell by themselves. */
static uint32_t cdb_bytes(const uint8_t *cdb)
{
    static const uint8_t by_group[8] = {6, 10, 10, 12, 16, 12, 10, 10};
    if (cdb[0] == 0x7f)
        return 8u + cdb[7];
    return cdb[0] == 0x7e ? TCMU_CDB_MAX : by_group[cdb[0] >> 5];
}

static const char *take_cdb(const struct tcmu_ring *ring, struct tcmu_command *c, uint64_t offset,
                            uint32_t place, uint32_t length, uint32_t fixed)
{
    uint64_t entry = (uint64_t)ring->commands_offset + place;
    if (offset < entry + fixed || offset >= entry + length)
        return "its CDB lies outside of its entry";
    uint32_t left = (uint32_t)(entry + length - offset);
    c->cdb_length = (uint8_t)MIN(left, (uint32_t)TCMU_CDB_MAX);
    copy_out(c->cdb, ring->map + offset, c->cdb_length);
    memset(c->cdb + c->cdb_length, 0, sizeof(c->cdb) - c->cdb_length);
    c->cdb_length = (uint8_t)MIN((uint32_t)c->cdb_length, cdb_bytes(c->cdb));
    return NULL;
}

/* Offsets become addresses. */
static const char *take_iovs(const struct tcmu_ring *ring, struct tcmu_command *c,
                             const uint8_t *entry)
{
    unsigned count = c->iov_count + c->bidi_count;
    c->iov = c->inline_iov;
    if (unlikely(count > TCMU_IOVS_INLINE)) {
        c->iov = malloc(count * sizeof(*c->iov));
        if (!c->iov) {
            c->iov = c->inline_iov;
            return "out of memory";
        }
    }
    copy_out(c->iov, entry + IOVS_AT, count * sizeof(*c->iov));
    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = (uintptr_t)c->iov[i].iov_base;
        if (unlikely(offset < ring->data_offset ||
                     !range_fits(offset, c->iov[i].iov_len, ring->map_bytes)))
            return "its data lies outside of the data area";
        c->iov[i].iov_base = ring->map + offset;
    }
    return NULL;
}

static const char *take_contents(const struct tcmu_ring *ring, struct tcmu_command *c,
                                 uint32_t place, uint32_t length)
{
    struct tcmu_request fixed;
    const uint8_t *entry = ring_at(ring, place);
    copy_out(&fixed, entry, IOVS_AT);
    uint64_t iovs = (uint64_t)fixed.iov_count + fixed.bidi_count;
    if (iovs > (length - IOVS_AT) / sizeof(struct iovec))
        return "it has more pieces of data than fit into its entry";
    uint32_t end = IOVS_AT + (uint32_t)(iovs * sizeof(struct iovec));
    const char *wrong = take_cdb(ring, c, fixed.cdb_offset, place, length, end);
    if (wrong)
        return wrong;
    c->iov_count = fixed.iov_count;
    c->bidi_count = fixed.bidi_count;
    wrong = take_iovs(ring, c, entry);
    if (wrong)
        tcmu_command_release(c);
    return wrong;
}

void tcmu_command_release(struct tcmu_command *c)
{
    if (unlikely(c->iov != c->inline_iov))
        free(c->iov);
    c->iov = c->inline_iov;
    c->iov_count = c->bidi_count = 0;
}

static int take_command(struct tcmu_ring *ring, const struct tcmu_header *header, uint32_t length,
                        uint16_t tag, struct tcmu_command *c, struct hws_error *err)
{
    if (length < ENTRY_BYTES)
        return hws_fail(err, EPROTO, "the command at %u has %u bytes, too few for an answer",
                        ring->taken, length);
    if (ring->owner[header->id])
        return hws_fail(err, EPROTO, "the command at %u has the number %u of another in flight",
                        ring->taken, header->id);
    assert(ring->in_flight < TCMU_TASKS_MAX);
    c->id = header->id;
    c->iov = c->inline_iov;
    c->iov_count = c->bidi_count = 0;
    c->cdb_length = 0;
    c->malformed = take_contents(ring, c, ring->taken, length);
    ring->owner[c->id] = (uint16_t)(tag + 1);
    ring->place[(ring->place_first + ring->in_flight++) % TCMU_TASKS_MAX] = ring->taken;
    return TCMU_TAKEN_COMMAND;
}

static int take_management(const struct tcmu_ring *ring, uint32_t length, struct tcmu_notice *m,
                           struct hws_error *err)
{
    struct tcmu_management fixed;
    if (length < sizeof(fixed))
        return hws_fail(err, EPROTO, "the management entry at %u has only %u bytes", ring->taken,
                        length);
    copy_out(&fixed, ring_at(ring, ring->taken), sizeof(fixed));
    m->function = fixed.function;
    m->count = MIN(fixed.id_count, (length - (uint32_t)sizeof(fixed)) / 2);
    m->ids_offset = ring->commands_offset + ring->taken + (uint32_t)sizeof(fixed);
    return TCMU_TAKEN_NOTICE;
}

int tcmu_ring_aborted(const struct tcmu_ring *ring, const struct tcmu_notice *m, uint32_t index)
{
    uint16_t id;
    assert(index < m->count);
    copy_out(&id, ring->map + m->ids_offset + 2 * (size_t)index, sizeof(id));
    return ring->owner[id] - 1;
}

/* The head may only have moved forward, into the part of the ring that we gave back. */
static int check_head(const struct tcmu_ring *ring, uint32_t head, struct hws_error *err)
{
    if (unlikely(head >= ring->size || !is_aligned(head, TCMU_ENTRY_ALIGN)))
        return hws_fail(err, EPROTO, "the ring's head %u lies outside of its %u bytes", head,
                        ring->size);
    if (unlikely(distance(ring, ring->tail, head) < distance(ring, ring->tail, ring->taken)))
        return hws_fail(err, EPROTO, "the ring's head moved back from %u to %u", ring->taken, head);
    return 0;
}

static int check_length(const struct tcmu_ring *ring, uint32_t head, uint32_t length,
                        struct hws_error *err)
{
    uint32_t end = head > ring->taken ? head : ring->size;
    if (unlikely(length < HEADER_BYTES || !is_aligned(length, TCMU_ENTRY_ALIGN) ||
                 length > end - ring->taken))
        return hws_fail(err, EPROTO, "the entry at %u has %u bytes, which do not fit", ring->taken,
                        length);
    return 0;
}

bool tcmu_ring_has_more(const struct tcmu_ring *ring)
{
    return __atomic_load_n(head_of(ring), __ATOMIC_ACQUIRE) != ring->taken;
}

int tcmu_ring_take(struct tcmu_ring *ring, uint16_t tag, struct tcmu_command *command,
                   struct tcmu_notice *event, struct hws_error *err)
{
    uint32_t head = __atomic_load_n(head_of(ring), __ATOMIC_ACQUIRE);
    int result = check_head(ring, head, err);
    while (result == 0 && ring->taken != head) {
        struct tcmu_header header;
        uint8_t *entry = ring_at(ring, ring->taken);
        copy_out(&header, entry, sizeof(header));
        uint32_t length = header.length_kind & ~TCMU_KIND_MASK;
        result = check_length(ring, head, length, err);
        if (result < 0)
            break;
        switch (header.length_kind & TCMU_KIND_MASK) {
        case TCMU_KIND_COMMAND:
            result = take_command(ring, &header, length, tag, command, err);
            break;
        case TCMU_KIND_MANAGEMENT:
            result = take_management(ring, length, event, err);
            break;
        case TCMU_KIND_PAD:
            break;
        default:
            ring->unknown++;
            entry[offsetof(struct tcmu_header, user_flags)] = TCMU_UNKNOWN_KIND;
        }
        if (result >= 0)
            ring->taken = ring->taken + length == ring->size ? 0 : ring->taken + length;
    }
    return result;
}

/* ---- answering ---- */

void tcmu_ring_answer(struct tcmu_ring *ring, const struct tcmu_answer *answer)
{
    assert(ring->in_flight > 0 && ring->owner[answer->id]);
    uint8_t *slot = ring_at(ring, ring->place[ring->place_first]);
    ring->place_first = (ring->place_first + 1) % TCMU_TASKS_MAX;
    ring->in_flight--;
    ring->owner[answer->id] = 0;
    struct tcmu_response response = {
        .header = {.id = answer->id, .user_flags = answer->has_length ? TCMU_HAS_READ_LEN : 0},
        .status = answer->status,
        .read_length = answer->length,
    };
    /* All but the length and kind of the entry, which stay what they are. */
    size_t from = offsetof(struct tcmu_header, id), to = offsetof(struct tcmu_response, sense);
    if (unlikely(answer->sense_length)) {
        memcpy(response.sense, answer->sense, MIN(answer->sense_length, (size_t)TCMU_SENSE_BYTES));
        to = sizeof(response);
    }
    memcpy(slot + from, (const uint8_t *)&response + from, to - from);
}

bool tcmu_ring_tell(struct tcmu_ring *ring)
{
    uint32_t tail = ring->in_flight ? ring->place[ring->place_first] : ring->taken;
    if (tail == ring->tail)
        return false;
    ring->tail = tail;
    __atomic_store_n(tail_of(ring), tail, __ATOMIC_RELEASE);
    return true;
}
