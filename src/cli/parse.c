/*
 * The option parser of all subcommands: --name=value, --name value, -x value, -xvalue, -xy, "--".
 * Works from the command's table, and suggests what was probably meant.
 *
 * An argument such as "-10G" is an operand, not an option, so that `resize IMAGE -10G` reads as it
 * is written.
 *
 * A command with verbs takes, of its options, those that go with the verb.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/command.h"
#include <ctype.h>
#include <limits.h>

const char *const cli_output_choices[] = {"human", "json", NULL};
const char *const cli_completion_names[] = {
    [CLI_COMPLETE_NONE] = "none",
    [CLI_COMPLETE_FILE] = "file",
    [CLI_COMPLETE_FOLDER] = "folder",
    [CLI_COMPLETE_FORMAT] = "format",
    [CLI_COMPLETE_ATTACHMENT] = "attachment",
    [CLI_COMPLETE_COMMAND] = "command",
    [CLI_COMPLETE_POOL] = "pool",
    [CLI_COMPLETE_CLASS] = "class",
    [CLI_COMPLETE_VOLUME] = "volume",
    [CLI_COMPLETE_SNAPSHOT] = "snapshot",
    [CLI_COMPLETE_JOB] = "job",
    [CLI_COMPLETE_SECRET] = "secret",
    [CLI_COMPLETE_EXPORT] = "export",
    [CLI_COMPLETE_GROUP] = "group",
    [CLI_COMPLETE_GROUP_SNAPSHOT] = "group-snapshot",
    [CLI_COMPLETE_SCHEDULE] = "schedule",
    [CLI_COMPLETE_TRASH] = "trash",
};

#define PARSE_ERROR (-1)
#define PARSE_HELP  (-2)
#define NAMES_MAX   48

struct parser {
    const struct cli_command *command;
    char **arguments;
    unsigned count, at, operands;
    uint8_t *options;
    uint64_t given; /* a bit for each of the table's rows */
    struct hws_error *err;
};

/* Edits that turn @a into @b: insertions, deletions, replacements. Words longer than 31 are far. */
static unsigned edit_distance(const char *a, const char *b)
{
    size_t m = strlen(a), n = strlen(b);
    if (m > 31 || n > 31)
        return 99;
    unsigned row[32];
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; i <= m; i++) {
        unsigned corner = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            unsigned best = MIN(row[j], row[j - 1]) + 1, replaced = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            row[j] = MIN(replaced, best);
        }
    }
    return row[n];
}

const char *cli_nearest(const char *word, const char *const *known)
{
    const char *best = NULL;
    unsigned best_distance = (unsigned)MIN(strlen(word) / 2, (size_t)2) + 1;
    for (; *known; known++) {
        unsigned distance = edit_distance(word, *known);
        if (strlen(word) >= 3 && !strncmp(word, *known, strlen(word)))
            distance = MIN(distance, 1u);
        if (distance < best_distance) {
            best_distance = distance;
            best = *known;
        }
    }
    return best;
}

bool cli_is_among(const char *word, const char *words)
{
    size_t length = strlen(word);
    for (const char *at = words; at && *at; at += strcspn(at, " "), at += *at == ' ')
        if (strcspn(at, " ") == length && !strncmp(at, word, length))
            return true;
    return !words;
}

const struct cli_verb *cli_verb_find(const struct cli_command *command, const char *name)
{
    for (const struct cli_verb *verb = command->verbs; verb && verb->name; verb++)
        if (!strcmp(verb->name, name))
            return verb;
    return NULL;
}

void cli_verb_operands(const struct cli_verb *verb, unsigned *ret_min, unsigned *ret_max)
{
    *ret_min = *ret_max = 0;
    for (const char *at = verb->operands; *at; at += *at == ' ') {
        size_t length = strcspn(at, " ");
        *ret_min += at[0] != '[';
        *ret_max = strstr(at, "...") && strstr(at, "...") < at + length ? UINT_MAX : *ret_max + 1;
        at += length;
    }
}

