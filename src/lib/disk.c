/*
 * Opening and closing disks, and what they tell about themselves; see hawser/disk.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/disk.h"
#include "block/driver.h"
#include "lib/call.h"
#include "lib/thread.h"

/* The smallest struct that begins with its size. */
#define STRUCT_BYTES_MIN sizeof(size_t)
#define STRUCT_BYTES_MAX 4096

const char *hws_version(void)
{
    return HAWSER_VERSION;
}

int lib_take_struct(void *to, size_t to_bytes, const void *from, const char *what,
                    struct hws_error *err)
{
    size_t bytes;
    memset(to, 0, to_bytes);
    if (!from)
        return 0;
    memcpy(&bytes, from, sizeof(bytes));
    if (bytes < STRUCT_BYTES_MIN || bytes > STRUCT_BYTES_MAX)
        return hws_fail(err, EINVAL, "%s.struct_bytes is %zu; set it to sizeof(struct %s)", what,
                        bytes, what);
    if (bytes > to_bytes && !buffer_is_zero((const char *)from + to_bytes, bytes - to_bytes))
        return hws_fail(err, EINVAL,
                        "%s has members that this version of the library (%s) does not know", what,
                        HAWSER_VERSION);
    memcpy(to, from, MIN(bytes, to_bytes));
    return 0;
}

int disk_check(const struct hws_disk *disk, struct hws_error *err)
{
    if (unlikely(!disk))
        return hws_fail(err, EINVAL, "the disk is NULL");
    if (unlikely(disk->era != lib_era()))
        return hws_fail(err, EPERM,
                        "'%.200s' was opened before fork(), by the parent; open it again here",
                        disk->name);
    return 0;
}

/* ---- the image that is kept ---- */

static void image_drop(struct hws_image *image)
{
    for (const char *const *at = image->allow; at && *at; at++)
        free((void *)*at);
    free((void *)image->allow);
    free((void *)image->path);
    *image = (struct hws_image){0};
}

static int image_copy(const struct hws_image *from, struct hws_image *ret)
{
    size_t count = 0;
    *ret = *from;
    ret->format = ret->snapshot = ret->cache = NULL;
    ret->allow = NULL;
    ret->path = strdup(from->path);
    while (from->allow && from->allow[count])
        count++;
    char **allow = from->allow ? calloc(count + 1, sizeof(char *)) : NULL;
    bool failed = !ret->path || (from->allow && !allow);
    ret->allow = (const char *const *)allow;
    for (size_t i = 0; i < count && !failed; i++) {
        allow[i] = strdup(from->allow[i]);
        failed = !allow[i];
    }
    if (failed)
        image_drop(ret);
    return failed ? -ENOMEM : 0;
}

/* ---- opening and closing ---- */

static void disk_free(struct hws_disk *disk)
{
    co_mutex_destroy(&disk->changes);
    image_drop(&disk->image);
    free(disk->name);
    free(disk);
}

struct open_call {
    const struct hws_image *image;
    struct hws_disk_options options;
    struct hws_disk *disk;
    struct hws_error *err;
    int result;
};

static int co_open_root(struct open_call *call)
{
    struct hws_disk *disk = call->disk;
    struct block_node *node;
    int r = co_call_open_disk(call->image, call->options.cache_bytes,
                              disk->read_only ? 0 : BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE,
                              &disk->cache, &node, call->err);
    if (r < 0)
        return r;
    bool ignore = call->options.ignore_discard;
    struct block_root_options options = {
        .cache = disk->cache,
        .discard = ignore ? BLOCK_DISCARD_IGNORE : BLOCK_DISCARD_UNMAP,
        .detect_zeroes = !call->options.detect_zeroes ? BLOCK_DETECT_OFF
                         : ignore                     ? BLOCK_DETECT_ON
                                                      : BLOCK_DETECT_UNMAP,
        .read_only = disk->read_only,
    };
    disk->root = block_root_new(node, &options);
    r = co_block_close(node, disk->root ? call->err : NULL); /* the root has its own reference */
    return disk->root ? r : hws_fail(call->err, ENOMEM, "out of memory");
}

static void co_open_call(void *arg)
{
    struct open_call *call = arg;
    call->result = co_open_root(call);
}

static struct hws_disk *disk_new(const struct hws_image *image)
{
    struct hws_disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return NULL;
    co_mutex_init(&disk->changes);
    disk->name = strdup(image->path);
    if (!disk->name || image_copy(image, &disk->image) < 0) {
        disk_free(disk);
        return NULL;
    }
    return disk;
}

int hws_disk_open(const struct hws_image *image, const struct hws_disk_options *options,
                  struct hws_disk **ret, struct hws_error *err)
{
    struct open_call call = {.image = image};
    struct hws_error unread = {0};
    struct rt *rt;
    if (!image || !image->path || !ret)
        return hws_fail(err, EINVAL, "an image with a path, and a place for the disk, are needed");
    int r = lib_take_struct(&call.options, sizeof(call.options), options, "hws_disk_options", err);
    if (r == 0)
        r = lib_use(&rt, err);
    if (r < 0)
        return r;
    call.disk = disk_new(image);
    if (!call.disk) {
        lib_unuse();
        return hws_fail(err, ENOMEM, "out of memory");
    }
    call.disk->era = lib_era();
    call.disk->read_only = call.options.read_only || image->snapshot;
    call.err = err ? err : &unread;
    r = lib_thread_run(co_open_call, &call, err);
    if (r == 0)
        r = call.result;
    if (r < 0) {
        disk_free(call.disk);
        lib_unuse();
        return r;
    }
    *ret = call.disk;
    return 0;
}

