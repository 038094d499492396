/*
 * Meta contexts: what block status can tell of, listed and chosen.
 *
 *   base:allocation           holes and zeroes
 *   qemu:allocation-depth     which layer of the chain answers, 1 for the first, 0 for none
 *   qemu:dirty-bitmap:NAME    what a bitmap of the image has marked
 *
 * A list answers what there is and one of the queries fits; a choice takes the queries one by one,
 * by their whole names.
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

/* Bitmaps that a list tells of; more can be chosen. */
#define LIST_BITMAPS_MAX 1024

void nbd_contexts_clear(struct nbd_connection *c)
{
    for (unsigned i = 0; i < c->context_count; i++)
        free(steal_ptr(&c->contexts[i].bitmap));
    c->context_count = 0;
}

struct queries {
    struct nbd_negotiation *n;
    uint32_t option;
    const struct nbd_export *export;
    char *text[NBD_QUERIES_MAX];
    unsigned count;
};

static int co_tell(const struct queries *q, uint32_t id, enum nbd_context_kind kind,
                   const char *bitmap)
{
    struct {
        struct be32 id;
        char name[BLOCK_BITMAP_NAME_MAX + 64];
    } reply = {.id = be32_of(id)};
    int length = snprintf(reply.name, sizeof(reply.name), "%s%s", prefixes[kind], bitmap);
    return co_nbd_option_reply(q->n, q->option, NBD_REP_META_CONTEXT, &reply, 4 + (size_t)length);
}

/* ---- listing ---- */

/* The first words of a name with their colon stand for all names that begin so. No query at all is
 * one for everything. */
static bool is_asked_for(const struct queries *q, enum nbd_context_kind kind, const char *bitmap)
{
    char name[BLOCK_BITMAP_NAME_MAX + 64];
    snprintf(name, sizeof(name), "%s%s", prefixes[kind], bitmap);
    for (unsigned i = 0; i < q->count; i++) {
        size_t length = strlen(q->text[i]);
        if (!strcmp(name, q->text[i]) ||
            (length && q->text[i][length - 1] == ':' && !strncmp(name, q->text[i], length)))
            return true;
    }
    return q->count == 0;
}

static int co_list(const struct queries *q)
{
    char name[BLOCK_BITMAP_NAME_MAX + 1];
    int r = 0;
    if (is_asked_for(q, NBD_CONTEXT_ALLOCATION, ""))
        r = co_tell(q, 0, NBD_CONTEXT_ALLOCATION, "");
    if (r == 0 && !q->export->no_depth && is_asked_for(q, NBD_CONTEXT_DEPTH, ""))
        r = co_tell(q, 0, NBD_CONTEXT_DEPTH, "");
    for (unsigned i = 0; i < LIST_BITMAPS_MAX && r == 0; i++) {
        if (co_root_bitmap_name(q->export->root, i, name) < 0)
            break;
        if (nbd_export_shows(q->export, name) && is_asked_for(q, NBD_CONTEXT_BITMAP, name))
            r = co_tell(q, 0, NBD_CONTEXT_BITMAP, name);
    }
    return r;
}

/* ---- choosing ---- */

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

/* One that nobody can read, since it was left in use, is not there. */
static bool co_has_bitmap(const struct nbd_export *export, const char *name)
{
    bool dirty;
    uint64_t length;
    return *name && nbd_export_shows(export, name) && block_root_size(export->root) &&
           co_root_bitmap_next(export->root, name, 0, 1, &dirty, &length) == 0;
}

static int co_choose(const struct queries *q)
{
    struct nbd_connection *c = q->n->connection;
    size_t prefix = strlen(prefixes[NBD_CONTEXT_BITMAP]);
    int r = 0;
    for (unsigned i = 0; i < q->count && r == 0; i++) {
        const char *text = q->text[i];
        if (!strcmp(text, prefixes[NBD_CONTEXT_ALLOCATION]))
            r = choose(c, NBD_CONTEXT_ALLOCATION, NULL);
        else if (!strcmp(text, prefixes[NBD_CONTEXT_DEPTH]) && !q->export->no_depth)
            r = choose(c, NBD_CONTEXT_DEPTH, NULL);
        else if (!strncmp(text, prefixes[NBD_CONTEXT_BITMAP], prefix) &&
                 co_has_bitmap(q->export, text + prefix))
            r = choose(c, NBD_CONTEXT_BITMAP, text + prefix);
    }
    for (unsigned i = 0; i < c->context_count && r == 0; i++)
        r = co_tell(q, i + 1, c->contexts[i].kind,
                    c->contexts[i].bitmap ? c->contexts[i].bitmap : "");
    if (r == 0) {
        c->contexts_export = strdup(q->export->name);
        r = c->contexts_export ? 0 : -ENOMEM;
    }
    return r;
}

/* ---- the options ---- */

static int take_queries(struct queries *q, struct cursor *at, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = cursor_be32(at);
        const uint8_t *query = cursor_take(at, length);
        if (!query || length > NBD_STRING_MAX || memchr(query, 0, length))
            return -EINVAL;
        q->text[i] = strndup((const char *)query, length);
        if (!q->text[i])
            return -ENOMEM;
        q->count++;
    }
    return at->failed || cursor_left(at) ? -EINVAL : 0;
}

static int co_answer(struct queries *q, struct cursor *at, uint32_t count)
{
    int r = take_queries(q, at, count);
    if (r == -EINVAL)
        return co_nbd_option_error(q->n, q->option, NBD_REP_ERR_INVALID, "malformed queries");
    if (r == 0)
        r = q->option == NBD_OPT_LIST_META_CONTEXT ? co_list(q) : co_choose(q);
    return r < 0 ? r : co_nbd_option_reply(q->n, q->option, NBD_REP_ACK, NULL, 0);
}

int co_nbd_meta_context(struct nbd_negotiation *n, uint32_t option, const uint8_t *data,
                        size_t length)
{
    struct nbd_connection *c = n->connection;
    struct queries q = {.n = n, .option = option};
    struct cursor at = cursor_of(data, length);
    uint32_t name_bytes = cursor_be32(&at);
    const uint8_t *name = cursor_take(&at, name_bytes);
    uint32_t count = cursor_be32(&at);
    if (option == NBD_OPT_SET_META_CONTEXT) {
        /* "Issuing this command replaces all previously-set contexts (including when it fails)." */
        nbd_contexts_clear(c);
        free(steal_ptr(&c->contexts_export));
    }
    if (!c->structured && !c->extended)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID,
                                   "structured replies must be agreed on first");
    if (at.failed || name_bytes > NBD_STRING_MAX)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "malformed request");
    if (count > NBD_QUERIES_MAX)
        return co_nbd_option_error(n, option, NBD_REP_ERR_TOO_BIG, "too many queries");
    struct nbd_export *export;
    int r = nbd_export_look(c->lane->server, (const char *)name, name_bytes, &export);
    if (r < 0)
        return co_nbd_export_refused(n, option, r);
    q.export = export;
    r = co_answer(&q, &at, count);
    nbd_export_leave(export, true);
    for (unsigned i = 0; i < q.count; i++)
        free(q.text[i]);
    if (option == NBD_OPT_SET_META_CONTEXT && !c->contexts_export)
        nbd_contexts_clear(c);
    return r;
}
