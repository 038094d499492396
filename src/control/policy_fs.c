/*
 * Which options file systems are made and mounted with; see control/policy.h.
 *
 * A text is one option as the program takes it, "-i 16384" or "-E stride=16,nodiscard", or a word
 * of mount(8), "noatime" or "commit=30". The tables are lists of what is allowed: whatever opens
 * another file or device, runs a program, gives files to somebody, stops the host when there is an
 * error (errors=panic), or loses data in a power cut (nobarrier) is not in them. The characters of
 * values make no path.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/policy.h"
#include <ctype.h>

#define OPTION_MAX 200

struct allowed {
    const char *fs;    /* NULL: all */
    const char *name;  /* "-E", "commit" */
    const char *words; /* of mkfs: allowed words of the value, " a b "; NULL: any value */
    bool value;        /* whether it has one */
};

static const struct allowed mkfs_table[] = {
    {"ext4", "-b", NULL, true},
    {"ext4", "-C", NULL, true},
    {"ext4", "-E",
     " discard nodiscard lazy_itable_init lazy_journal_init num_backup_sb packed_meta_blocks "
     "stride "
     "stripe_width stripe-width ",
     true},
    {"ext4", "-g", NULL, true},
    {"ext4", "-G", NULL, true},
    {"ext4", "-i", NULL, true},
    {"ext4", "-I", NULL, true},
    {"ext4", "-J", " size fast_commit_size ", true},
    {"ext4", "-j", NULL, false},
    {"ext4", "-L", NULL, true},
    {"ext4", "-m", NULL, true},
    {"ext4", "-N", NULL, true},
    {"ext4", "-O",
     " 64bit bigalloc dir_index dir_nlink ea_inode encrypt ext_attr extent extra_isize fast_commit "
     "filetype flex_bg has_journal huge_file inline_data large_dir large_file metadata_csum "
     "metadata_csum_seed project quota resize_inode sparse_super sparse_super2 uninit_bg verity ",
     true},
    {"ext4", "-T", " small default big huge news largefile largefile4 ", true},
    {"xfs", "-b", " size log ", true},
    {"xfs", "-d", " agcount agsize su sunit sw swidth noalign ", true},
    {"xfs", "-i", " size maxpct align attr sparse nrext64 ", true},
    {"xfs", "-K", NULL, false},
    {"xfs", "-l", " internal size su sunit version lazy-count ", true},
    {"xfs", "-L", NULL, true},
    {"xfs", "-m", " crc finobt rmapbt reflink inobtcount bigtime ", true},
    {"xfs", "-n", " size ftype version ", true},
    {"xfs", "-s", " size ", true},
    {"btrfs", "-d", " single dup ", true},
    {"btrfs", "-K", NULL, false},
    {"btrfs", "-L", NULL, true},
    {"btrfs", "-m", " single dup ", true},
    {"btrfs", "-M", NULL, false},
    {"btrfs", "-n", NULL, true},
    {"btrfs", "-O", " extref no-holes skinny-metadata free-space-tree mixed-bg quota ", true},
    {"btrfs", "--csum", " crc32c xxhash sha256 blake2 ", true},
};

static const struct allowed mount_table[] = {
    {NULL, "noatime", NULL, false},
    {NULL, "relatime", NULL, false},
    {NULL, "strictatime", NULL, false},
    {NULL, "nodiratime", NULL, false},
    {NULL, "lazytime", NULL, false},
    {NULL, "noexec", NULL, false},
    {NULL, "nosuid", NULL, false},
    {NULL, "nodev", NULL, false},
    {NULL, "sync", NULL, false},
    {NULL, "dirsync", NULL, false},
    {NULL, "discard", NULL, false},
    {NULL, "nodiscard", NULL, false},
    {"ext4", "acl", NULL, false},
    {"ext4", "noacl", NULL, false},
    {"ext4", "user_xattr", NULL, false},
    {"ext4", "data", " ordered journal writeback ", true},
    {"ext4", "commit", NULL, true},
    {"ext4", "errors", " remount-ro continue ", true},
    {"ext4", "delalloc", NULL, false},
    {"ext4", "nodelalloc", NULL, false},
    {"ext4", "stripe", NULL, true},
    {"ext4", "inode_readahead_blks", NULL, true},
    {"ext4", "max_batch_time", NULL, true},
    {"ext4", "min_batch_time", NULL, true},
    {"ext4", "journal_checksum", NULL, false},
    {"ext4", "auto_da_alloc", NULL, false},
    {"ext4", "init_itable", NULL, true},
    {"ext4", "noinit_itable", NULL, false},
    {"ext4", "prjquota", NULL, false},
    {"ext4", "usrquota", NULL, false},
    {"ext4", "grpquota", NULL, false},
    {"xfs", "allocsize", NULL, true},
    {"xfs", "inode32", NULL, false},
    {"xfs", "inode64", NULL, false},
    {"xfs", "largeio", NULL, false},
    {"xfs", "nolargeio", NULL, false},
    {"xfs", "logbufs", NULL, true},
    {"xfs", "logbsize", NULL, true},
    {"xfs", "swalloc", NULL, false},
    {"xfs", "sunit", NULL, true},
    {"xfs", "swidth", NULL, true},
    {"xfs", "uquota", NULL, false},
    {"xfs", "gquota", NULL, false},
    {"xfs", "pquota", NULL, false},
    {"btrfs", "acl", NULL, false},
    {"btrfs", "noacl", NULL, false},
    {"btrfs", "autodefrag", NULL, false},
    {"btrfs", "commit", NULL, true},
    {"btrfs", "compress", NULL, true},
    {"btrfs", "compress-force", NULL, true},
    {"btrfs", "datacow", NULL, false},
    {"btrfs", "flushoncommit", NULL, false},
    {"btrfs", "max_inline", NULL, true},
    {"btrfs", "metadata_ratio", NULL, true},
    {"btrfs", "space_cache", " v1 v2 ", true},
    {"btrfs", "ssd", NULL, false},
    {"btrfs", "nossd", NULL, false},
    {"btrfs", "thread_pool", NULL, true},
};

