/*
 * `hawser check`: is an image whole, and can it be mended.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

enum { REPAIR_NONE = -1, REPAIR_LEAKS, REPAIR_ALL };

struct check_options {
    const char *format;
    struct cli_list allow;
    bool force_share, quiet;
    int repair, output;
};

struct findings {
    json_t *lines; /* of --output=json; NULL: printed at once */
    struct progress progress;
};

static void report(void *arg, const char *line)
{
    struct findings *findings = arg;
    if (findings->lines) {
        json_array_append_new(findings->lines, out_string(line));
        return;
    }
    progress_hide(&findings->progress);
    out_safe(stdout, line);
    putchar('\n');
}

static int step(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct findings *findings = arg;
    return progress_step(&findings->progress, done_bytes, total_bytes);
}

static int verdict(const struct hws_check *check)
{
    if (check->errors)
        return CLI_FAILED;
    if (check->corruptions)
        return CLI_CORRUPT;
    return check->leaks ? CLI_LEAKS : CLI_OK;
}

static void print_json(const char *image, const struct hws_check *check, json_t *lines)
{
    json_t *object = json_pack("{s:o, s:s, s:b, s:o}", "filename", out_string(image), "format",
                               check->format, "clean", verdict(check) == CLI_OK, "findings", lines);
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"corruptions", check->corruptions},
        {"leaks", check->leaks},
        {"check-errors", check->errors},
        {"corruptions-fixed", check->corruptions_fixed},
        {"leaks-fixed", check->leaks_fixed},
        {"image-end-offset", check->image_end_offset},
        {"total-clusters", check->total_clusters},
        {"allocated-clusters", check->allocated_clusters},
        {"fragmented-clusters", check->fragmented_clusters},
        {"compressed-clusters", check->compressed_clusters},
    };
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++)
        json_object_set_new(object, fields[i].name, json_integer((json_int_t)fields[i].value));
    out_json(object);
}

static void print_human(const struct check_options *options, const struct hws_check *check)
{
    if (check->leaks_fixed || check->corruptions_fixed)
        printf("mended: %llu errors, %llu leaked clusters\n",
               (unsigned long long)check->corruptions_fixed,
               (unsigned long long)check->leaks_fixed);
    if (check->errors)
        printf("%llu parts of the image could not be checked\n", (unsigned long long)check->errors);
    if (check->corruptions)
        printf("%llu errors: data may be wrong or lost%s\n", (unsigned long long)check->corruptions,
               options->repair == REPAIR_ALL ? "" : "; copy the image, then try 'check -r all'");
    if (check->leaks)
        printf("%llu leaked clusters: harmless, they waste room; 'check -r leaks' frees them\n",
               (unsigned long long)check->leaks);
    if (verdict(check) == CLI_OK && !options->quiet)
        printf("no errors found\n");
    if (check->total_clusters && !options->quiet)
        printf(
            "%llu of %llu clusters allocated (%.1f %%), %.1f %% fragmented, %.1f %% compressed\n",
            (unsigned long long)check->allocated_clusters,
            (unsigned long long)check->total_clusters,
            100.0 * (double)check->allocated_clusters / (double)check->total_clusters,
            100.0 * (double)check->fragmented_clusters /
                (double)MAX(check->allocated_clusters, (uint64_t)1),
            100.0 * (double)check->compressed_clusters /
                (double)MAX(check->allocated_clusters, (uint64_t)1));
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct check_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct findings findings = {.lines = options->output == CLI_JSON ? json_array() : NULL};
    struct hws_check check;
    unsigned repair = options->repair == REPAIR_ALL     ? HWS_REPAIR_LEAKS | HWS_REPAIR_ERRORS
                      : options->repair == REPAIR_LEAKS ? HWS_REPAIR_LEAKS
                                                        : 0;
    if (repair && options->force_share) {
        json_decref(findings.lines);
        hws_fail(&err, EINVAL, "-r writes the image, which -U cannot share with somebody else");
        return out_error("check", CLI_FAILED, &err);
    }
    progress_start(&findings.progress, repair ? "mending" : "checking",
                   options->quiet || options->output == CLI_JSON);
    int r = hws_check(&image, repair, report, &findings, step, &findings, &check, &err);
    progress_end(&findings.progress);
    if (r < 0) {
        json_decref(findings.lines);
        cli_explain_open(&err, operands[0]);
        return out_error("check", CLI_FAILED, &err);
    }
    if (options->output == CLI_JSON)
        print_json(operands[0], &check, findings.lines);
    else
        print_human(options, &check);
    return verdict(&check);
}

static const char *const repairs[] = {"leaks", "all", NULL};

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct check_options),
    {"repair", 'r', CLI_CHOICE, offsetof(struct check_options, repair), "WHAT", "mend the image",
     repairs},
    CLI_FORCE_SHARE_OPTION(struct check_options),
    CLI_ALLOW_OPTION(struct check_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct check_options, quiet), NULL,
     "print what is wrong only"},
    CLI_OUTPUT_OPTION(struct check_options),
    {NULL},
};

const struct cli_command cli_check_command = {
    .name = "check",
    .summary = "Check an image, and mend it",
    .synopsis = "[OPTION...] IMAGE",
    .description =
        "Reads the image's metadata and tells of errors (data that is or may be lost) and leaks "
        "(clusters "
        "that nothing uses; a crash can leave some, and they do no harm). The image is not changed "
        "unless -r is given.\n\n"
        "-r leaks frees leaked clusters. -r all also mends what can be mended of the rest; copy a "
        "damaged "
        "image before. Exit codes are those of 'qemu-img check', so usage errors are 1 here.",
    .exit_codes = "0 clean; 1 the check could not be made, or the command line is wrong; 2 errors "
                  "are left in "
                  "the image; 3 leaks are left, and no errors.",
    .operands = {{"IMAGE", "the image to check", CLI_COMPLETE_FILE}},
    .examples = {{"only look", "hawser check disk.qcow2"},
                 {"free what a crash left", "hawser check -r leaks disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct check_options),
    .operands_min = 1,
    .operands_max = 1,
    .usage_exit = CLI_FAILED,
    .run = run,
};
