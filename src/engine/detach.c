/*
 * Detaching: the way back, of a living engine and of one that was killed.
 *
 *   unmount what attach mounted -> `stop` (the engine takes the device away, flushes, ends)
 *   -> wait for its lock -> remove the folder
 *
 * A SCSI disk that its engine left is served by another engine first, so that what the kernel
 * caches of it is written, and then detached like any other. Where that fails, its image being
 * gone, the disk is made to fail its commands, and removed.
 *
 * Of a dead engine there may be left, besides: a mounted file system on a device that only fails, a
 * loop device that waits for its last user, the FUSE mount (every access: "not connected"), and the
 * folder. All are taken away, what is not there is no error, so that a second detach finishes what
 * a first could not.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "engine/export.h"
#include "engine/holders.h"
#include "engine/internal.h"
#include "host/loop.h"
#include "host/mounts.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define END_TIMEOUT_MS 30000
#define END_RETRY_MS   2
/** A flush of much data takes its time; one that is forced gets less of it. */
#define STOP_TIMEOUT_MS   600000
#define FORCE_TIMEOUT_MS  20000
#define STATUS_TIMEOUT_MS 2000
/** How long a program may have a device open that only looks at it. */
#define USERS_PATIENCE_MS 1000
#define USERS_RETRY_MS    20

static int co_unmount_now(void *arg, struct hws_error *err)
{
    return co_unmount(arg, err);
}

static int explain_busy(const struct attachment *attachment, const char *target,
                        struct hws_error *err)
{
    char users[256];
    if (holders_describe_mount(target, users, sizeof(users)))
        return hws_fail(err, EBUSY,
                        "'%s' is mounted at %s and in use: %s; end that, or say --force",
                        attachment->name, target, users);
    return hws_fail(err, EBUSY,
                    "'%s' is mounted at %s and in use there, perhaps by a mount on top of it; end "
                    "that, or say --force",
                    attachment->name, target);
}

/*
 * Takes away our own mount only: unmounted by hand is as good, and what somebody has mounted there
 * since, or had mounted before an attach that failed, stays. A dead engine's mount is pulled away
 * from its users.
 */
static int unmount(const struct attachment *attachment, const char *target, bool lazy,
                   struct hws_error *err)
{
    const char *device = attachment_device(attachment);
    enum mounts_place place = device ? mounts_look(device, target) : MOUNTS_NOT_THERE;
    if (place == MOUNTS_NOT_THERE)
        return 0;
    if (place == MOUNTS_COVERED)
        return hws_fail(err, EBUSY,
                        "'%s' is mounted at %s under another mount; unmount that one first",
                        attachment->name, target);
    if (lazy)
        return umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL &&
                       errno != ENOENT
                   ? hws_fail_errno(err, errno, "cannot unmount %s", target)
                   : 0;
    struct hws_error why = {0};
    int r = attachment_run(co_unmount_now, (void *)target, &why);
    if (r == 0 || r == -EINVAL || r == -ENOENT)
        return 0;
    if (r == -EBUSY)
        return explain_busy(attachment, target, err);
    if (err)
        *err = why;
    return r;
}

static int unmount_all(const struct attachment *attachment, bool lazy, struct hws_error *err)
{
    autofree char *path = attachment_path(attachment, "mounts.json");
    json_t *mounts = path ? json_load_file(path, 0, NULL) : NULL, *mount;
    size_t i;
    int r = 0;
    json_array_foreach(mounts, i, mount)
    {
        const char *target = json_string_value(json_object_get(mount, "target"));
        if (!target || r < 0)
            continue;
        r = unmount(attachment, target, lazy, err);
        if (r == 0 && json_is_true(json_object_get(mount, "made")))
            rmdir(target);
    }
    json_decref(mounts);
    return r;
}

/* The lock is ours once the engine's process is gone. -ENOENT: another detach was faster. */
static int wait_end(const struct attachment *attachment, int *ret_lock, struct hws_error *err)
{
    uint64_t deadline = process_now_ns() + END_TIMEOUT_MS * 1000000ull;
    for (;;) {
        int r = attachment_lock(attachment, ret_lock, err);
        if (r != -EAGAIN)
            return r;
        if (process_now_ns() > deadline)
            return hws_fail(err, ETIMEDOUT, "the engine of '%s' does not end; its log is %s/log",
                            attachment->name, attachment->folder);
        usleep(END_RETRY_MS * 1000);
    }
}

