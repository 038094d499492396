/*
 * The format "shuffle": every write of a cluster goes to another place of the file.
 *
 *   | magic, size | map: 8 bytes a guest cluster, its place or 0 | clusters, twice as many as the
 * guest's | sector 0      sectors 1...                                   from MAP_END on
 *
 * The right order of a write: data, flush, map, flush, and only then is the old place free. With
 * shuffle_fault each of these steps can be left out, and the crash sweep must notice.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "shuffle.h"
#include "base/byteorder.h"
#include "rt/sync.h"

#define MAGIC         0x7368756666313233ull
#define CLUSTER_BYTES 4096
#define CLUSTERS_MAX  1024
#define MAP_OFFSET    512
#define MAP_END       (64 * KiB)

enum shuffle_fault shuffle_fault;

struct shuffle {
    struct co_mutex lock;
    uint64_t map[CLUSTERS_MAX];
    bool used[2 * CLUSTERS_MAX];
};

struct shuffle_options {
    bool unused;
};

struct shuffle_create_options {
    uint64_t size_bytes;
};

static const struct option_desc create_table[] = {
    {"size", OPTION_SIZE, offsetof(struct shuffle_create_options, size_bytes), "size of the disk",
     .required = true, .min = 512, .max = CLUSTERS_MAX * CLUSTER_BYTES},
    OPTION_END,
};

static const struct option_desc open_table[] = {
    {"unused", OPTION_BOOL, offsetof(struct shuffle_options, unused), "nothing", "false"},
    OPTION_END,
};

static int co_rw(struct block_node *file, uint64_t offset, void *bytes, size_t length, bool write)
{
    struct iovec iov;
    struct sgl buffer = sgl_one(&iov, bytes, length);
    return write ? co_block_write(file, offset, buffer, 0) : co_block_read(file, offset, buffer, 0);
}

static int co_shuffle_create(const void *options, struct block_node *file, struct hws_error *err)
{
    const struct shuffle_create_options *o = options;
    autofree uint8_t *head = calloc(1, MAP_END);
    if (!head)
        return hws_fail(err, ENOMEM, "out of memory");
    store_be64(head, MAGIC);
    store_be64(head + 8, o->size_bytes);
    int result = co_rw(file, 0, head, MAP_END, true);
    if (result == 0)
        result = co_block_flush(file);
    return result < 0 ? hws_fail_errno(err, -result, "writing the map") : 0;
}

static int co_shuffle_open(struct block_node *node, const void *options, struct hws_error *err)
{
    struct shuffle *s = node->state;
    autofree uint8_t *head = calloc(1, MAP_END);
    if (!head)
        return hws_fail(err, ENOMEM, "out of memory");
    int result = co_rw(node->child[BLOCK_FILE], 0, head, MAP_END, false);
    if (result < 0 || load_be64(head) != MAGIC)
        return hws_fail(err, EIO, "no shuffle image");
    co_mutex_init(&s->lock);
    node->size_bytes = load_be64(head + 8);
    node->limits.request_alignment = CLUSTER_BYTES;
    node->limits.transfer_max = CLUSTER_BYTES;
    for (size_t i = 0; i < CLUSTERS_MAX; i++) {
        s->map[i] = load_be64(head + MAP_OFFSET + i * 8);
        if (s->map[i] >= MAP_END)
            s->used[(s->map[i] - MAP_END) / CLUSTER_BYTES] = true;
    }
    return 0;
}

static int co_shuffle_close(struct block_node *node, struct hws_error *err)
{
    co_mutex_destroy(&((struct shuffle *)node->state)->lock);
    return 0;
}

static int co_shuffle_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                           unsigned flags)
{
    struct shuffle *s = node->state;
    co_mutex_lock(&s->lock);
    uint64_t place = s->map[offset / CLUSTER_BYTES];
    int result = 0;
    if (place == 0)
        sgl_fill(buffer, 0);
    else
        result = co_block_read(node->child[BLOCK_FILE], place, buffer, 0);
    co_mutex_unlock(&s->lock);
    return result;
}

static int co_write_map(struct block_node *node, uint64_t cluster, uint64_t place)
{
    struct shuffle *s = node->state;
    uint8_t sector[512];
    uint64_t first = align_down(cluster, 64);
    for (uint64_t i = 0; i < 64; i++)
        store_be64(sector + i * 8, first + i == cluster ? place : s->map[first + i]);
    return co_rw(node->child[BLOCK_FILE], MAP_OFFSET + first * 8, sector, sizeof(sector), true);
}

static int co_put(struct block_node *node, uint64_t cluster, uint64_t place, struct sgl buffer)
{
    struct block_node *file = node->child[BLOCK_FILE];
    int result = 0;
    if (shuffle_fault == SHUFFLE_MAP_FIRST)
        result = co_write_map(node, cluster, place);
    if (result == 0)
        result = co_block_write(file, place, buffer, 0);
    if (result == 0 && shuffle_fault != SHUFFLE_NO_FLUSH)
        result = co_block_flush(file);
    if (result == 0 && shuffle_fault != SHUFFLE_MAP_FIRST)
        result = co_write_map(node, cluster, place);
    if (result == 0 && shuffle_fault != SHUFFLE_REUSE_EARLY)
        result = co_block_flush(file);
    return result;
}

static int co_shuffle_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                            unsigned flags)
{
    struct shuffle *s = node->state;
    uint64_t cluster = offset / CLUSTER_BYTES;
    co_mutex_lock(&s->lock);
    size_t free_place = 0;
    while (s->used[free_place])
        free_place++;
    uint64_t place = MAP_END + free_place * CLUSTER_BYTES, old = s->map[cluster];
    s->used[free_place] = true;
    int result = co_put(node, cluster, place, buffer);
    if (result == 0) { /* where it failed both places stay taken: the map may name either */
        s->map[cluster] = place;
        if (old != 0)
            s->used[(old - MAP_END) / CLUSTER_BYTES] = false;
    }
    co_mutex_unlock(&s->lock);
    return result;
}

static int co_shuffle_flush(struct block_node *node)
{
    return shuffle_fault == SHUFFLE_FLUSH_NOTHING ? 0 : co_block_flush(node->child[BLOCK_FILE]);
}

const struct block_driver shuffle_driver = {
    .name = "shuffle",
    .help = "a format that can forget its order, for the test of the tests",
    .kind = BLOCK_FORMAT,
    .needs_file = true,
    .state_bytes = sizeof(struct shuffle),
    .options = open_table,
    .options_bytes = sizeof(struct shuffle_options),
    .create_options = create_table,
    .create_options_bytes = sizeof(struct shuffle_create_options),
    .co_open = co_shuffle_open,
    .co_close = co_shuffle_close,
    .co_read = co_shuffle_read,
    .co_write = co_shuffle_write,
    .co_flush = co_shuffle_flush,
    .flushes_children = true,
    .co_create = co_shuffle_create,
};
