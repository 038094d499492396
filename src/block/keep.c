/*
 * The keep: a file, mapped and shared, whose content outlives the process; see keep.h.
 *
 *   0        struct keep_head: what this is, and the boot of the machine that it belongs to
 *   4 KiB    segment 0:  4 KiB  struct keep_segment_head: whose it is, headers of its slots
 *                       32 KiB  the slots' bytes
 *   40 KiB   segment 1: ...
 *
 * A segment belongs to one image or is free, as its `state` says, one word. Numbers are the
 * machine's own, as no other machine ever reads them.
 *
 * Memory is had by fallocate: a store into a hole of a full tmpfs would be a SIGBUS. What a
 * predecessor left is checked as a whole when the file is opened; headers are copied before use.
 * Segments of an image that nobody has opened since are not reused: reads that the dead process had
 * under way may still land in them, until the lock on that image's file is free.
 *
 * Any thread; `guard` covers the list of segments and their owners, not the slots.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/keep.h"
#include "base/log.h"
#include "block/core.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define KEEP_MAGIC         0x7065654b72737748ull /* "HwsrKeep" */
#define KEEP_VERSION       1u
#define KEEP_PAGE          (4 * KiB)
#define KEEP_SEGMENT_BYTES (KEEP_PAGE + BLOCK_KEEP_DATA_BYTES)
#define KEEP_SLOTS_MAX     ((uint32_t)(BLOCK_KEEP_DATA_BYTES / BLOCK_KEEP_SLOT_MIN))
/* 1 GiB of metadata; also bounds what a hostile file makes us map. */
#define KEEP_SEGMENTS_MAX 32768u
#define KEEP_FREE         0u
#define KEEP_USED         0x6465736bu
#define OPEN_ATTEMPTS     16

struct keep_head {
    uint64_t magic; /* stored last */
    uint32_t version;
    uint32_t page_bytes;
    uint64_t segment_bytes;
    char boot[40]; /* the kernel's boot_id: 36 characters, and zeroes */
};

struct keep_segment_head {
    _Atomic uint32_t state; /* stored last when it is taken, first when it is freed */
    uint32_t slot_bytes;
    uint64_t device, inode, birth_ns; /* the storage of the image */
    uint32_t nesting;                 /* images inside images: how many containers lie between */
    uint32_t reserved;
    uint64_t mark;
    struct block_keep_slot slot[KEEP_SLOTS_MAX];
};

static_assert(sizeof(struct block_keep_slot) == 16, "");
static_assert(offsetof(struct keep_segment_head, slot) == 48, "");
static_assert(sizeof(struct keep_segment_head) <= KEEP_PAGE, "");
static_assert(sizeof(struct keep_head) == 64, "");

struct block_keep_image {
    struct block_keep *keep;
    struct list link;
    uint64_t device, inode, birth_ns, mark;
    uint32_t nesting;
};

struct segment {
    struct block_keep_segment view;
    struct keep_segment_head *head; /* mapped; NULL: not mapped yet, so free */
    struct block_keep_image *image; /* who uses it in this process */
    bool inherited;                 /* a predecessor's content */
};

struct block_keep {
    pthread_mutex_t guard;
    int fd;
    char *path;
    struct segment **segment;
    size_t count;
    struct list images;
    bool told; /* that it cannot grow */
};

/* ---- the file ---- */

static int read_boot(char boot[40], struct hws_error *err)
{
    memset(boot, 0, 40);
    autofd int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, boot, 36) != 36)
        return hws_fail_errno(err, errno ? errno : EIO, "reading the boot id of the machine");
    return 0;
}

