/*
 * The simulator's operations: from submission, over a random time in flight, to their effect.
 *
 * An operation takes effect at its completion, which the seed puts anywhere within latency_max_ns,
 * so concurrent operations are reordered. What may be left of it at a crash is known to the disk
 * from its submission on. After the crash every operation fails and changes nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_internal.h"
#include <linux/falloc.h>

/* One transfer in this many is cut short, as the kernel may do. */
#define SHORT_ONE_IN 32

/* One operation in this many is slow, and takes up to this many times as long as the others may:
 * what else happens meanwhile is what finds a lifetime that ends too early. */
#define SLOW_ONE_IN 16
#define SLOW_TIMES  30

/* Copies inside the kernel stop here, so that callers must go on. */
#define COPY_BYTES_MAX (64 * KiB)

static const char *const op_names[] = {
    [RT_OP_READ] = "read",           [RT_OP_WRITE] = "write",
    [RT_OP_FDATASYNC] = "fdatasync", [RT_OP_FALLOCATE] = "fallocate",
    [RT_OP_TRUNCATE] = "truncate",   [RT_OP_COPY_RANGE] = "copy_range",
    [RT_OP_SEEK] = "seek",           [RT_OP_STAT] = "stat",
    [RT_OP_OPEN] = "open",           [RT_OP_RENAME] = "rename",
    [RT_OP_UNLINK] = "unlink",       [RT_OP_WORK] = "work",
};

/* ---- record ---- */

static void event_print(const struct sim_event *event)
{
    fprintf(stderr, "sim: %12llu ns %-10s file %u offset %#llx length %#llx -> %lld\n",
            (unsigned long long)event->time_ns, op_names[event->op], event->inode,
            (unsigned long long)event->offset, (unsigned long long)event->length,
            (long long)event->result);
}

static void digest_add(struct sim *sim, uint64_t value)
{
    struct random mix = random_seed(sim->digest ^ value);
    sim->digest = random_u64(&mix);
}

static void record(struct sim *sim, const struct rt_io *io, int64_t result)
{
    struct sim_event event = {
        .time_ns = sim->now_ns,
        .offset = io->offset,
        .length = io->length,
        .result = result,
        .op = io->op,
        .inode = io->file ? sim_file_of(io->file)->inode->index : 0,
    };
    digest_add(sim, event.time_ns);
    digest_add(sim, event.offset);
    digest_add(sim, event.length);
    digest_add(sim, (uint64_t)event.result);
    digest_add(sim, (uint64_t)event.op << 32 | event.inode);
    sim->events[sim->event_count++ % SIM_EVENTS_KEPT] = event;
    if (sim->options.trace)
        event_print(&event);
}

void sim_io_dump(const struct sim *sim)
{
    uint64_t count = MIN(sim->event_count, (uint64_t)SIM_EVENTS_KEPT);
    fprintf(stderr, "sim: the last %llu of %llu events:\n", (unsigned long long)count,
            (unsigned long long)sim->event_count);
    for (uint64_t i = sim->event_count - count; i < sim->event_count; i++)
        event_print(&sim->events[i % SIM_EVENTS_KEPT]);
}

/* ---- submission ---- */

static struct sgl io_data(const struct rt_io *io, uint64_t length)
{
    return sgl_slice(sgl_of(io->iov, io->iov_count), 0, length);
}

/** What the kernel would refuse at once. @return 0 or -errno. */
static int io_validate(const struct sim *sim, const struct rt_io *io)
{
    if (!io->file)
        return 0;
    const struct sim_file *f = sim_file_of(io->file);
    bool reads = io->op == RT_OP_READ, writes = io->op == RT_OP_WRITE;
    bool changes = writes || io->op == RT_OP_FALLOCATE || io->op == RT_OP_TRUNCATE;
    int mode = f->flags & O_ACCMODE;
    if ((changes && mode == O_RDONLY) || (reads && mode == O_WRONLY))
        return io->op == RT_OP_TRUNCATE ? -EINVAL : -EBADF;
    if ((reads || writes) && (f->flags & O_DIRECT)) {
        uint32_t alignment = sim->options.offset_alignment;
        if (!is_aligned(io->offset | io->length, alignment) ||
            !sgl_is_aligned(sgl_of(io->iov, io->iov_count), alignment))
            return -EINVAL;
    }
    if (io->offset > INT64_MAX || io->length > INT64_MAX - io->offset)
        return writes || io->op == RT_OP_TRUNCATE ? -EFBIG : -EINVAL;
    if (io->op == RT_OP_FALLOCATE && io->length == 0)
        return -EINVAL;
    bool offloads = io->op == RT_OP_FALLOCATE || io->op == RT_OP_COPY_RANGE;
    return offloads && sim->options.no_direct_offload ? -EOPNOTSUPP : 0;
}

