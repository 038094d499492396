/*
 * hws_measure(): what an image will take of its storage.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/driver.h"
#include "lib/call.h"

struct measuring {
    const struct hws_image *source;
    const struct hws_measure *how;
    struct hws_measured *ret;
};

/* The creation options of the target, as co_block_measure() wants them. */
static int target_options(const struct measuring *m, json_t *options, struct hws_error *err)
{
    const char *format = m->how->format ? m->how->format : "qcow2";
    const struct block_driver *driver = block_driver_find(format);
    if (!driver || driver->kind != BLOCK_FORMAT)
        return hws_fail(err, EINVAL, "unknown format '%.100s'; see 'hawser help formats'", format);
    json_object_set_new(options, "driver", json_string(format));
    return call_add_options(driver->create_options, m->how->options, options, err);
}

static int set_size(const struct measuring *m, struct block_node *source, json_t *options,
                    struct hws_error *err)
{
    uint64_t size = m->how->size_bytes;
    if (size == HWS_SIZE_UNSET && json_object_get(options, "size"))
        return 0;
    if (size == HWS_SIZE_UNSET && !source)
        return hws_fail(err, EINVAL, "either an image or --size says how large the target is");
    if (size == HWS_SIZE_UNSET)
        size = block_size(source);
    if (size > BLOCK_SIZE_MAX)
        return hws_fail(err, EFBIG, "size %llu is past the largest that the kernel takes, %llu",
                        (unsigned long long)size, (unsigned long long)BLOCK_SIZE_MAX);
    json_object_set_new(options, "size", json_integer((json_int_t)size));
    return 0;
}

static int co_measure_over(const struct measuring *m, struct block_node *source,
                           struct hws_error *err)
{
    struct block_measure found = {0};
    json_t *options = json_object();
    int r = target_options(m, options, err);
    if (r == 0)
        r = set_size(m, source, options, err);
    if (r == 0)
        r = co_block_measure(options, source, &found, err);
    *m->ret = (struct hws_measured){.required = found.required,
                                    .fully_allocated = found.fully_allocated,
                                    .bitmaps = found.bitmaps,
                                    .has_bitmaps = found.has_bitmaps};
    json_decref(options);
    return r;
}

static int co_measure(void *arg, struct hws_error *err)
{
    const struct measuring *m = arg;
    if (!m->source)
        return co_measure_over(m, NULL, err);
    struct block_node *source;
    int r = co_call_open(m->source, 0, &source, err);
    if (r < 0)
        return r;
    r = co_measure_over(m, source, err);
    return co_call_close(source, r, err);
}

int hws_measure(const struct hws_image *source, const struct hws_measure *measure,
                struct hws_measured *ret, struct hws_error *err)
{
    struct measuring m = {source, measure, ret};
    return call_run(co_measure, &m, err);
}
