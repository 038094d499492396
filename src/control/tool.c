/*
 * Running programs; see control/tool.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/tool.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#define OUTPUT_MAX     ((size_t)1 * MiB)
#define ERRORS_MAX     1024
#define LINE_MAX_BYTES 1024
/** How often is asked whether a program is to be stopped, and how long it then has. */
#define WATCH_MS 50
#define STOP_MS  10000

extern char **environ;

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct channel {
    int fd;
    char *text;
    size_t used, capacity, max;
};

/* Reads what is there. What is past the most is read and dropped. @return whether there is more. */
static bool take(struct channel *c)
{
    char buffer[4096];
    ssize_t n = read(c->fd, buffer, sizeof(buffer));
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (n == 0)
        return false;
    size_t length = MIN((size_t)n, c->max - c->used);
    if (c->used + length + 1 > c->capacity) {
        size_t capacity = MAX(2 * c->capacity, c->used + length + 1);
        char *grown = realloc(c->text, capacity);
        if (!grown)
            return true;
        c->text = grown;
        c->capacity = capacity;
    }
    memcpy(c->text + c->used, buffer, length);
    c->used += length;
    c->text[c->used] = '\0';
    return true;
}

struct watch {
    const struct tool_watch *told;
    pid_t pid;
    bool stopped;
};

/* Gives the whole lines in @c away, and keeps the rest. */
static void tell_lines(struct channel *c, const struct tool_watch *told)
{
    char *at = c->text, *end;
    if (!told->line || !at)
        return;
    for (; (end = strchr(at, '\n')); at = end + 1) {
        *end = '\0';
        told->line(told->arg, at);
    }
    c->used -= (size_t)(at - c->text);
    memmove(c->text, at, c->used + 1);
    if (c->used >= c->max) /* no line of ours */
        c->used = 0;
}

/* @return false where the time ran out. */
static bool collect(struct channel channels[2], struct watch *watch, uint64_t end_ms)
{
    bool open[2] = {true, true};
    const struct tool_watch *told = watch->told;
    while (open[0] || open[1]) {
        struct pollfd wait[2] = {{.fd = open[0] ? channels[0].fd : -1, .events = POLLIN},
                                 {.fd = open[1] ? channels[1].fd : -1, .events = POLLIN}};
        uint64_t now = now_ms();
        if (now >= end_ms)
            return false;
        if (told->stop && !watch->stopped && told->stop(told->arg)) {
            /* It ends by itself, in its own good order; or else is killed. */
            watch->stopped = true;
            kill(watch->pid, SIGTERM);
            end_ms = MIN(end_ms, now + STOP_MS);
        }
        uint64_t slice = told->stop ? WATCH_MS : 60000;
        if (poll(wait, 2, (int)MIN(end_ms - now, slice)) < 0 && errno != EINTR)
            return false;
        for (unsigned i = 0; i < 2; i++)
            if (open[i] && wait[i].revents)
                open[i] = take(&channels[i]);
        tell_lines(&channels[0], told);
    }
    return true;
}

static int start(char *const arguments[], int output, int errors, pid_t *ret)
{
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
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    int r = posix_spawnp(ret, arguments[0], &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return -r;
}

/* The last line that says something. */
static int explain(const char *program, struct channel *errors, int status, struct hws_error *err)
{
    char *text = errors->text ? errors->text : (char *)"";
    size_t length = strlen(text);
    while (length && (text[length - 1] == '\n' || text[length - 1] == ' '))
        text[--length] = '\0';
    char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (*line)
        return hws_fail(err, EIO, "%.600s", line);
    return WIFEXITED(status)
               ? hws_fail(err, EIO, "%s ended with exit code %d", program, WEXITSTATUS(status))
               : hws_fail(err, EIO, "%s was killed", program);
}

static int run(char *const arguments[], unsigned timeout_ms, const struct tool_watch *told,
               char **ret_output, struct hws_error *err)
{
    int output[2], errors[2], status = 0;
    pid_t pid;
    if (pipe2(output, O_CLOEXEC) < 0)
        return hws_fail_errno(err, errno, "cannot make a pipe");
    autofd int out_read = output[0], out_write = output[1];
    if (pipe2(errors, O_CLOEXEC) < 0)
        return hws_fail_errno(err, errno, "cannot make a pipe");
    autofd int err_read = errors[0], err_write = errors[1];
    int r = start(arguments, out_write, err_write, &pid);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot run %s (is it installed?)", arguments[0]);
    close(steal_fd(&out_write));
    close(steal_fd(&err_write));
    struct channel channels[2] = {{.fd = out_read, .max = told->line ? LINE_MAX_BYTES : OUTPUT_MAX},
                                  {.fd = err_read, .max = ERRORS_MAX}};
    struct watch watch = {.told = told, .pid = pid};
    bool in_time = collect(channels, &watch, now_ms() + timeout_ms);
    if (!in_time)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    bool good = in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (watch.stopped && !good)
        r = hws_fail(err, ECANCELED, "%s was stopped", arguments[0]);
    else if (!in_time)
        r = hws_fail(err, ETIMEDOUT, "%s did not end within %u s", arguments[0], timeout_ms / 1000);
    else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        r = explain(arguments[0], &channels[1], status, err);
    free(channels[1].text);
    if (r == 0 && ret_output)
        *ret_output = channels[0].text;
    else
        free(channels[0].text);
    return r;
}

int tool_run(char *const arguments[], unsigned timeout_ms, char **ret_output, struct hws_error *err)
{
    const struct tool_watch nobody = {0};
    return run(arguments, timeout_ms, &nobody, ret_output, err);
}

int tool_run_watched(char *const arguments[], unsigned timeout_ms, const struct tool_watch *watch,
                     struct hws_error *err)
{
    return run(arguments, timeout_ms, watch, NULL, err);
}

void tool_reap(void)
{
    /* Who waits for its child does so at once: one that is there twice has nobody. */
    static pid_t seen;
    siginfo_t info = {0};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) {
        seen = 0;
        return;
    }
    if (info.si_pid != seen) {
        seen = info.si_pid;
        return;
    }
    for (seen = 0; waitpid(info.si_pid, NULL, WNOHANG) < 0 && errno == EINTR;)
        ;
}
