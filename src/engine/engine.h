/*
 * The engine: one process that opens images and exports them, inside.
 *
 *   engine.c      life of the process: start, signals, readiness, stop
 *   config.c      the configuration
 *   volume.c      one image: open, close, resize
 *   overlay.c     snapshot and revert of a live volume
 *   hold.c        requests that wait, for snapshots of several volumes
 *   device*.c     the ways to make a device of a volume (table; device.h)
 *   target.c target_identity.c   a volume as a backstore of the kernel's SCSI target
 *   export.c      its volumes as one target of a fabric
 *   nbd*.c        its volumes over NBD
 *   keeper.c      the process that starts the engine again when it dies
 *   replace.c resume.c   a new program in its place; what the next process needs to know
 *   server.c      the control socket: framing, limits, clients
 *   methods.c     the methods (table)
 *   process.c     its clock, and what may be parsed on a small stack
 *   client.c attachment.c attach.c detach.c   the other side: what the command does
 *
 * The main thread is the control queue: everything here runs on it, structural changes under
 * engine.control. Exports have queue threads of their own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "block/block.h"
#include "block/options.h"
#include "engine/client.h"
#include "engine/porter.h"
#include "host/process.h"
#include "rt/sync.h"

/** Images that one engine serves at most. */
#define ENGINE_VOLUMES_MAX 64
/** Sockets that a device is served on. */
#define VOLUME_SOCKETS_MAX 16
/** Folders in an "allow" list. */
#define ENGINE_ALLOW_MAX 64

struct engine;
struct server;
struct device;
struct volume_hold;
struct export;
struct nbd;
struct nbd_activation;
struct job;

/* The states of an engine, and where each may go. */
enum engine_state {
    ENGINE_STARTING, /* -> RUNNING, FAILED */
    ENGINE_RUNNING,  /* -> STOPPING */
    ENGINE_STOPPING, /* -> RUNNING (a device is busy), STOPPED */
    ENGINE_STOPPED,
    ENGINE_FAILED,
};

const char *engine_state_name(enum engine_state state);

/** As configured; strings are owned by the struct. */
struct volume_config {
    char *name, *image, *format, *path;
    char *uuid, *group, *keep, *device;
    json_t *resume; /* where a predecessor left it (resume.c), or NULL */
    char *allow_list[ENGINE_ALLOW_MAX + 1];
    int via; /* DEVICE_... */
    int cache, discard, detect_zeroes;
    bool read_only, trust_names, probe_raw;
    uint64_t queues, block_bytes;
    int sockets[VOLUME_SOCKETS_MAX]; /* of the device, handed over by a predecessor */
    unsigned socket_count;
    /* What was made before the engine gave up the right to make it (sandbox.h); -1: nothing. */
    int fuse_fd, fuse_abort_fd;
    struct porter porter;
};

struct volume {
    struct engine *engine;
    struct volume_config config;
    struct block_root *root;
    struct device *device;   /* NULL: not exported */
    struct block_keep *keep; /* or NULL */
    struct target *target;   /* of the device, or NULL (target.c) */
    /* After snapshots: what is on top, and what is being put there (resume.c). */
    char *top, *top_format, *next, *next_format;
    int left[VOLUME_SOCKETS_MAX]; /* sockets of a device that was left: open for a successor's sake
                                   */
    unsigned left_count;
    json_t *chain;                   /* files that may be named, beside those allowed; or NULL */
    struct job *job;                 /* that changes its chain, or NULL (jobs.c) */
    struct volume_hold *hold;        /* its requests wait, or NULL (hold.c) */
    char *merging, *merging_format;  /* the layer that the job writes to, or NULL (resume.c) */
    uint64_t opened_us, exported_us; /* how long each took */
};

struct engine_config {
    char *socket, *state_file;
    int log_level;
    char *cgroup;      /* to be in; NULL: where it was started */
    char *end_file;    /* while it exists a keeper starts nothing */
    uint64_t ready_fd; /* 0: none; else told "ready" or why not, and closed */
    uint64_t wait_fd;  /* 0: none; else a successor waits there for "go" (replace.c) */
    bool keeper;       /* one is wanted, or this is one */
    uint64_t keeper_engine, keeper_pipe;   /* of a keeper that became another program */
    json_t *sandbox;                       /* how it is closed in (sandbox.h), or NULL */
    json_t *source;                        /* what it was parsed from */
    json_t *export;                        /* of all volumes, by a fabric (export.h); or NULL */
    json_t *nbd;                           /* of volumes, over NBD, as now (nbd.h); or NULL */
    struct nbd_activation *nbd_activation; /* sockets from a service manager, or NULL */
    unsigned volume_count;
    struct volume_config volume[ENGINE_VOLUMES_MAX];
};

