/*
 * Small drivers for the core's own tests.
 *
 *   file    a backend over disks in memory; its alignments and limits are set by the test, and it
 *           asserts the core's promises in every call
 *   raw     passes on to its file
 *   layer   a format with holes and a backing file; 512-byte sectors
 *   pass    a filter that leaves everything to the core
 *
 *   a layer image:  | header 512 | map: a byte a sector | data |
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_TEST_DRIVERS_H
#define BLOCK_TEST_DRIVERS_H

#include "block/core.h"

#define TEST_DISKS      5000
#define TEST_NAME_BYTES 64

struct test_disk {
    char name[TEST_NAME_BYTES];
    uint8_t *bytes;
    size_t size, capacity;

    /* how the backend behaves */
    struct block_limits limits;
    unsigned write_flags, zero_flags;
    bool no_zeroes;    /* co_write_zeroes answers -ENOTSUP */
    bool plain_size;   /* does not tell the identity */
    uint64_t delay_ns; /* each request takes this long */
    int flush_errors;  /* so many flushes fail */
    int write_errors;  /* so many writes fail */
    int set_read_only_errors;

    /* what it saw */
    _Atomic unsigned opens, reads, writes, zeroes, discards, flushes, fua_writes;
    unsigned creates, removes;
    _Atomic size_t longest;
    char beneath[TEST_NAME_BYTES];
    bool read_only, closed;
};

/** A new disk, or an existing one emptied, of @size zero bytes. */
struct test_disk *test_disk_new(const char *name, size_t size);
struct test_disk *test_disk_find(const char *name);
void test_disks_free(void);

/** Makes a layer image of @size bytes on the disk @name. @backing, @format may be NULL. */
struct test_disk *test_layer_new(const char *name, size_t size, const char *backing,
                                 const char *format);
/** Fills the sectors of [offset, offset + length) of a layer image with @byte, behind the core. */
void test_layer_fill(const char *name, size_t offset, size_t length, uint8_t byte);

/** Registers the four. */
void test_drivers_register(void);

/** Runs @fn in a coroutine of a simulated runtime. */
void test_run(void (*fn)(void *arg), void *arg);

/** Opens what @text describes, or asserts. */
struct block_node *test_open(const char *text, unsigned flags);

#endif
