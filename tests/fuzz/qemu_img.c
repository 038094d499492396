/*
 * Fuzz target: the texts of qemu-img's command line: --image-opts, json:, -o, sizes, -l.
 *
 * Every text goes through every parser. Names that lead out of the folder are left out, so that no
 * device of the machine is opened. What the parsers tell goes to /dev/null.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"
#include "drivers/drivers.h"
#include "fuzz.h"

#define TEXT_MAX 4096

static void sizes(const char *text)
{
    uint64_t size = 0;
    int r = qi_parse_size(text, &size);
    assert(r == 0 || r == -EINVAL || r == -ERANGE);
    if (r == 0)
        assert(strpbrk(text, "0123456789"));
    uint64_t within = 7;
    int told = qi_size_argument("size", text, 512, 1u << 30, &within);
    assert(told == 0 ? within == size && size >= 512 && size <= 1u << 30 : within == 7);
}

/* The value of each option that was taken is taken again, and as the same. */
static void again(const struct qi_create_options *options)
{
    struct hws_error err = {0};
    struct qi_create_options second = {.table = options->table, .format = options->format};
    for (unsigned i = 0; options->table[i].name; i++) {
        const char *name = options->table[i].name;
        if (!options->value[i])
            continue;
        assert(qi_options_set(&second, name, options->value[i], &err) == 0);
        assert(strcmp(second.value[i], options->value[i]) == 0);
    }
    qi_options_free(&second);
}

static void create_options(const char *format, const char *text)
{
    struct hws_error err = {0};
    struct qi_create_options options = {0};
    int r = qi_options_parse(&options, format, text, &err);
    assert(r == 0 || (r < 0 && err.text[0]));
    if (r == 0)
        again(&options);
    if (r == 0 && (r = qi_options_check(&options, &err)) < 0)
        assert(err.text[0]);
    if (r == 0 && qi_options_finish(&options, &err) == 0)
        for (unsigned i = 0; options.texts[i]; i++)
            assert(i < ARRAY_LEN(options.texts) - 1 && strchr(options.texts[i], '='));
    qi_options_free(&options);
}

static void joined(const char *text)
{
    char *all = NULL;
    for (unsigned i = 0; i < 2; i++) {
        if (qi_join_options(&all, text) == 0)
            continue;
        assert(i == 0); /* what was taken once is taken again */
        break;
    }
    if (all) {
        assert(strlen(all) == 2 * strlen(text) + 1);
        create_options("qcow2", all);
    }
    free(all);
}

static void operand(const char *text, const char *format, unsigned reach)
{
    autooperand operand = {0};
    if (qi_operand(&operand, text, format, NULL, reach) < 0)
        return;
    assert(operand.path && operand.shown && operand.image.path == operand.path);
    if (strncmp(operand.path, "json:", 5) == 0) {
        json_t *object = json_loads(operand.path + 5, 0, NULL);
        assert(json_is_object(object));
        json_decref(object);
    }
}

static void all(const char *text)
{
    sizes(text);
    create_options("qcow2", text);
    create_options("raw", text);
    joined(text);
    (void)qi_wants_help(text);
    (void)qi_options_creation_only(text);
    struct qi_snapshot_key key = {0};
    if (qi_snapshot_param(text, &key) == 0)
        assert(key.id || key.name || key.either);
    qi_snapshot_key_free(&key);
    if (strpbrk(text, "/\\")) /* JSON spells a slash in more than one way */
        return;
    operand(text, NULL, QI_IMAGE_OPTS);
    operand(text, NULL, 0);
    operand(text, "qcow2", 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static FILE *nowhere;
    char text[TEXT_MAX];
    if (!nowhere)
        drivers_register();
    if (!nowhere && !(nowhere = fopen("/dev/null", "w")))
        abort();
    if (length >= sizeof(text))
        return 0;
    memcpy(text, bytes, length);
    text[length] = '\0';
    FILE *own = stderr;
    stderr = nowhere;
    all(text);
    stderr = own;
    return 0;
}
