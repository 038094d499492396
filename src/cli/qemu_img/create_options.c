/*
 * -o: the options of new images, in qemu-img's order, with its defaults, checks and texts.
 *
 * The tables hold what qemu-img 7.2 offers for the formats that are here. A value goes on to the
 * library under the same name; what the library would choose otherwise (subclusters, for one) is
 * said explicitly, so that an image comes out as qemu-img would make it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

static const struct qi_option qcow2_table[] = {
    {"cluster_size", QI_SIZE, "qcow2 cluster size", "65536"},
    {"extended_l2", QI_BOOL, "Extended L2 tables", "off"},
    {"preallocation", QI_TEXT, "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"compression_type", QI_TEXT, "Compression method used for image cluster compression", "zlib"},
    {"size", QI_SIZE, "Virtual disk size"},
    {"compat", QI_TEXT, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"backing_file", QI_TEXT, "File name of a base image"},
    {"backing_fmt", QI_TEXT, "Image format of the base image"},
    {"data_file", QI_TEXT, "File name of an external data file"},
    {"data_file_raw", QI_BOOL, "The external data file must stay valid as a raw image"},
    {"lazy_refcounts", QI_BOOL, "Postpone refcount updates", "off"},
    {"refcount_bits", QI_NUMBER, "Width of a reference count entry in bits", "16"},
    {"nocow", QI_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL, "off", true},
    {"extent_size_hint", QI_SIZE, "Extent size hint for the image file, 0 to disable", NULL, "0",
     true},
    {NULL},
};

static const struct qi_option raw_table[] = {
    {"size", QI_SIZE, "Virtual disk size"},
    {"preallocation", QI_TEXT, "Preallocation mode (allowed values: off, falloc, full)", NULL, NULL,
     true},
    {"nocow", QI_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL, "off", true},
    {"extent_size_hint", QI_SIZE, "Extent size hint for the image file, 0 to disable", NULL, "0",
     true},
    {NULL},
};

#define ROWS_MAX 31

static const struct qi_option *table_of(const char *format)
{
    if (strcmp(format, "qcow2") == 0)
        return qcow2_table;
    return strcmp(format, "raw") == 0 || strcmp(format, "file") == 0 ? raw_table : NULL;
}

static int row_of(const struct qi_option *table, const char *name)
{
    for (int i = 0; table[i].name; i++)
        if (strcmp(table[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- help ---- */

bool qi_wants_help(const char *text)
{
    while (*text) {
        size_t length = strcspn(text, ",");
        if ((length == 4 && strncmp(text, "help", 4) == 0) || (length == 1 && *text == '?'))
            return true;
        text += length;
        if (*text)
            text++;
    }
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct qi_option *const *)a)->name,
                  (*(const struct qi_option *const *)b)->name);
}

static void print_option(const struct qi_option *row)
{
    static const char *const kinds[] = {"str", "size", "num", "bool (on/off)"};
    char left[64];
    snprintf(left, sizeof(left), "%s=<%s>", row->name, kinds[row->kind]);
    printf("  %-22s - %s\n", left, row->help);
}

int qi_options_help(const char *format, bool with_file)
{
    const struct qi_option *table = table_of(format), *rows[ROWS_MAX];
    size_t count = 0;
    if (!table)
        return qi_error("Format driver '%s' does not support image creation", format);
    for (; table->name; table++)
        if (with_file || !table->local)
            rows[count++] = table;
    qsort(rows, count, sizeof(*rows), by_name);
    if (with_file)
        printf("Supported options:\n");
    else
        printf("Supported %s options:\n", format);
    for (size_t i = 0; i < count; i++) {
        print_option(rows[i]);
    }
    if (!with_file)
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    return 0;
}

/* ---- taking values ---- */

int qi_join_options(char **all, const char *text)
{
    size_t length = strlen(text);
    size_t trailing = 0;
    while (trailing < length && text[length - 1 - trailing] == ',')
        trailing++;
    if (!length || *text == ',' || trailing % 2)
        return qi_error("Invalid option list: %s", text);
    char *joined;
    if (asprintf(&joined, "%s%s%s", *all ? *all : "", *all ? "," : "", text) < 0)
        return qi_error("out of memory");
    free(*all);
    *all = joined;
    return 0;
}

