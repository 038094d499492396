/*
 * The porter: a child of the engine's that makes a loop device on the engine's FUSE file, and alone
 * holds it open; see porter.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_PORTER_H
#define ENGINE_PORTER_H

#include "base/common.h"
#include "hawser/error.h"
#include <sys/types.h>

struct loop_options;
struct loop_device;

struct porter {
    int line; /* to the child; -1: there is none */
    pid_t pid;
};

/** Forks it. Blocks; with the rights and the view of the file system that it is to have. */
HWS_MUST_CHECK int porter_start(struct porter *ret, struct hws_error *err);

/** Makes the device, with auto_clear. @ret without a descriptor. The porter ends after a failure.
 */
HWS_MUST_CHECK int co_porter_attach(struct porter *porter, const struct loop_options *options,
                                    struct loop_device *ret, uint64_t *ret_sequence,
                                    struct hws_error *err);

/** The device becomes as large as its file is now. */
HWS_MUST_CHECK int co_porter_resize(struct porter *porter, struct hws_error *err);

/** Takes the device down, and ends the porter. -EBUSY: in use, and held as before. */
HWS_MUST_CHECK int co_porter_detach(struct porter *porter, struct hws_error *err);

/** Ends the porter; the device goes with its last user. */
void co_porter_let_go(struct porter *porter);

#endif
