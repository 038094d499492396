/*
 * Sealing texts, and the file of master keys; see control/vault.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/vault.h"
#include "control/internal.h"
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#define NONCE_BYTES 12
#define TAG_BYTES   16
/** Keys in the file: more than the two of a change that is under way. */
#define KEYS_MAX   8
#define FILE_MAX   65536
#define SEALED_MAX (256 * 1024)

struct vault_key {
    char id[VAULT_KEY_ID_BYTES];
    char *wrapped; /* as in the file, with its word */
    uint8_t bytes[VAULT_KEY_BYTES];
    bool open;
};

struct vault {
    pthread_mutex_t mutex;
    char *path;
    const struct vault_keeper *keeper; /* of new keys */
    char *argument;
    bool loaded;
    unsigned count;
    struct vault_key keys[KEYS_MAX]; /* the newest first */
};

static const struct vault_keeper *const keepers[] = {
    &vault_plain,
#ifdef HAVE_TPM2
    &vault_tpm2,
#endif
#ifdef HAVE_PKCS11
    &vault_pkcs11,
#endif
};

/* ---- texts ---- */

void vault_to_hex(const uint8_t *bytes, size_t count, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 15];
    }
    *text = '\0';
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int vault_from_hex(const char *text, uint8_t *bytes, size_t count)
{
    if (strlen(text) != 2 * count)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

int vault_random_text(char *text, size_t bytes, struct hws_error *err)
{
    uint8_t random[64];
    assert(bytes <= sizeof(random));
    if (RAND_bytes(random, (int)bytes) != 1)
        return hws_fail(err, EIO, "the system gives no random bytes");
    vault_to_hex(random, bytes, text);
    explicit_bzero(random, sizeof(random));
    return 0;
}

void vault_free_text(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

/* ---- keys that lie in the file as they are ---- */

static int wrap_plain(const char *argument, const uint8_t key[VAULT_KEY_BYTES], char **ret,
                      struct hws_error *err)
{
    char *text = malloc(2 * VAULT_KEY_BYTES + 1);
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    vault_to_hex(key, VAULT_KEY_BYTES, text);
    *ret = text;
    return 0;
}

static int unwrap_plain(const char *argument, const char *text, uint8_t key[VAULT_KEY_BYTES],
                        struct hws_error *err)
{
    return vault_from_hex(text, key, VAULT_KEY_BYTES) < 0
               ? hws_fail(err, EINVAL, "a master key is not of %d bytes", VAULT_KEY_BYTES)
               : 0;
}

const struct vault_keeper vault_plain = {"plain", wrap_plain, unwrap_plain};

static const struct vault_keeper *keeper_of(const char *word, size_t length)
{
    for (unsigned i = 0; i < ARRAY_LEN(keepers); i++)
        if (strlen(keepers[i]->word) == length && !strncmp(keepers[i]->word, word, length))
            return keepers[i];
    return NULL;
}

/* ---- the file ---- */

static int key_id(const uint8_t key[VAULT_KEY_BYTES], char id[VAULT_KEY_ID_BYTES],
                  struct hws_error *err)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    if (EVP_Digest(key, VAULT_KEY_BYTES, digest, NULL, EVP_sha256(), NULL) != 1)
        return hws_fail(err, EIO, "SHA-256 is not to be had");
    vault_to_hex(digest, VAULT_KEY_ID_BYTES / 2, id);
    return 0;
}

static void forget(struct vault_key *key)
{
    vault_free_text(key->wrapped);
    explicit_bzero(key, sizeof(*key));
}

static int parse_line(struct vault *vault, char *line, struct hws_error *err)
{
    char *space = strchr(line, ' ');
    if (vault->count == KEYS_MAX || !space || space - line != VAULT_KEY_ID_BYTES - 1 ||
        !strchr(space, ':'))
        return hws_fail(err, EUCLEAN, "%s: line %u is no master key", vault->path,
                        vault->count + 1);
    struct vault_key *key = &vault->keys[vault->count];
    *space = '\0';
    memcpy(key->id, line, VAULT_KEY_ID_BYTES);
    key->wrapped = strdup(space + 1);
    if (!key->wrapped)
        return hws_fail(err, ENOMEM, "out of memory");
    vault->count++;
    return 0;
}

static int check_file(const struct vault *vault, int fd, struct hws_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return hws_fail_errno(err, errno, "%s", vault->path);
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 077))
        return hws_fail(err, EPERM, "%s must be a file of this user that nobody else can read",
                        vault->path);
    return st.st_size < FILE_MAX ? 0 : hws_fail(err, EFBIG, "%s is too long", vault->path);
}

