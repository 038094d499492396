/*
 * What the image commands share; see cli/image.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
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

int cli_refuse_reach(const char *what, const char *format, const struct cli_list *allow,
                     struct hws_error *err)
{
    if (!format && !allow->count)
        return 0;
    return hws_fail(err, EINVAL,
                    "'%.400s' is attached, and its engine knows the image: leave out %s", what,
                    format ? "--format" : "--allow");
}

int cli_find_engine(const char *what, struct attachment **ret, struct hws_error *err)
{
    struct attachment *found;
    if (attachment_find(what, &found, NULL) < 0)
        return 0;
    if (found->running) {
        *ret = found;
        return 1;
    }
    int r = hws_fail(err, ESRCH, "the engine of '%s' died; 'hawser detach %s' cleans up after it",
                     found->name, found->name);
    attachment_free(found);
    return r;
}

void cli_note_leftover(const char *command, const char *path)
{
    autofree char *left = path ? attachment_leftover(path) : NULL;
    if (left)
        out_note(command,
                 "%.600s is left from a revert that was interrupted; nothing uses it, and it can "
                 "be deleted",
                 left);
}
