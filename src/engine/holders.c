/*
 * Who uses a block device; see engine/holders.h.
 *
 * Looks, in this order, at mounts of this name space, devices on top (device mapper, md), mounts of
 * other processes' name spaces (containers), and open descriptors. What may not be read is passed
 * over: the kernel's own exclusive open is the arbiter, this only finds the words.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/holders.h"
#include "host/mounts.h"
#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/** Processes looked at, so that a huge host costs a bounded time. */
#define PROCESSES_MAX   20000
#define DESCRIPTORS_MAX 4096

static void process_name(const char *pid, char *name, size_t name_bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
    snprintf(name, name_bytes, "?");
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (fgets(name, (int)name_bytes, file))
        name[strcspn(name, "\n")] = '\0';
    fclose(file);
}

static bool device_on_top(dev_t device, char *text, size_t text_bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(device), minor(device));
    DIR *folder = opendir(path);
    if (!folder)
        return false;
    bool found = false;
    for (struct dirent *at; !found && (at = readdir(folder));) {
        if (at->d_name[0] == '.')
            continue;
        snprintf(text, text_bytes, "the device %.80s is built on it", at->d_name);
        found = true;
    }
    closedir(folder);
    return found;
}

static bool mounted_by(const char *pid, dev_t device, char *text, size_t text_bytes)
{
    char path[64], line[4096], point[512], name[32];
    snprintf(path, sizeof(path), "/proc/%.20s/mountinfo", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = false;
    while (!found && fgets(line, sizeof(line), file)) {
        unsigned major_number, minor_number;
        if (sscanf(line, "%*s %*s %u:%u %*s %511s", &major_number, &minor_number, point) != 3)
            continue;
        found = makedev(major_number, minor_number) == device;
    }
    fclose(file);
    if (found) {
        process_name(pid, name, sizeof(name));
        snprintf(text, text_bytes, "mounted at %s in the mount name space of process %.20s (%s)",
                 point, pid, name);
    }
    return found;
}

static bool opened_by(const char *pid, const char *device, char *text, size_t text_bytes)
{
    char path[64], link[PATH_MAX], name[32];
    snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
    DIR *folder = opendir(path);
    if (!folder)
        return false;
    bool found = false;
    unsigned looked = 0;
    for (struct dirent *at; !found && looked++ < DESCRIPTORS_MAX && (at = readdir(folder));) {
        ssize_t n = readlinkat(dirfd(folder), at->d_name, link, sizeof(link) - 1);
        if (n <= 0)
            continue;
        link[n] = '\0';
        found = !strcmp(link, device);
    }
    closedir(folder);
    if (found) {
        process_name(pid, name, sizeof(name));
        snprintf(text, text_bytes, "process %.20s (%s) has it open", pid, name);
    }
    return found;
}

/* 0 where it is gone. */
static pid_t parent_of(const char *pid)
{
    char path[64], line[512];
    int parent = 0;
    snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    const char *end = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL;
    if (!end || sscanf(end, ") %*c %d", &parent) != 1)
        parent = 0;
    fclose(file);
    return parent;
}

/* This process, @except, or the porter of either. */
static bool is_own(const char *pid, pid_t except)
{
    pid_t number = (pid_t)strtol(pid, NULL, 10), parent;
    if (number == getpid() || number == except)
        return true;
    parent = parent_of(pid);
    return parent == getpid() || (parent > 0 && parent == except);
}

/* Looks at mounts from pass 0 on, at open descriptors in pass 1. */
static bool process_holds(const char *device, dev_t number, unsigned pass, pid_t except, char *text,
                          size_t text_bytes)
{
    bool found = false;
    /* Mounts first: they are what the user has to end. */
    for (; pass < 2 && !found; pass++) {
        DIR *folder = opendir("/proc");
        unsigned looked = 0;
        for (struct dirent *at; folder && !found && (at = readdir(folder));) {
            if (!isdigit((unsigned char)at->d_name[0]))
                continue;
            if (looked++ == PROCESSES_MAX)
                break;
            found = pass == 0 ? mounted_by(at->d_name, number, text, text_bytes)
                              : opened_by(at->d_name, device, text, text_bytes);
            if (found && is_own(at->d_name, except)) {
                found = false;
                text[0] = '\0';
            }
        }
        if (folder)
            closedir(folder);
    }
    return found;
}

bool holders_describe(const char *device, char *text, size_t text_bytes)
{
    struct stat st;
    char where[PATH_MAX];
    text[0] = '\0';
    if (stat(device, &st) < 0 || !S_ISBLK(st.st_mode))
        return false;
    if (mounts_find_device(device, where, sizeof(where))) {
        snprintf(text, text_bytes, "mounted at %.500s", where);
        return true;
    }
    return device_on_top(st.st_rdev, text, text_bytes) ||
           process_holds(device, st.st_rdev, 0, -1, text, text_bytes);
}

bool holders_describe_open(const char *device, pid_t except, char *text, size_t text_bytes)
{
    text[0] = '\0';
    return process_holds(device, 0, 1, except, text, text_bytes);
}

static bool under(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (!path[length] || path[length] == '/');
}

/* Working folder, root or a descriptor of @pid below @folder. */
static bool works_under(const char *pid, const char *folder)
{
    static const char *const links[] = {"cwd", "root", "exe"};
    char path[64], link[PATH_MAX];
    bool found = false;
    for (unsigned i = 0; i < ARRAY_LEN(links) && !found; i++) {
        snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, links[i]);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        link[MAX(n, (ssize_t)0)] = '\0';
        found = n > 0 && under(link, folder);
    }
    snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
    DIR *list = found ? NULL : opendir(path);
    unsigned looked = 0;
    for (struct dirent *at; list && !found && looked++ < DESCRIPTORS_MAX && (at = readdir(list));) {
        ssize_t n = readlinkat(dirfd(list), at->d_name, link, sizeof(link) - 1);
        link[MAX(n, (ssize_t)0)] = '\0';
        found = n > 0 && under(link, folder);
    }
    if (list)
        closedir(list);
    return found;
}

bool holders_describe_mount(const char *folder, char *text, size_t text_bytes)
{
    char name[32];
    bool found = false;
    unsigned looked = 0;
    DIR *list = opendir("/proc");
    text[0] = '\0';
    for (struct dirent *at; list && !found && looked++ < PROCESSES_MAX && (at = readdir(list));) {
        if (!isdigit((unsigned char)at->d_name[0]) || !works_under(at->d_name, folder))
            continue;
        found = true;
        process_name(at->d_name, name, sizeof(name));
        snprintf(text, text_bytes, "process %.20s (%s) works there", at->d_name, name);
    }
    if (list)
        closedir(list);
    return found;
}
