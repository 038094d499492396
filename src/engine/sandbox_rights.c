/*
 * The rights of root that an engine keeps, and Landlock's rules for the files that it may open.
 *
 * Landlock is the second line behind the view: it holds whatever way a path comes about, /proc
 * among them, and keeps the engine from tracing and signalling processes outside. It needs Linux
 * 5.13; what a kernel's version does not know is left out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/sandbox.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define BIT(capability) ((uint64_t)1 << (capability))

/* Images may belong to other users; rings and buffers count towards locked memory. */
#define KEPT_CLOSED (BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_CHOWN) | BIT(CAP_IPC_LOCK))
/* The SCSI target and NBD driver by configfs and netlink, mounts, who has a device open. */
#define KEPT_HELD                                                                       \
    (KEPT_CLOSED | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_SYS_ADMIN) | BIT(CAP_NET_ADMIN) | \
     BIT(CAP_SYS_RESOURCE) | BIT(CAP_SYS_PTRACE) | BIT(CAP_MKNOD) | BIT(CAP_KILL) |     \
     BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SYS_RAWIO))

bool sandbox_can_mount(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    return syscall(SYS_capget, &header, data) == 0 && data[0].effective & BIT(CAP_SYS_ADMIN);
}

int sandbox_drop_capabilities(bool closed, struct hws_error *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    uint64_t kept = closed ? KEPT_CLOSED | BIT(CAP_NET_BIND_SERVICE) : KEPT_HELD;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return hws_fail_errno(err, errno, "cannot give up new privileges");
    if (syscall(SYS_capget, &header, data) < 0)
        return hws_fail_errno(err, errno, "cannot read the engine's capabilities");
    for (int i = 0; i <= 63 && prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
        if (!(kept & BIT(i)) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0 && errno != EPERM)
            return hws_fail_errno(err, errno, "cannot give up capability %d", i);
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(kept >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    if (syscall(SYS_capset, &header, data) < 0)
        return hws_fail_errno(err, errno, "cannot give up capabilities");
    return 0;
}

/* ---- Landlock ---- */

/* Of the kernel's headers that are newer than those that this may be built with. */
#define FS_IOCTL_DEV    ((uint64_t)1 << 15)
#define SCOPE_ABSTRACT  ((uint64_t)1 << 0)
#define SCOPE_SIGNAL    ((uint64_t)1 << 1)
#define FIRST_TRUNCATE  3
#define FIRST_IOCTL_DEV 5
#define FIRST_SCOPE     6

struct ruleset {
    uint64_t fs, net, scoped;
};

#define FS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_WRITE                                                                                  \
    (FS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                    \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | \
     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REFER | LANDLOCK_ACCESS_FS_TRUNCATE)
#define FS_NEVER                                                                                 \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | \
     LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define FS_OF_FILES                                                                               \
    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE | \
     FS_IOCTL_DEV)

#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER (1ULL << 13)
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

int sandbox_landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version > 0 ? (int)version : 0;
}

/* What is not there needs no rule. */
static int allow(int ruleset, uint64_t known, const char *path, uint64_t access)
{
    struct stat st;
    autofd int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    struct landlock_path_beneath_attr rule = {
        .allowed_access = access & known & (S_ISDIR(st.st_mode) ? UINT64_MAX : FS_OF_FILES),
        .parent_fd = fd};
    return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
               ? -errno
               : 0;
}

static int allow_places(int ruleset, uint64_t known, const struct sandbox_plan *plan)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < plan->count; i++) {
        const struct sandbox_place *place = &plan->place[i];
        r = allow(ruleset, known, place->path,
                  (place->writable ? FS_WRITE : FS_READ) | (place->device ? FS_IOCTL_DEV : 0));
    }
    if (r == 0)
        r = allow(ruleset, known, "/dev", FS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_IOCTL_DEV);
    if (r == 0 && plan->proc)
        r = allow(ruleset, known, "/proc", FS_READ);
    return r == 0 ? allow(ruleset, known, "/sys", FS_READ) : r;
}

int sandbox_landlock_enter(const struct sandbox_plan *plan, struct hws_error *err)
{
    const char *notify = getenv("NOTIFY_SOCKET");
    int version = sandbox_landlock_version();
    if (version == 0)
        return 0;
    struct ruleset attributes = {.fs = FS_WRITE | FS_NEVER | FS_IOCTL_DEV};
    if (version < FIRST_IOCTL_DEV)
        attributes.fs &= ~FS_IOCTL_DEV;
    if (version < FIRST_TRUNCATE)
        attributes.fs &= ~LANDLOCK_ACCESS_FS_TRUNCATE;
    if (version < 2)
        attributes.fs &= ~LANDLOCK_ACCESS_FS_REFER;
    if (version >= FIRST_SCOPE)
        attributes.scoped = SCOPE_SIGNAL | (notify && *notify == '@' ? 0 : SCOPE_ABSTRACT);
    size_t size = version >= FIRST_SCOPE ? sizeof(attributes)
                                         : offsetof(struct ruleset, net); /* net: version 4 */
    autofd int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
    if (ruleset < 0)
        return hws_fail_errno(err, errno, "cannot make Landlock's rules");
    int r = allow_places(ruleset, attributes.fs, plan);
    if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        r = -errno;
    return r < 0 ? hws_fail_errno(err, -r, "cannot put Landlock's rules into force") : 0;
}
