/*
 * The log filter: one line a request, when it completes.
 *
 *     12.000345 write 65536 4096 fua = 0 118us
 *     |         |     |     |    |     |   time that the request took
 *     |         |     |     |    |     result: 0 or -errno
 *     |         |     offset and length in bytes, flags
 *     seconds since the node was opened, when the request began
 *
 * Lines go to the log at info level, or to the file `filename`, which must not exist yet: an open
 * description must never be a way to overwrite a file. Requests that complete together may appear
 * in either order. A line that cannot be written is lost, told once, and never fails the request.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter/log/log.h"
#include "base/log.h"

#define LINE_BYTES 160

struct log_options {
    char *filename;
};

struct log_filter {
    struct rt_file *file; /* NULL: the log */
    uint64_t opened_ns;
    _Atomic uint64_t end_bytes; /* where in the file the next line goes */
    atomic_bool lost_lines;
};

static int co_log_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct log_options *o = options;
    struct log_filter *f = node->state;

    if (o->filename) {
        struct rt_open how = {
            .flags = O_RDWR | O_CREAT | O_EXCL, .mode = 0600, .beneath = node->beneath};
        int r = co_open(o->filename, &how, &f->file, err);
        if (r == -EEXIST)
            return hws_fail(err, EEXIST, "'%s' exists; the log filter writes to a new file",
                            o->filename);
        if (r < 0)
            return r;
    }
    f->opened_ns = rt_now_ns();
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, block_size(node->child[BLOCK_FILE]));
    return 0;
}

static int co_log_close(struct block_node *node, struct hws_error *err)
{
    struct log_filter *f = node->state;

    f->file = rt_file_close(f->file);
    return 0;
}

/* One completed request. */
struct request {
    const char *name;
    uint64_t offset, length;
    unsigned flags;
    uint64_t began_ns;
};

static struct request begin(const char *name, uint64_t offset, uint64_t length, unsigned flags)
{
    return (struct request){name, offset, length, flags, rt_now_ns()};
}

/* @return @result. */
static int co_end(struct block_node *node, const struct request *q, int result)
{
    struct log_filter *f = node->state;
    uint64_t at_us = (q->began_ns - f->opened_ns) / 1000;
    char line[LINE_BYTES];

    int length =
        snprintf(line, sizeof(line), "%llu.%06llu %s %llu %llu%s%s = %d %lluus\n",
                 (unsigned long long)(at_us / 1000000), (unsigned long long)(at_us % 1000000),
                 q->name, (unsigned long long)q->offset, (unsigned long long)q->length,
                 q->flags & BLOCK_FUA ? " fua" : "", q->flags & BLOCK_MAY_UNMAP ? " unmap" : "",
                 result, (unsigned long long)((rt_now_ns() - q->began_ns) / 1000));
    assert(length > 0 && length < LINE_BYTES);
    if (!f->file) {
        log_info("%s: %.*s", block_filename(node), length - 1, line);
        return result;
    }
    struct iovec iov;
    uint64_t end = atomic_fetch_add(&f->end_bytes, (uint64_t)length);
    int r = co_pwrite(f->file, end, sgl_one(&iov, line, (size_t)length), 0);
    if (r < 0 && !atomic_exchange(&f->lost_lines, true))
        log_warning("%s: lines of the request log are lost: %s", block_filename(node),
                    strerror(-r));
    return result;
}

static int co_log_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct request q = begin("read", offset, buffer.length, flags);
    return co_end(node, &q, co_block_read(node->child[BLOCK_FILE], offset, buffer, flags));
}

static int co_log_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct request q = begin("write", offset, buffer.length, flags);
    return co_end(node, &q, co_block_write(node->child[BLOCK_FILE], offset, buffer, flags));
}

static int co_log_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                               unsigned flags)
{
    struct request q = begin("zero", offset, length, flags);
    return co_end(node, &q, co_block_write_zeroes(node->child[BLOCK_FILE], offset, length, flags));
}

static int co_log_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct request q = begin("discard", offset, length, 0);
    return co_end(node, &q, co_block_discard(node->child[BLOCK_FILE], offset, length));
}

static int co_log_flush(struct block_node *node)
{
    struct request q = begin("flush", 0, 0, 0);
    return co_end(node, &q, co_block_flush(node->child[BLOCK_FILE]));
}

/* A filter has no layer below it: it answers for the whole chain. */
static int co_log_status(struct block_node *node, uint64_t offset, uint64_t length,
                         struct block_extent *ret)
{
    struct request q = begin("status", offset, length, 0);
    int r = co_block_status_chain(node->child[BLOCK_FILE], offset, length, ret);
    if (r == 0)
        ret->flags |= BLOCK_STATUS_ALLOCATED;
    return co_end(node, &q, r);
}

static int co_log_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct request q = begin("resize", size_bytes, 0, 0);
    int r = co_end(node, &q, co_block_resize(node->child[BLOCK_FILE], size_bytes, err));
    if (r == 0)
        atomic_store(&node->size_bytes, size_bytes);
    return r;
}

static const struct option_desc log_table[] = {
    {"filename", OPTION_STRING, offsetof(struct log_options, filename),
     "a new file for the lines; without it they go to the log at info level"},
    OPTION_END,
};

const struct block_driver log_filter = {
    .name = "log",
    .help = "one line a request, with its result and time",
    .kind = BLOCK_FILTER,
    .needs_file = true,
    .state_bytes = sizeof(struct log_filter),
    .options = log_table,
    .options_bytes = sizeof(struct log_options),
    .co_open = co_log_open,
    .co_close = co_log_close,
    .co_read = co_log_read,
    .co_write = co_log_write,
    .co_write_zeroes = co_log_write_zeroes,
    .co_discard = co_log_discard,
    .co_flush = co_log_flush,
    .flushes_children = true,
    .co_status = co_log_status,
    .co_resize = co_log_resize,
};
