/*
 * Inside the SCSI disk: the state of disk, nexus and LUN, and what a handler of a command gets.
 *
 * Who guards what:
 *   disk->lock    everything of the disk and of its LUNs that is not atomic; never held across a
 *                 suspension
 *   disk->gate    one bit for each reason to look closer before a command may run; 0 is the fast
 *                 way, without the lock
 *   disk->order   makes PERSISTENT RESERVE OUTs follow each other while one is being saved
 *   disk->ranges  shared by writes, exclusive for what reads and writes as one step
 *   nexus->lock   the table of LUNs
 * Order: nexus->lock before disk->lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_INTERNAL_H
#define SCSI_INTERNAL_H

#include "base/cursor.h"
#include "block/range_lock.h"
#include "rt/sync.h"
#include "scsi/scsi.h"
#include <limits.h>
#include <stdatomic.h>

#define CDB_MAX           16
#define TRANSFER_MAX      (32 * MiB)  /* one READ or WRITE */
#define WRITE_SAME_MAX    (256 * MiB) /* one WRITE SAME */
#define SCRATCH_BYTES     (256 * KiB)
#define COMPARE_MAX       (128 * KiB) /* one COMPARE AND WRITE, at most 255 blocks */
#define UNMAP_DESCRIPTORS 256
#define UNMAP_BLOCKS_MAX  (UINT64_C(1) << 20)
#define REGISTRATIONS_MAX 256

/* ---- unit attentions, most important first (SAM-5, 5.14) ---- */

enum attention {
    ATTENTION_POWER_ON = 1 << 0,
    ATTENTION_RESET = 1 << 1,
    ATTENTION_NEXUS_LOSS = 1 << 2,
    ATTENTION_MODE = 1 << 3,
    ATTENTION_CAPACITY = 1 << 4,
    ATTENTION_PREEMPTED = 1 << 5,
    ATTENTION_RELEASED = 1 << 6,
    ATTENTION_UNREGISTERED = 1 << 7,
    ATTENTION_ACCESS_STATE = 1 << 8,
    ATTENTION_LUNS = 1 << 9,
};

/* ---- state ---- */

/** Who holds a registration: survives the connection. */
struct identity {
    uint8_t transport_id[SCSI_TRANSPORT_ID_MAX];
    uint16_t length;
    uint16_t port_id;
};

struct registration {
    struct list link;
    struct identity who;
    uint64_t key;
    bool all_ports;
};

struct reservations {
    struct list registrations;
    unsigned count;
    uint32_t generation;
    uint8_t type;                /* enum scsi_pr_type; 0: no reservation */
    struct registration *holder; /* NULL with the all-registrants types */
    bool aptpl;
};

/* One bit for each reason why a command may not run at once. */
enum gate {
    GATE_RESERVED = 1 << 0, /* persistent or SPC-2 reservation */
    GATE_STOPPED = 1 << 1,
    GATE_ACCESS = 1 << 2, /* some port group is not active */
};

struct port_group {
    uint16_t id;
    uint8_t state;
};

/* What MODE SELECT changes. */
struct mode_state {
    bool write_cache, descriptor_sense, software_write_protect;
};

struct scsi_disk {
    struct block_root *root;
    uint32_t block_bytes;
    unsigned block_shift;
    unsigned physical_exponent;
    bool read_only, rotational, explicit_access;
    uint32_t unmap_granularity;
    uint8_t naa[8], eui[8];
    char serial[33];
    char vendor[8], product[16], revision[4];
    int (*co_save)(void *arg, const void *bytes, size_t length);
    void *save_arg;

    _Atomic unsigned gate;
    _Atomic bool write_cache, descriptor_sense, software_write_protect;
    struct range_lock ranges;
    struct co_mutex order;