/* The vault is locked. */
static int load(struct vault *vault, struct hws_error *err)
{
    if (vault->loaded)
        return 0;
    autofd int fd = open(vault->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        vault->loaded = true;
        return 0;
    }
    if (fd < 0)
        return hws_fail_errno(err, errno, "%s", vault->path);
    int r = check_file(vault, fd, err);
    char *text = r == 0 ? calloc(1, FILE_MAX + 1) : NULL;
    if (r == 0 && (!text || read(fd, text, FILE_MAX) < 0))
        r = hws_fail_errno(err, errno ? errno : ENOMEM, "%s", vault->path);
    char *rest = text, *line;
    while (r == 0 && (line = strsep(&rest, "\n")))
        r = *line ? parse_line(vault, line, err) : 0;
    if (text)
        explicit_bzero(text, FILE_MAX);
    free(text);
    if (r < 0)
        while (vault->count > 0)
            forget(&vault->keys[--vault->count]);
    vault->loaded = r == 0;
    return r;
}

/* The first @count keys, in one step. */
static int store(const struct vault *vault, unsigned count, struct hws_error *err)
{
    autofree char *fresh = NULL;
    if (asprintf(&fresh, "%s.new", vault->path) < 0) {
        fresh = NULL;
        return hws_fail(err, ENOMEM, "out of memory");
    }
    (void)unlink(fresh);
    int fd = open(fresh, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file)
        return hws_fail_errno(err, errno, "cannot make %s", fresh);
    setvbuf(file, NULL, _IONBF, 0); /* no copy of a key stays behind */
    bool good = true;
    for (unsigned i = 0; i < count; i++)
        good = good && fprintf(file, "%s %s\n", vault->keys[i].id, vault->keys[i].wrapped) > 0;
    good = good && fsync(fd) == 0;
    good = fclose(file) == 0 && good;
    if (!good || rename(fresh, vault->path) < 0)
        return hws_fail_errno(err, errno ? errno : EIO, "cannot write %s", vault->path);
    return folder_sync(vault->path, err);
}

static int add_key(struct vault *vault, struct hws_error *err)
{
    struct vault_key key = {.open = true};
    char *wrapped = NULL;
    if (vault->count == KEYS_MAX)
        return hws_fail(err, EBUSY, "older master keys are not forgotten yet");
    if (RAND_bytes(key.bytes, VAULT_KEY_BYTES) != 1)
        return hws_fail(err, EIO, "the system gives no random bytes");
    int r = key_id(key.bytes, key.id, err);
    if (r == 0)
        r = vault->keeper->wrap(vault->argument, key.bytes, &wrapped, err);
    if (r == 0 && asprintf(&key.wrapped, "%s:%s %s", vault->keeper->word, wrapped,
                           vault->argument ? vault->argument : "") < 0) {
        key.wrapped = NULL;
        r = hws_fail(err, ENOMEM, "out of memory");
    }
    vault_free_text(wrapped);
    if (r == 0) {
        memmove(&vault->keys[1], &vault->keys[0], vault->count * sizeof(key));
        vault->keys[0] = key;
        r = store(vault, ++vault->count, err);
        if (r < 0) { /* it may be there or not: the file is read again */
            while (vault->count > 0)
                forget(&vault->keys[--vault->count]);
            vault->loaded = false;
        }
    } else {
        forget(&key);
    }
    explicit_bzero(&key, sizeof(key));
    return r;
}

/* @wrapped and, behind a space, where it was done: that counts where another keeper is set now. */
static int unwrap_key(const struct vault *vault, const struct vault_keeper *keeper,
                      const char *wrapped, struct vault_key *key, struct hws_error *err)
{
    char *text = strdup(wrapped);
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    char *argument = strchr(text, ' ');
    if (argument)
        *argument++ = '\0';
    if (keeper == vault->keeper && vault->argument)
        argument = vault->argument;
    int r = keeper->unwrap(argument && *argument ? argument : NULL, text, key->bytes, err);
    vault_free_text(text);
    return r;
}

