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

enum {
    PUT,
    INSERT,
    REMOVE,
    GET,
    FIND,
    LIST,
    LIST_OWNED,
    PAGE,
    PAGE_OWNED,
    TEXT,
    COUNT,
    COUNT_OWNED,
    STATEMENTS
};

static const char *const texts[STATEMENTS] = {
    [PUT] = "INSERT INTO object (kind, id, name, owner, value) VALUES (?1, ?2, ?3, ?4, ?5) "
            "ON CONFLICT (kind, id) DO UPDATE SET name = ?3, owner = ?4, value = ?5",
    [INSERT] = "INSERT INTO object (kind, id, name, owner, value) VALUES (?1, ?2, ?3, ?4, ?5)",
    [REMOVE] = "DELETE FROM object WHERE kind = ?1 AND id = ?2",
    [GET] = "SELECT value FROM object WHERE kind = ?1 AND id = ?2",
    [FIND] = "SELECT value FROM object WHERE kind = ?1 AND name = ?2",
    /* That names lie behind something is what lets SQLite use the index of names, and not sort. */
    [LIST] = "SELECT value FROM object WHERE kind = ?1 ORDER BY name, id",
    [LIST_OWNED] = "SELECT value FROM object WHERE kind = ?1 AND owner = ?4 ORDER BY name, id",
    [PAGE] = "SELECT value FROM object WHERE kind = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
    [PAGE_OWNED] = "SELECT value FROM object WHERE kind = ?1 AND owner = ?4 AND name > ?2 "
                   "ORDER BY name, id LIMIT ?3",
    [TEXT] = "SELECT value, name, "
             "(SELECT value FROM object WHERE kind = ?4 AND id = o.id), "
             "(SELECT count(*) FROM object WHERE kind = ?5 AND owner = o.id) "
             "FROM object AS o WHERE kind = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
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

static void bind_page(sqlite3_stmt *statement, const struct store_query *query)
{
    bind(statement, 2, query->after ? query->after : "");
    sqlite3_bind_int64(statement, 3, query->limit ? (sqlite3_int64)query->limit : -1);
}

static int sqlite_list(struct store *store, const struct store_query *query, json_t **ret,
                       struct hws_error *err)
{
    struct sqlite_store *s = of(store);
    json_t *list = json_array(), *value;
    pthread_mutex_lock(&s->mutex);
    bool all = !query->after && !query->limit;
    sqlite3_stmt *statement =
        s->statement[all ? (query->owner ? LIST_OWNED : LIST) : (query->owner ? PAGE_OWNED : PAGE)];
    bind(statement, 1, query->kind);
    if (!all)
        bind_page(statement, query);
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

/* ---- lists as text ---- */

static void put_text(FILE *out, sqlite3_stmt *statement, int column, int less)
{
    int length = sqlite3_column_bytes(statement, column) - less;
    fwrite_unlocked(sqlite3_column_text(statement, column), 1, (size_t)MAX(length, 0), out);
}

/* Values are objects that have an id: what is added goes behind their last member. */
static void put_object(FILE *out, sqlite3_stmt *statement, const struct store_beside *beside)
{
    put_text(out, statement, 0, 1);
    if (sqlite3_column_type(statement, 2) != SQLITE_NULL) {
        fprintf(out, ",\"%s\":", beside->one);
        put_text(out, statement, 2, 0);
    }
    if (beside->count)
        fprintf(out, ",\"%s\":%d", beside->count, sqlite3_column_int(statement, 3));
    fputc_unlocked('}', out);
}

static int put_objects(struct sqlite_store *s, sqlite3_stmt *statement,
                       const struct store_query *query, const struct store_beside *beside,
                       FILE *out, json_t **ret_next, struct hws_error *err)
{
    autofree char *last = NULL;
    int step = SQLITE_DONE;
    fputc_unlocked('[', out);
    for (unsigned i = 0; (step = sqlite3_step(statement)) == SQLITE_ROW; i++) {
        if (i == query->limit) {
            *ret_next = json_string(last);
            break;
        }
        if (i > 0)
            fputc_unlocked(',', out);
        put_object(out, statement, beside);
        if (i + 1 == query->limit)
            last = strdup((const char *)sqlite3_column_text(statement, 1));
    }
    fputc_unlocked(']', out);
    return step == SQLITE_DONE || step == SQLITE_ROW ? 0 : fail(s, err);
}

static int sqlite_text(struct store *store, const struct store_query *query,
                       const struct store_beside *beside, char **ret_text, json_t **ret_next,
                       struct hws_error *err)
{
    struct sqlite_store *s = of(store);
    struct store_query more = *query; /* one, to know whether more follow */
    size_t length;
    FILE *out = open_memstream(ret_text, &length);
    assert(query->limit > 0 && !query->owner);
    *ret_next = NULL;
    if (!out)
        return hws_fail(err, ENOMEM, "out of memory");
    more.limit++;
    pthread_mutex_lock(&s->mutex);
    sqlite3_stmt *statement = s->statement[TEXT];
    bind(statement, 1, query->kind);
    bind_page(statement, &more);
    bind(statement, 4, beside->one_kind);
    bind(statement, 5, beside->count_kind);
    int r = put_objects(s, statement, query, beside, out, ret_next, err);
    done(statement);
    pthread_mutex_unlock(&s->mutex);
    if (fclose(out) != 0 && r == 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0) {
        free(*ret_text);
        json_decref(*ret_next);
    }
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
    .text = sqlite_text,
    .count = sqlite_count,
};
