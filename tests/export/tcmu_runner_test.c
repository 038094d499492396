/*
 * handler_hawser.so as tcmu-runner uses it, without a kernel: loaded, opened, given commands,
 * resized, closed, and given what is wrong. fake_runner.c stands in for tcmu-runner.
 *
 *   tcmu_runner_test HANDLER HAWSER
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/byteorder.h"
#include "fake_runner.h"
#include "wire/scsi/scsi.h"
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#define SIZE_BYTES  (16 * MiB)
#define UNIT_SERIAL "0db22447-bd40-40c9-a926-db8686b16daf"

static const char *hawser;
static struct tcmur_handler *handler;
static char folder[] = "/tmp/tcmu-runner-test.XXXXXX";

/* ---- images and devices ---- */

static const char *path_of(const char *name)
{
    static _Thread_local char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void make_raw(const char *name, uint64_t bytes)
{
    int fd = open(path_of(name), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

static void make_qcow2(const char *name, uint64_t bytes)
{
    char size[32];
    snprintf(size, sizeof(size), "%llu", (unsigned long long)bytes);
    unlink(path_of(name));
    pid_t pid = fork();
    if (pid == 0) {
        execl(hawser, "hawser", "create", "-q", path_of(name), size, NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void configure(struct tcmu_device *dev, const char *name, const char *options)
{
    *dev = (struct tcmu_device){.blocks = SIZE_BYTES / 512, .block_bytes = 512};
    snprintf(dev->config, sizeof(dev->config), "hawser/%s%s", path_of(name), options);
}

static void start(struct tcmu_device *dev, const char *name, const char *options)
{
    configure(dev, name, options);
    if (handler->open(dev, false) != 0)
        fail_msg("%s: %s", dev->config, fake_log());
}

static void start_qcow2(struct tcmu_device *dev)
{
    make_qcow2("disk.qcow2", SIZE_BYTES);
    start(dev, "disk.qcow2", "");
}

/* ---- commands ---- */

static void assert_sense(const uint8_t *sense, uint8_t key, uint16_t asc)
{
    assert_int_equal(sense[0] & 0x7f, 0x70);
    assert_int_equal(sense[2] & 0xf, key);
    assert_int_equal(load_be16(sense + 12), asc);
}

/* The first command of a new nexus finds 29/00 (or what else waits). */
static void settle(struct tcmu_device *dev)
{
    static const uint8_t test_unit_ready[6];
    while (fake_command(dev, test_unit_ready, NULL, 0, NULL) != RUNNER_GOOD)
        ;
}

static void extent_cdb(uint8_t cdb[16], uint8_t opcode, uint64_t lba, uint32_t blocks)
{
    struct be64 wide = be64_of(lba);
    struct be32 count = be32_of(blocks);
    memset(cdb, 0, 16);
    cdb[0] = opcode;
    memcpy(cdb + 2, &wide, 8);
    memcpy(cdb + 10, &count, 4);
}

static int transfer(struct tcmu_device *dev, uint8_t opcode, uint64_t lba, void *buffer,
                    size_t length)
{
    uint8_t cdb[16];
    extent_cdb(cdb, opcode, lba, (uint32_t)(length / dev->block_bytes));
    return fake_command(dev, cdb, buffer, length, NULL);
}

static uint64_t capacity(struct tcmu_device *dev)
{
    uint8_t cdb[16] = {OP_SERVICE_ACTION_IN_16, 0x10, [13] = 32}, reply[32];
    assert_int_equal(fake_command(dev, cdb, reply, sizeof(reply), NULL), RUNNER_GOOD);
    return (load_be64(reply) + 1) * load_be32(reply + 8);
}

/* Bytes that tell where they belong. */
static void pattern(uint8_t *buffer, size_t length, uint32_t seed)
{
    for (size_t i = 0; i < length; i += 4) {
        uint32_t value = (seed * 0x9e3779b1u) ^ (uint32_t)i;
        memcpy(buffer + i, &value, 4);
    }
}

/* ---- tests ---- */

static void only_its_entry_can_be_seen(void **state)
{
    static const char *const inside[] = {"rt_create", "co_scsi_execute", "drivers_register",
                                         "qcow2_driver", "hws_fail"};
    for (size_t i = 0; i < ARRAY_LEN(inside); i++)
        if (dlsym(fake_library, inside[i]))
            fail_msg("%s is visible", inside[i]);
    assert_string_equal(handler->subtype, "hawser");
    assert_non_null(strstr(handler->cfg_desc, "cache="));
    assert_int_equal(handler->nr_threads, 0);
    for (size_t i = 0; i < ARRAY_LEN(handler->data_path); i++)
        assert_null(handler->data_path[i]); /* else tcmu-runner takes commands for itself */
}

static void assert_refused(const char *config, const char *words)
{
    char *reason = NULL;
    if (handler->check_config(config, &reason))
        fail_msg("'%s' is accepted", config);
    if (!reason || !strstr(reason, words))
        fail_msg("'%s': %s", config, reason ? reason : "no reason");
    free(reason);
}

static void a_wrong_configuration_is_told_why(void **state)
{
    char config[512], *reason = NULL;
    assert_refused("hawser/disk.qcow2", "absolute path");
    assert_refused("hawser//nowhere/disk.qcow2", "No such file");
    make_raw("plain", SIZE_BYTES);
    const char *plain = path_of("plain");
    snprintf(config, sizeof(config), "hawser/%s", plain);
    assert_refused(config, "format");
    snprintf(config, sizeof(config), "hawser/%s;format=raw", plain);
    assert_true(handler->check_config(config, &reason));
    assert_null(reason);
    snprintf(config, sizeof(config), "hawser/%s;format=raw;tcmur_cmd_time_out=10", plain);
    assert_refused(config, "tcmur_cmd_time_out");
    memset(config, 'a', sizeof(config) - 1);
    config[sizeof(config) - 1] = '\0';
    assert_refused(config, "255");
}

static void assert_does_not_open(struct tcmu_device *dev, const char *words)
{
    if (handler->open(dev, false) == 0)
        fail_msg("'%s' opens", dev->config);
    if (!strstr(fake_log(), words))
        fail_msg("'%s': %s", dev->config, fake_log());
}

static void what_cannot_be_served_does_not_open(void **state)
{
    struct tcmu_device dev, other;
    configure(&dev, "missing", "");
    assert_does_not_open(&dev, "No such file");
    start_qcow2(&other);
    configure(&dev, "disk.qcow2", "");
    assert_does_not_open(&dev, "disk.qcow2"); /* in use */
    handler->close(&other);
    dev.blocks *= 2;
    assert_does_not_open(&dev, "enlarge the image");
    dev.blocks = SIZE_BYTES / 520;
    dev.block_bytes = 520;
    assert_does_not_open(&dev, "hw_block_size is 520");
    dev.blocks = UINT64_MAX / 2;
    dev.block_bytes = 512;
    assert_does_not_open(&dev, "out of range");
    assert_int_equal(truncate(path_of("disk.qcow2"), 300), 0);
    configure(&dev, "disk.qcow2", "");
    assert_does_not_open(&dev, "disk.qcow2"); /* broken */
}

static void the_unit_serial_is_the_disks_identity(void **state)
{
    struct tcmu_device dev;
    uint8_t cdb[6] = {OP_INQUIRY, 1, 0x80, 0, 64}, reply[64];
    make_qcow2("disk.qcow2", SIZE_BYTES);
    configure(&dev, "disk.qcow2", "");
    assert_int_equal(handler->open(&dev, false), 0);
    dev.serial = UNIT_SERIAL; /* targetcli sets it after the device has been opened */
    assert_int_equal(fake_command(&dev, cdb, reply, sizeof(reply), NULL), RUNNER_GOOD);
    assert_memory_equal(reply + 4, "0db22447bd4040c9a926db8686b16daf", 32);
    handler->close(&dev);
}

static void what_an_answer_leaves_of_the_buffer_is_cleared(void **state)
{
    struct tcmu_device dev;
    uint8_t cdb[6] = {OP_INQUIRY, 0, 0, 0x10, 0}, reply[4096];
    start_qcow2(&dev);
    memset(reply, 0xa5, sizeof(reply));
    assert_int_equal(fake_command(&dev, cdb, reply, sizeof(reply), NULL), RUNNER_GOOD);
    assert_memory_equal(reply + 8, "HAWSER  ", 8);
    for (size_t i = 5u + reply[4]; i < sizeof(reply); i++)
        assert_int_equal(reply[i], 0);
    handler->close(&dev);
}

static void errors_come_with_their_sense_data(void **state)
{
    struct tcmu_device dev;
    uint8_t cdb[16], buffer[512], sense[RUNNER_SENSE_BYTES];
    start_qcow2(&dev);
    settle(&dev);
    extent_cdb(cdb, OP_READ_16, SIZE_BYTES / 512, 1);
    assert_int_equal(fake_command(&dev, cdb, buffer, 512, sense), RUNNER_CHECK_CONDITION);
    assert_sense(sense, SCSI_KEY_ILLEGAL_REQUEST, 0x2100);
    handler->close(&dev);
    start(&dev, "disk.qcow2", ";read-only=on");
    settle(&dev);
    extent_cdb(cdb, OP_WRITE_16, 0, 1);
    assert_int_equal(fake_command(&dev, cdb, buffer, 512, sense), RUNNER_CHECK_CONDITION);
    assert_sense(sense, SCSI_KEY_DATA_PROTECT, 0x2700);
    handler->close(&dev);
}

#define DEPTH 64

static void write_and_compare(const char *name, const char *options, uint32_t block_bytes)
{
    static uint8_t buffer[DEPTH][8192], back[8192];
    struct answer answer[DEPTH];
    struct tcmu_device dev;
    uint8_t cdb[16];
    configure(&dev, name, options);
    dev.block_bytes = block_bytes;
    dev.blocks = SIZE_BYTES / block_bytes;
    if (handler->open(&dev, false) != 0)
        fail_msg("%s: %s", dev.config, fake_log());
    settle(&dev);
    for (unsigned i = 0; i < DEPTH; i++) {
        /* Scattered, and in two pieces of memory, as the data area has them. */
        uint64_t lba = (uint64_t)(i * 37 % DEPTH) * (SIZE_BYTES / DEPTH / block_bytes);
        struct iovec iov[2] = {{buffer[i], 4096}, {buffer[i] + 4096, 4096}};
        pattern(buffer[i], 8192, i * 37 % DEPTH);
        extent_cdb(cdb, OP_WRITE_16, lba, 8192 / block_bytes);
        fake_submit(&dev, cdb, iov, 2, &answer[i]);
    }
    for (unsigned i = 0; i < DEPTH; i++) {
        fake_wait(&answer[i]);
        assert_int_equal(answer[i].result, RUNNER_GOOD);
    }
    handler->close(&dev);
    assert_int_equal(handler->open(&dev, false), 0);
    settle(&dev);
    for (uint32_t i = 0; i < DEPTH; i++) {
        uint64_t lba = (uint64_t)i * (SIZE_BYTES / DEPTH / block_bytes);
        pattern(buffer[0], 8192, i);
        assert_int_equal(transfer(&dev, OP_READ_16, lba, back, 8192), RUNNER_GOOD);
        assert_memory_equal(back, buffer[0], 8192);
    }
    handler->close(&dev);
}

static void what_is_written_is_read_after_reopening(void **state)
{
    make_qcow2("disk.qcow2", SIZE_BYTES);
    write_and_compare("disk.qcow2", "", 512);
    make_qcow2("disk.qcow2", SIZE_BYTES);
    write_and_compare("disk.qcow2", ";cache=none", 4096);
    make_raw("disk.raw", SIZE_BYTES);
    write_and_compare("disk.raw", ";format=raw", 512);
    static uint8_t expected[8192], found[8192];
    int fd = open(path_of("disk.raw"), O_RDONLY | O_CLOEXEC);
    pattern(expected, sizeof(expected), 5);
    assert_int_equal(pread(fd, found, sizeof(found), 5 * (SIZE_BYTES / DEPTH)), sizeof(found));
    assert_memory_equal(found, expected, sizeof(found));
    close(fd);
}

static void a_device_grows_and_does_not_shrink(void **state)
{
    struct tcmu_device dev;
    struct tcmulib_cfg_info info = {.type = RUNNER_CHANGE_SIZE, .data.dev_size = 2 * SIZE_BYTES};
    static const uint8_t test_unit_ready[6];
    uint8_t sense[RUNNER_SENSE_BYTES];
    start_qcow2(&dev);
    assert_int_equal(handler->reconfig(&dev, &info), 0); /* before the first command */
    settle(&dev);
    assert_int_equal(capacity(&dev), 2 * SIZE_BYTES);
    info.data.dev_size = 3 * SIZE_BYTES;
    assert_int_equal(handler->reconfig(&dev, &info), 0);
    assert_int_equal(fake_command(&dev, test_unit_ready, NULL, 0, sense), RUNNER_CHECK_CONDITION);
    assert_sense(sense, SCSI_KEY_UNIT_ATTENTION, 0x2a09);
    assert_int_equal(capacity(&dev), 3 * SIZE_BYTES);
    info.data.dev_size = SIZE_BYTES;
    assert_int_equal(handler->reconfig(&dev, &info), -EINVAL);
    assert_non_null(strstr(fake_log(), "not made smaller"));
    info.data.dev_size = 4 * SIZE_BYTES + 100;
    assert_int_equal(handler->reconfig(&dev, &info), -EINVAL);
    assert_int_equal(capacity(&dev), 3 * SIZE_BYTES);
    handler->close(&dev);
}

static bool write_cache_on(struct tcmu_device *dev)
{
    uint8_t cdb[6] = {OP_MODE_SENSE_6, 0x08, 0x08, 0, 64}, reply[64];
    assert_int_equal(fake_command(dev, cdb, reply, sizeof(reply), NULL), RUNNER_GOOD);
    assert_int_equal(reply[4] & 0x3f, 0x08);
    return reply[6] & 0x04;
}

static void the_write_cache_is_switched(void **state)
{
    struct tcmu_device dev;
    struct tcmulib_cfg_info off = {.type = RUNNER_CHANGE_WRITE_CACHE},
                            on = {.type = RUNNER_CHANGE_WRITE_CACHE, .data.write_cache = true},
                            config = {.type = RUNNER_CHANGE_CONFIG};
    start_qcow2(&dev);
    assert_int_equal(handler->reconfig(&dev, &off), 0);
    settle(&dev);
    assert_false(write_cache_on(&dev));
    assert_int_equal(handler->reconfig(&dev, &on), 0);
    settle(&dev);
    assert_true(write_cache_on(&dev));
    assert_int_equal(handler->reconfig(&dev, &config), -EOPNOTSUPP);
    handler->close(&dev);
}

static void closing_answers_what_was_taken(void **state)
{
    static uint8_t buffer[DEPTH][4096];
    struct answer answer[DEPTH];
    struct tcmu_device dev;
    uint8_t cdb[16];
    start_qcow2(&dev);
    for (unsigned i = 0; i < DEPTH; i++) {
        struct iovec iov = {buffer[i], sizeof(buffer[i])};
        extent_cdb(cdb, OP_WRITE_16, i * 64, 8);
        fake_submit(&dev, cdb, &iov, 1, &answer[i]);
    }
    handler->close(&dev);
    for (unsigned i = 0; i < DEPTH; i++)
        assert_true(answer[i].done); /* the bell included */
}

/* As tcmu-runner's thread of a device: it is cancelled, and its clean-up closes the device. */
static void close_from_cleanup(void *arg)
{
    handler->close(arg);
}

/* The fake's own lock is no place to be cancelled in. */
static void fake_wait_uncancelled(struct answer *answer)
{
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    fake_wait(answer);
    pthread_setcancelstate(before, NULL);
}

static void *feed(void *arg)
{
    static const uint8_t test_unit_ready[6];
    struct tcmu_device *dev = arg;
    struct answer answer;
    pthread_cleanup_push(close_from_cleanup, dev);
    for (;;) {
        fake_submit(dev, test_unit_ready, NULL, 0, &answer);
        fake_wait_uncancelled(&answer);
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void its_caller_may_be_cancelled(void **state)
{
    for (unsigned round = 0; round < 20; round++) {
        struct tcmu_device dev;
        pthread_t thread;
        void *result;
        start_qcow2(&dev);
        assert_int_equal(pthread_create(&thread, NULL, feed, &dev), 0);
        usleep(1000 + round * 300);
        pthread_cancel(thread);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, PTHREAD_CANCELED);
    }
}

static unsigned thread_count(void)
{
    unsigned count = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (readdir(tasks))
        count++;
    closedir(tasks);
    return count - 2;
}

#define DEVICES 40

static void many_devices_share_few_threads(void **state)
{
    static struct tcmu_device dev[DEVICES];
    static uint8_t buffer[DEVICES][4096];
    static struct answer answer[DEVICES];
    uint8_t cdb[16];
    for (unsigned i = 0; i < DEVICES; i++) {
        char name[32];
        snprintf(name, sizeof(name), "disk%u", i);
        make_raw(name, SIZE_BYTES);
        start(&dev[i], name, ";format=raw");
        settle(&dev[i]);
    }
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < DEVICES; i++) {
            struct iovec iov = {buffer[i], sizeof(buffer[i])};
            pattern(buffer[i], sizeof(buffer[i]), i + round);
            extent_cdb(cdb, OP_WRITE_16, round * 8, 8);
            fake_submit(&dev[i], cdb, &iov, 1, &answer[i]);
        }
        for (unsigned i = 0; i < DEVICES; i++) {
            fake_wait(&answer[i]);
            assert_int_equal(answer[i].result, RUNNER_GOOD);
        }
    }
    /* Ours, io_uring's or the pool's; without sanitizers' own the bound would be lower. */
    assert_true(thread_count() < DEVICES);
    for (unsigned i = 0; i < DEVICES; i++)
        handler->close(&dev[i]);
}

static void any_command_is_answered(void **state)
{
    static uint8_t buffer[64 * KiB];
    struct tcmu_device dev;
    start_qcow2(&dev);
    settle(&dev);
    srandom(1);
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t cdb[264];
        for (size_t j = 0; j < sizeof(cdb); j++)
            cdb[j] = (uint8_t)(random() & (random() & 1 ? 0xff : 0x03));
        cdb[0] = (uint8_t)random();
        if (cdb[0] >= 0xc0 || (cdb[0] >= 0x60 && cdb[0] < 0x7f) || cdb[0] == OP_EXTENDED_COPY)
            continue;
        int result = fake_command(&dev, cdb, buffer, (size_t)random() % sizeof(buffer), NULL);
        assert_in_range(result, RUNNER_GOOD, RUNNER_BUSY);
    }
    handler->close(&dev);
}

static void the_end_takes_its_threads(void **state)
{
    struct tcmu_device dev;
    start_qcow2(&dev);
    handler->close(&dev);
    unsigned with = thread_count();
    handler->destroy();
    unsigned without = thread_count();
    assert_true(without < with);
    start_qcow2(&dev); /* and they come again */
    settle(&dev);
    handler->close(&dev);
    handler->destroy();
}

/* A process that serves, and is killed with changes in memory. */
static void serve_and_die(uint8_t *buffer)
{
    struct tcmu_device dev;
    start(&dev, "disk.qcow2", "");
    settle(&dev);
    for (unsigned i = 0; i < DEPTH; i++) {
        pattern(buffer, 8192, i);
        if (transfer(&dev, OP_WRITE_16, i * (SIZE_BYTES / DEPTH / 512), buffer, 8192))
            _exit(1);
    }
    kill(getpid(), SIGKILL);
}

static void what_was_answered_survives_a_kill(void **state)
{
    static uint8_t buffer[8192], back[8192];
    struct tcmu_device dev;
    int status;
    make_qcow2("disk.qcow2", SIZE_BYTES);
    handler->destroy(); /* threads do not survive a fork */
    pid_t pid = fork();
    if (pid == 0)
        serve_and_die(buffer);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(access(path_of("keep"), F_OK), 0);
    start(&dev, "disk.qcow2", "");
    settle(&dev);
    for (unsigned i = 0; i < DEPTH; i++) {
        pattern(buffer, 8192, i);
        assert_int_equal(
            transfer(&dev, OP_READ_16, i * (SIZE_BYTES / DEPTH / 512), back, sizeof(back)),
            RUNNER_GOOD);
        assert_memory_equal(back, buffer, sizeof(back));
    }
    handler->close(&dev);
    handler->destroy();
    assert_int_equal(access(path_of("keep"), F_OK), -1);
}

static int remove_folder(void **state)
{
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_its_entry_can_be_seen),
        cmocka_unit_test(a_wrong_configuration_is_told_why),
        cmocka_unit_test(what_cannot_be_served_does_not_open),
        cmocka_unit_test(the_unit_serial_is_the_disks_identity),
        cmocka_unit_test(what_an_answer_leaves_of_the_buffer_is_cleared),
        cmocka_unit_test(errors_come_with_their_sense_data),
        cmocka_unit_test(what_is_written_is_read_after_reopening),
        cmocka_unit_test(a_device_grows_and_does_not_shrink),
        cmocka_unit_test(the_write_cache_is_switched),
        cmocka_unit_test(closing_answers_what_was_taken),
        cmocka_unit_test(its_caller_may_be_cancelled),
        cmocka_unit_test(many_devices_share_few_threads),
        cmocka_unit_test(any_command_is_answered),
        cmocka_unit_test(the_end_takes_its_threads),
        cmocka_unit_test(what_was_answered_survives_a_kill),
    };
    if (argc != 3 || !mkdtemp(folder))
        return 2;
    setenv("HAWSER_TCMU_RUNNER_KEEP", path_of("keep"), 1);
    handler = fake_load(argv[1]);
    hawser = argv[2];
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
