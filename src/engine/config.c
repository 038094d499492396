/*
 * The engine's configuration: a JSON object, from the command line's options or from a file.
 *
 *   {"socket": "/run/x/control.sock", "log-level": "info",
 *    "volumes": [{"name": "disk", "image": "/a/disk.qcow2", "via": "fuse-loop", ...}]}
 *
 * Members are those of the two option tables below; unknown ones are errors that name the known
 * ones.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "engine/nbd.h"
#include "engine/target.h"
#include "host/nbd.h"

static const char *const cache_names[] = {"writeback", "none",       "writethrough",
                                          "unsafe",    "directsync", NULL};
static const char *const discard_names[] = {"unmap", "ignore", NULL};
static const char *const detect_names[] = {"off", "on", "unmap", NULL};
static const char *const level_names[] = {"error", "warning", "info", "debug", NULL};

#define VOLUME(field) offsetof(struct volume_config, field)

static const struct option_desc volume_table[] = {
    {"name", OPTION_STRING, VOLUME(name), "name in calls and messages", .required = true},
    {"image", OPTION_STRING, VOLUME(image), "path or description of the image", .required = true},
    {"format", OPTION_STRING, VOLUME(format), "format driver; found from the header if not given"},
    {"path", OPTION_STRING, VOLUME(path), "file to mount the FUSE export over"},
    {"via", OPTION_ENUM, VOLUME(via), "the way to make a device", "auto",
     .choices = device_way_names},
    {"cache", OPTION_ENUM, VOLUME(cache), "cache mode", "writeback", .choices = cache_names},
    {"discard", OPTION_ENUM, VOLUME(discard), "what discards do", "unmap",
     .choices = discard_names},
    {"detect-zeroes", OPTION_ENUM, VOLUME(detect_zeroes), "find zeroes in written data", "off",
     .choices = detect_names},
    {"read-only", OPTION_BOOL, VOLUME(read_only), "refuse writes"},
    {"trust-names", OPTION_BOOL, VOLUME(trust_names), "open whatever the image names"},
    {"probe-raw", OPTION_BOOL, VOLUME(probe_raw), "an image without a known header is raw"},
    {"queues", OPTION_UINT, VOLUME(queues), "queue threads; 0 for what measured best", "0",
     .max = 16},
    {"block-size", OPTION_UINT, VOLUME(block_bytes), "logical block size of the device", "512",
     .max = 4096},
    {"device", OPTION_STRING, VOLUME(device), "with via nbd: the device to take, /dev/nbdN"},
    {"uuid", OPTION_STRING, VOLUME(uuid), "what a SCSI disk's identifiers come from"},
    {"group", OPTION_STRING, VOLUME(group),
     "SCSI disks of one group may be copied from one to another by their initiators"},
    {"keep", OPTION_STRING, VOLUME(keep), "file for changes that must outlive the process"},
    OPTION_END,
};

static const struct option_desc engine_table[] = {
    {"socket", OPTION_STRING, offsetof(struct engine_config, socket),
     "path of the control socket; none if not given"},
    {"state-file", OPTION_STRING, offsetof(struct engine_config, state_file),
     "file to tell the devices in, once running"},
    {"log-level", OPTION_ENUM, offsetof(struct engine_config, log_level), "how much to log", "info",
     .choices = level_names},
    {"ready-fd", OPTION_UINT, offsetof(struct engine_config, ready_fd),
     "descriptor to tell readiness on", "0", .max = 1024},
    {"wait-fd", OPTION_UINT, offsetof(struct engine_config, wait_fd),
     "descriptor that says when to take over", "0", .max = 1024},
    {"cgroup", OPTION_STRING, offsetof(struct engine_config, cgroup),
     "folder of the control group to be in"},
    {"keeper", OPTION_BOOL, offsetof(struct engine_config, keeper),
     "a second process starts the engine again when it dies"},
    {"end-file", OPTION_STRING, offsetof(struct engine_config, end_file),
     "a file that, while it exists, keeps the keeper from that"},
    {"keeper-engine", OPTION_UINT, offsetof(struct engine_config, keeper_engine),
     "process that a keeper which became another program keeps", "0", .max = INT32_MAX},
    {"keeper-pipe", OPTION_UINT, offsetof(struct engine_config, keeper_pipe),
     "descriptor on which engine and keeper talk", "0", .max = 1024},
    OPTION_END,
};

static int parse_allow(const json_t *list, struct volume_config *volume, struct hws_error *err)
{
    size_t i;
    json_t *item;
    if (list && !json_is_array(list))
        return hws_fail(err, EINVAL, "volume '%s': allow is no list of folders", volume->name);
    json_array_foreach(list, i, item)
    {
        if (i == ENGINE_ALLOW_MAX || !json_is_string(item))
            return hws_fail(err, EINVAL, "volume '%s': allow takes up to %d folders", volume->name,
                            ENGINE_ALLOW_MAX);
        volume->allow_list[i] = strdup(json_string_value(item));
        if (!volume->allow_list[i])
            return hws_fail(err, ENOMEM, "out of memory");
    }
    return 0;
}

/* Descriptors that a predecessor left for its successor. */
static int parse_sockets(const json_t *list, struct volume_config *volume, struct hws_error *err)
{
    size_t i;
    json_t *item;
    if (list && (!json_is_array(list) || json_array_size(list) > VOLUME_SOCKETS_MAX))
        return hws_fail(err, EINVAL, "volume '%s': sockets is no list of up to %d descriptors",
                        volume->name, VOLUME_SOCKETS_MAX);
    json_array_foreach(list, i, item)
    {
        json_int_t fd = json_integer_value(item);
        if (fd < 3 || fd > INT16_MAX)
            return hws_fail(err, EINVAL, "volume '%s': a socket is a descriptor", volume->name);
        volume->sockets[volume->socket_count++] = (int)fd;
    }
    return 0;
}

