/*
 * Engines as the command sees them: attachments of this host, their life, and calls to the engine
 * that serves each. Everything here blocks and runs outside of the runtime.
 *
 *   RUN/              /run/hawser, $XDG_RUNTIME_DIR/hawser, or $HAWSER_RUN_DIR; mode 0700
 *     NAME/           one folder an attachment
 *
 * and in it
 *
 * - lock: locked by the engine as long as it lives; how "running" is told from "dead"
 * - config.json: what to serve; written once, before the engine starts
 * - state.json: what the engine made (process, device, FUSE file); replaced atomically
 * - mounts.json: what `attach --mount` mounted, so that `detach` can undo it
 * - control.sock: JSON-RPC 2.0, mode 0600
 * - log: standard error of the engine
 * - image: mount point of the FUSE file
 * - nbd/: sockets of NBD services and, while one is added, its credentials
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_CLIENT_H
#define ENGINE_CLIENT_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>
#include <sys/types.h>

/** Longest name of an attachment: part of file names and device listings. */
#define ATTACHMENT_NAME_MAX 64

struct attachment {
    char *name;
    char *folder;
    bool running;   /* the engine holds the lock */
    json_t *config; /* config.json; NULL where it cannot be read */
    json_t *state;  /* state.json; NULL before the engine was ready */
};

/** @return NULL. @attachment may be NULL. */
struct attachment *attachment_free(struct attachment *attachment);

/** "/dev/loop7", the FUSE file's path, or NULL where there is none yet. */
const char *attachment_device(const struct attachment *attachment);
/** The image as it was given, made absolute; NULL when unknown. */
const char *attachment_image(const struct attachment *attachment);

/** The file that takes what is written: the image, or its newest overlay. NULL when unknown. */
const char *attachment_top(const struct attachment *attachment);

/** Folder of all attachments; need not exist. @buffer of PATH_MAX bytes. @return @buffer. */
const char *attachment_root(char *buffer, size_t size);

/**
 * All attachments, by name. @ret an array of @ret_count pointers; end each with attachment_free(),
 * the array with free().
 */
HWS_MUST_CHECK int attachment_list(struct attachment ***ret, unsigned *ret_count,
                                   struct hws_error *err);

/** Finds one by name, device, mount point or image path. -ENOENT where there is none. */
HWS_MUST_CHECK int attachment_find(const char *what, struct attachment **ret,
                                   struct hws_error *err);

/**
 * The name of the volume whose device, image or top is @what; NULL where none is, as where @what is
 * the attachment's name. For calls of engines that serve several.
 */
const char *attachment_volume(const struct attachment *attachment, const char *what);

/**
 * Calls @method of the attachment's engine. @params a reference that is taken over, may be NULL.
 * @ret_result a new reference. An error that the engine answers becomes @err with the engine's
 * code.
 */
HWS_MUST_CHECK int attachment_call(const struct attachment *attachment, const char *method,
                                   json_t *params, json_t **ret_result, struct hws_error *err);

/** As attachment_call(), but waits at most @timeout_ms for an answer: -ETIMEDOUT. */
HWS_MUST_CHECK int attachment_call_within(const struct attachment *attachment, const char *method,
                                          json_t *params, int timeout_ms, json_t **ret_result,
                                          struct hws_error *err);

/* ---- NBD services of an engine that runs ---- */

/** A file of credentials, of the names that src/export/nbd/tls.h has. */
struct attachment_file {
    const char *name, *text;
};

#define ATTACHMENT_FILES_MAX 4

struct attachment_service {
    const char *id;     /* a UUID */
    const char *tag;    /* told again in the state */
    const char *listen; /* "tcp:HOST:PORT"; NULL: attachment_service_socket() */
    const char *name, *description;
    const char *tls;                                    /* "none", "psk", "x509" */
    struct attachment_file files[ATTACHMENT_FILES_MAX]; /* ended by one without a name, or full */
    bool read_only;
};

/**
 * Adds a service to an engine that runs; see engine/nbd_services.h. The credentials are in the
 * attachment's folder while the engine reads them.
 */
