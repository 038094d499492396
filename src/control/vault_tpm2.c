/*
 * Master keys sealed by the TPM 2.0 of this host: only it opens them again.
 *
 *   master-key = tpm2, or tpm2:TCTI ("tpm2:device:/dev/tpmrm0")
 *
 * The key is the data of a sealed object below a primary key of the owner's hierarchy, made from
 * one template each time; nothing is left in the TPM. What passes between here and the TPM is
 * encrypted by a session that the primary key salts. The libraries (tpm2-tss) are loaded when they
 * are needed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/vault.h"
#include <dlfcn.h>
#include <tss2_esys.h>
/* The header of 3.2 declares functions of a type that it calls deprecated. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <tss2_mu.h>
#pragma GCC diagnostic pop
#include <tss2_tctildr.h>

#define BLOB_MAX 1024
/** Of 16 bits, before each of the two parts. */
#define LENGTH_BYTES 2

/* clang-format off */
#define ESYS(F) \
    F(Esys_Initialize) F(Esys_Finalize) F(Esys_CreatePrimary) F(Esys_Create) F(Esys_Load) \
    F(Esys_Unseal) F(Esys_FlushContext) F(Esys_StartAuthSession) F(Esys_TRSess_SetAttributes) \
    F(Esys_Free)
#define MU(F) \
    F(Tss2_MU_TPM2B_PUBLIC_Marshal) F(Tss2_MU_TPM2B_PUBLIC_Unmarshal) \
    F(Tss2_MU_TPM2B_PRIVATE_Marshal) F(Tss2_MU_TPM2B_PRIVATE_Unmarshal)
#define TCTI(F) F(Tss2_TctiLdr_Initialize) F(Tss2_TctiLdr_Finalize)

