/*
 * libsystemd's D-Bus client, taken at run time: only this handler needs it, and a program that is
 * linked to it loads it, and the libraries that it needs in turn, for every image that it serves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HANDLER_BUS_LIBRARY_H
#define HANDLER_BUS_LIBRARY_H

#include "hawser/error.h"
#include <systemd/sd-bus.h>

/* Every function that is used; their types are those of the header. */
#define BUS_FUNCTIONS(F)             \
    F(sd_bus_open_system)            \
    F(sd_bus_close)                  \
    F(sd_bus_unref)                  \
    F(sd_bus_flush)                  \
    F(sd_bus_get_fd)                 \
    F(sd_bus_get_events)             \
    F(sd_bus_get_unique_name)        \
    F(sd_bus_process)                \
    F(sd_bus_request_name_async)     \
    F(sd_bus_release_name_async)     \
    F(sd_bus_add_object_manager)     \
    F(sd_bus_add_object_vtable)      \
    F(sd_bus_match_signal_async)     \
    F(sd_bus_call_method_async)      \
    F(sd_bus_message_read)           \
    F(sd_bus_message_read_strv)      \
    F(sd_bus_message_append)         \
    F(sd_bus_add_object)             \
    F(sd_bus_message_is_method_call) \
    F(sd_bus_query_sender_privilege) \
    F(sd_bus_message_get_error)      \
    F(sd_bus_message_ref)            \
    F(sd_bus_message_unref)          \
    F(sd_bus_reply_method_return)

#define BUS_MEMBER(name) __typeof__(name) *name;

struct bus_library {
    BUS_FUNCTIONS(BUS_MEMBER)
    const unsigned *object_vtable_format;
};

/** Loads the library once. @return NULL where it is missing; the reason in @err. */
const struct bus_library *bus_library(struct hws_error *err);

#endif
