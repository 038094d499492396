/*
 * A minimal server around the TCMU export, for measurements and tests in the lab: opens one image,
 * makes a backstore and a loopback disk of it, prints "ready /dev/sdX MINOR", serves until SIGTERM
 * or SIGINT, and takes all away again.
 *
 *   tcmu_server IMAGE [threads=N] [cache=writeback|none] [runtime=auto|io_uring|threads]
 *               [timeout=SECONDS]
 *
 * SIGUSR1 prints the counters: "commands N failures N malformed N aborts N wakeups N".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/block.h"
#include "drivers/drivers.h"
#include "export/tcmu/tcmu.h"
#include "host/lio.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

struct server {
    const char *image;
    struct rt_options runtime;
    struct block_policy policy;
    unsigned threads, timeout_s;
    int signals;
    int result;
    struct block_root *root;
    struct scsi_disk *disk;
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;
    struct lio_backstore backstore;
    struct lio_disk host_disk;
    struct tcmu_export *export;
};

static bool choose(const char *argument, const char *option, const char *const *names, int *ret)
{
    size_t length = strlen(option);
    if (strncmp(argument, option, length))
        return false;
    for (int i = 0; names[i]; i++) {
        if (strcmp(argument + length, names[i]))
            continue;
        *ret = i;
        return true;
    }
    return false;
}

static int parse(int argc, char **argv, struct server *s)
{
    static const char *const kinds[] = {"auto", "io_uring", "threads", NULL};
    static const char *const caches[] = {"writeback", "none", NULL};
    int kind = RT_AUTO, cache = BLOCK_CACHE_WRITEBACK;
    if (argc < 2)
        return -EINVAL;
    s->image = argv[1];
    for (int i = 2; i < argc; i++)
        if (sscanf(argv[i], "threads=%u", &s->threads) != 1 &&
            sscanf(argv[i], "timeout=%u", &s->timeout_s) != 1 &&
            !choose(argv[i], "runtime=", kinds, &kind) &&
            !choose(argv[i], "cache=", caches, &cache))
            return -EINVAL;
    s->runtime.kind = (enum rt_kind)kind;
    s->policy.cache = (enum block_cache)cache;
    return 0;
}

static int co_open_image(struct server *s, struct hws_error *err)
{
    json_t *description = NULL;
    struct block_node *node = NULL;
    int r = block_describe(s->image, NULL, &description, err);
    if (r == 0)
        r = co_block_open(description, BLOCK_OPEN_WRITE, &s->policy, &node, err);
    json_decref(description);
    if (r < 0)
        return r;
    s->root = block_root_new(node, &(struct block_root_options){0});
    r = co_block_close(node, err);
    return s->root ? r : -ENOMEM;
}

static int co_make_disk(struct server *s, struct hws_error *err)
{
    struct scsi_disk_options disk = {.name = s->image};
    struct scsi_nexus_options nexus = {.initiator = "iqn.2026-01.local.hawser:tcmu"};
    int r = scsi_disk_new(s->root, &disk, &s->disk, err);
    if (r == 0)
        r = scsi_nexus_new(&nexus, &s->nexus, err);
    if (r == 0)
        r = scsi_map(s->nexus, 0, s->disk, &s->lun);
    return r;
}

static int co_attach(struct server *s, struct hws_error *err)
{
    char name[32];
    uint8_t naa[8];
    snprintf(name, sizeof(name), "bench%d", (int)getpid());
    struct lio_backstore_options backstore = {.name = name,
                                              .config = "bench",
                                              .size_bytes = block_root_size(s->root),
                                              .block_bytes = 512,
                                              .serial = scsi_disk_serial(s->disk),
                                              .write_cache = true,
                                              .timeout_s = s->timeout_s};
    int r = co_lio_backstore_make(&backstore, &s->backstore, err);
    if (r < 0)
        return r;
    struct tcmu_export_options export = {.minor = s->backstore.minor,
                                         .name = name,
                                         .nexus = s->nexus,
                                         .lun = s->lun,
                                         .threads = s->threads};
    r = co_tcmu_export_start(&export, &s->export, err);
    if (r < 0)
        return r;
    scsi_disk_naa(s->disk, naa);
    return co_lio_disk_add(&s->backstore, naa, &s->host_disk, err);
}

static void print_counters(const struct server *s)
{
    struct tcmu_export_info i;
    tcmu_export_info(s->export, &i);
    printf("commands %llu failures %llu malformed %llu aborts %llu wakeups %llu\n",
           (unsigned long long)i.commands, (unsigned long long)i.failures,
           (unsigned long long)i.malformed, (unsigned long long)i.aborts,
           (unsigned long long)i.wakeups);
    fflush(stdout);
}

static void co_serve(struct server *s)
{
    struct signalfd_siginfo got;
    printf("ready %s %u\n", s->host_disk.path, s->backstore.minor);
    fflush(stdout);
    for (;;) {
        int r = co_poll(s->signals, 1 /* POLLIN */);
        if (r < 0 || read(s->signals, &got, sizeof(got)) != (ssize_t)sizeof(got))
            continue;
        if (got.ssi_signo != SIGUSR1)
            return;
        print_counters(s);
    }
}

static int co_close(struct server *s, struct hws_error *err)
{
    int r = 0;
    if (s->host_disk.path[0])
        r = co_lio_disk_remove(&s->host_disk, true, err);
    if (s->export)
        co_tcmu_export_stop(s->export);
    if (s->backstore.name[0] && r == 0)
        r = co_lio_backstore_remove(&s->backstore, err);
    if (s->lun)
        co_scsi_unmap(s->lun);
    scsi_nexus_free(s->nexus);
    scsi_disk_free(s->disk);
    int closed = s->root ? co_block_root_free(s->root, r < 0 ? NULL : err) : 0;
    return r < 0 ? r : closed;
}

static void co_main(void *arg)
{
    struct server *s = arg;
    struct hws_error err = {0}, end = {0};
    int r = co_open_image(s, &err);
    if (r == 0)
        r = co_make_disk(s, &err);
    if (r == 0)
        r = co_attach(s, &err);
    if (r == 0)
        co_serve(s);
    int closed = co_close(s, &end);
    if (r < 0 || closed < 0)
        fprintf(stderr, "tcmu_server: %s\n", r < 0 ? err.text : end.text);
    s->result = r < 0 ? r : closed;
}

int main(int argc, char **argv)
{
    struct server s = {0};
    struct hws_error err = {0};
    struct rt *rt;
    sigset_t mask;
    if (parse(argc, argv, &s) < 0) {
        fprintf(stderr, "usage: tcmu_server IMAGE [threads=N] [cache=writeback|none] "
                        "[runtime=auto|io_uring|threads] [timeout=SECONDS]\n");
        return 2;
    }
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    s.signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    /* Reclaim may need this disk: do not let our own allocations wait for it. */
    (void)prctl(PR_SET_IO_FLUSHER, 1);
    drivers_register();
    if (rt_create(&s.runtime, &rt, &err) < 0 || rt_run(rt, co_main, &s) < 0) {
        fprintf(stderr, "tcmu_server: %s\n", err.text);
        return 1;
    }
    rt_free(rt);
    return s.result < 0;
}
