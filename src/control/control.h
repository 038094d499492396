/*
 * The control plane as its servers see it: calls that take and give JSON objects.
 *
 * Every call blocks until its work is done, and may be made from any thread. Objects are named by
 * id or by name. Results are new references, to be ended with json_decref(). Errors are negative
 * errno with a text that can be shown: -EINVAL (the request), -ENOENT, -EEXIST, -EBUSY (in use, or
 * another operation works on it), -EPERM (protected), -ENOSPC (the pool's limits), -ENOTSUP, and
 * what else files and engines answer.
 *
 * docs/control.md describes the objects and the REST API, whose bodies are these requests.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

struct control;
struct engine_driver;

/** What a test lets pass as it likes. */
struct control_now {
    uint64_t wall_s;    /* seconds since 1970 */
    uint64_t running_s; /* that the host runs, its sleep included */
};

struct control_options {
    /** Where catalog and mount points lie; made if missing. */
    const char *folder;
    /** NULL: the engines of this host. */
    const struct engine_driver *engines;
    /** Merge the layers of deleted snapshots, by a thread of its own. */
    bool background;
    /** What shared pools know this host by; NULL: its machine id. */
    const char *host;
    /** How long a lease of a shared pool is good, in seconds; 0: 10. */
    unsigned lease_s;
    /** How master keys of secrets are kept (vault.h); NULL: in a file. */
    const char *master_key;
    /** Events that are remembered; 0: EVENTS_KEPT. */
    unsigned events;
    /** Called at every point where a crash makes a difference; for tests; may be NULL. */
    void (*at)(void *arg, const char *where);
    void *at_arg;
    /** NULL: the host's clocks. With at_arg. */
    void (*now)(void *arg, struct control_now *ret);
};

/** Opens the catalog, and completes or takes back what was under way. */
HWS_MUST_CHECK int control_open(const struct control_options *options, struct control **ret,
                                struct hws_error *err);
/** Ends after the last call has returned. Engines go on. @control may be NULL. */
void control_close(struct control *control);
/** To be called every second or so: tries again what could not be finished. */
void control_tick(struct control *control);

#define CONTROL_PAGE_MAX     1000
#define CONTROL_PAGE_DEFAULT 100
/** Ended jobs that are remembered. */
#define JOBS_KEPT 1000

/** What of a list is wanted. */
struct control_page {
    const char *after; /* NULL: from the beginning; else "next" of the page before */
    unsigned limit;    /* 0: CONTROL_PAGE_DEFAULT; at most CONTROL_PAGE_MAX */
};

/* Lists: {"items": [...], "next": TEXT or absent}. */

/** {"name", "path", "capacity", "overcommit-percent", "quota", "labels", "image-roots",
 * "trash-retention", "shared"} */
HWS_MUST_CHECK int control_pool_create(struct control *control, const json_t *request, json_t **ret,
                                       struct hws_error *err);
HWS_MUST_CHECK int control_pool_show(struct control *control, const char *pool, json_t **ret,
                                     struct hws_error *err);
HWS_MUST_CHECK int control_pool_list(struct control *control, const struct control_page *page,
                                     json_t **ret, struct hws_error *err);
/** {"name", "capacity", "overcommit-percent", "quota", "labels", "image-roots", "trash-retention",
 * "shared"} */
HWS_MUST_CHECK int control_pool_change(struct control *control, const char *pool,
                                       const json_t *request, json_t **ret, struct hws_error *err);
/** -EBUSY while it has volumes. Images that lie in it and are nobody's stay. */
HWS_MUST_CHECK int control_pool_delete(struct control *control, const char *pool,
                                       struct hws_error *err);

/**
 * {"force"}: this host uses a shared pool that another one has, or has taken. -EBUSY while that is
 * being watched; called again it tells, or has it. By force it is taken at once.
 */
HWS_MUST_CHECK int control_pool_take(struct control *control, const char *pool,
                                     const json_t *request, json_t **ret, struct hws_error *err);

