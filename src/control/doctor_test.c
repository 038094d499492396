/*
 * The doctor: everything that it knows is broken by hand, found, repaired where that can be, and
 * nothing is lost by it. What is whole has no findings, whatever is being done to it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/test_world.h"
#include <dirent.h>
#include <sys/stat.h>

#define NOBODY "0b2cb9e5-0000-4000-8000-000000000000"

static struct control *control;
static char file[512]; /* of the top layer of "v" */

/* ---- looking ---- */

static json_t *ask(const char *text)
{
    json_t *body = request(text), *answer = NULL;
    must(control_doctor(control, body, &answer, &error));
    json_decref(body);
    return answer;
}

static unsigned count_findings(const json_t *answer)
{
    return (unsigned)json_array_size(json_object_get(answer, "items"));
}

static const json_t *find(const json_t *answer, const char *code)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(answer, "items"), i, item)
    {
        if (!strcmp(json_string_value(json_object_get(item, "code")), code))
            return item;
    }
    return NULL;
}

static void must_be_well(void)
{
    auto_json *answer = ask("{\"deep\": true}");
    if (count_findings(answer)) {
        autofree char *text = json_dumps(answer, JSON_INDENT(2));
        fail_msg("%s", text);
    }
}

static unsigned count_in(const char *folder)
{
    DIR *dir = opendir(in_top(folder));
    unsigned count = 0;
    for (struct dirent *at; dir && (at = readdir(dir));)
        count += at->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return count;
}

static unsigned count_images(void)
{
    return count_in("pool/images") + count_in("pool/lost+found");
}

/* ---- changing the catalog behind its back ---- */

static void read_top(struct volume *volume, struct layer *layer)
{
    must(object_find(control, &volume_type, "v", volume, &error));
    must(object_get(control, &layer_type, volume->layer, layer, &error));
    snprintf(file, sizeof(file), "%s/%s.qcow2", in_top("pool/images"), layer->id);
}

static void put(const struct object_type *type, void *record)
{
    auto_batch batch = {0};
    batch_put(&batch, type, record);
    must(batch_commit(&batch, control, &error));
}

static void drop(const struct object_type *type, const char *id)
{
    auto_batch batch = {0};
    batch_remove(&batch, type, id);
    must(batch_commit(&batch, control, &error));
}

static void write_file(const char *path, const char *text)
{
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    assert_int_equal(fclose(out), 0);
}

#define WITH_TOP              \
    auto_volume volume = {0}; \
    auto_layer layer = {0};   \
    read_top(&volume, &layer)

static void lose_file(void)
{
    WITH_TOP;
    assert_int_equal(mkdir(in_top("pool/lost+found"), 0700), 0);
    char to[600];
    snprintf(to, sizeof(to), "%s/%s.qcow2", in_top("pool/lost+found"), layer.id);
    assert_int_equal(rename(file, to), 0);
}

static void lose_file_for_good(void)
{
    WITH_TOP;
    assert_int_equal(rename(file, in_top("away")), 0);
}

static void add_file(void)
{
    write_file(in_top("pool/images/notes.txt"), "somebody's");
}

static void add_image(void)
{
    write_file(in_top("pool/images/" NOBODY ".qcow2"), "qcow2 5\n-\n");
}

/* One of that name lies in lost+found already. */
static void add_image_again(void)
{
    assert_int_equal(mkdir(in_top("pool/lost+found"), 0700), 0);
    write_file(in_top("pool/lost+found/" NOBODY ".qcow2"), "the first");
    add_image();
}

static void add_layer(void)
{
    WITH_TOP;
    struct layer other = {
        .id = (char *)NOBODY, .pool = layer.pool, .format = layer.format, .size_bytes = 5};
    add_image();
    put(&layer_type, &other);
}

static void change_reference(void)
{
    WITH_TOP;
    must(record_set_text(&layer.volume, NOBODY));
    put(&layer_type, &layer);
}

