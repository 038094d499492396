/*
 * The qcow2 header and its extensions in memory: pure parsing and serialising, no I/O.
 *
 * Unknown extensions and unknown additional header fields are kept byte for byte, so that a
 * rewritten header loses nothing that a newer program stored.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_HEADER_H
#define QCOW2_HEADER_H

#include "format/qcow2/layout.h"
#include "hawser/error.h"

struct qcow2_extension {
    uint32_t type;
    uint32_t length;
    uint8_t *data;
};

/* A header has few extensions; one with more is refused. */
#define QCOW2_EXTENSIONS_MAX 64

struct qcow2_header {
    uint32_t version;
    uint64_t backing_file_offset; /* 0: none */
    uint32_t backing_file_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression_type;
    /* Additional fields that we do not know: bytes 112 .. header_length. */
    uint8_t *more_fields;
    uint32_t more_fields_bytes;

    struct qcow2_extension extension[QCOW2_EXTENSIONS_MAX]; /* in file order, unknown ones too */
    unsigned extensions;
    char *backing_file;   /* NULL: none */
    char *backing_format; /* NULL: not recorded */
    char *data_file;      /* NULL: not recorded */
};

/**
 * The fixed part alone: magic, version and the fields up to the compression type, each checked for
 * its own range; those of the refcount and snapshot tables, which a repair can make anew, are left
 * to qcow2_header_parse(). @length at least 72 for version 2, else 104.
 * @return 0, -EINVAL with the field named in @err, -ENOTSUP for what is valid but not supported.
 * @ret holds no allocations then.
 */
HWS_MUST_CHECK int qcow2_header_parse_fixed(const uint8_t *bytes, size_t length,
                                            struct qcow2_header *ret, struct hws_error *err);

/**
 * Everything: @bytes is the first cluster of the file (or all of a shorter file). Checks tables
 * against each other and the header cluster, extensions, names and feature bits (unknown
 * incompatible ones are refused by name). @file_bytes is the size of the host file; tables must
 * start inside it.
 * @check_only tolerates bad extensions, tables beyond the end of the file, and any place and size
 * of the refcount and snapshot tables.
 * @ret owned by the caller: qcow2_header_free(); untouched on failure.
 */
HWS_MUST_CHECK int qcow2_header_parse(const uint8_t *bytes, size_t length, uint64_t file_bytes,
                                      bool check_only, struct qcow2_header *ret,
                                      struct hws_error *err);

/** A deep copy, owned by the caller. @return 0 or -ENOMEM. */
HWS_MUST_CHECK int qcow2_header_copy(const struct qcow2_header *header, struct qcow2_header *ret);

/** Frees what the header owns and zeroes it. */
void qcow2_header_free(struct qcow2_header *header);

/** Writes the fixed fields into @sector (at least 112 bytes); bytes behind them are left alone. */
void qcow2_header_store_fixed(const struct qcow2_header *header, uint8_t *sector);

/**
 * Serialises the whole header cluster: fixed part, additional fields, extensions, backing file name
 * (backing_file_offset and _size are set here). @buffer of @length (a cluster) is zeroed first.
 * @return 0, or -ENOSPC when it does not fit one cluster.
 */
HWS_MUST_CHECK int qcow2_header_serialise(struct qcow2_header *header, uint8_t *buffer,
                                          size_t length, struct hws_error *err);

/** Adds or replaces the extension of @type by a copy of @data; @length 0 with NULL removes it. */
HWS_MUST_CHECK int qcow2_header_set_extension(struct qcow2_header *header, uint32_t type,
                                              const void *data, size_t length);

/** NULL where there is none. */
const struct qcow2_extension *qcow2_header_extension(const struct qcow2_header *header,
                                                     uint32_t type);

#endif
