/*
 * What the control plane asks of images and engines, as a table of functions: the real one runs
 * engines of this host; tests have one that only pretends.
 *
 * Every function blocks, may be called from any thread, and may be called again after it was cut
 * off at any point.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_ENGINES_H
#define CONTROL_ENGINES_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

struct engine_image {
    const char *path, *format;
    uint64_t size_bytes;
    uint64_t cluster_bytes;               /* 0: the format's own */
    const char *backing, *backing_format; /* path of the layer below; NULL: none */
    const char *preallocation, *lazy_refcounts, *extended_l2; /* NULL: the default */
};

struct engine_wish {
    const char *id; /* what the attachment is called */
    const char *path, *format;
    const char *const *allow;    /* folders in which the chain lies; NULL-terminated */
    const char *const *writable; /* those of them in which it makes and changes files */
    bool read_only;
    const char *mountpoint;    /* NULL: the device alone */
    bool no_device;            /* nothing of it is seen on this host */
    const char *mkfs;          /* file system to make where the device is blank; NULL: none */
    const char *mkfs_options;  /* with blanks between them; NULL: none */
    const char *mount_options; /* as mount(8) takes them; NULL: none */
    bool grow;                 /* its file system is smaller than it: grown before the mount
                                  where only then it can be */
    bool part;                 /* it has the identity of another volume's file system */
};

