/*
 * Master keys wrapped by a key of a PKCS#11 token (a smart card, an HSM): AES-256-GCM in the token,
 * by a secret key that does not leave it.
 *
 *   master-key = pkcs11:MODULE;token=LABEL;key=LABEL;pin-file=PATH
 *
 * The token's module is loaded when a key is wrapped or unwrapped, and let go after it: hawserd
 * needs it once a start, and with a new master key. `pkcs11-tool --keygen --key-type AES:32` makes
 * the key.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/vault.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <p11-kit/pkcs11.h>
#include <sys/stat.h>

#define IV_BYTES  12
#define TAG_BYTES 16
#define SLOTS_MAX 64
#define PIN_MAX   128

struct place {
    char *text; /* owns what the others point into */
    char *module, *token, *key, *pin_file;
};

struct token {
    void *library;
    CK_FUNCTION_LIST *f;
    bool begun;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
};

static int failed(struct hws_error *err, const char *what, CK_RV rv)
{
    int error = rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LOCKED ? EACCES : EIO;
    return hws_fail(err, error, "PKCS#11: %s failed with 0x%lx", what, (unsigned long)rv);
}

/* ---- where it is ---- */

static int parse(const char *argument, struct place *ret, struct hws_error *err)
{
    *ret = (struct place){.text = argument ? strdup(argument) : NULL};
    char *rest = ret->text, *word;
    ret->module = rest ? strsep(&rest, ";") : NULL;
    while (rest && (word = strsep(&rest, ";"))) {
        char *value = strchr(word, '=');
        if (value)
            *value++ = '\0';
        if (value && !strcmp(word, "token"))
            ret->token = value;
        else if (value && !strcmp(word, "key"))
            ret->key = value;
        else if (value && !strcmp(word, "pin-file"))
            ret->pin_file = value;
        else
            ret->module = NULL;
    }
    if (!ret->module || !*ret->module || !ret->token || !ret->key || !ret->pin_file)
        return hws_fail(err, EINVAL,
                        "master-key: it is pkcs11:MODULE;token=LABEL;key=LABEL;pin-file=PATH");
    return 0;
}

static int read_pin(const char *path, char pin[PIN_MAX], struct hws_error *err)
{
    struct stat st;
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return hws_fail_errno(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 077))
        return hws_fail(err, EPERM, "%s must be a file of this user that nobody else can read",
                        path);
    ssize_t n = read(fd, pin, PIN_MAX - 1);
    if (n <= 0)
        return hws_fail(err, EINVAL, "%s has no PIN", path);
    pin[n] = '\0';
    pin[strcspn(pin, "\r\n")] = '\0';
    return 0;
}

/* ---- the token ---- */

static bool is_token(CK_FUNCTION_LIST *f, CK_SLOT_ID slot, const char *label)
{
    CK_TOKEN_INFO info;
    size_t length = strlen(label);
    if (length > sizeof(info.label) || f->C_GetTokenInfo(slot, &info) != CKR_OK)
        return false;
    for (size_t i = length; i < sizeof(info.label); i++)
        if (info.label[i] != ' ')
            return false;
    return !memcmp(info.label, label, length);
}

static int find_slot(CK_FUNCTION_LIST *f, const char *label, CK_SLOT_ID *ret, struct hws_error *err)
{
    CK_SLOT_ID slots[SLOTS_MAX];
    CK_ULONG count = SLOTS_MAX;
    CK_RV rv = f->C_GetSlotList(CK_TRUE, slots, &count);
    if (rv != CKR_OK)
        return failed(err, "the list of tokens", rv);
    for (CK_ULONG i = 0; i < count; i++) {
        if (is_token(f, slots[i], label)) {
            *ret = slots[i];
            return 0;
        }
    }
    return hws_fail(err, ENODEV, "PKCS#11: there is no token '%s'", label);
}

static int find_key(struct token *token, char *label, struct hws_error *err)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof(class)},
                             {CKA_KEY_TYPE, &type, sizeof(type)},
                             {CKA_LABEL, label, strlen(label)}};
    CK_ULONG found = 0;
    CK_OBJECT_HANDLE keys[2];
    CK_RV rv = token->f->C_FindObjectsInit(token->session, wanted, ARRAY_LEN(wanted));
    if (rv == CKR_OK) {
        rv = token->f->C_FindObjects(token->session, keys, ARRAY_LEN(keys), &found);
        token->f->C_FindObjectsFinal(token->session);
    }
    if (rv != CKR_OK)
        return failed(err, "looking for the key", rv);
    token->key = keys[0];
    return found == 1
               ? 0
               : hws_fail(err, found ? EEXIST : ENOKEY, "PKCS#11: the token has %s AES key '%s'",
                          found ? "more than one" : "no", label);
}

