/*
 * The catalog's store: objects by kind and id, with unique names, changed in transactions. A small
 * table of functions, so that there can be another one than SQLite.
 *
 * A value is a JSON object. Beside it the store knows an object's name, unique among its kind, and
 * its owner, by which lists are narrowed. Lists are in the order of names.
 *
 * Every function may be called from any thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_STORE_H
#define CONTROL_STORE_H

#include "base/common.h"
#include "hawser/error.h"
#include <jansson.h>

/** One change of a transaction. Texts and value are borrowed for the call. */
struct store_change {
    const char *kind, *id;
    const char *name;    /* NULL: none */
    const char *owner;   /* NULL: none */
    const json_t *value; /* NULL: the object is removed; one that is not there is no error */
    bool fresh;          /* must not be there yet */
};

struct store_query {
    const char *kind;
    const char *owner; /* NULL: of all owners */
    const char *after; /* names behind this one; NULL: from the first */
    unsigned limit;    /* 0: all; what has no name is in lists of all alone */
};

/** What a text's objects get besides their own members. */
struct store_beside {
    const char *one, *one_kind;     /* a member: the object of that kind with the same id, if any */
    const char *count, *count_kind; /* a member: how many of that kind have it as their owner */
};

struct store;

struct store_driver {
    const char *name;

    /** Opens or makes the store at @where. */
    int (*open)(const char *where, struct store **ret, struct hws_error *err);
    void (*close)(struct store *store);

    /**
     * Makes all changes or none, durable before it returns. -EEXIST where a name is taken or a
     * fresh object is there.
     */
    int (*commit)(struct store *store, const struct store_change *changes, unsigned count,
                  struct hws_error *err);

    /** @ret a new reference. -ENOENT without a message where there is none. */
    int (*get)(struct store *store, const char *kind, const char *id, json_t **ret,
               struct hws_error *err);
    int (*find)(struct store *store, const char *kind, const char *name, json_t **ret,
                struct hws_error *err);

    /** @ret a new array of values. */
    int (*list)(struct store *store, const struct store_query *query, json_t **ret,
                struct hws_error *err);
    /**
     * The same as text, as it is stored, for long lists: "[{...},{...}]". @query must have a limit.
     * @ret_text free(); @ret_next a new text where more follow, the name of the last object here.
     */
    int (*text)(struct store *store, const struct store_query *query,
                const struct store_beside *beside, char **ret_text, json_t **ret_next,
                struct hws_error *err);
    /** How many there are; @owner NULL: of all owners. */
    int (*count)(struct store *store, const char *kind, const char *owner, unsigned *ret,
                 struct hws_error *err);
};

/** What every store begins with. */
struct store {
    const struct store_driver *driver;
};

extern const struct store_driver store_sqlite;

#endif
