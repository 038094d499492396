/*
 * What Prometheus scrapes: how many objects there are, what pools hold, what volumes do, and the
 * process itself. Names of objects need no escapes (control/name.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/metrics.h"
#include "api/rest/internal.h"
#include <dirent.h>
#include <sys/resource.h>

struct gauge {
    const char *member, *metric, *type, *help;
};

static void add_head(FILE *out, const struct gauge *gauge)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", gauge->metric, gauge->help, gauge->metric,
            gauge->type);
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static void add_counts(FILE *out, const json_t *counts)
{
    static const struct gauge head = {NULL, "hawser_objects", "gauge", "Objects in the catalog."};
    const char *name;
    json_t *value;
    add_head(out, &head);
    json_object_foreach((json_t *)counts, name, value) fprintf(
        out, "hawser_objects{kind=\"%s\"} %lld\n", name, (long long)json_integer_value(value));
}

static void add_pools(FILE *out, const json_t *pools)
{
    static const struct gauge gauges[] = {
        {"provisioned", "hawser_pool_provisioned_bytes", "gauge",
         "Sizes of all volumes of the pool."},
        {"capacity", "hawser_pool_capacity_bytes", "gauge", "What the pool can hold."},
        {"free", "hawser_pool_free_bytes", "gauge", "What its file system has left."},
        {"volumes", "hawser_pool_volumes", "gauge", "Volumes of the pool."},
    };
    size_t j;
    json_t *pool;
    for (unsigned i = 0; i < ARRAY_LEN(gauges); i++) {
        add_head(out, &gauges[i]);
        json_array_foreach((json_t *)pools, j, pool)
        {
            json_t *value = json_object_get(pool, gauges[i].member);
            if (value)
                fprintf(out, "%s{pool=\"%s\"} %lld\n", gauges[i].metric, text_of(pool, "name"),
                        (long long)json_integer_value(value));
        }
    }
    fprintf(out, "# HELP hawser_pool_up Whether the pool's folder is there.\n"
                 "# TYPE hawser_pool_up gauge\n");
    json_array_foreach((json_t *)pools, j, pool)
        fprintf(out, "hawser_pool_up{pool=\"%s\"} %d\n", text_of(pool, "name"),
                !strcmp(text_of(pool, "state"), "available"));
}

/* ---- volumes ---- */

static void add_states(FILE *out, const json_t *volumes)
{
    static const struct gauge gauges[] = {
        {"size", "hawser_volume_size_bytes", "gauge", "Size of the volume."},
        {"allocated", "hawser_volume_allocated_bytes", "gauge",
         "What its top layer's file takes on disk."},
        {"depth", "hawser_volume_chain_depth", "gauge", "Layers below its top layer."},
        {"attached", "hawser_volume_attached", "gauge", "Whether it is in use on this host."},
        {"up", "hawser_volume_up", "gauge", "Whether the engine of an attached volume answers."},
    };
    for (unsigned i = 0; i < ARRAY_LEN(gauges); i++) {
        size_t j;
        json_t *volume;
        add_head(out, &gauges[i]);
        json_array_foreach((json_t *)volumes, j, volume)
        {
            json_t *value = json_object_get(volume, gauges[i].member);
            if (value)
                fprintf(out, "%s{volume=\"%s\",pool=\"%s\"} %lld\n", gauges[i].metric,
                        text_of(volume, "name"), text_of(volume, "pool"),
                        json_is_boolean(value) ? (long long)json_is_true(value)
                                               : (long long)json_integer_value(value));
        }
    }
}

/* What engines took of this host, where they have control groups. */
static void add_usage(FILE *out, const json_t *volumes)
{
    static const struct gauge gauges[] = {
        {"cpu-us", "hawser_volume_cpu_seconds_total", "counter",
         "Processor time of the volume's engine since it was attached."},
        {"memory", "hawser_volume_memory_bytes", "gauge",
         "Memory of the volume's engine, its page cache included."},
    };
    for (unsigned i = 0; i < ARRAY_LEN(gauges); i++) {
        size_t j;
        json_t *volume;
        add_head(out, &gauges[i]);
        json_array_foreach((json_t *)volumes, j, volume)
        {
            const json_t *usage = json_object_get(json_object_get(volume, "stats"), "usage");
            json_t *value = json_object_get(usage, gauges[i].member);
            if (value)
                fprintf(out, "%s{volume=\"%s\",pool=\"%s\"} %.*f\n", gauges[i].metric,
                        text_of(volume, "name"), text_of(volume, "pool"), i == 0 ? 6 : 0,
                        (double)json_integer_value(value) / (i == 0 ? 1e6 : 1.0));
        }
    }
}

typedef void each_operation(FILE *out, const struct gauge *gauge, const char *volume,
                            const char *operation, const json_t *value);

/* What never happened is left out: most volumes have few kinds of operations. */
static void for_operations(FILE *out, const json_t *volumes, const struct gauge *gauge,
                           each_operation *each)
{
    size_t i;
    json_t *volume, *value;
    const char *operation;
    add_head(out, gauge);
    json_array_foreach((json_t *)volumes, i, volume)
    {
        const json_t *first =
            json_array_get(json_object_get(json_object_get(volume, "stats"), "volumes"), 0);
        json_object_foreach(json_object_get(first, "operations"), operation, value)
        {
            if (json_integer_value(json_object_get(value, "operations")) > 0)
                each(out, gauge, text_of(volume, "name"), operation, value);
        }
    }
}

