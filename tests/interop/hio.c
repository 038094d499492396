/*
 * hio: raw I/O on images for tests and for debugging, a thin skin over block/block.h.
 *
 *   hio [OPTIONS] IMAGE                  runs the commands on standard input, one a line:
 *       write OFFSET LENGTH BYTE           read OFFSET LENGTH [BYTE]    (verified with BYTE)
 *       seed OFFSET LENGTH SEED            verify OFFSET LENGTH SEED    (pseudo-random)
 *       zero OFFSET LENGTH [unmap]         discard OFFSET LENGTH        flush
 *       pack OFFSET LENGTH BYTE            (written compressed)
 *       resize SIZE                        status [chain]
 *       snapshot create|apply|delete NAME
 *       bitmap NAME                        what is dirty in it: "OFFSET LENGTH" lines, and a sum
 *       store                              bitmaps, as they are now
 *       async COMMAND...                   starts it beside the others (not the last five)
 *       wait                               until all of those have ended
 *       kill                               ends here, by SIGKILL
 *   hio [OPTIONS] --dump IMAGE           guest content to standard output
 *   hio [OPTIONS] --check IMAGE          findings, and a line of counts; exit 2 corrupt, 3 leaks
 *   hio [OPTIONS] --check=leaks|all IMAGE   with repair
 *   hio --create JSON                    {"driver": "qcow2", "file": {...}, "size": ...}
 *
 *   -r uring|threads  runtime            -f FORMAT  driver of the image
 *   -R  read-only                        -U  no locks
 *   -B  leave out the backing file       -c none|writeback|writethrough|unsafe  cache mode
 *   -q N  async commands go round N more queue threads
 *   -s SIZE  bytes a read of --dump      -a FOLDER  where images may name files
 *
 * The first failure is told with its line and ends the run with exit code 1.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "base/size.h"
#include "block/bitmap.h"
#include "drivers/drivers.h"
#include "rt/sync.h"
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>

#define LINE_BYTES   1200
#define WORDS_MAX    6
#define QUEUES_MAX   8
#define TRANSFER_MAX (16 * MiB)

enum action { ACTION_SCRIPT, ACTION_DUMP, ACTION_CHECK, ACTION_CREATE };

struct hio {
    enum action action;
    const char *image, *format;
    unsigned flags, repair;
    struct block_policy policy;
    const char *allow[2];
    uint64_t dump_bytes;
    struct block_node *node;
    struct co_group running; /* async commands */
    unsigned queues, next_queue;
    struct rt_queue *queue[QUEUES_MAX];
    _Atomic int exit_code;
};

struct command {
    struct hio *hio;
    unsigned line;
    unsigned words;
    char text[LINE_BYTES];
    char *word[WORDS_MAX];
};

/* ---- content ---- */

/* The content of "seed": each 8 bytes depend on the seed and their own offset, so a misplaced piece
 * shows. */
static void fill_seed(uint8_t *buffer, uint64_t offset, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++) {
        struct random r = random_seed(seed ^ ((offset + i) / 8 * 0x9e3779b97f4a7c15ull));
        buffer[i] = (uint8_t)(random_u64(&r) >> ((offset + i) % 8 * 8));
    }
}

static int complain(struct command *command, const char *format, ...) HWS_PRINTF(2, 3);

static int complain(struct command *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "hio: %s: line %u: ", command->hio->image, command->line);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    command->hio->exit_code = 1;
    return -1;
}

static bool argument(struct command *command, unsigned index, uint64_t *ret)
{
    struct hws_error err = {0};
    *ret = 0;
    if (index < command->words && size_parse(command->word[index], ret, &err) == 0)
        return true;
    complain(command, "argument %u: %s", index, index < command->words ? err.text : "missing");
    return false;
}

/* ---- commands ---- */

