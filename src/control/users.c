/*
 * Users whose container engine lost them.
 *
 * Docker tells when a container no longer uses a volume, but not of those that died together with
 * it, and after its own death it forgets some. A user that came with the process of its engine is
 * dropped when both hold:
 *
 *   - the process is gone, or the user came long ago (containers start within that time);
 *   - it is mounted nowhere but where it was put, so that no container can use it.
 *
 * A container that starts anew mounts anew, with whatever id. The host's own mount of a volume is
 * also in the name spaces that were copied from the host's (services with a /tmp of their own), at
 * its path or below a folder on which the host's tree lies there: a path that ends in the mount
 * point's is none of a container's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"
#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/** Between two looks for dead processes, and for users that came long ago. */
#define LOOK_S 5
#define LONG_S 300

static uint64_t boot_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec;
}

/* When a process began, in ticks since the boot: with it a PID is no other one's. 0: it is gone. */
static unsigned long long process_start(uint64_t pid)
{
    char path[64], text[1024];
    unsigned long long start = 0;
    snprintf(path, sizeof(path), "/proc/%llu/stat", (unsigned long long)pid);
    FILE *file = fopen(path, "re");
    size_t got = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    if (file)
        fclose(file);
    text[got] = '\0';
    /* The name, in parentheses, may hold anything; what follows it does not. */
    const char *after = strrchr(text, ')');
    char state = 'X';
    if (!after ||
        sscanf(after,
               ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &state, &start) != 2)
        return 0;
    return state == 'Z' || state == 'X' ? 0 : start;
}

char *users_process(uint64_t pid)
{
    char *text;
    unsigned long long start = process_start(pid);
    if (!start || asprintf(&text, "%llu %llu %llu", (unsigned long long)pid, start,
                           (unsigned long long)boot_seconds()) < 0)
        return NULL;
    return text;
}

/* ---- who may be gone ---- */

struct look {
    bool old_too; /* and not only those of dead processes */
    uint64_t now;
};

static bool may_be_gone(const struct look *look, const char *process)
{
    unsigned long long pid, start, since;
    if (sscanf(process, "%llu %llu %llu", &pid, &start, &since) != 3)
        return false;
    return process_start(pid) != start || (look->old_too && look->now >= since + LONG_S);
}

static bool has_candidate(const struct look *look, const json_t *attachment)
{
    const char *user;
    const json_t *process;
    json_object_foreach(json_object_get(attachment, "processes"), user, process)
    {
        if (json_is_string(process) && may_be_gone(look, json_string_value(process)))
            return true;
    }
    return false;
}

/* ---- what mount name spaces have ---- */

/* A mount in a line of mountinfo: "36 35 98:0 /root /point options... - type source options". */
static bool parse_mount(char *line, char **ret_number, char **ret_point, char **ret_source)
{
    char *fields[5], *rest = line;
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++)
        fields[i] = strsep(&rest, " ");
    char *dash = rest ? strstr(rest, "- ") : NULL;
    if (!dash)
        return false;
    rest = dash + 2;
    strsep(&rest, " ");
    *ret_source = strsep(&rest, " ");
    *ret_number = fields[2];
    *ret_point = fields[4];
    return *ret_source != NULL;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && !strcmp(text + length - wanted, end);
}

/* Takes what a container has mounted off the list of attachments. */
static void note_mount(json_t *list, const char *number, const char *point, const char *source)
{
    for (size_t i = json_array_size(list); i-- > 0;) {
        const json_t *attachment = json_array_get(list, i);
        const char *device = json_string_value(json_object_get(attachment, "device"));
        const char *own = json_string_value(json_object_get(attachment, "mountpoint"));
        const char *devno = json_string_value(json_object_get(attachment, "number"));
        /* btrfs has numbers of its own, but names the device. */
        if ((!strcmp(source, device) || !strcmp(number, devno)) && !ends_with(point, own))
            json_array_remove(list, i);
    }
}

static int read_mounts(const char *process, json_t *list)
{
    char path[300], *number, *point, *source;
    autofree char *line = NULL;
    size_t line_bytes = 0;
    snprintf(path, sizeof(path), "/proc/%s/mountinfo", process);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT || errno == ESRCH || errno == EINVAL ? 0 : -errno; /* it has ended */
    while (json_array_size(list) > 0 && getline(&line, &line_bytes, file) > 0)
        if (parse_mount(line, &number, &point, &source))
            note_mount(list, number, point, source);
    fclose(file);
    return 0;
}

