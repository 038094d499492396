/*
 * hws_compare(): what two images contain.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/copy.h"
#include "lib/call.h"

struct comparison {
    const struct hws_image *a, *b;
    const struct hws_compare *how;
    struct job_load load;
    struct hws_difference *ret;
};

static int co_compare_open(struct comparison *c, struct block_node *a, struct block_node *b,
                           struct hws_error *err)
{
    uint64_t a_bytes = block_size(a), b_bytes = block_size(b), longer = MAX(a_bytes, b_bytes);
    *c->ret = (struct hws_difference){.a_bytes = a_bytes, .b_bytes = b_bytes};
    if (c->how->strict && a_bytes != b_bytes) {
        c->ret->different = c->ret->size = true;
        c->ret->offset = MIN(a_bytes, b_bytes);
        return 0;
    }
    int r = co_compare(a, b, longer, &c->load, &c->ret->offset, err);
    c->ret->different = c->ret->offset < longer;
    return r;
}

static int co_compare_images(void *arg, struct hws_error *err)
{
    struct comparison *c = arg;
    struct block_node *a, *b;
    int r = co_call_open_pass(c->a, 0, &a, err);
    if (r < 0)
        return r;
    r = co_call_open_pass(c->b, 0, &b, err);
    if (r == 0)
        r = co_call_close(b, co_compare_open(c, a, b, err), err);
    return co_call_close(a, r, err);
}

int hws_compare(const struct hws_image *a, const struct hws_image *b,
                const struct hws_compare *compare, struct hws_difference *ret,
                struct hws_error *err)
{
    struct comparison c = {
        .a = a,
        .b = b,
        .how = compare,
        .load = {.threads = compare->threads,
                 .requests = compare->requests,
                 .progress = compare->progress,
                 .progress_arg = compare->progress_arg},
        .ret = ret,
    };
    int r = call_check_load(&c.load, err);
    return r < 0 ? r : call_run(co_compare_images, &c, err);
}
