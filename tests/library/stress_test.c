/*
 * Many threads on one disk, each with queues of both kinds or blocking calls, sizes and places by
 * chance; what is read is compared with a model in memory. Meanwhile the disk grows, and snapshots
 * are taken of it.
 *
 * The disk is cut into stripes smaller than a cluster, dealt out to the threads in turn, so that
 * they meet in clusters and tables. A stripe has one request in flight at most. Where a change
 * failed (a filter sees to that in one of the tests) or a range was discarded, its bytes are
 * unknown until they are written again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "library_test.h"

#define DISK_BYTES   (8 * MiB)
#define STRIPE_BYTES 16384u
#define STRIPES      (DISK_BYTES / STRIPE_BYTES)
#define USERS        6u
#define DEPTH        12u
#ifdef __SANITIZE_THREAD__
#define REQUESTS 600u
#else
#define REQUESTS 4000u
#endif

static uint8_t model[DISK_BYTES];
static bool unknown[DISK_BYTES / 512]; /* by sector */
static bool failures_allowed;
static _Atomic unsigned failed, busy_users;

struct flight {
    struct hws_request request;
    struct iovec iov[3];
    uint8_t bytes[STRIPE_BYTES];
    bool used;
};

struct user {
    struct hws_disk *disk;
    struct hws_queue *queue;
    unsigned number;
    uint64_t random;
    bool *stripe_busy;
    struct flight flight[DEPTH];
};

static uint32_t chance(struct user *user, uint32_t below)
{
    user->random = user->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(user->random >> 33) % below;
}

static void set_unknown(uint64_t offset, uint64_t length, bool value)
{
    for (uint64_t at = offset / 512; at * 512 < offset + length; at++)
        unknown[at] = value;
}

static bool choose(struct user *user, struct flight *flight, unsigned index)
{
    uint64_t stripe = chance(user, STRIPES / USERS) * USERS + user->number;
    if (user->stripe_busy[stripe])
        return false;
    static const uint32_t ops[] = {HWS_OP_READ, HWS_OP_READ,  HWS_OP_READ, HWS_OP_WRITE,
                                   HWS_OP_READ, HWS_OP_WRITE, HWS_OP_ZERO, HWS_OP_DISCARD,
                                   HWS_OP_READ, HWS_OP_WRITE, HWS_OP_FLUSH};
    struct hws_request *request = &flight->request;
    *request = (struct hws_request){.op = ops[chance(user, 11)], .tag = index};
    /* Unknown bytes are tracked by sector, so changes are made of whole ones. */
    uint32_t unit = request->op == HWS_OP_READ ? 1 : 512;
    uint32_t start = chance(user, STRIPE_BYTES / unit);
    uint32_t length = 1 + chance(user, STRIPE_BYTES / unit - start);
    request->offset = stripe * STRIPE_BYTES + start * unit;
    request->length = length * unit;
    if (request->op == HWS_OP_FLUSH)
        request->offset = 0;
    if (request->op == HWS_OP_WRITE || request->op == HWS_OP_ZERO)
        request->flags = chance(user, 16) == 0 ? HWS_FUA : 0;
    if (request->op == HWS_OP_WRITE)
        fill(flight->bytes, request->length, user->random);
    if (request->op == HWS_OP_READ || request->op == HWS_OP_WRITE) {
        request->buffer = flight->bytes;
        if (chance(user, 3) == 0) {
            size_t cut = chance(user, (uint32_t)request->length + 1);
            flight->iov[0] = (struct iovec){flight->bytes, cut};
            flight->iov[1] = (struct iovec){flight->bytes, 0};
            flight->iov[2] = (struct iovec){flight->bytes + cut, request->length - cut};
            request->iov = flight->iov;
            request->iov_count = 3;
        }
    }
    if (request->op != HWS_OP_FLUSH)
        user->stripe_busy[stripe] = true;
    return true;
}

