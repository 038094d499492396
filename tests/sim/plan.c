/*
 * Drawing a run's options from its seed; see plan.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plan.h"
#include "guest.h"

#define CLUSTER_BITS_MIN 9
#define CLUSTER_BITS_MAX 21

static struct plan_layer layer_make(struct random *r, bool small)
{
    struct plan_layer layer = {.version = random_one_in(r, 4) ? 2 : 3, .refcount_bits = 16};
    /* Small clusters reach every boundary soonest; large ones must work too. */
    unsigned top = small ? 16 : random_one_in(r, 3) ? CLUSTER_BITS_MAX : 14;
    layer.cluster_bits = CLUSTER_BITS_MIN + (unsigned)random_below(r, top - CLUSTER_BITS_MIN + 1);
    layer.preallocate = random_one_in(r, 6);
    if (layer.version == 3) {
        layer.data_file = random_one_in(r, 5);
        layer.no_unref = random_one_in(r, 4);
        layer.lazy = random_one_in(r, 4) ? (unsigned)random_below(r, 3) : 0;
        layer.refcount_bits = 1u << random_below(r, 7);
        layer.lazy_refcounts = random_one_in(r, 4);
        if (random_one_in(r, 3)) {
            layer.extended_l2 = true;
            layer.cluster_bits = MAX(layer.cluster_bits, 14u);
        }
    }
    return layer;
}

/** A disk of some dozens of clusters, so that requests meet. */
static uint64_t sectors_make(struct random *r, const struct plan_layer *top, bool small)
{
    uint64_t cluster_sectors = (1ull << top->cluster_bits) / GUEST_SECTOR_BYTES;
    uint64_t clusters = small ? 3 + random_below(r, 12) : 8 + random_below(r, 150);
    uint64_t sectors = clusters * cluster_sectors + random_below(r, cluster_sectors);
    uint64_t most = small ? 8192 : 65536;
    return MIN(MAX(sectors, (uint64_t)64), most);
}

struct plan plan_make(uint64_t seed, bool small)
{
    struct random random = random_seed(seed * 2 + 1), *r = &random;
    struct plan plan = {.seed = seed};
    plan.depth = (unsigned)random_below(r, PLAN_DEPTH_MAX + 1);
    if (random_one_in(r, 3) || small)
        plan.depth = MIN(plan.depth, 1u);
    bool raw_top = (!small && random_one_in(r, 16)) || !block_driver_find("qcow2");
    if (raw_top)
        plan.depth = 0;
    for (unsigned i = 0; i < PLAN_LAYERS_MAX; i++)
        plan.layer[i] = layer_make(r, small);
    plan.layer[0].raw = raw_top || (plan.depth > 0 && random_one_in(r, 3));
    struct plan_layer *top = &plan.layer[plan.depth];
    for (unsigned i = 0; i <= plan.depth; i++)
        plan.layer[i].sectors = sectors_make(r, top, small);
    if (random_one_in(r, 2)) { /* else shorter, and longer, backing files */
        for (unsigned i = 0; i < plan.depth; i++)
            plan.layer[i].sectors = top->sectors;
    }
    plan.sectors_max = top->sectors + random_below(r, top->sectors);
    if (!raw_top && random_one_in(r, 8))
        plan.filter = "copy-on-read";
    if (!raw_top && random_one_in(r, 6)) {
        plan.imported = true;
        plan.snapshot = random_one_in(r, 2);
        plan.depth = 0;
        plan.layer[0].raw = false;
        plan.layer[0].sectors = top->sectors;
        plan.layer[0].refcount_bits = 16;
        plan.layer[0].lazy_refcounts = false;
        plan.layer[0].data_file = false;
        if (plan.snapshot && plan.layer[0].version == 2)
            plan.fixed_size = true;
    }
    static const enum block_cache caches[] = {BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_WRITEBACK,
                                              BLOCK_CACHE_NONE, BLOCK_CACHE_WRITETHROUGH};
    plan.cache = caches[random_below(r, ARRAY_LEN(caches))];
    plan.discard = random_one_in(r, 4) ? BLOCK_DISCARD_IGNORE : BLOCK_DISCARD_UNMAP;
    plan.detect_zeroes = (enum block_detect_zeroes)random_below(r, 3);
    plan.alignment = random_one_in(r, 2) ? 512 : 4096;
    plan.no_offload = random_one_in(r, 4);
    plan.cache_bytes = random_one_in(r, 2) ? 64 * KiB : 1 * MiB;
    plan.churn = random_one_in(r, 3);
    plan.queues = 1 + (unsigned)random_below(r, 3);
    struct random own =
        random_seed(seed * 2 + 1000003); /* what came later leaves the rest as it was */
    if (random_one_in(&own, 2))
        plan.bitmap_bits = 9 + (unsigned)random_below(&own, 9);
    plan.workers = small ? (plan.churn ? 6 : 3) : 1 + (unsigned)random_below(r, 10);
    return plan;
}

