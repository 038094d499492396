/*
 * The NBD server of an engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/nbd.h"
#include "engine/nbd_tls.h"
#include "export/nbd/nbd.h"

#define LISTEN_MAX 16

struct nbd {
    struct nbd_server *server;
    struct nbd_export *export[ENGINE_VOLUMES_MAX]; /* of the volume at this index, or NULL */
    json_t *listen;                                /* of the configuration; borrowed */
    unsigned listening;                            /* addresses in use, from the first on */
    json_t *tls;                                   /* what `status` tells of it, or NULL */
};

struct nbd_options {
    uint64_t threads, connections;
};

static const struct option_desc table[] = {
    {"threads", OPTION_UINT, offsetof(struct nbd_options, threads),
     "queue threads; 0 for one a CPU, up to 4", "0", .max = NBD_THREADS_MAX},
    {"connections", OPTION_UINT, offsetof(struct nbd_options, connections),
     "clients at a time; 0 for 1024", "0", .max = 1 << 20},
    OPTION_END,
};

static int co_add_exports(struct engine *engine, struct nbd *nbd, struct hws_error *err)
{
    int r = 0;
    for (unsigned i = 0; i < engine->config->volume_count && r == 0; i++) {
        struct volume *volume = &engine->volumes[i];
        struct nbd_export_options options = {.name = volume->config.name,
                                             .read_only = volume->config.read_only};
        if (!nbd->export[i])
            r = co_nbd_export_add(nbd->server, volume->root, &options, &nbd->export[i], err);
    }
    return r;
}

static int co_listen(struct nbd *nbd, struct hws_error *err)
{
    size_t i;
    json_t *address;
    int r = 0;
    if (!json_is_array(nbd->listen) || json_array_size(nbd->listen) == 0 ||
        json_array_size(nbd->listen) > LISTEN_MAX)
        return hws_fail(err, EINVAL, "nbd: \"listen\" is a list of 1 to %d addresses", LISTEN_MAX);
    json_array_foreach(nbd->listen, i, address)
    {
        int fd;
        if (r == 0 && !json_is_string(address))
            r = hws_fail(err, EINVAL, "nbd: an address is a text");
        if (r == 0)
            r = nbd_listen(json_string_value(address), &fd, err);
        if (r == 0) {
            nbd->listening++;
            r = co_nbd_server_listen(nbd->server, fd, err);
        }
    }
    return r;
}

/* Those that are ours: one that somebody else listens at was never bound. */
static void unlink_sockets(const struct nbd *nbd)
{
    size_t i;
    json_t *address;
    json_array_foreach(nbd->listen, i, address)
    {
        const char *text = json_string_value(address);
        if (i < nbd->listening && !strncmp(text, "unix:", 5))
            (void)unlink(text + 5);
    }
}

static int co_remove_exports(struct engine *engine, struct nbd *nbd, bool force,
                             struct hws_error *err)
{
    int r = 0;
    for (unsigned i = 0; i < engine->config->volume_count && r == 0; i++) {
        if (nbd->export[i])
            r = co_nbd_export_remove(nbd->export[i], force, err);
        if (r == 0)
            nbd->export[i] = NULL;
    }
    return r;
}

/* On the thread of the last connection. */
static void all_left(void *arg)
{
    struct engine *engine = arg;
    engine_ask_stop(engine, engine->manner.cut_clients);
}

int co_nbd_start(struct engine *engine, struct hws_error *err)
{
    static const char *const by_hand[] = {"listen", "tls", NULL};
    const json_t *config = engine->config->nbd;
    struct nbd_options options = {0};
    if (!config)
        return 0;
    int r = options_parse(table, config, by_hand, "nbd", &options, sizeof(options), err);
    struct nbd *nbd = r == 0 ? calloc(1, sizeof(*nbd)) : NULL;
    if (r == 0 && !nbd)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    nbd->listen = json_object_get(config, "listen");
    struct nbd_server_options server = {.threads = (unsigned)options.threads,
                                        .connections = (unsigned)options.connections,
                                        .clients_wait = engine->manner.clients_wait};
    if (engine->manner.until_left) {
        server.left = all_left;
        server.left_arg = engine;
    }
    r = co_nbd_server_start(&server, &nbd->server, err);
    if (r < 0) {
        free(nbd);
        return r;
    }
    engine->nbd = nbd;
    if (json_object_get(config, "tls"))
        r = co_nbd_tls_reload(engine, err);
    if (r == 0)
        r = co_add_exports(engine, nbd, err);
    return r < 0 ? r : co_listen(nbd, err);
}

int co_nbd_tls_reload(struct engine *engine, struct hws_error *err)
{
    const json_t *config = engine->config->nbd ? json_object_get(engine->config->nbd, "tls") : NULL;
    json_t *state;
    if (!engine->nbd || !config)
        return hws_fail(err, ENOENT, "this engine has no NBD server with TLS");
    int r = co_nbd_tls_apply(config, engine->nbd->server, &state, err);
    if (r < 0)
        return r;
    json_decref(engine->nbd->tls);
    engine->nbd->tls = state;
    return 0;
}

int co_nbd_stop(struct engine *engine, bool force, struct hws_error *err)
{
    struct nbd *nbd = engine->nbd;
    if (!nbd)
        return 0;
    int r = co_remove_exports(engine, nbd, force, err);
    if (r < 0) {
        int again = co_add_exports(engine, nbd, NULL);
        return again < 0 ? hws_wrap(err, r, "and not all is exported any more") : r;
    }
    co_nbd_server_stop(nbd->server);
    unlink_sockets(nbd);
    engine->nbd = NULL;
    json_decref(nbd->tls);
    free(nbd);
    return 0;
}

json_t *nbd_state(const struct engine *engine)
{
    const struct nbd *nbd = engine->nbd;
    if (!nbd)
        return NULL;
    json_t *exports = json_array();
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        struct nbd_export_info info;
        if (!nbd->export[i])
            continue;
        nbd_export_info(nbd->export[i], &info);
        json_array_append_new(exports, json_pack("{s:s, s:i, s:I}", "name", info.name,
                                                 "connections", (int)info.connections, "requests",
                                                 (json_int_t)info.requests));
    }
    json_t *state = json_pack("{s:O, s:o}", "listen", nbd->listen, "exports", exports);
    if (nbd->tls)
        json_object_set(state, "tls", nbd->tls);
    return state;
}
