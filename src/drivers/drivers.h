/*
 * The table of every driver that this program has.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef DRIVERS_DRIVERS_H
#define DRIVERS_DRIVERS_H

/** Hands the table to the block core. Before anything is opened; further calls change nothing. */
void drivers_register(void);

#endif
