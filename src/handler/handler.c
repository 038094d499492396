/*
 * Life of the handler, and its table of devices.
 *
 * The dispatcher takes the kernel's events in their order and gives each to a coroutine of its own;
 * the mutex of a device keeps the order for that device. Lost events and a start are the same: the
 * uio devices that are there are compared with the table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "drivers/drivers.h"
#include "handler/internal.h"
#include "host/configfs.h"
#include "host/process.h"
#include <signal.h>
#include <sys/signalfd.h>

/* sd-bus wants more than the usual stack; untouched pages cost nothing. */
#define STACK_BYTES         ((size_t)256 << 10)

#define DEFAULT_THREADS_MAX 8

/* Another handler that goes leaves the bus first, and the kernel's news when it has ended. */
#define LOOK_PATIENCE_NS ((uint64_t)60 * 1000000000)
#define LOOK_RETRY_NS    ((uint64_t)500 * 1000000)

struct start {
    struct handler *handler;
    struct hws_error *err;
    int result;
};

/* ---- the table ---- */

static bool is_same(const struct device *device, const struct tcmu_device_name *name)
{
    return device->name.hba == name->hba && !strcmp(device->name.name, name->name);
}

static struct device *find(struct handler *handler, unsigned minor)
{
    list_for_each (node, &handler->devices) {
        struct device *device = list_entry(node, struct device, link);
        if (device->minor == minor)
            return device;
    }
    return NULL;
}

/* ---- an event's coroutine ---- */

struct task {
    struct handler *handler;
    struct device *device;     /* held */
    struct heard_event *heard; /* NULL: found by a scan */
};

static void task_end(struct task *task)
{
    struct handler *handler = task->handler;
    device_release(task->device);
    free(task->heard);
    free(task);
    co_group_done(&handler->work);
}

/* Takes over @heard; it is answered in any case. @return false where there is no memory. */
static bool spawn_task(struct handler *handler, struct device *device, struct heard_event *heard,
                       co_fn *fn)
{
    struct task *task = malloc(sizeof(*task));
    if (task) {
        *task = (struct task){handler, device_hold(device), heard};
        co_group_add(&handler->work, 1);
        if (rt_spawn(NULL, fn, task) == 0)
            return true;
        task->heard = NULL;
        task_end(task);
    }
    log_error("backstore '%s': out of memory", device->name.name);
    if (heard)
        listener_answer(handler->listener, heard, -ENOMEM);
    free(heard);
    return false;
}

static void co_open_task(void *arg)
{
    struct task *task = arg;
    struct hws_error err = {0};
    int r = co_device_open(task->device, task->heard == NULL, &err);
    if (r < 0)
        log_error("backstore '%s': %s", task->device->name.name, err.text);
    /* Where nobody waits for the answer the backstore stays, and so does it here. */
    bool awaited = task->heard && !task->heard->answered && task->device->backstore.is_awaited;
    if (r < 0 && awaited)
        device_unlist(task->device);
    if (awaited)
        listener_answer(task->handler->listener, task->heard, r);
    task_end(task);
}

static void co_close_task(void *arg)
{
    struct task *task = arg;
    co_device_close(task->device, false);
    if (task->heard && task->device->backstore.is_awaited)
        listener_answer(task->handler->listener, task->heard, 0);
    task_end(task);
}

static void co_reconfigure_task(void *arg)
{
    struct task *task = arg;
    struct hws_error err = {0};
    int r = co_device_reconfigure(task->device, &task->heard->event, &err);
    if (r < 0)
        log_error("backstore '%s': %s", task->device->name.name, err.text);
    if (task->device->backstore.is_awaited)
        listener_answer(task->handler->listener, task->heard, r);
    task_end(task);
}

/* Out of the table at once, so that a new one of the same number can come. */
static void drop(struct handler *handler, struct device *device, struct heard_event *heard,
                 co_fn *how)
{
    device_hold(device);
    device_unlist(device);
    if (spawn_task(handler, device, heard, how))
        device_release(device); /* else it stays open, and in no table */
}

static struct device *add(struct handler *handler, const struct tcmu_device_name *name,
                          unsigned minor, int *ret_error)
{
    if (handler->device_count >= HANDLER_DEVICES_MAX) {
        log_error("backstore '%s': this handler serves %d devices already", name->name,
                  HANDLER_DEVICES_MAX);
        *ret_error = -ENOSPC;
        return NULL;
    }
    *ret_error = -ENOMEM;
    return device_new(handler, name, minor);
}

