/*
 * A device: commands from tcmu-runner's thread to a queue of ours, and answers back.
 *
 *   tcmu-runner's thread of the device     the device's queue thread
 *   device_take(): onto the list,          co_serve() takes the whole list and starts a coroutine
 *     wakes co_serve()                       for each command: co_execute() runs it on the SCSI
 *                                            disk, straight on the buffers of the ring's data area,
 *                                            and answers; one bell a round tells the kernel
 *
 * All answers of a device come from its one queue thread, so libtcmu's tail of the ring needs no
 * lock. The controlling thread opens, resizes and closes. `lock` guards the list and what the two
 * of them share.
 *
 * The SCSI disk is made by the first command and not at open: targetcli writes the unit's serial
 * number, which all identifiers come from, only after the device has been opened.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu-runner/device.h"
#include "base/log.h"
#include "drivers/config_string.h"
#include "export/tcmu-runner/threads.h"
#include "rt/sync.h"
#include "scsi/scsi.h"

#define LOCK_TRIES  200 /* 10 s */
#define LOCK_TRY_NS 50000000

struct device {
    struct tcmu_device *dev;
    struct config_string config;
    struct block_root *root;
    uint32_t block_bytes;
    struct co_group serving; /* co_serve() */

    struct rt_mutex lock;
    struct co_waitq arrived;
    struct tcmur_cmd *first, *last; /* taken, not started; linked by cmd_state */
    bool closing, write_through;
    struct scsi_disk *disk; /* NULL before the first command */

    /* The queue thread's. */
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;
    unsigned in_flight;
    bool bell_due;
    struct rt_later bell;
    struct co *closer; /* waits until all is answered and told */
};

/* ---- answers ---- */

/* The kernel is told of all commands that ended in one round of the queue by one call. */
static void ring(struct rt_later *bell)
{
    struct device *device = container_of(bell, struct device, bell);
    device->bell_due = false;
    tcmulib_processing_complete(device->dev);
    if (unlikely(device->closer) && !device->in_flight) {
        co_wake(device->closer);
        device->closer = NULL;
    }
}

static void answer(struct device *device, struct tcmulib_cmd *cmd, enum runner_result result)
{
    tcmulib_command_complete(device->dev, cmd, result);
    device->in_flight--;
    device->bell_due = true;
    rt_later(&device->bell);
}

/* ---- commands ---- */

/* SPC-4, 4.2.5.1. libtcmu keeps no CDB of other groups. */
static size_t cdb_length(const uint8_t *cdb)
{
    static const uint8_t of_group[8] = {6, 10, 10, 0, 16, 12, 0, 0};
    return cdb[0] == 0x7f ? 8u + cdb[7] : of_group[cdb[0] >> 5];
}

/* Those whose buffer needs no clearing, because nobody reads it back. */
static bool is_write(uint8_t opcode)
{
    return opcode == OP_WRITE_10 || opcode == OP_WRITE_16 || opcode == OP_WRITE_6 ||
           opcode == OP_WRITE_12;
}

static enum runner_result result_of(const struct scsi_task *task, struct tcmulib_cmd *cmd)
{
    switch (task->status) {
    case SCSI_GOOD:
        /* The kernel hands on all of the buffer: what was not filled must not tell old data. */
        if (task->data_in_length < task->data_in.length && !is_write(cmd->cdb[0]))
            sgl_fill(sgl_slice(task->data_in, task->data_in_length,
                               task->data_in.length - task->data_in_length),
                     0);
        return RUNNER_GOOD;
    case SCSI_CHECK_CONDITION:
        memset(cmd->sense_buf, 0, sizeof(cmd->sense_buf));
        memcpy(cmd->sense_buf, task->sense, MIN(task->sense_length, sizeof(cmd->sense_buf)));
        return RUNNER_CHECK_CONDITION;
    case SCSI_TASK_SET_FULL:
        return RUNNER_TASK_SET_FULL;
    default:
        return RUNNER_BUSY; /* reservations, which have another status, are the kernel's here */
    }
}

static void co_execute(void *arg)
{
    struct tcmur_cmd *taken = arg;
    struct device *device = taken->cmd_state;
    struct tcmulib_cmd *cmd = taken->lib_cmd;
    /* The ring does not say which way data goes: the command does. */
    struct sgl data = sgl_of(cmd->iovec, (unsigned)cmd->iov_cnt);
    struct scsi_task task;
    task.cdb = cmd->cdb;
    task.cdb_length = cdb_length(cmd->cdb);
    task.data_in = task.data_out = data;
    co_scsi_execute(device->nexus, device->lun, &task);
    answer(device, cmd, result_of(&task, cmd));
}

/* ---- identity ---- */

/* 32 hexadecimal digits, with or without hyphens. */
static bool parse_uuid(const char *text, uint8_t ret[16])
{
    unsigned digits = 0;
    for (; *text; text++) {
        static const char hex[] = "0123456789abcdef";
        const char *at = strchr(hex, *text | 0x20);
        if (*text == '-')
            continue;
        if (!at || digits == 32)
            return false;
        ret[digits / 2] = (uint8_t)(ret[digits / 2] << 4 | (at - hex));
        digits++;
    }
    return digits == 32;
}

