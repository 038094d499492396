/*
 * qemu-img info.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

#define LAYERS_MAX 4096

struct info {
    const char *format, *output;
    unsigned reach;
    bool json, chain;
};

static void copy_member(json_t *to, const char *name, json_t *from)
{
    json_t *value = json_object_get(from, name);
    if (value)
        json_object_set(to, name, value);
}

/* Of the image's own file: what a data file takes is not counted. */
static json_t *size_on_disk(json_t *told)
{
    size_t i;
    json_t *child;
    json_array_foreach(json_object_get(told, "children"), i, child)
    {
        const char *name = json_string_value(json_object_get(child, "name"));
        json_t *size = json_object_get(json_object_get(child, "info"), "actual-size");
        if (size && name && strcmp(name, "file") == 0)
            return size;
    }
    return json_object_get(told, "actual-size");
}

/* The members that qemu-img has, of what the library tells. */
static json_t *translate(json_t *told, const char *shown, const char *driver)
{
    json_t *out = json_object();
    uint64_t size = (uint64_t)json_integer_value(json_object_get(told, "virtual-size"));
    json_object_set_new(out, "virtual-size", json_integer((json_int_t)((size + 511) & ~511ull)));
    json_object_set_new(out, "filename", qi_json_string(shown));
    json_object_set_new(out, "format", json_string(driver));
    json_t *on_disk = size_on_disk(told);
    if (on_disk)
        json_object_set(out, "actual-size", on_disk);
    copy_member(out, "dirty-flag", told);
    if (!json_object_get(out, "dirty-flag"))
        json_object_set_new(out, "dirty-flag", json_false());
    if (!json_object_get(out, "actual-size"))
        json_object_set_new(out, "actual-size", json_integer(0));
    copy_member(out, "backing-filename-format", told);
    copy_member(out, "backing-filename", told);
    if (strcmp(driver, "qcow2") == 0) {
        copy_member(out, "cluster-size", told);
        copy_member(out, "format-specific", told);
        copy_member(out, "snapshots", told);
    }
    const char *backing = json_string_value(json_object_get(told, "backing-filename"));
    autofree char *full = backing ? qi_beside(shown, backing) : NULL;
    if (full)
        json_object_set_new(out, "full-backing-filename", qi_json_string(full));
    return out;
}

static const char *text_of(json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static unsigned long long number_of(json_t *object, const char *name)
{
    return (unsigned long long)json_integer_value(json_object_get(object, name));
}

static void print_backing(json_t *info)
{
    const char *backing = text_of(info, "backing-filename");
    const char *full = text_of(info, "full-backing-filename");
    if (backing) {
        printf("backing file: %s", backing);
        if (full && strcmp(full, backing) != 0)
            printf(" (actual path: %s)", full);
        putchar('\n');
    }
    if (text_of(info, "backing-filename-format"))
        printf("backing file format: %s\n", text_of(info, "backing-filename-format"));
}

static void print_human(json_t *info)
{
    char size[64], disk[64];
    unsigned long long bytes = number_of(info, "virtual-size");
    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
           text_of(info, "filename"), text_of(info, "format"),
           qi_human_size(bytes, size, sizeof(size)), bytes,
           qi_human_size(number_of(info, "actual-size"), disk, sizeof(disk)));
    if (number_of(info, "cluster-size"))
        printf("cluster_size: %llu\n", number_of(info, "cluster-size"));
    if (json_is_true(json_object_get(info, "dirty-flag")))
        printf("cleanly shut down: no\n");
    print_backing(info);
    json_t *snapshots = json_object_get(info, "snapshots");
    if (json_array_size(snapshots)) {
        printf("Snapshot list:\n");
        qi_print_snapshots(snapshots);
    }
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    if (data) {
        printf("Format specific information:\n");
        qi_print_members(data, 1);
    }
}

/* One layer. @ret_next the full name and the format of the one below; NULL where there is none. */
static int tell_layer(const struct info *how, const char *name, const char *format, unsigned reach,
                      json_t *layers, char **ret_next, char **ret_format)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    char *text;
    if (qi_operand(&operand, name, format, NULL, reach) < 0)
        return 1;
    if (hws_info(&operand.image, false, &text, &err) < 0)
        return qi_explain(&operand, &err);
    json_t *told = json_loads(text, 0, NULL);
    free(text);
    json_t *info = translate(told, operand.shown, *operand.driver ? operand.driver : "raw");
    json_decref(told);
    const char *next = text_of(info, "full-backing-filename");
    const char *next_format = text_of(info, "backing-filename-format");
    if (how->chain && next) {
        *ret_next = strdup(next);
        *ret_format = next_format ? strdup(next_format) : NULL;
    }
    json_array_append_new(layers, info);
    return 0;
}

static bool was_told(json_t *layers, const char *name)
{
    size_t i;
    json_t *layer;
    json_array_foreach(layers, i,
                       layer) if (strcmp(text_of(layer, "filename"), name) == 0) return true;
    return false;
}

static int tell_layers(const struct info *how, const char *name, json_t *layers)
{
    autofree char *at = NULL, *format = NULL;
    unsigned reach = how->reach;
    int r = tell_layer(how, name, how->format, reach, layers, &at, &format);
    for (unsigned depth = 1; r == 0 && at; depth++) {
        autofree char *above = at, *above_format = format;
        at = format = NULL;
        if (depth == LAYERS_MAX || was_told(layers, above))
            return qi_error("Backing file '%s' creates an infinite loop.", above);
        r = tell_layer(how, above, above_format, reach & ~(unsigned)QI_IMAGE_OPTS, layers, &at,
                       &format);
    }
    return r;
}

static void print_layers(const struct info *how, json_t *layers)
{
    size_t i;
    json_t *layer;
    if (how->json) {
        qi_print_json(how->chain ? layers : json_array_get(layers, 0));
        return;
    }
    json_array_foreach(layers, i, layer)
    {
        if (i)
            putchar('\n');
        print_human(layer);
    }
}

static const struct qi_arg rows[] = {
    QI_WORD(struct info, format, "format", 'f'),
    QI_WORD(struct info, output, "output", 0),
    QI_FLAG(struct info, chain, "backing-chain", 0),
    QI_OBJECT,
    QI_OPTS(struct info),
    QI_SHARE(struct info),
};

int qi_info(int argc, char **argv)
{
    struct info how = {0};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    int json = qi_output(how.output);
    if (json < 0)
        return 1;
    how.json = json;
    if (qi_two_formats(how.format, how.reach))
        return 1;
    json_t *layers = json_array();
    r = tell_layers(&how, argv[optind], layers);
    if (r == 0)
        print_layers(&how, layers);
    json_decref(layers);
    return r;
}
