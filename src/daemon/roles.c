/*
 * Who may do what: the configuration's "roles", from who somebody is to what that one may.
 *
 *   "uid:1000"   "gid:27"                 at the unix socket, where its user or a group of it is
 * that "cn:NAME"    "ou:NAME"    "sha256:HEX"     over TCP, by the certificate
 *
 * each with the role viewer, operator or admin; or none, which takes away what other rows give. The
 * root user, and the one that hawserd runs as, are admins at the unix socket, whatever the table
 * says. Who is not in the table has no role.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/rest.h"
#include "daemon/daemon.h"
#include <ctype.h>

#define DIGEST_LENGTH 64

static bool is_number(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 10;
}

static bool is_digest(const char *text)
{
    return strlen(text) == DIGEST_LENGTH && strspn(text, "0123456789abcdef") == DIGEST_LENGTH;
}

int roles_check(const json_t *roles, struct hws_error *err)
{
    const char *who;
    json_t *role;
    json_object_foreach((json_t *)roles, who, role)
    {
        const char *name = json_string_value(role);
        bool number = !strncmp(who, "uid:", 4) || !strncmp(who, "gid:", 4);
        bool text = (!strncmp(who, "cn:", 3) || !strncmp(who, "ou:", 3)) && who[3];
        bool digest = !strncmp(who, "sha256:", 7);
        if (number ? !is_number(who + 4) : digest ? !is_digest(who + 7) : !text)
            return hws_fail(err, EINVAL,
                            "configuration: roles: '%.100s' is nobody: uid:NUMBER, gid:NUMBER, "
                            "cn:NAME, ou:NAME, or sha256: and 64 hexadecimal digits in lower case",
                            who);
        if (strcmp(name, "none") != 0 && rest_role_named(name) == ROLE_BY_METHOD)
            return hws_fail(err, EINVAL,
                            "configuration: roles: the role of %.100s is '%.40s'; it can be "
                            "viewer, operator, admin or none",
                            who, name);
    }
    return 0;
}

bool roles_have_users(const json_t *roles)
{
    const char *who;
    json_t *role;
    json_object_foreach((json_t *)roles, who, role)
    {
        if (!strncmp(who, "uid:", 4) || !strncmp(who, "gid:", 4))
            return true;
    }
    return false;
}

/* The best that any row gives, but none where one takes it away. */
struct verdict {
    int role;
    bool none;
};

static void look_up(const json_t *roles, const char *kind, const char *value,
                    struct verdict *verdict)
{
    char who[160];
    snprintf(who, sizeof(who), "%s:%s", kind, value);
    const char *role = json_string_value(json_object_get(roles, who));
    if (!role || !*value)
        return;
    int found = (int)rest_role_named(role);
    verdict->none = verdict->none || found == ROLE_BY_METHOD;
    verdict->role = MAX(verdict->role, found);
}

static void look_up_number(const json_t *roles, const char *kind, unsigned value,
                           struct verdict *verdict)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", value);
    look_up(roles, kind, text, verdict);
}

int roles_admit(void *arg, const struct http_peer *peer)
{
    const json_t *roles = arg;
    struct verdict verdict = {.role = -1};
    if (peer->local && (peer->uid == 0 || peer->uid == geteuid()))
        return ROLE_ADMIN;
    if (peer->local) {
        look_up_number(roles, "uid", peer->uid, &verdict);
        for (unsigned i = 0; i < peer->group_count; i++)
            look_up_number(roles, "gid", peer->groups[i], &verdict);
    } else {
        look_up(roles, "cn", peer->name, &verdict);
        look_up(roles, "ou", peer->unit, &verdict);
        look_up(roles, "sha256", peer->fingerprint, &verdict);
    }
    return verdict.none ? -1 : verdict.role;
}
