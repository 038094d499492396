/*
 * Drivers for the core's own tests; see test_drivers.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/test_drivers.h"
#include "rt/sim.h"

static struct test_disk *disks[TEST_DISKS];

struct test_disk *test_disk_find(const char *name)
{
    for (unsigned i = 0; i < TEST_DISKS && disks[i]; i++)
        if (strcmp(disks[i]->name, name) == 0)
            return disks[i];
    return NULL;
}

static unsigned index_of(const struct test_disk *disk)
{
    unsigned i = 0;
    while (disks[i] != disk)
        i++;
    return i;
}

struct test_disk *test_disk_new(const char *name, size_t size)
{
    struct test_disk *disk = test_disk_find(name);
    if (!disk) {
        unsigned free_index = 0;
        while (disks[free_index])
            free_index++;
        assert(free_index < TEST_DISKS);
        disk = disks[free_index] = calloc(1, sizeof(*disk));
        assert(disk);
    }
    free(disk->bytes);
    memset(disk, 0, sizeof(*disk));
    disk->size = size;
    disk->capacity = size + 1;
    snprintf(disk->name, sizeof(disk->name), "%s", name);
    disk->bytes = calloc(1, disk->capacity);
    assert(disk->bytes);
    return disk;
}

void test_disks_free(void)
{
    for (unsigned i = 0; i < TEST_DISKS && disks[i]; i++) {
        free(disks[i]->bytes);
        free(disks[i]);
        disks[i] = NULL;
    }
}

static void grow(struct test_disk *disk, size_t size)
{
    if (size > disk->capacity) {
        disk->bytes = realloc(disk->bytes, size);
        assert(disk->bytes);
        memset(disk->bytes + disk->capacity, 0, size - disk->capacity);
        disk->capacity = size;
    }
    if (size > disk->size)
        disk->size = size;
}

/* ---- file ---- */

struct file_options {
    char *filename;
    uint64_t size;
    bool overwrite;
};

static const struct option_desc file_table[] = {
    {"filename", OPTION_STRING, offsetof(struct file_options, filename), "path", .required = true},
    OPTION_END,
};

static const struct option_desc file_create_table[] = {
    {"filename", OPTION_STRING, offsetof(struct file_options, filename), "path", .required = true},
    {"size", OPTION_SIZE, offsetof(struct file_options, size), "size", "0"},
    {"overwrite", OPTION_BOOL, offsetof(struct file_options, overwrite), "replace", "off"},
    OPTION_END,
};

static struct test_disk *disk_of(const struct block_node *node)
{
    return *(struct test_disk **)node->state;
}

static int co_file_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct file_options *o = options;
    struct test_disk *disk = test_disk_find(o->filename);
    if (!disk)
        return hws_fail(err, ENOENT, "no disk is called '%s'", o->filename);
    *(struct test_disk **)node->state = disk;
    snprintf(disk->beneath, sizeof(disk->beneath), "%s", node->beneath ? node->beneath : "");
    if (!disk->plain_size) {
        int r = block_identify(node, 7, index_of(disk) + 1, err);
        if (r < 0)
            return r;
    }
    disk->opens++;
    disk->closed = false;
    disk->read_only = node->read_only;
    node->limits = disk->limits;
    node->write_flags = disk->write_flags;
    node->zero_flags = disk->zero_flags;
    atomic_store(&node->size_bytes, disk->size);
    return 0;
}

static int co_file_close(struct block_node *node, struct hws_error *err)
{
    disk_of(node)->closed = true;
    return 0;
}

/* The promises of driver.h. */
static void assert_contract(struct block_node *node, uint64_t offset, uint64_t length, uint64_t max)
{
    struct test_disk *disk = disk_of(node);
    uint64_t alignment = MAX(disk->limits.request_alignment, 1u);
    assert(length > 0 && offset % alignment == 0);
    assert(max == 0 || length <= max);
    if (length > disk->longest)
        disk->longest = (size_t)length;
    if (disk->delay_ns)
        co_sleep_ns(disk->delay_ns);
}

static void assert_transfer(struct block_node *node, uint64_t offset, struct sgl buffer)
{
    const struct block_limits *limits = &disk_of(node)->limits;
    assert(buffer.length % MAX(limits->request_alignment, 1u) == 0);
    assert(sgl_is_aligned(buffer, MAX(limits->memory_alignment, 1u)));
    assert_contract(node, offset, buffer.length, limits->transfer_max);
}

