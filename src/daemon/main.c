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
#include "daemon/daemon.h"
#include "host/process.h"
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#define TICK_S 1
/** Ticks between two times at which memory that long lists took goes back to the system. */
#define TRIM_TICKS 30

struct daemon {
    struct settings settings;
    struct control *control;
    struct http_workers *workers;
    struct http_server *rest, *docker;
};

static void set_log_level(const char *name)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(name, names[i]))
            log_set_level((enum log_level)i);
}

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

static int serve(struct daemon *daemon, struct hws_error *err)
{
    const char *docker = daemon->settings.docker_socket;
    struct http_options rest = {
        .path = daemon->settings.socket,
        .fd = -1,
        .handler = rest_handle,
        .refuse = rest_refuse,
        .arg = daemon->control,
        .log_name = "rest",
        .request_s = (unsigned)daemon->settings.request_s,
    };
    struct http_options plugin = rest;
    plugin.path = docker;
    plugin.handler = docker_handle;
    plugin.refuse = docker_refuse;
    plugin.log_name = "docker";
    daemon->workers = http_workers_start((unsigned)daemon->settings.workers, err);
    if (!daemon->workers)
        return -EAGAIN;
    make_parents(rest.path, 0700); /* the folder of attachments is nobody else's */
    int r = http_server_start(&rest, daemon->workers, &daemon->rest, err);
    if (r < 0 || !strcmp(docker, "none"))
        return r;
    make_parents(docker, 0755);
    return http_server_start(&plugin, daemon->workers, &daemon->docker, err);
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
        http_server_tick(daemon->rest);
        if (daemon->docker)
            http_server_tick(daemon->docker);
    }
}

static void end(struct daemon *daemon)
{
    http_server_quiesce(daemon->rest);
    http_server_quiesce(daemon->docker);
    http_workers_stop(daemon->workers);
    http_server_stop(daemon->rest);
    http_server_stop(daemon->docker);
    control_close(daemon->control);
    settings_free(&daemon->settings);
}

static int start(struct daemon *daemon, struct hws_error *err)
{
    struct control_options options = {.folder = daemon->settings.state, .background = true};
    crash_points(&options);
    engines_use_program(daemon->settings.program);
    int r = control_open(&options, &daemon->control, err);
    return r < 0 ? r : serve(daemon, err);
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
    mallopt(M_ARENA_MAX, 2);
    int r = settings_read(argc, argv, &daemon.settings, &err);
    if (r > 0) {
        settings_free(&daemon.settings);
        return 0;
    }
    if (r == 0) {
        set_log_level(daemon.settings.log_level);
        r = start(&daemon, &err);
    }
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
