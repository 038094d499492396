/*
 * handler_hawser.so: the functions that tcmu-runner calls, and the table that lists them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/config_string.h"
#include "export/tcmu-runner/device.h"
#include "export/tcmu-runner/threads.h"
#include <pthread.h>

static bool check_config(const char *text, char **reason)
{
    struct hws_error err = {0};
    if (device_check(text, &err) == 0)
        return true;
    *reason = strdup(err.text);
    return false;
}

static int open_device(struct tcmu_device *dev, bool reopen)
{
    struct hws_error err = {0};
    struct device *device;
    int r = device_open(dev, &device, &err);
    if (r < 0)
        tcmu_err_message(dev, __func__, __LINE__, "%s\n", err.text);
    else
        tcmur_dev_set_private(dev, device);
    return r;
}

static void close_device(struct tcmu_device *dev)
{
    device_close(tcmur_dev_get_private(dev));
}

static int reconfigure(struct tcmu_device *dev, struct tcmulib_cfg_info *info)
{
    struct device *device = tcmur_dev_get_private(dev);
    struct hws_error err = {0};
    int r = 0;
    switch (info->type) {
    case RUNNER_CHANGE_SIZE:
        r = device_resize(device, info->data.dev_size, &err);
        break;
    case RUNNER_CHANGE_WRITE_CACHE:
        device_set_write_cache(device, info->data.write_cache);
        break;
    default:
        r = hws_fail(&err, EOPNOTSUPP, "the configuration of a device in use cannot change");
    }
    if (r < 0)
        tcmu_err_message(dev, __func__, __LINE__, "%s\n", err.text);
    return r;
}

static int handle_command(struct tcmu_device *dev, struct tcmur_cmd *cmd)
{
    /* This thread may be cancelled; a lock of ours would stay locked. */
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    device_take(tcmur_dev_get_private(dev), cmd);
    pthread_setcancelstate(before, NULL);
    return RUNNER_ASYNC;
}

static struct tcmur_handler handler = {
    .name = "Hawser",
    .subtype = CONFIG_STRING_SUBTYPE,
    .cfg_desc = CONFIG_STRING_HELP,
    .check_config = check_config,
    .reconfig = reconfigure,
    .open = open_device,
    .close = close_device,
    .handle_cmd = handle_command,
    .destroy = threads_stop,
};

int handler_init(void)
{
    return tcmur_register_handler(&handler);
}
