/*
 * The ring that the kernel's target and this process share, as plain memory: taking entries out,
 * putting answers in. Knows nothing of devices, threads and SCSI.
 *
 *   map:  | mailbox ... | command ring                                   | data area        |
 *         0             commands_offset                                  data_offset map_bytes
 *
 *   ring: | ... free ... | taken, not answered | not looked at | ... free ... |
 *                        ^ tail                ^ taken         ^ cmd_head (the kernel's)
 *
 * Whatever the kernel wrote is copied out before it is looked at, and an answer overwrites an entry
 * that was taken: with out-of-order completion the answers go into the oldest entries, whatever
 * command they belong to. So the ring remembers where the entries of commands lie, and which
 * command numbers are in flight.
 *
 * Thread: none of its own; the caller holds a lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_RING_H
#define EXPORT_TCMU_RING_H

#include "base/common.h"
#include "hawser/error.h"
#include "wire/tcmu/tcmu.h"
#include <sys/uio.h>

/** Commands in flight at a time; the rest waits in the ring. */
#define TCMU_TASKS_MAX 512

/** Stored of a CDB. Longer ones are variable-length commands, which the SCSI disk has none of. */
#define TCMU_CDB_MAX 32

/** Of a command without an allocation: 1 MiB in pages, and some. */
#define TCMU_IOVS_INLINE 264

#define TCMU_COMMAND_IDS 65536

struct tcmu_ring {
    uint8_t *map;
    uint64_t map_bytes, data_offset;
    uint32_t commands_offset, size;
    uint32_t taken; /* place of the next entry to be taken */
    uint32_t tail;  /* as the kernel was told last */
    bool read_length, task_management;
    uint64_t unknown;                 /* entries of kinds that we do not know */
    uint32_t place[TCMU_TASKS_MAX];   /* of entries of commands not yet answered, oldest first */
    unsigned place_first, in_flight;  /* place[] is a ring too */
    uint16_t owner[TCMU_COMMAND_IDS]; /* by command number: 1 + tag of who has it, 0: nobody */
};

/** A command, out of the ring. */
struct tcmu_command {
    uint16_t id;
    uint8_t cdb[TCMU_CDB_MAX];
    uint8_t cdb_length;    /* what there is of it, at most TCMU_CDB_MAX */
    const char *malformed; /* why it cannot be executed; NULL: it can */
    struct iovec *iov;     /* `inline_iov`, or allocated */
    unsigned iov_count;    /* the data of a write or for a read */
    unsigned bidi_count;   /* behind those: for the read of a command that does both */
    struct iovec inline_iov[TCMU_IOVS_INLINE];
};

/** A task management function that the kernel has carried out. */
struct tcmu_notice {
    uint8_t function;    /* enum tcmu_function */
    uint32_t count;      /* of commands that it aborted */
    uint32_t ids_offset; /* of their numbers in the map; tcmu_ring_aborted() */
};

enum tcmu_taken {
    TCMU_TAKEN_NOTHING,
    TCMU_TAKEN_COMMAND,
    TCMU_TAKEN_NOTICE,
};

/** What to answer. */
struct tcmu_answer {
    uint16_t id;
    uint8_t status;
    bool has_length; /* tell the kernel `length` */
    uint32_t length; /* of a read's data */
    const uint8_t *sense;
    size_t sense_length;
};

/**
 * Checks the mailbox in @map and readies @ring (zeroed memory) to go on where the ring's last user
 * ended.
 */
HWS_MUST_CHECK int tcmu_ring_init(struct tcmu_ring *ring, void *map, uint64_t map_bytes,
                                  struct hws_error *err);

/**
 * Takes the next command or management function. The caller has fewer than TCMU_TASKS_MAX commands
 * in flight. @tag below UINT16_MAX: given back by tcmu_ring_aborted().
 * @return enum tcmu_taken, or -EPROTO where the ring's structure is broken, told in @err: nothing
 * can be taken from it any more.
 */
HWS_MUST_CHECK int tcmu_ring_take(struct tcmu_ring *ring, uint16_t tag,
                                  struct tcmu_command *command, struct tcmu_notice *management,
                                  struct hws_error *err);

/** Is there perhaps something to take? */
bool tcmu_ring_has_more(const struct tcmu_ring *ring);

/** The tag of the @index-th command that @m aborted, or -1 where it is not in flight. */
int tcmu_ring_aborted(const struct tcmu_ring *ring, const struct tcmu_notice *m, uint32_t index);

/** Frees what @command holds beside itself. */
void tcmu_command_release(struct tcmu_command *command);

/** Puts in the answer of a command in flight. The kernel sees it after tcmu_ring_tell(). */
void tcmu_ring_answer(struct tcmu_ring *ring, const struct tcmu_answer *answer);

/** Moves the kernel's tail over what is answered. @return whether it moved: then wake the kernel.
 */
bool tcmu_ring_tell(struct tcmu_ring *ring);

#endif
