/*
 * The negotiation: what does this server export?
 *
 *     greeting, flags -> [STARTTLS] -> STRUCTURED_REPLY -> LIST
 *         of each export: INFO, LIST_META_CONTEXT twice -> ABORT
 *
 * A server of the old style tells of its one export in the greeting. Messages are those of
 * qemu-nbd: who reads them knows them from there.
 *
 * Every number and text is the server's: lengths are compared before anything is allocated, and a
 * budget bounds all of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "host/nbd_client/internal.h"
#include <limits.h>

#define MAGIC_OLD_STYLE 0x00420281861253ull

struct talk {
    struct nbd_channel *channel;
    uint64_t left_bytes; /* of NBD_CLIENT_BYTES_MAX */
    bool structured;
    uint8_t *payload; /* NBD_CLIENT_REPLY_MAX and one byte */
    uint32_t option;  /* that the reply below is for */
    uint32_t type, length;
};

static const char *option_name(uint32_t option)
{
    static const char *const names[] = {
        [1] = "export name",
        [2] = "abort",
        [3] = "list",
        [5] = "starttls",
        [6] = "info",
        [7] = "go",
        [8] = "structured reply",
        [9] = "list meta context",
        [10] = "set meta context",
        [11] = "extended headers",
    };
    return option < ARRAY_LEN(names) && names[option] ? names[option] : "<unknown>";
}

static const char *reply_name(uint32_t type)
{
    static const char *const good[] = {"<unknown>", "ack", "server", "info", "meta context"};
    static const char *const bad[] = {"<unknown>",
                                      "unsupported",
                                      "denied by policy",
                                      "invalid",
                                      "platform lacks support",
                                      "TLS required",
                                      "export unknown",
                                      "server shutting down",
                                      "block size required"};
    uint32_t number = type & ~NBD_REP_ERROR_BIT;
    if (type & NBD_REP_ERROR_BIT)
        return number < ARRAY_LEN(bad) ? bad[number] : bad[0];
    return number < ARRAY_LEN(good) ? good[number] : good[0];
}

/* ---- pieces ---- */

static int receive(struct talk *talk, void *bytes, size_t length, const char *what,
                   struct hws_error *err)
{
    struct hws_error why = {0};
    if (length > talk->left_bytes)
        return hws_fail(err, E2BIG, "Failed to read %s: the server's list is too long", what);
    talk->left_bytes -= length;
    int r = talk->channel->receive(talk->channel, bytes, length, &why);
    return r < 0 ? hws_fail(err, -r, "Failed to read %s: %s", what, why.text) : 0;
}

static int send_option(struct talk *talk, uint32_t option, const void *data, size_t length,
                       struct hws_error *err)
{
    struct nbd_option head = {be64_of(NBD_MAGIC_OPTION), be32_of(option),
                              be32_of((uint32_t)length)};
    struct hws_error why = {0};
    int r = talk->channel->send(talk->channel, &head, sizeof(head), &why);
    if (r == 0 && length)
        r = talk->channel->send(talk->channel, data, length, &why);
    return r < 0 ? hws_fail(err, -r, "Failed to send option request header: %s", why.text) : 0;
}

/* The head of a reply; its payload is still to be read. */
static int receive_head(struct talk *talk, uint32_t option, struct hws_error *err)
{
    struct nbd_option_reply head;
    int r = receive(talk, &head, sizeof(head), "option reply", err);
    if (r < 0)
        return r;
    if (be64_get(head.magic) != NBD_MAGIC_OPTION_REPLY)
        return hws_fail(err, EPROTO, "Unexpected option reply magic");
    if (be32_get(head.option) != option)
        return hws_fail(err, EPROTO, "Unexpected option type %u (%s), expected %u (%s)",
                        be32_get(head.option), option_name(be32_get(head.option)), option,
                        option_name(option));
    talk->option = option;
    talk->type = be32_get(head.type);
    talk->length = be32_get(head.length);
    return 0;
}

static int receive_payload(struct talk *talk, const char *what, struct hws_error *err)
{
    assert(talk->length <= NBD_CLIENT_REPLY_MAX);
    talk->payload[talk->length] = '\0';
    return receive(talk, talk->payload, talk->length, what, err);
}

/* What the server says may go to a terminal. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

/*
 * Where the reply is an error, takes it all. @return 0: none; 1: the option is not supported;
 * -errno: told.
 */
