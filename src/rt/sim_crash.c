/*
 * What is left of a simulated disk after a power cut or a killed program; see sim_disk.h.
 *
 * Every state that real storage could leave has some seed that leaves it here: each unsynced change
 * of a file is kept whole, torn at sectors, or dropped, independently of the others. Because all
 * subsets occur, carrying the kept ones out in their order of completion shows everything that a
 * disk which reorders could show: where two changes overlap and the older one is to win, the newer
 * one is dropped there. Changes in flight go last, in any order among themselves.
 *
 * Independent coin throws alone would hardly ever show the extremes that find most bugs (all of one
 * file's changes lost and all of another's kept; only the last one kept), so each file draws a mood
 * first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_disk_internal.h"

/* A change that covers more is torn at a few places, not at each of its sectors. */
#define TORN_RUNS_MAX 64

/* ---- carrying changes out ---- */

static void op_apply_part(const struct sim_op *op, struct sim_image *image, uint64_t from,
                          uint64_t to)
{
    if (from >= to)
        return;
    if (op->kind == SIM_OP_WRITE)
        sim_image_write(image, op->offset + from, op->bytes + from, to - from);
    else
        sim_image_zero(image, op->offset + from, to - from);
}

void sim_op_apply(const struct sim_op *op, struct sim_image *image)
{
    switch (op->kind) {
    case SIM_OP_WRITE:
    case SIM_OP_ZERO:
        op_apply_part(op, image, 0, op->length);
        break;
    case SIM_OP_RESIZE:
        sim_image_resize(image, op->length);
        break;
    case SIM_OP_GROW:
        if (image->size_bytes < op->length)
            sim_image_resize(image, op->length);
        break;
    }
}

void sim_op_apply_torn(const struct sim_op *op, struct sim_image *image, struct random *random)
{
    if (op->kind == SIM_OP_RESIZE || op->kind == SIM_OP_GROW) {
        if (random_one_in(random, 2))
            sim_op_apply(op, image);
        return;
    }
    uint64_t end = op->offset + op->length;
    uint64_t run = align_up(op->length / TORN_RUNS_MAX + 1, SIM_SECTOR_BYTES);
    /* A prefix, a suffix, or any subset of the sectors. */
    unsigned how = (unsigned)random_below(random, 4);
    uint64_t cut = align_down(op->offset + random_below(random, op->length + 1), SIM_SECTOR_BYTES);
    cut = MAX(cut, op->offset) - op->offset;
    if (how == 0) {
        op_apply_part(op, image, 0, cut);
    } else if (how == 1) {
        op_apply_part(op, image, cut, op->length);
    } else {
        for (uint64_t at = op->offset; at < end;) {
            uint64_t next = MIN(align_down(at, SIM_SECTOR_BYTES) + run, end);
            if (random_one_in(random, 2))
                op_apply_part(op, image, at - op->offset, next - op->offset);
            at = next;
        }
    }
}

/* ---- a power cut ---- */

/* How a file's unsynced changes fare. */
struct mood {
    unsigned keep_percent; /* kept whole */
    unsigned tear_percent; /* of the others */
    uint64_t from, to;     /* positions in the log outside of which all is dropped */
};

static struct mood mood_choose(uint64_t log_length, struct random *random)
{
    static const unsigned keeps[] = {0, 5, 20, 50, 80, 95, 100};
    struct mood mood = {
        .keep_percent = keeps[random_below(random, ARRAY_LEN(keeps))],
        .tear_percent = random_one_in(random, 2) ? 50 : 0,
        .to = UINT64_MAX,
    };
    switch (random_below(random, 4)) {
    case 0: /* the log up to a point, as storage that keeps order leaves it */
        mood.keep_percent = 100;
        mood.to = random_below(random, log_length + 1);
        break;
    case 1: /* only the last ones */
        mood.keep_percent = MAX(mood.keep_percent, 50u);
        mood.from = random_below(random, log_length + 1);
        break;
    default:
        break;
    }
    return mood;
}

static void op_survive(const struct sim_op *op, uint64_t position, const struct mood *mood,
                       struct sim_image *image, struct random *random)
{
    bool inside = position >= mood->from && position < mood->to;
    if (op->durable || (inside && random_below(random, 100) < mood->keep_percent))
        sim_op_apply(op, image);
    else if (random_below(random, 100) < mood->tear_percent)
        sim_op_apply_torn(op, image, random);
}

static uint64_t list_length(const struct list *head)
{
    uint64_t length = 0;
    list_for_each (link, head)
        length++;
    return length;
}

/** What was in flight is newest, so it comes last; in an order of its own, which @random chooses.
 */
