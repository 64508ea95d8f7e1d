/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "unit.h"

enum {
        RECORDS_MAX = 256,
        BYTES_CHECKED = 16, /* of the first block: what it is */
        COUNTER_AT = 16,
        COUNTER_SIZE = 8,
};

/* ---- Records ---- */

/* A record, and the bytes that its name, Extra and unit point to. */
typedef struct Sample {
        TableRecord record;
        uint8_t payload[TABLE_PAYLOAD_MAX];
} Sample;

/* Any two with different keys differ in every fact. The largest has a unit as well, of the largest size. */
static void make_sample(Sample *sample, uint32_t key, size_t name_len, size_t extra_len) {
        size_t unit_len = name_len + extra_len == PROTO_NAME_BYTES_MAX + PROTO_EXTRA_MAX ? OWNER_UNIT_MAX : 0;
        uint64_t state = key;

        for (size_t i = 0; i < name_len + extra_len + unit_len; i++)
                sample->payload[i] = (uint8_t) unit_random(&state);
        sample->record = (TableRecord){
                .info = {
                        .name = sample->payload,
                        .extra = sample->payload + name_len,
                        .name_len = (uint16_t) name_len,
                        .extra_len = (uint16_t) extra_len,
                        .port = (uint16_t) unit_random(&state),
                        .highest_version = (uint16_t) unit_random(&state),
                        .lowest_version = (uint16_t) unit_random(&state),
                        .type = (uint8_t) unit_random(&state),
                        .protocol = (uint8_t) unit_random(&state),
                },
                .owner = {
                        .unit = sample->payload + name_len + extra_len,
                        .unit_len = (uint16_t) unit_len,
                        .known = key % 2,
                        .uid = unit_random(&state),
                },
                .cookie = (uint64_t) unit_random(&state) << 32 | key,
                .serial = (uint64_t) unit_random(&state) << 32 | key,
                .since = NOW + key,
                .counter = key,
                .live = true,
        };
}

static bool same_record(const TableRecord *a, const TableRecord *b) {
        return a->info.name_len == b->info.name_len && a->info.extra_len == b->info.extra_len &&
               memcmp(a->info.name, b->info.name, a->info.name_len) == 0 &&
               (a->info.extra_len == 0 || memcmp(a->info.extra, b->info.extra, a->info.extra_len) == 0) &&
               a->info.port == b->info.port &&
               a->info.highest_version == b->info.highest_version &&
               a->info.lowest_version == b->info.lowest_version && a->info.type == b->info.type &&
               a->info.protocol == b->info.protocol && a->cookie == b->cookie && a->serial == b->serial &&
               a->owner.known == b->owner.known && a->owner.uid == b->owner.uid &&
               a->owner.unit_len == b->owner.unit_len &&
               (a->owner.unit_len == 0 || memcmp(a->owner.unit, b->owner.unit, a->owner.unit_len) == 0) &&
               a->since == b->since && a->counter == b->counter && a->live == b->live;
}

static uint32_t blocks_of(const TableRecord *record) {
        size_t n = (size_t) record->info.name_len + record->info.extra_len + record->owner.unit_len;
        size_t held = TABLE_HEAD_DATA;
        uint32_t blocks = 1;

        for (; held < n; held += TABLE_MORE_DATA)
                blocks++;
        return blocks;
}

/* ---- Tables ---- */

static uint32_t put(Table *table, const Sample *sample) {
        uint32_t slot = TABLE_NO_SLOT;
        int r = table_put(table, &sample->record, &slot);

        if (r != 0 || slot == TABLE_NO_SLOT || slot >= table->n_blocks)
                ck_abort_msg("record %u: %d, slot %u", sample->record.counter, r, slot);
        return slot;
}

static void check_record(const Table *table, uint32_t slot, const TableRecord *want) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;
        int r = table_get(table, slot, payload, &record);

        if (r != 0 || !same_record(&record, want))
                ck_abort_msg("slot %u does not hold record %u: %d", slot, want->counter, r);
}

static int outcome(const Table *table, uint32_t slot) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;

        return table_get(table, slot, payload, &record);
}

static Table format(void *memory, size_t blocks) {
        Table table;

        table_format(&table, memory, blocks * TABLE_BLOCK_SIZE);
        return table;
}

static Table open_table(void *memory, size_t size, size_t want_damaged) {
        size_t damaged = SIZE_MAX;
        Table table;

        ck_assert_int_eq(table_open(&table, memory, size, &damaged), 0);
        ck_assert_uint_eq(damaged, want_damaged);
        return table;
}

