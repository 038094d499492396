/*
 * Fuzz target: the qcow2 header and its extensions. What parses must serialise, and parse again to
 * the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/header.h"
#include "fuzz.h"

static void round_trip(struct qcow2_header *header)
{
    size_t cluster = (size_t)1 << header->cluster_bits;
    struct qcow2_header again = {0};
    struct hws_error err = {0};
    autofree uint8_t *buffer = malloc(cluster);
    assert(buffer);
    if (qcow2_header_serialise(header, buffer, cluster, &err) < 0)
        return; /* it may need more room than it had: padding, order of extensions */
    int result = qcow2_header_parse(buffer, cluster, UINT64_MAX / 2, true, &again, &err);
    assert(result == 0);
    assert(again.size == header->size && again.l1_table_offset == header->l1_table_offset &&
           again.extensions == header->extensions &&
           again.incompatible_features == header->incompatible_features &&
           !again.backing_file == !header->backing_file);
    if (again.backing_file)
        assert(!strcmp(again.backing_file, header->backing_file));
    qcow2_header_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    for (int check_only = 0; check_only < 2; check_only++) {
        struct qcow2_header header = {0};
        struct hws_error err = {0};
        int result = qcow2_header_parse(bytes, length, 1 << 20, check_only, &header, &err);
        assert(result <= 0);
        if (result < 0) {
            assert(err.code > 0 && err.text[0]);
            continue;
        }
        round_trip(&header);
        qcow2_header_free(&header);
    }
    return 0;
}