static void check_read(const struct flight *flight)
{
    uint64_t offset = flight->request.offset;
    for (uint64_t i = 0; i < flight->request.length; i++) {
        if (unknown[(offset + i) / 512] || flight->bytes[i] == model[offset + i])
            continue;
        fprintf(stderr, "at %llu: read %02x, not %02x\n", (unsigned long long)(offset + i),
                flight->bytes[i], model[offset + i]);
        abort();
    }
}

static void complete(struct user *user, struct flight *flight, int64_t result)
{
    const struct hws_request *request = &flight->request;
    uint64_t offset = request->offset, length = request->length;
    if (result < 0) {
        CHECK(failures_allowed && result == -EIO);
        atomic_fetch_add(&failed, 1);
    }
    if (request->op == HWS_OP_READ && result == 0)
        check_read(flight);
    if (request->op == HWS_OP_WRITE)
        memcpy(model + offset, flight->bytes, length);
    if (request->op == HWS_OP_ZERO)
        memset(model + offset, 0, length);
    if (request->op == HWS_OP_DISCARD)
        set_unknown(offset, length, true);
    else if (request->op == HWS_OP_WRITE || request->op == HWS_OP_ZERO)
        set_unknown(offset, length, result < 0);
    if (request->op != HWS_OP_FLUSH)
        user->stripe_busy[offset / STRIPE_BYTES] = false;
    flight->used = false;
}

/* ---- the three ways of asking ---- */

static void use_blocking(struct user *user)
{
    struct flight *flight = &user->flight[0];
    for (unsigned i = 0; i < REQUESTS / 2; i++) {
        if (!choose(user, flight, 0))
            continue;
        const struct hws_request *r = &flight->request;
        int result = 0;
        if (r->op == HWS_OP_READ && r->iov)
            result = hws_disk_readv(user->disk, r->offset, r->iov, r->iov_count, 0, NULL);
        else if (r->op == HWS_OP_READ)
            result = hws_disk_read(user->disk, r->offset, r->length, r->buffer, 0, NULL);
        else if (r->op == HWS_OP_WRITE && r->iov)
            result = hws_disk_writev(user->disk, r->offset, r->iov, r->iov_count, r->flags, NULL);
        else if (r->op == HWS_OP_WRITE)
            result = hws_disk_write(user->disk, r->offset, r->length, r->buffer, r->flags, NULL);
        else if (r->op == HWS_OP_ZERO)
            result = hws_disk_zero(user->disk, r->offset, r->length, r->flags, NULL);
        else if (r->op == HWS_OP_DISCARD)
            result = hws_disk_discard(user->disk, r->offset, r->length, NULL);
        else
            result = hws_disk_flush(user->disk, NULL);
        complete(user, flight, result);
    }
}

static unsigned submit_some(struct user *user)
{
    struct hws_request batch[DEPTH];
    unsigned count = 0, most = 1 + chance(user, DEPTH);
    for (unsigned i = 0; i < DEPTH && count < most; i++) {
        if (user->flight[i].used || !choose(user, &user->flight[i], i))
            continue;
        user->flight[i].used = true;
        batch[count++] = user->flight[i].request;
    }
    CHECK(hws_queue_submit(user->queue, batch, count) == (int)count);
    return count;
}

static void use_queue(struct user *user, bool polls)
{
    struct hws_completion done[5];
    struct pollfd event = {.events = POLLIN};
    unsigned submitted = 0, completed = 0;
    if (polls)
        event.fd = hws_queue_fd(user->queue);
    while (completed < REQUESTS || completed < submitted) {
        if (submitted < REQUESTS)
            submitted += submit_some(user);
        if (polls && completed < submitted)
            CHECK(poll(&event, 1, 20000) == 1);
        int count =
            polls ? hws_queue_reap(user->queue, done, 5)
                  : hws_queue_wait(user->queue, done, 5, chance(user, 2) ? -1 : 20000000000ll);
        CHECK(count >= 0);
        for (int i = 0; i < count; i++)
            complete(user, &user->flight[done[i].tag], done[i].result);
        completed += (unsigned)count;
    }
}