/* Whether each block is in use by one record or free: none is lost, none is used twice. */
static void check_blocks(const Table *table) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        uint32_t used = 1;
        TableRecord record;

        for (uint32_t slot = 0; slot < table->n_blocks; slot++) {
                int r = table_get(table, slot, payload, &record);

                if (r == TABLE_DAMAGED)
                        ck_abort_msg("slot %u is damaged", slot);
                if (r == 0)
                        used += blocks_of(&record);
        }
        if (used + table->n_free != table->n_blocks)
                ck_abort_msg("%u blocks are used and %u free, of %u", used, table->n_free, table->n_blocks);
}

/* Fills what is free, with all that lives being untouched, and empties the table. */
static void use_up(Table *table) {
        Sample sample;
        uint32_t n_free = table->n_free, slot;

        make_sample(&sample, 77, 5, 0);
        for (uint32_t i = 0; i < n_free; i++)
                check_record(table, put(table, &sample), &sample.record);
        ck_assert_int_eq(table_put(table, &sample.record, &slot), TABLE_FULL);
        check_blocks(table);
        for (slot = 1; slot < table->n_blocks; slot++)
                if (outcome(table, slot) == 0)
                        table_erase(table, slot);
        ck_assert_uint_eq(table->n_free, table->n_blocks - 1);
}

/* ---- One record ---- */

static void round_trip(size_t name_len, size_t extra_len) {
        enum { BLOCKS = 1 + TABLE_RECORD_BLOCKS_MAX };
        static uint8_t memory[BLOCKS * TABLE_BLOCK_SIZE] __attribute__((aligned(16)));
        Table table = format(memory, BLOCKS);
        Sample sample;
        uint32_t slot;

        make_sample(&sample, (uint32_t) (name_len * 1021 + extra_len), name_len, extra_len);
        slot = put(&table, &sample);
        check_record(&table, slot, &sample.record);
        ck_assert_uint_eq(table.n_free, BLOCKS - 1 - blocks_of(&sample.record));
        table = open_table(memory, sizeof memory, 0);
        check_record(&table, slot, &sample.record);
        ck_assert_uint_eq(table.n_free, BLOCKS - 1 - blocks_of(&sample.record));
        table_erase(&table, slot);
        ck_assert_int_eq(outcome(&table, slot), TABLE_EMPTY);
        ck_assert_uint_eq(table.n_free, BLOCKS - 1);
}

START_TEST(every_size) {
        for (size_t n = 1; n <= PROTO_NAME_BYTES_MAX; n++)
                round_trip(n, 0);
        for (size_t n = 0; n <= PROTO_EXTRA_MAX; n++)
                round_trip(1, n);
        for (size_t n = 0; n <= PROTO_EXTRA_MAX; n++)
                round_trip(PROTO_NAME_BYTES_MAX, n);
}
END_TEST

/* One byte less than fills a block, exactly that, and one more; the name ending before, in and behind that place. */
START_TEST(block_boundaries) {
        ck_assert_uint_eq(TABLE_RECORD_BLOCKS_MAX, 21);
        for (size_t edge = TABLE_HEAD_DATA; edge <= TABLE_PAYLOAD_MAX; edge += TABLE_MORE_DATA)
                for (size_t n = edge - 1; n <= edge + 1; n++)
                        for (size_t name = 1; name <= size_min(n, PROTO_NAME_BYTES_MAX); name += 21)
                                if (n - name <= PROTO_EXTRA_MAX)
                                        round_trip(name, n - name);
}
END_TEST

START_TEST(extreme_facts) {
        _cleanup_free_ void *memory = malloc(4 * TABLE_BLOCK_SIZE);
        Table table = format(memory, 4);
        Sample none, all;
        uint32_t slots[2];

        make_sample(&none, 1, 1, 0);
        none.record = (TableRecord){.info = {.name = none.payload, .name_len = 1}};
        make_sample(&all, 2, 1, 1);
        all.record = (TableRecord){
                .info = {
                        .name = all.payload,
                        .extra = all.payload + 1,
                        .name_len = 1,
                        .extra_len = 1,
                        .port = UINT16_MAX,
                        .highest_version = UINT16_MAX,
                        .lowest_version = UINT16_MAX,
                        .type = UINT8_MAX,
                        .protocol = UINT8_MAX,
                },
                .cookie = UINT64_MAX,
                .serial = UINT64_MAX,
                .since = UINT64_MAX,
                .counter = UINT32_MAX,
                .live = true,
        };
        slots[0] = put(&table, &none);
        slots[1] = put(&table, &all);
        table = open_table(memory, 4 * TABLE_BLOCK_SIZE, 0);
        check_record(&table, slots[0], &none.record);
        check_record(&table, slots[1], &all.record);
}
END_TEST

