/*
 * The handler, inside.
 *
 *   handler.c     life of the process; the table of devices, what happens to it
 *   listener.c    the thread that hears the kernel's news, and who answers them
 *   device.c      one device: image, first command, service, changes, leaving
 *   image.c       which image a configuration names, and whether it may be served
 *   backstore.c   what configfs tells of a backstore
 *   bus.c         D-Bus: the names by which targetcli and tcmu-runner find us
 *
 * All but the listener runs on one queue, the control queue; each device's changes are serialized
 * by its own mutex. Commands are executed on a few queue threads that all devices share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HANDLER_INTERNAL_H
#define HANDLER_INTERNAL_H

#include "block/block.h"
#include "block/keep.h"
#include "drivers/config_string.h"
#include "export/tcmu/netlink.h"
#include "export/tcmu/tcmu.h"
#include "handler/client.h"
#include "rt/sync.h"

/** More are refused: each takes an image's memory. */
#define HANDLER_DEVICES_MAX 4096

struct handler;
struct device;
struct listener;
struct bus;

/* ---- handler.c ---- */

struct handler {
    const struct handler_options *options;
    struct listener *listener;
    struct bus *bus; /* NULL: no D-Bus */
    struct list devices;
    unsigned device_count;
    struct rt_queue *queues[TCMU_THREADS_MAX]; /* serve all devices; started when needed */
    unsigned queue_count, next_queue;
    struct co_mutex queues_guard;
    struct co_group work; /* coroutines that use devices */
    struct rt_mutex guard;
    struct co_waitq changed;
    struct list events; /* struct heard_event, from the listener; guarded, as the next three */
    bool rescan;        /* look for devices: events were lost, or somebody asked */
    bool look_around;   /* another handler may have come or gone */
    bool stopping;
    int signal_fd;
    struct rt_watch *signal_watch;
};

/** The thread that serves the next device: each in turn. Started at its first use. */
HWS_MUST_CHECK int co_handler_queue(struct handler *handler, struct rt_queue **ret,
                                    struct hws_error *err);

/** Has the dispatcher look for devices. Any thread. */
void handler_ask_rescan(struct handler *handler);
/** Has it look whether other handlers run: one came or went. Any thread. */
void handler_ask_look_around(struct handler *handler);

/* ---- listener.c ---- */

struct heard_event {
    struct list link;
    struct tcmu_event event;
    bool answered; /* at once, because another handler's answer would have come first */
};

/** Starts to listen, and to answer what is not ours where nobody else is there to do so. */
HWS_MUST_CHECK int listener_start(struct handler *handler, struct listener **ret,
                                  struct hws_error *err);
/**
 * Ends it; whoever caused what is heard no more is not left waiting: the events that nobody took
 * are refused, and where we were alone the kernel is told that nobody answers. NULL: nothing.
 * @return NULL.
 */
struct listener *listener_stop(struct listener *listener);
/**
 * Looks whether other handlers run, and tells the kernel what follows where that changed, or
 * @again. The control queue. @return true where the kernel was told.
 */
bool listener_look_around(struct listener *listener, bool again);
bool listener_is_alone(const struct listener *listener);
/** Answers, unless that was done. */
void listener_answer(struct listener *listener, const struct heard_event *heard, int status);

/* ---- backstore.c ---- */

#define BACKSTORE_SERIAL_MAX 254

struct backstore {
    uint64_t size_bytes;
    uint32_t block_bytes;
    bool write_cache;
    bool is_awaited; /* whoever changes it waits in the kernel for our answers */
    char serial[BACKSTORE_SERIAL_MAX + 1]; /* as targetcli shows it; "" where there is none yet */
};

HWS_MUST_CHECK int co_backstore_read(const struct tcmu_device_name *name, struct backstore *ret,
                                     struct hws_error *err);
