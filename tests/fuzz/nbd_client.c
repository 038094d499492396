/*
 * Fuzz target: the answers of an NBD server to the client that lists its exports.
 *
 * The input is what the server sends, in one stream; what the client sends must be whole options. A
 * list that succeeded holds what it says.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "fuzz.h"
#include "host/nbd_client/client.h"
#include "wire/nbd/nbd.h"

struct tape {
    struct nbd_channel channel;
    const uint8_t *at;
    size_t left;
    bool flags_sent;
    uint64_t option_left; /* of the option that is being sent */
};

static int receive(struct nbd_channel *channel, void *bytes, size_t length, struct hws_error *err)
{
    struct tape *tape = (struct tape *)channel;
    assert(length <= NBD_CLIENT_REPLY_MAX);
    if (length > tape->left)
        return hws_fail(err, EPIPE, "the tape has ended");
    if (length)
        memcpy(bytes, tape->at, length);
    tape->at += length;
    tape->left -= length;
    return 0;
}

static int send_bytes(struct nbd_channel *channel, const void *bytes, size_t length,
                      struct hws_error *err)
{
    struct tape *tape = (struct tape *)channel;
    (void)err;
    if (!tape->flags_sent) {
        assert(length == 4);
        tape->flags_sent = true;
    } else if (tape->option_left) {
        assert(length == tape->option_left);
        tape->option_left = 0;
    } else {
        const struct nbd_option *option = bytes;
        assert(length == sizeof(*option) && be64_get(option->magic) == NBD_MAGIC_OPTION);
        tape->option_left = be32_get(option->length);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct tape tape = {.channel = {receive, send_bytes, NULL, NULL}, .at = bytes, .left = length};
    struct nbd_list list;
    struct hws_error err = {0};
    int r = nbd_client_list(&tape.channel, NULL, &list, &err);
    assert(r == 0 || (r < 0 && err.code > 0 && err.text[0]));
    assert(r < 0 || tape.option_left == 0);
    assert(list.count <= NBD_CLIENT_EXPORTS_MAX);
    for (unsigned i = 0; r == 0 && i < list.count; i++) {
        const struct nbd_listed *export = &list.exports[i];
        assert(strlen(export->name) <= NBD_STRING_MAX);
        assert(!export->minimum || (export->preferred >= export->minimum && export->flags));
        assert(export->context_count <= NBD_CLIENT_CONTEXTS_MAX);
        for (unsigned j = 0; j < export->context_count; j++)
            assert(strlen(export->contexts[j]) <= NBD_CLIENT_REPLY_MAX);
    }
    nbd_list_free(&list);
    return 0;
}
