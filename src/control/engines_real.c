/*
 * Images and engines of this host; see control/engines.h. New images are made here, through the
 * library; images that exist are opened by other processes only: `hawser info`, `hawser resize`,
 * and engines, which `engine/client.h` starts and finds.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/engines.h"
#include "control/internal.h"
#include "control/tool.h"
#include "engine/client.h"
#include "hawser/image.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LOOK_TIMEOUT_MS   60000
#define RESIZE_TIMEOUT_MS 300000
#define GROW_TIMEOUT_MS   300000
#define MOUNT_TIMEOUT_MS  120000

static const char *program = "hawser";

void engines_use_program(const char *path)
{
    program = path;
    attach_use_program(path);
}

const char *engines_program(void)
{
    return program;
}

void engine_place_free(struct engine_place *place)
{
    free(place->device);
    free(place->top);
    json_decref(place->services);
    *place = (struct engine_place){0};
}

/* ---- images ---- */

/* Names count from the image's folder, so that a pool can lie elsewhere tomorrow. */
const char *engines_name_beside(const char *path, const char *other)
{
    const char *slash = other ? strrchr(other, '/') : NULL;
    if (!slash || strncmp(path, other, (size_t)(slash - other) + 1) != 0 ||
        strchr(path + (slash - other) + 1, '/'))
        return other;
    return slash + 1;
}

static int add_option(struct engine_options *to, const char *name, const char *value)
{
    if (!value)
        return 0;
    char *text = to->text[to->count];
    to->item[to->count++] = text;
    return snprintf(text, sizeof(to->text[0]), "%s=%s", name, value) < (int)sizeof(to->text[0])
               ? 0
               : -ENAMETOOLONG;
}

int engines_options(const struct engine_image *image, struct engine_options *ret,
                    struct hws_error *err)
{
    char cluster[24];
    snprintf(cluster, sizeof(cluster), "%llu", (unsigned long long)image->cluster_bytes);
    *ret = (struct engine_options){0};
    int r = add_option(ret, "cluster_size", image->cluster_bytes ? cluster : NULL);
    if (r == 0)
        r = add_option(ret, "preallocation", image->preallocation);
    if (r == 0)
        r = add_option(ret, "lazy_refcounts", image->lazy_refcounts);
    if (r == 0)
        r = add_option(ret, "extended_l2", image->extended_l2);
    return r < 0 ? hws_fail(err, -r, "the options of %.300s are too long", image->path) : 0;
}

static int create(const struct engine_image *image, struct hws_error *err)
{
    struct engine_options options;
    int r = engines_options(image, &options, err);
    if (r < 0)
        return r;
    struct hws_image where = {.path = image->path, .format = image->format};
    struct hws_create how = {
        .size_bytes = image->size_bytes,
        .backing = engines_name_beside(image->path, image->backing),
        .backing_format = image->backing ? image->backing_format : NULL,
        .options = options.item,
        .unsafe_backing = image->backing != NULL,
        .overwrite = true,
    };
    r = hws_create(&where, &how, NULL, err);
    if (r < 0)
        return r;
    autofd int fd = open(image->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fsync(fd) < 0)
        return hws_fail_errno(err, errno, "cannot sync %s", image->path);
    return folder_sync(image->path, err);
}