static int HWS_PRINTF(2, 3) fail(struct parser *p, const char *format, ...)
{
    char text[HWS_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    hws_fail(p->err, EINVAL, "%s", text);
    return PARSE_ERROR;
}

static int set_choice(struct parser *p, const struct cli_option *option, const char *value)
{
    for (int i = 0; option->choices[i]; i++) {
        if (!strcmp(option->choices[i], value)) {
            *(int *)(p->options + option->offset) = i;
            return 0;
        }
    }
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; option->choices[i] && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
                                 option->choices[i]);
    return fail(p, "--%s: '%s' is none of: %s", option->name, value, list);
}

static int set_number(struct parser *p, const struct cli_option *option, const char *value)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || errno)
        return fail(p, "--%s: '%s' is not a number", option->name, value);
    *(uint64_t *)(p->options + option->offset) = number;
    return 0;
}

/* "90", or a number of minutes, hours, days or weeks. */
static int set_time(struct parser *p, const struct cli_option *option, const char *value)
{
    static const struct {
        const char *suffix;
        uint64_t seconds;
    } units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 604800}};
    char *end;
    errno = 0;
    unsigned long long number = strtoull(value, &end, 10);
    if (isdigit((unsigned char)*value) && !errno)
        for (unsigned i = 0; i < ARRAY_LEN(units); i++)
            if (!strcmp(end, units[i].suffix) && number <= UINT32_MAX) {
                *(uint64_t *)(p->options + option->offset) = number * units[i].seconds;
                return 0;
            }
    return fail(p, "--%s: '%s' is no time such as 90 (seconds), 10m, 12h, 7d or 2w", option->name,
                value);
}

static int set_value(struct parser *p, const struct cli_option *option, const char *value)
{
    void *field = p->options + option->offset;
    assert(option - p->command->options < 64);
    p->given |= (uint64_t)1 << (option - p->command->options);
    struct hws_error why = {0};
    struct cli_list *list = field;
    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)field = true;
        return 0;
    case CLI_TEXT:
        *(const char **)field = value;
        return 0;
    case CLI_CHOICE:
        return set_choice(p, option, value);
    case CLI_SIZE:
        if (size_parse(value, field, &why) < 0)
            return fail(p, "--%s: %s", option->name, why.text);
        return 0;
    case CLI_UINT:
    case CLI_NUMBER:
        return set_number(p, option, value);
    case CLI_TIME:
        return set_time(p, option, value);
    case CLI_LIST:
        if (list->count == CLI_LIST_MAX)
            return fail(p, "--%s was given more than %d times", option->name, CLI_LIST_MAX);
        list->item[list->count++] = value;
        return 0;
    case CLI_STEP:
        if (list->count + 2 > CLI_LIST_MAX)
            return fail(p, "too many of --%s and its like were given", option->name);
        list->item[list->count++] = option->name;
        if (option->value)
            list->item[list->count++] = value;
        return 0;
    }
    return fail(p, "--%s cannot be parsed", option->name);
}

static int unknown_option(struct parser *p, const char *name)
{
    const char *names[NAMES_MAX + 1] = {"help"};
    unsigned count = 1;
    for (const struct cli_option *o = p->command->options; o && o->name && count < NAMES_MAX; o++)
        if (!o->hidden)
            names[count++] = o->name;
    const char *near = cli_nearest(name, names);
    return near ? fail(p, "unknown option --%s; did you mean --%s?", name, near)
                : fail(p, "unknown option --%s; 'hawser %s --help' lists them", name,
                       p->command->name);
}

static const struct cli_option *find_long(const struct cli_command *command, const char *name)
{
    for (const struct cli_option *o = command->options; o && o->name; o++)
        if (!strcmp(o->name, name))
            return o;
    return NULL;
}

static int parse_long(struct parser *p, const char *text)
{
    char name[64];
    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) : strlen(text);
    snprintf(name, sizeof(name), "%.*s", (int)MIN(length, sizeof(name) - 1), text);
    if (!strcmp(name, "help"))
        return PARSE_HELP;
    const struct cli_option *option = find_long(p->command, name);
    if (!option)
        return unknown_option(p, name);
    if (!cli_takes_value(option))
        return equals ? fail(p, "--%s takes no value", name) : set_value(p, option, NULL);
    if (equals)
        return set_value(p, option, equals + 1);
    if (p->at == p->count)
        return fail(p, "--%s needs a value: --%s=%s", name, name, option->value);
    return set_value(p, option, p->arguments[p->at++]);
}

