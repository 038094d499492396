/*
 * The frame of a test of one disk: a fresh bed in the simulator, one coroutine, and the bed closed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_SCSI_TEST_CASE_H
#define SCSI_SCSI_TEST_CASE_H

#include "scsi/scsi_test.h"

static struct bed bed;

static void run(co_fn *body)
{
    struct sim_options options = {.seed = 7, .latency_max_ns = 1};
    struct rt *rt;
    CHECK_EQUAL(sim_create(&options, &rt), 0);
    CHECK_EQUAL(rt_run(rt, body, NULL), 0);
    rt_free(rt);
}

/* A cmocka test whose body runs on a disk of the includer's SIZE, made with the options @given. */
#define TEST(name, given)             \
    static void co_body_##name(void); \
    static void co_##name(void *arg)  \
    {                                 \
        bed_open(&bed, SIZE, given);  \
        co_body_##name();             \
        co_bed_close(&bed);           \
    }                                 \
    static void name(void **state)    \
    {                                 \
        run(co_##name);               \
    }                                 \
    static void co_body_##name(void)

#endif
