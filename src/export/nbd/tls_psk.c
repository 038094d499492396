/*
 * Pre-shared keys: the file that psktool writes, and the answer to a client's name.
 *
 *   alice:0f1e2d...          a name and its key, both up to the limits of tls_internal.h
 *   #616c696365:0f1e2d...    a name in hexadecimal, for those that hold other bytes than these
 *
 * Names and keys are compared by the library; a name that is not there gets a random key, so that a
 * client without a key cannot find out which names exist.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/tls_internal.h"

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* @return bytes, or -EINVAL: other characters, half a byte, more than @room. */
static int from_hex(const char *text, size_t length, uint8_t *bytes, size_t room)
{
    if (length % 2 || length / 2 > room)
        return -EINVAL;
    for (size_t i = 0; i < length; i += 2) {
        int high = digit_of(text[i]), low = digit_of(text[i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        bytes[i / 2] = (uint8_t)(high << 4 | low);
    }
    return (int)(length / 2);
}

/* @return 0 or what is wrong with it. */
static const char *take_name(const char *text, size_t length, struct nbd_psk_key *key)
{
    int n = (int)length;
    if (length && *text == '#')
        n = from_hex(text + 1, length - 1, (uint8_t *)key->name, NBD_PSK_NAME_MAX);
    else if (length <= NBD_PSK_NAME_MAX)
        memcpy(key->name, text, length);
    else
        n = -EINVAL;
    if (n < 0 && *text == '#')
        return "after '#' the name is in hexadecimal, of up to 128 bytes; this file has no "
               "comments";
    if (n < 1 || memchr(key->name, 0, (size_t)n))
        return "a name has 1 to 128 bytes, none of them 0";
    return NULL;
}

static const char *take_line(const char *line, size_t length, struct nbd_psk_key *key)
{
    const char *colon = memrchr(line, ':', length);
    if (!colon)
        return "a line is NAME:KEY, the key in hexadecimal (psktool -u NAME -p keys.psk makes it)";
    const char *wrong = take_name(line, (size_t)(colon - line), key);
    if (wrong)
        return wrong;
    int n = from_hex(colon + 1, length - (size_t)(colon + 1 - line), key->bytes, NBD_PSK_BYTES_MAX);
    if (n < NBD_PSK_BYTES_MIN)
        return "a key is 32 to 128 digits in hexadecimal (psktool -u NAME -p keys.psk makes one)";
    key->length = (unsigned)n;
    return NULL;
}

const struct nbd_psk_key *nbd_psk_find(const struct nbd_psk *psk, const char *name)
{
    for (unsigned i = 0; i < psk->count; i++)
        if (!strcmp(psk->keys[i].name, name))
            return &psk->keys[i];
    return NULL;
}

static int add_line(struct nbd_psk *psk, const char *line, size_t length, const char *where,
                    unsigned number, struct hws_error *err)
{
    if (psk->count == NBD_PSK_KEYS_MAX)
        return hws_fail(err, E2BIG, "%s holds more than %u keys", where, NBD_PSK_KEYS_MAX);
    struct nbd_psk_key key = {.length = 0};
    const char *wrong = take_line(line, length, &key);
    if (wrong)
        return hws_fail(err, EINVAL, "%s, line %u: %s", where, number, wrong);
    if (nbd_psk_find(psk, key.name))
        return hws_fail(err, EINVAL, "%s, line %u: a second key for the same name", where, number);
    psk->keys[psk->count++] = key;
    OPENSSL_cleanse(&key, sizeof(key));
    return 0;
}

static unsigned count_lines(const char *text, size_t length)
{
    unsigned lines = 1;
    for (size_t i = 0; i < length; i++)
        lines += text[i] == '\n';
    return lines;
}

int nbd_psk_parse(const char *text, size_t length, const char *where, struct nbd_psk *ret,
                  struct hws_error *err)
{
    const char *end = text + length;
    struct nbd_psk psk = {.count = 0};
    unsigned lines = MIN(count_lines(text, length), NBD_PSK_KEYS_MAX), number = 1;
    int r = 0;
    psk.keys = calloc(lines, sizeof(*psk.keys));
    if (!psk.keys)
        return hws_fail(err, ENOMEM, "out of memory");
    for (const char *at = text, *next; at < end && r == 0; at = next, number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        while (stop > at && (stop[-1] == '\r' || stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        if (stop > at)
            r = add_line(&psk, at, (size_t)(stop - at), where, number, err);
    }
    if (r == 0 && psk.count == 0)
        r = hws_fail(err, EINVAL, "%s holds no key (psktool -u NAME -p %s makes one)", where,
                     where);
    if (r == 0 && RAND_bytes(psk.decoy, sizeof(psk.decoy)) != 1)
        r = hws_fail(err, EIO, "no random numbers");
    if (r < 0)
        nbd_psk_free(&psk);
    else
        *ret = psk;
    return r;
}

void nbd_psk_free(struct nbd_psk *psk)
{
    if (psk->keys)
        OPENSSL_cleanse(psk->keys, psk->count * sizeof(*psk->keys));
    free(steal_ptr(&psk->keys));
    psk->count = 0;
}

unsigned nbd_tls_psk_callback(SSL *ssl, const char *identity, unsigned char *key, unsigned max)
{
    struct nbd_tls_session *session = SSL_get_app_data(ssl);
    const struct nbd_psk *psk = &session->tls->psk;
    snprintf(session->identity, sizeof(session->identity), "%s", identity ? identity : "");
    for (char *at = session->identity; *at; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
    session->key = identity ? nbd_psk_find(psk, identity) : NULL;
    const uint8_t *bytes = session->key ? session->key->bytes : psk->decoy;
    size_t length = session->key ? session->key->length : sizeof(psk->decoy);
    if (length > max)
        return 0;
    memcpy(key, bytes, length);
    return (unsigned)length;
}
