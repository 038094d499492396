/*
 * Descriptors that are not files (sockets, pipes, devices), polling with and without timeouts, and
 * which runtime is chosen where the sandbox refuses io_uring.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt_test.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static struct rt_file *adopt(int fd)
{
    struct rt_file *file;
    CHECK_EQUAL(rt_file_adopt(fd, &file), 0);
    CHECK_EQUAL(rt_file_fd(file), fd);
    return file;
}

/* ---- streams ---- */

struct echo {
    struct rt_file *file;
    struct co_group group;
    uint64_t bytes;
};

static void co_echoes(void *arg)
{
    struct echo *e = arg;
    char buffer[3000];
    struct iovec v;
    for (;;) {
        ssize_t got = co_read_stream(e->file, sgl_one(&v, buffer, sizeof(buffer)));
        CHECK(got >= 0);
        if (got == 0)
            break;
        e->bytes += (uint64_t)got;
        for (ssize_t sent = 0; sent < got;) {
            struct sgl rest = sgl_one(&v, buffer + sent, (size_t)(got - sent));
            ssize_t one = co_write_stream(e->file, rest);
            CHECK(one > 0);
            sent += one;
        }
    }
    co_group_done(&e->group);
}

static void co_converse(int type)
{
    int pair[2];
    CHECK_EQUAL(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair), 0);
    struct echo e = {.file = adopt(pair[1])};
    struct rt_file *mine = adopt(pair[0]);
    co_group_init(&e.group);
    co_group_add(&e.group, 1);
    CHECK_EQUAL(rt_spawn(NULL, co_echoes, &e), 0);
    for (size_t size = 1; size < 3000; size += 97) {
        char out[3000], in[3000];
        struct iovec two[2] = {{out, size / 2}, {out + size / 2, size - size / 2}}, v;
        memset(out, (char)size, size);
        CHECK_EQUAL(co_write_stream(mine, sgl_of(two, 2)), size);
        size_t have = 0;
        while (have < size) {
            ssize_t got = co_read_stream(mine, sgl_one(&v, in + have, size - have));
            CHECK(got > 0);
            have += (size_t)got;
        }
        CHECK(memcmp(in, out, size) == 0);
    }
    CHECK_EQUAL(shutdown(pair[0], SHUT_WR), 0);
    co_group_wait(&e.group);
    co_group_destroy(&e.group);
    rt_file_close(mine);
    rt_file_close(e.file);
}

TEST(sockets_carry_bytes_both_ways)
{
    co_converse(SOCK_STREAM);
    co_converse(SOCK_SEQPACKET);
}

TEST(writing_to_a_closed_socket_is_an_error_and_no_signal)
{
    int pair[2];
    signal(SIGPIPE, SIG_DFL);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct rt_file *mine = adopt(pair[0]);
    close(pair[1]);
    char byte = 1;
    struct iovec v;
    CHECK_EQUAL(co_write_stream(mine, sgl_one(&v, &byte, 1)), -EPIPE);
    rt_file_close(mine);
}

struct late_writer {
    int fd;
    unsigned bytes;
};

static void co_writes_late(void *arg)
{
    struct late_writer *w = arg;
    co_sleep_ns(5 * MS);
    char zeroes[100] = {0};
    CHECK_EQUAL(write(w->fd, zeroes, w->bytes), w->bytes);
}

TEST(a_read_of_an_empty_pipe_waits_without_blocking_others)
{
    int ends[2];
    CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
    struct rt_file *file = adopt(ends[0]);
    struct late_writer writer = {ends[1], 10};
    for (int i = 0; i < 3; i++) {
        char buffer[100];
        struct iovec v;
        CHECK_EQUAL(rt_spawn(NULL, co_writes_late, &writer), 0);
        CHECK_EQUAL(co_read_stream(file, sgl_one(&v, buffer, sizeof(buffer))), 10);
    }
    close(ends[1]);
    char byte;
    struct iovec v;
    CHECK_EQUAL(co_read_stream(file, sgl_one(&v, &byte, 1)), 0);
    rt_file_close(file);
}

#define BUSY 200

struct user {
    struct rt_file *file;
    struct co_group group;
};

static void co_uses(void *arg)
{
    struct user *u = arg;
    char byte = 0;
    struct iovec v;
    for (int i = 0; i < BUSY; i++)
        CHECK_EQUAL(co_write_stream(u->file, sgl_one(&v, &byte, 1)), 1);
    co_group_done(&u->group);
}

/* A ring holds on to the files that it has registered; the reader sees the end only when none does.
 */
