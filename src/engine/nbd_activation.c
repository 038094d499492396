/*
 * Sockets from a service manager: it listens, starts this program when somebody connects, or before
 * that, and passes the sockets as descriptors from 3 on (sd_listen_fds(3)).
 *
 *   LISTEN_PID      the process that they are for
 *   LISTEN_FDS      how many
 *   LISTEN_FDNAMES  their names, parted by colons; may be missing
 *
 * The variables are taken out of the environment, so that no child takes them for its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/nbd.h"
#include <fcntl.h>
#include <sys/socket.h>

#define FIRST_FD       3
#define ACTIVATION_MAX 16
#define NAME_MAX_BYTES 255

struct nbd_activation {
    unsigned count;
    int fd[ACTIVATION_MAX];
    char name[ACTIVATION_MAX][NAME_MAX_BYTES + 1];
};

/* @return the number in a variable, or -EINVAL; -ENOENT where it is not set. */
static long number_of(const char *variable, long max, struct hws_error *err)
{
    const char *text = getenv(variable);
    char *end;
    if (!text)
        return hws_fail(err, ENOENT,
                        "nbd: \"activated\" wants sockets from a service manager, but %s is not "
                        "set: start the engine from a socket unit, or leave \"activated\" out",
                        variable);
    errno = 0;
    long number = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || number < 1 || number > max)
        return hws_fail(err, EINVAL, "nbd: %s is '%.40s'; it must be a number of 1 to %ld",
                        variable, text, max);
    return number;
}

static int take_names(struct nbd_activation *a, struct hws_error *err)
{
    const char *text = getenv("LISTEN_FDNAMES");
    for (unsigned i = 0; i < a->count; i++) {
        if (!text) {
            snprintf(a->name[i], sizeof(a->name[i]), "unknown");
            continue;
        }
        size_t length = strcspn(text, ":");
        bool last = !text[length];
        if (length > NAME_MAX_BYTES || last != (i + 1 == a->count))
            return hws_fail(err, EINVAL,
                            "nbd: LISTEN_FDNAMES does not have the %u names that LISTEN_FDS "
                            "promises, of up to %d bytes",
                            a->count, NAME_MAX_BYTES);
        memcpy(a->name[i], text, length);
        text += length + !last;
    }
    return 0;
}

static int option_of(int fd, int option)
{
    int value;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) < 0 ? -errno : value;
}

static int check_socket(int fd, const char *name, struct hws_error *err)
{
    int kind = option_of(fd, SO_TYPE), family = option_of(fd, SO_DOMAIN);
    if (kind < 0)
        return hws_fail(err, EINVAL, "nbd: descriptor %d ('%s') of LISTEN_FDS is no socket: %s", fd,
                        name, strerror(-kind));
    if (kind != SOCK_STREAM || (family != AF_UNIX && family != AF_INET && family != AF_INET6))
        return hws_fail(err, EINVAL,
                        "nbd: descriptor %d ('%s') is no stream socket of unix or TCP: use "
                        "ListenStream= in the socket unit",
                        fd, name);
    if (option_of(fd, SO_ACCEPTCONN) != 1)
        return hws_fail(err, EINVAL,
                        "nbd: descriptor %d ('%s') does not listen: use Accept=no in the socket "
                        "unit",
                        fd, name);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        return hws_fail_errno(err, errno, "nbd: descriptor %d", fd);
    return 0;
}

static int take(struct nbd_activation *a, struct hws_error *err)
{
    long pid = number_of("LISTEN_PID", INT32_MAX, err);
    long count = pid < 0 ? pid : number_of("LISTEN_FDS", ACTIVATION_MAX, err);
    if (count < 0)
        return (int)count;
    if (pid != getpid())
        return hws_fail(err, EINVAL,
                        "nbd: the sockets are for process %ld (LISTEN_PID), this is %d: the "
                        "service manager must start the engine itself, without a shell between",
                        pid, (int)getpid());
    a->count = (unsigned)count;
    int r = take_names(a, err);
    for (unsigned i = 0; i < a->count && r == 0; i++) {
        a->fd[i] = FIRST_FD + (int)i;
        r = check_socket(a->fd[i], a->name[i], err);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return r;
}

int nbd_activation_take(struct engine_config *config, struct hws_error *err)
{
    const json_t *wanted = json_object_get(config->nbd, "activated");
    if (wanted && !json_is_boolean(wanted))
        return hws_fail(err, EINVAL, "nbd: \"activated\" is true or false");
    if (!json_is_true(wanted))
        return 0;
    struct nbd_activation *a = calloc(1, sizeof(*a));
    if (!a)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = take(a, err);
    if (r < 0)
        free(a); /* descriptors that may be anybody's are left alone */
    else
        config->nbd_activation = a;
    return r;
}

void nbd_activation_free(struct nbd_activation *a)
{
    for (unsigned i = 0; a && i < a->count; i++)
        close(a->fd[i]);
    free(a);
}

/* The server has copies, since it may be stopped and started again. */
int co_nbd_activation_listen(struct engine *engine, struct nbd *nbd, struct hws_error *err)
{
    const struct nbd_activation *a = engine->config->nbd_activation;
    int r = 0;
    for (unsigned i = 0; a && i < a->count && r == 0; i++) {
        int fd = fcntl(a->fd[i], F_DUPFD_CLOEXEC, FIRST_FD);
        r = fd < 0 ? hws_fail_errno(err, errno, "nbd: socket '%s'", a->name[i])
                   : co_nbd_server_listen(nbd->server, fd, err);
    }
    return r;
}

json_t *nbd_activation_state(const struct engine *engine)
{
    const struct nbd_activation *a = engine->config->nbd_activation;
    json_t *names = a ? json_array() : NULL;
    for (unsigned i = 0; a && i < a->count; i++)
        json_array_append_new(names, json_string(a->name[i]));
    return names;
}