struct loop_cleanup {
    const char *path;
    const char *file;  /* what it must be on, to be ours */
    uint64_t sequence; /* or which use of the device it was; 0: unknown */
};

/* The device number may be somebody else's by now: it is ours only while its file is our FUSE file.
 */
static bool is_ours(const struct loop_cleanup *cleanup)
{
    char name[64], file[4096];
    int number;
    if (sscanf(cleanup->path, "/dev/loop%d", &number) != 1)
        return false;
    if (cleanup->sequence && loop_sequence_now(cleanup->path) != cleanup->sequence)
        return false;
    snprintf(name, sizeof(name), "/sys/block/loop%d/loop/backing_file", number);
    FILE *stream = fopen(name, "re");
    if (!stream)
        return false;
    bool same = fgets(file, sizeof(file), stream) != NULL;
    fclose(stream);
    file[strcspn(file, "\n")] = '\0';
    if (cleanup->sequence && same)
        return true; /* a file of a name space that is gone has no name any more */
    size_t length = strlen(cleanup->file);
    return same && !strncmp(file, cleanup->file, length) &&
           (!file[length] || !strcmp(file + length, " (deleted)"));
}

static int co_clean_loop(void *arg, struct hws_error *err)
{
    struct loop_cleanup *cleanup = arg;
    struct loop_device device;
    struct hws_error why = {0};
    if (!is_ours(cleanup))
        return 0;
    int r = co_loop_open(cleanup->path, &device, &why);
    if (r == -ENXIO || r == -ENOENT)
        return 0;
    if (r < 0) {
        if (err)
            *err = why;
        return r;
    }
    r = co_loop_detach(&device, err);
    loop_device_close(&device);
    return r;
}

struct kernel_cleanup {
    const json_t *config;
    bool force;
};

/* What outlives an engine: a fabric's target first, then the backstores below it. */
static int co_clean_kernel(void *arg, struct hws_error *err)
{
    const struct kernel_cleanup *cleanup = arg;
    struct engine_config *config;
    int r = co_export_clear(cleanup->config, cleanup->force, err);
    if (r < 0 || engine_config_parse(cleanup->config, &config, NULL) < 0)
        return r;
    for (unsigned i = 0; r == 0 && i < config->volume_count; i++)
        if (device_way_outlives(config->volume[i].via))
            r = co_device_clear(&config->volume[i], cleanup->force, err);
    engine_config_free(config);
    return r;
}

/* ---- SCSI disks that an engine left ---- */

struct targets {
    struct engine_config *config;
    bool found;
};

typedef int target_fn(const struct volume_config *config, struct targets *targets,
                      struct hws_error *err);

struct target_walk {
    target_fn *co_each;
    struct targets *targets;
};

static int co_walk_targets(void *arg, struct hws_error *err)
{
    struct target_walk *walk = arg;
    const struct engine_config *config = walk->targets->config;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < config->volume_count; i++)
        if (device_way_outlives(config->volume[i].via))
            r = walk->co_each(&config->volume[i], walk->targets, err);
    return r;
}

static int walk_targets(const struct attachment *attachment, target_fn *co_each,
                        struct targets *targets, struct hws_error *err)
{
    struct target_walk walk = {co_each, targets};
    if (engine_config_parse(attachment->config, &targets->config, NULL) < 0)
        return 0; /* no engine ever ran with it */
    int r = attachment_run(co_walk_targets, &walk, err);
    targets->config = engine_config_free(targets->config);
    return r;
}

static int co_look(const struct volume_config *config, struct targets *targets,
                   struct hws_error *err)
{
    targets->found |= co_device_is_there(config);
    return 0;
}

bool attachment_outlived(const struct attachment *attachment)
{
    struct targets targets = {0};
    return walk_targets(attachment, co_look, &targets, NULL) == 0 && targets.found;
}

static int co_abandon(const struct volume_config *config, struct targets *targets,
                      struct hws_error *err)
{
    int r = co_device_abandon(config, err);
    return r == -ENOENT || r == -EBUSY ? 0 : r;
}

/* Nothing that follows waits for the disk any more. */
static int abandon_targets(const struct attachment *attachment, struct hws_error *err)
{
    struct targets targets = {0};
    return walk_targets(attachment, co_abandon, &targets, err);
}

