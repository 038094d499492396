/*
 * The vault and what secrets may be: what is sealed opens with its own key, for its own object and
 * unchanged only; the file of master keys is judged before it is used.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/secret_value.h"
#include "control/test_world.h"
#include <pthread.h>
#include <sys/stat.h>

#define KEY "00112233445566778899aabbccddeeff"

static struct vault *open_vault(void)
{
    struct vault *vault;
    must(vault_open(top, NULL, &vault, &error));
    return vault;
}

static int unseal(struct vault *vault, const char *id, const char *sealed, const char *expected)
{
    char *text = NULL;
    error.code = 0;
    int r = vault_unseal(vault, id, sealed, &text, &error);
    if (r == 0)
        assert_string_equal(text, expected);
    vault_free_text(text);
    return r;
}

static void what_is_sealed_opens_for_its_own(void **state)
{
    clean();
    struct vault *vault = open_vault();
    autofree char *sealed = NULL, *again = NULL;
    must(vault_seal(vault, "one", "a secret", &sealed, &error));
    must(vault_seal(vault, "one", "a secret", &again, &error));
    assert_string_not_equal(sealed, again); /* never the same nonce */
    assert_null(strstr(sealed, "secret"));
    must(unseal(vault, "one", sealed, "a secret"));
    assert_int_equal(unseal(vault, "two", sealed, ""), -EBADMSG);
    /* Any digit that is changed is noticed: of the key's id, the nonce, the bytes and the tag. */
    for (size_t i = 0; sealed[i]; i++) {
        char was = sealed[i];
        sealed[i] = was == '0' ? '1' : '0';
        int r = unseal(vault, "one", sealed, "");
        if (r != -EBADMSG && r != -ENOKEY)
            fail_msg("byte %zu: %d", i, r);
        sealed[i] = was;
    }
    for (size_t length = strlen(sealed); length-- > 0;) {
        sealed[length] = '\0';
        assert_true(unseal(vault, "one", sealed, "") < 0);
    }
    vault_close(vault);
    vault = open_vault();
    must(unseal(vault, "one", again, "a secret"));
    vault_close(vault);
}

static void an_old_key_opens_until_it_is_dropped(void **state)
{
    clean();
    struct vault *vault = open_vault();
    autofree char *old = NULL, *fresh = NULL;
    bool several;
    must(vault_seal(vault, "one", "text", &old, &error));
    must(vault_add_key(vault, &error));
    must(vault_seal(vault, "one", "text", &fresh, &error));
    assert_false(vault_is_newest(vault, old));
    assert_true(vault_is_newest(vault, fresh));
    must(unseal(vault, "one", old, "text"));
    vault_close(vault);
    vault = open_vault(); /* as after a crash */
    must(vault_has_old(vault, &several, &error));
    assert_true(several);
    must(unseal(vault, "one", old, "text"));
    must(vault_drop_old(vault, &error));
    assert_int_equal(unseal(vault, "one", old, ""), -ENOKEY);
    must(unseal(vault, "one", fresh, "text"));
    must(vault_has_old(vault, &several, &error));
    assert_false(several);
    vault_close(vault);
}

static void write_keys(const char *text, mode_t mode)
{
    FILE *file = fopen(in_top("master.key"), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(in_top("master.key"), mode), 0);
}

static void a_file_of_keys_is_judged(void **state)
{
    static const struct {
        const char *text;
        mode_t mode;
        int result;
    } cases[] = {
        {"", 0600, -ENOKEY},
        {"garbage", 0600, -EUCLEAN},
        {"0123456789abcdef plain\n", 0600, -EUCLEAN},
        {"0123456789abcdef plain:" KEY KEY "\n", 0644, -EPERM},
        {"0123456789abcdef plain:" KEY KEY "\n", 0600, -EBADMSG}, /* not the key of that id */
        {"0123456789abcdef plain:12\n", 0600, -EINVAL},
        {"0123456789abcdef other:12\n", 0600, -ENOTSUP},
    };
    const char *sealed = "0123456789abcdef:000000000000000000000000:"
                         "00000000000000000000000000000000";
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        clean();
        write_keys(cases[i].text, cases[i].mode);
        struct vault *vault = open_vault();
        int r = unseal(vault, "one", sealed, "");
        if (r != cases[i].result)
            fail_msg("case %u: %d, %s", i, r, error.text);
        assert_null(strstr(error.text, KEY));
        vault_close(vault);
    }
    struct vault *vault;
    assert_int_equal(vault_open(top, "floppy", &vault, &error), -EINVAL);
}

