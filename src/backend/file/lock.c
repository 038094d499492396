/*
 * Image locks; see backend/file/lock.h for the protocol.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/lock.h"
#include "backend/file/lock_holder.h"
#include "base/log.h"

#define USED_BYTE     100
#define UNSHARED_BYTE 200

static void unlock_bits(struct rt_file *file, uint64_t base, unsigned bits)
{
    for (unsigned bit = 0; bit < IMAGE_PERMISSIONS; bit++)
        if ((bits & (1u << bit)) && rt_file_lock(file, base + bit, 1, RT_UNLOCK) < 0)
            log_warning("releasing an image lock failed; it ends when the file is closed");
}

/* Takes the byte of every bit of @bits; all or none. */
static int lock_bits(struct rt_file *file, uint64_t base, unsigned bits)
{
    for (unsigned bit = 0; bit < IMAGE_PERMISSIONS; bit++) {
        if (!(bits & (1u << bit)))
            continue;
        int r = rt_file_lock(file, base + bit, 1, RT_LOCK_SHARED);
        if (r < 0) {
            unlock_bits(file, base, bits & ((1u << bit) - 1));
            return r;
        }
    }
    return 0;
}

/* Tests the byte of every bit of @bits; @ret_bit is the one that -EAGAIN or an error came from. */
static int find_conflict(struct rt_file *file, uint64_t base, unsigned bits, int *ret_bit)
{
    for (unsigned bit = 0; bit < IMAGE_PERMISSIONS; bit++) {
        if (!(bits & (1u << bit)))
            continue;
        int r = rt_file_lock_test(file, base + bit, 1);
        if (r < 0) {
            *ret_bit = (int)bit;
            return r;
        }
    }
    return 0;
}

static const char *const uses[IMAGE_PERMISSIONS] = {
    "reading",
    "writing",
    "writing",
    "resizing",
};

static HWS_COLD int co_tell_conflict(struct rt_file *file, uint64_t base, int bit, const char *path,
                                     struct hws_error *err)
{
    char who[LOCK_HOLDER_BYTES];

    co_lock_holder(file, base + (unsigned)bit, who);
    if (base == USED_BYTE)
        return hws_fail(err, EAGAIN,
                        "%s is using '%s' for %s; stop it, or use --force-share to read it while "
                        "it changes",
                        who, path, uses[bit]);
    if ((1u << bit) == IMAGE_READ)
        return hws_fail(err, EAGAIN,
                        "%s is changing '%s' and lets nobody read it meanwhile; wait for it, or "
                        "use --force-share to read it while it changes",
                        who, path);
    return hws_fail(err, EAGAIN,
                    "%s is using '%s' and lets nobody else write or resize it; stop it, or open "
                    "the image read-only",
                    who, path);
}

static int co_test_conflicts(const struct image_lock *want, struct rt_file *file, const char *path,
                             struct hws_error *err)
{
    int bit = 0;
    uint64_t base = UNSHARED_BYTE;
    int r = find_conflict(file, base, want->used, &bit);
    if (r == 0) {
        base = USED_BYTE;
        r = find_conflict(file, base, want->unshared, &bit);
    }
    if (r == -EAGAIN)
        return co_tell_conflict(file, base, bit, path, err);
    return r < 0 ? hws_fail_errno(err, -r, "testing the image lock of '%s'", path) : 0;
}

int co_image_lock_set(struct image_lock *lock, struct rt_file *file, unsigned used,
                      unsigned unshared, const char *path, struct hws_error *err)
{
    struct image_lock want = {used, unshared};
    struct image_lock more = {used & ~lock->used, unshared & ~lock->unshared};
    struct image_lock less = {lock->used & ~used, lock->unshared & ~unshared};

    int r = lock_bits(file, USED_BYTE, more.used);
    if (r < 0)
        return hws_fail_errno(err, -r, "taking the image lock of '%s'", path);
    r = lock_bits(file, UNSHARED_BYTE, more.unshared);
    if (r < 0) {
        unlock_bits(file, USED_BYTE, more.used);
        return hws_fail_errno(err, -r, "taking the image lock of '%s'", path);
    }
    r = co_test_conflicts(&want, file, path, err);
    if (r < 0) {
        unlock_bits(file, USED_BYTE, more.used);
        unlock_bits(file, UNSHARED_BYTE, more.unshared);
        return r;
    }
    unlock_bits(file, USED_BYTE, less.used);
    unlock_bits(file, UNSHARED_BYTE, less.unshared);
    *lock = want;
    return 0;
}

void image_lock_drop(struct image_lock *lock, struct rt_file *file)
{
    unlock_bits(file, USED_BYTE, lock->used);
    unlock_bits(file, UNSHARED_BYTE, lock->unshared);
    *lock = (struct image_lock){0};
}
