/*
 * Who holds a lock; see backend/file/lock_holder.h. A line of fdinfo looks like
 *
 *     lock:	1: OFDLCK  ADVISORY  READ -1 fe:00:10961684 100 101
 *                                          device:inode    first and last byte
 *
 * Nothing here touches the file itself, so a dead network file system cannot hold the search up.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/lock_holder.h"
#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* A process with more descriptors than this is not searched to the end. */
#define DESCRIPTORS_MAX 4096

struct search {
    int fd; /* of ours: its own locks do not count */
    uint64_t byte;
    char identity[64]; /* "device:inode" as fdinfo has it */
    char *ret;         /* LOCK_HOLDER_BYTES */
};

static bool locks_byte(const char *path, const struct search *s)
{
    FILE *info = fopen(path, "re");
    bool found = false;
    char line[256], identity[64];
    unsigned long long first, last;

    while (info && !found && fgets(line, sizeof(line), info)) {
        /* An end that is no number is "EOF". */
        int fields =
            sscanf(line, "lock: %*d: OFDLCK %*s %*s %*d %63s %llu %llu", identity, &first, &last);
        found = fields >= 2 && strcmp(identity, s->identity) == 0 && first <= s->byte &&
                (fields == 2 || s->byte <= last);
    }
    if (info)
        fclose(info);
    return found;
}

static bool process_locks_byte(const char *pid, int except_fd, const struct search *s)
{
    char path[sizeof("/proc//fdinfo/") + 2 * NAME_MAX];
    snprintf(path, sizeof(path), "/proc/%s/fdinfo", pid);
    DIR *folder = opendir(path);
    bool found = false;
    struct dirent *entry;

    for (unsigned n = 0; folder && !found && n < DESCRIPTORS_MAX && (entry = readdir(folder));
         n++) {
        if (!isdigit((unsigned char)entry->d_name[0]) ||
            strtol(entry->d_name, NULL, 10) == except_fd)
            continue;
        snprintf(path, sizeof(path), "/proc/%s/fdinfo/%s", pid, entry->d_name);
        found = locks_byte(path, s);
    }
    if (folder)
        closedir(folder);
    return found;
}

static void tell_process(const char *pid, const struct search *s)
{
    char path[sizeof("/proc//comm") + NAME_MAX], name[32] = "?";
    snprintf(path, sizeof(path), "/proc/%s/comm", pid);
    FILE *comm = fopen(path, "re");
    if (comm) {
        if (fgets(name, sizeof(name), comm))
            name[strcspn(name, "\n")] = '\0';
        fclose(comm);
    }
    snprintf(s->ret, LOCK_HOLDER_BYTES, "another process (%s, pid %.10s)", name, pid);
}

static int find_holder(void *arg)
{
    const struct search *s = arg;
    DIR *processes = opendir("/proc");
    struct dirent *entry;

    while (processes && (entry = readdir(processes))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        bool own = strtol(entry->d_name, NULL, 10) == getpid();
        if (!process_locks_byte(entry->d_name, own ? s->fd : -1, s))
            continue;
        if (own)
            snprintf(s->ret, LOCK_HOLDER_BYTES, "this process");
        else
            tell_process(entry->d_name, s);
        break;
    }
    if (processes)
        closedir(processes);
    return 0;
}

void co_lock_holder(struct rt_file *file, uint64_t byte, char ret[LOCK_HOLDER_BYTES])
{
    struct search s = {.fd = rt_file_fd(file), .byte = byte, .ret = ret};
    struct stat st;

    snprintf(ret, LOCK_HOLDER_BYTES, "another process");
    if (s.fd < 0 || fstat(s.fd, &st))
        return; /* the simulator has no processes */
    snprintf(s.identity, sizeof(s.identity), "%02x:%02x:%llu", major(st.st_dev), minor(st.st_dev),
             (unsigned long long)st.st_ino);
    co_work(find_holder, &s);
}
