/*
 * Signatures of image formats: of those that are here (their drivers' probes), and of those that
 * are not.
 *
 * Where raw counts as the answer to "no header is known", a VMDK or an encrypted volume would pass
 * for a disk that holds the container's bytes, and be copied or written to as such. So the headers
 * of the formats that others read are known by name, as far as the first sector tells them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static const struct signature {
    const char *format;
    unsigned offset, length;
    const char *bytes;
} signatures[] = {
    {"vmdk", 0, 4, "KDMV"},
    {"vmdk", 0, 4, "COWD"},
    {"vmdk", 0, 21, "# Disk DescriptorFile"},
    {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vpc", 0, 8, "conectix"},
    {"luks", 0, 6, "LUKS\xba\xbe"},
    {"qcow", 0, 8, "QFI\xfb\0\0\0\x01"},
    {"qcow2", 0, 4, "QFI\xfb"},
    {"qed", 0, 4, "QED\0"},
    {"parallels", 0, 16, "WithoutFreeSpace"},
    {"parallels", 0, 16, "WithouFreSpacExt"},
    {"bochs", 0, 22, "Bochs Virtual HD Image"},
    {"cloop", 0, 20, "#!/bin/sh\n#V2.0 Form"},
};

const char *block_foreign_format(const void *head, size_t length)
{
    for (const struct signature *s = signatures; s < signatures + ARRAY_LEN(signatures); s++) {
        if (s->offset + s->length > length || block_driver_find(s->format))
            continue;
        if (memcmp((const uint8_t *)head + s->offset, s->bytes, s->length) == 0)
            return s->format;
    }
    return NULL;
}

const struct block_driver *block_probe(const uint8_t *head, size_t length)
{
    const struct block_driver *found = NULL;
    int best = 0;
    for (const struct block_driver *const *d = block_drivers(); *d; d++) {
        int score = (*d)->probe ? (*d)->probe(head, length) : 0;
        if (score > best) {
            best = score;
            found = *d;
        }
    }
    return found;
}
