/*
 * What the files about groups share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_GROUP_H
#define CONTROL_GROUP_H

#include "control/internal.h"

/** Volumes that are locked, each as by volume_take(). */
struct members {
    struct volume *volume;
    unsigned count;
};

/** Locks the group that @reference names, and reads it. */
HWS_MUST_CHECK int group_take(struct control *control, const char *reference, struct group *ret,
                              struct hws_error *err);
void group_release(struct control *control, const struct group *group);

/** Locks the volumes with these ids, all or none. The group is locked. */
HWS_MUST_CHECK int members_take(struct control *control, const json_t *ids, struct members *ret,
                                struct hws_error *err);
void members_release(struct control *control, struct members *members);

/** The snapshot @name of a group, by name or id. */
HWS_MUST_CHECK int group_snapshot_find(struct control *control, const struct group *group,
                                       const char *name, struct group_snapshot *ret,
                                       struct hws_error *err);

#endif