START_TEST(released) {
        _cleanup_free_ void *memory = malloc(30 * TABLE_BLOCK_SIZE);
        Table table = format(memory, 30);
        Sample samples[3];
        uint32_t slots[3];

        for (uint32_t i = 0; i < 3; i++) {
                make_sample(&samples[i], i, 1 + i * 200, i * 300);
                slots[i] = put(&table, &samples[i]);
        }
        table_release(&table, slots[1]);
        table_release(&table, TABLE_NO_SLOT);
        samples[1].record.live = false;
        for (int opened = 0; opened <= 1; opened++) {
                for (size_t i = 0; i < 3; i++)
                        check_record(&table, slots[i], &samples[i].record);
                table = open_table(memory, 30 * TABLE_BLOCK_SIZE, 0);
        }
        /* One that is written as released is so from the start. */
        table_erase(&table, slots[1]);
        slots[1] = put(&table, &samples[1]);
        check_record(&table, slots[1], &samples[1].record);
}
END_TEST

START_TEST(slots_without_record) {
        _cleanup_free_ void *memory = malloc(30 * TABLE_BLOCK_SIZE);
        Table table = format(memory, 30);
        Sample sample;
        uint32_t slot;

        make_sample(&sample, 1, 1000, 1000);
        slot = put(&table, &sample);
        for (uint32_t other = 0; other < 200; other++)
                if (other != slot)
                        ck_assert_int_eq(outcome(&table, other), TABLE_EMPTY);
        ck_assert_int_eq(outcome(&table, UINT32_MAX), TABLE_EMPTY);
        table_erase(&table, TABLE_NO_SLOT);
        check_record(&table, slot, &sample.record);
        check_blocks(&table);
}
END_TEST

/* ---- Room ---- */

static const size_t full_blocks[] = {1, 2, 3, 21, 22, 23, 100};

START_TEST(full) {
        const size_t blocks = full_blocks[_i], size = blocks * TABLE_BLOCK_SIZE;
        _cleanup_free_ void *memory = malloc(size), *before = malloc(size);
        Table table = format(memory, blocks);
        Sample small, large;
        uint32_t slot = 12345, n_free;

        make_sample(&small, 1, 64, 0);
        make_sample(&large, 2, PROTO_NAME_BYTES_MAX, PROTO_EXTRA_MAX);
        ck_assert_uint_eq(table.n_free, blocks - 1);
        while (table.n_free >= TABLE_RECORD_BLOCKS_MAX)
                check_record(&table, put(&table, &large), &large.record);
        n_free = table.n_free;
        memcpy(before, memory, size);
        ck_assert_int_eq(table_put(&table, &large.record, &slot), TABLE_FULL);
        /* Nothing of it is there. */
        ck_assert_mem_eq(memory, before, size);
        ck_assert_uint_eq(table.n_free, n_free);
        ck_assert_uint_eq(slot, 12345);
        while (table.n_free > 0)
                check_record(&table, put(&table, &small), &small.record);
        memcpy(before, memory, size);
        ck_assert_int_eq(table_put(&table, &small.record, &slot), TABLE_FULL);
        ck_assert_mem_eq(memory, before, size);
        check_blocks(&table);
        for (slot = 1; slot < blocks; slot++)
                if (outcome(&table, slot) == 0) {
                        table_erase(&table, slot);
                        put(&table, &small);
                        break;
                }
        table = open_table(memory, size, 0);
        use_up(&table);
}
END_TEST

START_TEST(extended) {
        enum { FROM = 4, TO = 40 };
        _cleanup_free_ void *memory = calloc(TO, TABLE_BLOCK_SIZE);
        Table table = format(memory, FROM);
        Sample samples[FROM - 1], large;
        uint32_t slots[FROM - 1], slot;

        for (uint32_t i = 0; i < FROM - 1; i++) {
                make_sample(&samples[i], i, 10, 10);
                slots[i] = put(&table, &samples[i]);
        }
        make_sample(&large, 99, 1020, 1020);
        ck_assert_int_eq(table_put(&table, &large.record, &slot), TABLE_FULL);
        for (size_t size = 0; size < (FROM + 1) * TABLE_BLOCK_SIZE; size++)
                table_extend(&table, size);
        ck_assert_uint_eq(table.n_free, 0);
        ck_assert_uint_eq(table.n_blocks, FROM);
        table_extend(&table, (FROM + 1) * TABLE_BLOCK_SIZE);
        ck_assert_uint_eq(table.n_free, 1);
        /* A part of a block is of no use. */
        table_extend(&table, (TO - 1) * TABLE_BLOCK_SIZE + TABLE_BLOCK_SIZE - 1);
        ck_assert_uint_eq(table.n_blocks, TO - 1);
        table_extend(&table, TO * TABLE_BLOCK_SIZE);
        ck_assert_uint_eq(table.n_blocks, TO);
        ck_assert_uint_eq(table.n_free, TO - FROM);
        slot = put(&table, &large);
        for (int opened = 0; opened <= 1; opened++) {
                check_record(&table, slot, &large.record);
                for (size_t i = 0; i < FROM - 1; i++)
                        check_record(&table, slots[i], &samples[i].record);
                table = open_table(memory, TO * TABLE_BLOCK_SIZE, 0);
        }
        use_up(&table);
}
END_TEST