static bool is_among(const char *words, const char *word, size_t length)
{
    char padded[OPTION_MAX + 4];
    snprintf(padded, sizeof(padded), " %.*s ", (int)length, word);
    return strstr(words, padded) != NULL;
}

/* Words of a value, "a=1,^b": each is known, or NULL where all are. @return the first that is not.
 */
static const char *unknown_word(const char *words, const char *value, size_t *ret_length)
{
    for (const char *at = value;; at++) {
        at += *at == '^';
        size_t length = strcspn(at, ",="), whole = strcspn(at, ",");
        *ret_length = length;
        if (!length || !is_among(words, at, length))
            return at;
        at += whole;
        if (!*at)
            return NULL;
    }
}

/* A comma begins another option of mount(8). */
static bool is_plain(const char *value, char separator)
{
    const char *others = separator == ' ' ? "_.=^:+-," : "_.:+-";
    for (const char *at = value; *at; at++)
        if (!isalnum((unsigned char)*at) && !strchr(others, *at))
            return false;
    return value[0] && value[0] != '-';
}

static const struct allowed *find(const struct allowed *table, unsigned count, const char *fs,
                                  const char *name, size_t length)
{
    for (unsigned i = 0; i < count; i++)
        if ((!table[i].fs || !strcmp(table[i].fs, fs)) && strlen(table[i].name) == length &&
            !strncmp(table[i].name, name, length))
            return &table[i];
    return NULL;
}

static int check_one(const struct allowed *table, unsigned count, const char *what, const char *fs,
                     const char *text, char separator, struct hws_error *err)
{
    const char *end = strchr(text, separator), *value = end ? end + 1 : NULL;
    size_t length = end ? (size_t)(end - text) : strlen(text), word_length;
    const struct allowed *row = find(table, count, fs, text, length);
    if (!row || strlen(text) > OPTION_MAX)
        return hws_fail(err, EINVAL, "%s: '%.100s' is none of those that %s volumes can have", what,
                        text, fs);
    if (row->value != (value != NULL) || (value && !is_plain(value, separator)))
        return hws_fail(err, EINVAL, "%s: '%.100s': '%s' %s", what, text, row->name,
                        row->value ? "has a value of letters, digits, and some of _.:+-"
                                   : "has no value");
    const char *word = row->words && value ? unknown_word(row->words, value, &word_length) : NULL;
    return word ? hws_fail(err, EINVAL, "%s: '%.100s': '%.*s' can be one of%s", what, text,
                           (int)word_length, word, row->words)
                : 0;
}

static int check_all(const struct allowed *table, unsigned count, const char *what, const char *fs,
                     const json_t *options, char separator, struct hws_error *err)
{
    size_t i;
    json_t *text;
    int r = 0;
    if (json_array_size(options) && !strcmp(fs, "none"))
        return hws_fail(err, EINVAL, "%s: a volume without a file system has none", what);
    json_array_foreach(options, i, text)
    {
        if (r == 0)
            r = check_one(table, count, what, fs, json_string_value(text), separator, err);
    }
    return r;
}

int policy_check_mkfs(const char *fs, const json_t *options, struct hws_error *err)
{
    return check_all(mkfs_table, ARRAY_LEN(mkfs_table), "mkfs-options", fs, options, ' ', err);
}

int policy_check_mount(const char *fs, const json_t *options, struct hws_error *err)
{
    return check_all(mount_table, ARRAY_LEN(mount_table), "mount-options", fs, options, '=', err);
}