    struct rt_mutex lock;
    struct list luns;     /* every LUN of every nexus */
    struct co_waitq idle; /* somebody waits for commands in flight to end */
    atomic_uint idle_waiters;
    struct mode_state mode_default;
    struct reservations pr;
    struct scsi_nexus *spc2_holder;
    struct port_group groups[SCSI_PORT_GROUPS_MAX];
    unsigned group_count;
};

/* Results of EXTENDED COPY that RECEIVE COPY RESULTS may ask for. */
#define COPY_RESULTS 8
struct copy_result {
    bool used;
    uint8_t list_id, status; /* COPY MANAGER STATUS of SPC-4, table 177 */
    uint16_t segments;
    uint64_t bytes;
    uint64_t lun_number;
    uint8_t sense_length, sense[SCSI_SENSE_MAX];
};

struct scsi_nexus {
    struct identity who;
    uint16_t port_group;
    char *port_name;
    bool (*co_may_copy)(void *arg, uint16_t asked, uint16_t other, bool write);
    void *may_copy_arg;
    struct rt_mutex lock;
    struct co_waitq unpinned;
    struct scsi_lun *luns[SCSI_LUNS_MAX]; /* in the order of their numbers */
    unsigned lun_count;
    struct copy_result copies[COPY_RESULTS];
    unsigned copy_next;
};

struct scsi_lun {
    struct list link; /* disk->luns */
    struct scsi_nexus *nexus;
    struct scsi_disk *disk;
    uint16_t number;
    unsigned pins;               /* copies under way; nexus->lock */
    _Atomic unsigned attentions; /* bits of enum attention */
    unsigned pending_attentions; /* of a change that is not saved yet; disk->lock */
    bool abort_wait;             /* a reset or preemption waits for this one; disk->lock */
    /* Commands in flight, by the epoch that they began in: who waits begins a new epoch and waits
       for those of the old one only. */
    atomic_uint epoch, in_flight[2];
};

/* ---- a command in the making ---- */

enum direction { DATA_NONE, DATA_IN, DATA_OUT };

/* What a reservation of somebody else does to a command: SPC-4, table 65; SBC-4, table 13. */
enum reserve_class {
    RESERVE_ALLOWED, /* always runs */
    RESERVE_READ,    /* conflicts with exclusive access */
    RESERVE_WRITE,   /* conflicts with every reservation */
    RESERVE_IN_BODY, /* the handler decides: PERSISTENT RESERVE OUT, START STOP UNIT, RELEASE */
};

/* In which access states a command runs: SPC-4, 5.15.2.5. */
enum access_class {
    ACCESS_ALWAYS,
    ACCESS_UNAVAILABLE, /* in all but transitioning */
    ACCESS_STANDBY,     /* also in standby */
    ACCESS_ACTIVE,      /* only in the two active ones */
};

enum command_flags {
    COMMAND_NO_LUN = 1 << 0,      /* answers without a LUN; leaves unit attentions alone */
    COMMAND_WRITES = 1 << 1,      /* refused on write-protected media */
    COMMAND_MEDIUM = 1 << 2,      /* needs the medium: not while stopped */
    COMMAND_UNCOUNTED = 1 << 3,   /* PREEMPT AND ABORT does not wait for it: it may itself wait */
    COMMAND_SPC2_EXEMPT = 1 << 4, /* runs in spite of an SPC-2 reservation of another nexus */
    COMMAND_EXPLICIT_ACCESS = 1 << 5, /* only where initiators may set access states */
};

struct call;
typedef int co_handler(struct call *c);

struct command {
    const char *name;
    uint8_t opcode;
    int8_t service_action; /* -1: none. In byte 1, bits 4..0 */
    uint8_t length;
    uint8_t usage[CDB_MAX]; /* bits of the CDB that have a meaning; byte 0 is the opcode's */
    enum direction direction;
    enum reserve_class reserve;
    enum access_class access;
    unsigned flags;
    co_handler *co_run;
    unsigned timeout_s; /* recommended timeout; 0: none given */
};