static int co_write_command(struct command *command, bool seeded)
{
    uint64_t offset, length, value;
    struct iovec iov;
    if (!argument(command, 1, &offset) || !argument(command, 2, &length) ||
        !argument(command, 3, &value))
        return -1;
    if (length > TRANSFER_MAX)
        return complain(command, "at most %" PRIu64 " bytes a request", TRANSFER_MAX);
    autofree uint8_t *buffer = aligned_alloc(4096, align_up(length + 1, 4096));
    if (!buffer)
        return complain(command, "out of memory");
    if (seeded)
        fill_seed(buffer, offset, length, value);
    else
        memset(buffer, (int)value, length);
    struct sgl list = sgl_one(&iov, buffer, length);
    int result = command->word[0][0] == 'p'
                     ? co_block_write_compressed(command->hio->node, offset, list, 0)
                     : co_block_write(command->hio->node, offset, list, 0);
    return result < 0 ? complain(command, "write: %s", strerror(-result)) : 0;
}

static int co_read_command(struct command *command, bool seeded)
{
    uint64_t offset, length, value = 0;
    struct iovec iov;
    bool verify = command->words > 3;
    if (!argument(command, 1, &offset) || !argument(command, 2, &length) ||
        ((verify || seeded) && !argument(command, 3, &value)))
        return -1;
    if (length > TRANSFER_MAX)
        return complain(command, "at most %" PRIu64 " bytes a request", TRANSFER_MAX);
    autofree uint8_t *buffer = aligned_alloc(4096, align_up(length + 1, 4096));
    autofree uint8_t *wanted = malloc(length + 1);
    if (!buffer || !wanted)
        return complain(command, "out of memory");
    memset(buffer, 0xa5, length);
    int result = co_block_read(command->hio->node, offset, sgl_one(&iov, buffer, length), 0);
    if (result < 0)
        return complain(command, "read: %s", strerror(-result));
    if (!verify)
        return 0;
    if (seeded)
        fill_seed(wanted, offset, length, value);
    else
        memset(wanted, (int)value, length);
    for (size_t i = 0; i < length; i++)
        if (buffer[i] != wanted[i])
            return complain(command, "offset %#" PRIx64 " holds %#x, expected %#x", offset + i,
                            buffer[i], wanted[i]);
    return 0;
}

static int co_range_command(struct command *command, bool zero)
{
    uint64_t offset, length;
    if (!argument(command, 1, &offset) || !argument(command, 2, &length))
        return -1;
    unsigned flags = command->words > 3 && !strcmp(command->word[3], "unmap") ? BLOCK_MAY_UNMAP : 0;
    int result = zero ? co_block_write_zeroes(command->hio->node, offset, length, flags)
                      : co_block_discard(command->hio->node, offset, length);
    return result < 0 ? complain(command, "%s: %s", command->word[0], strerror(-result)) : 0;
}

static int co_status_command(struct command *command)
{
    struct block_node *node = command->hio->node;
    uint64_t size = block_size(node);
    bool chain = command->words > 1;
    for (uint64_t at = 0; at < size;) {
        struct block_extent extent;
        int result = chain ? co_block_status_chain(node, at, size - at, &extent)
                           : co_block_status(node, at, size - at, &extent);
        if (result < 0)
            return complain(command, "status at %#" PRIx64 ": %s", at, strerror(-result));
        printf("%#" PRIx64 " %#" PRIx64 " depth %u%s%s%s%s", at, extent.length, extent.depth,
               extent.flags & BLOCK_STATUS_DATA ? " data" : "",
               extent.flags & BLOCK_STATUS_ZERO ? " zero" : "",
               extent.flags & BLOCK_STATUS_ALLOCATED ? " allocated" : "",
               extent.flags & BLOCK_STATUS_COMPRESSED ? " compressed" : "");
        if (extent.flags & BLOCK_STATUS_MAPPED)
            printf(" at %#" PRIx64, extent.host_offset);
        printf("\n");
        at += extent.length;
    }
    return 0;
}

static int co_resize_command(struct command *command)
{
    uint64_t size;
    struct hws_error err = {0};
    if (!argument(command, 1, &size))
        return -1;
    if (co_block_resize(command->hio->node, size, &err) < 0)
        return complain(command, "resize: %s", err.text);
    return 0;
}

static int co_snapshot_command(struct command *command)
{
    static const char *const actions[] = {[BLOCK_SNAPSHOT_CREATE] = "create",
                                          [BLOCK_SNAPSHOT_APPLY] = "apply",
                                          [BLOCK_SNAPSHOT_DELETE] = "delete"};
    struct hws_error err = {0};
    for (unsigned i = 0; command->words > 2 && i < ARRAY_LEN(actions); i++) {
        if (strcmp(command->word[1], actions[i]) != 0)
            continue;
        if (co_block_snapshot(command->hio->node, (enum block_snapshot_action)i, command->word[2],
                              &err) < 0)
            return complain(command, "snapshot: %s", err.text);
        return 0;
    }
    return complain(command, "snapshot create|apply|delete NAME");
}

