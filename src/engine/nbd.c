/*
 * The NBD server of an engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/nbd.h"
#include "engine/nbd_tls.h"

#define LISTEN_MAX 16

struct nbd_options {
    uint64_t threads, connections, memory;
};

static const struct option_desc table[] = {
    {"threads", OPTION_UINT, offsetof(struct nbd_options, threads),
     "queue threads; 0 for one a CPU, up to 4", "0", .max = NBD_THREADS_MAX},
    {"connections", OPTION_UINT, offsetof(struct nbd_options, connections),
     "clients at a time; 0 for 1024", "0", .max = 1 << 20},
    {"memory", OPTION_SIZE, offsetof(struct nbd_options, memory),
     "bytes that all clients together may cost; 256M if not given", .min = NBD_MEMORY_MIN},
    OPTION_END,
};

static int co_listen(struct engine *engine, struct nbd *nbd, struct hws_error *err)
{
    size_t i;
    json_t *address;
    int r = 0;
    if (!nbd->listen && engine->config->nbd_activation)
        return 0;
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

/* On the thread of the last connection. */
static void all_left(void *arg)
{
    struct engine *engine = arg;
    engine_ask_stop(engine, engine->manner.cut_clients);
}

int co_nbd_start(struct engine *engine, struct hws_error *err)
{
    static const char *const by_hand[] = {"listen", "exports", "activated", "tls", NULL};
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
                                        .memory = options.memory,
                                        .clients_wait = engine->manner.clients_wait};
    if (engine->manner.until_left) {
        server.left = all_left;
        server.left_arg = engine;
    }
    r = nbd_entries_make(engine, nbd, err);
    if (r == 0)
        r = co_nbd_server_start(&server, &nbd->server, err);
    if (r < 0) {
        nbd_entries_free(nbd);
        free(nbd);
        return r;
    }
    engine->nbd = nbd;
    if (json_object_get(config, "tls"))
        r = co_nbd_tls_reload(engine, err);
    if (r == 0)
        r = co_nbd_entries_serve(engine, nbd, err);
    if (r == 0)
        r = co_listen(engine, nbd, err);
    return r < 0 ? r : co_nbd_activation_listen(engine, nbd, err);
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
    int r = co_nbd_entries_end(nbd, force, err);
    if (r < 0) {
        int again = co_nbd_entries_serve(engine, nbd, NULL);
        return again < 0 ? hws_wrap(err, r, "and not all is exported any more") : r;
    }
    co_nbd_server_stop(nbd->server);
    unlink_sockets(nbd);
    nbd_entries_free(nbd);
    engine->nbd = NULL;
    json_decref(nbd->tls);
    free(nbd);
    return 0;
}

json_t *nbd_state(const struct engine *engine)
{
    const struct nbd *nbd = engine->nbd;
    return nbd ? json_pack("{s:O*, s:o*, s:O*, s:o}", "listen", nbd->listen, "activated",
                           nbd_activation_state(engine), "tls", nbd->tls, "exports",
                           nbd_entries_state(nbd))
               : NULL;
}

json_t *nbd_status(const struct engine *engine)
{
    struct nbd_server_info info;
    json_t *status = nbd_state(engine);
    if (!status)
        return NULL;
    nbd_server_info(engine->nbd->server, &info);
    json_t *counts =
        json_pack("{s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I}", "connections", (int)info.connections,
                  "connections-max", (int)info.connections_max, "waiting-for-memory",
                  (int)info.waiting, "accepted", (json_int_t)info.accepted, "refused",
                  (json_int_t)info.refused, "cut", (json_int_t)info.cut, "memory",
                  (json_int_t)info.memory_bytes, "memory-max", (json_int_t)info.memory_max_bytes);
    json_object_update_new(status, counts);
    return status;
}
