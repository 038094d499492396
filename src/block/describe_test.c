/*
 * Descriptions from text, and what images may name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/test_drivers.h"
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* The description of @text as sorted, compact JSON, or "error: ...". To be freed. */
static char *described(const char *text, const char *format)
{
    struct hws_error err = {0};
    json_t *object = NULL;
    char *out = NULL;
    if (block_describe(text, format, &object, &err) < 0) {
        assert_true(err.code > 0 && err.text[0]);
        return asprintf(&out, "error: %s", err.text) < 0 ? NULL : out;
    }
    out = json_dumps(object, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(object);
    return out;
}

static void texts_become_descriptions(void **state)
{
#define FILE_A "{\"driver\":\"file\",\"filename\":\"/a/b\"}"
    static const struct {
        const char *text, *format, *json;
    } cases[] = {
        {"/a/b", NULL, "{\"file\":" FILE_A "}"},
        {"/a/b", "layer", "{\"driver\":\"layer\",\"file\":" FILE_A "}"},
        {"/a/b", "raw", "{\"driver\":\"raw\",\"file\":" FILE_A "}"},
        {"layer:file:/a/b", NULL, "{\"driver\":\"layer\",\"file\":" FILE_A "}"},
        {"layer:/a/b", NULL, "{\"driver\":\"layer\",\"file\":" FILE_A "}"},
        {"layer:/a/b", "layer", "{\"driver\":\"layer\",\"file\":" FILE_A "}"},
        {"pass:layer:file:/a/b", NULL,
         "{\"driver\":\"pass\",\"file\":{\"driver\":\"layer\",\"file\":" FILE_A "}}"},
        {"file:/a/b", NULL, FILE_A},
        {"file:/a/b", "raw", "{\"driver\":\"raw\",\"file\":" FILE_A "}"},
        {"file:///a/b", NULL, FILE_A},
        {"file:///a/%62", NULL, FILE_A},
        {"file:a%62", NULL, "{\"driver\":\"file\",\"filename\":\"a%62\"}"},
        /* Only known drivers are prefixes, and file: ends the chain. */
        {"a:b", NULL, "{\"file\":{\"driver\":\"file\",\"filename\":\"a:b\"}}"},
        {"file:layer:x", NULL, "{\"driver\":\"file\",\"filename\":\"layer:x\"}"},
        {"layers:x", NULL, "{\"file\":{\"driver\":\"file\",\"filename\":\"layers:x\"}}"},
        {"./layer:x", NULL, "{\"file\":{\"driver\":\"file\",\"filename\":\"./layer:x\"}}"},
        {"/a/x://b", NULL, "{\"file\":{\"driver\":\"file\",\"filename\":\"/a/x://b\"}}"},
        {"json:{\"driver\":\"null\"}", NULL, "{\"driver\":\"null\"}"},
        {"{\"driver\":\"raw\",\"file\":{}}", NULL, "{\"driver\":\"raw\",\"file\":{}}"},
        {"{\"driver\":\"file\",\"filename\":\"/a/b\"}", "layer",
         "{\"driver\":\"layer\",\"file\":" FILE_A "}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        autofree char *json = described(cases[i].text, cases[i].format);
        assert_string_equal(json, cases[i].json);
    }
}

static void broken_texts_are_refused_with_a_reason(void **state)
{
    static const struct {
        const char *text, *format, *why;
    } cases[] = {
        {"", NULL, "empty"},
        {"layer:", NULL, "empty"},
        {"nbd://host/x", NULL, "no driver is called 'nbd'"},
        {"/a/b", "qcow9", "no format is called 'qcow9'"},
        {"/a/b", "file", "no format is called 'file'"},
        {"layer:/a/b", "raw", "the description says 'layer'"},
        {"file://host/a", NULL, "absolute"},
        {"file:///a%0", NULL, "hex digits"},
        {"file:///a%00b", NULL, "hex digits"},
        {"json:[1]", NULL, "not an object"},
        {"json:{", NULL, "line 1"},
        {"{\"a\":1,\"a\":2}", NULL, "broken"},
        {"pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:pass:x",
         NULL, "more than"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        autofree char *text = described(cases[i].text, cases[i].format);
        if (strncmp(text, "error: ", 7) != 0 || !strstr(text, cases[i].why))
            fail_msg("'%s': %s", cases[i].text, text);
    }
}

static void json_is_bounded_in_depth_and_size(void **state)
{
    enum { DEPTH = 100000 };
    autofree char *text = malloc(DEPTH + 1);
    for (size_t length = 50; length <= DEPTH; length *= 10) {
        memset(text, '[', length);
        text[0] = '{';
        text[length] = '\0';
        autofree char *got = described(text, NULL);
        assert_non_null(strstr(got, length < 65536 ? "nested deeper" : "longer than"));
    }
    /* Brackets in strings do not count. */
    autofree char *flat = described(
        "{\"driver\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[\"}", NULL);
    assert_true(strncmp(flat, "{\"driver\"", 9) == 0);
}

/* ---- policy ---- */

/* "path in folder", "as written", or "refused". To be freed. */
static char *resolved(const char *const *allow, const char *naming, const char *name)
{
    struct block_policy policy = {.allow = allow};
    struct hws_error err = {0};
    autofree char *path = NULL, *beneath = NULL;
    char *out = NULL;
    int r = policy_resolve(&policy, naming, name, &path, &beneath, &err);
    if (r == -EACCES)
        return strdup("refused");
    if (r < 0)
        return strdup(err.text);
    if (!path)
        return strdup("as written");
    return asprintf(&out, "%s in %s", path, beneath) < 0 ? NULL : out;
}

static void named_files_stay_in_the_folder_of_the_image(void **state)
{
    static const struct {
        const char *naming, *name, *want;
    } cases[] = {
        {"/i/top", "base", "/i/base in /i"},
        {"/i/top", "./x//base", "/i/x/base in /i"},
        {"/i/top", "x/../base", "/i/base in /i"},
        {"/i/top", "/i/base", "/i/base in /i"},
        {"/i/top", "file:base", "/i/base in /i"},
        {"/i/top", "a:b", "/i/a:b in /i"},
        {"/top", "base", "/base in /"},
        {"top", "base", "base in ."},
        {"d/top", "base", "d/base in d"},
        {"../d/top", "base", "../d/base in ../d"},
        {"d/top", "../d/base", "d/base in d"},
        {"/i/top", "../base", "refused"},
        {"/i/top", "x/../../base", "refused"},
        {"/i/top", "/etc/shadow", "refused"},
        {"/i/top", "/dev/sda", "refused"},
        {"/i/top", "/i2/base", "refused"},
        {"/i/top", "/i/../etc/shadow", "refused"},
        {"/i/top", "file:../x", "refused"},
        {"/i/top", "file:/etc/shadow", "refused"},
        {"/i/top", "file:///i/base", "refused"},
        {"/i/top", "//etc/shadow", "refused"},
        {"/i/top", "nbd://host/export", "refused"},
        {"/i/top", "nbd:host:10809", "/i/nbd:host:10809 in /i"}, /* a path: no such driver here */
        {"/i/top", "json:{\"driver\":\"file\"}", "refused"},
        {"/i/top", "{\"driver\":\"file\"}", "refused"},
        {"/i/top", "raw:/etc/shadow", "refused"},
        {"/i/top", "file:file:/etc/shadow", "refused"},
        {"/i/top", "file:json:{}", "refused"},
        {"top", "../base", "refused"},
        {"top", "/etc/shadow", "refused"},
        {"/i/top", "", "'/i/top' names a file with an empty name"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        autofree char *got = resolved(NULL, cases[i].naming, cases[i].name);
        if (strcmp(got, cases[i].want) != 0)
            fail_msg("'%s' names '%s': %s, not %s", cases[i].naming, cases[i].name, got,
                     cases[i].want);
    }
}

static void a_policy_allows_folders_files_and_exact_words(void **state)
{
    static const char *const allow[] = {"/pool/", "/one/file", "nbd://host/export", NULL};
    static const char *const all[] = {"/", NULL};
    static const char *const none[] = {NULL};
    static const struct {
        const char *const *allow;
        const char *naming, *name, *want;
    } cases[] = {
        {allow, "/i/top", "/pool/a", "/pool/a in /pool"},
        {allow, "/i/top", "/pool/../etc/shadow", "refused"},
        {allow, "/i/top", "/pool2/a", "refused"},
        {allow, "/i/top", "/one/file", "/one/file in /one"},
        {allow, "/i/top", "/one/file2", "refused"},
        {allow, "/i/top", "base", "refused"},
        {allow, "/pool/x/top", "../base", "/pool/base in /pool"},
        {allow, "/i/top", "nbd://host/export", "as written"},
        {allow, "/i/top", "nbd://host/export2", "refused"},
        {all, "/i/top", "/etc/shadow", "/etc/shadow in /"},
        {all, "/i/top", "json:{}", "refused"},
        {none, "/i/top", "base", "refused"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        autofree char *got = resolved(cases[i].allow, cases[i].naming, cases[i].name);
        if (strcmp(got, cases[i].want) != 0)
            fail_msg("'%s' names '%s': %s, not %s", cases[i].naming, cases[i].name, got,
                     cases[i].want);
    }
}

static void relative_and_absolute_paths_are_compared_in_one_form(void **state)
{
    char folder[PATH_MAX];
    autofree char *name = NULL, *want = NULL;
    assert_non_null(getcwd(folder, sizeof(folder)));
    assert_true(asprintf(&name, "%s/images/base", folder) > 0);
    assert_true(asprintf(&want, "%s/images/base in %s/images", folder, folder) > 0);
    autofree char *got = resolved(NULL, "images/top", name);
    assert_string_equal(got, want);
    const char *const allow[] = {folder, NULL};
    autofree char *second = resolved(allow, "images/top", "../x");
    free(want);
    assert_true(asprintf(&want, "%s/x in %s", folder, folder) > 0);
    assert_string_equal(second, want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_become_descriptions),
        cmocka_unit_test(broken_texts_are_refused_with_a_reason),
        cmocka_unit_test(json_is_bounded_in_depth_and_size),
        cmocka_unit_test(named_files_stay_in_the_folder_of_the_image),
        cmocka_unit_test(a_policy_allows_folders_files_and_exact_words),
        cmocka_unit_test(relative_and_absolute_paths_are_compared_in_one_form),
    };
    test_drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
