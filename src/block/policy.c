/*
 * Where files that images name may lie.
 *
 * An image is hostile until shown otherwise: the name of its backing file may say /etc/shadow,
 * ../../other/tenant.qcow2, nbd://host or json:{...}. Names are therefore taken apart here by their
 * text alone, held to the allowed folders, and handed to the backend together with the folder that
 * they may not leave; the kernel holds the open itself to that folder (openat2 with
 * RESOLVE_BENEATH), so a symbolic link cannot lead out either, whoever changes it meanwhile.
 *
 * What is no path (a URI, a driver's prefix, JSON) is opened only where the policy lists it word
 * for word. "file:" in front of a path is dropped: the path is held to the same rules.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"
#include <limits.h>

/* Drops "//", "." and "name/.." by text; "..", where it leads above the start, stays. */
static char *normalise(const char *path)
{
    char *out = malloc(strlen(path) + 2), *end = out;
    if (!out)
        return NULL;
    char *root = out;
    if (*path == '/') {
        *end++ = '/';
        root = end;
    }
    char *climb = root; /* nothing before this is taken back by ".." */
    while (*path) {
        size_t length = strcspn(path, "/");
        if (length == 2 && memcmp(path, "..", 2) == 0 && end > climb) {
            do
                end--;
            while (end > climb && *end != '/');
        } else if (length == 2 && memcmp(path, "..", 2) == 0 && root > out) {
            /* "/.." is "/" */
        } else if (length && !(length == 1 && *path == '.')) {
            bool up = length == 2 && memcmp(path, "..", 2) == 0;
            if (end > root)
                *end++ = '/';
            memcpy(end, path, length);
            end += length;
            if (up)
                climb = end;
        }
        path += length;
        path += strspn(path, "/");
    }
    *end = '\0';
    return out;
}

/* "folder/name", normalised. @folder_length bytes of @folder. */
static char *join(const char *folder, size_t folder_length, const char *name)
{
    autofree char *whole = NULL;
    if (asprintf(&whole, "%.*s/%s", (int)folder_length, folder, name) < 0) {
        whole = NULL;
        return NULL;
    }
    return normalise(whole);
}

/* Bytes of the folder part of a path, 0 where it has none. */
static size_t folder_length_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)MAX(slash - path, 1) : 0;
}

/* The path in absolute form, as far as the working folder is known. */
static char *absolute(const char *path)
{
    char folder[PATH_MAX];
    if (*path == '/')
        return normalise(path);
    if (!getcwd(folder, sizeof(folder)))
        return NULL;
    return join(folder, strlen(folder), path);
}

/* True when the normalised absolute @path is @folder or lies below it. */
static bool lies_below(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    if (strcmp(folder, "/") == 0)
        return *path == '/';
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/*
 * Tests one allowed entry. @return 1 with @ret_beneath where it allows *@path, 0 where not,
 * -ENOMEM. Both are then absolute, or both relative to the working folder. An entry that is the
 * file itself allows that file: it may then not leave its own folder.
 */
static int try_entry(char **path, const char *entry, char **ret_beneath)
{
    autofree char *path_abs = absolute(*path), *entry_abs = absolute(entry);
    autofree char *folder = normalise(entry);
    if (!path_abs || !entry_abs || !folder)
        return -ENOMEM;
    if (!lies_below(path_abs, entry_abs))
        return 0;
    bool relative = **path != '/' && *folder != '/' && (!*folder || lies_below(*path, folder));
    /* "../.." and "../../../a" are alike only by their text, and ".." lies in no ".". */
    const char *rest = relative ? *path + strlen(folder) : "";
    relative = relative && *rest && strncmp(rest + (*rest == '/'), "..", 2) != 0;
    if (!relative) {
        free(*path);
        *path = steal_ptr(&path_abs);
        free(folder);
        folder = steal_ptr(&entry_abs);
    }
    if (strcmp(*path, folder) == 0)
        folder[folder_length_of(folder)] = '\0';
    *ret_beneath = *folder ? steal_ptr(&folder) : strdup(".");
    return *ret_beneath ? 1 : -ENOMEM;
}

static int refuse(const char *naming, const char *name, const char *what, struct hws_error *err)
{
    return hws_fail(err, EACCES, "'%.200s' names '%.200s', %s", naming, name, what);
}

static bool has_scheme(const char *name)
{
    const char *colon = strstr(name, "://");
    return colon && memchr(name, '/', (size_t)(colon - name)) == NULL;
}

static bool is_path(const char *name)
{
    const char *rest;
    return *name != '{' && strncmp(name, "json:", 5) != 0 && !has_scheme(name) &&
           !describe_prefix(name, &rest);
}

static bool word_for_word(const struct block_policy *policy, const char *name)
{
    for (const char *const *entry = policy->allow; entry && *entry; entry++)
        if (strcmp(*entry, name) == 0)
            return true;
    return false;
}

/* Finds the allowed folder that @path lies in. */
static int find_folder(const struct block_policy *policy, const char *naming, const char *name,
                       char **path, char **ret_beneath, struct hws_error *err)
{
    int r = 0;
    if (!policy->allow) {
        autofree char *folder = strndup(naming, folder_length_of(naming));
        r = folder ? try_entry(path, folder, ret_beneath) : -ENOMEM;
    }
    for (const char *const *entry = policy->allow; entry && *entry && r == 0; entry++)
        r = try_entry(path, *entry, ret_beneath);
    if (r < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    if (r > 0)
        return 0;
    if (policy->allow)
        return refuse(naming, name, "which lies outside the folders that are allowed", err);
    return refuse(
        naming, name,
        "which lies outside the image's own folder; allow its folder (--allow) to open it", err);
}

/* Trusted names: taken as they stand, beside the file that names them. */
static int follow(const char *naming, const char *name, const char *path_text, char **ret_path,
                  struct hws_error *err)
{
    const char *slash = strrchr(naming, '/');
    int folder_bytes = *path_text == '/' || !slash ? 0 : (int)(slash - naming) + 1;
    if (name == path_text && !is_path(name))
        return 0;
    if (asprintf(ret_path, "%.*s%s", folder_bytes, naming, path_text) >= 0)
        return 0;
    *ret_path = NULL;
    return hws_fail(err, ENOMEM, "out of memory");
}

int policy_resolve(const struct block_policy *policy, const char *naming, const char *name,
                   char **ret_path, char **ret_beneath, struct hws_error *err)
{
    *ret_path = *ret_beneath = NULL;
    if (!*name)
        return hws_fail(err, EINVAL, "'%.200s' names a file with an empty name", naming);
    if (strnlen(name, PATH_MAX) == PATH_MAX)
        return hws_fail(err, ENAMETOOLONG, "'%.200s' names a file with an overlong name", naming);
    const char *path_text = strncmp(name, "file:", 5) == 0 ? name + 5 : name;
    if (policy->trust_names)
        return follow(naming, name, path_text, ret_path, err);
    if (!is_path(path_text) || strncmp(path_text, "//", 2) == 0) {
        if (word_for_word(policy, name))
            return 0;
        return refuse(naming, name,
                      "which is no path; it is opened only where it is allowed by name", err);
    }
    autofree char *path =
        *path_text == '/'
            ? normalise(path_text)
            : (folder_length_of(naming) ? join(naming, folder_length_of(naming), path_text)
                                        : normalise(path_text));
    if (!path)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = find_folder(policy, naming, name, &path, ret_beneath, err);
    if (r == 0)
        *ret_path = steal_ptr(&path);
    return r;
}
