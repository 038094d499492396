/*
 * The options of a negotiation.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "export/nbd/internal.h"

/* A copy of what is to be told, since sending suspends: for each export 32 bits with the length of
 * the reply, then the reply. NULL when out of memory. */
static uint8_t *list_exports(struct nbd_server *server, unsigned *ret_count)
{
    size_t bytes = 0;
    *ret_count = 0;
    rt_mutex_lock(&server->lock);
    list_for_each (link, &server->exports) {
        const struct nbd_export *export = list_entry(link, struct nbd_export, link);
        bytes += 8 + strlen(export->name) + strlen(export->description ? export->description : "");
    }
    uint8_t *replies = malloc(bytes + 1), *at = replies;
    list_for_each (link, &server->exports) {
        const struct nbd_export *export = list_entry(link, struct nbd_export, link);
        const char *text = export->description ? export->description : "";
        size_t name = strlen(export->name), description = strlen(text);
        if (!replies)
            break;
        store_be32(at, (uint32_t)(4 + name + description));
        store_be32(at + 4, (uint32_t)name);
        memcpy(at + 8, export->name, name);
        memcpy(at + 8 + name, text, description);
        at += 8 + name + description;
        ++*ret_count;
    }
    rt_mutex_unlock(&server->lock);
    return replies;
}

static int co_list(struct nbd_negotiation *n)
{
    unsigned count;
    int r = 0;
    autofree uint8_t *replies = list_exports(n->connection->lane->server, &count);
    if (!replies)
        return -ENOMEM;
    const uint8_t *at = replies;
    for (unsigned i = 0; i < count && r == 0; i++) {
        uint32_t length = load_be32(at);
        r = co_nbd_option_reply(n, NBD_OPT_LIST, NBD_REP_SERVER, at + 4, length);
        at += 4 + length;
    }
    return r < 0 ? r : co_nbd_option_reply(n, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static bool has_structured(const struct nbd_connection *c)
{
    return c->structured || c->extended;
}

/* The contexts that were chosen are of @export, under whatever name. */
static bool has_contexts(const struct nbd_connection *c, const struct nbd_export *export)
{
    return c->context_count && c->contexts_export && !strcmp(c->contexts_export, export->name);
}

static uint16_t flags_for(const struct nbd_connection *c, const struct nbd_export *export)
{
    unsigned flags = nbd_export_flags(export, has_structured(c));
    if (c->extended && has_contexts(c, export))
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return (uint16_t)flags;
}

int co_nbd_export_refused(struct nbd_negotiation *n, uint32_t option, int result)
{
    if (result == -EUSERS)
        return co_nbd_option_error(n, option, NBD_REP_ERR_POLICY,
                                   "this export has as many clients as it may");
    if (result == -ESHUTDOWN)
        return co_nbd_option_error(n, option, NBD_REP_ERR_SHUTDOWN, "this export is about to end");
    return co_nbd_option_error(n, option, NBD_REP_ERR_UNKNOWN, "no export of that name");
}

/* ---- INFO and GO ---- */

static int co_text_info(struct nbd_negotiation *n, uint32_t option, uint16_t type, const char *text)
{
    struct {
        struct be16 type;
        char text[NBD_STRING_MAX];
    } info = {.type = be16_of(type)};
    size_t length = MIN(strlen(text), sizeof(info.text));
    memcpy(info.text, text, length);
    return co_nbd_option_reply(n, option, NBD_REP_INFO, &info, sizeof(info.type) + length);
}

static int co_send_info(struct nbd_negotiation *n, uint32_t option, const struct nbd_export *export,
                        struct cursor *wanted)
{
    struct nbd_info_export main = {be16_of(NBD_INFO_EXPORT), be64_of(block_root_size(export->root)),
                                   be16_of(flags_for(n->connection, export))};
    struct nbd_info_block_size sizes = {be16_of(NBD_INFO_BLOCK_SIZE), be32_of(1),
                                        be32_of(export->preferred_bytes), be32_of(NBD_PAYLOAD_MAX)};
    int r = 0;
    while (cursor_left(wanted) && r == 0) {
        uint16_t type = cursor_be16(wanted);
        if (type == NBD_INFO_NAME)
            r = co_text_info(n, option, type, export->name);
        else if (type == NBD_INFO_DESCRIPTION && export->description)
            r = co_text_info(n, option, type, export->description);
    }
    /* Told unasked: clients that do not know it pass over it. */
    if (r == 0)
        r = co_nbd_option_reply(n, option, NBD_REP_INFO, &sizes, sizeof(sizes));
    if (r == 0)
        r = co_nbd_option_reply(n, option, NBD_REP_INFO, &main, sizeof(main));
    return r < 0 ? r : co_nbd_option_reply(n, option, NBD_REP_ACK, NULL, 0);
}

static int begin(struct nbd_negotiation *n, struct nbd_export *export)
{
    struct nbd_connection *c = n->connection;
    rt_mutex_lock(&c->lane->server->lock);
    c->export = export;
    bool removed = export->removed;
    rt_mutex_unlock(&c->lane->server->lock);
    if (removed)
        return -ESHUTDOWN;
    /* "If the export name differs, the server MUST NOT use the contexts." */
    if (!has_contexts(c, export))
        nbd_contexts_clear(c);
    free(steal_ptr(&c->contexts_export));
    return 1;
}

static int co_info(struct nbd_negotiation *n, uint32_t option, const uint8_t *data, size_t length)
{
    struct cursor at = cursor_of(data, length);
    uint32_t name_bytes = cursor_be32(&at);
    const uint8_t *name = cursor_take(&at, name_bytes);
    size_t wanted_bytes = (size_t)cursor_be16(&at) * 2;
    if (at.failed || cursor_left(&at) != wanted_bytes || name_bytes > NBD_STRING_MAX)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "malformed request");
    struct nbd_server *server = n->connection->lane->server;
    struct nbd_export *export;
    bool look = option == NBD_OPT_INFO;
    int r = look ? nbd_export_look(server, (const char *)name, name_bytes, &export)
                 : nbd_export_use(server, (const char *)name, name_bytes, &export);
    if (r < 0)
        return co_nbd_export_refused(n, option, r);
    r = co_send_info(n, option, export, &at);
    if (r == 0 && !look)
        return begin(n, export);
    nbd_export_leave(export, look);
    return r;
}

/* The oldest way has no errors: an unknown name ends the connection. */
static int co_export_name(struct nbd_negotiation *n, const uint8_t *data, size_t length)
{
    struct nbd_connection *c = n->connection;
    struct nbd_export *export;
    int r = nbd_export_use(c->lane->server, (const char *)data, length, &export);
    if (r < 0)
        return r;
    struct nbd_export_name_reply reply = {.size = be64_of(block_root_size(export->root)),
                                          .flags = be16_of(flags_for(c, export))};
    r = co_nbd_send_all(
        n, &reply, c->no_zeroes ? offsetof(struct nbd_export_name_reply, zeroes) : sizeof(reply));
    if (r == 0)
        return begin(n, export);
    nbd_export_leave(export, false);
    return r;
}

static int co_switch(struct nbd_negotiation *n, uint32_t option, size_t length, bool *which)
{
    if (length)
        return co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "this option has no data");
    *which = true;
    return co_nbd_option_reply(n, option, NBD_REP_ACK, NULL, 0);
}

