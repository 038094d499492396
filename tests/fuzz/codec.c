/*
 * Fuzz target: decoding of compressed clusters. The first byte chooses codec and cluster size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/compressed_codec.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct qcow2_codec codec = {0};
    if (length == 0)
        return 0;
    enum qcow2_compression type = bytes[0] & 1 ? QCOW2_ZSTD : QCOW2_ZLIB;
    size_t cluster = (size_t)512 << ((bytes[0] >> 1) % 9);
    uint8_t *output = malloc(cluster);
    assert(output);
    int result = qcow2_codec_decode(&codec, type, bytes + 1, length - 1, output, cluster);
    assert(result == 0 || result == -EIO || result == -ENOMEM);
    /* The decoder must be as good as new after a bad stream. */
    assert(result == qcow2_codec_decode(&codec, type, bytes + 1, length - 1, output, cluster));
    free(output);
    qcow2_codec_free(&codec);
    return 0;
}