/** The text of a failure, as the real runtimes give it. */
static void explain(const struct rt_io *io, int64_t result)
{
    if (io->op == RT_OP_OPEN)
        hws_fail_errno(io->err, (int)-result, "cannot open '%s'", io->path);
    else if (io->op == RT_OP_RENAME)
        hws_fail_errno(io->err, (int)-result, "cannot rename '%s' to '%s'", io->path, io->to_path);
    else if (io->op == RT_OP_UNLINK)
        hws_fail_errno(io->err, (int)-result, "cannot remove '%s'", io->path);
}

static bool fallocate_begin(struct sim_flight *flight, struct sim_inode *inode)
{
    const struct rt_io *io = flight->io;
    bool keep_size = io->flags & FALLOC_FL_KEEP_SIZE;
    switch (io->flags & ~FALLOC_FL_KEEP_SIZE) {
    case 0: /* space is not accounted for holes: they read as what an unwritten extent reads as */
        break;
    case FALLOC_FL_PUNCH_HOLE:
        if (!keep_size)
            return false;
        flight->op = sim_op_begin(inode, SIM_OP_ZERO, io->offset, io->length, (struct sgl){0});
        break;
    case FALLOC_FL_ZERO_RANGE:
        flight->op = sim_op_begin(inode, SIM_OP_ZERO, io->offset, io->length, (struct sgl){0});
        break;
    default:
        return false;
    }
    if (!keep_size)
        flight->op_grow =
            sim_op_begin(inode, SIM_OP_GROW, 0, io->offset + io->length, (struct sgl){0});
    return true;
}

static void copy_begin(struct sim_flight *flight, struct sim_inode *from)
{
    const struct rt_io *io = flight->io;
    uint64_t size_bytes = from->volatile_image.size_bytes;
    uint64_t length = io->offset < size_bytes ? size_bytes - io->offset : 0;
    flight->length = MIN(MIN(length, io->length), COPY_BYTES_MAX);
    if (flight->length == 0)
        return;
    autofree void *bytes = sim_alloc(NULL, flight->length, 1);
    sim_image_read(&from->volatile_image, io->offset, bytes, flight->length);
    struct iovec iov;
    flight->op = sim_op_begin(sim_file_of(io->copy.to)->inode, SIM_OP_WRITE, io->copy.to_offset,
                              flight->length, sgl_one(&iov, bytes, flight->length));
}

/** Of several at once only the first may be found half way by a crash. */
static int rename_begin(struct sim *sim, struct sim_flight *flight)
{
    if (sim->renaming)
        return 0;
    int result = sim_disk_rename_begin(sim->disk, flight->io->path, flight->io->to_path);
    if (result == 0)
        sim->renaming = flight;
    else
        explain(flight->io, result);
    return result;
}

/** Tells the disk of the change that is under way. @return 0 or -errno. */
static int change_begin(struct sim *sim, struct sim_flight *flight)
{
    const struct rt_io *io = flight->io;
    struct sim_inode *inode = io->file ? sim_file_of(io->file)->inode : NULL;
    switch (io->op) {
    case RT_OP_WRITE:
        if (flight->length > 0)
            flight->op = sim_op_begin(inode, SIM_OP_WRITE, io->offset, flight->length,
                                      io_data(io, flight->length));
        return 0;
    case RT_OP_TRUNCATE:
        flight->op = sim_op_begin(inode, SIM_OP_RESIZE, 0, io->offset, (struct sgl){0});
        return 0;
    case RT_OP_FALLOCATE:
        return fallocate_begin(flight, inode) ? 0 : -EOPNOTSUPP;
    case RT_OP_COPY_RANGE:
        copy_begin(flight, inode);
        return 0;
    case RT_OP_FDATASYNC:
        flight->sequence = sim_disk_sequence(sim->disk);
        return 0;
    case RT_OP_RENAME:
        return rename_begin(sim, flight);
    default:
        return 0;
    }
}