static int co_bitmap_command(struct command *command)
{
    struct block_node *node = command->hio->node;
    const char *name = command->words > 1 ? command->word[1] : "";
    struct block_bitmap *bitmap = block_bitmap_find(node, name);
    uint64_t size = block_size(node), length, sum = 0;
    struct hws_error err = {0};
    if (!bitmap)
        return complain(command, "no bitmap '%s'", name);
    if (co_block_bitmap_load(bitmap, &err) < 0)
        return complain(command, "bitmap: %s", err.text);
    for (uint64_t at = 0; at < size; at += length) {
        bool dirty;
        int result = co_block_bitmap_next(bitmap, at, size - at, &dirty, &length);
        if (result < 0)
            return complain(command, "bitmap: %s", strerror(-result));
        if (dirty)
            printf("%" PRIu64 " %" PRIu64 "\n", at, length);
    }
    if (co_block_bitmap_count(bitmap, &sum) < 0)
        return complain(command, "bitmap: counting failed");
    printf("%" PRIu64 "\n", sum);
    return 0;
}

static int co_execute(struct command *command)
{
    const char *name = command->word[0];
    if (!strcmp(name, "write") || !strcmp(name, "seed") || !strcmp(name, "pack"))
        return co_write_command(command, name[0] == 's');
    if (!strcmp(name, "read") || !strcmp(name, "verify"))
        return co_read_command(command, name[0] == 'v');
    if (!strcmp(name, "zero") || !strcmp(name, "discard"))
        return co_range_command(command, name[0] == 'z');
    if (!strcmp(name, "flush")) {
        int result = co_block_flush(command->hio->node);
        return result < 0 ? complain(command, "flush: %s", strerror(-result)) : 0;
    }
    if (!strcmp(name, "status"))
        return co_status_command(command);
    if (!strcmp(name, "snapshot"))
        return co_snapshot_command(command);
    if (!strcmp(name, "resize"))
        return co_resize_command(command);
    if (!strcmp(name, "bitmap"))
        return co_bitmap_command(command);
    if (!strcmp(name, "store")) {
        struct hws_error err = {0};
        return co_block_bitmaps_store(command->hio->node, &err) < 0
                   ? complain(command, "store: %s", err.text)
                   : 0;
    }
    if (!strcmp(name, "kill"))
        raise(SIGKILL);
    return complain(command, "unknown command '%s'", name);
}

static void co_execute_async(void *arg)
{
    struct command *command = arg;
    struct hio *hio = command->hio;
    (void)co_execute(command);
    free(command);
    co_group_done(&hio->running);
}

/* ---- the script ---- */

static struct command *parse(struct hio *hio, const char *line, unsigned number, bool *ret_async)
{
    struct command *command = calloc(1, sizeof(*command));
    char *save = NULL;
    if (!command)
        return NULL;
    command->hio = hio;
    command->line = number;
    snprintf(command->text, sizeof(command->text), "%s", line);
    for (char *word = strtok_r(command->text, " \t\n", &save); word && command->words < WORDS_MAX;
         word = strtok_r(NULL, " \t\n", &save))
        command->word[command->words++] = word;
    *ret_async = command->words > 1 && !strcmp(command->word[0], "async");
    if (*ret_async) {
        command->words--;
        memmove(command->word, command->word + 1, command->words * sizeof(command->word[0]));
    }
    return command;
}

static void start_queues(struct hio *hio)
{
    struct hws_error err = {0};
    for (unsigned i = 0; i < hio->queues; i++) {
        if (rt_queue_start(rt_current(), "hio", &hio->queue[i], &err) < 0) {
            fprintf(stderr, "hio: %s\n", err.text);
            hio->queues = i;
            hio->exit_code = 1;
        }
    }
}

