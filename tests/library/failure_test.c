/*
 * What a program may lose: its memory, and its life.
 *
 * Memory: one allocation after the other fails, once, through a whole use of the library. Each call
 * then does its work or says -ENOMEM, everything can be closed, and the image is whole. The
 * program's malloc() stands in front of the C library's.
 *
 * Life: a child that writes is killed at any moment. What it had flushed is there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "library_test.h"
#include <signal.h>
#include <sys/wait.h>

/* ---- memory ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OWN_MALLOC 0
#endif
#endif
#ifndef OWN_MALLOC
#define OWN_MALLOC 1
#endif

#if OWN_MALLOC
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static _Atomic long allocations_left = -1; /* until one fails; below 0: none does */
static _Atomic bool one_failed;

static bool fails(void)
{
    if (atomic_load(&allocations_left) < 0 || atomic_fetch_sub(&allocations_left, 1) != 0)
        return false;
    atomic_store(&one_failed, true);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    return fails() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __libc_memalign(alignment, bytes);
}

static struct hws_error told;

static bool fine(int result)
{
    if (result >= 0)
        return true;
    if (result != -ENOMEM || !atomic_load(&one_failed)) {
        fprintf(stderr, "a call returned %d: %s\n", result, told.text);
        abort();
    }
    return false;
}

static void use_a_queue(struct hws_disk *disk, uint32_t kind)
{
    static uint8_t buffer[4][65536];
    struct hws_request request[4];
    struct hws_completion done[4];
    struct hws_queue *queue;
    struct hws_queue_options options = {.struct_bytes = sizeof(options), .depth = 4, .flags = kind};
    if (!fine(hws_queue_open(disk, &options, &queue, &told)))
        return;
    for (unsigned i = 0; i < 4; i++)
        request[i] = (struct hws_request){.op = i % 2 ? HWS_OP_READ : HWS_OP_WRITE,
                                          .offset = i * 300000,
                                          .length = 65536,
                                          .buffer = buffer[i],
                                          .tag = i};
    CHECK(hws_queue_submit(queue, request, 4) == 4);
    for (int got = 0; got < 4;) {
        int n = hws_queue_wait(queue, done, 4, -1);
        CHECK(n > 0);
        for (int i = 0; i < n; i++)
            (void)fine((int)done[i].result);
        got += n;
    }
    while (!fine(hws_queue_close(queue, &told)))
        ; /* it is there until it is closed */
}

static void use_everything(void)
{
    static uint8_t buffer[100000];
    struct hws_disk *disk;
    struct hws_extent extent;
    char overlay[256], *text;
    snprintf(overlay, sizeof(overlay), "%s/alloc-overlay", test_folder);
    unlink(overlay);
    if (!fine(hws_disk_open(&(struct hws_image){.path = test_path, .cache = "unsafe"}, NULL, &disk,
                            &told)))
        return;
    (void)fine(hws_disk_write(disk, 777, sizeof(buffer), buffer, 0, &told));
    use_a_queue(disk, 0);
    use_a_queue(disk, HWS_QUEUE_CALLER);
    (void)fine(hws_disk_snapshot(disk, overlay, NULL, &told));
    (void)fine(hws_disk_resize(disk, 4 * MiB, false, &told));
    (void)fine(hws_disk_write(disk, 777, sizeof(buffer), buffer, HWS_FUA, &told));
    (void)fine(hws_disk_status(disk, 0, MiB, &extent, &told));
    if (fine(hws_disk_info(disk, true, &text, &told)))
        free(text);
    if (fine(hws_disk_stats(disk, &text, &told)))
        free(text);
    (void)fine(hws_disk_close(disk, &told));
    (void)fine(hws_thread_end(&told));
}

