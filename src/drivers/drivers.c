/*
 * The table; see drivers/drivers.h. In the order that lists and help texts show.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/drivers.h"
#include "backend/file/file.h"
#include "backend/mem/mem.h"
#include "backend/null/null.h"
#include "block/driver.h"
#include "filter/copy-on-read/copy_on_read.h"
#include "filter/delay/delay.h"
#include "filter/error/error.h"
#include "filter/log/log.h"
#include "filter/verify/verify.h"
#include "format/qcow2/qcow2_driver.h"
#include "format/raw/raw.h"

static const struct block_driver *const drivers[] = {
    /* formats */
    &qcow2_driver,
    &raw_driver,
    /* backends */
    &file_driver,
    &mem_driver,
    &null_driver,
    /* filters */
    &copy_on_read_filter,
    &delay_filter,
    &error_filter,
    &log_filter,
    &verify_filter,
    NULL,
};

void drivers_register(void)
{
    block_drivers_register(drivers);
}
