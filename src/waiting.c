/* SPDX-License-Identifier: Apache-2.0 */
#include "waiting.h"

#include <poll.h>

#include "clock.h"
#include "util.h"

/* The monotonic clock, in µs. */
uint64_t waiting_now(void) {
        return clock_monotonic();
}

/* Waits for events of poll(2). Returns 0; -ETIMEDOUT or -ECANCELED at the limit; another negative errno. */
int waiting_until(int fd, short events, const WaitLimit *limit) {
        for (;;) {
                uint64_t now = waiting_now();
                struct pollfd polls[] = {{.fd = fd, .events = events}, {.fd = limit->cancel_fd, .events = POLLIN}};
                int r;

                if (now >= limit->deadline)
                        return -ETIMEDOUT;
                r = poll(polls, ARRAY_SIZE(polls),
                         (int) ((limit->deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC));
                if (r > 0)
                        return polls[0].revents != 0 ? 0 : -ECANCELED;
                if (r < 0 && errno != EINTR)
                        return -errno;
        }
}
