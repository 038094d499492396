/*
 * The journal of a conversion; see lib/resume.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/resume.h"
#include "job/overlay/overlay.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

/* A chain of BLOCK_DEPTH_MAX files with long names. */
#define JOURNAL_BYTES_MAX ((uint64_t)8 << 20)

void resume_free(struct resume *resume)
{
    free(resume->journal);
    free(resume->fresh);
    free(resume->partial);
    free(resume->key);
    *resume = (struct resume){0};
}

/* ---- what is copied into what ---- */

static int put_file(FILE *out, const char *what, const char *path, struct hws_error *err)
{
    struct stat st;
    if (!path || stat(path, &st) < 0)
        return hws_fail(err, ENOTSUP,
                        "only what is in files of this host can be resumed; '%.300s' is not",
                        path ? path : "the source");
    fprintf(out, "%s %s\n  inode %ju size %jd changed %jd.%09ld\n", what, path,
            (uintmax_t)st.st_ino, (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
            st.st_mtim.tv_nsec);
    return 0;
}

static int put_source(FILE *out, struct block_node *top, struct hws_error *err)
{
    int r = 0;
    fprintf(out, "source\n");
    for (struct block_node *n = top; n && r == 0; n = block_child(n, BLOCK_BACKING)) {
        struct block_node *data = block_child(n, BLOCK_DATA);
        r = put_file(out, block_driver_name(n), overlay_node_path(n), err);
        if (r == 0 && data)
            r = put_file(out, "data", block_filename(data), err);
    }
    return r;
}

static void put_choices(FILE *out, uint64_t size, const struct hws_image *to,
                        const struct hws_convert *how)
{
    fprintf(out, "target %s size %" PRIu64 "\n", to->format ? to->format : "qcow2", size);
    for (const char *const *option = how->options; option && *option; option++)
        fprintf(out, "option %s\n", *option);
    fprintf(out, "compress %d level %d sparse %u offload %d range %" PRIu64 " %" PRIu64 "\n",
            how->compress, how->level, how->sparse_bytes, how->offload, how->start, how->length);
}

static int make_key(struct resume *resume, struct block_node *const *source, unsigned count,
                    uint64_t size, const struct hws_image *to, const struct hws_image *from,
                    const struct hws_convert *how, struct hws_error *err)
{
    size_t length;
    FILE *out = open_memstream(&resume->key, &length);
    if (!out)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = 0;
    fprintf(out, "hawser convert journal 1\n");
    for (unsigned i = 0; i < count && r == 0; i++)
        r = put_source(out, source[i], err);
    if (from && from->snapshot)
        fprintf(out, "snapshot %s\n", from->snapshot);
    put_choices(out, size, to, how);
    fprintf(out, "durable ");
    if (fclose(out) != 0 && r == 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    return r;
}

/* ---- the file ---- */

/* @ret NULL where there is none. */
static int co_read_text(const char *path, char **ret, struct hws_error *err)
{
    struct rt_file *file;
    struct rt_open how = {.flags = O_RDONLY};
    struct rt_stat st;
    *ret = NULL;
    int r = co_open(path, &how, &file, err);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    r = co_stat(file, &st);
    if (r == 0 && st.size_bytes > JOURNAL_BYTES_MAX)
        r = -EFBIG;
    char *text = r == 0 ? calloc(1, st.size_bytes + 1) : NULL;
    if (r == 0 && !text)
        r = -ENOMEM;
    if (r == 0 && st.size_bytes) {
        struct iovec iov;
        ssize_t got = co_pread(file, 0, sgl_one(&iov, text, st.size_bytes));
        r = got < 0 ? (int)got : 0;
    }
    rt_file_close(file);
    if (r < 0) {
        free(text);
        return hws_fail_errno(err, -r, "reading '%.300s'", path);
    }
    *ret = text;
    return 0;
}

/* It was renamed into its place when it was whole: what does not end well is of something else. */
static int understand(struct resume *resume, const char *text, struct hws_error *err)
{
    size_t length = strlen(resume->key);
    char *end = NULL;
    if (strncmp(text, resume->key, length) == 0) {
        errno = 0;
        resume->durable = strtoull(text + length, &end, 10);
        if (end > text + length && !errno && strcmp(end, "\nend\n") == 0) {
            resume->found = true;
            return 0;
        }
    }
    return hws_fail(err, ESTALE,
                    "'%.250s' is of another conversion: the source has changed since, or the "
                    "options have; delete it, and '%.250s', to begin anew",
                    resume->journal, resume->partial);
}

int co_resume_find(struct resume *ret, const char *path, struct block_node *const *source,
                   unsigned count, uint64_t size, const struct hws_image *from,
                   const struct hws_image *to, const struct hws_convert *how, struct hws_error *err)
{
    *ret = (struct resume){0};
    if (asprintf(&ret->journal, "%s.convert-journal", path) < 0)
        ret->journal = NULL;
    if (asprintf(&ret->fresh, "%s.convert-journal.new", path) < 0)
        ret->fresh = NULL;
    if (asprintf(&ret->partial, "%s.convert-partial", path) < 0)
        ret->partial = NULL;
    if (!ret->journal || !ret->fresh || !ret->partial)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = make_key(ret, source, count, size, to, from, how, err);
    autofree char *text = NULL;
    if (r == 0)
        r = co_read_text(ret->journal, &text, err);
    if (r == 0 && text)
        r = understand(ret, text, err);
    /* A journal whose target is gone says nothing. */
    if (r == 0 && ret->found && access(ret->partial, F_OK) < 0) {
        ret->found = false;
        ret->durable = 0;
    }
    return r;
}

int co_resume_note(struct resume *resume, uint64_t durable, struct hws_error *err)
{
    struct rt_open how = {.flags = O_WRONLY | O_CREAT | O_TRUNC, .mode = 0666};
    struct rt_file *file;
    struct iovec iov;
    autofree char *text = NULL;
    int length = asprintf(&text, "%s%" PRIu64 "\nend\n", resume->key, durable);
    if (length < 0) {
        text = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    int r = co_open(resume->fresh, &how, &file, err);
    if (r < 0)
        return r;
    r = co_pwrite(file, 0, sgl_one(&iov, text, (size_t)length), 0);
    if (r == 0)
        r = co_fdatasync(file);
    rt_file_close(file);
    if (r < 0)
        return hws_fail_errno(err, -r, "writing '%.300s'", resume->fresh);
    r = co_rename(resume->fresh, resume->journal, err);
    if (r == 0)
        resume->durable = durable;
    return r;
}

void co_resume_end(struct resume *resume)
{
    (void)!co_unlink(resume->journal, NULL);
}
