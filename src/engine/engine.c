/*
 * Life of an engine process: open, export, tell that it is ready, serve until told to stop, take
 * the devices away, flush, close.
 *
 *   STARTING --> RUNNING <--> STOPPING --> STOPPED
 *       \---> FAILED
 *
 * A stop never pulls a device from under its users: while one is mounted or open, SIGTERM flushes
 * and the engine goes on; a second signal, or `stop` with force, ends it whatever its users lose.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "drivers/drivers.h"
#include "engine/client.h"
#include "engine/export.h"
#include "engine/jobs.h"
#include "engine/nbd.h"
#include "engine/nbd_services.h"
#include "engine/keeper.h"
#include "engine/sandbox.h"
#include "host/cgroup.h"
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

static const char *const state_names[] = {"starting", "running", "stopping", "stopped", "failed"};

const char *engine_state_name(enum engine_state state)
{
    return state_names[state];
}

void engine_set_state(struct engine *engine, enum engine_state next)
{
    static const unsigned allowed[] = {
        [ENGINE_STARTING] = 1u << ENGINE_RUNNING | 1u << ENGINE_FAILED,
        [ENGINE_RUNNING] = 1u << ENGINE_STOPPING,
        [ENGINE_STOPPING] = 1u << ENGINE_RUNNING | 1u << ENGINE_STOPPED,
        [ENGINE_STOPPED] = 0,
        [ENGINE_FAILED] = 0,
    };
    assert(allowed[engine->state] & 1u << next);
    log_info("%s", state_names[next]);
    engine->state = next;
}

void engine_ask_stop(struct engine *engine, bool force)
{
    rt_mutex_lock(&engine->guard);
    engine->stop_wanted = true;
    engine->stop_force |= force;
    co_waitq_wake_all(&engine->stop_changed);
    rt_mutex_unlock(&engine->guard);
}

struct volume *engine_volume(struct engine *engine, const char *name, struct hws_error *err)
{
    unsigned count = engine->config->volume_count;
    if (!name && count == 1)
        return &engine->volumes[0];
    for (unsigned i = 0; name && i < count; i++)
        if (!strcmp(engine->volumes[i].config.name, name))
            return &engine->volumes[i];
    if (name)
        hws_fail(err, ENOENT, "this engine has no volume '%.80s'", name);
    else
        hws_fail(err, EINVAL, "this engine has %u volumes: say which with \"volume\"", count);
    return NULL;
}

/* SIGHUP by itself only says that the shell is gone; it also ends this coroutine once the engine
 * has stopped. */
static void co_watch_signals(void *arg)
{
    struct engine *engine = arg;
    unsigned seen = 0;
    while (engine->state != ENGINE_STOPPED && engine->state != ENGINE_FAILED) {
        struct signalfd_siginfo info;
        int events = co_poll(engine->signal_fd, POLLIN);
        if (events < 0) {
            log_error("cannot watch signals: %s", strerror(-events));
            break;
        }
        if (read(engine->signal_fd, &info, sizeof(info)) != sizeof(info) ||
            (info.ssi_signo == SIGHUP && !engine->manner.hangup_stops))
            continue;
        log_info("signal %u", info.ssi_signo);
        engine_ask_stop(engine, seen++ > 0 || engine->manner.cut_clients);
    }
    rt_mutex_lock(&engine->guard);
    engine->signals_done = true;
    co_waitq_wake_all(&engine->stop_changed);
    rt_mutex_unlock(&engine->guard);
}

static void co_wait_signals_done(struct engine *engine)
{
    kill(getpid(), SIGHUP); /* blocked: it reaches the signalfd only */
    rt_mutex_lock(&engine->guard);
    while (!engine->signals_done)
        co_waitq_wait(&engine->stop_changed, &engine->guard);
    rt_mutex_unlock(&engine->guard);
}

/* What detach needs even when this process is gone: replaced in one step. */
static int write_state(struct engine *engine)
{
    json_t *volumes = json_array();
    for (unsigned i = 0; i < engine->config->volume_count; i++)
        json_array_append_new(volumes, volume_status(&engine->volumes[i]));
    json_t *state = json_pack("{s:i, s:s, s:o}", "pid", (int)getpid(), "version", HAWSER_VERSION,
                              "volumes", volumes);
    json_t *export = export_state(engine);
    if (export)
        json_object_set_new(state, "export", export);
    json_t *nbd = nbd_state(engine);
    if (nbd)
        json_object_set_new(state, "nbd", nbd);
    json_t *services = nbd_services_state(engine);
    if (services)
        json_object_set_new(state, "nbd-services", services);
    json_object_set_new(state, "jobs", jobs_status(engine));
    autofree char *temporary = NULL;
    const char *path = engine->config->state_file;
    int r = asprintf(&temporary, "%s.new", path) < 0 ? -ENOMEM : 0;
    errno = 0;
    if (r == 0 && json_dump_file(state, temporary, JSON_COMPACT) < 0)
        r = errno ? -errno : -EIO;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    json_decref(state);
    return r;
}

