/*
 * The logical unit: its life, its identity, and what happens to it from outside (a new size, a
 * reset).
 *
 * All identifiers follow from the UUID, or from a hash of the name, so they stay the same wherever
 * the volume is opened. The NAA identifier is of the locally assigned kind (NAA 3), the EUI-64 has
 * the bit that says "locally administered": neither needs an organisation's number.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"
#include "base/random.h"

/* FNV-1a, then mixed: stable for ever, as identifiers on disks follow from it. */
static uint64_t hash(const void *bytes, size_t length, uint64_t salt)
{
    uint64_t h = 0xcbf29ce484222325ull ^ salt;
    for (size_t i = 0; i < length; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3ull;
    struct random mixer = random_seed(h);
    return random_u64(&mixer);
}

static void set_identity(struct scsi_disk *disk, const struct scsi_disk_options *options)
{
    uint8_t id[16];
    memcpy(id, options->uuid, sizeof(id));
    if (buffer_is_zero(id, sizeof(id))) {
        store_be64(id, hash(options->name, strlen(options->name), 1));
        store_be64(id + 8, hash(options->name, strlen(options->name), 2));
    }
    for (unsigned i = 0; i < sizeof(id); i++)
        snprintf(disk->serial + 2 * (size_t)i, 3, "%02x", id[i]);
    store_be64(disk->naa, hash(id, sizeof(id), 3));
    disk->naa[0] = (uint8_t)(0x30 | (disk->naa[0] & 0x0f));
    store_be64(disk->eui, hash(id, sizeof(id), 4));
    disk->eui[0] = (uint8_t)((disk->eui[0] | 0x02) & ~0x01);
}

/* Left-aligned ASCII, padded with spaces: SPC-4, 4.3.1. */
static int set_text(char *field, size_t size, const char *text)
{
    size_t length = strlen(text);
    if (length > size)
        return -EINVAL;
    memset(field, ' ', size);
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            return -EINVAL;
        field[i] = text[i];
    }
    return 0;
}

static int check_options(const struct scsi_disk_options *o, uint64_t size, struct hws_error *err)
{
    uint32_t block = o->block_bytes ? o->block_bytes : 512;
    uint32_t physical = o->physical_block_bytes ? o->physical_block_bytes : 4096;
    if (block != 512 && block != 4096)
        return hws_fail(err, EINVAL, "SCSI disk: a logical block has 512 or 4096 bytes, not %u",
                        block);
    if (!is_power_of_2(physical) || physical < block || physical > MiB)
        return hws_fail(err, EINVAL,
                        "SCSI disk: a physical block is a power of two from the logical block's %u "
                        "bytes to 1 MiB, not %u",
                        block, physical);
    if (size < block)
        return hws_fail(err, EINVAL, "SCSI disk: the image is smaller than one block of %u bytes",
                        block);
    if (buffer_is_zero(o->uuid, sizeof(o->uuid)) && (!o->name || !o->name[0]))
        return hws_fail(err, EINVAL, "SCSI disk: neither a UUID nor a name is given");
    if (o->saved_length && !o->co_save)
        return hws_fail(err, EINVAL, "SCSI disk: saved reservations, and no way to save them");
    return 0;
}