static void lose_reference(void)
{
    auto_volume volume = {0};
    auto_snapshot snapshot = {0};
    auto_layer layer = {0};
    must(object_find(control, &volume_type, "v", &volume, &error));
    must(snapshot_find(control, &volume, "s", &snapshot, &error));
    must(object_get(control, &layer_type, snapshot.layer, &layer, &error));
    must(record_set_text(&layer.snapshot, NULL));
    put(&layer_type, &layer);
}

static void change_depth(void)
{
    WITH_TOP;
    layer.depth = 7;
    put(&layer_type, &layer);
}

static void change_parent(void)
{
    WITH_TOP;
    must(record_set_text(&layer.parent, NOBODY));
    put(&layer_type, &layer);
}

static void change_backing(void)
{
    WITH_TOP;
    write_file(file, "qcow2 1048576\n/elsewhere\n");
}

static void spoil_image(void)
{
    WITH_TOP;
    write_file(file, "?");
}

static void grow_image(void)
{
    WITH_TOP;
    write_file(file, "qcow2 3145728\n-\n");
}

static void shrink_image(void)
{
    WITH_TOP;
    write_file(file, "qcow2 4096\n-\n");
}

static void lose_layer(void)
{
    WITH_TOP;
    drop(&layer_type, layer.id);
}

static void lose_volume(void)
{
    WITH_TOP;
    drop(&volume_type, volume.id);
}

static void stop_halfway(void)
{
    WITH_TOP;
    must(record_set_text(&volume.state, STATE_CREATING));
    put(&volume_type, &volume);
}

static void stop_snapshot_halfway(void)
{
    auto_volume volume = {0};
    auto_snapshot snapshot = {0};
    must(object_find(control, &volume_type, "v", &volume, &error));
    must(snapshot_find(control, &volume, "s", &snapshot, &error));
    must(record_set_text(&snapshot.state, STATE_CREATING));
    put(&snapshot_type, &snapshot);
}

static void attach_nobody(void)
{
    auto_json *users = json_pack("[s]", "a");
    struct attachment_record attachment = {.id = (char *)NOBODY,
                                           .mode = (char *)ATTACH_DEVICE,
                                           .device = (char *)"/dev/fake",
                                           .boot = control->boot,
                                           .users = users};
    put(&attachment_type, &attachment);
    write_file(in_top("run/" NOBODY), "/somewhere\n");
}

static char *of_run(const char *before, const char *after)
{
    static char path[600];
    WITH_TOP;
    snprintf(path, sizeof(path), "%s/%s%s%s", in_top("run"), before, volume.id, after);
    return path;
}

static void change_top(void)
{
    write_file(of_run("", ""), "/another/image\n");
}

static void lose_engine(void)
{
    assert_int_equal(unlink(of_run("", "")), 0);
}

static void kill_engine(void)
{
    write_file(of_run("", ""), "");
}

static void leave_engine(void)
{
    WITH_TOP;
    autofree char *text = NULL;
    assert_true(asprintf(&text, "%s\n", file) > 0);
    write_file(of_run("", ""), text);
}

static void unmount(void)
{
    write_file(of_run(".", ".unmounted"), "");
}

static void leave_mount(void)
{
    assert_int_equal(mkdir(in_top("state/mounts/" NOBODY), 0755), 0);
}

static void leave_full_mount(void)
{
    leave_mount();
    write_file(in_top("state/mounts/" NOBODY "/data"), "written below the mount");
}

static void add_operation(const char *name)
{
    WITH_TOP;
    auto_batch batch = {0};
    const char *id = "0b2cb9e5-0000-4000-8000-000000000001";
    add_image();
    batch_raw(&batch, "intent", id, NOBODY,
              json_pack("{s:s, s:s, s:s, s:{s:s, s:[s]}, s:i}", "id", id, "operation", name,
                        "object", NOBODY, "params", "pool", layer.pool, "files",
                        in_top("pool/images/" NOBODY ".qcow2"), "created", 5),
              true);
    must(batch_commit(&batch, control, &error));
}