int engine_store_state(struct engine *engine, struct hws_error *err)
{
    const char *path = engine->config->state_file;
    int r = path ? write_state(engine) : 0;
    return r < 0 ? hws_fail_errno(err, -r, "cannot write %s", path) : 0;
}

/* A background engine does not keep the folder's file system busy that it was started in. */
static void leave_folder(const struct engine *engine)
{
    bool absolute = engine->config->ready_fd > 0;
    for (unsigned i = 0; i < engine->config->volume_count; i++)
        absolute = absolute && engine->config->volume[i].image[0] == '/';
    if (absolute && chdir("/") < 0)
        log_warning("cannot leave the current folder");
}

static void tell_ready(struct engine *engine, const char *text)
{
    int fd = (int)engine->config->ready_fd;
    if (fd <= 0)
        return;
    /* A predecessor that died while it was replaced is no reason: the device has users. */
    if (write(fd, text, strlen(text)) < 0 && engine->state == ENGINE_RUNNING && !engine->succeeds) {
        log_warning("whoever started this engine is gone; stopping");
        engine_ask_stop(engine, false);
    }
    close(fd);
    engine->config->ready_fd = 0;
}

static int co_start(struct engine *engine, struct hws_error *err)
{
    struct engine_config *config = engine->config;
    int r = co_engine_wait_go(engine, err);
    if (r == 0)
        jobs_inherit(engine);
    for (unsigned i = 0; r == 0 && i < config->volume_count; i++)
        r = co_volume_open(&engine->volumes[i], err);
    if (r == 0)
        r = co_export_start(engine, err);
    if (r == 0)
        r = co_nbd_start(engine, err);
    if (r == 0 && config->socket)
        r = server_start(engine, config->socket, &engine->server, err);
    if (r == 0)
        r = engine_store_state(engine, err);
    return r == 0 && engine->manner.started ? engine->manner.started(engine->manner.arg, err) : r;
}

/*
 * What hangs on the devices first, then the devices: once all are gone, nothing can reach the
 * images. Whoever may not be cut off keeps all of it.
 */
static int co_unexport_all(struct engine *engine, bool force, struct hws_error *err)
{
    bool exported = engine->export != NULL, networked = engine->nbd != NULL;
    int r = co_nbd_services_pause(engine, force, err);
    if (r < 0)
        return r;
    r = co_nbd_stop(engine, force, err);
    if (r < 0) {
        co_nbd_services_resume(engine);
        return r;
    }
    r = co_export_stop(engine, force, err);
    bool unexported = r == 0;
    for (unsigned i = 0; r == 0 && i < engine->config->volume_count; i++)
        r = co_volume_unexport(&engine->volumes[i], force, err);
    struct hws_error why = {0};
    if (r < 0 && exported && unexported && co_export_start(engine, &why) < 0)
        log_error("it is not exported any more: %s", why.text);
    if (r < 0 && networked && co_nbd_start(engine, &why) < 0)
        log_error("it is not served over NBD any more: %s", why.text);
    if (r < 0)
        co_nbd_services_resume(engine);
    else
        co_nbd_services_end(engine);
    return r;
}

/* What a predecessor left is in use: it stays for the next who tries. */
static void co_undo_start(struct engine *engine)
{
    struct hws_error err = {0};
    bool inherited = false;
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        struct volume *volume = &engine->volumes[i];
        if (!volume->device || !device_is_adopted(volume->device))
            continue;
        inherited = true;
        if (co_volume_leave(volume, &err) < 0)
            log_error("%s", err.text);
    }
    if (inherited)
        export_leave(engine);
    if (co_unexport_all(engine, true, &err) < 0)
        log_error("%s", err.text);
}

static void co_close_all(struct engine *engine)
{
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        struct hws_error err = {0};
        int r = co_volume_close(&engine->volumes[i], &err);
        if (r < 0) {
            log_error("%s", err.text);
            engine->result = engine->result ? engine->result : r;
            if (!engine->err->code)
                *engine->err = err;
        }
    }
}

