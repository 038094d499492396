/*
 * Making files: exclusive unless told to overwrite, locked before anything is thrown away, removed
 * again when a step fails.
 *
 * Block devices are never made or removed: creating on one (with overwrite) checks that it is large
 * enough and leaves its content alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/file.h"
#include "base/log.h"
#include <linux/fs.h>
#include <sys/ioctl.h>

#define FULL_CHUNK_BYTES MiB

static const char *const preallocation_names[] = {"off", "falloc", "full", NULL};
static const char *const locking_names[] = {"auto", "on", "off", NULL};
static const char *const direct_names[] = {"auto", "on", "off", NULL};

const struct option_desc file_create_table[] = {
    {"filename", OPTION_STRING, offsetof(struct file_create_options, open.filename),
     "path of the file or block device", .required = true},
    {"direct", OPTION_ENUM, offsetof(struct file_create_options, open.direct),
     "bypass the page cache; auto: as the cache mode says", "auto", .choices = direct_names},
    {"locking", OPTION_ENUM, offsetof(struct file_create_options, open.locking),
     "image locks; auto: where the file system has them", "auto", .choices = locking_names},
    {"size", OPTION_SIZE, offsetof(struct file_create_options, size_bytes), "size of the file", "0",
     .max = BLOCK_SIZE_MAX},
    {"preallocation", OPTION_ENUM, offsetof(struct file_create_options, preallocation),
     "off: sparse; falloc: blocks reserved; full: zeroes written", "off",
     .choices = preallocation_names},
    {"nocow", OPTION_BOOL, offsetof(struct file_create_options, nocow),
     "no copy-on-write by the file system (btrfs)", "false"},
    {"overwrite", OPTION_BOOL, offsetof(struct file_create_options, overwrite),
     "replace the content of an existing file", "false"},
    OPTION_END,
};

/* Opens the file to fill, new or not. @return 1: new, 0: it was there, -errno. */
static int co_open_target(const struct file_create_options *o, struct rt_file **ret,
                          struct hws_error *err)
{
    struct rt_open fresh = {.flags = O_RDWR | O_CREAT | O_EXCL, .mode = 0644};
    int r = co_open(o->open.filename, &fresh, ret, err);
    if (r == 0)
        return 1;
    if (r != -EEXIST)
        return r;
    if (!o->overwrite)
        return hws_fail(err, EEXIST, "'%s' exists", o->open.filename);
    struct rt_open existing = {.flags = O_RDWR};
    return co_open(o->open.filename, &existing, ret, err);
}

static int co_write_full(struct rt_file *file, uint64_t size, const char *path,
                         struct hws_error *err)
{
    autofree void *zeroes = calloc(1, FULL_CHUNK_BYTES);
    if (!zeroes)
        return hws_fail(err, ENOMEM, "out of memory");
    for (uint64_t offset = 0; offset < size; offset += FULL_CHUNK_BYTES) {
        struct iovec iov;
        struct sgl chunk = sgl_one(&iov, zeroes, MIN(FULL_CHUNK_BYTES, size - offset));
        int r = co_pwrite(file, offset, chunk, 0);
        if (r < 0)
            return hws_fail_errno(err, -r, "writing '%s' at offset %llu", path,
                                  (unsigned long long)offset);
    }
    int r = co_fdatasync(file);
    return r < 0 ? hws_fail_errno(err, -r, "flushing '%s'", path) : 0;
}

/* Only an empty file takes the attribute; file systems that never copy have nothing to switch off.
 */
static void set_nocow(struct rt_file *file, const char *path)
{
    int fd = rt_file_fd(file), attributes;
    if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &attributes) < 0)
        return;
    attributes |= FS_NOCOW_FL;
    if (ioctl(fd, FS_IOC_SETFLAGS, &attributes) < 0)
        log_debug("'%s' does not take the no-copy-on-write attribute", path);
}

static int co_fill_regular(const struct file_create_options *o, struct rt_file *file,
                           struct hws_error *err)
{
    const char *path = o->open.filename;
    uint64_t size = o->size_bytes;

    int r = co_truncate(file, 0);
    if (r < 0)
        return hws_fail_errno(err, -r, "emptying '%s'", path);
    if (o->nocow)
        set_nocow(file, path);
    if (size == 0)
        return 0;
    r = co_truncate(file, size);
    if (r < 0)
        return hws_fail_errno(err, -r, "setting the size of '%s' to %llu bytes", path,
                              (unsigned long long)size);
    if (o->preallocation == FILE_PREALLOC_FULL)
        return co_write_full(file, size, path, err);
    if (o->preallocation == FILE_PREALLOC_FALLOC) {
        r = co_fallocate(file, 0, 0, size);
        if (r == -EOPNOTSUPP)
            return hws_fail(err, ENOTSUP,
                            "the file system of '%s' cannot reserve blocks; use "
                            "preallocation=full or preallocation=off",
                            path);
        if (r < 0)
            return hws_fail_errno(err, -r, "reserving %llu bytes for '%s'",
                                  (unsigned long long)size, path);
    }
    return 0;
}

static int co_fill_device(const struct file_create_options *o, const struct rt_stat *stat,
                          struct hws_error *err)
{
    if (o->preallocation != FILE_PREALLOC_OFF)
        return hws_fail(err, EINVAL, "'%s' is a block device: preallocation does not apply",
                        o->open.filename);
    if (o->size_bytes > stat->size_bytes)
        return hws_fail(err, ENOSPC, "the block device '%s' has %llu bytes, %llu are needed",
                        o->open.filename, (unsigned long long)stat->size_bytes,
                        (unsigned long long)o->size_bytes);
    return 0;
}

static int co_fill_target(const struct file_create_options *o, struct rt_file *file,
                          struct hws_error *err)
{
    const char *path = o->open.filename;
    struct image_lock lock = {0};
    struct rt_stat stat;

    int r = co_stat(file, &stat);
    if (r < 0)
        return hws_fail_errno(err, -r, "looking at '%s'", path);
    if (!stat.is_regular && !stat.is_block_device)
        return hws_fail(err, EINVAL, "'%s' is neither a regular file nor a block device", path);
    if (o->open.locking != FILE_LOCKING_OFF) {
        r = co_image_lock_set(&lock, file, IMAGE_WRITE | IMAGE_RESIZE, IMAGE_WRITE | IMAGE_RESIZE,
                              path, err);
        if (r == -EAGAIN || (r < 0 && o->open.locking == FILE_LOCKING_ON))
            return r;
    }
    if (stat.is_block_device)
        r = co_fill_device(o, &stat, err);
    else
        r = co_fill_regular(o, file, err);
    image_lock_drop(&lock, file);
    return r;
}

int co_file_create(const void *create_options, struct block_node *file, struct hws_error *err)
{
    const struct file_create_options *o = create_options;
    struct rt_file *target = NULL;

    assert(!file);
    int made = co_open_target(o, &target, err);
    if (made < 0)
        return made;
    int r = co_fill_target(o, target, err);
    rt_file_close(target);
    if (r < 0 && made == 1)
        co_file_remove(o, NULL);
    return r < 0 ? r : made;
}

int co_file_remove(const void *create_options, struct hws_error *err)
{
    const struct file_create_options *o = create_options;
    return co_unlink(o->open.filename, err);
}
