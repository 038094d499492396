/*
 * Mode pages, shared by MODE SENSE and MODE SELECT.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_MODE_H
#define SCSI_MODE_H

#include "scsi/internal.h"

#define MODE_PAGE_MAX 20

struct mode_page {
    uint8_t code;
    uint8_t length; /* with the two bytes of its header */
    uint8_t base[MODE_PAGE_MAX];
    uint8_t changeable[MODE_PAGE_MAX];
    /* Puts the changeable bits of @state into @page, or takes them out. */
    void (*put)(const struct mode_state *state, uint8_t *page);
    void (*take)(struct mode_state *state, const uint8_t *page);
};

extern const struct mode_page mode_pages[];
extern const unsigned mode_page_count;

struct mode_state mode_current(const struct scsi_disk *disk);
void mode_page_fill(const struct mode_page *page, const struct mode_state *state, uint8_t *ret);

#endif
