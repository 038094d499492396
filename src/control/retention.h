/*
 * Which of a schedule's snapshots stay. Pure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_RETENTION_H
#define CONTROL_RETENTION_H

#include "base/common.h"

/** How many stay; 0: the rule does not apply. Where none does, all stay. */
struct retention {
    uint64_t keep;                           /* the newest */
    uint64_t hourly, daily, weekly, monthly; /* the newest of each of so many hours, days, ... */
    uint64_t keep_for_s;                     /* all that are younger */
};

/** A snapshot; they stand in the order of their age, the newest first. */
struct kept {
    uint64_t created_s; /* time of day, UTC: which hour, day, week and month it is of */
    uint64_t clock_s;   /* the catalog's clock: how old it is */
    bool keep;          /* set by retention_apply() */
};

bool retention_is_given(const struct retention *retention);

/**
 * Tells which of them stay: those that any rule keeps. Hours, days, weeks (from Monday) and months
 * are counted where there are snapshots; @now_s is the catalog's clock.
 */
void retention_apply(const struct retention *retention, uint64_t now_s, struct kept *kept,
                     size_t count);

#endif
