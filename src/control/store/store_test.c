/*
 * The SQLite store: transactions, unique names, pages, versions of the schema, and what is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "control/store/migrate.h"
#include "control/store/store.h"
#include <ftw.h>

static char folder[64], path[96];
static struct store *store;
static struct hws_error error;

static int remove_one(const char *name, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(name);
}

static int setup(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/hawser-store.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/catalog.db", folder);
    return store_sqlite.open(path, &store, &error);
}

static int teardown(void **state)
{
    if (store)
        store_sqlite.close(store);
    store = NULL;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int put(const char *kind, const char *id, const char *name, const char *owner, bool fresh)
{
    json_t *value = json_pack("{s:s, s:s*}", "id", id, "name", name);
    const struct store_change change = {kind, id, name, owner, value, fresh};
    int r = store_sqlite.commit(store, &change, 1, &error);
    json_decref(value);
    return r;
}

static int get(const char *kind, const char *id)
{
    json_t *value = NULL;
    int r = store_sqlite.get(store, kind, id, &value, &error);
    if (r == 0)
        assert_string_equal(json_string_value(json_object_get(value, "id")), id);
    json_decref(value);
    return r;
}

static void names_are_unique_in_their_kind(void **state)
{
    assert_int_equal(put("a", "1", "x", NULL, true), 0);
    assert_int_equal(put("a", "2", "x", NULL, true), -EEXIST);
    assert_int_equal(put("a", "2", "x", NULL, false), -EEXIST);
    assert_int_equal(put("b", "1", "x", NULL, true), 0);
    assert_int_equal(put("a", "1", "y", NULL, true), -EEXIST); /* fresh, and there */
    assert_int_equal(put("a", "1", "y", NULL, false), 0);      /* renamed */
    assert_int_equal(put("a", "2", "x", NULL, true), 0);
    assert_int_equal(put("a", "3", NULL, NULL, true), 0); /* without names as many as you like */
    assert_int_equal(put("a", "4", NULL, NULL, true), 0);
    json_t *value = NULL;
    assert_int_equal(store_sqlite.find(store, "a", "y", &value, &error), 0);
    assert_string_equal(json_string_value(json_object_get(value, "id")), "1");
    json_decref(value);
    assert_int_equal(store_sqlite.find(store, "a", "z", &value, &error), -ENOENT);
}

static void a_transaction_is_done_or_not(void **state)
{
    json_t *value = json_pack("{s:s}", "id", "9");
    const struct store_change changes[] = {
        {"a", "9", "nine", NULL, value, true},
        {"a", "1", NULL, NULL, NULL, false},
        {"a", "8", "nine", NULL, value, true}, /* the name is taken by now */
    };
    assert_int_equal(put("a", "1", "x", NULL, true), 0);
    assert_int_equal(store_sqlite.commit(store, changes, 3, &error), -EEXIST);
    assert_int_equal(get("a", "9"), -ENOENT);
    assert_int_equal(get("a", "1"), 0);
    assert_int_equal(store_sqlite.commit(store, changes, 2, &error), 0);
    assert_int_equal(get("a", "9"), 0);
    assert_int_equal(get("a", "1"), -ENOENT);
    assert_int_equal(store_sqlite.commit(store, changes + 1, 1, &error), 0); /* is gone already */
    json_decref(value);
}

static json_t *list(const char *owner, const char *after, unsigned limit)
{
    const struct store_query query = {"a", owner, after, limit};
    json_t *found = NULL;
    assert_int_equal(store_sqlite.list(store, &query, &found, &error), 0);
    return found;
}

static void lists_come_in_pages(void **state)
{
    char id[16], name[16];
    unsigned seen = 0, count = 0;
    for (unsigned i = 0; i < 50; i++) {
        snprintf(id, sizeof(id), "%u", i);
        snprintf(name, sizeof(name), "n%02u", (i * 7) % 50);
        assert_int_equal(put("a", id, name, i % 2 ? "odd" : "even", true), 0);
    }
    char after[16] = "";
    for (;;) {
        json_t *page = list(NULL, after, 8);
        size_t n = json_array_size(page);
        for (size_t i = 0; i < n; i++) {
            snprintf(name, sizeof(name), "n%02u", seen++);
            assert_string_equal(json_string_value(json_object_get(json_array_get(page, i), "name")),
                                name);
            snprintf(after, sizeof(after), "%s", name);
        }
        json_decref(page);
        if (n < 8)
            break;
    }
    assert_int_equal(seen, 50);
    json_t *odd = list("odd", NULL, 0);
    assert_int_equal(json_array_size(odd), 25);
    json_decref(odd);
    assert_int_equal(store_sqlite.count(store, "a", NULL, &count, &error), 0);
    assert_int_equal(count, 50);
    assert_int_equal(store_sqlite.count(store, "a", "odd", &count, &error), 0);
    assert_int_equal(count, 25);
}