struct call {
    struct scsi_task *task;
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;   /* NULL: there is none */
    struct scsi_disk *disk; /* NULL without LUN */
    const struct command *command;
    uint8_t cdb[CDB_MAX];
    unsigned epoch;     /* that it began in; see struct scsi_lun */
    size_t reply_limit; /* ALLOCATION LENGTH */
    size_t reply_at;    /* bytes of the reply so far, also those that did not fit */
};

/* command.c */
extern const struct command commands[];
extern const unsigned command_count;
/** @ret_opcode_known whether the operation code exists at all. */
const struct command *command_find(uint8_t opcode, uint8_t service_action, bool *ret_opcode_known);
bool command_has_service_actions(uint8_t opcode);
bool command_supported(const struct scsi_disk *disk, const struct command *command);

/* sense.c: each sets CHECK CONDITION and returns it. */
struct sense {
    uint8_t key;
    uint16_t asc;
    bool has_information, has_field;
    uint64_t information;
    bool in_cdb; /* the field is in the CDB, else in the parameter list */
    int8_t bit;  /* most significant bit of the field, or -1 */
    uint16_t byte;
};
size_t sense_encode(const struct sense *sense, bool descriptor, uint8_t ret[SCSI_SENSE_MAX]);
int fail_sense(struct call *c, const struct sense *sense);
int fail_with(struct call *c, uint8_t key, uint16_t asc);
int fail_cdb(struct call *c, unsigned byte, int bit);
int fail_parameter(struct call *c, unsigned byte, int bit);
int fail_miscompare(struct call *c, uint64_t offset);
/** The sense for a negative errno of the block layer. */
int fail_errno(struct call *c, int error, bool write);

/* reply.c */
/** Starts a reply of at most @allocation_length bytes. */
void reply_begin(struct call *c, size_t allocation_length);
void reply_put(struct call *c, const void *bytes, size_t length);
void reply_zero(struct call *c, size_t length);
void reply_u8(struct call *c, uint8_t value);
void reply_be16(struct call *c, uint16_t value);
void reply_be32(struct call *c, uint32_t value);
void reply_be64(struct call *c, uint64_t value);
/** Puts a length in where a place was kept: @bytes of @value at @at. */
void reply_patch(struct call *c, size_t at, uint64_t value, unsigned bytes);
/** Sets the residual. @return SCSI_GOOD. */
int reply_end(struct call *c);
/**
 * Copies the parameter list of @length bytes in. @return 0, or the status where the initiator
 * sent less.
 */
int parameters_load(struct call *c, void *buffer, size_t length);
void call_residual(struct call *c, uint64_t expected, uint64_t available);

/* attention.c */
void attention_raise(struct scsi_disk *disk, unsigned bits, const struct scsi_lun *except);
/** Takes the most important one. @return false where there is none. */
bool attention_take(struct scsi_lun *lun, uint16_t *ret_asc);
void attention_clear(struct scsi_lun *lun, unsigned bits);

/* execute.c */
/** Counts a command in, before its admission, and out; see struct scsi_lun. @return the epoch. */
unsigned lun_enter(struct scsi_lun *lun);
void lun_leave(struct scsi_lun *lun, unsigned epoch);
/** -ECANCELED once a reset or a preemption waits for the command to end. For long loops. */
int call_cancelled(const struct call *c);
/**
 * Waits for the commands that are in flight now on every LUN marked by abort_wait, and takes the
 * marks away. disk->order is held.
 */
void co_disk_wait_marked(struct scsi_disk *disk);

/* reserve.c */
bool identity_equal(const struct identity *a, const struct identity *b);
struct registration *registration_find(struct reservations *pr, const struct identity *who);
/** Whether a command of @class conflicts with the reservations as they are. disk->lock is held. */
bool reservation_conflicts(struct scsi_disk *disk, struct scsi_nexus *nexus,
                           enum reserve_class class);
