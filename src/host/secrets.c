/*
 * Files of secrets; see host/secrets.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/secrets.h"
#include <fcntl.h>
#include <sys/stat.h>

/* A file that others can read holds no secret; a pipe is nobody's. */
static int check_owner(int fd, const char *path, struct hws_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return hws_fail_errno(err, errno, "cannot look at %s", path);
    if (S_ISREG(st.st_mode) && ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 077)))
        return hws_fail(err, EPERM,
                        "%s: a file of secrets must belong to this user and be readable by nobody "
                        "else (chmod 600)",
                        path);
    return 0;
}

static int read_all(int fd, const char *path, char *ret, struct hws_error *err)
{
    size_t used = 0;
    ssize_t n = 1;
    while (n > 0 && used <= SECRETS_MAX) {
        n = read(fd, ret + used, SECRETS_MAX + 1 - used);
        used += n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        return hws_fail_errno(err, errno, "cannot read the file of secrets %s", path);
    if (used > SECRETS_MAX)
        return hws_fail(err, EFBIG, "%s: longer than a file of secrets can be (%d bytes)", path,
                        SECRETS_MAX);
    ret[used] = '\0';
    return strlen(ret) < used ? hws_fail(err, EINVAL, "%s: is no text", path) : 0;
}

int secrets_read(const char *path, char ret[SECRETS_MAX + 1], struct hws_error *err)
{
    bool standard_input = !strcmp(path, "-");
    autofd int fd = standard_input ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                                   : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot open the file of secrets %s", path);
    int r = standard_input ? 0 : check_owner(fd, path, err);
    if (r == 0)
        r = read_all(fd, path, ret, err);
    if (r < 0)
        explicit_bzero(ret, SECRETS_MAX + 1);
    return r;
}

/* ---- lines ---- */

static int fail_unknown(const char *name, unsigned number, const struct secrets_field *fields,
                        struct hws_error *err)
{
    char words[256];
    size_t used = 0;
    for (const struct secrets_field *f = fields; f->word; f++) {
        const char *between = f == fields ? "" : f[1].word ? ", " : " or ";
        used += (size_t)snprintf(words + used, sizeof(words) - used, "%s%s", between, f->word);
        assert(used < sizeof(words));
    }
    return hws_fail(err, EINVAL, "%s, line %u: a line is %s, and then the value", name, number,
                    words);
}

static int take_line(const char *line, size_t length, const char *name, unsigned number,
                     const struct secrets_field *fields, struct hws_error *err)
{
    for (const struct secrets_field *f = fields; f->word; f++) {
        size_t word = strlen(f->word), value = length - word;
        if (length < word || strncmp(line, f->word, word) != 0)
            continue;
        if (f->value[0])
            return hws_fail(err, EINVAL, "%s, line %u: %s is there twice", name, number, f->word);
        if (value < f->size)
            memcpy(f->value, line + word, value);
        f->value[value < f->size ? value : 0] = '\0';
        const char *wrong = f->check(f->value);
        return wrong ? hws_fail(err, EINVAL, "%s, line %u: %s %s", name, number, f->word, wrong)
                     : 0;
    }
    return fail_unknown(name, number, fields, err);
}

int secrets_parse(const char *text, const char *name, const struct secrets_field *fields,
                  struct hws_error *err)
{
    int r = 0;
    unsigned number = 1;
    for (const char *at = text; r == 0 && *at; number++) {
        size_t line = strcspn(at, "\n"), length = line;
        while (length && at[length - 1] == '\r')
            length--;
        if (length && at[0] != '#')
            r = take_line(at, length, name, number, fields, err);
        at += line + (at[line] == '\n');
    }
    return r;
}
