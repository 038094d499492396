/*
 * The fabrics that there are, for the table in fabric.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_FABRICS_H
#define HOST_FABRICS_H

#include "host/fabric.h"

extern const struct fabric fabric_iscsi, fabric_fc, fabric_nvme, fabric_vhost_scsi;

#endif
