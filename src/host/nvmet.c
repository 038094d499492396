/*
 * The kernel's NVMe target; see host/nvmet.h.
 *
 * A subsystem says whose it is: its folder is marked as ours, and its serial number is a digest of
 * the export's name. What hosts see of it is filled in before it is put on a port.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/nvmet.h"
#include "host/secrets.h"
#include "host/configfs.h"
#include "host/wwn.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <sys/file.h>

#define SUBSYSTEM  NVMET_ROOT "/subsystems/%s"
#define NAMESPACE  SUBSYSTEM "/namespaces/%u"
#define HOST       NVMET_ROOT "/hosts/%s"
#define PORT       NVMET_ROOT "/ports/%s"
#define MODEL      "hawser"
#define SERIAL     "%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x" /* 20 characters: NVMe base, SN */
#define PORT_FIRST 10000 /* clear of those of nvmetcli, which takes the lowest free numbers */
#define PORT_LAST  65535
#define NAME_BYTES 256

static void serial_of(const struct fabric_export *export, char ret[21])
{
    uint8_t d[16];
    name_digest("nvme serial", export->name, d);
    snprintf(ret, 21, SERIAL, d[0], d[1], d[2], d[3], d[4], d[5], d[9], d[10], d[11], d[12]);
}

/* ---- keys ---- */

/* "DHHC-1:", which hash ("00" to "03"), ':', base64, ':' (NVMe base specification 2.0, 8.13.5.8).
 */
static bool is_key(const char *text, size_t length)
{
    static const char prefix[] = "DHHC-1:0";
    size_t at = strlen(prefix);
    if (length < at + 4 || strncmp(text, prefix, at) != 0 || text[at] < '0' || text[at] > '3' ||
        text[at + 1] != ':' || text[length - 1] != ':')
        return false;
    for (at += 2; at < length - 1; at++)
        if (!isalnum((unsigned char)text[at]) && !memchr("+/=", text[at], 3))
            return false;
    return true;
}

static const char *check_key(const char *value)
{
    return is_key(value, strlen(value))
               ? NULL
               : "wants a key as nvme gen-dhchap-key prints it (DHHC-1:00:...:)";
}

int nvmet_keys_parse(const char *text, const char *name, struct nvmet_keys *ret,
                     struct hws_error *err)
{
    struct nvmet_keys keys = {0};
    const struct secrets_field fields[] = {
        {"host-key=", keys.host, sizeof(keys.host), check_key},
        {"controller-key=", keys.controller, sizeof(keys.controller), check_key},
        {NULL},
    };
    int r = secrets_parse(text, name, fields, err);
    if (r == 0 && !keys.host[0])
        r = hws_fail(err, EINVAL, "%s: a line host-key= is needed", name);
    if (r == 0 && !strcmp(keys.host, keys.controller))
        r = hws_fail(err, EINVAL, "%s: host-key= and controller-key= must differ", name);
    if (r == 0)
        *ret = keys;
    explicit_bzero(&keys, sizeof(keys));
    return r;
}

/* ---- the tree ---- */