/* ---- Any operations, compared with the records themselves ---- */

typedef struct Model {
        Sample samples[RECORDS_MAX];
        uint32_t slots[RECORDS_MAX]; /* or TABLE_NO_SLOT */
        uint32_t next_key;
} Model;

static void check_model(const Model *model, const Table *table) {
        uint32_t used = 1;

        for (size_t i = 0; i < RECORDS_MAX; i++)
                if (model->slots[i] != TABLE_NO_SLOT) {
                        check_record(table, model->slots[i], &model->samples[i].record);
                        used += blocks_of(&model->samples[i].record);
                }
        ck_assert_uint_eq(used + table->n_free, table->n_blocks);
        check_blocks(table);
}

static size_t random_length(uint64_t *state, size_t max) {
        /* Mostly as short as in life. */
        return unit_random(state) % 4 == 0 ? unit_random(state) % (max + 1) : unit_random(state) % 50;
}

static void model_step(Model *model, Table *table, uint64_t *state) {
        size_t i = unit_random(state) % RECORDS_MAX;
        Sample *sample = &model->samples[i];
        int r, want;

        if (model->slots[i] == TABLE_NO_SLOT) {
                size_t name = size_min(1 + random_length(state, PROTO_NAME_BYTES_MAX), PROTO_NAME_BYTES_MAX);

                make_sample(sample, model->next_key++, name, random_length(state, PROTO_EXTRA_MAX));
                want = blocks_of(&sample->record) > table->n_free ? TABLE_FULL : 0;
                r = table_put(table, &sample->record, &model->slots[i]);
                if (r != want)
                        ck_abort_msg("%d, not %d", r, want);
        } else if (sample->record.live && unit_random(state) % 2 == 0) {
                table_release(table, model->slots[i]);
                sample->record.live = false;
        } else {
                table_erase(table, model->slots[i]);
                model->slots[i] = TABLE_NO_SLOT;
        }
}

START_TEST(random_operations) {
        static Model model;
        const size_t blocks = _i % 2 == 0 ? 2000 : 300, size = blocks * TABLE_BLOCK_SIZE;
        _cleanup_free_ void *memory = malloc(size);
        Table table = format(memory, blocks);
        uint64_t state = (uint64_t) _i;

        memset(&model, 0, sizeof model);
        for (unsigned step = 0; step < 10000; step++) {
                model_step(&model, &table, &state);
                if (step % 500 == 499) {
                        check_model(&model, &table);
                        if (step % 1000 == 999)
                                table = open_table(memory, size, 0);
                        check_model(&model, &table);
                }
        }
        use_up(&table);
}
END_TEST

/* ---- The counter ---- */

START_TEST(counter) {
        static const uint32_t values[] = {0, 1, 3, 4, 1700000000, INT32_MAX, UINT32_MAX - 1, UINT32_MAX};
        _cleanup_free_ uint8_t *memory = malloc(2 * TABLE_BLOCK_SIZE);
        Table table = format(memory, 2);
        uint32_t got = 5;

        ck_assert(table_get_counter(&table, &got));
        ck_assert_uint_eq(got, 0);
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                table_set_counter(&table, values[i]);
                table = open_table(memory, 2 * TABLE_BLOCK_SIZE, 0);
                ck_assert(table_get_counter(&table, &got));
                ck_assert_uint_eq(got, values[i]);
                for (size_t bit = 0; bit < COUNTER_SIZE * 8; bit++) {
                        memory[COUNTER_AT + bit / 8] ^= (uint8_t) (1 << bit % 8);
                        /* It does not make the table another's. */
                        table = open_table(memory, 2 * TABLE_BLOCK_SIZE, 0);
                        got = 5;
                        if (table_get_counter(&table, &got) || got != 5)
                                ck_abort_msg("bit %zu of %u is flipped, and %u trusted", bit, values[i], got);
                        memory[COUNTER_AT + bit / 8] ^= (uint8_t) (1 << bit % 8);
                }
        }
}
END_TEST

/* ---- Damage ---- */

/* A table with records of all kinds, free blocks between them, and whose block is whose. */
typedef struct Subject {
        uint8_t *memory;
        size_t size;
        Sample samples[RECORDS_MAX];
        uint32_t slots[RECORDS_MAX];
        size_t n;
        size_t owner[RECORDS_MAX]; /* of a block: the record's index, or n: none */
} Subject;

