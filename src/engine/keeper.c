/*
 * The keeper; see engine/keeper.h. One thread that waits for signals: its children's ends, and
 * those that ask it to end, which it passes on.
 *
 * It adopts orphans (PR_SET_CHILD_SUBREAPER), so that an engine that its predecessor started is its
 * child when that one has gone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/keeper.h"
#include "base/log.h"
#include "engine/engine.h"
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

/** What a process that an engine left behind gets to end by itself. */
#define REST_PATIENCE_MS 5000
/** A message: two words and a path. */
#define MESSAGE_MAX (PATH_MAX + 64)

struct keeper {
    const struct keeper_options *options;
    char program[PATH_MAX]; /* which it could not become */
    int pipe_fd;            /* told by engines; not blocking */
    int write_fd;           /* held for engines to come */
    pid_t engine;           /* who serves, or is about to */
    int status;             /* how it ended, once it has */
    bool ready, ended;      /* what was told of it; ready: once is enough */
    bool serves;            /* the one that runs now was ready */
    bool asked_to_end;
    struct keeper_deaths deaths;
    sigset_t signals, before;
};

static int engine_pipe = -1;

/* ---- policy ---- */

bool keeper_note_death(struct keeper_deaths *deaths, bool served, uint64_t now_ns,
                       uint64_t *ret_delay_ns)
{
    unsigned old = 0;
    while (served && old < deaths->count && now_ns - deaths->at_ns[old] > KEEPER_WINDOW_NS)
        old++;
    deaths->count -= old;
    memmove(deaths->at_ns, deaths->at_ns + old, deaths->count * sizeof(deaths->at_ns[0]));
    deaths->at_ns[deaths->count++] = now_ns;
    *ret_delay_ns = 0;
    if (deaths->count > 1)
        *ret_delay_ns = MIN(KEEPER_DELAY_FIRST_NS << (deaths->count - 2), KEEPER_DELAY_LONGEST_NS);
    return deaths->count < KEEPER_DEATHS_MAX;
}

/* ---- the engine's side ---- */

int keeper_pipe(void)
{
    return engine_pipe;
}

void keeper_set_pipe(int fd)
{
    engine_pipe = fd;
}

/* Where this program lies now: a file that was replaced since has its old name and a mark. */
static void own_program(char path[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    path[MAX(length, 0)] = '\0';
}

static void tell(const char *text)
{
    if (engine_pipe >= 0 && write(engine_pipe, text, strlen(text)) < 0)
        log_warning("the keeper is gone: this engine is not started again should it die");
}

void keeper_tell_ready(void)
{
    char path[PATH_MAX], text[MESSAGE_MAX];
    own_program(path);
    snprintf(text, sizeof(text), "ready %d %s\n", (int)getpid(), path);
    tell(text);
}

void keeper_tell_ended(void)
{
    tell("ended\n");
}

/* ---- the keeper's side ---- */

static void take_message(struct keeper *keeper, const char *text)
{
    char own[PATH_MAX];
    int pid, used = 0;
    if (!strcmp(text, "ended")) {
        keeper->ended = true;
        return;
    }
    if (sscanf(text, "ready %d %n", &pid, &used) != 1 || pid <= 1 || !used)
        return;
    keeper->engine = pid;
    keeper->ready = keeper->serves = true;
    const char *program = text + used;
    own_program(own); /* a file of the same name may be another by now, and then this says so */
    if (*program != '/' || !strcmp(program, own) || !strcmp(program, keeper->program))
        return;
    log_info("the engine is %s now: its keeper becomes that, too", program);
    keeper->options->become(keeper->options->arg, program, pid, keeper->pipe_fd);
    log_warning("the keeper stays %s", keeper->program);
    snprintf(keeper->program, sizeof(keeper->program), "%s", program); /* once is enough */
}

/* Each message is written by one call, and read after it was. */
static void read_messages(struct keeper *keeper)
{
    char text[2 * MESSAGE_MAX];
    ssize_t length = read(keeper->pipe_fd, text, sizeof(text) - 1);
    if (length <= 0)
        return;
    text[length] = '\0';
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        take_message(keeper, line);
}

/* Reaps. @return whether any child is left. */
static bool reap(struct keeper *keeper, bool *engine_ended)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid == 0)
            return true;
        if (pid < 0)
            return false;
        read_messages(keeper); /* what it said before it died */
        if (pid == keeper->engine) {
            keeper->status = status;
            keeper->engine = 0; /* the number may be another's from now on */
            *engine_ended = true;
        }
    }
}

/* A signal, or nothing within @wait_ns. */
static int next_signal(struct keeper *keeper, uint64_t wait_ns)
{
    struct timespec wait = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
    int number = sigtimedwait(&keeper->signals, NULL, &wait);
    if (number != SIGTERM && number != SIGINT)
        return number;
    /* The engine decides: it goes on while its device is in use. */
    if (keeper->engine > 1)
        kill(keeper->engine, number);
    else
        keeper->asked_to_end = true;
    return number;
}