static int co_abort(struct nbd_negotiation *n)
{
    int r = co_nbd_option_reply(n, NBD_OPT_ABORT, NBD_REP_ACK, NULL, 0);
    return r < 0 ? r : -ESHUTDOWN;
}

int co_nbd_option(struct nbd_negotiation *n, uint32_t option, const uint8_t *data, size_t length)
{
    struct nbd_connection *c = n->connection;
    if (!n->fixed && option != NBD_OPT_EXPORT_NAME)
        return -EPROTO; /* it could not take an error */
    if (option == NBD_OPT_STARTTLS)
        return co_nbd_starttls(n, length);
    if (option != NBD_OPT_ABORT && nbd_tls_is_wanted(c))
        return option == NBD_OPT_EXPORT_NAME
                   ? -EPROTO
                   : co_nbd_option_error(n, option, NBD_REP_ERR_TLS_REQD, "begin TLS first");
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return c->extended ? -EPROTO : co_export_name(n, data, length);
    case NBD_OPT_ABORT:
        return co_abort(n);
    case NBD_OPT_LIST:
        return length ? co_nbd_option_error(n, option, NBD_REP_ERR_INVALID, "LIST has no data")
                      : co_list(n);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return co_info(n, option, data, length);
    case NBD_OPT_STRUCTURED_REPLY:
        return c->extended ? co_nbd_option_error(n, option, NBD_REP_ERR_EXT_HEADER_REQD,
                                                 "extended headers were agreed on already")
                           : co_switch(n, option, length, &c->structured);
    case NBD_OPT_EXTENDED_HEADERS:
        return co_switch(n, option, length, &c->extended);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return co_nbd_meta_context(n, option, data, length);
    default:
        return co_nbd_option_error(n, option, NBD_REP_ERR_UNSUP, "option not supported");
    }
}
