/*
 * Option tables: values, errors, text form, schema.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/options.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct sample {
    bool lazy;
    uint64_t count, size;
    char *name;
    int codec;
};

static const char *const codecs[] = {"zlib", "zstd", NULL};
static const struct option_desc table[] = {
    {"lazy", OPTION_BOOL, offsetof(struct sample, lazy), "be lazy", "off"},
    {"count", OPTION_UINT, offsetof(struct sample, count), "how many", "3", .min = 1, .max = 9},
    {"cluster_size", OPTION_SIZE, offsetof(struct sample, size), "bytes", "64k", .min = 512},
    {"name", OPTION_STRING, offsetof(struct sample, name), "what it is called", .required = true},
    {"codec", OPTION_ENUM, offsetof(struct sample, codec), "compression", "zlib",
     .choices = codecs},
    OPTION_END,
};
struct listed {
    char **names;
};

static const struct option_desc list_table[] = {
    {"names", OPTION_LIST, offsetof(struct listed, names), "whom", .max = 3},
    OPTION_END,
};
static const char *const ignored[] = {"driver", NULL};

static int parse(const char *json, struct sample *out, struct hws_error *err)
{
    json_t *object = json_loads(json, JSON_ALLOW_NUL, NULL);
    assert_non_null(object);
    int r = options_parse(table, object, ignored, "sample", out, sizeof(*out), err);
    json_decref(object);
    return r;
}

static void values_come_as_native_types_and_as_text(void **state)
{
    static const char *const same[] = {
        "{\"driver\":\"x\",\"name\":\"n\",\"lazy\":true,\"count\":9,\"cluster_size\":1048576,"
        "\"codec\":\"zstd\"}",
        "{\"name\":\"n\",\"lazy\":\"on\",\"count\":\"9\",\"cluster_size\":\"1M\",\"codec\":"
        "\"zstd\"}",
    };
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        struct sample s;
        assert_int_equal(parse(same[i], &s, NULL), 0);
        assert_true(s.lazy && s.count == 9 && s.size == MiB && s.codec == 1);
        assert_string_equal(s.name, "n");
        options_free(table, &s);
        assert_null(s.name);
    }
}

static void defaults_fill_what_is_not_given(void **state)
{
    struct sample s;
    assert_int_equal(parse("{\"name\":\"\"}", &s, NULL), 0);
    assert_true(!s.lazy && s.count == 3 && s.size == 64 * KiB && s.codec == 0);
    options_free(table, &s);
}

static void errors_say_what_would_have_been_right(void **state)
{
    static const struct {
        const char *json, *text;
    } bad[] = {
        {"{}", "sample: option 'name' is missing"},
        {"{\"name\":\"n\",\"clustersize\":1}", "did you mean 'cluster_size'"},
        {"{\"name\":\"n\",\"zzzzzzzz\":1}", "it knows: lazy, count, cluster_size, name, codec"},
        {"{\"name\":\"n\",\"count\":10}", "1..9"},
        {"{\"name\":\"n\",\"count\":-1}", "negative"},
        {"{\"name\":\"n\",\"count\":\"+3\"}", "whole number"},
        {"{\"name\":\"n\",\"count\":\"99999999999999999999999\"}", "whole number"},
        {"{\"name\":\"n\",\"cluster_size\":511}", "at least 512"},
        {"{\"name\":\"n\",\"cluster_size\":\"1x\"}", "cluster_size"},
        {"{\"name\":\"n\",\"codec\":\"lzma\"}", "zlib, zstd"},
        {"{\"name\":\"n\",\"lazy\":\"maybe\"}", "on or off"},
        {"{\"name\":\"n\",\"lazy\":3}", "wrong type"},
        {"{\"name\":3}", "wrong type"},
        {"{\"name\":\"a\\u0000b\"}", "NUL"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct sample s;
        struct hws_error err = {0};
        int r = parse(bad[i].json, &s, &err);
        if (r != -EINVAL || !strstr(err.text, bad[i].text))
            fail_msg("%s: %d %s", bad[i].json, r, err.text);
    }
    struct sample s;
    json_t *array = json_array();
    assert_int_equal(options_parse(table, array, NULL, "sample", &s, sizeof(s), NULL), -EINVAL);
    json_decref(array);
}

static int parse_list(const char *json, struct listed *out, struct hws_error *err)
{
    json_t *object = json_loads(json, JSON_ALLOW_NUL, NULL);
    assert_non_null(object);
    int r = options_parse(list_table, object, NULL, "sample", out, sizeof(*out), err);
    json_decref(object);
    return r;
}

static void lists_are_arrays_or_one_text(void **state)
{
    struct listed s;
    assert_int_equal(parse_list("{}", &s, NULL), 0);
    assert_null(s.names);
    assert_int_equal(parse_list("{\"names\":[]}", &s, NULL), 0);
    assert_true(s.names && !s.names[0]);
    options_free(list_table, &s);
    assert_int_equal(parse_list("{\"names\":\"a\"}", &s, NULL), 0);
    assert_true(!strcmp(s.names[0], "a") && !s.names[1]);
    options_free(list_table, &s);
    assert_int_equal(parse_list("{\"names\":[\"a\",\"\",\"c\"]}", &s, NULL), 0);
    assert_true(!strcmp(s.names[0], "a") && !*s.names[1] && !strcmp(s.names[2], "c"));
    options_free(list_table, &s);
    assert_null(s.names);

    static const struct {
        const char *json, *text;
        int error;
    } bad[] = {
        {"{\"names\":[\"a\",\"b\",\"c\",\"d\"]}", "lists 4; up to 3", -E2BIG},
        {"{\"names\":[\"a\",1]}", "a list of texts", -EINVAL},
        {"{\"names\":[\"a\\u0000b\"]}", "without NUL", -EINVAL},
        {"{\"names\":{}}", "it is a list", -EINVAL},
        {"{\"names\":1}", "it is a list", -EINVAL},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct hws_error err = {0};
        int r = parse_list(bad[i].json, &s, &err);
        if (r != bad[i].error || !strstr(err.text, bad[i].text))
            fail_msg("%s: %d %s", bad[i].json, r, err.text);
    }
}

static void text_is_cut_at_single_commas(void **state)
{
    json_t *object = json_object();
    assert_int_equal(options_from_text("a=1,b=x,,y,c=d=e,f=", object, NULL), 0);
    assert_string_equal(json_string_value(json_object_get(object, "a")), "1");
    assert_string_equal(json_string_value(json_object_get(object, "b")), "x,y");
    assert_string_equal(json_string_value(json_object_get(object, "c")), "d=e");
    assert_string_equal(json_string_value(json_object_get(object, "f")), "");
    assert_int_equal(json_object_size(object), 4);
    json_decref(object);
}

static void broken_text_is_refused(void **state)
{
    static const char *const bad[] = {"a", "=1", "a=1,", "a=1,a=2", "a=1,b", "a=\xff\xfe"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct hws_error err = {0};
        json_t *object = json_object();
        assert_int_equal(options_from_text(bad[i], object, &err), -EINVAL);
        assert_true(err.text[0]);
        json_decref(object);
    }
}

static void the_schema_tells_everything_that_the_table_does(void **state)
{
    json_t *schema = options_schema(table);
    assert_int_equal(json_array_size(schema), 5);
    json_t *count = json_array_get(schema, 1), *codec = json_array_get(schema, 4);
    assert_string_equal(json_string_value(json_object_get(count, "type")), "uint");
    assert_int_equal(json_integer_value(json_object_get(count, "max")), 9);
    assert_string_equal(json_string_value(json_object_get(count, "default")), "3");
    assert_int_equal(json_array_size(json_object_get(codec, "choices")), 2);
    assert_true(json_is_true(json_object_get(json_array_get(schema, 3), "required")));
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_as_native_types_and_as_text),
        cmocka_unit_test(defaults_fill_what_is_not_given),
        cmocka_unit_test(errors_say_what_would_have_been_right),
        cmocka_unit_test(lists_are_arrays_or_one_text),
        cmocka_unit_test(text_is_cut_at_single_commas),
        cmocka_unit_test(broken_text_is_refused),
        cmocka_unit_test(the_schema_tells_everything_that_the_table_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
