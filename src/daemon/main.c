/*
 * hawserd: opens the control plane, serves it, and ends on SIGTERM or SIGINT. Engines are processes
 * of their own, and go on.
 *
 *   settings -> catalog (what was under way is finished) -> workers -> sockets -> READY=1
 *   SIGTERM  -> sockets away -> workers finish what they have -> connections closed -> catalog
 * closed
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/docker/docker.h"
#include "api/rest/rest.h"
#include "base/log.h"
#include "control/engines.h"
#include "control/events.h"
#include "daemon/daemon.h"
#include "host/process.h"
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#define TICK_S 1
/** Ticks between two times at which memory that long lists took goes back to the system. */
#define TRIM_TICKS 30

struct daemon {
    struct settings settings;
    struct control *control;
    struct http_workers *workers;
    struct http_server *servers[3]; /* REST, the volume plugin, REST over TLS; NULL: not served */
    unsigned server_count;
    struct activation activation;
    struct docker_plugin plugin;
};

/* The last folder of a socket's path may be missing: /run is empty after a start of the host. */
static void make_parents(const char *path, mode_t mode)
{
    autofree char *folder = strdup(path);
    for (char *at = folder ? strchr(folder + 1, '/') : NULL; at; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(folder, strchr(at + 1, '/') ? 0755 : mode);
        *at = '/';
    }
}

static int serve_one(struct daemon *daemon, struct http_options *options, int activated,
                     struct hws_error *err)
{
    options->fd = daemon->activation.fd[activated];
    daemon->activation.fd[activated] = -1;
    int r =
        http_server_start(options, daemon->workers, &daemon->servers[daemon->server_count], err);
    daemon->server_count += r == 0;
    return r;
}

/* An event was written: whoever waits for one is served again. */
static void wake(void *arg)
{
    struct daemon *daemon = arg;
    for (unsigned i = 0; i < daemon->server_count; i++)
        http_server_wake(daemon->servers[i]);
}

static int serve(struct daemon *daemon, struct hws_error *err)
{
    const struct settings *settings = &daemon->settings;
    bool users = roles_have_users(settings->roles);
    const struct http_options rest = {
        .path = settings->socket,
        .everybody = users,
        .handler = rest_handle,
        .refuse = rest_refuse,
        .admit = roles_admit,
        .arg = daemon->control,
        .admit_arg = settings->roles,
        .log_name = "rest",
        .request_s = (unsigned)settings->request_s,
    };
    struct http_options local = rest, plugin = rest, remote = rest;
    daemon->workers = http_workers_start((unsigned)settings->workers, err);
    if (!daemon->workers)
        return -EAGAIN;
    make_parents(rest.path, users ? 0755 : 0700); /* the folder of attachments is nobody else's */
    int r = serve_one(daemon, &local, ACTIVATED_REST, err);
    if (r == 0 && settings->listen) {
        remote.address = settings->listen;
        remote.tls_folder = settings->tls;
        remote.log_name = "tcp";
        r = serve_one(daemon, &remote, ACTIVATED_TCP, err);
    }
    if (r == 0 && strcmp(settings->docker_socket, "none") != 0) {
        plugin.path = settings->docker_socket;
        plugin.everybody = false;
        daemon->plugin = (struct docker_plugin){daemon->control, settings->docker_scope};
        plugin.arg = &daemon->plugin;
        plugin.handler = docker_handle;
        plugin.refuse = docker_refuse;
        plugin.admit = NULL;
        plugin.log_name = "docker";
        make_parents(plugin.path, 0755);
        r = serve_one(daemon, &plugin, ACTIVATED_DOCKER, err);
    }
    if (r == 0) {
        control_events_wake(daemon->control, wake, daemon);
        wake(daemon); /* whoever waited already may have missed one */
    }
    return r;
}

static void wait_for_end(struct daemon *daemon, const sigset_t *signals)
{
    const struct timespec tick = {.tv_sec = TICK_S};
    for (unsigned ticks = 1;; ticks++) {
        int signal = sigtimedwait(signals, NULL, &tick);
        if (signal == SIGTERM || signal == SIGINT)
            return;
        control_tick(daemon->control);
        if (ticks % TRIM_TICKS == 0)
            malloc_trim(0);
        for (unsigned i = 0; i < daemon->server_count; i++)
            http_server_tick(daemon->servers[i]);
    }
}

static void end(struct daemon *daemon)
{
    for (unsigned i = 0; i < daemon->server_count; i++)
        http_server_quiesce(daemon->servers[i]);
    http_workers_stop(daemon->workers);
    if (daemon->control)
        control_events_wake(daemon->control, NULL, NULL);
    for (unsigned i = 0; i < daemon->server_count; i++)
        http_server_stop(daemon->servers[i]);
    control_close(daemon->control);
    settings_free(&daemon->settings);
}

static int start(struct daemon *daemon, struct hws_error *err)
{
    struct control_options options = {.folder = daemon->settings.state,
                                      .background = true,
                                      .master_key = daemon->settings.master_key,
                                      .host = daemon->settings.host,
                                      .lease_s = (unsigned)daemon->settings.lease_s,
                                      .events = (unsigned)daemon->settings.events};
    crash_points(&options);
    engines_use_program(daemon->settings.program);
    engines_use_groups(daemon->settings.cgroup);
    int r = control_open(&options, &daemon->control, err);
    return r < 0 ? r : serve(daemon, err);
}

/* A connection is a descriptor, and they may be more than the 1024 that a shell gives. */
static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    struct daemon daemon = {0};
    struct hws_error err = {0};
    sigset_t signals;
    /* Before any thread, so that none of them is interrupted: this one waits for them. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    /* Secrets pass through here: no core file has them, nor a debugger of another user. */
    prctl(PR_SET_DUMPABLE, 0);
    mallopt(M_ARENA_MAX, 2);
    int r = settings_read(argc, argv, &daemon.settings, &err);
    if (r > 0) {
        settings_free(&daemon.settings);
        return 0;
    }
    if (r == 0) {
        daemon_log(daemon.settings.log_level, daemon.settings.log_format);
        raise_limit();
        r = activation_take(&daemon.activation, &err);
    }
    if (r == 0)
        r = start(&daemon, &err);
    if (r == 0) {
        process_notify("READY=1");
        log_info("hawserd %s serves %s and %s", HAWSER_VERSION, daemon.settings.socket,
                 daemon.settings.docker_socket);
        wait_for_end(&daemon, &signals);
        process_notify("STOPPING=1");
        log_info("hawserd ends; engines go on");
    } else {
        fprintf(stderr, "hawserd: %s\n", err.text[0] ? err.text : strerror(-r));
    }
    end(&daemon);
    return r < 0;
}