static void values_are_judged(void **state)
{
    static const struct {
        const char *text;
        int result;
    } cases[] = {
        {"{\"name\": \"a\", \"value\": \"" KEY "\"}", 0},
        {"{\"name\": \"b\", \"value\": \"x:" KEY "\\ny:" KEY KEY "\\n\"}", 0},
        {"{\"name\": \"c\", \"generate\": \"psk\"}", 0},
        {"{\"name\": \"d\", \"generate\": \"chap\"}", 0},
        {"{\"name\": \"e\", \"kind\": \"chap\", \"value\": \"twelve chars\"}", -EINVAL},
        {"{\"name\": \"e\", \"kind\": \"chap\", \"value\": \"twelve-chars\"}", 0},
        {"{\"name\": \"f\"}", -EINVAL},
        {"{\"value\": \"" KEY "\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"0011\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"" KEY "0\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"" KEY KEY KEY KEY KEY "\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"" KEY "\\n" KEY "\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \":" KEY "\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"a b:" KEY "\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"x:" KEY "\\n" KEY "\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"" KEY "\", \"generate\": \"psk\"}", -EINVAL},
        {"{\"name\": \"f\", \"value\": \"" KEY "\", \"kind\": \"x509\"}", -EINVAL},
        {"{\"name\": \"f\", \"generate\": \"psk\", \"kind\": \"chap\"}", -EINVAL},
        {"{\"name\": \"f\", \"server-cert\": \"-----BEGIN \"}", -EINVAL},
        {"{\"name\": \"f\", \"server-cert\": \"-----BEGIN \", \"server-key\": \"k\", "
         "\"ca-cert\": \"-----BEGIN \"}",
         -EINVAL},
        {"{\"name\": \"f\", \"server-cert\": \"-----BEGIN \", \"server-key\": \"-----BEGIN \", "
         "\"ca-cert\": \"-----BEGIN \"}",
         0},
        {"{\"name\": \"a\", \"generate\": \"psk\"}", -EEXIST},
    };
    clean();
    struct control *control = open_control(NULL);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *body = request(cases[i].text);
        int r = CALL(control_secret_create, control, body);
        json_decref(body);
        if (r != cases[i].result)
            fail_msg("%s: %d, %s", cases[i].text, r, error.text);
        if (r < 0) /* a message shows no value */
            assert_null(strstr(error.text, KEY));
    }
    check_all(control);
    struct secret_files files;
    auto_secret secret = {0};
    must(object_find(control, &secret_type, "a", &secret, &error));
    must(secret_files(control, secret.id, &files, &error));
    assert_int_equal(files.count, 1);
    assert_string_equal(files.name[0], "keys.psk");
    assert_string_equal(files.text[0], "a:" KEY "\n");
    secret_files_free(&files);
    control_close(control);
}

/* Two that keep and change secrets, and one that changes the master key below them. */
static void *work(void *arg)
{
    struct control *control = arg;
    for (unsigned i = 0; i < 20; i++) {
        struct hws_error err = {0};
        json_t *body = request("{\"generate\": \"psk\"}"), *result = NULL;
        assert_int_equal(control_secret_change(control, "k", body, &result, &err), 0);
        json_decref(result);
        json_decref(body);
    }
    return NULL;
}

static void a_new_master_key_loses_nothing_of_others(void **state)
{
    pthread_t threads[2];
    clean();
    struct control *control = open_control(NULL);
    json_t *body = request("{\"name\": \"k\", \"value\": \"" KEY "\"}");
    must(CALL(control_secret_create, control, body));
    json_decref(body);
    for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, control), 0);
    for (unsigned i = 0; i < 20; i++)
        must(CALL(control_secret_rotate, control));
    for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    check_all(control);
    auto_secret secret = {0};
    must(object_find(control, &secret_type, "k", &secret, &error));
    assert_int_equal(secret.version, 41);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sealed_opens_for_its_own),
        cmocka_unit_test(an_old_key_opens_until_it_is_dropped),
        cmocka_unit_test(a_file_of_keys_is_judged),
        cmocka_unit_test(values_are_judged),
        cmocka_unit_test(a_new_master_key_loses_nothing_of_others),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
