/*
 * What the image commands share; see cli/image.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "engine/client.h"

/* An image that cannot be locked is most often one that this host has attached. */
void cli_explain_open(struct hws_error *err, const char *path)
{
    struct attachment *attachment = NULL;
    if (err->code != EAGAIN && err->code != EBUSY)
        return;
    if (attachment_find(path, &attachment, NULL) < 0)
        return;
    struct hws_error inner = *err;
    hws_fail(err, inner.code, "%.600s (attached as '%.80s')", inner.text, attachment->name);
    attachment_free(attachment);
}
