/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* So many of something in a period of time, and a count of what was too much. Pure. */

#include <stdbool.h>
#include <stdint.h>

typedef struct RateLimit {
        uint64_t period; /* µs */
        unsigned max;    /* in a period */
        uint64_t begin;  /* of the current period; 0: none yet */
        unsigned passed; /* in it */
        unsigned held;   /* back, since the last period that told */
} RateLimit;

/* Whether one more may pass. now: monotonic, µs; ret_held: how many were held back in the period that has just
 * ended, to be told once, which counts as one that passed; else 0. */
static inline bool ratelimit_pass(RateLimit *limit, uint64_t now, unsigned *ret_held) {
        *ret_held = 0;
        if (limit->begin == 0 || now >= limit->begin + limit->period) {
                *ret_held = limit->held;
                limit->begin = now;
                limit->passed = limit->held > 0 && limit->max > 1;
                limit->held = 0;
        }
        if (limit->passed >= limit->max) {
                limit->held++;
                return false;
        }
        limit->passed++;
        return true;
}