/* Total bytes of name and Extra. */
static const size_t subject_sizes[] = {1, 64, 9, 65, 176, 30, 177, 500, 64, 40, 2040, 63};

static void subject_put(Subject *subject, Table *table, uint8_t *before, size_t bytes) {
        size_t name = size_min((bytes + 1) / 2, PROTO_NAME_BYTES_MAX), i = subject->n++;

        memcpy(before, subject->memory, subject->size);
        make_sample(&subject->samples[i], (uint32_t) i, name, bytes - name);
        subject->samples[i].record.live = i % 3 != 2;
        subject->slots[i] = put(table, &subject->samples[i]);
        for (size_t at = 0; at < subject->size; at++)
                if (subject->memory[at] != before[at])
                        subject->owner[at / TABLE_BLOCK_SIZE] = i;
}

static void make_subject(Subject *subject) {
        _cleanup_free_ uint8_t *before = NULL;
        uint32_t blocks = 1 + 6, gaps[2];
        Table table;
        Sample gap;

        for (size_t i = 0; i < ARRAY_SIZE(subject_sizes); i++)
                blocks += 2 + (uint32_t) (subject_sizes[i] / TABLE_MORE_DATA);
        *subject = (Subject){.size = blocks * TABLE_BLOCK_SIZE};
        subject->memory = malloc(subject->size);
        before = malloc(subject->size);
        for (size_t i = 0; i < ARRAY_SIZE(subject->owner); i++)
                subject->owner[i] = SIZE_MAX;
        table = format(subject->memory, blocks);
        table_set_counter(&table, 4711);
        make_sample(&gap, 99, 100, 20);
        gaps[0] = put(&table, &gap);
        for (size_t i = 0; i < ARRAY_SIZE(subject_sizes) / 2; i++)
                subject_put(subject, &table, before, subject_sizes[i]);
        gaps[1] = put(&table, &gap);
        for (size_t i = subject->n; i < ARRAY_SIZE(subject_sizes); i++)
                subject_put(subject, &table, before, subject_sizes[i]);
        table_erase(&table, gaps[0]);
        table_erase(&table, gaps[1]);
}

/* What is in a table that was damaged: only what was written, and it can be used. Returns how many of the subject's
 * records are there; present[i]: the i-th in its place. */
static size_t check_damaged(const Subject *subject, Table *table, bool present[RECORDS_MAX], const char *what,
                            size_t where) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;
        size_t n = 0;

        memset(present, 0, RECORDS_MAX * sizeof *present);
        for (uint32_t slot = 0; slot < table->n_blocks; slot++) {
                int r = table_get(table, slot, payload, &record);

                if (r == TABLE_EMPTY)
                        continue;
                if (r != 0 || record.counter >= subject->n ||
                    !same_record(&record, &subject->samples[record.counter].record))
                        ck_abort_msg("%s, %zu: slot %u holds what nobody wrote: %d", what, where, slot, r);
                present[record.counter] |= subject->slots[record.counter] == slot;
                n++;
        }
        return n;
}

static const uint8_t flips[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff};

/* Opens a copy of the subject of which a byte is another, and looks who has suffered. */
static void check_flip(const Subject *subject, size_t at, uint8_t flip) {
        _cleanup_free_ uint8_t *memory = unit_copy(subject->memory, subject->size);
        size_t damaged = SIZE_MAX, n, owner = subject->owner[at / TABLE_BLOCK_SIZE];
        bool present[RECORDS_MAX];
        Table table;
        int r;

        memory[at] ^= flip;
        r = table_open(&table, memory, subject->size, &damaged);
        if (at < BYTES_CHECKED) {
                if (r != TABLE_FOREIGN)
                        ck_abort_msg("byte %zu: %d", at, r);
                return;
        }
        n = check_damaged(subject, &table, present, "byte", at);
        for (size_t i = 0; i < subject->n; i++)
                if (!present[i] && i != owner)
                        ck_abort_msg("byte %zu, flipped by %02x: record %zu is lost", at, flip, i);
        if (r != 0 || n + 1 < subject->n || (n < subject->n && damaged == 0))
                ck_abort_msg("byte %zu, flipped by %02x: %d, %zu records, %zu damaged", at, flip, r, n, damaged);
        check_blocks(&table);
        if (at % 61 == 0)
                use_up(&table);
}

START_TEST(every_byte_flipped) {
        static Subject subject;

        make_subject(&subject);
        for (size_t at = 0; at < subject.size; at++) {
                check_flip(&subject, at, flips[at % 8]);
                check_flip(&subject, at, 0xff);
                /* Where it matters most: what the block is, and what follows it. */
                for (size_t i = 0; at % TABLE_BLOCK_SIZE < 8 && i < 8; i++)
                        check_flip(&subject, at, flips[i]);
        }
        free(subject.memory);
}
END_TEST

