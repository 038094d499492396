/*
 * The requests of the netlink family "nbd" and the parsing of its answers, on a socket that is
 * given: the kernel's, or a test's. Used by nbd.c only; see host/nbd.h for what each does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_NBD_CONTROL_H
#define HOST_NBD_CONTROL_H

#include "host/nbd.h"

struct nbd_control {
    int fd;
    uint16_t family;
    int timeout_ms; /* for an answer */
};

/* @return what the kernel answered, without a text. */
HWS_MUST_CHECK int nbd_control_connect(const struct nbd_control *control,
                                       const struct nbd_device_options *options,
                                       unsigned *ret_index);
HWS_MUST_CHECK int nbd_control_reconnect(const struct nbd_control *control, unsigned index,
                                         const char *backend, const int *sockets,
                                         unsigned socket_count);
HWS_MUST_CHECK int nbd_control_resize(const struct nbd_control *control, unsigned index,
                                      const char *backend, uint64_t size_bytes);
HWS_MUST_CHECK int nbd_control_disconnect(const struct nbd_control *control, unsigned index);
/** @ret false also where there is no such device. */
HWS_MUST_CHECK int nbd_control_status(const struct nbd_control *control, unsigned index, bool *ret);

/* ---- the parser: pure; for the fuzzer, too ---- */

struct nbd_control_answer {
    bool complete; /* acknowledged, or refused */
    int error;     /* of the refusal, -errno */
    bool has_index, has_status;
    uint32_t index;
    bool connected; /* of device `index` as it was before the parse */
};

/**
 * Takes what one datagram tells into @answer. @wanted: the device whose status counts.
 * @return 0 or -EBADMSG.
 */
HWS_MUST_CHECK int nbd_control_parse(const uint8_t *bytes, size_t length, uint16_t family,
                                     uint32_t wanted, struct nbd_control_answer *answer);

#endif
