/*
 * Why an image did not open, in qemu-img's words. Runs only after a failure: it looks for the
 * causes that scripts know by their text (a lock, a backing file that is missing or of another
 * format) and otherwise tells what the library said.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu/qemu.h"
#include <fcntl.h>
#include <sys/stat.h>

#define LAYERS_MAX 256

/* The lock that could not be had, from the words of the library. */
static const char *lock_name(const char *text)
{
    if (strstr(text, "lets nobody read"))
        return "consistent read";
    return strstr(text, "lets nobody else") ? "write" : NULL;
}

static void tell_lock(const struct qi_operand *operand, const char *text, char *ret, size_t length)
{
    const char *name = lock_name(text), *path = strstr(text, "using '");
    path = path ? path + 7 : NULL;
    int bytes = path ? (int)strcspn(path, "'") : 0;
    const char *file = operand->file ? operand->file : operand->text;
    /* The library may have met the conflict while it only looked. */
    bool backing = path && (strlen(file) != (size_t)bytes || strncmp(file, path, (size_t)bytes));
    if (!backing && operand->reach & QI_WRITE)
        name = "write";
    snprintf(ret, length,
             "%sFailed to get %s\"%s\" lock\nIs another process using the image [%.*s]?",
             backing ? "Could not open backing file: " : "", name ? "" : "shared ",
             name ? name : "write", path ? bytes : (int)strlen(file), path ? path : file);
}

/* What is wrong with one backing file, "" where nothing is seen. */
static void look_at_backing(const char *file, const char *format, char *ret, size_t length)
{
    uint8_t head[512];
    struct stat st;
    autofd int fd = open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);
    *ret = '\0';
    if (fd < 0)
        snprintf(ret, length, "Could not open '%s': %s", file, strerror(errno));
    else if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        snprintf(ret, length, "'file' driver requires '%s' to be a regular file", file);
    else if (format && strcmp(format, "qcow2") == 0 && (got < 4 || memcmp(head, "QFI\xfb", 4)))
        snprintf(ret, length, "Image is not in qcow2 format");
    else if (!format && got > 0 && hws_foreign_format(head, (size_t)got))
        snprintf(ret, length, "Unknown driver '%s'", hws_foreign_format(head, (size_t)got));
}

/* Walks down from @file and describes the first backing file that cannot be opened. */
static void look_down(const char *file, const char *format, char *ret, size_t length)
{
    autofree char *at = strdup(file);
    json_t *info = NULL;
    char what[600] = "";
    *ret = '\0';
    for (unsigned depth = 0; at && depth < LAYERS_MAX && !*what; depth++) {
        struct hws_image image = {.path = at,
                                  .format = format,
                                  .force_share = true,
                                  .trust_names = true,
                                  .probe_raw = true};
        char *text;
        if (hws_info(&image, false, &text, NULL) < 0)
            break;
        json_t *next = json_loads(text, 0, NULL);
        free(text);
        json_decref(info);
        info = next;
        const char *name = json_string_value(json_object_get(info, "backing-filename"));
        format = json_string_value(json_object_get(info, "backing-filename-format"));
        if (!name)
            break;
        char *below = qi_beside(at, name);
        free(at);
        at = below;
        const char *local = at ? qi_local_file(at) : NULL;
        if (at && !local)
            snprintf(what, sizeof(what), "Unknown protocol '%.*s'", (int)strcspn(at, ":"), at);
        else if (format && !qi_driver_known(format))
            snprintf(what, sizeof(what), "Unknown driver '%s'", format);
        else if (at)
            look_at_backing(local, format, what, sizeof(what));
        if (local && local != at)
            memmove(at, local, strlen(local) + 1);
    }
    if (*what)
        snprintf(ret, length, "Could not open backing file: %s", what);
    json_decref(info);
}

void qi_reason(const struct qi_operand *operand, const struct hws_error *err, char *ret,
               size_t length)
{
    *ret = '\0';
    if (err->code == EAGAIN)
        tell_lock(operand, err->text, ret, length);
    else if (operand->file)
        look_down(operand->file, operand->image.format, ret, length);
    if (!*ret)
        snprintf(ret, length, "%s", err->text);
}

int qi_check_backing(const struct qi_operand *operand)
{
    char why[HWS_ERROR_TEXT_BYTES] = "";
    if (operand->file && strcmp(operand->driver, "qcow2") == 0)
        look_down(operand->file, "qcow2", why, sizeof(why));
    return *why ? qi_error("%s '%s': %s", qi_tool->cannot_open, operand->text, why) : 0;
}

int qi_explain(const struct qi_operand *operand, const struct hws_error *err)
{
    char why[HWS_ERROR_TEXT_BYTES + 64];
    qi_reason(operand, err, why, sizeof(why));
    return qi_error("%s '%s': %s", qi_tool->cannot_open, operand->text, why);
}
