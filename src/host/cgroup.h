/*
 * Control groups (cgroup v2) of processes that hawserd starts: where they can be made, and each of
 * them by its path. Nothing here is needed to serve anything: what cannot be made is told, no more.
 *
 *   BASE/                 the group that the service manager delegated, or MOUNT/hawser
 *     daemon/             hawserd itself, where BASE was its own
 *     engine-ID/          one engine, its keeper and its successors
 *
 * Everything blocks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_CGROUP_H
#define HOST_CGROUP_H

#include "base/common.h"
#include "hawser/error.h"
#include <sys/types.h>

/** What groups of engines are called before their ids. */
#define CGROUP_ENGINE_PREFIX "engine-"
/** Processes and threads of one engine: only what has run wild needs more. */
#define CGROUP_PIDS_MAX 4096

/** Where to look; tests have files of their own. */
struct cgroup_host {
    const char *mounts; /* as /proc/self/mountinfo */
    const char *own;    /* as /proc/self/cgroup */
    bool pretend;       /* folders of any file system are groups, and nobody is moved */
};

extern const struct cgroup_host cgroup_this_host;

struct cgroup_base {
    char *folder;      /* where groups are made; NULL: nowhere */
    char *controllers; /* that groups in it have, with blanks between; NULL: none */
    char *reason;      /* why there is no folder; NULL: there is one */
};

/**
 * Finds the group to make others in, makes it, and enables controllers for those in it. A process
 * that was delegated the group that it is in moves to a group of its own in it.
 * @setting a path; NULL: what is there; "none".
 */
void cgroup_find(const char *setting, const struct cgroup_host *host, struct cgroup_base *ret);
void cgroup_base_free(struct cgroup_base *base);

/** Makes the group where it is not there, and moves this process there with all its threads. */
HWS_MUST_CHECK int cgroup_enter(const char *folder, struct hws_error *err);

/**
 * Removes a group whose processes have ended or are about to; those that do not are killed where
 * @kill. One that is not there is no error. -EBUSY: somebody is still in it.
 */
HWS_MUST_CHECK int cgroup_remove(const char *folder, bool kill, struct hws_error *err);

/** Removes the groups of engines in @base in which nobody is. @return how many. */
unsigned cgroup_clean(const char *base);

/** Whether the process is in the group. */
bool cgroup_has(const char *folder, pid_t pid);

struct cgroup_usage {
    uint64_t cpu_us;
    uint64_t memory_bytes; /* with the memory controller: its page cache included */
    bool has_memory;
};

/** What those that are and were in the group used. */
HWS_MUST_CHECK int cgroup_usage(const char *folder, struct cgroup_usage *ret,
                                struct hws_error *err);

#endif