int nvmet_lock(struct hws_error *err)
{
    autofd int fd = open(NVMET_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return hws_fail_errno(err, errno,
                              "cannot open " NVMET_ROOT "; configfs and the kernel module nvmet "
                              "are needed");
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return hws_fail_errno(err, errno, "cannot lock " NVMET_ROOT);
    return steal_fd(&fd);
}

static int take_name(const char *name, void *arg)
{
    snprintf(arg, NAME_BYTES, "%s", name);
    return 1;
}

static int count_name(const char *name, void *arg)
{
    ++*(unsigned *)arg;
    return 0;
}

/* ---- namespaces ---- */

/*
 * The identities of a namespace: its UUID is the volume's, as version 8 (RFC 9562: what the maker
 * says); its NGUID has the form of an EUI-64 in its last 8 bytes, with the bit that says "locally
 * administered", because no company's number is in it.
 */
static void namespace_names(const uint8_t volume[16], char uuid[UUID_TEXT_BYTES],
                            char nguid[UUID_TEXT_BYTES])
{
    uint8_t bytes[16];
    memcpy(bytes, volume, 16);
    bytes[6] = (uint8_t)(0x80 | (bytes[6] & 0x0f));
    bytes[8] = (uint8_t)(0x80 | (bytes[8] & 0x3f));
    uuid_text(bytes, uuid);
    memcpy(bytes, volume, 16);
    bytes[8] = (uint8_t)((bytes[8] & 0xfc) | 0x02);
    uuid_text(bytes, nguid);
}

static int add_namespace(const char *nqn, unsigned number, const struct fabric_unit *unit,
                         struct hws_error *err)
{
    char uuid[UUID_TEXT_BYTES], nguid[UUID_TEXT_BYTES];
    if (unit->read_only)
        return hws_fail(err, ENOTSUP,
                        "volume '%s' is read-only, and the kernel's NVMe target cannot protect a "
                        "namespace against writes",
                        unit->name);
    namespace_names(unit->uuid, uuid, nguid);
    int r = configfs_mkdir(err, NAMESPACE, nqn, number);
    if (r == 0)
        r = configfs_write(err, unit->device, NAMESPACE "/device_path", nqn, number);
    if (r == 0)
        r = configfs_write(err, uuid, NAMESPACE "/device_uuid", nqn, number);
    if (r == 0)
        r = configfs_write(err, nguid, NAMESPACE "/device_nguid", nqn, number);
    return r < 0 ? r : configfs_write(err, "1", NAMESPACE "/enable", nqn, number);
}

static int clear_namespaces(const char *nqn, struct hws_error *err)
{
    char name[NAME_BYTES];
    int r = 0;
    while (r == 0 && configfs_each(take_name, name, false, SUBSYSTEM "/namespaces", nqn)) {
        configfs_write(NULL, "0", SUBSYSTEM "/namespaces/%s/enable", nqn, name);
        r = configfs_rmdir(err, SUBSYSTEM "/namespaces/%s", nqn, name);
    }
    return r;
}

/* ---- hosts ---- */

/* A host's keys are the same for all subsystems: those that are there must be the ones wanted. */
static int check_keys(const char *host, const struct nvmet_keys *keys, struct hws_error *err)
{
    char have[NVMET_KEY_BYTES * 2] = "";
    if (!keys)
        return 0;
    bool same = configfs_read(have, sizeof(have), HOST "/dhchap_key", host) > 0 &&
                !strcmp(have, keys->host);
    if (same && keys->controller[0])
        same = configfs_read(have, sizeof(have), HOST "/dhchap_ctrl_key", host) > 0 &&
               !strcmp(have, keys->controller);
    explicit_bzero(have, sizeof(have));
    return same ? 0
                : hws_fail(err, EEXIST,
                           "the kernel knows the host %s already, without keys or with others; a "
                           "host has the same keys in all exports",
                           host);
}

static int set_keys(const char *host, const struct nvmet_keys *keys, struct hws_error *err)
{
    if (!keys)
        return 0;
    if (!configfs_exists(HOST "/dhchap_key", host))
        return hws_fail(err, ENOTSUP,
                        "this kernel's NVMe target cannot ask for keys (it wants Linux 6.0 and "
                        "CONFIG_NVME_TARGET_AUTH)");
    int r = configfs_write_secret(err, keys->host, HOST "/dhchap_key", host);
    if (r == 0 && keys->controller[0])
        r = configfs_write_secret(err, keys->controller, HOST "/dhchap_ctrl_key", host);
    return r;
}

static int allow_host(const struct nvmet_subsystem *s, const char *host, struct hws_error *err)
{
    char target[CONFIGFS_PATH_MAX];
    int r = configfs_exists(HOST, host) ? -EEXIST : configfs_mkdir_marked(err, HOST, host);
    if (r == -EEXIST) {
        r = check_keys(host, s->keys, err);
        if (r < 0)
            return r;
    } else if (r == 0) {
        r = set_keys(host, s->keys, err);
        if (r < 0)
            configfs_rmdir(NULL, HOST, host);
    }
    snprintf(target, sizeof(target), HOST, host);
    return r < 0 ? r : configfs_link(err, target, SUBSYSTEM "/allowed_hosts/%s", s->nqn, host);
}

/* A host of ours that another subsystem allows is busy: it goes with the last one. */
static int clear_hosts(const char *nqn, struct hws_error *err)
{
    char name[NAME_BYTES];
    int r = 0;
    while (r == 0 && configfs_each(take_name, name, true, SUBSYSTEM "/allowed_hosts", nqn)) {
        r = configfs_unlink(err, SUBSYSTEM "/allowed_hosts/%s", nqn, name);
        if (r == 0 && configfs_is_marked(HOST, name))
            configfs_rmdir(NULL, HOST, name);
    }
    return r;
}

/* ---- ports ---- */

void nvmet_port_tcp(const char *portal, struct nvmet_port *ret)
{
    const char *colon = strrchr(portal, ':');
    bool v6 = portal[0] == '[';
    int length = (int)(colon - portal);
    *ret = (struct nvmet_port){.transport = "tcp", .family = v6 ? "ipv6" : "ipv4"};
    snprintf(ret->address, sizeof(ret->address), "%.*s", v6 ? length - 2 : length, portal + v6);
    snprintf(ret->service, sizeof(ret->service), "%s", colon + 1);
}

void nvmet_port_fc(uint64_t wwnn, uint64_t wwpn, struct nvmet_port *ret)
{
    *ret = (struct nvmet_port){.transport = "fc", .family = "fc", .service = "none"};
    snprintf(ret->address, sizeof(ret->address), "nn-0x%016llx:pn-0x%016llx",
             (unsigned long long)wwnn, (unsigned long long)wwpn);
}

struct port_search {
    const struct nvmet_port *port;
    char name[NAME_BYTES];
};

static bool port_has(const char *name, const char *file, const char *value)
{
    char text[NAME_BYTES];
    return configfs_read(text, sizeof(text), PORT "/%s", name, file) >= 0 && !strcmp(text, value);
}

static int look_at_port(const char *name, void *arg)
{
    struct port_search *search = arg;
    return port_has(name, "addr_trtype", search->port->transport) &&
                   port_has(name, "addr_traddr", search->port->address) &&
                   port_has(name, "addr_trsvcid", search->port->service)
               ? take_name(name, search->name)
               : 0;
}

static int make_port(const struct nvmet_port *port, char name[NAME_BYTES], struct hws_error *err)
{
    const struct {
        const char *file, *value;
    } attributes[] = {
        {"addr_trtype", port->transport},
        {"addr_adrfam", port->family},
        {"addr_traddr", port->address},
        {"addr_trsvcid", port->service},
    };
    unsigned number = PORT_FIRST;
    int r;
    do {
        snprintf(name, NAME_BYTES, "%u", number);
        r = configfs_exists(PORT, name) ? -EEXIST : configfs_mkdir_marked(err, PORT, name);
    } while (r == -EEXIST && number++ < PORT_LAST);
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(attributes); i++)
        r = configfs_write(err, attributes[i].value, PORT "/%s", name, attributes[i].file);
    if (r < 0 && r != -EEXIST)
        configfs_rmdir(NULL, PORT, name);
    return r == -EEXIST ? hws_fail(err, EEXIST, "all ports of the NVMe target are taken") : r;
}

