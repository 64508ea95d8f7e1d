/* SPDX-License-Identifier: Apache-2.0 */
#include "index.h"

#include <errno.h>
#include <stdlib.h>

enum { SIZE_MIN = 16 };

/* Frees what the index owns, not the items; it is empty afterwards. */
void index_done(Index *index) {
        free(index->entries);
        *index = (Index){};
}

static void put(Index *index, uint32_t hash, void *item) {
        uint32_t at = hash & (index->size - 1);

        while (index->entries[at].item)
                at = (at + 1) & (index->size - 1);
        index->entries[at] = (IndexEntry){.item = item, .hash = hash};
        index->count++;
}

static int grow(Index *index) {
        Index larger = {.size = index->size > 0 ? 2 * index->size : SIZE_MIN};

        larger.entries = calloc(larger.size, sizeof *larger.entries);
        if (!larger.entries)
                return -ENOMEM;
        for (uint32_t at = 0; at < index->size; at++)
                if (index->entries[at].item)
                        put(&larger, index->entries[at].hash, index->entries[at].item);
        index_done(index);
        *index = larger;
        return 0;
}

/* Adds an item. Returns 0 or -ENOMEM, the index being as before. */
int index_add(Index *index, uint32_t hash, void *item) {
        /* Two thirds full at most: a search then looks at four neighbours on average before it gives up. */
        if (3 * (size_t) index->count >= 2 * (size_t) index->size) {
                int r = grow(index);
                if (r < 0)
                        return r;
        }
        put(index, hash, item);
        return 0;
}

/* Gives the items with this hash, one after the other, then NULL. *step is 0 before the first. */
void *index_next(const Index *index, uint32_t hash, uint32_t *step) {
        while (index->size > 0) {
                const IndexEntry *entry = &index->entries[(hash + (*step)++) & (index->size - 1)];

                if (!entry->item || entry->hash == hash)
                        return entry->item;
        }
        return NULL;
}

/* Takes out an item that is in. */
void index_remove(Index *index, uint32_t hash, const void *item) {
        const uint32_t mask = index->size - 1;
        uint32_t hole = hash & mask;

        while (index->entries[hole].item != item)
                hole = (hole + 1) & mask;
        /* A search ends at a free entry: so those behind move up, unless they would come before their place. */
        for (uint32_t at = (hole + 1) & mask; index->entries[at].item; at = (at + 1) & mask) {
                uint32_t away = (at - index->entries[at].hash) & mask;

                if (away < ((at - hole) & mask))
                        continue;
                index->entries[hole] = index->entries[at];
                hole = at;
        }
        index->entries[hole] = (IndexEntry){};
        index->count--;
}