/** Whether configfs has it still. */
bool co_backstore_exists(const struct tcmu_device_name *name);
/** Writes an attribute or action of configfs, "attrib/dev_size". Failures: -errno, no message. */
int co_backstore_write(const struct tcmu_device_name *name, const char *attribute, int64_t value);
/** The 16 bytes of a serial that is a UUID: 32 hexadecimal digits among nothing but dashes. */
bool backstore_serial_uuid(const char *serial, uint8_t ret[16]);

typedef void backstore_found(void *arg, const struct tcmu_device_name *name, unsigned minor);
/** Calls @found for the uio device of every backstore whose handler is @handler. */
HWS_MUST_CHECK int co_backstores_scan(const char *handler, backstore_found *found, void *arg);

/* ---- image.c ---- */

/**
 * Reads @text ("hawser/..." or without the handler) and checks that the image lies in one of
 * @allow (NULL: anywhere); its path is then resolved, so that no link can lead elsewhere later.
 * @ret ended by config_string_free().
 */
HWS_MUST_CHECK int co_image_configure(const char *text, const char *const *allow,
                                      struct config_string *ret, struct hws_error *err);

/**
 * Opens the keep of the image at @path: one an image, whatever backstore it serves, so that what it
 * holds can only meet its own image. @ret ended by block_keep_close().
 */
HWS_MUST_CHECK int co_image_keep(const char *path, struct block_keep **ret, struct hws_error *err);

enum image_size { IMAGE_SIZE_FITS, IMAGE_SIZE_CORRECT };

/**
 * What is to be done where the backstore says @backstore_bytes (0: nothing) and the image has
 * @image_bytes: nothing, or to correct the backstore. -EINVAL where the image cannot be that.
 */
HWS_MUST_CHECK int image_size_check(uint64_t image_bytes, uint64_t backstore_bytes,
                                    uint32_t block_bytes, struct hws_error *err);

/** Everything that can be known before a device is made. For CheckConfig. */
HWS_MUST_CHECK int co_image_check(const struct handler *handler, const char *text,
                                  struct hws_error *err);

/* ---- device.c ---- */

struct device {
    struct list link; /* handler.devices */
    struct handler *handler;
    struct tcmu_device_name name;
    unsigned minor;
    unsigned users; /* coroutines that hold it */
    bool listed;    /* in the table */
    bool seen;      /* found by the scan that runs */
    struct co_mutex busy;
    int opened;           /* 1: not yet; else co_device_open()'s result */
    bool told;            /* that it is served, and not yet that it is no more */
    struct hws_error why; /* where opened < 0 */
    struct config_string config;
    struct backstore backstore;
    struct block_keep *keep;
    struct block_root *root;
    int uio_fd; /* while no command came: our claim to the device */
    struct rt_watch *first_command;
    bool starting;
    struct scsi_disk *disk;
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;
    struct tcmu_export *export;
};

/** In the handler's table, to be opened by co_device_open(). NULL: no memory. */
struct device *device_new(struct handler *handler, const struct tcmu_device_name *name,
                          unsigned minor);
/** Takes it out of the table; it lives on until the last user has let go. */
void device_unlist(struct device *device);
struct device *device_hold(struct device *device);
void device_release(struct device *device);

/**
 * Opens the image and waits for the first command. @adopt a device that was there before us: what
 * a predecessor left in its ring is sent again. Called again it answers the same.
 */
HWS_MUST_CHECK int co_device_open(struct device *device, bool adopt, struct hws_error *err);
/** Ends the service, flushes and closes. @leave: for a successor; commands wait meanwhile. */
void co_device_close(struct device *device, bool leave);
HWS_MUST_CHECK int co_device_reconfigure(struct device *device, const struct tcmu_event *event,
                                         struct hws_error *err);

/* ---- bus.c ---- */

/** Goes on without, and says so once, where there is no bus. @ret may become NULL. */
void bus_start(struct handler *handler, struct bus **ret);
/** @bus may be NULL. */
void co_bus_stop(struct bus *bus);

#endif