/* The key @id, unwrapped. */
static int open_key(struct vault *vault, const char *id, size_t length, struct vault_key **ret,
                    struct hws_error *err)
{
    struct vault_key *key = NULL;
    char found[VAULT_KEY_ID_BYTES];
    for (unsigned i = 0; i < vault->count && !key; i++)
        if (strlen(vault->keys[i].id) == length && !strncmp(vault->keys[i].id, id, length))
            key = &vault->keys[i];
    if (!key)
        return hws_fail(err, ENOKEY,
                        "its master key, %.16s, is not in %s: put the file of that time back", id,
                        vault->path);
    *ret = key;
    if (key->open)
        return 0;
    const char *colon = strchr(key->wrapped, ':');
    const struct vault_keeper *keeper = keeper_of(key->wrapped, (size_t)(colon - key->wrapped));
    if (!keeper)
        return hws_fail(err, ENOTSUP, "%s: master keys of the kind '%.*s' are not known",
                        vault->path, (int)(colon - key->wrapped), key->wrapped);
    int r = unwrap_key(vault, keeper, colon + 1, key, err);
    if (r == 0)
        r = key_id(key->bytes, found, err);
    if (r == 0 && strcmp(found, key->id) != 0)
        r = hws_fail(err, EBADMSG, "%s: master key %s is not what it was", vault->path, key->id);
    if (r < 0)
        return hws_wrap(err, r, "the master key of secrets");
    key->open = true;
    return 0;
}

/* ---- sealing ---- */

static int encrypt(const struct vault_key *key, const char *id, const char *text, uint8_t *nonce,
                   uint8_t *out, struct hws_error *err)
{
    size_t length = strlen(text);
    int n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool good = ctx && RAND_bytes(nonce, NONCE_BYTES) == 1 &&
                EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes, nonce) == 1 &&
                EVP_EncryptUpdate(ctx, NULL, &n, (const uint8_t *)id, (int)strlen(id)) == 1 &&
                EVP_EncryptUpdate(ctx, out, &n, (const uint8_t *)text, (int)length) == 1 &&
                EVP_EncryptFinal_ex(ctx, out + length, &n) == 1 &&
                EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, out + length) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return good ? 0 : hws_fail(err, EIO, "AES-256-GCM is not to be had");
}

static bool decrypt(const struct vault_key *key, const char *id, const uint8_t *nonce, uint8_t *in,
                    size_t length, char *text)
{
    int n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool good = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes, nonce) == 1 &&
                EVP_DecryptUpdate(ctx, NULL, &n, (const uint8_t *)id, (int)strlen(id)) == 1 &&
                EVP_DecryptUpdate(ctx, (uint8_t *)text, &n, in, (int)length) == 1 &&
                EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, in + length) == 1 &&
                EVP_DecryptFinal_ex(ctx, (uint8_t *)text + n, &n) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return good;
}

static int seal(struct vault *vault, const char *id, const char *text, char **ret,
                struct hws_error *err)
{
    struct vault_key *key;
    uint8_t nonce[NONCE_BYTES];
    char digits[2 * NONCE_BYTES + 1];
    size_t length = strlen(text);
    int r = load(vault, err);
    if (r == 0 && vault->count == 0)
        r = add_key(vault, err);
    if (r == 0)
        r = open_key(vault, vault->keys[0].id, strlen(vault->keys[0].id), &key, err);
    if (r < 0)
        return r;
    autofree uint8_t *out = malloc(length + TAG_BYTES);
    autofree char *hex = malloc(2 * (length + TAG_BYTES) + 1);
    if (!out || !hex)
        return hws_fail(err, ENOMEM, "out of memory");
    r = encrypt(key, id, text, nonce, out, err);
    if (r < 0)
        return r;
    vault_to_hex(nonce, NONCE_BYTES, digits);
    vault_to_hex(out, length + TAG_BYTES, hex);
    return asprintf(ret, "%s:%s:%s", key->id, digits, hex) < 0
               ? hws_fail(err, ENOMEM, "out of memory")
               : 0;
}

