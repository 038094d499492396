/*
 * A volume as the plugin protocol tells it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_DOCKER_DESCRIBE_H
#define API_DOCKER_DESCRIBE_H

#include "control/control.h"

/** Where a volume is mounted; "" where it is not. */
const char *docker_mountpoint(const json_t *volume);

/** What `docker volume ls` needs of a volume of control_volume_list(). @return a new object. */
json_t *docker_describe_short(const json_t *volume);

/** All of `docker volume inspect` of control_volume_show()'s volume. @return a new object. */
json_t *docker_describe(struct control *control, const json_t *volume);

#endif
