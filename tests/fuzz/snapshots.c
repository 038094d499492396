/*
 * Fuzz target: the table of internal snapshots. The first byte is how many there are said to be.
 * What parses must serialise to the same bytes, padding aside, and parse again; and it can be
 * looked up, copied, added to and taken from.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/common.h"
#include "format/qcow2/snapshot.h"
#include "fuzz.h"

static void round_trip(const struct qcow2_snapshots *table)
{
    struct qcow2_snapshots again;
    struct hws_error err = {0};
    size_t length = qcow2_snapshots_bytes(table);
    autofree uint8_t *bytes = malloc(length + 1), *twice = malloc(length + 1);
    assert(bytes && twice);
    qcow2_snapshots_serialise(table, bytes);
    int result = qcow2_snapshots_parse(bytes, length, table->count, &again, &err);
    assert(result == 0 && again.count == table->count && again.bytes == length);
    qcow2_snapshots_serialise(&again, twice);
    assert(memcmp(bytes, twice, length) == 0);
    qcow2_snapshots_free(&again);
}

static void change(const struct qcow2_snapshots *table)
{
    struct qcow2_snapshots copy;
    struct qcow2_snapshot entry;
    char id[24];
    assert(qcow2_snapshots_copy(table, &copy) == 0);
    qcow2_snapshots_new_id(&copy, id);
    assert(qcow2_snapshot_make(id, "name", &entry) == 0);
    assert(qcow2_snapshots_append(&copy, &entry) == 0);
    assert(qcow2_snapshots_find(&copy, id) >= 0);
    /* No entry had that ID. */
    for (uint32_t i = 0; i < table->count; i++)
        assert(table->entry[i].id_bytes != strlen(id) ||
               memcmp(table->entry[i].id, id, strlen(id)) != 0);
    round_trip(&copy);
    while (copy.count)
        qcow2_snapshots_remove(&copy, copy.count / 2);
    qcow2_snapshots_free(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct qcow2_snapshots table = {0};
    struct hws_error err = {0};
    if (length == 0)
        return 0;
    int result = qcow2_snapshots_parse(bytes + 1, length - 1, bytes[0], &table, &err);
    assert(result <= 0);
    assert(result == 0 || result == -ENODATA || (err.code > 0 && err.text[0]));
    if (result < 0)
        return 0;
    assert(table.count == bytes[0] && table.bytes <= length - 1);
    round_trip(&table);
    change(&table);
    qcow2_snapshots_free(&table);
    return 0;
}
