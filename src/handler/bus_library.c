/*
 * libsystemd at run time; see bus_library.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "handler/bus_library.h"
#include "base/common.h"
#include <dlfcn.h>

static struct bus_library library;

static bool find(void *handle, const char *name, void *ret)
{
    void *symbol = dlsym(handle, name);
    memcpy(ret, &symbol, sizeof(symbol)); /* POSIX: a function's address fits an object pointer */
    return symbol != NULL;
}

const struct bus_library *bus_library(struct hws_error *err)
{
    static const char file[] = "libsystemd.so.0";
    static void *handle;
    if (handle)
        return &library;
    void *opened = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!opened) {
        hws_fail(err, ENOENT, "%s is not installed", file);
        return NULL;
    }
    bool found = find(opened, "sd_bus_object_vtable_format", (void *)&library.object_vtable_format);
#define BUS_FIND(name) found &= find(opened, #name, (void *)&library.name);
    BUS_FUNCTIONS(BUS_FIND)
    if (!found) {
        dlclose(opened);
        hws_fail(err, ENOSYS, "%s is too old", file);
        return NULL;
    }
    handle = opened;
    return &library;
}