static int co_file_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct test_disk *disk = disk_of(node);
    disk->reads++;
    assert_transfer(node, offset, buffer);
    size_t inside = offset < disk->size ? MIN(buffer.length, disk->size - (size_t)offset) : 0;
    assert(buffer.length - inside < MAX(disk->limits.request_alignment, 1u));
    sgl_from_buffer(sgl_slice(buffer, 0, inside), disk->bytes + offset);
    sgl_fill(sgl_slice(buffer, inside, buffer.length - inside), 0);
    return 0;
}

static int co_file_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags)
{
    struct test_disk *disk = disk_of(node);
    assert(!node->read_only && !(flags & ~disk->write_flags));
    disk->writes++;
    disk->fua_writes += (flags & BLOCK_FUA) != 0;
    assert_transfer(node, offset, buffer);
    if (disk->write_errors && disk->write_errors--)
        return -EIO;
    grow(disk, (size_t)offset + buffer.length);
    sgl_to_buffer(buffer, disk->bytes + offset);
    return 0;
}

static int co_file_zero(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    struct test_disk *disk = disk_of(node);
    assert(!node->read_only && !(flags & ~disk->zero_flags));
    assert_contract(node, offset, length, disk->limits.zero_max);
    uint64_t alignment = MAX(disk->limits.zero_alignment, 1u);
    assert(offset % alignment == 0 &&
           (length % alignment == 0 || offset + length == block_size(node)));
    if (disk->no_zeroes)
        return -ENOTSUP;
    disk->zeroes++;
    memset(disk->bytes + offset, 0, length);
    return 0;
}

static int co_file_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct test_disk *disk = disk_of(node);
    assert(!node->read_only);
    assert_contract(node, offset, length, disk->limits.discard_max);
    uint64_t alignment = MAX(disk->limits.discard_alignment, 1u);
    assert(offset % alignment == 0 &&
           (length % alignment == 0 || offset + length == block_size(node)));
    disk->discards++;
    memset(disk->bytes + offset, 0xdd, length);
    return 0;
}

static int co_file_flush(struct block_node *node)
{
    struct test_disk *disk = disk_of(node);
    disk->flushes++;
    if (disk->delay_ns)
        co_sleep_ns(disk->delay_ns);
    if (disk->flush_errors && disk->flush_errors--)
        return -EIO;
    return 0;
}

static int co_file_resize(struct block_node *node, uint64_t size, struct hws_error *err)
{
    struct test_disk *disk = disk_of(node);
    if (size > 64 * MiB)
        return hws_fail(err, ENOSPC, "the disk is full");
    if (size < disk->size)
        memset(disk->bytes + size, 0, disk->size - (size_t)size);
    grow(disk, (size_t)size);
    disk->size = (size_t)size;
    atomic_store(&node->size_bytes, size);
    return 0;
}

static int co_file_create(const void *options, struct block_node *file, struct hws_error *err)
{
    const struct file_options *o = options;
    bool is_new = !test_disk_find(o->filename);
    if (!is_new && !o->overwrite)
        return hws_fail(err, EEXIST, "'%s' exists", o->filename);
    test_disk_new(o->filename, (size_t)o->size)->creates++;
    return is_new;
}

static int co_file_remove(const void *options, struct hws_error *err)
{
    const struct file_options *o = options;
    struct test_disk *disk = test_disk_find(o->filename);
    disk->removes++;
    snprintf(disk->name, sizeof(disk->name), "gone");
    return 0;
}

static int co_file_info(struct block_node *node, json_t *info, struct hws_error *err)
{
    return json_object_set_new(info, "actual-size", json_integer((json_int_t)disk_of(node)->size));
}

static int co_file_set_read_only(struct block_node *node, bool read_only, struct hws_error *err)
{
    struct test_disk *disk = disk_of(node);
    if (disk->set_read_only_errors && disk->set_read_only_errors--)
        return hws_fail(err, EAGAIN, "the lock is held by somebody else");
    disk->read_only = read_only;
    return 0;
}

static const struct block_driver file_driver = {
    .name = "file",
    .help = "disks in memory",
    .kind = BLOCK_BACKEND,
    .grows = true,
    .text_option = "filename",
    .state_bytes = sizeof(struct test_disk *),
    .options = file_table,
    .options_bytes = sizeof(struct file_options),
    .create_options = file_create_table,
    .create_options_bytes = sizeof(struct file_options),
    .co_open = co_file_open,
    .co_close = co_file_close,
    .co_read = co_file_read,
    .co_write = co_file_write,
    .co_write_zeroes = co_file_zero,
    .co_discard = co_file_discard,
    .co_flush = co_file_flush,
    .co_resize = co_file_resize,
    .co_create = co_file_create,
    .co_remove = co_file_remove,
    .co_info = co_file_info,
    .co_set_read_only = co_file_set_read_only,
};

