/*
 * `hawser info`: what an image is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/internal_snapshot.h"
#include "cli/output.h"

struct info_options {
    const char *format;
    struct cli_list allow;
    bool force_share, chain;
    int output;
};

static const struct {
    const char *key, *label;
} sizes[] = {{"virtual-size", "virtual size"},
             {"actual-size", "size on disk"},
             {"cluster-size", "cluster size"}};

static void print_value(const char *label, json_t *value)
{
    if (json_is_string(value)) {
        out_field(label, "%s", json_string_value(value));
    } else if (json_is_boolean(value)) {
        out_field(label, "%s", json_is_true(value) ? "yes" : "no");
    } else if (json_is_integer(value)) {
        out_field(label, "%lld", (long long)json_integer_value(value));
    } else if (value && !json_is_null(value)) {
        autofree char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        out_field(label, "%s", text ? text : "?");
    }
}

static void print_layer(json_t *info)
{
    const char *name = json_string_value(json_object_get(info, "filename"));
    const char *driver = json_string_value(json_object_get(info, "format"));
    out_field("image", "%s", name ? name : "?");
    out_field("format", "%s", driver ? driver : "?");
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        json_t *value = json_object_get(info, sizes[i].key);
        char text[64];
        if (json_is_integer(value))
            out_field(sizes[i].label, "%s",
                      out_size((uint64_t)json_integer_value(value), text, sizeof(text)));
    }
    print_value("backing file", json_object_get(info, "backing-filename"));
    print_value("backing format", json_object_get(info, "backing-filename-format"));
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(info, "format-specific"), key, value)
    {
        char label[64];
        snprintf(label, sizeof(label), "  %s", key);
        print_value(label, value);
    }
    value = json_object_get(info, "snapshots");
    if (json_array_size(value)) {
        printf("snapshots:\n");
        cli_print_snapshots(value);
    }
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct info_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    char *text;
    if (hws_info(&image, options->chain, &text, &err) < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("info", CLI_FAILED, &err);
    }
    if (options->output == CLI_JSON) {
        out_json_text(text);
        return CLI_OK;
    }
    json_t *info = json_loads(text, 0, NULL), *layer;
    free(text);
    size_t i;
    if (!json_is_array(info))
        print_layer(info);
    json_array_foreach(info, i, layer)
    {
        if (i)
            putchar('\n');
        print_layer(layer);
    }
    json_decref(info);
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct info_options),
    {"backing-chain", 0, CLI_FLAG, offsetof(struct info_options, chain), NULL,
     "tell of every layer, down to the last backing file"},
    CLI_ALLOW_OPTION(struct info_options),
    CLI_FORCE_SHARE_OPTION(struct info_options),
    CLI_OUTPUT_OPTION(struct info_options),
    {NULL},
};

const struct cli_command cli_info_command = {
    .name = "info",
    .summary = "Tell what an image is",
    .synopsis = "[OPTION...] IMAGE",
    .description =
        "Prints format, sizes, backing file and the format's own features. The image is read only, "
        "and its backing files are not opened unless --backing-chain asks for them. An image "
        "that is attached or in use elsewhere needs -U.",
    .operands = {{"IMAGE", "the image to look at", CLI_COMPLETE_FILE}},
    .examples = {{"all layers, for a program",
                  "hawser info --output=json --backing-chain disk.qcow2"},
                 {"an image that a virtual machine is using", "hawser info -U disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct info_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
