/*
 * The keeper: a small process that starts the engine again when it dies.
 *
 *     attach --spawn--> keeper --fork--> engine      killed: fork again, which takes the device
 * over
 *                          ^---- pipe ----'          replaced: the keeper becomes the new program
 *
 * It forks before there is any thread, ring or image, and then only waits: what it has in memory is
 * a few pages of its own. Both processes hold the attachment's lock. A keeper that is killed
 * leaves the engine as it is. A service manager can be the keeper instead.
 *
 * What the engine tells its keeper, a line each, on the pipe:
 *
 *     ready PID PROGRAM     PID serves now. Where PROGRAM is another than the keeper's, the keeper
 *                           becomes that one
 *     ended                 it was asked to end: nothing is started again
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_KEEPER_H
#define ENGINE_KEEPER_H

#include "base/common.h"
#include <sys/types.h>

/* ---- when to start again ---- */

/** Deaths within the window after which a keeper gives up. */
#define KEEPER_DEATHS_MAX       10
#define KEEPER_WINDOW_NS        ((uint64_t)60 * 1000000000)
#define KEEPER_DELAY_FIRST_NS   ((uint64_t)50 * 1000000)
#define KEEPER_DELAY_LONGEST_NS ((uint64_t)5 * 1000000000)

/** Zeroed at the start. */
struct keeper_deaths {
    uint64_t at_ns[KEEPER_DEATHS_MAX];
    unsigned count; /* within the window, the last ones */
};

/**
 * Notes a death at @now_ns. @served: it had been ready; one that died without counts however long
 * its attempt took, for somebody waits all the while. @ret_delay_ns how long to wait before the
 * next start: nothing after a first death, then twice as long each time. @return false: too many,
 * give up.
 */
bool keeper_note_death(struct keeper_deaths *deaths, bool served, uint64_t now_ns,
                       uint64_t *ret_delay_ns);

/* ---- the keeper's side ---- */

struct keeper_options {
    const char *end_file; /* while it exists nothing is started again; NULL: none */
    int ready_fd;         /* the first engine's alone; 0: none. The keeper closes it: -1 then */
    /** Where the keeper shall become @program: does not return unless it fails. */
    void (*become)(void *arg, const char *program, pid_t engine, int pipe_fd);
    /** No engine comes any more: makes sure that nobody waits for one. In a process of its own. */
    void (*give_up)(void *arg);
    void *arg;
    /* Of a keeper that became another program: the engine that serves, and the pipe. 0: none. */
    pid_t engine;
    int pipe_fd;
};

/**
 * Returns twice: -1 in each engine's process, which goes on to serve; and, when all is over, the
 * keeper's exit code. Before any thread is started.
 */
int keeper_run(struct keeper_options *options);

/* ---- the engine's side ---- */

/** The pipe's number in this process, -1 where there is no keeper. */
int keeper_pipe(void);
/** For a process that was handed the pipe by its predecessor. */
void keeper_set_pipe(int fd);

void keeper_tell_ready(void);
void keeper_tell_ended(void);

#endif
