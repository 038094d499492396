/*
 * The image as a volume of the engine, from below:
 *
 *     the image, at the internal snapshot of -l
 *     a temporary overlay over it, of -s
 *     a window on it, of -o
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include <fcntl.h>
#include <sys/stat.h>

/* What the operand says, as a description of nodes. NULL: out of memory. */
static json_t *describe(const struct qi_operand *operand)
{
    if (strncmp(operand->path, "json:", 5) == 0)
        return json_loads(operand->path + 5, 0, NULL);
    const char *format = qi_driver_known(*operand->driver ? operand->driver : "raw");
    if (!operand->file)
        return json_pack("{s:s, s:{s:s, s:s}}", "driver", format, "file", "driver", "null", "size",
                         "1G");
    json_t *name = json_string_nocheck(operand->file);
    json_t *all = name ? json_pack("{s:s, s:{s:s, s:o}}", "driver", format, "file", "driver",
                                   "file", "filename", name)
                       : NULL;
    if (all && !operand->format && strcmp(format, "raw") == 0)
        json_object_set_new(all, "guessed", json_true());
    return all;
}

/* ---- -l ---- */

static int show_snapshot(const struct qn_command *command, const struct qi_operand *operand,
                         json_t *description)
{
    struct qi_snapshot_key key = {0};
    struct hws_error err = {0};
    autofree char *id = NULL;
    if (qi_snapshot_param(command->snapshot, &key))
        return 1;
    const char *driver = json_string_value(json_object_get(description, "driver"));
    int r = driver && strcmp(driver, "qcow2") == 0 ? qi_snapshot_find(operand, &key, &id, &err)
                                                   : -ENOTSUP;
    qi_snapshot_key_free(&key);
    if (r == -ENOTSUP)
        return qi_error("Failed to load snapshot: Block format '%s' used by device '' does not "
                        "support temporarily loading internal snapshots",
                        operand->driver);
    if (r == -ENOENT)
        return qi_error("Failed to load snapshot: Can't find snapshot");
    if (r < 0)
        return qi_explain(operand, &err);
    json_object_set_new(description, "snapshot", json_string(id));
    return 0;
}

/* ---- -s ---- */

static int make_temporary(struct qn_image *image)
{
    const char *folder = getenv("TMPDIR");
    struct hws_error err = {0};
    struct hws_create create = {.overwrite = true};
    if (qi_virtual_size(&image->operand, &create.size_bytes, &err) < 0)
        return qi_explain(&image->operand, &err);
    create.size_bytes = (create.size_bytes + 511) & ~511ull;
    if (asprintf(&image->temporary, "%s/vl.XXXXXX", folder && *folder ? folder : "/var/tmp") < 0)
        return qi_error("out of memory");
    autofd int fd = mkostemp(image->temporary, O_CLOEXEC);
    if (fd < 0) {
        int r = qi_error("Could not get temporary filename: Could not open temporary file '%s': %s",
                         image->temporary, strerror(errno));
        free(steal_ptr(&image->temporary));
        return r;
    }
    struct hws_image target = {.path = image->temporary, .format = "qcow2"};
    return hws_create(&target, &create, NULL, &err) < 0
               ? qi_error("Could not create temporary overlay '%s': %s", image->temporary, err.text)
               : 0;
}

void qn_image_unlink(struct qn_image *image)
{
    if (image->temporary)
        (void)unlink(image->temporary);
    free(steal_ptr(&image->temporary));
}

/* ---- together ---- */

static int check_offset(const struct qn_command *command, const struct qi_operand *operand)
{
    struct hws_error err = {0};
    uint64_t size;
    if (command->offset > INT64_MAX)
        return qi_error("Parameter 'offset' expects a non-negative number below 2^63");
    if (qi_virtual_size(operand, &size, &err) < 0)
        return qi_explain(operand, &err);
    return command->offset > size
               ? qi_error("Offset (%llu) cannot be greater than size of the containing file (%llu)",
                          (unsigned long long)command->offset, (unsigned long long)size)
               : 0;
}

static void set_text(json_t *object, const char *name, const char *text)
{
    if (text)
        json_object_set_new(object, name, json_string(text));
}

/* Puts @upper, whose member @role becomes @lower, on top. */
static json_t *put_over(json_t *upper, const char *role, json_t *lower)
{
    if (upper)
        json_object_set_new(upper, role, lower);
    else
        json_decref(lower);
    return upper;
}

static json_t *stack(const struct qn_command *command, const struct qn_image *image, json_t *all)
{
    if (image->temporary)
        all = put_over(json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver", "file",
                                 "filename", image->temporary),
                       "backing", all);
    if (all && command->offset_given)
        all = put_over(
            json_pack("{s:s, s:I}", "driver", "raw", "offset", (json_int_t)command->offset), "file",
            all);
    return all;
}

static int make_volume(const struct qn_command *command, struct qn_image *image, json_t *all)
{
    autofree char *text = all ? json_dumps(all, JSON_COMPACT) : NULL, *description = NULL;
    json_decref(all);
    if (!text || asprintf(&description, "json:%s", text) < 0)
        return qi_error("out of memory");
    const char *cache = image->temporary ? "unsafe" : image->operand.image.cache;
    bool unmap =
        command->discard && (!strcmp(command->discard, "on") || !strcmp(command->discard, "unmap"));
    image->volume = json_object();
    set_text(image->volume, "name", QN_VOLUME);
    json_object_set_new(image->volume, "image", json_string_nocheck(description));
    set_text(image->volume, "via", command->connect ? "nbd" : "none");
    set_text(image->volume, "device", command->connect);
    set_text(image->volume, "cache", cache);
    set_text(image->volume, "discard", unmap || image->temporary ? "unmap" : "ignore");
    set_text(image->volume, "detect-zeroes", command->detect_zeroes);
    json_object_set_new(image->volume, "read-only", json_boolean(command->read_only));
    json_object_set_new(image->volume, "trust-names", json_true());
    json_object_set_new(image->volume, "probe-raw", json_true());
    return 0;
}

int qn_image(const struct qn_command *command, struct qn_image *image)
{
    struct qi_operand *operand = &image->operand;
    bool writes = !command->read_only && !command->temporary;
    if (qi_operand(operand, command->file, command->format, command->cache,
                   command->reach | (writes ? QI_WRITE : 0)) < 0)
        return 1;
    bool direct = operand->image.cache && (!strcmp(operand->image.cache, "none") ||
                                           !strcmp(operand->image.cache, "directsync"));
    if (command->aio && !strcmp(command->aio, "native") && !direct)
        return qi_error("%s '%s': aio=native was specified, but it requires cache.direct=on, which "
                        "was not specified.",
                        qi_tool->cannot_open, operand->text);
    if (writes)
        qi_warn_raw(operand);
    json_t *description = describe(operand);
    if (!description)
        return qi_error("out of memory");
    int code = command->snapshot ? show_snapshot(command, operand, description) : 0;
    if (!code && command->offset_given)
        code = check_offset(command, operand);
    if (!code && command->temporary)
        code = make_temporary(image);
    if (code) {
        json_decref(description);
        return code;
    }
    return make_volume(command, image, stack(command, image, description));
}

void qn_image_free(struct qn_image *image)
{
    qn_image_unlink(image);
    qi_operand_free(&image->operand);
    json_decref(image->volume);
    image->volume = NULL;
}