/* Whether a process is the first that was seen of its mount name space. What keeps that to itself
 * is taken for it. */
static bool is_new_space(const char *process, json_t *seen)
{
    char path[300], key[32];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%s/ns/mnt", process);
    if (stat(path, &st) < 0)
        return errno != ENOENT && errno != ESRCH;
    snprintf(key, sizeof(key), "%llu", (unsigned long long)st.st_ino);
    if (json_object_get(seen, key))
        return false;
    json_object_set_new(seen, key, json_true());
    return true;
}

/* Leaves in @list, attachments, those that no container has. */
static int drop_mounted(json_t *list)
{
    auto_json *seen = json_object();
    struct dirent *entry;
    DIR *folder = opendir("/proc");
    int r = folder ? 0 : -errno;
    while (r >= 0 && json_array_size(list) > 0 && (entry = readdir(folder))) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        if (is_new_space(entry->d_name, seen))
            r = read_mounts(entry->d_name, list);
    }
    if (folder)
        closedir(folder);
    return r;
}

bool control_mount_shows(const json_t *attachment, uint64_t process)
{
    const char *device = json_string_value(json_object_get(attachment, "device"));
    char path[64], devno[32], *number, *point, *source;
    autofree char *line = NULL;
    size_t line_bytes = 0;
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%llu/mountinfo", (unsigned long long)process);
    FILE *file = process && device && stat(device, &st) == 0 ? fopen(path, "re") : NULL;
    if (!file)
        return true; /* it cannot be told */
    snprintf(devno, sizeof(devno), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
    bool shows = false;
    while (!shows && getline(&line, &line_bytes, file) > 0)
        shows = parse_mount(line, &number, &point, &source) &&
                (!strcmp(number, devno) || !strcmp(source, device));
    fclose(file);
    return shows;
}

/* ---- the look ---- */

static int collect(struct control *control, const struct look *look, json_t *list,
                   struct hws_error *err)
{
    auto_json *all = NULL;
    size_t i;
    json_t *attachment;
    struct stat st;
    int r = object_list(control, &attachment_type, NULL, &all, err);
    json_array_foreach(all, i, attachment)
    {
        const char *device = json_string_value(json_object_get(attachment, "device"));
        if (!device || !json_object_get(attachment, "mountpoint") ||
            !has_candidate(look, attachment) || stat(device, &st) < 0)
            continue;
        json_object_set_new(attachment, "number",
                            json_sprintf("%u:%u", major(st.st_rdev), minor(st.st_rdev)));
        json_array_append(list, attachment);
    }
    return r;
}

static void drop_users(struct control *control, const struct look *look, const json_t *attachment)
{
    const char *id = json_string_value(json_object_get(attachment, "id")), *user;
    const json_t *process;
    json_object_foreach(json_object_get(attachment, "processes"), user, process)
    {
        struct hws_error err = {0};
        if (!may_be_gone(look, json_string_value(process)))
            continue;
        int r = attachment_drop_user(control, id, user, json_string_value(process), &err);
        if (r == 0)
            log_info("volume %s: its user %s has gone without a word", id, user);
        else
            log_warning("volume %s: its user %s seems to be gone: %s", id, user, err.text);
    }
}

void users_tidy(struct control *control)
{
    struct look look = {.now = boot_seconds()};
    struct hws_error err = {0};
    auto_json *list = NULL;
    size_t i;
    json_t *attachment;
    if (look.now - control->users_looked < LOOK_S)
        return;
    control->users_looked = look.now;
    look.old_too = look.now - control->users_looked_old >= LONG_S;
    if (look.old_too)
        control->users_looked_old = look.now;
    list = json_array();
    int r = collect(control, &look, list, &err);
    if (r == 0 && json_array_size(list) > 0)
        r = drop_mounted(list);
    if (r < 0) {
        log_debug("users of volumes: %s", err.text[0] ? err.text : strerror(-r));
        return;
    }
    json_array_foreach(list, i, attachment) drop_users(control, &look, attachment);
}