static void co_script(struct hio *hio)
{
    char line[LINE_BYTES];
    start_queues(hio);
    co_group_init(&hio->running);
    for (unsigned number = 1; hio->exit_code == 0 && fgets(line, sizeof(line), stdin); number++) {
        bool async;
        struct command *command = parse(hio, line, number, &async);
        if (!command) {
            hio->exit_code = 1;
            break;
        }
        if (command->words == 0 || command->word[0][0] == '#') {
            free(command);
        } else if (!strcmp(command->word[0], "wait")) {
            free(command);
            co_group_wait(&hio->running);
        } else if (async) {
            co_group_add(&hio->running, 1);
            struct rt_queue *queue =
                hio->queues ? hio->queue[hio->next_queue++ % hio->queues] : NULL;
            if (rt_spawn(queue, co_execute_async, command) < 0)
                co_execute_async(command);
        } else {
            (void)co_execute(command);
            free(command);
        }
    }
    co_group_wait(&hio->running);
    for (unsigned i = 0; i < hio->queues; i++)
        co_queue_stop(hio->queue[i]);
    co_group_destroy(&hio->running);
}

/* ---- other actions ---- */

static void co_dump(struct hio *hio)
{
    uint64_t size = block_size(hio->node);
    size_t room = hio->dump_bytes ? hio->dump_bytes : MiB;
    autofree uint8_t *buffer = aligned_alloc(4096, align_up(room, 4096));
    for (uint64_t at = 0; at < size && buffer;) {
        struct iovec iov;
        size_t length = MIN(size - at, (uint64_t)room);
        int result = co_block_read(hio->node, at, sgl_one(&iov, buffer, length), 0);
        if (result < 0 || fwrite(buffer, 1, length, stdout) != length) {
            fprintf(stderr, "hio: %s: dump at %#" PRIx64 ": %s\n", hio->image, at,
                    result < 0 ? strerror(-result) : "standard output failed");
            hio->exit_code = 1;
            return;
        }
        at += length;
    }
}

static void print_finding(void *arg, const char *line)
{
    printf("%s\n", line);
}

static void co_check(struct hio *hio)
{
    struct block_check check = {.report = print_finding};
    struct hws_error err = {0};
    if (co_block_check(hio->node, hio->repair, &check, &err) < 0) {
        fprintf(stderr, "hio: check: %s\n", err.text);
        hio->exit_code = 1;
        return;
    }
    printf("corruptions=%" PRIu64 " leaks=%" PRIu64 " errors=%" PRIu64 " corruptions-fixed=%" PRIu64
           " leaks-fixed=%" PRIu64 " total=%" PRIu64 " allocated=%" PRIu64 " fragmented=%" PRIu64
           " compressed=%" PRIu64 " end=%" PRIu64 "\n",
           check.corruptions, check.leaks, check.errors, check.corruptions_fixed, check.leaks_fixed,
           check.total_clusters, check.allocated_clusters, check.fragmented_clusters,
           check.compressed_clusters, check.image_end_offset);
    if (check.errors)
        hio->exit_code = 1;
    else if (check.corruptions)
        hio->exit_code = 2;
    else if (check.leaks)
        hio->exit_code = 3;
}

static void co_create(struct hio *hio)
{
    json_error_t where;
    struct hws_error err = {0};
    json_t *options = json_loads(hio->image, JSON_REJECT_DUPLICATES, &where);
    if (!options) {
        fprintf(stderr, "hio: %s\n", where.text);
        hio->exit_code = 1;
        return;
    }
    if (co_block_create(options, true, &hio->policy, &err) < 0) {
        fprintf(stderr, "hio: create: %s\n", err.text);
        hio->exit_code = 1;
    }
    json_decref(options);
}

static int co_open_image(struct hio *hio, struct hws_error *err)
{
    json_t *description = NULL;
    int result = block_describe(hio->image, hio->format, &description, err);
    if (result < 0)
        return result;
    if (!hio->format)
        hio->flags |= BLOCK_OPEN_PROBE;
    result = co_block_open(description, hio->flags, &hio->policy, &hio->node, err);
    json_decref(description);
    return result;
}

