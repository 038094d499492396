/*
 * Services of an engine over NBD, one server and one export each; see engine/nbd_services.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/nbd_services.h"
#include "base/list.h"
#include "base/log.h"
#include "export/nbd/nbd.h"
#include "export/nbd/tls.h"
#include <sys/prctl.h>

/** Queue threads of one service: there may be many. */
#define SERVICE_THREADS 2

struct nbd_service {
    struct list link;
    char *name, *tag, *listen, *export_name, *description;
    const char *tls;
    bool read_only;
    const struct volume *volume;
    struct nbd_server *server;
    struct nbd_export *export; /* NULL while it is paused */
};

enum { TLS_NONE, TLS_PSK, TLS_X509 };
static const char *const tls_choices[] = {
    [TLS_NONE] = "none", [TLS_PSK] = "psk", [TLS_X509] = "x509", NULL};

#define PARAM(field) offsetof(struct nbd_service_params, field)

const struct option_desc nbd_service_options[] = {
    {"name", OPTION_STRING, PARAM(name), "of the service, by which it is ended", .required = true},
    {"tag", OPTION_STRING, PARAM(tag), "a text that the state tells again"},
    {"volume", OPTION_STRING, PARAM(volume), "what is served; the only one if not given"},
    {"listen", OPTION_STRING, PARAM(listen), "unix:PATH or tcp:HOST:PORT", .required = true},
    {"export", OPTION_STRING, PARAM(export_name), "what clients ask for", .required = true},
    {"description", OPTION_STRING, PARAM(description), "told to clients that ask"},
    {"tls", OPTION_ENUM, PARAM(tls), "what clients must come with", "none", .choices = tls_choices},
    {"credentials", OPTION_STRING, PARAM(credentials), "folder of the files for TLS, read once"},
    {"read-only", OPTION_BOOL, PARAM(read_only), "refuse writes"},
    OPTION_END,
};

static void free_service(struct nbd_service *service)
{
    free(service->name);
    free(service->tag);
    free(service->listen);
    free(service->export_name);
    free(service->description);
    free(service);
}

static struct nbd_service *find(struct engine *engine, const char *name, unsigned *ret_count)
{
    struct nbd_service *found = NULL;
    *ret_count = 0;
    list_for_each (link, &engine->nbd_services) {
        struct nbd_service *service = list_entry(link, struct nbd_service, link);
        if (!strcmp(service->name, name))
            found = service;
        ++*ret_count;
    }
    return found;
}

static int co_export(struct nbd_service *service, struct hws_error *err)
{
    const struct nbd_export_options options = {
        .name = service->export_name,
        .description = service->description,
        .read_only = service->read_only || service->volume->config.read_only,
    };
    return co_nbd_export_add(service->server, service->volume->root, &options, &service->export,
                             err);
}

static int co_secure(struct nbd_service *service, const struct nbd_service_params *params,
                     struct hws_error *err)
{
    struct nbd_tls *tls;
    if (params->tls == TLS_NONE)
        return params->credentials
                   ? hws_fail(err, EINVAL, "nbd-serve: \"credentials\" are for \"tls\"")
                   : 0;
    if (!params->credentials)
        return hws_fail(err, EINVAL, "nbd-serve: \"tls\" needs \"credentials\"");
    const struct nbd_tls_options wanted = {
        .folder = params->credentials,
        .mode = params->tls == TLS_PSK ? NBD_TLS_PSK : NBD_TLS_X509,
        .required = true,
        .verify_peer = true,
    };
    /* From here on this process holds keys: no core file, no debugger of another user. */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return hws_fail_errno(err, errno, "nbd-serve: prctl");
    int r = co_nbd_tls_load(&wanted, &tls, err);
    if (r == 0)
        nbd_server_set_tls(service->server, tls);
    return r;
}

static void co_end_one(struct nbd_service *service)
{
    struct hws_error why = {0};
    if (service->export && co_nbd_export_remove(service->export, true, &why) < 0)
        log_error("nbd service %s: %s", service->name, why.text);
    service->export = NULL;
    co_nbd_server_stop(service->server);
}

static void unlink_socket(const struct nbd_service *service)
{
    if (!strncmp(service->listen, "unix:", 5))
        (void)unlink(service->listen + 5);
}

static int co_start(struct nbd_service *service, const struct nbd_service_params *params,
                    struct hws_error *err)
{
    const struct nbd_server_options options = {.threads = SERVICE_THREADS};
    int fd, r = co_nbd_server_start(&options, &service->server, err);
    if (r < 0)
        return r;
    r = co_secure(service, params, err);
    if (r == 0)
        r = co_export(service, err);
    if (r == 0)
        r = nbd_listen(service->listen, &fd, err);
    if (r == 0 && (r = co_nbd_server_listen(service->server, fd, err)) < 0)
        unlink_socket(service);
    if (r < 0)
        co_end_one(service);
    return r;
}

