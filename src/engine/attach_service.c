/*
 * Adding NBD services to engines, and ending them, from outside; see engine/client.h.
 *
 *   RUN/NAME/nbd/         0700
 *     1a2b3c4d            socket of the service whose id begins so
 *     1a2b3c4d.d/         its credentials, while the engine reads them
 *
 * Short names: a socket's path has 107 bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/internal.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define FOLDER "nbd"
/** Of an id: enough among the services of one engine. */
#define SHORT 8

char *attachment_service_socket(const char *attachment, const char *id)
{
    char root[PATH_MAX], *path;
    attachment_root(root, sizeof(root));
    return asprintf(&path, "%s/%s/" FOLDER "/%.*s", root, attachment, SHORT, id) < 0 ? NULL : path;
}

/* ---- credentials ---- */

static int write_file(const char *folder, const struct attachment_file *file, struct hws_error *err)
{
    autofree char *path = NULL;
    size_t length = strlen(file->text);
    if (asprintf(&path, "%s/%s", folder, file->name) < 0) {
        path = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    autofd int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make %s", path);
    for (size_t at = 0; at < length;) {
        ssize_t n = write(fd, file->text + at, length - at);
        if (n < 0 && errno != EINTR)
            return hws_fail_errno(err, errno, "cannot write %s", path);
        at += (size_t)MAX(n, 0);
    }
    return 0;
}

/* A folder and the plain files in it. */
static void remove_folder(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder && fd >= 0)
        close(fd);
    for (struct dirent *at; folder && (at = readdir(folder));)
        if (strcmp(at->d_name, ".") != 0 && strcmp(at->d_name, "..") != 0)
            (void)unlinkat(dirfd(folder), at->d_name, 0);
    if (folder)
        closedir(folder);
    (void)unlinkat(parent, name, AT_REMOVEDIR);
}

static int write_credentials(const struct attachment_service *service, const char *folder,
                             struct hws_error *err)
{
    remove_folder(AT_FDCWD, folder); /* of one that was cut off */
    if (mkdir(folder, 0700) < 0)
        return hws_fail_errno(err, errno, "cannot make %s", folder);
    int r = 0;
    for (unsigned i = 0; i < ATTACHMENT_FILES_MAX && service->files[i].name && r == 0; i++)
        r = write_file(folder, &service->files[i], err);
    return r;
}

void attachment_clear_services(const struct attachment *attachment)
{
    autofree char *path = attachment_path(attachment, FOLDER);
    DIR *folder = path ? opendir(path) : NULL;
    for (struct dirent *at; folder && (at = readdir(folder));) {
        if (!strcmp(at->d_name, ".") || !strcmp(at->d_name, ".."))
            continue;
        if (unlinkat(dirfd(folder), at->d_name, 0) < 0)
            remove_folder(dirfd(folder), at->d_name);
    }
    if (folder)
        closedir(folder);
    if (path)
        (void)rmdir(path);
}

/* ---- calls ---- */

static json_t *describe(const struct attachment_service *service, const char *socket,
                        const char *credentials)
{
    autofree char *listen = NULL;
    if (!service->listen && asprintf(&listen, "unix:%s", socket) < 0)
        listen = NULL;
    return json_pack("{s:s, s:s, s:s*, s:s, s:s*, s:s, s:s*, s:b}", "name", service->id, "tag",
                     service->tag, "listen", service->listen ? service->listen : listen, "export",
                     service->name, "description", service->description, "tls", service->tls,
                     "credentials", credentials, "read-only", service->read_only);
}

int attachment_serve(const struct attachment *attachment, const struct attachment_service *service,
                     struct hws_error *err)
{
    autofree char *folder = attachment_path(attachment, FOLDER), *credentials = NULL;
    autofree char *socket = attachment_service_socket(attachment->name, service->id);
    json_t *result = NULL;
    if (!folder || !socket || asprintf(&credentials, "%s.d", socket) < 0) {
        credentials = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make %s", folder);
    bool secured = strcmp(service->tls, "none") != 0;
    int r = secured ? write_credentials(service, credentials, err) : 0;
    if (r == 0)
        r = attachment_call(attachment, "nbd-serve",
                            describe(service, socket, secured ? credentials : NULL), &result, err);
    if (r == 0)
        json_decref(result);
    if (secured)
        remove_folder(AT_FDCWD, credentials);
    return r;
}

int attachment_unserve(const struct attachment *attachment, const char *id, bool force,
                       struct hws_error *err)
{
    json_t *result = NULL;
    int r = attachment_call(attachment, "nbd-unserve",
                            json_pack("{s:s, s:b}", "name", id, "force", force), &result, err);
    if (r == 0)
        json_decref(result);
    return r;
}

const json_t *attachment_services(const struct attachment *attachment)
{
    return json_object_get(attachment->state, "nbd-services");
}
