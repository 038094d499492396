/*
 * D-Bus: how targetcli and tcmu-runner find this handler.
 *
 * targetcli asks the name org.kernel.TCMUService1 for its objects; each that implements the
 * interface of the same name is a handler:
 *
 *     /org/kernel/TCMUService1/hawser                    CheckConfig(s) -> (b s), ConfigDesc
 *
 * tcmu-runner has that name where it runs, and lists other handlers that register with it; it calls
 * them by a name and an object that follow from the subtype:
 *
 *     org.kernel.TCMUService1.HandlerManager1.hawser
 *     /org/kernel/TCMUService1/HandlerManager1/hawser    CheckConfig(s) -> (b s)
 *
 * We take the first name while nobody has it, register with whoever has it, and give it up as soon
 * as somebody else queues for it: tcmu-runner does not ask twice.
 *
 * Nothing here waits for the bus. All of it is the control queue's, and one coroutine's but for
 * checks. Callers must be root: sd-bus sees to it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "handler/bus_library.h"
#include "handler/internal.h"
#include <poll.h>

#define SERVICE          "org.kernel.TCMUService1"
#define SERVICE_PATH     "/org/kernel/TCMUService1"
#define MANAGER          SERVICE ".HandlerManager1"
#define MANAGER_PATH     SERVICE_PATH "/HandlerManager1"
#define OWN_NAME         MANAGER "." CONFIG_STRING_SUBTYPE
#define OWN_MANAGER_PATH MANAGER_PATH "/" CONFIG_STRING_SUBTYPE
#define OWN_PATH         SERVICE_PATH "/" CONFIG_STRING_SUBTYPE
#define DBUS             "org.freedesktop.DBus"
#define DBUS_PATH        "/org/freedesktop/DBus"

#define RECONNECT_NS     ((uint64_t)10 * 1000000000)
/* From a newcomer's connection to its request for the name, at most. */
#define NEWCOMER_NS  ((uint64_t)2 * 1000000000)
#define WRITE_NS     ((uint64_t)100 * 1000000)
#define CHECKS_MAX   8
#define NAME_IS_OURS 1 /* DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER */

struct bus {
    struct handler *handler;
    const struct bus_library *lib;
    sd_bus *bus; /* NULL: not connected */
    struct rt_watch *watch;
    struct rt_mutex guard;
    struct co_waitq changed;
    bool kicked, stopping, ended;
    bool have_name, failed_once;
    unsigned checks;
    uint64_t check_owners_ns; /* when; 0: not */
};

/* ---- what we answer ---- */

struct check {
    struct bus *bus;
    sd_bus_message *message;
    char text[CONFIG_STRING_MAX + 2]; /* one more than is valid, so that too long is seen */
};

static void kick(void *arg)
{
    struct bus *bus = arg;
    rt_mutex_lock(&bus->guard);
    bus->kicked = true;
    co_waitq_wake_all(&bus->changed);
    rt_mutex_unlock(&bus->guard);
}

static void co_check(void *arg)
{
    struct check *check = arg;
    struct bus *bus = check->bus;
    struct hws_error err = {0};
    int r = co_image_check(bus->handler, check->text, &err);
    if (r < 0)
        log_info("configuration '%s' is refused: %s", check->text, err.text);
    r = bus->lib->sd_bus_reply_method_return(check->message, "bs", r == 0,
                                             r == 0 ? "success" : err.text);
    if (r < 0)
        log_debug("D-Bus: no answer can be sent: %s", strerror(-r));
    bus->lib->sd_bus_message_unref(check->message);
    bus->checks--;
    free(check);
    kick(bus); /* what could not be written at once, and who waits for the last check */
}

static int on_check_config(sd_bus_message *message, void *arg, sd_bus_error *error)
{
    struct bus *bus = arg;
    const char *text;
    int r = bus->lib->sd_bus_message_read(message, "s", &text);
    if (r < 0)
        return r;
    struct check *check = bus->checks < CHECKS_MAX ? malloc(sizeof(*check)) : NULL;
    if (!check)
        return bus->lib->sd_bus_reply_method_return(message, "bs", 0,
                                                    "too many checks at a time; try again");
    check->bus = bus;
    snprintf(check->text, sizeof(check->text), "%s", text);
    check->message = bus->lib->sd_bus_message_ref(message);
    bus->checks++;
    if (rt_spawn(NULL, co_check, check) == 0)
        return 1;
    bus->checks--;
    bus->lib->sd_bus_message_unref(check->message);
    free(check);
    return -ENOMEM;
}

