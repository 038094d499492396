/*
 * The sandbox from inside: a child enters it, tries what it must not be able to do and what it
 * must, and tells the first surprise.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/sandbox.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <pthread.h>
#include <cmocka.h>

static char root[] = "/tmp/hawser-sandbox-XXXXXX";

static const char *at(const char *name)
{
    static char path[4][64];
    static unsigned next;
    char *ret = path[next++ % ARRAY_LEN(path)];
    snprintf(ret, sizeof(path[0]), "%s/%s", root, name);
    return ret;
}

static int put(const char *name)
{
    int fd = open(at(name), O_CREAT | O_RDWR, 0600);
    return fd < 0 || ftruncate(fd, 65536) < 0 ? -1 : close(fd);
}

static int setup(void **state)
{
    return !mkdtemp(root) || mkdir(at("pool"), 0700) < 0 || mkdir(at("other"), 0700) < 0 ||
           mkdir(at("below"), 0700) < 0 || put("pool/disk.raw") < 0 || put("other/disk.raw") < 0 ||
           put("below/base.raw") < 0;
}

static int teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    return system(command);
}

/* ---- what is tried ---- */

static bool opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool sees_others(void)
{
    return opens("/etc/passwd", O_RDONLY) || opens("/etc/shadow", O_RDONLY) ||
           opens(at("other/disk.raw"), O_RDONLY) || opens("/proc/1/environ", O_RDONLY) ||
           opens("/proc/1/root/etc/passwd", O_RDONLY) || opens("/", O_RDONLY | O_DIRECTORY);
}

static bool writes_below(void)
{
    return opens(at("below/base.raw"), O_RDWR) || opens(at("below/new"), O_CREAT | O_RDWR) ||
           rename(at("below/base.raw"), at("below/moved")) == 0;
}

static bool makes_devices(void)
{
    return mknod(at("pool/disk"), S_IFBLK | 0600, makedev(7, 0)) == 0 ||
           opens("/dev/mem", O_RDONLY) || opens("/dev/vda", O_RDONLY);
}

static bool runs_programs(void)
{
    char *arguments[] = {(char *)"true", NULL}, *none[] = {NULL};
    bool ran = execve("/bin/true", arguments, none) == 0 || errno != EPERM;
    return ran || fork() >= 0;
}

static bool changes_mounts(void)
{
    return mount("proc", at("pool"), "proc", 0, NULL) == 0 || umount2(at("pool"), 0) == 0 ||
           unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER) == 0 || chroot(at("pool")) == 0;
}

static bool touches_processes(void)
{
    return kill(getppid(), 0) == 0 || ptrace(PTRACE_ATTACH, getppid(), NULL, NULL) == 0;
}

static bool gets_rights(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 || setuid(1) == 0 ||
           prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) == 1 ||
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2;
}

static bool reaches_the_kernel(void)
{
    return socket(AF_NETLINK, SOCK_RAW, 0) >= 0 || socket(AF_PACKET, SOCK_RAW, 0) >= 0 ||
           mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                0) != MAP_FAILED;
}

static void *nothing(void *arg)
{
    return arg;
}

/* What serving needs: its files, files to come, threads, and that io_uring and time are there. */
static bool cannot_work(void)
{
    pthread_t thread;
    if (!opens(at("pool/disk.raw"), O_RDWR) || !opens(at("below/base.raw"), O_RDONLY) ||
        !opens(at("pool/new"), O_CREAT | O_RDWR) || rename(at("pool/new"), at("pool/n")) < 0 ||
        unlink(at("pool/n")) < 0 || !opens(at("pool"), O_RDONLY | O_DIRECTORY))
        return true;
    return pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0 ||
           kill(getpid(), 0) < 0;
}

/* The same in a thread that began afterwards. */
static void *look_in_thread(void *arg)
{
    *(bool *)arg = sees_others() || writes_below() || runs_programs();
    return NULL;
}

