/*
 * Meta contexts: what block status can tell of, listed and chosen.
 *
 *   base:allocation           holes and zeroes
 *   qemu:allocation-depth     which layer of the chain answers, 1 for the first, 0 for none
 *   qemu:dirty-bitmap:NAME    what a bitmap of the image has marked
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "block/bitmap.h"
#include "export/nbd/internal.h"

static const char *const prefixes[] = {
    [NBD_CONTEXT_ALLOCATION] = "base:allocation",
    [NBD_CONTEXT_DEPTH] = "qemu:allocation-depth",
    [NBD_CONTEXT_BITMAP] = "qemu:dirty-bitmap:",
};

/* Bitmaps that a list tells of. */
#define LIST_BITMAPS_MAX (NBD_CONTEXTS_MAX - 2)

void nbd_contexts_clear(struct nbd_connection *c)
{
    for (unsigned i = 0; i < c->context_count; i++)
        free(steal_ptr(&c->contexts[i].bitmap));
    c->context_count = 0;
}

static int choose(struct nbd_connection *c, enum nbd_context_kind kind, const char *bitmap)
{
    for (unsigned i = 0; i < c->context_count; i++)
        if (c->contexts[i].kind == kind && (!bitmap || !strcmp(c->contexts[i].bitmap, bitmap)))
            return 0;
    if (c->context_count == NBD_CONTEXTS_MAX)
        return 0; /* the client sees that it did not get it */
    struct nbd_context *context = &c->contexts[c->context_count];
    context->kind = kind;
    context->bitmap = bitmap ? strdup(bitmap) : NULL;
    if (bitmap && !context->bitmap)
        return -ENOMEM;
    c->context_count++;
    return 0;
}

/* ---- queries ---- */

struct queries {
    struct nbd_connection *connection;
    const struct nbd_export *export;
    bool list;
};

/* In a list, the first words of a name with their colon stand for all names that begin so. */
static bool matches(const char *name, const char *query, bool list)
{
    size_t length = strlen(query);
    return !strcmp(name, query) ||
           (list && length && query[length - 1] == ':' && !strncmp(name, query, length));
}

static int co_choose_listed_bitmaps(struct queries *q)
{
    char name[BLOCK_BITMAP_NAME_MAX + 1];
    int r = 0;
    for (unsigned i = 0; i < LIST_BITMAPS_MAX && r == 0; i++) {
        if (co_root_bitmap_name(q->export->root, i, name) < 0)
            break;
        if (nbd_export_shows(q->export, name))
            r = choose(q->connection, NBD_CONTEXT_BITMAP, name);
    }
    return r;
}

static int co_choose_bitmap(struct queries *q, const char *name)
{
    bool dirty;
    uint64_t length;
    if (!*name || !nbd_export_shows(q->export, name) || !block_root_size(q->export->root))
        return 0;
    int r = co_root_bitmap_next(q->export->root, name, 0, 1, &dirty, &length);
    return r < 0 ? 0 : choose(q->connection, NBD_CONTEXT_BITMAP, name);
}

static int co_query(struct queries *q, const char *query)
{
    size_t prefix = strlen(prefixes[NBD_CONTEXT_BITMAP]);
    int r = 0;
    if (matches(prefixes[NBD_CONTEXT_ALLOCATION], query, q->list))
        r = choose(q->connection, NBD_CONTEXT_ALLOCATION, NULL);
    if (r == 0 && !q->export->no_depth && matches(prefixes[NBD_CONTEXT_DEPTH], query, q->list))
        r = choose(q->connection, NBD_CONTEXT_DEPTH, NULL);
    if (r < 0)
        return r;
    if (q->list && matches(prefixes[NBD_CONTEXT_BITMAP], query, true))
        return co_choose_listed_bitmaps(q);
    return strncmp(query, prefixes[NBD_CONTEXT_BITMAP], prefix)
               ? 0
               : co_choose_bitmap(q, query + prefix);
}

/* @return -EINVAL where the queries are malformed. */
static int co_take_queries(struct queries *q, struct cursor *at, uint32_t count)
{
    int r = 0;
    if (q->list && count == 0) {
        r = co_query(q, "base:");
        if (r == 0)
            r = co_query(q, "qemu:");
    }
    for (uint32_t i = 0; i < count && r == 0; i++) {
        uint32_t length = cursor_be32(at);
        const uint8_t *query = cursor_take(at, length);
        if (!query || length > NBD_STRING_MAX)
            return -EINVAL;
        autofree char *text = strndup((const char *)query, length);
        r = text ? co_query(q, text) : -ENOMEM;
    }
    return r < 0 ? r : at->failed || cursor_left(at) ? -EINVAL : 0;
}

/* ---- the options ---- */

static int co_tell(struct nbd_negotiation *n, uint32_t option, uint32_t id,
                   const struct nbd_context *context)
{
    struct {
        struct be32 id;
        char name[BLOCK_BITMAP_NAME_MAX + 64];
    } reply = {.id = be32_of(id)};
    int length = snprintf(reply.name, sizeof(reply.name), "%s%s", prefixes[context->kind],
                          context->bitmap ? context->bitmap : "");
    return co_nbd_option_reply(n, option, NBD_REP_META_CONTEXT, &reply, 4 + (size_t)length);
}

static int co_answer(struct nbd_negotiation *n, uint32_t option, struct nbd_export *export,
                     struct cursor *at, uint32_t count)
{
    struct nbd_connection *c = n->connection;
    bool list = option == NBD_OPT_LIST_META_CONTEXT;
    struct queries queries = {.connection = c, .export = export, .list = list};
    int r = co_take_queries(&queries, at, count);
    if (r == -EINVAL)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "malformed queries");
    for (unsigned i = 0; i < c->context_count && r == 0; i++)
        r = co_tell(n, option, list ? 0 : i + 1, &c->contexts[i]);
    if (r == 0 && !list) {
        c->contexts_export = strdup(export->name);
        r = c->contexts_export ? 0 : -ENOMEM;
    }
    return r < 0 ? r : co_nbd_option_reply(n, option, NBD_REP_ACK, NULL, 0);
}

int co_nbd_meta_context(struct nbd_negotiation *n, uint32_t option, const uint8_t *data,
                        size_t length)
{
    struct nbd_connection *c = n->connection;
    struct cursor at = cursor_of(data, length);
    uint32_t name_bytes = cursor_be32(&at);
    const uint8_t *name = cursor_take(&at, name_bytes);
    uint32_t count = cursor_be32(&at);
    nbd_contexts_clear(c);
    free(steal_ptr(&c->contexts_export));
    if (!c->structured && !c->extended)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID,
                                   "structured replies must be agreed on first");
    if (at.failed || name_bytes > NBD_STRING_MAX || count > NBD_QUERIES_MAX)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "malformed request");
    struct nbd_export *export = nbd_export_use(c->lane->server, (const char *)name, name_bytes);
    if (!export)
        return co_nbd_option_error(n, option, NBD_REP_ERR_UNKNOWN, "no export of that name");
    int r = co_answer(n, option, export, &at, count);
    nbd_export_leave(export);
    if (!c->contexts_export)
        nbd_contexts_clear(c);
    return r;
}
