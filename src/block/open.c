/*
 * Opening a graph.
 *
 * A node is opened from the bottom up: its files first, then itself. Backing files go the other
 * way, because only the open image knows their names, and a chain of a thousand would overflow a
 * coroutine stack if one open called the next. So co_open only notes the name, the node goes on a
 * list, and co_block_open() works the list off:
 *
 *     top   open file, open qcow2 --- notes "mid" ---+
 *     mid   open file, open qcow2 --- notes "base" --+--- one loop
 *     base  open file, open raw ---------------------+
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

/* As much of a file as any format's probe looks at. */
#define PROBE_BYTES 4096

static const char *const role_names[BLOCK_ROLES] = {"file", "backing", "data-file"};
static const char *const not_options[] = {"driver", "file", "backing", "data-file", NULL};

/* What a node below another inherits. */
struct place {
    struct opening *opening;
    struct block_node *above; /* NULL: the top */
    unsigned depth, nesting;
    const char *beneath; /* for the backend at the bottom */
};

static int co_open_tree(const struct place *place, const json_t *description, unsigned flags,
                        struct block_node **ret, struct hws_error *err);

/* ---- one node ---- */

static struct block_core *new_core(const struct place *place)
{
    struct block_core *core = calloc(1, sizeof(*core));
    if (!core)
        return NULL;
    atomic_init(&core->references, 1);
    core->above = place->above;
    core->depth = place->depth;
    core->nesting = place->nesting;
    core->opening = place->opening;
    list_init(&core->pending);
    bounce_init(&core->bounce);
    serial_init(&core->serial);
    rt_mutex_init(&core->flush.guard);
    co_waitq_init(&core->flush.waiters);
    list_init(&core->flush.requests);
    core->flush.dirty = true; /* what others wrote before counts as written */
    list_init(&core->bitmaps);
    co_mutex_init(&core->bitmap_loading);
    rt_mutex_init(&core->corrupt_guard);
    rt_mutex_init(&core->shortcut_guard);
    return core;
}

static struct block_node *new_node(const struct place *place, const struct block_driver *driver,
                                   unsigned flags)
{
    struct block_node *node = calloc(1, sizeof(*node));
    if (!node)
        return NULL;
    node->core = new_core(place);
    node->state = calloc(1, MAX(driver->state_bytes, (size_t)1));
    node->filename = strdup("");
    if (node->core && place->beneath)
        node->beneath = node->core->beneath = strdup(place->beneath);
    if (!node->core || !node->state || !node->filename || (place->beneath && !node->beneath)) {
        node_free(node);
        return NULL;
    }
    node->core->node = node;
    node->driver = driver;
    node->context = context_ref(place->opening->context);
    node->open_flags = flags;
    node->read_only = !(flags & BLOCK_OPEN_WRITE);
    node->check_only = flags & BLOCK_OPEN_CHECK;
    return node;
}

/* Fills what the driver left open, so that the request path has no special cases. */
static void settle_limits(struct block_node *node)
{
    struct block_limits *limits = &node->limits;
    const struct block_node *data = node->child[BLOCK_DATA] ?: node->child[BLOCK_FILE];
    limits->rotational |= data && data->limits.rotational;
    limits->request_alignment = MAX(limits->request_alignment, 1u);
    limits->memory_alignment = MAX(limits->memory_alignment, 1u);
    assert(is_power_of_2(limits->request_alignment) && is_power_of_2(limits->memory_alignment));
    assert(limits->request_alignment <= BOUNCE_BYTES / 2);
    assert(limits->memory_alignment <= BOUNCE_ALIGNMENT);
    assert(!node->driver->co_read_layer || limits->request_alignment <= 4096);
    limits->zero_alignment = MAX(limits->zero_alignment, limits->request_alignment);
    limits->discard_alignment = MAX(limits->discard_alignment, limits->request_alignment);
    assert(limits->zero_alignment % limits->request_alignment == 0);
    assert(limits->discard_alignment % limits->request_alignment == 0);

    uint64_t *maxima[] = {&limits->transfer_max, &limits->zero_max, &limits->discard_max};
    uint32_t alignments[] = {limits->request_alignment, limits->zero_alignment,
                             limits->discard_alignment};
    for (unsigned i = 0; i < ARRAY_LEN(maxima); i++) {
        uint64_t most = *maxima[i] ? MIN(*maxima[i], TRANSFER_MAX) : TRANSFER_MAX;
        most -= most % alignments[i];
        *maxima[i] = most ? most : alignments[i];
    }
}

/* The name that messages and relative backing files go by: the file's, until the driver knows
 * better. */
