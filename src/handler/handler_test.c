/*
 * What the handler decides without a kernel: which serial numbers are UUIDs, what is to be done
 * where backstore and image disagree about the size, and which images may be served.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/drivers.h"
#include "handler/internal.h"
#include "rt/rt_test.h"
#include <fcntl.h>
#include <sys/stat.h>

static char folder[] = "/tmp/hawser-handler-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[32][128];
    static unsigned next;
    char *ret = path[next++ % ARRAY_LEN(path)];
    snprintf(ret, sizeof(path[0]), "%s/%s", folder, name);
    return ret;
}

/* A raw image in the test's folder. */
static void make_file(const char *name, off_t bytes)
{
    autofd int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQUAL(ftruncate(fd, bytes), 0);
}

static void a_serial_of_32_digits_is_a_uuid(void **state)
{
    static const uint8_t expected[16] = {0x65, 0x29, 0x0d, 0x6a, 0x18, 0x44, 0x43, 0x71,
                                         0x85, 0x76, 0xf4, 0x97, 0x0f, 0x68, 0xce, 0xA8};
    uint8_t uuid[16] = {0};
    assert_true(backstore_serial_uuid("65290d6a-1844-4371-8576-f4970f68cea8", uuid));
    assert_memory_equal(uuid, expected, 16);
    memset(uuid, 0, sizeof(uuid));
    assert_true(backstore_serial_uuid("65290D6A184443718576F4970F68CEA8", uuid));
    assert_memory_equal(uuid, expected, 16);
}

static void other_serials_are_none_and_change_nothing(void **state)
{
    static const char *const others[] = {"",
                                         "-",
                                         "65290d6a-1844-4371-8576-f4970f68cea",
                                         "65290d6a-1844-4371-8576-f4970f68cea80",
                                         "65290d6a-1844-4371-8576-f4970f68ceag",
                                         "65290d6a 1844 4371 8576 f4970f68cea8",
                                         "disk-1"};
    for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
        uint8_t uuid[16] = {1};
        assert_false(backstore_serial_uuid(others[i], uuid));
        assert_int_equal(uuid[0], 1);
    }
}

static void the_image_s_size_counts(void **state)
{
    struct hws_error err = {0};
    assert_int_equal(image_size_check(10 * MiB, 10 * MiB, 512, &err), IMAGE_SIZE_FITS);
    assert_int_equal(image_size_check(10 * MiB, 0, 512, &err), IMAGE_SIZE_CORRECT);
    assert_int_equal(image_size_check(10 * MiB, 9 * MiB, 512, &err), IMAGE_SIZE_CORRECT);
    /* What does not fill a block is not there. */
    assert_int_equal(image_size_check(10 * MiB + 512, 10 * MiB, 4096, &err), IMAGE_SIZE_FITS);
    assert_int_equal(image_size_check(10 * MiB + 512, 10 * MiB + 512, 4096, &err), -EINVAL);
}

static void a_size_that_the_image_has_not_is_refused_in_words(void **state)
{
    struct hws_error err = {0};
    assert_int_equal(image_size_check(10 * MiB, 11 * MiB, 512, &err), -EINVAL);
    assert_non_null(strstr(err.text, "11534336"));
    assert_non_null(strstr(err.text, "10485760"));
    assert_int_equal(image_size_check(511, 0, 512, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not one block"));
    assert_int_equal(image_size_check(10 * MiB, UINT64_MAX, 512, &err), -EINVAL);
}

static void co_expect(const char *image, const char *const *allow, int expected, const char *reason)
{
    struct config_string config;
    struct hws_error err = {0};
    char text[CONFIG_STRING_MAX + 1];
    snprintf(text, sizeof(text), "hawser/%s;format=raw", image);
    int r = co_image_configure(text, allow, &config, &err);
    CHECK_EQUAL(r, expected);
    if (r == 0)
        config_string_free(&config);
    else
        CHECK(strstr(err.text, reason));
}

TEST(images_lie_in_allowed_folders_links_followed)
{
    const char *inside[] = {path_of("in"), NULL}, *root[] = {"/", NULL};
    co_expect(path_of("in/a"), inside, 0, "");
    co_expect(path_of("good"), inside, 0, "");
    co_expect(path_of("in2/b"), inside, -EPERM, "--allow");
    co_expect(path_of("in/link"), inside, -EPERM, "--allow");
    co_expect(path_of("in/../in2/b"), inside, -EPERM, "--allow");
    co_expect(path_of("in/c"), inside, -ENOENT, "No such file");
    co_expect(path_of("in2/b"), root, 0, "");
    co_expect(path_of("in2/b"), NULL, 0, "");
}

TEST(the_path_that_was_checked_is_the_one_that_is_opened)
{
    const char *inside[] = {path_of("in"), NULL};
    struct config_string config;
    struct hws_error err = {0};
    char text[CONFIG_STRING_MAX + 1];
    snprintf(text, sizeof(text), "hawser/%s;format=raw", path_of("good"));
    CHECK_EQUAL(co_image_configure(text, inside, &config, &err), 0);
    char *resolved = realpath(path_of("in/a"), NULL);
    CHECK(resolved && !strcmp(config.image, resolved));
    free(resolved);
    config_string_free(&config);
}

TEST(an_image_that_is_served_is_not_served_twice)
{
    struct handler_options options = {0};
    struct handler handler = {.options = &options};
    struct device device = {.name = {.name = "first"}, .root = (struct block_root *)&handler};
    struct hws_error err = {0};
    char text[CONFIG_STRING_MAX + 1];
    drivers_register();
    list_init(&handler.devices);
    snprintf(text, sizeof(text), "hawser/%s;format=raw", path_of("in/a"));
    CHECK_EQUAL(co_image_check(&handler, text, &err), 0);
    device.config.image = strdup(path_of("in/a"));
    list_push_back(&handler.devices, &device.link);
    CHECK_EQUAL(co_image_check(&handler, text, &err), -EBUSY);
    CHECK(strstr(err.text, "'first'"));
    free(device.config.image);
}

static int set_up(void **state)
{
    if (!mkdtemp(folder))
        return -1;
    CHECK_EQUAL(mkdir(path_of("in"), 0700), 0);
    CHECK_EQUAL(mkdir(path_of("in2"), 0700), 0);
    make_file("in/a", 4096);
    make_file("in2/b", 4096);
    CHECK_EQUAL(symlink("../in2/b", path_of("in/link")), 0);
    CHECK_EQUAL(symlink("in/a", path_of("good")), 0);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"in/a", "in/link", "in2/b", "good", "in", "in2", ""};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        remove(path_of(names[i]));
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_serial_of_32_digits_is_a_uuid),
        cmocka_unit_test(other_serials_are_none_and_change_nothing),
        cmocka_unit_test(the_image_s_size_counts),
        cmocka_unit_test(a_size_that_the_image_has_not_is_refused_in_words),
        ON_BOTH(images_lie_in_allowed_folders_links_followed),
        ON_BOTH(the_path_that_was_checked_is_the_one_that_is_opened),
        ON_BOTH(an_image_that_is_served_is_not_served_twice),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
