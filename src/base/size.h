/*
 * Sizes as people write them: "10G", "512", "1.5T", "64KiB".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include "base/common.h"
#include "hawser/error.h"

/**
 * Reads a size in bytes. Suffixes b, k, M, G, T, P, E (either case, powers of 1024, optional "iB"
 * or "B"); a decimal fraction is allowed with a suffix. Negative, empty, overlong and overflowing
 * text is refused. @ret_bytes untouched on failure. @return 0 or -EINVAL / -ERANGE with the reason
 * in @err.
 */
HWS_MUST_CHECK int size_parse(const char *text, uint64_t *ret_bytes, struct hws_error *err);

/** Writes a human size, e.g. "1.5 GiB", "512 B". @buffer at least 16 bytes. @return @buffer. */
const char *size_format(uint64_t bytes, char *buffer, size_t buffer_size);

#endif
