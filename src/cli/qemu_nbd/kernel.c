/*
 * -c and -d: the image as a device of the kernel's own NBD client.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include "engine/client.h"
#include <fcntl.h>
#include <sys/stat.h>

/* Can the device be used? It is not opened: the kernel would look for partitions, and wait for a
 * server that is gone. */
static int look_at(const char *device)
{
    struct stat st;
    if (stat(device, &st) == 0 && S_ISBLK(st.st_mode))
        return access(device, R_OK | W_OK) < 0 ? -errno : 0;
    autofd int fd = open(device, O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : 0;
}

int qn_check_connect(const struct qn_command *command)
{
    if (command->socket || command->port || command->bind)
        return qi_error("-c listens nowhere: leave out -k, -p and -b");
    if (command->name || command->description || command->bitmaps || command->depth ||
        command->tls_creds)
        return qi_error("the kernel is told the size and how to write, and nothing else: leave out "
                        "-x, -D, -A, -B and --tls-creds");
    return 0;
}

int qn_check_device(const struct qn_command *command)
{
    int r = look_at(command->connect);
    return r < 0 ? qi_error("Failed to open %s: %s", command->connect, strerror(-r)) : 0;
}

int qn_disconnect(const char *device)
{
    struct hws_error err = {0};
    int r = look_at(device);
    if (r < 0)
        return qi_error("Cannot open %s: %s", device, strerror(-r));
    if (engine_nbd_disconnect(device, &err) < 0)
        return qi_error("%s", err.text);
    printf("%s disconnected\n", device);
    return 0;
}
