/*
 * What the command's side of the engine (client.c, attachment.c, attach*.c, detach.c) shares
 * inside.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include "engine/client.h"
#include "rt/rt.h"

/**
 * The process that listens on the attachment's socket, as the kernel tells it: alive at the time of
 * the call, and no stale number from a file. -1 where nobody listens.
 */
pid_t attachment_engine_pid(const struct attachment *attachment);

/** FOLDER/@file of an attachment; free(). NULL when out of memory. */
char *attachment_path(const struct attachment *attachment, const char *file);

/** Reads what is known of the attachment called @name; -ENOENT where there is none. */
HWS_MUST_CHECK int attachment_load(const char *name, struct attachment **ret,
                                   struct hws_error *err);

/** Looks again whether it runs, and at its state. */
void attachment_reload(struct attachment *attachment);

/**
 * Takes the attachment's lock. @ret the locked descriptor, to be handed to the engine or closed.
 * -EAGAIN while another process holds it, -ENOENT once the folder is gone.
 */
HWS_MUST_CHECK int attachment_lock(const struct attachment *attachment, int *ret,
                                   struct hws_error *err);

/** Deletes the folder and the files in it that an attachment has. */
HWS_MUST_CHECK int attachment_remove(const struct attachment *attachment, struct hws_error *err);

/**
 * Takes away what an engine that is gone left: loop device, FUSE mount and folder. The caller holds
 * the lock.
 */
HWS_MUST_CHECK int attachment_clear(const struct attachment *attachment, bool force,
                                    struct hws_error *err);

/**
 * Starts an engine for an attachment whose own is gone, in the place of that: it takes over what
 * is left in the kernel. @lock is taken over by the engine and stays the caller's, too.
 */
HWS_MUST_CHECK int attachment_revive(const struct attachment *attachment, int lock,
                                     struct hws_error *err);

/** Removes what services left in the folder. */
void attachment_clear_services(const struct attachment *attachment);

/** Whether a SCSI disk is there that another engine can serve on. */
bool attachment_outlived(const struct attachment *attachment);

/** From now on no keeper starts its engine again. */
void attachment_mark_ending(const struct attachment *attachment);
bool attachment_is_ending(const struct attachment *attachment);

/** Writes @value as a file of the attachment, in one step. Takes over the reference. */
HWS_MUST_CHECK int attachment_store(const struct attachment *attachment, const char *file,
                                    json_t *value, struct hws_error *err);

/* ---- attach_config.c ---- */

/** "/a/My disk.qcow2" -> "My-disk". @name of ATTACHMENT_NAME_MAX + 8 bytes. */
void attach_name_from_image(const char *image, char *name);

/** The engine's configuration for the options. @ret a new reference, also after a failure. */
HWS_MUST_CHECK int attach_make_config(const struct attach_options *options,
                                      const struct attachment *attachment, json_t **ret,
                                      struct hws_error *err);

/** The same, written to the attachment's folder. */
HWS_MUST_CHECK int attach_write_config(const struct attach_options *options,
                                       struct attachment *attachment, struct hws_error *err);

/* ---- groups.c ---- */

/**
 * Adds the engine's control group to its configuration, where it is to have one: that of the
 * configuration that is there, @old, or, where it is NULL, one of its own.
 */
void group_configure(const char *name, const json_t *old, json_t *config);

/** Removes the engine's control group, once it has ended; with @force whoever is in it ends. */
void group_remove(const struct attachment *attachment, bool force);

/* ---- attach_fs.c ---- */

/** Mounts the attached device where the options tell, with a file system made where it has none. */
HWS_MUST_CHECK int attach_mount(const struct attach_options *options,
                                const struct attachment *attachment, struct hws_error *err);

typedef int blocking_fn(void *arg, struct hws_error *err);

/** Runs coroutine code that the command needs (mounts, loop devices) in a runtime of its own. */
HWS_MUST_CHECK int attachment_run(blocking_fn *fn, void *arg, struct hws_error *err);

#endif
