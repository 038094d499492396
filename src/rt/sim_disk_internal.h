/*
 * What sim_disk.c (the running disk) and sim_crash.c (what is left of it) share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SIM_DISK_INTERNAL_H
#define RT_SIM_DISK_INTERNAL_H

#include "rt/sim_disk.h"

struct sim_name {
    char *path;
    struct sim_inode *inode;
};

/* A flat folder: tests have a dozen files. */
struct sim_names {
    struct sim_name *names;
    size_t count;
};

enum sim_name_op_kind { SIM_NAME_LINK, SIM_NAME_UNLINK };

struct sim_name_op {
    enum sim_name_op_kind kind;
    char *path;
    struct sim_inode *inode;
};

struct sim_disk {
    struct sim_inode **inodes;
    size_t inode_count;
    struct sim_names volatile_names, durable_names;
    struct sim_name_op *name_log; /* not durable yet, oldest first */
    size_t name_log_count;
    char *rename_from, *rename_to; /* in flight, else NULL */
    uint64_t sequence;
};

struct sim_inode *sim_inode_add(struct sim_disk *disk);
void sim_names_set(struct sim_names *names, const char *path, struct sim_inode *inode);
/** NULL where there is none. */
struct sim_inode *sim_names_get(const struct sim_names *names, const char *path);
void sim_names_apply(struct sim_names *names, const struct sim_name_op *op);
void sim_name_log_add(struct sim_disk *disk, enum sim_name_op_kind kind, const char *path,
                      struct sim_inode *inode);

/** Carries @op out on @image, whole. */
void sim_op_apply(const struct sim_op *op, struct sim_image *image);
/** Carries out a part of @op that @random chooses; possibly nothing or everything. */
void sim_op_apply_torn(const struct sim_op *op, struct sim_image *image, struct random *random);

#endif
