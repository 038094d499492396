/*
 * The fields of requests, one table a call of control.h: what the calls read their requests with,
 * and what the description of the REST API is made of (api/rest/openapi.h).
 *
 * Each table stands in the op_*.c of its call.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_REQUESTS_H
#define CONTROL_REQUESTS_H

#include "control/record.h"

extern const struct record_field request_pool_create[];
extern const struct record_field request_pool_change[];
extern const struct record_field request_pool_take[];
extern const struct record_field request_class_create[];
extern const struct record_field request_class_change[];
extern const struct record_field request_volume_create[];
extern const struct record_field request_volume_change[];
extern const struct record_field request_volume_attach[];
extern const struct record_field request_volume_detach[];
extern const struct record_field request_volume_resize[];
extern const struct record_field request_volume_revert[];
extern const struct record_field request_snapshot_create[];
extern const struct record_field request_secret_create[];
extern const struct record_field request_secret_change[];
extern const struct record_field request_export_create[];
extern const struct record_field request_doctor[];
extern const struct record_field request_node_upgrade[];
extern const struct record_field request_volume_discard[];
extern const struct record_field request_trash_restore[];
extern const struct record_field request_group_create[];
extern const struct record_field request_group_change[];
extern const struct record_field request_group_snapshot[];
extern const struct record_field request_group_revert[];
extern const struct record_field request_schedule_create[];
extern const struct record_field request_schedule_change[];

#endif
