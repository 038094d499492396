/*
 * The order in which an engine gives up what it does not need, and what it sees afterwards; see
 * engine/sandbox.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/sandbox.h"
#include "base/log.h"
#include "engine/device.h"
#include "export/fuse/fuse.h"
#include "host/attach.h"
#include "host/configfs.h"
#include <libgen.h>
#include <link.h>
#include <limits.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static bool closed_in;

bool sandbox_is_closed(void)
{
    return closed_in;
}

/* ---- what it shall see ---- */

static void plan_free(struct sandbox_plan *plan)
{
    for (unsigned i = 0; i < plan->count; i++)
        free(plan->place[i].path);
}

/* @path real or not; what is not there is left out. The same place twice has the rights of both. */
static int add(struct sandbox_plan *plan, const char *path, bool writable, struct hws_error *err)
{
    struct stat st;
    autofree char *real = realpath(path, NULL);
    if (!real || stat(real, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : hws_fail_errno(err, errno, "%s: cannot be shown to the engine", path);
    if (!strcmp(real, "/"))
        return hws_fail(err, EINVAL,
                        "%s: an engine with a sandbox cannot see the whole file system; name the "
                        "folders that it needs",
                        path);
    for (unsigned i = 0; i < plan->count; i++) {
        if (!strcmp(plan->place[i].path, real)) {
            plan->place[i].writable |= writable;
            return 0;
        }
    }
    if (plan->count == SANDBOX_PLACES_MAX)
        return hws_fail(err, E2BIG, "an engine with a sandbox sees up to %d folders",
                        SANDBOX_PLACES_MAX);
    plan->place[plan->count++] = (struct sandbox_place){
        .path = steal_ptr(&real), .writable = writable, .device = S_ISBLK(st.st_mode)};
    return 0;
}

/* The folder of a file that the engine makes. NULL: none. */
static int add_folder_of(struct sandbox_plan *plan, const char *file, bool writable,
                         struct hws_error *err)
{
    char path[PATH_MAX];
    if (!file)
        return 0;
    if (snprintf(path, sizeof(path), "%s", file) >= (int)sizeof(path))
        return hws_fail(err, ENAMETOOLONG, "%.200s...: the path is too long", file);
    return add(plan, dirname(path), writable, err);
}

/* With a list of folders to write to, the image itself is written to wherever it lies. */
static int add_image(struct sandbox_plan *plan, const struct volume_config *volume, bool listed,
                     struct hws_error *err)
{
    struct stat st;
    bool writable = !volume->read_only;
    if (stat(volume->image, &st) < 0)
        return 0; /* no plain path, or nothing there: opening it tells */
    int r = S_ISBLK(st.st_mode) ? 0 : add_folder_of(plan, volume->image, writable && !listed, err);
    return r == 0 && (listed || S_ISBLK(st.st_mode)) ? add(plan, volume->image, writable, err) : r;
}

static int add_volume(struct sandbox_plan *plan, const struct volume_config *volume, bool listed,
                      struct hws_error *err)
{
    if (volume->trust_names)
        return hws_fail(
            err, EINVAL,
            "volume '%s': with \"trust-names\" there is no telling what a sandbox needs",
            volume->name);
    int r = add_image(plan, volume, listed, err);
    for (unsigned i = 0; r == 0 && volume->allow_list[i]; i++)
        r = add(plan, volume->allow_list[i], false, err);
    if (r == 0)
        r = add_folder_of(plan, volume->path, true, err);
    if (r == 0)
        r = add_folder_of(plan, volume->keep, true, err);
    plan->fuse |= volume->via == DEVICE_FUSE_LOOP;
    plan->loop |= volume->via == DEVICE_FUSE_LOOP;
    return r;
}

/* Sockets and credentials of the NBD server, and what tells it the addresses of names. */
static int add_nbd(struct sandbox_plan *plan, const json_t *nbd, struct hws_error *err)
{
    static const char *const names[] = {"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf",
                                        "/etc/host.conf", "/etc/gai.conf"};
    size_t i;
    json_t *address;
    int r = 0;
    bool tcp = false;
    json_array_foreach(json_object_get(nbd, "listen"), i, address)
    {
        const char *text = json_string_value(address);
        if (r == 0 && text && !strncmp(text, "unix:", 5))
            r = add_folder_of(plan, text + 5, true, err);
        tcp |= text && !strncmp(text, "tcp:", 4);
    }
    for (i = 0; r == 0 && tcp && i < ARRAY_LEN(names); i++)
        r = add(plan, names[i], false, err);
    const json_t *tls = json_object_get(nbd, "tls");
    const char *folder = json_string_value(json_object_get(tls, "credentials"));
    return r == 0 && folder ? add(plan, folder, false, err) : r;
}

struct libraries {
    struct sandbox_plan *plan;
    struct hws_error *err;
    int result;
};

/* TLS is loaded when a client first needs it, from where the C library lies, too. */
static int add_libraries_beside(struct dl_phdr_info *info, size_t size, void *arg)
{
    static const char *const names[] = {"libssl.so.3", "libcrypto.so.3"};
    struct libraries *libraries = arg;
    const char *slash = strrchr(info->dlpi_name, '/');
    char path[PATH_MAX];
    if (!slash || strncmp(slash, "/libc.so", 8) != 0)
        return 0;
    for (unsigned i = 0; libraries->result == 0 && i < ARRAY_LEN(names); i++) {
        unsigned before = libraries->plan->count;
        snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - info->dlpi_name), info->dlpi_name,
                 names[i]);
        libraries->result = add(libraries->plan, path, false, libraries->err);
        if (libraries->plan->count > before)
            libraries->plan->place[before].library = true;
    }
    return 1;
}

