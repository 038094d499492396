/*
 * What lies on a disk, and changes of the disk itself: size and snapshots.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/overlay/overlay.h"
#include "lib/call.h"
#include "lib/disk.h"
#include "lib/thread.h"

/* ---- what lies where ---- */

struct status_call {
    struct hws_disk *disk;
    uint64_t offset, length;
    struct block_extent found;
    int result;
};

static void co_status_call(void *arg)
{
    struct status_call *call = arg;
    call->result = co_root_status(call->disk->root, call->offset, call->length, &call->found);
}

int hws_disk_status(struct hws_disk *disk, uint64_t offset, uint64_t length, struct hws_extent *ret,
                    struct hws_error *err)
{
    struct status_call call = {.disk = disk, .offset = offset};
    int r = disk_check(disk, err);
    if (r < 0)
        return r;
    uint64_t size = block_root_size(disk->root);
    if (!ret || length == 0 || offset >= size)
        return hws_fail(err, EINVAL,
                        "'%.200s': a range inside of it (%llu bytes), of 1 byte or more, and a "
                        "place for the result are needed",
                        disk->name, (unsigned long long)size);
    call.length = MIN(MIN(length, size - offset), CALL_MAP_STEP);
    r = lib_thread_run(co_status_call, &call, err);
    if (r == 0 && call.result < 0)
        r = hws_fail_errno(err, -call.result, "'%.200s': cannot tell what lies at offset %llu",
                           disk->name, (unsigned long long)offset);
    if (r == 0)
        *ret = call_extent(offset, &call.found);
    return r;
}

int hws_disk_map(struct hws_disk *disk, uint64_t offset, uint64_t length, hws_extent_fn *fn,
                 void *arg, struct hws_error *err)
{
    struct hws_extent held = {0}, extent;
    int r = disk_check(disk, err);
    if (r < 0)
        return r;
    uint64_t size = block_root_size(disk->root);
    if (!fn || offset > size)
        return hws_fail(err, EINVAL, "'%.200s': an offset inside of it and a function are needed",
                        disk->name);
    for (uint64_t at = offset, end = offset + MIN(length, size - offset); at < end;
         at += extent.length) {
        r = hws_disk_status(disk, at, end - at, &extent, err);
        if (r < 0)
            return r;
        if (held.length && call_extents_join(&held, &extent)) {
            held.length += extent.length;
            continue;
        }
        r = held.length ? fn(arg, &held) : 0;
        if (r)
            return r;
        held = extent;
    }
    return held.length ? fn(arg, &held) : 0;
}

/* ---- changes ---- */

struct change_call {
    struct hws_disk *disk;
    int (*co_change)(struct change_call *call);
    uint64_t size_bytes;
    bool shrink;
    const char *name, *format;
    enum block_snapshot_action action;
    struct hws_error *err;
    int result;
};

static void co_change_call(void *arg)
{
    struct change_call *call = arg;
    co_mutex_lock(&call->disk->changes);
    call->result = call->co_change(call);
    co_mutex_unlock(&call->disk->changes);
}

static int run_change(struct change_call *call, struct hws_error *err)
{
    struct hws_error unread = {0};
    int r = disk_check(call->disk, err);
    if (r == 0 && call->disk->read_only)
        r = hws_fail(err, EROFS, "'%.200s' is open read-only", call->disk->name);
    call->err = err ? err : &unread;
    if (r == 0)
        r = lib_thread_run(co_change_call, call, err);
    return r < 0 ? r : call->result;
}

static int co_resize(struct change_call *call)
{
    struct block_root *root = call->disk->root;
    uint64_t size = block_root_size(root);
    if (call->size_bytes < size && !call->shrink)
        return hws_fail(call->err, EINVAL,
                        "'%.200s' has %llu bytes: making it smaller cuts off what lies past the "
                        "new end, and has to be asked for",
                        call->disk->name, (unsigned long long)size);
    return co_root_resize(root, call->size_bytes, call->err);
}

int hws_disk_resize(struct hws_disk *disk, uint64_t size_bytes, bool shrink, struct hws_error *err)
{
    struct change_call call = {
        .disk = disk, .co_change = co_resize, .size_bytes = size_bytes, .shrink = shrink};
    if (size_bytes > BLOCK_SIZE_MAX)
        return hws_fail(err, EFBIG, "the new size is past the largest that the kernel takes, %llu",
                        (unsigned long long)BLOCK_SIZE_MAX);
    return run_change(&call, err);
}

static int co_internal_snapshot(struct change_call *call)
{
    return co_root_snapshot(call->disk->root, call->action, call->name, call->err);
}

int hws_disk_internal_snapshot(struct hws_disk *disk, enum hws_snapshot_action action,
                               const char *name, struct hws_error *err)
{
    static const enum block_snapshot_action actions[] = {
        [HWS_SNAPSHOT_CREATE] = BLOCK_SNAPSHOT_CREATE,
        [HWS_SNAPSHOT_APPLY] = BLOCK_SNAPSHOT_APPLY,
        [HWS_SNAPSHOT_DELETE] = BLOCK_SNAPSHOT_DELETE,
    };
    if ((unsigned)action >= ARRAY_LEN(actions))
        return hws_fail(err, EINVAL, "there is no snapshot action %d", (int)action);
    if (!name)
        return hws_fail(err, EINVAL, "the snapshot's name is NULL");
    struct change_call call = {
        .disk = disk, .co_change = co_internal_snapshot, .name = name, .action = actions[action]};
    return run_change(&call, err);
}

/* Most of what is dirty goes out while requests still run; the push flushes the rest. */
static int co_push(struct change_call *call, const char *format)
{
    struct hws_disk *disk = call->disk;
    struct hws_image overlay = disk->image;
    struct block_node *node;
    enum block_cache cache;
    overlay.path = call->name;
    overlay.format = format;
    overlay.cache = call_cache_name(disk->cache);
    int r =
        co_call_open_disk(&overlay, 0, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE | BLOCK_OPEN_NO_BACKING,
                          &cache, &node, call->err);
    if (r < 0)
        return r;
    r = co_root_flush(disk->root);
    if (r < 0)
        r = hws_fail_errno(call->err, -r, "'%.200s': cannot flush it", disk->name);
    else
        r = co_root_push(disk->root, node, call->err);
    if (r < 0)
        (void)!co_block_close(node, NULL);
    return r;
}

static int co_snapshot(struct change_call *call)
{
    struct hws_disk *disk = call->disk;
    struct block_node *top = block_root_node(disk->root);
    const char *format = call->format ? call->format : "qcow2";
    struct overlay_spec spec = {
        .path = call->name,
        .format = format,
        .backing = overlay_node_path(top),
        .backing_format = block_driver_name(top),
        .size_bytes = block_root_size(disk->root),
    };
    if (!spec.backing)
        return hws_fail(call->err, ENOTSUP,
                        "'%.200s' is not a file of this host; an overlay cannot name it",
                        disk->name);
    int r = co_overlay_create(&spec, call->err);
    if (r < 0)
        return r;
    r = co_push(call, format);
    if (r < 0)
        (void)!co_unlink(call->name, NULL);
    return r;
}

int hws_disk_snapshot(struct hws_disk *disk, const char *overlay, const char *format,
                      struct hws_error *err)
{
    struct change_call call = {
        .disk = disk, .co_change = co_snapshot, .name = overlay, .format = format};
    if (!overlay)
        return hws_fail(err, EINVAL, "the overlay's name is NULL");
    return run_change(&call, err);
}
