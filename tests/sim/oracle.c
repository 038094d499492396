/*
 * Asking qemu-img; see oracle.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "oracle.h"
#include "base/sgl.h"
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BLOCK_BYTES 4096

/* Of qemu-img check. */
#define EXIT_LEAKS 3

static unsigned asked;

static bool is_installed(void)
{
    static int answer = -1;
    if (answer < 0)
        answer = access("/usr/bin/qemu-img", X_OK) == 0;
    return answer;
}

unsigned oracle_count(void)
{
    return asked;
}

/** Writes a file with holes for zeroes. */
static void file_write(const struct world *world, const char *path, const uint8_t *bytes,
                       size_t length)
{
    autofd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool good = fd >= 0 && ftruncate(fd, (off_t)length) == 0;
    for (size_t at = 0; good && at < length; at += BLOCK_BYTES) {
        size_t piece = MIN(length - at, (size_t)BLOCK_BYTES);
        if (!buffer_is_zero(bytes + at, piece))
            good = pwrite(fd, bytes + at, piece, (off_t)at) == (ssize_t)piece;
    }
    if (!good)
        world_fail(world, "cannot write '%s': %s", path, strerror(errno));
}

/* In the folder of @output: qemu-img looks for data files where it is run. */
static int run(char *const *argv, const char *output)
{
    pid_t child;
    posix_spawn_file_actions_t actions;
    char folder[128];
    snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(output, '/') - output), output);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addchdir_np(&actions, folder);
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    int failed = posix_spawn(&child, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    int status;
    if (failed || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static void tell(const char *output)
{
    char line[256];
    FILE *file = fopen(output, "r");
    for (unsigned lines = 0; file && lines < 20 && fgets(line, sizeof(line), file); lines++)
        fprintf(stderr, "  qemu-img: %s", line);
    if (file)
        fclose(file);
}

static const char *layer_file(const char *folder, unsigned layer)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s%s", folder, strrchr(plan_path(layer), '/'));
    return path;
}

/* One file of the simulated storage into the folder. @return whether it is a dirty qcow2 image. */
static bool copy_out(const struct world *world, const char *from, const char *folder)
{
    char to[128];
    void *bytes;
    size_t length;
    snprintf(to, sizeof(to), "%s%s", folder, strrchr(from, '/'));
    if (sim_file_load(world->rt, from, &bytes, &length) < 0)
        world_fail(world, "'%s' is missing", from);
    file_write(world, to, bytes, length);
    const uint8_t *head = bytes;
    bool dirty = length > 104 && memcmp(head, "QFI\xfb", 4) == 0 && head[7] == 3 && head[79] & 1;
    free(bytes);
    return dirty;
}

static void remove_copies(const struct world *world, const char *folder)
{
    char path[128];
    for (unsigned i = 0; i <= world->top; i++) {
        snprintf(path, sizeof(path), "%s%s", folder, strrchr(plan_path(i), '/'));
        unlink(path);
        snprintf(path, sizeof(path), "%s%s", folder, strrchr(plan_data_path(i), '/'));
        unlink(path);
    }
}

void oracle_check(const struct world *world, bool leaks_allowed)
{
    bool dirty = false;
    if (!is_installed() || world->plan.layer[world->top].raw)
        return;
    char folder[] = "/tmp/hawser-sim-XXXXXX", output[64], top[128];
    if (!mkdtemp(folder))
        world_fail(world, "cannot make a temporary folder: %s", strerror(errno));
    snprintf(output, sizeof(output), "%s/output", folder);
    for (unsigned i = 0; i <= world->top; i++) {
        dirty = copy_out(world, plan_path(i), folder);
        if (!world->plan.layer[i].raw && world->plan.layer[i].data_file)
            (void)copy_out(world, plan_data_path(i), folder);
    }
    snprintf(top, sizeof(top), "%s", layer_file(folder, world->top));
    char *const argv[] = {(char *)"/usr/bin/qemu-img", (char *)"check", (char *)"-f",
                          (char *)"qcow2", top,
                          /* Lazy refcounts after a crash: it must be able to put them right. */
                          dirty && leaks_allowed ? (char *)"-r" : NULL, (char *)"all", NULL};
    int status = run(argv, output);
    asked++;
    if (status != 0 && !(leaks_allowed && status == EXIT_LEAKS)) {
        tell(output);
        world_fail(world, "qemu-img check ended with %d; see %s", status, folder);
    }
    remove_copies(world, folder);
    unlink(output);
    rmdir(folder);
}

/* ---- images made by qemu-img ---- */

/** Data in about half of the disk. */
static uint8_t *import_bytes(struct world *world)
{
    struct guest *guest = world->guest;
    for (unsigned i = 0; i < 12; i++) {
        uint64_t first = random_below(&world->random, guest->sectors);
        uint64_t count = 1 + random_below(&world->random, guest->sectors / 8);
        count = MIN(count, guest->sectors - first);
        struct guest_write write = guest_write_begin(guest, first, count, false);
        guest_write_end(guest, &write, GUEST_DURABLE);
    }
    uint8_t *bytes = reallocarray(NULL, guest->sectors, GUEST_SECTOR_BYTES);
    if (!bytes || !guest_settle(guest))
        abort();
    guest_bytes(guest, 0, guest->sectors, bytes);
    return bytes;
}

static void import_run(const struct world *world, char *const *argv, const char *output)
{
    int status = run(argv, output);
    if (status == 0)
        return;
    tell(output);
    world_fail(world, "%s %s ended with %d", argv[0], argv[1], status);
}

static void store(struct world *world, const char *path)
{
    autofd int fd = open(path, O_RDONLY);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) < 0)
        world_fail(world, "cannot read '%s': %s", path, strerror(errno));
    size_t length = (size_t)stat.st_size;
    autofree uint8_t *bytes = reallocarray(NULL, length, 1);
    if (!bytes || pread(fd, bytes, length, 0) != (ssize_t)length ||
        sim_file_store(world->rt, plan_path(world->top), bytes, length) < 0)
        world_fail(world, "cannot take '%s' over", path);
}