int co_engine_flush(struct engine *engine, struct hws_error *err)
{
    int result = 0;
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        struct volume *volume = &engine->volumes[i];
        int r = volume->config.read_only ? 0 : co_root_flush(volume->root);
        if (r < 0 && result == 0)
            result = hws_fail_errno(err, -r, "volume '%s': flush failed", volume->config.name);
    }
    return result;
}

int co_engine_unexport(struct engine *engine, bool force, struct hws_error *err)
{
    int r = 0;
    co_mutex_lock(&engine->control);
    if (engine->state == ENGINE_RUNNING) {
        engine_set_state(engine, ENGINE_STOPPING);
        r = co_unexport_all(engine, force, err);
        int flushed = co_engine_flush(engine, r < 0 ? NULL : err);
        if (r < 0)
            engine_set_state(engine, ENGINE_RUNNING);
        r = r < 0 ? r : flushed;
    }
    co_mutex_unlock(&engine->control);
    return r;
}

/* Returns when the devices are gone. A failed flush is told, and ends the engine all the same. */
static void co_serve(struct engine *engine)
{
    for (bool stopped = false; !stopped;) {
        rt_mutex_lock(&engine->guard);
        while (!engine->stop_wanted)
            co_waitq_wait(&engine->stop_changed, &engine->guard);
        bool force = engine->stop_force;
        engine->stop_wanted = false;
        rt_mutex_unlock(&engine->guard);
        struct hws_error err = {0};
        int r = co_engine_unexport(engine, force, &err);
        stopped = engine->state == ENGINE_STOPPING;
        if (r < 0)
            log_error("%s%s", err.text,
                      stopped ? "" : "; still serving: signal again to stop anyway");
        if (force && !stopped) {
            log_error("ending without taking the device away; what was written is flushed");
            keeper_tell_ended();
            _exit(EXIT_FAILURE);
        }
        if (r < 0 && stopped && !engine->result) {
            engine->result = r;
            *engine->err = err;
        }
    }
    if (!engine->replaced)
        process_notify("STOPPING=1");
}

static void co_engine(void *arg)
{
    struct engine *engine = arg;
    process_shield(); /* what is to be served may be in use already */
    engine->result = co_start(engine, engine->err);
    if (engine->result == 0)
        engine->result = rt_spawn(NULL, co_watch_signals, engine);
    else
        engine->signals_done = true;
    if (engine->result == 0) {
        engine_set_state(engine, ENGINE_RUNNING);
        process_notify("READY=1");
        keeper_tell_ready();
        leave_folder(engine);
        tell_ready(engine, "ready\n");
        co_serve(engine);
        engine_set_state(engine, ENGINE_STOPPED);
        if (!engine->replaced)
            keeper_tell_ended();
        else if (engine->server)
            server_give_path(engine->server);
    } else {
        co_undo_start(engine);
        engine_set_state(engine, ENGINE_FAILED);
    }
    co_server_stop(engine->server);
    export_leave(engine);
    co_close_all(engine);
    co_wait_signals_done(engine);
}

static int run_engine(struct engine *engine, struct hws_error *err)
{
    struct rt_options options = {.uring_commands = engine->uring_commands, .workers_max = 2};
    struct rt *rt;
    int r = rt_create(&options, &rt, err);
    if (r < 0)
        return r;
    r = rt_run(rt, co_engine, engine);
    rt_free(rt);
    return r < 0 ? hws_fail_errno(err, -r, "cannot start the I/O runtime") : engine->result;
}

