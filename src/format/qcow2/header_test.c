/*
 * The qcow2 header without I/O: what is refused, what is kept, counts of every width.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define CLUSTER    (64 * KiB)
#define FILE_BYTES (16 * CLUSTER)

/* A header that every check accepts. */
static struct qcow2_header valid_header(void)
{
    return (struct qcow2_header){
        .version = 3,
        .cluster_bits = 16,
        .size = GiB,
        .l1_size = 2,
        .l1_table_offset = 3 * CLUSTER,
        .refcount_table_offset = CLUSTER,
        .refcount_table_clusters = 1,
        .refcount_order = 4,
        .header_length = QCOW2_HEADER_OUR_BYTES,
    };
}

static int parse(const uint8_t *bytes, struct qcow2_header *ret, struct hws_error *err)
{
    *err = (struct hws_error){0};
    return qcow2_header_parse(bytes, CLUSTER, FILE_BYTES, false, ret, err);
}

/* Serialises @h and expects the parser to refuse it, naming @word. */
static void expect_refused(struct qcow2_header *h, int code, const char *word)
{
    uint8_t *bytes = malloc(CLUSTER);
    struct qcow2_header out;
    struct hws_error err;
    assert_int_equal(qcow2_header_serialise(h, bytes, CLUSTER, &err), 0);
    assert_int_equal(parse(bytes, &out, &err), -code);
    if (!strstr(err.text, word))
        fail_msg("'%s' does not say '%s'", err.text, word);
    free(bytes);
}

