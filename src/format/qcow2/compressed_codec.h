/*
 * One compressed cluster in memory: pure decoding, no I/O, no suspension. May run on a worker
 * thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_COMPRESSED_CODEC_H
#define QCOW2_COMPRESSED_CODEC_H

#include "base/common.h"
#include "format/qcow2/layout.h"

/* The state of the libraries' decoders, made on first use. Used by one decoding at a time. */
struct qcow2_codec {
    void *deflate; /* struct libdeflate_decompressor */
    void *zstd;    /* ZSTD_DCtx */
};

/**
 * Decodes until @output_bytes, a whole cluster, are there. The input may run on behind the stream.
 * @return 0, -EIO where the stream is not one of this @type or ends too early, -ENOMEM, -ENOTSUP
 * for an unknown type.
 */
HWS_MUST_CHECK int qcow2_codec_decode(struct qcow2_codec *codec, enum qcow2_compression type,
                                      const void *input, size_t input_bytes, void *output,
                                      size_t output_bytes);

void qcow2_codec_free(struct qcow2_codec *codec);

#endif
