/*
 * A new program in the place of this one, while the devices are in use.
 *
 *     this engine                          its successor
 *     starts it ------------------------>  reads the configuration, gets ready to open
 *        <-------------------- "prepared"
 *     answers what it took, flushes,
 *     closes the images
 *     "go" ----------------------------->  opens the images and takes the devices over
 *        <----------------------- "ready"
 *     ends
 *
 * Between the closing and "ready" commands wait in the kernel: the pause. Whatever the successor
 * fails with, this engine opens its images again and goes on.
 *
 * A keeper becomes the new program as well, by exec, once the successor tells it that it serves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/engine.h"
#include "engine/jobs.h"
#include "engine/keeper.h"
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* Where a successor finds its descriptors; those below stay as they are, the lock among them. The
 * sockets of its devices follow. */
enum { READY_FD = 10, WAIT_FD, KEEPER_FD, CONFIG_FD, FIRST_SOCKET };
#define SOCKETS_MAX         256

#define CONFIG_PATH         "/proc/self/fd/13"
#define PREPARE_PATIENCE_NS ((uint64_t)60 * 1000000000)
#define READY_PATIENCE_NS   ((uint64_t)60 * 1000000000)

extern char **environ;

struct successor {
    const char *program;
    pid_t pid;
    int ready_fd; /* to read */
    int wait_fd;  /* to write */
    int sockets[SOCKETS_MAX];
    unsigned socket_count;
};

/* ---- configuration for another program ---- */

/* In memory, as a file that an exec keeps. @return a descriptor, close on exec, or -errno. */
static int config_file(const json_t *object)
{
    autofree char *text = json_dumps(object, JSON_COMPACT);
    autofd int fd = memfd_create("hawser-config", MFD_CLOEXEC);
    if (!text || fd < 0)
        return text ? -errno : -ENOMEM;
    size_t length = strlen(text);
    if (write(fd, text, length) != (ssize_t)length)
        return -EIO;
    return steal_fd(&fd);
}

/* What was given at the start is not what is on top after snapshots. */
static void set_tops(const struct engine *engine, json_t *config)
{
    json_t *volumes = json_object_get(config, "volumes");
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        json_t *resume = volume_resume(&engine->volumes[i]);
        if (resume)
            json_object_set_new(json_array_get(volumes, i), "resume", resume);
        else
            json_object_del(json_array_get(volumes, i), "resume");
    }
}

static void close_sockets(struct successor *successor)
{
    while (successor->socket_count)
        close(successor->sockets[--successor->socket_count]);
}

/* Those of devices that are too many are connected anew. */
static void add_sockets(const struct engine *engine, struct successor *successor, json_t *config)
{
    json_t *volumes = json_object_get(config, "volumes");
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        const struct volume *volume = &engine->volumes[i];
        int fds[VOLUME_SOCKETS_MAX];
        unsigned count = volume->device ? device_copy_sockets(volume->device, fds) : 0;
        json_t *list = json_array();
        for (unsigned n = 0; n < count; n++) {
            if (successor->socket_count == SOCKETS_MAX) {
                close(fds[n]);
                continue;
            }
            json_array_append_new(list, json_integer(FIRST_SOCKET + successor->socket_count));
            successor->sockets[successor->socket_count++] = fds[n];
        }
        json_t *entry = json_array_get(volumes, i);
        json_object_del(entry, "sockets");
        if (json_array_size(list))
            json_object_set(entry, "sockets", list);
        json_decref(list);
    }
}

static json_t *successor_config(const struct engine *engine, struct successor *successor)
{
    json_t *config = json_deep_copy(engine->config->source);
    json_object_set_new(config, "ready-fd", json_integer(READY_FD));
    json_object_set_new(config, "wait-fd", json_integer(WAIT_FD));
    json_object_set_new(config, "keeper", json_false());
    json_object_del(config, "keeper-engine");
    json_object_del(config, "keeper-pipe");
    if (keeper_pipe() >= 0)
        json_object_set_new(config, "keeper-pipe", json_integer(KEEPER_FD));
    set_tops(engine, config);
    add_sockets(engine, successor, config);
    return config;
}

/* Out of the way of the numbers that the successor finds its descriptors at. */
static int high(int fd)
{
    return fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, FIRST_SOCKET + SOCKETS_MAX);
}

static int lift_sockets(struct successor *successor, struct hws_error *err)
{
    for (unsigned i = 0; i < successor->socket_count; i++) {
        int fd = high(successor->sockets[i]);
        if (fd < 0)
            return hws_fail_errno(err, errno, "cannot hand a socket over");
        close(successor->sockets[i]);
        successor->sockets[i] = fd;
    }
    return 0;
}

