/*
 * Files of the real runtimes: transfers of every shape, direct I/O, confinement, locks, the rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt_test.h"
#include "base/random.h"
#include <ftw.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- a scratch folder ---- */

static char folder[64];

static int make_folder(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/hawser-file-test-XXXXXX");
    return mkdtemp(folder) ? chdir(folder) : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    return remove(path);
}

static int remove_folder(void **state)
{
    return chdir("/") ? -1 : nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* @name below the scratch folder. */
static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof(path[next]), "%s/%s", folder, name);
    return path[next];
}

static struct rt_file *co_open_ok(const char *name, int flags)
{
    struct rt_open how = {.flags = flags, .mode = 0600};
    struct hws_error err = {0};
    struct rt_file *file;
    if (co_open(in_folder(name), &how, &file, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return file;
}

static struct rt_file *co_new_file(const char *name)
{
    return co_open_ok(name, O_RDWR | O_CREAT | O_TRUNC);
}

/* ---- transfers ---- */

TEST(reads_stop_at_the_end_of_the_file)
{
    struct rt_file *f = co_new_file("short");
    char out[5000], in[5000];
    struct iovec v;
    memset(out, 'x', sizeof(out));
    CHECK_EQUAL(co_pwrite(f, 0, sgl_one(&v, out, sizeof(out)), 0), 0);
    memset(in, 0, sizeof(in));
    CHECK_EQUAL(co_pread(f, 4000, sgl_one(&v, in, 5000)), 1000);
    CHECK(memcmp(in, out, 1000) == 0 && in[1000] == 0);
    CHECK_EQUAL(co_pread(f, 5000, sgl_one(&v, in, 10)), 0);
    CHECK_EQUAL(co_pread(f, 1ull << 40, sgl_one(&v, in, 10)), 0);
    CHECK_EQUAL(co_pread(f, 4999, sgl_one(&v, in, 1)), 1);
    rt_file_close(f);
}

TEST(empty_transfers_do_nothing)
{
    struct rt_file *f = co_new_file("empty");
    struct iovec v;
    struct rt_stat st;
    CHECK_EQUAL(co_pread(f, 0, sgl_one(&v, &v, 0)), 0);
    CHECK_EQUAL(co_pread(f, 0, (struct sgl){0}), 0);
    CHECK_EQUAL(co_pwrite(f, 100, sgl_one(&v, &v, 0), 0), 0);
    CHECK_EQUAL(co_stat(f, &st), 0);
    CHECK_EQUAL(st.size_bytes, 0);
    rt_file_close(f);
}

#define PIECES 2500
#define PIECE  7

/* More pieces than the kernel takes, and views that begin and end inside a piece. */
TEST(vectors_of_any_length_move_whole)
{
    static char out[PIECES * PIECE], in[PIECES * PIECE], flat[PIECES * PIECE];
    static struct iovec from[PIECES], to[PIECES];
    static const struct {
        size_t skip, length;
    } views[] = {{0, PIECES * PIECE},    {0, 1024 * PIECE}, {0, 1024 * PIECE - 3},
                 {0, 100 * PIECE},       {3, 65 * PIECE},   {5, 2},
                 {6, PIECES * PIECE - 9}};
    struct rt_file *f = co_new_file("vectors");
    struct random random = random_seed(3);
    for (int i = 0; i < PIECES; i++) {
        from[i] = (struct iovec){out + i * PIECE, PIECE};
        to[i] = (struct iovec){in + i * PIECE, PIECE};
    }
    for (size_t i = 0; i < ARRAY_LEN(views); i++) {
        size_t skip = views[i].skip, length = views[i].length;
        random_fill(&random, out, sizeof(out));
        memset(in, 0, sizeof(in));
        struct sgl whole = sgl_of(from, PIECES);
        CHECK_EQUAL(co_pwrite(f, 11, sgl_slice(whole, skip, length), 0), 0);
        struct iovec v;
        CHECK_EQUAL(co_pread(f, 11, sgl_one(&v, flat, length)), length);
        CHECK(memcmp(flat, out + skip, length) == 0);
        whole = sgl_of(to, PIECES);
        CHECK_EQUAL(co_pread(f, 11, sgl_slice(whole, skip, length)), length);
        CHECK(memcmp(in + skip, out + skip, length) == 0);
        CHECK(buffer_is_zero(in, skip) &&
              buffer_is_zero(in + skip + length, sizeof(in) - skip - length));
    }
    rt_file_close(f);
}

struct writer {
    struct rt_file *file;
    struct co_group *group;
    unsigned index;
};

#define BLOCK 4096

static void co_writes_and_reads(void *arg)
{
    struct writer *w = arg;
    char out[BLOCK], in[BLOCK];
    struct iovec v;
    for (int i = 0; i < 20; i++) {
        memset(out, (char)(w->index + (unsigned)i), BLOCK);
        CHECK_EQUAL(
            co_pwrite(w->file, w->index * BLOCK, sgl_one(&v, out, BLOCK), i == 7 ? RWF_DSYNC : 0),
            0);
        CHECK_EQUAL(co_pread(w->file, w->index * BLOCK, sgl_one(&v, in, BLOCK)), BLOCK);
        CHECK(memcmp(in, out, BLOCK) == 0);
    }
    co_group_done(w->group);
}

/* More at once than the ring has entries, from two queues. */
TEST(many_coroutines_share_a_file)
{
    static struct writer writers[300];
    struct hws_error err = {0};
    struct rt_file *f = co_new_file("shared");
    struct rt_queue *q;
    struct co_group group;
    co_group_init(&group);
    co_group_add(&group, ARRAY_LEN(writers));
    CHECK_EQUAL(rt_queue_start(rt_current(), "second", &q, &err), 0);
    for (unsigned i = 0; i < ARRAY_LEN(writers); i++) {
        writers[i] = (struct writer){f, &group, i};
        CHECK_EQUAL(rt_spawn(i % 2 ? q : NULL, co_writes_and_reads, &writers[i]), 0);
    }
    co_group_wait(&group);
    CHECK_EQUAL(co_fdatasync(f), 0);
    rt_file_close(f);
    co_queue_stop(q);
    co_group_destroy(&group);
}

TEST(files_opened_and_closed_in_turn_do_not_mix)
{
    struct hws_error err = {0};
    struct rt_queue *q;
    CHECK_EQUAL(rt_queue_start(rt_current(), "second", &q, &err), 0);
    for (int i = 0; i < 700; i++) {
        struct rt_file *f = co_new_file(i % 2 ? "odd" : "even");
        char byte = (char)i, back = 0;
        struct iovec v;
        CHECK_EQUAL(co_pwrite(f, 0, sgl_one(&v, &byte, 1), 0), 0);
        struct co_group group;
        struct writer w = {f, &group, 1};
        if (i % 50 == 0) {
            co_group_init(&group);
            co_group_add(&group, 1);
            CHECK_EQUAL(rt_spawn(q, co_writes_and_reads, &w), 0);
            co_group_wait(&group);
            co_group_destroy(&group);
        }
        CHECK_EQUAL(co_pread(f, 0, sgl_one(&v, &back, 1)), 1);
        CHECK_EQUAL(back, byte);
        rt_file_close(f);
    }
    co_queue_stop(q);
}

TEST(more_files_are_open_than_a_ring_registers)
{
    struct rt_file *files[400];
    struct iovec v;
    for (int i = 0; i < 400; i++) {
        char name[24];
        snprintf(name, sizeof(name), "many-%d", i);
        files[i] = co_new_file(name);
        CHECK_EQUAL(co_pwrite(files[i], 0, sgl_one(&v, &i, sizeof(i)), 0), 0);
    }
    for (int i = 399; i >= 0; i--) {
        int back = -1;
        CHECK_EQUAL(co_pread(files[i], 0, sgl_one(&v, &back, sizeof(back))), sizeof(back));
        CHECK_EQUAL(back, i);
        rt_file_close(files[i]);
    }
}

TEST(registered_buffers_change_nothing_but_speed)
{
    struct rt_file *f = co_new_file("buffers");
    char *area = mmap(NULL, 64 * KiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
    struct iovec buffers[] = {{area + 32 * KiB, 16 * KiB}, {area, 16 * KiB}}, v;
    rt_buffers_register(buffers, 2);
    struct random random = random_seed(11);
    /* Inside the first, inside the second, across an edge, outside. */
    static const size_t at[] = {0, 34 * KiB, 14 * KiB, 20 * KiB};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_LEN(at); i++) {
            char copy[4 * KiB];
            random_fill(&random, copy, sizeof(copy));
            memcpy(area + at[i], copy, sizeof(copy));
            CHECK_EQUAL(co_pwrite(f, 512, sgl_one(&v, area + at[i], sizeof(copy)), 0), 0);
            memset(area + at[i], 0, sizeof(copy));
            CHECK_EQUAL(co_pread(f, 512, sgl_one(&v, area + at[i], sizeof(copy))), sizeof(copy));
            CHECK(memcmp(area + at[i], copy, sizeof(copy)) == 0);
        }
        if (round == 0)
            rt_buffers_register(buffers, 1); /* again: replaces */
        else
            rt_buffers_forget();
    }
    CHECK_EQUAL(munmap(area, 64 * KiB), 0);
    rt_file_close(f);
}

TEST(errors_come_back_as_errno)
{
    struct rt_file *f = co_new_file("read-only");
    rt_file_close(f);
    f = co_open_ok("read-only", O_RDONLY);
    char byte = 0;
    struct iovec v;
    CHECK_EQUAL(co_pwrite(f, 0, sgl_one(&v, &byte, 1), 0), -EBADF);
    CHECK_EQUAL(co_truncate(f, 10), -EINVAL);
    rt_file_close(f);
}

TEST(a_write_past_the_size_limit_fails)
{
    struct rlimit before, limit;
    CHECK_EQUAL(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = (struct rlimit){64 * KiB, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    struct rt_file *f = co_new_file("limited");
    CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    char block[BLOCK] = {1};
    struct iovec v;
    int at_limit = co_pwrite(f, 64 * KiB, sgl_one(&v, block, BLOCK), 0);
    int across = co_pwrite(f, 64 * KiB - 100, sgl_one(&v, block, BLOCK), 0);
    CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &before), 0);
    CHECK_EQUAL(at_limit, -EFBIG);
    CHECK_EQUAL(across, -EFBIG);
    rt_file_close(f);
}

/* ---- direct I/O ---- */

TEST(direct_io_works_at_the_alignment_that_it_reports)
{
    rt_file_close(co_new_file("direct"));
    struct rt_open how = {.flags = O_RDWR | O_DIRECT};
    struct hws_error err = {0};
    struct rt_file *f;
    int result = co_open(in_folder("direct"), &how, &f, &err);
    if (result == -EINVAL) {
        CHECK(strstr(err.text, "direct I/O"));
        print_message("NOTE: no direct I/O on this file system\n");
        return;
    }
    CHECK_EQUAL(result, 0);
    struct rt_stat st;
    CHECK_EQUAL(co_stat(f, &st), 0);
    CHECK(is_power_of_2(st.offset_alignment) && is_power_of_2(st.memory_alignment));
    CHECK(st.offset_alignment <= 4096);
    size_t unit = MAX(st.offset_alignment, st.memory_alignment);
    autofree char *block = aligned_alloc(4096, 256 * KiB);
    struct iovec v, pieces[3];
    memset(block, 'd', 256 * KiB);
    CHECK_EQUAL(co_pwrite(f, 0, sgl_one(&v, block, 3 * unit), 0), 0);
    CHECK_EQUAL(co_pwrite(f, st.offset_alignment, sgl_one(&v, block + unit, unit), 0), 0);
    for (size_t i = 0; i < 3; i++)
        pieces[i] = (struct iovec){block + (2 - i) * unit, unit};
    CHECK_EQUAL(co_pread(f, 0, sgl_of(pieces, 3)), 3 * unit);
    /* The end of the file inside a block. */
    CHECK_EQUAL(co_truncate(f, 2 * unit + 100), 0);
    CHECK_EQUAL(co_pread(f, 0, sgl_one(&v, block, 16 * unit)), 2 * unit + 100);
    rt_file_close(f);
}

/* ---- opening ---- */

static int co_try(const char *path, int flags, const char *beneath, struct hws_error *err)
{
    struct rt_open how = {.flags = flags, .mode = 0600, .beneath = beneath};
    struct rt_file *f = NULL;
    *err = (struct hws_error){0};
    int result = co_open(path, &how, &f, err);
    CHECK((result == 0) == (f != NULL));
    CHECK(result == 0 || (err->code == -result && strstr(err->text, path)));
    rt_file_close(f);
    return result;
}

TEST(failed_opens_name_the_path_and_the_reason)
{
    struct hws_error err;
    CHECK_EQUAL(co_try(in_folder("missing"), O_RDONLY, NULL, &err), -ENOENT);
    CHECK(strstr(err.text, "No such file"));
    CHECK_EQUAL(co_try(folder, O_RDWR, NULL, &err), -EISDIR);
    CHECK_EQUAL(mkfifo(in_folder("pipe"), 0600) == 0 || errno == EEXIST, 1);
    CHECK_EQUAL(co_try(in_folder("pipe"), O_RDONLY, NULL, &err), 0); /* and does not wait */
    CHECK_EQUAL(co_try(in_folder("pipe"), O_WRONLY, NULL, &err), -ENXIO);
    rt_file_close(co_new_file("there"));
    CHECK_EQUAL(co_try(in_folder("there"), O_RDWR | O_CREAT | O_EXCL, NULL, &err), -EEXIST);
}

TEST(opens_beneath_a_folder_cannot_leave_it)
{
    struct hws_error err;
    char safe[256], outside[256];
    snprintf(safe, sizeof(safe), "%s/safe", folder);
    snprintf(outside, sizeof(outside), "%s/secret", folder);
    CHECK(mkdir(safe, 0700) == 0 || errno == EEXIST);
    CHECK(mkdir(in_folder("safe/sub"), 0700) == 0 || errno == EEXIST);
    CHECK(mkdir(in_folder("safe-not"), 0700) == 0 || errno == EEXIST);
    rt_file_close(co_new_file("secret"));
    rt_file_close(co_new_file("safe/inside"));
    rt_file_close(co_new_file("safe/sub/deep"));
    rt_file_close(co_new_file("safe-not/near"));
    static const char *const links[][2] = {{"../secret", "safe/link"},
                                           {"..", "safe/up"},
                                           {"inside", "safe/good"},
                                           {"/proc/self/root", "safe/magic"}};
    for (size_t i = 0; i < ARRAY_LEN(links); i++)
        CHECK(symlink(links[i][0], in_folder(links[i][1])) == 0 || errno == EEXIST);
    CHECK(symlink(outside, in_folder("safe/absolute")) == 0 || errno == EEXIST);
    CHECK(symlink(safe, in_folder("alias")) == 0 || errno == EEXIST);

    CHECK_EQUAL(co_try(in_folder("safe/inside"), O_RDWR, safe, &err), 0);
    CHECK_EQUAL(co_try(in_folder("safe/sub/../inside"), O_RDWR, safe, &err), 0);
    CHECK_EQUAL(co_try(in_folder("safe/good"), O_RDWR, safe, &err), 0);
    CHECK_EQUAL(co_try(in_folder("safe//sub/new"), O_RDWR | O_CREAT, safe, &err), 0);
    CHECK_EQUAL(co_try(in_folder("alias/sub/deep"), O_RDWR, safe, &err), 0);
    CHECK_EQUAL(co_try(in_folder("safe/sub/deep"), O_RDWR, in_folder("alias"), &err), 0);
    CHECK_EQUAL(co_try(in_folder("sub/../safe/inside"), O_RDWR, folder, &err), -ENOENT);
    CHECK_EQUAL(co_try(in_folder("alias/../safe/inside"), O_RDWR, safe, &err), 0);
    /* Relative paths, and folders, start at the working folder. */
    CHECK_EQUAL(co_try("safe/inside", O_RDWR, "safe", &err), 0);
    CHECK_EQUAL(co_try("safe/inside", O_RDWR, "safe/", &err), 0);
    CHECK_EQUAL(co_try("safe/inside", O_RDWR, safe, &err), 0);
    CHECK_EQUAL(co_try("secret", O_RDWR, ".", &err), 0);
    CHECK_EQUAL(co_try("./safe/sub/deep", O_RDWR, "safe/sub", &err), 0);

    CHECK_EQUAL(co_try("safe/../secret", O_RDWR, "safe", &err), -EXDEV);
    CHECK(strstr(err.text, "outside"));
    CHECK_EQUAL(co_try("safe/sub/../../secret", O_RDWR, "safe", &err), -EXDEV);
    CHECK_EQUAL(co_try("../secret", O_RDWR, ".", &err), -EXDEV);
    CHECK_EQUAL(co_try("secret", O_RDWR, "safe", &err), -EXDEV);
    CHECK_EQUAL(co_try("safe/link", O_RDWR, "safe", &err), -EXDEV);
    CHECK_EQUAL(co_try("safe/up/secret", O_RDWR, "safe", &err), -EXDEV);
    CHECK_EQUAL(co_try("safe/absolute", O_RDWR, "safe", &err), -EXDEV);
    CHECK(co_try("safe/magic/etc/passwd", O_RDONLY, "safe", &err) < 0);
    CHECK_EQUAL(co_try(outside, O_RDWR, safe, &err), -EXDEV);
    CHECK_EQUAL(co_try(in_folder("safe/../secret"), O_RDWR, safe, &err), -EXDEV);
    CHECK_EQUAL(co_try(in_folder("alias/../secret"), O_RDWR, safe, &err), -EXDEV);
    CHECK_EQUAL(co_try(in_folder("safe/link"), O_RDWR, safe, &err), -EXDEV);
    CHECK_EQUAL(co_try(in_folder("safe-not/near"), O_RDWR, safe, &err), -EXDEV);
    CHECK_EQUAL(co_try("/etc/passwd", O_RDONLY, safe, &err), -EXDEV);
    CHECK_EQUAL(co_try("safe/gone", O_RDWR, "safe", &err), -ENOENT);
    CHECK_EQUAL(co_try("no-such-folder/x", O_RDWR, "no-such-folder", &err), -ENOENT);
}

/* ---- the rest ---- */

TEST(holes_sizes_and_seeks_agree)
{
    struct rt_file *f = co_new_file("holes");
    autofree char *block = calloc(1, 64 * KiB);
    memset(block, 'h', 64 * KiB);
    struct iovec v;
    struct rt_stat st;
    CHECK_EQUAL(co_truncate(f, MiB), 0);
    CHECK_EQUAL(co_pwrite(f, 256 * KiB, sgl_one(&v, block, 64 * KiB), 0), 0);
    CHECK_EQUAL(co_stat(f, &st), 0);
    CHECK_EQUAL(st.size_bytes, MiB);
    CHECK(st.is_regular && !st.is_block_device && st.inode != 0);
    CHECK_EQUAL(st.offset_alignment, 1);
    int64_t data = co_seek(f, 0, SEEK_DATA);
    CHECK(data == 256 * KiB || data == 0); /* 0: a file system that knows no holes */
    CHECK_EQUAL(co_seek(f, MiB, SEEK_DATA), -ENXIO);
    if (data > 0) {
        CHECK_EQUAL(co_seek(f, 256 * KiB, SEEK_HOLE), 320 * KiB);
        CHECK_EQUAL(co_seek(f, 320 * KiB, SEEK_DATA), -ENXIO);
    }
    int punched = co_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 256 * KiB, 32 * KiB);
    CHECK(punched == 0 || punched == -EOPNOTSUPP);
    if (punched == 0) {
        CHECK_EQUAL(co_pread(f, 256 * KiB, sgl_one(&v, block, 64 * KiB)), 64 * KiB);
        CHECK(buffer_is_zero(block, 32 * KiB) && block[32 * KiB] == 'h');
    }
    rt_file_close(f);
}

