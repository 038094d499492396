/*
 * Addresses to listen on, as people and the kernel's targets write them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_PORTAL_H
#define HOST_PORTAL_H

#include "base/common.h"
#include "hawser/error.h"

#define PORTAL_BYTES 80

/**
 * "ADDRESS", "ADDRESS:PORT", "[IPV6]:PORT" in the kernel's form, always with a port and IPv6 in
 * brackets. Addresses are numbers: the kernel looks up no names.
 * @default_port where @text has none.
 */
HWS_MUST_CHECK int portal_parse(const char *text, unsigned default_port, char ret[PORTAL_BYTES],
                                struct hws_error *err);

/**
 * Listens at @portal (as portal_parse() made it) for a moment, to learn what keeps the kernel's
 * target from it. @return 0 or -errno.
 */
HWS_MUST_CHECK int portal_try(const char *portal);

#endif
