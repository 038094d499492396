/*
 * qemu-img rebase.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"
#include <sys/stat.h>

struct rebase {
    const char *format, *cache, *source_cache, *backing, *backing_format;
    unsigned reach;
    bool progress, quiet, unsafe;
};

/* Can the new backing file be opened? @return 0, or 1 told. */
static int look_at_backing(const struct rebase *how, const struct qi_operand *operand)
{
    autofree char *path = qi_beside(operand->file ? operand->file : "", how->backing);
    const char *local = path ? qi_local_file(path) : NULL;
    struct stat st, own;
    if (!local)
        return qi_error("Could not open new backing file '%s': Unknown protocol '%.*s'",
                        how->backing, (int)strcspn(how->backing, ":"), how->backing);
    if (stat(local, &st) < 0)
        return qi_error("Could not open new backing file '%s': Could not open '%s': %s",
                        how->backing, local, strerror(errno));
    if (operand->file && stat(operand->file, &own) == 0 && own.st_ino == st.st_ino &&
        own.st_dev == st.st_dev)
        return qi_error("Could not open new backing file '%s': Failed to get shared \"write\" "
                        "lock\nIs another process using the image [%s]?",
                        how->backing, local);
    return 0;
}

static int tell(const struct rebase *how, const struct qi_operand *operand,
                const struct hws_error *err)
{
    if (err->code == ENOTSUP)
        return qi_error("Could not change the backing file to '%s': %s", how->backing,
                        strerror(ENOTSUP));
    return qi_explain(operand, err);
}

static int rebase_image(const struct rebase *how, const char *name, struct qi_progress *progress)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    uint64_t size;
    unsigned reach = how->reach & ~(unsigned)QI_FORCE_SHARE;
    const char *backing = how->backing ? how->backing : "";
    if (!qi_cache_known(how->cache, QI_CACHE_TARGET) ||
        !qi_cache_known(how->source_cache, QI_CACHE_SOURCE))
        return 1;
    if (qi_operand(&operand, name, how->format, how->cache, reach | QI_WRITE) < 0)
        return 1;
    if (!how->unsafe && qi_virtual_size(&operand, &size, &err) < 0)
        return qi_explain(&operand, &err);
    qi_warn_raw(&operand);
    if (how->backing_format && !qi_driver_known(how->backing_format))
        return qi_error("Invalid format name: '%s'", how->backing_format);
    if (!how->unsafe && *backing && look_at_backing(how, &operand))
        return 1;
    if (*backing && !how->backing_format && strcmp(operand.driver, "qcow2") == 0)
        return qi_error("Could not change the backing file to '%s': backing format must be "
                        "specified",
                        backing);
    struct hws_rebase rebase = {.backing = backing,
                                .backing_format = *backing ? how->backing_format : NULL,
                                .unsafe = how->unsafe,
                                .progress = qi_progress_step,
                                .progress_arg = progress};
    return hws_rebase(&operand.image, &rebase, &err) < 0 ? tell(how, &operand, &err) : 0;
}

static int run(const struct rebase *how, const char *name)
{
    struct qi_progress progress;
    qi_progress_start(&progress, how->progress && !how->quiet);
    int r = rebase_image(how, name, &progress);
    qi_progress_end(&progress, r == 0);
    return r;
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct rebase),
    QI_SHARE(struct rebase),
    QI_WORD(struct rebase, format, NULL, 'f'),
    QI_WORD(struct rebase, backing_format, NULL, 'F'),
    QI_WORD(struct rebase, backing, NULL, 'b'),
    QI_FLAG(struct rebase, unsafe, NULL, 'u'),
    QI_FLAG(struct rebase, progress, NULL, 'p'),
    QI_WORD(struct rebase, cache, NULL, 't'),
    QI_WORD(struct rebase, source_cache, NULL, 'T'),
    QI_FLAG(struct rebase, quiet, NULL, 'q'),
};

int qi_rebase(int argc, char **argv)
{
    struct rebase how = {.cache = "writeback", .source_cache = "writeback"};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    if (!how.unsafe && !how.backing)
        return qi_usage("Must specify backing file (-b) or use unsafe mode (-u)");
    if (qi_two_formats(how.format, how.reach))
        return 1;
    return run(&how, argv[optind]);
}
