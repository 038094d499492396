/*
 * Which internal snapshot is meant by -l.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu/qemu.h"

/* Puts the value of one "snapshot.id=x" into @ret. @return false where it is none. */
static bool take_part(const char *at, size_t length, struct qi_snapshot_key *ret)
{
    char **to = strncmp(at, "snapshot.id=", 12) == 0     ? &ret->id
                : strncmp(at, "snapshot.name=", 14) == 0 ? &ret->name
                                                         : NULL;
    size_t skip = to == &ret->id ? 12 : 14;
    if (!to)
        return false;
    free(*to);
    *to = strndup(at + skip, length - skip);
    return true;
}

int qi_snapshot_param(const char *text, struct qi_snapshot_key *ret)
{
    qi_snapshot_key_free(ret);
    if (strncmp(text, "snapshot.", 9) != 0) {
        ret->either = strdup(text);
        return ret->either ? 0 : qi_error("out of memory");
    }
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, ",");
        if (!take_part(at, length, ret)) {
            qi_error("Invalid parameter '%.*s'", (int)strcspn(at, "=,"), at);
            return qi_error("Failed in parsing snapshot param '%s'", text);
        }
        at += length + (at[length] == ',');
    }
    return 0;
}

void qi_snapshot_key_free(struct qi_snapshot_key *key)
{
    free(key->id);
    free(key->name);
    free(key->either);
    *key = (struct qi_snapshot_key){0};
}

static bool has(json_t *snapshot, const char *field, const char *text)
{
    const char *value = json_string_value(json_object_get(snapshot, field));
    return value && strcmp(value, text) == 0;
}

static bool matches(json_t *snapshot, const struct qi_snapshot_key *key, const char *field)
{
    if (key->either)
        return has(snapshot, field, key->either);
    return (!key->id || has(snapshot, "id", key->id)) &&
           (!key->name || has(snapshot, "name", key->name));
}

int qi_snapshot_find(const struct qi_operand *operand, const struct qi_snapshot_key *key,
                     char **ret_id, struct hws_error *err)
{
    static const char *const fields[] = {"id", "name"};
    char *text;
    size_t i;
    json_t *snapshot, *found = NULL;
    int r = hws_internal_snapshots(&operand->image, &text, err);
    if (r < 0)
        return r;
    json_t *all = json_loads(text, 0, NULL);
    free(text);
    for (unsigned field = 0; field < ARRAY_LEN(fields) && !found; field++)
        json_array_foreach(all, i, snapshot) if (!found && matches(snapshot, key, fields[field]))
            found = snapshot;
    const char *id = json_string_value(json_object_get(found, "id"));
    *ret_id = id ? strdup(id) : NULL;
    json_decref(all);
    if (!id)
        return hws_fail(err, ENOENT, "snapshot not found");
    return *ret_id ? 0 : hws_fail(err, ENOMEM, "out of memory");
}
