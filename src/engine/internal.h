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

/** Writes @value as a file of the attachment, in one step. Takes over the reference. */
HWS_MUST_CHECK int attachment_store(const struct attachment *attachment, const char *file,
                                    json_t *value, struct hws_error *err);

/* ---- attach_config.c ---- */

/** "/a/My disk.qcow2" -> "My-disk". @name of ATTACHMENT_NAME_MAX + 8 bytes. */
void attach_name_from_image(const char *image, char *name);

/** Makes the engine's configuration of the options, and writes it. */
HWS_MUST_CHECK int attach_write_config(const struct attach_options *options,
                                       struct attachment *attachment, struct hws_error *err);

typedef int blocking_fn(void *arg, struct hws_error *err);

/** Runs coroutine code that the command needs (mounts, loop devices) in a runtime of its own. */
HWS_MUST_CHECK int attachment_run(blocking_fn *fn, void *arg, struct hws_error *err);

#endif