static int parse_volume(const json_t *object, struct engine_config *config, struct hws_error *err)
{
    static const char *const by_hand[] = {"allow", "resume", "sockets", NULL};
    struct volume_config *volume = &config->volume[config->volume_count];
    int r = options_parse(volume_table, object, by_hand, "volume", volume, sizeof(*volume), err);
    if (r < 0)
        return r;
    volume->fuse_fd = volume->fuse_abort_fd = volume->porter.line = -1;
    volume->resume = json_incref(json_object_get(object, "resume"));
    config->volume_count++;
    if (volume->path && volume->via != DEVICE_AUTO && !device_way_needs_path(volume->via))
        return hws_fail(err, EINVAL, "volume '%s': a path is of no use with via %s", volume->name,
                        device_way_names[volume->via]);
    if (volume->block_bytes != 512 && volume->block_bytes != 4096)
        return hws_fail(err, EINVAL, "volume '%s': block-size is 512 or 4096, not %llu",
                        volume->name, (unsigned long long)volume->block_bytes);
    if (volume->block_bytes != 512 && (volume->via == DEVICE_NONE || volume->via == DEVICE_FUSE))
        return hws_fail(err, EINVAL,
                        "volume '%s': with via %s there is no block device to have a "
                        "block-size",
                        volume->name, device_way_names[volume->via]);
    unsigned index;
    if (volume->device && volume->via != DEVICE_NBD)
        return hws_fail(err, EINVAL, "volume '%s': a device can be chosen with via nbd only",
                        volume->name);
    if (volume->device && nbd_device_index(volume->device, &index, err) < 0)
        return hws_wrap(err, -EINVAL, "volume '%s'", volume->name);
    uint8_t uuid[16];
    if (volume->uuid && target_parse_uuid(volume->uuid, uuid) < 0)
        return hws_fail(err, EINVAL, "volume '%s': '%.80s' is no UUID (32 hexadecimal digits)",
                        volume->name, volume->uuid);
    for (unsigned i = 0; i + 1 < config->volume_count; i++)
        if (!strcmp(config->volume[i].name, volume->name))
            return hws_fail(err, EEXIST, "two volumes are called '%s'", volume->name);
    r = parse_sockets(json_object_get(object, "sockets"), volume, err);
    return r < 0 ? r : parse_allow(json_object_get(object, "allow"), volume, err);
}

static int parse_all(const json_t *object, struct engine_config *config, struct hws_error *err)
{
    static const char *const by_hand[] = {"volumes", "export", "nbd", "sandbox", NULL};
    const json_t *volumes = json_object_get(object, "volumes");
    size_t count = json_array_size(volumes);
    if (count == 0 || count > ENGINE_VOLUMES_MAX)
        return hws_fail(err, EINVAL, "an engine serves 1 to %d volumes; \"volumes\" lists %zu",
                        ENGINE_VOLUMES_MAX, count);
    int r = options_parse(engine_table, object, by_hand, "engine", config,
                          offsetof(struct engine_config, volume_count), err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = parse_volume(json_array_get(volumes, i), config, err);
    const json_t *sandbox = json_object_get(object, "sandbox");
    if (r == 0 && sandbox && !json_is_boolean(sandbox) && !json_is_object(sandbox))
        r = hws_fail(err, EINVAL, "sandbox is true, false or {\"writable\": [FOLDER, ...]}");
    if (r == 0 && !json_is_false(sandbox))
        config->sandbox = json_incref((json_t *)sandbox);
    if (r == 0)
        config->export = json_incref(json_object_get(object, "export"));
    if (r == 0)
        config->nbd = json_deep_copy(json_object_get(object, "nbd")); /* its exports may change */
    return r;
}

int engine_config_parse(const json_t *object, struct engine_config **ret, struct hws_error *err)
{
    if (!json_is_object(object))
        return hws_fail(err, EINVAL, "the configuration is no JSON object");
    struct engine_config *config = calloc(1, sizeof(*config));
    if (!config)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = parse_all(object, config, err);
    config->source = json_deep_copy(object);
    if (r < 0)
        engine_config_free(config);
    else
        *ret = config;
    return r;
}

struct engine_config *engine_config_free(struct engine_config *config)
{
    if (!config)
        return NULL;
    for (unsigned i = 0; i < config->volume_count; i++) {
        struct volume_config *volume = &config->volume[i];
        for (unsigned j = 0; volume->allow_list[j]; j++)
            free(volume->allow_list[j]);
        json_decref(volume->resume);
        options_free(volume_table, volume);
    }
    options_free(engine_table, config);
    json_decref(config->source);
    json_decref(config->export);
    json_decref(config->sandbox);
    json_decref(config->nbd);
    nbd_activation_free(config->nbd_activation);
    free(config);
    return NULL;
}
