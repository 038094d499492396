/*
 * Devices of the kernel's NBD driver, what device_nbd.c and device_nbd_left.c share: how one is
 * known again, and giving it a socket.
 *
 *     hawser/UUID/NAME/CONNECTIONS/BLOCK/FILE
 *
 * is a device's backend identifier, which the kernel keeps and shows: the volume's identifier and
 * name, how many connections it was made with and how large its blocks are, and the image's name
 * for people.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_DEVICE_NBD_H
#define ENGINE_DEVICE_NBD_H

#include "engine/engine.h"
#include "host/nbd.h"

struct nbd_place {
    unsigned index;
    char path[NBD_DEVICE_PATH_BYTES];
    char backend[NBD_DEVICE_BACKEND_MAX + 1];
    unsigned connections;
    uint32_t block_bytes;
};

/** What a new device of @config will be known by. */
void nbd_place_name(const struct volume_config *config, unsigned connections,
                    char backend[NBD_DEVICE_BACKEND_MAX + 1]);

/**
 * The device of @config that is there and may be served; with @disconnected also one that only its
 * users keep. -ENOENT.
 */
HWS_MUST_CHECK int nbd_place_find(const struct volume_config *config, bool disconnected,
                                  struct nbd_place *ret);

/**
 * Gives the device a connection in the place of one that is dead. @ret_fd the server's end of it.
 * -EBUSY: none is dead, so somebody serves it (a process that is just dying perhaps); -ENOTCONN: it
 * was disconnected, and only its users keep it.
 */
HWS_MUST_CHECK int co_nbd_place_take(const struct nbd_place *place, int *ret_fd,
                                     struct hws_error *err);

/** A pair of sockets for the kernel and its server. */
HWS_MUST_CHECK int nbd_place_sockets(int ends[2], struct hws_error *err);

/** co_work() of nbd_device_disconnect(). */
HWS_MUST_CHECK int co_nbd_place_disconnect(const struct nbd_place *place, struct hws_error *err);

/* For the way's table; see device.h. */
bool co_nbd_place_is_there(const struct volume_config *config);
HWS_MUST_CHECK int co_nbd_place_abandon(const struct volume_config *config, struct hws_error *err);
HWS_MUST_CHECK int co_nbd_place_clear(const struct volume_config *config, bool force,
                                      struct hws_error *err);

#endif