static int set_filename(struct block_node *node, const json_t *description, struct hws_error *err)
{
    const char *name = NULL;
    if (node->child[BLOCK_FILE])
        name = node->child[BLOCK_FILE]->filename;
    else if (node->driver->text_option)
        name = json_string_value(json_object_get(description, node->driver->text_option));
    char *copy = strdup(name ? name : node->driver->name);
    if (!copy)
        return hws_fail(err, ENOMEM, "out of memory");
    free(node->filename);
    node->filename = copy;
    return 0;
}

static int call_open(struct block_node *node, const json_t *description, struct hws_error *err)
{
    const struct block_driver *driver = node->driver;
    autofree void *options = calloc(1, MAX(driver->options_bytes, (size_t)1));
    if (!options)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = options_parse(driver->options, description, not_options, driver->name, options,
                          driver->options_bytes, err);
    if (r < 0)
        return r;
    r = driver->co_open(node, options, err);
    options_free(driver->options, options);
    if (r == 0 && block_size(node) > BLOCK_SIZE_MAX) {
        driver->co_close(node, NULL);
        return hws_fail(err, EFBIG, "'%.200s': %llu bytes are more than the kernel can address",
                        node->filename, (unsigned long long)block_size(node));
    }
    if (r < 0 && err && !err->code)
        r = hws_wrap(err, r, "%s '%.200s'", driver->name, node->filename);
    return r;
}

/* ---- children ---- */

/* What the file below a node is opened with. */
static unsigned flags_below(const struct block_driver *driver, unsigned flags)
{
    unsigned below = flags & (BLOCK_OPEN_WRITE | BLOCK_OPEN_NO_LOCK | BLOCK_OPEN_RESIZE);
    /* A format with metadata (it can be probed) makes its file longer as it allocates. */
    if (driver->probe && (flags & BLOCK_OPEN_WRITE))
        below |= BLOCK_OPEN_RESIZE;
    if (driver->kind == BLOCK_FILTER)
        below |= flags & (BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING);
    return below;
}

static int co_open_child(struct block_node *node, enum block_role role, const json_t *description,
                         unsigned flags, const char *beneath, struct hws_error *err)
{
    struct place place = {
        .opening = node->core->opening,
        .above = node,
        .depth = node->core->depth + (role == BLOCK_BACKING),
        .nesting = node->core->nesting + (role != BLOCK_BACKING),
        .beneath = beneath,
    };
    if (!json_is_object(description))
        return hws_fail(err, EINVAL, "%s: '%s' must be an object that describes a node",
                        node->driver->name, role_names[role]);
    if (place.nesting > BLOCK_NESTING_MAX)
        return hws_fail(err, ELOOP, "the description nests files deeper than %d",
                        BLOCK_NESTING_MAX);
    if (place.depth > BLOCK_DEPTH_MAX)
        return hws_fail(err, ELOOP, "the chain of backing files is longer than %d",
                        BLOCK_DEPTH_MAX);
    return co_open_tree(&place, description, flags, &node->child[role], err);
}

/* The children that the description gives. A backing node of its own replaces what the image names.
 */
static int co_open_given(struct block_node *node, const json_t *description, unsigned flags,
                         const char *beneath, struct hws_error *err)
{
    const json_t *file = json_object_get(description, "file");
    const json_t *data = json_object_get(description, "data-file");
    const json_t *backing = json_object_get(description, "backing");
    const char *name = node->driver->name;
    if (!file && node->driver->needs_file)
        return hws_fail(err, EINVAL, "%s needs a 'file': what the image lies in", name);
    if (file && node->driver->kind == BLOCK_BACKEND)
        return hws_fail(err, EINVAL, "%s takes no 'file'", name);
    if ((data || backing) && !node->driver->co_read_layer)
        return hws_fail(err, EINVAL, "%s has no backing or data files", name);
    unsigned below = flags_below(node->driver, flags);
    int r = file ? co_open_child(node, BLOCK_FILE, file, below, beneath, err) : 0;
    if (r == 0 && data)
        r = co_open_child(node, BLOCK_DATA, data, below, NULL, err);
    node->core->backing_given = backing;
    return r;
}

/* ---- probing ---- */

/* The format of an open file, NULL where nothing knows it. Raw has no header and is never found. */
static int co_probe(struct block_node *file, const struct block_driver **ret, struct hws_error *err)
{
    uint64_t length = MIN(block_size(file), (uint64_t)PROBE_BYTES);
    autofree uint8_t *head = malloc(PROBE_BYTES);
    if (!head)
        return hws_fail(err, ENOMEM, "out of memory");
    struct iovec iov;
    int r = co_block_read(file, 0, sgl_one(&iov, head, (size_t)length), 0);
    if (r < 0)
        return hws_wrap(err, r, "'%.200s': reading the header", file->filename);
    *ret = block_probe(head, (size_t)length);
    return 0;
}

