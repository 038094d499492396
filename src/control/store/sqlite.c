/*
 * The store in SQLite: one file, WAL, PRAGMA synchronous=FULL, so that a transaction that was
 * reported is there after a power cut.
 *
 * One connection under one mutex: transactions are short, and SQLite has one writer anyway. The
 * lock file beside the catalog keeps a second process out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/store/migrate.h"
#include "control/store/store.h"
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>

#define BUSY_TIMEOUT_MS 5000

enum { PUT, INSERT, REMOVE, GET, FIND, LIST, LIST_OWNED, COUNT, COUNT_OWNED, STATEMENTS };

static const char *const texts[STATEMENTS] = {
    [PUT] = "INSERT INTO object (kind, id, name, owner, value) VALUES (?1, ?2, ?3, ?4, ?5) "
            "ON CONFLICT (kind, id) DO UPDATE SET name = ?3, owner = ?4, value = ?5",
    [INSERT] = "INSERT INTO object (kind, id, name, owner, value) VALUES (?1, ?2, ?3, ?4, ?5)",
    [REMOVE] = "DELETE FROM object WHERE kind = ?1 AND id = ?2",
    [GET] = "SELECT value FROM object WHERE kind = ?1 AND id = ?2",
    [FIND] = "SELECT value FROM object WHERE kind = ?1 AND name = ?2",
    [LIST] = "SELECT value FROM object WHERE kind = ?1 AND (?2 = '' OR name > ?2) "
             "ORDER BY name, id LIMIT ?3",
    [LIST_OWNED] = "SELECT value FROM object WHERE kind = ?1 AND owner = ?4 AND "
                   "(?2 = '' OR name > ?2) ORDER BY name, id LIMIT ?3",
    [COUNT] = "SELECT count(*) FROM object WHERE kind = ?1",
    [COUNT_OWNED] = "SELECT count(*) FROM object WHERE kind = ?1 AND owner = ?2",
};

struct sqlite_store {
    struct store base;
    pthread_mutex_t mutex;
    int lock_fd;
    sqlite3 *db;
    sqlite3_stmt *statement[STATEMENTS];
};

static struct sqlite_store *of(struct store *store)
{
    return container_of(store, struct sqlite_store, base);
}

static int fail(struct sqlite_store *s, struct hws_error *err)
{
    int code = sqlite3_errcode(s->db);
    return hws_fail(err,
                    code == SQLITE_FULL    ? ENOSPC
                    : code == SQLITE_NOMEM ? ENOMEM
                                           : EIO,
                    "the catalog: %s", sqlite3_errmsg(s->db));
}

static void done(sqlite3_stmt *statement)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

static void bind(sqlite3_stmt *statement, int index, const char *text)
{
    if (text)
        sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(statement, index);
}

static int change_one(struct sqlite_store *s, const struct store_change *change,
                      struct hws_error *err)
{
    sqlite3_stmt *statement = s->statement[!change->value ? REMOVE : change->fresh ? INSERT : PUT];
    autofree char *text = NULL;
    bind(statement, 1, change->kind);
    bind(statement, 2, change->id);
    if (change->value) {
        text = json_dumps(change->value, JSON_COMPACT);
        if (!text) {
            done(statement);
            return hws_fail(err, ENOMEM, "out of memory");
        }
        bind(statement, 3, change->name);
        bind(statement, 4, change->owner);
        bind(statement, 5, text);
    }
    int r = sqlite3_step(statement);
    if (r == SQLITE_CONSTRAINT)
        r = hws_fail(err, EEXIST, "there is a %s '%s' already", change->kind,
                     change->name ? change->name : change->id);
    else
        r = r == SQLITE_DONE ? 0 : fail(s, err);
    done(statement);
    return r;
}

static int simple(struct sqlite_store *s, const char *text, struct hws_error *err)
{
    return sqlite3_exec(s->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, err);
}

static int sqlite_commit(struct store *store, const struct store_change *changes, unsigned count,
                         struct hws_error *err)
{
    struct sqlite_store *s = of(store);
    pthread_mutex_lock(&s->mutex);
    int r = simple(s, "BEGIN IMMEDIATE", err);
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = change_one(s, &changes[i], err);
    if (r == 0)
        r = simple(s, "COMMIT", err);
    if (r < 0 && !sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    pthread_mutex_unlock(&s->mutex);
    return r;
}

static int take_value(struct sqlite_store *s, sqlite3_stmt *statement, json_t **ret,
                      struct hws_error *err)
{
    json_error_t where;
    *ret = json_loadb((const char *)sqlite3_column_text(statement, 0),
                      (size_t)sqlite3_column_bytes(statement, 0), 0, &where);
    return *ret ? 0 : hws_fail(err, EUCLEAN, "the catalog holds a damaged object: %s", where.text);
}

static int get_one(struct store *store, int which, const char *kind, const char *key, json_t **ret,
                   struct hws_error *err)
{
    struct sqlite_store *s = of(store);
    pthread_mutex_lock(&s->mutex);
    sqlite3_stmt *statement = s->statement[which];
    bind(statement, 1, kind);
    bind(statement, 2, key);
    int r = sqlite3_step(statement);
    if (r == SQLITE_ROW)
        r = take_value(s, statement, ret, err);
    else
        r = r == SQLITE_DONE ? -ENOENT : fail(s, err);
    done(statement);
    pthread_mutex_unlock(&s->mutex);
    return r;
}

static int sqlite_get(struct store *store, const char *kind, const char *id, json_t **ret,
                      struct hws_error *err)
{
    return get_one(store, GET, kind, id, ret, err);
}

static int sqlite_find(struct store *store, const char *kind, const char *name, json_t **ret,
                       struct hws_error *err)
{
    return get_one(store, FIND, kind, name, ret, err);
}

static int sqlite_list(struct store *store, const struct store_query *query, json_t **ret,
                       struct hws_error *err)
{
    struct sqlite_store *s = of(store);
    json_t *list = json_array(), *value;
    pthread_mutex_lock(&s->mutex);
    sqlite3_stmt *statement = s->statement[query->owner ? LIST_OWNED : LIST];
    bind(statement, 1, query->kind);
    bind(statement, 2, query->after ? query->after : "");
    sqlite3_bind_int64(statement, 3, query->limit ? (sqlite3_int64)query->limit : -1);
    if (query->owner)
        bind(statement, 4, query->owner);
    int step, r = list ? 0 : hws_fail(err, ENOMEM, "out of memory");
    while (r == 0 && (step = sqlite3_step(statement)) != SQLITE_DONE) {
        r = step == SQLITE_ROW ? take_value(s, statement, &value, err) : fail(s, err);
        if (r == 0)
            json_array_append_new(list, value);
    }
    done(statement);
    pthread_mutex_unlock(&s->mutex);
    if (r < 0)
        json_decref(list);
    else
        *ret = list;
    return r;
}

static int sqlite_count(struct store *store, const char *kind, const char *owner, unsigned *ret,
                        struct hws_error *err)
{
    struct sqlite_store *s = of(store);
    pthread_mutex_lock(&s->mutex);
    sqlite3_stmt *statement = s->statement[owner ? COUNT_OWNED : COUNT];
    bind(statement, 1, kind);
    if (owner)
        bind(statement, 2, owner);
    int r = sqlite3_step(statement) == SQLITE_ROW ? 0 : fail(s, err);
    if (r == 0)
        *ret = (unsigned)sqlite3_column_int64(statement, 0);
    done(statement);
    pthread_mutex_unlock(&s->mutex);
    return r;
}

static void sqlite_close(struct store *store)
{
    struct sqlite_store *s = of(store);
    for (unsigned i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(s->statement[i]);
    sqlite3_close(s->db);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static int lock_catalog(struct sqlite_store *s, const char *where, struct hws_error *err)
{
    autofree char *path = NULL;
    if (asprintf(&path, "%s.lock", where) < 0) {
        path = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return hws_fail_errno(err, errno, "cannot open %s", path);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return hws_fail(err, EBUSY, "another hawserd works with %s", where);
    return 0;
}

static int prepare(struct sqlite_store *s, const char *where, struct hws_error *err)
{
    int r = sqlite3_open_v2(where, &s->db,
                            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (r != SQLITE_OK)
        return hws_fail(err, EIO, "cannot open %s: %s", where,
                        s->db ? sqlite3_errmsg(s->db) : "out of memory");
    sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
    r = simple(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF;",
               err);
    if (r == 0)
        r = catalog_migrate(s->db, catalog_migrations, catalog_version, err);
    for (unsigned i = 0; r == 0 && i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(s->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statement[i],
                               NULL) != SQLITE_OK)
            r = fail(s, err);
    return r;
}

static int sqlite_open(const char *where, struct store **ret, struct hws_error *err)
{
    struct sqlite_store *s = calloc(1, sizeof(*s));
    if (!s)
        return hws_fail(err, ENOMEM, "out of memory");
    s->base.driver = &store_sqlite;
    s->lock_fd = -1;
    pthread_mutex_init(&s->mutex, NULL);
    mode_t before = umask(0077); /* labels and paths are nobody else's matter */
    int r = lock_catalog(s, where, err);
    if (r == 0)
        r = prepare(s, where, err);
    umask(before);
    if (r < 0) {
        sqlite_close(&s->base);
        return hws_wrap(err, r, "%s", where);
    }
    *ret = &s->base;
    return 0;
}

const struct store_driver store_sqlite = {
    .name = "sqlite",
    .open = sqlite_open,
    .close = sqlite_close,
    .commit = sqlite_commit,
    .get = sqlite_get,
    .find = sqlite_find,
    .list = sqlite_list,
    .count = sqlite_count,
};
