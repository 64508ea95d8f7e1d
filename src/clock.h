/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The clocks, in µs. */

#include <stdint.h>
#include <time.h>

#include "util.h"

static inline uint64_t clock_read(clockid_t clock) {
        struct timespec now;

        (void) clock_gettime(clock, &now);
        return (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / 1000;
}

/* Since some moment before the start of this process; what deadlines are made of. */
static inline uint64_t clock_monotonic(void) {
        return clock_read(CLOCK_MONOTONIC);
}

/* Since 1970; administrators set it. */
static inline uint64_t clock_realtime(void) {
        return clock_read(CLOCK_REALTIME);
}
