/*
 * A small tcmu-runner; see fake_runner.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "fake_runner.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <time.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

void *fake_library;
static struct tcmur_handler *handler;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t heard = PTHREAD_COND_INITIALIZER;
static char logged[1024];

struct tcmur_handler *fake_load(const char *path)
{
    fake_library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!fake_library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    int (*init)(void) = (int (*)(void))dlsym(fake_library, "handler_init");
    CHECK(init && init() == 0 && handler);
    return handler;
}

const char *fake_log(void)
{
    return logged;
}

/* ---- a command as libtcmu makes it: struct, iovecs, CDB, and tcmu-runner's part behind that ----
 */

static size_t cdb_length(const uint8_t *cdb)
{
    static const size_t of_group[] = {6, 10, 10, 0, 16, 12, 0, 0};
    return cdb[0] == 0x7f ? 8u + cdb[7] : of_group[cdb[0] >> 5];
}

static unsigned take_slot(struct tcmu_device *dev, struct answer *answer)
{
    for (;;) {
        pthread_mutex_lock(&lock);
        for (unsigned i = 0; i < FAKE_SLOTS; i++) {
            if (dev->slot[i])
                continue;
            dev->slot[i] = answer;
            pthread_mutex_unlock(&lock);
            return i;
        }
        pthread_mutex_unlock(&lock);
        sched_yield();
    }
}

void fake_submit(struct tcmu_device *dev, const uint8_t *cdb, const struct iovec *iov, size_t count,
                 struct answer *answer)
{
    const size_t runner_bytes = sizeof(struct tcmur_cmd) + 48;
    size_t length = cdb_length(cdb);
    CHECK(length); /* libtcmu hands no others on */
    *answer = (struct answer){0};
    struct tcmulib_cmd *cmd = malloc(sizeof(*cmd) + count * sizeof(*iov) + length + runner_bytes);
    CHECK(cmd);
    cmd->cmd_id = (uint16_t)take_slot(dev, answer);
    cmd->iovec = (struct iovec *)(cmd + 1);
    cmd->iov_cnt = count;
    if (count)
        memcpy(cmd->iovec, iov, count * sizeof(*iov));
    cmd->cdb = (uint8_t *)(cmd->iovec + count);
    memcpy(cmd->cdb, cdb, length);
    cmd->hm_private = cmd->cdb + length;
    memset(cmd->hm_private, 0, runner_bytes);
    struct tcmur_cmd *runner = cmd->hm_private;
    runner->lib_cmd = cmd;
    CHECK(handler->handle_cmd(dev, runner) == RUNNER_ASYNC);
}

void fake_wait(struct answer *answer)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&lock);
    while (!answer->done)
        CHECK(pthread_cond_timedwait(&heard, &lock, &until) == 0);
    pthread_mutex_unlock(&lock);
}

int fake_command(struct tcmu_device *dev, const uint8_t *cdb, void *buffer, size_t length,
                 uint8_t *sense)
{
    struct iovec iov = {buffer, length};
    struct answer answer;
    fake_submit(dev, cdb, &iov, length ? 1 : 0, &answer);
    fake_wait(&answer);
    if (sense)
        memcpy(sense, answer.sense, sizeof(answer.sense));
    return answer.result;
}

/* ---- what the handler calls ---- */

int tcmur_register_handler(struct tcmur_handler *given)
{
    handler = given;
    return given->init ? given->init() : 0;
}

void tcmur_dev_set_private(struct tcmu_device *dev, void *value)
{
    dev->value = value;
}

void *tcmur_dev_get_private(struct tcmu_device *dev)
{
    return dev->value;
}

char *tcmu_dev_get_cfgstring(struct tcmu_device *dev)
{
    return dev->config;
}

uint64_t tcmu_dev_get_num_lbas(struct tcmu_device *dev)
{
    return dev->blocks;
}

uint32_t tcmu_dev_get_block_size(struct tcmu_device *dev)
{
    return dev->block_bytes;
}

char *tcmu_cfgfs_dev_get_wwn(struct tcmu_device *dev)
{
    return dev->serial ? strdup(dev->serial) : NULL;
}

void tcmulib_command_complete(struct tcmu_device *dev, struct tcmulib_cmd *cmd, int result)
{
    CHECK(atomic_exchange(&dev->completing, 1) == 0); /* never two at once */
    pthread_mutex_lock(&lock);
    struct answer *answer = dev->slot[cmd->cmd_id];
    CHECK(answer && !answer->done);
    dev->slot[cmd->cmd_id] = NULL;
    answer->result = result;
    if (result == RUNNER_CHECK_CONDITION)
        memcpy(answer->sense, cmd->sense_buf, sizeof(answer->sense));
    dev->unheard[dev->unheard_count++] = answer;
    pthread_mutex_unlock(&lock);
    free(cmd);
    atomic_store(&dev->completing, 0);
}

void tcmulib_processing_complete(struct tcmu_device *dev)
{
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&dev->bells, 1);
    while (dev->unheard_count)
        dev->unheard[--dev->unheard_count]->done = true;
    pthread_cond_broadcast(&heard);
    pthread_mutex_unlock(&lock);
}

#define LOG_FUNCTION(name)                                                                      \
    void name(struct tcmu_device *dev, const char *function, int line, const char *format, ...) \
    {                                                                                           \
        va_list args;                                                                           \
        va_start(args, format);                                                                 \
        pthread_mutex_lock(&lock);                                                              \
        vsnprintf(logged, sizeof(logged), format, args);                                        \
        pthread_mutex_unlock(&lock);                                                            \
        va_end(args);                                                                           \
    }

LOG_FUNCTION(tcmu_err_message)
LOG_FUNCTION(tcmu_warn_message)
LOG_FUNCTION(tcmu_info_message)
LOG_FUNCTION(tcmu_dbg_message)