TEST(a_closed_descriptor_is_let_go_by_every_queue)
{
    struct hws_error err = {0};
    struct rt_queue *queues[2];
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL(rt_queue_start(rt_current(), "uses", &queues[i], &err), 0);
    for (int round = 0; round < 3; round++) {
        int ends[2];
        CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
        struct user user = {.file = adopt(ends[1])};
        struct rt_file *reader = adopt(ends[0]);
        co_group_init(&user.group);
        co_group_add(&user.group, 3);
        for (int i = 0; i < 3; i++)
            CHECK_EQUAL(rt_spawn(i < 2 ? queues[i] : NULL, co_uses, &user), 0);
        co_group_wait(&user.group);
        rt_file_close(user.file);
        char bytes[4 * BUSY];
        struct iovec v;
        CHECK_EQUAL(co_read_stream(reader, sgl_one(&v, bytes, sizeof(bytes))), 3 * BUSY);
        CHECK(co_poll_timeout(ends[0], POLLIN, 5000 * MS) & POLLHUP);
        CHECK_EQUAL(co_read_stream(reader, sgl_one(&v, bytes, 1)), 0);
        rt_file_close(reader);
        co_group_destroy(&user.group);
    }
    for (int i = 0; i < 2; i++)
        co_queue_stop(queues[i]);
}

TEST(character_devices_are_streams)
{
    struct rt_file *zero = adopt(open("/dev/zero", O_RDWR | O_CLOEXEC));
    char buffer[100];
    struct iovec v;
    memset(buffer, 1, sizeof(buffer));
    CHECK_EQUAL(co_read_stream(zero, sgl_one(&v, buffer, 100)), 100);
    CHECK(buffer_is_zero(buffer, 100));
    CHECK_EQUAL(co_write_stream(zero, sgl_one(&v, buffer, 100)), 100);
    CHECK_EQUAL(co_read_stream(zero, sgl_one(&v, buffer, 0)), 0);
    rt_file_close(zero);
}

TEST(bad_descriptors_are_refused)
{
    struct rt_file *file;
    CHECK_EQUAL(rt_file_adopt(-1, &file), -EBADF);
    CHECK_EQUAL(rt_file_adopt(1 << 20, &file), -EBADF);
    CHECK_EQUAL(co_poll(1 << 20, POLLIN), -EBADF);
}

/* ---- polls ---- */

TEST(polls_answer_events_or_time_out)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_EQUAL(co_poll(fd, POLLOUT), POLLOUT);
    uint64_t before = rt_now_ns();
    CHECK_EQUAL(co_poll_timeout(fd, POLLIN, 5 * MS), 0);
    CHECK(rt_now_ns() - before >= 5 * MS);
    CHECK_EQUAL(eventfd_write(fd, 1), 0);
    CHECK_EQUAL(co_poll_timeout(fd, POLLIN, 1000 * MS), POLLIN);
    CHECK_EQUAL(co_poll(fd, POLLIN), POLLIN);
    close(fd);
}

struct poller {
    int fd;
    uint64_t timeout_ns;
    unsigned *ready, *expired;
    struct co_group *group;
};

static void co_polls(void *arg)
{
    struct poller *p = arg;
    int events = co_poll_timeout(p->fd, POLLIN, p->timeout_ns);
    CHECK(events == 0 || events == POLLIN);
    ++*(events ? p->ready : p->expired);
    co_group_done(p->group);
}

/* Many wait for one descriptor, with timeouts around the moment at which it becomes ready. */
TEST(timeouts_race_events)
{
    static struct poller pollers[600]; /* more than a completion queue holds */
    for (int round = 0; round < 10; round++) {
        unsigned ready = 0, expired = 0;
        int fd = eventfd(0, EFD_CLOEXEC);
        struct co_group group;
        co_group_init(&group);
        co_group_add(&group, ARRAY_LEN(pollers));
        for (unsigned i = 0; i < ARRAY_LEN(pollers); i++) {
            pollers[i] = (struct poller){fd, 1 + i * 6000, &ready, &expired, &group};
            if (i == ARRAY_LEN(pollers) - 1)
                pollers[i].timeout_ns = 0;
            CHECK_EQUAL(rt_spawn(NULL, co_polls, &pollers[i]), 0);
        }
        co_sleep_ns(2 * MS);
        CHECK_EQUAL(eventfd_write(fd, 1), 0);
        co_group_wait(&group);
        CHECK_EQUAL(ready + expired, ARRAY_LEN(pollers));
        CHECK(ready >= 1);
        co_group_destroy(&group);
        close(fd);
    }
}

/* ---- commands ---- */

/* SOCKET_URING_OP_SIOCINQ, Linux 6.7: the bytes that a socket has for us. */
#define COMMAND_BYTES_WAITING 0