/* What a purge was to remove, and did not. */
static void leave_operation(void)
{
    add_operation("purge");
}

static void lose_pool(void)
{
    assert_int_equal(rename(in_top("pool"), in_top("away")), 0);
}

/* ---- what is broken, and what becomes of it ---- */

enum becomes {
    WELL,    /* all is well after one repair */
    FAILS,   /* the repair says why it cannot */
    REMAINS, /* there is no repair */
};

static const struct {
    const char *code;
    void (*prepare)(struct control *control);
    void (*spoil)(void);
    enum becomes becomes;
    bool loses; /* the repair is what removes a file */
} cases[] = {
    {"file-missing", need_snapshot, lose_file, WELL},
    {"file-missing", need_snapshot, lose_file_for_good, FAILS},
    {"file-foreign", need_volume, add_file, WELL},
    {"file-foreign", need_volume, add_image, WELL},
    {"file-foreign", need_volume, add_image_again, WELL},
    {"layer-unused", need_volume, add_layer, WELL},
    {"layer-reference", need_volume, change_reference, WELL},
    {"layer-reference", need_snapshot, change_reference, WELL},
    {"layer-reference", need_snapshot, lose_reference, WELL},
    {"layer-depth", need_two_snapshots, change_depth, WELL},
    {"layer-parent", need_snapshot, change_parent, REMAINS},
    {"layer-chain", need_snapshot, change_backing, REMAINS},
    {"layer-chain", need_volume, spoil_image, REMAINS},
    {"layer-size", need_volume, grow_image, WELL},
    {"layer-size", need_volume, shrink_image, WELL},
    {"volume-layer", need_volume, lose_layer, REMAINS},
    {"snapshot-volume", need_snapshot, lose_volume, REMAINS},
    {"object-unfinished", need_volume, stop_halfway, WELL},
    {"object-unfinished", need_snapshot, stop_snapshot_halfway, WELL},
    {"attachment-lost", need_volume, attach_nobody, WELL},
    {"attachment-top", need_attached, change_top, REMAINS},
    {"engine-gone", need_attached, lose_engine, WELL},
    {"engine-gone", need_attached, kill_engine, WELL},
    {"engine-left", need_volume, leave_engine, WELL},
    {"mount-gone", need_attached, unmount, WELL},
    {"mount-left", need_volume, leave_mount, WELL},
    {"mount-left", need_volume, leave_full_mount, FAILS},
    {"operation-stuck", need_volume, leave_operation, WELL, true},
    {"pool-away", need_snapshot, lose_pool, REMAINS},
};

static const char *outcome_of(const json_t *finding)
{
    const char *text = json_string_value(json_object_get(finding, "outcome"));
    return text ? text : "";
}

static void begin(void (*prepare)(struct control *control))
{
    clean();
    control = open_control(NULL);
    prepare(control);
    must_be_well();
}

static void everything_is_found_and_repaired_and_nothing_lost(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        begin(cases[i].prepare);
        cases[i].spoil();
        unsigned images = count_images();
        auto_json *found = ask("{\"deep\": true}");
        const json_t *finding = find(found, cases[i].code);
        if (!finding)
            fail_msg("%s (case %u) is not found", cases[i].code, i);
        assert_true(!json_object_get(finding, "repair") == (cases[i].becomes == REMAINS));
        autofree char *only = NULL;
        assert_true(asprintf(&only, "{\"deep\": true, \"repair\": [\"%s\"]}", cases[i].code) > 0);
        auto_json *dry = ask("{\"deep\": true, \"dry-run\": true, \"repair\": \"all\"}");
        assert_int_equal(count_findings(dry), count_findings(found));
        if (cases[i].becomes == REMAINS) {
            json_t *body = request(only);
            assert_int_equal(CALL(control_doctor, control, body), -EINVAL);
            json_decref(body);
            assert_int_equal(count_images(), images);
        } else {
            assert_string_equal(outcome_of(find(dry, cases[i].code)), "would be repaired");
            auto_json *done = ask(only);
            const char *wanted = cases[i].becomes == FAILS ? "failed" : "repaired";
            if (strcmp(outcome_of(find(done, cases[i].code)), wanted) != 0) {
                autofree char *text = json_dumps(done, JSON_INDENT(2));
                fail_msg("case %u: %s", i, text);
            }
            assert_int_equal(count_images(), images - cases[i].loses);
        }
        if (cases[i].becomes == WELL) {
            must_be_well();
            check_all(control);
        }
        control_close(control);
    }
}

