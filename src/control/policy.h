/*
 * What classes and volumes have in common: options of new images and file systems, and what is
 * refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_POLICY_H
#define CONTROL_POLICY_H

#include "control/objects.h"

/** -ENOTSUP where @request asks for what the engine does not have, by its name. */
HWS_MUST_CHECK int policy_refuse(const json_t *request, struct hws_error *err);

/** -EINVAL where images of @format cannot have such clusters; 0 is the format's own. */
HWS_MUST_CHECK int policy_check_cluster(const char *format, uint64_t cluster_bytes,
                                        struct hws_error *err);

/**
 * Whether images of @format (NULL: qcow2) with such clusters, and file systems @fs (NULL: the
 * usual), can have what @making tells; -EINVAL with the option.
 */
HWS_MUST_CHECK int policy_check_making(const struct making *making, const char *format,
                                       uint64_t cluster_bytes, const char *fs,
                                       struct hws_error *err);

/** Only options that are known to run no program, open no file, and change nobody's ids. */
HWS_MUST_CHECK int policy_check_mkfs(const char *fs, const json_t *options, struct hws_error *err);
HWS_MUST_CHECK int policy_check_mount(const char *fs, const json_t *options, struct hws_error *err);

/** The file system of volumes that nobody says anything about. */
#define FS_DEFAULT "ext4"

/** The texts of a list with @separator between them; free(). NULL where there are none. */
char *policy_join(const json_t *options, char separator);

#define MAKING_OF_IMAGE  1 /* options of new images */
#define MAKING_OF_FORMAT 2 /* of their format */
#define MAKING_OF_MKFS   4
#define MAKING_OF_MOUNT  8

/** What @to does not say is taken from @from, of the groups @which. */
HWS_MUST_CHECK int making_inherit(struct making *to, const struct making *from, unsigned which,
                                  struct hws_error *err);

/** -EINVAL where @making says something of the groups @which, that @what cannot have. */
HWS_MUST_CHECK int making_refuse(const struct making *making, unsigned which, const char *what,
                                 struct hws_error *err);

#endif
