/*
 * What a volume is called in the kernel's SCSI target; see engine/target.h.
 *
 * Identifiers tell initiators, and multipath software above all, which disks are one and the same.
 * So they follow from the UUID that the volume was given, or from what no other volume has: the
 * image's path on this host. Another host's image of the same path is another disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/byteorder.h"
#include "base/random.h"
#include "engine/target.h"
#include <ctype.h>

static uint64_t mix(uint64_t hash, const char *text)
{
    for (const char *at = text;; at++) {
        hash = (hash ^ (uint8_t)*at) * 0x100000001b3ull; /* FNV-1a, the terminator included */
        if (!*at)
            return hash;
    }
}

/* A host's own, random, made once: machine-id(5). */
static void read_host(char *text, size_t size)
{
    FILE *file = fopen("/etc/machine-id", "re");
    bool have = file && fgets(text, (int)size, file) && text[0] != '\n';
    if (file)
        fclose(file);
    if (!have && gethostname(text, size) < 0)
        text[0] = '\0';
    text[size - 1] = '\0';
    text[strcspn(text, "\n")] = '\0';
}

static void make_uuid(const struct volume_config *config, uint8_t uuid[16])
{
    char host[128];
    autofree char *real = realpath(config->image, NULL);
    read_host(host, sizeof(host));
    for (unsigned half = 0; half < 2; half++) {
        uint64_t hash = mix(0xcbf29ce484222325ull + half, host);
        hash = mix(hash, real ? real : config->image);
        if (config->read_only)
            hash = mix(hash, config->name);
        struct random mixer = random_seed(hash);
        store_be64(uuid + 8 * (size_t)half, random_u64(&mixer));
    }
    uuid[6] =
        (uint8_t)(0x80 | (uuid[6] & 0x0f)); /* RFC 9562: version 8, made by the vendor's way */
    uuid[8] = (uint8_t)(0x80 | (uuid[8] & 0x3f));
}

/* Letters that configfs and the configuration take: the others become '-'. */
static void put_plain(char *to, size_t size, const char *from)
{
    size_t used = 0;
    for (; *from && used + 1 < size; from++)
        to[used++] = isalnum((unsigned char)*from) || strchr("._-", *from) ? *from : '-';
    to[used] = '\0';
}

int target_parse_uuid(const char *text, uint8_t ret[16])
{
    unsigned digits = 0;
    for (; *text; text++) {
        if (*text == '-')
            continue;
        if (!isxdigit((unsigned char)*text) || digits == 32)
            return -EINVAL;
        unsigned value =
            (unsigned)(isdigit((unsigned char)*text) ? *text - '0'
                                                     : tolower((unsigned char)*text) - 'a' + 10);
        ret[digits / 2] = (uint8_t)(digits % 2 ? ret[digits / 2] | value : value << 4);
        digits++;
    }
    return digits == 32 ? 0 : -EINVAL;
}

void target_identify(const struct volume_config *config, struct target_identity *ret)
{
    *ret = (struct target_identity){0};
    if (!config->uuid || target_parse_uuid(config->uuid, ret->uuid) < 0)
        make_uuid(config, ret->uuid);
    put_plain(ret->backstore, sizeof(ret->backstore), config->name);
    if (ret->backstore[0] == '.')
        ret->backstore[0] = '-';
    memcpy(ret->naa, ret->uuid, sizeof(ret->naa));
    ret->naa[0] = (uint8_t)(0x30 | (ret->naa[0] & 0x0f)); /* locally assigned */
    char digits[33], file[64];
    for (unsigned i = 0; i < 16; i++)
        snprintf(digits + 2 * (size_t)i, 3, "%02x", ret->uuid[i]);
    const char *slash = strrchr(config->image, '/');
    put_plain(file, sizeof(file), slash ? slash + 1 : config->image);
    snprintf(ret->config, sizeof(ret->config), "%s/%s", digits, file);
}