static int take_error(struct talk *talk, struct hws_error *err)
{
    if (!(talk->type & NBD_REP_ERROR_BIT))
        return 0;
    if (talk->length > NBD_CLIENT_REPLY_MAX)
        return hws_fail(err, EPROTO, "server error %u (%s) message is too long", talk->type,
                        reply_name(talk->type));
    int r = receive_payload(talk, "option error message", err);
    if (r < 0)
        return r;
    char *said = (char *)talk->payload;
    make_printable(said);
    const char *before = *said ? "\nserver reported: " : "", *name = option_name(talk->option);
    unsigned option = talk->option;
    switch (talk->type) {
    case NBD_REP_ERR_UNSUP:
        return 1;
    case NBD_REP_ERR_POLICY:
        return hws_fail(err, EACCES, "Denied by server for option %u (%s)%s%.500s", option, name,
                        before, said);
    case NBD_REP_ERR_INVALID:
        return hws_fail(err, EINVAL, "Invalid parameters for option %u (%s)%s%.500s", option, name,
                        before, said);
    case NBD_REP_ERR_PLATFORM:
        return hws_fail(err, ENOTSUP, "Server lacks support for option %u (%s)%s%.500s", option,
                        name, before, said);
    case NBD_REP_ERR_TLS_REQD:
        return hws_fail(err, EACCES,
                        "TLS negotiation required before option %u (%s)\n"
                        "Did you forget a valid tls-creds?%s%.500s",
                        option, name, before, said);
    case NBD_REP_ERR_UNKNOWN:
        return hws_fail(err, ENOENT, "Requested export not available%s%.500s", before, said);
    case NBD_REP_ERR_SHUTDOWN:
        return hws_fail(err, ESHUTDOWN, "Server shutting down before option %u (%s)%s%.500s",
                        option, name, before, said);
    case NBD_REP_ERR_BLOCK_SIZE_REQD:
        return hws_fail(err, EINVAL, "Server requires INFO_BLOCK_SIZE for option %u (%s)%s%.500s",
                        option, name, before, said);
    default:
        return hws_fail(err, EPROTO, "Unknown error code when asking for option %u (%s)%s%.500s",
                        option, name, before, said);
    }
}

/* An option that is answered with one ACK. @return 1: agreed, 0: not supported, -errno. */
static int ask_simple(struct talk *talk, uint32_t option, bool must, struct hws_error *err)
{
    int r = send_option(talk, option, NULL, 0, err);
    if (r == 0)
        r = receive_head(talk, option, err);
    if (r < 0)
        return r;
    struct hws_error why = {0};
    bool told_error = talk->type & NBD_REP_ERROR_BIT;
    r = take_error(talk, &why);
    if (r < 0 && (must || !told_error || why.code == EPIPE)) {
        *err = why;
        return r;
    }
    if (told_error)
        return 0;
    if (talk->type != NBD_REP_ACK)
        return hws_fail(err, EPROTO, "Server answered option %u (%s) with unexpected reply %u (%s)",
                        option, option_name(option), talk->type, reply_name(talk->type));
    if (talk->length)
        return hws_fail(err, EPROTO, "Option %u ('%s') response length is %u (it should be zero)",
                        option, option_name(option), talk->length);
    return 1;
}

/* ---- the list ---- */

static struct nbd_listed *add_export(struct nbd_list *list, struct hws_error *err)
{
    if (list->count == NBD_CLIENT_EXPORTS_MAX) {
        hws_fail(err, E2BIG, "the server lists more than %u exports", NBD_CLIENT_EXPORTS_MAX);
        return NULL;
    }
    if ((list->count & (list->count - 1)) == 0) {
        size_t room = list->count ? 2 * (size_t)list->count : 1;
        struct nbd_listed *larger = reallocarray(list->exports, room, sizeof(*larger));
        if (!larger) {
            hws_fail(err, ENOMEM, "out of memory");
            return NULL;
        }
        list->exports = larger;
    }
    struct nbd_listed *export = &list->exports[list->count++];
    *export = (struct nbd_listed){0};
    return export;
}

