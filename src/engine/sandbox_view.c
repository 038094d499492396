/*
 * A file system of the engine's own: an empty one in memory, read-only, and in it the places of the
 * plan by the names that they have outside. Nothing else can be named, and nothing that the engine
 * mounts is seen outside; it goes with the process.
 *
 *   /dev         null, and of those that the plan asks for: fuse, loop-control; later its loop
 * device /proc        where Landlock watches over it: which processor a caller runs on
 *   /sys/devices/system/cpu
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/sandbox.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* What sys/mount.h has beside linux/mount.h; the two cannot be included together. */
extern int mount(const char *source, const char *target, const char *type, unsigned long flags,
                 const void *data);
extern int umount2(const char *target, int flags);
#define MNT_DETACH 2

/* A folder that every host has and no image lies in: the new root is made over it. */
#define ROOT "/proc"

static int fail(const char *what, const char *path, struct hws_error *err)
{
    return hws_fail_errno(err, errno, "cannot %s %s in the engine's view", what, path);
}

/* Makes the folders that @path lies in, below the new root; and itself where @self. */
static int make_folders(const char *path, bool self, struct hws_error *err)
{
    char name[PATH_MAX];
    if (snprintf(name, sizeof(name), "%s%s", ROOT, path) >= (int)sizeof(name))
        return hws_fail(err, ENAMETOOLONG, "%.200s...: the path is too long", path);
    for (char *at = name + sizeof(ROOT); at && *at;) {
        char *slash = strchr(at, '/');
        if (!slash && !self)
            break;
        if (slash)
            *slash = '\0';
        if (mkdir(name, 0755) < 0 && errno != EEXIST)
            return fail("make", path, err);
        if (slash)
            *slash = '/';
        at = slash ? slash + 1 : NULL;
    }
    return 0;
}

static int restrict_mount(const char *name, uint64_t flags)
{
    struct mount_attr attributes = {.attr_set = flags};
    return (int)syscall(SYS_mount_setattr, AT_FDCWD, name, 0, &attributes, sizeof(attributes));
}

static int show(const char *path, uint64_t flags, struct hws_error *err)
{
    char name[PATH_MAX];
    struct stat st;
    if (stat(path, &st) < 0)
        return fail("show", path, err);
    int r = make_folders(path, S_ISDIR(st.st_mode), err);
    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "%s%s", ROOT, path);
    if (!S_ISDIR(st.st_mode)) {
        autofd int fd = open(name, O_CREAT | O_RDONLY | O_CLOEXEC, 0600);
        if (fd < 0)
            return fail("make", path, err);
    }
    if (mount(path, name, NULL, MS_BIND, NULL) < 0 || restrict_mount(name, flags) < 0)
        return fail("show", path, err);
    return 0;
}

static int by_length(const void *a, const void *b)
{
    const struct sandbox_place *first = a, *second = b;
    size_t x = strlen(first->path), y = strlen(second->path);
    return x < y ? -1 : x > y;
}

/* A folder before what lies in it, which would be hidden else. */
static int show_places(const struct sandbox_plan *plan, struct hws_error *err)
{
    struct sandbox_place sorted[SANDBOX_PLACES_MAX];
    int r = 0;
    memcpy(sorted, plan->place, plan->count * sizeof(sorted[0]));
    qsort(sorted, plan->count, sizeof(sorted[0]), by_length);
    for (unsigned i = 0; r == 0 && i < plan->count; i++)
        r = show(sorted[i].path,
                 MOUNT_ATTR_NOSUID | (sorted[i].library ? 0 : MOUNT_ATTR_NOEXEC) |
                     (sorted[i].device ? 0 : MOUNT_ATTR_NODEV) |
                     (sorted[i].writable ? 0 : MOUNT_ATTR_RDONLY),
                 err);
    return r;
}

struct node {
    const char *name;
    struct stat st;
    bool wanted;
};

static int make_devices(const struct node nodes[], unsigned count, struct hws_error *err)
{
    char name[PATH_MAX];
    if (make_folders("/dev", true, err) < 0 ||
        mount("tmpfs", ROOT "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC,
              "size=16k,nr_inodes=32,mode=755") < 0)
        return fail("make", "/dev", err);
    for (unsigned i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%s%s", ROOT, nodes[i].name);
        if (nodes[i].wanted && mknod(name, S_IFCHR | 0600, nodes[i].st.st_rdev) < 0)
            return fail("make", nodes[i].name, err);
    }
    return 0;
}

/* Relative names in the configuration count from where the engine was started. */
static int turn(const char *folder, struct hws_error *err)
{
    if (make_folders(folder, true, err) < 0)
        return -EINVAL;
    if (restrict_mount(ROOT, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV |
                                 MOUNT_ATTR_NOSUID) < 0 ||
        chdir(ROOT) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
        chdir(folder) < 0)
        return fail("enter", "the root", err);
    return 0;
}

static int build(const struct sandbox_plan *plan, int proc, struct hws_error *err)
{
    int r = show_places(plan, err);
    if (r == 0 && access("/sys/devices/system/cpu", F_OK) == 0)
        r = show("/sys/devices/system/cpu",
                 MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY, err);
    if (r < 0 || proc < 0)
        return r;
    if (make_folders("/proc", true, err) < 0 ||
        syscall(SYS_move_mount, proc, "", AT_FDCWD, ROOT "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        restrict_mount(ROOT "/proc", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV |
                                         MOUNT_ATTR_RDONLY) < 0)
        return fail("show", "/proc", err);
    return 0;
}

int sandbox_view_enter(const struct sandbox_plan *plan, struct hws_error *err)
{
    struct node nodes[] = {{.name = "/dev/null", .wanted = true},
                           {.name = "/dev/fuse", .wanted = plan->fuse},
                           {.name = "/dev/loop-control", .wanted = plan->loop}};
    char folder[PATH_MAX];
    for (unsigned i = 0; i < ARRAY_LEN(nodes); i++)
        if (nodes[i].wanted && stat(nodes[i].name, &nodes[i].st) < 0)
            return fail("find", nodes[i].name, err);
    if (!getcwd(folder, sizeof(folder)) || folder[0] != '/')
        snprintf(folder, sizeof(folder), "/");
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return hws_fail_errno(err, errno,
                              "cannot make a view of the file system for the engine; it needs root "
                              "(CAP_SYS_ADMIN)");
    autofd int proc = plan->proc ? (int)syscall(SYS_open_tree, AT_FDCWD, "/proc",
                                                OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
                                 : -1;
    if (mount("tmpfs", ROOT, "tmpfs", 0, "size=256k,nr_inodes=1024,mode=755") < 0)
        return fail("make", "the root", err);
    int r = make_devices(nodes, ARRAY_LEN(nodes), err);
    if (r == 0)
        r = build(plan, proc, err);
    return r < 0 ? r : turn(folder, err);
}
