/*
 * Decoding and encoding of compressed clusters: raw deflate (libdeflate) and zstd.
 *
 * libdeflate takes 55 us for a 64 KiB cluster of program text here where zlib takes 134 us, but
 * wants a stream that ends properly. The specification only says that decompression stops when it
 * has produced a cluster, so what libdeflate refuses goes to zlib, which can stop anywhere. That
 * path is also the one of damaged streams, where speed does not matter.
 *
 * zstd frames are decoded one by one straight into the output, without the window buffer that the
 * streaming interface would allocate as large as the frame asks for.
 *
 * Deflate streams that are made here use distances up to 32 KiB, where QEMU's own stay within 4
 * KiB. Every reader has the whole cluster in front of it, QEMU's included, so they are found; it is
 * where the better ratio comes from (the interoperation tests hold qemu-img to it).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/compressed_codec.h"
#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

/* Raw deflate with the largest window that the format knows; writers use a smaller one. */
#define RAW_DEFLATE_WINDOW -15

static int inflate_leniently(const void *input, size_t input_bytes, void *output,
                             size_t output_bytes)
{
    z_stream stream = {
        .next_in = (Bytef *)(uintptr_t)input,
        .avail_in = (uInt)input_bytes,
        .next_out = output,
        .avail_out = (uInt)output_bytes,
    };
    int result = inflateInit2(&stream, RAW_DEFLATE_WINDOW);
    if (result != Z_OK)
        return result == Z_MEM_ERROR ? -ENOMEM : -EIO;
    result = inflate(&stream, Z_FINISH);
    bool whole = stream.avail_out == 0 &&
                 (result == Z_STREAM_END || result == Z_BUF_ERROR || result == Z_OK);
    inflateEnd(&stream);
    return whole ? 0 : result == Z_MEM_ERROR ? -ENOMEM : -EIO;
}

static int decode_deflate(struct qcow2_codec *codec, const void *input, size_t input_bytes,
                          void *output, size_t output_bytes)
{
    size_t used, made = 0;
    if (!codec->deflate && !(codec->deflate = libdeflate_alloc_decompressor()))
        return -ENOMEM;
    enum libdeflate_result result = libdeflate_deflate_decompress_ex(
        codec->deflate, input, input_bytes, output, output_bytes, &used, &made);
    if (result == LIBDEFLATE_SUCCESS && made == output_bytes)
        return 0;
    return inflate_leniently(input, input_bytes, output, output_bytes);
}

static int decode_zstd(struct qcow2_codec *codec, const uint8_t *input, size_t input_bytes,
                       uint8_t *output, size_t output_bytes)
{
    if (!codec->zstd && !(codec->zstd = ZSTD_createDCtx()))
        return -ENOMEM;
    while (output_bytes > 0) {
        size_t frame = ZSTD_findFrameCompressedSize(input, input_bytes);
        if (ZSTD_isError(frame) || frame == 0)
            return -EIO;
        size_t made = ZSTD_decompressDCtx(codec->zstd, output, output_bytes, input, frame);
        if (ZSTD_isError(made))
            return -EIO;
        input += frame;
        input_bytes -= frame;
        output += made;
        output_bytes -= made;
    }
    return 0;
}

int qcow2_codec_decode(struct qcow2_codec *codec, enum qcow2_compression type, const void *input,
                       size_t input_bytes, void *output, size_t output_bytes)
{
    switch (type) {
    case QCOW2_ZLIB:
        return decode_deflate(codec, input, input_bytes, output, output_bytes);
    case QCOW2_ZSTD:
        return decode_zstd(codec, input, input_bytes, output, output_bytes);
    }
    return -ENOTSUP;
}

void qcow2_codec_free(struct qcow2_codec *codec)
{
    if (codec->deflate)
        libdeflate_free_decompressor(codec->deflate);
    ZSTD_freeDCtx(codec->zstd);
    *codec = (struct qcow2_codec){0};
}

/* ---- encoding ---- */

/* As small as qemu-img's output, or smaller, and no slower than needed for that. */
#define DEFLATE_LEVEL 4
#define ZSTD_LEVEL    4

static ssize_t encode_deflate(struct qcow2_encoder *encoder, int level, const void *input,
                              size_t input_bytes, void *output, size_t room)
{
    if (encoder->deflate && encoder->level != level) {
        libdeflate_free_compressor(encoder->deflate);
        encoder->deflate = NULL;
    }
    if (!encoder->deflate && !(encoder->deflate = libdeflate_alloc_compressor(level)))
        return -ENOMEM;
    encoder->level = level;
    return (ssize_t)libdeflate_deflate_compress(encoder->deflate, input, input_bytes, output, room);
}

static ssize_t encode_zstd(struct qcow2_encoder *encoder, int level, const void *input,
                           size_t input_bytes, void *output, size_t room)
{
    if (!encoder->zstd && !(encoder->zstd = ZSTD_createCCtx()))
        return -ENOMEM;
    size_t made = ZSTD_compressCCtx(encoder->zstd, output, room, input, input_bytes, level);
    if (!ZSTD_isError(made))
        return (ssize_t)made;
    return ZSTD_getErrorCode(made) == ZSTD_error_dstSize_tooSmall ? 0 : -ENOMEM;
}

ssize_t qcow2_codec_encode(struct qcow2_encoder *encoder, enum qcow2_compression type, int level,
                           const void *input, size_t input_bytes, void *output, size_t room)
{
    assert(level >= 0 && level <= QCOW2_LEVEL_MAX(type));
    switch (type) {
    case QCOW2_ZLIB:
        return encode_deflate(encoder, level ? level : DEFLATE_LEVEL, input, input_bytes, output,
                              room);
    case QCOW2_ZSTD:
        return encode_zstd(encoder, level ? level : ZSTD_LEVEL, input, input_bytes, output, room);
    }
    return -ENOTSUP;
}

void qcow2_encoder_free(struct qcow2_encoder *encoder)
{
    if (encoder->deflate)
        libdeflate_free_compressor(encoder->deflate);
    ZSTD_freeCCtx(encoder->zstd);
    *encoder = (struct qcow2_encoder){0};
}