static void handle_added(struct handler *handler, struct heard_event *heard)
{
    const struct tcmu_event *event = &heard->event;
    struct device *device = find(handler, event->minor);
    int error = 0;
    if (device && (!is_same(device, &event->device) || device->opened < 0)) {
        drop(handler, device, NULL,
             co_close_task); /* its removal was not told, or it is tried again */
        device = NULL;
    }
    if (!device)
        device = add(handler, &event->device, event->minor, &error);
    if (device) {
        if (!spawn_task(handler, device, heard, co_open_task))
            device_unlist(device);
        return;
    }
    listener_answer(handler->listener, heard, error);
    free(heard);
}

static void handle(struct handler *handler, struct heard_event *heard)
{
    const struct tcmu_event *event = &heard->event;
    struct device *device = find(handler, event->minor);
    if (event->kind == TCMU_ADDED) {
        handle_added(handler, heard);
        return;
    }
    if (device && is_same(device, &event->device)) {
        if (event->kind == TCMU_REMOVED)
            drop(handler, device, heard, co_close_task);
        else
            (void)spawn_task(handler, device, heard, co_reconfigure_task);
        return;
    }
    listener_answer(handler->listener, heard, event->kind == TCMU_REMOVED ? 0 : -ENODEV);
    free(heard);
}

/* ---- scans ---- */

static void on_found(void *arg, const struct tcmu_device_name *name, unsigned minor)
{
    struct handler *handler = arg;
    struct device *device = find(handler, minor);
    int error = 0;
    if (device && (!is_same(device, name) || device->opened < 0)) {
        drop(handler, device, NULL, co_close_task);
        device = NULL;
    }
    if (!device) {
        device = add(handler, name, minor, &error);
        if (device && !spawn_task(handler, device, NULL, co_open_task)) {
            device_unlist(device);
            return;
        }
    }
    if (device)
        device->seen = true;
}

static void co_scan(struct handler *handler)
{
    list_for_each (node, &handler->devices)
        list_entry(node, struct device, link)->seen = false;
    int r = co_backstores_scan(CONFIG_STRING_SUBTYPE, on_found, handler);
    if (r < 0) {
        log_error("cannot look for devices: %s", strerror(-r));
        return;
    }
    list_for_each_safe (node, &handler->devices) {
        struct device *device = list_entry(node, struct device, link);
        if (!device->seen && device->opened != 1)
            drop(handler, device, NULL, co_close_task);
    }
}

void handler_ask_rescan(struct handler *handler)
{
    rt_mutex_lock(&handler->guard);
    handler->rescan = true;
    co_waitq_wake_all(&handler->changed);
    rt_mutex_unlock(&handler->guard);
}

void handler_ask_look_around(struct handler *handler)
{
    rt_mutex_lock(&handler->guard);
    handler->look_around = true;
    co_waitq_wake_all(&handler->changed);
    rt_mutex_unlock(&handler->guard);
}

/* ---- threads ---- */

int co_handler_queue(struct handler *handler, struct rt_queue **ret, struct hws_error *err)
{
    int r = 0;
    co_mutex_lock(&handler->queues_guard);
    unsigned index = handler->next_queue++ % handler->queue_count;
    if (!handler->queues[index]) {
        char name[16];
        snprintf(name, sizeof(name), "tcmu/%u", index);
        r = rt_queue_start(rt_current(), name, &handler->queues[index], err);
    }
    *ret = handler->queues[index];
    co_mutex_unlock(&handler->queues_guard);
    return r;
}

static unsigned default_threads(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online < 1 ? 1 : (unsigned)MIN(online, DEFAULT_THREADS_MAX);
}

/* ---- the dispatcher ---- */

/* Beside another handler, answers to what was made while we were alone cannot be told apart. */
static void co_look_around(struct handler *handler, bool again)
{
    if (!listener_look_around(handler->listener, again) || listener_is_alone(handler->listener))
        return;
    struct device *awaited;
    do {
        awaited = NULL;
        list_for_each (node, &handler->devices) {
            struct device *device = list_entry(node, struct device, link);
            if (device->opened == 0 && device->backstore.is_awaited)
                awaited = device;
        }
        if (awaited) {
            awaited->backstore.is_awaited = false;
            device_hold(awaited);
            if (co_backstore_write(&awaited->name, "attrib/nl_reply_supported", -1) < 0)
                log_debug("backstore '%s': answers stay awaited", awaited->name.name);
            device_release(awaited);
        }
    } while (awaited);
}

static bool has_work(const struct handler *handler)
{
    return !list_empty(&handler->events) || handler->rescan || handler->look_around ||
           handler->stopping;
}

/* Until there is work, or it is time to look around once more. With the guard held. */
static void co_wait_for_work(struct handler *handler, uint64_t look_until_ns)
{
    bool timed_out = false;
    while (!timed_out && !has_work(handler)) {
        uint64_t now = rt_now_ns();
        if (now < look_until_ns)
            timed_out =
                !co_waitq_wait_until(&handler->changed, &handler->guard, now + LOOK_RETRY_NS);
        else
            co_waitq_wait(&handler->changed, &handler->guard);
    }
}

