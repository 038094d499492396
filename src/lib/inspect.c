/*
 * Looking at images: hws_info(), hws_internal_snapshots(), hws_check(), hws_map(), hws_drivers().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/driver.h"
#include "block/options.h"
#include "lib/call.h"

struct info {
    const struct hws_image *image;
    bool chain;
    json_t *result;
};

static int co_info(void *arg, struct hws_error *err)
{
    struct info *info = arg;
    struct block_node *node;
    int r = co_call_open(info->image, info->chain ? 0 : BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return r;
    r = co_call_info(node, info->chain, &info->result, err);
    return co_call_close(node, r, err);
}

int hws_info(const struct hws_image *image, bool chain, char **ret_json, struct hws_error *err)
{
    struct info info = {image, chain, NULL};
    int r = call_run(co_info, &info, err);
    if (r < 0) {
        json_decref(info.result);
        return r;
    }
    return call_json_text(info.result, ret_json, err);
}

struct snapshots {
    const struct hws_image *image;
    json_t *result;
};

static int co_snapshots(void *arg, struct hws_error *err)
{
    struct snapshots *snapshots = arg;
    struct block_node *node;
    int r = co_call_open(snapshots->image, BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return r;
    r = co_block_snapshots_json(node, &snapshots->result, err);
    return co_call_close(node, r, err);
}

int hws_internal_snapshots(const struct hws_image *image, char **ret_json, struct hws_error *err)
{
    struct snapshots call = {image, NULL};
    int r = call_run(co_snapshots, &call, err);
    if (r < 0) {
        json_decref(call.result);
        return r;
    }
    return call_json_text(call.result, ret_json, err);
}

struct check {
    const struct hws_image *image;
    unsigned repair;
    struct block_check found;
    const char *format;
};

static int co_check(void *arg, struct hws_error *err)
{
    struct check *check = arg;
    struct block_node *node;
    unsigned flags = BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING;
    if (check->repair)
        flags |= BLOCK_OPEN_WRITE;
    int r = co_call_open(check->image, flags, &node, err);
    if (r < 0)
        return r;
    unsigned repair = (check->repair & HWS_REPAIR_LEAKS ? BLOCK_REPAIR_LEAKS : 0) |
                      (check->repair & HWS_REPAIR_ERRORS ? BLOCK_REPAIR_ERRORS : 0);
    check->format = block_driver_name(node);
    r = co_block_check(node, repair, &check->found, err);
    return co_call_close(node, r, err);
}

int hws_check(const struct hws_image *image, unsigned repair, hws_report_fn *report,
              void *report_arg, hws_progress_fn *progress, void *progress_arg,
              struct hws_check *ret, struct hws_error *err)
{
    struct check check = {
        image,
        repair,
        {.report = report,
         .report_arg = report_arg,
         .progress = progress,
         .progress_arg = progress_arg},
        NULL,
    };
    int r = call_run(co_check, &check, err);
    if (r < 0)
        return r;
    const struct block_check *found = &check.found;
    *ret = (struct hws_check){
        .corruptions = found->corruptions,
        .leaks = found->leaks,
        .corruptions_fixed = found->corruptions_fixed,
        .leaks_fixed = found->leaks_fixed,
        .errors = found->errors,
        .image_end_offset = found->image_end_offset,
        .total_clusters = found->total_clusters,
        .allocated_clusters = found->allocated_clusters,
        .fragmented_clusters = found->fragmented_clusters,
        .compressed_clusters = found->compressed_clusters,
        .format = check.format,
    };
    return 0;
}

struct map {
    const struct hws_image *image;
    uint64_t start, length;
    hws_extent_fn *fn;
    void *arg;
};

struct hws_extent call_extent(uint64_t start, const struct block_extent *found)
{
    return (struct hws_extent){
        .start = start,
        .length = found->length,
        .depth = found->depth,
        .present = found->flags & BLOCK_STATUS_ALLOCATED,
        .data = found->flags & BLOCK_STATUS_DATA,
        .zero = found->flags & BLOCK_STATUS_ZERO,
        .compressed = found->flags & BLOCK_STATUS_COMPRESSED,
        .mapped = found->flags & BLOCK_STATUS_MAPPED,
        .offset = found->flags & BLOCK_STATUS_MAPPED ? found->host_offset : 0,
        .file = found->flags & BLOCK_STATUS_MAPPED ? block_filename(found->file) : NULL,
    };
}

bool call_extents_join(const struct hws_extent *a, const struct hws_extent *b)
{
    return a->depth == b->depth && a->present == b->present && a->data == b->data &&
           a->zero == b->zero && a->compressed == b->compressed && a->mapped == b->mapped &&
           a->file == b->file && (!a->mapped || a->offset + a->length == b->offset);
}

static int co_walk(const struct map *map, struct block_node *node, uint64_t end,
                   struct hws_error *err)
{
    struct hws_extent held = {0};
    for (uint64_t at = map->start; at < end;) {
        struct block_extent found;
        int r = co_block_status_chain(node, at, MIN(end - at, CALL_MAP_STEP), &found);
        if (r < 0)
            return hws_fail_errno(err, -r, "%s: cannot tell what lies at offset %llu",
                                  block_filename(node), (unsigned long long)at);
        assert(found.length > 0 && found.length <= end - at);
        struct hws_extent extent = call_extent(at, &found);
        at += found.length;
        if (held.length && call_extents_join(&held, &extent)) {
            held.length += extent.length;
            continue;
        }
        r = held.length ? map->fn(map->arg, &held) : 0;
        if (r)
            return r;
        held = extent;
    }
    return held.length ? map->fn(map->arg, &held) : 0;
}

static int co_map(void *arg, struct hws_error *err)
{
    const struct map *map = arg;
    struct block_node *node;
    int r = co_call_open_pass(map->image, 0, &node, err);
    if (r < 0)
        return r;
    uint64_t size = block_size(node), end = size;
    if (map->start > size)
        r = hws_fail(err, EINVAL, "%s: offset %llu lies past the end, %llu", block_filename(node),
                     (unsigned long long)map->start, (unsigned long long)size);
    if (map->length < size - MIN(map->start, size))
        end = map->start + map->length;
    if (r == 0)
        r = co_walk(map, node, end, err);
    return co_call_close(node, r, err);
}

int hws_map(const struct hws_image *image, uint64_t start, uint64_t length, hws_extent_fn *fn,
            void *arg, struct hws_error *err)
{
    struct map map = {image, start, length, fn, arg};
    return call_run(co_map, &map, err);
}

const char *hws_foreign_format(const void *head, size_t length)
{
    return block_foreign_format(head, length);
}

const char *hws_probe(const void *head, size_t length)
{
    call_prepare();
    const struct block_driver *driver = block_probe(head, length);
    return driver ? driver->name : NULL;
}

char *hws_drivers(void)
{
    static const char *const kinds[] = {"format", "backend", "filter"};
    call_prepare();
    json_t *all = json_array();
    for (const struct block_driver *const *at = block_drivers(); *at; at++) {
        const struct block_driver *driver = *at;
        json_t *entry = json_pack("{s:s, s:s, s:s, s:b}", "name", driver->name, "kind",
                                  kinds[driver->kind], "help", driver->help ? driver->help : "",
                                  "creates", driver->co_create != NULL);
        if (driver->options)
            json_object_set_new(entry, "options", options_schema(driver->options));
        if (driver->create_options)
            json_object_set_new(entry, "create-options", options_schema(driver->create_options));
        if (driver->amend_options)
            json_object_set_new(entry, "amend-options", options_schema(driver->amend_options));
        json_array_append_new(all, entry);
    }
    char *text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return text;
}
