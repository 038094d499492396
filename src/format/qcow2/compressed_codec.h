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

/* The same for encoders, each of one level. */
struct qcow2_encoder {
    void *deflate; /* struct libdeflate_compressor */
    void *zstd;    /* ZSTD_CCtx */
    int level;     /* of `deflate` */
};

/** Levels that users may ask for, and what 0 stands for: see the table in compressed_codec.c. */
#define QCOW2_LEVEL_MAX(type) ((type) == QCOW2_ZSTD ? 22 : 12)

/**
 * Encodes a whole cluster. @level 1..QCOW2_LEVEL_MAX(type), or 0 for the default.
 * @return bytes of output, 0 where they do not fit into @room, -ENOMEM, -ENOTSUP.
 */
HWS_MUST_CHECK ssize_t qcow2_codec_encode(struct qcow2_encoder *encoder,
                                          enum qcow2_compression type, int level, const void *input,
                                          size_t input_bytes, void *output, size_t room);

void qcow2_encoder_free(struct qcow2_encoder *encoder);

#endif