struct serial {
    struct tcmu_device *dev;
    char *text;
};

static int read_serial(void *arg)
{
    struct serial *serial = arg;
    serial->text = tcmu_cfgfs_dev_get_wwn(serial->dev);
    return 0;
}

static int make_disk(struct device *device, const char *serial, struct hws_error *err)
{
    bool named = serial && serial[0];
    struct scsi_disk_options options = {
        .block_bytes = device->block_bytes,
        .name = named ? serial : device->config.image,
        .read_only = device->config.read_only,
        .write_through = device->write_through,
    };
    if (named && !parse_uuid(serial, options.uuid))
        memset(options.uuid, 0, sizeof(options.uuid));
    struct scsi_nexus_options nexus = {.initiator = "iqn.2026-01.org.hawser:tcmu,i,0x1"};
    struct scsi_disk *disk;
    int r = scsi_disk_new(device->root, &options, &disk, err);
    if (r < 0)
        return r;
    r = scsi_nexus_new(&nexus, &device->nexus, err);
    if (r == 0) {
        r = scsi_map(device->nexus, 0, disk, &device->lun);
        if (r < 0)
            device->nexus = scsi_nexus_free(device->nexus);
    }
    if (r < 0) {
        scsi_disk_free(disk);
        return r;
    }
    rt_mutex_lock(&device->lock);
    device->disk = disk;
    scsi_disk_set_write_cache(disk, !device->write_through);
    rt_mutex_unlock(&device->lock);
    return 0;
}

static int co_identify(struct device *device)
{
    struct serial serial = {.dev = device->dev};
    struct hws_error err = {0};
    int r = co_work(read_serial, &serial); /* configfs: may block */
    if (r == 0)
        r = make_disk(device, serial.text, &err);
    free(serial.text);
    if (r < 0)
        log_error("'%s': %s", device->config.image, err.text[0] ? err.text : strerror(-r));
    return r;
}

/* ---- the queue's side ---- */

static void co_start(struct device *device, struct tcmur_cmd *cmd)
{
    struct tcmulib_cmd *lib = cmd->lib_cmd;
    device->in_flight++;
    if (unlikely(!device->lun) && co_identify(device) < 0) {
        answer(device, lib, RUNNER_BUSY);
        return;
    }
    cmd->cmd_state = device;
    if (unlikely(rt_spawn(NULL, co_execute, cmd) < 0))
        answer(device, lib, RUNNER_TASK_SET_FULL);
}

/* All that was taken, oldest first; NULL once the device closes. */
static struct tcmur_cmd *co_next(struct device *device)
{
    rt_mutex_lock(&device->lock);
    while (!device->first && !device->closing)
        co_waitq_wait(&device->arrived, &device->lock);
    struct tcmur_cmd *first = device->first;
    device->first = NULL;
    rt_mutex_unlock(&device->lock);
    return first;
}

static void co_serve(void *arg)
{
    struct device *device = arg;
    struct tcmur_cmd *cmd;
    while ((cmd = co_next(device))) {
        while (cmd) {
            struct tcmur_cmd *next = cmd->cmd_state;
            co_start(device, cmd);
            cmd = next;
        }
    }
    if (device->in_flight || device->bell_due) {
        device->closer = co_self();
        co_suspend();
    }
    co_group_done(&device->serving);
}

void device_take(struct device *device, struct tcmur_cmd *cmd)
{
    cmd->cmd_state = NULL;
    rt_mutex_lock(&device->lock);
    assert(!device->closing);
    if (device->first)
        device->last->cmd_state = cmd;
    else
        device->first = cmd;
    device->last = cmd;
    co_waitq_wake_one(&device->arrived);
    rt_mutex_unlock(&device->lock);
}

/* ---- the controlling side ---- */

static int co_check(void *arg, struct hws_error *err)
{
    struct config_string config;
    int r = config_string_parse(arg, &config, err);
    if (r < 0)
        return r;
    r = co_config_string_check(&config, err);
    config_string_free(&config);
    return r;
}

int device_check(const char *text, struct hws_error *err)
{
    char copy[CONFIG_STRING_MAX + 2];
    snprintf(copy, sizeof(copy), "%s", text); /* one byte longer than what is accepted */
    return threads_call(co_check, copy, err);
}

/* A predecessor that was killed holds the image until its last I/O has ended. */
static int co_open_root(struct device *device, struct hws_error *err)
{
    int r;
    for (unsigned tries = 0; tries <= LOCK_TRIES; tries++) {
        r = co_config_string_open(&device->config, threads_keep(), &device->root, err);
        if (r != -EAGAIN && r != -EBUSY)
            break;
        co_sleep_ns(LOCK_TRY_NS);
    }
    return r;
}