/* Rings with entries for commands cost memory, so only where FUSE can use them. */
static bool fuse_over_uring(void)
{
    char word = 'N';
    autofd int fd = open("/sys/module/fuse/parameters/enable_uring", O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, &word, 1) == 1 && word == 'Y';
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int run_configured(struct engine_config *config, const struct engine_manner *manner,
                          struct hws_error *err)
{
    struct engine engine = {.config = config, .manner = *manner, .err = err};
    engine.volumes = calloc(config->volume_count, sizeof(*engine.volumes));
    if (!engine.volumes)
        return hws_fail(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < config->volume_count; i++)
        engine.volumes[i].engine = &engine;
    log_set_level((enum log_level)config->log_level);
    engine.uring_commands = fuse_over_uring();
    co_mutex_init(&engine.control);
    rt_mutex_init(&engine.guard);
    co_waitq_init(&engine.stop_changed);
    co_waitq_init(&engine.jobs_changed);
    list_init(&engine.jobs);
    list_init(&engine.nbd_services);
    engine.started_ns = process_now_ns();
    engine.signal_fd = open_signals();
    int r = engine.signal_fd < 0 ? hws_fail_errno(err, errno, "cannot watch signals")
                                 : sandbox_enter(config, err);
    for (unsigned i = 0; i < config->volume_count; i++)
        engine.volumes[i].config = config->volume[i];
    if (r == 0)
        r = run_engine(&engine, err);
    if (r < 0)
        tell_ready(&engine, err->text);
    if (engine.signal_fd >= 0)
        close(engine.signal_fd);
    co_mutex_destroy(&engine.control);
    rt_mutex_destroy(&engine.guard);
    jobs_free(&engine);
    for (unsigned i = 0; i < config->volume_count; i++)
        volume_forget_top(&engine.volumes[i]);
    free(engine.volumes);
    return r;
}

/* A configuration that cannot be taken is told where readiness would be, too. */
static void tell_unready(const json_t *object, const char *why)
{
    json_int_t fd = json_integer_value(json_object_get(object, "ready-fd"));
    if (fd > 2 && fd <= 1024 && write((int)fd, why, strlen(why)) < 0)
        log_warning("whoever started this engine is gone");
}

/* ---- with a keeper ---- */

/* Only what outlives its process can be served by another one. */
static bool wants_keeper(const struct engine_config *config)
{
    bool outlives = config->keeper_engine > 0;
    for (unsigned i = 0; i < config->volume_count; i++)
        outlives = outlives || device_way_outlives(config->volume[i].via);
    return config->keeper && outlives;
}

static void become(void *arg, const char *program, pid_t engine, int pipe_fd)
{
    engine_become_keeper(arg, program, engine, pipe_fd);
}

static void co_give_up(void *arg)
{
    const struct engine_config *config = arg;
    for (unsigned i = 0; i < config->volume_count; i++) {
        struct hws_error err = {0};
        int r = co_device_abandon(&config->volume[i], &err);
        if (r < 0 && r != -ENOENT && r != -EBUSY)
            log_error("volume '%s': %s", config->volume[i].name, err.text);
    }
}

static void give_up(void *arg)
{
    struct rt_options options = {.kind = RT_THREADS};
    struct rt *rt;
    if (rt_create(&options, &rt, NULL) < 0)
        return;
    if (rt_run(rt, co_give_up, arg) < 0)
        log_error("cannot start the I/O runtime");
    rt_free(rt);
}

/* @return -1 in an engine's process, else the keeper's exit code. */
static int run_keeper(struct engine_config *config)
{
    struct keeper_options options = {
        .end_file = config->end_file,
        .ready_fd = (int)config->ready_fd,
        .become = become,
        .give_up = give_up,
        .arg = config,
        .engine = (pid_t)config->keeper_engine,
        .pipe_fd = config->keeper_engine ? (int)config->keeper_pipe : 0,
    };
    log_set_level((enum log_level)config->log_level);
    process_shield();
    int ended = keeper_run(&options);
    if (options.ready_fd < 0)
        config->ready_fd = 0; /* the first engine's alone */
    return ended;
}

/* Successors and keepers of running engines are where those are. It serves without, too. */
static void enter_group(const struct engine_config *config)
{
    struct hws_error err = {0};
    if (config->cgroup && !config->wait_fd && !config->keeper_engine &&
        cgroup_enter(config->cgroup, &err) < 0)
        log_warning("this engine has no control group of its own: %s", err.text);
}

int engine_main(json_t *object, struct hws_error *err)
{
    struct engine_config *config;
    process_prepare();
    drivers_register();
    int r = engine_config_parse(object, &config, err);
    if (r == 0 && (r = nbd_activation_take(config, err)) < 0)
        engine_config_free(config);
    if (r < 0) {
        tell_unready(object, err->text);
        return r;
    }
    enter_group(config);
    if (wants_keeper(config)) {
        int ended = run_keeper(config);
        if (ended >= 0) {
            engine_config_free(config);
            return ended ? hws_fail(err, ECHILD, "the engine failed") : 0;
        }
    } else if (config->keeper_pipe) {
        keeper_set_pipe((int)config->keeper_pipe);
    }
    r = run_configured(config, &(struct engine_manner){0}, err);
    engine_config_free(config);
    return r;
}

int engine_run(json_t *object, const struct engine_manner *manner, struct hws_error *err)
{
    struct engine_config *config;
    process_prepare();
    drivers_register();
    int r = engine_config_parse(object, &config, err);
    if (r < 0)
        return r;
    r = nbd_activation_take(config, err);
    if (r == 0)
        r = run_configured(config, manner, err);
    engine_config_free(config);
    return r;
}
