/*
 * Tests of decoding compressed clusters.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "format/qcow2/compressed_codec.h"
#include <setjmp.h>
#include <stdarg.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

#define CLUSTER    65536
#define STREAM_MAX (2 * CLUSTER)

static uint8_t plain[CLUSTER], stream[STREAM_MAX], decoded[CLUSTER];

static int fill_plain(void **state)
{
    struct random random = random_seed(1);
    for (size_t i = 0; i < CLUSTER; i++)
        plain[i] = (uint8_t)(i / 100 + random_below(&random, 3));
    return 0;
}

/* @flush Z_FINISH, or Z_SYNC_FLUSH for a stream that does not say that it ends. */
static size_t deflate_plain(size_t bytes, int flush)
{
    z_stream z = {
        .next_in = plain, .avail_in = (uInt)bytes, .next_out = stream, .avail_out = STREAM_MAX};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    assert_true(deflate(&z, flush) >= 0);
    deflateEnd(&z);
    return z.total_out;
}

static int decode(enum qcow2_compression type, size_t stream_bytes)
{
    struct qcow2_codec codec = {0};
    memset(decoded, 0, sizeof(decoded));
    int result = qcow2_codec_decode(&codec, type, stream, stream_bytes, decoded, CLUSTER);
    qcow2_codec_free(&codec);
    return result;
}

static void bytes_behind_the_stream_are_passed_over(void **state)
{
    size_t length = deflate_plain(CLUSTER, Z_FINISH);
    memset(stream + length, 0xee, 500);
    assert_int_equal(decode(QCOW2_ZLIB, length + 500), 0);
    assert_memory_equal(decoded, plain, CLUSTER);
    length = ZSTD_compress(stream, STREAM_MAX, plain, CLUSTER, 3);
    memset(stream + length, 0xee, 500);
    assert_int_equal(decode(QCOW2_ZSTD, length + 500), 0);
    assert_memory_equal(decoded, plain, CLUSTER);
}

static void a_deflate_stream_without_an_end_is_read_up_to_a_cluster(void **state)
{
    assert_int_equal(decode(QCOW2_ZLIB, deflate_plain(CLUSTER, Z_SYNC_FLUSH)), 0);
    assert_memory_equal(decoded, plain, CLUSTER);
}

static void a_stream_shorter_than_a_cluster_is_corrupt(void **state)
{
    assert_int_equal(decode(QCOW2_ZLIB, deflate_plain(CLUSTER - 1, Z_FINISH)), -EIO);
    size_t length = ZSTD_compress(stream, STREAM_MAX, plain, CLUSTER - 1, 3);
    assert_int_equal(decode(QCOW2_ZSTD, length), -EIO);
}

static void a_stream_cut_anywhere_is_corrupt(void **state)
{
    size_t length = deflate_plain(CLUSTER, Z_FINISH);
    for (size_t cut = 0; cut + 8 < length; cut += 97)
        assert_int_equal(decode(QCOW2_ZLIB, cut), -EIO);
    length = ZSTD_compress(stream, STREAM_MAX, plain, CLUSTER, 3);
    for (size_t cut = 0; cut < length; cut += 97)
        assert_int_equal(decode(QCOW2_ZSTD, cut), -EIO);
}

static void several_zstd_frames_make_one_cluster(void **state)
{
    size_t half = CLUSTER / 2;
    size_t length = ZSTD_compress(stream, STREAM_MAX, plain, half, 3);
    length += ZSTD_compress(stream + length, STREAM_MAX - length, plain + half, half, 3);
    assert_int_equal(decode(QCOW2_ZSTD, length), 0);
    assert_memory_equal(decoded, plain, CLUSTER);
}

static void an_unknown_type_is_not_supported(void **state)
{
    assert_int_equal(decode((enum qcow2_compression)7, 10), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_behind_the_stream_are_passed_over),
        cmocka_unit_test(a_deflate_stream_without_an_end_is_read_up_to_a_cluster),
        cmocka_unit_test(a_stream_shorter_than_a_cluster_is_corrupt),
        cmocka_unit_test(a_stream_cut_anywhere_is_corrupt),
        cmocka_unit_test(several_zstd_frames_make_one_cluster),
        cmocka_unit_test(an_unknown_type_is_not_supported),
    };
    return cmocka_run_group_tests(tests, fill_plain, NULL);
}
