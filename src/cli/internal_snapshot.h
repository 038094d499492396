/*
 * `hawser snapshot --list|--create|--apply|--delete`: snapshots inside an image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_INTERNAL_SNAPSHOT_H
#define CLI_INTERNAL_SNAPSHOT_H

#include "hawser/image.h"
#include <jansson.h>

/** Prints a table of @snapshots, the array that hws_internal_snapshots() gives. */
void cli_print_snapshots(const json_t *snapshots);

/** The same, as JSON where @json says so; takes over the reference of @snapshots. */
void cli_show_snapshots(json_t *snapshots, bool json);

/** Tells that @action of the snapshot @name in @what was done. */
void cli_show_change(const char *what, enum hws_snapshot_action action, const char *name,
                     bool json);

/** Lists those of @image. @return an exit code. */
int cli_list_snapshots(const struct hws_image *image, bool json);

/** @action of the snapshot @name in @image. @return likewise. */
int cli_change_snapshot(const struct hws_image *image, enum hws_snapshot_action action,
                        const char *name, bool json);

#endif
