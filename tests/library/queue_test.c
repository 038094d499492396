/*
 * Tests of queues, each on both kinds: with a thread, and served by the caller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "library_test.h"
#include <sys/epoll.h>
#include <sys/wait.h>

#define DEPTH 32u

static uint32_t kinds[] = {0, HWS_QUEUE_CALLER};

static struct hws_queue *open_queue(struct hws_disk *disk, void **state, uint32_t depth)
{
    struct hws_error err = {0};
    struct hws_queue *queue;
    struct hws_queue_options options = {
        .struct_bytes = sizeof(options), .depth = depth, .flags = *(uint32_t *)*state};
    OK(hws_queue_open(disk, &options, &queue, &err));
    return queue;
}

static struct hws_request transfer(uint32_t op, uint64_t tag, uint64_t offset, void *buffer,
                                   uint64_t length)
{
    return (struct hws_request){
        .tag = tag, .offset = offset, .length = length, .buffer = buffer, .op = op};
}

/* The disk, with every request held up for so many microseconds. */
static struct hws_disk *open_slow_disk(unsigned delay_us)
{
    struct hws_error err = {0};
    struct hws_disk *disk;
    char text[600];
    snprintf(text, sizeof(text),
             "json:{\"driver\":\"delay\",\"read-us\":%u,\"write-us\":%u,\"file\":{\"driver\":"
             "\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}}",
             delay_us, delay_us, test_path);
    OK(hws_disk_open(&(struct hws_image){.path = text}, NULL, &disk, &err));
    return disk;
}

static unsigned wait_all(struct hws_queue *queue, struct hws_completion *done, unsigned count)
{
    unsigned got = 0;
    while (got < count) {
        int n = hws_queue_wait(queue, done + got, count - got, 10000000000ll);
        CHECK(n > 0);
        got += (unsigned)n;
    }
    return got;
}