static int parse_letters(struct parser *p, const char *text)
{
    for (; *text; text++) {
        if (*text == 'h')
            return PARSE_HELP;
        const struct cli_option *option = p->command->options;
        while (option && option->name && option->letter != *text)
            option++;
        if (!option || !option->name)
            return fail(p, "unknown option -%c; 'hawser %s --help' lists them", *text,
                        p->command->name);
        if (cli_takes_value(option)) {
            if (text[1])
                return set_value(p, option, text + 1);
            if (p->at == p->count)
                return fail(p, "-%c needs a value: -%c %s", *text, *text, option->value);
            return set_value(p, option, p->arguments[p->at++]);
        }
        int r = set_value(p, option, NULL);
        if (r < 0)
            return r;
    }
    return 0;
}

static int parse_argument(struct parser *p, char *text, bool *only_operands)
{
    bool negative_size = text[0] == '-' && isdigit((unsigned char)text[1]);
    if (*only_operands || text[0] != '-' || !text[1] || negative_size) {
        p->arguments[p->operands++] = text;
        return 0;
    }
    if (!strcmp(text, "--")) {
        *only_operands = true;
        return 0;
    }
    return text[1] == '-' ? parse_long(p, text + 2) : parse_letters(p, text + 1);
}

static int unknown_verb(struct parser *p, const char *word)
{
    const char *names[NAMES_MAX + 1] = {NULL};
    unsigned count = 0;
    for (const struct cli_verb *verb = p->command->verbs; verb->name && count < NAMES_MAX; verb++)
        names[count++] = verb->name;
    const char *near = cli_nearest(word, names);
    return near ? fail(p, "there is no '%.100s %.100s'; did you mean '%s'?", p->command->name, word,
                       near)
                : fail(p, "there is no '%.100s %.100s'; 'hawser %s --help' tells what there is",
                       p->command->name, word, p->command->name);
}

/* Do options and operands go with the verb? */
static int check_verb(struct parser *p)
{
    const struct cli_command *command = p->command;
    unsigned least, most, given = p->operands - 1;
    if (!p->operands)
        return fail(p, "say what to do; 'hawser %s --help' tells what there is", command->name);
    const struct cli_verb *verb = cli_verb_find(command, p->arguments[0]);
    if (!verb)
        return unknown_verb(p, p->arguments[0]);
    const struct cli_option *options = command->options;
    for (unsigned i = 0; options && options[i].name; i++)
        if (p->given >> i & 1 && !cli_is_among(verb->name, options[i].verbs))
            return fail(p, "--%s does not go with '%s %s'", options[i].name, command->name,
                        verb->name);
    cli_verb_operands(verb, &least, &most);
    if (given >= least && given <= most)
        return (int)p->operands;
    if (given > most)
        return fail(p, "unexpected '%.200s'; usage: hawser %s %s%s%s", p->arguments[most + 1],
                    command->name, verb->name, *verb->operands ? " " : "", verb->operands);
    return fail(p, "too little is said; usage: hawser %s %s %s", command->name, verb->name,
                verb->operands);
}

static void set_defaults(const struct cli_command *command, uint8_t *options)
{
    memset(options, 0, command->options_bytes);
    for (const struct cli_option *o = command->options; o && o->name; o++) {
        if (o->kind == CLI_CHOICE)
            *(int *)(options + o->offset) = -1;
        else if (o->kind == CLI_SIZE || o->kind == CLI_NUMBER || o->kind == CLI_TIME)
            *(uint64_t *)(options + o->offset) = UINT64_MAX;
    }
}

int cli_parse(const struct cli_command *command, char **arguments, unsigned count, void *options,
              struct hws_error *err)
{
    struct parser p = {command, arguments, count, 0, 0, options, 0, err};
    bool only_operands = false;
    set_defaults(command, options);
    while (p.at < count) {
        int r = parse_argument(&p, arguments[p.at++], &only_operands);
        if (r < 0)
            return r;
    }
    if (command->verbs)
        return check_verb(&p);
    if (p.operands < command->operands_min)
        return fail(&p, "%s is missing", command->operands[p.operands].name);
    if (p.operands > command->operands_max)
        return fail(&p, "unexpected '%s'", arguments[command->operands_max]);
    return (int)p.operands;
}