#define MEMBER(name) __typeof__(&name) name;
#define LOAD(name) \
    if (!(tpm->f.name = (__typeof__(&name))dlsym(library, #name))) \
        return -ENOENT;

struct tpm {
    void *library[3];
    struct {
        ESYS(MEMBER) MU(MEMBER) TCTI(MEMBER)
    } f;
    TSS2_TCTI_CONTEXT *tcti;
    ESYS_CONTEXT *esys;
    ESYS_TR primary, session;
};
/* clang-format on */

static int failed(struct hws_error *err, const char *what, TSS2_RC rc)
{
    return hws_fail(err, EIO, "TPM: %s failed with 0x%x", what, rc);
}

/* ---- the libraries ---- */

static int load_esys(struct tpm *tpm, void *library)
{
    ESYS(LOAD);
    return 0;
}

static int load_mu(struct tpm *tpm, void *library)
{
    MU(LOAD);
    return 0;
}

static int load_tcti(struct tpm *tpm, void *library)
{
    TCTI(LOAD);
    return 0;
}

static int load_libraries(struct tpm *tpm, struct hws_error *err)
{
    static const struct {
        const char *name;
        int (*load)(struct tpm *tpm, void *library);
    } libraries[] = {{"libtss2-esys.so.0", load_esys},
                     {"libtss2-mu.so.0", load_mu},
                     {"libtss2-tctildr.so.0", load_tcti}};
    for (unsigned i = 0; i < ARRAY_LEN(libraries); i++) {
        tpm->library[i] = dlopen(libraries[i].name, RTLD_NOW | RTLD_LOCAL);
        if (!tpm->library[i])
            return hws_fail(err, ENOENT, "TPM: %.300s (tpm2-tss has it)", dlerror());
        if (libraries[i].load(tpm, tpm->library[i]) < 0)
            return hws_fail(err, ENOTSUP, "TPM: %s is another version", libraries[i].name);
    }
    return 0;
}

/* ---- the primary key, and a session ---- */

static const TPM2B_PUBLIC primary_template = {
    .publicArea = {
        .type = TPM2_ALG_ECC,
        .nameAlg = TPM2_ALG_SHA256,
        .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                            TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                            TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT,
        .parameters.eccDetail = {.symmetric = {.algorithm = TPM2_ALG_AES,
                                               .keyBits.aes = 128,
                                               .mode.aes = TPM2_ALG_CFB},
                                 .scheme.scheme = TPM2_ALG_NULL,
                                 .curveID = TPM2_ECC_NIST_P256,
                                 .kdf.scheme = TPM2_ALG_NULL},
    }};

static const TPM2B_PUBLIC sealed_template = {
    .publicArea = {
        .type = TPM2_ALG_KEYEDHASH,
        .nameAlg = TPM2_ALG_SHA256,
        .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                            TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA,
        .parameters.keyedHashDetail.scheme.scheme = TPM2_ALG_NULL,
    }};

static int begin(struct tpm *tpm, const char *argument, struct hws_error *err)
{
    const TPM2B_SENSITIVE_CREATE nothing = {0};
    const TPM2B_DATA no_data = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    const TPMT_SYM_DEF symmetric = {
        .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB};
    TSS2_RC rc = tpm->f.Tss2_TctiLdr_Initialize(argument, &tpm->tcti);
    if (rc)
        return failed(err, "reaching it", rc);
    rc = tpm->f.Esys_Initialize(&tpm->esys, tpm->tcti, NULL);
    if (rc)
        return failed(err, "beginning", rc);
    rc = tpm->f.Esys_CreatePrimary(tpm->esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                   ESYS_TR_NONE, &nothing, &primary_template, &no_data, &no_pcrs,
                                   &tpm->primary, NULL, NULL, NULL, NULL);
    if (rc)
        return failed(err, "the primary key", rc);
    rc = tpm->f.Esys_StartAuthSession(tpm->esys, tpm->primary, ESYS_TR_NONE, ESYS_TR_NONE,
                                      ESYS_TR_NONE, ESYS_TR_NONE, NULL, TPM2_SE_HMAC, &symmetric,
                                      TPM2_ALG_SHA256, &tpm->session);
    if (rc == 0)
        rc = tpm->f.Esys_TRSess_SetAttributes(
            tpm->esys, tpm->session,
            TPMA_SESSION_DECRYPT | TPMA_SESSION_ENCRYPT | TPMA_SESSION_CONTINUESESSION, 0xff);
    return rc ? failed(err, "the session", rc) : 0;
}

static void tpm_close(struct tpm *tpm)
{
    if (tpm->session != ESYS_TR_NONE)
        tpm->f.Esys_FlushContext(tpm->esys, tpm->session);
    if (tpm->primary != ESYS_TR_NONE)
        tpm->f.Esys_FlushContext(tpm->esys, tpm->primary);
    if (tpm->esys)
        tpm->f.Esys_Finalize(&tpm->esys);
    if (tpm->tcti)
        tpm->f.Tss2_TctiLdr_Finalize(&tpm->tcti);
    for (unsigned i = 0; i < ARRAY_LEN(tpm->library); i++)
        if (tpm->library[i])
            dlclose(tpm->library[i]);
}

static int tpm_open(const char *argument, struct tpm *ret, struct hws_error *err)
{
    *ret = (struct tpm){.primary = ESYS_TR_NONE, .session = ESYS_TR_NONE};
    int r = load_libraries(ret, err);
    if (r == 0)
        r = begin(ret, argument, err);
    if (r < 0)
        tpm_close(ret);
    return r;
}

/* ---- wrapping ---- */

/* Both parts of a sealed object, as digits. */
static int to_text(struct tpm *tpm, const TPM2B_PUBLIC *public, const TPM2B_PRIVATE *private,
                   char **ret, struct hws_error *err)
{
    uint8_t blob[BLOB_MAX];
    size_t used = 0;
    TSS2_RC rc = tpm->f.Tss2_MU_TPM2B_PUBLIC_Marshal(public, blob, sizeof(blob), &used);
    if (rc == 0)
        rc = tpm->f.Tss2_MU_TPM2B_PRIVATE_Marshal(private, blob, sizeof(blob), &used);
    if (rc)
        return failed(err, "writing what was sealed", rc);
    char *text = malloc(2 * used + 1);
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    vault_to_hex(blob, used, text);
    *ret = text;
    return 0;
}

static int wrap(const char *argument, const uint8_t key[VAULT_KEY_BYTES], char **ret,
                struct hws_error *err)
{
    struct tpm tpm;
    const TPM2B_DATA no_data = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    TPM2B_SENSITIVE_CREATE sensitive = {.sensitive.data.size = VAULT_KEY_BYTES};
    TPM2B_PUBLIC *public = NULL;
    TPM2B_PRIVATE *private = NULL;
    int r = tpm_open(argument, &tpm, err);
    if (r < 0)
        return r;
    memcpy(sensitive.sensitive.data.buffer, key, VAULT_KEY_BYTES);
    TSS2_RC rc = tpm.f.Esys_Create(tpm.esys, tpm.primary, tpm.session, ESYS_TR_NONE, ESYS_TR_NONE,
                                   &sensitive, &sealed_template, &no_data, &no_pcrs, &private,
                                   &public, NULL, NULL, NULL);
    explicit_bzero(&sensitive, sizeof(sensitive));
    r = rc ? failed(err, "sealing", rc) : to_text(&tpm, public, private, ret, err);
    tpm.f.Esys_Free(public);
    tpm.f.Esys_Free(private);
    tpm_close(&tpm);
    return r;
}

static int unseal(struct tpm *tpm, const uint8_t *blob, size_t bytes, uint8_t key[VAULT_KEY_BYTES],
                  struct hws_error *err)
{
    TPM2B_PUBLIC public = {0};
    TPM2B_PRIVATE private = {0};
    TPM2B_SENSITIVE_DATA *data = NULL;
    ESYS_TR object = ESYS_TR_NONE;
    size_t used = 0;
    if (tpm->f.Tss2_MU_TPM2B_PUBLIC_Unmarshal(blob, bytes, &used, &public) ||
        tpm->f.Tss2_MU_TPM2B_PRIVATE_Unmarshal(blob, bytes, &used, &private) || used != bytes)
        return hws_fail(err, EUCLEAN, "the wrapped key is damaged");
    TSS2_RC rc = tpm->f.Esys_Load(tpm->esys, tpm->primary, tpm->session, ESYS_TR_NONE, ESYS_TR_NONE,
                                  &private, &public, &object);
    if (rc)
        return failed(err, "loading what another TPM, or this one before it was cleared, sealed",
                      rc);
    rc = tpm->f.Esys_Unseal(tpm->esys, object, tpm->session, ESYS_TR_NONE, ESYS_TR_NONE, &data);
    tpm->f.Esys_FlushContext(tpm->esys, object);
    if (rc || data->size != VAULT_KEY_BYTES)
        return failed(err, "unsealing", rc);
    memcpy(key, data->buffer, VAULT_KEY_BYTES);
    explicit_bzero(data, sizeof(*data));
    tpm->f.Esys_Free(data);
    return 0;
}

static int unwrap(const char *argument, const char *text, uint8_t key[VAULT_KEY_BYTES],
                  struct hws_error *err)
{
    struct tpm tpm;
    uint8_t blob[BLOB_MAX];
    size_t bytes = strlen(text) / 2;
    if (bytes < 2 * LENGTH_BYTES || bytes > sizeof(blob) || vault_from_hex(text, blob, bytes) < 0)
        return hws_fail(err, EUCLEAN, "the wrapped key is damaged");
    int r = tpm_open(argument, &tpm, err);
    if (r < 0)
        return r;
    r = unseal(&tpm, blob, bytes, key, err);
    tpm_close(&tpm);
    return r;
}

const struct vault_keeper vault_tpm2 = {"tpm2", wrap, unwrap};
