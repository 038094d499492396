/*
 * Runs the verbs of the commands that are clients of hawserd, from their rows; see cli/command.h.
 *
 * The operands of a row go, in their order, first to the places of its path and then to the members
 * of the body that it lists; options go to the members, or the parts of the query, that they name.
 * A verb whose last operand may be repeated, and is not a list within one request, is a request for
 * each, and goes on where one fails.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/control.h"
#include <limits.h>

#define WATCH_S 2 /* what changes by itself tells no event: progress, free room */

struct values {
    char *text[CLI_LIST_MAX + 1]; /* of operands; "A@B" are two */
    unsigned count, next;
};

static void values_free(struct values *values)
{
    for (unsigned i = 0; i < values->count; i++)
        free(values->text[i]);
}

static int add_value(struct values *values, const char *text, size_t length, struct hws_error *err)
{
    if (values->count == CLI_LIST_MAX)
        return hws_fail(err, E2BIG, "more than %d operands", CLI_LIST_MAX);
    char *copy = strndup(text, length);
    if (!copy)
        return hws_fail(err, ENOMEM, "out of memory");
    values->text[values->count++] = copy;
    return 0;
}

static int read_operands(const struct control_run *run, struct values *values,
                         struct hws_error *err)
{
    const char *word = run->verb->operands;
    int r = 0;
    for (unsigned i = 0; i < run->count && r == 0; i++) {
        size_t length = strcspn(word, " ");
        const char *text = run->operands[i], *at = strchr(text, '@');
        if (!memchr(word, '@', length)) {
            r = add_value(values, text, strlen(text), err);
        } else if (!at || at == text || !at[1]) {
            r = hws_fail(err, EINVAL, "'%.200s' is not of the form %.*s", text, (int)length, word);
        } else {
            r = add_value(values, text, (size_t)(at - text), err);
            if (r == 0)
                r = add_value(values, at + 1, strlen(at + 1), err);
        }
        if (word[length] == ' ')
            word += length + 1;
    }
    return r;
}

/* ---- the path ---- */

static int make_path(const struct control_run *run, struct values *values, char *path,
                     struct hws_error *err)
{
    size_t used = 0;
    bool fits = true;
    for (const char *at = run->verb->path; *at && fits; at++) {
        if (*at == '%') {
            assert(values->next < values->count);
            fits = control_escape(path, &used, values->text[values->next++]);
        } else {
            fits = used + 2 < CONTROL_PATH_BYTES;
            path[used] = *at;
            used += fits;
        }
    }
    path[used] = '\0';
    return fits ? 0 : hws_fail(err, ENAMETOOLONG, "a name is too long");
}

/* "NAME=TEXT"; @value NULL: @member has it. */
static int add_query(char *path, const char *member, const json_t *value, struct hws_error *err)
{
    size_t used = strlen(path);
    char number[32];
    bool whole = strchr(member, '=') != NULL;
    snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
    const char *text = json_is_string(value) ? json_string_value(value) : number;
    if (used + strlen(member) + 3 < CONTROL_PATH_BYTES) {
        used += (size_t)snprintf(path + used, CONTROL_PATH_BYTES - used, "%c%s%s",
                                 strchr(path, '?') ? '&' : '?', member, whole ? "" : "=");
        if (whole || control_escape(path, &used, json_is_true(value) ? "true" : text))
            return 0;
    }
    return hws_fail(err, ENAMETOOLONG, "--%s is too long", member);
}

/* ---- the body ---- */

static json_t *path_value(const char *path, struct hws_error *err)
{
    char whole[PATH_MAX];
    return control_absolute(path, whole, err) == 0 ? json_string(whole) : NULL;
}