static int add_libraries(struct sandbox_plan *plan, struct hws_error *err)
{
    struct libraries libraries = {plan, err, 0};
    (void)dl_iterate_phdr(add_libraries_beside, &libraries);
    return libraries.result;
}

static int add_notify(struct sandbox_plan *plan, struct hws_error *err)
{
    const char *path = getenv("NOTIFY_SOCKET");
    return path && *path == '/' ? add(plan, path, true, err) : 0;
}

static int make_plan(const struct engine_config *config, struct sandbox_plan *plan,
                     struct hws_error *err)
{
    const json_t *writable = json_object_get(config->sandbox, "writable");
    size_t i;
    json_t *folder;
    int r = 0;
    for (unsigned n = 0; r == 0 && n < config->volume_count; n++)
        r = add_volume(plan, &config->volume[n], writable != NULL, err);
    json_array_foreach(writable, i, folder)
    {
        if (r == 0)
            r = json_is_string(folder)
                    ? add(plan, json_string_value(folder), true, err)
                    : hws_fail(err, EINVAL, "sandbox: \"writable\" is a list of folders");
    }
    const char *files[] = {config->socket, config->state_file, config->end_file};
    for (i = 0; r == 0 && i < ARRAY_LEN(files); i++)
        r = add_folder_of(plan, files[i], true, err);
    r = r == 0 ? add_nbd(plan, config->nbd, err) : r;
    r = r == 0 ? add_libraries(plan, err) : r;
    plan->proc = sandbox_landlock_version() > 0;
    return r == 0 ? add_notify(plan, err) : r;
}

/* ---- which of the two ---- */

/* "auto" is decided here, because what comes by FUSE is made ready here. */
static void choose_way(struct volume_config *volume)
{
    if (volume->via == DEVICE_AUTO && !device_way_outlives(DEVICE_AUTO) && volume->path &&
        attach_path_choose("fuse+loop", NULL))
        volume->via = DEVICE_FUSE_LOOP;
}

static bool can_close(struct engine_config *config)
{
    bool can = true;
    for (unsigned i = 0; i < config->volume_count; i++) {
        choose_way(&config->volume[i]);
        int via = config->volume[i].via;
        can = can && (via == DEVICE_FUSE_LOOP || via == DEVICE_NONE);
    }
    return can;
}

/* ---- entering ---- */

/* The mount point is made where it is missing, as a device of its own would. */
static int prepare_fuse(struct volume_config *volume, struct hws_error *err)
{
    struct fuse_premount made;
    int fd = open(volume->path, O_CREAT | O_RDONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make the mount point %s", volume->path);
    close(fd);
    int r = fuse_premount(volume->path, volume->read_only, &made, err);
    if (r < 0)
        return r;
    volume->fuse_fd = made.fd;
    volume->fuse_abort_fd = made.abort_fd;
    return porter_start(&volume->porter, err);
}

static int close_in(struct engine_config *config, struct hws_error *err)
{
    struct sandbox_plan plan = {0};
    int r = make_plan(config, &plan, err);
    if (r == 0 && (plan.fuse || sandbox_can_mount()))
        r = sandbox_view_enter(&plan, err);
    for (unsigned i = 0; r == 0 && i < config->volume_count; i++) {
        if (config->volume[i].via != DEVICE_FUSE_LOOP)
            continue;
        r = config->volume[i].path
                ? prepare_fuse(&config->volume[i], err)
                : hws_fail(err, EINVAL, "volume '%s' needs a path for its FUSE file",
                           config->volume[i].name);
    }
    if (r == 0)
        r = sandbox_drop_capabilities(true, err);
    if (r == 0)
        r = sandbox_landlock_enter(&plan, err);
    plan_free(&plan);
    return r;
}

static void load_scsi_target(void)
{
    static const char *const modules[] = {"target_core_user", "tcm_loop", "sd_mod"};
    for (unsigned i = 0; i < ARRAY_LEN(modules); i++)
        if (configfs_load_module(modules[i], NULL) < 0)
            log_warning("the kernel module %s is not there", modules[i]);
}

/* What cannot be loaded later; which of them is needed, their users tell. */
static void load_modules(const struct engine_config *config)
{
    for (unsigned i = 0; i < config->volume_count; i++) {
        int via = config->volume[i].via;
        if (via == DEVICE_NBD && configfs_load_module("nbd", NULL) < 0)
            log_warning("the kernel module nbd is not there");
        if (via == DEVICE_TCMU || via == DEVICE_TARGET ||
            (via == DEVICE_AUTO && attach_path_choose("tcmu", NULL)))
            load_scsi_target();
    }
}

int sandbox_enter(struct engine_config *config, struct hws_error *err)
{
    if (!config->sandbox)
        return 0;
    if (config->export)
        return hws_fail(err, EINVAL, "an export by a fabric has no sandbox");
    process_shield(); /* it takes a right that goes */
    closed_in = can_close(config);
    if (!closed_in)
        load_modules(config);
    int version = sandbox_landlock_version();
    int r = closed_in ? close_in(config, err) : sandbox_drop_capabilities(false, err);
    if (r == 0)
        r = sandbox_filter_enter(closed_in, err);
    if (r == 0 && closed_in)
        log_info("closed in; Landlock version %d", version);
    else if (r == 0)
        log_info("held by capabilities and system calls alone");
    return r;
}
