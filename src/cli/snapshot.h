/*
 * How snapshots of volumes are listed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_SNAPSHOT_H
#define CLI_SNAPSHOT_H

#include "cli/control.h"

extern const struct control_column cli_snapshot_columns[];

#endif
