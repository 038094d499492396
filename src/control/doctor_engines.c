/*
 * What the doctor finds of attachments, engines, mounts and operations, and its repairs; see
 * control/doctor.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/doctor.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>

/** An operation that has not ended after so long, and on which nobody works, is stuck. A purge is
 * let go of for a moment. */
#define STUCK_S 5

/* Takes the object where nobody works on it, and nothing of it is unfinished. */
static bool take(struct doctor *doctor, const char *id)
{
    struct control *control = doctor->control;
    if (locks_take(&control->locks, id, 0, NULL) < 0)
        return false;
    if (journal_check(control, id, NULL) == 0)
        return true;
    locks_release(&control->locks, id);
    return false;
}

/* ---- attachments ---- */

/* The path that the engine of an attachment should write, as the catalog tells; NULL: unknown. */
static char *wanted_top(struct doctor *doctor, const char *id)
{
    auto_volume volume = {0};
    auto_layer layer = {0};
    auto_pool pool = {0};
    if (object_get(doctor->control, &volume_type, id, &volume, NULL) < 0 || !volume.layer ||
        object_get(doctor->control, &layer_type, volume.layer, &layer, NULL) < 0 ||
        object_get(doctor->control, &pool_type, layer.pool, &pool, NULL) < 0)
        return NULL;
    return layer_path(&pool, &layer);
}

static void check_place(struct doctor *doctor, const struct attachment_record *attachment,
                        const struct engine_place *place)
{
    const struct engine_driver *engines = doctor->control->engines;
    autofree char *top = wanted_top(doctor, attachment->id);
    struct stat a, b;
    bool mounted = true;
    if (top && place->top && place->top[0] && strcmp(top, place->top) != 0 &&
        (stat(top, &a) < 0 || stat(place->top, &b) < 0 || a.st_dev != b.st_dev ||
         a.st_ino != b.st_ino))
        doctor_tell(doctor, "attachment-top", attachment->id, place->top,
                    "its engine writes %s, and the catalog's top is %s", place->top, top);
    if (!attachment->mountpoint || !attachment->device)
        return;
    if (engines->is_mounted(attachment->device, attachment->mountpoint, &mounted, NULL) == 0 &&
        !mounted)
        doctor_tell(doctor, "mount-gone", attachment->id, attachment->mountpoint,
                    "%s is not mounted at %s", attachment->device, attachment->mountpoint);
}

static void check_attachment(struct doctor *doctor, const char *id)
{
    auto_attachment attachment = {0};
    struct engine_place place = {0};
    if (object_get(doctor->control, &attachment_type, id, &attachment, NULL) < 0)
        return; /* detached by now */
    bool known = json_object_get(doctor->volumes, id) || json_object_get(doctor->snapshots, id);
    int r = doctor->control->engines->find(id, &place, NULL);
    if (!known)
        doctor_tell(doctor, "attachment-lost", id, NULL,
                    "it is attached, and the catalog knows no volume of that id");
    else if (r == -ENOENT || (r == 0 && !place.running))
        doctor_tell(doctor, "engine-gone", id, NULL,
                    r < 0 ? "it is attached, and has no engine" : "its engine died");
    else if (r == 0)
        check_place(doctor, &attachment, &place);
    engine_place_free(&place);
}

int doctor_attachments(struct doctor *doctor, struct hws_error *err)
{
    const char *id;
    json_t *value;
    json_object_foreach(doctor->attachments, id, value)
    {
        if (!take(doctor, id))
            continue;
        check_attachment(doctor, id);
        locks_release(&doctor->control->locks, id);
    }
    return 0;
}

/* ---- engines ---- */

static bool in_a_pool(const struct doctor *doctor, const char *path)
{
    const char *id;
    json_t *pool;
    bool found = false;
    json_object_foreach(doctor->pools, id, pool)
    {
        const char *folder = doctor_text(pool, "path");
        size_t length = strlen(folder);
        found |= length && !strncmp(folder, path, length) && path[length] == '/';
    }
    return found;
}

/* One that bears an id and serves a pool's image was ours; others were attached by hand. */
static bool is_ours(struct doctor *doctor, const char *id, const struct engine_place *place)
{
    return json_object_get(doctor->volumes, id) || json_object_get(doctor->snapshots, id) ||
           (place->top && in_a_pool(doctor, place->top));
}

int doctor_engines(struct doctor *doctor, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *member;
    int r = doctor->control->engines->list(&list, err);
    json_array_foreach(list, i, member)
    {
        const char *id = json_string_value(member);
        auto_attachment attachment = {0};
        struct engine_place place = {0};
        if (!id || !id_is_valid(id) || doctor_is_busy(doctor, id) || !take(doctor, id))
            continue;
        if (object_get(doctor->control, &attachment_type, id, &attachment, NULL) == -ENOENT &&
            doctor->control->engines->find(id, &place, NULL) == 0 && is_ours(doctor, id, &place))
            doctor_tell(doctor, "engine-left", id, place.top,
                        "an engine %s, and the catalog says that it is not attached",
                        place.running ? "serves it" : "that died left its traces");
        engine_place_free(&place);
        locks_release(&doctor->control->locks, id);
    }
    return r;
}

/* ---- mount points ---- */

static bool is_mount(const char *path)
{
    struct stat at, above;
    autofree char *parent = NULL;
    if (asprintf(&parent, "%s/..", path) < 0) {
        parent = NULL;
        return false;
    }
    return stat(path, &at) == 0 && stat(parent, &above) == 0 && at.st_dev != above.st_dev;
}