/* A port opens with its first subsystem, and that is where the kernel says what is wrong with it.
 */
static int explain(int r, const struct nvmet_port *port, struct hws_error *err)
{
    switch (r) {
    case -EADDRINUSE:
        return hws_fail(err, EADDRINUSE,
                        "address %s, port %s: another program listens there; choose another",
                        port->address, port->service);
    case -EADDRNOTAVAIL:
        return hws_fail(err, EADDRNOTAVAIL, "address %s: this host has not got it", port->address);
    default:
        return hws_wrap(err, r, "%s", port->address);
    }
}

int nvmet_subsystem_listen(const char *nqn, const struct nvmet_port *port, struct hws_error *err)
{
    struct port_search search = {.port = port};
    char target[CONFIGFS_PATH_MAX];
    bool found = configfs_each(look_at_port, &search, false, NVMET_ROOT "/ports");
    int r = found ? 0 : make_port(port, search.name, err);
    if (r < 0)
        return r;
    snprintf(target, sizeof(target), SUBSYSTEM, nqn);
    r = configfs_link(err, target, PORT "/subsystems/%s", search.name, nqn);
    if (r == 0)
        return 0;
    if (!found)
        configfs_rmdir(NULL, PORT, search.name);
    return explain(r, port, err);
}

struct nqn_search {
    const char *nqn;
    char port[NAME_BYTES];
};

static int look_for_nqn(const char *name, void *arg)
{
    struct nqn_search *search = arg;
    return configfs_exists(PORT "/subsystems/%s", name, search->nqn) ? take_name(name, search->port)
                                                                     : 0;
}