/* ---- raw and pass ---- */

static int co_raw_open(struct block_node *node, const void *options, struct hws_error *err)
{
    atomic_store(&node->size_bytes, block_size(node->child[BLOCK_FILE]));
    return 0;
}

static int co_raw_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    return co_block_read(node->child[BLOCK_FILE], offset, buffer, flags);
}

static int co_raw_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    return co_block_write(node->child[BLOCK_FILE], offset, buffer, flags);
}

static const struct block_driver raw_driver = {
    .name = "raw",
    .help = "as it is",
    .kind = BLOCK_FORMAT,
    .needs_file = true,
    .co_open = co_raw_open,
    .co_read = co_raw_read,
    .co_write = co_raw_write,
};

static const struct block_driver pass_driver = {
    .name = "pass",
    .help = "a filter",
    .kind = BLOCK_FILTER,
    .needs_file = true,
    .co_open = co_raw_open,
    .co_read = co_raw_read,
    .co_write = co_raw_write,
};

/* ---- layer ---- */

#define SECTOR 512u

struct layer_header {
    char magic[4];
    uint32_t padding;
    uint64_t size;
    char backing[128], format[16];
};

struct layer_options {
    uint64_t size;
    bool fail;
};

static const struct option_desc layer_create_table[] = {
    {"size", OPTION_SIZE, offsetof(struct layer_options, size), "virtual size", .required = true},
    {"fail", OPTION_BOOL, offsetof(struct layer_options, fail), "fail half way", "off"},
    OPTION_END,
};

struct layer {
    uint64_t data_offset;
    uint8_t *map;
    size_t sectors;
};

static size_t data_offset_of(size_t size)
{
    return (size_t)align_up(SECTOR + size / SECTOR, SECTOR);
}

struct test_disk *test_layer_new(const char *name, size_t size, const char *backing,
                                 const char *format)
{
    struct test_disk *disk = test_disk_new(name, data_offset_of(size));
    struct layer_header header = {.magic = {'L', 'A', 'Y', 'R'}, .size = size};
    snprintf(header.backing, sizeof(header.backing), "%s", backing ? backing : "");
    snprintf(header.format, sizeof(header.format), "%s", format ? format : "");
    memcpy(disk->bytes, &header, sizeof(header));
    return disk;
}

void test_layer_fill(const char *name, size_t offset, size_t length, uint8_t byte)
{
    struct test_disk *disk = test_disk_find(name);
    struct layer_header header;
    memcpy(&header, disk->bytes, sizeof(header));
    size_t data = data_offset_of((size_t)header.size);
    grow(disk, data + offset + length);
    memset(disk->bytes + SECTOR + offset / SECTOR, 1, length / SECTOR);
    memset(disk->bytes + data + offset, byte, length);
}

static int layer_probe(const uint8_t *head, size_t length)
{
    return length >= 4 && memcmp(head, "LAYR", 4) == 0 ? 100 : 0;
}

static int co_layer_open(struct block_node *node, const void *options, struct hws_error *err)
{
    struct layer *layer = node->state;
    struct block_node *file = node->child[BLOCK_FILE];
    struct layer_header header;
    struct iovec iov;
    int r = co_block_read_padded(file, 0, sgl_one(&iov, &header, sizeof(header)));
    if (r < 0)
        return r;
    if (!layer_probe((uint8_t *)&header, sizeof(header)))
        return block_corrupt(node, 0, err, "no magic");
    layer->sectors = (size_t)header.size / SECTOR;
    layer->data_offset = data_offset_of((size_t)header.size);
    layer->map = malloc(layer->sectors + 1);
    assert(layer->map);
    r = co_block_read_padded(file, SECTOR, sgl_one(&iov, layer->map, layer->sectors));
    if (r == 0 && header.backing[0] && !(node->open_flags & BLOCK_OPEN_NO_BACKING))
        r = co_block_open_named(node, BLOCK_BACKING, header.backing,
                                header.format[0] ? header.format : NULL, err);
    if (r < 0) {
        free(layer->map);
        return r;
    }
    node->limits.request_alignment = SECTOR;
    node->limits.optimal_bytes = SECTOR;
    atomic_store(&node->size_bytes, header.size);
    return 0;
}