void oracle_import(struct world *world)
{
    const struct plan_layer *l = &world->plan.layer[world->top];
    if (!world->plan.imported || !is_installed())
        return;
    char folder[] = "/tmp/hawser-sim-XXXXXX", output[64], raw[64], image[64], options[128];
    if (!mkdtemp(folder))
        world_fail(world, "cannot make a temporary folder: %s", strerror(errno));
    snprintf(output, sizeof(output), "%s/output", folder);
    snprintf(raw, sizeof(raw), "%s/raw", folder);
    snprintf(image, sizeof(image), "%s/image", folder);
    snprintf(options, sizeof(options), "compat=%s,cluster_size=%u,extended_l2=%s",
             l->version == 2 ? "0.10" : "1.1", 1u << l->cluster_bits,
             l->extended_l2 ? "on" : "off");
    autofree uint8_t *bytes = import_bytes(world);
    file_write(world, raw, bytes, world->guest->sectors * GUEST_SECTOR_BYTES);
    char *const convert[] = {(char *)"/usr/bin/qemu-img",
                             (char *)"convert",
                             (char *)"-c",
                             (char *)"-f",
                             (char *)"raw",
                             (char *)"-O",
                             (char *)"qcow2",
                             (char *)"-o",
                             options,
                             raw,
                             image,
                             NULL};
    char *const snapshot[] = {
        (char *)"/usr/bin/qemu-img", (char *)"snapshot", (char *)"-c", (char *)"one", image, NULL};
    import_run(world, convert, output);
    if (world->plan.snapshot)
        import_run(world, snapshot, output);
    store(world, image);
    unlink(raw);
    unlink(image);
    unlink(output);
    rmdir(folder);
    world->created = true;
}
