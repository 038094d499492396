/*
 * What an engine gives up before it looks at an image: docs/engine.md, "Sandbox", tells the whole.
 *
 *   shield, module -> view -> FUSE mount -> porter -> capabilities -> Landlock -> system calls
 *
 * Everything here runs before the runtime, while the process has one thread; what it gives up is
 * gone for good, for threads and children too.
 *
 * Two strengths. A device that comes by FUSE, or none, needs nothing of the kernel once it is made:
 * the engine is closed in. A device of the kernel's SCSI target or NBD driver needs its rights to
 * the end, to take it away and to hand it over to another program: the engine is held only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_SANDBOX_H
#define ENGINE_SANDBOX_H

#include "engine/engine.h"

/** Files and folders that a view may have; more than all allowed folders of one volume. */
#define SANDBOX_PLACES_MAX 160

struct sandbox_place {
    char *path; /* real */
    bool writable, device, library;
};

/** What the engine sees of the file system. */
struct sandbox_plan {
    struct sandbox_place place[SANDBOX_PLACES_MAX];
    unsigned count;
    bool fuse, loop, proc; /* /dev/fuse, /dev/loop-control, and /proc as far as it shows */
};

/**
 * Enters the sandbox that @config asks for; none where it asks for none. Fills the volumes'
 * fuse_fd, fuse_abort_fd and porter.
 */
HWS_MUST_CHECK int sandbox_enter(struct engine_config *config, struct hws_error *err);

/** Is this process closed in, so that it cannot mount, and sees no other process's files? */
bool sandbox_is_closed(void);

/* ---- sandbox_view.c ---- */

/** This process alone sees a file system with the plan's places and nothing else. */
HWS_MUST_CHECK int sandbox_view_enter(const struct sandbox_plan *plan, struct hws_error *err);

/* ---- sandbox_rights.c ---- */

/** Has this process CAP_SYS_ADMIN? Without it there is no view: Landlock alone hides files. */
bool sandbox_can_mount(void);
/** Keeps what a closed or a held engine needs of root's capabilities; no_new_privs. */
HWS_MUST_CHECK int sandbox_drop_capabilities(bool closed, struct hws_error *err);
/** 0 where the kernel has no Landlock; else its version. */
int sandbox_landlock_version(void);
/** Files can be opened in the plan's places only, whatever else the view may show. */
HWS_MUST_CHECK int sandbox_landlock_enter(const struct sandbox_plan *plan, struct hws_error *err);

/* ---- sandbox_filter.c ---- */

/** System calls that engines do not need fail with EPERM; unknown ones with ENOSYS. */
/** False in builds with sanitizers, whose reports need more than an engine does. */
bool sandbox_filters(void);
HWS_MUST_CHECK int sandbox_filter_enter(bool closed, struct hws_error *err);

#endif