struct close_call {
    struct hws_disk *disk;
    struct hws_error *err;
    int result;
};

static void co_close_call(void *arg)
{
    struct close_call *call = arg;
    struct hws_disk *disk = call->disk;
    int flushed = disk->read_only ? 0 : co_root_flush(disk->root);
    call->result = co_block_root_free(disk->root, call->err);
    if (flushed < 0)
        call->result =
            hws_fail_errno(call->err, -flushed, "'%.200s': the last flush failed", disk->name);
}

int hws_disk_close(struct hws_disk *disk, struct hws_error *err)
{
    if (!disk)
        return 0;
    int r = disk_check(disk, err);
    if (r < 0)
        return r;
    unsigned queues = atomic_load(&disk->queues);
    if (queues > 0)
        return hws_fail(err, EBUSY, "'%.200s' has %u open queues; close them first", disk->name,
                        queues);
    struct close_call call = {disk, err, 0};
    r = lib_thread_run(co_close_call, &call, err);
    if (r < 0 && r != -EDEADLK)
        return hws_fail(err, EBUSY, "'%.200s' stays open: I/O cannot start on this thread (%s)",
                        disk->name, strerror(-r));
    if (r < 0)
        return r;
    disk_free(disk);
    lib_unuse();
    return call.result;
}

/* ---- what it is ---- */

uint64_t hws_disk_size(const struct hws_disk *disk)
{
    return disk ? block_root_size(disk->root) : 0;
}

bool hws_disk_read_only(const struct hws_disk *disk)
{
    return !disk || disk->read_only;
}

struct look_call {
    struct hws_disk *disk;
    bool chain;
    json_t *info;
    struct hws_disk_limits limits;
    struct hws_error *err;
    int result;
};

static void co_info_call(void *arg)
{
    struct look_call *call = arg;
    co_mutex_lock(&call->disk->changes); /* the top stays what it is */
    call->result =
        co_call_info(block_root_node(call->disk->root), call->chain, &call->info, call->err);
    co_mutex_unlock(&call->disk->changes);
}

static void co_limits_call(void *arg)
{
    struct look_call *call = arg;
    co_mutex_lock(&call->disk->changes);
    struct block_limits limits = block_root_node(call->disk->root)->limits;
    co_mutex_unlock(&call->disk->changes);
    call->limits = (struct hws_disk_limits){
        .request_alignment = limits.request_alignment,
        .memory_alignment = limits.memory_alignment,
        .optimal_bytes = limits.optimal_bytes,
        .zero_alignment = limits.zero_alignment,
        .discard_alignment = limits.discard_alignment,
        .iov_max = HWS_IOV_MAX,
        .transfer_max = limits.transfer_max,
    };
}

int hws_disk_limits(struct hws_disk *disk, struct hws_disk_limits *ret, struct hws_error *err)
{
    struct look_call call = {.disk = disk};
    int r = disk_check(disk, err);
    if (r == 0 &&
        (!ret || ret->struct_bytes < STRUCT_BYTES_MIN || ret->struct_bytes > STRUCT_BYTES_MAX))
        r = hws_fail(err, EINVAL, "set struct_bytes to sizeof(struct hws_disk_limits)");
    if (r == 0)
        r = lib_thread_run(co_limits_call, &call, err);
    if (r < 0)
        return r;
    size_t bytes = call.limits.struct_bytes = ret->struct_bytes;
    memset(ret, 0, bytes);
    memcpy(ret, &call.limits, MIN(bytes, sizeof(call.limits)));
    return 0;
}

int hws_disk_info(struct hws_disk *disk, bool chain, char **ret_json, struct hws_error *err)
{
    struct hws_error unread = {0};
    struct look_call call = {.disk = disk, .chain = chain, .err = err ? err : &unread};
    int r = disk_check(disk, err);
    if (r == 0 && !ret_json)
        r = hws_fail(err, EINVAL, "a place for the text is needed");
    if (r == 0)
        r = lib_thread_run(co_info_call, &call, err);
    if (r == 0)
        r = call.result;
    return r < 0 ? r : call_json_text(call.info, ret_json, err);
}

int hws_disk_stats(struct hws_disk *disk, char **ret_json, struct hws_error *err)
{
    static const char *const names[BLOCK_OPS] = {"read", "write", "write-zeroes", "discard",
                                                 "flush"};
    struct block_stats stats;
    int r = disk_check(disk, err);
    if (r == 0 && !ret_json)
        r = hws_fail(err, EINVAL, "a place for the text is needed");
    if (r < 0)
        return r;
    block_root_stats(disk->root, &stats);
    json_t *all = json_object();
    for (unsigned op = 0; op < BLOCK_OPS; op++) {
        uint64_t done = stats.operations[op];
        json_t *one =
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "operations", (json_int_t)done, "bytes",
                      (json_int_t)stats.bytes[op], "failures", (json_int_t)stats.failures[op],
                      "latency-ns-mean", (json_int_t)(done ? stats.latency_ns_total[op] / done : 0),
                      "latency-ns-p50", (json_int_t)stats.latency_ns_p50[op], "latency-ns-p99",
                      (json_int_t)stats.latency_ns_p99[op]);
        json_object_set_new(all, names[op], one);
    }
    json_t *whole =
        json_pack("{s:I, s:o}", "in-flight", (json_int_t)stats.in_flight, "operations", all);
    return call_json_text(whole, ret_json, err);
}