/* A container of a format that is not here must not pass for a disk of its bytes. */
static int co_refuse_foreign(struct block_node *file, struct hws_error *err)
{
    uint8_t head[512];
    struct iovec iov;
    size_t length = MIN(block_size(file), sizeof(head));
    int r = co_block_read(file, 0, sgl_one(&iov, head, length), 0);
    if (r < 0)
        return hws_wrap(err, r, "'%.200s': reading the header", file->filename);
    const char *foreign = block_foreign_format(head, length);
    return foreign ? hws_fail(err, ENOTSUP,
                              "'%.200s' is an image of format '%s', for which there is no driver; "
                              "if it is a raw image, say so (format raw)",
                              file->filename, foreign)
                   : 0;
}

static int co_take_as_raw(struct block_node *file, const struct block_driver **ret,
                          struct hws_error *err)
{
    int r = co_refuse_foreign(file, err);
    if (r < 0)
        return r;
    *ret = block_driver_find("raw");
    return *ret ? 0 : hws_fail(err, EINVAL, "no driver is called 'raw'");
}

/* Finds the format of what @description, which names no driver, has as its file. */
static int co_find_format(const struct place *place, const json_t *description, unsigned flags,
                          const struct block_driver **ret, struct hws_error *err)
{
    const json_t *file = json_object_get(description, "file");
    if (!file)
        return hws_fail(err, EINVAL, "the description names no driver");
    if (!(flags & BLOCK_OPEN_PROBE))
        return hws_fail(err, EINVAL, "the description names no format; name it (qcow2, raw, ...)");
    struct block_node *node = NULL;
    struct place below = *place;
    below.nesting++;
    if (below.nesting > BLOCK_NESTING_MAX || !json_is_object(file))
        return hws_fail(err, EINVAL, "the description has no valid 'file'");
    /* Looked at without rights, so that an image that somebody else writes is told as such later.
     */
    int r = co_open_tree(&below, file, BLOCK_OPEN_NO_LOCK, &node, err);
    if (r < 0)
        return r;
    r = co_probe(node, ret, err);
    if (r == 0 && !*ret && place->opening->context->policy.probe_raw)
        r = co_take_as_raw(node, ret, err);
    else if (r == 0 && !*ret && (r = co_refuse_foreign(node, err)) == 0)
        r = hws_fail(err, EINVAL,
                     "'%.200s' has no header of a known format; if it is a raw image, say so "
                     "(format raw)",
                     node->filename);
    co_block_close(node, NULL);
    return r;
}

/* ---- the tree of one image ---- */

static int find_driver(const json_t *description, const struct block_driver **ret,
                       struct hws_error *err)
{
    const json_t *value = json_object_get(description, "driver");
    const char *name = json_string_value(value);
    *ret = NULL;
    if (!value)
        return 0;
    if (!name)
        return hws_fail(err, EINVAL, "'driver' must be a string");
    *ret = block_driver_find(name);
    return *ret ? 0 : hws_fail(err, EINVAL, "no driver is called '%.64s'", name);
}

static void co_close_children(struct block_node *node)
{
    for (unsigned role = 0; role < BLOCK_ROLES; role++)
        co_block_close(node->child[role], NULL);
}

/* Opens one node with its files. Its backing file goes on the list. */
static int co_open_tree(const struct place *place, const json_t *description, unsigned flags,
                        struct block_node **ret, struct hws_error *err)
{
    const struct block_driver *driver;
    int r = find_driver(description, &driver, err);
    if (r == 0 && !driver)
        r = co_find_format(place, description, flags, &driver, err);
    if (r < 0)
        return r;
    struct block_node *node = new_node(place, driver, flags & ~(unsigned)BLOCK_OPEN_PROBE);
    if (!node)
        return hws_fail(err, ENOMEM, "out of memory");
    r = co_open_given(node, description, flags, place->beneath, err);
    if (r == 0)
        r = set_filename(node, description, err);
    if (r == 0)
        r = call_open(node, description, err);
    if (r < 0) {
        co_close_children(node);
        node_free(node);
        return r;
    }
    settle_limits(node);
    if (node->core->backing_given || node->core->backing.name)
        list_push_back(&place->opening->pending, &node->core->pending);
    *ret = node;
    return 0;
}

/* ---- files that images name ---- */

/* The innermost file of a node: the one whose folder relative names go by. */
static const struct block_node *storage_of(const struct block_node *node)
{
    while (node->child[BLOCK_FILE])
        node = node->child[BLOCK_FILE];
    return node;
}

