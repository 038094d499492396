/*
 * What the tests of the control plane compare; see control/control_check.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/control_check.h"
#include "control/exports.h"
#include "control/fake_engines.h"
#include "control/vault.h"
#include <dirent.h>

char top[256];
struct hws_error error;

const char *in_top(const char *name)
{
    static _Thread_local char path[4][512];
    static _Thread_local unsigned next;
    char *at = path[next++ % 4];
    snprintf(at, sizeof(path[0]), "%s/%s", top, name);
    return at;
}

void must(int r)
{
    if (r < 0)
        fail_msg("%d: %s", r, error.text);
}

static unsigned count_files(const char *folder, bool (*is_known)(struct control *, const char *),
                            struct control *control)
{
    DIR *dir = opendir(folder);
    unsigned count = 0;
    for (struct dirent *at; dir && (at = readdir(dir));) {
        if (strstr(at->d_name, ".held"))
            fail_msg("%s/%s is still held", folder, at->d_name);
        if (at->d_name[0] == '.')
            continue;
        count++;
        if (!is_known(control, at->d_name))
            fail_msg("%s/%s is nobody's", folder, at->d_name);
    }
    if (dir)
        closedir(dir);
    return count;
}

static bool is_layer(struct control *control, const char *name)
{
    auto_layer layer = {0};
    char id[ID_BYTES];
    snprintf(id, sizeof(id), "%.36s", name);
    return object_get(control, &layer_type, id, &layer, NULL) == 0 && !layer.path;
}

bool is_attached(struct control *control, const char *name)
{
    auto_attachment attachment = {0};
    return object_get(control, &attachment_type, name, &attachment, NULL) == 0;
}

static void check_layer(struct control *control, const json_t *value)
{
    auto_layer layer = {0}, parent = {0};
    auto_volume volume = {0};
    auto_snapshot snapshot = {0};
    auto_pool pool = {0};
    auto_json *children = NULL;
    must(object_parse(&layer_type, value, &layer, &error));
    must(object_get(control, &pool_type, layer.pool, &pool, &error));
    must(object_list(control, &layer_type, layer.id, &children, &error));
    autofree char *path = layer_path(&pool, &layer);
    char format[16];
    uint64_t size;
    must(engines_fake.look(path, NULL, format, &size, &error));
    assert_string_equal(format, layer.format);
    assert_true(layer.volume || layer.snapshot || json_array_size(children));
    if (layer.parent)
        must(object_get(control, &layer_type, layer.parent, &parent, &error));
    assert_int_equal(layer.depth, layer.parent ? parent.depth + 1 : 0);
    autofree char *below = layer.parent ? layer_path(&pool, &parent) : NULL;
    const struct engine_merge lies = {.path = path, .below = below};
    bool does;
    must(engines_fake.is_merged(&lies, &does, &error));
    assert_true(does);
    if (layer.volume) {
        if (object_get(control, &volume_type, layer.volume, &volume, NULL) < 0)
            must(object_get(control, &trash_type, layer.volume, &volume, &error));
        assert_string_equal(volume.layer, layer.id);
    }
    if (layer.snapshot) {
        must(object_get(control, &snapshot_type, layer.snapshot, &snapshot, &error));
        assert_string_equal(snapshot.layer, layer.id);
    }
}

static void check_volume(struct control *control, const json_t *value)
{
    auto_volume volume = {0};
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_attachment attachment = {0};
    struct engine_place place;
    bool attached;
    must(object_parse(&volume_type, value, &volume, &error));
    assert_string_equal(volume.state, STATE_AVAILABLE);
    must(object_get(control, &layer_type, volume.layer, &layer, &error));
    must(object_get(control, &pool_type, volume.pool, &pool, &error));
    assert_string_equal(layer.volume, volume.id);
    autofree char *path = layer_path(&pool, &layer);
    must(attachment_get(control, volume.id, &attachment, &attached, &error));
    assert_int_equal(engines_fake.find(volume.id, &place, NULL), attached ? 0 : -ENOENT);
    if (attached)
        assert_string_equal(place.top, path);
    engine_place_free(&place);
}

/* What the catalog wants is served, by an engine that counts it among its users. */
static void check_export(struct control *control, const json_t *value)
{
    auto_export export = {0};
    auto_attachment attachment = {0};
    struct engine_place place;
    char tag[24], user[EXPORT_USER_BYTES];
    bool attached, listed = false;
    size_t i;
    json_t *other;
    must(object_parse(&export_type, value, &export, &error));
    assert_string_equal(export.state, STATE_AVAILABLE);
    must(export_tag(control, &export, tag, sizeof(tag), &error));
    must(engines_fake.find(export_target(&export), &place, &error));
    if (export_look(&place, export.id, tag) != EXPORT_UP)
        fail_msg("export %s is not served", export.name);
    engine_place_free(&place);
    must(attachment_get(control, export_target(&export), &attachment, &attached, &error));
    assert_true(attached);
    export_user(&export, user);
    json_array_foreach(attachment.users, i, other) listed |=
        !strcmp(json_string_value(other), user);
    assert_true(listed);
}

