/*
 * `hawser map`: what lies where in an image and its backing chain.
 *
 * JSON is printed extent by extent as it is found, so that a map of any size needs no memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"

struct map_options {
    const char *format, *snapshot;
    struct cli_list allow;
    bool force_share;
    uint64_t start, length;
    int output;
};

struct printer {
    bool json;
    unsigned long long printed;
    const char *file; /* whose name `name` is, as a JSON string */
    char *name;
};

/* The name as JSON is made once for each file: a fragmented image has millions of extents. */
static const char *json_name(struct printer *printer, const char *file)
{
    if (file == printer->file && printer->name)
        return printer->name;
    json_t *text = out_string(file);
    free(printer->name);
    printer->name = json_dumps(text, JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
    printer->file = file;
    json_decref(text);
    return printer->name ? printer->name : "null";
}

static char *put_text(char *at, const char *text)
{
    return stpcpy(at, text);
}

static char *put_number(char *at, const char *label, uint64_t value)
{
    char digits[20];
    unsigned count = 0;
    at = put_text(at, label);
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *at++ = digits[--count];
    return at;
}

static char *put_flag(char *at, const char *label, bool value)
{
    return put_text(put_text(at, label), value ? "true" : "false");
}

static void print_json(struct printer *printer, const struct hws_extent *extent)
{
    char line[320], *at = line;
    at = put_text(at, printer->printed++ ? ",\n  " : "[ ");
    at = put_number(at, "{\"start\": ", extent->start);
    at = put_number(at, ", \"length\": ", extent->length);
    at = put_number(at, ", \"depth\": ", extent->depth);
    at = put_flag(at, ", \"present\": ", extent->present);
    at = put_flag(at, ", \"zero\": ", extent->zero);
    at = put_flag(at, ", \"data\": ", extent->data);
    at = put_flag(at, ", \"compressed\": ", extent->compressed);
    if (extent->mapped)
        at = put_number(at, ", \"offset\": ", extent->offset);
    assert(at < line + sizeof(line));
    fwrite_unlocked(line, 1, (size_t)(at - line), stdout);
    if (extent->mapped) {
        fputs_unlocked(", \"filename\": ", stdout);
        fputs_unlocked(json_name(printer, extent->file), stdout);
    }
    putc_unlocked('}', stdout);
}

static int print_extent(void *arg, const struct hws_extent *extent)
{
    struct printer *printer = arg;
    if (printer->json) {
        print_json(printer, extent);
        return 0;
    }
    if (!extent->data)
        return 0;
    if (printer->printed++ == 0)
        printf("%-18s %-18s %-18s %-5s %s\n", "offset", "length", "mapped to", "depth", "file");
    printf("%#-18llx %#-18llx ", (unsigned long long)extent->start,
           (unsigned long long)extent->length);
    if (extent->mapped)
        printf("%#-18llx %-5u ", (unsigned long long)extent->offset, extent->depth);
    else
        printf("%-18s %-5u ", extent->compressed ? "compressed" : "-", extent->depth);
    out_safe(stdout, extent->file ? extent->file : "");
    putchar('\n');
    return 0;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct map_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    image.snapshot = options->snapshot;
    struct printer printer = {.json = options->output == CLI_JSON};
    uint64_t start = options->start == UINT64_MAX ? 0 : options->start;
    int r = hws_map(&image, start, options->length, print_extent, &printer, &err);
    free(printer.name);
    if (r < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("map", CLI_FAILED, &err);
    }
    if (printer.json)
        printf(printer.printed ? "\n]\n" : "[]\n");
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct map_options),
    CLI_SNAPSHOT_OPTION(struct map_options, 0),
    {"start-offset", 's', CLI_SIZE, offsetof(struct map_options, start), "OFFSET",
     "where to begin; 0 if not given"},
    {"max-length", 'l', CLI_SIZE, offsetof(struct map_options, length), "LENGTH",
     "how much to map; all if not given"},
    CLI_ALLOW_OPTION(struct map_options),
    CLI_FORCE_SHARE_OPTION(struct map_options),
    CLI_OUTPUT_OPTION(struct map_options),
    {NULL},
};

const struct cli_command cli_map_command = {
    .name = "map",
    .summary = "Show where an image's data lies",
    .synopsis = "[OPTION...] IMAGE",
    .description = "Lists the extents of the image through its whole backing chain. The human form "
                   "lists data only; the "
                   "JSON form lists everything: start, length, depth (0 is the image itself, 1 its "
                   "backing file), "
                   "present, zero, data, compressed, and, where the bytes lie as they are in a "
                   "file, filename and "
                   "offset.",
    .operands = {{"IMAGE", "the image to map", CLI_COMPLETE_FILE}},
    .examples = {{"every extent, for a program", "hawser map --output=json disk.qcow2"},
                 {"the first GiB only", "hawser map --max-length=1G disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct map_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
