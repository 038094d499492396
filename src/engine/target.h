/*
 * A volume as a backstore of the kernel's SCSI target (LIO), served by this process: the SCSI disk,
 * the backstore in configfs, and the TCMU export between them. What is exported of it, to this
 * host or by a fabric, is built on top (device_tcmu.c).
 *
 * Everything in the kernel outlives the process. Who starts the same volume again finds the
 * backstore that a predecessor left and goes on serving it, with all that hangs on it untouched:
 *
 *   killed     commands may have been taken from the ring and not answered: new ones are held off,
 *              those in the ring go back to their initiators, which send them again
 *   replaced   the predecessor has answered all that it took: the rest waits in the ring
 *
 * Everything runs on the control queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_TARGET_H
#define ENGINE_TARGET_H

#include "engine/engine.h"
#include "host/lio.h"
#include "scsi/scsi.h"

struct target;

/** What a volume is called in the kernel; the same at every start of it. */
struct target_identity {
    char backstore[LIO_NAME_MAX + 1];
    char config[128]; /* what the backstore's configuration begins with, if it is ours */
    uint8_t naa[8];   /* of the target port on this host */
    uint8_t uuid[16]; /* of the disk */
};

/**
 * Follows from the volume's UUID, or from the image's path and this host's identity. A volume that
 * is read-only may be there several times, so its name counts as well.
 */
void target_identify(const struct volume_config *config, struct target_identity *ret);

/** 32 hexadecimal digits, with or without dashes. @return -EINVAL for anything else. */
HWS_MUST_CHECK int target_parse_uuid(const char *text, uint8_t ret[16]);

/**
 * The backstore that a process which served the same volume left. -ENOENT; -EEXIST where one of its
 * name is of something else.
 */
HWS_MUST_CHECK int co_target_find(const struct volume_config *config, struct lio_backstore *ret,
                                  struct hws_error *err);

/** Whether there is one. */
bool co_target_is_there(const struct volume_config *config);

/**
 * Waits until a predecessor has let go of the ring. -EBUSY once @patience_ns have passed: another
 * process serves the backstore.
 */
HWS_MUST_CHECK int co_target_wait_free(const struct lio_backstore *backstore, uint64_t patience_ns,
                                       struct hws_error *err);

/**
 * For a volume that nobody will serve: commands fail, and no task waits for one. The backstore and
 * the disk stay for who attaches it again. -EBUSY, with nothing done, where a process serves it: it
 * is that one's, under the same name. -ENOENT where there is none, or one of something else.
 */
HWS_MUST_CHECK int co_target_abandon(const struct volume_config *config, struct hws_error *err);

/**
 * Removes the disk and the backstore that a dead process left, whose image nobody can open. What
 * the kernel cached of it is lost. One that another process serves is that one's, and stays. -EBUSY
 * while the disk is in use, unless @force.
 */
HWS_MUST_CHECK int co_target_clear(const struct volume_config *config, bool force,
                                   struct hws_error *err);

/** Serves @volume, on the backstore that is there or a new one. @ret ended by the next two. */
HWS_MUST_CHECK int co_target_start(struct volume *volume, struct target **ret,
                                   struct hws_error *err);

/** Removes the backstore and frees @target. -EBUSY while a fabric exports it: all is as before. */
HWS_MUST_CHECK int co_target_stop(struct target *target, struct hws_error *err);

/**
 * Answers what was taken, lets go of the backstore, which stays, and frees @target. Commands wait
 * in the ring for who comes next.
 */
void co_target_leave(struct target *target);

/**
 * Lets commands through that were held off while a dead predecessor's place was taken; once all is
 * in place. No effect on others.
 */
HWS_MUST_CHECK int co_target_unblock(struct target *target, struct hws_error *err);

/** After the root's size changed. Initiators that are told by the kernel are not this one's work.
 */
HWS_MUST_CHECK int co_target_resized(struct target *target, struct hws_error *err);

const struct lio_backstore *target_backstore(const struct target *target);
/** Whether the backstore was there at the start. */
bool target_is_adopted(const struct target *target);
void target_naa(const struct target *target, uint8_t ret[8]);

void target_describe(const struct target *target, json_t *out);

#endif
