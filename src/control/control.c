/*
 * The control plane's beginning and end, what it finds at its start, and lists.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/control.h"
#include "base/log.h"
#include "control/exports.h"
#include "control/vault.h"
#include <limits.h>
#include <sys/stat.h>

/** The longest time between two tries to finish what could not be finished; the first is a second
 * after the one before, and each waits twice as long. */
#define RETRY_MAX_S 30

static int read_boot(char *boot, struct hws_error *err)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    bool got = file && fgets(boot, ID_BYTES, file) && id_is_valid(boot);
    if (file)
        fclose(file);
    return got ? 0 : hws_fail(err, EIO, "the kernel does not tell the id of this boot");
}

/* ---- at the start ---- */

/* Of an attachment: does the host still have what the catalog tells? */
static bool is_attached(struct control *control, const struct attachment_record *attachment)
{
    struct engine_place place = {0};
    if (!attachment->boot || strcmp(attachment->boot, control->boot) != 0)
        return false; /* the host was started again since */
    int r = control->engines->find(attachment->id, &place, NULL);
    if (r == 0 && !place.running)
        log_warning("the engine of volume %s died; detach it with force", attachment->id);
    engine_place_free(&place);
    return r != -ENOENT;
}

static void adopt_one(struct control *control, const json_t *value)
{
    auto_attachment attachment = {0};
    auto_batch batch = {0};
    struct hws_error err = {0};
    int r = object_parse(&attachment_type, value, &attachment, &err);
    if (r == 0 && !is_attached(control, &attachment)) {
        /* What is left of an engine of this boot goes; of an earlier boot there is nothing. */
        r = control->engines->detach(attachment.id, true, &err);
        batch_remove(&batch, &attachment_type, attachment.id);
        if (r == 0)
            r = batch_commit(&batch, control, &err);
        if (r == 0)
            log_info("volume %s is attached no longer", attachment.id);
    }
    if (r < 0)
        log_error("volume %s: %s", attachment.id ? attachment.id : "?", err.text);
}

static int adopt(struct control *control, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &attachment_type, NULL, &list, err);
    json_array_foreach(list, i, value) adopt_one(control, value);
    return r;
}

static int make_folders(const char *folder, struct hws_error *err)
{
    char mounts[PATH_MAX];
    if (snprintf(mounts, sizeof(mounts), "%s/mounts", folder) >= (int)sizeof(mounts) - ID_BYTES)
        return hws_fail(err, ENAMETOOLONG, "%s: the path is too long", folder);
    /* Containers that run as other users reach their mounts through them. */
    if ((mkdir(folder, 0711) < 0 && errno != EEXIST) ||
        (mkdir(mounts, 0711) < 0 && errno != EEXIST))
        return hws_fail_errno(err, errno, "cannot make the folder %s", mounts);
    return 0;
}

static int prepare(struct control *control, const struct control_options *options,
                   struct hws_error *err)
{
    char path[PATH_MAX];
    int r = make_folders(options->folder, err);
    control->folder = r == 0 ? realpath(options->folder, NULL) : NULL;
    if (r == 0 && !control->folder)
        r = hws_fail_errno(err, errno, "%s", options->folder);
    if (r == 0)
        r = read_boot(control->boot, err);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/catalog.db", control->folder);
    r = store_sqlite.open(path, &control->store, err);
    if (r < 0)
        return r;
    r = events_start(control, options->events, err);
    if (r == 0)
        r = metrics_start(control, err);
    if (r < 0)
        return r;
    r = vault_open(control->folder, options->master_key, &control->vault, err);
    if (r < 0)
        return r;
    struct hws_error why = {0};
    if (secrets_recover(control, &why) < 0) /* what is under the newest key can be used */
        log_error("the change of the master key cannot be completed: %s", why.text);
    r = clock_open(control, err);
    if (r < 0)
        return r;
    r = leases_start(control, options->host, options->lease_s, options->background, err);
    if (r < 0)
        return r;
    journal_recover(control);
    r = adopt(control, err);
    if (r == 0)
        leases_adopt(control);
    return r;
}