TEST(copying_inside_the_kernel_copies_or_says_that_it_cannot)
{
    struct rt_file *from = co_new_file("from"), *to = co_new_file("to");
    char out[10000], in[10000] = {0};
    struct iovec v;
    struct random random = random_seed(5);
    random_fill(&random, out, sizeof(out));
    CHECK_EQUAL(co_pwrite(from, 0, sgl_one(&v, out, sizeof(out)), 0), 0);
    ssize_t copied = co_copy_range(from, 1000, to, 500, 8000);
    CHECK(copied > 0 || copied == -EOPNOTSUPP || copied == -EXDEV);
    if (copied > 0) {
        CHECK_EQUAL(co_pread(to, 500, sgl_one(&v, in, sizeof(in))), copied);
        CHECK(memcmp(in, out + 1000, (size_t)copied) == 0);
        CHECK_EQUAL(co_copy_range(from, 10000, to, 0, 100), 0);
    }
    rt_file_close(from);
    rt_file_close(to);
}

TEST(renaming_replaces_and_unlinking_removes)
{
    struct hws_error err = {0};
    rt_file_close(co_new_file("old"));
    struct rt_file *f = co_new_file("new");
    char byte = 'n';
    struct iovec v;
    CHECK_EQUAL(co_pwrite(f, 0, sgl_one(&v, &byte, 1), 0), 0);
    rt_file_close(f);
    CHECK_EQUAL(co_rename(in_folder("new"), in_folder("old"), &err), 0);
    f = co_open_ok("old", O_RDONLY);
    CHECK_EQUAL(co_pread(f, 0, sgl_one(&v, &byte, 1)), 1);
    rt_file_close(f);
    CHECK_EQUAL(co_unlink(in_folder("old"), &err), 0);
    CHECK_EQUAL(co_unlink(in_folder("old"), &err), -ENOENT);
    CHECK(strstr(err.text, "old"));
    CHECK_EQUAL(co_rename(in_folder("old"), in_folder("new"), &err), -ENOENT);
}