bool pr_is_all_registrants(uint8_t type);
bool pr_is_registrants(uint8_t type);
/** After any change: the gate's bit. disk->lock is held. */
void reservation_update_gate(struct scsi_disk *disk);
void reservations_clear(struct reservations *pr);
struct registration *registration_add(struct reservations *pr, const struct identity *who,
                                      uint64_t key, bool all_ports);
void registration_remove(struct reservations *pr, struct registration *r);

/* pr_store.c */
HWS_MUST_CHECK int pr_serialise(const struct reservations *pr, void **ret, size_t *ret_length);
HWS_MUST_CHECK int pr_parse(const void *bytes, size_t length, struct reservations *pr);

/* transport.c */
HWS_MUST_CHECK int transport_id_from_name(const char *name, struct identity *ret);
/** Length of the TransportID at @bytes, 0 where it is none or longer than @left. */
size_t transport_id_length(const uint8_t *bytes, size_t left);

/* alua.c */
uint8_t access_state(struct scsi_disk *disk, uint16_t group);

/* read_write.c */
struct extent {
    uint64_t lba, count;    /* logical blocks */
    uint64_t offset, bytes; /* the same in bytes */
};
/** LBA and TRANSFER LENGTH of any 6, 10, 12 or 16-byte CDB. */
struct extent cdb_extent(const struct call *c);
uint64_t disk_blocks(const struct scsi_disk *disk);
/** Checks that the blocks exist, and fills in the bytes. @return 0 or the status. */
int extent_check(struct call *c, struct extent *e);
/** cdb_extent() and extent_check(), and the bound on one transfer. */
int transfer_extent(struct call *c, struct extent *ret);
/** The first @expected bytes of the data-out buffer. @return 0, or the status where it has less. */
int data_out_take(struct call *c, uint64_t expected, struct sgl *ret);
/** The same where more than that must be a mistake about what the data means. */
int data_out_take_exactly(struct call *c, uint64_t expected, struct sgl *ret);
/** Flags of a write: durable at once where @force or where the write cache is off. */
unsigned write_flags(const struct call *c, bool force);
/**
 * Compares the image at @offset with @expected. @return 0, 1 with @ret_at the first difference, or
 * -errno.
 */
int co_scsi_compare(struct scsi_disk *disk, uint64_t offset, struct sgl expected, uint64_t *ret_at);

/* write_same.c */
/** A buffer of repeated @block for a range of @bytes; to be freed by the caller. NULL: no memory.
 */
uint8_t *pattern_new(struct sgl block, uint64_t bytes, size_t *ret_chunk);

/* unmap.c */
/** Deallocates what can be, and writes zeroes over the data of the rest. 0 or -errno. */
int co_deallocate(struct scsi_disk *disk, uint64_t offset, uint64_t length);

/* nexus.c */
struct scsi_lun *lun_pin_by(struct scsi_nexus *nexus,
                            bool (*match)(const struct scsi_lun *lun, const void *arg),
                            const void *arg);
void lun_unpin(struct scsi_lun *lun);

/* handlers */
co_handler co_test_unit_ready, co_request_sense, co_inquiry, co_report_luns, co_send_diagnostic;
co_handler co_read_capacity_10, co_read_capacity_16, co_get_lba_status;
co_handler co_read, co_write, co_write_and_verify, co_verify;
co_handler co_compare_and_write, co_orwrite, co_write_same, co_unmap, co_format_unit;
co_handler co_synchronize_cache, co_pre_fetch, co_start_stop_unit, co_prevent_allow;
co_handler co_mode_sense, co_mode_select, co_log_sense;
co_handler co_report_operation_codes, co_report_task_management;
co_handler co_reserve, co_release, co_pr_in, co_pr_out;
co_handler co_extended_copy, co_receive_copy_results;
co_handler co_report_port_groups, co_set_port_groups;

/* vpd.c */
int vpd_page(struct call *c, uint8_t page);

/* vpd_copy.c */
void vpd_third_party_copy(struct call *c);

#endif