static void batches_are_carried_out(void **state)
{
    struct hws_error err = {0};
    static uint8_t out[DEPTH][4096], in[DEPTH][4096];
    struct hws_request request[DEPTH];
    struct hws_completion done[DEPTH];
    make_image("batch", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    struct hws_queue *queue = open_queue(disk, state, DEPTH);
    for (unsigned round = 0; round < 50; round++) {
        uint64_t seen = 0;
        for (unsigned i = 0; i < DEPTH; i++) {
            fill(out[i], 4096, round * DEPTH + i);
            request[i] = transfer(HWS_OP_WRITE, i, i * 65536 + round * 4096 % 65536, out[i], 4096);
        }
        CHECK(hws_queue_submit(queue, request, DEPTH) == DEPTH);
        CHECK(hws_queue_pending(queue) == DEPTH);
        CHECK(hws_queue_submit(queue, request, 1) == 0); /* full */
        wait_all(queue, done, DEPTH);
        for (unsigned i = 0; i < DEPTH; i++) {
            CHECK(done[i].result == 0 && done[i].tag < DEPTH);
            seen |= 1ull << done[i].tag;
            request[i].op = HWS_OP_READ;
            request[i].buffer = in[i];
        }
        CHECK(seen == UINT32_MAX && hws_queue_pending(queue) == 0);
        CHECK(hws_queue_submit(queue, request, DEPTH) == DEPTH);
        wait_all(queue, done, DEPTH);
        CHECK(memcmp(in, out, sizeof(in)) == 0);
        struct hws_request flush = {.op = HWS_OP_FLUSH, .tag = 77};
        CHECK(hws_queue_submit(queue, &flush, 1) == 1);
        wait_all(queue, done, 1);
        CHECK(done[0].tag == 77 && done[0].result == 0);
    }
    CHECK(hws_queue_wait(queue, done, 1, -1) == 0); /* nothing to wait for */
    FAILS(EBUSY, hws_disk_close(disk, &err));
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

/* As an event loop does it: the descriptor alone says when there is something to do. */
static void an_event_loop_is_told(void **state)
{
    struct hws_error err = {0};
    static uint8_t buffer[DEPTH][4096];
    struct hws_completion done[8];
    unsigned submitted = 0, completed = 0, wakes = 0;
    make_image("loop", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_slow_disk(300);
    struct hws_queue *queue = open_queue(disk, state, DEPTH);
    int loop = epoll_create1(0), fd = hws_queue_fd(queue);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 5};
    CHECK(fd >= 0 && epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK(epoll_wait(loop, &event, 1, 0) == 0);
    while (completed < 400) {
        for (; submitted < 400 && submitted - completed < DEPTH; submitted++) {
            struct hws_request request =
                transfer(submitted % 2 ? HWS_OP_READ : HWS_OP_WRITE, submitted,
                         submitted % 64 * 65536, buffer[submitted % DEPTH], 4096);
            CHECK(hws_queue_submit(queue, &request, 1) == 1);
        }
        int events;
        do
            events = epoll_wait(loop, &event, 1, 10000);
        while (events < 0 && errno == EINTR);
        CHECK(events == 1);
        wakes++;
        int n = hws_queue_reap(queue, done, 8); /* not all: it stays readable */
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            CHECK(done[i].result == 0);
        completed += (unsigned)n;
    }
    CHECK(hws_queue_reap(queue, done, 8) == 0 && wakes < 20000);
    CHECK(epoll_wait(loop, &event, 1, 0) == 0);
    close(loop);
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

static void waiting_ends_at_its_time(void **state)
{
    struct hws_error err = {0};
    uint8_t buffer[512];
    struct hws_completion done;
    make_image("time", "qcow2", MiB);
    struct hws_disk *disk = open_slow_disk(100000);
    struct hws_queue *queue = open_queue(disk, state, 4);
    struct hws_request request = transfer(HWS_OP_READ, 9, 0, buffer, sizeof(buffer));
    CHECK(hws_queue_submit(queue, &request, 1) == 1);
    CHECK(hws_queue_reap(queue, &done, 1) == 0);
    CHECK(hws_queue_wait(queue, &done, 1, 5000000) == 0);
    CHECK(hws_queue_wait(queue, &done, 1, 10000000000ll) == 1 && done.tag == 9);
    CHECK(hws_queue_submit(queue, &request, 1) == 1);
    CHECK(hws_queue_wait(queue, &done, 1, -1) == 1 && done.result == 0);
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

static void wrong_requests_complete_with_an_error(void **state)
{
    struct hws_error err = {0};
    uint8_t byte[2] = {0};
    struct iovec wrong = {NULL, 5};
    struct hws_completion done[16];
    make_image("wrong", "qcow2", MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    struct hws_queue *queue = open_queue(disk, state, 16);
    const struct hws_request request[] = {
        {.op = 0},
        {.op = 99},
        {.op = HWS_OP_READ, .length = 1},
        {.op = HWS_OP_READ, .length = UINT64_MAX, .buffer = byte},
        {.op = HWS_OP_READ, .offset = MiB, .length = 1, .buffer = byte},
        {.op = HWS_OP_READ, .length = 1, .buffer = byte, .flags = 1},
        {.op = HWS_OP_WRITE, .length = 1, .buffer = byte, .flags = 1u << 9},
        {.op = HWS_OP_WRITE, .length = 1, .buffer = byte, .reserved = {0, 0, 1}},
        {.op = HWS_OP_WRITE, .iov = &wrong, .iov_count = 1},
        {.op = HWS_OP_WRITE, .iov_count = 1},
        {.op = HWS_OP_WRITE, .iov = &wrong, .iov_count = UINT32_MAX},
        {.op = HWS_OP_ZERO, .offset = UINT64_MAX, .length = 1},
        {.op = HWS_OP_DISCARD, .offset = 1, .length = UINT64_MAX},
        {.op = HWS_OP_FLUSH, .flags = HWS_FUA},
    };
    const unsigned count = sizeof(request) / sizeof(request[0]);
    CHECK(hws_queue_submit(queue, request, count) == (int)count);
    wait_all(queue, done, count);
    for (unsigned i = 0; i < count; i++)
        CHECK(done[i].result == -EINVAL);
    CHECK(hws_queue_submit(queue, NULL, 1) == -EINVAL);
    CHECK(hws_queue_reap(queue, NULL, 1) == -EINVAL && hws_queue_reap(queue, done, 0) == -EINVAL);
    CHECK(hws_queue_submit(queue, request, 0) == 0);
    struct hws_queue *none;
    struct hws_queue_options options = {.struct_bytes = sizeof(options), .depth = 5000};
    FAILS(EINVAL, hws_queue_open(disk, &options, &none, &err));
    options = (struct hws_queue_options){.struct_bytes = sizeof(options), .flags = 2};
    FAILS(EINVAL, hws_queue_open(disk, &options, &none, &err));
    OK(hws_queue_close(queue, &err));
    OK(hws_queue_close(NULL, &err));
    OK(hws_disk_close(disk, &err));
}

static void closing_waits_for_what_is_in_flight(void **state)
{
    struct hws_error err = {0};
    static uint8_t buffer[DEPTH][65536];
    struct hws_request request[DEPTH];
    for (unsigned round = 0; round < 10; round++) {
        make_image("close", "qcow2", 8 * MiB);
        struct hws_disk *disk = round % 2 ? open_slow_disk(2000) : open_disk(test_path, NULL);
        struct hws_queue *queue = open_queue(disk, state, DEPTH);
        for (unsigned i = 0; i < DEPTH; i++)
            request[i] =
                transfer(i % 3 ? HWS_OP_READ : HWS_OP_WRITE, i, i * 65536, buffer[i], 65536);
        CHECK(hws_queue_submit(queue, request, DEPTH) == DEPTH);
        if (round % 4 < 2)
            usleep(300);
        OK(hws_queue_close(queue, &err));
        memset(buffer, 0xff, sizeof(buffer)); /* ours again */
        OK(hws_disk_close(disk, &err));
        struct hws_check found;
        OK(hws_check(&(struct hws_image){.path = test_path}, 0, NULL, NULL, NULL, NULL, &found,
                     &err));
        CHECK(found.corruptions == 0 && found.leaks == 0);
    }
}

static void blocking_calls_go_on_beside_a_queue(void **state)
{
    struct hws_error err = {0};
    static uint8_t buffer[DEPTH][4096], in[4096];
    struct hws_request request[DEPTH];
    struct hws_completion done[DEPTH];
    make_image("beside", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_slow_disk(500);
    struct hws_queue *queue = open_queue(disk, state, DEPTH);
    struct pollfd event = {.fd = hws_queue_fd(queue), .events = POLLIN};
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < DEPTH; i++)
            request[i] = transfer(HWS_OP_WRITE, i, i * 65536, buffer[i], 4096);
        CHECK(hws_queue_submit(queue, request, DEPTH) == DEPTH);
        OK(hws_disk_flush(disk, &err));
        OK(hws_disk_read(disk, 5 * MiB, sizeof(in), in, 0, &err));
        /* A change waits for the requests in flight. */
        OK(hws_disk_resize(disk, (8 + round % 2) * MiB, true, &err));
        CHECK(poll(&event, 1, 10000) == 1);
        wait_all(queue, done, DEPTH);
    }
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

static void buffers_can_be_registered(void **state)
{
    struct hws_error err = {0};
    static _Alignas(4096) uint8_t buffer[4][65536];
    struct iovec iov[4];
    struct hws_request request[4];
    struct hws_completion done[4];
    make_image("registered", "qcow2", 8 * MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    struct hws_queue *queue = open_queue(disk, state, 4);
    for (unsigned i = 0; i < 4; i++)
        iov[i] = (struct iovec){buffer[3 - i], sizeof(buffer[0])};
    OK(hws_queue_buffers(queue, iov, 4, &err));
    for (unsigned i = 0; i < 4; i++) {
        fill(buffer[i], sizeof(buffer[i]), i);
        request[i] = transfer(HWS_OP_WRITE, i, i * MiB, buffer[i], 65536);
    }
    CHECK(hws_queue_submit(queue, request, 4) == 4);
    FAILS(EBUSY, hws_queue_buffers(queue, iov, 4, &err));
    wait_all(queue, done, 4);
    for (unsigned i = 0; i < 4; i++) {
        size_t same;
        OK(hws_disk_compare(disk, i * MiB, 65536, buffer[i], &same, &err));
        CHECK(same == 65536);
    }
    OK(hws_queue_buffers(queue, NULL, 0, &err));
    FAILS(EINVAL, hws_queue_buffers(queue, NULL, 1, &err));
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

/* ---- threads of the wrong kind ---- */

static void *use_elsewhere(void *arg)
{
    struct hws_error err = {0};
    struct hws_request request = {.op = HWS_OP_FLUSH};
    struct hws_completion done;
    CHECK(hws_queue_submit(arg, &request, 1) == -EPERM);
    CHECK(hws_queue_reap(arg, &done, 1) == -EPERM);
    CHECK(hws_queue_fd(arg) == -EPERM);
    FAILS(EPERM, hws_queue_close(arg, &err));
    return NULL;
}

static void *leave_a_queue(void *arg)
{
    struct hws_queue **queue = arg;
    static uint8_t buffer[4096];
    uint32_t *kind = &kinds[1];
    *queue = open_queue((struct hws_disk *)*queue, (void *)&kind, 4);
    struct hws_request request = transfer(HWS_OP_WRITE, 1, 0, buffer, sizeof(buffer));
    struct hws_error err = {0};
    CHECK(hws_queue_submit(*queue, &request, 1) == 1);
    FAILS(EBUSY, hws_thread_end(&err));
    return NULL;
}

static void a_callers_queue_is_its_threads(void **state)
{
    struct hws_error err = {0};
    struct hws_completion done;
    uint32_t *kind = &kinds[1];
    pthread_t thread;
    make_image("mine", "qcow2", MiB);
    struct hws_disk *disk = open_slow_disk(3000);
    struct hws_queue *queue = open_queue(disk, (void *)&kind, 4);
    CHECK(pthread_create(&thread, NULL, use_elsewhere, queue) == 0);
    pthread_join(thread, NULL);
    OK(hws_queue_close(queue, &err));
    /* The thread ends with a request in flight: that ends with it, and can be fetched. */
    queue = (struct hws_queue *)disk;
    CHECK(pthread_create(&thread, NULL, leave_a_queue, &queue) == 0);
    pthread_join(thread, NULL);
    CHECK(hws_queue_reap(queue, &done, 1) == 1 && done.result == 0);
    struct hws_request request = {.op = HWS_OP_FLUSH};
    CHECK(hws_queue_submit(queue, &request, 1) == 1);
    CHECK(hws_queue_wait(queue, &done, 1, -1) == 1 && done.result == -ECANCELED);
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

static void a_child_may_not_use_a_queue(void **state)
{
#ifdef __SANITIZE_THREAD__
    skip(); /* it does not follow a fork of several threads */
#endif
    struct hws_error err = {0};
    make_image("fork", "qcow2", MiB);
    struct hws_disk *disk = open_disk(test_path, NULL);
    struct hws_queue *queue = open_queue(disk, state, 4);
    pid_t pid = fork();
    if (pid == 0) {
        struct hws_request request = {.op = HWS_OP_FLUSH};
        CHECK(hws_queue_submit(queue, &request, 1) == -EPERM);
        FAILS(EPERM, hws_queue_close(queue, &err));
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(hws_queue_close(queue, &err));
    OK(hws_disk_close(disk, &err));
}

#define ON_BOTH(test)                                       \
    {#test "_by_a_thread", test, NULL, NULL, &kinds[0]},    \
    {                                                       \
#test "_by_the_caller", test, NULL, NULL, &kinds[1] \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(batches_are_carried_out),
        ON_BOTH(an_event_loop_is_told),
        ON_BOTH(waiting_ends_at_its_time),
        ON_BOTH(wrong_requests_complete_with_an_error),
        ON_BOTH(closing_waits_for_what_is_in_flight),
        ON_BOTH(blocking_calls_go_on_beside_a_queue),
        ON_BOTH(buffers_can_be_registered),
        ON_BOTH(a_child_may_not_use_a_queue),
        cmocka_unit_test(a_callers_queue_is_its_threads),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
