/*
 * The NBD protocol on the wire: fixed newstyle negotiation, and transmission with simple,
 * structured and extended headers. Names follow the protocol's document, without its NBD_ prefix
 * doubled.
 *
 * Every number is big-endian.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRE_NBD_H
#define WIRE_NBD_H

#include "base/byteorder.h"

/* ---- negotiation ---- */

#define NBD_MAGIC_INIT         0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION       0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_MAGIC_OPTION_REPLY 0x0003e889045565a9ull

enum nbd_handshake_flag { NBD_FLAG_FIXED_NEWSTYLE = 1 << 0, NBD_FLAG_NO_ZEROES = 1 << 1 };

struct nbd_greeting {
    struct be64 magic;
    struct be64 option_magic;
    struct be16 flags; /* enum nbd_handshake_flag; the client answers with 32 bits of the same */
};
static_assert(sizeof(struct nbd_greeting) == 18, "");

struct nbd_option {
    struct be64 magic;
    struct be32 option;
    struct be32 length;
};
static_assert(sizeof(struct nbd_option) == 16, "");

struct nbd_option_reply {
    struct be64 magic;
    struct be32 option;
    struct be32 type;
    struct be32 length;
};
static_assert(sizeof(struct nbd_option_reply) == 20, "");

enum nbd_option_code {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERROR_BIT 0x80000000u
enum nbd_option_answer {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP           (NBD_REP_ERROR_BIT | 1)
#define NBD_REP_ERR_POLICY          (NBD_REP_ERROR_BIT | 2)
#define NBD_REP_ERR_INVALID         (NBD_REP_ERROR_BIT | 3)
#define NBD_REP_ERR_PLATFORM        (NBD_REP_ERROR_BIT | 4)
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_ERROR_BIT | 5)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_ERROR_BIT | 6)
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_ERROR_BIT | 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_ERROR_BIT | 8)
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_ERROR_BIT | 9)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_ERROR_BIT | 10)

enum nbd_info {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

/* What an export can do: INFO_EXPORT, and the answer to OPT_EXPORT_NAME. */
enum nbd_transmission_flag {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_ROTATIONAL = 1 << 4,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
    NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

struct nbd_info_export {
    struct be16 type;
    struct be64 size;
    struct be16 flags;
};
static_assert(sizeof(struct nbd_info_export) == 12, "");

struct nbd_info_block_size {
    struct be16 type;
    struct be32 minimum, preferred, maximum;
};
static_assert(sizeof(struct nbd_info_block_size) == 14, "");

/* Answer to OPT_EXPORT_NAME; the zeroes are left out for a client with NBD_FLAG_NO_ZEROES. */
struct nbd_export_name_reply {
    struct be64 size;
    struct be16 flags;
    uint8_t zeroes[124];
};
static_assert(sizeof(struct nbd_export_name_reply) == 134, "");

#define NBD_STRING_MAX 4096

/* ---- transmission ---- */

#define NBD_MAGIC_REQUEST          0x25609513u
#define NBD_MAGIC_EXTENDED_REQUEST 0x21e41c71u
#define NBD_MAGIC_SIMPLE_REPLY     0x67446698u
#define NBD_MAGIC_STRUCTURED_REPLY 0x668e33efu
#define NBD_MAGIC_EXTENDED_REPLY   0x6e8a278cu

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flag {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

struct nbd_wire_request {
    struct be32 magic;
    struct be16 flags;
    struct be16 command;
    struct be64 cookie;
    struct be64 offset;
    struct be32 length;
};
static_assert(sizeof(struct nbd_wire_request) == 28, "");

struct nbd_wire_extended_request {
    struct be32 magic;
    struct be16 flags;
    struct be16 command;
    struct be64 cookie;
    struct be64 offset;
    struct be64 length;
};
static_assert(sizeof(struct nbd_wire_extended_request) == 32, "");

struct nbd_simple_reply {
    struct be32 magic;
    struct be32 error;
    struct be64 cookie;
};
static_assert(sizeof(struct nbd_simple_reply) == 16, "");

struct nbd_structured_reply {
    struct be32 magic;
    struct be16 flags;
    struct be16 type;
    struct be64 cookie;
    struct be32 length;
};
static_assert(sizeof(struct nbd_structured_reply) == 20, "");

struct nbd_extended_reply {
    struct be32 magic;
    struct be16 flags;
    struct be16 type;
    struct be64 cookie;
    struct be64 offset;
    struct be64 length;
};
static_assert(sizeof(struct nbd_extended_reply) == 32, "");

enum nbd_reply_flag { NBD_REPLY_FLAG_DONE = 1 << 0 };

enum nbd_reply_type {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_TYPE_ERROR = (1 << 15) + 1,
    NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2,
};

enum nbd_error {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

/* base:allocation */
enum nbd_allocation { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };
/* qemu:dirty-bitmap:NAME */
enum nbd_dirty { NBD_STATE_DIRTY = 1 << 0 };

#endif
