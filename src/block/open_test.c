/*
 * Opening, creating, describing and closing graphs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/test_drivers.h"
#include "base/log.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int open_json(const char *text, unsigned flags, const struct block_policy *policy,
                     struct block_node **ret, struct hws_error *err)
{
    json_t *description = NULL;
    *err = (struct hws_error){0};
    int r = block_describe(text, NULL, &description, err);
    if (r == 0)
        r = co_block_open(description, flags, policy, ret, err);
    json_decref(description);
    return r;
}

/* Opening @text fails with @code and says @why; everything that it opened is closed again. */
static void assert_refused(const char *text, unsigned flags, int code, const char *why)
{
    struct hws_error err;
    struct block_node *node = NULL;
    int r = open_json(text, flags, NULL, &node, &err);
    if (r != -code || !strstr(err.text, why))
        fail_msg("%s: %d '%s', not %d '%s'", text, r, err.text, -code, why);
    assert_null(node);
}

static void check_descriptions(void *arg)
{
    test_disk_new("d", 4096);
    assert_refused("json:{\"driver\":3}", 0, EINVAL, "string");
    assert_refused("json:{\"driver\":\"nope\"}", 0, EINVAL, "no driver is called 'nope'");
    assert_refused("json:{}", 0, EINVAL, "names no driver");
    assert_refused("d", 0, EINVAL, "names no format");
    assert_refused("json:{\"driver\":\"raw\"}", 0, EINVAL, "needs a 'file'");
    assert_refused("json:{\"driver\":\"raw\",\"file\":\"d\"}", 0, EINVAL, "must be an object");
    assert_refused("json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"d\"},"
                   "\"backing\":{}}",
                   0, EINVAL, "no backing");
    assert_refused("json:{\"driver\":\"file\",\"filename\":\"d\",\"file\":{}}", 0, EINVAL,
                   "takes no 'file'");
    assert_refused("json:{\"driver\":\"file\",\"filename\":\"d\",\"filenam\":\"d\"}", 0, EINVAL,
                   "did you mean 'filename'");
    assert_refused("raw:missing", 0, ENOENT, "no disk is called 'missing'");
    assert_refused("layer:d", 0, EIO, "no magic");
    assert_true(test_disk_find("d")->closed);
    test_disk_new("huge", 0)->size = (size_t)INT64_MAX;
    assert_refused("raw:huge", 0, EFBIG, "more than the kernel can address");
}

static void broken_descriptions_are_refused_with_a_reason(void **state)
{
    test_run(check_descriptions, NULL);
}

/* {"driver": "pass", "file": {"driver": "pass", ...}} around a layer image. To be freed. */
static char *nested(unsigned filters)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (unsigned i = 0; i < filters; i++)
        fprintf(out, "{\"driver\":\"pass\",\"file\":");
    fprintf(out, "{\"driver\":\"layer\",\"file\":{\"driver\":\"file\",\"filename\":\"l\"}}");
    for (unsigned i = 0; i < filters; i++)
        fputc('}', out);
    fclose(out);
    return text;
}

static void check_nesting(void *arg)
{
    test_layer_new("l", 4096, NULL, NULL);
    autofree char *deepest = nested(BLOCK_NESTING_MAX - 1), *too_deep = nested(BLOCK_NESTING_MAX);
    struct block_node *node = test_open(deepest, BLOCK_OPEN_WRITE);
    json_t *info = NULL;
    uint8_t bytes[100] = {0};
    struct iovec iov;
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    json_decref(info);
    assert_int_equal(co_block_write(node, 100, sgl_one(&iov, bytes, 100), 0), 0);
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_refused(too_deep, 0, ELOOP, "nests files deeper than 16");
    assert_true(test_disk_find("l")->closed);
}

static void files_nest_to_a_limit_that_fits_the_stack(void **state)
{
    test_run(check_nesting, NULL);
}

static void check_probe(void *arg)
{
    test_disk_new("d", 4096);
    test_layer_new("l", 4096, NULL, NULL);
    assert_refused("d", BLOCK_OPEN_PROBE, EINVAL, "no header of a known format");
    struct block_node *node = test_open("l", BLOCK_OPEN_PROBE | BLOCK_OPEN_WRITE);
    assert_string_equal(block_driver_name(node), "layer");
    assert_string_equal(block_filename(node), "l");
    assert_false(block_is_read_only(node));
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_true(test_disk_find("l")->closed && test_disk_find("d")->closed);
}

