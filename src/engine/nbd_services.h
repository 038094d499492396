/*
 * NBD services: exports of a running engine with a server of their own each, beside the one of its
 * configuration. Whoever manages engines adds them to one that serves a device already, and gives
 * each an address and credentials that no other shares.
 *
 * Credentials are read once, when the service is added, so that their files can be removed then; an
 * engine that has some leaves no memory behind when it dies (PR_SET_DUMPABLE). Services are not in
 * the configuration: the next engine has none. They run on the control queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_NBD_SERVICES_H
#define ENGINE_NBD_SERVICES_H

#include "engine/engine.h"

/** Of one engine. */
#define NBD_SERVICES_MAX 64

/** Parameters of the method "nbd-serve". */
struct nbd_service_params {
    char *name, *tag, *volume, *listen, *export_name, *description, *credentials;
    int tls; /* none, psk, x509 */
    bool read_only;
};

extern const struct option_desc nbd_service_options[];

/** Adds a service. One of that name, and of the same tag, is there already: no effect; of another
 * tag: -EEXIST. */
HWS_MUST_CHECK int co_nbd_serve(struct engine *engine, const struct nbd_service_params *params,
                                struct hws_error *err);

/** Ends the service called @name. -ENOENT; -EBUSY while it has clients, unless @force. */
HWS_MUST_CHECK int co_nbd_unserve(struct engine *engine, const char *name, bool force,
                                  struct hws_error *err);

/**
 * Takes the exports of all services away: nobody is served, their sockets stay. -EBUSY while there
 * are clients, unless @force: all is as before.
 */
HWS_MUST_CHECK int co_nbd_services_pause(struct engine *engine, bool force, struct hws_error *err);
/** Serves again after co_nbd_services_pause(). */
void co_nbd_services_resume(struct engine *engine);
/** Ends all, paused or not. */
void co_nbd_services_end(struct engine *engine);

/** For the state file and `status`; NULL where there are none. A new reference. */
json_t *nbd_services_state(const struct engine *engine);

#endif
