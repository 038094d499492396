/*
 * The fabrics of the kernel that images are exported by, over the network or to a virtual machine:
 * one table, and one struct of functions a fabric.
 *
 *     export       a name, a fabric with its options, and one or more images, numbered from 0
 *     unit         what the fabric exports of one image: a backstore (host/lio.h) that is served
 *                  already, or a block device of this host
 *
 * Who does what. The command (`hawser export`) resolves the options: names that were not given are
 * made up, and everything that can be told without the kernel is checked. They are saved like that,
 * so that the same export can be made again after a restart. The engine then makes it once its
 * units are there, and removes it before they go. Where an engine was killed, the command removes
 * what is left, knowing the resolved options alone.
 *
 * To add a fabric: a file fabric_NAME.c that ends in its struct fabric, a row in fabric.c, and
 * its options in the table of src/cli/cmd_export.c. What fabrics of the SCSI target have in common
 * (LUNs, ACLs, taking apart) is in host/lio_target.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_FABRIC_H
#define HOST_FABRIC_H

#include "base/common.h"
#include "block/options.h"
#include "hawser/error.h"
#include "host/lio.h"

#define FABRIC_UNITS_MAX 64
#define FABRIC_NAME_MAX  223 /* bytes of a target's or initiator's name (RFC 7143, NVMe base) */
#define FABRIC_LIST_MAX  64  /* portals, initiators, ... of one export */

enum fabric_needs {
    FABRIC_BACKSTORE,    /* a `user` backstore that is served */
    FABRIC_BLOCK_DEVICE, /* a block device of this host */
};

/* After the engine's death only `name` and the backstore's name are known: hba 0, no device. */
struct fabric_unit {
    const char *name;               /* of the volume */
    struct lio_backstore backstore; /* with FABRIC_BACKSTORE */
    const char *device;             /* with FABRIC_BLOCK_DEVICE: "/dev/sdb" */
    uint8_t uuid[16];               /* of the disk; the same at every start */
    bool read_only;
};

struct fabric_export {
    const char *name;    /* [A-Za-z0-9._-] */
    const void *options; /* resolved and parsed: the fabric's own struct */
    const struct fabric_unit *units;
    unsigned unit_count;
};

struct fabric {
    const char *name; /* word in configurations, and "--NAME" */
    const char *help; /* one line */
    enum fabric_needs needs;

    /**
     * Members of "options", all strings, numbers and booleans; lists are strings with commas.
     * "target" is the name of the target in each of them, and resolved is never NULL.
     */
    const struct option_desc *options;
    size_t options_bytes;

    /** 0 where this host has what it needs, as far as can be told without loading modules. */
    int (*probe)(struct hws_error *why);

    /**
     * Checks @options (the fabric's struct) and adds what was not given to @object, the same
     * options in JSON: at least "target". Asks nothing of the kernel's target, needs no rights.
     * @name the export's.
     */
    int (*resolve)(const char *name, const void *options, json_t *object, struct hws_error *err);

    /**
     * Loads modules and makes the target, ready for initiators on return. A failure leaves nothing.
     * A target of that name, or another object in the way, is never touched: -EEXIST, said to be
     * somebody else's. Suspends.
     */
    int (*co_make)(const struct fabric_export *export, struct hws_error *err);

    /**
     * Whether the target is there already, whole and made of these very units: a predecessor of
     * this process, which was killed, has made it, and it is served on. 0 or -ENOENT. Suspends.
     */
    int (*co_find)(const struct fabric_export *export);

    /**
     * Takes the target away, whole or half-made; one that is gone, or of another export, is no
     * error. The units are there still. -EBUSY, with the initiators named, while one is logged in,
     * unless @force. Suspends.
     */
    int (*co_remove)(const struct fabric_export *export, bool force, struct hws_error *err);

    /**
     * Tells initiators the size that the units have now; NULL where the backstore does that itself.
     * Suspends.
     */
    int (*co_resized)(const struct fabric_export *export, struct hws_error *err);

    /**
     * Adds to @out what `list` and `status` tell beside "fabric" and "target": portals, initiators
     * that are logged in now ("sessions", an array of names). Never a secret. Suspends.
     */
    void (*co_describe)(const struct fabric_export *export, json_t *out);
};

/** Ends with NULL. */
extern const struct fabric *const fabrics[];

/** NULL with @err, which lists them, where there is none called @name. */
const struct fabric *fabric_find(const char *name, struct hws_error *err);

/**
 * Completes @object, the options of @fabric in JSON, for the export called @name. Unknown members
 * and wrong values are errors.
 */
HWS_MUST_CHECK int fabric_resolve(const struct fabric *fabric, const char *name, json_t *object,
                                  struct hws_error *err);

/** The fabric's struct from @object; fabric_options_free(). */
HWS_MUST_CHECK int fabric_options_parse(const struct fabric *fabric, const json_t *object,
                                        void **ret, struct hws_error *err);
/** @return NULL. @options may be NULL. */
void *fabric_options_free(const struct fabric *fabric, void *options);

/* ---- words for options ---- */

struct fabric_list {
    unsigned count;
    char *item[FABRIC_LIST_MAX];
    char *text; /* what the items lie in */
};

/**
 * "a,b,c" as a list without blanks; NULL and "" are the empty one. @what names it in errors: empty
 * items, doubles and more than FABRIC_LIST_MAX are errors. End it with fabric_list_free().
 */
HWS_MUST_CHECK int fabric_list_split(const char *text, const char *what, struct fabric_list *ret,
                                     struct hws_error *err);
void fabric_list_free(struct fabric_list *list);

/**
 * -EBUSY where @sessions (an array of names, taken over) is not empty: the names, and @advice.
 * @export the export's name.
 */
HWS_MUST_CHECK int fabric_refuse_sessions(json_t *sessions, const char *export, const char *advice,
                                          struct hws_error *err);

/**
 * What tells this host from others in names made up here: letters, digits and '-', 8 to 40 of them;
 * the same at every start. From the host's name and a digest of its machine-id.
 */
void fabric_host_name(char ret[48]);

#endif