static void probing_finds_headers_and_never_answers_raw(void **state)
{
    test_run(check_probe, NULL);
}

static void check_backing(void *arg)
{
    struct test_disk *base = test_layer_new("/i/base", 4096, NULL, NULL);
    test_layer_new("/i/top", 4096, "base", NULL);
    struct block_node *node = test_open("layer:/i/top", BLOCK_OPEN_WRITE);
    struct block_node *backing = block_child(node, BLOCK_BACKING);
    assert_string_equal(block_driver_name(backing), "layer");
    assert_string_equal(block_filename(backing), "/i/base");
    assert_string_equal(base->beneath, "/i");
    assert_true(block_is_read_only(backing) && base->read_only);
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_true(base->closed);

    node = test_open("layer:/i/top", BLOCK_OPEN_NO_BACKING);
    assert_null(block_child(node, BLOCK_BACKING));
    assert_int_equal(co_block_close(node, NULL), 0);

    /* The description's own word goes before the image's. */
    test_disk_new("/x/other", 4096);
    node = test_open("{\"driver\":\"layer\",\"file\":{\"driver\":\"file\",\"filename\":\"/i/top\"},"
                     "\"backing\":{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":"
                     "\"/x/other\"}}}",
                     0);
    assert_string_equal(block_driver_name(block_child(node, BLOCK_BACKING)), "raw");
    assert_int_equal(co_block_close(node, NULL), 0);
    node = test_open("{\"driver\":\"layer\",\"file\":{\"driver\":\"file\",\"filename\":\"/i/top\"},"
                     "\"backing\":null}",
                     0);
    assert_null(block_child(node, BLOCK_BACKING));
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void backing_files_are_opened_read_only_as_recorded_or_described(void **state)
{
    test_run(check_backing, NULL);
}

static void check_formats(void *arg)
{
    /* A raw backing file whose guest wrote another format's header stays raw where it is recorded.
     */
    test_layer_new("/i/base", 4096, "/i/secret", NULL);
    test_layer_new("/i/top", 4096, "base", "raw");
    struct block_node *node = test_open("layer:/i/top", 0);
    assert_string_equal(block_driver_name(block_child(node, BLOCK_BACKING)), "raw");
    assert_int_equal(co_block_close(node, NULL), 0);

    test_disk_new("/i/plain", 4096);
    test_layer_new("/i/top", 4096, "plain", NULL);
    assert_refused("layer:/i/top", 0, EINVAL, "no header of a known format");
    test_layer_new("/i/top", 4096, "plain", "file");
    assert_refused("layer:/i/top", 0, EINVAL, "records the format 'file'");
    test_layer_new("/i/top", 4096, "plain", "vmdk9");
    assert_refused("layer:/i/top", 0, EINVAL, "records the format 'vmdk9'");
    test_layer_new("/i/top", 4096, "gone", "layer");
    assert_refused("layer:/i/top", 0, ENOENT, "backing file of '/i/top'");
    assert_true(test_disk_find("/i/top")->closed);
}

static void the_recorded_format_is_honoured_and_none_is_guessed_as_raw(void **state)
{
    test_run(check_formats, NULL);
}

static void check_policy(void *arg)
{
    static const char *const names[] = {"../x/secret",  "/x/secret",        "file:/x/secret",
                                        "nbd://host/x", "json:{\"a\":1}",   "raw:/x/secret",
                                        "/dev/sda",     "file:../x/secret", "layer:/x/secret"};
    struct test_disk *secret = test_layer_new("/x/secret", 4096, NULL, NULL);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        test_layer_new("/i/top", 4096, names[i], NULL);
        assert_refused("layer:/i/top", 0, EACCES, "names '");
    }
    assert_int_equal(secret->opens, 0);

    static const char *const allow[] = {"/x", "json:{\"driver\":\"layer\",\"file\":{}}", NULL};
    struct block_policy policy = {.allow = allow};
    struct block_node *node = NULL;
    struct hws_error err;
    test_layer_new("/i/top", 4096, "/x/secret", NULL);
    assert_int_equal(open_json("layer:/i/top", 0, &policy, &node, &err), 0);
    assert_string_equal(secret->beneath, "/x");
    assert_int_equal(co_block_close(node, NULL), 0);
    /* Allowed word for word: opened as the description that it is. */
    test_layer_new("/i/top", 4096, allow[1], NULL);
    assert_int_equal(open_json("layer:/i/top", 0, &policy, &node, &err), -EINVAL);
    assert_non_null(strstr(err.text, "names no driver"));
}

