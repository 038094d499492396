/*
 * qemu-img map.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct map {
    const char *format, *output;
    unsigned reach;
    bool json;
    uint64_t start, length;
};

/* The extent that is held back until its end is known. */
struct walk {
    const struct map *how;
    struct hws_extent held;
    char *file;
    bool any;
    int failed;
};

static void print_json(struct walk *walk)
{
    const struct hws_extent *e = &walk->held;
    printf("%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, \"zero\": %s, "
           "\"data\": %s",
           walk->any ? ",\n" : "[", (unsigned long long)e->start, (unsigned long long)e->length,
           e->depth, e->present ? "true" : "false", e->zero ? "true" : "false",
           e->data ? "true" : "false");
    if (e->mapped)
        printf(", \"offset\": %llu", (unsigned long long)e->offset);
    putchar('}');
    walk->any = true;
}

static void print_human(struct walk *walk)
{
    const struct hws_extent *e = &walk->held;
    if (!e->data || e->zero)
        return;
    if (!e->mapped) {
        qi_error("File contains external, encrypted or compressed clusters.");
        walk->failed = 1;
        return;
    }
    printf("%#-16llx%#-16llx%#-16llx%s\n", (unsigned long long)e->start,
           (unsigned long long)e->length, (unsigned long long)e->offset,
           walk->file ? walk->file : "");
}

static void print_held(struct walk *walk)
{
    if (walk->how->json)
        print_json(walk);
    else
        print_human(walk);
}

static bool joins(const struct walk *walk, const struct hws_extent *e)
{
    const struct hws_extent *held = &walk->held;
    bool same_file = !walk->file == !e->file && (!e->file || strcmp(walk->file, e->file) == 0);
    return held->length && held->depth == e->depth && held->present == e->present &&
           held->data == e->data && held->zero == e->zero && held->mapped == e->mapped &&
           (!e->mapped || (held->offset + held->length == e->offset && same_file));
}

static int step(void *arg, const struct hws_extent *extent)
{
    struct walk *walk = arg;
    if (joins(walk, extent)) {
        walk->held.length += extent->length;
        return 0;
    }
    if (walk->held.length)
        print_held(walk);
    walk->held = *extent;
    free(walk->file);
    walk->file = extent->file ? strdup(extent->file) : NULL;
    return walk->failed ? -ECANCELED : 0;
}

/* A raw file ends at a sector: what is missing reads as zeroes. */
static void end_sector(struct walk *walk, const struct qi_operand *operand, uint64_t size)
{
    const struct map *how = walk->how;
    if (size % 512 == 0 || strcmp(operand->driver, "raw") != 0 || how->length < size - how->start)
        return;
    uint64_t asked = how->length - (size - how->start);
    struct hws_extent tail = {.start = size,
                              .length = MIN(512 - size % 512, asked),
                              .present = true,
                              .zero = true,
                              .mapped = true,
                              .offset = size,
                              .file = operand->file};
    if (asked)
        step(walk, &tail);
}

static int run(const struct map *how, const char *name)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    struct walk walk = {.how = how};
    if (qi_operand(&operand, name, how->format, NULL, how->reach) < 0)
        return 1;
    uint64_t size;
    if (qi_virtual_size(&operand, &size, &err) < 0)
        return qi_explain(&operand, &err);
    if (!how->json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    int r = 0;
    if (how->start < size && how->length)
        r = hws_map(&operand.image, how->start, how->length, step, &walk, &err);
    if (r == 0 && how->start < size)
        end_sector(&walk, &operand, size);
    if (r == 0 && walk.held.length)
        print_held(&walk);
    if (how->json && r == 0 && !walk.any) {
        walk.held = (struct hws_extent){.start = how->start};
        print_json(&walk);
    }
    if (how->json && r == 0)
        printf("]\n");
    free(walk.file);
    if (r < 0 && !walk.failed)
        return qi_explain(&operand, &err);
    return walk.failed;
}

static const struct qi_arg rows[] = {
    QI_WORD(struct map, format, "format", 'f'),
    QI_WORD(struct map, output, "output", 0),
    QI_OBJECT,
    QI_OPTS(struct map),
    QI_SHARE(struct map),
    QI_BYTES(struct map, start, "start-offset", 's', "start offset", 0, INT64_MAX),
    QI_BYTES(struct map, length, "max-length", 'l', "max length", 0, INT64_MAX),
};

int qi_map(int argc, char **argv)
{
    struct map how = {.length = UINT64_MAX};
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
    return run(&how, argv[optind]);
}