static int copy(char **to, const char *text, struct hws_error *err)
{
    *to = text ? strdup(text) : NULL;
    return text && !*to ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

static int make(struct engine *engine, const struct nbd_service_params *params,
                struct nbd_service **ret, struct hws_error *err)
{
    const struct volume *volume = engine_volume(engine, params->volume, err);
    struct nbd_service *service = volume ? calloc(1, sizeof(*service)) : NULL;
    if (!volume)
        return -ENOENT;
    if (!service)
        return hws_fail(err, ENOMEM, "out of memory");
    service->volume = volume;
    service->read_only = params->read_only;
    service->tls = tls_choices[params->tls];
    int r = copy(&service->name, params->name, err);
    r = r < 0 ? r : copy(&service->tag, params->tag ? params->tag : "", err);
    r = r < 0 ? r : copy(&service->listen, params->listen, err);
    r = r < 0 ? r : copy(&service->export_name, params->export_name, err);
    r = r < 0 ? r : copy(&service->description, params->description, err);
    if (r < 0)
        free_service(service);
    else
        *ret = service;
    return r;
}

int co_nbd_serve(struct engine *engine, const struct nbd_service_params *params,
                 struct hws_error *err)
{
    unsigned count;
    struct nbd_service *service = find(engine, params->name, &count);
    if (service && params->tag && !strcmp(params->tag, service->tag))
        return 0;
    if (service)
        return hws_fail(err, EEXIST, "there is an NBD service '%.80s' already", params->name);
    if (count == NBD_SERVICES_MAX)
        return hws_fail(err, E2BIG, "an engine has up to %d NBD services", NBD_SERVICES_MAX);
    int r = make(engine, params, &service, err);
    if (r < 0)
        return r;
    r = co_start(service, params, err);
    if (r < 0) {
        free_service(service);
        return r;
    }
    list_push_back(&engine->nbd_services, &service->link);
    log_info("nbd: '%s' is served at %s", service->export_name, service->listen);
    return 0;
}

static void co_remove(struct nbd_service *service)
{
    list_del(&service->link);
    co_end_one(service);
    unlink_socket(service);
    free_service(service);
}

int co_nbd_unserve(struct engine *engine, const char *name, bool force, struct hws_error *err)
{
    unsigned count;
    struct nbd_service *service = find(engine, name, &count);
    if (!service)
        return hws_fail(err, ENOENT, "there is no NBD service '%.80s'", name);
    int r = service->export ? co_nbd_export_remove(service->export, force, err) : 0;
    if (r < 0)
        return r;
    service->export = NULL;
    co_remove(service);
    return 0;
}

/* ---- all of them ---- */

int co_nbd_services_pause(struct engine *engine, bool force, struct hws_error *err)
{
    int r = 0;
    list_for_each (link, &engine->nbd_services) {
        struct nbd_service *service = list_entry(link, struct nbd_service, link);
        if (service->export && r == 0)
            r = co_nbd_export_remove(service->export, force, err);
        if (r == 0)
            service->export = NULL;
    }
    if (r < 0)
        co_nbd_services_resume(engine);
    return r;
}

void co_nbd_services_resume(struct engine *engine)
{
    struct hws_error why = {0};
    list_for_each (link, &engine->nbd_services) {
        struct nbd_service *service = list_entry(link, struct nbd_service, link);
        if (!service->export && co_export(service, &why) < 0)
            log_error("'%s' is not served over NBD any more: %s", service->export_name, why.text);
    }
}

void co_nbd_services_end(struct engine *engine)
{
    while (!list_empty(&engine->nbd_services))
        co_remove(list_entry(engine->nbd_services.next, struct nbd_service, link));
}

json_t *nbd_services_state(const struct engine *engine)
{
    json_t *list = list_empty(&engine->nbd_services) ? NULL : json_array();
    if (!list)
        return NULL;
    list_for_each (link, &engine->nbd_services) {
        const struct nbd_service *service = list_entry(link, struct nbd_service, link);
        struct nbd_export_info info = {0};
        if (service->export)
            nbd_export_info(service->export, &info);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:i}", "name",
                                              service->name, "tag", service->tag, "listen",
                                              service->listen, "export", service->export_name,
                                              "tls", service->tls, "read-only", service->read_only,
                                              "serving", service->export != NULL, "connections",
                                              (int)info.connections));
    }
    return list;
}
