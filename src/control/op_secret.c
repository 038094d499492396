/*
 * Secrets: making, replacing and deleting them, and changing the master key that seals them.
 *
 * Each is one transaction. A change of the master key is made of three parts, and is completed at
 * the next start where it was cut off: the new key is in the file beside the old; every secret is
 * sealed with it, in one transaction; the old key goes. Whatever seals holds the model's lock up to
 * its commit, so that nothing is sealed with a key that goes meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/exports.h"
#include "control/secret_value.h"

#define PART_MAX     65536

#define FIELD(field) offsetof(struct secret_request, field)

static const char *const kinds[] = {SECRET_PSK, SECRET_CHAP, SECRET_X509, NULL};
static const char *const generated[] = {SECRET_PSK, SECRET_CHAP, NULL};

#define VALUE_FIELDS                                                                         \
    {"kind", RECORD_TEXT, FIELD(kind), "psk (the default), chap or x509", .choices = kinds}, \
        {"value", RECORD_TEXT, FIELD(value), "the secret", .max = PART_MAX},                 \
        {"generate", RECORD_TEXT, FIELD(generate), "a random one of this kind",              \
         .choices = generated},                                                              \
        {"server-cert", RECORD_TEXT, FIELD(part[0]), "PEM; its issuers may follow",          \
         .max = PART_MAX},                                                                   \
        {"server-key", RECORD_TEXT, FIELD(part[1]), "PEM", .max = PART_MAX},                 \
        {"ca-cert", RECORD_TEXT, FIELD(part[2]), "PEM; whose certificates clients show",     \
         .max = PART_MAX},                                                                   \
        {"ca-crl", RECORD_TEXT, FIELD(part[3]), "PEM; revocations", .max = PART_MAX}, {NULL},

const struct record_field request_secret_create[] = {
    {"name", RECORD_TEXT, FIELD(name), "unique name", true}, VALUE_FIELDS};

const struct record_field request_secret_change[] = {VALUE_FIELDS};

static void free_request(struct secret_request *request)
{
    if (request->value)
        explicit_bzero(request->value, strlen(request->value));
    for (unsigned i = 0; i < SECRET_FILES_MAX; i++)
        if (request->part[i])
            explicit_bzero(request->part[i], strlen(request->part[i]));
    record_free(request_secret_create, request);
}
#define auto_request __attribute__((cleanup(free_request))) struct secret_request

static void free_value(char **value)
{
    vault_free_text(*value);
}
#define auto_value __attribute__((cleanup(free_value))) char

/* What is told of a secret. */
static int describe(struct control *control, json_t *item, struct hws_error *err)
{
    json_object_del(item, "sealed");
    return 0;
}

static json_t *tell(struct control *control, const struct secret *secret)
{
    json_t *item = record_json(secret_type.fields, secret);
    (void)describe(control, item, NULL);
    return item;
}

/* The model is locked up to the commit. */
static int commit_value(struct control *control, struct secret *secret, const char *value,
                        bool fresh, struct hws_error *err)
{
    auto_batch batch = {0};
    autofree char *sealed = NULL;
    auto_secret now = {0};
    control_lock_model(control);
    int r = fresh ? 0 : object_get(control, &secret_type, secret->id, &now, err);
    if (r == 0)
        r = vault_seal(control->vault, secret->id, value, &sealed, err);
    if (r == 0 && record_set_text(&secret->sealed, sealed) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0) {
        control_at(control, "a secret is sealed");
        secret->version = now.version + 1;
        secret->generation = now.generation;
        if (fresh)
            batch_add(&batch, &secret_type, secret);
        else
            batch_put(&batch, &secret_type, secret);
        r = batch_commit(&batch, control, err);
        control_at(control, "a secret is there");
    }
    control_unlock_model(control);
    return r;
}