void engine_become_keeper(const struct engine_config *config, const char *program, pid_t engine,
                          int pipe_fd)
{
    json_t *object = json_deep_copy(config->source);
    json_object_del(object, "ready-fd");
    json_object_set_new(object, "keeper", json_true());
    json_object_set_new(object, "keeper-engine", json_integer(engine));
    json_object_set_new(object, "keeper-pipe", json_integer(KEEPER_FD));
    autofd int file = config_file(object);
    /* A descriptor that has its number already would stay close on exec. */
    autofd int high_file = high(file), high_pipe = high(pipe_fd);
    json_decref(object);
    char *arguments[] = {(char *)"hawser", (char *)"serve", (char *)"--config", (char *)CONFIG_PATH,
                         NULL};
    if (high_file < 0 || high_pipe < 0 || dup2(high_file, CONFIG_FD) < 0 ||
        dup2(high_pipe, KEEPER_FD) < 0) {
        log_error("cannot hand the configuration over: %s", strerror(errno));
        return;
    }
    execve(program, arguments, environ);
    log_error("cannot run %s: %s", program, strerror(errno));
    close(CONFIG_FD);
    if (pipe_fd != KEEPER_FD)
        close(KEEPER_FD);
}

/* ---- the successor ---- */

static int add_actions(posix_spawn_file_actions_t *actions, const struct successor *successor,
                       const int from[4])
{
    int r = 0;
    for (int i = 0; r == 0 && i < 4; i++)
        if (from[i] >= 0)
            r = posix_spawn_file_actions_adddup2(actions, from[i], READY_FD + i);
    int next = FIRST_SOCKET;
    for (unsigned i = 0; r == 0 && i < successor->socket_count; i++)
        r = posix_spawn_file_actions_adddup2(actions, successor->sockets[i], next++);
    return r ? r : posix_spawn_file_actions_addclosefrom_np(actions, next);
}

