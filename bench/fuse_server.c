/*
 * A minimal server around the FUSE export, for measurements and for tests that kill servers: opens
 * one image, mounts it, prints "ready TRANSPORT THREADS", serves until SIGTERM or SIGINT, unmounts.
 *
 *   fuse_server IMAGE MOUNTPOINT [transport=auto|device|io_uring] [threads=N] [read-only=on]
 *               [runtime=auto|io_uring|threads]
 *
 * IMAGE is an open description (qcow2:file:/a, null://1G); MOUNTPOINT is made when it is missing.
 * SIGUSR1 grows the image by 64 MiB.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/block.h"
#include "drivers/drivers.h"
#include "export/fuse/fuse.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

struct server {
    const char *image;
    struct fuse_export_options options;
    struct rt_options runtime;
    int signals;
    int result;
};

static int parse(int argc, char **argv, struct server *s)
{
    static const char *const transports[] = {"auto", "device", "io_uring"};
    static const char *const kinds[] = {"auto", "io_uring", "threads"};
    if (argc < 3)
        return -EINVAL;
    s->image = argv[1];
    s->options.path = argv[2];
    s->runtime.uring_commands = true;
    for (int i = 3; i < argc; i++) {
        unsigned n;
        bool known = false;
        if (sscanf(argv[i], "threads=%u", &n) == 1) {
            s->options.threads = n;
            continue;
        }
        if (strcmp(argv[i], "read-only=on") == 0) {
            s->options.read_only = true;
            continue;
        }
        for (n = 0; n < 3; n++) {
            if (strncmp(argv[i], "transport=", 10) == 0 && !strcmp(argv[i] + 10, transports[n])) {
                s->options.transport = (enum fuse_transport)n;
                known = true;
            }
            if (strncmp(argv[i], "runtime=", 8) == 0 && !strcmp(argv[i] + 8, kinds[n])) {
                s->runtime.kind = (enum rt_kind)n;
                known = true;
            }
        }
        if (!known)
            return -EINVAL;
    }
    return 0;
}

static int co_serve(struct server *s, struct block_root *root, struct hws_error *err)
{
    struct fuse_export *export;
    struct fuse_export_info info;
    int r = co_fuse_export_start(root, &s->options, &export, err);
    if (r < 0)
        return r;
    fuse_export_info(export, &info);
    printf("ready %s %u\n", info.transport, info.threads);
    fflush(stdout);
    for (;;) {
        struct signalfd_siginfo got;
        r = co_poll(s->signals, 1 /* POLLIN */);
        if (r < 0 || read(s->signals, &got, sizeof(got)) != (ssize_t)sizeof(got))
            continue;
        if (got.ssi_signo == SIGUSR1) {
            r = co_root_resize(root, block_root_size(root) + 64 * MiB, err);
            printf("resized %d\n", r);
            fflush(stdout);
            continue;
        }
        r = co_fuse_export_stop(export, false, err);
        if (r == 0)
            return 0;
        fprintf(stderr, "fuse_server: %s\n", err->text);
    }
}

static int co_open_and_serve(struct server *s, struct hws_error *err)
{
    json_t *description = NULL;
    struct block_node *node = NULL;
    unsigned flags = (s->options.read_only ? 0 : BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE);
    int r = block_describe(s->image, NULL, &description, err);
    if (r == 0)
        r = co_block_open(description, flags, NULL, &node, err);
    json_decref(description);
    if (r < 0)
        return r;
    struct block_root_options options = {.read_only = s->options.read_only};
    struct block_root *root = block_root_new(node, &options);
    int closed = co_block_close(node, err);
    if (!root || closed < 0)
        return root ? closed : -ENOMEM;
    r = co_serve(s, root, err);
    closed = co_block_root_free(root, r < 0 ? NULL : err);
    return r < 0 ? r : closed;
}

static void co_main(void *arg)
{
    struct server *s = arg;
    struct hws_error err = {0};
    s->result = co_open_and_serve(s, &err);
    if (s->result < 0)
        fprintf(stderr, "fuse_server: %s\n", err.text[0] ? err.text : strerror(-s->result));
}

int main(int argc, char **argv)
{
    struct server s = {0};
    struct hws_error err = {0};
    struct rt *rt;
    sigset_t mask;
    if (parse(argc, argv, &s) < 0) {
        fprintf(stderr, "usage: fuse_server IMAGE MOUNTPOINT [transport=auto|device|io_uring] "
                        "[threads=N] [read-only=on] [runtime=auto|io_uring|threads]\n");
        return 2;
    }
    int fd = open(s.options.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    s.signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    /* Reclaim may need this device: do not let our own allocations wait for it. */
    (void)prctl(PR_SET_IO_FLUSHER, 1);
    drivers_register();
    if (rt_create(&s.runtime, &rt, &err) < 0 || rt_run(rt, co_main, &s) < 0) {
        fprintf(stderr, "fuse_server: %s\n", err.text);
        return 1;
    }
    rt_free(rt);
    return s.result < 0;
}
