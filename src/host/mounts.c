/*
 * Mounting file systems that lie on our devices; see host/mounts.h.
 *
 * The type is found by libblkid, whose probing knows when signatures contradict each other;
 * guessing by trying every type would hand hostile bytes to every file system driver of the kernel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/mounts.h"
#include "rt/rt.h"
#include <blkid/blkid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct mount_work {
    const struct mount_options *options;
    const char *target;
    struct hws_error *err;
};

/* mountinfo writes blanks and backslashes in a path as \ooo. */
static void unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in; out++) {
        if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' &&
            in[3] >= '0' && in[3] <= '7') {
            *out = (char)((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
            in += 4;
        } else {
            *out = *in++;
        }
    }
    *out = 0;
}

struct mount_line {
    dev_t number;
    char point[4096], source[4096];
};

/* One line of mountinfo. */
static bool parse_line(const char *text, struct mount_line *line)
{
    unsigned major, minor;
    const char *rest = strstr(text, " - ");
    if (sscanf(text, "%*s %*s %u:%u %*s %4095s", &major, &minor, line->point) != 3 || !rest ||
        sscanf(rest, " - %*s %4095s", line->source) != 1)
        return false;
    line->number = makedev(major, minor);
    unescape(line->point);
    unescape(line->source);
    return true;
}

/* btrfs has a number of its own for each mount: there the source tells. */
static bool is_of(const struct mount_line *line, const char *device, dev_t number)
{
    return line->number == number || !strcmp(line->source, device);
}

bool mounts_find_device(const char *device, char *where, size_t where_bytes)
{
    struct stat st;
    struct mount_line line;
    bool found = false;
    where[0] = 0;
    if (stat(device, &st) < 0 || !S_ISBLK(st.st_mode))
        return false;
    autofree char *text = NULL;
    size_t text_bytes = 0;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (file && !found && getline(&text, &text_bytes, file) > 0)
        found = parse_line(text, &line) && is_of(&line, device, st.st_rdev);
    if (file)
        fclose(file);
    if (found)
        snprintf(where, where_bytes, "%s", line.point);
    return found;
}

enum mounts_place mounts_look(const char *device, const char *target)
{
    struct stat st;
    struct mount_line line;
    enum mounts_place place = MOUNTS_NOT_THERE;
    if (stat(device, &st) < 0 || !S_ISBLK(st.st_mode))
        return place;
    autofree char *text = NULL;
    size_t text_bytes = 0;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (file && getline(&text, &text_bytes, file) > 0) {
        if (!parse_line(text, &line) || strcmp(line.point, target) != 0)
            continue;
        if (is_of(&line, device, st.st_rdev))
            place = MOUNTS_ON_TOP;
        else if (place != MOUNTS_NOT_THERE)
            place = MOUNTS_COVERED;
    }
    if (file)
        fclose(file);
    return place;
}

static int probe_type(const char *device, char *type, size_t type_bytes, struct hws_error *err)
{
    blkid_probe probe = blkid_new_probe_from_filename(device);
    const char *value = NULL;
    int r = 0;
    if (!probe)
        return hws_fail_errno(err, errno ? errno : EIO, "%s: cannot read for probing", device);
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE);
    int found = blkid_do_safeprobe(probe);
    if (found == -2)
        r = hws_fail(err, EINVAL, "%s: has signatures of several file systems; name the type",
                     device);
    else if (found != 0 || blkid_probe_lookup_value(probe, "TYPE", &value, NULL) < 0)
        r = hws_fail(err, ENODATA, "%s: no file system found; make one (mkfs) or name the type",
                     device);
    else
        snprintf(type, type_bytes, "%s", value);
    blkid_free_probe(probe);
    return r;
}

/* Options that are flags of the kernel's call; the rest is the file system's. */
static const struct {
    const char *name;
    unsigned long flag;
} flag_options[] = {
    {"noatime", MS_NOATIME},       {"relatime", MS_RELATIME}, {"strictatime", MS_STRICTATIME},
    {"nodiratime", MS_NODIRATIME}, {"lazytime", MS_LAZYTIME}, {"noexec", MS_NOEXEC},
    {"nosuid", MS_NOSUID},         {"nodev", MS_NODEV},       {"sync", MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC},
};

/* Takes the flags out of @data, in place. */
static unsigned long take_flags(char *data)
{
    unsigned long flags = 0;
    char *out = data, *rest = data;
    for (char *word; (word = strsep(&rest, ","));) {
        unsigned i = 0;
        while (i < ARRAY_LEN(flag_options) && strcmp(flag_options[i].name, word) != 0)
            i++;
        if (i < ARRAY_LEN(flag_options)) {
            flags |= flag_options[i].flag;
            continue;
        }
        size_t length = strlen(word);
        if (length && out > data)
            *out++ = ',';
        memmove(out, word, length);
        out += length;
    }
    *out = '\0';
    return flags;
}

/*
 * What the kernel gets as the file system's options; free(). XFS refuses a file system whose UUID
 * is mounted already, which a clone's is: what is mounted twice by mistake, the images' locks tell.
 */
static char *data_for(const char *type, const char *data, unsigned long *flags)
{
    char *all;
    bool xfs = !strcmp(type, "xfs");
    if (asprintf(&all, "%s%s%s", xfs ? "nouuid" : "", xfs && data && *data ? "," : "",
                 data ? data : "") < 0)
        return NULL;
    *flags |= take_flags(all);
    return all;
}

static int mount_blocking(void *arg)
{
    struct mount_work *w = arg;
    const struct mount_options *o = w->options;
    char type[64];
    if (o->type) {
        snprintf(type, sizeof(type), "%s", o->type);
    } else {
        int r = probe_type(o->device, type, sizeof(type), w->err);
        if (r < 0)
            return r;
    }
    unsigned long flags = (o->read_only ? MS_RDONLY : 0) | (o->trusted ? 0 : MS_NOSUID | MS_NODEV);
    autofree char *data = data_for(type, o->data, &flags);
    if (!data)
        return hws_fail(w->err, ENOMEM, "out of memory");
    if (mount(o->device, o->target, type, flags, *data ? data : NULL) < 0)
        return hws_fail_errno(w->err, errno, "%s: cannot mount the %s file system at %s", o->device,
                              type, o->target);
    return 0;
}

int co_mount(const struct mount_options *options, struct hws_error *err)
{
    struct mount_work w = {.options = options, .err = err};
    return co_work(mount_blocking, &w);
}

static int unmount_blocking(void *arg)
{
    struct mount_work *w = arg;
    if (umount2(w->target, UMOUNT_NOFOLLOW) < 0)
        return hws_fail_errno(w->err, errno, "%s: cannot unmount", w->target);
    return 0;
}

int co_unmount(const char *target, struct hws_error *err)
{
    struct mount_work w = {.target = target, .err = err};
    return co_work(unmount_blocking, &w);
}
