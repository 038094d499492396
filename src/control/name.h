/*
 * Ids and names of objects.
 *
 * An id is a random UUID in lower case; files, folders and attachments are called by it. A name is
 * what people call an object; it is compared byte by byte, and never becomes part of a path.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_NAME_H
#define CONTROL_NAME_H

#include "base/common.h"
#include "hawser/error.h"

/** A UUID in text, and its terminator. */
#define ID_BYTES 37
/** Longest name; Docker's anonymous volumes have 64 characters. */
#define NAME_MAX_BYTES 128

/** A new random id in @id (ID_BYTES). */
void id_make(char *id);

/** Is it in the form of an id, letters in lower case? */
bool id_is_valid(const char *text);

/** @what for the message, "volume". -EINVAL where @name is none that an object can have. */
HWS_MUST_CHECK int name_check(const char *what, const char *name, struct hws_error *err);

#endif
