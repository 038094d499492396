/*
 * Who is connected to a subsystem of the kernel's NVMe target; see nvmet_subsystem_sessions() in
 * host/nvmet.h. The target's configfs tree does not say, so others who know are asked: the kernel's
 * NVMe initiator of this host, and its table of TCP connections.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/nvmet.h"
#include <arpa/inet.h>

#define PORT         NVMET_ROOT "/ports/%s"
#define SESSIONS_MAX 256
#define ESTABLISHED  1 /* in the column "st" of /proc/net/tcp */

struct search {
    const char *nqn;
    json_t *out;
    /* The port that is looked at. */
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
    bool any_address;
    unsigned service;
};

static void add_session(struct search *s, const char *name)
{
    size_t i;
    json_t *known;
    json_array_foreach(s->out, i, known)
    {
        if (!strcmp(json_string_value(known), name))
            return;
    }
    if (json_array_size(s->out) < SESSIONS_MAX)
        json_array_append_new(s->out, json_string(name));
}

/* ---- controllers of this host ---- */

static int look_at_controller(const char *name, void *arg)
{
    struct search *s = arg;
    char text[FABRIC_NAME_MAX + 32];
    if (configfs_read(text, sizeof(text), "/sys/class/nvme/%s/subsysnqn", name) > 0 &&
        !strcmp(text, s->nqn) &&
        configfs_read(text, sizeof(text), "/sys/class/nvme/%s/transport", name) > 0 &&
        !strcmp(text, "fc") &&
        configfs_read(text, sizeof(text), "/sys/class/nvme/%s/state", name) > 0 &&
        !strcmp(text, "live"))
        add_session(s, "this host");
    return 0;
}

/* ---- connections ---- */

static void map_v4(uint8_t address[16])
{
    memmove(address + 12, address, 4);
    memset(address, 0, 10);
    memset(address + 10, 0xff, 2);
}

/* Words as the kernel prints them: what lies in memory, read as a number of this machine. */
static bool read_address(const char *text, uint8_t ret[16])
{
    uint32_t word[4];
    size_t digits = strspn(text, "0123456789ABCDEFabcdef");
    if (digits != 8 && digits != 32)
        return false;
    for (unsigned i = 0; i < digits / 8; i++)
        if (sscanf(text + (size_t)i * 8, "%8x", &word[i]) != 1)
            return false;
    memcpy(ret, word, digits / 2);
    if (digits == 8)
        map_v4(ret);
    return true;
}

static void address_text(const uint8_t address[16], char ret[INET6_ADDRSTRLEN])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (memcmp(address, mapped, sizeof(mapped)) == 0)
        (void)inet_ntop(AF_INET, address + 12, ret, INET6_ADDRSTRLEN);
    else
        (void)inet_ntop(AF_INET6, address, ret, INET6_ADDRSTRLEN);
}

/* "  0: 0100007F:1144 0200007F:8F2C 01 ..." */
static void look_at_connection(struct search *s, const char *line)
{
    char local[40], remote[40], name[INET6_ADDRSTRLEN];
    uint8_t from[16], to[16];
    unsigned service, state;
    if (sscanf(line, " %*u: %39[0-9A-Fa-f]:%x %39[0-9A-Fa-f]:%*x %x", local, &service, remote,
               &state) != 4 ||
        state != ESTABLISHED || service != s->service || !read_address(local, to) ||
        !read_address(remote, from) || (!s->any_address && memcmp(to, s->address, 16) != 0))
        return;
    address_text(from, name);
    add_session(s, name);
}

static void look_at_connections(struct search *s, const char *path)
{
    char line[512];
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof(line), file))
        look_at_connection(s, line);
    fclose(file);
}

static int count_name(const char *name, void *arg)
{
    ++*(unsigned *)arg;
    return 0;
}

static int look_at_port(const char *name, void *arg)
{
    struct search *s = arg;
    char text[64];
    unsigned subsystems = 0;
    static const uint8_t none[16];
    (void)configfs_each(count_name, &subsystems, true, PORT "/subsystems", name);
    if (subsystems != 1 || !configfs_exists(PORT "/subsystems/%s", name, s->nqn) ||
        configfs_read(text, sizeof(text), PORT "/addr_trtype", name) < 0 ||
        strcmp(text, "tcp") != 0)
        return 0;
    if (configfs_read(text, sizeof(text), PORT "/addr_trsvcid", name) < 0)
        return 0;
    s->service = (unsigned)strtoul(text, NULL, 10);
    if (configfs_read(text, sizeof(text), PORT "/addr_traddr", name) < 0)
        return 0;
    s->any_address = !strcmp(text, "0.0.0.0");
    if (inet_pton(AF_INET, text, s->address) == 1)
        map_v4(s->address);
    else if (inet_pton(AF_INET6, text, s->address) == 1)
        s->any_address = memcmp(s->address, none, 16) == 0;
    look_at_connections(s, "/proc/net/tcp");
    look_at_connections(s, "/proc/net/tcp6");
    return 0;
}

void nvmet_subsystem_sessions(const char *nqn, json_t *out)
{
    struct search s = {.nqn = nqn, .out = out};
    (void)configfs_each(look_at_controller, &s, true, "/sys/class/nvme");
    (void)configfs_each(look_at_port, &s, false, NVMET_ROOT "/ports");
}