static void hostile_names_open_nothing(void **state)
{
    test_run(check_policy, NULL);
}

static void check_loops(void *arg)
{
    test_layer_new("/i/self", 4096, "self", "layer");
    assert_refused("layer:/i/self", 0, ELOOP, "'/i/self' is part of the chain already");
    test_layer_new("/i/a", 4096, "b", "layer");
    test_layer_new("/i/b", 4096, "c", "layer");
    test_layer_new("/i/c", 4096, "a", NULL);
    assert_refused("layer:/i/a", 0, ELOOP, "part of the chain");
    assert_true(test_disk_find("/i/c")->closed);

    /* Storage that does not tell what it is: the depth ends it. */
    test_layer_new("/i/self", 512, "self", "layer")->plain_size = true;
    assert_refused("layer:/i/self", 0, ELOOP, "longer than 4096");
    assert_true(test_disk_find("/i/self")->opens == BLOCK_DEPTH_MAX + 1);
}

static void images_that_back_themselves_are_refused(void **state)
{
    test_run(check_loops, NULL);
}

/* ---- creation ---- */

static int create(const char *json, bool overwrite, struct hws_error *err)
{
    json_t *options = json_loads(json, 0, NULL);
    assert_non_null(options);
    *err = (struct hws_error){0};
    int r = co_block_create(options, overwrite, NULL, err);
    json_decref(options);
    return r;
}

static void check_create(void *arg)
{
    struct hws_error err;
    assert_int_equal(create("{\"driver\":\"layer\",\"size\":\"8k\",\"file\":{\"driver\":\"file\","
                            "\"filename\":\"new\"}}",
                            false, &err),
                     0);
    struct block_node *node = test_open("layer:new", BLOCK_OPEN_WRITE);
    assert_int_equal(block_size(node), 8192);
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_int_equal(test_disk_find("new")->removes, 0);

    /* What is there stays, unless it may be overwritten. */
    assert_int_equal(create("{\"driver\":\"layer\",\"size\":\"16k\",\"file\":{\"driver\":\"file\","
                            "\"filename\":\"new\"}}",
                            false, &err),
                     -EEXIST);
    node = test_open("layer:new", 0);
    assert_int_equal(block_size(node), 8192);
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_int_equal(create("{\"driver\":\"layer\",\"size\":\"16k\",\"file\":{\"driver\":\"file\","
                            "\"filename\":\"new\"}}",
                            true, &err),
                     0);

    /* A failure takes away what it made, and only that. */
    assert_int_equal(create("{\"driver\":\"layer\",\"size\":\"8k\",\"fail\":true,\"file\":{"
                            "\"driver\":\"file\",\"filename\":\"half\"}}",
                            false, &err),
                     -EDQUOT);
    assert_null(test_disk_find("half"));
    assert_true(test_disk_find("gone")->removes == 1 && err.text[0]);
    assert_int_equal(create("{\"driver\":\"layer\",\"size\":\"8k\",\"fail\":true,\"file\":{"
                            "\"driver\":\"file\",\"filename\":\"new\"}}",
                            true, &err),
                     -EDQUOT);
    assert_non_null(test_disk_find("new"));

    assert_int_equal(
        create("{\"driver\":\"file\",\"filename\":\"bare\",\"size\":4096}", false, &err), 0);
    assert_int_equal(test_disk_find("bare")->size, 4096);
}

static void creating_replaces_nothing_and_leaves_nothing_behind(void **state)
{
    test_run(check_create, NULL);
}

