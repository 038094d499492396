/*
 * Threads that run requests; inside of api/http.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef API_HTTP_WORKERS_H
#define API_HTTP_WORKERS_H

#include "api/http/server.h"
#include "base/list.h"

struct http_work {
    struct list node;
    void (*run)(struct http_work *work);
};

/** Queues @work; it runs on one of the threads. @return false where they are being stopped. */
HWS_MUST_CHECK bool http_workers_add(struct http_workers *workers, struct http_work *work);

#endif
