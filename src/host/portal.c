/*
 * Addresses to listen on; see host/portal.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/portal.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int bad_portal(const char *text, unsigned port, struct hws_error *err)
{
    return hws_fail(err, EINVAL,
                    "portal '%.80s': give an address of this host, as 192.0.2.1, 192.0.2.1:%u, "
                    "2001:db8::1 or [2001:db8::1]:%u",
                    text, port, port);
}

/* @return the port, 0 where there is none such. */
static unsigned parse_port(const char *text)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return 0;
    unsigned long port = strtoul(text, &end, 10);
    return *end || port > 65535 ? 0 : (unsigned)port;
}

int portal_parse(const char *text, unsigned default_port, char ret[PORTAL_BYTES],
                 struct hws_error *err)
{
    char address[64], clean[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    unsigned port = default_port;
    if (strlen(text) >= sizeof(address))
        return bad_portal(text, default_port, err);
    snprintf(address, sizeof(address), "%s", text);
    char *inner = address, *bracket = strchr(address, ']'), *colon = strchr(address, ':');
    bool bare_v6 = colon && strchr(colon + 1, ':') && !bracket;
    char *port_text = bracket ? bracket + 1 : bare_v6 ? NULL : colon;
    if (bracket) {
        inner = address + 1;
        *bracket = '\0';
        if (address[0] != '[' || (*port_text && *port_text != ':'))
            return bad_portal(text, default_port, err);
        if (!*port_text)
            port_text = NULL;
    }
    if (port_text) {
        port = parse_port(port_text + 1);
        *port_text = '\0';
    }
    if (!port)
        return bad_portal(text, default_port, err);
    if (!bracket && inet_pton(AF_INET, inner, bytes) == 1)
        snprintf(ret, PORTAL_BYTES, "%s:%u", inner, port);
    else if ((bracket || bare_v6) && inet_pton(AF_INET6, inner, bytes) == 1 &&
             inet_ntop(AF_INET6, bytes, clean, sizeof(clean)))
        snprintf(ret, PORTAL_BYTES, "[%s]:%u", clean, port);
    else
        return bad_portal(text, default_port, err);
    return 0;
}

/* With the kernel's own options: it reuses addresses, and takes one that may come later. */
static int listen_at(const struct addrinfo *address)
{
    const int on = 1;
    autofd int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)) < 0)
        return -errno;
    return bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, 1) < 0 ? -errno : 0;
}

int portal_try(const char *portal)
{
    char text[PORTAL_BYTES];
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *address;
    snprintf(text, sizeof(text), "%s", portal);
    char *colon = strrchr(text, ':'), *host = text, *bracket = strchr(text, ']');
    if (!colon)
        return -EINVAL;
    *colon = '\0';
    if (bracket) {
        *bracket = '\0';
        host = text + 1;
    }
    if (getaddrinfo(host, colon + 1, &hints, &address) != 0)
        return -EINVAL;
    int r = listen_at(address);
    freeaddrinfo(address);
    return r;
}