static int leave_ports(const char *nqn, struct hws_error *err)
{
    struct nqn_search search = {.nqn = nqn};
    int r = 0;
    while (r == 0 && configfs_each(look_for_nqn, &search, false, NVMET_ROOT "/ports")) {
        unsigned others = 0;
        r = configfs_unlink(err, PORT "/subsystems/%s", search.port, nqn);
        (void)configfs_each(count_name, &others, true, PORT "/subsystems", search.port);
        if (r == 0 && !others && configfs_is_marked(PORT, search.port))
            r = configfs_rmdir(err, PORT, search.port);
    }
    return r;
}

/* ---- subsystems ---- */

static int fill(const struct nvmet_subsystem *s, struct hws_error *err)
{
    char serial[21];
    serial_of(s->export, serial);
    int r = configfs_write(err, serial, SUBSYSTEM "/attr_serial", s->nqn);
    if (r == 0)
        r = configfs_write(err, MODEL, SUBSYSTEM "/attr_model", s->nqn);
    if (r == 0)
        r = configfs_write(err, s->hosts->count ? "0" : "1", SUBSYSTEM "/attr_allow_any_host",
                           s->nqn);
    for (unsigned i = 0; r == 0 && i < s->hosts->count; i++)
        r = allow_host(s, s->hosts->item[i], err);
    for (unsigned i = 0; r == 0 && i < s->export->unit_count; i++)
        r = add_namespace(s->nqn, i + 1, &s->export->units[i], err);
    return r;
}

int nvmet_subsystem_make(const struct nvmet_subsystem *s, struct hws_error *err)
{
    int r = configfs_mkdir_marked(err, SUBSYSTEM, s->nqn);
    if (r == -EEXIST)
        return hws_fail(err, EEXIST,
                        "there is an NVMe subsystem %s already, and it is not of this export; "
                        "choose another name",
                        s->nqn);
    if (r < 0)
        return r;
    r = fill(s, err);
    if (r < 0 && nvmet_subsystem_remove(s->nqn, NULL) < 0)
        return hws_wrap(err, r, "the half-made subsystem %s is left behind", s->nqn);
    return r;
}

bool nvmet_subsystem_belongs(const char *nqn, const struct fabric_export *export)
{
    char serial[21], have[64], model[64];
    serial_of(export, serial);
    if (!configfs_is_marked(SUBSYSTEM, nqn) ||
        configfs_read(have, sizeof(have), SUBSYSTEM "/attr_serial", nqn) < 0 ||
        configfs_read(model, sizeof(model), SUBSYSTEM "/attr_model", nqn) < 0)
        return false;
    /* One whose model is not set yet lost its maker before it could say whose it is. */
    return !strcmp(have, serial) || strcmp(model, MODEL) != 0;
}

bool nvmet_subsystem_is_whole(const char *nqn, const struct fabric_export *export)
{
    struct nqn_search search = {.nqn = nqn};
    char text[CONFIGFS_VALUE_MAX];
    unsigned count = 0;
    if (!nvmet_subsystem_belongs(nqn, export) ||
        !configfs_each(look_for_nqn, &search, false, NVMET_ROOT "/ports"))
        return false;
    (void)configfs_each(count_name, &count, false, SUBSYSTEM "/namespaces", nqn);
    for (unsigned i = 0; i < export->unit_count; i++)
        if (configfs_read(text, sizeof(text), NAMESPACE "/device_path", nqn, i + 1) < 0 ||
            strcmp(text, export->units[i].device) != 0 ||
            configfs_read(text, sizeof(text), NAMESPACE "/enable", nqn, i + 1) < 0 ||
            strcmp(text, "1") != 0)
            return false;
    return count == export->unit_count;
}

int nvmet_subsystem_remove(const char *nqn, struct hws_error *err)
{
    if (!configfs_exists(SUBSYSTEM, nqn))
        return 0;
    int r = leave_ports(nqn, err);
    if (r == 0)
        r = clear_namespaces(nqn, err);
    if (r == 0)
        r = clear_hosts(nqn, err);
    return r < 0 ? r : configfs_rmdir(err, SUBSYSTEM, nqn);
}

int nvmet_subsystem_resized(const char *nqn, struct hws_error *err)
{
    unsigned count = 0;
    int r = 0;
    (void)configfs_each(count_name, &count, false, SUBSYSTEM "/namespaces", nqn);
    for (unsigned i = 1; r == 0 && i <= count; i++)
        r = configfs_write(err, "1", NAMESPACE "/revalidate_size", nqn, i);
    return r;
}