static int unseal(struct vault *vault, const char *id, const char *sealed, char **ret,
                  struct hws_error *err)
{
    struct vault_key *key;
    uint8_t nonce[NONCE_BYTES];
    char digits[2 * NONCE_BYTES + 1] = "";
    const char *first = strchr(sealed, ':'), *second = first ? strchr(first + 1, ':') : NULL;
    size_t bytes = second ? strlen(second + 1) / 2 : 0;
    if (!second || second - first - 1 != 2 * NONCE_BYTES || bytes < TAG_BYTES || bytes > SEALED_MAX)
        return hws_fail(err, EBADMSG, "a sealed secret is damaged");
    memcpy(digits, first + 1, sizeof(digits) - 1);
    int r = load(vault, err);
    if (r == 0)
        r = open_key(vault, sealed, (size_t)(first - sealed), &key, err);
    if (r < 0)
        return r;
    autofree uint8_t *in = malloc(bytes);
    char *text = calloc(1, bytes - TAG_BYTES + 1);
    if (!in || !text) {
        free(text);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    if (vault_from_hex(digits, nonce, NONCE_BYTES) < 0 ||
        vault_from_hex(second + 1, in, bytes) < 0 ||
        !decrypt(key, id, nonce, in, bytes - TAG_BYTES, text)) {
        explicit_bzero(text, bytes - TAG_BYTES);
        free(text);
        return hws_fail(err, EBADMSG, "a sealed secret was changed since, or is another's");
    }
    *ret = text;
    return 0;
}

int vault_seal(struct vault *vault, const char *id, const char *text, char **ret,
               struct hws_error *err)
{
    pthread_mutex_lock(&vault->mutex);
    int r = seal(vault, id, text, ret, err);
    pthread_mutex_unlock(&vault->mutex);
    return r;
}

int vault_unseal(struct vault *vault, const char *id, const char *sealed, char **ret,
                 struct hws_error *err)
{
    pthread_mutex_lock(&vault->mutex);
    int r = unseal(vault, id, sealed, ret, err);
    pthread_mutex_unlock(&vault->mutex);
    return r;
}

/* ---- changing the master key ---- */

int vault_add_key(struct vault *vault, struct hws_error *err)
{
    pthread_mutex_lock(&vault->mutex);
    int r = load(vault, err);
    if (r == 0)
        r = add_key(vault, err);
    pthread_mutex_unlock(&vault->mutex);
    return r;
}

int vault_has_old(struct vault *vault, bool *ret, struct hws_error *err)
{
    pthread_mutex_lock(&vault->mutex);
    int r = load(vault, err);
    *ret = r == 0 && vault->count > 1;
    pthread_mutex_unlock(&vault->mutex);
    return r;
}

int vault_drop_old(struct vault *vault, struct hws_error *err)
{
    pthread_mutex_lock(&vault->mutex);
    int r = load(vault, err);
    if (r == 0 && vault->count > 1)
        r = store(vault, 1, err);
    while (r == 0 && vault->count > 1)
        forget(&vault->keys[--vault->count]);
    pthread_mutex_unlock(&vault->mutex);
    return r;
}

bool vault_is_newest(struct vault *vault, const char *sealed)
{
    pthread_mutex_lock(&vault->mutex);
    size_t length = VAULT_KEY_ID_BYTES - 1;
    bool newest = load(vault, NULL) == 0 && vault->count > 0 &&
                  !strncmp(sealed, vault->keys[0].id, length) && sealed[length] == ':';
    pthread_mutex_unlock(&vault->mutex);
    return newest;
}

/* ---- beginning and end ---- */

int vault_open(const char *folder, const char *keeper, struct vault **ret, struct hws_error *err)
{
    const char *word = keeper && strcmp(keeper, "file") != 0 ? keeper : vault_plain.word;
    const char *colon = strchr(word, ':');
    size_t length = colon ? (size_t)(colon - word) : strlen(word);
    struct vault *vault = calloc(1, sizeof(*vault));
    if (!vault)
        return hws_fail(err, ENOMEM, "out of memory");
    pthread_mutex_init(&vault->mutex, NULL);
    vault->keeper = keeper_of(word, length);
    vault->argument = colon ? strdup(colon + 1) : NULL;
    int r = 0;
    if (!vault->keeper || (vault->keeper == &vault_plain && keeper && strcmp(keeper, "file") != 0))
        r = hws_fail(
            err, EINVAL,
            "master-key is '%.40s'; it can be file, tpm2 or pkcs11, as this hawserd was built",
            keeper);
    else if (asprintf(&vault->path, "%s/master.key", folder) < 0) {
        vault->path = NULL;
        r = hws_fail(err, ENOMEM, "out of memory");
    }
    if (r < 0)
        vault_close(vault);
    else
        *ret = vault;
    return r;
}

void vault_close(struct vault *vault)
{
    if (!vault)
        return;
    while (vault->count > 0)
        forget(&vault->keys[--vault->count]);
    pthread_mutex_destroy(&vault->mutex);
    free(vault->path);
    free(vault->argument);
    free(vault);
}
