/*
 * Words of the options that say how a volume is served; see cli/volume.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/volume.h"

const char *const cli_cache_choices[] = {"none", "writeback", "writethrough", "unsafe", NULL};
const char *const cli_discard_choices[] = {"unmap", "ignore", NULL};
const char *const cli_detect_choices[] = {"off", "on", "unmap", NULL};
const char *const cli_via_choices[] = {"auto", "tcmu", "nbd", "fuse-loop", "fuse", "none", NULL};
const char *const cli_block_choices[] = {"512", "4096", NULL};
