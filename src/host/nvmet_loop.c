/*
 * NVMe over Fibre Channel within this host, by the kernel's nvme-fcloop; see host/nvmet.h.
 *
 *     target port  <-- remote port --  local port        each by its node's and its own name
 *
 * The module's files are written only: what there is cannot be listed, so the names are made of the
 * export's, and removing is by name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/nvmet.h"
#include "host/wwn.h"

#define CONTROL "/sys/class/fcloop/ctl"
#define ROLES   "0x60" /* of the remote port: NVMe target and discovery service */

void nvmet_loop_names(const char *name, struct nvmet_loop *ret)
{
    uint8_t digest[16];
    name_digest("nvme fcloop", name, digest);
    uint64_t wwn = wwn_local(digest) & ~(uint64_t)3;
    *ret = (struct nvmet_loop){wwn, wwn | 1, wwn | 2, wwn | 3};
}

static int name_port(struct hws_error *err, const char *file, uint64_t wwnn, uint64_t wwpn)
{
    char text[128];
    snprintf(text, sizeof(text), "wwnn=0x%llx,wwpn=0x%llx", (unsigned long long)wwnn,
             (unsigned long long)wwpn);
    return configfs_write(err, text, CONTROL "/%s", file);
}

int nvmet_loop_add_target(const struct nvmet_loop *loop, struct hws_error *err)
{
    int r = configfs_load_module("nvme_fcloop", err);
    return r < 0 ? r : name_port(err, "add_target_port", loop->target_wwnn, loop->target_wwpn);
}

int nvmet_loop_add_host(const struct nvmet_loop *loop, struct hws_error *err)
{
    char text[256];
    int r = name_port(err, "add_local_port", loop->host_wwnn, loop->host_wwpn);
    if (r < 0)
        return r;
    snprintf(text, sizeof(text), "wwnn=0x%llx,wwpn=0x%llx,lpwwnn=0x%llx,lpwwpn=0x%llx,roles=" ROLES,
             (unsigned long long)loop->target_wwnn, (unsigned long long)loop->target_wwpn,
             (unsigned long long)loop->host_wwnn, (unsigned long long)loop->host_wwpn);
    return configfs_write(err, text, CONTROL "/add_remote_port");
}

/* The target first: the kernel forgets its name with the remote port's (6.12), but not the port. */
void nvmet_loop_remove(const struct nvmet_loop *loop)
{
    name_port(NULL, "del_target_port", loop->target_wwnn, loop->target_wwpn);
    name_port(NULL, "del_remote_port", loop->target_wwnn, loop->target_wwpn);
    name_port(NULL, "del_local_port", loop->host_wwnn, loop->host_wwpn);
}
