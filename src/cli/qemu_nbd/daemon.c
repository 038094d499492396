/*
 * --fork and --pid-file.
 *
 *     caller ----- waits ------ [bytes of standard error] --- "ready" --> exits
 *        \--fork--> session of its own ... serves, then standard error goes to /dev/null
 *
 * As with QEMU's tool, the caller fails where anything was told, a warning too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include <fcntl.h>
#include <sys/stat.h>

static bool copy_told(int from)
{
    char bytes[4096];
    bool any = false;
    for (;;) {
        ssize_t got = read(from, bytes, sizeof(bytes));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return any;
        any = true;
        fwrite(bytes, 1, (size_t)got, stderr);
    }
}

static _Noreturn void await(int told, int ready)
{
    char word;
    bool any = copy_told(told);
    bool serves = read(ready, &word, 1) == 1;
    exit(serves && !any ? EXIT_SUCCESS : EXIT_FAILURE);
}

void qn_fork(struct qn_daemon *daemon)
{
    int told[2], ready[2];
    fflush(NULL);
    if (pipe2(told, O_CLOEXEC) < 0 || pipe2(ready, O_CLOEXEC) < 0)
        exit(qi_error("Failed to set up communication pipe: %s", strerror(errno)));
    pid_t pid = fork();
    if (pid < 0)
        exit(qi_error("Failed to fork: %s", strerror(errno)));
    if (pid > 0) {
        close(told[1]);
        close(ready[1]);
        await(told[0], ready[0]);
    }
    close(told[0]);
    close(ready[0]);
    autofd int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (setsid() < 0 || nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
        dup2(nothing, STDOUT_FILENO) < 0 || dup2(told[1], STDERR_FILENO) < 0)
        exit(qi_error("Failed to daemonize: %s", strerror(errno)));
    close(told[1]);
    daemon->told = STDERR_FILENO;
    daemon->ready = ready[1];
}

/* The file stays locked for as long as this process lives. */
static int write_pid(struct qn_daemon *daemon, const char *path)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return qi_error("Could not create '%s': %s", path, strerror(errno));
    daemon->pid_file = fd;
    if (fcntl(fd, F_SETLK, &lock) < 0)
        return qi_error("Cannot lock pid file: %s", strerror(errno));
    if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0)
        return qi_error("Failed to write pid file: %s", strerror(errno));
    return 0;
}

int qn_daemon_ready(struct qn_daemon *daemon, const char *pid_file)
{
    if (pid_file && write_pid(daemon, pid_file))
        return 1;
    if (daemon->ready < 0)
        return 0;
    autofd int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (chdir("/") < 0 || nothing < 0 || write(daemon->ready, "1", 1) < 0 ||
        dup2(nothing, daemon->told) < 0)
        return qi_error("Failed to daemonize: %s", strerror(errno));
    close(daemon->ready);
    daemon->ready = -1;
    return 0;
}
