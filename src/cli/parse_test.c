/*
 * The option parser: every way to write an option, and every way to write one wrong.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct options {
    bool flag, quiet;
    const char *text;
    int choice;
    uint64_t size, number;
    struct cli_list list;
};

static const char *const words[] = {"one", "two", NULL};

static const struct cli_option table[] = {
    {"flag", 'f', CLI_FLAG, offsetof(struct options, flag), NULL, "a flag"},
    {"quiet", 'q', CLI_FLAG, offsetof(struct options, quiet), NULL, "another"},
    {"text", 't', CLI_TEXT, offsetof(struct options, text), "TEXT", "a text"},
    {"choice", 'c', CLI_CHOICE, offsetof(struct options, choice), "WORD", "a word", words},
    {"size", 's', CLI_SIZE, offsetof(struct options, size), "SIZE", "a size"},
    {"number", 'n', CLI_UINT, offsetof(struct options, number), "N", "a number"},
    {"list", 'l', CLI_LIST, offsetof(struct options, list), "ITEM", "many"},
    {NULL},
};

static const struct cli_command command = {
    .name = "test",
    .operands = {{"FIRST", "", 0}, {"SECOND", "", 0}},
    .options = table,
    .options_bytes = sizeof(struct options),
    .operands_min = 1,
    .operands_max = 2,
};

#define ARGUMENTS_MAX 80

static char *argument[ARGUMENTS_MAX];
static struct hws_error err;

/* Parses the words up to NULL. */
static int parse(struct options *options, ...)
{
    va_list args;
    unsigned count = 0;
    va_start(args, options);
    for (char *word; (word = va_arg(args, char *)) && count < ARGUMENTS_MAX;)
        argument[count++] = word;
    va_end(args);
    err = (struct hws_error){0};
    return cli_parse(&command, argument, count, options, &err);
}

static void options_are_unset_at_first(void **state)
{
    struct options o;
    assert_int_equal(parse(&o, "a", NULL), 1);
    assert_false(o.flag);
    assert_null(o.text);
    assert_int_equal(o.choice, -1);
    assert_true(o.size == UINT64_MAX);
    assert_int_equal(o.number, 0);
    assert_int_equal(o.list.count, 0);
}

static void every_way_to_write_an_option_works(void **state)
{
    struct options o;
    assert_int_equal(
        parse(&o, "--flag", "a", "--text=x", "--size", "1k", "-n5", "-c", "two", "b", NULL), 2);
    assert_true(o.flag);
    assert_string_equal(o.text, "x");
    assert_int_equal(o.size, 1024);
    assert_int_equal(o.number, 5);
    assert_int_equal(o.choice, 1);
    assert_string_equal(argument[0], "a");
    assert_string_equal(argument[1], "b");
    assert_int_equal(parse(&o, "-fqtx=y", "a", NULL), 1);
    assert_true(o.flag && o.quiet);
    assert_string_equal(o.text, "x=y");
    assert_int_equal(parse(&o, "--text=", "-l1", "--list=2", "-l", "3", "a", NULL), 1);
    assert_string_equal(o.text, "");
    assert_int_equal(o.list.count, 3);
    assert_string_equal(o.list.item[2], "3");
    assert_null(o.list.item[3]);
}

static void operands_may_look_like_options(void **state)
{
    struct options o;
    assert_int_equal(parse(&o, "a", "-10G", NULL), 2);
    assert_string_equal(argument[1], "-10G");
    assert_int_equal(parse(&o, "--", "--flag", "-x", NULL), 2);
    assert_string_equal(argument[0], "--flag");
    assert_false(o.flag);
    assert_int_equal(parse(&o, "-", NULL), 1);
}

static void fails_with(int result, const char *text)
{
    assert_int_equal(result, -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
}

static void mistakes_are_explained(void **state)
{
    struct options o;
    fails_with(parse(&o, NULL), "FIRST is missing");
    fails_with(parse(&o, "a", "b", "c", NULL), "unexpected 'c'");
    fails_with(parse(&o, "--flg", "a", NULL), "did you mean --flag?");
    fails_with(parse(&o, "--zzzzzz", "a", NULL), "'hawser test --help' lists them");
    fails_with(parse(&o, "-z", "a", NULL), "unknown option -z");
    fails_with(parse(&o, "--flag=1", "a", NULL), "takes no value");
    fails_with(parse(&o, "a", "--text", NULL), "--text needs a value");
    fails_with(parse(&o, "a", "-t", NULL), "-t needs a value");
    fails_with(parse(&o, "a", "--choice=three", NULL), "'three' is none of: one, two");
    fails_with(parse(&o, "a", "--size=1x", NULL), "--size");
    fails_with(parse(&o, "a", "--number=-1", NULL), "not a number");
    fails_with(parse(&o, "a", "--number=99999999999999999999", NULL), "not a number");
    assert_int_equal(parse(&o, "a", "--help", NULL), -2);
    assert_int_equal(parse(&o, "-fh", NULL), -2);
}

static void lists_are_bounded(void **state)
{
    struct options o;
    for (unsigned i = 0; i <= CLI_LIST_MAX; i++)
        argument[i] = (char *)"-lx";
    err = (struct hws_error){0};
    fails_with(cli_parse(&command, argument, CLI_LIST_MAX + 1, &o, &err), "more than 64 times");
}

static void the_nearest_word_is_near(void **state)
{
    static const char *const known[] = {"create", "check", "snapshot", NULL};
    assert_string_equal(cli_nearest("creat", known), "create");
    assert_string_equal(cli_nearest("chekc", known), "check");
    assert_string_equal(cli_nearest("snap", known), "snapshot");
    assert_null(cli_nearest("zebra", known));
    assert_null(cli_nearest("", known));
    assert_null(cli_nearest("a-word-that-is-far-too-long-to-be-any-of-them", known));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_unset_at_first),
        cmocka_unit_test(every_way_to_write_an_option_works),
        cmocka_unit_test(operands_may_look_like_options),
        cmocka_unit_test(mistakes_are_explained),
        cmocka_unit_test(lists_are_bounded),
        cmocka_unit_test(the_nearest_word_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
