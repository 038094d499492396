/*
 * --object: credentials for TLS, by their ID. Written as "TYPE,id=ID,name=value,..." or as JSON.
 *
 * Secrets are taken and checked because command lines define them; nothing here uses one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"

struct qn_object {
    struct qn_object *next;
    char *id;
    bool is_creds;
    struct qn_creds creds;
};

/* What a property takes. */
enum kind { TEXT, SWITCH, ENDPOINT };

struct property {
    const char *name;
    enum kind kind;
    bool required;
};

static const struct property x509_properties[] = {
    {"dir", TEXT, false}, {"endpoint", ENDPOINT, false}, {"verify-peer", SWITCH, false}, {NULL}};
static const struct property psk_properties[] = {
    {"dir", TEXT, false}, {"endpoint", ENDPOINT, false}, {"username", TEXT, false}, {NULL}};
static const struct property secret_properties[] = {
    {"data", TEXT, false}, {"file", TEXT, false}, {"format", TEXT, false}, {NULL}};

static const struct type {
    const char *name;
    const struct property *properties;
} types[] = {
    {"tls-creds-x509", x509_properties},
    {"tls-creds-psk", psk_properties},
    {"secret", secret_properties},
};

static const char *text_of(json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static bool is_on(const char *text)
{
    return !strcmp(text, "on") || !strcmp(text, "yes") || !strcmp(text, "true") ||
           !strcmp(text, "y");
}

static bool is_off(const char *text)
{
    return !strcmp(text, "off") || !strcmp(text, "no") || !strcmp(text, "false") ||
           !strcmp(text, "n");
}

/* ---- reading ---- */

/* The value that begins at @text, ",," in it being a comma. @ret_end where it ends. */
static char *take_value(const char *text, const char **ret_end)
{
    char *value = malloc(strlen(text) + 1), *to = value;
    for (; value && *text && (*text != ',' || text[1] == ','); text++) {
        *to++ = *text;
        if (*text == ',')
            text++;
    }
    if (value)
        *to = '\0';
    *ret_end = text;
    return value;
}

static json_t *parse_words(const char *text)
{
    json_t *object = json_object();
    for (bool first = true; *text; first = false) {
        size_t length = strcspn(text, "=,");
        bool named = text[length] == '=';
        autofree char *name = named ? strndup(text, length) : strdup("qom-type");
        autofree char *value = take_value(named ? text + length + 1 : text, &text);
        if (!named && !first) {
            qi_error("Expected '=' after parameter '%s'", value ? value : "");
            json_decref(object);
            return NULL;
        }
        json_t *string = name && value ? json_string(value) : NULL;
        if (!string) {
            qi_error("--object: a value is no UTF-8");
            json_decref(object);
            return NULL;
        }
        json_object_set_new(object, name, string);
        text += *text == ',';
    }
    return object;
}

/* Switches are texts from here on. */
static json_t *parse_json(const char *text)
{
    json_error_t where;
    const char *name;
    json_t *value, *object = json_loads(text, JSON_REJECT_DUPLICATES, &where), *texts;
    if (!json_is_object(object)) {
        qi_error("--object: %s", where.text);
        json_decref(object);
        return NULL;
    }
    texts = json_object();
    json_object_foreach(object, name, value)
    {
        json_t *as_text = json_is_boolean(value) ? json_string(json_is_true(value) ? "on" : "off")
                                                 : json_incref(value);
        json_object_set_new(texts, name, as_text);
    }
    json_decref(object);
    return texts;
}

/* ---- checking ---- */

static int check_id(const char *id)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    if (!id)
        return qi_error("Parameter 'id' is missing");
    size_t good = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._");
    if (!*id || !strchr(letters, *id) || id[good])
        return qi_error("Parameter 'id' expects an identifier\n"
                        "Identifiers consist of letters, digits, '-', '.', '_', starting with a "
                        "letter.");
    return 0;
}

static const struct property *find_property(const struct property *at, const char *name)
{
    while (at->name && strcmp(at->name, name) != 0)
        at++;
    return at->name ? at : NULL;
}

static int check_properties(const struct type *type, json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        const struct property *property = find_property(type->properties, name);
        const char *text = json_string_value(value);
        if (!strcmp(name, "qom-type") || !strcmp(name, "id"))
            continue;
        if (!property)
            return qi_error("Parameter '%s' is unexpected", name);
        if (!text)
            return qi_error("Invalid parameter type for '%s', expected: string", name);
        if (property->kind == SWITCH && !is_on(text) && !is_off(text))
            return qi_error("Parameter '%s' expects 'on' or 'off'", name);
        if (property->kind == ENDPOINT && strcmp(text, "client") != 0 &&
            strcmp(text, "server") != 0)
            return qi_error("Parameter '%s' does not accept value '%s'", name, text);
    }
    return 0;
}