int control_open(const struct control_options *options, struct control **ret, struct hws_error *err)
{
    struct control *control = calloc(1, sizeof(*control));
    if (!control)
        return hws_fail(err, ENOMEM, "out of memory");
    locks_init(&control->locks);
    pthread_mutex_init(&control->model, NULL);
    control->engines = options->engines ? options->engines : &engines_real;
    control->at = options->at;
    control->at_arg = options->at_arg;
    control->now = options->now;
    control->retried = time(NULL);
    control->retry_s = 1;
    int r = prepare(control, options, err);
    if (r == 0 && options->background)
        r = merger_start(control, err);
    if (r == 0 && options->background)
        r = exporter_start(control, err);
    if (r == 0 && options->background)
        r = scheduler_start(control, err);
    if (r == 0 && options->background)
        r = importer_start(control, err);
    if (r < 0) {
        control_close(control);
        return r;
    }
    *ret = control;
    return 0;
}

void control_close(struct control *control)
{
    if (!control)
        return;
    scheduler_stop(control);
    exporter_stop(control);
    merger_stop(control);
    importer_stop(control);
    leases_stop(control);
    events_stop(control);
    metrics_stop(control);
    vault_close(control->vault);
    if (control->store)
        control->store->driver->close(control->store);
    pthread_mutex_destroy(&control->model);
    locks_end(&control->locks);
    free(control->folder);
    free(control);
}

void control_tick(struct control *control)
{
    time_t now = time(NULL);
    users_tidy(control);
    if (control->engines->tick)
        control->engines->tick();
    scheduler_tick(control);
    watcher_tick(control);
    if (now - control->retried < control->retry_s && now >= control->retried)
        return;
    control->retried = now;
    control->retry_s = MIN(2 * control->retry_s, RETRY_MAX_S);
    if (journal_recover(control) == 0)
        control->retry_s = 1;
}

/* ---- lists ---- */

/* A page ends at its last item's key: what lists are ordered by. */
static const char *key_of(const struct object_type *type, json_t *item)
{
    const char *field = "id";
    if (type != &attachment_type && type != &trash_type && type != &job_type)
        field = "name";
    if (type == &job_type)
        field = "key";
    return json_string_value(json_object_get(item, field));
}

int control_page_check(const struct control_page *page, struct hws_error *err)
{
    return page->limit <= CONTROL_PAGE_MAX ? 0
                                           : hws_fail(err, EINVAL, "limit is %u; it can be 1 to %d",
                                                      page->limit, CONTROL_PAGE_MAX);
}

int control_page(struct control *control, const struct object_type *type, const char *owner,
                 const struct control_page *page, const char *prefix, page_edit *edit, json_t **ret,
                 struct hws_error *err)
{
    autofree char *after = NULL;
    unsigned limit = page->limit ? page->limit : CONTROL_PAGE_DEFAULT;
    size_t i;
    json_t *item, *list = NULL;
    int r = control_page_check(page, err);
    if (r < 0)
        return r;
    if (page->after && asprintf(&after, "%s%s", prefix, page->after) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    struct store_query query = {
        .kind = type->kind, .owner = owner, .after = after, .limit = limit + 1};
    r = control->store->driver->list(control->store, &query, &list, err);
    if (r < 0)
        return r;
    json_t *next = NULL;
    if (json_array_size(list) > limit) {
        json_array_remove(list, limit);
        next = json_string(key_of(type, json_array_get(list, limit - 1)));
    }
    json_array_foreach(list, i, item)
    {
        if (r == 0 && edit)
            r = edit(control, item, err);
    }
    *ret = json_pack("{s:o, s:o*}", "items", list, "next", next);
    if (r < 0)
        json_decref(*ret);
    return r;
}

int control_counts(struct control *control, json_t **ret, struct hws_error *err)
{
    static const struct {
        const char *kind, *name;
    } kinds[] = {{"pool", "pools"},
                 {"volume", "volumes"},
                 {"snapshot", "snapshots"},
                 {"attachment", "attachments"},
                 {"intent", "jobs"}};
    json_t *counts = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        unsigned count;
        int r = control->store->driver->count(control->store, kinds[i].kind, NULL, &count, err);
        if (r < 0) {
            json_decref(counts);
            return r;
        }
        json_object_set_new(counts, kinds[i].name, json_integer(count));
    }
    *ret = counts;
    return 0;
}