struct engine {
    struct engine_config *config;
    struct engine_manner manner;
    enum engine_state state;
    struct co_mutex control; /* one structural change at a time */
    struct volume *volumes;  /* config->volume_count of them */
    struct server *server;
    struct export *export;        /* NULL: none */
    struct nbd *nbd;              /* NULL: none */
    struct list nbd_services;     /* exports that were added while it runs (nbd_services.h) */
    struct list jobs;             /* those that run, and the last ones that ended; oldest first */
    unsigned last_job;            /* the number of the newest */
    struct co_waitq jobs_changed; /* guarded by `guard` */
    bool uring_commands;
    bool succeeds; /* it takes the place of one that has ended in order */
    uint64_t started_ns;
    int result;
    struct hws_error *err;
    struct rt_mutex guard; /* of stop_wanted and stop_force */
    struct co_waitq stop_changed;
    bool stop_wanted, stop_force, signals_done;
    bool replaced; /* a successor serves */
    int signal_fd;
};

/** Moves to @next; asserts that the table of states allows it. */
void engine_set_state(struct engine *engine, enum engine_state next);

/** Writes the state file anew, if there is one. After what `status` tells has changed. */
HWS_MUST_CHECK int engine_store_state(struct engine *engine, struct hws_error *err);

/** Asks the main coroutine to stop. Any coroutine of the control queue. */
void engine_ask_stop(struct engine *engine, bool force);

/**
 * Takes all devices away and flushes. -EBUSY while one is in use, unless @force: then the engine
 * goes on as before. Afterwards the state is STOPPING and engine_ask_stop() ends the process.
 */
HWS_MUST_CHECK int co_engine_unexport(struct engine *engine, bool force, struct hws_error *err);

/** Makes all that was written durable. @return the first failure, told in @err. */
HWS_MUST_CHECK int co_engine_flush(struct engine *engine, struct hws_error *err);

/** The volume called @name, or the only one when NULL. NULL with @err. */
struct volume *engine_volume(struct engine *engine, const char *name, struct hws_error *err);

/* ---- config.c ---- */

HWS_MUST_CHECK int engine_config_parse(const json_t *object, struct engine_config **ret,
                                       struct hws_error *err);
struct engine_config *engine_config_free(struct engine_config *config);

/* ---- volume.c ---- */

HWS_MUST_CHECK int co_volume_open(struct volume *volume, struct hws_error *err);
/** Takes the device away; -EBUSY while it is in use, unless @force. */
HWS_MUST_CHECK int co_volume_unexport(struct volume *volume, bool force, struct hws_error *err);
/** Flushes and closes the image. The volume must not be exported any more. */
HWS_MUST_CHECK int co_volume_close(struct volume *volume, struct hws_error *err);
/** Its device and the export that it is part of take the size that the volume has now. */
HWS_MUST_CHECK int co_volume_resized(struct volume *volume, struct hws_error *err);
HWS_MUST_CHECK int co_volume_resize(struct volume *volume, uint64_t size_bytes,
                                    struct hws_error *err);
/** Status as the methods `status` and `stats` and the file state.json tell it. */
json_t *volume_status(struct volume *volume);
json_t *volume_stats(struct volume *volume, bool histograms);
/** Where its images may name files, as configured; NULL: in their own folders. */
const char *const *volume_allow(const struct volume *volume);
/** Opens a description with the volume's format and rights; images may name files in @allow. */
HWS_MUST_CHECK int co_volume_open_node(struct volume *volume, const char *text, const char *format,
                                       unsigned flags, const char *const *allow,
                                       struct block_node **ret, struct hws_error *err);

/** Lets go of the device, which stays in the kernel, flushes and closes the image. */
HWS_MUST_CHECK int co_volume_leave(struct volume *volume, struct hws_error *err);
/** Closes the sockets of a device that was left. */
void volume_close_left(struct volume *volume);

/* ---- resume.c ---- */

/** For a successor; NULL where the configuration is enough. A new reference. */
json_t *volume_resume(const struct volume *volume);
/**
 * What to open. The state file of a predecessor counts where its device or its keep is there
 * (@inherits), and where a keeper started this engine after it: what a snapshot put on top stays on
 * top.
 */
void volume_find_top(struct volume *volume, bool inherits);
void volume_forget_top(struct volume *volume);
/** Around the moment in which an overlay gets on top. */
HWS_MUST_CHECK int volume_note_next(struct volume *volume, const char *path, const char *format,
                                    struct hws_error *err);
void volume_end_next(struct volume *volume, bool done);
/** Around the time in which a job writes to a layer below the top; @path NULL: it has ended. */
HWS_MUST_CHECK int volume_note_merging(struct volume *volume, const char *path, const char *format,
                                       struct hws_error *err);
/** The layer at @path is the top from now on. */
HWS_MUST_CHECK int volume_note_top(struct volume *volume, const char *path, const char *format,
                                   struct hws_error *err);
/** What is allowed by configuration and what was open; free() the list. */
const char **volume_allow_resumed(const struct volume *volume);

/* ---- overlay.c ---- */

struct volume_switch {
    uint64_t pause_ns; /* how long requests were held */
    char *layer;       /* revert: what it went back to; free() */
};

