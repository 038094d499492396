/*
 * OpenSSL at run time; see openssl.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/openssl.h"
#include <dlfcn.h>
#include <pthread.h>

static const char file[] = "libssl.so.3";

struct nbd_openssl nbd_openssl;

static bool find(void *handle, const char *name, void *ret)
{
    void *symbol = dlsym(handle, name);
    memcpy(ret, &symbol, sizeof(symbol)); /* POSIX: a function's address fits an object pointer */
    return symbol != NULL;
}

int nbd_openssl_load(struct hws_error *err)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static void *handle; /* kept: the library is not made to be unloaded */
    bool found = true;
    pthread_mutex_lock(&lock);
    if (!handle) {
        handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        found = handle != NULL;
#define OPENSSL_FIND(name) found = found && find(handle, #name, (void *)&nbd_openssl.name##_);
        NBD_OPENSSL_FUNCTIONS(OPENSSL_FIND)
    }
    bool there = handle != NULL;
    if (!found && there) {
        dlclose(handle);
        handle = NULL;
    }
    pthread_mutex_unlock(&lock);
    if (!there)
        return hws_fail(err, ENOENT, "TLS: %s is not installed", file);
    return found ? 0 : hws_fail(err, ENOSYS, "TLS: %s lacks a function that is needed", file);
}
