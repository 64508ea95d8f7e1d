/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* SipHash-2-4 (Aumasson and Bernstein, 2012): a hash whose collisions cannot be found without the key, so that no
 * one can choose names that all fall into one bucket. Pure. */

#include <stddef.h>
#include <stdint.h>

enum { SIPHASH_KEY_SIZE = 16 };

uint64_t siphash24(const uint8_t key[SIPHASH_KEY_SIZE], const void *data, size_t n);