HWS_MUST_CHECK int co_volume_snapshot(struct volume *volume, const char *overlay,
                                      const char *format, struct volume_switch *ret,
                                      struct hws_error *err);
HWS_MUST_CHECK int co_volume_revert(struct volume *volume, const char *layer, bool force,
                                    struct volume_switch *ret, struct hws_error *err);

/* ---- device.c ---- */

/** Words for "via", in the order of the constants. */
extern const char *const device_way_names[];
enum {
    DEVICE_AUTO,
    DEVICE_TCMU,
    DEVICE_TARGET,
    DEVICE_NBD,
    DEVICE_FUSE_LOOP,
    DEVICE_FUSE,
    DEVICE_NONE
};

/** Whether it is made of a FUSE file; DEVICE_AUTO may be. */
bool device_way_needs_path(int way);

HWS_MUST_CHECK int co_device_start(struct volume *volume, struct device **ret,
                                   struct hws_error *err);
HWS_MUST_CHECK int co_device_stop(struct device *device, bool force, struct hws_error *err);
/** Tells the device that the volume's size changed. */
HWS_MUST_CHECK int co_device_resized(struct device *device, struct hws_error *err);
/**
 * Holds the device so that nobody mounts it, and makes sure that nobody has; for changing its
 * content. co_device_release() forgets what the kernel cached of it.
 */
HWS_MUST_CHECK int co_device_claim(struct device *device, int *ret_claim, struct hws_error *err);
void co_device_release(struct device *device, int claim);
/** Whether the device stays, and waits, when its engine lets go of it. */
bool device_can_leave(const struct device *device);
/** Sockets for the process that takes it over; owned by the caller. @return how many. */
unsigned device_copy_sockets(const struct device *device, int ret_fds[VOLUME_SOCKETS_MAX]);
/** Lets go of it: what was taken is answered, the rest waits in the kernel. Frees @device. */
void co_device_leave(struct device *device);
/** Whether a volume with this "via" outlives the process that serves it. */
bool device_way_outlives(int via);
/** Whether it was there at the start, with users perhaps, left by a process that is gone. */
bool device_is_adopted(const struct device *device);

/** Whether a process that served the same volume left a device of it. */
bool co_device_is_there(const struct volume_config *config);
/**
 * For a volume that nobody will serve: its requests fail, and no task waits for one. -EBUSY, with
 * nothing done, where a process serves it: it is that one's, under the same name. -ENOENT where
 * there is none, or one of something else.
 */
HWS_MUST_CHECK int co_device_abandon(const struct volume_config *config, struct hws_error *err);
/**
 * Removes the device that a dead process left, whose image nobody can open. What the kernel cached
 * of it is lost. One that another process serves is that one's, and stays. -EBUSY while it is in
 * use, unless @force.
 */
HWS_MUST_CHECK int co_device_clear(const struct volume_config *config, bool force,
                                   struct hws_error *err);

/** "way", "device", "file", "transport" for status. */
void device_describe(const struct device *device, json_t *out);

/* ---- server.c ---- */

HWS_MUST_CHECK int server_start(struct engine *engine, const char *path, struct server **ret,
                                struct hws_error *err);
/** A successor may take the path from here on; it is remembered by another name. May be NULL. */
void server_lend_path(struct server *server);
/** The successor failed: the path is ours again, whatever it did there. May be NULL. */
void server_take_path(struct server *server);
/** The path is another process's by now: it is not removed. */
void server_give_path(struct server *server);
/** No new clients; those connected are cut once they have their last answer. Frees @server. */
void co_server_stop(struct server *server);

/* ---- methods.c ---- */

/** Answers one request object. @return a new reference, or NULL where none is due (a notification).
 */
json_t *co_method_answer(struct engine *engine, const char *text, size_t length);

/* ---- replace.c ---- */

struct engine_replaced {
    uint64_t pause_ns; /* how long nobody served */
    pid_t pid;         /* who serves now */
};

/**
 * Runs @program in the place of this process, which ends then. A failure leaves all as it was.
 * Afterwards the state is STOPPING and engine_ask_stop() ends the process.
 */
HWS_MUST_CHECK int co_engine_replace(struct engine *engine, const char *program,
                                     struct engine_replaced *ret, struct hws_error *err);

/** A successor waits for its predecessor's word; others do not wait. */
HWS_MUST_CHECK int co_engine_wait_go(struct engine *engine, struct hws_error *err);

/** The keeper becomes @program. Returns where that fails. */
void engine_become_keeper(const struct engine_config *config, const char *program, pid_t engine,
                          int pipe_fd);

/* ---- process.c ---- */

/** Nanoseconds of the monotonic clock, for processes outside of the runtime. */
uint64_t process_now_ns(void);

/** True where @text nests objects and arrays no deeper than is safe to parse on a small stack. */
bool process_json_is_flat(const char *text, size_t length);

#endif