static void every_allocation_may_fail(void **state)
{
    struct hws_error err = {0};
    struct hws_check found;
    long k = 0;
    make_image("alloc", "qcow2", 2 * MiB);
    for (;; k++) {
        CHECK(k < 5000);
        atomic_store(&one_failed, false);
        atomic_store(&allocations_left, k);
        use_everything();
        atomic_store(&allocations_left, -1);
        OK(hws_check(&(struct hws_image){.path = test_path}, 0, NULL, NULL, NULL, NULL, &found,
                     &err));
        CHECK(found.corruptions == 0);
        if (!atomic_load(&one_failed))
            break;
        if (k % 40 == 0)
            make_image("alloc", "qcow2", 2 * MiB);
    }
    CHECK(k > 100);
    print_message("%ld allocations\n", k);
}
#endif

/* ---- life ---- */

#define BLOCK   3000u
#define REGIONS 64u

/* Tells the number of each round once it is durable. */
static _Noreturn void write_for_ever(int tell)
{
    struct hws_error err = {0};
    struct hws_disk *disk = open_disk(test_path, NULL);
    struct hws_queue *queue;
    static uint8_t bytes[8][BLOCK];
    struct hws_request request[8];
    struct hws_completion done[8];
    OK(hws_queue_open(disk, NULL, &queue, &err));
    for (uint32_t round = 1;; round++) {
        for (unsigned i = 0; i < 8; i++) {
            fill(bytes[i], BLOCK, round * 8 + i);
            request[i] = (struct hws_request){.op = HWS_OP_WRITE,
                                              .offset = (round * 8 + i) % REGIONS * 100000,
                                              .length = BLOCK,
                                              .buffer = bytes[i],
                                              .flags = round % 2 ? HWS_FUA : 0};
        }
        CHECK(hws_queue_submit(queue, request, 8) == 8);
        for (int got = 0; got < 8;)
            got += hws_queue_wait(queue, done, 8, -1);
        if (round % 2 == 0)
            OK(hws_disk_flush(disk, &err));
        CHECK(write(tell, &round, sizeof(round)) == sizeof(round));
    }
}

/* The last round that the child told of; a killed one has written the next in part. */
static uint32_t kill_a_writer(unsigned after_us)
{
    int ends[2];
    uint32_t round = 0, last = 0;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0)
        write_for_ever(ends[1]);
    close(ends[1]);
    CHECK(read(ends[0], &last, sizeof(last)) == sizeof(last));
    usleep(after_us);
    kill(pid, SIGKILL);
    while (read(ends[0], &round, sizeof(round)) == sizeof(round))
        last = round;
    close(ends[0]);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    return last;
}

static void what_was_flushed_outlives_a_kill(void **state)
{
    struct hws_error err = {0};
    static uint8_t wanted[BLOCK], newer[BLOCK], in[BLOCK];
    OK(hws_thread_end(&err));
    for (unsigned k = 0; k < 25; k++) {
        struct hws_check found;
        make_image("killed", "qcow2", 8 * MiB);
        uint32_t last = kill_a_writer(k * k * 150);
        /* The kernel lets go of a dead process's files a moment after it is gone. */
        int r, tries = 0;
        while ((r = hws_check(&(struct hws_image){.path = test_path}, 0, NULL, NULL, NULL, NULL,
                              &found, &err)) == -EAGAIN &&
               tries++ < 1000)
            usleep(10000);
        OK(r);
        CHECK(found.corruptions == 0);
        struct hws_disk *disk = open_disk(test_path, NULL);
        /* Of each region the newest that was told of, or what was under way over it. */
        for (uint32_t n = last * 8 + 8; n-- > 8 && n + REGIONS > last * 8 + 8;) {
            OK(hws_disk_read(disk, n % REGIONS * 100000, BLOCK, in, 0, &err));
            fill(wanted, BLOCK, n);
            fill(newer, BLOCK, n + REGIONS);
            for (unsigned i = 0; i < BLOCK; i++)
                CHECK(in[i] == wanted[i] || in[i] == newer[i]);
        }
        OK(hws_disk_close(disk, &err));
        OK(hws_thread_end(&err));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#if OWN_MALLOC
        cmocka_unit_test(every_allocation_may_fail),
#endif
        cmocka_unit_test(what_was_flushed_outlives_a_kill),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
