/*
 * The versions of the SQLite schema, and the way from each to the next.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_STORE_MIGRATE_H
#define CONTROL_STORE_MIGRATE_H

#include "base/common.h"
#include "hawser/error.h"
#include <sqlite3.h>

/** In the file's header: this is a catalog of Hawser, and nobody else's database. */
#define CATALOG_APPLICATION_ID 0x48575343u

/** Statements that lead from one version to the next; the first from an empty file. */
extern const char *const catalog_migrations[];
extern const unsigned catalog_version;

/**
 * Brings @db from its version to @version, each step in a transaction of its own. Refuses a newer
 * one (-ENOTSUP), and a database that is not ours (-EMEDIUMTYPE).
 */
HWS_MUST_CHECK int catalog_migrate(sqlite3 *db, const char *const *migrations, unsigned version,
                                   struct hws_error *err);

#endif
