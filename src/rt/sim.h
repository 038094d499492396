/*
 * The deterministic simulator: a runtime whose files live in memory, whose clock is a number and
 * whose every choice (order of completions, of runnable coroutines, faults, what survives a crash)
 * comes from one seed. Same seed, same run.
 *
 * Storage model: a write lands in the volatile image at completion. fdatasync() makes durable what
 * completed before it was submitted. A crash keeps the durable image plus an arbitrary subset of
 * the unsynced writes, each whole, torn at 512-byte sectors, or dropped, in any order; truncations
 * and hole punches count as writes. A buffer that changes while it is being written lands as a
 * mixture. A transfer may be short, and an injected failure of a write may leave a part of it;
 * after one of an fdatasync what it covered may be lost for good, as on Linux, though reads still
 * show it.
 *
 * All queues share the calling thread. When nothing can ever run again the simulator says who waits
 * and aborts.
 *
 * A crash does not kill coroutines (they would leak): from that operation on every effect fails
 * with -EIO and changes nothing, so the program unwinds by its own error paths; the caller then
 * opens the crashed disk in a new run with sim_after_crash().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SIM_H
#define RT_SIM_H

#include "rt/rt.h"

struct sim_options {
    uint64_t seed;
    uint64_t fail_at;  /* the k-th storage operation (from 1) fails with fail_errno; 0: none */
    int fail_errno;    /* positive; EIO where 0 */
    bool fail_sticky;  /* every operation from fail_at on fails, not only one */
    uint64_t crash_at; /* the world stops at the k-th storage operation; 0: never */
    /* Called as the world stops, before the program learns of it: for a kill, whoever keeps memory
       that survives one takes his copy of it here. */
    void (*on_crash)(void *arg);
    void *on_crash_arg;
    uint64_t latency_max_ns;   /* completions take a random time up to this, a few
                                  thirty times as long; 0: 100 us */
    uint64_t disk_bytes;       /* allocation beyond this fails with ENOSPC; 0: no limit */
    bool no_direct_offload;    /* fallocate and copy_range answer EOPNOTSUPP */
    uint32_t offset_alignment; /* files opened with O_DIRECT need this; 0: 1 */
    bool trace;                /* print every operation on standard error */
};

HWS_MUST_CHECK int sim_create(const struct sim_options *options, struct rt **ret);

/** Storage operations so far: the range of a fault or crash sweep. */
uint64_t sim_operations(const struct rt *rt);

/** What all files take up, in blocks of 4 KiB: the scale of disk_bytes. */
uint64_t sim_disk_bytes_used(const struct rt *rt);

/** A digest of all that happened, times included: equal for equal seeds and programs. */
uint64_t sim_digest(const struct rt *rt);

/** True once crash_at was reached. */
bool sim_crashed(const struct rt *rt);

/**
 * A new runtime on the disk as a crash left it: chosen by @options->seed from what was not synced.
 * The old runtime stays valid and may be crashed again with another seed. After a run that did not
 * crash, this is a power cut at its end.
 */
HWS_MUST_CHECK int sim_after_crash(const struct rt *old, const struct sim_options *options,
                                   struct rt **ret);

/**
 * A new runtime on a copy of the disk as the program saw it (after a killed process, not a power
 * cut); each operation that was in flight took place or did not, as @options->seed says.
 */
HWS_MUST_CHECK int sim_after_kill(const struct rt *old, const struct sim_options *options,
                                  struct rt **ret);

/** Puts bytes into, or takes a copy out of, a simulated file. @ret to be freed by the caller. */
HWS_MUST_CHECK int sim_file_store(struct rt *rt, const char *path, const void *bytes,
                                  size_t length);
HWS_MUST_CHECK int sim_file_load(const struct rt *rt, const char *path, void **ret,
                                 size_t *ret_length);

#endif
