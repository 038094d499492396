/*
 * Control groups; see host/cgroup.h.
 *
 * Which group is hawserd's to divide, first of these:
 * - the one that a setting names;
 * - the parent of the group `daemon` that it is in, where that parent was delegated: so systemd
 *   starts it from 254 on (DelegateSubgroup=), and controllers are enabled for the groups there;
 * - the group that it is in, where that was delegated. It moves to `daemon` in it. No controllers
 *   are enabled: a service manager that starts the next hawserd puts it into the delegated group
 *   itself, which the kernel refuses (EBUSY, "no internal processes") as long as engines keep it
 *   alive with controllers enabled;
 * - `hawser` at the root of what is mounted. That root's own controllers are its owner's matter.
 *
 * A delegated group is told by the attribute that systemd sets on it. On hosts with both versions
 * the second one is mounted beside the first, and may have no controllers at all: it counts
 * processor time and kills all the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/cgroup.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#define DAEMON_GROUP "daemon"
#define FILE_MAX     4096
/** Somebody removes empty groups while we enter ours: once more, then. */
#define ENTER_TRIES 10
/** Until a process that has ended has left its group. */
#define LEAVE_MS       2000
#define LEAVE_RETRY_MS 2

const struct cgroup_host cgroup_this_host = {"/proc/self/mountinfo", "/proc/self/cgroup", false};

/* ---- files of a group ---- */

static int write_text(const char *folder, const char *file, const char *text)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", folder, file) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    autofd int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* What fits of it, as text. */
static int read_text(const char *folder, const char *file, char text[FILE_MAX])
{
    char path[PATH_MAX];
    text[0] = '\0';
    if (snprintf(path, sizeof(path), "%s/%s", folder, file) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, FILE_MAX - 1);
    if (length < 0)
        return -errno;
    text[length] = '\0';
    return 0;
}

static bool is_cgroup2(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

static bool is_delegated(const char *folder)
{
    static const char *const names[] = {"trusted.delegate", "user.delegate"};
    char value[2];
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (getxattr(folder, names[i], value, sizeof(value)) == 1 && value[0] == '1')
            return true;
    return false;
}

/* ---- finding ---- */

struct mount {
    char root[PATH_MAX]; /* the group that is seen at @point */
    char point[PATH_MAX];
};

static bool find_mount(const char *file, struct mount *ret)
{
    char *line = NULL;
    size_t size = 0;
    bool found = false, usual = false;
    FILE *mounts = fopen(file, "re");
    while (mounts && !usual && getline(&line, &size, mounts) > 0) {
        struct mount mount;
        /* A path with escapes in it is none of the usual ones. */
        if (!strstr(line, " - cgroup2 ") || strchr(line, '\\') ||
            sscanf(line, "%*s %*s %*s %4095s %4095s", mount.root, mount.point) != 2)
            continue;
        usual = !strncmp(mount.point, "/sys/fs/cgroup", 14);
        if (!found || usual)
            *ret = mount;
        found = true;
    }
    if (mounts)
        fclose(mounts);
    free(line);
    return found;
}

/* @ret the folder of the group that this process is in; NULL where it is the mount's root, or
 * unseen. */
static void own_group(const char *file, const struct mount *mount, char **ret)
{
    char *line = NULL;
    size_t size = 0;
    const size_t root = strcmp(mount->root, "/") ? strlen(mount->root) : 0;
    FILE *groups = fopen(file, "re");
    *ret = NULL;
    while (groups && !*ret && getline(&line, &size, groups) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) != 0 || strncmp(line + 3, mount->root, root) != 0 ||
            strstr(line, "/../"))
            continue;
        const char *path = line + 3 + root;
        if (path[0] == '/' && path[1] && asprintf(ret, "%s%s", mount->point, path) < 0)
            *ret = NULL;
    }
    if (groups)
        fclose(groups);
    free(line);
}

static int make_group(const char *folder, struct hws_error *err)
{
    if (mkdir(folder, 0755) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make the group %s", folder);
    return 0;
}

/* A file system of another kind gets no folder. */
static int take_named(const char *setting, const struct cgroup_host *host, struct hws_error *err)
{
    autofree char *parent = strdup(setting);
    if (setting[0] != '/' || !parent)
        return hws_fail(err, EINVAL, "%.300s is no absolute path", setting);
    char *slash = strrchr(parent, '/');
    slash[slash == parent] = '\0';
    if (!host->pretend && !is_cgroup2(access(setting, F_OK) == 0 ? setting : parent))
        return hws_fail(err, EINVAL, "%.300s is in no cgroup2 file system", setting);
    return make_group(setting, err);
}

/* @return whether controllers may be enabled in what was taken, if it was. */
static bool take_delegated(const char *own, const struct cgroup_host *host, char **ret)
{
    autofree char *leaf = NULL, *parent = strdup(own);
    if (!parent)
        return false;
    parent[strrchr(own, '/') - own] = '\0';
    if (!strcmp(own + strlen(parent) + 1, DAEMON_GROUP) && is_delegated(parent)) {
        *ret = steal_ptr(&parent);
        return true;
    }
    if (!is_delegated(own) || asprintf(&leaf, "%s/" DAEMON_GROUP, own) < 0)
        return false;
    if (make_group(leaf, NULL) == 0 &&
        (host->pretend || write_text(leaf, "cgroup.procs", "0") == 0))
        *ret = strdup(own);
    return false;
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += length)
        if ((at == text || at[-1] == ' ') && (!at[length] || strchr(" \n", at[length])))
            return true;
    return false;
}

