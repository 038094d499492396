/*
 * Asking qemu-img; see oracle.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "oracle.h"
#include "base/sgl.h"
#include <spawn.h>
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

static int run(char *const *argv, const char *output)
{
    pid_t child;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
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

void oracle_check(const struct world *world, bool leaks_allowed)
{
    if (!is_installed() || world->plan.layer[world->top].raw)
        return;
    char folder[] = "/tmp/hawser-sim-XXXXXX", output[64], top[128];
    if (!mkdtemp(folder))
        world_fail(world, "cannot make a temporary folder: %s", strerror(errno));
    snprintf(output, sizeof(output), "%s/output", folder);
    for (unsigned i = 0; i <= world->top; i++) {
        void *bytes;
        size_t length;
        if (sim_file_load(world->rt, plan_path(i), &bytes, &length) < 0)
            world_fail(world, "'%s' is missing", plan_path(i));
        file_write(world, layer_file(folder, i), bytes, length);
        free(bytes);
    }
    snprintf(top, sizeof(top), "%s", layer_file(folder, world->top));
    char *const argv[] = {
        (char *)"/usr/bin/qemu-img", (char *)"check", (char *)"-f", (char *)"qcow2", top, NULL};
    int status = run(argv, output);
    asked++;
    if (status != 0 && !(leaks_allowed && status == EXIT_LEAKS)) {
        tell(output);
        world_fail(world, "qemu-img check ended with %d; see %s", status, folder);
    }
    for (unsigned i = 0; i <= world->top; i++)
        unlink(layer_file(folder, i));
    unlink(output);
    rmdir(folder);
}
