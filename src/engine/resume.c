/*
 * Where a volume stands, for the process that serves it next: after snapshots the image that was
 * configured is not what takes the writes, and opening it for writing would be wrong.
 *
 *   {"top": PATH, "format": F,          what is on top now; missing: the configured image
 *    "next": PATH, "next-format": F,    being put on top of that
 *    "merging": PATH, "merging-format": F,  a layer below the top that a job writes to
 *    "chain": [PATH, ...]}              files that are open: they may be named by the image above
 *
 * It is part of the state file while a snapshot runs and after it, and of the configuration that a
 * successor gets. A process that died between "next" and its end may have put it on top, and
 * written to it, or not: an overlay that is empty has the content of what lies below, so it is what
 * is opened then, in both cases. A layer that was written to may have changes in the keep: it is
 * opened for writing once before it is read as a part of the chain.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "engine/keeper.h"
#include "base/log.h"
#include "job/overlay/overlay.h"

static void add_path(json_t *list, struct block_node *node)
{
    const char *path = node ? overlay_node_path(node) : NULL;
    if (path)
        json_array_append_new(list, json_string(path));
}

json_t *volume_resume(const struct volume *volume)
{
    if (!volume->top && !volume->next && !volume->merging)
        return NULL;
    json_t *chain = json_array();
    struct block_node *at = volume->root ? block_root_node(volume->root) : NULL;
    for (; at; at = block_child(at, BLOCK_BACKING)) {
        add_path(chain, at);
        add_path(chain, block_child(at, BLOCK_DATA));
    }
    json_t *resume = json_pack("{s:o}", "chain", chain);
    if (volume->top) {
        json_object_set_new(resume, "top", json_string(volume->top));
        json_object_set_new(resume, "format", json_string(volume->top_format));
    }
    if (volume->next) {
        json_object_set_new(resume, "next", json_string(volume->next));
        json_object_set_new(resume, "next-format", json_string(volume->next_format));
    }
    if (volume->merging) {
        json_object_set_new(resume, "merging", json_string(volume->merging));
        json_object_set_new(resume, "merging-format", json_string(volume->merging_format));
    }
    return resume;
}

static char *copy_member(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? strdup(text) : NULL;
}

/* The state file's own words on this volume. */
static json_t *read_state(const struct volume *volume)
{
    const char *path = volume->engine->config->state_file;
    json_t *state = path ? json_load_file(path, 0, NULL) : NULL, *item, *found = NULL;
    size_t i;
    json_array_foreach(json_object_get(state, "volumes"), i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && !strcmp(name, volume->config.name))
            found = json_incref(json_object_get(item, "resume"));
    }
    json_decref(state);
    return found;
}

void volume_forget_top(struct volume *volume)
{
    free(volume->top);
    free(volume->top_format);
    free(volume->next);
    free(volume->next_format);
    free(volume->merging);
    free(volume->merging_format);
    json_decref(volume->chain);
    volume->top = volume->top_format = volume->next = volume->next_format = NULL;
    volume->merging = volume->merging_format = NULL;
    volume->chain = NULL;
}

void volume_find_top(struct volume *volume, bool inherits)
{
    json_t *resume = NULL;
    if (volume->top || volume->next)
        return; /* this process knows best */
    if (volume->config.resume)
        resume = json_incref(volume->config.resume);
    else if (inherits || keeper_pipe() >= 0)
        resume = read_state(volume); /* of a keeper's engine it is always the last one's */
    volume->top = copy_member(resume, "top");
    volume->top_format = copy_member(resume, "format");
    volume->next = copy_member(resume, "next");
    volume->next_format = copy_member(resume, "next-format");
    volume->merging = copy_member(resume, "merging");
    volume->merging_format = copy_member(resume, "merging-format");
    json_t *chain = json_object_get(resume, "chain");
    volume->chain = json_is_array(chain) ? json_incref(chain) : NULL;
    json_decref(resume);
}

int volume_note_next(struct volume *volume, const char *path, const char *format,
                     struct hws_error *err)
{
    volume->next = strdup(path);
    volume->next_format = strdup(format);
    if (!volume->next || !volume->next_format)
        return hws_fail(err, ENOMEM, "out of memory");
    return engine_store_state(volume->engine, err);
}

void volume_end_next(struct volume *volume, bool done)
{
    struct hws_error err = {0};
    if (done) {
        free(volume->top);
        free(volume->top_format);
        volume->top = steal_ptr(&volume->next);
        volume->top_format = steal_ptr(&volume->next_format);
    } else {
        free(volume->next);
        free(volume->next_format);
        volume->next = volume->next_format = NULL;
    }
    if (engine_store_state(volume->engine, &err) < 0)
        log_warning("%s", err.text);
}

int volume_note_merging(struct volume *volume, const char *path, const char *format,
                        struct hws_error *err)
{
    free(volume->merging);
    free(volume->merging_format);
    volume->merging = path ? strdup(path) : NULL;
    volume->merging_format = path ? strdup(format) : NULL;
    if (path && (!volume->merging || !volume->merging_format))
        return hws_fail(err, ENOMEM, "out of memory");
    return engine_store_state(volume->engine, err);
}

int volume_note_top(struct volume *volume, const char *path, const char *format,
                    struct hws_error *err)
{
    char *top = strdup(path), *top_format = strdup(format);
    if (!top || !top_format) {
        free(top);
        free(top_format);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    free(volume->top);
    free(volume->top_format);
    volume->top = top;
    volume->top_format = top_format;
    return engine_store_state(volume->engine, err);
}

const char **volume_allow_resumed(const struct volume *volume)
{
    size_t count = 0, i;
    json_t *item;
    const char **list =
        calloc(ENGINE_ALLOW_MAX + json_array_size(volume->chain) + 1, sizeof(const char *));
    for (unsigned n = 0; list && volume->config.allow_list[n]; n++)
        list[count++] = volume->config.allow_list[n];
    json_array_foreach(volume->chain, i, item)
    {
        if (list && json_is_string(item))
            list[count++] = json_string_value(item);
    }
    return list;
}