static json_t *label_value(const struct cli_list *labels, struct hws_error *err)
{
    json_t *object = json_object();
    for (unsigned i = 0; i < labels->count; i++) {
        const char *equals = strchr(labels->item[i], '=');
        autofree char *name =
            equals ? strndup(labels->item[i], (size_t)(equals - labels->item[i])) : NULL;
        if (!name || json_object_set_new(object, name, json_string(equals + 1)) < 0) {
            hws_fail(err, EINVAL, "label '%.100s' is not NAME=VALUE", labels->item[i]);
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *text_value(const struct cli_option *option, const char *text, struct hws_error *err)
{
    if (option->completes == CLI_COMPLETE_FILE || option->completes == CLI_COMPLETE_FOLDER)
        return path_value(text, err);
    json_t *value = json_string(text);
    if (!value)
        hws_fail(err, EINVAL, "--%s is no UTF-8", option->name);
    return value;
}

static json_t *list_value(const struct cli_option *option, const struct cli_list *list,
                          struct hws_error *err)
{
    if (!strcmp(option->member, CONTROL_LABEL))
        return label_value(list, err);
    json_t *array = json_array();
    for (unsigned i = 0; i < list->count; i++) {
        json_t *item = text_value(option, list->item[i], err);
        if (!item) {
            json_decref(array);
            return NULL;
        }
        json_array_append_new(array, item);
    }
    return array;
}

/* @ret NULL where the option was not given. */
static int option_value(const struct cli_option *option, const void *options, json_t **ret,
                        struct hws_error *err)
{
    const void *field = (const uint8_t *)options + option->offset;
    const char *text = option->kind == CLI_TEXT ? *(const char *const *)field : NULL;
    const struct cli_list *list = field;
    uint64_t number;
    int choice;
    *ret = NULL;
    switch (option->kind) {
    case CLI_FLAG:
        *ret = *(const bool *)field ? json_true() : NULL;
        return 0;
    case CLI_TEXT:
        *ret = text ? text_value(option, text, err) : NULL;
        return text && !*ret ? -EINVAL : 0;
    case CLI_CHOICE:
        memcpy(&choice, field, sizeof(choice));
        *ret = choice >= 0 ? json_string(option->choices[choice]) : NULL;
        return 0;
    case CLI_LIST:
        *ret = list->count ? list_value(option, list, err) : NULL;
        return list->count && !*ret ? -EINVAL : 0;
    default:
        memcpy(&number, field, sizeof(number));
        if (number != UINT64_MAX && number > INT64_MAX)
            return hws_fail(err, ERANGE, "--%s is too large", option->name);
        *ret = number != UINT64_MAX ? json_integer((json_int_t)number) : NULL;
        return 0;
    }
}

/* "name=true" and its like. */
static void set_constant(json_t *body, const char *word, size_t length)
{
    const char *equals = memchr(word, '=', length);
    autofree char *name = strndup(word, (size_t)(equals - word));
    const char *text = equals + 1;
    size_t text_length = length - (size_t)(text - word);
    bool yes = text_length == 4 && !strncmp(text, "true", 4);
    bool no = text_length == 5 && !strncmp(text, "false", 5);
    bool nothing = text_length == 2 && !strncmp(text, "{}", 2);
    if (name)
        json_object_set_new(body, name,
                            yes       ? json_true()
                            : no      ? json_false()
                            : nothing ? json_object()
                                      : json_stringn(text, text_length));
}

static int set_options(const struct control_run *run, char *path, json_t *body,
                       struct hws_error *err)
{
    int r = 0;
    for (const struct cli_option *o = run->command->options; o && o->name && r == 0; o++) {
        json_t *value = NULL;
        if (!o->member || !cli_is_among(run->verb->name, o->verbs))
            continue;
        r = option_value(o, run->control, &value, err);
        if (r < 0 || !value)
            continue;
        if (o->member[0] == '?')
            r = add_query(path, o->member + 1, value, err);
        else if (strchr(o->member, '='))
            set_constant(body, o->member, strlen(o->member));
        else
            json_object_set(body, o->member, value);
        json_decref(value);
    }
    return r;
}

/* What @word of the row's body says of @text. */
static int set_operand(json_t *body, const char *word, size_t length, const char *text,
                       struct hws_error *err)
{
    char kind = word[length - 1];
    autofree char *name = strndup(word, length - (kind == '/' || kind == '#'));
    uint64_t bytes = 0;
    json_t *value = NULL;
    if (!name)
        return hws_fail(err, ENOMEM, "out of memory");
    if (kind == '#') {
        int r = size_parse(text, &bytes, err);
        if (r < 0)
            return r;
        value = json_integer((json_int_t)MIN(bytes, (uint64_t)INT64_MAX));
    } else {
        value = kind == '/' ? path_value(text, err) : json_string(text);
    }
    if (value)
        return json_object_set_new(body, name, value);
    return err->code ? -err->code : hws_fail(err, EINVAL, "'%.100s' is no UTF-8", text);
}

static int set_rest(json_t *body, const char *word, size_t length, struct values *values,
                    struct hws_error *err)
{
    autofree char *name = strndup(word, length - 2);
    json_t *array = json_array();
    if (!name || !array || json_object_set_new(body, name, array) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    while (values->next < values->count)
        if (json_array_append_new(array, json_string(values->text[values->next++])) < 0)
            return hws_fail(err, EINVAL, "a name is no UTF-8");
    return 0;
}

static int set_operands(const struct control_run *run, struct values *values, json_t *body,
                        struct hws_error *err)
{
    int r = 0;
    for (const char *at = run->verb->body; at && *at && r == 0; at += *at == ' ') {
        size_t length = strcspn(at, " ");
        if (memchr(at, '=', length))
            set_constant(body, at, length);
        else if (at[length - 1] == ']')
            r = set_rest(body, at, length, values, err);
        else if (values->next < values->count)
            r = set_operand(body, at, length, values->text[values->next++], err);
        at += length;
    }
    return r;
}

/* ---- the call ---- */

/* @ret_body NULL where the method has none. */
static int make_request(const struct control_run *run, char *path, json_t **ret_body,
                        struct hws_error *err)
{
    struct values values = {0};
    json_t *body = json_object();
    int r = read_operands(run, &values, err);
    if (r == 0)
        r = make_path(run, &values, path, err);
    if (r == 0)
        r = set_operands(run, &values, body, err);
    if (r == 0)
        r = set_options(run, path, body, err);
    if (r == 0 && run->verb->fill)
        r = run->verb->fill(run, body, err);
    if (r == 0 && !strcmp(run->verb->method, "PATCH") && !json_object_size(body))
        r = hws_fail(err, EINVAL, "say what to change; 'hawser %s %s --help' tells what can be",
                     run->command->name, run->verb->name);
    values_free(&values);
    bool none = !strcmp(run->verb->method, "GET") || !strcmp(run->verb->method, "DELETE");
    if (r < 0 || none)
        json_decref(body);
    *ret_body = none ? NULL : body;
    return r;
}

static void show(const struct control_run *run, json_t *answer)
{
    if (!run->verb->columns || !answer)
        json_decref(answer);
    else if (run->verb->list)
        control_print_list(run->control, answer, run->verb->columns);
    else
        control_print_one(run->control, answer, run->verb->columns);
}

static int get(const struct control_run *run, const char *path, json_t **ret, struct hws_error *err)
{
    return run->verb->list ? control_list(run->control, path, ret, err)
                           : control_ask(run->control, "GET", path, NULL, ret, err);
}

/* Shows the answer again whenever it is another. */
static int watch(const struct control_run *run, const char *path, struct hws_error *err)
{
    json_t *before = NULL, *now = NULL;
    bool screen = isatty(STDOUT_FILENO) && run->control->output != CLI_JSON;
    uint64_t after = 0;
    int r;
    while ((r = control_await(run->control, &after, WATCH_S, err)) == 0 &&
           (r = get(run, path, &now, err)) == 0) {
        if (before && json_equal(before, now)) {
            json_decref(now);
        } else {
            json_decref(before);
            before = now;
            if (screen)
                fputs("\033[H\033[J", stdout);
            if (run->control->output == CLI_JSON)
                out_json_line(json_incref(now));
            else
                show(run, json_incref(now));
            if (fflush(stdout) != 0) {
                r = hws_fail_errno(err, errno, "cannot write the output");
                break;
            }
        }
    }
    json_decref(before);
    return r;
}

int control_request(const struct control_run *run, json_t **ret, struct hws_error *err)
{
    char path[CONTROL_PATH_BYTES];
    json_t *body = NULL, *answer = NULL;
    int r = make_request(run, path, &body, err);
    if (r < 0)
        return r;
    if (run->control->watch)
        return watch(run, path, err);
    if (!strcmp(run->verb->method, "GET"))
        r = get(run, path, &answer, err);
    else
        r = control_ask(run->control, run->verb->method, path, body, &answer, err);
    if (r == 0 && ret)
        *ret = answer;
    else if (r == 0)
        show(run, answer);
    return r;
}

static int run_once(const struct control_run *run)
{
    struct hws_error err = {0};
    int r = run->verb->run ? run->verb->run(run, &err) : control_request(run, NULL, &err);
    return r < 0 ? out_error(run->command->name, CLI_FAILED, &err) : CLI_OK;
}

int control_run_verb(const struct cli_command *command, const void *options, char **operands,
                     unsigned count)
{
    struct control_run run = {command, cli_verb_find(command, operands[0]), options, operands + 1,
                              count - 1};
    const char *body = run.verb->body;
    unsigned least, most;
    cli_verb_operands(run.verb, &least, &most);
    if (most != UINT_MAX || !run.count || (body && strstr(body, "[]")))
        return run_once(&run);
    int code = CLI_OK;
    for (; run.count; run.operands++, run.count--) {
        struct control_run one = run;
        one.count = 1;
        if (run_once(&one) != CLI_OK)
            code = CLI_FAILED;
    }
    return code;
}