/* "all" leads to a state without what can be repaired, and loses no file on the way. */
static void all_at_once(void **state)
{
    begin(need_two_snapshots);
    add_file();
    add_layer();
    change_depth();
    leave_engine();
    leave_mount();
    lose_reference();
    unsigned images = count_images();
    auto_json *found = ask("{}"), *left = NULL;
    assert_true(count_findings(found) >= 6);
    json_decref(ask("{\"repair\": \"all\"}"));
    left = ask("{\"repair\": [\"all\"]}");
    assert_int_equal(count_findings(left), 0);
    assert_int_equal(count_images(), images);
    check_all(control);
    control_close(control);
}

/* What came back with a file from lost+found is a volume as before. */
static void a_volume_works_after_its_repair(void **state)
{
    begin(need_snapshot);
    lose_file();
    assert_true(with(control_volume_attach, control, "v", "{}") < 0);
    json_decref(ask("{\"repair\": [\"file-missing\"]}"));
    must(with(control_volume_attach, control, "v", "{}"));
    must_be_well();
    kill_engine();
    json_decref(ask("{\"repair\": [\"engine-gone\"]}"));
    must(with(control_volume_attach, control, "v", "{}"));
    must_be_well();
    must(detach(control, "v", "{\"force\": true}"));
    check_all(control);
    control_close(control);
}

/* With what lies in the trash: nobody sees it, and all of it is needed. */
static void need_trash(struct control *unused)
{
    need_snapshot(control);
    json_t *body = request("{\"trash-retention\": 1000}");
    must(control_volume_discard(control, "v", body, &error));
    json_decref(body);
}

/* An operation of the background may wait as long as it likes, and its file with it. */
static void work_that_waits_is_not_stuck(void **state)
{
    begin(need_volume);
    add_operation("volume-import");
    must_be_well();
    control_close(control);
}

static void what_is_whole_has_no_findings(void **state)
{
    static void (*const states[])(struct control *) = {
        need_nothing,   need_pool,           need_volume,         need_attached,
        need_two_users, need_two_snapshots,  need_middle_deleted, need_lowest_deleted,
        need_image,     need_deleted_in_use, need_trash,
    };
    for (unsigned i = 0; i < ARRAY_LEN(states); i++) {
        begin(states[i]);
        json_decref(ask("{\"repair\": \"all\", \"deep\": true}"));
        check_all(control);
        control_close(control);
    }
}

static void requests_are_checked(void **state)
{
    static const char *const bodies[] = {
        "{\"repair\": [\"no-such-code\"]}",
        "{\"repair\": [\"pool-away\"]}",
        "{\"repair\": 5}",
        "{\"repair\": [5]}",
        "{\"deep\": \"yes\"}",
        "{\"dryrun\": true}",
    };
    begin(need_volume);
    for (unsigned i = 0; i < ARRAY_LEN(bodies); i++) {
        json_t *body = request(bodies[i]);
        assert_int_equal(CALL(control_doctor, control, body), -EINVAL);
        json_decref(body);
    }
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_found_and_repaired_and_nothing_lost),
        cmocka_unit_test(all_at_once),
        cmocka_unit_test(a_volume_works_after_its_repair),
        cmocka_unit_test(work_that_waits_is_not_stuck),
        cmocka_unit_test(what_is_whole_has_no_findings),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
