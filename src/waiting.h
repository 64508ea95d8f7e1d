/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Waiting for a descriptor, but never beyond a point in time: what every client of ours does. */

#include <stdint.h>

/* When to wait no longer. */
typedef struct WaitLimit {
        uint64_t deadline; /* a value of waiting_now() */
        int cancel_fd;     /* once this one can be read; -1: there is none */
} WaitLimit;

uint64_t waiting_now(void);
int waiting_until(int fd, short events, const WaitLimit *limit);

/* So many µs from now on, or until cancel_fd, if it is not -1, can be read. */
static inline WaitLimit waiting_limit(uint64_t timeout, int cancel_fd) {
        return (WaitLimit){.deadline = waiting_now() + timeout, .cancel_fd = cancel_fd};
}
