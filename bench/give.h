/*
 * Sending all of some pieces on a socket that blocks: the client's and the floor's way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_GIVE_H
#define BENCH_GIVE_H

#include "base/common.h"
#include <err.h>
#include <sys/socket.h>

/** Changes @iov. A failure ends the program. */
static inline void give(int fd, struct iovec *iov, unsigned count)
{
    while (count > 0) {
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0)
            err(1, "sendmsg");
        for (; count > 0 && (size_t)n >= iov->iov_len; iov++, count--)
            n -= (ssize_t)iov->iov_len;
        if (count > 0) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
}

#endif