/* Blocks of the same bytes: a chain can lead into another record's and still end in the right check. */
START_TEST(chains_crossed) {
        enum { BLOCKS = 16, SIZE = BLOCKS * TABLE_BLOCK_SIZE };
        _cleanup_free_ uint8_t *memory = malloc(SIZE);
        Table table = format(memory, BLOCKS);
        uint8_t payload[TABLE_PAYLOAD_MAX];
        Sample samples[4];

        for (uint32_t i = 0; i < ARRAY_SIZE(samples); i++) {
                make_sample(&samples[i], i, 64, 2 * TABLE_MORE_DATA);
                memset(samples[i].payload, 'e', sizeof samples[i].payload);
                put(&table, &samples[i]);
        }
        for (size_t at = TABLE_BLOCK_SIZE; at < SIZE; at += at % 8 == 7 ? TABLE_BLOCK_SIZE - 7 : 1)
                for (unsigned value = 0; value < 32; value++) {
                        _cleanup_free_ uint8_t *copy = unit_copy(memory, SIZE);
                        size_t damaged = 0, n = 0;

                        copy[at] = (uint8_t) value;
                        if (table_open(&table, copy, SIZE, &damaged) != 0)
                                ck_abort_msg("byte %zu = %u: not a table", at, value);
                        for (uint32_t slot = 1; slot < BLOCKS; slot++) {
                                TableRecord record;

                                if (table_get(&table, slot, payload, &record) != 0)
                                        continue;
                                if (!same_record(&record, &samples[record.counter].record))
                                        ck_abort_msg("byte %zu = %u: slot %u", at, value, slot);
                                n++;
                        }
                        if (n > ARRAY_SIZE(samples) || n + damaged < ARRAY_SIZE(samples))
                                ck_abort_msg("byte %zu = %u: %zu records, %zu damaged", at, value, n, damaged);
                        check_blocks(&table);
                        use_up(&table);
                }
}
END_TEST

/* Any damage, of all sizes. */
static void damage(uint8_t *memory, size_t size, uint64_t *state) {
        size_t blocks = size / TABLE_BLOCK_SIZE, at = TABLE_BLOCK_SIZE + unit_random(state) % (size - TABLE_BLOCK_SIZE),
               n = 1 + unit_random(state) % 300, from = 1 + unit_random(state) % (blocks - 1),
               to = 1 + unit_random(state) % (blocks - 1);

        switch (unit_random(state) % 4) {
        case 0:
                memset(memory + at, (int) unit_random(state), size_min(n, size - at));
                break;
        case 1:
                for (size_t i = 0; i < n % 16; i++)
                        memory[TABLE_BLOCK_SIZE + unit_random(state) % (size - TABLE_BLOCK_SIZE)] =
                                (uint8_t) unit_random(state);
                break;
        case 2:
                memcpy(memory + to * TABLE_BLOCK_SIZE, memory + from * TABLE_BLOCK_SIZE,
                       from == to ? 0 : TABLE_BLOCK_SIZE);
                break;
        default:
                for (size_t i = 0; i < TABLE_BLOCK_SIZE; i++) {
                        uint8_t byte = memory[from * TABLE_BLOCK_SIZE + i];

                        memory[from * TABLE_BLOCK_SIZE + i] = memory[to * TABLE_BLOCK_SIZE + i];
                        memory[to * TABLE_BLOCK_SIZE + i] = byte;
                }
        }
}

START_TEST(damaged_anyhow) {
        static Subject subject;
        bool present[RECORDS_MAX];
        uint64_t state = (uint64_t) _i;

        make_subject(&subject);
        for (size_t round = 0; round < 3000; round++) {
                _cleanup_free_ uint8_t *memory = unit_copy(subject.memory, subject.size);
                size_t damaged;
                Table table;

                for (unsigned i = unit_random(&state) % 8; i < 8; i++)
                        damage(memory, subject.size, &state);
                ck_assert_int_eq(table_open(&table, memory, subject.size, &damaged), 0);
                (void) check_damaged(&subject, &table, present, "round", round);
                check_blocks(&table);
                use_up(&table);
        }
        free(subject.memory);
}
END_TEST

/* Memory that has nothing of a table but how it begins. */
START_TEST(noise) {
        static Subject subject;
        uint64_t state = 1;

        make_subject(&subject);
        for (unsigned round = 0; round < 300; round++) {
                size_t blocks = 1 + unit_random(&state) % 40, size = blocks * TABLE_BLOCK_SIZE, damaged;
                _cleanup_free_ uint8_t *memory = malloc(size);
                Table table;

                for (size_t i = 0; i < size; i++)
                        memory[i] = (uint8_t) unit_random(&state);
                memcpy(memory, subject.memory, BYTES_CHECKED);
                ck_assert_int_eq(table_open(&table, memory, size, &damaged), 0);
                ck_assert_uint_eq(damaged, blocks - 1);
                ck_assert_uint_eq(table.n_free, blocks - 1);
                use_up(&table);
        }
        free(subject.memory);
}
END_TEST

