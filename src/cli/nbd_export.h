/*
 * "NAME[,OPTION...]" of --nbd-export as the engine's configuration has it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_NBD_EXPORT_H
#define CLI_NBD_EXPORT_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

/** @ret a new reference. -EINVAL. */
HWS_MUST_CHECK int cli_nbd_export(const char *text, json_t **ret, struct hws_error *err);

#endif
