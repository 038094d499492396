/*
 * The lock of an attachment's folder: whoever only looks whether an engine lives holds it for a
 * moment, and is no engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/internal.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <cmocka.h>

static char root[32], folder[48], lock_path[64];

static int setup(void **state)
{
    snprintf(root, sizeof(root), "/tmp/hawser-run-XXXXXX");
    if (!mkdtemp(root))
        return 1;
    snprintf(folder, sizeof(folder), "%s/disk", root);
    snprintf(lock_path, sizeof(lock_path), "%s/lock", folder);
    return mkdir(folder, 0700) < 0 || setenv("HAWSER_RUN_DIR", root, 1) < 0;
}

static int teardown(void **state)
{
    unlink(lock_path);
    rmdir(folder);
    return rmdir(root);
}

static struct attachment *must_load(void)
{
    struct attachment *attachment = NULL;
    assert_int_equal(attachment_load("disk", &attachment, NULL), 0);
    return attachment;
}

static int lock_file(int how)
{
    int fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, how), 0);
    return fd;
}

static void an_engine_s_lock_is_respected(void **state)
{
    int held = lock_file(LOCK_EX), fd = -1;
    struct attachment *attachment = must_load();
    assert_true(attachment->running);
    assert_int_equal(attachment_lock(attachment, &fd, NULL), -EAGAIN);
    close(held);
    attachment_reload(attachment);
    assert_false(attachment->running);
    assert_int_equal(attachment_lock(attachment, &fd, NULL), 0);
    attachment_reload(attachment);
    assert_true(attachment->running);
    close(fd);
    attachment_free(attachment);
}

static void *look(void *arg)
{
    usleep(300000);
    close(*(int *)arg);
    return NULL;
}

static void a_look_is_waited_for(void **state)
{
    int looking = lock_file(LOCK_SH), fd = -1;
    struct attachment *attachment = must_load();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look, &looking), 0);
    assert_int_equal(attachment_lock(attachment, &fd, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    close(fd);
    attachment_free(attachment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_engine_s_lock_is_respected, setup, teardown),
        cmocka_unit_test_setup_teardown(a_look_is_waited_for, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
