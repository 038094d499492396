/*
 * An engine's NBD server: its volumes as exports by name. Part of an engine's configuration:
 *
 *   "nbd": {"listen": ["unix:/run/x.sock", "tcp:127.0.0.1:10809"], "threads": 2,
 *           "activated": true,
 *           "exports": [{"name": "disk", "volume": "disk", "description": "a text",
 *                        "read-only": true, "connections": 2, "bitmaps": ["b0"],
 *                        "allocation-depth": false}]}
 *
 * Without "exports" every volume is one of its name. Exports may come and go while the engine runs;
 * engine->config->nbd tells those of now.
 *
 *   nbd.c             start, stop, addresses
 *   nbd_exports.c     exports
 *   nbd_activation.c  sockets that a service manager listens at
 *
 * Everything runs on the control queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_NBD_H
#define ENGINE_NBD_H

#include "base/list.h"
#include "engine/engine.h"
#include "export/nbd/nbd.h"

/** Of one engine; several may be of one volume. */
#define ENGINE_NBD_EXPORTS_MAX 256

/** An export as configured: the struct of nbd_export_params. */
struct nbd_export_config {
    char *name, *volume, *description;
    char **bitmaps; /* NULL: all */
    uint64_t connections;
    bool read_only, allocation_depth;
};

extern const struct option_desc nbd_export_params[];

struct nbd_entry {
    struct list link;
    struct nbd_export_config config;
    struct nbd_export *export;   /* NULL while it is not served */
    const struct volume *volume; /* of the export */
};

struct nbd {
    struct nbd_server *server;
    struct list entries; /* struct nbd_entry, in the order of their making */
    unsigned entry_count;
    json_t *listen;     /* of the configuration; borrowed; NULL: none */
    unsigned listening; /* addresses in use, from the first on */
    json_t *tls;        /* what `status` tells of it, or NULL */
};

/** Serves the volumes, which are open, as configured. Not configured: no effect. */
HWS_MUST_CHECK int co_nbd_start(struct engine *engine, struct hws_error *err);

/** Ends it. -EBUSY while clients are connected, unless @force: all is as before. */
HWS_MUST_CHECK int co_nbd_stop(struct engine *engine, bool force, struct hws_error *err);

/** Reads the credentials again: new clients meet them. On failure those before stay in use. */
HWS_MUST_CHECK int co_nbd_tls_reload(struct engine *engine, struct hws_error *err);

/** For the state file; NULL where there is none. A new reference. */
json_t *nbd_state(const struct engine *engine);
/** The same for `status`, with how the server does. */
json_t *nbd_status(const struct engine *engine);

/* ---- nbd_exports.c ---- */

/** Makes the entries that are configured; none is served yet. */
HWS_MUST_CHECK int nbd_entries_make(struct engine *engine, struct nbd *nbd, struct hws_error *err);
/** Serves those that are not. */
HWS_MUST_CHECK int co_nbd_entries_serve(struct engine *engine, struct nbd *nbd,
                                        struct hws_error *err);
/** Ends those that are served. -EBUSY unless @force: then the rest is. */
HWS_MUST_CHECK int co_nbd_entries_end(struct nbd *nbd, bool force, struct hws_error *err);
/** None is served any more. */
void nbd_entries_free(struct nbd *nbd);
/** For nbd_state(): a new reference. */
json_t *nbd_entries_state(const struct nbd *nbd);

/** One more export of a running engine. -EEXIST, -ENOENT, -EINVAL. */
HWS_MUST_CHECK int co_nbd_add(struct engine *engine, const struct nbd_export_config *config,
                              struct hws_error *err);
/** Ends the export called @name. -ENOENT, -EBUSY while it has clients, unless @force. */
HWS_MUST_CHECK int co_nbd_remove(struct engine *engine, const char *name, bool force,
                                 struct hws_error *err);

/* ---- nbd_activation.c ---- */

/**
 * Takes the sockets that the service manager has passed to this process, where the configuration
 * says "activated": into engine_config, which owns them. For the process that was started; those
 * that it forks inherit them.
 */
HWS_MUST_CHECK int nbd_activation_take(struct engine_config *config, struct hws_error *err);
void nbd_activation_free(struct nbd_activation *activation);
/** Accepts connections on them. */
HWS_MUST_CHECK int co_nbd_activation_listen(struct engine *engine, struct nbd *nbd,
                                            struct hws_error *err);
/** Their names, or NULL where there are none. A new reference. */
json_t *nbd_activation_state(const struct engine *engine);

#endif