static int look_at(const char *path, bool chain, const char *const *allow, char *format,
                   uint64_t *ret_size, struct hws_error *err)
{
    char *arguments[ENGINES_ARGUMENTS_MAX] = {(char *)program, (char *)"info",
                                              (char *)"--output=json"};
    autofree char *output = NULL;
    unsigned used = engines_add_allow(arguments, 3, allow);
    if (chain)
        arguments[used++] = (char *)"--backing-chain";
    if (format[0]) {
        arguments[used++] = (char *)"-f";
        arguments[used++] = format;
    }
    arguments[used++] = (char *)path;
    int r = tool_run(arguments, LOOK_TIMEOUT_MS, &output, err);
    if (r == -EIO) /* what the program said of the image */
        return hws_wrap(err, -EINVAL, "image");
    if (r < 0)
        return r;
    auto_json *told = json_loads(output ? output : "", 0, NULL);
    const json_t *info = json_is_array(told) ? json_array_get(told, 0) : told;
    const char *found = json_string_value(json_object_get(info, "format"));
    json_int_t size = json_integer_value(json_object_get(info, "virtual-size"));
    if (!found || strlen(found) >= 16 || size <= 0)
        return hws_fail(err, EINVAL, "%.300s is no image that can be used", path);
    snprintf(format, 16, "%s", found);
    *ret_size = (uint64_t)size;
    return 0;
}

static int look(const char *path, const char *const *allow, char *format, uint64_t *ret_size,
                struct hws_error *err)
{
    return look_at(path, false, allow, format, ret_size, err);
}

static int look_below(const char *path, const char *const *allow, char *format, uint64_t *ret_size,
                      struct hws_error *err)
{
    return look_at(path, true, allow, format, ret_size, err);
}

/*
 * A program tells why in words only. No space is told as such; where the image is whole, and as it
 * was, it is the size that is none for it.
 */
static int why_not_resized(const char *path, const char *format, const char *const *allow,
                           uint64_t wanted_bytes, struct hws_error *err)
{
    char found[16];
    uint64_t size_bytes;
    int r = -EIO;
    snprintf(found, sizeof(found), "%s", format);
    if (err && strstr(err->text, strerror(ENOSPC)))
        r = -ENOSPC;
    else if (look(path, allow, found, &size_bytes, NULL) == 0 && size_bytes < wanted_bytes)
        r = -EINVAL;
    if (err)
        err->code = -r;
    return r;
}

static int resize_file(const char *path, const char *format, const char *const *allow,
                       uint64_t size_bytes, struct hws_error *err)
{
    char size[32];
    char *arguments[ENGINES_ARGUMENTS_MAX] = {(char *)program, (char *)"resize", (char *)"-q",
                                              (char *)"-f", (char *)format};
    unsigned used = engines_add_allow(arguments, 5, allow);
    snprintf(size, sizeof(size), "%llu", (unsigned long long)size_bytes);
    arguments[used++] = (char *)path;
    arguments[used++] = size;
    int r = tool_run(arguments, RESIZE_TIMEOUT_MS, NULL, err);
    return r == -EIO ? why_not_resized(path, format, allow, size_bytes, err) : r;
}

/* ---- engines ---- */

