/*
 * Small things of the engine's process: its clock outside of the runtime, and what may be parsed on
 * a small stack. What it asks of the kernel is in host/process.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include <time.h>

/** Deeper JSON is refused: the parser recurses, and coroutine stacks are small. */
#define JSON_DEPTH_MAX 32

uint64_t process_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool process_json_is_flat(const char *text, size_t length)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '{' || text[i] == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return false;
        } else if ((text[i] == '}' || text[i] == ']') && depth) {
            depth--;
        }
    }
    return true;
}
