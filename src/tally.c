/* SPDX-License-Identifier: Apache-2.0 */
#include "tally.h"

#include <stdlib.h>
#include <string.h>

/* Without memory for an entry the tables of uthash stay as they are, and the entry has no table. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

typedef struct Entry {
        UT_hash_handle hh;
        TallyKey key;
        size_t count;
} Entry;

struct Tally {
        Entry *entries;
        uint8_t seed[SIPHASH_KEY_SIZE];
};

/* Makes an empty tally; seed: random bytes, against keys chosen to collide. Returns 0 or -ENOMEM. */
int tally_new(const uint8_t seed[SIPHASH_KEY_SIZE], Tally **ret) {
        Tally *tally = calloc(1, sizeof *tally);

        if (!tally)
                return -ENOMEM;
        memcpy(tally->seed, seed, sizeof tally->seed);
        *ret = tally;
        return 0;
}

Tally *tally_free(Tally *tally) {
        Entry *entry, *next;

        if (!tally)
                return NULL;
        HASH_ITER(hh, tally->entries, entry, next) {
                HASH_DEL(tally->entries, entry);
                free(entry);
        }
        free(tally);
        return NULL;
}

/* A key of up to 20 bytes. */
TallyKey tally_key(const void *data, size_t n) {
        TallyKey key = {};

        memcpy(key.bytes, data, size_min(n, sizeof key.bytes));
        return key;
}

static unsigned key_hash(const Tally *tally, const TallyKey *key) {
        return (unsigned) siphash24(tally->seed, key, sizeof *key);
}

static Entry *find(const Tally *tally, const TallyKey *key) {
        Entry *entry;

        HASH_FIND_BYHASHVALUE(hh, tally->entries, key, sizeof *key, key_hash(tally, key), entry);
        return entry;
}

/* How often the key was added and not removed. */
size_t tally_count(const Tally *tally, const TallyKey *key) {
        const Entry *entry = find(tally, key);

        return entry ? entry->count : 0;
}

/* One more. Returns 0, or -ENOMEM with nothing changed. */
int tally_add(Tally *tally, const TallyKey *key) {
        Entry *entry = find(tally, key);

        if (!entry) {
                entry = calloc(1, sizeof *entry);
                if (!entry)
                        return -ENOMEM;
                entry->key = *key;
                HASH_ADD_BYHASHVALUE(hh, tally->entries, key, sizeof *key, key_hash(tally, key), entry);
                if (!entry->hh.tbl) {
                        free(entry);
                        return -ENOMEM;
                }
        }
        entry->count++;
        return 0;
}

/* One less of a key that was added. */
void tally_remove(Tally *tally, const TallyKey *key) {
        Entry *entry = find(tally, key);

        if (!entry || --entry->count > 0)
                return;
        HASH_DEL(tally->entries, entry);
        free(entry);
}
