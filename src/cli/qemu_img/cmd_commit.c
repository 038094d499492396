/*
 * qemu-img commit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct commit {
    const char *format, *cache, *base;
    unsigned reach;
    uint64_t rate;
    bool keep, progress, quiet;
};

/* The layers below the image, by their names; the library takes the base by its path. */
static int find_base(const struct commit *how, const struct qi_operand *operand, char **ret)
{
    char *text;
    struct hws_error err = {0};
    size_t i;
    json_t *layer;
    if (hws_info(&operand->image, true, &text, &err) < 0)
        return qi_explain(operand, &err);
    json_t *layers = json_loads(text, 0, NULL);
    free(text);
    bool any = json_array_size(layers) > 1;
    autofree char *beside = how->base && operand->file ? qi_beside(operand->file, how->base) : NULL;
    json_array_foreach(layers, i, layer)
    {
        const char *name = json_string_value(json_object_get(layer, "filename"));
        if (!i || !how->base || *ret || !name)
            continue;
        if (strcmp(name, how->base) == 0 || (beside && strcmp(name, beside) == 0))
            *ret = strdup(name);
    }
    json_decref(layers);
    if (how->base && !*ret)
        return qi_error("Did not find '%s' in the backing chain of '%s'", how->base, operand->text);
    return any ? 0 : qi_error("Image does not have a backing file");
}

static int tell(const struct qi_operand *operand, const struct hws_error *err)
{
    char why[HWS_ERROR_TEXT_BYTES + 64];
    const char *backing = "Could not open backing file: ";
    if (err->code != EAGAIN)
        return qi_error("%s", err->text);
    qi_reason(operand, err, why, sizeof(why));
    if (strncmp(why, backing, strlen(backing)) == 0)
        return qi_error("%s", why + strlen(backing));
    return qi_explain(operand, err);
}

static int run(const struct commit *how, const char *name)
{
    autooperand operand = {0};
    autofree char *base = NULL;
    struct hws_error err = {0};
    if (qi_operand(&operand, name, how->format, how->cache, how->reach | QI_WRITE) < 0)
        return 1;
    qi_warn_raw(&operand);
    struct qi_progress progress;
    qi_progress_start(&progress, how->progress && !how->quiet);
    if (find_base(how, &operand, &base)) {
        qi_progress_end(&progress, false);
        return 1;
    }
    struct hws_commit commit = {.base = base,
                                .keep = how->keep || base,
                                .rate_bytes = how->rate,
                                .progress = qi_progress_step,
                                .progress_arg = &progress};
    int r = hws_commit(&operand.image, &commit, &err);
    qi_progress_end(&progress, r == 0);
    if (r < 0)
        return tell(&operand, &err);
    if (!how->quiet)
        printf("Image committed.\n");
    return 0;
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct commit),
    QI_WORD(struct commit, format, NULL, 'f'),
    QI_WORD(struct commit, cache, NULL, 't'),
    QI_WORD(struct commit, base, NULL, 'b'),
    QI_FLAG(struct commit, keep, NULL, 'd'),
    QI_FLAG(struct commit, progress, NULL, 'p'),
    QI_FLAG(struct commit, quiet, NULL, 'q'),
    QI_BYTES(struct commit, rate, NULL, 'r', "rate limit", 0, INT64_MAX),
};

int qi_commit(int argc, char **argv)
{
    struct commit how = {.cache = "writeback"};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    if (qi_two_formats(how.format, how.reach))
        return 1;
    if (!qi_cache_known(how.cache, QI_CACHE_TARGET))
        return 1;
    return run(&how, argv[optind]);
}