static void co_main(void *arg)
{
    struct hio *hio = arg;
    struct hws_error err = {0};
    if (hio->action == ACTION_CREATE) {
        co_create(hio);
        return;
    }
    if (co_open_image(hio, &err) < 0) {
        fprintf(stderr, "hio: %s\n", err.text);
        hio->exit_code = 1;
        return;
    }
    if (hio->action == ACTION_DUMP)
        co_dump(hio);
    else if (hio->action == ACTION_CHECK)
        co_check(hio);
    else
        co_script(hio);
    if (co_block_close(hio->node, &err) < 0) {
        fprintf(stderr, "hio: close: %s\n", err.text);
        hio->exit_code = 1;
    }
}

/* ---- the command line ---- */

static int usage(void)
{
    fprintf(
        stderr,
        "usage: hio [-RUB] [-r uring|threads] [-f FORMAT] [-c CACHE] [-q N] [-s SIZE] [-a FOLDER]\n"
        "           [--dump | --check[=leaks|all]] IMAGE   |   --create JSON\n");
    return 2;
}

static bool parse_cache(const char *text, enum block_cache *ret)
{
    static const char *const names[] = {[BLOCK_CACHE_WRITEBACK] = "writeback",
                                        [BLOCK_CACHE_NONE] = "none",
                                        [BLOCK_CACHE_WRITETHROUGH] = "writethrough",
                                        [BLOCK_CACHE_UNSAFE] = "unsafe"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (!strcmp(text, names[i])) {
            *ret = (enum block_cache)i;
            return true;
        }
    }
    return false;
}

static bool parse_options(int argc, char **argv, struct hio *hio, struct rt_options *rt_options)
{
    static const struct option longs[] = {{"dump", no_argument, NULL, 'D'},
                                          {"check", optional_argument, NULL, 'C'},
                                          {"create", no_argument, NULL, 'N'},
                                          {0}};
    hio->flags = BLOCK_OPEN_WRITE;
    for (int option; (option = getopt_long(argc, argv, "r:f:c:s:a:q:RUB", longs, NULL)) != -1;) {
        if (option == 'r')
            rt_options->kind = !strcmp(optarg, "threads") ? RT_THREADS : RT_URING;
        else if (option == 'f')
            hio->format = optarg;
        else if (option == 'R')
            hio->flags &= ~(unsigned)BLOCK_OPEN_WRITE;
        else if (option == 'U')
            hio->flags |= BLOCK_OPEN_NO_LOCK;
        else if (option == 'B')
            hio->flags |= BLOCK_OPEN_NO_BACKING;
        else if (option == 'D')
            hio->action = ACTION_DUMP;
        else if (option == 'N')
            hio->action = ACTION_CREATE;
        else if (option == 'C')
            hio->action = ACTION_CHECK;
        else if (option == 'q')
            hio->queues = (unsigned)MIN(strtoul(optarg, NULL, 10), (unsigned long)QUEUES_MAX);
        else if (option == 'a')
            hio->allow[0] = optarg, hio->policy.allow = hio->allow;
        else if (option == 's')
            hio->dump_bytes = MIN(strtoull(optarg, NULL, 10), 64 * MiB);
        else if (option != 'c' || !parse_cache(optarg, &hio->policy.cache))
            return false;
        if (option == 'C' && optarg)
            hio->repair = !strcmp(optarg, "leaks") ? BLOCK_REPAIR_LEAKS
                                                   : BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS;
    }
    if (optind + 1 != argc)
        return false;
    hio->image = argv[optind];
    if (hio->action == ACTION_DUMP || (hio->action == ACTION_CHECK && !hio->repair))
        hio->flags &= ~(unsigned)BLOCK_OPEN_WRITE;
    if (hio->action == ACTION_CHECK)
        hio->flags |= BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING;
    return true;
}

int main(int argc, char **argv)
{
    struct hio hio = {0};
    struct rt_options rt_options = {0};
    struct hws_error err = {0};
    struct rt *rt = NULL;
    if (!parse_options(argc, argv, &hio, &rt_options))
        return usage();
    drivers_register();
    int result = rt_create(&rt_options, &rt, &err);
    if (result < 0) {
        fprintf(stderr, "hio: %s\n", err.text);
        return 1;
    }
    result = rt_run(rt, co_main, &hio);
    if (result < 0) {
        fprintf(stderr, "hio: queue: %s\n", strerror(-result));
        hio.exit_code = 1;
    }
    rt_free(rt);
    return hio.exit_code;
}
