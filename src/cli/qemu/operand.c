/*
 * Images on the command line: plain names, "file:", "null-co:", "json:" and --image-opts. Each
 * becomes what the library opens, with qemu-img's trust: whatever an image names is opened, and
 * raw is what has no known header.
 *
 * The header is read here as well, before the library opens the image, only to tell in qemu's words
 * what is wrong and to know the format's name; the library looks again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu/qemu.h"
#include <fcntl.h>
#include <sys/stat.h>

/* qemu's drivers and ours. The first of several is the one that is shown. */
static const struct {
    const char *shown, *known;
} drivers[] = {
    {"qcow2", "qcow2"},  {"raw", "raw"},       {"file", "file"},
    {"null-co", "null"}, {"null-aio", "null"}, {"host_device", "file"},
};

const char *qi_driver_shown(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(drivers); i++)
        if (strcmp(drivers[i].known, name) == 0)
            return drivers[i].shown;
    return name;
}

const char *qi_driver_known(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(drivers); i++)
        if (strcmp(drivers[i].shown, name) == 0)
            return drivers[i].known;
    return NULL;
}

/* Bytes of the protocol in front of a name, 0 where it has none. */
static size_t protocol_length(const char *text)
{
    size_t length = strcspn(text, ":/");
    return text[length] == ':' ? length : 0;
}

const char *qi_local_file(const char *text)
{
    size_t protocol = protocol_length(text);
    if (!protocol)
        return text;
    if (protocol == 4 && strncmp(text, "file", 4) == 0)
        return text + 5;
    if (protocol == 11 && strncmp(text, "host_device", 11) == 0)
        return text + 12;
    return NULL;
}

char *qi_beside(const char *image, const char *name)
{
    char *path;
    const char *slash = strrchr(image, '/');
    bool alone = !slash || *name == '/' || protocol_length(name);
    if (asprintf(&path, "%.*s%s", alone ? 0 : (int)(slash - image) + 1, image, name) < 0)
        return NULL;
    return path;
}

static int refuse(const struct qi_operand *operand, int code, const char *format, ...)
    HWS_PRINTF(3, 4);

static int refuse(const struct qi_operand *operand, int code, const char *format, ...)
{
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof(why), format, arguments);
    va_end(arguments);
    qi_error("%s '%s': %s", qi_tool->cannot_open, operand->text, why);
    return -code;
}

/* ---- --image-opts ---- */

#define KEY_PARTS_MAX 8

/* Puts @value at "a.b.c" of @object. */
static int put_dotted(json_t *object, const char *key, const char *value)
{
    char part[128];
    for (unsigned depth = 0; depth < KEY_PARTS_MAX; depth++) {
        size_t length = strcspn(key, ".");
        if (length >= sizeof(part))
            return -EINVAL;
        snprintf(part, sizeof(part), "%.*s", (int)length, key);
        if (!key[length])
            return json_object_set_new(object, part, json_string_nocheck(value)) < 0 ? -ENOMEM : 0;
        json_t *next = json_object_get(object, part);
        if (!next && json_object_set_new(object, part, next = json_object()) < 0)
            return -ENOMEM;
        if (!json_is_object(next))
            return -EINVAL;
        object = next;
        key += length + 1;
    }
    return -EINVAL;
}

/* The value that begins at @text, ",," in it being a comma; @ret_end where it ends. */
static char *take_value(const char *text, const char **ret_end)
{
    char *value = malloc(strlen(text) + 1);
    size_t used = 0;
    for (; value && *text && (*text != ',' || text[1] == ','); text++) {
        value[used++] = *text;
        if (*text == ',')
            text++;
    }
    if (value)
        value[used] = '\0';
    *ret_end = text;
    return value;
}

