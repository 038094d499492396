/*
 * Who uses a block device of this host, in words, for messages that say why it cannot be taken
 * away.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_HOLDERS_H
#define ENGINE_HOLDERS_H

#include "base/common.h"
#include <sys/types.h>

/**
 * Writes the first user found into @text: a mount point here or in another name space, a device on
 * top, or a process that has it open. Reads /proc and /sys; blocks. @return false where none is
 * found; @text is "" then.
 */
bool holders_describe(const char *device, char *text, size_t text_bytes);

/** The same for what is mounted at @folder, an absolute path without links: who works there. */
bool holders_describe_mount(const char *folder, char *text, size_t text_bytes);

/**
 * Which process other than this one, @except and their children has @device open. @return as
 * holders_describe(). Blocks.
 */
bool holders_describe_open(const char *device, pid_t except, char *text, size_t text_bytes);

#endif
