/* SPDX-License-Identifier: Apache-2.0 */
#include "waiting.h"

#include <poll.h>

#include "clock.h"
#include "util.h"

/* The monotonic clock, in µs. */
uint64_t waiting_now(void) {
        return clock_monotonic();
}

/* Waits for events of poll(2) until the deadline, a value of waiting_now(). Returns 0, -ETIMEDOUT or another negative
 * errno. */
int waiting_until(int fd, short events, uint64_t deadline) {
        for (;;) {
                uint64_t now = waiting_now();
                struct pollfd p = {.fd = fd, .events = events};
                int r;

                if (now >= deadline)
                        return -ETIMEDOUT;
                r = poll(&p, 1, (int) ((deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC));
                if (r > 0)
                        return 0;
                if (r < 0 && errno != EINTR)
                        return -errno;
        }
}