/* "driver=qcow2,file.filename=x" as an object. The first word may be a node's name. */
static int parse_opts(const struct qi_operand *operand, json_t *object)
{
    const char *at = operand->text;
    for (bool first = true; *at; first = false) {
        char key[256];
        size_t length = strcspn(at, "=,");
        if (first && at[length] != '=')
            return refuse(operand, ENODEV, "Cannot find device='%.*s' nor node-name='%.*s'",
                          (int)length, at, (int)length, at);
        if (length >= sizeof(key))
            return refuse(operand, EINVAL, "an option's name is longer than %zu", sizeof(key));
        snprintf(key, sizeof(key), "%.*s", (int)length, at);
        autofree char *value = NULL;
        if (at[length] == '=')
            value = take_value(at + length + 1, &at);
        else
            value = strdup("on"), at += length;
        int r = value ? put_dotted(object, key, value) : -ENOMEM;
        if (r < 0)
            return refuse(operand, -r, "Cannot set '%s'", key);
        if (*at == ',')
            at++;
    }
    return 0;
}

static bool is_on(json_t *value)
{
    const char *text = json_string_value(value);
    return json_is_true(value) || (text && (!strcmp(text, "on") || !strcmp(text, "yes")));
}

/* Options that every node of qemu has, turned into what the library calls so. */
static void take_generic(struct qi_operand *operand, json_t *node)
{
    json_t *cache = json_object_get(node, "cache");
    if (json_is_object(cache)) {
        if (is_on(json_object_get(cache, "no-flush")))
            operand->image.cache = "unsafe";
        else if (is_on(json_object_get(cache, "direct")))
            operand->image.cache = "none";
        json_object_del(node, "cache");
    }
    if (is_on(json_object_get(node, "force-share")))
        operand->image.force_share = true;
    json_object_del(node, "force-share");
    json_object_del(node, "node-name");
    json_object_del(node, "auto-read-only");
    /* Nothing here writes what the command does not write. */
    if (!(operand->reach & QI_WRITE) || !is_on(json_object_get(node, "read-only")))
        json_object_del(node, "read-only");
}

static int take_node(struct qi_operand *operand, json_t *node, unsigned depth)
{
    const char *driver = json_string_value(json_object_get(node, "driver"));
    const char *filename = json_string_value(json_object_get(node, "filename"));
    json_t *file = json_object_get(node, "file");
    take_generic(operand, node);
    if (json_object_get(node, "read-only"))
        return refuse(operand, EROFS, "Block node is read-only");
    if (driver && !qi_driver_known(driver))
        return refuse(operand, EINVAL, "Unknown driver '%s'", driver);
    if (!driver && filename && depth)
        json_object_set_new(node, "driver", json_string("file"));
    else if (driver)
        json_object_set_new(node, "driver", json_string(qi_driver_known(driver)));
    driver = json_string_value(json_object_get(node, "driver"));
    if (driver && !strcmp(driver, "null") && !json_object_get(node, "size"))
        json_object_set_new(node, "size", json_string("1G"));
    if (filename && !operand->file)
        operand->file = strdup(filename);
    if (!driver && !file)
        return refuse(operand, EINVAL, "Must specify either driver or file");
    if (!file && driver && (!strcmp(driver, "qcow2") || !strcmp(driver, "raw")))
        return refuse(operand, EINVAL, "A block device must be specified for \"file\"");
    int r = json_is_object(file) && depth < KEY_PARTS_MAX ? take_node(operand, file, depth + 1) : 0;
    json_t *backing = json_object_get(node, "backing");
    if (r == 0 && json_is_object(backing) && depth < KEY_PARTS_MAX) {
        char *own = operand->file;
        operand->file = strdup("");
        r = take_node(operand, backing, depth + 1);
        free(operand->file);
        operand->file = own;
    }
    return r;
}

/* Says no more than the name of a file, and what its format is? */
static bool says_file_only(json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (strcmp(key, "driver") && strcmp(key, "filename") && strcmp(key, "file"))
            return false;
        if (json_is_object(value) && !says_file_only(value))
            return false;
    }
    return true;
}

/* The order in which qemu's hash table yields the options that there are. */
static json_t *reordered(json_t *object)
{
    static const char *const order[] = {"offset", "driver", "size"};
    json_t *out = json_object(), *value;
    const char *key;
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        if ((value = json_object_get(object, order[i])))
            json_object_set(out, order[i], value);
    json_object_foreach(object, key, value) if (!json_object_get(out, key)) json_object_set_new(
        out, key, json_is_object(value) ? reordered(value) : json_incref(value));
    return out;
}

