/*
 * iSCSI's words, inside: names, portals and CHAP secrets, as the command and secret files give
 * them. Nothing here asks the kernel's target.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_ISCSI_H
#define HOST_ISCSI_H

#include "host/fabric.h"

/**
 * Puts @name into the form in which names are compared (RFC 3722: lower case) and checks it: "iqn."
 * with date and domain, "eui." with 16 or "naa." with 16 or 32 hexadecimal digits (RFC
 * 7143, 4.2.7).
 */
HWS_MUST_CHECK int iscsi_name_check(char *name, const char *what, struct hws_error *err);

/** A name for the target of the export called @export on this host. */
void iscsi_name_make(const char *export, char ret[FABRIC_NAME_MAX + 1]);

#define ISCSI_PORTAL_BYTES 80
#define ISCSI_PORT         3260

/**
 * "ADDRESS", "ADDRESS:PORT", "[IPV6]:PORT" in the kernel's form, always with a port. Addresses are
 * numbers: the kernel looks up no names.
 */
HWS_MUST_CHECK int iscsi_portal_parse(const char *text, char ret[ISCSI_PORTAL_BYTES],
                                      struct hws_error *err);

#define ISCSI_CHAP_MAX        255 /* bytes; the kernel's limit */
#define ISCSI_CHAP_SECRET_MIN 12  /* 96 bits: RFC 7143, 12.1.3 */

/** Empty strings: not used. */
struct iscsi_chap {
    char user[ISCSI_CHAP_MAX + 1],
        password[ISCSI_CHAP_MAX + 1]; /* the initiator proves who it is */
    char mutual_user[ISCSI_CHAP_MAX + 1], mutual_password[ISCSI_CHAP_MAX + 1]; /* the target does */
};

/**
 * Lines "user=", "password=", "mutual-user=" and "mutual-password="; empty ones and those that
 * begin with '#' are passed over. Errors name the line and never a secret. @name of the file.
 */
HWS_MUST_CHECK int iscsi_chap_parse(const char *text, const char *name, struct iscsi_chap *ret,
                                    struct hws_error *err);

/** From a file that belongs to this user or root and that nobody else can read. Blocks. */
HWS_MUST_CHECK int iscsi_chap_load(const char *path, struct iscsi_chap *ret, struct hws_error *err);

#endif
