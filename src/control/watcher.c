/*
 * Engines that die while their volumes are in use. Those of devices that outlive them have keepers,
 * which start them again; what is found here has nobody any more, as a loop device never has: it
 * is told, in the attachment's "failed", and by that as an event, until it is detached or served
 * again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

/** Between two looks; a keeper has started the next engine by then. */
#define LOOK_S 5
#define REASON "its engine died: detach it with force, and attach it again"

static bool is_dead(struct control *control, const char *id)
{
    struct engine_place place = {0};
    int r = control->engines->find(id, &place, NULL);
    bool dead = r == -ENOENT || (r == 0 && !place.running);
    engine_place_free(&place);
    return dead;
}

/* The volume is taken: no operation of its own stops the engine now. */
static int note(struct control *control, const char *id, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_batch batch = {0};
    bool attached;
    int r = attachment_get(control, id, &attachment, &attached, err);
    if (r < 0 || !attached)
        return r;
    bool dead = is_dead(control, id), told = attachment.failed != NULL;
    if (dead == told)
        return 0;
    if (dead)
        r = record_set_text(&attachment.failed, REASON) < 0 ? hws_fail(err, ENOMEM, "out of memory")
                                                            : 0;
    else
        free(steal_ptr(&attachment.failed));
    if (r < 0)
        return r;
    batch_put(&batch, &attachment_type, &attachment);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    if (r == 0 && dead)
        log_error("volume %s: %s", id, REASON);
    else if (r == 0)
        log_info("volume %s is served again", id);
    return r;
}

static void look_at(struct control *control, const json_t *attachment)
{
    struct hws_error err = {0};
    const char *id = json_string_value(json_object_get(attachment, "id"));
    const char *mode = json_string_value(json_object_get(attachment, "mode"));
    bool told = json_object_get(attachment, "failed") != NULL;
    if (mode && !strcmp(mode, ATTACH_NONE))
        return; /* of exports: who serves them starts the next engine (exporter.c) */
    if (is_dead(control, id) == told || locks_take(&control->locks, id, 0, NULL) < 0)
        return; /* what works on it tells itself */
    int r = journal_check(control, id, NULL);
    if (r == 0 && (r = note(control, id, &err)) < 0)
        log_warning("volume %s: %s", id, err.text);
    locks_release(&control->locks, id);
}

void watcher_look(struct control *control)
{
    auto_json *all = NULL;
    size_t i;
    json_t *attachment;
    if (object_list(control, &attachment_type, NULL, &all, NULL) < 0)
        return;
    json_array_foreach(all, i, attachment) look_at(control, attachment);
}

void watcher_tick(struct control *control)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - control->watched_s < LOOK_S)
        return;
    control->watched_s = now.tv_sec;
    watcher_look(control);
}