/*
 * Not by the table of the other object: all objects below SERVICE_PATH that have one are listed,
 * and this one is for tcmu-runner alone.
 */
static int on_manager_call(sd_bus_message *message, void *arg, sd_bus_error *error)
{
    struct bus *bus = arg;
    if (bus->lib->sd_bus_message_is_method_call(message, SERVICE, "CheckConfig") <= 0)
        return 0;
    int r = bus->lib->sd_bus_query_sender_privilege(message, -1);
    if (r < 0)
        return r;
    return r > 0 ? on_check_config(message, arg, error) : -EPERM;
}

static int get_description(sd_bus *connection, const char *path, const char *interface,
                           const char *property, sd_bus_message *reply, void *arg,
                           sd_bus_error *error)
{
    struct bus *bus = arg;
    return bus->lib->sd_bus_message_append(reply, "s", CONFIG_STRING_HELP);
}

/* As SD_BUS_VTABLE_START(0), whose reference to the library is filled in at run time. */
static sd_bus_vtable vtable[] = {
    {.type = _SD_BUS_VTABLE_START,
     .x = {.start = {.element_size = sizeof(sd_bus_vtable),
                     .features = _SD_BUS_VTABLE_PARAM_NAMES}}},
    SD_BUS_METHOD_WITH_NAMES("CheckConfig", "s", SD_BUS_PARAM(configstr), "bs",
                             SD_BUS_PARAM(is_valid) SD_BUS_PARAM(message), on_check_config, 0),
    SD_BUS_PROPERTY("ConfigDesc", "s", get_description, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_VTABLE_END,
};

/* ---- tcmu-runner ---- */

static const char *error_of(struct bus *bus, sd_bus_message *message)
{
    const sd_bus_error *error = bus->lib->sd_bus_message_get_error(message);
    return error ? (error->message ? error->message : error->name) : NULL;
}

static int on_registered(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    struct bus *bus = arg;
    const char *error = error_of(bus, message), *text = "";
    int done = 0;
    if (!error && bus->lib->sd_bus_message_read(message, "bs", &done, &text) < 0)
        error = "its answer is malformed";
    if (error || !done)
        log_warning("tcmu-runner does not list this handler: %s", error ? error : text);
    else
        log_info("registered with tcmu-runner: targetcli lists user:" CONFIG_STRING_SUBTYPE);
    return 1;
}

/* Is there an object of our subtype already? Then it is tcmu-runner's own. */
static int on_looked(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    struct bus *bus = arg;
    if (!error_of(bus, message)) {
        log_error("tcmu-runner serves '" CONFIG_STRING_SUBTYPE "/' backstores itself "
                  "(handler_hawser.so): use one of the two, not both");
        return 1;
    }
    if (bus->lib->sd_bus_call_method_async(bus->bus, NULL, SERVICE, MANAGER_PATH, MANAGER,
                                           "RegisterHandler", on_registered, bus, "ss",
                                           CONFIG_STRING_SUBTYPE, CONFIG_STRING_HELP) < 0)
        log_warning("D-Bus: cannot register with tcmu-runner");
    return 1;
}

static void register_with_owner(struct bus *bus)
{
    if (bus->lib->sd_bus_call_method_async(bus->bus, NULL, SERVICE, OWN_PATH, DBUS ".Properties",
                                           "Get", on_looked, bus, "ss", SERVICE, "ConfigDesc") < 0)
        log_warning("D-Bus: cannot ask tcmu-runner for its handlers");
}

/* ---- the service's name ---- */

static int on_own_name(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    struct bus *bus = arg;
    const char *error = error_of(bus, message);
    if (error)
        log_warning("D-Bus does not let this process have the name " OWN_NAME ": %s", error);
    return 1;
}

static int on_service_name(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    struct bus *bus = arg;
    const char *error = error_of(bus, message);
    uint32_t result = 0;
    if (error) {
        log_warning("D-Bus does not let this process have the name " SERVICE ": %s", error);
    } else if (bus->lib->sd_bus_message_read(message, "u", &result) >= 0 &&
               result != NAME_IS_OURS && !bus->have_name) {
        register_with_owner(bus);
    }
    return 1;
}

static void ask_for_service_name(struct bus *bus)
{
    if (bus->lib->sd_bus_request_name_async(bus->bus, NULL, SERVICE, 0, on_service_name, bus) < 0)
        log_warning("D-Bus: cannot ask for the name " SERVICE);
}

static int on_released(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    return 1; /* the change of owner is a signal */
}

static int on_owners(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    struct bus *bus = arg;
    char **owners = NULL;
    if (!error_of(bus, message))
        bus->lib->sd_bus_message_read_strv(message, &owners);
    bool others = owners && owners[0] && owners[1];
    for (char **owner = owners; owner && *owner; owner++)
        free(*owner);
    free(owners);
    if (others && bus->have_name) {
        log_info("D-Bus: the name " SERVICE " is left to who queues for it");
        if (bus->lib->sd_bus_release_name_async(bus->bus, NULL, SERVICE, on_released, bus) < 0)
            log_warning("D-Bus: cannot give up the name " SERVICE);
    }
    return 1;
}

static void look_who_queues(struct bus *bus)
{
    bus->check_owners_ns = 0;
    if (bus->have_name &&
        bus->lib->sd_bus_call_method_async(bus->bus, NULL, DBUS, DBUS_PATH, DBUS,
                                           "ListQueuedOwners", on_owners, bus, "s", SERVICE) < 0)
        log_warning("D-Bus: cannot ask who queues for the name " SERVICE);
}

static void on_service_owner(struct bus *bus, const char *owner)
{
    const char *own = NULL;
    if (bus->lib->sd_bus_get_unique_name(bus->bus, &own) < 0)
        own = "";
    bool had = bus->have_name;
    handler_ask_look_around(bus->handler); /* tcmu-runner talks to the kernel before the bus */
    bus->have_name = !strcmp(owner, own);
    if (bus->have_name && !had)
        log_info("D-Bus: this process is " SERVICE);
    else if (!*owner)
        ask_for_service_name(bus);
    else if (!bus->have_name)
        register_with_owner(bus);
}

static int on_owner_changed(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    struct bus *bus = arg;
    const char *name, *before, *after;
    if (bus->lib->sd_bus_message_read(message, "sss", &name, &before, &after) < 0)
        return 0;
    if (!strcmp(name, SERVICE))
        on_service_owner(bus, after);
    else if (*name == ':' && !*before && bus->have_name && !bus->check_owners_ns)
        bus->check_owners_ns = rt_now_ns() + NEWCOMER_NS;
    return 0;
}

/* ---- the connection ---- */

static int on_matched(sd_bus_message *message, void *arg, sd_bus_error *ignored)
{
    const char *error = error_of(arg, message);
    if (error)
        log_warning("D-Bus does not tell of changes: %s", error);
    return 1;
}

static int set_up(struct bus *bus)
{
    const struct bus_library *lib = bus->lib;
    int r = lib->sd_bus_add_object_manager(bus->bus, NULL, SERVICE_PATH);
    if (r >= 0)
        r = lib->sd_bus_add_object_vtable(bus->bus, NULL, OWN_PATH, SERVICE, vtable, bus);
    if (r >= 0)
        r = lib->sd_bus_add_object(bus->bus, NULL, OWN_MANAGER_PATH, on_manager_call, bus);
    if (r >= 0)
        r = lib->sd_bus_match_signal_async(bus->bus, NULL, DBUS, DBUS_PATH, DBUS,
                                           "NameOwnerChanged", on_owner_changed, on_matched, bus);
    if (r >= 0)
        r = lib->sd_bus_request_name_async(bus->bus, NULL, OWN_NAME, 0, on_own_name, bus);
    if (r >= 0)
        ask_for_service_name(bus);
    return r;
}

static void disconnect(struct bus *bus)
{
    co_watch_stop(bus->watch);
    bus->watch = NULL;
    if (bus->bus) {
        bus->lib->sd_bus_close(bus->bus);
        bus->lib->sd_bus_unref(bus->bus);
    }
    bus->bus = NULL;
    bus->have_name = false;
}

static void connect_bus(struct bus *bus)
{
    bool edge;
    int r = bus->lib->sd_bus_open_system(&bus->bus);
    if (r >= 0)
        r = set_up(bus);
    if (r >= 0)
        r = rt_watch_start(bus->lib->sd_bus_get_fd(bus->bus), kick, bus, &bus->watch, &edge);
    if (r >= 0)
        return;
    disconnect(bus);
    if (!bus->failed_once)
        log_warning("D-Bus is not there (%s): targetcli does not list user:" CONFIG_STRING_SUBTYPE
                    ", but backstores that are there, or restored, are served",
                    strerror(-r));
    bus->failed_once = true;
}

/* Everything that can be done now. Its result decides whether there still is a connection. */
static int co_process(struct bus *bus)
{
    int r;
    while ((r = bus->lib->sd_bus_process(bus->bus, NULL)) > 0)
        continue;
    while (r >= 0 && (r = bus->lib->sd_bus_get_events(bus->bus)) >= 0 && r & POLLOUT) {
        if (co_poll_timeout(bus->lib->sd_bus_get_fd(bus->bus), POLLOUT, WRITE_NS) <= 0)
            break;
        while ((r = bus->lib->sd_bus_process(bus->bus, NULL)) > 0)
            continue;
    }
    return r;
}

/* @return the time of the next thing to do by itself. */
static uint64_t co_turn(struct bus *bus)
{
    if (!bus->bus)
        connect_bus(bus);
    if (bus->bus && bus->check_owners_ns && rt_now_ns() >= bus->check_owners_ns)
        look_who_queues(bus);
    if (bus->bus && co_process(bus) < 0) {
        log_warning("the connection to D-Bus is lost");
        disconnect(bus);
    }
    if (!bus->bus)
        return rt_now_ns() + RECONNECT_NS;
    return bus->check_owners_ns ? bus->check_owners_ns : UINT64_MAX;
}

static void co_bus(void *arg)
{
    struct bus *bus = arg;
    rt_mutex_lock(&bus->guard);
    while (!bus->stopping) {
        bus->kicked = false;
        rt_mutex_unlock(&bus->guard);
        uint64_t deadline_ns = co_turn(bus);
        rt_mutex_lock(&bus->guard);
        bool in_time = true;
        while (!bus->kicked && !bus->stopping && in_time) {
            if (deadline_ns == UINT64_MAX)
                co_waitq_wait(&bus->changed, &bus->guard);
            else
                in_time = co_waitq_wait_until(&bus->changed, &bus->guard, deadline_ns);
        }
    }
    while (bus->checks > 0)
        co_waitq_wait(&bus->changed, &bus->guard);
    rt_mutex_unlock(&bus->guard);
    if (bus->bus)
        bus->lib->sd_bus_flush(bus->bus);
    disconnect(bus);
    rt_mutex_lock(&bus->guard);
    bus->ended = true;
    co_waitq_wake_all(&bus->changed);
    rt_mutex_unlock(&bus->guard);
}

void bus_start(struct handler *handler, struct bus **ret)
{
    struct hws_error err = {0};
    const struct bus_library *lib = bus_library(&err);
    struct bus *bus = lib ? calloc(1, sizeof(*bus)) : NULL;
    *ret = NULL;
    if (!bus) {
        log_warning("no D-Bus: %s; targetcli does not list user:" CONFIG_STRING_SUBTYPE
                    ", but backstores that are there, or restored, are served",
                    lib ? "out of memory" : err.text);
        return;
    }
    vtable[0].x.start.vtable_format_reference = lib->object_vtable_format;
    bus->handler = handler;
    bus->lib = lib;
    rt_mutex_init(&bus->guard);
    co_waitq_init(&bus->changed);
    if (rt_spawn(NULL, co_bus, bus) < 0) {
        log_warning("no D-Bus: out of memory");
        rt_mutex_destroy(&bus->guard);
        free(bus);
        return;
    }
    *ret = bus;
}

void co_bus_stop(struct bus *bus)
{
    if (!bus)
        return;
    rt_mutex_lock(&bus->guard);
    bus->stopping = true;
    co_waitq_wake_all(&bus->changed);
    while (!bus->ended)
        co_waitq_wait(&bus->changed, &bus->guard);
    rt_mutex_unlock(&bus->guard);
    rt_mutex_destroy(&bus->guard);
    free(bus);
}
