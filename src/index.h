/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Finds items by a hash of theirs, which must be a good one: open addressing in one array, so that a search reads
 * neighbouring memory, and the memory of an item only when all of its hash is right. Pure. */

#include <stddef.h>
#include <stdint.h>

typedef struct IndexEntry {
        void *item; /* NULL: free */
        uint32_t hash;
} IndexEntry;

/* Empty when all zero. */
typedef struct Index {
        IndexEntry *entries;
        uint32_t size; /* a power of two, or 0 */
        uint32_t count;
} Index;

void index_done(Index *index);

int index_add(Index *index, uint32_t hash, void *item);
void index_remove(Index *index, uint32_t hash, const void *item);
void *index_next(const Index *index, uint32_t hash, uint32_t *step);
