/*
 * Serving what engines have attached over NBD; see control/engines.h.
 *
 * An engine sees its own folder and little else, so a unix socket lies there, and the path that was
 * asked for is a symbolic link to it.
 *
 *   PATH --> /run/hawser/ENGINE/nbd/1a2b3c4d
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/engines.h"
#include "control/internal.h"
#include "engine/client.h"
#include <limits.h>
#include <netdb.h>

static int find_engine(const char *id, struct attachment **ret, struct hws_error *err)
{
    int r = attachment_find(id, ret, err);
    if (r == 0 && strcmp((*ret)->name, id) != 0) {
        *ret = attachment_free(*ret);
        r = hws_fail(err, ENOENT, "%s has no engine", id);
    }
    return r;
}

/* ---- the link to a socket ---- */

/* "unix:PATH" -> PATH; NULL where there is no link. */
static const char *link_of(const char *listen)
{
    return strncmp(listen, "unix:", 5) ? NULL : listen + 5;
}

static bool is_ours(const char *path, const char *target)
{
    char text[PATH_MAX];
    ssize_t length = readlink(path, text, sizeof(text) - 1);
    text[MAX(length, 0)] = '\0';
    return length > 0 && !strcmp(text, target);
}

static int check_link(const char *path, const char *target, struct hws_error *err)
{
    if (access(path, F_OK) < 0 && errno == ENOENT && !is_ours(path, target)) {
        char text[2];
        return readlink(path, text, sizeof(text)) < 0
                   ? 0
                   : hws_fail(err, EEXIST, "%s is there, and leads elsewhere", path);
    }
    return is_ours(path, target) ? 0 : hws_fail(err, EEXIST, "%s is there already", path);
}

static int make_link(const char *path, const char *target, struct hws_error *err)
{
    if (symlink(target, path) < 0 && !(errno == EEXIST && is_ours(path, target)))
        return hws_fail_errno(err, errno, "cannot make the socket %s", path);
    return 0;
}

static void remove_link(const char *path, const char *target)
{
    if (is_ours(path, target))
        (void)unlink(path);
}

/* ---- addresses ---- */

/*
 * "tcp:HOST:PORT" with HOST as a number: the engine has nobody to ask for names. @ret free(); NULL
 * where @listen is to be taken as it is.
 */
static int resolve(const char *listen, char **ret, struct hws_error *err)
{
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found;
    char number[NI_MAXHOST];
    const char *port = strrchr(listen, ':');
    *ret = NULL;
    if (strncmp(listen, "tcp:", 4) != 0 || port <= listen + 4 || listen[4] == '[')
        return 0;
    autofree char *host = strndup(listen + 4, (size_t)(port - listen - 4));
    if (!host)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = getaddrinfo(host, port + 1, &wanted, &found);
    if (r != 0)
        return hws_fail(err, EINVAL, "%s", gai_strerror(r));
    r = getnameinfo(found->ai_addr, found->ai_addrlen, number, sizeof(number), NULL, 0,
                    NI_NUMERICHOST);
    bool six = found->ai_family == AF_INET6;
    freeaddrinfo(found);
    if (r != 0)
        return hws_fail(err, EINVAL, "%s", gai_strerror(r));
    return asprintf(ret, six ? "tcp:[%s]%s" : "tcp:%s%s", number, port) < 0
               ? hws_fail(err, ENOMEM, "out of memory")
               : 0;
}

/* ---- calls ---- */

static int serve_found(const struct attachment *engine, const struct engine_export *export,
                       const char *link, const char *target, struct hws_error *err)
{
    autofree char *number = NULL;
    int r = resolve(export->listen, &number, err);
    if (r < 0)
        return r;
    struct attachment_service service = {
        .id = export->id,
        .tag = export->tag,
        .listen = link     ? NULL
                  : number ? number
                           : export->listen,
        .name = export->name,
        .description = export->description,
        .tls = export->tls,
        .read_only = export->read_only,
    };
    for (unsigned i = 0; i < export->file_count; i++)
        service.files[i] = (struct attachment_file){export->file_name[i], export->file_text[i]};
    r = link ? check_link(link, target, err) : 0;
    if (r == 0)
        r = attachment_serve(engine, &service, err);
    return r == 0 && link ? make_link(link, target, err) : r;
}

int engines_serve(const struct engine_export *export, struct hws_error *err)
{
    autofree char *target = attachment_service_socket(export->engine, export->id);
    struct attachment *engine;
    if (!target)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = find_engine(export->engine, &engine, err);
    if (r < 0)
        return r;
    r = serve_found(engine, export, link_of(export->listen), target, err);
    attachment_free(engine);
    return r < 0 ? hws_wrap(err, r, "%s", export->listen) : 0;
}

int engines_unserve(const char *engine, const char *id, const char *listen, bool force,
                    struct hws_error *err)
{
    autofree char *target = attachment_service_socket(engine, id);
    struct attachment *found;
    struct hws_error why = {0};
    if (!target)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = find_engine(engine, &found, &why);
    if (r == 0) {
        if (found->running)
            r = attachment_unserve(found, id, force, &why);
        attachment_free(found);
    }
    if (r < 0 && r != -ENOENT)
        return hws_fail(err, -r, "%s", why.text);
    if (link_of(listen))
        remove_link(link_of(listen), target);
    return 0;
}