static int take_description(struct qi_operand *operand, json_t *object)
{
    autofree char *typed = NULL;
    bool plain = says_file_only(object);
    json_t *file = json_object_get(object, "file");
    if (json_is_object(file) && !json_object_get(file, "driver"))
        json_object_set_new(file, "driver", json_string("file"));
    json_t *ordered = reordered(object);
    typed = json_dumps(ordered, 0);
    json_decref(ordered);
    const char *driver = json_string_value(json_object_get(object, "driver"));
    snprintf(operand->driver, sizeof(operand->driver), "%s", driver ? driver : "");
    int r = take_node(operand, object, 0);
    autofree char *text = r == 0 ? json_dumps(object, JSON_COMPACT) : NULL;
    if (r < 0)
        return r;
    if (!typed || !text || asprintf(&operand->path, "json:%s", text) < 0)
        return refuse(operand, ENOMEM, "out of memory");
    if (plain && operand->file)
        operand->shown = strdup(operand->file);
    else if (asprintf(&operand->shown, "json:%s", typed) < 0)
        operand->shown = NULL;
    return operand->shown ? 0 : refuse(operand, ENOMEM, "out of memory");
}

static int take_opts(struct qi_operand *operand)
{
    json_t *object = json_object();
    int r = parse_opts(operand, object);
    if (r == 0)
        r = take_description(operand, object);
    json_decref(object);
    return r;
}

static int take_json(struct qi_operand *operand)
{
    json_error_t where;
    json_t *object = json_loads(operand->text + 5, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(object)) {
        json_decref(object);
        return refuse(operand, EINVAL, "Could not parse the JSON options: %s", where.text);
    }
    if (operand->format)
        json_object_set_new(object, "driver", json_string(operand->format));
    int r = take_description(operand, object);
    json_decref(object);
    return r;
}

/* ---- plain names ---- */

/* A name that the library would take for more than a path. */
static char *as_path(const char *file)
{
    char *path;
    bool plain = !strchr(file, ':') && *file != '{';
    return asprintf(&path, "%s%s", plain ? "" : "file:", file) < 0 ? NULL : path;
}

static int take_null(struct qi_operand *operand, size_t protocol)
{
    const char *format = operand->format ? operand->format : "raw";
    snprintf(operand->driver, sizeof(operand->driver), "%s", format);
    operand->shown = strdup(operand->text);
    operand->image.format = qi_driver_known(format);
    operand->path = strdup("null://1G");
    if (strcmp(operand->text + protocol, "://") != 0)
        return refuse(operand, EINVAL, "The only allowed filename for this driver is '%.*s://'",
                      (int)protocol, operand->text);
    return operand->path && operand->shown ? 0 : refuse(operand, ENOMEM, "out of memory");
}

static int take_name(struct qi_operand *operand)
{
    size_t protocol = protocol_length(operand->text);
    const char *file = qi_local_file(operand->text);
    if (operand->format && !qi_driver_known(operand->format))
        return refuse(operand, EINVAL, "Unknown driver '%s'", operand->format);
    if (!file && ((protocol == 7 && strncmp(operand->text, "null-co", 7) == 0) ||
                  (protocol == 8 && strncmp(operand->text, "null-aio", 8) == 0)))
        return take_null(operand, protocol);
    if (!file)
        return refuse(operand, EINVAL, "Unknown protocol '%.*s'", (int)protocol, operand->text);
    operand->file = strdup(file);
    operand->shown = strdup(file);
    operand->path = as_path(file);
    if (operand->format) {
        snprintf(operand->driver, sizeof(operand->driver), "%s", operand->format);
        operand->image.format = qi_driver_known(operand->format);
    }
    /* The file itself, with no format on top. */
    if (operand->image.format && strcmp(operand->image.format, "file") == 0) {
        json_t *object = json_pack("{s:s}", "driver", "file");
        json_object_set_new(object, "filename", json_string_nocheck(file));
        char *text = json_dumps(object, JSON_COMPACT);
        json_decref(object);
        free(operand->path);
        if (!text || asprintf(&operand->path, "json:%s", text) < 0)
            operand->path = NULL;
        free(text);
        operand->image.format = NULL;
    }
    if (!operand->file || !operand->shown || !operand->path)
        return refuse(operand, ENOMEM, "out of memory");
    return 0;
}