/* Each by itself: one that the kernel refuses keeps no other. */
static void enable_controllers(const char *folder)
{
    static const char *const wanted[] = {"cpu", "io", "memory", "pids"};
    char there[FILE_MAX], text[16];
    if (read_text(folder, "cgroup.controllers", there) < 0)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(wanted); i++) {
        snprintf(text, sizeof(text), "+%s", wanted[i]);
        if (has_word(there, wanted[i]) && write_text(folder, "cgroup.subtree_control", text) < 0)
            continue; /* what is enabled is read below */
    }
}

/* @ret_enable whether controllers are to be enabled. */
static int find_unnamed(const struct cgroup_host *host, char **ret, bool *ret_enable,
                        struct hws_error *err)
{
    struct mount mount;
    if (!find_mount(host->mounts, &mount))
        return hws_fail(err, ENOENT, "no cgroup2 file system is mounted");
    autofree char *own = NULL;
    own_group(host->own, &mount, &own);
    *ret_enable = own && take_delegated(own, host, ret);
    if (*ret)
        return 0;
    *ret_enable = true;
    if (asprintf(ret, "%s/hawser", mount.point) < 0) {
        *ret = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    return make_group(*ret, err);
}

static int find_folder(const char *setting, const struct cgroup_host *host, char **ret,
                       struct hws_error *err)
{
    bool enable = true;
    int r = setting ? take_named(setting, host, err) : find_unnamed(host, ret, &enable, err);
    if (r < 0)
        return r;
    if (setting)
        *ret = strdup(setting);
    if (!*ret)
        return hws_fail(err, ENOMEM, "out of memory");
    if (access(*ret, W_OK | X_OK) < 0)
        return hws_fail_errno(err, errno, "%s", *ret);
    if (enable)
        enable_controllers(*ret);
    return 0;
}

void cgroup_find(const char *setting, const struct cgroup_host *host, struct cgroup_base *ret)
{
    char controllers[FILE_MAX];
    struct hws_error err = {0};
    *ret = (struct cgroup_base){0};
    int r = setting && !strcmp(setting, "none") ? hws_fail(&err, ENOENT, "they are switched off")
                                                : find_folder(setting, host, &ret->folder, &err);
    if (r < 0) {
        free(steal_ptr(&ret->folder));
        ret->reason = strdup(err.text);
        return;
    }
    if (read_text(ret->folder, "cgroup.subtree_control", controllers) == 0) {
        controllers[strcspn(controllers, "\n")] = '\0';
        ret->controllers = controllers[0] ? strdup(controllers) : NULL;
    }
}

void cgroup_base_free(struct cgroup_base *base)
{
    free(base->folder);
    free(base->controllers);
    free(base->reason);
    *base = (struct cgroup_base){0};
}

/* ---- one group ---- */

int cgroup_enter(const char *folder, struct hws_error *err)
{
    char bound[16];
    int r = -ENOENT;
    snprintf(bound, sizeof(bound), "%d", CGROUP_PIDS_MAX);
    for (unsigned n = 0; n < ENTER_TRIES && (r == -ENOENT || r == -ENODEV); n++) {
        r = make_group(folder, err);
        if (r < 0)
            return r;
        r = write_text(folder, "pids.max", bound);
        if (r == 0 || r == -ENOENT) /* there is no such controller */
            r = write_text(folder, "cgroup.procs", "0");
    }
    return r < 0 ? hws_fail_errno(err, -r, "cannot enter the group %s", folder) : 0;
}

static int wait_removed(const char *folder)
{
    for (unsigned ms = 0;; ms += LEAVE_RETRY_MS) {
        if (rmdir(folder) == 0 || errno == ENOENT)
            return 0;
        if (errno != EBUSY || ms >= LEAVE_MS)
            return -errno;
        usleep(LEAVE_RETRY_MS * 1000);
    }
}

int cgroup_remove(const char *folder, bool kill, struct hws_error *err)
{
    int r = wait_removed(folder);
    if (r == -EBUSY && kill && write_text(folder, "cgroup.kill", "1") == 0)
        r = wait_removed(folder);
    return r < 0 ? hws_fail_errno(err, -r, "cannot remove the group %s", folder) : 0;
}

unsigned cgroup_clean(const char *base)
{
    unsigned count = 0;
    struct dirent *entry;
    DIR *folder = opendir(base);
    while (folder && (entry = readdir(folder)))
        if (!strncmp(entry->d_name, CGROUP_ENGINE_PREFIX, strlen(CGROUP_ENGINE_PREFIX)))
            count += unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR) == 0;
    if (folder)
        closedir(folder);
    return count;
}

bool cgroup_has(const char *folder, pid_t pid)
{
    char text[FILE_MAX];
    if (pid <= 0 || read_text(folder, "cgroup.procs", text) < 0)
        return false;
    for (char *rest = NULL, *line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest))
        if (strtoll(line, NULL, 10) == pid)
            return true;
    return false;
}

int cgroup_usage(const char *folder, struct cgroup_usage *ret, struct hws_error *err)
{
    char text[FILE_MAX];
    unsigned long long number;
    int r = read_text(folder, "cpu.stat", text);
    const char *cpu = strstr(text, "usage_usec ");
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot read %s/cpu.stat", folder);
    if (!cpu || sscanf(cpu, "usage_usec %llu", &number) != 1)
        return hws_fail(err, EIO, "%s/cpu.stat has no usage_usec", folder);
    *ret = (struct cgroup_usage){.cpu_us = number};
    if (read_text(folder, "memory.current", text) == 0 && sscanf(text, "%llu", &number) == 1) {
        ret->memory_bytes = number;
        ret->has_memory = true;
    }
    return 0;
}
