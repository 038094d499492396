/*
 * What classes and volumes have in common: options of new images, and what is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_POLICY_H
#define CONTROL_POLICY_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

/** -ENOTSUP where @request asks for what the engine does not have, by its name. */
HWS_MUST_CHECK int policy_refuse(const json_t *request, struct hws_error *err);

/** -EINVAL where images of @format cannot have such clusters; 0 is the format's own. */
HWS_MUST_CHECK int policy_check_cluster(const char *format, uint64_t cluster_bytes,
                                        struct hws_error *err);

#endif
