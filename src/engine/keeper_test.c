/*
 * The keeper, with children that only pretend to be engines: when one is started again, when not,
 * and when it gives up.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/keeper.h"
#include "base/log.h"
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <cmocka.h>

#define SECOND ((uint64_t)1000000000)

static void a_first_death_costs_no_time(void **state)
{
    struct keeper_deaths deaths = {0};
    uint64_t delay = 1;
    assert_true(keeper_note_death(&deaths, true, 5 * SECOND, &delay));
    assert_int_equal(delay, 0);
}

static void deaths_far_apart_are_all_first_ones(void **state)
{
    struct keeper_deaths deaths = {0};
    for (uint64_t n = 1; n < 100; n++) {
        uint64_t delay = 1;
        assert_true(keeper_note_death(&deaths, true, n * 2 * KEEPER_WINDOW_NS, &delay));
        assert_int_equal(delay, 0);
    }
}

static void deaths_in_a_row_wait_longer_each_and_end(void **state)
{
    struct keeper_deaths deaths = {0};
    uint64_t delay = 0, before = 0, now = SECOND;
    for (unsigned n = 1; n < KEEPER_DEATHS_MAX; n++) {
        assert_true(keeper_note_death(&deaths, true, now, &delay));
        if (n > 1)
            assert_true(delay == KEEPER_DELAY_LONGEST_NS || delay > before);
        assert_true(delay <= KEEPER_DELAY_LONGEST_NS);
        before = delay;
        now += delay;
    }
    assert_false(keeper_note_death(&deaths, true, now, &delay));
}

static void a_window_forgets(void **state)
{
    struct keeper_deaths deaths = {0};
    uint64_t delay;
    for (unsigned n = 1; n < KEEPER_DEATHS_MAX; n++)
        assert_true(keeper_note_death(&deaths, true, n * SECOND, &delay));
    assert_true(keeper_note_death(&deaths, true, 9 * SECOND + KEEPER_WINDOW_NS, &delay));
}

static void slow_failures_to_start_come_to_an_end_too(void **state)
{
    struct keeper_deaths deaths = {0};
    uint64_t delay;
    assert_true(keeper_note_death(&deaths, true, SECOND, &delay));
    for (uint64_t n = 2; n < KEEPER_DEATHS_MAX; n++)
        assert_true(keeper_note_death(&deaths, false, n * KEEPER_WINDOW_NS, &delay));
    assert_false(keeper_note_death(&deaths, false, KEEPER_DEATHS_MAX * KEEPER_WINDOW_NS, &delay));
}

/* ---- a keeper in a process of its own ---- */

/* What all processes of one test share. */
struct shared {
    _Atomic unsigned starts, gave_up;
    _Atomic pid_t engine;
};

typedef void engine_fn(struct shared *shared, unsigned start); /* does not return */

static void ready(void)
{
    keeper_tell_ready();
}

static void note_give_up(void *arg)
{
    ((struct shared *)arg)->gave_up++;
}

static void no_becoming(void *arg, const char *program, pid_t engine, int pipe_fd)
{
    fail_msg("the keeper wants to become %s", program);
}

static struct shared *map_shared(void)
{
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    memset(shared, 0, sizeof(*shared));
    return shared;
}

static pid_t start_keeper(struct shared *shared, engine_fn *engine, const char *end_file)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    struct keeper_options options = {
        .end_file = end_file, .become = no_becoming, .give_up = note_give_up, .arg = shared};
    alarm(60);
    log_set_level(LOG_LEVEL_ERROR);
    int code = keeper_run(&options);
    if (code >= 0)
        _exit(code);
    shared->engine = getpid();
    engine(shared, ++shared->starts);
    _exit(99);
}

