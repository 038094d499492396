/*
 * Names of the storage networks: world wide names of Fibre Channel and SAS ports, and NVMe
 * qualified names. Pure functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_WWN_H
#define HOST_WWN_H

#include "base/common.h"
#include "hawser/error.h"

#define WWN_COLONS_BYTES 24 /* "20:00:00:25:b5:00:00:0f" */
#define WWN_NAA_BYTES    21 /* "naa.20000025b500000f" */
#define NQN_MAX          223
#define NQN_UUID_BYTES   69 /* "nqn.2014-08.org.nvmexpress:uuid:" and a UUID */
#define UUID_TEXT_BYTES  37

/**
 * A world wide name of 8 bytes as people write it: 16 hexadecimal digits, bare, after "0x" (sysfs)
 * or "naa." (the SCSI target), or as 8 pairs with colons. @what names it in errors. Zero is none.
 */
HWS_MUST_CHECK int wwn_parse(const char *text, const char *what, uint64_t *ret,
                             struct hws_error *err);

/** As tcm_fc and qla2xxx want it: pairs of lower-case digits with colons. */
void wwn_colons(uint64_t wwn, char ret[WWN_COLONS_BYTES]);
/** As loopback and vhost want it. */
void wwn_naa(uint64_t wwn, char ret[WWN_NAA_BYTES]);

/**
 * Checks the name of an NVMe subsystem or host (NVMe base specification 2.0, 4.5): either
 * "nqn.YYYY-MM.REVERSED.DOMAIN:what" or "nqn.2014-08.org.nvmexpress:uuid:" with a lower-case UUID,
 * up to NQN_MAX bytes. The discovery service's name is none. It becomes the name of a folder, so
 * '/' and what does not print are refused too.
 */
HWS_MUST_CHECK int nqn_check(const char *text, const char *what, struct hws_error *err);

/** 16 bytes as a UUID (RFC 9562), lower case; version and variant are the caller's. */
void uuid_text(const uint8_t uuid[16], char ret[UUID_TEXT_BYTES]);

/**
 * 16 bytes that name @name of @kind on this host, the same at every call: for names that the user
 * did not choose. They are a UUID of version 8.
 */
void name_digest(const char *kind, const char *name, uint8_t ret[16]);

/** The first 8 bytes of a digest as a locally assigned world wide name (NAA 3h, FC-FS-3). */
uint64_t wwn_local(const uint8_t digest[16]);

#endif
