/*
 * The table of drivers as the core sees it. The table itself lies in a higher layer (src/drivers),
 * because it names every format, backend and filter; the program hands it over once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/driver.h"

static const struct block_driver *const none[] = {NULL};
static const struct block_driver *const *registered = none;

/* A table that breaks the contract is a programming error, found at the first start. */
static void assert_sound(const struct block_driver *driver)
{
    assert(driver->name && driver->help && driver->co_open);
    assert(!driver->co_read || !driver->co_read_layer);
    assert(driver->co_read || driver->co_read_layer);
    assert(driver->options || !driver->options_bytes); /* an empty table fills no struct */
    assert(!driver->create_options == !driver->create_options_bytes);
    assert(!driver->probe || driver->kind == BLOCK_FORMAT);
    assert(!driver->text_option || driver->kind == BLOCK_BACKEND);
    assert(driver->kind == BLOCK_BACKEND || driver->needs_file);
}

void block_drivers_register(const struct block_driver *const *table)
{
    registered = table;
    for (; *table; table++)
        assert_sound(*table);
}

const struct block_driver *const *block_drivers(void)
{
    return registered;
}

const struct block_driver *block_driver_find(const char *name)
{
    for (const struct block_driver *const *d = registered; *d; d++)
        if (strcmp((*d)->name, name) == 0)
            return *d;
    return NULL;
}
