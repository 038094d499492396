/*
 * Reservations as bytes, for APTPL and for taking a change back; and a file that keeps them.
 *
 *     "HWSPR001" | be32 generation | u8 type | u8 aptpl | be16 holder (index, ffff: none)
 *     be16 count | count x { be64 key | u8 all ports | be16 port | be16 length | TransportID }
 *     be64 checksum of all before it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define MAGIC        "HWSPR001"
#define HEADER_BYTES 18
#define ENTRY_BYTES  13
#define NO_HOLDER    0xffff
#define SAVED_MAX    (HEADER_BYTES + REGISTRATIONS_MAX * (ENTRY_BYTES + SCSI_TRANSPORT_ID_MAX) + 8)

static uint64_t checksum(const uint8_t *bytes, size_t length)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < length; i++)
        h = (h ^ bytes[i]) * 0x100000001b3ull;
    return h;
}

static size_t put_registration(uint8_t *at, const struct registration *r)
{
    store_be64(at, r->key);
    at[8] = r->all_ports;
    store_be16(at + 9, r->who.port_id);
    store_be16(at + 11, r->who.length);
    memcpy(at + ENTRY_BYTES, r->who.transport_id, r->who.length);
    return ENTRY_BYTES + r->who.length;
}

int pr_serialise(const struct reservations *pr, void **ret, size_t *ret_length)
{
    uint8_t *bytes = malloc(HEADER_BYTES + pr->count * sizeof(struct registration) + 8);
    if (!bytes)
        return -ENOMEM;
    uint16_t index = 0, holder = NO_HOLDER;
    size_t at = HEADER_BYTES;
    list_for_each (node, &pr->registrations) {
        const struct registration *r = list_entry(node, struct registration, link);
        if (r == pr->holder)
            holder = index;
        at += put_registration(bytes + at, r);
        index++;
    }
    memcpy(bytes, MAGIC, 8);
    store_be32(bytes + 8, pr->generation);
    bytes[12] = pr->type;
    bytes[13] = pr->aptpl;
    store_be16(bytes + 14, holder);
    store_be16(bytes + 16, index);
    store_be64(bytes + at, checksum(bytes, at));
    *ret = bytes;
    *ret_length = at + 8;
    return 0;
}

static int parse_registration(struct cursor *c, struct reservations *pr, bool holder)
{
    struct identity who = {0};
    uint64_t key = cursor_be64(c);
    bool all_ports = cursor_u8(c);
    who.port_id = cursor_be16(c);
    who.length = cursor_be16(c);
    const uint8_t *id = cursor_take(c, who.length);
    if (!id || key == 0 || who.length > sizeof(who.transport_id) ||
        transport_id_length(id, who.length) != who.length)
        return -EINVAL;
    memcpy(who.transport_id, id, who.length);
    struct registration *r = registration_add(pr, &who, key, all_ports);
    if (!r)
        return -ENOMEM;
    if (holder)
        pr->holder = r;
    return 0;
}

static bool is_type(uint8_t type)
{
    return type <= PR_EXCLUSIVE_ACCESS_ALL_REGISTRANTS && type != 2 && type != 4;
}

int pr_parse(const void *bytes, size_t length, struct reservations *pr)
{
    if (length < HEADER_BYTES + 8 || length > SAVED_MAX ||
        checksum(bytes, length - 8) != load_be64((const uint8_t *)bytes + length - 8))
        return -EINVAL;
    struct cursor c = cursor_of(bytes, length - 8);
    const uint8_t *magic = cursor_take(&c, 8);
    reservations_clear(pr);
    pr->generation = cursor_be32(&c);
    uint8_t type = cursor_u8(&c);
    pr->aptpl = cursor_u8(&c);
    uint16_t holder = cursor_be16(&c), count = cursor_be16(&c);
    int result = memcmp(magic, MAGIC, 8) || !is_type(type) ? -EINVAL : 0;
    for (unsigned i = 0; i < count && result == 0; i++)
        result = parse_registration(&c, pr, i == holder);
    /* A reservation has a holder, unless all registrants hold it. */
    bool all = pr_is_all_registrants(type);
    if (result == 0 && (cursor_left(&c) || (type && (all ? pr->count == 0 : !pr->holder)) ||
                        ((all || !type) && pr->holder)))
        result = -EINVAL;
    if (result < 0) {
        reservations_clear(pr);
        return result;
    }
    pr->type = type;
    return 0;
}

/* ---- a file ---- */

int co_scsi_state_save(void *path, const void *bytes, size_t length)
{
    char temporary[PATH_MAX];
    struct rt_file *file = NULL;
    struct iovec iov;
    struct rt_open how = {.flags = O_WRONLY | O_CREAT | O_TRUNC, .mode = 0600};
    if (snprintf(temporary, sizeof(temporary), "%s.new", (const char *)path) >=
        (int)sizeof(temporary))
        return -ENAMETOOLONG;
    int result = co_open(temporary, &how, &file, NULL);
    if (result < 0)
        return result;
    result = co_pwrite(file, 0, sgl_one(&iov, (void *)(uintptr_t)bytes, length), 0);
    if (result == 0)
        result = co_fdatasync(file);
    rt_file_close(file);
    if (result == 0)
        result = co_rename(temporary, path, NULL);
    return result;
}

int co_scsi_state_load(const char *path, void **ret, size_t *ret_length, struct hws_error *err)
{
    struct rt_file *file = NULL;
    struct iovec iov;
    int result = co_open(path, &(struct rt_open){.flags = O_RDONLY}, &file, err);
    if (result < 0)
        return result;
    uint8_t *bytes = malloc(SAVED_MAX);
    ssize_t length = bytes ? co_pread(file, 0, sgl_one(&iov, bytes, SAVED_MAX)) : -ENOMEM;
    rt_file_close(file);
    if (length < 0) {
        free(bytes);
        return hws_fail(err, (int)-length, "%s: cannot read the saved reservations", path);
    }
    *ret = bytes;
    *ret_length = (size_t)length;
    return 0;
}