START_TEST(truncated) {
        static Subject subject;
        bool present[RECORDS_MAX];

        make_subject(&subject);
        for (size_t size = 0; size <= subject.size; size++) {
                /* Exactly so many bytes, and aligned nevertheless. */
                _cleanup_free_ uint8_t *memory = unit_copy(subject.memory, size);
                size_t damaged, blocks = size / TABLE_BLOCK_SIZE;
                Table table;
                int r = table_open(&table, memory, size, &damaged);

                if (blocks == 0) {
                        ck_assert_int_eq(r, TABLE_FOREIGN);
                        continue;
                }
                ck_assert_int_eq(r, 0);
                (void) check_damaged(&subject, &table, present, "size", size);
                for (size_t i = 0; i < subject.n; i++) {
                        bool whole = true;

                        for (size_t block = blocks; block < subject.size / TABLE_BLOCK_SIZE; block++)
                                whole &= subject.owner[block] != i;
                        if (present[i] != whole)
                                ck_abort_msg("size %zu: record %zu is %s", size, i, whole ? "lost" : "there");
                }
                check_blocks(&table);
        }
        free(subject.memory);
}
END_TEST

START_TEST(foreign) {
        _cleanup_free_ uint8_t *memory = malloc(4 * TABLE_BLOCK_SIZE), *sound = NULL;
        Table table = format(memory, 4);
        size_t damaged = 7;
        Sample sample;

        make_sample(&sample, 1, 10, 10);
        put(&table, &sample);
        sound = unit_copy(memory, 4 * TABLE_BLOCK_SIZE);
        /* Its magic, its version, its block size: any bit of them. */
        for (size_t bit = 0; bit < BYTES_CHECKED * 8; bit++) {
                _cleanup_free_ uint8_t *other = unit_copy(sound, 4 * TABLE_BLOCK_SIZE), *before = NULL;

                other[bit / 8] ^= (uint8_t) (1 << bit % 8);
                before = unit_copy(other, 4 * TABLE_BLOCK_SIZE);
                ck_assert_int_eq(table_open(&table, other, 4 * TABLE_BLOCK_SIZE, &damaged), TABLE_FOREIGN);
                /* It may be left to whom it belongs. */
                ck_assert_mem_eq(other, before, 4 * TABLE_BLOCK_SIZE);
        }
        memset(memory, 0, 4 * TABLE_BLOCK_SIZE);
        ck_assert_int_eq(table_open(&table, memory, 4 * TABLE_BLOCK_SIZE, &damaged), TABLE_FOREIGN);
        memset(memory, 0xff, 4 * TABLE_BLOCK_SIZE);
        ck_assert_int_eq(table_open(&table, memory, 4 * TABLE_BLOCK_SIZE, &damaged), TABLE_FOREIGN);
        ck_assert_uint_eq(damaged, 7);
        /* And can be made one of ours. */
        table = format(memory, 4);
        use_up(&table);
}
END_TEST

/* ---- Killed at any moment ---- */

enum { KILLS = 200, KILL_RECORDS = 32, KILL_BLOCKS = 220 };

enum { IDLE, PUTTING, RELEASING, ERASING };

/* What the writer says of itself, in memory that outlives it. Before it does something it says what; afterwards, that
 * it is done. */
typedef struct Diary {
        uint64_t count; /* of operations that are done */
        uint32_t doing;
        uint32_t index; /* the record that it is done to */
        uint32_t slots[KILL_RECORDS];
        uint32_t state[KILL_RECORDS]; /* 0: absent; 1: live; 2: released */
        uint8_t memory[KILL_BLOCKS * TABLE_BLOCK_SIZE] __attribute__((aligned(64)));
} Diary;

static Sample kill_samples[KILL_RECORDS];

static void say(uint32_t *what, uint32_t value) {
        __atomic_store_n(what, value, __ATOMIC_SEQ_CST);
}

static void write_on(Diary *diary, Table *table, uint64_t state) {
        for (;;) {
                uint32_t i = unit_random(&state) % KILL_RECORDS, slot;

                say(&diary->index, i);
                if (diary->state[i] == 0) {
                        say(&diary->doing, PUTTING);
                        if (table_put(table, &kill_samples[i].record, &slot) == 0) {
                                say(&diary->slots[i], slot);
                                say(&diary->state[i], 1);
                        }
                } else if (diary->state[i] == 1 && unit_random(&state) % 2 == 0) {
                        say(&diary->doing, RELEASING);
                        table_release(table, diary->slots[i]);
                        say(&diary->state[i], 2);
                } else {
                        say(&diary->doing, ERASING);
                        table_erase(table, diary->slots[i]);
                        say(&diary->state[i], 0);
                }
                say(&diary->doing, IDLE);
                __atomic_add_fetch(&diary->count, 1, __ATOMIC_SEQ_CST);
        }
}

