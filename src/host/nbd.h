/*
 * The kernel's network block devices (/dev/nbdN), by generic netlink (family "nbd", Linux 4.12).
 *
 * A device is made of connected sockets whose other end speaks the NBD protocol's transmission
 * phase: what was negotiated there, by whom, the kernel does not know. It outlives the process that
 * made it: when a socket's other end is gone requests wait, and who gives the device a new socket
 * (nbd_device_reconnect()) goes on. A device is known again by its backend identifier, which the
 * kernel shows in /sys/block/nbdN/backend (Linux 5.14).
 *
 * All calls block; on a queue thread by co_work() only, because the kernel may wait for the
 * server of the device. They need CAP_SYS_ADMIN, and keep no state between them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_NBD_H
#define HOST_NBD_H

#include "base/common.h"
#include "hawser/error.h"

#define NBD_DEVICE_SOCKETS_MAX 16
#define NBD_DEVICE_BACKEND_MAX 255
#define NBD_DEVICE_PATH_BYTES  32
#define NBD_DEVICE_ANY         (-1)

struct nbd_device_options {
    int index;            /* of /dev/nbdN; NBD_DEVICE_ANY: one that is free, or a new one */
    uint64_t size_bytes;  /* a multiple of the block size */
    uint32_t block_bytes; /* 512 to the size of a page, a power of two; 0: 512 */
    uint16_t flags; /* NBD_FLAG_...: what the server told; those that the kernel knows count */
    /** Seconds that a request may take before its socket is taken for dead and the request is sent
     * by another one; 0: for ever, if there is one socket. */
    uint32_t timeout_s;
    /** Seconds that requests wait for a socket when there is none; 0: they fail at once. */
    uint32_t dead_timeout_s;
    bool disconnect_on_close; /* the device ends with its last user */
    const char *backend;      /* identifier; NULL: none */
    const int *sockets;       /* 1..NBD_DEVICE_SOCKETS_MAX; the kernel takes references */
    unsigned socket_count;
};

/** Loads the kernel's module where it is not there. -ENODEV with words on what to do. */
HWS_MUST_CHECK int nbd_device_load_module(struct hws_error *err);

/** 0 where the module is there, and devices can be made; changes nothing. */
HWS_MUST_CHECK int nbd_device_probe(struct hws_error *why);

/**
 * Makes a device. @ret_index which one. -EBUSY: /dev/nbd@index is in use; -ENODEV: no such module,
 * or too old a kernel. It is there at /dev/nbdN on return.
 */
HWS_MUST_CHECK int nbd_device_connect(const struct nbd_device_options *options, unsigned *ret_index,
                                      struct hws_error *err);

/**
 * Gives the device @socket_count new sockets, each in the place of one that is dead; as many as are
 * dead are used, and with none it is only looked at. @backend as it was made with, or NULL.
 * -ENOTCONN: it was disconnected, or is none.
 */
HWS_MUST_CHECK int nbd_device_reconnect(unsigned index, const char *backend, const int *sockets,
                                        unsigned socket_count, struct hws_error *err);

/** Makes it as large as said. */
HWS_MUST_CHECK int nbd_device_resize(unsigned index, const char *backend, uint64_t size_bytes,
                                     struct hws_error *err);

/**
 * Ends the device, whoever uses it: requests fail from now on. One that has no server any more, or
 * is no device, is no error. It is free again once its last user has closed it.
 */
HWS_MUST_CHECK int nbd_device_disconnect(unsigned index, struct hws_error *err);

/** Whether the device is in use by a server, or still by its users. */
HWS_MUST_CHECK int nbd_device_is_connected(unsigned index, bool *ret, struct hws_error *err);

/**
 * The device whose backend identifier begins with @prefix; with @disconnected also one that was
 * disconnected, and stays until its last user closes it. -ENOENT.
 */
HWS_MUST_CHECK int nbd_device_find(const char *prefix, bool disconnected, unsigned *ret_index,
                                   char backend[NBD_DEVICE_BACKEND_MAX + 1]);

/** "/dev/nbd@index". */
void nbd_device_path(unsigned index, char path[NBD_DEVICE_PATH_BYTES]);
/** The number in "/dev/nbdN" or "nbdN". @return -EINVAL for anything else. */
HWS_MUST_CHECK int nbd_device_index(const char *path, unsigned *ret, struct hws_error *err);

/**
 * What the kernel starts with is for spindles at the end of a slow network: from now on requests
 * are as large as @request_bytes, nothing sorts them, and after @look_ms (0: as it is) the kernel
 * looks at one that takes long. What this kernel cannot set stays as it is.
 */
void nbd_device_tune(unsigned index, unsigned request_bytes, unsigned look_ms);

#endif
