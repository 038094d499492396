/*
 * The vault: seals texts under a master key that never enters the catalog.
 *
 *   STATE/master.key        0600, of this user: a line for each master key, the newest first
 *       ID plain:HEX            the key itself
 *       ID tpm2:HEX TCTI        wrapped by the TPM of this host (vault_tpm2.c)
 *       ID pkcs11:HEX PLACE     wrapped by a key of a token (vault_pkcs11.c)
 *
 * ID is the beginning of the key's SHA-256, by which a wrong key is known. A sealed text is
 * "ID:NONCE:BYTES", AES-256-GCM with the object's id as additional data, so that one object's does
 * not open as another's. There is more than one key while they are changed (vault_add_key()).
 *
 * Any thread. Keys are overwritten when the vault is closed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_VAULT_H
#define CONTROL_VAULT_H

#include "base/common.h"
#include "hawser/error.h"

#define VAULT_KEY_BYTES    32
#define VAULT_KEY_ID_BYTES 17 /* 16 digits, and the end */

struct vault;

/** Where master keys are kept: how one is wrapped. */
struct vault_keeper {
    const char *word; /* what stands before the ':' */
    /** @ret a text without spaces; free(). @argument of the configuration, may be NULL. */
    int (*wrap)(const char *argument, const uint8_t key[VAULT_KEY_BYTES], char **ret,
                struct hws_error *err);
    int (*unwrap)(const char *argument, const char *text, uint8_t key[VAULT_KEY_BYTES],
                  struct hws_error *err);
};

extern const struct vault_keeper vault_plain, vault_tpm2, vault_pkcs11;

/**
 * Opens the vault of @folder; the file need not be there. @keeper how new master keys are kept:
 * "file", or "WORD:ARGUMENT"; NULL: "file". Keys that are there are unwrapped when first needed.
 */
HWS_MUST_CHECK int vault_open(const char *folder, const char *keeper, struct vault **ret,
                              struct hws_error *err);
/** @vault may be NULL. */
void vault_close(struct vault *vault);

/** Seals @text for the object @id; the first one makes a master key. @ret free(). */
HWS_MUST_CHECK int vault_seal(struct vault *vault, const char *id, const char *text, char **ret,
                              struct hws_error *err);
/** @ret to vault_free_text(). -EBADMSG where it was changed, -ENOKEY without its master key. */
HWS_MUST_CHECK int vault_unseal(struct vault *vault, const char *id, const char *sealed, char **ret,
                                struct hws_error *err);
/** Overwrites and frees. @text may be NULL. */
void vault_free_text(char *text);

/** A new master key, durable, before those that are there; later ones are sealed with it. */
HWS_MUST_CHECK int vault_add_key(struct vault *vault, struct hws_error *err);
/** Whether there are older keys than the newest. */
HWS_MUST_CHECK int vault_has_old(struct vault *vault, bool *ret, struct hws_error *err);
/** Forgets all but the newest: nothing may be sealed with them any more. */
HWS_MUST_CHECK int vault_drop_old(struct vault *vault, struct hws_error *err);
/** Whether @sealed is under the newest key. */
bool vault_is_newest(struct vault *vault, const char *sealed);

/** Random bytes as hexadecimal digits, @bytes of them. @text of 2 * @bytes + 1. */
HWS_MUST_CHECK int vault_random_text(char *text, size_t bytes, struct hws_error *err);

/** Bytes as digits, and back: -EINVAL where they are not @bytes exactly. */
void vault_to_hex(const uint8_t *bytes, size_t count, char *text);
HWS_MUST_CHECK int vault_from_hex(const char *text, uint8_t *bytes, size_t count);

#endif
