/*
 * The lease of a shared pool: a file in its folder that tells which host uses it, and counts while
 * that host lives. docs/control.md, "Fencing", says what it promises.
 *
 *   lease_file.c   reading and writing the file
 *   lease.c        who has the pool: taking, renewing, losing
 *   lease_fence.c  stopping the engines of a pool that was lost; the threads
 *
 * No clocks of two hosts are compared: what counts is how long the file stood still by the clock
 * of who looks at it. With L the time of a lease:
 *
 *   renewed every L/3    given up by its owner 2 L after it last was    taken by another host when
 *   it stood still for 3 L, and used when it is still its own another L later
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_LEASE_H
#define CONTROL_LEASE_H

#include "control/internal.h"

#define LEASE_FILE        "hawser-lease.json"
#define LEASE_HOST_BYTES  33
#define LEASE_NAME_BYTES  65
#define LEASE_WHY_BYTES   320
#define LEASE_SECONDS     10
#define LEASE_SECONDS_MAX 300

/** What the file holds. */
struct lease_record {
    char host[LEASE_HOST_BYTES]; /* the same after a restart and a reboot */
    char name[LEASE_NAME_BYTES]; /* of that host, to be shown */
    char boot[ID_BYTES];
    char instance[ID_BYTES]; /* of that hawserd's run */
    uint64_t epoch;          /* grows when another host takes the pool */
    uint64_t counter;        /* grows while its owner lives */
    uint64_t since;          /* seconds since 1970, to be shown */
};

enum lease_state {
    LEASE_NONE,    /* not known */
    LEASE_WATCHED, /* another host's: does it stand still? */
    LEASE_TAKING,  /* written, and to be so for a while */
    LEASE_HELD,
    LEASE_LOST, /* another host's, until an operator says otherwise */
};

struct lease {
    struct lease *next;
    struct leases *all;
    char id[ID_BYTES]; /* of the pool */
    char *name, *path;
    /* Taken in this order: `turn` around reading and writing the file, which may hang with the
     * pool's storage; `fence` while engines are stopped or the pool becomes ours; then that of
     * struct leases, for a moment, for what follows. */
    pthread_mutex_t turn, fence;
    enum lease_state state;
    bool wanted;          /* an operation has asked for it */
    bool permitted;       /* an operator lets it be taken from a host that took it from here */
    bool guarded;         /* engines may run that must not while it is not held */
    bool there, threaded; /* made; with a thread */
    uint64_t epoch;       /* that the catalog knows of */
    struct lease_record mine, seen;
    uint64_t renewed_ms;          /* when the last renewal began */
    uint64_t looked_ms;           /* when it was looked at last, of another host */
    uint64_t seen_ms;             /* when `seen` was first seen so; 0: never */
    uint64_t written_ms;          /* when it was taken and not yet held */
    char why[LEASE_WHY_BYTES];    /* it is not held */
    char reason[LEASE_WHY_BYTES]; /* it was given up; for those who used it */
    pthread_t thread;
    pthread_cond_t changed;
};

struct leases {
    struct control *control;
    struct lease *first;
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* of the guard */
    pthread_t guard;
    bool threads, stop, guarding;
    uint64_t lease_ms;
    char host[LEASE_HOST_BYTES], name[LEASE_NAME_BYTES], instance[ID_BYTES];
};

/* ---- lease_file.c ---- */

/** The id of this host: of @text (NULL: its machine id), so that it tells nothing of that. */
HWS_MUST_CHECK int lease_host(const char *text, char host[LEASE_HOST_BYTES], struct hws_error *err);
/** -ENOENT where there is none. */
HWS_MUST_CHECK int lease_read(const char *folder, struct lease_record *ret, struct hws_error *err);
/** Durable. @fresh: -EEXIST where one is there. */
HWS_MUST_CHECK int lease_write(struct control *control, const char *folder,
                               const struct lease_record *record, bool fresh,
                               struct hws_error *err);

/* ---- lease.c ---- */

/** Milliseconds that this host runs, its sleep included. */
uint64_t lease_now_ms(const struct leases *leases);
/** Looks at the file, and writes it where that is due. Its result is the lease's state. */
void lease_turn(struct lease *lease);
/** Of a pool that is held no longer, with the mutex locked; why by @format. */
void lease_drop(struct lease *lease, enum lease_state state, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
struct lease *lease_find(struct control *control, const char *pool);

/* ---- lease_fence.c ---- */

/** Gives up what could not be renewed, and stops engines of pools that are not held. */
void lease_guard(struct control *control);
/** With the mutex locked: has the pool a thread that renews it from now on. */
void lease_watch(struct lease *lease);
void lease_wake(struct lease *lease);

#endif
