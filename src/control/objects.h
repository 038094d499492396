/*
 * The objects of the catalog: structs, and the tables of their fields.
 *
 * A record that was read must be ended with record_free(type->fields, record). Times are seconds
 * since 1970. `generation` grows with every change of an object.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_OBJECTS_H
#define CONTROL_OBJECTS_H

#include "control/name.h"
#include "control/record.h"

struct control;

/** Files in a chain; the engine takes more, a human does not. */
#define LAYER_DEPTH_MAX 256
/** Largest volume: what the kernel takes as a file. */
#define VOLUME_SIZE_MAX (INT64_MAX - 4095)

struct pool {
    char *id, *name, *path;
    uint64_t capacity_bytes;     /* 0: what its file system has */
    uint64_t overcommit_percent; /* volumes may have so much of the capacity; 0: any */
    uint64_t quota_bytes;        /* of all volumes' sizes; 0: none */
    json_t *labels;
    json_t *image_roots;        /* folders from which images are taken */
    uint64_t trash_retention_s; /* of volumes that have none of their own */
    bool shared;                /* other hosts may use the folder: see lease.h */
    uint64_t created, generation;
};

/** What a class says of its volumes, and a volume of itself; absent and 0: the default. */
struct making {
    json_t *mkfs_options, *mount_options; /* policy_fs.c tells which */
    char *preallocation, *lazy_refcounts, *extended_l2;
    uint64_t trash_retention_s; /* how long a deleted volume is kept; 0: the pool says */
};

struct class
{
    char *id, *name, *format, *fs;
    uint64_t size_bytes;    /* of volumes that ask for none; 0: the usual */
    uint64_t cluster_bytes; /* of new images; 0: the format's own */
    struct making making;
    json_t *labels;
    uint64_t created, generation;
};

/* Of volumes and snapshots; an attachment tells whether a volume is in use. */
#define STATE_CREATING  "creating"
#define STATE_AVAILABLE "available"

struct volume {
    char *id, *name, *pool, *class, *state, *layer, *format, *fs;
    char *origin; /* id of the snapshot that it was cloned from */
    uint64_t size_bytes, cluster_bytes;
    struct making making;
    bool protected;
    bool formatted; /* it was mounted once: its file system is whole */
    bool grow;      /* it is larger than its file system: to be grown at the next mount */
    bool part;      /* its file system has another's identity: changed at the next mount */
    /* In the trash alone: when it came there; seconds of the catalog's clock at which it goes. */
    uint64_t deleted, expires;
    json_t *labels;
    uint64_t created, generation;
};

struct layer {
    char *id, *pool, *format;
    char *parent;   /* id of the layer below */
    char *path;     /* of an image outside, taken in place; never deleted */
    char *volume;   /* id of the volume whose top it is */
    char *snapshot; /* id of the snapshot that it is */
    uint64_t size_bytes, depth, generation;
};

struct snapshot {
    char *id, *name, *state, *volume, *pool, *layer;
    char *key;            /* VOLUME/NAME, by which it is found */
    char *group_snapshot; /* id of the group's snapshot that it is a part of */
    char *schedule;       /* id of the schedule that took it */
    uint64_t size_bytes;
    uint64_t clock; /* second of the catalog's clock at which a schedule took it */
    bool formatted;
    json_t *labels;
    uint64_t created, generation;
};

/** Volumes in a group. */
#define GROUP_MAX 64

/** Volumes whose snapshots are taken at one moment. */
struct group {
    char *id, *name;
    json_t *volumes; /* ids */
    json_t *labels;
    uint64_t created, generation;
};

struct group_snapshot {
    char *id, *name, *state, *group, *schedule; /* as of a snapshot */
    char *key;                                  /* GROUP/NAME, by which it is found */
    json_t *volumes, *snapshots;                /* ids, in the same order */
    json_t *labels;
    uint64_t clock, created, generation;
};

/** When snapshots are taken of a volume or a group, and which of them stay. */
struct schedule {
    char *id, *name, *volume, *group; /* ids, one of both */
    char *every, *cron;               /* one of both */
    uint64_t keep, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_for_s;
    bool paused;
    uint64_t next, last; /* seconds since 1970; last 0: none yet */
    char *error;         /* why the last try failed; NULL: it did not */
    json_t *labels;
    uint64_t created, generation;
};

#define ATTACH_DEVICE "device"
#define ATTACH_MOUNT  "mount"
#define ATTACH_NONE   "none" /* an engine without a device, for exports alone */

struct attachment_record {
    char *id; /* that of the volume */
    char *mode, *device, *mountpoint, *boot;
    char *failed; /* why it cannot be used; NULL: it can */
    json_t *users;
    json_t *processes; /* of users that came with one: see users.c */
    bool read_only;
    uint64_t created, generation;
};

/** Work in the background that has ended. */
struct job {
    char *id, *operation, *object; /* id of the intent that it was; of the volume */
    char *key;                     /* the moment of its end: the order of the list */
    char *state, *error;
    uint64_t done_bytes, total_bytes, created, ended, generation;
};

/** What is served over a network (exports.h). */
#define TLS_NONE "none"
struct export_record {
    char *id, *name, *state;
    char *volume, *snapshot; /* ids; a snapshot's volume, too */
    char *protocol, *listen, *tls;
    char *secret; /* id */
    char *description;
    bool read_only, shared;
    uint64_t created, generation;
};

