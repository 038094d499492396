/*
 * Overlay snapshots; see job/overlay/overlay.h.
 *
 * A revert must never leave a volume without an image or with half of one. The fresh overlay is
 * made and made durable under a temporary name first, then the two names are exchanged
 * (renameat2(RENAME_EXCHANGE)): before that instant the volume's path names the old state, after it
 * the new one, and the other file can be deleted, or exchanged back, at leisure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/overlay/overlay.h"
#include "base/log.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define DEFAULT_FORMAT "qcow2"
/** What a revert puts between a file's name and eight hexadecimal digits. */
#define REVERT_SUFFIX ".revert-"

const char *overlay_node_path(const struct block_node *node)
{
    const struct block_node *file = node;
    while (block_child(file, BLOCK_FILE))
        file = block_child(file, BLOCK_FILE);
    return strcmp(block_driver_name(file), "file") == 0 ? block_filename(file) : NULL;
}

/* Resolves links and dots. @return NULL with errno set; free(). */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return realpath(".", NULL);
    autofree char *folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    return folder ? realpath(folder, NULL) : NULL;
}

int overlay_backing_name(const char *path, const char *backing, char **ret, struct hws_error *err)
{
    autofree char *real = realpath(backing, NULL);
    if (!real)
        return hws_fail_errno(err, errno, "cannot find the backing file '%s'", backing);
    autofree char *folder = folder_of(path);
    if (!folder)
        return hws_fail_errno(err, errno, "cannot find the folder of '%s'", path);
    size_t length = strlen(folder);
    const char *last = strrchr(real, '/') + 1;
    bool same = (size_t)(last - real) == length + (length > 1) && !strncmp(real, folder, length);
    /* "a:b" alone would read as a protocol and its address. */
    if (same && strchr(last, ':'))
        *ret = asprintf(ret, "./%s", last) < 0 ? NULL : *ret;
    else
        *ret = strdup(same ? last : real);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

int co_overlay_create(const struct overlay_spec *spec, struct hws_error *err)
{
    autofree char *name = NULL;
    int r = overlay_backing_name(spec->path, spec->backing, &name, err);
    if (r < 0)
        return r;
    json_t *options;
    r = block_describe(spec->path, spec->format ? spec->format : DEFAULT_FORMAT, &options, err);
    if (r < 0)
        return r;
    /* An overlay that lacks one of them would be a whole image, and another one. Paths are bytes.
     */
    if (json_object_set_new(options, "size", json_integer((json_int_t)spec->size_bytes)) < 0 ||
        json_object_set_new(options, "backing_file", json_string_nocheck(name)) < 0 ||
        json_object_set_new(options, "backing_fmt", json_string(spec->backing_format)) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = co_block_create(options, false, NULL, err);
    json_decref(options);
    return r;
}

static bool same_file(const char *a, const char *b)
{
    struct stat first, second;
    return !stat(a, &first) && !stat(b, &second) && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

int overlay_find_layer(struct block_node *top, const char *path, struct block_node **ret,
                       struct hws_error *err)
{
    struct block_node *layer = block_child(top, BLOCK_BACKING);
    if (!layer)
        return hws_fail(err, EINVAL,
                        "'%s' has no backing file, so there is no snapshot to go back to; take one "
                        "first with 'hawser snapshot'",
                        block_filename(top));
    for (; path && layer; layer = block_child(layer, BLOCK_BACKING)) {
        const char *file = overlay_node_path(layer);
        if (file && same_file(file, path))
            break;
    }
    if (!layer)
        return hws_fail(
            err, ENOENT,
            "'%s' is not in the backing chain of '%s'; see 'hawser info --backing-chain'", path,
            block_filename(top));
    *ret = layer;
    return 0;
}

int overlay_keep_owner(const char *path, const char *fresh, struct hws_error *err)
{
    struct stat old;
    if (!stat(path, &old) &&
        (chown(fresh, old.st_uid, old.st_gid) < 0 || chmod(fresh, old.st_mode & 07777) < 0))
        return hws_fail_errno(err, errno, "cannot give '%s' the owner and mode of '%s'", fresh,
                              path);
    return 0;
}

static int co_prepare(struct block_node *top, struct block_node *layer, uint64_t size_bytes,
                      const char *path, char **ret_path, struct hws_error *err)
{
    const char *backing = overlay_node_path(layer);
    if (!backing)
        return hws_fail(err, ENOTSUP, "layer '%s' is not a file of this host",
                        block_filename(layer));
    autofree char *temporary = NULL;
    if (asprintf(&temporary, "%s" REVERT_SUFFIX "%08x", path, (unsigned)rt_random_u64()) < 0) {
        temporary = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    struct overlay_spec spec = {
        .path = temporary,
        .format = block_driver_name(top),
        .backing = backing,
        .backing_format = block_driver_name(layer),
        .size_bytes = size_bytes,
    };
    int r = co_overlay_create(&spec, err);
    if (r < 0)
        return r;
    r = overlay_keep_owner(path, temporary, err);
    if (r < 0) {
        unlink(temporary);
        return r;
    }
    *ret_path = steal_ptr(&temporary);
    return 0;
}

int co_overlay_prepare_revert(struct block_node *top, struct block_node *layer, const char *path,
                              char **ret_path, struct hws_error *err)
{
    return co_prepare(top, layer, block_size(layer), path, ret_path, err);
}

int co_overlay_prepare_merged(struct block_node *top, struct block_node *layer, const char *path,
                              char **ret_path, struct hws_error *err)
{
    return co_prepare(top, layer, block_size(top), path, ret_path, err);
}

static bool is_leftover(const char *name, const char *base)
{
    size_t length = strlen(base), suffix = strlen(REVERT_SUFFIX);
    if (strncmp(name, base, length) != 0 || strncmp(name + length, REVERT_SUFFIX, suffix) != 0)
        return false;
    const char *digits = name + length + suffix;
    for (unsigned i = 0; i < 8; i++)
        if (!isxdigit((unsigned char)digits[i]))
            return false;
    return digits[8] == '\0';
}

char *overlay_find_leftover(const char *path)
{
    char *found = NULL;
    autofree char *folder = folder_of(path);
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    DIR *list = folder ? opendir(folder) : NULL;
    for (struct dirent *at; list && !found && (at = readdir(list));)
        if (is_leftover(at->d_name, base) && asprintf(&found, "%s/%s", folder, at->d_name) < 0)
            found = NULL;
    if (list)
        closedir(list);
    return found;
}

struct exchange {
    const char *a, *b;
};

/* Worker: blocks in the file system. */
static int exchange_now(void *arg)
{
    struct exchange *x = arg;
    autofree char *folder = folder_of(x->a);
    if (!folder)
        return -errno;
    autofd int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (renameat2(AT_FDCWD, x->a, AT_FDCWD, x->b, RENAME_EXCHANGE) < 0)
        return -errno;
    if (fsync(fd) == 0)
        return 0;
    int r = -errno;
    /* A failure must mean that the names are as before: the caller deletes what @b names. */
    if (renameat2(AT_FDCWD, x->a, AT_FDCWD, x->b, RENAME_EXCHANGE) < 0) {
        log_warning("%s: exchanged, but not known to be durable: %s", x->a, strerror(-r));
        return 0;
    }
    return r;
}

int co_overlay_exchange(const char *a, const char *b, struct hws_error *err)
{
    struct exchange x = {a, b};
    int r = co_work(exchange_now, &x);
    if (r == -EINVAL)
        return hws_fail(err, ENOTSUP,
                        "the file system of '%s' cannot exchange two names in one step "
                        "(RENAME_EXCHANGE); put the image on ext4, xfs, btrfs or tmpfs",
                        a);
    return r < 0 ? hws_fail_errno(err, -r, "cannot exchange '%s' and '%s'", a, b) : 0;
}