static int clean_dead(const struct attachment *attachment, bool force, struct hws_error *err)
{
    json_t *volume = json_array_get(json_object_get(attachment->state, "volumes"), 0);
    struct loop_cleanup cleanup = {
        attachment_device(attachment), json_string_value(json_object_get(volume, "file")),
        (uint64_t)json_integer_value(json_object_get(volume, "disk-sequence"))};
    char users[512];
    struct kernel_cleanup kernel = {attachment->config, force};
    int r = attachment->config ? attachment_run(co_clean_kernel, &kernel, err) : 0;
    if (r < 0)
        return r;
    if (cleanup.path && cleanup.file && strcmp(cleanup.path, cleanup.file))
        r = attachment_run(co_clean_loop, &cleanup, err);
    if (r == -EBUSY && !force)
        return hws_fail(err, EBUSY,
                        "the engine of '%s' died, and its device %s is still in use: %s; end that, "
                        "or say --force",
                        attachment->name, cleanup.path,
                        holders_describe(cleanup.path, users, sizeof(users))
                            ? users
                            : "perhaps a program that works on what was mounted from it");
    autofree char *file = attachment_path(attachment, "image");
    /* EPERM: who may not unmount has not mounted either. */
    if (file && umount2(file, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL &&
        errno != ENOENT && errno != EPERM)
        return hws_fail_errno(err, errno, "cannot unmount %s", file);
    return 0;
}

/* ---- users of a device whose engine sees no other processes ---- */

static const char *blind_device(const struct attachment *attachment)
{
    const json_t *sandbox = json_object_get(attachment->config, "sandbox");
    const char *device = attachment_device(attachment);
    return sandbox && !json_is_false(sandbox) && device && !strncmp(device, "/dev/", 5) ? device
                                                                                        : NULL;
}

/* Those that only look, such as udev, are waited for. */
static int refuse_users(const struct attachment *attachment, const char *device,
                        struct hws_error *err)
{
    char users[512];
    pid_t engine = attachment_engine_pid(attachment);
    const uint64_t deadline = process_now_ns() + USERS_PATIENCE_MS * 1000000ull;
    while (holders_describe_open(device, engine, users, sizeof(users))) {
        if (process_now_ns() > deadline)
            return hws_fail(err, EBUSY, "%s is in use: %.500s", device, users);
        usleep(USERS_RETRY_MS * 1000);
    }
    return 0;
}

static int ask_stop(const struct attachment *attachment, bool force, struct hws_error *err)
{
    json_t *result = NULL;
    int r = attachment_call_within(attachment, "stop", json_pack("{s:b}", "force", force),
                                   force ? FORCE_TIMEOUT_MS : STOP_TIMEOUT_MS, &result, err);
    json_decref(r == 0 ? result : NULL);
    return r;
}

/* An engine that starts elsewhere holds a copy of every mount for a moment. */
static int stop_blind(const struct attachment *attachment, const char *device,
                      struct hws_error *err)
{
    char users[512];
    const uint64_t deadline = process_now_ns() + USERS_PATIENCE_MS * 1000000ull;
    int r = refuse_users(attachment, device, err);
    if (r < 0)
        return r;
    while ((r = ask_stop(attachment, false, err)) == -EBUSY) {
        if (process_now_ns() > deadline)
            return holders_describe(device, users, sizeof(users))
                       ? hws_fail(err, EBUSY, "%s is in use: %.500s", device, users)
                       : r;
        usleep(USERS_RETRY_MS * 1000);
    }
    return r;
}

static int stop_running(const struct attachment *attachment, bool force, struct hws_error *err)
{
    const char *blind = force ? NULL : blind_device(attachment);
    int r = unmount_all(attachment, force, err);
    if (r < 0)
        return r;
    r = blind ? stop_blind(attachment, blind, err) : ask_stop(attachment, force, err);
    /*
     * Forced, or held by nothing but a copy of the FUSE mount in another name space, which nobody
     * uses once the loop device is gone: the engine has flushed, and its end takes the copy with
     * it.
     */
    if (r == 0 || (!force && r != -ESTALE))
        return r;
    attachment_mark_ending(attachment);
    pid_t pid = attachment_engine_pid(attachment);
    return pid > 1 && kill(pid, SIGKILL) == 0 ? 0 : r;
}

/* An engine that is just starting has no socket yet: it is asked until it has one, or is gone. */
static int stop_starting(const struct attachment *attachment, bool force, struct hws_error *err)
{
    uint64_t deadline = process_now_ns() + END_TIMEOUT_MS * 1000000ull;
    int r;
    do {
        r = stop_running(attachment, force, err);
        if (r != -ENOENT && r != -ECONNREFUSED)
            break;
        int lock, locked = attachment_lock(attachment, &lock, NULL);
        if (locked == 0)
            close(lock);
        if (locked != -EAGAIN)
            break;
        usleep(END_RETRY_MS * 1000);
    } while (process_now_ns() < deadline);
    return r;
}

void attachment_kill(const struct attachment *attachment)
{
    attachment_mark_ending(attachment);
    pid_t pid = attachment->running ? attachment_engine_pid(attachment) : 0;
    if (pid > 1)
        kill(pid, SIGKILL);
}

int attachment_clear(const struct attachment *attachment, bool force, struct hws_error *err)
{
    int r = clean_dead(attachment, force, err);
    if (r < 0)
        return r;
    group_remove(attachment, false);
    return attachment_remove(attachment, err);
}

/* Whether it was served once, and lies where it did: then another try may do better. */
static bool may_come_back(const struct attachment *attachment)
{
    const char *top = attachment_top(attachment);
    return top && access(top, F_OK) == 0;
}

/* @ret_running whether an engine runs now. Fails where going on would lose what may be saved. */
static int serve_again(struct attachment *attachment, bool force, bool *ret_running,
                       struct hws_error *err)
{
    struct hws_error why = {0};
    autofd int lock = -1;
    *ret_running = false;
    if (force && attachment_is_ending(attachment))
        return 0; /* it was killed so that it writes no more */
    if (!attachment_outlived(attachment) || attachment_lock(attachment, &lock, NULL) < 0)
        return 0;
    int r = attachment_revive(attachment, lock, &why);
    close(steal_fd(&lock));
    attachment_reload(attachment);
    *ret_running = r == 0;
    if (r < 0 && !force && may_come_back(attachment))
        return hws_fail(err, -r,
                        "the engine of '%s' died, and it cannot be served again: %.500s; change "
                        "that, or say --force, which gives up what was not written to it",
                        attachment->name, why.text);
    if (r < 0)
        log_warning("'%s' cannot be served again: %s; what was not written to it is lost",
                    attachment->name, why.text);
    return 0;
}

/* A stop that failed before it took anything away leaves the engine as it was. */
static bool still_serves(const struct attachment *attachment)
{
    json_t *status = NULL;
    if (attachment_call_within(attachment, "status", NULL, STATUS_TIMEOUT_MS, &status, NULL) < 0)
        return false;
    const char *state = json_string_value(json_object_get(status, "state"));
    bool running = state && !strcmp(state, "running");
    json_decref(status);
    return running;
}

int attach_stop(struct attachment *attachment, bool force, struct hws_error *err)
{
    autofd int lock = -1;
    bool was_running = attachment->running;
    struct hws_error flush = {0};
    int stopped = 0, r = was_running ? 0 : serve_again(attachment, force, &was_running, err);
    if (r < 0)
        return r;
    if (was_running) {
        r = stop_starting(attachment, force, err);
        /* Gone in between is what was wanted; a failed flush ends the engine, and must be told. */
        if (r == -EBUSY || r == -EPERM || r == -EINVAL)
            return r;
        if (r < 0 && r != -ECONNREFUSED && r != -ENOENT && r != -ECONNRESET && r != -EPIPE) {
            if (still_serves(attachment))
                return r;
            stopped = r;
            if (err)
                flush = *err;
        }
    }
    r = wait_end(attachment, &lock, err);
    if (r == 0)
        r = abandon_targets(attachment, err);
    if (r == 0 && !was_running)
        r = unmount_all(attachment, true, err);
    if (r == 0 && force)
        group_remove(attachment, true);
    if (r == 0)
        r = attachment_clear(attachment, force, err);
    if (r == -ENOENT && access(attachment->folder, F_OK) < 0)
        r = 0;
    if (r == 0 && err)
        *err = flush;
    return r < 0 ? r : stopped;
}
