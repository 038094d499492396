/*
 * Of the tests of the control plane: whether catalog, files and attachments match, and where all of
 * it lies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_CONTROL_CHECK_H
#define CONTROL_CONTROL_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "control/internal.h"

/** The folder of the test, and the error of the last call. */
extern char top[256];
extern struct hws_error error;

/** A path in the test's folder; good for three more calls. */
const char *in_top(const char *name);
/** Fails the test with the error's text where @r is one. */
void must(int r);
/** Whether the catalog has an attachment of the volume @id. */
bool is_attached(struct control *control, const char *id);
/** Fails where anything does not match, or an operation is not finished. */
void check_all(struct control *control);

#endif