static bool threads_are_free(void)
{
    pthread_t thread;
    bool free_ = true;
    return pthread_create(&thread, NULL, look_in_thread, &free_) != 0 ||
           pthread_join(thread, NULL) != 0 || free_;
}

static const struct {
    const char *what;
    bool (*fn)(void);
} surprises[] = {
    {"it cannot do its work", cannot_work},
    {"it sees files of others", sees_others},
    {"it writes to what it may read only", writes_below},
    {"it makes devices, or opens the host's", makes_devices},
    {"it changes mounts or name spaces", changes_mounts},
    {"it reaches other processes", touches_processes},
    {"it has or gets rights", gets_rights},
    {"it talks to the kernel's drivers, or runs what it wrote", reaches_the_kernel},
    {"its threads are free", threads_are_free},
    {"it runs programs", runs_programs},
};

/* Those that hold without a filter of system calls, as in builds with sanitizers. */
#define UNFILTERED 4

/* @return what was surprising, 0: nothing, 255: it could not enter. */
static int in_sandbox(json_t *config)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct engine_config *parsed;
        struct hws_error err = {0};
        if (engine_config_parse(config, &parsed, &err) < 0 || sandbox_enter(parsed, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            _exit(255);
        }
        unsigned count = sandbox_filters() ? ARRAY_LEN(surprises) : UNFILTERED;
        for (unsigned i = 0; i < count; i++)
            if (surprises[i].fn())
                _exit((int)i + 1);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    json_decref(config);
    return WEXITSTATUS(status);
}

static void an_engine_is_closed_in(void **state)
{
    if (!sandbox_can_mount() || !sandbox_landlock_version()) {
        print_message("no right to mount, or no Landlock: not tested\n");
        skip();
    }
    int first =
        in_sandbox(json_pack("{s:{s:[s]}, s:[{s:s, s:s, s:s, s:s, s:[s]}]}", "sandbox", "writable",
                             at("pool"), "volumes", "name", "d", "via", "none", "format", "raw",
                             "image", at("pool/disk.raw"), "allow", at("below")));
    if (first)
        fail_msg("%s", first == 255 ? "it could not enter" : surprises[first - 1].what);
}

static void refuse(json_t *config, const char *word)
{
    struct engine_config *parsed;
    struct hws_error err = {0};
    int r = engine_config_parse(config, &parsed, &err);
    if (r == 0) {
        pid_t pid = fork(); /* it may get half of the way */
        int status;
        if (pid == 0)
            _exit(sandbox_enter(parsed, &err) < 0 && strstr(err.text, word) ? 0 : 1);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        engine_config_free(parsed);
    } else {
        assert_non_null(strstr(err.text, word));
    }
    json_decref(config);
}

static void what_leaves_nothing_to_hide_is_refused(void **state)
{
    refuse(json_pack("{s:b, s:[{s:s, s:s, s:s, s:[s]}]}", "sandbox", 1, "volumes", "name", "d",
                     "via", "none", "image", at("pool/disk.raw"), "allow", "/"),
           "whole file system");
    refuse(json_pack("{s:b, s:[{s:s, s:s, s:s, s:b}]}", "sandbox", 1, "volumes", "name", "d", "via",
                     "none", "image", at("pool/disk.raw"), "trust-names", 1),
           "trust-names");
    refuse(json_pack("{s:s, s:[{s:s, s:s, s:s}]}", "sandbox", "yes", "volumes", "name", "d", "via",
                     "none", "image", at("pool/disk.raw")),
           "sandbox is true");
    refuse(json_pack("{s:{s:[i]}, s:[{s:s, s:s, s:s}]}", "sandbox", "writable", 1, "volumes",
                     "name", "d", "via", "none", "image", at("pool/disk.raw")),
           "list of folders");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_engine_is_closed_in),
        cmocka_unit_test(what_leaves_nothing_to_hide_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
