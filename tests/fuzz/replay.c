/*
 * Runs a fuzz target over files and folders of files, once each: corpus and regressions under any
 * compiler and sanitizer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/common.h"
#include "fuzz.h"
#include <ftw.h>

#define INPUT_MAX (4 * MiB)

static unsigned inputs;

static int replay_file(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    if (kind != FTW_F || (uint64_t)status->st_size > INPUT_MAX)
        return 0;
    FILE *file = fopen(path, "rb");
    autofree uint8_t *bytes = malloc((size_t)status->st_size + 1);
    if (!file || !bytes) {
        perror(path);
        exit(1);
    }
    size_t length = fread(bytes, 1, (size_t)status->st_size, file);
    fclose(file);
    /* An own block of exactly the length, so that a read past the end is seen. */
    autofree uint8_t *exact = malloc(length ? length : 1);
    if (!exact)
        exit(1);
    memcpy(exact, bytes, length);
    fprintf(stderr, "%s\n", path);
    (void)LLVMFuzzerTestOneInput(exact, length);
    inputs++;
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (nftw(argv[i], replay_file, 16, FTW_PHYS) != 0) {
            perror(argv[i]);
            return 1;
        }
    }
    if (inputs == 0) {
        fprintf(stderr, "replay: no inputs\n");
        return 1;
    }
    printf("%u inputs\n", inputs);
    return 0;
}
