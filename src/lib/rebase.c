/*
 * hws_rebase(): another backing file for an image.
 *
 *   what the two chains tell differently is copied into the image
 *   flush: all of that is durable
 *   the header names the other file, in one step
 *
 * Before the last step the image reads as ever over the old file, and after it over the new one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/layers.h"
#include "job/overlay/overlay.h"
#include "lib/call.h"
#include <sys/stat.h>

struct rebasing {
    const struct hws_image *image;
    const struct hws_rebase *how;
    char *path; /* of the new backing file, from here; NULL: none */
};

static bool same_file(const char *a, const char *b)
{
    struct stat first, second;
    return a && b && stat(a, &first) == 0 && stat(b, &second) == 0 &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

static int refuse_itself(const struct rebasing *r, const char *path, const char *image,
                         struct hws_error *err)
{
    if (!same_file(path, image))
        return 0;
    return hws_fail(err, ELOOP,
                    "'%.300s' cannot have '%.300s' below it: the image would be its own backing "
                    "file",
                    r->image->path, r->path);
}

static int co_open_new(const struct rebasing *r, unsigned flags, struct block_node **ret,
                       struct hws_error *err)
{
    struct hws_image backing = {.path = r->path,
                                .format = r->how->backing_format,
                                .allow = r->image->allow,
                                .force_share = r->image->force_share};
    int result = co_call_open(&backing, flags, ret, err);
    return result < 0 ? hws_wrap(err, result, "the new backing file%s",
                                 r->how->backing_format ? "" : " (say its format with -F)")
                      : 0;
}

/* ---- only the name ---- */

static int co_record(const struct rebasing *r, struct block_node *top, struct hws_error *err)
{
    int result = refuse_itself(r, r->path, overlay_node_path(top), err);
    if (result < 0)
        return result;
    if (!r->path)
        return co_block_change_backing(top, NULL, NULL, err);
    if (r->how->backing_format)
        return co_block_change_backing(top, r->how->backing, r->how->backing_format, err);
    /* The format is recorded, so that it is never guessed again. */
    struct block_node *backing;
    result = co_open_new(r, BLOCK_OPEN_NO_BACKING, &backing, err);
    if (result < 0)
        return result;
    result = co_block_change_backing(top, r->how->backing, block_driver_name(backing), err);
    return co_call_close(backing, result, err);
}

/* ---- with what it reads as ---- */

static int co_move(const struct rebasing *r, struct block_node *top, struct block_node *backing,
                   struct hws_error *err)
{
    struct job_load load = {.progress = r->how->progress, .progress_arg = r->how->progress_arg};
    const char *image = overlay_node_path(top);
    int result = 0;
    if (backing || block_child(top, BLOCK_BACKING))
        result = co_call_refuse_snapshots(top, "another one", "make a copy with 'convert'", err);
    if (result < 0)
        return result;
    for (struct block_node *n = backing; n; n = block_child(n, BLOCK_BACKING)) {
        result = refuse_itself(r, overlay_node_path(n), image, err);
        if (result < 0)
            return result;
    }
    result = co_copy_up(top, backing, &load, err);
    if (result < 0)
        return result;
    result = co_block_flush(top);
    if (result < 0)
        return hws_fail_errno(err, -result, "flushing '%.200s'", r->image->path);
    return co_block_change_backing(top, backing ? r->how->backing : NULL,
                                   backing ? block_driver_name(backing) : NULL, err);
}

static int co_move_over(const struct rebasing *r, struct block_node *top, struct hws_error *err)
{
    if (!r->path)
        return co_move(r, top, NULL, err);
    struct block_node *backing;
    int result = co_open_new(r, 0, &backing, err);
    if (result < 0)
        return result;
    result = co_move(r, top, backing, err);
    return co_call_close(backing, result, err);
}

static int co_rebase(void *arg, struct hws_error *err)
{
    const struct rebasing *r = arg;
    struct block_node *top;
    unsigned flags = BLOCK_OPEN_WRITE | (r->how->unsafe ? BLOCK_OPEN_NO_BACKING : 0);
    int result = co_call_open(r->image, flags, &top, err);
    if (result < 0)
        return result;
    result = r->how->unsafe ? co_record(r, top, err) : co_move_over(r, top, err);
    return co_call_close(top, result, err);
}

int hws_rebase(const struct hws_image *image, const struct hws_rebase *rebase,
               struct hws_error *err)
{
    struct rebasing r = {image, rebase, NULL};
    int result = call_check_image(image, err);
    if (result == 0 && !rebase->backing)
        result = hws_fail(err, EINVAL, "the backing file's name is needed; \"\" is none");
    if (result == 0 && *rebase->backing)
        result = call_resolve_beside(image->path, rebase->backing, &r.path, err);
    if (result == 0)
        result = call_run(co_rebase, &r, err);
    free(r.path);
    return result;
}