static void check_create_errors(void *arg)
{
    static const struct {
        const char *json, *why;
    } cases[] = {
        {"{\"size\":1}", "names no driver"},
        {"{\"driver\":\"pass\"}", "cannot be created"},
        {"{\"driver\":\"layer\",\"size\":1}", "needs a 'file'"},
        {"{\"driver\":\"layer\",\"file\":{}}", "'size' is missing"},
        {"{\"driver\":\"layer\",\"siz\":1,\"size\":1,\"file\":{}}", "did you mean 'size'"},
        {"{\"driver\":\"layer\",\"size\":1,\"file\":{\"driver\":\"layer\",\"size\":1}}",
         "made in storage"},
        {"{\"driver\":\"layer\",\"size\":1,\"file\":{\"driver\":\"file\",\"filename\":\"no\","
         "\"x\":1}}",
         "no option 'x'"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct hws_error err;
        int r = create(cases[i].json, false, &err);
        if (r >= 0 || !strstr(err.text, cases[i].why))
            fail_msg("%s: %s", cases[i].json, err.text);
    }
    assert_null(test_disk_find("no"));
}

static void a_typing_error_makes_no_file(void **state)
{
    test_run(check_create_errors, NULL);
}

/* ---- info, corruption, budget ---- */

static void check_info(void *arg)
{
    test_layer_new("/i/base", 4096, NULL, NULL);
    test_layer_new("/i/top", 8192, "base", "layer");
    struct block_node *node = test_open("layer:/i/top", 0);
    json_t *info = NULL;
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    static const char *const texts[][2] = {{"filename", "/i/top"},
                                           {"format", "layer"},
                                           {"backing-filename", "base"},
                                           {"full-backing-filename", "/i/base"},
                                           {"backing-filename-format", "layer"}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        assert_string_equal(json_string_value(json_object_get(info, texts[i][0])), texts[i][1]);
    assert_int_equal(json_integer_value(json_object_get(info, "virtual-size")), 8192);
    assert_int_equal(json_integer_value(json_object_get(info, "cluster-size")), 512);
    assert_int_equal(json_integer_value(json_object_get(info, "actual-size")),
                     test_disk_find("/i/top")->size);
    assert_true(json_is_false(json_object_get(info, "dirty-flag")));
    assert_int_equal(json_array_size(json_object_get(info, "children")), 1);
    json_decref(info);

    struct block_check check = {0};
    struct hws_error err = {0};
    assert_int_equal(co_block_check(node, 0, &check, &err), -ENOTSUP);

    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(block_corrupt(node, 0x200, &err, "entry %u is odd", i), -EIO);
    assert_string_equal(err.text, "'/i/top' is corrupt at offset 0x200: entry 2 is odd");
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    assert_int_equal(json_integer_value(json_object_get(info, "corruptions-met")), 3);
    json_decref(info);

    uint64_t budget = block_cache_budget(node->context);
    assert_true(block_cache_reserve(node->context, budget));
    assert_false(block_cache_reserve(node->context, 1));
    block_cache_release(node->context, budget);
    assert_false(block_cache_reserve(node->context, UINT64_MAX));
    assert_int_equal(co_block_close(node, NULL), 0);
}

static unsigned logged;

static void count_line(enum log_level level, const char *line, void *arg)
{
    logged++;
}

static void info_tells_what_qemu_img_tells_and_corruption_is_counted(void **state)
{
    log_set_sink(count_line, NULL);
    test_run(check_info, NULL);
    log_set_sink(NULL, NULL);
    assert_int_equal(logged, 1);
}

static void check_close(void *arg)
{
    struct test_disk *disk = test_disk_new("d", 4096);
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    assert_ptr_equal(block_ref(node), node);
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_false(disk->closed);
    disk->flush_errors = 10;
    struct hws_error err = {0};
    assert_int_equal(co_block_close(node, &err), -EIO);
    assert_true(disk->closed && strstr(err.text, "flushing 'd'"));
    assert_int_equal(co_block_close(NULL, NULL), 0);
}

static void the_last_close_flushes_and_tells_what_failed(void **state)
{
    test_run(check_close, NULL);
}

static int teardown(void **state)
{
    test_disks_free();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_descriptions_are_refused_with_a_reason),
        cmocka_unit_test(files_nest_to_a_limit_that_fits_the_stack),
        cmocka_unit_test(probing_finds_headers_and_never_answers_raw),
        cmocka_unit_test(backing_files_are_opened_read_only_as_recorded_or_described),
        cmocka_unit_test(the_recorded_format_is_honoured_and_none_is_guessed_as_raw),
        cmocka_unit_test(hostile_names_open_nothing),
        cmocka_unit_test(images_that_back_themselves_are_refused),
        cmocka_unit_test(creating_replaces_nothing_and_leaves_nothing_behind),
        cmocka_unit_test(a_typing_error_makes_no_file),
        cmocka_unit_test(info_tells_what_qemu_img_tells_and_corruption_is_counted),
        cmocka_unit_test(the_last_close_flushes_and_tells_what_failed),
    };
    test_drivers_register();
    return cmocka_run_group_tests(tests, NULL, teardown);
}
