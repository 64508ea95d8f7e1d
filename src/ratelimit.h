/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* So many of something in any stretch of time of a given length, and a count of what was too much. Pure. */

#include <stdbool.h>
#include <stdint.h>

enum { RATELIMIT_MAX = 16 };

typedef struct RateLimit {
        uint64_t period;               /* µs */
        unsigned max;                  /* in a period, wherever that begins; at most RATELIMIT_MAX */
        unsigned next;                 /* of the times: the one that passed longest ago */
        uint64_t times[RATELIMIT_MAX]; /* when the last ones passed; 0: none did */
        uint64_t told;                 /* when it was last told what was held back */
        unsigned held;                 /* back, and not told */
} RateLimit;

static inline bool ratelimit_is_over(const RateLimit *limit, uint64_t since, uint64_t now) {
        return since == 0 || now >= since + limit->period;
}

/* Whether one more would pass. */
static inline bool ratelimit_has_room(const RateLimit *limit, uint64_t now) {
        return limit->max > 0 && ratelimit_is_over(limit, limit->times[limit->next], now);
}

/* Whether one more may pass; counts it as passed, or as held back. now: monotonic, µs, not 0. */
static inline bool ratelimit_pass(RateLimit *limit, uint64_t now) {
        if (!ratelimit_has_room(limit, now)) {
                limit->held++;
                return false;
        }
        limit->times[limit->next] = now;
        limit->next = (limit->next + 1) % limit->max;
        return true;
}

/* How many were held back, if that is to be told now: at most once in a period, as one of those that pass. Otherwise
 * 0, and it is kept for later. */
static inline unsigned ratelimit_tell(RateLimit *limit, uint64_t now) {
        unsigned held = limit->held;

        if (held == 0 || !ratelimit_is_over(limit, limit->told, now))
                return 0;
        if (!ratelimit_pass(limit, now)) {
                limit->held = held;
                return 0;
        }
        limit->told = now;
        limit->held = 0;
        return held;
}