static int load_module(struct token *token, const char *path, struct hws_error *err)
{
    token->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!token->library)
        return hws_fail(err, ENOENT, "PKCS#11: %.300s", dlerror());
    CK_C_GetFunctionList get = (CK_C_GetFunctionList)dlsym(token->library, "C_GetFunctionList");
    if (!get || get(&token->f) != CKR_OK)
        return hws_fail(err, EINVAL, "%s is no PKCS#11 module", path);
    CK_C_INITIALIZE_ARGS how = {.flags = CKF_OS_LOCKING_OK};
    CK_RV rv = token->f->C_Initialize(&how);
    if (rv != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED)
        return failed(err, "beginning", rv);
    token->begun = true;
    return 0;
}

static void token_close(struct token *token)
{
    if (token->session)
        token->f->C_CloseSession(token->session);
    if (token->begun)
        token->f->C_Finalize(NULL);
    if (token->library)
        dlclose(token->library);
}

static int open_place(const struct place *place, struct token *ret, struct hws_error *err)
{
    char pin[PIN_MAX];
    CK_SLOT_ID slot = 0;
    int r = load_module(ret, place->module, err);
    if (r == 0)
        r = find_slot(ret->f, place->token, &slot, err);
    if (r == 0)
        r = read_pin(place->pin_file, pin, err);
    if (r < 0)
        return r;
    CK_RV rv = ret->f->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &ret->session);
    if (rv == CKR_OK)
        rv = ret->f->C_Login(ret->session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin));
    explicit_bzero(pin, sizeof(pin));
    if (rv != CKR_OK && rv != CKR_USER_ALREADY_LOGGED_IN)
        return failed(err, "the login", rv);
    return find_key(ret, place->key, err);
}

static int token_open(const char *argument, struct token *ret, struct hws_error *err)
{
    struct place place;
    *ret = (struct token){0};
    int r = parse(argument, &place, err);
    if (r == 0)
        r = open_place(&place, ret, err);
    free(place.text);
    if (r < 0)
        token_close(ret);
    return r;
}

/* ---- wrapping ---- */

static int wrap(const char *argument, const uint8_t key[VAULT_KEY_BYTES], char **ret,
                struct hws_error *err)
{
    struct token token;
    uint8_t out[IV_BYTES + VAULT_KEY_BYTES + TAG_BYTES];
    char digits[2 * IV_BYTES + 1];
    CK_ULONG length = sizeof(out) - IV_BYTES;
    int r = vault_random_text(digits, IV_BYTES, err);
    if (r == 0)
        r = vault_from_hex(digits, out, IV_BYTES);
    if (r == 0)
        r = token_open(argument, &token, err);
    if (r < 0)
        return r;
    CK_GCM_PARAMS gcm = {
        .pIv = out, .ulIvLen = IV_BYTES, .ulIvBits = 8 * IV_BYTES, .ulTagBits = 8 * TAG_BYTES};
    CK_MECHANISM how = {CKM_AES_GCM, &gcm, sizeof(gcm)};
    CK_RV rv = token.f->C_EncryptInit(token.session, &how, token.key);
    if (rv == CKR_OK)
        rv = token.f->C_Encrypt(token.session, (CK_BYTE *)key, VAULT_KEY_BYTES, out + IV_BYTES,
                                &length);
    token_close(&token);
    if (rv != CKR_OK || length != sizeof(out) - IV_BYTES)
        return failed(err, "AES-GCM", rv);
    char *text = malloc(2 * sizeof(out) + 1);
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    vault_to_hex(out, sizeof(out), text);
    *ret = text;
    return 0;
}

static int unwrap(const char *argument, const char *text, uint8_t key[VAULT_KEY_BYTES],
                  struct hws_error *err)
{
    struct token token;
    uint8_t in[IV_BYTES + VAULT_KEY_BYTES + TAG_BYTES];
    uint8_t out[sizeof(in)]; /* tokens want as much as goes in */
    CK_ULONG length = sizeof(out);
    if (vault_from_hex(text, in, sizeof(in)) < 0)
        return hws_fail(err, EUCLEAN, "the wrapped key is damaged");
    int r = token_open(argument, &token, err);
    if (r < 0)
        return r;
    CK_GCM_PARAMS gcm = {
        .pIv = in, .ulIvLen = IV_BYTES, .ulIvBits = 8 * IV_BYTES, .ulTagBits = 8 * TAG_BYTES};
    CK_MECHANISM how = {CKM_AES_GCM, &gcm, sizeof(gcm)};
    CK_RV rv = token.f->C_DecryptInit(token.session, &how, token.key);
    if (rv == CKR_OK)
        rv = token.f->C_Decrypt(token.session, in + IV_BYTES, sizeof(in) - IV_BYTES, out, &length);
    token_close(&token);
    if (rv != CKR_OK || length != VAULT_KEY_BYTES)
        return failed(err, "AES-GCM", rv);
    memcpy(key, out, VAULT_KEY_BYTES);
    explicit_bzero(out, sizeof(out));
    return 0;
}

const struct vault_keeper vault_pkcs11 = {"pkcs11", wrap, unwrap};
