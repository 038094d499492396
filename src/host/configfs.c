/*
 * Words for configfs and sysfs; see host/configfs.h.
 *
 * Modules are loaded by modprobe(8), which knows aliases, options and what must not be loaded; the
 * kernel's own loading on demand tells nobody why it failed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/process.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/stat.h>

const char *configfs_target_root = "/sys/kernel/config/target";

struct path {
    char text[CONFIGFS_PATH_MAX];
};

static int make_path(struct path *path, const char *format, va_list arguments)
{
    size_t used = 0;
    if (format[0] != '/')
        used = (size_t)snprintf(path->text, sizeof(path->text), "%s/", configfs_target_root);
    int n = vsnprintf(path->text + used, sizeof(path->text) - used, format, arguments);
    return n < 0 || (size_t)n >= sizeof(path->text) - used ? -ENAMETOOLONG : 0;
}

/* Every function here begins like this; the path's length is the program's own doing. */
#define PATH_FROM(path, format)                        \
    do {                                               \
        va_list arguments_;                            \
        va_start(arguments_, format);                  \
        int r_ = make_path(&path, format, arguments_); \
        va_end(arguments_);                            \
        assert(r_ == 0);                               \
    } while (0)

/* ---- modules ---- */

int configfs_load_module(const char *module, struct hws_error *err)
{
    char path[128];
    snprintf(path, sizeof(path), "/sys/module/%s", module);
    if (access(path, F_OK) == 0)
        return 0;
    char *arguments[] = {(char *)"modprobe", (char *)"-q", (char *)module, NULL};
    int r = process_run(arguments, true);
    if (r == 0)
        return 0;
    if (r == -ENOENT)
        return hws_fail(err, ENODEV,
                        "the kernel module %s is not loaded, and modprobe (package kmod) is not "
                        "there to do it",
                        module);
    return hws_fail(err, ENODEV,
                    "the kernel module %s cannot be loaded; is it in this kernel "
                    "(modinfo %s), and is this root?",
                    module, module);
}

/* ---- attributes ---- */

static int write_path(const struct path *path, const char *value)
{
    autofd int fd = open(path->text, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t length = strlen(value);
    ssize_t n = write(fd, value, length);
    return n < 0 ? -errno : (size_t)n < length ? -EIO : 0;
}

int configfs_write(struct hws_error *err, const char *value, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    int r = write_path(&path, value);
    return r < 0 ? hws_fail_errno(err, -r, "the kernel does not take '%.200s' in %s", value,
                                  path.text)
                 : 0;
}

int configfs_write_secret(struct hws_error *err, const char *value, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    int r = write_path(&path, value);
    return r < 0 ? hws_fail_errno(err, -r, "the kernel does not take what was given for %s",
                                  path.text)
                 : 0;
}

int configfs_read(char *ret, size_t size, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    autofd int fd = open(path.text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret, size - 1);
    if (n < 0)
        return -errno;
    while (n > 0 && ret[n - 1] == '\n')
        n--;
    ret[n] = '\0';
    return (int)n;
}

/* ---- folders and links ---- */

int configfs_mkdir(struct hws_error *err, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    return mkdir(path.text, 0755) < 0 ? hws_fail_errno(err, errno, "cannot make %s", path.text) : 0;
}

/* Kept by the kernel with the object itself, and it means nothing on a folder of configfs. */
#define MARK S_ISVTX

int configfs_mkdir_marked(struct hws_error *err, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    if (mkdir(path.text, 0755) < 0)
        return hws_fail_errno(err, errno, "cannot make %s", path.text);
    if (chmod(path.text, 0755 | MARK) == 0)
        return 0;
    int r = hws_fail_errno(err, errno, "cannot mark %s", path.text);
    (void)rmdir(path.text);
    return r;
}

bool configfs_is_marked(const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    struct stat st;
    return lstat(path.text, &st) == 0 && (st.st_mode & MARK);
}

int configfs_rmdir(struct hws_error *err, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    return rmdir(path.text) < 0 && errno != ENOENT
               ? hws_fail_errno(err, errno, "cannot remove %s", path.text)
               : 0;
}

int configfs_link(struct hws_error *err, const char *target, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    char full[CONFIGFS_PATH_MAX];
    if (target[0] == '/')
        snprintf(full, sizeof(full), "%s", target);
    else
        snprintf(full, sizeof(full), "%s/%s", configfs_target_root, target);
    return symlink(full, path.text) < 0
               ? hws_fail_errno(err, errno, "cannot link %s to %s", path.text, target)
               : 0;
}

int configfs_unlink(struct hws_error *err, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    return unlink(path.text) < 0 && errno != ENOENT
               ? hws_fail_errno(err, errno, "cannot remove %s", path.text)
               : 0;
}

bool configfs_exists(const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    struct stat st;
    return lstat(path.text, &st) == 0;
}

int configfs_each(configfs_visit *visit, void *arg, bool links, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    DIR *folder = opendir(path.text);
    int r = 0;
    for (struct dirent *at; folder && r == 0 && (at = readdir(folder));)
        if (at->d_name[0] != '.' && (at->d_type == DT_DIR || (links && at->d_type == DT_LNK)))
            r = visit(at->d_name, arg);
    if (folder)
        closedir(folder);
    return r;
}

void configfs_link_tail(char *ret, size_t size, const char *format, ...)
{
    struct path path;
    PATH_FROM(path, format);
    char target[CONFIGFS_PATH_MAX];
    ssize_t n = readlink(path.text, target, sizeof(target) - 1);
    target[MAX(n, 0)] = '\0';
    char *last = strrchr(target, '/'), *from = last;
    while (from && from > target && from[-1] != '/')
        from--;
    snprintf(ret, size, "%s", last ? from : "");
}

int configfs_lock(struct hws_error *err)
{
    struct path path;
    snprintf(path.text, sizeof(path.text), "%s", configfs_target_root);
    autofd int fd = open(path.text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? hws_fail(err, ENODEV,
                                          "%s is not there: mount configfs (mount -t configfs none "
                                          "/sys/kernel/config) and load target_core_mod",
                                          path.text)
                               : hws_fail_errno(err, errno, "cannot open %s", path.text);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return hws_fail_errno(err, errno, "cannot lock %s", path.text);
    return steal_fd(&fd);
}
