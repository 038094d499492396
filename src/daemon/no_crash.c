/*
 * hawserd has no crash points; see crash.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "daemon/daemon.h"

void crash_points(struct control_options *options)
{
    options->at = NULL;
}