struct secret {
    char *id, *name, *kind;
    char *sealed;     /* by the vault; never told */
    uint64_t version; /* grows with every new value */
    uint64_t created, generation;
};

struct object_type {
    const char *kind;
    const struct record_field *fields;
    size_t bytes;
    /* Offsets of char * fields; NO_FIELD where there is none. */
    size_t name, owner;
    size_t generation;
};
#define NO_FIELD SIZE_MAX

extern const struct object_type pool_type, class_type, volume_type, layer_type, snapshot_type,
    attachment_type, job_type, export_type, secret_type, trash_type, group_type,
    group_snapshot_type, schedule_type;

extern const char *const format_choices[]; /* of volumes that are made */
extern const char *const fs_choices[];
extern const char *const tls_choices[]; /* of exports */
extern const char *const preallocation_choices[], *const switch_choices[];

/** Longest time in the trash: ten years of seconds. */
#define TRASH_RETENTION_MAX_S 315360000
#define TRASH_RETENTION_FIELD(type, field, help)                            \
    {                                                                       \
        "trash-retention", RECORD_UINT, offsetof(struct type, field), help, \
            .max = TRASH_RETENTION_MAX_S                                    \
    }

/** The rows of a struct making that is the member `making` of struct @type. */
#define MAKING_FIELDS(type)                                                               \
    {"mkfs-options", RECORD_LIST, offsetof(struct type, making.mkfs_options),             \
     "of the program that makes the file system, one a text", .max = MAKING_OPTIONS_MAX}, \
        {"mount-options", RECORD_LIST, offsetof(struct type, making.mount_options),       \
         "that it is mounted with, one a text", .max = MAKING_OPTIONS_MAX},               \
        {"preallocation", RECORD_TEXT, offsetof(struct type, making.preallocation),       \
         "of new images' space", .choices = preallocation_choices},                       \
        {"lazy-refcounts", RECORD_TEXT, offsetof(struct type, making.lazy_refcounts),     \
         "of new qcow2 images", .choices = switch_choices},                               \
        {"extended-l2", RECORD_TEXT, offsetof(struct type, making.extended_l2),           \
         "subclusters in new qcow2 images", .choices = switch_choices},                   \
        TRASH_RETENTION_FIELD(type, making.trash_retention_s,                             \
                              "seconds that a deleted volume is kept; 0: as the pool says")
#define MAKING_OPTIONS_MAX 16

/** Reads an object by its id. -ENOENT, with a message. */
HWS_MUST_CHECK int object_get(struct control *control, const struct object_type *type,
                              const char *id, void *ret, struct hws_error *err);

/** Reads an object by its id or name. -ENOENT, with a message. */
HWS_MUST_CHECK int object_find(struct control *control, const struct object_type *type,
                               const char *reference, void *ret, struct hws_error *err);

/** All objects of a kind with that owner (NULL: any). @ret a new array of JSON objects. */
HWS_MUST_CHECK int object_list(struct control *control, const struct object_type *type,
                               const char *owner, json_t **ret, struct hws_error *err);

/** Reads a member of what object_list() returned. */
HWS_MUST_CHECK int object_parse(const struct object_type *type, const json_t *value, void *ret,
                                struct hws_error *err);

/* Ends records that leave a scope. */
#define AUTO_RECORD(name)                              \
    static inline void cleanup_##name##_(void *record) \
    {                                                  \
        record_free(name##_type.fields, record);       \
    }
AUTO_RECORD(pool)
AUTO_RECORD(class)
AUTO_RECORD(volume)
AUTO_RECORD(layer)
AUTO_RECORD(snapshot)
AUTO_RECORD(attachment)
AUTO_RECORD(job)
AUTO_RECORD(export)
AUTO_RECORD(secret)

#define auto_pool       __attribute__((cleanup(cleanup_pool_))) struct pool
#define auto_class      __attribute__((cleanup(cleanup_class_))) struct class
#define auto_volume     __attribute__((cleanup(cleanup_volume_))) struct volume
#define auto_layer      __attribute__((cleanup(cleanup_layer_))) struct layer
#define auto_snapshot   __attribute__((cleanup(cleanup_snapshot_))) struct snapshot
#define auto_job        __attribute__((cleanup(cleanup_job_))) struct job
#define auto_export     __attribute__((cleanup(cleanup_export_))) struct export_record
#define auto_secret     __attribute__((cleanup(cleanup_secret_))) struct secret
#define auto_attachment __attribute__((cleanup(cleanup_attachment_))) struct attachment_record
AUTO_RECORD(group)
AUTO_RECORD(group_snapshot)
AUTO_RECORD(schedule)

#define auto_group          __attribute__((cleanup(cleanup_group_))) struct group
#define auto_group_snapshot __attribute__((cleanup(cleanup_group_snapshot_))) struct group_snapshot
#define auto_schedule       __attribute__((cleanup(cleanup_schedule_))) struct schedule

static inline void cleanup_json_(json_t **value)
{
    json_decref(*value);
}
#define auto_json __attribute__((cleanup(cleanup_json_))) json_t

#endif
