/*
 * The file of a lease; see control/lease.h. It is replaced by another one each time, so that who
 * reads it sees one or the other as a whole, and another host's cache of it is not asked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/lease.h"
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#define FILE_BYTES_MAX 4096

int lease_host(const char *text, char host[LEASE_HOST_BYTES], struct hws_error *err)
{
    char machine[128] = "";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned bytes = 0;
    if (!text) {
        FILE *file = fopen("/etc/machine-id", "re");
        if (file && !fgets(machine, sizeof(machine), file))
            machine[0] = '\0';
        if (file)
            fclose(file);
        machine[strcspn(machine, "\n")] = '\0';
        text = machine;
    }
    if (!*text)
        return hws_fail(err, ENOENT, "the id of this host is empty");
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(context, "hawser lease ", 13) == 1 &&
                EVP_DigestUpdate(context, text, strlen(text)) == 1 &&
                EVP_DigestFinal_ex(context, digest, &bytes) == 1;
    EVP_MD_CTX_free(context);
    if (!good)
        return hws_fail(err, EIO, "the id of this host cannot be hashed");
    for (unsigned i = 0; i < (LEASE_HOST_BYTES - 1) / 2; i++)
        snprintf(host + (size_t)2 * i, 3, "%02x", digest[i]);
    return 0;
}

static bool take_text(const json_t *value, const char *member, char *to, size_t bytes)
{
    const char *text = json_string_value(json_object_get(value, member));
    return text && *text && snprintf(to, bytes, "%s", text) < (int)bytes;
}

static bool take_number(const json_t *value, const char *member, uint64_t *to)
{
    const json_t *number = json_object_get(value, member);
    *to = (uint64_t)json_integer_value(number);
    return json_is_integer(number) && json_integer_value(number) >= 0;
}

int lease_read(const char *folder, struct lease_record *ret, struct hws_error *err)
{
    char path[PATH_MAX], text[FILE_BYTES_MAX];
    struct stat st;
    snprintf(path, sizeof(path), "%s/" LEASE_FILE, folder);
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return hws_fail_errno(err, errno, "%s", path);
    ssize_t bytes = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, text, sizeof(text)) : -1;
    if (bytes < 0)
        return hws_fail(err, EIO, "%s cannot be read", path);
    auto_json *value = json_loadb(text, (size_t)bytes, 0, NULL);
    *ret = (struct lease_record){0};
    if (!take_text(value, "host", ret->host, sizeof(ret->host)) ||
        !take_text(value, "name", ret->name, sizeof(ret->name)) ||
        !take_text(value, "boot", ret->boot, sizeof(ret->boot)) ||
        !take_text(value, "instance", ret->instance, sizeof(ret->instance)) ||
        !take_number(value, "epoch", &ret->epoch) ||
        !take_number(value, "counter", &ret->counter) || !take_number(value, "since", &ret->since))
        return hws_fail(err, EUCLEAN, "%s holds no lease; 'hawser pool take --force' replaces it",
                        path);
    return 0;
}

int lease_write(struct control *control, const char *folder, const struct lease_record *record,
                bool fresh, struct hws_error *err)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    snprintf(path, sizeof(path), "%s/" LEASE_FILE, folder);
    snprintf(temporary, sizeof(temporary), "%s/.hawser-lease.%s", folder, record->instance);
    auto_json *value = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "host", record->host,
                                 "name", record->name, "boot", record->boot, "instance",
                                 record->instance, "epoch", (json_int_t)record->epoch, "counter",
                                 (json_int_t)record->counter, "since", (json_int_t)record->since);
    autofree char *text = value ? json_dumps(value, JSON_INDENT(1)) : NULL;
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    ssize_t length = (ssize_t)strlen(text);
    autofd int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, text, (size_t)length) != length || fsync(fd) < 0)
        return hws_fail_errno(err, errno, "cannot write %s", temporary);
    control_at(control, "a lease is written");
    int r = (fresh ? link(temporary, path) : rename(temporary, path)) < 0 ? -errno : 0;
    if (r < 0 || fresh)
        unlink(temporary);
    control_at(control, "a lease is there");
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot write %s", path);
    return folder_sync(path, err);
}