static int check_secret(json_t *object)
{
    const char *data = text_of(object, "data"), *file = text_of(object, "file");
    if (data && file)
        return qi_error("'file' and 'data' are mutually exclusive");
    if (!data && !file)
        return qi_error("Either 'file' or 'data' must be provided");
    if (file && access(file, R_OK) < 0)
        return qi_error("Unable to read %s: Failed to open file “%s”: %s", file, file,
                        strerror(errno));
    return 0;
}

static int check_file(const struct qn_creds *creds, const char *name)
{
    autofree char *path = NULL;
    if (asprintf(&path, "%s/%s", creds->folder, name) < 0)
        return qi_error("out of memory");
    return access(path, R_OK) < 0
               ? qi_error("Unable to access credentials %s: %s", path, strerror(errno))
               : 0;
}

/* The files must be there now; the server or client says what is wrong with them. */
static int make_creds(const struct type *type, json_t *object, struct qn_creds *creds)
{
    const char *folder = text_of(object, "dir"), *endpoint = text_of(object, "endpoint");
    const char *verify = text_of(object, "verify-peer"), *username = text_of(object, "username");
    creds->psk = type->properties == psk_properties;
    creds->server = endpoint && !strcmp(endpoint, "server");
    creds->verify_peer = !verify || is_on(verify);
    if (!folder)
        return qi_error("Missing 'dir' property value");
    creds->folder = strdup(folder);
    creds->username = strdup(username ? username : "qemu");
    if (!creds->folder || !creds->username)
        return qi_error("out of memory");
    if (creds->psk)
        return check_file(creds, "keys.psk");
    int code = check_file(creds, "ca-cert.pem");
    if (!code && creds->server)
        code = check_file(creds, "server-cert.pem") || check_file(creds, "server-key.pem");
    return code;
}

/* ---- the list ---- */

static struct qn_object *find(struct qn_object *at, const char *id)
{
    while (at && strcmp(at->id, id) != 0)
        at = at->next;
    return at;
}

static int add(struct qn_object **objects, const struct type *type, json_t *object)
{
    const char *id = text_of(object, "id");
    if (check_properties(type, object) || check_id(id))
        return 1;
    if (find(*objects, id))
        return qi_error("attempt to add duplicate property '%s' to object (type 'container')", id);
    struct qn_object *made = calloc(1, sizeof(*made));
    if (!made || !(made->id = strdup(id))) {
        free(made);
        return qi_error("out of memory");
    }
    made->next = *objects;
    *objects = made;
    made->is_creds = type->properties != secret_properties;
    return made->is_creds ? make_creds(type, object, &made->creds) : check_secret(object);
}

int qn_object_add(struct qn_object **objects, const char *text)
{
    json_t *object = *text == '{' ? parse_json(text) : parse_words(text);
    if (!object)
        return 1;
    const char *name = text_of(object, "qom-type");
    int code = -1;
    if (!name)
        code = qi_error("Parameter 'qom-type' is missing");
    for (unsigned i = 0; code < 0 && i < ARRAY_LEN(types); i++)
        if (strcmp(types[i].name, name) == 0)
            code = add(objects, &types[i], object);
    if (code < 0)
        code = qi_error("Parameter 'qom-type' does not accept value '%s'", name);
    json_decref(object);
    return code;
}

const struct qn_creds *qn_creds_find(struct qn_object *objects, const char *id, bool server)
{
    struct qn_object *found = find(objects, id);
    if (!found)
        qi_error("Failed to get TLS creds: No TLS credentials with id '%s'", id);
    else if (!found->is_creds)
        qi_error("Failed to get TLS creds: Object with id '%s' is not TLS credentials", id);
    else if (found->creds.server != server)
        qi_error("Failed to get TLS creds: Expected TLS credentials for a %s endpoint",
                 server ? "server" : "client");
    else
        return &found->creds;
    return NULL;
}

void qn_objects_free(struct qn_object *objects)
{
    while (objects) {
        struct qn_object *next = objects->next;
        free(objects->id);
        free(objects->creds.folder);
        free(objects->creds.username);
        free(objects);
        objects = next;
    }
}