static const char *const cache_names[] = {
    [BLOCK_CACHE_WRITEBACK] = "writeback",
    [BLOCK_CACHE_NONE] = "none",
    [BLOCK_CACHE_WRITETHROUGH] = "writethrough",
    [BLOCK_CACHE_UNSAFE] = "unsafe",
};

static const char *const lazy_texts[] = {"", ", opened lazy", ", opened not lazy"};
static const char *const lazy_names[] = {"auto", "on", "off"};

void plan_print(const struct plan *plan)
{
    fprintf(stderr,
            "seed %llu: cache %s, discard %s, detect-zeroes %u, alignment %u, offload %s, metadata "
            "cache %llu KiB, %u queues, %u workers%s%s%s%s\n",
            (unsigned long long)plan->seed, cache_names[plan->cache],
            plan->discard == BLOCK_DISCARD_UNMAP ? "unmap" : "ignore", plan->detect_zeroes,
            plan->alignment, plan->no_offload ? "no" : "yes",
            (unsigned long long)(plan->cache_bytes / KiB), plan->queues, plan->workers,
            plan->churn ? ", churn" : "", plan->filter ? ", copy-on-read" : "",
            plan->imported ? ", made by qemu-img" : "", plan->snapshot ? ", snapshot" : "");
    for (unsigned i = 0; i <= plan->depth; i++) {
        const struct plan_layer *l = &plan->layer[i];
        fprintf(stderr, "  %s: %llu sectors, ", plan_path(i), (unsigned long long)l->sectors);
        if (l->raw)
            fprintf(stderr, "raw\n");
        else
            fprintf(stderr, "qcow2 v%u, cluster %u, refcount bits %u%s%s%s%s%s%s\n", l->version,
                    1u << l->cluster_bits, l->refcount_bits, l->extended_l2 ? ", extended_l2" : "",
                    l->lazy_refcounts ? ", lazy_refcounts" : "",
                    l->preallocate && i == 0 ? ", preallocated" : "",
                    l->data_file ? ", data file" : "", l->no_unref ? ", discard-no-unref" : "",
                    lazy_texts[l->lazy]);
    }
}

const char *plan_path(unsigned index)
{
    static char path[8][32];
    static unsigned next;
    char *at = path[next++ % ARRAY_LEN(path)];
    snprintf(at, sizeof(path[0]), "/images/layer-%u", index);
    return at;
}

const char *plan_data_path(unsigned index)
{
    static char path[8][40];
    static unsigned next;
    char *at = path[next++ % ARRAY_LEN(path)];
    snprintf(at, sizeof(path[0]), "%s.data", plan_path(index));
    return at;
}

static const char *layer_driver(const struct plan *plan, unsigned index)
{
    if (!plan->layer[index].raw)
        return "qcow2";
    return plan->plain ? plan->plain : "raw";
}

json_t *plan_create_options(const struct plan *plan, unsigned index)
{
    const struct plan_layer *l = &plan->layer[index];
    json_int_t size = (json_int_t)(l->sectors * GUEST_SECTOR_BYTES);
    json_t *file = json_pack("{ss ss}", "driver", "file", "filename", plan_path(index));
    if (l->raw)
        return json_pack("{ss so sI}", "driver", layer_driver(plan, index), "file", file, "size",
                         size);
    json_t *options = json_pack(
        "{ss so sI si si ss ss sb ss}", "driver", "qcow2", "file", file, "size", size,
        "cluster_size", 1 << l->cluster_bits, "refcount_bits", l->refcount_bits, "compat",
        l->version == 2 ? "0.10" : "1.1", "extended_l2", l->extended_l2 ? "on" : "off",
        "lazy_refcounts", l->lazy_refcounts, "preallocation",
        l->preallocate && index == 0 ? (l->cluster_bits & 1 ? "metadata" : "full") : "off");
    if (l->data_file) {
        json_object_set_new(options, "data_file",
                            json_string(strrchr(plan_data_path(index), '/') + 1));
        json_object_set_new(options, "data_file_raw", json_boolean(index == 0));
    }
    if (index > 0) {
        /* A name without a folder is looked for beside the image. */
        json_object_set_new(options, "backing_file",
                            json_string(strrchr(plan_path(index - 1), '/') + 1));
        json_object_set_new(options, "backing_fmt", json_string(layer_driver(plan, index - 1)));
    }
    return options;
}

json_t *plan_open_description(const struct plan *plan, unsigned index, bool filtered)
{
    json_t *description = json_pack("{ss s{ss ss}}", "driver", layer_driver(plan, index), "file",
                                    "driver", "file", "filename", plan_path(index));
    const struct plan_layer *l = &plan->layer[index];
    if (!l->raw && l->lazy)
        json_object_set_new(description, "lazy-refcounts", json_string(lazy_names[l->lazy]));
    if (!l->raw && l->no_unref)
        json_object_set_new(description, "discard-no-unref", json_true());
    if (filtered && plan->filter)
        return json_pack("{ss so}", "driver", plan->filter, "file", description);
    return description;
}

struct block_policy plan_policy(const struct plan *plan)
{
    return (struct block_policy){
        .cache = plan->cache, .cache_bytes = plan->cache_bytes, .keep = plan->keep};
}