static int spawn(struct successor *successor, const int from[4])
{
    char *arguments[] = {(char *)"hawser", (char *)"serve", (char *)"--config", (char *)CONFIG_PATH,
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
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int r = add_actions(&actions, successor, from);
    r = r ? r
          : posix_spawn(&successor->pid, successor->program, &actions, &attributes, arguments,
                        environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return -r;
}

static int start_with(struct engine *engine, struct successor *successor, int file,
                      struct hws_error *err)
{
    int ready[2], wait[2];
    if (pipe2(ready, O_CLOEXEC) < 0)
        return hws_fail_errno(err, errno, "cannot make a pipe");
    if (pipe2(wait, O_CLOEXEC) < 0) {
        close(ready[0]);
        close(ready[1]);
        return hws_fail_errno(err, errno, "cannot make a pipe");
    }
    int from[4] = {high(ready[1]), high(wait[0]), high(keeper_pipe()), high(file)};
    close(ready[1]);
    close(wait[0]);
    successor->ready_fd = ready[0];
    successor->wait_fd = wait[1];
    int r = from[0] < 0 || from[1] < 0 || from[3] < 0 ? -EMFILE : spawn(successor, from);
    for (unsigned i = 0; i < ARRAY_LEN(from); i++)
        if (from[i] >= 0)
            close(from[i]);
    return r < 0 ? hws_fail_errno(err, -r, "cannot run %s", successor->program) : 0;
}

static int start_successor(struct engine *engine, struct successor *successor,
                           struct hws_error *err)
{
    json_t *config = successor_config(engine, successor);
    autofd int file = config_file(config);
    json_decref(config);
    int r = file < 0 ? hws_fail_errno(err, -file, "cannot write the successor's configuration")
                     : lift_sockets(successor, err);
    if (r == 0)
        r = start_with(engine, successor, file, err);
    close_sockets(successor);
    return r;
}

/* @word and a newline, or why not. */
static int co_wait_word(struct successor *successor, const char *word, uint64_t patience_ns,
                        struct hws_error *err)
{
    char text[HWS_ERROR_TEXT_BYTES];
    size_t used = 0;
    const uint64_t deadline = rt_now_ns() + patience_ns;
    for (;;) {
        uint64_t now = rt_now_ns();
        int events =
            now < deadline ? co_poll_timeout(successor->ready_fd, POLLIN, deadline - now) : 0;
        if (events <= 0)
            return hws_fail(err, ETIMEDOUT, "%s was not %s in time", successor->program, word);
        ssize_t n = read(successor->ready_fd, text + used, sizeof(text) - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        used += (size_t)MAX(n, 0);
        text[used] = '\0';
        size_t length = strlen(word);
        if (!strncmp(text, word, length) && text[length] == '\n')
            return 0;
        if (n <= 0 || used == sizeof(text) - 1)
            break;
    }
    return used ? hws_fail(err, EIO, "%s: %.600s", successor->program, text)
                : hws_fail(err, EIO, "%s died at its start", successor->program);
}

static int end_blocking(void *arg)
{
    struct successor *successor = arg;
    if (successor->pid > 0) {
        kill(successor->pid, SIGKILL);
        waitpid(successor->pid, NULL, 0);
    }
    return 0;
}

/* ---- the hand-over ---- */

static int refuse_unfit(const struct engine *engine, struct hws_error *err)
{
    if (engine->nbd || !list_empty(&engine->nbd_services))
        return hws_fail(
            err, EOPNOTSUPP,
            "the connections of NBD clients end with the process that serves them; stop "
            "the engine and start it again");
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        const struct volume *volume = &engine->volumes[i];
        if (volume->device && !device_can_leave(volume->device))
            return hws_fail(err, EOPNOTSUPP,
                            "volume '%s': its device goes with the process that serves it; detach "
                            "it and attach it again",
                            volume->config.name);
    }
    return 0;
}

static int co_leave_all(struct engine *engine, struct hws_error *err)
{
    int r = 0;
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        int closed = co_volume_leave(&engine->volumes[i], r < 0 ? NULL : err);
        r = r < 0 ? r : closed;
    }
    return r;
}

/* The successor is gone. What it may have taken from a ring is sent back. */
static int co_take_back(struct engine *engine, struct hws_error *err)
{
    int r = 0;
    engine->succeeds = false;
    for (unsigned i = 0; i < engine->config->volume_count; i++)
        volume_close_left(&engine->volumes[i]);
    for (unsigned i = 0; r == 0 && i < engine->config->volume_count; i++)
        r = co_volume_open(&engine->volumes[i], err);
    if (r == 0)
        keeper_tell_ready();
    return r;
}

static int co_hand_over(struct engine *engine, struct successor *successor,
                        struct engine_replaced *ret, struct hws_error *err)
{
    uint64_t started = rt_now_ns();
    server_lend_path(engine->server);
    int r = co_leave_all(engine, err);
    if (r == 0 && write(successor->wait_fd, "go\n", 3) != 3)
        r = hws_fail(err, EPIPE, "%s died before it took over", successor->program);
    if (r == 0)
        r = co_wait_word(successor, "ready", READY_PATIENCE_NS, err);
    ret->pause_ns = rt_now_ns() - started;
    ret->pid = successor->pid;
    if (r == 0)
        return 0;
    struct hws_error why = {0};
    co_work(end_blocking, successor);
    successor->pid = -1;
    server_take_path(engine->server);
    if (co_take_back(engine, &why) < 0) {
        log_error("cannot go on after a failed replacement: %s", why.text);
        _exit(EXIT_FAILURE); /* a keeper starts again what this process cannot */
    }
    return hws_wrap(err, r, "this engine (%s) goes on", HAWSER_VERSION);
}

static int co_replace(struct engine *engine, const char *program, struct engine_replaced *ret,
                      struct hws_error *err)
{
    struct successor successor = {.program = program, .pid = -1, .ready_fd = -1, .wait_fd = -1};
    int r = refuse_unfit(engine, err);
    if (r == 0)
        r = start_successor(engine, &successor, err);
    if (r == 0)
        r = co_wait_word(&successor, "prepared", PREPARE_PATIENCE_NS, err);
    /* The successor tells of them as ended; whoever wants them starts them anew. */
    for (unsigned i = 0; r == 0 && i < engine->config->volume_count; i++)
        co_volume_end_job(&engine->volumes[i]);
    /* Most of what is dirty goes out while commands still run; a failure costs nobody a pause. */
    if (r == 0)
        r = co_engine_flush(engine, err);
    if (r == 0)
        r = co_hand_over(engine, &successor, ret, err);
    if (r < 0)
        co_work(end_blocking, &successor);
    if (successor.ready_fd >= 0)
        close(successor.ready_fd);
    if (successor.wait_fd >= 0)
        close(successor.wait_fd);
    return r;
}

int co_engine_replace(struct engine *engine, const char *program, struct engine_replaced *ret,
                      struct hws_error *err)
{
    co_mutex_lock(&engine->control);
    int r = engine->state == ENGINE_RUNNING
                ? co_replace(engine, program, ret, err)
                : hws_fail(err, ESHUTDOWN, "the engine is %s", engine_state_name(engine->state));
    if (r == 0) {
        char text[32];
        engine->replaced = true;
        engine_set_state(engine, ENGINE_STOPPING);
        snprintf(text, sizeof(text), "MAINPID=%d", (int)ret->pid);
        process_notify(text);
    }
    co_mutex_unlock(&engine->control);
    return r;
}

/* ---- the successor's side ---- */

int co_engine_wait_go(struct engine *engine, struct hws_error *err)
{
    char word[4] = "";
    int fd = (int)engine->config->wait_fd;
    if (fd <= 0)
        return 0;
    engine->succeeds = true;
    if (write((int)engine->config->ready_fd, "prepared\n", 9) != 9 || co_poll(fd, POLLIN) < 0 ||
        read(fd, word, sizeof(word) - 1) != 3 || strcmp(word, "go\n") != 0)
        return hws_fail(err, ECANCELED, "the engine to be replaced goes on, or is gone");
    close(fd);
    engine->config->wait_fd = 0;
    return 0;
}