static int co_layer_close(struct block_node *node, struct hws_error *err)
{
    free(((struct layer *)node->state)->map);
    return 0;
}

/* Bytes from @offset on that are alike in the map. */
static size_t run(const struct layer *layer, uint64_t offset, size_t length)
{
    size_t first = (size_t)offset / SECTOR, last = first;
    while (last < layer->sectors && layer->map[last] == layer->map[first] &&
           (last - first) * SECTOR < length)
        last++;
    return MIN((last - first) * SECTOR, length);
}

static int co_layer_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags, struct block_holes *holes)
{
    struct layer *layer = node->state;
    assert(offset % SECTOR == 0 && buffer.length % SECTOR == 0);
    for (size_t done = 0; done < buffer.length;) {
        uint64_t at = offset + done;
        size_t length = run(layer, at, buffer.length - done);
        if (layer->map[at / SECTOR]) {
            int r = co_block_read_padded(node->child[BLOCK_FILE], layer->data_offset + at,
                                         sgl_slice(buffer, done, length));
            if (r < 0)
                return r;
        } else {
            block_hole(holes, at, length);
        }
        done += length;
    }
    return 0;
}

static int co_layer_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                          unsigned flags)
{
    struct layer *layer = node->state;
    struct block_node *file = node->child[BLOCK_FILE];
    struct iovec iov;
    size_t first = (size_t)offset / SECTOR, count = buffer.length / SECTOR;
    int r = co_block_write(file, layer->data_offset + offset, buffer, 0);
    if (r < 0)
        return r;
    memset(layer->map + first, 1, count);
    return co_block_write(file, SECTOR + first, sgl_one(&iov, layer->map + first, count), 0);
}

static int co_layer_status(struct block_node *node, uint64_t offset, uint64_t length,
                           struct block_extent *ret)
{
    struct layer *layer = node->state;
    ret->length = MIN(run(layer, offset, (size_t)length), (size_t)8 * SECTOR);
    if (layer->map[offset / SECTOR]) {
        ret->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_MAPPED;
        ret->host_offset = layer->data_offset + offset;
        ret->file = node->child[BLOCK_FILE];
    }
    return 0;
}

/* Grows inside what the map has room for: the tests make images with the room they need. */
static int co_layer_resize(struct block_node *node, uint64_t size, struct hws_error *err)
{
    struct layer *layer = node->state;
    if (size > layer->sectors * SECTOR)
        return hws_fail(err, ENOSPC, "the map is full");
    atomic_store(&node->size_bytes, size);
    return 0;
}

static int co_layer_create(const void *options, struct block_node *file, struct hws_error *err)
{
    const struct layer_options *o = options;
    struct layer_header header = {.magic = {'L', 'A', 'Y', 'R'}, .size = o->size};
    struct iovec iov;
    int r = co_block_write(file, 0, sgl_one(&iov, &header, sizeof(header)), 0);
    if (r == 0 && o->fail)
        return -EDQUOT;
    return r;
}

static const struct block_driver layer_driver = {
    .name = "layer",
    .help = "a format with holes",
    .kind = BLOCK_FORMAT,
    .needs_file = true,
    .state_bytes = sizeof(struct layer),
    .create_options = layer_create_table,
    .create_options_bytes = sizeof(struct layer_options),
    .probe = layer_probe,
    .co_open = co_layer_open,
    .co_close = co_layer_close,
    .co_read_layer = co_layer_read,
    .co_write = co_layer_write,
    .co_status = co_layer_status,
    .co_resize = co_layer_resize,
    .co_create = co_layer_create,
};

void test_drivers_register(void)
{
    static const struct block_driver *const table[] = {&file_driver, &raw_driver, &layer_driver,
                                                       &pass_driver, NULL};
    block_drivers_register(table);
}

void test_run(void (*fn)(void *arg), void *arg)
{
    struct rt *rt = NULL;
    int r = sim_create(&(struct sim_options){.seed = 1}, &rt);
    assert(r == 0);
    r = rt_run(rt, fn, arg);
    assert(r == 0);
    rt_free(rt);
}

struct block_node *test_open(const char *text, unsigned flags)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    json_t *description = NULL;
    int r = block_describe(text, NULL, &description, &err);
    if (r == 0)
        r = co_block_open(description, flags, NULL, &node, &err);
    json_decref(description);
    if (r < 0) {
        fprintf(stderr, "opening %s: %s\n", text, err.text);
        abort();
    }
    return node;
}