HWS_MUST_CHECK int attachment_serve(const struct attachment *attachment,
                                    const struct attachment_service *service,
                                    struct hws_error *err);

/** Ends it. -ENOENT where there is none, -EBUSY while it has clients, unless @force. */
HWS_MUST_CHECK int attachment_unserve(const struct attachment *attachment, const char *id,
                                      bool force, struct hws_error *err);

/** Where services without an address listen, of this attachment, there or not; free(). */
char *attachment_service_socket(const char *attachment, const char *id);

/** The services that the engine tells of, as of its state file: an array; NULL where none. */
const json_t *attachment_services(const struct attachment *attachment);

struct attach_options {
    const char *image;
    const char *name;   /* NULL: from the image's name */
    const char *format; /* NULL: found from the header */
    const char *const *allow;
    const char *cache, *discard, *detect_zeroes, *via, *block_size; /* words; NULL: the
                                                                          default */
    const char *device; /* "/dev/nbdN" to take with via nbd, or NULL */
    bool read_only;
    bool sandbox; /* the engine gives up what it does not need */
    bool group;   /* and has a control group of its own, after attach_use_groups() */
    /* With it: folders that it may write to, NULL-terminated; or NULL: the image's own. */
    const char *const *writable;
    uint64_t queues;           /* 0: what measured best */
    const char *mount;         /* folder to mount the device at, or NULL */
    const char *mkfs;          /* file system to make first when the device is blank, or NULL */
    const char *mkfs_options;  /* with blanks between them; NULL: none */
    const char *mount_options; /* as mount(8) takes them; NULL: none */
    /* Before a mount for writing, where what is there allows it: */
    bool check; /* repair what is safe to repair */
    bool grow;  /* grow an ext4 to the size of the device */
    bool part;  /* give a btrfs that is another's copy an identity of its own */

    /* More images for the same engine, NULL-terminated; or NULL. Each is a volume of its own. */
    const char *const *more;
    /** Completes the engine's configuration once the attachment has its folder; or NULL. */
    int (*configure)(void *arg, const struct attachment *attachment, json_t *config,
                     struct hws_error *err);
    void *configure_arg;
};

/**
 * The program that runs as engines, for a process that is no `hawser` itself; the default is the
 * calling process's own. Before the first attach; @path is kept, not copied.
 */
void attach_use_program(const char *path);

/** Times of an attach in microseconds, for --output=json. */
struct attach_times {
    uint64_t total_us;  /* call to usable device, mkfs and mount not counted */
    uint64_t spawn_us;  /* until the engine's process runs */
    uint64_t open_us;   /* opening the image */
    uint64_t export_us; /* FUSE mount and loop device: the kernel's share mostly */
    uint64_t mount_us;  /* mkfs and mount */
};

/**
 * Attaches. @ret owned by the caller. A failure leaves nothing behind, and SIGINT, SIGTERM and
 * SIGHUP are one. After a success they are blocked: the caller tells the result and ends.
 */
HWS_MUST_CHECK int attach_start(const struct attach_options *options, struct attachment **ret,
                                struct attach_times *times, struct hws_error *err);

/**
 * Detaches: unmounts what attach mounted, stops the engine, and removes all traces, of an engine
 * that was killed too. @force takes the device from its users. @return -EBUSY with the users named
 * in @err.
 */
HWS_MUST_CHECK int attach_stop(struct attachment *attachment, bool force, struct hws_error *err);

/**
 * Ends the engine at once, before anything more is written, and for good: no keeper starts it
 * again, nor does attach_stop() by force, which removes the traces.
 */
void attachment_kill(const struct attachment *attachment);

/* ---- control groups ---- */

/**
 * Finds where engines get control groups, and removes those of engines that are gone. This process
 * moves to a group of its own where it was delegated one. @setting a cgroup2 folder, "none", or
 * NULL: what this host has. What cannot be done is logged, and told by attach_describe_groups().
 */
void attach_use_groups(const char *setting);

/** {"folder", "controllers": [..]} or {"controllers": [], "reason"}; a new reference. */
json_t *attach_describe_groups(void);

/** The group in which the attachment's engine is; NULL where it is in none of its own. */
const char *attachment_group(const struct attachment *attachment);