/** A layer that takes the data of the one below it, so that nothing needs that any more. */
struct engine_merge {
    const char *id;                   /* attached so, the layer in its chain; NULL: not in use */
    const char *path;                 /* of the layer that takes the data; qcow2 */
    const char *below, *below_format; /* what it lies on afterwards; NULL: nothing */
    const char *const *allow;
    /** Called every now and then. @return whether to stop. */
    bool (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

#define ENGINE_FILES_MAX 4

/** What an engine is to serve over NBD. */
struct engine_export {
    const char *engine;   /* attached so */
    const char *id, *tag; /* by which it is found again; the tag tells of what credentials */
    const char *listen;   /* tcp:HOST:PORT or unix:PATH */
    const char *name, *description, *tls;
    bool read_only;
    unsigned file_count; /* credentials */
    const char *file_name[ENGINE_FILES_MAX], *file_text[ENGINE_FILES_MAX];
};

/** A volume in use whose requests are to wait for a moment. */
struct engine_held {
    const char *id;
    const char *mountpoint; /* its file system is written out and frozen first; NULL: none */
};

/** What a hold lasts at most. */
#define ENGINE_HOLD_MS 10000

/** An image that is copied into a new one, which depends on nothing. */
struct engine_copy {
    const char *source, *source_format;
    const char *const *allow;  /* folders in which the source may name others */
    struct engine_image image; /* the new one, without anything below */
    /** As of struct engine_merge. */
    bool (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

/** Where a volume is in use. */
struct engine_place {
    bool running;
    char *device;     /* NULL: none yet */
    char *top;        /* path of the file that is written now; NULL: unknown */
    json_t *services; /* what it serves over NBD: [{"name", "tag"}]; NULL: nothing */
};

void engine_place_free(struct engine_place *place);

struct engine_driver {
    /** Makes an image of this path, durable; one that is there is replaced: it is half-made. */
    int (*create)(const struct engine_image *image, struct hws_error *err);
    /** Looks into an image that anybody may have written. @format of 16 bytes. */
    int (*look)(const char *path, const char *const *allow, char *format, uint64_t *ret_size,
                struct hws_error *err);
    /** The same, and whether all that it lies on can be opened. */
    int (*look_below)(const char *path, const char *const *allow, char *format, uint64_t *ret_size,
                      struct hws_error *err);
    /** Makes an image that is not in use larger. */
    int (*resize_file)(const char *path, const char *format, const char *const *allow,
                       uint64_t size_bytes, struct hws_error *err);
    int (*attach)(const struct engine_wish *wish, struct engine_place *ret, struct hws_error *err);
    /** -ENOENT where nothing is attached under that id, running or dead. */
    int (*find)(const char *id, struct engine_place *ret, struct hws_error *err);
    /** What is not attached is no error. -EBUSY: in use, and as it was. */
    int (*detach)(const char *id, bool force, struct hws_error *err);
    /** The engine, if there is one, writes nothing any more, and nobody starts it again; what it
     * leaves is for `detach`. At once. May be NULL. */
    void (*kill)(const char *id);
    /** Puts a new overlay at @overlay on top of what is attached. */
    int (*snapshot)(const char *id, const char *overlay, struct hws_error *err);
    /**
     * Has all requests of these volumes wait, so that what is done until `release` is done at one
     * moment. They go on by themselves after ENGINE_HOLD_MS, and those of mounts when this process
     * ends.
     */
    int (*hold)(const struct engine_held *held, unsigned count, void **ret, struct hws_error *err);
    /** Ends it, whatever it answers. -ETIMEDOUT where it did not last until now. */
    int (*release)(void *hold, struct hws_error *err);
    /**
     * Ends what a hold of a predecessor left, and waits for a snapshot that it asked for: what
     * `find` tells then is so. Where no engine runs there is nothing to do.
     */
    int (*settle)(const char *id, struct hws_error *err);
    /** Makes what is attached larger, its device included. */
    int (*resize)(const char *id, uint64_t size_bytes, struct hws_error *err);
    /** Grows a mounted file system to its device's size. */
    int (*grow)(const char *fs, const char *device, const char *mountpoint, struct hws_error *err);
    /** Mounts the device there where it is not mounted there (any more). @fs and @options may be
     * NULL. */
    int (*remount)(const char *device, const char *mountpoint, bool read_only, const char *fs,
                   const char *options, struct hws_error *err);
    /** Whether the device is mounted there. */
    int (*is_mounted)(const char *device, const char *mountpoint, bool *ret, struct hws_error *err);
    /** Ids of all that is attached, running or dead, others' included. @ret a new array. */
    int (*list)(json_t **ret, struct hws_error *err);
    /** Writes what a mounted file system holds in memory to its device. */
    int (*sync)(const char *mountpoint, struct hws_error *err);
    /** Reads the same throughout, and may be begun again. -ECANCELED where it was stopped. */
    int (*merge)(const struct engine_merge *merge, struct hws_error *err);
    /**
     * Whether the layer lies on @merge.below now. Ends a merge that a predecessor of this process
     * began there, so that the answer stays true.
     */
    int (*is_merged)(const struct engine_merge *merge, bool *ret, struct hws_error *err);
    /** Serves what an engine has attached. Once more with the same tag is no error. */
    int (*serve)(const struct engine_export *export, struct hws_error *err);
    /** What is not served is no error, nor an engine that is gone. -EBUSY: it has clients. */
    int (*unserve)(const char *engine, const char *id, const char *listen, bool force,
                   struct hws_error *err);
    /**
     * Copies an image; one that is there under the new name is whole. Called again it goes on where
     * it was cut off. -ECANCELED where it was stopped; what is there then is kept for that.
     */
    int (*copy)(const struct engine_copy *copy, struct hws_error *err);
    /** Removes the image at @path and what an unfinished copy to it left. */
    int (*forget_copy)(const char *path, struct hws_error *err);
    /**
     * What the engine's volumes did, as it answers `stats` with histograms, and in "usage" what it
     * took of this host. May be NULL.
     */
    int (*stats)(const char *id, int timeout_ms, json_t **ret, struct hws_error *err);
    /** {"volume", "pid", "version", "via", "sandbox", "cgroup"} of what is attached; may be NULL.
     */
    int (*describe)(const char *id, json_t **ret, struct hws_error *err);
    /** Puts @program (NULL: the one that engines are started with) in its place; may be NULL. */
    int (*replace)(const char *id, const char *program, json_t **ret, struct hws_error *err);
    /** What the kernel has that engines can use, by name; may be NULL. */
    json_t *(*features)(void);
    /** Where engines have control groups: {"folder", "controllers", "reason"}; may be NULL. */
    json_t *(*groups)(void);
    /** Every second or so; may be NULL. */
    void (*tick)(void);
};

extern const struct engine_driver engines_real;

/* ---- engines_merge.c, of engines_real ---- */

HWS_MUST_CHECK int engines_merge(const struct engine_merge *merge, struct hws_error *err);
HWS_MUST_CHECK int engines_is_merged(const struct engine_merge *merge, bool *ret,
                                     struct hws_error *err);
/* ---- engines_export.c, of engines_real ---- */

HWS_MUST_CHECK int engines_serve(const struct engine_export *export, struct hws_error *err);
HWS_MUST_CHECK int engines_unserve(const char *engine, const char *id, const char *listen,
                                   bool force, struct hws_error *err);
/** Calls a method of the engine @id. @params is taken over; @ret_result a new reference. */
HWS_MUST_CHECK int engines_call(const char *id, const char *method, json_t *params,
                                json_t **ret_result, struct hws_error *err);

/* ---- engines_hold.c, of engines_real ---- */

HWS_MUST_CHECK int engines_hold(const struct engine_held *held, unsigned count, void **ret,
                                struct hws_error *err);
HWS_MUST_CHECK int engines_release(void *hold, struct hws_error *err);
HWS_MUST_CHECK int engines_settle(const char *id, struct hws_error *err);

/* ---- freeze.c, of those ---- */

struct freeze;

/**
 * Freezes the file systems with these mount points, once they are written out; paths at which
 * nothing is mounted are passed over. They thaw after @timeout_ms, and when this process ends.
 */
HWS_MUST_CHECK int freeze_begin(const char *const *mountpoints, unsigned count, unsigned timeout_ms,
                                struct freeze **ret, struct hws_error *err);
/** Thaws them, and frees @freeze. -ETIMEDOUT where they have thawed before. */
HWS_MUST_CHECK int freeze_end(struct freeze *freeze, struct hws_error *err);

/* ---- engines_copy.c, of engines_real ---- */

HWS_MUST_CHECK int engines_copy(const struct engine_copy *copy, struct hws_error *err);
HWS_MUST_CHECK int engines_forget_copy(const char *path, struct hws_error *err);

#define ENGINES_ARGUMENTS_MAX 192
/** Puts "--allow", FOLDER pairs into @arguments from @used on. @return where they end. */
unsigned engines_add_allow(char **arguments, unsigned used, const char *const *allow);
/** Runs a command that prints its progress as lines of JSON, for a week at most. */
HWS_MUST_CHECK int engines_run_long(char *const arguments[],
                                    bool (*progress)(void *arg, uint64_t done_bytes,
                                                     uint64_t total_bytes),
                                    void *arg, struct hws_error *err);
/** Whether this process has one of the CAP_ rights now. */
bool engines_have_capability(unsigned capability);
/** `NAME=VALUE` options of a new image; up to ENGINE_OPTIONS_MAX and a NULL. */
#define ENGINE_OPTIONS_MAX 4
struct engine_options {
    const char *item[ENGINE_OPTIONS_MAX + 1];
    char text[ENGINE_OPTIONS_MAX][48];
    unsigned count;
};
HWS_MUST_CHECK int engines_options(const struct engine_image *image, struct engine_options *ret,
                                   struct hws_error *err);

/* ---- engines_node.c, of engines_real ---- */

HWS_MUST_CHECK int engines_describe(const char *id, json_t **ret, struct hws_error *err);
HWS_MUST_CHECK int engines_replace(const char *id, const char *program, json_t **ret,
                                   struct hws_error *err);
json_t *engines_features(void);

/** The program `hawser`. */
const char *engines_program(void);
/** The name of @other that the image @path records: from its folder on, where both lie in one. */
const char *engines_name_beside(const char *path, const char *other);

/** Where the program `hawser` lies; before the first use of engines_real. */
void engines_use_program(const char *path);

/** As attach_use_groups(). */
void engines_use_groups(const char *setting);

#endif
