/*
 * What Prometheus scrapes: how many objects there are, and what pools hold.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"

static void add_counts(FILE *out, const json_t *counts)
{
    const char *name;
    json_t *value;
    fprintf(out, "# HELP hawser_objects Objects in the catalog.\n# TYPE hawser_objects gauge\n");
    json_object_foreach((json_t *)counts, name, value) fprintf(
        out, "hawser_objects{kind=\"%s\"} %lld\n", name, (long long)json_integer_value(value));
}

static void add_pools(FILE *out, const json_t *pools)
{
    static const struct {
        const char *member, *metric, *help;
    } gauges[] = {
        {"provisioned", "hawser_pool_provisioned_bytes", "Sizes of all volumes of the pool."},
        {"capacity", "hawser_pool_capacity_bytes", "What the pool can hold."},
        {"free", "hawser_pool_free_bytes", "What its file system has left."},
        {"volumes", "hawser_pool_volumes", "Volumes of the pool."},
    };
    for (unsigned i = 0; i < ARRAY_LEN(gauges); i++) {
        size_t j;
        json_t *pool;
        fprintf(out, "# HELP %s %s\n# TYPE %s gauge\n", gauges[i].metric, gauges[i].help,
                gauges[i].metric);
        json_array_foreach((json_t *)pools, j, pool)
        {
            json_t *value = json_object_get(pool, gauges[i].member);
            if (value) /* names need no escapes: see control/name.h */
                fprintf(out, "%s{pool=\"%s\"} %lld\n", gauges[i].metric,
                        json_string_value(json_object_get(pool, "name")),
                        (long long)json_integer_value(value));
        }
    }
}

int rest_metrics(struct control *control, char **ret, struct hws_error *err)
{
    const struct control_page page = {.limit = CONTROL_PAGE_MAX};
    json_t *counts = NULL, *pools = NULL;
    size_t length;
    int r = control_counts(control, &counts, err);
    if (r == 0)
        r = control_pool_list(control, &page, &pools, err);
    FILE *out = r == 0 ? open_memstream(ret, &length) : NULL;
    if (out) {
        fprintf(out,
                "# HELP hawser_info The program.\n# TYPE hawser_info gauge\n"
                "hawser_info{version=\"%s\"} 1\n",
                HAWSER_VERSION);
        add_counts(out, counts);
        add_pools(out, json_object_get(pools, "items"));
        if (fclose(out) != 0)
            r = hws_fail(err, ENOMEM, "out of memory");
    } else if (r == 0) {
        r = hws_fail(err, ENOMEM, "out of memory");
    }
    json_decref(counts);
    json_decref(pools);
    return r;
}
