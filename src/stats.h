/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What was counted since the daemon started. */

#include <stdint.h>

typedef struct Stats {
        uint64_t registrations;
        uint64_t unregistrations;
        uint64_t lookups;
        uint64_t misses; /* of the look-ups */
        uint64_t names;
        uint64_t dumps;
        uint64_t connections;
        uint64_t refused_taken;
        uint64_t refused_invalid;
        uint64_t refused_full;
        uint64_t refused_reserved;
        uint64_t refused_quota;
        uint64_t refused_peers;
        uint64_t malformed;
        uint64_t timeouts;
        uint64_t restores;
} Stats;
