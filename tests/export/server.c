/*
 * The child side of tests/export/server.h: one runtime, one image, one export, one loop device.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/export/server.h"
#include "drivers/drivers.h"
#include "host/loop.h"
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

struct message {
    int result;
    char command;
    uint64_t argument;
    char text[512];
};

struct child {
    const struct server_options *options;
    int socket;
    struct block_root *root;
    struct fuse_export *export;
    struct loop_device loop;
    bool ended;
    int result;
};

/* ---- child ---- */

static void reply(struct child *c, int result, const char *text)
{
    struct message m = {.result = result};
    snprintf(m.text, sizeof(m.text), "%s", text);
    if (send(c->socket, &m, sizeof(m), 0) < 0)
        c->ended = true; /* the parent is gone */
}

/* The mount was taken away: the parent finds its socket closed and asks for the exit status. */
static void on_ended(void *arg)
{
    struct child *c = arg;
    c->ended = true;
    (void)shutdown(c->socket, SHUT_RDWR);
}

static int co_obey(struct child *c, const struct message *m, struct hws_error *err)
{
    struct loop_options loop = {.path = c->options->path,
                                .block_bytes = (uint32_t)m->argument,
                                .read_only = c->options->read_only,
                                .auto_clear = true};
    int r = -EINVAL;
    switch (m->command) {
    case SERVER_STOP:
        r = co_fuse_export_stop(c->export, m->argument != 0, err);
        if (r == 0)
            c->export = NULL;
        break;
    case SERVER_RESIZE:
        r = co_root_resize(c->root, m->argument, err);
        break;
    case SERVER_LOOP:
        r = co_loop_attach(&loop, &c->loop, err);
        if (r == 0)
            snprintf(err->text, sizeof(err->text), "%s", c->loop.path);
        break;
    case SERVER_LOOP_RESIZE:
        r = co_loop_resize(&c->loop, err);
        break;
    case SERVER_LOOP_DETACH:
        r = co_loop_detach(&c->loop, err);
        break;
    }
    return r;
}

static int co_open_root(struct child *c, struct hws_error *err)
{
    const char *image =
        c->options->image ? c->options->image : "{\"driver\": \"mem\", \"size\": 67108864}";
    unsigned flags = c->options->read_only ? 0 : BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE;
    struct block_root_options options = {.read_only = c->options->read_only};
    struct block_node *node = NULL;
    json_t *description = NULL;
    int r = block_describe(image, NULL, &description, err);
    if (r == 0)
        r = co_block_open(description, flags, NULL, &node, err);
    json_decref(description);
    if (r < 0)
        return r;
    c->root = block_root_new(node, &options);
    r = co_block_close(node, err);
    return c->root ? r : -ENOMEM;
}

static void co_serve(struct child *c)
{
    while (c->export && !c->ended) {
        struct message m;
        struct hws_error err = {0};
        int r = co_poll(c->socket, EPOLLIN);
        if (c->ended || r < 0 || recv(c->socket, &m, sizeof(m), MSG_DONTWAIT) != sizeof(m))
            continue;
        r = co_obey(c, &m, &err);
        reply(c, r, err.text);
    }
}

static void co_child(void *arg)
{
    struct child *c = arg;
    struct fuse_export_info info = {0};
    struct hws_error err = {0};
    struct fuse_export_options options = {.path = c->options->path,
                                          .read_only = c->options->read_only,
                                          .threads = c->options->threads,
                                          .transport = c->options->transport,
                                          .ended = on_ended,
                                          .ended_arg = c};
    c->result = co_open_root(c, &err);
    if (c->result == 0)
        c->result = co_fuse_export_start(c->root, &options, &c->export, &err);
    if (c->export)
        fuse_export_info(c->export, &info);
    reply(c, c->result, c->export ? info.transport : err.text);
    co_serve(c);
    loop_device_close(&c->loop);
    if (c->export)
        c->result = co_fuse_export_stop(c->export, true, &err);
    if (c->root) {
        int r = co_block_root_free(c->root, &err);
        c->result = c->result < 0 ? c->result : r;
    }
}

static int run_child(const struct server_options *options, int socket)
{
    struct child c = {.options = options, .socket = socket, .loop = {.fd = -1}};
    struct rt_options runtime = {.kind = options->runtime, .uring_commands = true};
    struct hws_error err = {0};
    struct rt *rt = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    drivers_register();
    int r = rt_create(&runtime, &rt, &err);
    if (r == 0)
        r = rt_run(rt, co_child, &c);
    if (r < 0) {
        reply(&c, r, err.text);
        return 1;
    }
    rt_free(rt);
    return c.result < 0 ? 1 : 0;
}

/* ---- parent ---- */

static int receive(struct server *server)
{
    struct message m;
    if (recv(server->socket, &m, sizeof(m), 0) != sizeof(m)) {
        snprintf(server->text, sizeof(server->text), "the server is gone");
        return -EPIPE;
    }
    memcpy(server->text, m.text, sizeof(server->text));
    return m.result;
}

int server_start(const struct server_options *options, struct server *server)
{
    int pair[2];
    fflush(NULL);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    server->pid = fork();
    if (server->pid < 0)
        return -errno;
    if (server->pid == 0) {
        close(pair[0]);
        exit(run_child(options, pair[1]));
    }
    close(pair[1]);
    server->socket = pair[0];
    int r = receive(server);
    if (r < 0)
        (void)server_wait(server);
    return r;
}

int server_command(struct server *server, char command, uint64_t argument)
{
    struct message m = {.command = command, .argument = argument};
    if (send(server->socket, &m, sizeof(m), MSG_NOSIGNAL) < 0)
        return -errno;
    return receive(server);
}

int server_wait(struct server *server)
{
    int status = -1;
    while (waitpid(server->pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(server->socket);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void server_kill(struct server *server)
{
    kill(server->pid, SIGKILL);
    (void)server_wait(server);
}
