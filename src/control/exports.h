/*
 * Exports: volumes and snapshots that engines serve over a network, as the catalog wants them.
 *
 *   op_export.c     making and ending them; operations of the journal
 *   exports.c       what the rest asks of them, and what is told of them
 *   exporter.c      a thread that compares what is wanted with what engines serve, and mends it
 *
 * An export is served by the engine of its target: the volume, whose engine on this host is one, or
 * the snapshot, which has an engine of its own then. An engine that is there for exports alone has
 * an attachment of the mode "none"; each export is one of its users, as "export:ID".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_EXPORTS_H
#define CONTROL_EXPORTS_H

#include "control/secrets.h"

#define EXPORT_USER "export:"

/** Whether a user of an attachment is an export. */
static inline bool user_is_export(const char *user)
{
    return user && !strncmp(user, EXPORT_USER, strlen(EXPORT_USER));
}

/** Id of the attachment of the engine that serves it. */
static inline const char *export_target(const struct export_record *export)
{
    return export->snapshot ? export->snapshot : export->volume;
}

/** "export:ID" of an export; @user of EXPORT_USER_BYTES. */
#define EXPORT_USER_BYTES (sizeof(EXPORT_USER) + ID_BYTES)
void export_user(const struct export_record *export, char *user);

/** Makes an engine serve it, which runs already. Once more is no error. */
HWS_MUST_CHECK int export_serve(struct control *control, const struct export_record *export,
                                struct hws_error *err);

/** What the service of an export is called by its engine now: it differs where the secret does. */
HWS_MUST_CHECK int export_tag(struct control *control, const struct export_record *export,
                              char *tag, size_t size, struct hws_error *err);

enum export_state { EXPORT_DOWN, EXPORT_STALE, EXPORT_UP };

/** What the engine does for it; with an older secret it is stale. */
enum export_state export_look(const struct engine_place *place, const char *id, const char *tag);

/**
 * Starts the engine of an export's target where it has none, and makes it serve. @fresh: it is not
 * in the catalog yet. The volume is taken, the model locked; released.
 */
HWS_MUST_CHECK int export_bring_up(struct control *control, const struct volume *volume,
                                   struct export_record *export, bool fresh, struct hws_error *err);

/** -EBUSY where one is of that volume, that snapshot, or uses that secret; NULL: not asked. */
HWS_MUST_CHECK int exports_refuse_use(struct control *control, const char *volume,
                                      const char *snapshot, const struct secret *secret,
                                      struct hws_error *err);

/** -EBUSY where a snapshot of that volume is exported. */
HWS_MUST_CHECK int exports_refuse_snapshots(struct control *control, const char *volume,
                                            struct hws_error *err);

/** Whether @volume, exported from an engine without a device, may be attached beside that. */
HWS_MUST_CHECK int exports_allow_attach(struct control *control, const struct volume *volume,
                                        bool read_only, struct hws_error *err);

/** Looks at each export, and mends what can be. @secret: of those that use it; NULL: of all. */
void exports_mend(struct control *control, const char *secret);
/** Now, those that use the secret. */
void exports_check_now(struct control *control, const char *secret);

HWS_MUST_CHECK int exporter_start(struct control *control, struct hws_error *err);
void exporter_stop(struct control *control);
/** Something was changed: it looks soon. */
void exporter_wake(struct control *control);
/** Adds to an export's JSON why it is not served, if it is known. */
void exporter_describe(struct control *control, const char *id, json_t *item);

#endif
