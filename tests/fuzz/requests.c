/*
 * Fuzz target: the bodies of requests to hawserd. Whatever JSON comes, a record is filled within
 * its limits or cleared, and what it holds is read back the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/docker/options.h"
#include "control/objects.h"
#include "fuzz.h"

static const struct object_type *const types[] = {
    &pool_type,       &class_type, &volume_type, &layer_type,          &snapshot_type,
    &attachment_type, &trash_type, &group_type,  &group_snapshot_type, &schedule_type};

static void read_record(const struct object_type *type, const json_t *body)
{
    _Alignas(max_align_t) uint8_t record[512], again[512];
    struct hws_error err = {0};
    assert(type->bytes <= sizeof(record));
    if (record_parse(type->fields, body, "fuzz", record, type->bytes, &err) < 0) {
        assert(err.code != 0 && err.text[0] != '\0');
        return;
    }
    json_t *first = record_json(type->fields, record);
    assert(record_parse(type->fields, first, "fuzz", again, type->bytes, &err) == 0);
    json_t *second = record_json(type->fields, again);
    assert(json_equal(first, second));
    json_decref(first);
    json_decref(second);
    record_free(type->fields, record);
    record_free(type->fields, again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    json_t *body = json_loadb((const char *)bytes, length, JSON_REJECT_DUPLICATES, NULL);
    const char *name = json_string_value(json_object_get(body, "name"));
    json_t *request = NULL;
    struct hws_error err = {0};
    for (unsigned i = 0; body && i < ARRAY_LEN(types); i++)
        read_record(types[i], body);
    if (name && name_check("volume", name, &err) == 0)
        assert(!strchr(name, '/') && strlen(name) <= NAME_MAX_BYTES && !id_is_valid(name));
    if (body && docker_options("volume", body, &request, &err) == 0)
        json_decref(request);
    json_decref(body);
    return 0;
}
