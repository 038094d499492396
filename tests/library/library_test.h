/*
 * What the tests of libhawser share: a folder of their own, images in it, checks that print.
 *
 * They include public headers only, and link the shared library.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LIBRARY_TEST_H
#define LIBRARY_TEST_H

#include "hawser/hawser.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define MiB ((uint64_t)1 << 20)

/* Of a call with an error `err` at hand. */
#define OK(call)                                                                          \
    do {                                                                                  \
        int ok_result_ = (call);                                                          \
        if (ok_result_ < 0) {                                                             \
            fprintf(stderr, "%s:%d: %s: %d, %s\n", __FILE__, __LINE__, #call, ok_result_, \
                    err.text);                                                            \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

/* A call that must fail with that code, and say why. */
#define FAILS(number, call)                                                             \
    do {                                                                                \
        err = (struct hws_error){0};                                                    \
        int fails_result_ = (call);                                                     \
        if (fails_result_ != -(number) || err.code != (number) || !err.text[0]) {       \
            fprintf(stderr, "%s:%d: %s: %d, not %d; '%s'\n", __FILE__, __LINE__, #call, \
                    fails_result_, -(number), err.text);                                \
            abort();                                                                    \
        }                                                                               \
    } while (0)

/* Rings are mapped and unmapped by liburing's own system calls, which the sanitizer does not see:
 * to it, two threads' rings at one address, one after the other, are one piece of memory. */
#ifdef __SANITIZE_THREAD__
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race_top:reap\nrace_top:io_uring_\n";
}
#endif

static char test_folder[64];
static char test_path[256];

static inline int make_folder(void **state)
{
    snprintf(test_folder, sizeof(test_folder), "%s/hawser-library.XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(test_folder) ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", test_folder);
    return system(command);
}

/* A new image NAME in the test's folder; the path stays in test_path. */
static inline const char *make_image(const char *name, const char *format, uint64_t size)
{
    struct hws_error err = {0};
    snprintf(test_path, sizeof(test_path), "%s/%s", test_folder, name);
    struct hws_image image = {.path = test_path, .format = format};
    struct hws_create create = {.size_bytes = size, .overwrite = true};
    OK(hws_create(&image, &create, NULL, &err));
    return test_path;
}

static inline struct hws_disk *open_disk(const char *path, const char *format)
{
    struct hws_error err = {0};
    struct hws_disk *disk;
    struct hws_image image = {.path = path, .format = format};
    OK(hws_disk_open(&image, NULL, &disk, &err));
    return disk;
}

static inline void fill(uint8_t *buffer, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        buffer[i] = (uint8_t)((seed * 2654435761u + i * 131 + (i >> 8)) >> 3);
}

#endif
