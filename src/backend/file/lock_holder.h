/*
 * Who holds a lock: open-file-description locks have no owner that the kernel would tell, but every
 * process's /proc/PID/fdinfo lists the locks of its descriptors. For messages only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_FILE_LOCK_HOLDER_H
#define BACKEND_FILE_LOCK_HOLDER_H

#include "rt/rt.h"

#define LOCK_HOLDER_BYTES 64

/**
 * Writes who, other than @file, holds a lock on @byte of it: "another process (qemu-nbd, pid 12)",
 * "this process", or "another process" where that cannot be seen (no rights, another machine).
 */
void co_lock_holder(struct rt_file *file, uint64_t byte, char ret[LOCK_HOLDER_BYTES]);

#endif
