/*
 * Options of new images; see control/policy.h. What the engine cannot do yet has its place in
 * classes and volumes, and is refused by its name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/policy.h"

#define EXTENDED_L2_CLUSTER_MIN (16 * KiB)

int policy_refuse(const json_t *request, struct hws_error *err)
{
    static const char *const later[] = {"encryption", "compression", "limits", "replication"};
    for (unsigned i = 0; i < ARRAY_LEN(later); i++) {
        const json_t *value = json_object_get(request, later[i]);
        if (value && !json_is_null(value))
            return hws_fail(err, ENOTSUP, "not supported yet by the engine: %s", later[i]);
    }
    return 0;
}

int policy_check_cluster(const char *format, uint64_t cluster_bytes, struct hws_error *err)
{
    if (!cluster_bytes)
        return 0;
    if (format && !strcmp(format, "raw"))
        return hws_fail(err, EINVAL, "cluster-size: format raw has no clusters");
    if (!is_power_of_2(cluster_bytes) || cluster_bytes < 512 || cluster_bytes > 2 * MiB)
        return hws_fail(err, EINVAL,
                        "cluster-size is %llu; it can be a power of two of 512 to 2097152",
                        (unsigned long long)cluster_bytes);
    return 0;
}

static bool is_on(const char *text)
{
    return text && !strcmp(text, "on");
}

static int check_image(const struct making *making, const char *format, uint64_t cluster_bytes,
                       struct hws_error *err)
{
    bool raw = format && !strcmp(format, "raw");
    if (raw && making->preallocation && !strcmp(making->preallocation, "metadata"))
        return hws_fail(err, EINVAL, "preallocation is 'metadata': format raw has none");
    if (raw && (is_on(making->lazy_refcounts) || is_on(making->extended_l2)))
        return hws_fail(err, EINVAL, "lazy-refcounts and extended-l2 are of format qcow2");
    if (is_on(making->extended_l2) && cluster_bytes && cluster_bytes < EXTENDED_L2_CLUSTER_MIN)
        return hws_fail(err, EINVAL, "extended-l2 needs a cluster-size of %llu or more",
                        (unsigned long long)EXTENDED_L2_CLUSTER_MIN);
    return 0;
}

int policy_check_making(const struct making *making, const char *format, uint64_t cluster_bytes,
                        const char *fs, struct hws_error *err)
{
    int r = policy_check_cluster(format, cluster_bytes, err);
    if (r == 0)
        r = check_image(making, format, cluster_bytes, err);
    if (r == 0)
        r = policy_check_mkfs(fs ? fs : FS_DEFAULT, making->mkfs_options, err);
    return r == 0 ? policy_check_mount(fs ? fs : FS_DEFAULT, making->mount_options, err) : r;
}

char *policy_join(const json_t *options, char separator)
{
    char *joined = NULL;
    size_t i;
    json_t *text;
    json_array_foreach(options, i, text)
    {
        char *longer;
        if (asprintf(&longer, "%s%.*s%s", joined ? joined : "", joined != NULL, &separator,
                     json_string_value(text)) < 0)
            longer = NULL;
        free(joined);
        joined = longer;
    }
    return joined;
}

static int take_text(char **to, const char *from)
{
    return *to || !from ? 0 : record_set_text(to, from);
}

static int take_list(json_t **to, const json_t *from)
{
    if (json_array_size(*to) || !json_array_size(from))
        return 0;
    json_decref(*to);
    *to = json_deep_copy(from);
    return *to ? 0 : -ENOMEM;
}

int making_inherit(struct making *to, const struct making *from, unsigned which,
                   struct hws_error *err)
{
    int r = 0;
    if (!to->trash_retention_s)
        to->trash_retention_s = from->trash_retention_s;
    if (which & MAKING_OF_IMAGE)
        r |= take_text(&to->preallocation, from->preallocation);
    if (which & MAKING_OF_FORMAT)
        r |= take_text(&to->lazy_refcounts, from->lazy_refcounts) |
             take_text(&to->extended_l2, from->extended_l2);
    if (which & MAKING_OF_MKFS)
        r |= take_list(&to->mkfs_options, from->mkfs_options);
    if (which & MAKING_OF_MOUNT)
        r |= take_list(&to->mount_options, from->mount_options);
    return r < 0 ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

int making_refuse(const struct making *making, unsigned which, const char *what,
                  struct hws_error *err)
{
    const char *name = NULL;
    if ((which & MAKING_OF_MKFS) && json_array_size(making->mkfs_options))
        name = "mkfs-options";
    if ((which & MAKING_OF_MOUNT) && json_array_size(making->mount_options))
        name = "mount-options";
    if ((which & MAKING_OF_IMAGE) && making->preallocation)
        name = "preallocation";
    if ((which & MAKING_OF_FORMAT) && making->lazy_refcounts)
        name = "lazy-refcounts";
    if ((which & MAKING_OF_FORMAT) && making->extended_l2)
        name = "extended-l2";
    return name ? hws_fail(err, EINVAL, "%s has no %s", what, name) : 0;
}
