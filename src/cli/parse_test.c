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

/* ---- verbs ---- */

struct verb_options {
    uint64_t number, time;
    bool flag, everywhere;
};

static const struct cli_verb verbs[] = {
    {"list", "", "show all"},
    {"show", "THING", "show one"},
    {"move", "THING NAME", "rename"},
    {"make", "NAME [SIZE]", "one more"},
    {"drop", "THING...", "some less"},
    {"wait", "[THING...]", "for all or some"},
    {"bind", "NAME THING...", "together"},
    {NULL},
};

static const struct cli_option verb_table[] = {
    {"number", 'n', CLI_NUMBER, offsetof(struct verb_options, number), "N", "of",
     .verbs = "make move"},
    {"time", 't', CLI_TIME, offsetof(struct verb_options, time), "TIME", "of", .verbs = "make"},
    {"flag", 'f', CLI_FLAG, offsetof(struct verb_options, flag), NULL, "of", .verbs = "move"},
    {"everywhere", 'e', CLI_FLAG, offsetof(struct verb_options, everywhere), NULL, "of"},
    {NULL},
};

static const struct cli_command verb_command = {
    .name = "thing",
    .options = verb_table,
    .options_bytes = sizeof(struct verb_options),
    .verbs = verbs,
};

/* Parses @line, whose words blanks part. */
static int parse_verb(struct verb_options *options, const char *line)
{
    static char text[256];
    unsigned count = 0;
    snprintf(text, sizeof(text), "%s", line);
    for (char *at = text; *at; at += strspn(at, " ")) {
        argument[count++] = at;
        at += strcspn(at, " ");
        if (*at)
            *at++ = '\0';
    }
    err = (struct hws_error){0};
    return cli_parse(&verb_command, argument, count, options, &err);
}

static void verbs_take_their_operands(void **state)
{
    static const struct {
        const char *line;
        int operands; /* -1: refused */
    } cases[] = {
        {"list", 1},     {"list x", -1},     {"show", -1},       {"show x", 2},   {"show x y", -1},
        {"move x", -1},  {"move x y", 3},    {"move x y z", -1}, {"make", -1},    {"make x", 2},
        {"make x y", 3}, {"make x y z", -1}, {"drop", -1},       {"drop x", 2},   {"drop x y z", 4},
        {"wait", 1},     {"wait x y", 3},    {"bind x", -1},     {"bind x y", 3}, {"bind x y z", 4},
        {"", -1},        {"x", -1},          {"lists", -1},
    };
    struct verb_options o = {0};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        if (parse_verb(&o, cases[i].line) != cases[i].operands)
            fail_msg("'%s': %s", cases[i].line, err.text);
    fails_with(parse_verb(&o, "lits"), "did you mean 'list'?");
    fails_with(parse_verb(&o, "move x"), "usage: hawser thing move THING NAME");
    fails_with(parse_verb(&o, "list x"), "unexpected 'x'; usage: hawser thing list");
    fails_with(parse_verb(&o, ""), "say what to do");
}

static void options_go_with_their_verbs(void **state)
{
    struct verb_options o = {0};
    assert_int_equal(parse_verb(&o, "make x"), 2);
    assert_true(o.number == UINT64_MAX && o.time == UINT64_MAX);
    assert_int_equal(parse_verb(&o, "-n 0 make -e x"), 2);
    assert_true(o.number == 0 && o.everywhere);
    assert_int_equal(parse_verb(&o, "move -f x y -n7"), 3);
    fails_with(parse_verb(&o, "list -n7"), "--number does not go with 'thing list'");
    fails_with(parse_verb(&o, "make -f x"), "--flag does not go with 'thing make'");
    fails_with(parse_verb(&o, "--time=1 move x y"), "--time does not go with 'thing move'");
    assert_true(cli_is_among("a", NULL) && cli_is_among("b", "a b c") &&
                cli_is_among("c", "a b c"));
    assert_false(cli_is_among("a", "") || cli_is_among("a", "ab b") || cli_is_among("", "a b"));
}

static void times_have_units(void **state)
{
    static const struct {
        const char *line;
        uint64_t seconds;
    } cases[] = {
        {"make x --time=0", 0},        {"make x --time=90", 90},
        {"make x --time=90s", 90},     {"make x --time=10m", 600},
        {"make x --time=12h", 43200},  {"make x --time=7d", 604800},
        {"make x --time=2w", 1209600}, {"make x -t4294967295w", (uint64_t)UINT32_MAX * 604800},
    };
    static const char *const bad[] = {
        "make x --time=",           "make x --time=m",
        "make x --time=-1",         "make x --time=1.5h",
        "make x --time=1y",         "make x --time=1hh",
        "make x --time=4294967296", "make x --time=99999999999999999999"};
    struct verb_options o = {0};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(parse_verb(&o, cases[i].line), 2);
        assert_true(o.time == cases[i].seconds);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        fails_with(parse_verb(&o, bad[i]), "is no time such as");
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
        cmocka_unit_test(verbs_take_their_operands),
        cmocka_unit_test(options_go_with_their_verbs),
        cmocka_unit_test(times_have_units),
        cmocka_unit_test(the_nearest_word_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
