/*
 * One device of tcmu-runner that this handler serves: an image behind a SCSI disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_RUNNER_DEVICE_H
#define EXPORT_TCMU_RUNNER_DEVICE_H

#include "export/tcmu-runner/interface.h"
#include "hawser/error.h"

struct device;

/** Whether the configuration @text names an image that can be opened; nothing is changed. */
HWS_MUST_CHECK int device_check(const char *text, struct hws_error *err);

/** Opens the image that @dev is configured with. @ret ended by device_close(). */
HWS_MUST_CHECK int device_open(struct tcmu_device *dev, struct device **ret, struct hws_error *err);

/** Answers every command that was taken, writes what is cached, closes the image, frees @device. */
void device_close(struct device *device);

/** Grows the image to @size_bytes. */
HWS_MUST_CHECK int device_resize(struct device *device, uint64_t size_bytes, struct hws_error *err);

void device_set_write_cache(struct device *device, bool on);

/** Takes a command; it is answered later, by a thread of ours, whatever happens. */
void device_take(struct device *device, struct tcmur_cmd *cmd);

#endif