static void co_dispatch(struct handler *handler)
{
    uint64_t look_until_ns = 0;
    for (;;) {
        rt_mutex_lock(&handler->guard);
        co_wait_for_work(handler, look_until_ns);
        bool stopping = handler->stopping, again = handler->look_around;
        struct list *node = stopping ? NULL : list_pop_front(&handler->events);
        bool rescan = !node && handler->rescan;
        handler->look_around = false;
        if (rescan)
            handler->rescan = false;
        rt_mutex_unlock(&handler->guard);
        if (stopping)
            return;
        if (node)
            handle(handler, list_entry(node, struct heard_event, link));
        co_look_around(handler, again);
        if (again)
            look_until_ns = rt_now_ns() + LOOK_PATIENCE_NS;
        if (rescan)
            co_scan(handler);
    }
}

static void on_signal(void *arg)
{
    struct handler *handler = arg;
    struct signalfd_siginfo info;
    while (read(handler->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            handler_ask_rescan(handler);
            continue;
        }
        log_info("signal %u: the devices are left to a successor", info.ssi_signo);
        rt_mutex_lock(&handler->guard);
        handler->stopping = true;
        co_waitq_wake_all(&handler->changed);
        rt_mutex_unlock(&handler->guard);
    }
}

static void co_leave_task(void *arg)
{
    struct task *task = arg;
    co_device_close(task->device, true);
    task_end(task);
}

/* All at once: each waits for its own commands and its own disk. */
static void co_leave_all(struct handler *handler)
{
    list_for_each_safe (node, &handler->devices)
        drop(handler, list_entry(node, struct device, link), NULL, co_leave_task);
    co_group_wait(&handler->work);
}

/* ---- life ---- */

static int co_start(struct handler *handler, struct hws_error *err)
{
    bool edge;
    int r = configfs_load_module("target_core_user", err);
    if (r == 0)
        r = rt_watch_start(handler->signal_fd, on_signal, handler, &handler->signal_watch, &edge);
    if (r == 0)
        r = listener_start(handler, &handler->listener, err);
    if (r < 0)
        return r;
    /* Before the first I/O thread, which inherits it: what is there may be in use already. */
    process_shield();
    /* The events that come from now on wait until the devices that are there are known. */
    co_scan(handler);
    co_group_wait(&handler->work);
    co_look_around(handler, true);
    if (!handler->options->no_dbus)
        bus_start(handler, &handler->bus);
    return 0;
}

static void co_handler(void *arg)
{
    struct start *start = arg;
    struct handler *handler = start->handler;
    start->result = co_start(handler, start->err);
    if (start->result == 0) {
        process_notify("READY=1");
        log_info("serving; %u devices were there", handler->device_count);
        co_dispatch(handler);
        process_notify("STOPPING=1");
    }
    co_bus_stop(handler->bus);
    co_group_wait(&handler->work); /* what is under way is answered still */
    handler->listener = listener_stop(handler->listener);
    co_leave_all(handler);
    for (unsigned i = 0; i < handler->queue_count; i++)
        if (handler->queues[i])
            co_queue_stop(handler->queues[i]);
    co_watch_stop(handler->signal_watch);
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int handler_main(const struct handler_options *options, struct hws_error *err)
{
    struct handler handler = {.options = options};
    struct rt_options rt_options = {.stack_bytes = STACK_BYTES, .workers_max = 4};
    struct start start = {.handler = &handler, .err = err};
    struct rt *rt;
    process_prepare();
    drivers_register();
    log_set_level((enum log_level)options->log_level);
    autofd int signal_fd = open_signals();
    if (signal_fd < 0)
        return hws_fail_errno(err, errno, "cannot watch signals");
    handler.signal_fd = signal_fd;
    list_init(&handler.devices);
    list_init(&handler.events);
    rt_mutex_init(&handler.guard);
    co_waitq_init(&handler.changed);
    co_group_init(&handler.work);
    co_mutex_init(&handler.queues_guard);
    handler.queue_count =
        options->threads ? MIN(options->threads, (unsigned)TCMU_THREADS_MAX) : default_threads();
    int r = rt_create(&rt_options, &rt, err);
    if (r == 0) {
        r = rt_run(rt, co_handler, &start);
        rt_free(rt);
        r = r < 0 ? hws_fail_errno(err, -r, "cannot start the I/O runtime") : start.result;
    }
    co_mutex_destroy(&handler.queues_guard);
    co_group_destroy(&handler.work);
    rt_mutex_destroy(&handler.guard);
    return r;
}