static void in_flight_survive(const struct sim_inode *inode, const struct mood *mood,
                              struct sim_image *image, struct random *random)
{
    uint64_t count = list_length(&inode->in_flight);
    if (count == 0)
        return;
    autofree const struct sim_op **ops = sim_alloc(NULL, count, sizeof(ops[0]));
    uint64_t at = 0;
    list_for_each (link, &inode->in_flight) {
        uint64_t place = random_below(random, at + 1);
        ops[at] = ops[place];
        ops[place] = list_entry(link, struct sim_op, link);
        at++;
    }
    for (uint64_t i = 0; i < count; i++)
        op_survive(ops[i], UINT64_MAX - 1, mood, image, random);
}

static void inode_crash(const struct sim_inode *inode, struct sim_inode *left,
                        struct random *random)
{
    struct sim_image *image = &left->durable_image;
    sim_image_copy(image, &inode->durable_image);
    struct mood mood = mood_choose(list_length(&inode->log), random);
    uint64_t position = 0;
    list_for_each (link, &inode->log)
        op_survive(list_entry(link, struct sim_op, link), position++, &mood, image, random);
    in_flight_survive(inode, &mood, image, random);
    sim_image_copy(&left->volatile_image, image);
}

/** Copies names, pointing to the inodes of @to. */
static void names_copy(struct sim_names *names, const struct sim_names *from,
                       const struct sim_disk *to)
{
    for (size_t i = 0; i < from->count; i++)
        sim_names_set(names, from->names[i].path, to->inodes[from->names[i].inode->index]);
}

/** Half of the time, a rename in flight is found done. */
static void rename_survive(const struct sim_disk *disk, struct sim_names *names,
                           struct random *random)
{
    if (!disk->rename_from || !random_one_in(random, 2))
        return;
    struct sim_inode *inode = sim_names_get(names, disk->rename_from);
    if (inode) {
        sim_names_set(names, disk->rename_from, NULL);
        sim_names_set(names, disk->rename_to, inode);
    }
}

struct sim_disk *sim_disk_crash(const struct sim_disk *disk, struct random *random)
{
    struct sim_disk *left = sim_disk_new();
    for (size_t i = 0; i < disk->inode_count; i++)
        inode_crash(disk->inodes[i], sim_inode_add(left), random);
    struct sim_names *names = &left->durable_names;
    names_copy(names, &disk->durable_names, left);
    /* Names are journalled: a crash keeps the first few of their changes. */
    size_t kept = random_below(random, disk->name_log_count + 1);
    for (size_t i = 0; i < kept; i++) {
        struct sim_name_op op = disk->name_log[i];
        op.inode = left->inodes[op.inode->index];
        sim_names_apply(names, &op);
    }
    if (kept == disk->name_log_count)
        rename_survive(disk, names, random);
    names_copy(&left->volatile_names, names, left);
    return left;
}

/* ---- a killed program ---- */

static void op_copy(const struct sim_op *op, struct sim_inode *to)
{
    struct sim_op *copy = sim_alloc(NULL, 1, sizeof(*copy));
    *copy = *op;
    copy->inode = to;
    if (op->bytes) {
        copy->bytes = sim_alloc(NULL, op->length, 1);
        memcpy(copy->bytes, op->bytes, op->length);
        to->log_bytes += op->length;
    }
    list_push_back(&to->log, &copy->link);
}

struct sim_disk *sim_disk_kill(const struct sim_disk *disk, struct random *random)
{
    struct sim_disk *left = sim_disk_new();
    left->sequence = disk->sequence;
    for (size_t i = 0; i < disk->inode_count; i++) {
        const struct sim_inode *inode = disk->inodes[i];
        struct sim_inode *to = sim_inode_add(left);
        sim_image_copy(&to->durable_image, &inode->durable_image);
        sim_image_copy(&to->volatile_image, &inode->volatile_image);
        list_for_each (link, &inode->log)
            op_copy(list_entry(link, struct sim_op, link), to);
        list_for_each (link, &inode->in_flight) {
            const struct sim_op *op = list_entry(link, struct sim_op, link);
            if (!random_one_in(random, 2))
                continue;
            op_copy(op, to);
            sim_op_apply(op, &to->volatile_image);
            list_entry(to->log.prev, struct sim_op, link)->sequence = ++left->sequence;
        }
    }
    names_copy(&left->durable_names, &disk->durable_names, left);
    names_copy(&left->volatile_names, &disk->volatile_names, left);
    for (size_t i = 0; i < disk->name_log_count; i++) {
        const struct sim_name_op *op = &disk->name_log[i];
        sim_name_log_add(left, op->kind, op->path, left->inodes[op->inode->index]);
    }
    return left;
}
