/*
 * A plugin for nbdkit that serves any image which libhawser opens: a program that others wrote, on
 * threads of its own, using blocking calls on one disk.
 *
 *   nbdkit ./nbdkit-hawser.so image=disk.qcow2 [format=qcow2] [cache=none]
 *
 *   cc -shared -fPIC -o nbdkit-hawser.so nbdkit-hawser.c $(pkg-config --cflags --libs hawser)
 *
 * nbdkit goes to the background by fork(), so the disk is opened after that.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <hawser/hawser.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static struct hws_image image;
static char *image_path;
static struct hws_disk *disk;

/* Tells nbdkit why a call failed. */
static int told(int result, const struct hws_error *err)
{
    if (result >= 0)
        return 0;
    nbdkit_error("%s", err->text);
    nbdkit_set_error(-result);
    return -1;
}

static int set(const char *key, const char *value)
{
    if (strcmp(key, "image") == 0)
        image.path = image_path = nbdkit_absolute_path(value);
    else if (strcmp(key, "format") == 0)
        image.format = value;
    else if (strcmp(key, "cache") == 0)
        image.cache = value;
    else
        nbdkit_error("unknown parameter '%s'; there are image, format and cache", key);
    return strcmp(key, "image") && strcmp(key, "format") && strcmp(key, "cache") ? -1 : 0;
}

static int configured(void)
{
    if (!image.path)
        nbdkit_error("image=FILE is needed");
    return image.path ? 0 : -1;
}

static int open_disk(void)
{
    struct hws_error err = {0};
    return told(hws_disk_open(&image, NULL, &disk, &err), &err);
}

static void close_disk(void)
{
    struct hws_error err = {0};
    if (disk && hws_disk_close(disk, &err) < 0)
        nbdkit_error("%s", err.text);
    disk = NULL;
}

static void unload(void)
{
    free(image_path);
}

static void *open_connection(int read_only)
{
    return disk;
}

static int64_t get_size(void *handle)
{
    return (int64_t)hws_disk_size(disk);
}

static int yes(void *handle)
{
    return 1;
}

static int native_fua(void *handle)
{
    return NBDKIT_FUA_NATIVE;
}

static int get_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    struct hws_error err = {0};
    struct hws_disk_limits limits = {.struct_bytes = sizeof(limits)};
    int r = hws_disk_limits(disk, &limits, &err);
    *minimum = 1;
    *preferred = limits.optimal_bytes < 4096 ? 4096 : limits.optimal_bytes;
    *maximum = 0xffffffff;
    return told(r, &err);
}

static int do_read(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct hws_error err = {0};
    return told(hws_disk_read(disk, offset, count, buffer, 0, &err), &err);
}

static int do_write(void *handle, const void *buffer, uint32_t count, uint64_t offset,
                    uint32_t flags)
{
    struct hws_error err = {0};
    unsigned fua = flags & NBDKIT_FLAG_FUA ? HWS_FUA : 0;
    return told(hws_disk_write(disk, offset, count, buffer, fua, &err), &err);
}

static int do_flush(void *handle, uint32_t flags)
{
    struct hws_error err = {0};
    return told(hws_disk_flush(disk, &err), &err);
}

static int do_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct hws_error err = {0};
    int r = hws_disk_discard(disk, offset, count, &err);
    if (r == 0 && flags & NBDKIT_FLAG_FUA)
        r = hws_disk_flush(disk, &err);
    return told(r, &err);
}

static int do_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct hws_error err = {0};
    unsigned how = (flags & NBDKIT_FLAG_FUA ? HWS_FUA : 0) |
                   (flags & NBDKIT_FLAG_MAY_TRIM ? HWS_UNMAP : 0) |
                   (flags & NBDKIT_FLAG_FAST_ZERO ? HWS_NO_FALLBACK : 0);
    return told(hws_disk_zero(disk, offset, count, how, &err), &err);
}

static int add_extent(void *arg, const struct hws_extent *extent)
{
    uint32_t type =
        (extent->data ? 0 : NBDKIT_EXTENT_HOLE) | (extent->zero ? NBDKIT_EXTENT_ZERO : 0);
    return nbdkit_add_extent((struct nbdkit_extents *)arg, extent->start, extent->length, type) < 0
               ? -errno
               : 0;
}

static int get_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                       struct nbdkit_extents *extents)
{
    struct hws_error err = {0};
    return told(hws_disk_map(disk, offset, count, add_extent, extents, &err), &err);
}

static struct nbdkit_plugin plugin = {
    .name = "hawser",
    .longname = "disk images, by libhawser",
    .unload = unload,
    .config = set,
    .config_help = "image=FILE  the image\nformat=NAME  its format, if not to be found out\n"
                   "cache=MODE  none, writeback, writethrough, directsync or unsafe",
    .magic_config_key = "image",
    .config_complete = configured,
    .after_fork = open_disk,
    .cleanup = close_disk,
    .open = open_connection,
    .get_size = get_size,
    .block_size = get_block_size,
    .can_write = yes,
    .can_flush = yes,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_extents = yes,
    .can_multi_conn = yes,
    .can_fua = native_fua,
    .pread = do_read,
    .pwrite = do_write,
    .flush = do_flush,
    .trim = do_trim,
    .zero = do_zero,
    .extents = get_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
