/*
 * Fuzz target: what a user types: open descriptions, options, sizes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "block/block.h"
#include "block/options.h"
#include "drivers/drivers.h"
#include "fuzz.h"

#define TEXT_MAX 4096

static void describe(const char *text, const char *format)
{
    json_t *description = NULL;
    struct hws_error err = {0};
    int result = block_describe(text, format, &description, &err);
    assert(result <= 0);
    if (result == 0)
        assert(json_is_object(description));
    else
        assert(err.text[0]);
    json_decref(description);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char text[TEXT_MAX];
    uint64_t size;
    struct hws_error err = {0};
    drivers_register();
    if (length >= sizeof(text))
        return 0;
    memcpy(text, bytes, length);
    text[length] = '\0';
    describe(text, NULL);
    describe(text, "qcow2");
    json_t *object = json_object();
    int result = options_from_text(text, object, &err);
    assert(result == 0 || err.text[0]);
    json_decref(object);
    if (size_parse(text, &size, &err) == 0)
        assert(text[0] >= '0' && text[0] <= '9');
    return 0;
}