static int wait_keeper(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void dies_twice_then_ends(struct shared *shared, unsigned start)
{
    ready();
    if (start < 3)
        kill(getpid(), SIGKILL);
    keeper_tell_ended();
    _exit(7);
}

static void a_killed_engine_is_started_again_until_it_ends(void **state)
{
    struct shared *shared = map_shared();
    assert_int_equal(wait_keeper(start_keeper(shared, dies_twice_then_ends, NULL)), 7);
    assert_int_equal(shared->starts, 3);
    assert_int_equal(shared->gave_up, 0);
}

static void fails_at_once(struct shared *shared, unsigned start)
{
    _exit(3);
}

static void an_engine_that_never_served_is_not_tried_again(void **state)
{
    struct shared *shared = map_shared();
    assert_int_equal(wait_keeper(start_keeper(shared, fails_at_once, NULL)), 3);
    assert_int_equal(shared->starts, 1);
}

static void serves_once(struct shared *shared, unsigned start)
{
    if (start == 1)
        ready();
    _exit(4);
}

static void one_that_cannot_start_any_more_is_given_up(void **state)
{
    struct shared *shared = map_shared();
    assert_int_equal(wait_keeper(start_keeper(shared, serves_once, NULL)), 4);
    assert_int_equal(shared->starts, KEEPER_DEATHS_MAX);
    assert_int_equal(shared->gave_up, 1);
}

static void waits(struct shared *shared, unsigned start)
{
    ready();
    for (;;)
        pause();
}

static void wait_starts(struct shared *shared, unsigned starts)
{
    for (unsigned ms = 0; shared->starts < starts && ms < 20000; ms++)
        usleep(1000);
    assert_int_equal(shared->starts, starts);
    usleep(20000); /* it tells that it is ready */
}

static void with_the_end_file_there_nothing_is_started(void **state)
{
    char path[] = "/tmp/hawser-keeper-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct shared *shared = map_shared();
    pid_t keeper = start_keeper(shared, waits, path);
    wait_starts(shared, 1);
    kill(shared->engine, SIGKILL);
    assert_int_equal(wait_keeper(keeper), EXIT_FAILURE);
    assert_int_equal(shared->starts, 1);
    close(fd);
    unlink(path);
}

static void a_signal_to_the_keeper_reaches_the_engine(void **state)
{
    struct shared *shared = map_shared();
    pid_t keeper = start_keeper(shared, waits, NULL);
    wait_starts(shared, 1);
    kill(keeper, SIGTERM); /* which kills this one: it says nothing, so it is started again */
    wait_starts(shared, 2);
    kill(keeper, SIGKILL);
    int status;
    waitpid(keeper, &status, 0);
    assert_int_equal(kill(shared->engine, 0), 0); /* an engine goes on without its keeper */
    kill(shared->engine, SIGKILL);
}

/* The first starts a second, says goodbye, and is gone: what the second does is the keeper's. */
static void hands_over(struct shared *shared, unsigned start)
{
    ready();
    if (start == 2) {
        keeper_tell_ended();
        _exit(5);
    }
    pid_t heir = fork();
    if (heir == 0) {
        shared->engine = getpid();
        ready();
        usleep(100000);
        kill(getpid(), SIGKILL);
    }
    usleep(50000);
    _exit(0);
}

static void a_successor_is_kept_like_its_predecessor(void **state)
{
    struct shared *shared = map_shared();
    assert_int_equal(wait_keeper(start_keeper(shared, hands_over, NULL)), 5);
    assert_int_equal(shared->starts, 2);
}

/* ---- a new program under the old name ---- */

static char in_place[] = "in-place";

static void note_becoming(void *arg, const char *program, pid_t engine, int pipe_fd)
{
    _exit(strcmp(program, arg) ? 1 : 42);
}

/* This process's file has the name @self, until another gets it. */
static int run_in_place(char *self)
{
    struct keeper_options options = {.become = note_becoming, .give_up = note_give_up, .arg = self};
    char text[PATH_MAX];
    alarm(60);
    log_set_level(LOG_LEVEL_ERROR);
    int code = keeper_run(&options);
    if (code >= 0)
        return code;
    int length = snprintf(text, sizeof(text), "ready %d %s\n", (int)getpid(), self);
    if (unlink(self) < 0 || write(keeper_pipe(), text, (size_t)length) != length)
        _exit(99);
    usleep(200000);
    keeper_tell_ended();
    _exit(98);
}

static void copy_program(const char *to)
{
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    assert_true(from >= 0 && fd >= 0);
    while (sendfile(fd, from, NULL, 1 << 24) > 0)
        ;
    assert_int_equal(lseek(fd, 0, SEEK_CUR), lseek(from, 0, SEEK_END));
    close(from);
    close(fd);
}

static void a_new_program_of_the_same_name_is_another(void **state)
{
    char folder[] = "/tmp/hawser-keeper-XXXXXX", self[48];
    assert_non_null(mkdtemp(folder));
    snprintf(self, sizeof(self), "%s/program", folder);
    copy_program(self);
    pid_t pid = fork();
    if (pid == 0) {
        execl(self, self, in_place, NULL);
        _exit(97);
    }
    assert_int_equal(wait_keeper(pid), 42);
    assert_int_equal(rmdir(folder), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], in_place))
        return run_in_place(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_death_costs_no_time),
        cmocka_unit_test(deaths_far_apart_are_all_first_ones),
        cmocka_unit_test(deaths_in_a_row_wait_longer_each_and_end),
        cmocka_unit_test(a_window_forgets),
        cmocka_unit_test(slow_failures_to_start_come_to_an_end_too),
        cmocka_unit_test(a_killed_engine_is_started_again_until_it_ends),
        cmocka_unit_test(an_engine_that_never_served_is_not_tried_again),
        cmocka_unit_test(one_that_cannot_start_any_more_is_given_up),
        cmocka_unit_test(with_the_end_file_there_nothing_is_started),
        cmocka_unit_test(a_signal_to_the_keeper_reaches_the_engine),
        cmocka_unit_test(a_successor_is_kept_like_its_predecessor),
        cmocka_unit_test(a_new_program_of_the_same_name_is_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