static int take_listed(struct talk *talk, struct nbd_list *list, struct hws_error *err)
{
    struct cursor at = cursor_of(talk->payload, talk->length);
    uint32_t name_bytes = cursor_be32(&at);
    if (name_bytes > NBD_STRING_MAX || name_bytes > cursor_left(&at))
        return hws_fail(err, EPROTO, "incorrect name length in server's list response");
    const char *name = (const char *)cursor_take(&at, name_bytes);
    size_t rest = cursor_left(&at);
    if (rest > NBD_STRING_MAX)
        return hws_fail(err, EPROTO, "incorrect description length in server's list response");
    const char *description = rest ? (const char *)cursor_take(&at, rest) : NULL;
    struct nbd_listed *export = add_export(list, err);
    if (!export)
        return -(int)err->code;
    export->name = strndup(name, name_bytes);
    export->description = description ? strndup(description, rest) : NULL;
    if (!export->name || (description && !export->description))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

static int ask_list(struct talk *talk, struct nbd_list *list, struct hws_error *err)
{
    int r = send_option(talk, NBD_OPT_LIST, NULL, 0, err);
    while (r == 0) {
        r = receive_head(talk, NBD_OPT_LIST, err);
        if (r < 0)
            return r;
        int error = take_error(talk, err);
        if (error)
            return MIN(error, 0);
        if (talk->type == NBD_REP_ACK)
            return talk->length ? hws_fail(err, EPROTO, "length too long for option end") : 0;
        if (talk->type != NBD_REP_SERVER)
            return hws_fail(err, EPROTO, "Unexpected reply type %u (%s), expected %u (%s)",
                            talk->type, reply_name(talk->type), NBD_REP_SERVER,
                            reply_name(NBD_REP_SERVER));
        if (talk->length < 4 || talk->length > NBD_CLIENT_REPLY_MAX)
            return hws_fail(err, EPROTO, "incorrect option length %u", talk->length);
        r = receive_payload(talk, "option name", err);
        if (r == 0)
            r = take_listed(talk, list, err);
    }
    return r;
}

/* ---- one export ---- */

static int take_block_size(struct cursor *at, struct nbd_listed *export, struct hws_error *err)
{
    uint32_t minimum = cursor_be32(at), preferred = cursor_be32(at), maximum = cursor_be32(at);
    if (!minimum || minimum & (minimum - 1))
        return hws_fail(err, EPROTO, "server minimum block size %u is not a power of two", minimum);
    if (!preferred || preferred & (preferred - 1) || preferred < minimum)
        return hws_fail(err, EPROTO, "server preferred block size %u is not valid", preferred);
    if (maximum < minimum)
        return hws_fail(err, EPROTO, "server maximum block size %u is not valid", maximum);
    export->minimum = minimum;
    export->preferred = preferred;
    export->maximum = maximum;
    return 0;
}

static int take_info(struct talk *talk, struct nbd_listed *export, struct hws_error *err)
{
    struct cursor at = cursor_of(talk->payload, talk->length);
    unsigned type = cursor_be16(&at);
    size_t rest = cursor_left(&at);
    if ((type == NBD_INFO_EXPORT && rest != 10) || (type == NBD_INFO_BLOCK_SIZE && rest != 12))
        return hws_fail(err, EPROTO, "remaining export info len %zu is unexpected size", rest);
    if (type == NBD_INFO_BLOCK_SIZE)
        return take_block_size(&at, export, err);
    if (type == NBD_INFO_EXPORT) {
        export->size_bytes = cursor_be64(&at);
        export->flags = cursor_be16(&at);
    }
    return 0; /* others are told to those who know them */
}

static void forget_info(struct nbd_listed *export)
{
    export->size_bytes = 0;
    export->flags = 0;
    export->minimum = export->preferred = export->maximum = 0;
}

/* @return 1: told, 0: not supported, -errno. */
static int ask_info(struct talk *talk, struct nbd_listed *export, struct hws_error *err)
{
    struct {
        struct be32 length;
        char rest[NBD_STRING_MAX + 4];
    } ask;
    size_t length = strlen(export->name);
    ask.length = be32_of((uint32_t)length);
    memcpy(ask.rest, export->name, length);
    memcpy(ask.rest + length, "\0\1\0\3", 4); /* one request: the block sizes */
    int r = send_option(talk, NBD_OPT_INFO, &ask, 8 + length, err);
    for (unsigned count = 0; r == 0; count++) {
        r = receive_head(talk, NBD_OPT_INFO, err);
        if (r < 0)
            return r;
        int error = take_error(talk, err);
        if (error)
            forget_info(export); /* what it told before it refused counts for nothing */
        if (error)
            return MIN(error, 0);
        if (talk->type == NBD_REP_ACK && talk->length)
            return hws_fail(err, EPROTO, "server sent invalid NBD_REP_ACK");
        if (talk->type == NBD_REP_ACK)
            return export->flags ? 1
                                 : hws_fail(err, EPROTO, "broken server omitted NBD_INFO_EXPORT");
        if (talk->type != NBD_REP_INFO)
            return hws_fail(err, EPROTO, "unexpected reply type %u (%s), expected %u (%s)",
                            talk->type, reply_name(talk->type), NBD_REP_INFO,
                            reply_name(NBD_REP_INFO));
        if (talk->length < 2)
            return hws_fail(err, EPROTO, "NBD_REP_INFO length %u is too short", talk->length);
        if (talk->length > NBD_CLIENT_REPLY_MAX || count == NBD_CLIENT_INFOS_MAX)
            return hws_fail(err, EPROTO, "the server tells too much of an export");
        r = receive_payload(talk, "info", err);
        if (r == 0)
            r = take_info(talk, export, err);
    }
    return r;
}

static int add_context(struct talk *talk, struct nbd_listed *export, struct hws_error *err)
{
    if (export->context_count == NBD_CLIENT_CONTEXTS_MAX)
        return hws_fail(err, E2BIG, "the server has more than %u meta contexts of an export",
                        NBD_CLIENT_CONTEXTS_MAX);
    if (!export->contexts)
        export->contexts = calloc(NBD_CLIENT_CONTEXTS_MAX, sizeof(*export->contexts));
    char *name = export->contexts ? strdup((const char *)talk->payload + 4) : NULL;
    if (!name)
        return hws_fail(err, ENOMEM, "out of memory");
    export->contexts[export->context_count++] = name;
    return 0;
}

/* The contexts that @query ("" for none) stands for. An error only means that there are no more. */
static int ask_contexts(struct talk *talk, struct nbd_listed *export, const char *query,
                        struct hws_error *err)
{
    uint8_t ask[NBD_STRING_MAX + 64];
    size_t name = strlen(export->name), length = strlen(query), used = 8 + name;
    store_be32(ask, (uint32_t)name);
    memcpy(ask + 4, export->name, name);
    store_be32(ask + 4 + name, *query ? 1 : 0);
    if (*query) {
        store_be32(ask + used, (uint32_t)length);
        memcpy(ask + used + 4, query, length);
        used += 4 + length;
    }
    int r = send_option(talk, NBD_OPT_LIST_META_CONTEXT, ask, used, err);
    while (r == 0) {
        r = receive_head(talk, NBD_OPT_LIST_META_CONTEXT, err);
        if (r < 0)
            return r;
        struct hws_error why = {0};
        bool told_error = talk->type & NBD_REP_ERROR_BIT;
        r = take_error(talk, &why);
        if (told_error && (r > 0 || why.code != EPIPE))
            return 0;
        if (r < 0)
            return hws_fail(err, -r, "%s", why.text);
        if (talk->type == NBD_REP_ACK)
            return talk->length ? hws_fail(err, EPROTO, "Unexpected length to ACK response") : 0;
        if (talk->type != NBD_REP_META_CONTEXT)
            return hws_fail(err, EPROTO, "Unexpected reply type %u (%s), expected %u (%s)",
                            talk->type, reply_name(talk->type), NBD_REP_META_CONTEXT,
                            reply_name(NBD_REP_META_CONTEXT));
        if (talk->length <= 4 || talk->length > NBD_CLIENT_REPLY_MAX)
            return hws_fail(err, EPROTO,
                            "Failed to negotiate meta context, server answered with unexpected "
                            "length %u",
                            talk->length);
        r = receive_payload(talk, "context name", err);
        if (r == 0)
            r = add_context(talk, export, err);
    }
    return r;
}

static bool has_qemu_context(const struct nbd_listed *export)
{
    for (unsigned i = 0; i < export->context_count; i++)
        if (strncmp(export->contexts[i], "qemu:", 5) == 0)
            return true;
    return false;
}

static int ask_details(struct talk *talk, struct nbd_list *list, struct hws_error *err)
{
    for (unsigned i = 0; i < list->count; i++) {
        struct nbd_listed *export = &list->exports[i];
        int r = ask_info(talk, export, err);
        if (r <= 0)
            return r;
        r = talk->structured ? ask_contexts(talk, export, "", err) : 0;
        /* Some servers tell of others than the base ones only where they are asked for. */
        if (r == 0 && export->context_count && !has_qemu_context(export))
            r = ask_contexts(talk, export, "qemu:", err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the greeting ---- */

static int take_old_style(struct talk *talk, struct nbd_list *list, struct hws_error *err)
{
    struct be64 size;
    struct be32 flags;
    int r = receive(talk, &size, sizeof(size), "export length", err);
    if (r == 0)
        r = receive(talk, &flags, sizeof(flags), "export flags", err);
    if (r < 0)
        return r;
    if (be32_get(flags) > UINT16_MAX)
        return hws_fail(err, EPROTO, "Unexpected export flags 0x%x", be32_get(flags));
    struct nbd_listed *export = add_export(list, err);
    if (!export || !(export->name = strdup("")))
        return hws_fail(err, ENOMEM, "out of memory");
    export->size_bytes = be64_get(size);
    export->flags = (uint16_t)be32_get(flags);
    return 0;
}

/* @return the server's flags; -errno; or INT_MAX: it was of the old style, and is done with. */
static int greet(struct talk *talk, struct nbd_list *list, struct hws_error *err)
{
    struct be64 magic, second;
    struct be16 flags;
    struct be32 answer;
    int r = receive(talk, &magic, sizeof(magic), "initial magic", err);
    if (r < 0)
        return r;
    if (be64_get(magic) != NBD_MAGIC_INIT)
        return hws_fail(err, EPROTO, "Bad initial magic received: 0x%016llx",
                        (unsigned long long)be64_get(magic));
    r = receive(talk, &second, sizeof(second), "server magic", err);
    if (r < 0)
        return r;
    if (be64_get(second) == MAGIC_OLD_STYLE) {
        r = take_old_style(talk, list, err);
        return r < 0 ? r : INT_MAX;
    }
    if (be64_get(second) != NBD_MAGIC_OPTION)
        return hws_fail(err, EPROTO, "Bad server magic received: 0x%016llx",
                        (unsigned long long)be64_get(second));
    r = receive(talk, &flags, sizeof(flags), "server flags", err);
    if (r < 0)
        return r;
    unsigned common = be16_get(flags) & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    answer = be32_of(common);
    r = talk->channel->send(talk->channel, &answer, sizeof(answer), err);
    return r < 0 ? r : (int)common;
}

static int start_tls(struct talk *talk, const struct nbd_client_tls *tls, struct hws_error *err)
{
    int r = ask_simple(talk, NBD_OPT_STARTTLS, true, err);
    if (r < 0)
        return r;
    if (r == 0 || !talk->channel->start_tls)
        return hws_fail(err, ENOTSUP, "Server don't support STARTTLS option");
    return talk->channel->start_tls(talk->channel, tls, err);
}

static int negotiate(struct talk *talk, const struct nbd_client_tls *tls, struct nbd_list *list,
                     struct hws_error *err)
{
    int r = greet(talk, list, err);
    if (r < 0)
        return r;
    if (tls && (r == INT_MAX || !(r & NBD_FLAG_FIXED_NEWSTYLE)))
        return hws_fail(err, ENOTSUP, "Server does not support STARTTLS");
    if (r == INT_MAX)
        return 0;
    if (!(r & NBD_FLAG_FIXED_NEWSTYLE))
        return hws_fail(err, ENOTSUP, "Server does not support export lists");
    r = tls ? start_tls(talk, tls, err) : 0;
    if (r == 0)
        r = ask_simple(talk, NBD_OPT_STRUCTURED_REPLY, false, err);
    talk->structured = r > 0;
    if (r >= 0)
        r = ask_list(talk, list, err);
    if (r == 0)
        r = ask_details(talk, list, err);
    if (r == 0) /* whoever does not hear it sees the end of the connection */
        (void)!send_option(talk, NBD_OPT_ABORT, NULL, 0, NULL);
    return r;
}

int nbd_client_list(struct nbd_channel *channel, const struct nbd_client_tls *tls,
                    struct nbd_list *ret, struct hws_error *err)
{
    struct talk talk = {.channel = channel, .left_bytes = NBD_CLIENT_BYTES_MAX};
    autofree uint8_t *payload = malloc(NBD_CLIENT_REPLY_MAX + 1);
    *ret = (struct nbd_list){0};
    if (!payload)
        return hws_fail(err, ENOMEM, "out of memory");
    talk.payload = payload;
    return negotiate(&talk, tls, ret, err);
}

void nbd_list_free(struct nbd_list *list)
{
    for (unsigned i = 0; i < list->count; i++) {
        struct nbd_listed *export = &list->exports[i];
        for (unsigned j = 0; j < export->context_count; j++)
            free(export->contexts[j]);
        free(export->contexts);
        free(export->name);
        free(export->description);
    }
    free(list->exports);
    *list = (struct nbd_list){0};
}
