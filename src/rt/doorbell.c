/*
 * Doorbells: a mail that is used again and again, for who sends batches of work of his own kind to
 * a queue from threads that serve none.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/ops.h"

struct rt_doorbell {
    struct rt_mail mail;
    void (*fn)(void *arg);
    void *arg;
};

static void deliver(struct rt_queue *q, struct rt_mail *mail)
{
    struct rt_doorbell *bell = container_of(mail, struct rt_doorbell, mail);
    bell->fn(bell->arg);
}

struct rt_doorbell *rt_doorbell_new(void (*fn)(void *arg), void *arg)
{
    struct rt_doorbell *bell = calloc(1, sizeof(*bell));
    if (bell)
        *bell = (struct rt_doorbell){.mail.deliver = deliver, .fn = fn, .arg = arg};
    return bell;
}

void rt_doorbell_ring(struct rt_queue *q, struct rt_doorbell *bell)
{
    queue_post(q, &bell->mail);
}

void rt_doorbell_free(struct rt_doorbell *bell)
{
    free(bell);
}