int control_secret_create(struct control *control, const json_t *given, json_t **ret,
                          struct hws_error *err)
{
    auto_request request = {0};
    auto_secret secret = {0};
    auto_value *value = NULL;
    const char *kind;
    char id[ID_BYTES];
    int r = record_parse(request_secret_create, given, "secret", &request, sizeof(request), err);
    if (r == 0)
        r = name_check("secret", request.name, err);
    if (r == 0)
        r = secret_value(&request, request.name, &kind, &value, err);
    if (r < 0)
        return r;
    id_make(id);
    secret.created = (uint64_t)time(NULL);
    if (record_set_text(&secret.id, id) < 0 || record_set_text(&secret.name, request.name) < 0 ||
        record_set_text(&secret.kind, kind) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    r = commit_value(control, &secret, value, true, err);
    if (r == -EEXIST)
        return hws_fail(err, EEXIST, "there is a secret '%s' already", secret.name);
    if (r < 0)
        return r;
    *ret = tell(control, &secret);
    if (request.generate) /* this once: nobody else knows it */
        json_object_set_new(*ret, "value", json_string(request.value));
    return 0;
}

int control_secret_change(struct control *control, const char *reference, const json_t *given,
                          json_t **ret, struct hws_error *err)
{
    auto_request request = {0};
    auto_secret secret = {0};
    auto_value *value = NULL;
    const char *kind;
    int r = record_parse(request_secret_change, given, "secret", &request, sizeof(request), err);
    if (r == 0)
        r = object_find(control, &secret_type, reference, &secret, err);
    if (r == 0)
        r = secret_value(&request, secret.name, &kind, &value, err);
    if (r == 0 && strcmp(kind, secret.kind) != 0)
        r = hws_fail(err, EINVAL, "secret '%s' is of kind %s, not %s", secret.name, secret.kind,
                     kind);
    if (r == 0)
        r = commit_value(control, &secret, value, false, err);
    if (r < 0)
        return r;
    exports_check_now(control, secret.id); /* whoever came with the old one leaves */
    *ret = tell(control, &secret);
    if (request.generate)
        json_object_set_new(*ret, "value", json_string(request.value));
    return 0;
}

int control_secret_show(struct control *control, const char *reference, json_t **ret,
                        struct hws_error *err)
{
    auto_secret secret = {0};
    int r = object_find(control, &secret_type, reference, &secret, err);
    if (r == 0)
        *ret = tell(control, &secret);
    return r;
}

int control_secret_list(struct control *control, const struct control_page *page, json_t **ret,
                        struct hws_error *err)
{
    return control_page(control, &secret_type, NULL, page, "", describe, ret, err);
}

int control_secret_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_secret secret = {0};
    auto_batch batch = {0};
    control_lock_model(control);
    int r = object_find(control, &secret_type, reference, &secret, err);
    if (r == 0)
        r = exports_refuse_use(control, NULL, NULL, &secret, err);
    if (r == 0) {
        batch_remove(&batch, &secret_type, secret.id);
        r = batch_commit(&batch, control, err);
        control_at(control, "a secret is gone");
    }
    control_unlock_model(control);
    return r;
}

/* ---- for engines ---- */

int secret_files(struct control *control, const char *id, struct secret_files *ret,
                 struct hws_error *err)
{
    auto_secret secret = {0};
    auto_value *value = NULL;
    *ret = (struct secret_files){0};
    int r = object_get(control, &secret_type, id, &secret, err);
    if (r == 0)
        r = vault_unseal(control->vault, secret.id, secret.sealed ? secret.sealed : "", &value,
                         err);
    if (r < 0)
        return secret.name ? hws_wrap(err, r, "secret '%s'", secret.name) : r;
    ret->version = secret.version;
    return secret_value_files(secret.kind, value, ret, err);
}

/* ---- the master key ---- */

static int seal_again(struct control *control, const json_t *value, struct batch *batch,
                      struct hws_error *err)
{
    auto_secret secret = {0};
    auto_value *text = NULL;
    int r = object_parse(&secret_type, value, &secret, err);
    if (r < 0 || (secret.sealed && vault_is_newest(control->vault, secret.sealed)))
        return r;
    free(steal_ptr(&secret.sealed));
    const char *sealed = json_string_value(json_object_get(value, "sealed"));
    r = vault_unseal(control->vault, secret.id, sealed ? sealed : "", &text, err);
    if (r == 0)
        r = vault_seal(control->vault, secret.id, text, &secret.sealed, err);
    if (r < 0)
        return hws_wrap(err, r, "secret '%s'", secret.name);
    batch_put(batch, &secret_type, &secret);
    return 0;
}

/* The model is locked. */
static int seal_all(struct control *control, struct hws_error *err)
{
    auto_batch batch = {0};
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &secret_type, NULL, &list, err);
    json_array_foreach(list, i, value)
    {
        if (r == 0)
            r = seal_again(control, value, &batch, err);
    }
    if (r == 0 && batch.count > 0)
        r = batch_commit(&batch, control, err);
    control_at(control, "secrets are sealed anew");
    if (r == 0)
        r = vault_drop_old(control->vault, err);
    control_at(control, "the old master key is gone");
    return r;
}

int control_secret_rotate(struct control *control, json_t **ret, struct hws_error *err)
{
    unsigned count;
    control_lock_model(control);
    int r = vault_add_key(control->vault, err);
    control_at(control, "a new master key is there");
    if (r == 0)
        r = seal_all(control, err);
    control_unlock_model(control);
    if (r == 0)
        r = control->store->driver->count(control->store, secret_type.kind, NULL, &count, err);
    if (r == 0)
        *ret = json_pack("{s:i}", "secrets", (int)count);
    return r;
}

int secrets_recover(struct control *control, struct hws_error *err)
{
    bool old;
    control_lock_model(control);
    int r = vault_has_old(control->vault, &old, err);
    if (r == 0 && old) {
        r = seal_all(control, err);
        if (r == 0)
            log_info("a change of the master key was completed");
    }
    control_unlock_model(control);
    return r;
}
