/*
 * Attaching: a folder for the attachment, an engine in it, and, if wanted, a file system on its
 * device.
 *
 *   mkdir RUN/NAME -> lock -> config.json -> spawn engine (the lock goes to it) -> wait for "ready"
 *   -> mkfs when asked and blank -> mount
 *
 * The engine is this same program, run as `hawser serve`, in a session of its own with its standard
 * output and error in the attachment's log, so that it outlives the shell. It tells readiness, or
 * in words why not, on a pipe: when it dies early, the pipe ends, and nobody polls.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "engine/internal.h"
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define NAME_TRIES 100
#define LOCK_FD    3
#define READY_FD   4
/** A chain of a thousand images takes a while to open; a dead engine is seen at once. */
#define READY_TIMEOUT_MS 120000
/** What an engine gets to end by itself whose attach was given up. */
#define GIVE_UP_MS 5000

extern char **environ;

/*
 * ---- interruption ----
 *
 * Ctrl-C and its like wait until the attach has taken back what it did; then the process ends by
 * them. Signals that are ignored (nohup) stay so.
 */

struct interruption {
    sigset_t before;
    int fd; /* readable once a signal has come; never read, so that the signal stays pending */
};

static void interruption_hold(struct interruption *in)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++) {
        struct sigaction action;
        if (sigaction(signals[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(&set, signals[i]);
    }
    pthread_sigmask(SIG_BLOCK, &set, &in->before);
    in->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* After a success the signals stay held, so that the caller can tell of it before the end. */
static void interruption_end(struct interruption *in, bool release)
{
    if (in->fd >= 0)
        close(in->fd);
    if (release)
        pthread_sigmask(SIG_SETMASK, &in->before, NULL);
}

static int interrupted(const struct interruption *in, struct hws_error *err)
{
    struct pollfd wait = {.fd = in->fd, .events = POLLIN};
    return poll(&wait, 1, 0) > 0 ? hws_fail(err, EINTR, "interrupted") : 0;
}

/* ---- names and folders ---- */

static bool name_is_valid(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > ATTACHMENT_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (const char *at = name; *at; at++)
        if (!isalnum((unsigned char)*at) && !strchr("._-", *at))
            return false;
    return true;
}

static int make_root(struct hws_error *err)
{
    char root[PATH_MAX];
    struct stat st;
    attachment_root(root, sizeof(root));
    if (mkdir(root, 0700) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno,
                              "cannot make the folder for attachments, %s (HAWSER_RUN_DIR names "
                              "another)",
                              root);
    /* Whoever can write there could make us unmount and delete things. */
    if (stat(root, &st) < 0 || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        return hws_fail(err, EPERM, "%s must belong to this user and be writable by nobody else",
                        root);
    return 0;
}

/* Makes and locks the folder of @name. -EEXIST: the name is taken. */
static int claim_name(const char *name, struct attachment **ret, int *ret_lock,
                      struct hws_error *err)
{
    char path[PATH_MAX], root[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", attachment_root(root, sizeof(root)), name) >=
        (int)sizeof(path))
        return hws_fail(err, ENAMETOOLONG, "%s: path too long", root);
    if (mkdir(path, 0700) < 0)
        return hws_fail_errno(err, errno, "cannot make %s", path);
    int r = attachment_load(name, ret, err);
    if (r == 0) {
        r = attachment_lock(*ret, ret_lock, err);
        if (r < 0)
            *ret = attachment_free(*ret);
    }
    return r;
}

static int explain_taken(const char *name, struct hws_error *err)
{
    struct attachment *other;
    if (attachment_load(name, &other, NULL) < 0)
        return hws_fail(err, EEXIST, "the name '%s' is taken", name);
    const char *image = attachment_image(other);
    if (other->running)
        hws_fail(err, EEXIST, "'%s' is attached already (%.400s); choose another --name", name,
                 image ? image : "?");
    else
        hws_fail(err, EEXIST, "'%s' is left from an engine that died; 'hawser detach %s' cleans up",
                 name, name);
    attachment_free(other);
    return -EEXIST;
}

static int make_folder(const struct attach_options *options, struct attachment **ret, int *lock,
                       struct hws_error *err)
{
    char base[ATTACHMENT_NAME_MAX + 8], name[ATTACHMENT_NAME_MAX + 24];
    if (options->name) {
        if (!name_is_valid(options->name))
            return hws_fail(err, EINVAL,
                            "'%.80s' is no name: use up to %d letters, digits, '.', '_' "
                            "and '-'",
                            options->name, ATTACHMENT_NAME_MAX);
        int r = claim_name(options->name, ret, lock, err);
        return r == -EEXIST ? explain_taken(options->name, err) : r;
    }
    attach_name_from_image(options->image, base);
    int r = -EEXIST;
    for (unsigned n = 1; n < NAME_TRIES && r == -EEXIST; n++) {
        snprintf(name, sizeof(name), n == 1 ? "%s" : "%s-%u", base, n);
        r = claim_name(name, ret, lock, err);
    }
    return r;
}

/* ---- the engine's process ---- */

static const char *engine_program = "/proc/self/exe";

void attach_use_program(const char *path)
{
    engine_program = path;
}

static int add_actions(posix_spawn_file_actions_t *actions, const char *log, int lock, int ready)
{
    int r = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    r = r ? r
          : posix_spawn_file_actions_addopen(actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    r = r ? r : posix_spawn_file_actions_adddup2(actions, 1, 2);
    r = r ? r : posix_spawn_file_actions_adddup2(actions, lock, LOCK_FD);
    r = r ? r : posix_spawn_file_actions_adddup2(actions, ready, READY_FD);
    return r ? r : posix_spawn_file_actions_addclosefrom_np(actions, READY_FD + 1);
}

static int spawn_engine(const struct attachment *attachment, int lock, int ready, pid_t *ret,
                        struct hws_error *err)
{
    autofree char *log = attachment_path(attachment, "log");
    autofree char *config = attachment_path(attachment, "config.json");
    if (!log || !config)
        return hws_fail(err, ENOMEM, "out of memory");
    char *arguments[] = {(char *)"hawser",
                         (char *)"serve",
                         (char *)"--ready-fd",
                         (char *)"4",
                         (char *)"--config",
                         config,
                         NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int r = add_actions(&actions, log, lock, ready);
    r = r ? r : posix_spawn(ret, engine_program, &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return r ? hws_fail_errno(err, r, "cannot start the engine") : 0;
}

/* "ready\n", or why not. */
static int wait_ready(int fd, const struct interruption *in, struct hws_error *err)
{
    char text[HWS_ERROR_TEXT_BYTES];
    size_t used = 0;
    for (;;) {
        struct pollfd wait[] = {{.fd = fd, .events = POLLIN}, {.fd = in->fd, .events = POLLIN}};
        if (poll(wait, ARRAY_LEN(wait), READY_TIMEOUT_MS) == 0)
            return hws_fail(err, ETIMEDOUT, "the engine was not ready within %d s",
                            READY_TIMEOUT_MS / 1000);
        if (wait[1].revents)
            return interrupted(in, err);
        ssize_t n = read(fd, text + used, sizeof(text) - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        used += (size_t)n;
        text[used] = '\0';
        if (!strcmp(text, "ready\n"))
            return 0;
        if (used == sizeof(text) - 1)
            break;
    }
    text[used] = '\0';
    return used ? hws_fail(err, EIO, "%s", text)
                : hws_fail(err, EIO, "the engine died at its start");
}

/* An engine that was asked to stop takes its device away as soon as it has one. */
static void end_engine(pid_t pid)
{
    kill(pid, SIGTERM);
    for (unsigned ms = 0; ms < GIVE_UP_MS; ms++) {
        if (waitpid(pid, NULL, WNOHANG) != 0)
            return;
        usleep(1000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static int start_engine(const struct attachment *attachment, int lock,
                        const struct interruption *in, struct attach_times *times,
                        struct hws_error *err)
{
    int ends[2];
    pid_t pid;
    uint64_t started = process_now_ns();
    autofree char *ending = attachment_path(attachment, "ending");
    if (ending) /* of a detach that did not get to its end */
        unlink(ending);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return hws_fail_errno(err, errno, "cannot make a pipe");
    autofd int ready = ends[0];
    /* Numbers above those that the engine finds them at, so that no dup2 runs over another. */
    int high_lock = fcntl(lock, F_DUPFD_CLOEXEC, 16),
        high_ready = fcntl(ends[1], F_DUPFD_CLOEXEC, 16);
    close(ends[1]);
    int r = high_lock < 0 || high_ready < 0
                ? hws_fail_errno(err, errno, "cannot start the engine")
                : spawn_engine(attachment, high_lock, high_ready, &pid, err);
    if (high_lock >= 0)
        close(high_lock);
    if (high_ready >= 0)
        close(high_ready);
    times->spawn_us = (process_now_ns() - started) / 1000;
    if (r < 0)
        return r;
    r = wait_ready(ready, in, err);
    if (r < 0) {
        close(steal_fd(&ready)); /* whom it would tell is gone */
        end_engine(pid);
    }
    return r;
}

int attachment_revive(const struct attachment *attachment, int lock, struct hws_error *err)
{
    const struct interruption none = {.fd = -1};
    struct attach_times times;
    return start_engine(attachment, lock, &none, &times, err);
}

/* ---- all of it */

static void read_times(const struct attachment *attachment, struct attach_times *times)
{
    json_t *volume = json_array_get(json_object_get(attachment->state, "volumes"), 0);
    times->open_us = (uint64_t)json_integer_value(json_object_get(volume, "open-us"));
    times->export_us = (uint64_t)json_integer_value(json_object_get(volume, "export-us"));
}

/* An image that we have attached ourselves is better told by its name than by its lock. */
static int refuse_attached(const char *path, struct hws_error *err)
{
    struct attachment *other;
    autofree char *image = realpath(path, NULL); /* with a '/': never taken for a name */
    if (!image || attachment_find(image, &other, NULL) < 0)
        return 0;
    int r = 0;
    const char *theirs = attachment_image(other), *top = attachment_top(other);
    /* Its device, or a file on its mount, is another matter. */
    bool same = (theirs && !strcmp(theirs, image)) || (top && !strcmp(top, image));
    json_t *volume = json_array_get(json_object_get(other->config, "volumes"), 0);
    if (same && other->running && !json_is_true(json_object_get(volume, "read-only")))
        r = hws_fail(err, EBUSY, "%.300s is attached already, as '%s'%s%s", path, other->name,
                     attachment_device(other) ? " at " : "",
                     attachment_device(other) ? attachment_device(other) : "");
    attachment_free(other);
    return r;
}

static int refuse_all_attached(const struct attach_options *options, struct hws_error *err)
{
    int r = options->read_only ? 0 : refuse_attached(options->image, err);
    for (unsigned i = 0; r == 0 && !options->read_only && options->more && options->more[i]; i++)
        r = refuse_attached(options->more[i], err);
    return r;
}

/*
 * The same command again, after all processes of an attachment were killed: its disk is there and
 * in use, and gets an engine again. @return 1 where there is nothing of the kind.
 */
static int start_again(const struct attach_options *options, const struct interruption *in,
                       char **ret, struct attach_times *times, struct hws_error *err)
{
    char base[ATTACHMENT_NAME_MAX + 8];
    struct attachment *attachment;
    autofd int lock = -1;
    attach_name_from_image(options->image, base);
    if (attachment_load(options->name ? options->name : base, &attachment, NULL) < 0)
        return 1;
    json_t *wanted = NULL;
    int r = 1;
    if (!attachment->running && attach_make_config(options, attachment, &wanted, NULL) == 0 &&
        json_equal(wanted, attachment->config) && attachment_outlived(attachment) &&
        attachment_lock(attachment, &lock, NULL) == 0) {
        *ret = strdup(attachment->name);
        r = *ret ? start_engine(attachment, lock, in, times, err)
                 : hws_fail(err, ENOMEM, "out of memory");
        if (r < 0)
            hws_wrap(err, r, "'%s' was left by an engine that died, and cannot be served again",
                     attachment->name);
    }
    json_decref(wanted);
    attachment_free(attachment);
    return r;
}

/* A folder with an engine that is ready. Until then the lock is held here too. */
static int start(const struct attach_options *options, const struct interruption *in, char **ret,
                 struct attach_times *times, struct hws_error *err)
{
    struct attachment *attachment = NULL;
    autofd int lock = -1;
    int r = start_again(options, in, ret, times, err);
    if (r <= 0)
        return r;
    r = make_folder(options, &attachment, &lock, err);
    if (r < 0)
        return r;
    *ret = strdup(attachment->name);
    r = *ret ? attach_write_config(options, attachment, err)
             : hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = start_engine(attachment, lock, in, times, err);
    if (r < 0 && attachment_clear(attachment, true, NULL) < 0)
        hws_wrap(err, r, "%s is left behind", attachment->folder);
    attachment_free(attachment);
    return r;
}

static int start_and_mount(const struct attach_options *options, const struct interruption *in,
                           struct attachment **ret, struct attach_times *times,
                           struct hws_error *err)
{
    struct attachment *attachment;
    uint64_t started = process_now_ns();
    autofree char *name = NULL;
    int r = start(options, in, &name, times, err);
    if (r == 0)
        r = attachment_load(name, &attachment, err);
    if (r < 0)
        return r;
    if (!attachment->state) {
        attachment_free(attachment);
        return hws_fail(err, ESTALE, "'%s' was detached at once by somebody else", name);
    }
    read_times(attachment, times);
    uint64_t usable = process_now_ns();
    times->total_us = (usable - started) / 1000;
    if (options->mount)
        r = attach_mount(options, attachment, err);
    times->mount_us = (process_now_ns() - usable) / 1000;
    if (r == 0)
        r = interrupted(in, err);
    if (r < 0) {
        if (attach_stop(attachment, false, NULL) < 0)
            hws_wrap(err, r, "'%s' stays attached", attachment->name);
        attachment_free(attachment);
        return r;
    }
    *ret = attachment;
    return 0;
}

int attach_start(const struct attach_options *options, struct attachment **ret,
                 struct attach_times *times, struct hws_error *err)
{
    struct interruption in;
    *times = (struct attach_times){0};
    int r = make_root(err);
    if (r == 0)
        r = refuse_all_attached(options, err);
    if (r < 0)
        return r;
    interruption_hold(&in);
    r = start_and_mount(options, &in, ret, times, err);
    interruption_end(&in, r < 0);
    return r;
}
