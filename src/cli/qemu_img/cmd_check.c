/*
 * qemu-img check.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

#define NOT_SUPPORTED 63

struct check {
    const char *format, *cache, *output;
    unsigned reach, repair;
    bool json, quiet;
};

static void report(void *arg, const char *line)
{
    const struct check *check = arg;
    if (!check->quiet || !check->json)
        fprintf(stderr, "%s\n", line);
}

static int verdict(const struct hws_check *found)
{
    if (found->errors)
        return 1;
    if (found->corruptions)
        return 2;
    return found->leaks ? 3 : 0;
}

static void put(json_t *out, const char *name, uint64_t value, bool always)
{
    if (value || always)
        json_object_set_new(out, name, json_integer((json_int_t)value));
}

static void print_json(const struct qi_operand *operand, const struct hws_check *found)
{
    json_t *out = json_object();
    json_object_set_new(out, "filename", qi_json_string(operand->text));
    json_object_set_new(out, "format", json_string(operand->driver));
    put(out, "check-errors", found->errors, true);
    put(out, "image-end-offset", found->image_end_offset, false);
    put(out, "corruptions", found->corruptions, false);
    put(out, "leaks", found->leaks, false);
    put(out, "corruptions-fixed", found->corruptions_fixed, false);
    put(out, "leaks-fixed", found->leaks_fixed, false);
    put(out, "total-clusters", found->total_clusters, false);
    put(out, "allocated-clusters", found->allocated_clusters, false);
    put(out, "fragmented-clusters", found->fragmented_clusters, false);
    put(out, "compressed-clusters", found->compressed_clusters, false);
    qi_print_json(out);
    json_decref(out);
}

static void print_repaired(const struct hws_check *found)
{
    printf("The following inconsistencies were found and repaired:\n\n"
           "    %llu leaked clusters\n    %llu corruptions\n\n"
           "Double checking the fixed image now...\n",
           (unsigned long long)found->leaks_fixed, (unsigned long long)found->corruptions_fixed);
}

static void print_human(const struct hws_check *found)
{
    if (!verdict(found))
        printf("No errors were found on the image.\n");
    if (found->corruptions)
        printf("\n%llu errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               (unsigned long long)found->corruptions);
    if (found->leaks)
        printf("\n%llu leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               (unsigned long long)found->leaks);
    if (found->errors)
        printf("\n%llu internal errors have occurred during the check.\n",
               (unsigned long long)found->errors);
    double total = (double)found->total_clusters, allocated = (double)found->allocated_clusters;
    if (found->total_clusters && found->allocated_clusters)
        printf("%llu/%llu = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
               (unsigned long long)found->allocated_clusters,
               (unsigned long long)found->total_clusters, allocated * 100 / total,
               (double)found->fragmented_clusters * 100 / allocated,
               (double)found->compressed_clusters * 100 / allocated);
    if (found->image_end_offset)
        printf("Image end offset: %llu\n", (unsigned long long)found->image_end_offset);
}

static int run(const struct check *check, const char *name)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    struct hws_check found;
    if (qi_operand(&operand, name, check->format, check->cache, check->reach) < 0)
        return 1;
    if (qi_check_backing(&operand))
        return 1;
    int r =
        hws_check(&operand.image, check->repair, report, (void *)check, NULL, NULL, &found, &err);
    if (r == -ENOTSUP && strcmp(operand.driver, "qcow2") != 0) {
        qi_error("This image format does not support checks");
        return NOT_SUPPORTED;
    }
    if (r < 0)
        return qi_explain(&operand, &err);
    if (check->json)
        print_json(&operand, &found);
    else if (!check->quiet) {
        if (found.leaks_fixed || found.corruptions_fixed)
            print_repaired(&found);
        print_human(&found);
    }
    return verdict(&found);
}

static int take_repair(void *command, const struct qi_arg *arg, char *text)
{
    struct check *check = command;
    check->reach |= QI_WRITE;
    if (strcmp(text, "leaks") == 0)
        check->repair = HWS_REPAIR_LEAKS;
    else if (strcmp(text, "all") == 0)
        check->repair = HWS_REPAIR_LEAKS | HWS_REPAIR_ERRORS;
    else
        return qi_usage("Unknown option value for -r (expecting 'leaks' or 'all'): %s", text);
    return 0;
}

static const struct qi_arg rows[] = {
    QI_WORD(struct check, format, "format", 'f'),
    QI_TAKE("repair", 'r', take_repair),
    QI_WORD(struct check, output, "output", 0),
    QI_OBJECT,
    QI_OPTS(struct check),
    QI_SHARE(struct check),
    QI_WORD(struct check, cache, NULL, 'T'),
    QI_FLAG(struct check, quiet, NULL, 'q'),
};

int qi_check(int argc, char **argv)
{
    struct check check = {.cache = "writeback"};
    int r = qi_take(QI_ARGS(rows), &check, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    int json = qi_output(check.output);
    if (json < 0)
        return 1;
    check.json = json;
    if (!qi_cache_known(check.cache, QI_CACHE_SOURCE))
        return 1;
    if (qi_two_formats(check.format, check.reach))
        return 1;
    return run(&check, argv[optind]);
}
