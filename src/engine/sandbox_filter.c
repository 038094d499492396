/*
 * Which system calls an engine may make: a list of those that it does, everything else is refused.
 *
 * What is refused and known answers EPERM; what this list does not know answers ENOSYS, so that the
 * C library takes the older way that it has. clone3(2) is among these: its flags lie in memory,
 * where no filter can see them, and clone(2) does the same.
 *
 * io_uring's own operations (open, connect, ...) do not pass any filter. What they can reach is
 * what the view, the capabilities and Landlock leave, which hold for them too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/sandbox.h"
#include "host/loop.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define NEW_SPACES                                                                                \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
     CLONE_NEWNET)

/* clang-format off */
static const int allowed[] = {
    /* files */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
    SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2),
    SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(close), SCMP_SYS(close_range),
    SCMP_SYS(fstat), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(statx),
    SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(lseek), SCMP_SYS(access), SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64),
    SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range), SCMP_SYS(syncfs),
    SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(truncate), SCMP_SYS(fadvise64),
    SCMP_SYS(readahead), SCMP_SYS(copy_file_range), SCMP_SYS(sendfile), SCMP_SYS(splice),
    SCMP_SYS(flock), SCMP_SYS(fcntl), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3),
    SCMP_SYS(pipe), SCMP_SYS(pipe2), SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2),
    SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(link), SCMP_SYS(linkat), SCMP_SYS(mkdir),
    SCMP_SYS(mkdirat), SCMP_SYS(rmdir), SCMP_SYS(chdir), SCMP_SYS(fchdir), SCMP_SYS(getcwd),
    SCMP_SYS(umask), SCMP_SYS(chmod), SCMP_SYS(fchmod), SCMP_SYS(fchmodat), SCMP_SYS(fchown),
    SCMP_SYS(fchownat), SCMP_SYS(chown), SCMP_SYS(utimensat), SCMP_SYS(getxattr),
    SCMP_SYS(fgetxattr),
    /* rings, events, time */
    SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
    SCMP_SYS(eventfd2), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2), SCMP_SYS(poll), SCMP_SYS(ppoll),
    SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(signalfd4), SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime), SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday),
    SCMP_SYS(time), SCMP_SYS(times),
    /* memory, threads, signals to itself */
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(msync),
    SCMP_SYS(mincore), SCMP_SYS(mlock), SCMP_SYS(mlock2), SCMP_SYS(munlock), SCMP_SYS(membarrier),
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(get_robust_list), SCMP_SYS(rseq),
    SCMP_SYS(set_tid_address), SCMP_SYS(arch_prctl), SCMP_SYS(exit), SCMP_SYS(exit_group),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigpending), SCMP_SYS(rt_sigtimedwait), SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall), SCMP_SYS(wait4), SCMP_SYS(waitid), SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity), SCMP_SYS(sched_getparam),
    SCMP_SYS(sched_getscheduler), SCMP_SYS(getcpu), SCMP_SYS(getpriority),
    /* who and where it is */
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getppid), SCMP_SYS(getuid), SCMP_SYS(geteuid),
    SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getresuid), SCMP_SYS(getresgid),
    SCMP_SYS(getgroups), SCMP_SYS(getsid), SCMP_SYS(getpgrp), SCMP_SYS(capget),
    SCMP_SYS(getrandom), SCMP_SYS(getrlimit), SCMP_SYS(getrusage), SCMP_SYS(sysinfo),
    SCMP_SYS(uname),
    /* the control socket, NBD clients */
    SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(getsockname),
    SCMP_SYS(getpeername), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(shutdown),
    SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg), SCMP_SYS(recvmmsg),
};

/* Devices of the kernel's drivers, and another program in this one's place. */
static const int allowed_held[] = {
    SCMP_SYS(mmap), SCMP_SYS(mprotect), SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork),
    SCMP_SYS(vfork), SCMP_SYS(memfd_create), SCMP_SYS(connect), SCMP_SYS(socket),
    SCMP_SYS(socketpair), SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(fsopen), SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount), SCMP_SYS(mknod), SCMP_SYS(mknodat), SCMP_SYS(symlink), SCMP_SYS(symlinkat),
    SCMP_SYS(kill), SCMP_SYS(tgkill), SCMP_SYS(prctl), SCMP_SYS(prlimit64), SCMP_SYS(setsid),
    SCMP_SYS(capset), SCMP_SYS(seccomp), SCMP_SYS(landlock_create_ruleset),
    SCMP_SYS(landlock_add_rule), SCMP_SYS(landlock_restrict_self), SCMP_SYS(ioctl),
    SCMP_SYS(setpriority),
};

/* Refused in words, not as unknown: nobody shall look for another way. */
static const int refused[] = {
    SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(kcmp),
    SCMP_SYS(pidfd_open), SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_send_signal), SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open), SCMP_SYS(userfaultfd), SCMP_SYS(add_key), SCMP_SYS(request_key),
    SCMP_SYS(keyctl), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(reboot), SCMP_SYS(swapon),
    SCMP_SYS(swapoff), SCMP_SYS(acct), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex), SCMP_SYS(clock_adjtime), SCMP_SYS(unshare), SCMP_SYS(setns),
    SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(open_tree), SCMP_SYS(move_mount),
    SCMP_SYS(mount_setattr), SCMP_SYS(open_by_handle_at), SCMP_SYS(name_to_handle_at),
    SCMP_SYS(quotactl), SCMP_SYS(syslog), SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(setuid),
    SCMP_SYS(setgid), SCMP_SYS(setreuid), SCMP_SYS(setregid), SCMP_SYS(setresuid),
    SCMP_SYS(setresgid), SCMP_SYS(setgroups), SCMP_SYS(setfsuid), SCMP_SYS(setfsgid),
    SCMP_SYS(personality), SCMP_SYS(setxattr), SCMP_SYS(lsetxattr), SCMP_SYS(fsetxattr),
    SCMP_SYS(fanotify_init), SCMP_SYS(lookup_dcookie), SCMP_SYS(vhangup), SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname), SCMP_SYS(move_pages), SCMP_SYS(migrate_pages), SCMP_SYS(mbind),
};

