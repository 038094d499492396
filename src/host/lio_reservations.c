/*
 * Saved persistent reservations; see host/lio_reservations.h.
 *
 *     PR_REG_START: 0              one registration: lines of name=value, which
 *     initiator_fabric=iSCSI       pr/res_aptpl_metadata takes in one line, with commas
 *     ...
 *     PR_REG_END: 0
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/lio_reservations.h"
#include "host/configfs.h"
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

/* The kernel writes at most this much. */
#define SAVED_MAX        ((size_t)256 * KiB)
#define REGISTRATION_MAX 2048
#define START            "PR_REG_START:"
#define END              "PR_REG_END:"
#define SERIAL_LABEL     "T10 VPD Unit Serial Number: "

/* "/var/target", the kernel's word for where it writes. */
static int read_root(char *ret, size_t size, struct hws_error *err)
{
    int r = configfs_read(ret, size, "dbroot");
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot read %s/dbroot", configfs_target_root);
    return ret[0] == '/' ? 0 : hws_fail(err, EPROTO, "%s/dbroot is no path", configfs_target_root);
}

int lio_reservations_prepare(struct hws_error *err)
{
    char path[PATH_MAX];
    int r = read_root(path, sizeof(path) - sizeof("/pr"), err);
    if (r < 0)
        return r;
    for (int level = 0; level < 2; level++) {
        if (level == 1)
            snprintf(path + strlen(path), sizeof("/pr"), "/pr");
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return hws_fail_errno(err, errno,
                                  "cannot make %s, in which the kernel keeps reservations", path);
    }
    return 0;
}

/* The serial number, which is a part of a file's name. -ENOENT: it has none. */
static int read_serial(const struct lio_backstore *b, char *ret, size_t size)
{
    char text[512];
    if (configfs_read(text, sizeof(text), "core/user_%u/%s/wwn/vpd_unit_serial", b->hba, b->name) <
        0)
        return -ENOENT;
    const char *serial = strstr(text, SERIAL_LABEL);
    serial = serial ? serial + strlen(SERIAL_LABEL) : text;
    size_t length = strlen(serial);
    if (length == 0 || length >= size || strchr(serial, '/'))
        return -ENOENT;
    memcpy(ret, serial, length + 1);
    return 0;
}

/* @return the file's text, free(); NULL with @ret_error 0 where there is none. */
static char *read_saved(const char *path, int *ret_error)
{
    autofree char *text = malloc(SAVED_MAX + 1);
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    *ret_error = fd < 0 ? (errno == ENOENT ? 0 : -errno) : text ? 0 : -ENOMEM;
    if (fd < 0 || !text)
        return NULL;
    size_t length = 0;
    ssize_t n;
    while ((n = read(fd, text + length, SAVED_MAX - length)) > 0)
        length += (size_t)n;
    if (n < 0 || length == SAVED_MAX) {
        *ret_error = n < 0 ? -errno : -EFBIG;
        return NULL;
    }
    text[length] = '\0';
    return steal_ptr(&text);
}

/* The lines between @from and @end with an equals sign, joined by commas. @return false: too long.
 */
static bool join(const char *from, const char *end, char *out, size_t size)
{
    size_t used = 0;
    while (from < end) {
        const char *line_end = memchr(from, '\n', (size_t)(end - from));
        size_t length = (size_t)((line_end ? line_end : end) - from);
        if (memchr(from, '=', length)) {
            if (memchr(from, ',', length) || used + length + 2 > size)
                return false;
            used += (size_t)snprintf(out + used, size - used, "%s%.*s", used ? "," : "",
                                     (int)length, from);
        }
        from += length + 1;
    }
    return used > 0;
}

static int give_back(const struct lio_backstore *b, const char *path, const char *text,
                     struct hws_error *err)
{
    char registration[REGISTRATION_MAX];
    int r = 0;
    for (const char *at = text; r == 0 && (at = strstr(at, START));) {
        const char *end = strstr(at, END);
        at = strchr(at, '\n');
        if (!end || !at || at > end || !join(at + 1, end, registration, sizeof(registration)))
            return hws_fail(err, EUCLEAN,
                            "%s, the saved reservations of backstore %s, cannot be understood; "
                            "remove it if nobody needs them",
                            path, b->name);
        r = configfs_write(err, registration, "core/user_%u/%s/pr/res_aptpl_metadata", b->hba,
                           b->name);
        at = end;
    }
    return r < 0 ? hws_wrap(err, r, "giving back the reservations saved in %s", path) : 0;
}

int lio_reservations_restore(const struct lio_backstore *b, struct hws_error *err)
{
    char root[PATH_MAX], serial[256], path[PATH_MAX];
    int r = read_root(root, sizeof(root) - sizeof(serial) - sizeof("/pr/aptpl_"), err);
    if (r < 0 || read_serial(b, serial, sizeof(serial)) < 0)
        return r;
    if ((size_t)snprintf(path, sizeof(path), "%s/pr/aptpl_%s", root, serial) >= sizeof(path))
        return hws_fail(err, ENAMETOOLONG, "%s is too long a path", root);
    autofree char *text = read_saved(path, &r);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot read %s", path);
    return text ? give_back(b, path, text, err) : 0;
}
