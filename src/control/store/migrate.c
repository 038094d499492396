/*
 * Schema versions; see control/store/migrate.h. The version is PRAGMA user_version. A migration is
 * never changed once it was released: another one is added.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/store/migrate.h"

const char *const catalog_migrations[] = {
    /* 1: objects by kind and id */
    "CREATE TABLE object ("
    "  kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT, owner TEXT, value TEXT NOT NULL,"
    "  PRIMARY KEY (kind, id)) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX object_name ON object (kind, name) WHERE name IS NOT NULL;"
    "CREATE INDEX object_owner ON object (kind, owner, name) WHERE owner IS NOT NULL;",
};
const unsigned catalog_version = ARRAY_LEN(catalog_migrations);

static int pragma(sqlite3 *db, const char *text, int64_t *ret, struct hws_error *err)
{
    sqlite3_stmt *statement;
    int r = sqlite3_prepare_v2(db, text, -1, &statement, NULL);
    if (r == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
        *ret = sqlite3_column_int64(statement, 0);
        sqlite3_finalize(statement);
        return 0;
    }
    hws_fail(err, EIO, "the catalog cannot be read: %s", sqlite3_errmsg(db));
    sqlite3_finalize(statement);
    return -EIO;
}

static int run(sqlite3 *db, const char *text, struct hws_error *err)
{
    if (sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return hws_fail(err, EIO, "the catalog cannot be changed: %s", sqlite3_errmsg(db));
}

static int migrate_one(sqlite3 *db, const char *statements, unsigned to, struct hws_error *err)
{
    char mark[128];
    snprintf(mark, sizeof(mark), "PRAGMA user_version = %u; PRAGMA application_id = %u;", to,
             CATALOG_APPLICATION_ID);
    int r = run(db, "BEGIN IMMEDIATE", err);
    if (r < 0)
        return r;
    r = run(db, statements, err);
    if (r == 0)
        r = run(db, mark, err);
    if (r == 0)
        r = run(db, "COMMIT", err);
    if (r < 0 && sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        return r; /* SQLite has rolled back by itself */
    return r;
}

int catalog_migrate(sqlite3 *db, const char *const *migrations, unsigned version,
                    struct hws_error *err)
{
    int64_t now = 0, application = 0, tables = 0;
    int r = pragma(db, "PRAGMA user_version", &now, err);
    if (r == 0)
        r = pragma(db, "PRAGMA application_id", &application, err);
    if (r == 0)
        r = pragma(db, "SELECT count(*) FROM sqlite_master", &tables, err);
    if (r < 0)
        return r;
    bool empty = now == 0 && tables == 0;
    if (!empty && application != CATALOG_APPLICATION_ID)
        return hws_fail(err, EMEDIUMTYPE, "the catalog is a database of another program");
    if (now < 0 || now > (int64_t)version)
        return hws_fail(err, ENOTSUP,
                        "the catalog has version %lld; this program knows versions up to %u: run a "
                        "newer one",
                        (long long)now, version);
    for (unsigned i = (unsigned)now; r == 0 && i < version; i++)
        r = migrate_one(db, migrations[i], i + 1, err);
    return r < 0 ? hws_wrap(err, r, "migration from version %lld to %u", (long long)now, version)
                 : 0;
}
