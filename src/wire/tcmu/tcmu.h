/*
 * The ring of TCMU, the kernel's SCSI target in user space: mailbox, entries, answers (documented
 * in the kernel's Documentation/target/tcmu-design.rst). Not linux/target_core_user.h: that header
 * declares a struct iovec of its own, which the C library's rules out.
 *
 * Both sides are on the same machine: numbers have its byte order, addresses its width. An entry
 * is a header and, behind it, a request; the answer overwrites the request.
 *
 *   request:  0 length and kind | 4 number, flags | 8 counts | 24 CDB's place | 48 pieces ... | CDB
 *   answer:   0 length and kind | 4 number, flags | 8 status | 12 read length | 16 sense
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRE_TCMU_TCMU_H
#define WIRE_TCMU_TCMU_H

#include "base/common.h"

#define TCMU_VERSION     2
#define TCMU_ENTRY_ALIGN 8
#define TCMU_SENSE_BYTES 96

/* Of the mailbox: what the kernel can do. */
#define TCMU_CAN_REORDER    (1 << 0) /* answers may come in any order */
#define TCMU_CAN_READ_LEN   (1 << 1) /* answers may say how much was read */
#define TCMU_CAN_MANAGEMENT (1 << 2) /* task management is told of */

/* Of an answer. */
#define TCMU_UNKNOWN_KIND 0x1
#define TCMU_HAS_READ_LEN 0x2

struct tcmu_mailbox {
    uint16_t version;
    uint16_t flags;
    uint32_t ring_offset; /* from the start of the shared area */
    uint32_t ring_bytes;
    uint32_t head; /* the kernel's: where it puts the next entry */
    uint8_t pad[48];
    uint32_t tail; /* ours: what lies before it is answered */
};
static_assert(offsetof(struct tcmu_mailbox, head) == 12, "");
static_assert(offsetof(struct tcmu_mailbox, tail) == 64, "");

/** The low bits of an entry's first word; the rest is its length. */
enum tcmu_kind { TCMU_KIND_PAD, TCMU_KIND_COMMAND, TCMU_KIND_MANAGEMENT };
#define TCMU_KIND_MASK 0x7u

struct tcmu_header {
    uint32_t length_kind;
    uint16_t id;
    uint8_t kernel_flags;
    uint8_t user_flags;
};
static_assert(sizeof(struct tcmu_header) == 8, "");

struct tcmu_request {
    struct tcmu_header header;
    uint32_t iov_count;
    uint32_t bidi_count;
    uint32_t dif_count;
    uint32_t pad;
    uint64_t cdb_offset; /* from the start of the shared area, as those of the pieces */
    uint64_t pad2[2];    /* behind it: the pieces, a struct iovec each */
};
static_assert(sizeof(struct tcmu_request) == 48, "");
static_assert(offsetof(struct tcmu_request, cdb_offset) == 24, "");

struct tcmu_response {
    struct tcmu_header header;
    uint8_t status; /* of SCSI */
    uint8_t pad[3];
    uint32_t read_length;
    uint8_t sense[TCMU_SENSE_BYTES];
};
static_assert(sizeof(struct tcmu_response) == 112, "");

enum tcmu_function {
    TCMU_ABORT_TASK = 1,
    TCMU_ABORT_TASK_SET = 2,
    TCMU_LUN_RESET = 5,
    TCMU_TARGET_WARM_RESET = 6,
    TCMU_TARGET_COLD_RESET = 7,
};

struct tcmu_management {
    struct tcmu_header header;
    uint8_t function;
    uint8_t pad[3];
    uint32_t id_count;
    uint64_t pad2[2]; /* behind them: the numbers of the commands that it aborted, 16 bits each */
};
static_assert(sizeof(struct tcmu_management) == 32, "");

#endif