/* As above where the engine is closed in. */
static const int refused_closed[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(mount),
    SCMP_SYS(umount2), SCMP_SYS(fsopen), SCMP_SYS(fsconfig), SCMP_SYS(fsmount), SCMP_SYS(mknod),
    SCMP_SYS(mknodat), SCMP_SYS(symlink), SCMP_SYS(symlinkat), SCMP_SYS(connect),
    SCMP_SYS(capset), SCMP_SYS(setpriority), SCMP_SYS(memfd_create),
};
/* clang-format on */

static int add_all(scmp_filter_ctx filter, uint32_t action, const int *calls, size_t count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = calls[i] == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(filter, action, calls[i], 0);
    return r == -EDOM ? 0 : r; /* this architecture has it not */
}

/* Threads and, with @children, processes: none in name spaces of its own. */
static int add_clone(scmp_filter_ctx filter, bool children)
{
    uint64_t threads = children ? 0 : CLONE_THREAD;
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, NEW_SPACES | threads, threads));
}

/* No memory is written and run: libraries are mapped from places that cannot be written to. */
static int add_memory(scmp_filter_ctx filter)
{
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC | PROT_WRITE, PROT_EXEC));
    return r ? r
             : seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

static int add_sockets(scmp_filter_ctx filter)
{
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6};
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
                             SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(families); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
    return r;
}

/* What goes to this process, or changes it alone. */
static int add_self(scmp_filter_ctx filter)
{
    static const scmp_datum_t options[] = {PR_SET_NAME,   PR_GET_NAME,     PR_SET_IO_FLUSHER,
                                           PR_SET_VMA,    PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS,
                                           PR_GET_SECCOMP};
    const scmp_datum_t self = (scmp_datum_t)getpid();
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A0(SCMP_CMP_EQ, self));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                             SCMP_A0(SCMP_CMP_EQ, self));
    if (r == 0) /* asks only: nothing is set */
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2,
                             SCMP_A0(SCMP_CMP_EQ, 0), SCMP_A2(SCMP_CMP_EQ, 0));
    if (r == 0) /* not readable; never the other way */
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 2,
                             SCMP_A0(SCMP_CMP_EQ, PR_SET_DUMPABLE), SCMP_A1(SCMP_CMP_EQ, 0));
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(options); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                             SCMP_A0(SCMP_CMP_EQ, options[i]));
    return r;
}

/* Of devices and files that it sees; of terminals only whether something is one. */
static int add_ioctl(scmp_filter_ctx filter)
{
    static const scmp_datum_t requests[] = {TCGETS,
                                            FIONREAD,
                                            FIONBIO,
                                            FIOCLEX,
                                            FUSE_DEV_IOC_CLONE,
                                            LOOP_GET_STATUS64,
                                            LOOP_SET_CAPACITY,
                                            LOOP_CLR_FD,
                                            BLKFLSBUF,
                                            BLKGETSIZE64,
                                            BLKSSZGET,
                                            BLKPBSZGET,
                                            BLKROGET,
                                            BLKDISCARD,
                                            BLKZEROOUT,
                                            BLKIOMIN,
                                            BLKIOOPT,
                                            BLKALIGNOFF,
                                            BLKROTATIONAL,
                                            BLKDISCARDZEROES,
                                            FICLONE,
                                            FICLONERANGE,
                                            FS_IOC_GETFLAGS,
                                            FS_IOC_SETFLAGS,
                                            FS_IOC_FIEMAP,
                                            FIGETBSZ,
                                            LOOP_DISK_SEQUENCE};
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(requests); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, requests[i]));
    return r;
}

static int add_closed(scmp_filter_ctx filter)
{
    int r = add_all(filter, SCMP_ACT_ERRNO(EPERM), refused_closed, ARRAY_LEN(refused_closed));
    r = r ? r : add_clone(filter, false);
    r = r ? r : add_memory(filter);
    r = r ? r : add_sockets(filter);
    r = r ? r : add_self(filter);
    return r ? r : add_ioctl(filter);
}

static int add_held(scmp_filter_ctx filter)
{
    int r = add_all(filter, SCMP_ACT_ALLOW, allowed_held, ARRAY_LEN(allowed_held));
    return r ? r : add_clone(filter, true);
}

bool sandbox_filters(void)
{
    return !SANITIZED;
}

int sandbox_filter_enter(bool closed, struct hws_error *err)
{
    if (!sandbox_filters())
        return 0;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!filter)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = add_all(filter, SCMP_ACT_ALLOW, allowed, ARRAY_LEN(allowed));
    r = r ? r : add_all(filter, SCMP_ACT_ERRNO(EPERM), refused, ARRAY_LEN(refused));
    r = r ? r : closed ? add_closed(filter) : add_held(filter);
    r = r ? r : seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
    r = r ? r : seccomp_load(filter);
    seccomp_release(filter);
    return r ? hws_fail_errno(err, -r, "cannot restrict the engine's system calls (seccomp)") : 0;
}
