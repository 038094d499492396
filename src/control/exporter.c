/*
 * The thread that keeps exports served: engines die, hosts start again, secrets change, and what
 * the catalog wants is made again. Nothing is lost where it is cut off: it only compares.
 *
 * An export that cannot be served is tried again, ever more rarely up to RETRY_MAX_S; why is told
 * with the export, and once in the log.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/exports.h"

#define LOOK_S      2
#define RETRY_MAX_S 30

struct exporter {
    struct control *control;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop, wanted;
    json_t *troubles; /* by id: {"error", "wait", "at"} */
};

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* ---- one ---- */

/* The volume is taken. @return 0 where it is served now. */
static int mend_taken(struct control *control, const struct volume *volume, const char *id,
                      struct hws_error *err)
{
    auto_export export = {0};
    auto_attachment attachment = {0};
    struct engine_place place = {0};
    char tag[24], user[EXPORT_USER_BYTES];
    bool attached, listed = false;
    size_t i;
    json_t *other;
    int r = object_get(control, &export_type, id, &export, err);
    if (r == 0)
        r = export_tag(control, &export, tag, sizeof(tag), err);
    if (r == 0)
        r = attachment_get(control, export_target(&export), &attachment, &attached, err);
    if (r < 0)
        return r;
    export_user(&export, user);
    json_array_foreach(attachment.users, i, other) listed |=
        !strcmp(json_string_value(other), user);
    enum export_state state = EXPORT_DOWN;
    bool running = control->engines->find(export_target(&export), &place, NULL) == 0;
    running = running && place.running;
    state = export_look(&place, export.id, tag);
    engine_place_free(&place);
    if (state == EXPORT_UP && listed)
        return 0;
    if (state == EXPORT_STALE)
        r = control->engines->unserve(export_target(&export), export.id, export.listen, true, err);
    if (r < 0)
        return r;
    if (running && listed)
        return export_serve(control, &export, err);
    control_lock_model(control);
    return export_bring_up(control, volume, &export, false, err);
}

static int mend(struct control *control, const struct export_record *export, struct hws_error *err)
{
    auto_volume volume = {0};
    int r = locks_take(&control->locks, export->volume, 0, NULL);
    if (r < 0)
        return 0; /* somebody works on it; the next look is soon */
    r = object_get(control, &volume_type, export->volume, &volume, err);
    if (r == 0 && journal_check(control, volume.id, NULL) == 0)
        r = mend_taken(control, &volume, export->id, err);
    locks_release(&control->locks, export->volume);
    return r;
}

/* ---- all ---- */

static bool is_put_off(struct exporter *exporter, const char *id)
{
    if (!exporter)
        return false;
    pthread_mutex_lock(&exporter->mutex);
    json_int_t at =
        json_integer_value(json_object_get(json_object_get(exporter->troubles, id), "at"));
    pthread_mutex_unlock(&exporter->mutex);
    return at > now_s();
}

static void note(struct exporter *exporter, const struct export_record *export, int r,
                 const struct hws_error *err)
{
    if (!exporter)
        return;
    pthread_mutex_lock(&exporter->mutex);
    json_t *before = json_object_get(exporter->troubles, export->id);
    const char *told = json_string_value(json_object_get(before, "error"));
    if (r == 0 && before) {
        log_info("export '%s' is served again", export->name);
        json_object_del(exporter->troubles, export->id);
    } else if (r < 0) {
        if (!told || strcmp(told, err->text) != 0)
            log_warning("export '%s' is not served: %s", export->name, err->text);
        json_int_t wait = json_integer_value(json_object_get(before, "wait"));
        wait = MIN(MAX(2 * wait, 1), RETRY_MAX_S);
        json_object_set_new(exporter->troubles, export->id,
                            json_pack("{s:s, s:I, s:I}", "error", err->text, "wait", wait, "at",
                                      (json_int_t)now_s() + wait));
    }
    pthread_mutex_unlock(&exporter->mutex);
}

void exports_mend(struct control *control, const char *secret)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    if (object_list(control, &export_type, NULL, &list, NULL) < 0)
        return;
    json_array_foreach(list, i, value)
    {
        auto_export export = {0};
        struct hws_error err = {0};
        if (object_parse(&export_type, value, &export, &err) < 0 ||
            strcmp(export.state, STATE_AVAILABLE) != 0 ||
            (secret && (!export.secret || strcmp(export.secret, secret) != 0)) ||
            (!secret && is_put_off(control->exporter, export.id)))
            continue;
        int r = mend(control, &export, &err);
        note(control->exporter, &export, r, &err);
    }
}

void exports_check_now(struct control *control, const char *secret)
{
    exports_mend(control, secret);
    exporter_wake(control);
}

/* ---- the thread ---- */

static bool wait_for_wish(struct exporter *exporter)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += LOOK_S;
    pthread_mutex_lock(&exporter->mutex);
    int r = 0;
    while (!exporter->stop && !exporter->wanted && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&exporter->changed, &exporter->mutex, &until);
    exporter->wanted = false;
    bool stop = exporter->stop;
    pthread_mutex_unlock(&exporter->mutex);
    return !stop;
}

static void *work(void *arg)
{
    struct exporter *exporter = arg;
    do
        exports_mend(exporter->control, NULL);
    while (wait_for_wish(exporter));
    return NULL;
}

int exporter_start(struct control *control, struct hws_error *err)
{
    struct exporter *exporter = calloc(1, sizeof(*exporter));
    pthread_condattr_t attributes;
    if (!exporter)
        return hws_fail(err, ENOMEM, "out of memory");
    exporter->control = control;
    exporter->troubles = json_object();
    pthread_mutex_init(&exporter->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&exporter->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    control->exporter = exporter; /* before the thread looks for it */
    int r = pthread_create(&exporter->thread, NULL, work, exporter);
    if (r == 0)
        return 0;
    control->exporter = NULL;
    pthread_cond_destroy(&exporter->changed);
    pthread_mutex_destroy(&exporter->mutex);
    json_decref(exporter->troubles);
    free(exporter);
    return hws_fail_errno(err, r, "cannot start a thread");
}

void exporter_stop(struct control *control)
{
    struct exporter *exporter = control->exporter;
    if (!exporter)
        return;
    pthread_mutex_lock(&exporter->mutex);
    exporter->stop = true;
    pthread_cond_signal(&exporter->changed);
    pthread_mutex_unlock(&exporter->mutex);
    pthread_join(exporter->thread, NULL);
    pthread_cond_destroy(&exporter->changed);
    pthread_mutex_destroy(&exporter->mutex);
    json_decref(exporter->troubles);
    free(exporter);
    control->exporter = NULL;
}

void exporter_wake(struct control *control)
{
    struct exporter *exporter = control->exporter;
    if (!exporter)
        return;
    pthread_mutex_lock(&exporter->mutex);
    exporter->wanted = true;
    pthread_cond_signal(&exporter->changed);
    pthread_mutex_unlock(&exporter->mutex);
}

void exporter_describe(struct control *control, const char *id, json_t *item)
{
    struct exporter *exporter = control->exporter;
    if (!exporter)
        return;
    pthread_mutex_lock(&exporter->mutex);
    json_t *error = json_object_get(json_object_get(exporter->troubles, id), "error");
    if (error)
        json_object_set(item, "error", error);
    pthread_mutex_unlock(&exporter->mutex);
}