/* The description of a named file, and the folder that it must not leave. */
static int describe_named(const struct block_node *node, const char *name, const char *format,
                          bool plain, json_t **ret, char **ret_beneath, struct hws_error *err)
{
    autofree char *path = NULL;
    const struct block_driver *driver = format ? block_driver_find(format) : NULL;
    if (format && (!driver || driver->kind != BLOCK_FORMAT))
        return hws_fail(err, EINVAL,
                        "'%.200s' records the format '%.32s' for '%.200s', which is not known",
                        node->filename, format, name);
    int r = policy_resolve(&node->context->policy, storage_of(node)->filename, name, &path,
                           ret_beneath, err);
    if (r < 0)
        return r;
    if (!path)
        return block_describe(name, format, ret, err);
    json_t *file = describe_file(path);
    *ret = plain ? file : json_pack("{s:o}", "file", file);
    if (*ret && !plain && format && json_object_set_new(*ret, "driver", json_string(format)) < 0) {
        json_decref(*ret);
        *ret = NULL;
    }
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int co_open_data(struct block_node *node, const char *name, const char *format,
                        struct hws_error *err)
{
    autofree char *beneath = NULL;
    json_t *description = NULL;
    bool plain = !format || strcmp(format, "raw") == 0;
    int r = describe_named(node, name, plain ? NULL : format, plain, &description, &beneath, err);
    if (r == 0)
        r = co_open_child(node, BLOCK_DATA, description,
                          flags_below(node->driver, node->open_flags), beneath, err);
    json_decref(description);
    return r;
}

int co_block_open_named(struct block_node *node, enum block_role role, const char *name,
                        const char *format, struct hws_error *err)
{
    struct block_core *core = node->core;
    assert(core->opening && role != BLOCK_FILE);
    if (role == BLOCK_DATA)
        return node->child[BLOCK_DATA] ? 0 : co_open_data(node, name, format, err);
    assert(node->driver->co_read_layer && !core->backing.name);
    core->backing.name = strdup(name);
    core->backing.format = format ? strdup(format) : NULL;
    if (!core->backing.name || (format && !core->backing.format))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

/* Opens the backing file that @node has noted, or that its description gives. */
static int co_open_backing(struct block_node *node, struct hws_error *err)
{
    struct block_core *core = node->core;
    unsigned flags = node->open_flags & BLOCK_OPEN_NO_LOCK;
    if (core->backing_given)
        return json_is_null(core->backing_given)
                   ? 0
                   : co_open_child(node, BLOCK_BACKING, core->backing_given, flags, NULL, err);
    if (node->open_flags & BLOCK_OPEN_NO_BACKING)
        return 0;
    autofree char *beneath = NULL;
    json_t *description = NULL;
    int r = describe_named(node, core->backing.name, core->backing.format, false, &description,
                           &beneath, err);
    if (r == 0)
        r = co_open_child(node, BLOCK_BACKING, description, flags | BLOCK_OPEN_PROBE, beneath, err);
    json_decref(description);
    if (r < 0)
        r = hws_wrap(err, r, "backing file of '%.200s'", node->filename);
    return r;
}

/* What only counts while a graph is being opened. Files nest BLOCK_NESTING_MAX deep at most. */
static void end_opening(struct block_node *node)
{
    for (; node; node = node->child[BLOCK_BACKING]) {
        node->core->opening = NULL;
        node->core->above = NULL;
        node->core->backing_given = NULL;
        end_opening(node->child[BLOCK_FILE]);
        end_opening(node->child[BLOCK_DATA]);
    }
}

/* The list lies in the opening, which ends before its nodes do. */
static void drop_pending(struct opening *opening)
{
    while (list_pop_front(&opening->pending))
        ;
}

int co_block_open(const json_t *description, unsigned flags, const struct block_policy *policy,
                  struct block_node **ret, struct hws_error *err)
{
    struct opening opening = {.context = context_new(policy)};
    struct place top = {.opening = &opening};
    struct block_node *node = NULL;
    list_init(&opening.pending);
    if (!opening.context)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = json_is_object(description)
                ? co_open_tree(&top, description, flags, &node, err)
                : hws_fail(err, EINVAL, "the description of an image must be a JSON object");
    while (r == 0 && !list_empty(&opening.pending)) {
        struct list *link = list_pop_front(&opening.pending);
        r = co_open_backing(list_entry(link, struct block_core, pending)->node, err);
    }
    context_unref(opening.context);
    if (r < 0) {
        drop_pending(&opening);
        co_block_close(node, NULL);
        return r;
    }
    end_opening(node);
    *ret = node;
    return 0;
}
