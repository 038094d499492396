/*
 * What a handler and tcmu-runner 1.5 know of each other, declared anew.
 *
 * tcmu-runner loads every handler_*.so of its folder and calls handler_init(), which hands over one
 * struct tcmur_handler. From then on the handler is asked to check configurations, to open and
 * close devices, and to execute commands. Debian ships no header for this, so the layout stands
 * here, with the offsets that the x86-64 and arm64 binaries have.
 *
 * Only what this handler uses is spelt out. Names are tcmu-runner's where the linker needs them.
 * Facts of 1.5.4 that decide how this handler works:
 *
 * - A handler without read, write, flush and with nr_threads 0 gets every command by handle_cmd(),
 *   on the one thread that takes commands of that device from its ring, and without any
 *   bookkeeping. It must return RUNNER_ASYNC: any other value makes that thread complete the
 *   command at once, under a lock that is not ours.
 * - Such a command has no `done` function, so tcmur_cmd_complete() is of no use for it: it is
 *   completed by libtcmu's own tcmulib_command_complete(), by one thread of ours at a time, and the
 *   kernel is told by tcmulib_processing_complete(), once for as many as were completed.
 * - Commands are on a list of tcmu-runner's only where the configuration has tcmur_cmd_time_out,
 *   which this handler refuses.
 * - The thread that takes commands is ended by pthread_cancel(); close() may run in its clean-up.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_RUNNER_INTERFACE_H
#define EXPORT_TCMU_RUNNER_INTERFACE_H

#include "base/common.h"
#include <sys/uio.h>

struct tcmu_device; /* tcmu-runner's, opaque */

/* What handle_cmd() returns, and what a command is completed with. */
enum runner_result {
    RUNNER_ASYNC = -2,
    RUNNER_GOOD = 0,
    RUNNER_TASK_SET_FULL = 1,
    RUNNER_CHECK_CONDITION = 2, /* sense_buf holds the sense data */
    RUNNER_BUSY = 3,
};

#define RUNNER_SENSE_BYTES 96

/* A command as libtcmu hands it out; one allocation, freed by tcmulib_command_complete(). */
struct tcmulib_cmd {
    uint16_t cmd_id;
    uint8_t *cdb; /* a copy, as long as its operation code says */
    struct iovec *iovec;
    size_t iov_cnt;
    uint8_t sense_buf[RUNNER_SENSE_BYTES];
    void *hm_private;
};

/* What tcmu-runner keeps beside it. Lies right behind the CDB, so at any address. */
struct tcmur_cmd {
    struct tcmulib_cmd *lib_cmd;
    struct iovec *iovec;
    size_t iov_cnt;
    void *iov_base_copy;
    void *cmd_state; /* the handler's while it has the command */
    /* more that is not ours */
} __attribute__((packed));

enum runner_change { RUNNER_CHANGE_CONFIG, RUNNER_CHANGE_SIZE, RUNNER_CHANGE_WRITE_CACHE };

struct tcmulib_cfg_info {
    int type; /* enum runner_change */
    union {
        uint64_t dev_size; /* bytes */
        char *dev_cfgstring;
        bool write_cache;
    } data;
};

struct tcmur_handler {
    const char *name;
    const char *subtype; /* what stands before the '/' of a configuration */
    const char *cfg_desc;
    void *opaque;
    /* False with a reason that the caller frees. */
    bool (*check_config)(const char *text, char **reason);
    int (*reconfig)(struct tcmu_device *dev, struct tcmulib_cfg_info *info);
    int (*open)(struct tcmu_device *dev, bool reopen);
    void (*close)(struct tcmu_device *dev);
    int nr_threads;
    int (*handle_cmd)(struct tcmu_device *dev, struct tcmur_cmd *cmd);
    void (*data_path[6])(void);  /* read, write, flush, unmap, write same, compare and write */
    void (*clustering[5])(void); /* report_event, lock, unlock, get_lock_tag, get_lock_state */
    bool is_dbus_handler;        /* tcmu-runner's */
    bool (*update_logdir)(void);
    int (*init)(void);
    void (*destroy)(void);
};

#if __SIZEOF_POINTER__ == 8
static_assert(sizeof(struct tcmulib_cmd) == 136 && offsetof(struct tcmulib_cmd, cdb) == 8 &&
                  offsetof(struct tcmulib_cmd, sense_buf) == 32 &&
                  offsetof(struct tcmulib_cmd, hm_private) == 128,
              "layout of libtcmu.so.2");
static_assert(offsetof(struct tcmur_cmd, cmd_state) == 32, "layout of tcmu-runner 1.5");
static_assert(sizeof(struct tcmulib_cfg_info) == 16, "layout of libtcmu.so.2");
static_assert(sizeof(struct tcmur_handler) == 200 &&
                  offsetof(struct tcmur_handler, check_config) == 32 &&
                  offsetof(struct tcmur_handler, nr_threads) == 64 &&
                  offsetof(struct tcmur_handler, data_path) == 80 &&
                  offsetof(struct tcmur_handler, is_dbus_handler) == 168 &&
                  offsetof(struct tcmur_handler, destroy) == 192,
              "layout of tcmu-runner 1.5");
#endif

/* ---- what tcmu-runner and libtcmu.so.2 offer ---- */

/** Copies nothing: @handler must stay. @return 0, or not where the subtype is taken. */
int tcmur_register_handler(struct tcmur_handler *handler);

void tcmur_dev_set_private(struct tcmu_device *dev, void *value);
void *tcmur_dev_get_private(struct tcmu_device *dev);

/** The configuration, subtype included; tcmu-runner's. */
char *tcmu_dev_get_cfgstring(struct tcmu_device *dev);
uint64_t tcmu_dev_get_num_lbas(struct tcmu_device *dev);
uint32_t tcmu_dev_get_block_size(struct tcmu_device *dev);
/** The unit serial number from configfs; the caller frees it. NULL where there is none. */
char *tcmu_cfgfs_dev_get_wwn(struct tcmu_device *dev);

/** Puts the answer into the ring and frees @cmd. One thread a device at a time. */
void tcmulib_command_complete(struct tcmu_device *dev, struct tcmulib_cmd *cmd, int result);
/** Tells the kernel that there are answers. */
void tcmulib_processing_complete(struct tcmu_device *dev);

/* Their log. @dev may be NULL. @format ends in a newline. */
void tcmu_err_message(struct tcmu_device *dev, const char *function, int line, const char *format,
                      ...) HWS_PRINTF(4, 5);
void tcmu_warn_message(struct tcmu_device *dev, const char *function, int line, const char *format,
                       ...) HWS_PRINTF(4, 5);
void tcmu_info_message(struct tcmu_device *dev, const char *function, int line, const char *format,
                       ...) HWS_PRINTF(4, 5);
void tcmu_dbg_message(struct tcmu_device *dev, const char *function, int line, const char *format,
                      ...) HWS_PRINTF(4, 5);

/** The one symbol that a handler exports. @return 0, or not where it could not be registered. */
__attribute__((visibility("default"))) int handler_init(void);

#endif