static void *be_a_user(void *arg)
{
    struct user *user = arg;
    struct hws_error err = {0};
    struct hws_queue_options options = {.struct_bytes = sizeof(options),
                                        .depth = DEPTH,
                                        .flags = user->number % 2 ? HWS_QUEUE_CALLER : 0};
    if (user->number < 4) {
        OK(hws_queue_open(user->disk, &options, &user->queue, &err));
        use_queue(user, user->number < 2);
        OK(hws_queue_close(user->queue, &err));
    } else {
        use_blocking(user);
    }
    atomic_fetch_sub(&busy_users, 1);
    return NULL;
}

/* ---- the tests ---- */

static void run_users(struct hws_disk *disk, bool changes)
{
    struct hws_error err = {0};
    static bool stripe_busy[STRIPES];
    struct user *user = calloc(USERS, sizeof(*user));
    pthread_t thread[USERS];
    char overlay[256];
    CHECK(user);
    atomic_store(&busy_users, USERS);
    for (unsigned i = 0; i < USERS; i++) {
        user[i].disk = disk;
        user[i].number = i;
        user[i].random = 77 + i;
        user[i].stripe_busy = stripe_busy;
        CHECK(pthread_create(&thread[i], NULL, be_a_user, &user[i]) == 0);
    }
    for (unsigned i = 0; changes && i < 4 && atomic_load(&busy_users) > 0; i++) {
        usleep(20000);
        snprintf(overlay, sizeof(overlay), "%s/overlay%u", test_folder, i);
        OK(hws_disk_snapshot(disk, overlay, NULL, &err));
        OK(hws_disk_resize(disk, DISK_BYTES + (i + 1) * MiB, false, &err));
        if (i == 2)
            OK(hws_disk_internal_snapshot(disk, HWS_SNAPSHOT_CREATE, "busy", &err));
        snprintf(test_path, sizeof(test_path), "%s", overlay);
    }
    for (unsigned i = 0; i < USERS; i++)
        pthread_join(thread[i], NULL);
    free(user);
}

static void verify(const char *path)
{
    struct hws_error err = {0};
    struct flight *flight = calloc(1, sizeof(*flight));
    struct hws_disk *disk = open_disk(path, NULL);
    CHECK(flight);
    for (uint64_t at = 0; at < DISK_BYTES; at += STRIPE_BYTES) {
        flight->request.offset = at;
        flight->request.length = STRIPE_BYTES;
        OK(hws_disk_read(disk, at, STRIPE_BYTES, flight->bytes, 0, &err));
        check_read(flight);
    }
    OK(hws_disk_close(disk, &err));
    free(flight);
    struct hws_check found;
    OK(hws_check(&(struct hws_image){.path = path}, 0, NULL, NULL, NULL, NULL, &found, &err));
    CHECK(found.corruptions == 0 && found.leaks == 0);
}

static void start_model(void)
{
    memset(model, 0, sizeof(model));
    memset(unknown, 0, sizeof(unknown));
    atomic_store(&failed, 0);
}

static void many_users_and_changes_keep_the_data(void **state)
{
    struct hws_error err = {0};
    start_model();
    failures_allowed = false;
    make_image("stress", "qcow2", DISK_BYTES);
    struct hws_disk *disk = open_disk(test_path, NULL);
    run_users(disk, true);
    OK(hws_disk_close(disk, &err));
    verify(test_path);
}

static void failures_reach_those_who_asked(void **state)
{
    struct hws_error err = {0};
    struct hws_disk *disk;
    char text[600];
    start_model();
    failures_allowed = true;
    make_image("failing", "qcow2", DISK_BYTES);
    snprintf(text, sizeof(text),
             "json:{\"driver\":\"error\",\"percent\":5,\"errno\":\"EIO\",\"file\":{"
             "\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}}",
             test_path);
    OK(hws_disk_open(&(struct hws_image){.path = text}, NULL, &disk, &err));
    run_users(disk, false);
    CHECK(atomic_load(&failed) > 100);
    (void)hws_disk_close(disk, &err); /* the last flush may be one of them */
    verify(test_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_users_and_changes_keep_the_data),
        cmocka_unit_test(failures_reach_those_who_asked),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