/* ---- looking at the file ---- */

#define HEAD_BYTES 4096

/* Opens the file as the library will, for what can be told of it. */
static int look(struct qi_operand *operand)
{
    uint8_t head[HEAD_BYTES];
    struct stat st;
    bool write = operand->reach & QI_WRITE;
    autofd int fd = open(operand->file, (write ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (write || errno != EISDIR))
        return refuse(operand, errno, "Could not open '%s': %s", operand->file, strerror(errno));
    if (fd < 0 || fstat(fd, &st) < 0 || S_ISDIR(st.st_mode))
        return refuse(operand, EISDIR, "'file' driver requires '%s' to be a regular file",
                      operand->file);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return 0;
    ssize_t got = pread(fd, head, sizeof(head), 0);
    const char *found = got > 0 ? hws_probe(head, (size_t)got) : NULL;
    if (strcmp(operand->driver, "qcow2") == 0 && (got < 4 || memcmp(head, "QFI\xfb", 4) != 0))
        return refuse(operand, EINVAL, "Image is not in qcow2 format");
    if (*operand->driver)
        return 0;
    const char *foreign = got > 0 ? hws_foreign_format(head, (size_t)got) : NULL;
    if (!found && foreign)
        return refuse(operand, ENOTSUP, "Unknown driver '%s'", foreign);
    snprintf(operand->driver, sizeof(operand->driver), "%s", found ? found : "raw");
    return 0;
}

int qi_operand(struct qi_operand *operand, const char *text, const char *format, const char *cache,
               unsigned reach)
{
    if (cache && strcmp(cache, "off") == 0)
        cache = "none";
    *operand = (struct qi_operand){
        .text = text,
        .format = format,
        .reach = reach,
        .image = {.trust_names = true,
                  .probe_raw = true,
                  .force_share = reach & QI_FORCE_SHARE,
                  .cache = cache},
    };
    int r = reach & QI_IMAGE_OPTS            ? take_opts(operand)
            : strncmp(text, "json:", 5) == 0 ? take_json(operand)
                                             : take_name(operand);
    if (r == 0 && operand->image.force_share && reach & QI_WRITE)
        r = refuse(operand, EINVAL, "force-share=on can only be used with read-only images");
    if (r == 0 && operand->file)
        r = look(operand);
    operand->image.path = operand->path;
    return r;
}

int qi_virtual_size(const struct qi_operand *operand, uint64_t *ret, struct hws_error *err)
{
    char *text;
    int r = hws_info(&operand->image, true, &text, err);
    if (r < 0)
        return r;
    json_t *info = json_loads(text, 0, NULL);
    free(text);
    *ret = (uint64_t)json_integer_value(json_object_get(json_array_get(info, 0), "virtual-size"));
    json_decref(info);
    return 0;
}

/* Growing it by nothing takes the locks that writing takes, and changes nothing. */
int qi_target_free(const char *file, struct hws_error *err)
{
    struct stat st;
    uint64_t size;
    struct hws_image image = {.path = file, .format = "raw"};
    struct hws_resize nothing = {.relative = 1};
    if (stat(file, &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    return hws_resize(&image, &nothing, &size, err) == -EAGAIN ? -EAGAIN : 0;
}

void qi_warn_raw(const struct qi_operand *operand)
{
    if (operand->format || operand->reach & QI_IMAGE_OPTS || strcmp(operand->driver, "raw") != 0 ||
        !operand->file)
        return;
    fprintf(stderr,
            "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write "
            "operations on block 0 will be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.\n",
            operand->file);
}

void qi_operand_free(struct qi_operand *operand)
{
    free(operand->path);
    free(operand->file);
    free(operand->shown);
    operand->path = operand->file = operand->shown = NULL;
}
