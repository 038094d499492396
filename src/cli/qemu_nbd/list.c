/*
 * -L: what another server exports.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include "host/nbd_client/client.h"
#include <signal.h>

/* By their bits, from the second on; the first one says that there are flags. */
static const char *const flag_names[] = {"readonly", "flush",  "fua",      "rotational",
                                         "trim",     "zeroes", "df",       "multi",
                                         "resize",   "cache",  "fast-zero"};

static void print_details(const struct nbd_listed *export)
{
    printf("  size:  %llu\n  flags: 0x%x (", (unsigned long long)export->size_bytes, export->flags);
    for (unsigned i = 0; i < ARRAY_LEN(flag_names); i++)
        if (export->flags & 2u << i)
            printf(" %s", flag_names[i]);
    puts(" )");
    if (export->minimum)
        printf("  min block: %u\n  opt block: %u\n  max block: %u\n", export->minimum,
               export->preferred, export->maximum);
    if (export->context_count)
        printf("  available meta contexts: %u\n", export->context_count);
    for (unsigned i = 0; i < export->context_count; i++)
        printf("   %s\n", export->contexts[i]);
}

static void print_list(const struct nbd_list *list)
{
    printf("exports available: %u\n", list->count);
    for (unsigned i = 0; i < list->count; i++) {
        const struct nbd_listed *export = &list->exports[i];
        printf(" export: '%s'\n", export->name);
        if (export->description)
            printf("  description: %s\n", export->description);
        if (export->flags)
            print_details(export);
    }
}

int qn_list(const struct qn_command *command, const struct qn_creds *creds)
{
    struct nbd_client_address address = {
        .socket = command->socket, .host = qn_host(command), .port = qn_port(command)};
    struct hws_error err = {0};
    struct nbd_channel *channel;
    struct nbd_list list;
    struct nbd_client_tls tls = {.host = command->tls_hostname
                                             ? command->tls_hostname
                                             : (command->socket ? NULL : address.host)};
    if (creds) {
        tls.folder = creds->folder;
        tls.psk = creds->psk;
        tls.username = creds->username;
    }
    signal(SIGPIPE, SIG_IGN);
    int r = nbd_client_connect(&address, &channel, &err);
    if (r < 0)
        return qi_error("%s", err.text);
    r = nbd_client_list(channel, creds ? &tls : NULL, &list, &err);
    nbd_channel_close(channel);
    if (r == 0)
        print_list(&list);
    nbd_list_free(&list);
    return r < 0 ? qi_error("%s", err.text) : 0;
}
