/*
 * Meta contexts: what block status can tell of, listed and chosen.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "export/nbd/internal.h"

static const char *const names[NBD_CONTEXTS_MAX] = {
    [NBD_CONTEXT_ALLOCATION] = "base:allocation",
    [NBD_CONTEXT_DEPTH] = "qemu:allocation-depth",
};

const char *nbd_context_name(enum nbd_context context)
{
    return names[context];
}

/* A query is a name; in a list, a namespace with nothing behind its colon stands for all of it. */
static bool matches(const char *name, const uint8_t *query, size_t length, bool list)
{
    size_t namespace = strcspn(name, ":") + 1;
    if (length == strlen(name) && !memcmp(name, query, length))
        return true;
    return list && length == namespace && !memcmp(name, query, length);
}

static int co_tell(struct nbd_negotiation *n, uint32_t option, uint32_t id, const char *name)
{
    struct {
        struct be32 id;
        char name[64];
    } reply = {.id = be32_of(id)};
    size_t length = strlen(name);
    memcpy(reply.name, name, length);
    return co_nbd_option_reply(n, option, NBD_REP_META_CONTEXT, &reply, 4 + length);
}

static void choose(struct nbd_connection *c, enum nbd_context context)
{
    for (unsigned i = 0; i < c->context_count; i++)
        if (c->contexts[i] == context)
            return;
    c->contexts[c->context_count++] = (uint8_t)context;
}

/* @return -EINVAL where the queries are malformed. */
static int take_queries(struct nbd_connection *c, struct cursor *at, uint32_t count, bool list)
{
    for (unsigned i = 0; list && count == 0 && i < NBD_CONTEXTS_MAX; i++)
        choose(c, (enum nbd_context)i);
    for (uint32_t q = 0; q < count; q++) {
        uint32_t length = cursor_be32(at);
        const uint8_t *query = cursor_take(at, length);
        for (unsigned i = 0; query && i < NBD_CONTEXTS_MAX; i++)
            if (matches(names[i], query, length, list))
                choose(c, (enum nbd_context)i);
    }
    return at->failed || cursor_left(at) ? -EINVAL : 0;
}

int co_nbd_meta_context(struct nbd_negotiation *n, uint32_t option, const uint8_t *data,
                        size_t length)
{
    struct nbd_connection *c = n->connection;
    bool list = option == NBD_OPT_LIST_META_CONTEXT;
    struct cursor at = cursor_of(data, length);
    uint32_t name_bytes = cursor_be32(&at);
    const uint8_t *name = cursor_take(&at, name_bytes);
    uint32_t count = cursor_be32(&at);
    c->context_count = 0;
    free(steal_ptr(&c->contexts_export));
    if (!c->structured && !c->extended)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID,
                                   "structured replies must be agreed on first");
    if (at.failed || name_bytes > NBD_STRING_MAX || count > NBD_QUERIES_MAX)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "malformed request");
    struct nbd_export *export = nbd_export_use(c->lane->server, (const char *)name, name_bytes);
    if (!export)
        return co_nbd_option_error(n, option, NBD_REP_ERR_UNKNOWN, "no export of that name");
    char *chosen_for = strdup(export->name);
    nbd_export_leave(export);
    if (!chosen_for)
        return -ENOMEM;
    int r = 0;
    if (take_queries(c, &at, count, list) < 0) {
        c->context_count = 0;
        free(chosen_for);
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "malformed queries");
    }
    for (unsigned i = 0; i < c->context_count && r == 0; i++)
        r = co_tell(n, option, list ? 0 : i + 1, names[c->contexts[i]]);
    if (list) {
        c->context_count = 0;
        free(chosen_for);
    } else {
        c->contexts_export = chosen_for;
    }
    return r < 0 ? r : co_nbd_option_reply(n, option, NBD_REP_ACK, NULL, 0);
}