static void add_counter(FILE *out, const struct gauge *gauge, const char *volume,
                        const char *operation, const json_t *value)
{
    fprintf(out, "%s{volume=\"%s\",operation=\"%s\"} %lld\n", gauge->metric, volume, operation,
            (long long)json_integer_value(json_object_get(value, gauge->member)));
}

/* The engine's buckets, four an octave, into few: each counts where it begins. */
static void add_histogram(FILE *out, const struct gauge *gauge, const char *volume,
                          const char *operation, const json_t *value)
{
    static const struct {
        json_int_t most_ns;
        const char *label;
    } limits[] = {{10000, "0.00001"}, {32000, "0.000032"}, {100000, "0.0001"}, {320000, "0.00032"},
                  {1000000, "0.001"}, {3200000, "0.0032"}, {10000000, "0.01"}, {32000000, "0.032"},
                  {100000000, "0.1"}, {320000000, "0.32"}, {1000000000, "1"},  {3200000000, "3.2"},
                  {INT64_MAX, "+Inf"}};
    const json_t *buckets = json_object_get(value, "histogram"), *bucket;
    json_int_t total = json_integer_value(json_object_get(value, "operations")), sum = 0;
    size_t i = 0;
    for (unsigned limit = 0; limit < ARRAY_LEN(limits); limit++) {
        for (; (bucket = json_array_get(buckets, i)); i++) {
            if (json_integer_value(json_object_get(bucket, "from-ns")) >= limits[limit].most_ns)
                break;
            sum += json_integer_value(json_object_get(bucket, "count"));
        }
        fprintf(out, "%s_bucket{volume=\"%s\",operation=\"%s\",le=\"%s\"} %lld\n", gauge->metric,
                volume, operation, limits[limit].label,
                (long long)(limit + 1 < ARRAY_LEN(limits) ? MIN(sum, total) : total));
    }
    double mean = (double)json_integer_value(json_object_get(value, "latency-ns-mean"));
    fprintf(out,
            "%s_sum{volume=\"%s\",operation=\"%s\"} %.9f\n"
            "%s_count{volume=\"%s\",operation=\"%s\"} %lld\n",
            gauge->metric, volume, operation, mean * (double)total / 1e9, gauge->metric, volume,
            operation, (long long)total);
}

static void add_operations(FILE *out, const json_t *volumes)
{
    static const struct gauge counters[] = {
        {"operations", "hawser_volume_operations_total", "counter",
         "Operations since the engine began."},
        {"bytes", "hawser_volume_bytes_total", "counter", "Bytes of them."},
        {"failures", "hawser_volume_failures_total", "counter", "Those that failed."},
    };
    static const struct gauge latency = {NULL, "hawser_volume_latency_seconds", "histogram",
                                         "How long operations took."};
    for (unsigned i = 0; i < ARRAY_LEN(counters); i++)
        for_operations(out, volumes, &counters[i], add_counter);
    for_operations(out, volumes, &latency, add_histogram);
}

static void add_volumes(void *out, const json_t *volumes)
{
    add_states(out, volumes);
    add_usage(out, volumes);
    add_operations(out, volumes);
}

/* ---- the process ---- */

static unsigned long long resident_bytes(void)
{
    unsigned long long total, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count > 3 ? count - 3 : 0; /* without ".", ".." and this one */
}

static void add_process(FILE *out)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    fprintf(out,
            "# HELP process_cpu_seconds_total Processor time of hawserd.\n"
            "# TYPE process_cpu_seconds_total counter\n"
            "process_cpu_seconds_total %.6f\n"
            "# HELP process_resident_memory_bytes Memory of hawserd.\n"
            "# TYPE process_resident_memory_bytes gauge\n"
            "process_resident_memory_bytes %llu\n"
            "# HELP process_open_fds Open descriptors of hawserd.\n"
            "# TYPE process_open_fds gauge\n"
            "process_open_fds %u\n",
            (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
            resident_bytes(), open_descriptors());
}

int rest_metrics(struct control *control, char **ret, struct hws_error *err)
{
    const struct control_page page = {.limit = CONTROL_PAGE_MAX};
    auto_json *counts = NULL, *pools = NULL;
    size_t length;
    int r = control_counts(control, &counts, err);
    if (r == 0)
        r = control_pool_list(control, &page, &pools, err);
    if (r < 0)
        return r;
    FILE *out = open_memstream(ret, &length);
    if (!out)
        return hws_fail(err, ENOMEM, "out of memory");
    fprintf(out,
            "# HELP hawser_info The program.\n# TYPE hawser_info gauge\n"
            "hawser_info{version=\"%s\"} 1\n",
            HAWSER_VERSION);
    add_counts(out, counts);
    add_pools(out, json_object_get(pools, "items"));
    r = control_metrics(control, add_volumes, out, err);
    add_process(out);
    return fclose(out) == 0 ? r : hws_fail(err, ENOMEM, "out of memory");
}
