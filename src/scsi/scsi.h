/*
 * The SCSI disk: SPC-4 and SBC-4 commands over a block root. One implementation for whatever
 * carries SCSI: TCMU, iSCSI, a handler inside tcmu-runner.
 *
 *     scsi_nexus   an initiator port and the target port that it came in by  (I_T nexus)
 *        |  the LUNs that it may see, and no others
 *     scsi_lun     one LUN of one nexus, with its unit attentions            (I_T_L nexus)
 *        |
 *     scsi_disk    the logical unit: reservations, mode pages, access states; shared by all nexuses
 *        |
 *     block_root   the image
 *
 * A command is one call: co_scsi_execute(). Data goes between the image and the caller's own
 * buffers. Any queue thread may execute commands, on any LUN; nexuses, LUNs and disks are made and
 * ended by one coroutine at a time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_SCSI_H
#define SCSI_SCSI_H

#include "base/sgl.h"
#include "block/block.h"
#include "wire/scsi/scsi.h"

struct scsi_disk;
struct scsi_nexus;
struct scsi_lun;

#define SCSI_SENSE_MAX        252
#define SCSI_TRANSPORT_ID_MAX 256
#define SCSI_LUNS_MAX         256 /* of one nexus */
#define SCSI_PORT_GROUPS_MAX  16  /* of one disk */

/* ---- the logical unit ---- */

struct scsi_disk_options {
    uint32_t block_bytes;          /* 512 or 4096; 0: 512 */
    uint32_t physical_block_bytes; /* a power of two >= block_bytes; 0: 4096 */
    uint8_t uuid[16];              /* what all identifiers come from; all zero: from `name` */
    const char *name;              /* identifies the volume where there is no UUID; not NULL then */
    const char *vendor;            /* up to 8 bytes of ASCII; NULL: "HAWSER" */
    const char *product;           /* up to 16; NULL: "HAWSER DISK" */
    const char *revision;          /* up to 4; NULL: the program's version */
    bool read_only;                /* also where the root is */
    bool write_through;            /* WCE starts as 0 */
    bool explicit_access;          /* initiators may SET TARGET PORT GROUPS */
    bool rotational;               /* B1h says 7200 rpm instead of "not rotating" */
    uint32_t unmap_granularity_bytes; /* a hint: the cluster size; 0: none */
    /*
     * Persistent reservations that outlive a loss of power (APTPL). @co_save makes @bytes durable,
     * whole or not at all; @saved is what it was last given. Without co_save, APTPL is refused.
     */
    int (*co_save)(void *arg, const void *bytes, size_t length);
    void *save_arg;
    const void *saved;
    size_t saved_length;
};

/** Makes a logical unit on @root, which must outlive it. @options is copied. */
HWS_MUST_CHECK int scsi_disk_new(struct block_root *root, const struct scsi_disk_options *options,
                                 struct scsi_disk **ret, struct hws_error *err);

/** No LUN may be left. @disk may be NULL. @return NULL. */
struct scsi_disk *scsi_disk_free(struct scsi_disk *disk);

/** After the size of the root changed: every nexus learns of it by a unit attention. */
void scsi_disk_resized(struct scsi_disk *disk);

/** Whether writes may stay in a volatile cache (WCE), now. */
bool scsi_disk_write_cache(const struct scsi_disk *disk);

/** The same switch from outside (a control interface): as MODE SELECT by nobody. */
void scsi_disk_set_write_cache(struct scsi_disk *disk, bool on);

/** The 8 bytes of the NAA identifier, and the serial number (32 digits and a NUL). */
void scsi_disk_naa(const struct scsi_disk *disk, uint8_t ret[8]);
const char *scsi_disk_serial(const struct scsi_disk *disk);

/**
 * The state of a target port group, made known by 2A/06 (implicit ALUA). Groups that were never set
 * are active/optimized. @return -ENOSPC beyond SCSI_PORT_GROUPS_MAX groups.
 */
HWS_MUST_CHECK int scsi_disk_set_access_state(struct scsi_disk *disk, uint16_t group,
                                              enum scsi_access_state state);