/* By its folder alone: where there is none, all other attachments would be looked through. */
static int find_attachment(const char *id, struct attachment **ret, struct hws_error *err)
{
    char root[PATH_MAX];
    autofree char *folder = NULL;
    struct stat st;
    if (asprintf(&folder, "%s/%s", attachment_root(root, sizeof(root)), id) < 0) {
        folder = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    if (lstat(folder, &st) < 0 && errno == ENOENT)
        return hws_fail(err, ENOENT, "nothing is attached as '%s'", id);
    int r = attachment_find(id, ret, err);
    if (r == 0 && strcmp((*ret)->name, id) != 0) {
        *ret = attachment_free(*ret);
        r = -ENOENT;
    }
    return r;
}

static void fill_place(const struct attachment *attachment, struct engine_place *ret)
{
    const char *device = attachment_device(attachment), *top = attachment_top(attachment);
    *ret =
        (struct engine_place){.running = attachment->running,
                              .device = device ? strdup(device) : NULL,
                              .top = top ? strdup(top) : NULL,
                              .services = json_incref((json_t *)attachment_services(attachment))};
}

static int find(const char *id, struct engine_place *ret, struct hws_error *err)
{
    struct attachment *attachment;
    *ret = (struct engine_place){0};
    int r = find_attachment(id, &attachment, err);
    if (r < 0)
        return r;
    fill_place(attachment, ret);
    attachment_free(attachment);
    return 0;
}

static int detach(const char *id, bool force, struct hws_error *err)
{
    struct attachment *attachment;
    int r = find_attachment(id, &attachment, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = attach_stop(attachment, force, err);
    attachment_free(attachment);
    return r;
}

static void kill_engine(const char *id)
{
    struct attachment *attachment;
    if (find_attachment(id, &attachment, NULL) < 0)
        return;
    attachment_kill(attachment);
    attachment_free(attachment);
}

/* A file system that was made just now is empty, its lost+found too: so Docker takes it. e2fsck
 * makes that again before it is grown. */
static void tidy_new(const char *mountpoint)
{
    autofree char *path = NULL;
    if (asprintf(&path, "%s/lost+found", mountpoint) < 0)
        path = NULL;
    if (path)
        rmdir(path);
}

bool engines_have_capability(unsigned capability)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    return syscall(SYS_capget, &header, data) == 0 &&
           (data[capability / 32].effective & (1u << (capability % 32)));
}

static int attach(const struct engine_wish *wish, struct engine_place *ret, struct hws_error *err)
{
    struct attachment *attachment = NULL;
    struct attach_times times;
    struct attach_options options = {
        .image = wish->path,
        .name = wish->id,
        .format = wish->format,
        .allow = wish->allow,
        .read_only = wish->read_only,
        .sandbox = true,
        .group = true,
        .writable = wish->writable,
        .mount = wish->mountpoint,
        .mkfs = wish->mkfs,
        .mkfs_options = wish->mkfs_options,
        .mount_options = wish->mount_options,
        .via = wish->no_device ? "none" : NULL,
        .check = !wish->no_device,
        /* The kernel grows a mounted ext4 for who has that, and containers often have not. */
        .grow = wish->grow && !engines_have_capability(CAP_SYS_RESOURCE),
        .part = wish->part,
    };
    int r = find_attachment(wish->id, &attachment, NULL);
    if (r == 0 && !attachment->running)
        r = attach_stop(attachment, false, err); /* what a dead engine left */
    else if (r == 0)
        r = hws_fail(err, EEXIST, "an engine of this volume runs already; 'hawser detach %s'",
                     wish->id);
    attachment_free(attachment);
    if (r < 0 && r != -ENOENT)
        return r;
    r = attach_start(&options, &attachment, &times, err);
    if (r < 0)
        return r;
    fill_place(attachment, ret);
    attachment_free(attachment);
    if ((wish->mkfs || options.grow) && wish->mountpoint)
        tidy_new(wish->mountpoint);
    return 0;
}

int engines_call(const char *id, const char *method, json_t *params, json_t **ret_result,
                 struct hws_error *err)
{
    struct attachment *attachment;
    int r = find_attachment(id, &attachment, err);
    if (r < 0) {
        json_decref(params);
        return r;
    }
    r = attachment_call(attachment, method, params, ret_result, err);
    attachment_free(attachment);
    return r;
}

static int call(const char *id, const char *method, json_t *params, struct hws_error *err)
{
    json_t *result = NULL;
    int r = engines_call(id, method, params, &result, err);
    json_decref(r == 0 ? result : NULL);
    return r;
}

static int snapshot(const char *id, const char *overlay, struct hws_error *err)
{
    return call(id, "snapshot", json_pack("{s:s}", "overlay", overlay), err);
}

static int resize(const char *id, uint64_t size_bytes, struct hws_error *err)
{
    char size[32];
    snprintf(size, sizeof(size), "%llu", (unsigned long long)size_bytes);
    return call(id, "resize", json_pack("{s:s}", "size", size), err);
}

static int grow(const char *fs, const char *device, const char *mountpoint, struct hws_error *err)
{
    char *ext4[] = {(char *)"resize2fs", (char *)device, NULL};
    char *xfs[] = {(char *)"xfs_growfs", (char *)mountpoint, NULL};
    char *btrfs[] = {(char *)"btrfs", (char *)"filesystem", (char *)"resize",
                     (char *)"max",   (char *)mountpoint,   NULL};
    char **arguments = !strcmp(fs, "ext4")    ? ext4
                       : !strcmp(fs, "xfs")   ? xfs
                       : !strcmp(fs, "btrfs") ? btrfs
                                              : NULL;
    return arguments ? tool_run(arguments, GROW_TIMEOUT_MS, NULL, err)
                     : hws_fail(err, ENOTSUP, "file systems '%s' are not grown", fs);
}

static bool is_mounted(const char *device, const char *mountpoint)
{
    struct stat on, of;
    return stat(device, &of) == 0 && stat(mountpoint, &on) == 0 && on.st_dev == of.st_rdev;
}

static int look_for_mount(const char *device, const char *mountpoint, bool *ret,
                          struct hws_error *err)
{
    *ret = is_mounted(device, mountpoint);
    return 0;
}

static int list_attached(json_t **ret, struct hws_error *err)
{
    struct attachment **list;
    unsigned count;
    int r = attachment_list(&list, &count, err);
    if (r < 0)
        return r;
    *ret = json_array();
    for (unsigned i = 0; i < count; i++) {
        json_array_append_new(*ret, json_string(list[i]->name));
        attachment_free(list[i]);
    }
    free(list);
    return 0;
}

static int mount_again(const char *device, const char *mountpoint, bool read_only, const char *fs,
                       const char *options, struct hws_error *err)
{
    autofree char *words = NULL; /* as at the first time */
    if (asprintf(&words, "%s%s%s%s,nosuid,nodev", read_only ? "ro" : "rw",
                 fs && !strcmp(fs, "xfs") ? ",nouuid" : "", options ? "," : "",
                 options ? options : "") < 0)
        words = NULL;
    char *arguments[] = {(char *)"mount", (char *)"-o",       words,
                         (char *)device,  (char *)mountpoint, NULL};
    if (!words)
        return hws_fail(err, ENOMEM, "out of memory");
    if (is_mounted(device, mountpoint))
        return 0;
    if (mkdir(mountpoint, 0755) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make the folder %s", mountpoint);
    return tool_run(arguments, MOUNT_TIMEOUT_MS, NULL, err);
}

static int sync_fs(const char *mountpoint, struct hws_error *err)
{
    autofd int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || syncfs(fd) < 0)
        return hws_fail_errno(err, errno, "cannot sync %s", mountpoint);
    return 0;
}

static int stats(const char *id, int timeout_ms, json_t **ret, struct hws_error *err)
{
    struct attachment *attachment;
    int r = find_attachment(id, &attachment, err);
    if (r < 0)
        return r;
    r = attachment_call_within(attachment, "stats", json_pack("{s:b}", "histograms", 1), timeout_ms,
                               ret, err);
    json_t *usage = r == 0 ? attachment_group_usage(attachment) : NULL;
    if (usage)
        json_object_set_new(*ret, "usage", usage);
    attachment_free(attachment);
    return r;
}

const struct engine_driver engines_real = {
    .create = create,
    .look = look,
    .look_below = look_below,
    .resize_file = resize_file,
    .attach = attach,
    .find = find,
    .detach = detach,
    .kill = kill_engine,
    .snapshot = snapshot,
    .hold = engines_hold,
    .release = engines_release,
    .settle = engines_settle,
    .resize = resize,
    .grow = grow,
    .remount = mount_again,
    .is_mounted = look_for_mount,
    .list = list_attached,
    .sync = sync_fs,
    .merge = engines_merge,
    .is_merged = engines_is_merged,
    .serve = engines_serve,
    .unserve = engines_unserve,
    .copy = engines_copy,
    .forget_copy = engines_forget_copy,
    .stats = stats,
    .describe = engines_describe,
    .replace = engines_replace,
    .features = engines_features,
    .groups = attach_describe_groups,
    .tick = tool_reap,
};