static int co_open_image(struct device *device, struct hws_error *err)
{
    uint64_t blocks = tcmu_dev_get_num_lbas(device->dev), size;
    device->block_bytes = tcmu_dev_get_block_size(device->dev);
    if (device->block_bytes != 512 && device->block_bytes != 4096)
        return hws_fail(err, EINVAL, "hw_block_size is %u; it can be 512 or 4096",
                        device->block_bytes);
    if (mul_overflows(blocks, (uint64_t)device->block_bytes, &size))
        return hws_fail(err, EINVAL, "dev_size is out of range");
    int r = co_open_root(device, err);
    if (r < 0)
        return r;
    uint64_t found = block_root_size(device->root);
    if (found >= size) {
        if (found != size)
            log_warning("'%s': the device is given %llu bytes, and has the image's %llu",
                        device->config.image, (unsigned long long)size, (unsigned long long)found);
        return 0;
    }
    co_block_root_free(device->root, NULL);
    return hws_fail(err, EINVAL,
                    "'%s' has %llu bytes, the device is given %llu: enlarge the image first "
                    "(hawser resize), or give the device its size",
                    device->config.image, (unsigned long long)found, (unsigned long long)size);
}

static int co_close_image(struct device *device)
{
    int flushed = device->config.read_only ? 0 : co_root_flush(device->root);
    int closed = co_block_root_free(device->root, NULL);
    return flushed < 0 ? flushed : closed;
}

static void forget(struct device *device)
{
    config_string_free(&device->config);
    co_group_destroy(&device->serving);
    rt_mutex_destroy(&device->lock);
    free(device);
}

static int co_open_device(void *arg, struct hws_error *err)
{
    struct device *device = arg;
    int r = config_string_parse(tcmu_dev_get_cfgstring(device->dev), &device->config, err);
    if (r < 0)
        return r;
    device->write_through = device->config.cache == BLOCK_CACHE_WRITETHROUGH;
    r = co_open_image(device, err);
    if (r < 0)
        return r;
    co_group_add(&device->serving, 1);
    r = rt_spawn(threads_next(), co_serve, device);
    if (r == 0)
        return 0;
    co_group_done(&device->serving);
    co_close_image(device);
    return hws_fail(err, ENOMEM, "out of memory");
}

int device_open(struct tcmu_device *dev, struct device **ret, struct hws_error *err)
{
    struct device *device = calloc(1, sizeof(*device));
    if (!device)
        return hws_fail(err, ENOMEM, "out of memory");
    device->dev = dev;
    rt_mutex_init(&device->lock);
    co_waitq_init(&device->arrived);
    co_group_init(&device->serving);
    rt_later_init(&device->bell, ring);
    int r = threads_call(co_open_device, device, err);
    if (r < 0)
        forget(device);
    else
        *ret = device;
    return r;
}

static int co_close_device(void *arg, struct hws_error *err)
{
    struct device *device = arg;
    rt_mutex_lock(&device->lock);
    device->closing = true;
    co_waitq_wake_one(&device->arrived);
    rt_mutex_unlock(&device->lock);
    co_group_wait(&device->serving);
    if (device->lun)
        co_scsi_unmap(device->lun);
    scsi_nexus_free(device->nexus);
    scsi_disk_free(device->disk);
    int r = co_close_image(device);
    return r < 0 ? hws_fail_errno(err, -r, "'%s': writing what was cached failed",
                                  device->config.image)
                 : 0;
}

void device_close(struct device *device)
{
    struct hws_error err = {0};
    if (threads_call(co_close_device, device, &err) < 0)
        log_error("%s", err.text);
    forget(device);
}

struct resize {
    struct device *device;
    uint64_t size_bytes;
};

static int co_resize(void *arg, struct hws_error *err)
{
    struct resize *resize = arg;
    struct device *device = resize->device;
    uint64_t size = resize->size_bytes, before = block_root_size(device->root);
    if (size % device->block_bytes)
        return hws_fail(err, EINVAL, "%llu bytes are not whole blocks of %u",
                        (unsigned long long)size, device->block_bytes);
    if (size < before)
        return hws_fail(err, EINVAL,
                        "'%s' has %llu bytes: a device in use is not made smaller (%llu asked for)",
                        device->config.image, (unsigned long long)before, (unsigned long long)size);
    int r = size > before ? co_root_resize(device->root, size, err) : 0;
    if (r < 0)
        return r;
    rt_mutex_lock(&device->lock);
    struct scsi_disk *disk = device->disk;
    rt_mutex_unlock(&device->lock);
    if (disk)
        scsi_disk_resized(disk);
    return 0;
}

int device_resize(struct device *device, uint64_t size_bytes, struct hws_error *err)
{
    struct resize resize = {device, size_bytes};
    return threads_call(co_resize, &resize, err);
}

void device_set_write_cache(struct device *device, bool on)
{
    rt_mutex_lock(&device->lock);
    device->write_through = !on;
    if (device->disk)
        scsi_disk_set_write_cache(device->disk, on);
    rt_mutex_unlock(&device->lock);
}
