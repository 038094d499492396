/*
 * -c and -d: the image as a device of the kernel's own NBD client.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include "engine/client.h"
#include <fcntl.h>

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
    autofd int fd = open(command->connect, O_RDWR | O_CLOEXEC);
    return fd < 0 ? qi_error("Failed to open %s: %s", command->connect, strerror(errno)) : 0;
}

int qn_disconnect(const char *device)
{
    struct hws_error err = {0};
    autofd int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return qi_error("Cannot open %s: %s", device, strerror(errno));
    if (engine_nbd_disconnect(device, &err) < 0)
        return qi_error("%s", err.text);
    printf("%s disconnected\n", device);
    return 0;
}