/** {"name", "format", "fs", "size", "cluster-size", "labels"}, and what docs/control.md tells of
 * options */
HWS_MUST_CHECK int control_class_create(struct control *control, const json_t *request,
                                        json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_class_show(struct control *control, const char *class, json_t **ret,
                                      struct hws_error *err);
HWS_MUST_CHECK int control_class_list(struct control *control, const struct control_page *page,
                                      json_t **ret, struct hws_error *err);
/** As control_class_create(); what is given is changed. */
HWS_MUST_CHECK int control_class_change(struct control *control, const char *class,
                                        const json_t *request, json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_class_delete(struct control *control, const char *class,
                                        struct hws_error *err);

/**
 * {"name", "pool", "class", "size", "format", "fs", "cluster-size", "image", "clone", "protected",
 * "labels"}. "image" takes an existing image in place; "clone" is "VOLUME" or "VOLUME@SNAPSHOT".
 * Without a pool, the only one, or the one called "default".
 */
HWS_MUST_CHECK int control_volume_create(struct control *control, const json_t *request,
                                         json_t **ret, struct hws_error *err);
/** The volume, with "attachment" where it is in use and "snapshots", their number. */
HWS_MUST_CHECK int control_volume_show(struct control *control, const char *volume, json_t **ret,
                                       struct hws_error *err);
HWS_MUST_CHECK int control_volume_list(struct control *control, const struct control_page *page,
                                       json_t **ret, struct hws_error *err);
/** The same as JSON text, quickly: @ret free(). */
HWS_MUST_CHECK int control_volume_list_text(struct control *control,
                                            const struct control_page *page, char **ret,
                                            struct hws_error *err);
/** {"name", "protected", "labels", "mount-options", "trash-retention"}: what is there is changed.
 */
HWS_MUST_CHECK int control_volume_change(struct control *control, const char *volume,
                                         const json_t *request, json_t **ret,
                                         struct hws_error *err);
HWS_MUST_CHECK int control_volume_delete(struct control *control, const char *volume,
                                         struct hws_error *err);
/** {"size"}: larger than before; in use or not. */
HWS_MUST_CHECK int control_volume_resize(struct control *control, const char *volume,
                                         const json_t *request, json_t **ret,
                                         struct hws_error *err);
/** {"user", "mode": "mount" or "device", "read-only", "process"}: one more user. @ret the
 * attachment.
 */
HWS_MUST_CHECK int control_volume_attach(struct control *control, const char *volume,
                                         const json_t *request, json_t **ret,
                                         struct hws_error *err);
/**
 * Whether a process sees the mount of an attachment. One of another mount name space, to which the
 * mount does not come, would give its containers the empty folder below.
 */
bool control_mount_shows(const json_t *attachment, uint64_t process);
/** {"user", "force"}: one user less, and with the last, or by force, it is detached. */
HWS_MUST_CHECK int control_volume_detach(struct control *control, const char *volume,
                                         const json_t *request, struct hws_error *err);
/** {"snapshot"}: its content becomes that of the snapshot. Not while it is attached. */
HWS_MUST_CHECK int control_volume_revert(struct control *control, const char *volume,
                                         const json_t *request, json_t **ret,
                                         struct hws_error *err);

HWS_MUST_CHECK int control_attachment_list(struct control *control, const struct control_page *page,
                                           json_t **ret, struct hws_error *err);

/** {"name", "labels"} */
HWS_MUST_CHECK int control_snapshot_create(struct control *control, const char *volume,
                                           const json_t *request, json_t **ret,
                                           struct hws_error *err);
HWS_MUST_CHECK int control_snapshot_show(struct control *control, const char *volume,
                                         const char *snapshot, json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_snapshot_list(struct control *control, const char *volume,
                                         const struct control_page *page, json_t **ret,
                                         struct hws_error *err);
HWS_MUST_CHECK int control_snapshot_delete(struct control *control, const char *volume,
                                           const char *snapshot, struct hws_error *err);

/** Operations that are under way or not finished: [{"id", "operation", "object", "created"}]. */
HWS_MUST_CHECK int control_job_list(struct control *control, json_t **ret, struct hws_error *err);

/** Jobs that have ended, the oldest first; the last JOBS_KEPT are remembered. */
HWS_MUST_CHECK int control_job_history(struct control *control, const struct control_page *page,
                                       json_t **ret, struct hws_error *err);
/** One that runs, or has ended. */
HWS_MUST_CHECK int control_job_show(struct control *control, const char *job, json_t **ret,
                                    struct hws_error *err);
/** Only what is done in the background; until hawserd's next start it is not begun again. */
HWS_MUST_CHECK int control_job_cancel(struct control *control, const char *job, json_t **ret,
                                      struct hws_error *err);

/* ---- secrets and exports ---- */

/**
 * {"name", "kind", "value" or "generate" or "server-cert", "server-key", "ca-cert", "ca-crl"}. @ret
 * never tells a value, but one that was generated, this once.
 */
HWS_MUST_CHECK int control_secret_create(struct control *control, const json_t *request,
                                         json_t **ret, struct hws_error *err);
/** Another value, as for a new one; exports that use it meet their clients with it from now on. */
HWS_MUST_CHECK int control_secret_change(struct control *control, const char *secret,
                                         const json_t *request, json_t **ret,
                                         struct hws_error *err);
HWS_MUST_CHECK int control_secret_show(struct control *control, const char *secret, json_t **ret,
                                       struct hws_error *err);
HWS_MUST_CHECK int control_secret_list(struct control *control, const struct control_page *page,
                                       json_t **ret, struct hws_error *err);
/** -EBUSY while an export uses it. */
HWS_MUST_CHECK int control_secret_delete(struct control *control, const char *secret,
                                         struct hws_error *err);
/** Another master key: all secrets are sealed anew. @ret {"secrets"}: how many. */
HWS_MUST_CHECK int control_secret_rotate(struct control *control, json_t **ret,
                                         struct hws_error *err);

/**
 * {"name", "volume": "VOLUME" or "VOLUME@SNAPSHOT", "protocol": "nbd", "listen", "tls", "secret",
 * "read-only", "shared", "description"}. It is served until it is deleted, whatever starts again.
 */
HWS_MUST_CHECK int control_export_create(struct control *control, const json_t *request,
                                         json_t **ret, struct hws_error *err);
/** The export, with "serving", and "error" where it is not. */
HWS_MUST_CHECK int control_export_show(struct control *control, const char *export, json_t **ret,
                                       struct hws_error *err);
HWS_MUST_CHECK int control_export_list(struct control *control, const struct control_page *page,
                                       json_t **ret, struct hws_error *err);
/** -EBUSY while it has clients, unless @force. */
HWS_MUST_CHECK int control_export_delete(struct control *control, const char *export, bool force,
                                         struct hws_error *err);
/**
 * What of files, engines, mounts and operations differs from the catalog: {"items": [{"code",
 * "object", "path", "text", "repair", "outcome", "error"}]}. {"repair", "dry-run", "deep"}: what is
 * named in "repair" is repaired, without deleting anything that may hold data.
 */
HWS_MUST_CHECK int control_doctor(struct control *control, const json_t *request, json_t **ret,
                                  struct hws_error *err);

/* ---- trash, groups, schedules ---- */

/**
 * {"purge", "trash-retention"}: as control_volume_delete(), which goes by the volume's, its class's
 * or its pool's time in the trash; but at once, or to the trash for that many seconds. A volume
 * that goes to the trash takes its snapshots along. -EBUSY while it is in a group.
 */
HWS_MUST_CHECK int control_volume_discard(struct control *control, const char *volume,
                                          const json_t *request, struct hws_error *err);
/** Volumes with "remaining" seconds and "snapshots", in the order of their ids. */
HWS_MUST_CHECK int control_trash_list(struct control *control, const struct control_page *page,
                                      json_t **ret, struct hws_error *err);
/** {"name"}: back from the trash, by id, or by a name that only one has there. @ret the volume. */
HWS_MUST_CHECK int control_trash_restore(struct control *control, const char *volume,
                                         const json_t *request, json_t **ret,
                                         struct hws_error *err);
/** Deletes it for good, with its snapshots. */
HWS_MUST_CHECK int control_trash_delete(struct control *control, const char *volume,
                                        struct hws_error *err);

/** {"name", "volumes", "labels"}; up to 64 volumes by name or id. */
HWS_MUST_CHECK int control_group_create(struct control *control, const json_t *request,
                                        json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_group_show(struct control *control, const char *group, json_t **ret,
                                      struct hws_error *err);
HWS_MUST_CHECK int control_group_list(struct control *control, const struct control_page *page,
                                      json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_group_change(struct control *control, const char *group,
                                        const json_t *request, json_t **ret, struct hws_error *err);
/** -EBUSY while it has snapshots. */
HWS_MUST_CHECK int control_group_delete(struct control *control, const char *group,
                                        struct hws_error *err);
/** {"name", "labels"}: of all its volumes at one moment, or of none. Each has one of that name. */
HWS_MUST_CHECK int control_group_snapshot_create(struct control *control, const char *group,
                                                 const json_t *request, json_t **ret,
                                                 struct hws_error *err);
HWS_MUST_CHECK int control_group_snapshot_show(struct control *control, const char *group,
                                               const char *snapshot, json_t **ret,
                                               struct hws_error *err);
HWS_MUST_CHECK int control_group_snapshot_list(struct control *control, const char *group,
                                               const struct control_page *page, json_t **ret,
                                               struct hws_error *err);
HWS_MUST_CHECK int control_group_snapshot_delete(struct control *control, const char *group,
                                                 const char *snapshot, struct hws_error *err);
/** {"snapshot"}: all volumes that it is of, none of them attached, or none. @ret the group. */
HWS_MUST_CHECK int control_group_revert(struct control *control, const char *group,
                                        const json_t *request, json_t **ret, struct hws_error *err);

/**
 * {"name", "volume" or "group", "every" or "cron", "keep", "keep-hourly", "keep-daily",
 * "keep-weekly", "keep-monthly", "keep-for", "paused", "labels"}. Without a rule all are kept.
 */
HWS_MUST_CHECK int control_schedule_create(struct control *control, const json_t *request,
                                           json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_schedule_show(struct control *control, const char *schedule,
                                         json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int control_schedule_list(struct control *control, const struct control_page *page,
                                         json_t **ret, struct hws_error *err);
/** All but "volume" and "group". */
HWS_MUST_CHECK int control_schedule_change(struct control *control, const char *schedule,
                                           const json_t *request, json_t **ret,
                                           struct hws_error *err);
/** Its snapshots stay. */
HWS_MUST_CHECK int control_schedule_delete(struct control *control, const char *schedule,
                                           struct hws_error *err);

/** {"host", "version", "kernel", "machine", "boot", "features": {...}, "engines": [...]} */
HWS_MUST_CHECK int control_node_show(struct control *control, json_t **ret, struct hws_error *err);
/**
 * {"program"}: puts it in the place of all engines, one after another. @ret {"items": [{"volume",
 * "name", "outcome": "replaced" or "refused", "pause-ns", "error"}]}.
 */
HWS_MUST_CHECK int control_node_upgrade(struct control *control, const json_t *request,
                                        json_t **ret, struct hws_error *err);

/** How many objects there are: {"pools", "volumes", "snapshots", "attachments", "jobs"}. */
HWS_MUST_CHECK int control_counts(struct control *control, json_t **ret, struct hws_error *err);

#endif
