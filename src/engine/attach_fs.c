/*
 * The file system on an attached device: made where the device is blank, checked, grown while it
 * may be, and mounted.
 *
 * Before a file system is mounted, e2fsck -p replays the journal of an ext4 and repairs what needs
 * nobody's decision; xfs and btrfs replay their logs when they are mounted. An ext4 grows while it
 * is mounted only for who has CAP_SYS_RESOURCE; here is the place where it grows without.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/internal.h"
#include "host/mounts.h"
#include "host/process.h"
#include <blkid/blkid.h>
#include <ctype.h>
#include <limits.h>
#include <sys/stat.h>

/** Exit codes of e2fsck: all is well, or is now (1; 2: a root file system wants a reboot). */
#define FSCK_GOOD_MAX 3

/* What lies on the device: "" where nothing known does. */
static int probe(const char *device, char *type, size_t type_bytes, struct hws_error *err)
{
    const char *value = NULL;
    errno = 0;
    blkid_probe probe = blkid_new_probe_from_filename(device);
    if (!probe)
        return hws_fail_errno(err, errno ? errno : EIO, "cannot look at %s", device);
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
    blkid_probe_enable_partitions(probe, 1);
    int found = blkid_do_safeprobe(probe);
    snprintf(type, type_bytes, "%s", found == 1 ? "" : "?");
    if (found == 0 && blkid_probe_lookup_value(probe, "TYPE", &value, NULL) == 0)
        snprintf(type, type_bytes, "%s", value);
    blkid_free_probe(probe);
    return 0;
}

static int run(char *const arguments[], int good_max, struct hws_error *err)
{
    int r = process_run(arguments, false);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot run %s (is it installed?)", arguments[0]);
    return r > good_max ? hws_fail(err, EIO, "%s failed with exit code %d", arguments[0], r) : 0;
}

#define ARGUMENTS_MAX 64

/* @text of blank-separated options is cut into words. */
static int make(const char *device, const char *type, char *text, struct hws_error *err)
{
    char program[48], *arguments[ARGUMENTS_MAX + 3] = {program};
    unsigned used = 1;
    for (const char *at = type; *at; at++)
        if (!isalnum((unsigned char)*at))
            return hws_fail(err, EINVAL, "'%s' is no file system type", type);
    snprintf(program, sizeof(program), "mkfs.%s", type);
    /* Not every mkfs knows -q; what they print goes nowhere, errors to standard error. */
    if (!strncmp(type, "ext", 3))
        arguments[used++] = (char *)"-q";
    for (char *word; (word = strsep(&text, " "));) {
        if (used >= ARGUMENTS_MAX)
            return hws_fail(err, E2BIG, "%s: too many options", program);
        if (*word)
            arguments[used++] = word;
    }
    arguments[used] = (char *)device;
    return run(arguments, 0, err);
}

static bool is_ext(const char *type)
{
    return !strncmp(type, "ext", 3);
}

static int check(const char *device, bool whole, struct hws_error *err)
{
    char *arguments[] = {(char *)"e2fsck", (char *)"-p", (char *)(whole ? "-f" : device),
                         (char *)(whole ? device : NULL), NULL};
    int r = run(arguments, FSCK_GOOD_MAX, err);
    return r < 0 ? hws_wrap(err, r,
                            "the file system on %s has errors that want a decision; attach it "
                            "as a device, and run 'e2fsck %s'",
                            device, device)
                 : 0;
}

static int grow(const char *device, struct hws_error *err)
{
    char *arguments[] = {(char *)"resize2fs", (char *)device, NULL};
    int r = check(device, true, err); /* it wants one first */
    return r == 0 ? run(arguments, 0, err) : r;
}

/* A copy of a file system that may be mounted too gets an identity of its own; xfs can go without.
 */
static int part(const char *device, const char *type, struct hws_error *err)
{
    char *arguments[] = {(char *)"btrfstune", (char *)"-f", (char *)"-m", (char *)device, NULL};
    return !strcmp(type, "btrfs") ? run(arguments, 0, err) : 0;
}

/* @type of 32 bytes gets what lies on the device in the end. */
static int prepare(const struct attach_options *options, const char *device, char *type,
                   struct hws_error *err)
{
    int r = probe(device, type, 32, err);
    if (r < 0 || options->read_only)
        return r;
    /* One is made where there is none, so that attaching again is the same call. */
    if (options->mkfs && !*type) {
        autofree char *text = strdup(options->mkfs_options ? options->mkfs_options : "");
        snprintf(type, 32, "%s", options->mkfs);
        return text ? make(device, options->mkfs, text, err) : -ENOMEM;
    }
    if (options->check && is_ext(type))
        r = check(device, false, err);
    if (r == 0 && options->grow && is_ext(type))
        r = grow(device, err);
    return r == 0 && options->part ? part(device, type, err) : r;
}

static int co_mount_now(void *arg, struct hws_error *err)
{
    return co_mount(arg, err);
}

static int mount_at(const struct attach_options *options, const struct attachment *attachment,
                    const char *device, struct hws_error *err)
{
    bool made = mkdir(options->mount, 0755) == 0;
    autofree char *target = realpath(options->mount, NULL);
    if (!target)
        return hws_fail_errno(err, errno, "cannot mount at %s", options->mount);
    struct mount_options how = {.device = device,
                                .target = target,
                                .read_only = options->read_only,
                                .data = options->mount_options};
    int r = attachment_store(attachment, "mounts.json",
                             json_pack("[{s:s, s:b}]", "target", target, "made", made), err);
    if (r == 0)
        r = attachment_run(co_mount_now, &how, err);
    if (r < 0 && made)
        rmdir(target);
    return r;
}

int attach_mount(const struct attach_options *options, const struct attachment *attachment,
                 struct hws_error *err)
{
    const char *device = attachment_device(attachment);
    char type[32];
    struct stat st;
    if (!device || stat(device, &st) < 0 || !S_ISBLK(st.st_mode))
        return hws_fail(err, EINVAL, "--mount needs a block device, and %s is none",
                        device ? device : "this attachment");
    autofree char *target = realpath(options->mount, NULL);
    if (target && mounts_look(device, target) == MOUNTS_ON_TOP)
        return 0; /* by the same command before */
    int r = prepare(options, device, type, err);
    return r == 0 ? mount_at(options, attachment, device, err) : r;
}