int doctor_mounts(struct doctor *doctor, struct hws_error *err)
{
    autofree char *folder = NULL;
    if (asprintf(&folder, "%s/mounts", doctor->control->folder) < 0) {
        folder = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    DIR *dir = opendir(folder);
    for (struct dirent *at; dir && (at = readdir(dir));) {
        const char *id = at->d_name;
        auto_attachment attachment = {0};
        autofree char *path = NULL;
        if (!id_is_valid(id) || doctor_is_busy(doctor, id) || !take(doctor, id))
            continue;
        if (asprintf(&path, "%s/%s", folder, id) < 0)
            path = NULL;
        else if (object_get(doctor->control, &attachment_type, id, &attachment, NULL) == -ENOENT &&
                 access(path, F_OK) == 0)
            doctor_tell(doctor, "mount-left", id, path,
                        is_mount(path) ? "%s is mounted, and the catalog says that it is not"
                                       : "%s was a mount point, and is none any more",
                        path);
        locks_release(&doctor->control->locks, id);
    }
    if (dir)
        closedir(dir);
    return 0;
}

/* ---- operations ---- */

int doctor_operations(struct doctor *doctor, struct hws_error *err)
{
    size_t i;
    json_t *intent;
    json_array_foreach(doctor->intents, i, intent)
    {
        auto_json *now = NULL;
        struct store *store = doctor->control->store;
        const char *id = doctor_text(intent, "id"), *object = doctor_text(intent, "object");
        time_t created = (time_t)json_integer_value(json_object_get(intent, "created"));
        time_t age = time(NULL) - created;
        if (journal_is_background(doctor_text(intent, "operation")))
            continue; /* it may wait for others */
        if (journal_waits(doctor_text(intent, "operation")) ||
            locks_take(&doctor->control->locks, object, 0, NULL) < 0)
            continue; /* somebody is at it, or will be */
        if (store->driver->get(store, "intent", id, &now, NULL) == 0 && (age > STUCK_S || age < 0))
            doctor_tell(doctor, "operation-stuck", object, NULL,
                        "%s was begun %lld s ago, and is not finished",
                        doctor_text(intent, "operation"), (long long)age);
        locks_release(&doctor->control->locks, object);
    }
    return 0;
}

/* ---- repairs ---- */

/* Takes @id where nobody works on it, as at the examination. */
static int take_quietly(struct control *control, const char *id, struct hws_error *err)
{
    int r = locks_take(&control->locks, id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return r;
    r = journal_check(control, id, err);
    if (r < 0)
        locks_release(&control->locks, id);
    return r;
}

static int detach_taken(struct control *control, const char *id, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_volume volume = {0};
    auto_batch batch = {0};
    struct engine_place place = {0};
    bool attached;
    int r = attachment_get(control, id, &attachment, &attached, err);
    if (r < 0 || !attached)
        return r;
    bool known = object_get(control, &volume_type, id, &volume, NULL) == 0;
    bool running = control->engines->find(id, &place, NULL) == 0 && place.running;
    engine_place_free(&place);
    if (known && running)
        return 0; /* it runs again */
    r = control->engines->detach(id, !running, err);
    if (r < 0)
        return r;
    batch_remove(&batch, &attachment_type, id);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    return r;
}

int doctor_detach(struct control *control, const char *id, const char *path, struct hws_error *err)
{
    int r = take_quietly(control, id, err);
    if (r < 0)
        return r;
    r = detach_taken(control, id, err);
    locks_release(&control->locks, id);
    return r;
}

int doctor_remount(struct control *control, const char *id, const char *path, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_volume volume = {0};
    bool attached;
    int r = take_quietly(control, id, err);
    if (r < 0)
        return r;
    r = attachment_get(control, id, &attachment, &attached, err);
    if (r == 0 && attached)
        r = object_get(control, &volume_type, id, &volume, err);
    if (r == 0 && attached)
        r = attachment_keep_mounted(control, &attachment, &volume, err);
    locks_release(&control->locks, id);
    return r;
}

int doctor_stop_engine(struct control *control, const char *id, const char *path,
                       struct hws_error *err)
{
    auto_attachment attachment = {0};
    bool attached;
    int r = take_quietly(control, id, err);
    if (r < 0)
        return r;
    r = attachment_get(control, id, &attachment, &attached, err);
    if (r == 0 && !attached)
        r = control->engines->detach(id, false, err);
    locks_release(&control->locks, id);
    return r;
}

int doctor_remove_mount(struct control *control, const char *id, const char *path,
                        struct hws_error *err)
{
    auto_attachment attachment = {0};
    bool attached;
    int r = take_quietly(control, id, err);
    if (r < 0)
        return r;
    r = attachment_get(control, id, &attachment, &attached, err);
    if (r == 0 && !attached) {
        if (umount2(path, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
            r = hws_fail_errno(err, errno, "cannot unmount %s", path);
        else if (rmdir(path) < 0 && errno != ENOENT)
            r = hws_fail_errno(err, errno, "%s cannot be removed; look into it", path);
    }
    locks_release(&control->locks, id);
    return r;
}

int doctor_run_operation(struct control *control, const char *id, const char *path,
                         struct hws_error *err)
{
    journal_finish(control, id);
    return journal_check(control, id, err);
}