/* Lets the child do n things, then kills it at whatever it is doing. */
static void kill_after(pid_t pid, const Diary *diary, uint64_t n, unsigned turns) {
        const time_t deadline = time(NULL) + UNIT_TIMEOUT / 2;
        int status;

        while (__atomic_load_n(&diary->count, __ATOMIC_SEQ_CST) < n && time(NULL) < deadline)
                (void) sched_yield();
        for (volatile unsigned i = 0; i < turns; i++)
                continue;
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        if (diary->count < n)
                ck_abort_msg("the writer has only done %llu things", (unsigned long long) diary->count);
}

/* Whether a record that something was being done to may be in this state now. */
static bool may_be(const Diary *diary, uint32_t i, uint32_t state) {
        uint32_t before = diary->state[i];

        if (state == before)
                return true;
        if (diary->doing == IDLE || diary->index != i)
                return false;
        /* One that is done, but not yet said to be so, has its new state in the diary already or will have it. */
        return diary->doing == PUTTING     ? before == 0 && state == 1
               : diary->doing == RELEASING ? before == 1 && state == 2
                                           : before != 0 && state == 0;
}

/* Compares, and brings the diary up to what is in the table: the next writer goes on from there. */
static void check_diary(Diary *diary, const Table *table, unsigned round) {
        uint32_t found[KILL_RECORDS] = {}, slots[KILL_RECORDS] = {};
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;

        for (uint32_t slot = 1; slot < table->n_blocks; slot++) {
                TableRecord want;

                if (table_get(table, slot, payload, &record) != 0)
                        continue;
                want = kill_samples[record.counter % KILL_RECORDS].record;
                want.live = record.live;
                if (!same_record(&record, &want) || found[record.counter] != 0)
                        ck_abort_msg("kill %u: slot %u holds what nobody wrote", round, slot);
                found[record.counter] = record.live ? 1 : 2;
                slots[record.counter] = slot;
        }
        for (uint32_t i = 0; i < KILL_RECORDS; i++) {
                bool moved = found[i] != 0 && diary->state[i] != 0 && diary->slots[i] != slots[i];

                if (!may_be(diary, i, found[i]) || moved)
                        ck_abort_msg("kill %u, while doing %u to %u: record %u is in state %u, not %u", round,
                                     diary->doing, diary->index, i, found[i], diary->state[i]);
                diary->state[i] = found[i];
                diary->slots[i] = slots[i];
        }
        diary->doing = IDLE;
}

START_TEST(killed_writer) {
        Diary *diary = mmap(NULL, sizeof *diary, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t state = 1;
        Table table;

        ck_assert_ptr_ne(diary, MAP_FAILED);
        for (uint32_t i = 0; i < KILL_RECORDS; i++)
                make_sample(&kill_samples[i], i, 1 + i * 31, i % 4 == 0 ? 1020 : i * 7);
        table = format(diary->memory, KILL_BLOCKS);
        for (unsigned round = 0; round < KILLS; round++) {
                uint64_t n = diary->count + unit_random(&state) % 100, seed = unit_random(&state);
                pid_t pid = fork();

                ck_assert_int_ge(pid, 0);
                if (pid == 0)
                        write_on(diary, &table, seed);
                kill_after(pid, diary, n, unit_random(&state) % 2000);
                table = open_table(diary->memory, sizeof diary->memory, 0);
                check_diary(diary, &table, round);
                check_blocks(&table);
        }
        ck_assert_int_eq(munmap(diary, sizeof *diary), 0);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("table");
        TCase *records = unit_case(suite, "records"), *damages = unit_case(suite, "damage");

        tcase_add_test(records, every_size);
        tcase_add_test(records, block_boundaries);
        tcase_add_test(records, extreme_facts);
        tcase_add_test(records, released);
        tcase_add_test(records, slots_without_record);
        tcase_add_loop_test(records, full, 0, ARRAY_SIZE(full_blocks));
        tcase_add_test(records, extended);
        tcase_add_loop_test(records, random_operations, 0, 6);
        tcase_add_test(records, counter);
        tcase_add_test(damages, every_byte_flipped);
        tcase_add_test(damages, chains_crossed);
        tcase_add_loop_test(damages, damaged_anyhow, 0, 2);
        tcase_add_test(damages, noise);
        tcase_add_test(damages, truncated);
        tcase_add_test(damages, foreign);
        tcase_add_test(damages, killed_writer);
        return unit_main(suite);
}