/* Another process tries @lock on the same bytes. @return 0 when it got it. */
static int lock_elsewhere(void *arg)
{
    const short *type = arg;
    pid_t child = fork();
    if (child == 0) {
        int fd = open(in_folder("locked"), O_RDWR | O_CLOEXEC);
        struct flock fl = {.l_type = *type, .l_whence = SEEK_SET, .l_start = 100, .l_len = 10};
        _exit(fd < 0 ? 99 : fcntl(fd, F_OFD_SETLK, &fl) == 0 ? 0 : errno);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(locks_hold_between_processes_and_opens)
{
    short shared = F_RDLCK, exclusive = F_WRLCK;
    struct rt_file *a = co_new_file("locked"), *b = co_open_ok("locked", O_RDWR);
    char byte = 0;
    struct iovec v;
    CHECK_EQUAL(rt_file_lock(a, 100, 5, RT_LOCK_SHARED), 0);
    CHECK_EQUAL(rt_file_lock_test(a, 100, 5), 0); /* our own does not count */
    CHECK_EQUAL(rt_file_lock_test(b, 100, 5), -EAGAIN);
    CHECK_EQUAL(rt_file_lock_test(b, 105, 5), 0);
    CHECK_EQUAL(rt_file_lock(b, 100, 5, RT_LOCK_SHARED), 0);
    CHECK_EQUAL(rt_file_lock(b, 100, 5, RT_LOCK_EXCLUSIVE), -EAGAIN);
    CHECK_EQUAL(co_work(lock_elsewhere, &shared), 0);
    CHECK_EQUAL(co_work(lock_elsewhere, &exclusive), EAGAIN);
    CHECK_EQUAL(rt_file_lock(b, 100, 5, RT_UNLOCK), 0);
    CHECK_EQUAL(rt_file_lock(a, 100, 5, RT_LOCK_EXCLUSIVE), 0);
    CHECK_EQUAL(co_work(lock_elsewhere, &shared), EAGAIN);
    /* Closing frees the lock at once, whatever rings still know of the file. */
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(co_pwrite(a, 0, sgl_one(&v, &byte, 1), 0), 0);
    rt_file_close(a);
    CHECK_EQUAL(rt_file_lock_test(b, 100, 5), 0);
    CHECK_EQUAL(co_work(lock_elsewhere, &exclusive), 0);
    rt_file_close(b);
}

TEST(commands_are_refused_where_the_ring_was_not_made_for_them)
{
    struct rt_file *f = co_new_file("command");
    CHECK_EQUAL(co_uring_command(f, 1, "x", 1, 0, 0), -EOPNOTSUPP);
    rt_file_close(f);
    CHECK(rt_file_close(NULL) == NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(reads_stop_at_the_end_of_the_file),
        ON_BOTH(empty_transfers_do_nothing),
        ON_BOTH(vectors_of_any_length_move_whole),
        ON_BOTH(many_coroutines_share_a_file),
        ON_BOTH(files_opened_and_closed_in_turn_do_not_mix),
        ON_BOTH(more_files_are_open_than_a_ring_registers),
        ON_BOTH(registered_buffers_change_nothing_but_speed),
        ON_BOTH(errors_come_back_as_errno),
        ON_BOTH(a_write_past_the_size_limit_fails),
        ON_BOTH(direct_io_works_at_the_alignment_that_it_reports),
        ON_BOTH(failed_opens_name_the_path_and_the_reason),
        ON_BOTH(opens_beneath_a_folder_cannot_leave_it),
        ON_BOTH(holes_sizes_and_seeks_agree),
        ON_BOTH(copying_inside_the_kernel_copies_or_says_that_it_cannot),
        ON_BOTH(renaming_replaces_and_unlinking_removes),
        ON_BOTH(locks_hold_between_processes_and_opens),
        ON_BOTH(commands_are_refused_where_the_ring_was_not_made_for_them),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