static void what_was_committed_is_there_again(void **state)
{
    struct store *second = NULL;
    assert_int_equal(put("a", "1", "x", NULL, true), 0);
    assert_int_equal(store_sqlite.open(path, &second, &error), -EBUSY);
    assert_non_null(strstr(error.text, "another hawserd"));
    store_sqlite.close(store);
    store = NULL;
    assert_int_equal(store_sqlite.open(path, &store, &error), 0);
    assert_int_equal(get("a", "1"), 0);
}

static void execute(const char *text)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void other_catalogs_are_refused(void **state)
{
    assert_int_equal(put("a", "1", "x", NULL, true), 0);
    store_sqlite.close(store);
    store = NULL;
    execute("PRAGMA user_version = 99");
    assert_int_equal(store_sqlite.open(path, &store, &error), -ENOTSUP);
    assert_non_null(strstr(error.text, "version 99"));
    execute("PRAGMA user_version = 1; PRAGMA application_id = 5");
    assert_int_equal(store_sqlite.open(path, &store, &error), -EMEDIUMTYPE);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (unsigned i = 0; i < 1000; i++)
        fputs("no database\n", file);
    fclose(file);
    assert_int_equal(store_sqlite.open(path, &store, &error), -EIO);
}

/* Each step in a transaction of its own: one that fails leaves the version before it. */
static void migrations_go_step_by_step(void **state)
{
    static const char *const good[] = {"CREATE TABLE one (a);",
                                       "INSERT INTO one VALUES (5); CREATE TABLE two (b);",
                                       "ALTER TABLE two ADD COLUMN c;"};
    static const char *const bad[] = {"CREATE TABLE one (a);",
                                      "INSERT INTO one VALUES (5); CREATE TABLE one (a);"};
    sqlite3 *db;
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    assert_int_equal(catalog_migrate(db, bad, 2, &error), -EIO);
    assert_int_equal(catalog_migrate(db, good, 1, &error), 0); /* it is there already */
    assert_int_equal(sqlite3_exec(db, "INSERT INTO one VALUES (4)", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(catalog_migrate(db, good, 3, &error), 0);
    assert_int_equal(
        sqlite3_exec(db, "INSERT INTO two (c) SELECT sum(a) FROM one", NULL, NULL, NULL),
        SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "CREATE TEMP TABLE t AS SELECT 1 / (c = 9) FROM two", NULL, NULL, NULL),
        SQLITE_OK);
    assert_int_equal(catalog_migrate(db, good, 2, &error), -ENOTSUP);
    sqlite3_close(db);
}

/* As text a list is what it is as JSON, with what stands beside; names are in order. */
static void lists_come_as_text(void **state)
{
    static const struct store_beside beside = {"with", "twin", "owned", "part"};
    static const struct {
        const char *after;
        unsigned limit;
        const char *text, *next;
    } cases[] = {
        {NULL, 9,
         "[{\"id\":\"1\",\"name\":\"a\",\"owned\":0},"
         "{\"id\":\"0\",\"name\":\"b\",\"with\":{\"id\":\"0\"},\"owned\":2},"
         "{\"id\":\"2\",\"name\":\"c\",\"owned\":0}]",
         NULL},
        {NULL, 1, "[{\"id\":\"1\",\"name\":\"a\",\"owned\":0}]", "a"},
        {"b", 1, "[{\"id\":\"2\",\"name\":\"c\",\"owned\":0}]", NULL},
        {"c", 1, "[]", NULL},
    };
    assert_int_equal(put("thing", "1", "a", NULL, true), 0);
    assert_int_equal(put("thing", "0", "b", NULL, true), 0);
    assert_int_equal(put("thing", "2", "c", NULL, true), 0);
    assert_int_equal(put("thing", "3", NULL, NULL, true), 0); /* in lists of all alone */
    assert_int_equal(put("twin", "0", NULL, NULL, true), 0);
    assert_int_equal(put("part", "p", NULL, "0", true), 0);
    assert_int_equal(put("part", "q", NULL, "0", true), 0);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        const struct store_query query = {
            .kind = "thing", .after = cases[i].after, .limit = cases[i].limit};
        char *text;
        json_t *next;
        assert_int_equal(store_sqlite.text(store, &query, &beside, &text, &next, &error), 0);
        assert_string_equal(text, cases[i].text);
        assert_true(!next == !cases[i].next);
        if (next)
            assert_string_equal(json_string_value(next), cases[i].next);
        json_decref(next);
        free(text);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(names_are_unique_in_their_kind),
        TEST(a_transaction_is_done_or_not),
        TEST(lists_come_in_pages),
        TEST(lists_come_as_text),
        TEST(what_was_committed_is_there_again),
        TEST(other_catalogs_are_refused),
        TEST(migrations_go_step_by_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
