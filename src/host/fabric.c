/*
 * The table of fabrics, and what their options have in common; see host/fabric.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/fabric.h"
#include "host/fabrics.h"
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>

const struct fabric *const fabrics[] = {&fabric_iscsi, &fabric_fc, &fabric_nvme, &fabric_vhost_scsi,
                                        NULL};

const struct fabric *fabric_find(const char *name, struct hws_error *err)
{
    char known[128] = "";
    size_t used = 0;
    for (unsigned i = 0; fabrics[i]; i++) {
        if (!strcmp(fabrics[i]->name, name))
            return fabrics[i];
        int n =
            snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", fabrics[i]->name);
        used = MIN(used + (size_t)MAX(n, 0), sizeof(known) - 1);
    }
    (void)hws_fail(err, EINVAL, "there is no fabric '%.40s'; known are %s", name, known);
    return NULL;
}

int fabric_options_parse(const struct fabric *fabric, const json_t *object, void **ret,
                         struct hws_error *err)
{
    void *options = calloc(1, fabric->options_bytes);
    if (!options)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = options_parse(fabric->options, object, NULL, fabric->name, options,
                          fabric->options_bytes, err);
    if (r < 0)
        free(options);
    else
        *ret = options;
    return r;
}

void *fabric_options_free(const struct fabric *fabric, void *options)
{
    if (options)
        options_free(fabric->options, options);
    free(options);
    return NULL;
}

int fabric_resolve(const struct fabric *fabric, const char *name, json_t *object,
                   struct hws_error *err)
{
    void *options;
    int r = fabric_options_parse(fabric, object, &options, err);
    if (r < 0)
        return r;
    r = fabric->resolve(name, options, object, err);
    fabric_options_free(fabric, options);
    return r;
}

/* ---- lists ---- */

void fabric_list_free(struct fabric_list *list)
{
    free(list->text);
    *list = (struct fabric_list){0};
}

static int add_item(struct fabric_list *list, char *item, const char *what, struct hws_error *err)
{
    if (!*item || strpbrk(item, " \t\r\n"))
        return hws_fail(err, EINVAL, "%s: '%.80s' is none; they are parted by commas alone", what,
                        item);
    for (unsigned i = 0; i < list->count; i++)
        if (!strcmp(list->item[i], item))
            return hws_fail(err, EINVAL, "%s: '%.230s' is there twice", what, item);
    if (list->count == FABRIC_LIST_MAX)
        return hws_fail(err, EINVAL, "%s: more than %d", what, FABRIC_LIST_MAX);
    list->item[list->count++] = item;
    return 0;
}

int fabric_list_split(const char *text, const char *what, struct fabric_list *ret,
                      struct hws_error *err)
{
    struct fabric_list list = {0};
    *ret = list;
    if (!text || !*text)
        return 0;
    list.text = strdup(text);
    if (!list.text)
        return hws_fail(err, ENOMEM, "out of memory");
    char *rest = list.text;
    int r = 0;
    for (char *item; r == 0 && (item = strsep(&rest, ","));)
        r = add_item(&list, item, what, err);
    if (r < 0)
        fabric_list_free(&list);
    else
        *ret = list;
    return r;
}

/* ---- sessions ---- */

int fabric_refuse_sessions(json_t *sessions, const char *export, const char *advice,
                           struct hws_error *err)
{
    char names[512] = "";
    size_t i, used = 0;
    json_t *name;
    json_array_foreach(sessions, i, name)
    {
        int n = snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
                         json_string_value(name));
        used = MIN(used + (size_t)MAX(n, 0), sizeof(names) - 1);
    }
    json_decref(sessions);
    return used
               ? hws_fail(err, EBUSY, "connected to the export '%s': %s; %s", export, names, advice)
               : 0;
}

/* ---- this host ---- */

/* FNV-1a. machine-id(5) asks that the number itself is not told over the network. */
static uint32_t digest_machine_id(void)
{
    uint32_t digest = 2166136261u;
    char text[64];
    autofd int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text));
    for (ssize_t i = 0; i < n; i++)
        digest = (digest ^ (uint8_t)text[i]) * 16777619u;
    return digest;
}

void fabric_host_name(char ret[48])
{
    char host[HOST_NAME_MAX + 1] = "";
    size_t used = 0;
    if (gethostname(host, sizeof(host) - 1) < 0)
        host[0] = '\0';
    for (const char *at = host; *at && *at != '.' && used < 30; at++)
        if (isalnum((unsigned char)*at) || (*at == '-' && used))
            ret[used++] = (char)tolower((unsigned char)*at);
    if (used)
        ret[used++] = '-';
    snprintf(ret + used, 48 - used, "%08x", digest_machine_id());
}