static const char *bool_text(const char *text)
{
    static const char *const on[] = {"on", "yes", "true", "y"}, *const off[] = {"off", "no",
                                                                                "false", "n"};
    for (unsigned i = 0; i < ARRAY_LEN(on); i++) {
        if (strcmp(text, on[i]) == 0)
            return "on";
        if (strcmp(text, off[i]) == 0)
            return "off";
    }
    return NULL;
}

#define NOT_A_SIZE                                                                 \
    "Parameter '%s' expects a non-negative number below 2^64\n"                    \
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n" \
    "and exabytes, respectively."

int qi_options_set(struct qi_create_options *options, const char *name, const char *value,
                   struct hws_error *err)
{
    int row = row_of(options->table, name);
    if (row < 0)
        return hws_fail(err, EINVAL, "Invalid parameter '%s'", name);
    const struct qi_option *option = &options->table[row];
    autofree char *copy = NULL;
    uint64_t size;
    char *end;
    int r = 0;
    switch (option->kind) {
    case QI_TEXT:
        copy = strdup(value);
        break;
    case QI_BOOL:
        if (!bool_text(value))
            return hws_fail(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
        copy = strdup(value);
        break;
    case QI_SIZE:
        if (qi_parse_size(value, &size) < 0)
            return hws_fail(err, EINVAL, NOT_A_SIZE, name);
        r = asprintf(&copy, "%llu", (unsigned long long)size);
        break;
    case QI_NUMBER:
        errno = 0;
        size = strtoull(value, &end, 0);
        if (end == value || *end || errno)
            return hws_fail(err, EINVAL, "Parameter '%s' expects a number", name);
        r = asprintf(&copy, "%lld", (long long)size);
        break;
    }
    if (r < 0)
        copy = NULL;
    if (!copy)
        return hws_fail(err, ENOMEM, "out of memory");
    free(options->value[row]);
    options->value[row] = steal_ptr(&copy);
    return 0;
}

/* One "name=value", "name" or "noname"; @text moves behind it. */
static int take_one(struct qi_create_options *options, const char **text, struct hws_error *err)
{
    char name[128];
    const char *at = *text;
    size_t length = strcspn(at, "=,"), used = 0;
    bool given = at[length] == '=';
    snprintf(name, sizeof(name), "%.*s", (int)MIN(length, sizeof(name) - 1), at);
    at += length;
    autofree char *value = malloc(strlen(at) + 4);
    if (!value)
        return hws_fail(err, ENOMEM, "out of memory");
    if (!given)
        used = 2, memcpy(value, "on", 2);
    else
        at++;
    for (; given && *at && (*at != ',' || at[1] == ','); at++) {
        value[used++] = *at;
        if (*at == ',')
            at++;
    }
    value[used] = '\0';
    *text = *at ? at + 1 : at;
    if (!given && strncmp(name, "no", 2) == 0 && row_of(options->table, name) < 0)
        return qi_options_set(options, name + 2, "off", err);
    return qi_options_set(options, name, value, err);
}

int qi_options_parse(struct qi_create_options *options, const char *format, const char *text,
                     struct hws_error *err)
{
    *options = (struct qi_create_options){.table = table_of(format), .format = format};
    if (!options->table)
        return hws_fail(err, EINVAL, "Format driver '%s' does not support image creation", format);
    int r = 0;
    while (r == 0 && text && *text)
        r = take_one(options, &text, err);
    return r;
}

const char *qi_options_get(const struct qi_create_options *options, const char *name)
{
    int row = row_of(options->table, name);
    if (row < 0)
        return NULL;
    return options->value[row] ? options->value[row] : options->table[row].shown;
}

const char *qi_options_given(const struct qi_create_options *options, const char *name)
{
    int row = row_of(options->table, name);
    return row < 0 ? NULL : options->value[row];
}

void qi_options_drop(struct qi_create_options *options, const char *name)
{
    int row = row_of(options->table, name);
    if (row < 0)
        return;
    free(options->value[row]);
    options->value[row] = NULL;
}

/* ---- checking them ---- */

static bool is_on(const struct qi_create_options *options, const char *name)
{
    const char *text = qi_options_get(options, name);
    return text && strcmp(bool_text(text), "on") == 0;
}

static uint64_t number(const struct qi_create_options *options, const char *name)
{
    const char *text = qi_options_get(options, name);
    return text ? strtoull(text, NULL, 10) : 0;
}

static bool one_of(const char *text, const char *const *choices)
{
    for (; text && *choices; choices++)
        if (strcmp(text, *choices) == 0)
            return true;
    return !text;
}

#define LEVEL_1_1 "compatibility level 1.1 and above (use version=v3 or greater)"

static int check_version(const struct qi_create_options *o, struct hws_error *err)
{
    const char *compat = qi_options_get(o, "compat");
    bool old = compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
    if (!old)
        return 0;
    if (is_on(o, "extended_l2"))
        return hws_fail(err, EINVAL, "Extended L2 entries are only supported with " LEVEL_1_1);
    if (is_on(o, "lazy_refcounts"))
        return hws_fail(err, EINVAL, "Lazy refcounts only supported with " LEVEL_1_1);
    if (number(o, "refcount_bits") != 16)
        return hws_fail(err, EINVAL,
                        "Different refcount widths than 16 bits require compatibility level 1.1 or "
                        "above (use version=v3 or greater)");
    if (qi_options_get(o, "data_file"))
        return hws_fail(err, EINVAL, "External data files are only supported with " LEVEL_1_1);
    if (strcmp(qi_options_get(o, "compression_type"), "zlib") != 0)
        return hws_fail(err, EINVAL, "Non-zlib compression type is only supported with " LEVEL_1_1);
    return 0;
}

static int check_words(const struct qi_create_options *o, struct hws_error *err)
{
    static const struct {
        const char *name, *shown;
        const char *choices[5];
    } words[] = {
        {"preallocation", "preallocation", {"off", "metadata", "falloc", "full"}},
        {"compat", "version", {"0.10", "1.1", "v2", "v3"}},
        {"compression_type", "compression-type", {"zlib", "zstd"}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
        const char *value = qi_options_get(o, words[i].name);
        if (!one_of(value, words[i].choices))
            return hws_fail(err, EINVAL, "Parameter '%s' does not accept value '%s'",
                            words[i].shown, value);
    }
    return 0;
}

/* Level 1 tables end at 32 MiB. */
#define L1_ENTRIES_MAX ((uint64_t)4 * 1024 * 1024)

static int check_qcow2(const struct qi_create_options *o, struct hws_error *err)
{
    uint64_t cluster = number(o, "cluster_size"), bits = number(o, "refcount_bits");
    bool extended = is_on(o, "extended_l2");
    const char *backing = qi_options_get(o, "backing_file");
    const char *prealloc = qi_options_get(o, "preallocation");
    int r = check_words(o, err);
    if (r < 0)
        return r;
    if (cluster < 512 || cluster > 2u * 1024 * 1024 || !is_power_of_2(cluster))
        return hws_fail(err, EINVAL, "Cluster size must be a power of two between 512 and 2048k");
    r = check_version(o, err);
    if (r < 0)
        return r;
    if (extended && cluster < 16384)
        return hws_fail(err, EINVAL,
                        "Extended L2 entries are only supported with cluster sizes of at least "
                        "16384 bytes");
    if (prealloc && strcmp(prealloc, "off") != 0 && backing && !extended)
        return hws_fail(err, EINVAL,
                        "Backing file and preallocation can only be used at the same time if "
                        "extended_l2 is on");
    if (qi_options_get(o, "backing_fmt") && !backing)
        return hws_fail(err, EINVAL, "Backing format cannot be used without backing file");
    if (bits < 1 || bits > 64 || !is_power_of_2(bits))
        return hws_fail(err, EINVAL,
                        "Refcount width must be a power of two and may not exceed 64 bits");
    if (is_on(o, "data_file_raw") && !qi_options_get(o, "data_file"))
        return hws_fail(err, EINVAL, "data-file-raw requires data-file");
    if (is_on(o, "data_file_raw") && backing)
        return hws_fail(err, EINVAL,
                        "Backing file and data-file-raw cannot be used at the same time");
    if (number(o, "size") / cluster / (cluster / (extended ? 16 : 8)) >= L1_ENTRIES_MAX)
        return hws_fail(err, EFBIG,
                        "The image size is too large for file format 'qcow2' (try using a larger "
                        "cluster size)");
    return 0;
}

static int check_raw(const struct qi_create_options *o, struct hws_error *err)
{
    const char *prealloc = qi_options_get(o, "preallocation");
    if (prealloc && strcmp(prealloc, "metadata") == 0)
        return hws_fail(err, EINVAL, "Unsupported preallocation mode: %s", prealloc);
    static const char *const modes[] = {"off", "falloc", "full", NULL};
    if (!one_of(prealloc, modes))
        return hws_fail(err, EINVAL, "invalid parameter value: %s", prealloc);
    if (number(o, "size") > (uint64_t)INT64_MAX - 4095)
        return hws_fail(err, EINVAL, "Could not resize file: Invalid argument");
    return 0;
}

/* What is accepted, and does nothing here, only where it is asked to do nothing. */
static int check_refused(const struct qi_create_options *o, struct hws_error *err)
{
    for (int i = 0; o->table[i].name; i++) {
        const struct qi_option *row = &o->table[i];
        const char *value = o->value[i];
        if (!value || !row->refuse)
            continue;
        if (strcmp(row->kind == QI_BOOL ? bool_text(value) : value, row->refuse) != 0)
            return hws_fail(err, EINVAL, "'%s' is not supported", row->name);
    }
    return 0;
}

int qi_options_check(const struct qi_create_options *options, struct hws_error *err)
{
    int r = options->table == qcow2_table ? check_qcow2(options, err) : check_raw(options, err);
    return r < 0 ? r : check_refused(options, err);
}

/* ---- printing and handing on ---- */

static void print_escaped(const char *text)
{
    for (; *text; text++) {
        putchar(*text);
        if (*text == ',')
            putchar(',');
    }
}

void qi_options_print(const struct qi_create_options *options, const char *name, const char *format)
{
    printf("Formatting '%s', fmt=%s", name, format);
    for (int i = 0; options->table[i].name; i++) {
        const char *value = options->value[i] ? options->value[i] : options->table[i].shown;
        if (!value)
            continue;
        printf(" %s=", options->table[i].name);
        print_escaped(value);
    }
    putchar('\n');
    fflush(stdout);
}

/* "name=value" for the library: doubled commas, plain booleans. */
static char *to_text(const struct qi_option *row, const char *value)
{
    if (row->kind == QI_BOOL)
        value = bool_text(value);
    size_t length = strlen(row->name);
    char *text = malloc(length + 2 + 2 * strlen(value)), *out = text;
    if (!text)
        return NULL;
    out = mempcpy(out, row->name, length);
    *out++ = '=';
    for (; *value; value++) {
        *out++ = *value;
        if (*value == ',')
            *out++ = ',';
    }
    *out = '\0';
    return text;
}

int qi_options_finish(struct qi_create_options *options, struct hws_error *err)
{
    unsigned count = 0;
    for (int i = 0; options->table[i].name; i++) {
        const struct qi_option *row = &options->table[i];
        const char *value = options->value[i] ? options->value[i] : row->shown;
        if (!value || row->refuse || strcmp(row->name, "size") == 0)
            continue;
        options->texts[count] = to_text(row, value);
        if (!options->texts[count++])
            return hws_fail(err, ENOMEM, "out of memory");
    }
    return 0;
}

int qi_options_finish_given(struct qi_create_options *options, struct hws_error *err)
{
    unsigned count = 0;
    for (int i = 0; options->table[i].name; i++) {
        if (!options->value[i])
            continue;
        options->texts[count] = to_text(&options->table[i], options->value[i]);
        if (!options->texts[count++])
            return hws_fail(err, ENOMEM, "out of memory");
    }
    return 0;
}

/* ---- amend ---- */

static const char *const amend_names[] = {"backing_file",  "backing_fmt",   "compat",
                                          "data_file",     "data_file_raw", "lazy_refcounts",
                                          "refcount_bits", "size"};

static bool is_amended(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(amend_names); i++)
        if (strcmp(amend_names[i], name) == 0)
            return true;
    return false;
}

const char *qi_options_creation_only(const char *text)
{
    while (*text) {
        for (int i = 0; qcow2_table[i].name; i++) {
            size_t length = strlen(qcow2_table[i].name);
            if (strncmp(text, qcow2_table[i].name, length) == 0 &&
                (!text[length] || strchr("=,", text[length])) && !is_amended(qcow2_table[i].name))
                return qcow2_table[i].name;
        }
        text += strcspn(text, ",");
        text += strspn(text, ",");
    }
    return NULL;
}

int qi_options_amend_help(void)
{
    printf("Amend options for 'qcow2':\n");
    for (unsigned i = 0; i < ARRAY_LEN(amend_names); i++)
        print_option(&qcow2_table[row_of(qcow2_table, amend_names[i])]);
    return 0;
}

void qi_options_free(struct qi_create_options *options)
{
    for (unsigned i = 0; i < ARRAY_LEN(options->value); i++)
        free(options->value[i]);
    for (unsigned i = 0; options->texts[i]; i++)
        free(options->texts[i]);
}