static void co_asks_socket(void *arg)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, length) == 0);
    CHECK_EQUAL(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    struct rt_file *file = adopt(fd);
    for (unsigned i = 0; i < 200; i++) {
        char bytes[300] = {0};
        CHECK_EQUAL(sendto(fd, bytes, 1 + i, 0, (struct sockaddr *)&address, length), 1 + i);
        int waiting = co_uring_command(file, COMMAND_BYTES_WAITING, "", 0, 0, 0);
        if (waiting == -EOPNOTSUPP || waiting == -EINVAL) {
            *(bool *)arg = false;
            break;
        }
        CHECK_EQUAL(waiting, 1 + i);
        struct iovec v;
        CHECK_EQUAL(co_read_stream(file, sgl_one(&v, bytes, sizeof(bytes))), 1 + i);
    }
    rt_file_close(file);
}

static void commands_reach_the_descriptor(void **state)
{
    struct rt_options options = {.kind = RT_URING, .uring_commands = true};
    struct hws_error err = {0};
    struct rt *rt;
    bool supported = true;
    if (rt_create(&options, &rt, &err)) {
        print_message("SKIP: %s\n", err.text);
        skip();
    }
    CHECK_EQUAL(rt_run(rt, co_asks_socket, &supported), 0);
    rt_free(rt);
    if (!supported) {
        print_message("SKIP: this kernel's sockets take no commands\n");
        skip();
    }
}

/* ---- which runtime ---- */

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef THIS_ARCH
/* As container profiles do: io_uring_setup answers EPERM. */
static void refuse_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};
    CHECK_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void co_reads_zero(void *arg)
{
    struct rt_open how = {.flags = O_RDONLY};
    struct hws_error err = {0};
    struct rt_file *file;
    uint64_t bytes = 1;
    struct iovec v;
    CHECK_EQUAL(co_open("/dev/zero", &how, &file, &err), 0);
    CHECK_EQUAL(co_pread(file, 0, sgl_one(&v, &bytes, sizeof(bytes))), sizeof(bytes));
    CHECK_EQUAL(bytes, 0);
    rt_file_close(file);
}

static void check_refused_world(void)
{
    struct hws_error err = {0};
    struct rt *rt;
    refuse_uring();
    CHECK_EQUAL(rt_create(NULL, &rt, &err), 0);
    CHECK(strcmp(rt_name(rt), "threads") == 0);
    CHECK_EQUAL(rt_run(rt, co_reads_zero, NULL), 0);
    rt_free(rt);
    struct rt_options uring = {.kind = RT_URING};
    CHECK_EQUAL(rt_create(&uring, &rt, &err), -EPERM);
    CHECK(strstr(err.text, "seccomp"));
    setenv("HAWSER_RUNTIME", "uring", 1);
    CHECK_EQUAL(rt_create(NULL, &rt, &err), -EPERM);
    CHECK(strstr(err.text, "HAWSER_RUNTIME"));
}

static void where_a_filter_refuses_io_uring_threads_are_chosen(void **state)
{
    pid_t child = fork();
    if (child == 0) {
        unsetenv("HAWSER_RUNTIME");
        check_refused_world();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

static void the_environment_chooses_where_the_program_does_not(void **state)
{
    struct rt_options automatic = {0}, uring = {.kind = RT_URING};
    struct hws_error err = {0};
    struct rt *rt;
    setenv("HAWSER_RUNTIME", "threads", 1);
    assert_int_equal(rt_create(&automatic, &rt, &err), 0);
    assert_string_equal(rt_name(rt), "threads");
    rt_free(rt);
    if (rt_create(&uring, &rt, &err) == 0) {
        assert_string_equal(rt_name(rt), "io_uring");
        rt_free(rt);
    }
    setenv("HAWSER_RUNTIME", "threats", 1);
    assert_int_equal(rt_create(&automatic, &rt, &err), -EINVAL);
    assert_non_null(strstr(err.text, "threats"));
    unsetenv("HAWSER_RUNTIME");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(sockets_carry_bytes_both_ways),
        ON_BOTH(writing_to_a_closed_socket_is_an_error_and_no_signal),
        ON_BOTH(a_read_of_an_empty_pipe_waits_without_blocking_others),
        ON_BOTH(a_closed_descriptor_is_let_go_by_every_queue),
        ON_BOTH(character_devices_are_streams),
        ON_BOTH(bad_descriptors_are_refused),
        ON_BOTH(polls_answer_events_or_time_out),
        ON_BOTH(timeouts_race_events),
        cmocka_unit_test(commands_reach_the_descriptor),
#ifdef THIS_ARCH
        cmocka_unit_test(where_a_filter_refuses_io_uring_threads_are_chosen),
#endif
        cmocka_unit_test(the_environment_chooses_where_the_program_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