/* No engine serves what the catalog does not want, or is there for nobody. */
static void check_attachment(struct control *control, const json_t *value)
{
    auto_attachment attachment = {0};
    struct engine_place place;
    size_t i;
    json_t *member;
    must(object_parse(&attachment_type, value, &attachment, &error));
    assert_true(json_array_size(attachment.users) > 0);
    must(engines_fake.find(attachment.id, &place, &error));
    json_array_foreach(place.services, i, member)
    {
        auto_export export = {0};
        must(object_get(control, &export_type, json_string_value(json_object_get(member, "name")),
                        &export, &error));
        assert_string_equal(export_target(&export), attachment.id);
    }
    engine_place_free(&place);
    json_array_foreach(attachment.users, i, member)
    {
        auto_export export = {0};
        const char *user = json_string_value(member);
        if (user_is_export(user))
            must(object_get(control, &export_type, user + strlen(EXPORT_USER), &export, &error));
    }
}

/* Each value can be had, under the only master key. */
static void check_secret(struct control *control, const json_t *value)
{
    auto_secret secret = {0};
    bool old;
    must(object_parse(&secret_type, value, &secret, &error));
    assert_true(vault_is_newest(control->vault, secret.sealed));
    must(vault_has_old(control->vault, &old, &error));
    assert_false(old);
    char *text;
    must(vault_unseal(control->vault, secret.id, secret.sealed, &text, &error));
    vault_free_text(text);
}

/* What is in the trash has no engine, and lacks nothing. */
static void check_trash(struct control *control, const json_t *value)
{
    auto_volume volume = {0}, other = {0};
    auto_layer layer = {0};
    must(object_parse(&trash_type, value, &volume, &error));
    assert_true(volume.deleted && volume.expires);
    must(object_get(control, &layer_type, volume.layer, &layer, &error));
    assert_string_equal(layer.volume, volume.id);
    assert_false(is_attached(control, volume.id));
    assert_int_equal(object_get(control, &volume_type, volume.id, &other, NULL), -ENOENT);
}

static void check_snapshot(struct control *control, const json_t *value)
{
    auto_snapshot snapshot = {0};
    auto_volume volume = {0};
    auto_layer layer = {0};
    auto_group_snapshot of = {0};
    must(object_parse(&snapshot_type, value, &snapshot, &error));
    assert_string_equal(snapshot.state, STATE_AVAILABLE);
    must(object_get(control, &layer_type, snapshot.layer, &layer, &error));
    assert_string_equal(layer.snapshot, snapshot.id);
    if (object_get(control, &volume_type, snapshot.volume, &volume, NULL) < 0)
        must(object_get(control, &trash_type, snapshot.volume, &volume, &error));
    if (snapshot.group_snapshot)
        must(object_get(control, &group_snapshot_type, snapshot.group_snapshot, &of, &error));
}

/* All of its snapshots are there, of the volumes in the same order. */
static void check_group_snapshot(struct control *control, const json_t *value)
{
    auto_group_snapshot taken = {0};
    auto_group group = {0};
    size_t i;
    json_t *id;
    must(object_parse(&group_snapshot_type, value, &taken, &error));
    must(object_get(control, &group_type, taken.group, &group, &error));
    assert_string_equal(taken.state, STATE_AVAILABLE);
    assert_int_equal(json_array_size(taken.snapshots), json_array_size(taken.volumes));
    json_array_foreach(taken.snapshots, i, id)
    {
        auto_snapshot snapshot = {0};
        must(object_get(control, &snapshot_type, json_string_value(id), &snapshot, &error));
        assert_string_equal(snapshot.volume, json_string_value(json_array_get(taken.volumes, i)));
        assert_string_equal(snapshot.group_snapshot, taken.id);
        assert_string_equal(snapshot.name, taken.name);
    }
}

void check_all(struct control *control)
{
    static const struct {
        const struct object_type *type;
        void (*check)(struct control *control, const json_t *value);
    } kinds[] = {
        {&layer_type, check_layer},           {&volume_type, check_volume},
        {&attachment_type, check_attachment}, {&export_type, check_export},
        {&secret_type, check_secret},         {&trash_type, check_trash},
        {&snapshot_type, check_snapshot},     {&group_snapshot_type, check_group_snapshot}};
    auto_json *jobs = NULL;
    unsigned in_pool = 0;
    exports_mend(control, NULL); /* as its thread does at the start */
    must(control_job_list(control, &jobs, &error));
    assert_int_equal(json_array_size(json_object_get(jobs, "items")), 0);
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        auto_json *list = NULL;
        size_t j;
        json_t *value;
        must(object_list(control, kinds[i].type, NULL, &list, &error));
        json_array_foreach(list, j, value)
        {
            kinds[i].check(control, value);
            in_pool += i == 0 && !json_object_get(value, "path");
        }
    }
    assert_int_equal(count_files(in_top("pool/images"), is_layer, control), in_pool);
    count_files(in_top("run"), is_attached, control);
}
