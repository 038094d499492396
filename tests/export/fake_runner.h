/*
 * Takes the place of tcmu-runner and libtcmu under handler_hawser.so: exports the functions that
 * the handler calls, and hands it commands as libtcmu lays them out in memory.
 *
 * As with the kernel, an answer counts only once the bell has been rung.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_EXPORT_FAKE_RUNNER_H
#define TESTS_EXPORT_FAKE_RUNNER_H

#include "export/tcmu-runner/interface.h"
#include <stdatomic.h>

#define FAKE_SLOTS 256

struct answer {
    int result;
    uint8_t sense[RUNNER_SENSE_BYTES];
    bool done;
};

struct tcmu_device {
    char config[512];
    const char *serial; /* NULL: configfs has none */
    uint64_t blocks;
    uint32_t block_bytes;
    void *value; /* the handler's */
    atomic_int completing;
    atomic_uint bells;
    struct answer *slot[FAKE_SLOTS], *unheard[FAKE_SLOTS];
    unsigned unheard_count;
};

/** Loads @path and runs its handler_init(). @return what it registered; exits where it cannot. */
struct tcmur_handler *fake_load(const char *path);
extern void *fake_library; /* of dlopen() */

/** What the handler logged last. */
const char *fake_log(void);

/** Hands a command over, as tcmu-runner's thread does. The buffers belong to it until it is done.
 */
void fake_submit(struct tcmu_device *dev, const uint8_t *cdb, const struct iovec *iov, size_t count,
                 struct answer *answer);

/** Waits until @answer is there and the bell was rung; fails the process after 30 s. */
void fake_wait(struct answer *answer);

/** One command, from handing over to answer. @return its result; @sense may be NULL. */
int fake_command(struct tcmu_device *dev, const uint8_t *cdb, void *buffer, size_t length,
                 uint8_t *sense);

#endif
