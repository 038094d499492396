/*
 * Copying images: `hawser convert` as a process of its own, which ends with this one. It keeps a
 * journal of its own beside the unfinished copy, so that the next goes on where it was.
 *
 * The image may be hostile: the process can get no rights that it does not have, has few of those
 * of its user, and opens only what lies in the folders that are allowed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/engines.h"
#include "control/internal.h"
#include "control/tool.h"
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define LONG_TIMEOUT_MS    (7 * 24 * 3600 * 1000u)
#define MEASURE_TIMEOUT_MS 600000
/** A copy that went on without its hawserd ends at once, but not before the next one looks. */
#define TRIES    20
#define AGAIN_US 250000
/** What fails later has worked for a while, and is no leftover. */
#define EARLY_S 2

/** What a copy may of what root may: open files whoever's they are, and give the new one away. */
#define RIGHTS "-all,+dac_override,+dac_read_search,+fowner,+chown"

unsigned engines_add_allow(char **arguments, unsigned used, const char *const *allow)
{
    for (; allow && *allow && used < ENGINES_ARGUMENTS_MAX - 24; allow++) {
        arguments[used++] = (char *)"--allow";
        arguments[used++] = (char *)*allow;
    }
    return used;
}

/* ---- long work ---- */

struct progress {
    bool (*tell)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
    uint64_t done_bytes, total_bytes;
};

static bool is_to_stop(void *arg)
{
    const struct progress *progress = arg;
    return progress->tell &&
           progress->tell(progress->arg, progress->done_bytes, progress->total_bytes);
}

static void take_line(void *arg, const char *line)
{
    struct progress *progress = arg;
    unsigned long long done, total;
    if (sscanf(line, "{\"done\": %llu, \"total\": %llu}", &done, &total) != 2)
        return;
    progress->done_bytes = done;
    progress->total_bytes = total;
}

int engines_run_long(char *const arguments[],
                     bool (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes),
                     void *arg, struct hws_error *err)
{
    struct progress now = {.tell = progress, .arg = arg};
    const struct tool_watch watch = {.stop = is_to_stop, .line = take_line, .arg = &now};
    int r = tool_run_watched(arguments, LONG_TIMEOUT_MS, &watch, err);
    (void)is_to_stop(&now); /* the last line may have come after the last question */
    return r;
}

/* ---- copies ---- */

static int copy_once(const struct engine_copy *copy, struct hws_error *err)
{
    const struct engine_image *image = &copy->image;
    char *const first[] = {(char *)"setpriv", (char *)"--pdeathsig", (char *)"KILL",
                           (char *)"--no-new-privs"};
    char *const command[] = {
        (char *)engines_program(),
        (char *)"convert",
        (char *)"-q",
        (char *)"--resume",
        (char *)"--progress-json",
        (char *)"-f",
        (char *)copy->source_format,
        (char *)"-O",
        (char *)image->format,
    };
    char *arguments[ENGINES_ARGUMENTS_MAX] = {0};
    char size[32];
    struct engine_options options;
    unsigned used = ARRAY_LEN(first);
    int r = engines_options(image, &options, err);
    if (r < 0)
        return r;
    memcpy(arguments, first, sizeof(first));
    if (engines_have_capability(CAP_SETPCAP)) {
        arguments[used++] = (char *)"--bounding-set";
        arguments[used++] = (char *)RIGHTS;
    }
    memcpy(arguments + used, command, sizeof(command));
    used += ARRAY_LEN(command);
    used = engines_add_allow(arguments, used, copy->allow);
    for (unsigned i = 0; i < options.count; i++) {
        arguments[used++] = (char *)"-o";
        arguments[used++] = options.text[i];
    }
    snprintf(size, sizeof(size), "%llu", (unsigned long long)image->size_bytes);
    arguments[used++] = (char *)"--size";
    arguments[used++] = size;
    arguments[used++] = (char *)copy->source;
    arguments[used++] = (char *)image->path;
    return engines_run_long(arguments, copy->progress, copy->arg, err);
}

/* What the copy may take and is not there is told before it fills the pool, in which others write,
 * too. @return 0 where nobody can tell. */
static int check_space(const struct engine_copy *copy, struct hws_error *err)
{
    const struct engine_image *image = &copy->image;
    char *arguments[ENGINES_ARGUMENTS_MAX] = {
        (char *)engines_program(),   (char *)"measure", (char *)"--output=json", (char *)"-f",
        (char *)copy->source_format, (char *)"-O",      (char *)image->format,
    };
    struct engine_options options;
    struct statvfs fs;
    struct stat partial = {0};
    autofree char *output = NULL, *beside = NULL, *folder = NULL;
    if (engines_options(image, &options, NULL) < 0)
        return 0; /* the copy tells */
    unsigned used = engines_add_allow(arguments, 7, copy->allow);
    for (unsigned i = 0; i < options.count; i++) {
        arguments[used++] = (char *)"-o";
        arguments[used++] = options.text[i];
    }
    arguments[used++] = (char *)copy->source;
    if (asprintf(&beside, "%s.convert-partial", image->path) < 0)
        beside = NULL;
    folder = strndup(image->path, (size_t)(strrchr(image->path, '/') - image->path));
    if (!beside || !folder || statvfs(folder, &fs) < 0 ||
        tool_run(arguments, MEASURE_TIMEOUT_MS, &output, NULL) < 0)
        return 0;
    (void)!stat(beside, &partial); /* of an earlier try */
    auto_json *told = json_loads(output ? output : "", 0, NULL);
    uint64_t needed = (uint64_t)json_integer_value(json_object_get(told, "required"));
    uint64_t there = (uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)partial.st_blocks * 512;
    return needed <= there
               ? 0
               : hws_fail(err, ENOSPC, "the copy may take %llu bytes, and the pool has %llu",
                          (unsigned long long)needed, (unsigned long long)there);
}

static bool is_left_over(const char *text)
{
    return strstr(text, "is using");
}

int engines_copy(const struct engine_copy *copy, struct hws_error *err)
{
    int r = access(copy->image.path, F_OK) == 0 ? 0 : check_space(copy, err);
    if (r < 0)
        return r;
    r = -EIO;
    for (unsigned i = 0; r == -EIO && i < TRIES; i++) {
        struct hws_error why = {0};
        if (access(copy->image.path, F_OK) == 0)
            return folder_sync(copy->image.path, err);
        time_t began = time(NULL);
        r = copy_once(copy, &why);
        if (r < 0)
            hws_fail(err, -r, "%s", why.text);
        if (r == -EIO && (time(NULL) - began > EARLY_S || !is_left_over(why.text)))
            return r;
        if (r == -EIO)
            usleep(AGAIN_US);
    }
    return r == 0 ? folder_sync(copy->image.path, err) : r;
}

int engines_forget_copy(const char *path, struct hws_error *err)
{
    static const char *const suffixes[] = {"", ".convert-partial", ".convert-journal",
                                           ".convert-journal.new"};
    int r = 0;
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(suffixes); i++) {
        autofree char *name = NULL;
        if (asprintf(&name, "%s%s", path, suffixes[i]) < 0)
            return hws_fail(err, ENOMEM, "out of memory");
        r = file_unlink(name, err);
    }
    return r;
}
