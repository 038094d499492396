/*
 * hws_measure(): what an image will take of its storage.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
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

/* ---- bitmaps ---- */

#define CLUSTER_BYTES          (64 * 1024)
#define CLUSTER_BYTES_EXTENDED (128 * 1024)

/* The target's cluster size, from its options: texts that co_block_measure() has accepted. */
static uint64_t target_cluster(json_t *options)
{
    const char *text = json_string_value(json_object_get(options, "cluster_size"));
    const char *extended = json_string_value(json_object_get(options, "extended_l2"));
    const char *compat = json_string_value(json_object_get(options, "compat"));
    uint64_t bytes = 0;
    if (text && size_parse(text, &bytes, NULL) == 0 && bytes)
        return bytes;
    bool old = compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
    return old || (extended && !strcmp(extended, "off")) ? CLUSTER_BYTES : CLUSTER_BYTES_EXTENDED;
}

static uint64_t clusters(uint64_t bytes, uint64_t cluster)
{
    return (bytes + cluster - 1) / cluster;
}

/* Of each bitmap the bits and the table of their clusters, of all the directory: what the target
 * stores when the source's bitmaps are copied too (docs/interop/qcow2.txt of QEMU, "Bitmaps
 * extension"). */
static uint64_t bitmaps_bytes(json_t *bitmaps, uint64_t size, uint64_t cluster)
{
    uint64_t count = 0, directory = 0;
    size_t i;
    json_t *bitmap;
    json_array_foreach(bitmaps, i, bitmap)
    {
        uint64_t grain = (uint64_t)json_integer_value(json_object_get(bitmap, "granularity"));
        size_t name = json_string_length(json_object_get(bitmap, "name"));
        uint64_t data = clusters(clusters(clusters(size, MAX(grain, (uint64_t)1)), 8), cluster);
        count += data + clusters(data * 8, cluster);
        directory += align_up(24 + name, 8);
    }
    return (count + clusters(directory, cluster)) * cluster;
}

/* Can source and target have bitmaps, and what do the source's take? */
static int co_measure_bitmaps(const struct measuring *m, struct block_node *source, json_t *options,
                              struct hws_error *err)
{
    json_t *info;
    const char *driver = json_string_value(json_object_get(options, "driver"));
    if (strcmp(driver, "qcow2") != 0)
        return 0;
    int r = co_call_info(source, false, &info, err);
    if (r < 0)
        return r;
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    const char *compat = json_string_value(json_object_get(data, "compat"));
    m->ret->has_bitmaps = compat && strcmp(compat, "0.10") != 0;
    if (m->ret->has_bitmaps)
        m->ret->bitmaps = bitmaps_bytes(json_object_get(data, "bitmaps"), block_size(source),
                                        target_cluster(options));
    json_decref(info);
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
    *m->ret =
        (struct hws_measured){.required = found.required, .fully_allocated = found.fully_allocated};
    if (r == 0 && source)
        r = co_measure_bitmaps(m, source, options, err);
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
