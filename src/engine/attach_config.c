/*
 * The configuration of an engine that `attach` starts: one volume for each image, with the options
 * of the command. docs/engine.md tells what is in it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "engine/internal.h"
#include <ctype.h>

void attach_name_from_image(const char *image, char *name)
{
    const char *base = strrchr(image, '/');
    base = base ? base + 1 : image;
    size_t length = strcspn(base, "."), used = 0;
    for (size_t i = 0; i < length && used < ATTACHMENT_NAME_MAX - 4; i++) {
        char c = base[i];
        name[used++] = isalnum((unsigned char)c) || c == '_' ? c : '-';
    }
    while (used && name[used - 1] == '-')
        used--;
    name[used] = '\0';
    if (!used || name[0] == '-')
        snprintf(name, ATTACHMENT_NAME_MAX + 1, "volume");
}

static void set_text(json_t *object, const char *name, const char *text)
{
    if (text)
        json_object_set_new(object, name, json_string(text));
}

static json_t *allow_list(const char *const *allow)
{
    json_t *list = json_array();
    for (; allow && *allow; allow++) {
        autofree char *real = realpath(*allow, NULL);
        json_array_append_new(list, json_string(real ? real : *allow));
    }
    return list;
}

static int add_volume(const struct attach_options *options, const char *image_given,
                      const char *name, const struct attachment *attachment, json_t *volumes,
                      struct hws_error *err)
{
    autofree char *file = attachment_path(attachment, "image");
    autofree char *keep = NULL;
    autofree char *image = realpath(image_given, NULL);
    bool only = !options->more || !options->more[0];
    if (!file || asprintf(&keep, only ? "%s/keep" : "%s/keep.%s", attachment->folder, name) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    json_t *volume = json_object();
    json_array_append_new(volumes, volume);
    set_text(volume, "name", name);
    set_text(volume, "image", image ? image : image_given);
    set_text(volume, "format", options->format);
    if (!options->via || !strcmp(options->via, "auto") || !strncmp(options->via, "fuse", 4))
        set_text(volume, "path", file);
    set_text(volume, "via", options->via);
    set_text(volume, "keep", keep);
    set_text(volume, "cache", options->cache);
    set_text(volume, "discard", options->discard);
    set_text(volume, "detect-zeroes", options->detect_zeroes);
    set_text(volume, "block-size", options->block_size);
    set_text(volume, "device", options->device);
    json_object_set_new(volume, "read-only", json_boolean(options->read_only));
    json_object_set_new(volume, "queues", json_integer((json_int_t)options->queues));
    if (options->allow)
        json_object_set_new(volume, "allow", allow_list(options->allow));
    return json_object_get(volume, "image")
               ? 0
               : hws_fail(err, EINVAL, "the image's name is no UTF-8; give it another name");
}

static bool is_taken(const json_t *volumes, const char *name)
{
    size_t i;
    const json_t *volume;
    json_array_foreach(volumes, i, volume)
    {
        const char *other = json_string_value(json_object_get(volume, "name"));
        if (other && !strcmp(other, name))
            return true;
    }
    return false;
}

/* Of several images each volume is called as its image, with a number where that is taken. */
static int add_volumes(const struct attach_options *options, const struct attachment *attachment,
                       json_t *volumes, struct hws_error *err)
{
    const char *only = options->more && options->more[0] ? NULL : attachment->name;
    const char *image = options->image;
    int r = 0;
    for (unsigned i = 0; r == 0 && image; i++) {
        char base[ATTACHMENT_NAME_MAX + 8], name[ATTACHMENT_NAME_MAX + 24];
        attach_name_from_image(image, base);
        snprintf(name, sizeof(name), "%s", only ? only : base);
        for (unsigned n = 2; is_taken(volumes, name); n++)
            snprintf(name, sizeof(name), "%s-%u", base, n);
        r = i < ENGINE_VOLUMES_MAX
                ? add_volume(options, image, name, attachment, volumes, err)
                : hws_fail(err, EINVAL, "more than %d images", ENGINE_VOLUMES_MAX);
        image = options->more ? options->more[i] : NULL;
    }
    return r;
}

int attach_make_config(const struct attach_options *options, const struct attachment *attachment,
                       json_t **ret, struct hws_error *err)
{
    autofree char *socket = attachment_path(attachment, "control.sock");
    autofree char *state = attachment_path(attachment, "state.json");
    autofree char *end = attachment_path(attachment, "ending");
    const json_t *old = attachment->config; /* NULL, where *ret takes its place */
    if (!socket || !state || !end)
        return hws_fail(err, ENOMEM, "out of memory");
    json_t *volumes = json_array();
    *ret = json_pack("{s:s, s:s, s:b, s:s, s:o}", "socket", socket, "state-file", state, "keeper",
                     1, "end-file", end, "volumes", volumes);
    if (options->sandbox)
        json_object_set_new(*ret, "sandbox",
                            options->writable
                                ? json_pack("{s:o}", "writable", allow_list(options->writable))
                                : json_true());
    if (options->group)
        group_configure(attachment->name, old, *ret);
    int r = add_volumes(options, attachment, volumes, err);
    if (r == 0 && options->configure)
        r = options->configure(options->configure_arg, attachment, *ret, err);
    return r;
}

int attach_write_config(const struct attach_options *options, struct attachment *attachment,
                        struct hws_error *err)
{
    int r = attach_make_config(options, attachment, &attachment->config, err);
    return r < 0
               ? r
               : attachment_store(attachment, "config.json", json_incref(attachment->config), err);
}
