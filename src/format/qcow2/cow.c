/*
 * What the first write of a cluster fills around the written bytes: one host write of head, data,
 * tail.
 *
 * Head and tail come from wherever the guest reads them now: this layer (compressed or shared
 * clusters) or the backing chain. Where they are known to be zeroes nothing is read. Subclusters
 * that are allocated already need no filling.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/cow.h"

/* Pieces of a host write that live on the stack; requests with more pieces take memory. */
#define STACK_PIECES 24u

static uint8_t zeroes[64 * KiB] __attribute__((aligned(QCOW2_BUFFER_ALIGNMENT)));

struct filling {
    uint64_t start; /* guest */
    size_t length;
    uint8_t *copy; /* NULL: zeroes */
};

/* Does the whole range read as zeroes without looking at data? */
static int co_known_zero(struct qcow2 *q, uint64_t start, size_t length, bool *ret)
{
    struct qcow2_extent e;
    int r = qcow2_co_map_lock(q, start, length, &e);
    if (r < 0)
        return r;
    rt_mutex_unlock(&q->lock);
    struct block_node *backing = q->node->child[BLOCK_BACKING];
    bool nothing_below = !backing || start >= block_size(backing) || start >= block_size(q->node);
    *ret = e.length == length &&
           (e.kind == QCOW2_KIND_ZERO || (e.kind == QCOW2_KIND_UNALLOCATED && nothing_below));
    return 0;
}

static int co_fill(struct qcow2 *q, uint64_t start, uint64_t end, struct filling *ret)
{
    bool zero = true;
    *ret = (struct filling){.start = start, .length = (size_t)(end - start)};
    if (ret->length == 0)
        return 0;
    int r = co_known_zero(q, start, ret->length, &zero);
    if (r < 0 || zero)
        return r;
    struct iovec iov;
    ret->copy = qcow2_buffer(ret->length);
    if (!ret->copy)
        return -ENOMEM;
    return qcow2_co_read_guest(q, start, sgl_one(&iov, ret->copy, ret->length));
}

/* Subclusters that are allocated keep what is around the data. Caller holds q->lock. */
static bool is_allocated(const struct qcow2 *q, const struct qcow2_step *s, uint64_t guest)
{
    const uint8_t *at = qcow2_l2_entry(q, s->slice, guest);
    return load_be64(at + 8) >> qcow2_subcluster_index(q, guest) & 1;
}

static unsigned filling_pieces(const struct filling *f)
{
    return f->copy ? 1 : (unsigned)div_round_up(f->length, sizeof(zeroes));
}

static unsigned add_filling(struct iovec *iov, const struct filling *f)
{
    unsigned n = 0;
    if (f->copy && f->length) {
        iov[n++] = (struct iovec){.iov_base = f->copy, .iov_len = f->length};
        return n;
    }
    for (size_t left = f->length; left; left -= iov[n++].iov_len)
        iov[n] = (struct iovec){.iov_base = zeroes, .iov_len = MIN(left, sizeof(zeroes))};
    return n;
}

static int co_write_pieces(struct qcow2 *q, const struct qcow2_step *s, const struct filling *head,
                           struct sgl data, const struct filling *tail)
{
    struct iovec few[STACK_PIECES], *iov = few;
    unsigned n = filling_pieces(head) + data.count + filling_pieces(tail);
    autofree struct iovec *many = NULL;
    if (n > STACK_PIECES) {
        iov = many = malloc(n * sizeof(*iov));
        if (!iov)
            return -ENOMEM;
    }
    size_t covered;
    n = add_filling(iov, head);
    n += sgl_export(data, iov + n, data.count, &covered);
    assert(covered == data.length);
    n += add_filling(iov + n, tail);
    return co_block_write(qcow2_data(q), s->host + (head->start - s->first_guest), sgl_of(iov, n),
                          0);
}

int qcow2_co_write_filled(struct qcow2 *q, const struct qcow2_step *s, struct sgl data)
{
    uint64_t start = s->range_start, end = s->range_end, data_end = s->guest + s->length;
    struct filling head, tail = {0};
    /* A data file ends where the device does: others may use it as one. */
    if (qcow2_has_data_file(q))
        end = MAX(data_end, MIN(end, align_up(block_size(q->node), 512)));
    if (s->mode == QCOW2_WRITE_FILL) {
        rt_mutex_lock(&q->lock);
        if (is_allocated(q, s, s->guest))
            start = s->guest;
        if (is_allocated(q, s, data_end - 1))
            end = data_end;
        rt_mutex_unlock(&q->lock);
    }
    int r = co_fill(q, start, s->guest, &head);
    if (r == 0)
        r = co_fill(q, data_end, end, &tail);
    if (s->host_is_zero && !head.copy)
        head = (struct filling){.start = s->guest};
    if (s->host_is_zero && !tail.copy)
        tail = (struct filling){0};
    if (r == 0)
        r = co_write_pieces(q, s, &head, data, &tail);
    free(head.copy);
    free(tail.copy);
    return r;
}