/**
 * LOGICAL UNIT RESET: waits for the commands in flight, drops an SPC-2 reservation, puts mode
 * pages back, and gives every nexus 29/03. Whose command was aborted gets no response: the caller
 * withholds it. Not from within a command.
 */
void co_scsi_disk_reset(struct scsi_disk *disk);

/* ---- who asks ---- */

struct scsi_nexus_options {
    /*
     * The initiator port. Registrations are kept by it and @port_id, so it must be the same after
     * a reconnect: an iSCSI name ("iqn...." or "iqn....,i,0x<isid>"), or
     */
    const char *initiator;
    /* a TransportID as SPC-4, 7.6.4 gives it. */
    const void *transport_id;
    size_t transport_id_length;
    uint16_t port_id;      /* RELATIVE TARGET PORT IDENTIFIER, from 1; 0: 1 */
    uint16_t port_group;   /* target port group */
    const char *port_name; /* SCSI name of the target port for VPD page 83h, or NULL */
    /*
     * For a carrier that does not tell who asks, so that one nexus stands for all: whether whoever
     * may send commands to the LUN @asked may also read, or with @write write, the LUN @other by a
     * copy. Suspends; any queue thread. NULL: whoever sees a LUN of the nexus sees all.
     */
    bool (*co_may_copy)(void *arg, uint16_t asked, uint16_t other, bool write);
    void *may_copy_arg;
};

HWS_MUST_CHECK int scsi_nexus_new(const struct scsi_nexus_options *options, struct scsi_nexus **ret,
                                  struct hws_error *err);

/** No LUN may be left. @nexus may be NULL. @return NULL. */
struct scsi_nexus *scsi_nexus_free(struct scsi_nexus *nexus);

/**
 * Lets @nexus see @disk as @number. @ret is for co_scsi_execute(), until co_scsi_unmap().
 * @return -EEXIST, -ENOSPC (SCSI_LUNS_MAX), -ENOMEM.
 */
HWS_MUST_CHECK int scsi_map(struct scsi_nexus *nexus, uint16_t number, struct scsi_disk *disk,
                            struct scsi_lun **ret);

/**
 * Takes a LUN away. The caller has no command on @lun in flight; copies that other LUNs of the same
 * nexus make from or to it are waited for.
 */
void co_scsi_unmap(struct scsi_lun *lun);

/** The disk that @lun shows. */
struct scsi_disk *scsi_lun_disk(const struct scsi_lun *lun);

/** The connection was lost and is back (29/07); an SPC-2 reservation of it ends. */
void scsi_nexus_lost(struct scsi_nexus *nexus);

/* ---- a command ---- */

struct scsi_task {
    /* In. Everything is untrusted but the lengths, which tell what memory there is. */
    const uint8_t *cdb;
    size_t cdb_length;
    struct sgl data_out; /* from the initiator */
    struct sgl data_in;  /* to the initiator */

    /* Out. */
    uint8_t status;       /* enum scsi_status */
    uint8_t sense_length; /* 0 unless CHECK CONDITION */
    uint8_t sense[SCSI_SENSE_MAX];
    size_t data_in_length; /* bytes of data_in that were filled */
    /* What the command would have moved, less the buffer: > 0 overflow, < 0 underflow. */
    int64_t residual;
};

/**
 * Executes one command. @lun NULL: the nexus has no such LUN; INQUIRY, REPORT LUNS and REQUEST
 * SENSE answer even so. The fields under "Out" are set; the status tells everything.
 */
void co_scsi_execute(struct scsi_nexus *nexus, struct scsi_lun *lun, struct scsi_task *task);

/* ---- saved reservations ---- */

/**
 * A file as the keeper of saved reservations: co_scsi_state_save() fits scsi_disk_options.co_save
 * with the path as its argument; it replaces the file atomically.
 */
HWS_MUST_CHECK int co_scsi_state_save(void *path, const void *bytes, size_t length);

/** What was saved; -ENOENT where nothing was. @ret to be freed by the caller. */
HWS_MUST_CHECK int co_scsi_state_load(const char *path, void **ret, size_t *ret_length,
                                      struct hws_error *err);

#endif
