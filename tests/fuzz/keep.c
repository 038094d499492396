/*
 * Fuzz target: the file of a keep that a dead process left (block/keep.h), and the image that it
 * belongs to.
 *
 * An input is a list of patches of a sound keep with changes in it: offset (4 bytes,
 * little-endian), length (1), bytes. Whatever the keep says, a refusal leaves the image as it was,
 * and what is applied goes into metadata, never into the header.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/byteorder.h"
#include "base/log.h"
#include "block/block.h"
#include "block/keep.h"
#include "drivers/drivers.h"
#include "fuzz.h"
#include "rt/sim.h"
#include <fcntl.h>

#define IMAGE        "/image"
#define DISK_BYTES   (512 * KiB)
#define PIECE_BYTES  8192
#define GROWTH_BYTES 50000u /* a patch may lie this far behind the end */
#define KEEP_MAX     (4 * MiB)

static char path[64];
static struct {
    void *image, *keep;
    size_t image_bytes, keep_bytes;
} left;

static int co_open_image(struct block_keep *keep, struct block_node **ret, struct hws_error *err)
{
    struct block_policy policy = {.cache_bytes = MiB, .keep = keep};
    json_t *d = json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver", "file",
                          "filename", IMAGE);
    int r = co_block_open(d, BLOCK_OPEN_WRITE, &policy, ret, err);
    json_decref(d);
    return r;
}

static int co_transfer(struct block_node *node, uint64_t offset, bool write)
{
    static uint8_t buffer[PIECE_BYTES];
    struct iovec iov;
    struct sgl list = sgl_one(&iov, buffer, PIECE_BYTES);
    return write ? co_block_write(node, offset, list, 0) : co_block_read(node, offset, list, 0);
}

/* ---- the sound keep ---- */

static void keep_copy(void)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    left.keep = malloc(KEEP_MAX);
    assert(fd >= 0 && left.keep);
    ssize_t got = read(fd, left.keep, KEEP_MAX);
    assert(got > 0 && got < (ssize_t)KEEP_MAX);
    left.keep_bytes = (size_t)got;
    close(fd);
}

static void co_leave(void *arg)
{
    struct hws_error err = {0};
    struct block_policy policy = {0};
    struct block_keep *keep = NULL;
    struct block_node *node = NULL;
    json_t *d =
        json_pack("{s:s, s:i, s:i, s:{s:s, s:s}}", "driver", "qcow2", "size", (int)DISK_BYTES,
                  "cluster_size", 512, "file", "driver", "file", "filename", IMAGE);
    int r = co_block_create(d, false, &policy, &err);
    json_decref(d);
    assert(r == 0);
    r = block_keep_open(path, &keep, &err);
    assert(r == 0);
    r = co_open_image(keep, &node, &err);
    assert(r == 0);
    for (uint64_t at = 0; at < DISK_BYTES; at += DISK_BYTES / 8) {
        r = co_transfer(node, at, true);
        assert(r == 0);
    }
    keep_copy();
    r = sim_file_load(rt_current(), IMAGE, &left.image, &left.image_bytes);
    assert(r == 0);
    (void)co_block_close(node, NULL);
    block_keep_close(keep);
}

static void run_sim(co_fn *fn, void *arg)
{
    struct sim_options options = {.seed = 1, .latency_max_ns = 1, .disk_bytes = 64 * MiB};
    struct rt *rt = NULL;
    int r = sim_create(&options, &rt);
    assert(r == 0);
    r = rt_run(rt, fn, arg);
    assert(r == 0);
    rt_free(rt);
}

static void keep_quiet(enum log_level level, const char *line, void *arg)
{
}

static void prepare(void)
{
    if (left.keep)
        return;
    log_set_sink(keep_quiet, NULL);
    drivers_register();
    snprintf(path, sizeof(path), "%s/hawser-fuzz-keep-%d",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    unlink(path);
    run_sim(co_leave, NULL);
}

/* ---- a patched one ---- */

struct input {
    const uint8_t *bytes;
    size_t length;
};

static void write_patched(const struct input *input)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert(fd >= 0);
    ssize_t put = write(fd, left.keep, left.keep_bytes);
    assert(put == (ssize_t)left.keep_bytes);
    for (size_t at = 0; input->length - at >= 5;) {
        uint32_t where = load_le32(input->bytes + at);
        size_t length = MIN((size_t)input->bytes[at + 4], input->length - at - 5);
        where %= (uint32_t)left.keep_bytes + GROWTH_BYTES;
        put = pwrite(fd, input->bytes + at + 5, length, where);
        assert(put == (ssize_t)length);
        at += 5 + length;
    }
    close(fd);
}

/* @whole: nothing may have changed; else the header's place must not have. */
static void expect_image(bool whole)
{
    void *now;
    size_t length;
    int r = sim_file_load(rt_current(), IMAGE, &now, &length);
    assert(r == 0 && length >= 512);
    assert(!memcmp(now, left.image, whole ? left.image_bytes : 512));
    assert(!whole || length == left.image_bytes);
    free(now);
}

static void co_use(struct block_node *node)
{
    struct block_check check = {0};
    struct hws_error err = {0};
    for (uint64_t at = 0; at < DISK_BYTES; at += PIECE_BYTES)
        (void)!co_transfer(node, at, false);
    (void)!co_transfer(node, DISK_BYTES / 2, true);
    (void)!co_block_flush(node);
    (void)!co_block_check(node, 0, &check, &err);
}

static void co_find(void *arg)
{
    struct hws_error err = {0};
    struct block_keep *keep = NULL;
    struct block_node *node = NULL;
    int r = sim_file_store(rt_current(), IMAGE, left.image, left.image_bytes);
    assert(r == 0);
    r = block_keep_open(path, &keep, &err);
    assert(r <= 0 && (r == 0 || err.text[0]));
    if (r < 0)
        return;
    bool pending = block_keep_pending(keep);
    r = co_open_image(keep, &node, &err);
    assert(r <= 0 && (r == 0 || err.text[0]));
    expect_image(r == -EUCLEAN || r == -ESTALE || !pending);
    if (r == 0) {
        co_use(node);
        (void)co_block_close(node, NULL);
    }
    block_keep_close(keep);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {bytes, length};
    prepare();
    write_patched(&input);
    run_sim(co_find, NULL);
    unlink(path);
    return 0;
}
