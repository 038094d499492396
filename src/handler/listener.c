/*
 * The thread that hears the kernel's news of backstores.
 *
 * Whose answer counts: the kernel takes the first that comes, and tcmu-runner answers every event,
 * also those of handlers that it has not got, and those with an error. No order can be promised
 * between two processes, and a late answer that meets a later event of another kind leaves its
 * causer waiting for ever. So where tcmu-runner runs beside, the kernel is told not to wait for
 * answers (unless it shall go on: keep_answers), and each of our backstores too
 * (nl_reply_supported=-1); what is ours is answered at once all the same, for the moments between.
 *
 * Where nobody else listens, ours are answered when what they ask for is done, with its result,
 * and others' too, or their causers would wait for ever.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "handler/internal.h"
#include "host/configfs.h"
#include "host/lio.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct listener {
    struct handler *handler;
    struct tcmu_netlink *netlink;
    pthread_t thread;
    _Atomic bool alone;
    bool told, told_alone; /* what was last said of it, to people and to the kernel */
};

/* ---- who else is there ---- */

static bool look(struct listener *listener)
{
    /* -ENOTSUP: it cannot be told; not to rely on answers is then the safe way. */
    bool alone = tcmu_netlink_others(listener->netlink) == 0;
    atomic_store(&listener->alone, alone);
    return alone;
}

static void tell_kernel(struct listener *listener, bool answers)
{
    struct hws_error err = {0};
    if (tcmu_netlink_features(listener->netlink, answers, &err) < 0)
        log_warning("%s", err.text);
}

bool listener_look_around(struct listener *listener, bool again)
{
    bool alone = look(listener), keep = listener->handler->options->keep_answers;
    if (listener->told && listener->told_alone == alone && !again)
        return false;
    if (alone || !keep)
        tell_kernel(listener, alone);
    bool news = !listener->told || listener->told_alone != alone;
    if (news && alone)
        log_info("no other handler of backstores runs");
    else if (news)
        log_info("another handler of backstores runs beside (tcmu-runner?): %s",
                 keep ? "the kernel goes on waiting for answers"
                      : "the kernel waits for nobody's answers now");
    listener->told = true;
    listener->told_alone = alone;
    return true;
}

bool listener_is_alone(const struct listener *listener)
{
    return atomic_load(&listener->alone);
}

/* ---- answers ---- */

static void answer(struct listener *listener, const struct tcmu_event *event, int status)
{
    int r = tcmu_netlink_answer(listener->netlink, event, status);
    if (r < 0)
        log_error("backstore '%s': the kernel's question cannot be answered: %s",
                  event->device.name, strerror(-r));
}

void listener_answer(struct listener *listener, const struct heard_event *heard, int status)
{
    if (!heard->answered)
        answer(listener, &heard->event, status);
}

/* Nobody else would, and whoever made it would wait for ever. */
static void answer_for_nobody(struct listener *listener, const struct tcmu_event *event)
{
    static const int status[] = {
        [TCMU_ADDED] = -ENOENT, [TCMU_REMOVED] = 0, [TCMU_RECONFIG] = -EOPNOTSUPP};
    if (strncmp(event->device.config, LIO_HANDLER, sizeof(LIO_HANDLER) - 1) == 0)
        return; /* an engine's own: nobody waits */
    if (event->kind == TCMU_ADDED)
        log_warning("backstore '%s' has the configuration '%s', which no handler here serves",
                    event->device.name, event->device.config);
    answer(listener, event, status[event->kind]);
}

static void answer_first(struct listener *listener, const struct tcmu_event *event)
{
    answer(listener, event, 0);
    if (event->kind == TCMU_ADDED)
        configfs_write(NULL, "-1", "core/user_%u/%s/attrib/nl_reply_supported", event->device.hba,
                       event->device.name);
}

/* ---- the thread ---- */

static void hear(void *arg, const struct tcmu_event *event)
{
    struct listener *listener = arg;
    struct handler *handler = listener->handler;
    bool alone = look(listener);
    if (!tcmu_config_is_for(event->device.config, CONFIG_STRING_SUBTYPE)) {
        if (alone)
            answer_for_nobody(listener, event);
        return;
    }
    if (!alone)
        answer_first(listener, event);
    struct heard_event *heard = malloc(sizeof(*heard));
    if (!heard) {
        if (alone)
            answer(listener, event, -ENOMEM);
        handler_ask_rescan(handler);
        return;
    }
    *heard = (struct heard_event){.event = *event, .answered = !alone};
    rt_mutex_lock(&handler->guard);
    list_push_back(&handler->events, &heard->link);
    co_waitq_wake_all(&handler->changed);
    rt_mutex_unlock(&handler->guard);
}

/* What was lost cannot be answered: its causers get EINTR rather than to wait for ever. */
static void mend_loss(struct listener *listener)
{
    struct hws_error err = {0};
    log_warning("events of the kernel were lost; looking for devices instead");
    if (listener_is_alone(listener) && tcmu_netlink_reset(&err) < 0)
        log_warning("%s", err.text);
    handler_ask_rescan(listener->handler);
}

static void *listen_thread(void *arg)
{
    struct listener *listener = arg;
    struct sched_param urgent = {.sched_priority = 1};
    pthread_setname_np(pthread_self(), "hawser-netlink");
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &urgent); /* without it: merely likely */
    for (int r = 0; r != -ECANCELED;) {
        bool lost;
        r = tcmu_netlink_receive(listener->netlink, hear, listener, &lost);
        if (r == 0 && lost)
            mend_loss(listener);
        if (r < 0 && r != -ECANCELED) {
            log_error("cannot hear of backstores any more: %s", strerror(-r));
            return NULL;
        }
    }
    return NULL;
}

int listener_start(struct handler *handler, struct listener **ret, struct hws_error *err)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return hws_fail(err, ENOMEM, "out of memory");
    listener->handler = handler;
    int r = tcmu_netlink_open(&listener->netlink, err);
    if (r == 0) {
        listener_look_around(listener, true);
        /* What a predecessor did not answer any more. */
        struct hws_error ignored = {0};
        if (listener_is_alone(listener) && tcmu_netlink_reset(&ignored) < 0)
            log_debug("%s", ignored.text);
        r = -pthread_create(&listener->thread, NULL, listen_thread, listener);
        if (r < 0)
            r = hws_fail_errno(err, -r, "cannot start a thread");
    }
    if (r < 0) {
        tcmu_netlink_close(listener->netlink);
        free(listener);
        return r;
    }
    *ret = listener;
    return 0;
}

struct listener *listener_stop(struct listener *listener)
{
    struct list *node;
    if (!listener)
        return NULL;
    /* Nobody is there to answer from here on; or tcmu-runner alone is. */
    if (look(listener) || !listener->handler->options->keep_answers)
        tell_kernel(listener, !listener_is_alone(listener));
    tcmu_netlink_stop(listener->netlink);
    pthread_join(listener->thread, NULL);
    while ((node = list_pop_front(&listener->handler->events))) {
        struct heard_event *heard = list_entry(node, struct heard_event, link);
        listener_answer(listener, heard, heard->event.kind == TCMU_REMOVED ? 0 : -ESHUTDOWN);
        free(heard);
    }
    tcmu_netlink_close(listener->netlink);
    free(listener);
    return NULL;
}
