/*
 * A fuzz target: one function over bytes. Linked with libFuzzer (meson option `fuzz`, clang), or
 * with replay.c, which runs it over the files that it is given.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#endif