static int lock_file(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

/* Ours alone, by its rights too: whoever writes it writes the image. */
static int check_rights(const struct stat *st, const char *path, struct hws_error *err)
{
    if (!S_ISREG(st->st_mode))
        return hws_fail(err, EINVAL, "the keep '%.200s' is no regular file", path);
    if (st->st_uid != geteuid() || (st->st_mode & 077))
        return hws_fail(err, EPERM,
                        "the keep '%.200s' belongs to or can be used by somebody else; it must be "
                        "ours, with mode 0600",
                        path);
    return 0;
}

/* A predecessor that ended takes its file away: then it is made anew. */
static int open_locked(const char *path, int *ret, struct hws_error *err)
{
    for (int attempt = 0; attempt < OPEN_ATTEMPTS; attempt++) {
        struct stat st, now;
        autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (fd < 0 || fstat(fd, &st) < 0)
            return hws_fail_errno(err, errno, "opening the keep '%.200s'", path);
        int r = check_rights(&st, path, err);
        if (r < 0)
            return r;
        r = lock_file(fd);
        if (r == -EAGAIN)
            return hws_fail(err, EAGAIN, "another process uses the keep '%.200s'", path);
        if (r < 0)
            return hws_fail_errno(err, -r, "locking the keep '%.200s'", path);
        if (stat(path, &now) == 0 && now.st_dev == st.st_dev && now.st_ino == st.st_ino) {
            *ret = fd;
            fd = -1;
            return 0;
        }
    }
    return hws_fail(err, EAGAIN, "the keep '%.200s' is made and removed all the time", path);
}

/* A call in a tmpfs ends early wherever the thread has work of a ring or a signal to see to. */
static int allocate(int fd, off_t at, off_t length)
{
    int error;
    do
        error = posix_fallocate(fd, at, length);
    while (error == EINTR);
    return error;
}

static int make_head(struct block_keep *keep, const char boot[40], struct hws_error *err)
{
    struct keep_head head = {
        .version = KEEP_VERSION, .page_bytes = KEEP_PAGE, .segment_bytes = KEEP_SEGMENT_BYTES};
    memcpy(head.boot, boot, sizeof(head.boot));
    int error = ftruncate(keep->fd, 0) < 0 ? errno : allocate(keep->fd, 0, KEEP_PAGE);
    if (error == 0 && pwrite(keep->fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        error = errno ? errno : EIO;
    head.magic = KEEP_MAGIC;
    if (error == 0 &&
        pwrite(keep->fd, &head.magic, sizeof(head.magic), 0) != (ssize_t)sizeof(head.magic))
        error = errno ? errno : EIO;
    return error ? hws_fail_errno(err, error, "making the keep '%.200s'", keep->path) : 0;
}

static int damaged(const struct block_keep *keep, const char *why, struct hws_error *err)
{
    return hws_fail(err, EUCLEAN,
                    "the keep '%.200s' is damaged, or no keep (%s): nothing of it was applied; "
                    "remove it to give up the changes in it",
                    keep->path, why);
}

/* ---- segments ---- */

static int map_segment(struct block_keep *keep, size_t index)
{
    off_t at = (off_t)(KEEP_PAGE + index * KEEP_SEGMENT_BYTES);
    void *map = mmap(NULL, KEEP_SEGMENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, keep->fd, at);
    if (map == MAP_FAILED)
        return -errno;
    struct segment *s = keep->segment[index];
    s->head = map;
    s->view.slot = s->head->slot;
    s->view.data = (uint8_t *)map + KEEP_PAGE;
    return 0;
}

/* Room for segment number `count` in the table. */
static int add_segment(struct block_keep *keep)
{
    if (keep->count >= KEEP_SEGMENTS_MAX)
        return -ENOSPC;
    if (is_power_of_2(keep->count) || keep->count == 0) {
        size_t room = keep->count ? keep->count * 2 : 1;
        void *bigger = realloc(keep->segment, room * sizeof(keep->segment[0]));
        if (!bigger)
            return -ENOMEM;
        keep->segment = bigger;
    }
    struct segment *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    keep->segment[keep->count] = s;
    int r = map_segment(keep, keep->count);
    if (r < 0)
        free(s);
    else
        keep->count++;
    return r;
}

static void drop_last(struct block_keep *keep)
{
    struct segment *s = keep->segment[--keep->count];
    munmap(s->head, KEEP_SEGMENT_BYTES);
    free(s);
}

static bool is_used(const struct segment *s)
{
    return atomic_load_explicit(&s->head->state, memory_order_relaxed) != KEEP_FREE;
}

static bool is_dirty(const struct segment *s)
{
    if (!is_used(s))
        return false;
    for (uint32_t i = 0; i < s->view.slots; i++)
        if (atomic_load_explicit(&s->view.slot[i].state, memory_order_relaxed) != BLOCK_KEEP_CLEAN)
            return true;
    return false;
}

/* One store takes all its slots out of the keep. */
static void free_segment(struct segment *s)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&s->head->state, KEEP_FREE, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    s->image = NULL;
    s->inherited = false;
}

/* Free memory at the end goes back to the machine. */
static void trim(struct block_keep *keep)
{
    size_t before = keep->count;
    while (keep->count && !is_used(keep->segment[keep->count - 1]))
        drop_last(keep);
    if (keep->count < before)
        (void)!ftruncate(keep->fd, (off_t)(KEEP_PAGE + keep->count * KEEP_SEGMENT_BYTES));
}

/* ---- what a predecessor left ---- */

static const char *find_fault(struct segment *s)
{
    const struct keep_segment_head *head = s->head;
    uint32_t state = atomic_load_explicit(&head->state, memory_order_relaxed);
    uint32_t bytes = head->slot_bytes;
    if (state == KEEP_FREE)
        return NULL;
    if (state != KEEP_USED)
        return "the state of a segment";
    if (!is_power_of_2(bytes) || bytes < BLOCK_KEEP_SLOT_MIN || bytes > KEEP_PAGE)
        return "the size of slots";
    s->view.slot_bytes = bytes;
    s->view.slots = (uint32_t)(BLOCK_KEEP_DATA_BYTES / bytes);
    s->inherited = true;
    for (uint32_t i = 0; i < s->view.slots; i++) {
        uint32_t slot = atomic_load_explicit(&head->slot[i].state, memory_order_relaxed);
        if (slot != BLOCK_KEEP_CLEAN && slot != BLOCK_KEEP_DIRTY)
            return "the state of a slot";
    }
    return NULL;
}

static int load_segments(struct block_keep *keep, uint64_t file_bytes, struct hws_error *err)
{
    /* One that a kill left half made at the end is not there yet. */
    uint64_t count = (file_bytes - KEEP_PAGE) / KEEP_SEGMENT_BYTES;
    if (count > KEEP_SEGMENTS_MAX)
        return damaged(keep, "its size", err);
    for (uint64_t i = 0; i < count; i++) {
        int r = add_segment(keep);
        if (r < 0)
            return hws_fail_errno(err, -r, "mapping the keep '%.200s'", keep->path);
        const char *fault = find_fault(keep->segment[i]);
        if (fault)
            return damaged(keep, fault, err);
    }
    return 0;
}

static int load(struct block_keep *keep, struct hws_error *err)
{
    struct keep_head head = {0};
    struct stat st;
    char boot[40];
    int r = read_boot(boot, err);
    if (r < 0)
        return r;
    ssize_t got = pread(keep->fd, &head, sizeof(head), 0);
    if (got < 0 || fstat(keep->fd, &st) < 0)
        return hws_fail_errno(err, errno, "reading the keep '%.200s'", keep->path);
    if (got == 0 || (head.magic == 0 && (uint64_t)st.st_size <= KEEP_PAGE))
        return make_head(keep, boot, err); /* new, or killed while it was made */
    if (got != (ssize_t)sizeof(head) || head.magic != KEEP_MAGIC ||
        (uint64_t)st.st_size < KEEP_PAGE)
        return damaged(keep, "its head", err);
    if (memcmp(head.boot, boot, sizeof(boot)) != 0) {
        log_warning("the keep '%s' is of another boot of the machine: nothing of it is applied",
                    keep->path);
        return make_head(keep, boot, err);
    }
    if (head.version != KEEP_VERSION || head.page_bytes != KEEP_PAGE ||
        head.segment_bytes != KEEP_SEGMENT_BYTES)
        return hws_fail(err, ENOTSUP,
                        "the keep '%.200s' was left by another version of the program; open the "
                        "images with that one, or remove the keep to give up the changes in it",
                        keep->path);
    return load_segments(keep, (uint64_t)st.st_size, err);
}

/* ---- life ---- */

static struct block_keep *keep_free(struct block_keep *keep)
{
    while (keep->count)
        drop_last(keep);
    free(keep->segment);
    if (keep->fd >= 0)
        close(keep->fd);
    pthread_mutex_destroy(&keep->guard);
    free(keep->path);
    free(keep);
    return NULL;
}

int block_keep_open(const char *path, struct block_keep **ret, struct hws_error *err)
{
    struct block_keep *keep = calloc(1, sizeof(*keep));
    if (!keep)
        return hws_fail(err, ENOMEM, "out of memory");
    pthread_mutex_init(&keep->guard, NULL);
    list_init(&keep->images);
    keep->fd = -1;
    keep->path = strdup(path);
    int r = keep->path ? open_locked(path, &keep->fd, err) : hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = load(keep, err);
    if (r < 0)
        keep_free(keep);
    else
        *ret = keep;
    return r;
}

static bool any_dirty(const struct block_keep *keep)
{
    for (size_t i = 0; i < keep->count; i++)
        if (is_dirty(keep->segment[i]))
            return true;
    return false;
}

struct block_keep *block_keep_close(struct block_keep *keep)
{
    if (!keep)
        return NULL;
    assert(list_empty(&keep->images));
    /* Before the lock goes: who opened it meanwhile finds that it is gone. */
    struct stat ours, there;
    if (!any_dirty(keep) && fstat(keep->fd, &ours) == 0 && lstat(keep->path, &there) == 0 &&
        ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
        unlink(keep->path);
    return keep_free(keep);
}

bool block_keep_pending(const struct block_keep *keep)
{
    pthread_mutex_t *guard = (pthread_mutex_t *)&keep->guard;
    bool pending = false;
    pthread_mutex_lock(guard);
    for (size_t i = 0; i < keep->count && !pending; i++)
        pending = keep->segment[i]->inherited && is_dirty(keep->segment[i]);
    pthread_mutex_unlock(guard);
    return pending;
}

/* ---- images ---- */

/* The storage of @node, and how many containers lie between. @return false where it has none. */
static bool identify(const struct block_node *node, struct block_keep_image *ret)
{
    ret->nesting = 0;
    for (; node->child[BLOCK_FILE]; node = node->child[BLOCK_FILE])
        ret->nesting++;
    ret->device = node->core->device;
    ret->inode = node->core->inode;
    ret->birth_ns = node->core->birth_ns;
    return node->core->identified;
}

static bool same_image(const struct block_keep_image *image, uint64_t device, uint64_t inode,
                       uint32_t nesting)
{
    return image->device == device && image->inode == inode && image->nesting == nesting;
}

static bool belongs(const struct segment *s, const struct block_keep_image *image)
{
    return is_used(s) && !s->image && image->birth_ns == s->head->birth_ns &&
           same_image(image, s->head->device, s->head->inode, s->head->nesting);
}

/* The image was deleted, and its inode's number is that of another file now. */
static bool is_of_deleted(const struct segment *s, const struct block_keep_image *image)
{
    return is_used(s) && !s->image && s->head->device == image->device &&
           s->head->inode == image->inode && s->head->birth_ns != image->birth_ns;
}

int block_keep_attach(struct block_node *node, struct block_keep_image **ret, struct hws_error *err)
{
    struct block_keep *keep = node->context->policy.keep;
    struct block_keep_image id;
    *ret = NULL;
    if (!keep || !identify(node, &id))
        return 0;
    struct block_keep_image *image = calloc(1, sizeof(*image));
    if (!image)
        return hws_fail(err, ENOMEM, "out of memory");
    *image = (struct block_keep_image){
        .keep = keep,
        .device = id.device,
        .inode = id.inode,
        .birth_ns = id.birth_ns,
        .nesting = id.nesting,
    };
    int r = 0;
    pthread_mutex_lock(&keep->guard);
    list_for_each (link, &keep->images) {
        const struct block_keep_image *other = list_entry(link, struct block_keep_image, link);
        if (same_image(other, id.device, id.inode, id.nesting))
            r = -EBUSY;
    }
    if (r == 0) {
        list_push_back(&keep->images, &image->link);
        for (size_t i = 0; i < keep->count; i++)
            if (belongs(keep->segment[i], image))
                keep->segment[i]->image = image;
            else if (is_of_deleted(keep->segment[i], image))
                free_segment(keep->segment[i]);
    }
    pthread_mutex_unlock(&keep->guard);
    if (r < 0) {
        free(image);
        return hws_fail(err, EBUSY, "'%.200s' is open with the keep '%.200s' already",
                        node->filename, keep->path);
    }
    *ret = image;
    return 0;
}

bool block_keep_holds(struct block_node *node)
{
    struct block_keep *keep = node->context->policy.keep;
    struct block_keep_image id;
    bool holds = false;
    if (!keep || !identify(node, &id))
        return false;
    pthread_mutex_lock(&keep->guard);
    for (size_t i = 0; i < keep->count && !holds; i++)
        holds = belongs(keep->segment[i], &id) && is_dirty(keep->segment[i]);
    pthread_mutex_unlock(&keep->guard);
    return holds;
}

/* Adds what is dirty in a segment; @ret has room. */
static void copy_changes(const struct segment *s, struct block_keep_change *ret, size_t *count)
{
    for (uint32_t i = 0; i < s->view.slots; i++) {
        const struct block_keep_slot *slot = &s->view.slot[i];
        if (atomic_load_explicit(&slot->state, memory_order_relaxed) != BLOCK_KEEP_DIRTY)
            continue;
        ret[(*count)++] = (struct block_keep_change){
            .offset = slot->offset,
            .kind = slot->kind,
            .length = s->view.slot_bytes,
            .data = s->view.data + (size_t)i * s->view.slot_bytes,
        };
    }
}

int block_keep_changes(struct block_keep_image *image, struct block_keep_change **ret,
                       size_t *ret_count, uint64_t *ret_mark, struct hws_error *err)
{
    struct block_keep *keep = image->keep;
    size_t room = 0, count = 0;
    uint64_t mark = 0;
    int r = 0;
    pthread_mutex_lock(&keep->guard);
    for (size_t i = 0; i < keep->count; i++)
        if (keep->segment[i]->image == image && is_dirty(keep->segment[i]))
            room += keep->segment[i]->view.slots;
    struct block_keep_change *changes = calloc(MAX(room, (size_t)1), sizeof(*changes));
    if (!changes)
        r = hws_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < keep->count && r == 0; i++) {
        const struct segment *s = keep->segment[i];
        if (s->image != image || !is_dirty(s))
            continue;
        if (count && s->head->mark != mark)
            r = damaged(keep, "two marks for one image", err);
        mark = s->head->mark;
        copy_changes(s, changes, &count);
    }
    pthread_mutex_unlock(&keep->guard);
    if (r < 0) {
        free(changes);
        return r;
    }
    *ret = changes;
    *ret_count = count;
    *ret_mark = mark;
    return 0;
}

void block_keep_applied(struct block_keep_image *image)
{
    struct block_keep *keep = image->keep;
    pthread_mutex_lock(&keep->guard);
    for (size_t i = 0; i < keep->count; i++)
        if (keep->segment[i]->image == image && keep->segment[i]->inherited)
            free_segment(keep->segment[i]);
    trim(keep);
    pthread_mutex_unlock(&keep->guard);
}

void block_keep_mark(struct block_keep_image *image, uint64_t mark)
{
    struct block_keep *keep = image->keep;
    pthread_mutex_lock(&keep->guard);
    image->mark = mark;
    for (size_t i = 0; i < keep->count; i++)
        if (keep->segment[i]->image == image)
            keep->segment[i]->head->mark = mark;
    pthread_mutex_unlock(&keep->guard);
}

/* ---- memory for an image ---- */

/* A free segment, or NULL. Caller holds the guard. */
static struct segment *find_free(struct block_keep *keep)
{
    for (size_t i = 0; i < keep->count; i++)
        if (!is_used(keep->segment[i]))
            return keep->segment[i];
    off_t at = (off_t)(KEEP_PAGE + keep->count * KEEP_SEGMENT_BYTES);
    int error = allocate(keep->fd, at, (off_t)KEEP_SEGMENT_BYTES);
    if (error || add_segment(keep) < 0) {
        if (!keep->told)
            log_warning(
                "the keep '%s' cannot grow%s%s: metadata caches stay smaller than they may be",
                keep->path, error ? ": " : "", error ? strerror(error) : "");
        keep->told = true;
        return NULL;
    }
    return keep->segment[keep->count - 1];
}

struct block_keep_segment *block_keep_segment_new(struct block_keep_image *image,
                                                  uint32_t slot_bytes)
{
    struct block_keep *keep = image->keep;
    assert(is_power_of_2(slot_bytes) && slot_bytes >= BLOCK_KEEP_SLOT_MIN &&
           slot_bytes <= KEEP_PAGE);
    pthread_mutex_lock(&keep->guard);
    struct segment *s = find_free(keep);
    if (s) {
        struct keep_segment_head *head = s->head;
        assert(!s->image);
        memset(head, 0, sizeof(*head)); /* the state is, and stays, free */
        head->slot_bytes = slot_bytes;
        head->device = image->device;
        head->inode = image->inode;
        head->birth_ns = image->birth_ns;
        head->nesting = image->nesting;
        head->mark = image->mark;
        atomic_signal_fence(memory_order_seq_cst);
        atomic_store_explicit(&head->state, KEEP_USED, memory_order_relaxed);
        s->image = image;
        s->view.slot_bytes = slot_bytes;
        s->view.slots = (uint32_t)(BLOCK_KEEP_DATA_BYTES / slot_bytes);
    }
    pthread_mutex_unlock(&keep->guard);
    return s ? &s->view : NULL;
}

void block_keep_segment_free(struct block_keep_image *image, struct block_keep_segment *segment)
{
    struct segment *s = container_of(segment, struct segment, view);
    pthread_mutex_lock(&image->keep->guard);
    assert(s->image == image);
    free_segment(s);
    pthread_mutex_unlock(&image->keep->guard);
}

void block_keep_detach(struct block_keep_image *image)
{
    if (!image)
        return;
    struct block_keep *keep = image->keep;
    pthread_mutex_lock(&keep->guard);
    for (size_t i = 0; i < keep->count; i++) {
        struct segment *s = keep->segment[i];
        if (s->image != image)
            continue;
        s->image = NULL;
        s->inherited = true;
        if (!is_dirty(s))
            free_segment(s);
    }
    trim(keep);
    list_del(&image->link);
    pthread_mutex_unlock(&keep->guard);
    free(image);
}