static int set_up(struct scsi_disk *disk, const struct scsi_disk_options *o, struct hws_error *err)
{
    uint32_t physical = o->physical_block_bytes ? o->physical_block_bytes : 4096;
    disk->block_bytes = o->block_bytes ? o->block_bytes : 512;
    disk->block_shift = log2_of(disk->block_bytes);
    disk->physical_exponent = log2_of(physical) - disk->block_shift;
    disk->read_only = o->read_only || block_is_read_only(block_root_node(disk->root));
    disk->rotational = o->rotational;
    disk->explicit_access = o->explicit_access;
    disk->unmap_granularity = o->unmap_granularity_bytes / disk->block_bytes;
    disk->co_save = o->co_save;
    disk->save_arg = o->save_arg;
    set_identity(disk, o);
    if (set_text(disk->vendor, sizeof(disk->vendor), o->vendor ? o->vendor : "HAWSER") < 0 ||
        set_text(disk->product, sizeof(disk->product), o->product ? o->product : "HAWSER DISK") <
            0 ||
        set_text(disk->revision, sizeof(disk->revision), o->revision ? o->revision : "0.1") < 0)
        return hws_fail(err, EINVAL,
                        "SCSI disk: vendor, product and revision are ASCII of at most 8, 16 and 4 "
                        "bytes");
    disk->mode_default.write_cache = !o->write_through;
    atomic_init(&disk->write_cache, !o->write_through);
    if (o->saved_length && pr_parse(o->saved, o->saved_length, &disk->pr) < 0)
        return hws_fail(err, EINVAL,
                        "SCSI disk: the saved reservations are damaged; remove them "
                        "to start without any");
    reservation_update_gate(disk);
    return 0;
}

int scsi_disk_new(struct block_root *root, const struct scsi_disk_options *options,
                  struct scsi_disk **ret, struct hws_error *err)
{
    int result = check_options(options, block_root_size(root), err);
    if (result < 0)
        return result;
    struct scsi_disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return hws_fail(err, ENOMEM, "SCSI disk: out of memory");
    disk->root = root;
    rt_mutex_init(&disk->lock);
    co_mutex_init(&disk->order);
    co_waitq_init(&disk->idle);
    range_lock_init(&disk->ranges);
    list_init(&disk->luns);
    list_init(&disk->pr.registrations);
    result = set_up(disk, options, err);
    if (result < 0) {
        scsi_disk_free(disk);
        return result;
    }
    *ret = disk;
    return 0;
}

struct scsi_disk *scsi_disk_free(struct scsi_disk *disk)
{
    if (!disk)
        return NULL;
    assert(list_empty(&disk->luns));
    reservations_clear(&disk->pr);
    range_lock_destroy(&disk->ranges);
    co_mutex_destroy(&disk->order);
    rt_mutex_destroy(&disk->lock);
    free(disk);
    return NULL;
}

void scsi_disk_resized(struct scsi_disk *disk)
{
    attention_raise(disk, ATTENTION_CAPACITY, NULL);
}

bool scsi_disk_write_cache(const struct scsi_disk *disk)
{
    return atomic_load(&disk->write_cache);
}

void scsi_disk_set_write_cache(struct scsi_disk *disk, bool on)
{
    if (atomic_exchange(&disk->write_cache, on) != on)
        attention_raise(disk, ATTENTION_MODE, NULL);
}

void scsi_disk_naa(const struct scsi_disk *disk, uint8_t ret[8])
{
    memcpy(ret, disk->naa, sizeof(disk->naa));
}

const char *scsi_disk_serial(const struct scsi_disk *disk)
{
    return disk->serial;
}

/* SAM-5, 6.3.3. Persistent reservations and access states stay. */
void co_scsi_disk_reset(struct scsi_disk *disk)
{
    co_mutex_lock(&disk->order);
    rt_mutex_lock(&disk->lock);
    list_for_each (at, &disk->luns)
        list_entry(at, struct scsi_lun, link)->abort_wait = true;
    rt_mutex_unlock(&disk->lock);
    co_disk_wait_marked(disk);
    rt_mutex_lock(&disk->lock);
    disk->spc2_holder = NULL;
    atomic_fetch_and(&disk->gate, ~(unsigned)GATE_STOPPED);
    reservation_update_gate(disk);
    rt_mutex_unlock(&disk->lock);
    atomic_store(&disk->write_cache, disk->mode_default.write_cache);
    atomic_store(&disk->descriptor_sense, disk->mode_default.descriptor_sense);
    atomic_store(&disk->software_write_protect, disk->mode_default.software_write_protect);
    attention_raise(disk, ATTENTION_RESET, NULL);
    co_mutex_unlock(&disk->order);
}