/** Counts the operation; the crash, or a failure, may be planned for it. */
static void meet_fate(struct sim *sim, struct sim_flight *flight)
{
    const struct sim_options *o = &sim->options;
    uint64_t k = ++sim->operations;
    if (o->crash_at != 0 && k == o->crash_at) {
        sim->crashed = true;
        if (o->on_crash)
            o->on_crash(o->on_crash_arg);
    }
    if (o->fail_at == 0 || k < o->fail_at || (k > o->fail_at && !o->fail_sticky))
        return;
    enum rt_opcode op = flight->io->op;
    bool allocates = op == RT_OP_WRITE || op == RT_OP_FALLOCATE || op == RT_OP_TRUNCATE ||
                     op == RT_OP_COPY_RANGE || op == RT_OP_FDATASYNC ||
                     (op == RT_OP_OPEN && (flight->io->open.how->flags & O_CREAT));
    if (o->fail_errno != ENOSPC || allocates)
        flight->failure = o->fail_errno;
}

/** Cuts a transfer at a sector, now and then. */
static uint64_t transfer_length(struct sim *sim, const struct rt_io *io)
{
    if ((io->op != RT_OP_READ && io->op != RT_OP_WRITE) || io->length == 0 ||
        !random_one_in(&sim->schedule, SHORT_ONE_IN))
        return io->length;
    uint64_t unit = MAX(sim->options.offset_alignment, (uint32_t)SIM_SECTOR_BYTES);
    uint64_t cut = align_down(io->offset + random_below(&sim->schedule, io->length), unit);
    return cut > io->offset ? cut - io->offset : io->length;
}

static uint64_t latency_draw(struct sim *sim)
{
    uint64_t most_ns = sim->options.latency_max_ns;
    if (random_one_in(&sim->schedule, SLOW_ONE_IN))
        most_ns *= SLOW_TIMES;
    return 1 + random_below(&sim->schedule, most_ns);
}

bool sim_io_submit(struct rt_queue *q, struct rt_io *io)
{
    struct sim *sim = sim_of(q->rt);
    if (io->op > RT_OP_WORK)
        io->result = -EOPNOTSUPP; /* no descriptors, streams or devices here */
    else
        io->result = io_validate(sim, io);
    if (io->result < 0)
        return true;
    struct sim_flight *flight = sim_alloc(NULL, 1, sizeof(*flight));
    *flight = (struct sim_flight){.queue = q, .io = io, .length = transfer_length(sim, io)};
    flight->due_ns = sim->now_ns + latency_draw(sim);
    bool was_crashed = sim->crashed;
    if (io->op != RT_OP_WORK && !was_crashed)
        meet_fate(sim, flight);
    if (!was_crashed)
        io->result = change_begin(sim, flight);
    if (io->result < 0) {
        free(flight);
        return true;
    }
    if (io->file)
        sim_file_of(io->file)->in_flight++;
    list_push_back(&sim->in_flight, &flight->link);
    return false;
}

/* ---- completion ---- */

static int64_t land_read(const struct sim_flight *flight, const struct sim_image *image)
{
    const struct rt_io *io = flight->io;
    if (io->offset >= image->size_bytes || flight->length == 0)
        return 0;
    uint64_t length = MIN(flight->length, image->size_bytes - io->offset);
    autofree void *bytes = sim_alloc(NULL, length, 1);
    sim_image_read(image, io->offset, bytes, length);
    sgl_from_buffer(io_data(io, length), bytes);
    return (int64_t)length;
}

/** Carries out the changes of @flight; there is room for them. */
static void changes_complete(struct sim *sim, struct sim_flight *flight)
{
    const struct rt_io *io = flight->io;
    if (flight->op) {
        struct iovec iov;
        struct sgl data = {0};
        if (io->op == RT_OP_WRITE)
            data = io_data(io, flight->length);
        else if (io->op == RT_OP_COPY_RANGE)
            data = sgl_one(&iov, flight->op->bytes, flight->length);
        bool durable = io->op == RT_OP_WRITE &&
                       ((io->flags & RWF_DSYNC) || (sim_file_of(io->file)->flags & O_DSYNC));
        sim_op_complete(sim->disk, flight->op, data, durable, &sim->schedule);
    }
    if (flight->op_grow)
        sim_op_complete(sim->disk, flight->op_grow, (struct sgl){0}, false, &sim->schedule);
}

static void changes_fail(struct sim *sim, struct sim_flight *flight, bool torn)
{
    if (flight->op)
        sim_op_fail(sim->disk, flight->op, torn, &sim->schedule);
    if (flight->op_grow)
        sim_op_fail(sim->disk, flight->op_grow, false, &sim->schedule);
    if (sim->renaming == flight) {
        sim_disk_rename_cancel(sim->disk);
        sim->renaming = NULL;
    }
}

