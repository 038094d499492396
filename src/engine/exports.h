/*
 * What is saved of exports, inside the command's side of the engine (exports.c, exports_saved.c):
 *
 *   {"version": 1, "name": "disk", "fabric": "iscsi", "options": {...}, "secrets": "user=...",
 *    "images": ["/a/disk.qcow2"], "volume": {"format": "qcow2", "cache": "none", ...}}
 *
 * A file is written whole or not at all, and believed only while nobody but this user and root can
 * write it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_EXPORTS_H
#define ENGINE_EXPORTS_H

#include "engine/internal.h"

#define EXPORT_IMAGES_MAX 64

struct export_saved {
    struct export_request request; /* texts lie in `object` */
    char *secrets;                 /* NULL: none */
    json_t *object;
    const char *images[EXPORT_IMAGES_MAX + 1];
    const char *allow[EXPORT_IMAGES_MAX + 1];
};

/** Saves a running export. @volume the options of its images; @secrets may be NULL. */
HWS_MUST_CHECK int export_save(const struct attachment *attachment,
                               const struct attach_options *volume, const char *secrets,
                               struct hws_error *err);

/** @ret for export_saved_free(). */
HWS_MUST_CHECK int export_load(const char *name, struct export_saved **ret, struct hws_error *err);
/** @return NULL. @saved may be NULL. */
struct export_saved *export_saved_free(struct export_saved *saved);

/** One restore or stop at a time. Waits. @return a descriptor to close, or -errno. */
HWS_MUST_CHECK int exports_lock(struct hws_error *err);

void exports_names_free(char **names, unsigned count);

#endif
