/*
 * Persistent reservations over a restart. TCMU does not tell who an initiator is, so it is the
 * kernel that keeps reservations, and it writes those that shall outlive a loss of power (APTPL)
 * into a file a backstore:
 *
 *     DBROOT/pr/aptpl_SERIAL     DBROOT: the target's attribute "dbroot", /var/target as a rule
 *
 * It never reads them again: whoever makes the backstore anew gives them back, before its first
 * LUN. Without the folder every change of a reservation fails, APTPL or not.
 *
 * All of it blocks, so it is called from co_work() functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_LIO_RESERVATIONS_H
#define HOST_LIO_RESERVATIONS_H

#include "host/lio.h"

/** Makes the folder, mode 0700 where it is new. */
HWS_MUST_CHECK int lio_reservations_prepare(struct hws_error *err);

/**
 * Gives @backstore, which no LUN names yet, the registrations that were saved under its serial
 * number. None is no error; a file that cannot be understood is one, since to go on without it
 * would let in who was kept out.
 */
HWS_MUST_CHECK int lio_reservations_restore(const struct lio_backstore *backstore,
                                            struct hws_error *err);

#endif
