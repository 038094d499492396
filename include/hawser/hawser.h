/*
 * All of libhawser: errors, image work, disks, queues.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HAWSER_HAWSER_H
#define HAWSER_HAWSER_H

#include "hawser/disk.h"
#include "hawser/error.h"
#include "hawser/image.h"
#include "hawser/queue.h"

#endif
