/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Counts how many things each key has: nodes of a user, connections of an address. Keys without any cost nothing.
 * Pure. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "siphash.h"
#include "util.h"

typedef struct TallyKey {
        uint8_t bytes[20];
} TallyKey;

typedef struct Tally Tally;

int tally_new(const uint8_t seed[SIPHASH_KEY_SIZE], Tally **ret);
Tally *tally_free(Tally *tally);
DEFINE_CLEANUP(Tally *, tally_free)

TallyKey tally_key(const void *data, size_t n);
size_t tally_count(const Tally *tally, const TallyKey *key);
int tally_add(Tally *tally, const TallyKey *key);
void tally_remove(Tally *tally, const TallyKey *key);
