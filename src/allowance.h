/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* So much time for work that others cause, and in the long run a share of all time: what was spent is forgiven slowly.
 * Unlike a number of times in a second this holds however long one of them takes. Pure. */

#include <stdbool.h>
#include <stdint.h>

typedef struct Allowance {
        uint64_t max;      /* µs that may be unforgiven when work begins */
        uint64_t recovery; /* in how many µs one is forgiven; not 0 */
        uint64_t spent;    /* µs, and not forgiven */
        uint64_t forgiven; /* until when; monotonic, µs */
} Allowance;

/* Whether work may begin. now: monotonic, µs. */
static inline bool allowance_is_left(Allowance *allowance, uint64_t now) {
        uint64_t n = now > allowance->forgiven ? (now - allowance->forgiven) / allowance->recovery : 0;

        /* What is left of the time counts the next time. */
        allowance->forgiven += n * allowance->recovery;
        allowance->spent -= n < allowance->spent ? n : allowance->spent;
        return allowance->spent <= allowance->max;
}

/* took: µs. However much that is: the time until it is forgiven grows with it. */
static inline void allowance_spend(Allowance *allowance, uint64_t took) {
        allowance->spent += took;
}