/** {"cpu-us", "memory"} of its engines until now, a new reference; NULL where it has no group. */
json_t *attachment_group_usage(const struct attachment *attachment);

/* ---- exports ---- */

/*
 * Images as the LUNs or namespaces of one target of a fabric: attachments like others, with one
 * engine for all images of an export. They are saved, so that they are there again after the host's
 * next start:
 *
 *   STATE/exports/NAME.json    /var/lib/hawser, or $HAWSER_STATE_DIR; folder 0700, file 0600:
 *                              images, options, and secrets where it has some
 */
struct export_request {
    struct attach_options volume; /* of each image; `via`, `mount` and what follows are not used */
    const char *const *images;    /* NULL-terminated, one at least */
    const char *fabric;           /* "iscsi", ... */
    json_t *options;              /* of the fabric, as given; borrowed */
    const char *secrets;          /* file of secrets; "-": standard input; NULL: none */
    bool temporary;               /* not saved */
};

/**
 * Starts an export and saves it. @ret owned by the caller. A failure leaves nothing behind.
 * Interruptions as with attach_start().
 */
HWS_MUST_CHECK int export_start(const struct export_request *request, struct attachment **ret,
                                struct attach_times *times, struct hws_error *err);

/** What became of a saved export. */
struct export_outcome {
    char name[ATTACHMENT_NAME_MAX + 1];
    bool was_running;
    struct hws_error err; /* code 0: it runs; or, after exports_stop(), does not */
};

/**
 * Starts those saved exports that do not run: all, or the one called @name. Each by itself: a
 * failure of one is told in its outcome and keeps no other. @ret to free(). @return -errno only
 * where they cannot be listed, or there is none of that name.
 */
HWS_MUST_CHECK int exports_restore(const char *name, struct export_outcome **ret,
                                   unsigned *ret_count, struct hws_error *err);

/** Stops those that run, as when the host goes down: whoever uses them; they stay saved. */
HWS_MUST_CHECK int exports_stop(const char *name, struct export_outcome **ret, unsigned *ret_count,
                                struct hws_error *err);

/** The names of the saved exports, sorted. @ret an array; free() each and the array. */
HWS_MUST_CHECK int exports_saved(char ***ret, unsigned *ret_count, struct hws_error *err);

/** What is saved of the export called @name, without its secrets; NULL where nothing is. */
json_t *export_saved(const char *name);

/** Whether one of that name is saved, readable or not. */
bool export_is_saved(const char *name);

/** Forgets a saved export; one that is not there is no error. */
HWS_MUST_CHECK int export_forget(const char *name, struct hws_error *err);

/** "export" of the configuration: "fabric", "options"; NULL where the attachment is no export. */
const json_t *attachment_export(const struct attachment *attachment);

/** The file that an interrupted revert of the image at @path left beside it, or NULL. free(). */
char *attachment_leftover(const char *path);

/** What `hawser serve` runs. @config a JSON object; docs/engine.md describes it. @return an exit
 * code. */
int engine_main(json_t *config, struct hws_error *err);

/* How an engine behaves that a program runs for a purpose of its own; zeroes: as `hawser serve`. */
struct engine_manner {
    bool hangup_stops; /* SIGHUP ends it, too */
    bool cut_clients;  /* the first signal ends it, whoever is served */
    bool until_left;   /* it ends when its last NBD client has left */
    bool no_heir; /* nobody comes after it: requests to a device whose engine was killed fail */
    bool clients_wait; /* NBD clients beyond the limit are served when others have left */
    /** Once it serves; a failure ends it. On the control queue. NULL: nothing. */
    int (*started)(void *arg, struct hws_error *err);
    void *arg;
};

/** The same in another manner, without a keeper. @return 0 or -errno. */
HWS_MUST_CHECK int engine_run(json_t *config, const struct engine_manner *manner,
                              struct hws_error *err);

/** Ends the kernel's network block device "/dev/nbdN", whoever uses and serves it. */
HWS_MUST_CHECK int engine_nbd_disconnect(const char *device, struct hws_error *err);

#endif
