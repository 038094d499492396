/*
 * What a process that serves devices asks of the kernel and the C library: the engine, the handler
 * of the SCSI target's backstores.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_PROCESS_H
#define HOST_PROCESS_H

#include "base/common.h"

/** Before any thread: allocator limits, signals, descriptors. */
void process_prepare(void);
/** Once running: shields the process from memory reclaim through its own device. */
void process_shield(void);
/**
 * Runs a program of the PATH to its end, with nothing held of this process's blocked signals; its
 * output goes nowhere, and its errors too where @silent. Blocks, so not on a queue thread.
 * @return its exit code, 255 where a signal ended it, or -errno where it could not be started
 * (-ENOENT: it is not there).
 */
HWS_MUST_CHECK int process_run(char *const arguments[], bool silent);
/** sd_notify(3) without the library: @text such as "READY=1". */
void process_notify(const char *text);

#endif