/* What the engine had started, a successor above all, goes before another is started. */
static void wait_rest(struct keeper *keeper)
{
    uint64_t deadline = process_now_ns() + REST_PATIENCE_MS * 1000000ull;
    bool ignored;
    while (reap(keeper, &ignored) && process_now_ns() < deadline)
        next_signal(keeper, 100000000);
}

/* Until the engine has ended. Another process may become the engine meanwhile. */
static void wait_engine(struct keeper *keeper)
{
    bool ended = false;
    while (reap(keeper, &ended) && !ended) {
        next_signal(keeper, 3600 * 1000000000ull);
        read_messages(keeper);
    }
}

/* @return false in the engine's process. */
static bool start_engine(struct keeper *keeper)
{
    keeper->ended = keeper->serves = false;
    keeper->engine = fork();
    if (keeper->engine != 0)
        return true;
    prctl(PR_SET_NAME, "hawser", 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
    pthread_sigmask(SIG_SETMASK, &keeper->before, NULL);
    close(keeper->pipe_fd);
    engine_pipe = keeper->write_fd;
    return false;
}

static void describe_end(int status, char *text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(text, size, "was killed by signal %d", WTERMSIG(status));
    else
        snprintf(text, size, "ended with exit code %d", WEXITSTATUS(status));
}

static bool shall_end(const struct keeper *keeper)
{
    const char *file = keeper->options->end_file;
    return keeper->ended || keeper->asked_to_end || !keeper->ready ||
           (file && access(file, F_OK) == 0);
}

static void run_give_up(struct keeper *keeper)
{
    pid_t pid = fork();
    if (pid == 0) {
        pthread_sigmask(SIG_SETMASK, &keeper->before, NULL);
        keeper->options->give_up(keeper->options->arg);
        _exit(0);
    }
    wait_rest(keeper);
}

/* @return whether to start another. */
static bool look_at_death(struct keeper *keeper)
{
    char how[64];
    uint64_t delay_ns;
    wait_rest(keeper);
    if (shall_end(keeper))
        return false;
    describe_end(keeper->status, how, sizeof(how));
    bool again = keeper_note_death(&keeper->deaths, keeper->serves, process_now_ns(), &delay_ns);
    if (!again) {
        log_error("the engine %s, the %d. time in a row: given up; the device fails its commands "
                  "until it is attached again or detached",
                  how, KEEPER_DEATHS_MAX);
        run_give_up(keeper);
        return false;
    }
    log_error("the engine %s; starting it again (%u. time in a row)", how, keeper->deaths.count);
    const uint64_t until = process_now_ns() + delay_ns;
    for (uint64_t now; !keeper->asked_to_end && (now = process_now_ns()) < until;)
        next_signal(keeper, until - now);
    return !shall_end(keeper);
}

static int set_up(struct keeper *keeper)
{
    int ends[2];
    prctl(PR_SET_NAME, "hawser-keeper", 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    sigemptyset(&keeper->signals);
    sigaddset(&keeper->signals, SIGTERM);
    sigaddset(&keeper->signals, SIGINT);
    sigaddset(&keeper->signals, SIGHUP);
    sigaddset(&keeper->signals, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &keeper->signals, &keeper->before);
    keeper->engine = keeper->options->engine;
    keeper->ready = keeper->serves = keeper->engine > 0;
    if (keeper->options->pipe_fd > 0) {
        char path[32]; /* opened by its name, a pipe has its other end again */
        snprintf(path, sizeof(path), "/proc/self/fd/%d", keeper->options->pipe_fd);
        ends[0] = keeper->options->pipe_fd;
        ends[1] = open(path, O_WRONLY | O_CLOEXEC);
        if (ends[1] < 0 || fcntl(ends[0], F_SETFD, FD_CLOEXEC) < 0)
            return -errno;
    } else if (pipe2(ends, O_CLOEXEC) < 0) {
        return -errno;
    }
    keeper->pipe_fd = ends[0];
    keeper->write_fd = ends[1];
    return fcntl(keeper->pipe_fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

int keeper_run(struct keeper_options *options)
{
    struct keeper keeper = {.options = options};
    int r = set_up(&keeper);
    if (r < 0) {
        log_error("cannot keep the engine: %s", strerror(-r));
        return EXIT_FAILURE;
    }
    if (!options->engine && !start_engine(&keeper))
        return -1;
    if (options->ready_fd > 0)
        close(options->ready_fd); /* its end tells of the engine's */
    options->ready_fd = -1;
    for (;;) {
        wait_engine(&keeper);
        if (!look_at_death(&keeper))
            break;
        if (!start_engine(&keeper))
            return -1;
    }
    return WIFEXITED(keeper.status) ? WEXITSTATUS(keeper.status) : EXIT_FAILURE;
}