static int64_t land_change(struct sim *sim, struct sim_flight *flight)
{
    uint64_t limit = sim->options.disk_bytes;
    if (limit != 0 && flight->op &&
        sim_disk_allocated(sim->disk) + sim_op_allocates(flight->op) > limit &&
        sim_op_allocates(flight->op) > 0) {
        changes_fail(sim, flight, false);
        return -ENOSPC;
    }
    changes_complete(sim, flight);
    enum rt_opcode op = flight->io->op;
    return op == RT_OP_WRITE || op == RT_OP_COPY_RANGE ? (int64_t)flight->length : 0;
}

static int64_t land_stat(const struct sim *sim, const struct rt_io *io)
{
    const struct sim_file *f = sim_file_of(io->file);
    uint32_t alignment = f->flags & O_DIRECT ? sim->options.offset_alignment : 1;
    *io->stat = (struct rt_stat){
        .size_bytes = f->inode->volatile_image.size_bytes,
        .allocated_bytes = f->inode->volatile_image.count * SIM_PAGE_BYTES,
        .device = 1,
        .inode = f->inode->index + 1,
        .is_regular = true,
        .offset_alignment = alignment,
        .memory_alignment = alignment,
    };
    return 0;
}

static int64_t land_open(struct sim *sim, struct rt_io *io)
{
    const struct rt_open *how = io->open.how;
    if (how->beneath && !sim_disk_beneath(io->path, how->beneath))
        return -EXDEV;
    struct sim_inode *inode;
    int result = sim_disk_open(sim->disk, io->path, how->flags, &inode);
    if (result < 0)
        return result;
    struct sim_file *f = sim_alloc(NULL, 1, sizeof(*f));
    *f = (struct sim_file){.sim = sim, .inode = inode, .flags = how->flags};
    f->file = (struct rt_file){.ops = sim->rt.ops, .fd = -1, .offset_alignment = 1};
    if (how->flags & O_DIRECT)
        f->file.offset_alignment = sim->options.offset_alignment;
    io->open.ret = &f->file;
    return 0;
}

static int64_t land_rename(struct sim *sim, const struct sim_flight *flight)
{
    const struct rt_io *io = flight->io;
    if (sim->renaming != flight) {
        if (sim->renaming)
            return -EBUSY; /* an errno that rename(2) may give; nothing here renames twice at once
                            */
        int result = sim_disk_rename_begin(sim->disk, io->path, io->to_path);
        if (result < 0)
            return result;
    }
    sim_disk_rename_complete(sim->disk);
    sim->renaming = NULL;
    return 0;
}

static int64_t land(struct sim *sim, struct sim_flight *flight)
{
    struct rt_io *io = flight->io;
    struct sim_inode *inode = io->file ? sim_file_of(io->file)->inode : NULL;
    switch (io->op) {
    case RT_OP_READ:
        return land_read(flight, &inode->volatile_image);
    case RT_OP_WRITE:
    case RT_OP_FALLOCATE:
    case RT_OP_TRUNCATE:
    case RT_OP_COPY_RANGE:
        return land_change(sim, flight);
    case RT_OP_FDATASYNC:
        sim_inode_sync(sim->disk, inode, flight->sequence);
        return 0;
    case RT_OP_SEEK:
        return sim_image_seek(&inode->volatile_image, io->offset, io->flags);
    case RT_OP_STAT:
        return land_stat(sim, io);
    case RT_OP_OPEN:
        return land_open(sim, io);
    case RT_OP_RENAME:
        return land_rename(sim, flight);
    case RT_OP_UNLINK:
        return sim_disk_unlink(sim->disk, io->path);
    default:
        return -EOPNOTSUPP;
    }
}

void sim_io_land(struct sim *sim, struct sim_flight *flight)
{
    struct rt_io *io = flight->io;
    int64_t result;
    if (io->op == RT_OP_WORK) {
        result = io->work.fn(io->work.arg);
    } else if (sim->crashed) {
        result = -EIO; /* what was in flight stays in flight: the disk decides at the crash */
    } else if (flight->failure) {
        changes_fail(sim, flight, random_one_in(&sim->schedule, 2));
        if (io->op == RT_OP_FDATASYNC)
            sim_inode_sync_failed(sim_file_of(io->file)->inode, flight->sequence, &sim->schedule);
        result = -flight->failure;
    } else {
        result = land(sim, flight);
    }
    record(sim, io, result);
    if (result < 0)
        explain(io, result);
    if (io->file)
        sim_file_of(io->file)->in_flight--;
    list_del(&flight->link);
    struct rt_queue *before = queue_enter(flight->queue);
    rt_io_complete(io, result);
    queue_enter(before);
    free(flight);
}