static void everything_comes_back(void **state)
{
    uint8_t *bytes = malloc(CLUSTER), *again = malloc(CLUSTER);
    uint8_t more[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct qcow2_header h = valid_header(), out;
    struct hws_error err;
    h.header_length += sizeof(more); /* a field that a newer program added */
    h.more_fields = more;
    h.more_fields_bytes = sizeof(more);
    h.backing_file = (char *)"base.qcow2";
    h.autoclear_features = 1ull << 40;
    h.compatible_features = QCOW2_COMPAT_LAZY_REFCOUNTS;
    assert_int_equal(qcow2_header_set_extension(&h, 0x12345678, "unknown", 7), 0);
    assert_int_equal(qcow2_header_set_extension(&h, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5), 0);
    assert_int_equal(qcow2_header_serialise(&h, bytes, CLUSTER, &err), 0);

    assert_int_equal(parse(bytes, &out, &err), 0);
    assert_string_equal(out.backing_file, "base.qcow2");
    assert_string_equal(out.backing_format, "qcow2");
    assert_int_equal(out.extensions, 2);
    assert_memory_equal(out.extension[0].data, "unknown", 7);
    assert_memory_equal(out.more_fields, more, sizeof(more));
    assert_int_equal(qcow2_header_serialise(&out, again, CLUSTER, &err), 0);
    assert_memory_equal(bytes, again, CLUSTER);
    qcow2_header_free(&out);
    for (unsigned i = 0; i < h.extensions; i++)
        free(h.extension[i].data);
    free(bytes);
    free(again);
}

static void bad_fields_are_named(void **state)
{
    struct qcow2_header h;
#define REFUSED(change, code, word) \
    h = valid_header();             \
    change;                         \
    expect_refused(&h, code, word)
    REFUSED(h.version = 4, ENOTSUP, "version 4");
    REFUSED(h.cluster_bits = 8, EINVAL, "cluster_bits");
    REFUSED(h.cluster_bits = 22, EINVAL, "cluster_bits");
    REFUSED(h.size = 1ull << 63, EFBIG, "size");
    REFUSED(h.l1_size = 1, EINVAL, "l1_size");
    REFUSED(h.l1_size = UINT32_MAX, EFBIG, "l1_size");
    REFUSED(h.l1_table_offset = 1, EINVAL, "l1_table_offset");
    REFUSED(h.l1_table_offset = 0, EINVAL, "L1 table");
    REFUSED(h.l1_table_offset = CLUSTER, EINVAL, "overlap");
    REFUSED(h.l1_table_offset = FILE_BYTES, EINVAL, "past the end");
    REFUSED(h.l1_table_offset = 1ull << 60, EINVAL, "beyond 2^56");
    REFUSED(h.refcount_table_offset = 512, EINVAL, "refcount_table_offset");
    REFUSED(h.refcount_table_clusters = 0, EINVAL, "refcount_table_clusters");
    REFUSED(h.refcount_table_clusters = 129, EFBIG, "refcount_table_clusters");
    REFUSED(h.refcount_order = 7, EINVAL, "refcount_order");
    REFUSED(h.header_length = 108, EINVAL, "header_length");
    REFUSED(h.crypt_method = 2, ENOTSUP, "LUKS");
    REFUSED(h.crypt_method = 3, EINVAL, "crypt_method");
    REFUSED(h.incompatible_features = 1ull << 50, ENOTSUP, "bit 50");
    REFUSED((h.incompatible_features = QCOW2_INCOMPAT_DATA_FILE, h.nb_snapshots = 1), EINVAL,
            "external data file");
    REFUSED(h.incompatible_features = QCOW2_INCOMPAT_COMPRESSION, EINVAL, "compression_type");
    REFUSED(h.compression_type = QCOW2_ZSTD, EINVAL, "compression_type");
    REFUSED(h.nb_snapshots = QCOW2_SNAPSHOTS_MAX + 1, EFBIG, "nb_snapshots");
#undef REFUSED
}

static void an_unknown_feature_has_the_name_that_the_image_gives(void **state)
{
    struct qcow2_disk_feature_name name = {.kind = 0, .bit = 9, .name = "flux capacitor"};
    struct qcow2_header h = valid_header();
    h.incompatible_features = 1 << 9;
    assert_int_equal(qcow2_header_set_extension(&h, QCOW2_EXT_FEATURE_NAMES, &name, sizeof(name)),
                     0);
    expect_refused(&h, ENOTSUP, "flux capacitor");
    free(h.extension[0].data);
}

static void truncated_headers_are_refused(void **state)
{
    uint8_t *bytes = malloc(CLUSTER);
    struct qcow2_header h = valid_header(), out;
    assert_int_equal(qcow2_header_serialise(&h, bytes, CLUSTER, NULL), 0);
    for (size_t length = 0; length < QCOW2_HEADER_OUR_BYTES; length++)
        assert_true(qcow2_header_parse(bytes, length, FILE_BYTES, false, &out, NULL) < 0);
    assert_int_equal(qcow2_header_parse(bytes, 120, FILE_BYTES, false, &out, NULL), 0);
    qcow2_header_free(&out);
    free(bytes);
}

static void names_with_zero_bytes_are_refused(void **state)
{
    uint8_t *bytes = malloc(CLUSTER);
    struct qcow2_header h = valid_header(), out;
    struct hws_error err;
    h.backing_file = (char *)"base.qcow2";
    assert_int_equal(qcow2_header_serialise(&h, bytes, CLUSTER, NULL), 0);
    bytes[h.backing_file_offset + 4] = 0;
    assert_int_equal(parse(bytes, &out, &err), -EINVAL);
    assert_non_null(strstr(err.text, "zero byte"));
    free(bytes);
}

static void counts_of_every_width_are_independent(void **state)
{
    for (unsigned order = 0; order <= QCOW2_REFCOUNT_ORDER_MAX; order++) {
        uint8_t slice[512] = {0};
        uint32_t entries = (uint32_t)(sizeof(slice) * 8) >> order;
        uint64_t max = order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
        for (uint32_t i = 0; i < entries; i += 3)
            qcow2_refcount_write(slice, order, i, max);
        for (uint32_t i = 0; i < entries; i++)
            assert_true(qcow2_refcount_read(slice, order, i) == (i % 3 ? 0 : max));
        for (uint32_t i = 0; i < entries; i += 3)
            qcow2_refcount_write(slice, order, i, 1);
        for (uint32_t i = 0; i < entries; i++)
            assert_true(qcow2_refcount_read(slice, order, i) == (i % 3 ? 0 : 1));
    }
    /* "bit 0 means the least significant bit" */
    uint8_t byte = 0;
    qcow2_refcount_write(&byte, 0, 0, 1);
    assert_int_equal(byte, 1);
    qcow2_refcount_write(&byte, 1, 3, 2);
    assert_int_equal(byte, 0x81);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_comes_back),
        cmocka_unit_test(bad_fields_are_named),
        cmocka_unit_test(an_unknown_feature_has_the_name_that_the_image_gives),
        cmocka_unit_test(truncated_headers_are_refused),
        cmocka_unit_test(names_with_zero_bytes_are_refused),
        cmocka_unit_test(counts_of_every_width_are_independent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
