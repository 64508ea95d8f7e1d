/* SPDX-License-Identifier: Apache-2.0 */

/* The table of the registry, damaged in any way while no process had it. The input is what happened to it; afterwards
 * it must be opened, must show no record that was not written to it, and must work as a new one does. */

#include "fuzz.h"
#include "registry.h"
#include "siphash.h"
#include "table.h"

enum {
        BLOCKS = 48,
        SIZE = BLOCKS * TABLE_BLOCK_SIZE,
        WRITTEN_MAX = 256,
        STEPS_MAX = 200,
        HEAD_CHECK_AT = 8, /* in a block: where the check of a head is, and what it covers */
        HEAD_FIELDS_AT = 16,
        HEAD_FIELDS = 48,
        HEAD_LENGTHS_AT = HEAD_FIELDS_AT + 34, /* of name and Extra */
        HEAD_UNIT_LENGTH_AT = HEAD_FIELDS_AT + 44,
};

/* All that ever was written: each record has a cookie of its own, from which the rest follows. */
typedef struct World {
        uint8_t *memory;
        Table table;
        uint64_t cookies;
        uint32_t slots[BLOCKS]; /* of records that were written; 0: free place */
        bool signed_by_hand;    /* something was made to look right that was not written */
} World;

typedef enum Step {
        STEP_PUT, /* length of name, length of Extra and unit */
        STEP_RELEASE,
        STEP_ERASE,
        STEP_TELL,
        STEP_FLIP, /* place, bits */
        STEP_COPY, /* block, block */
        STEP_SIGN, /* block */
        STEP_ZERO, /* place, n */
        STEP_WORD, /* place, four bytes */
        STEP_OPEN,
        STEPS,
} Step;

/* The record that belongs to a cookie. */
static void make_record(uint64_t cookie, size_t name_len, size_t extra_len, uint8_t payload[TABLE_PAYLOAD_MAX],
                        TableRecord *ret) {
        size_t unit_len = size_min(extra_len / 2, OWNER_UNIT_MAX);

        memset(payload, (int) ('a' + cookie % 23), TABLE_PAYLOAD_MAX);
        *ret = (TableRecord){
                .info = {.name = payload,
                         .name_len = (uint16_t) name_len,
                         .extra = payload,
                         .extra_len = (uint16_t) extra_len,
                         .port = (uint16_t) cookie},
                .owner = {.unit = payload, .unit_len = (uint16_t) unit_len, .known = true, .uid = (uint32_t) cookie},
                .cookie = cookie,
                .serial = cookie,
                .since = ~cookie,
                .counter = (uint32_t) cookie,
                .live = true,
        };
}

/* Whether the record is one that was written: what follows from its cookie is right. */
static bool is_written(const World *world, const TableRecord *record) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord want;

        make_record(record->cookie, record->info.name_len, record->info.extra_len, payload, &want);
        return record->cookie > 0 && record->cookie <= world->cookies && record->info.port == want.info.port &&
               record->owner.uid == want.owner.uid && record->owner.unit_len == want.owner.unit_len &&
               record->serial == want.serial && record->since == want.since && record->counter == want.counter &&
               memcmp(record->info.name, payload, record->info.name_len) == 0 &&
               memcmp(record->info.extra, payload, record->info.extra_len) == 0 &&
               memcmp(record->owner.unit, payload, record->owner.unit_len) == 0;
}

/* Each block is free, once, or belongs to one record; free ones can be had. */
static void check_table(const World *world) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        size_t used = 0, live = 0;
        TableRecord record;

        for (uint32_t slot = 1; slot < BLOCKS; slot++) {
                int r = table_get(&world->table, slot, payload, &record);
                size_t n;

                EXPECT(r == 0 || r == TABLE_EMPTY);
                if (r != 0)
                        continue;
                EXPECT(world->signed_by_hand || is_written(world, &record));
                n = (size_t) record.info.name_len + record.info.extra_len + record.owner.unit_len;
                used += 1 + (n > TABLE_HEAD_DATA ? (n - TABLE_HEAD_DATA + TABLE_MORE_DATA - 1) / TABLE_MORE_DATA : 0);
                live++;
        }
        EXPECT(used + world->table.n_free == BLOCKS - 1);
        EXPECT(live <= used);
}

static void put(World *world, size_t name_len, size_t extra_len) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;
        uint32_t slot = 0;

        if (world->cookies == WRITTEN_MAX)
                return;
        make_record(++world->cookies, 1 + name_len % PROTO_NAME_BYTES_MAX, extra_len % PROTO_EXTRA_MAX, payload,
                    &record);
        if (table_put(&world->table, &record, &slot) != 0)
                return;
        EXPECT(slot > 0 && slot < BLOCKS && world->slots[slot] == 0);
        world->slots[slot] = slot;
}

/* The memory that is there, as a process finds it that opens it. */
static void reopen(World *world) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        size_t damaged = 0;
        TableRecord record;
        int r = table_open(&world->table, world->memory, SIZE, &damaged);

        EXPECT(r == 0 || r == TABLE_FOREIGN);
        if (r == TABLE_FOREIGN)
                table_format(&world->table, world->memory, SIZE);
        for (uint32_t slot = 0; slot < BLOCKS; slot++)
                world->slots[slot] = table_get(&world->table, slot, payload, &record) == 0 ? slot : 0;
        check_table(world);
}

/* Makes a head look right, as who can write the file can. */
static void sign(World *world, size_t slot) {
        static const uint8_t key[SIPHASH_KEY_SIZE] = "epmd table check";
        uint8_t *block = world->memory + slot * TABLE_BLOCK_SIZE,
                all[HEAD_FIELDS + TABLE_PAYLOAD_MAX + TABLE_MORE_DATA];
        uint16_t lengths[2], unit_len;
        uint32_t next;
        uint64_t check;
        size_t n, done = 0;

        memcpy(lengths, block + HEAD_LENGTHS_AT, sizeof lengths);
        memcpy(&unit_len, block + HEAD_UNIT_LENGTH_AT, sizeof unit_len);
        n = (size_t) lengths[0] + lengths[1] + unit_len;
        if (n > TABLE_PAYLOAD_MAX)
                return;
        memcpy(all, block + HEAD_FIELDS_AT, HEAD_FIELDS);
        memcpy(all + HEAD_FIELDS, block + HEAD_FIELDS_AT + HEAD_FIELDS, TABLE_HEAD_DATA);
        memcpy(&next, block + 4, sizeof next);
        for (done = TABLE_HEAD_DATA; done < n && next < BLOCKS; done += TABLE_MORE_DATA) {
                const uint8_t *more = world->memory + next * TABLE_BLOCK_SIZE;

                memcpy(all + HEAD_FIELDS + done, more + 8, TABLE_MORE_DATA);
                memcpy(&next, more + 4, sizeof next);
        }
        check = siphash24(key, all, HEAD_FIELDS + n);
        memcpy(block + HEAD_CHECK_AT, &check, sizeof check);
        world->signed_by_hand = true;
}

/* Changes bytes behind the back of whoever has the table open, so that it must be opened next. */
static void damage(World *world, Step step, Input *input) {
        size_t place = input_u16(input) % SIZE, n, block = 1 + input_u8(input) % (BLOCKS - 1);
        const uint8_t *bytes;

        switch (step) {
        case STEP_FLIP:
                world->memory[place] ^= (uint8_t) block;
                break;
        case STEP_COPY:
                memmove(world->memory + block * TABLE_BLOCK_SIZE,
                        world->memory + place / TABLE_BLOCK_SIZE * TABLE_BLOCK_SIZE, TABLE_BLOCK_SIZE);
                break;
        case STEP_SIGN:
                sign(world, block);
                break;
        case STEP_ZERO:
                memset(world->memory + place, 0, size_min(4 * block, SIZE - place));
                break;
        default:
                bytes = input_bytes(input, size_min(4, SIZE - place), &n);
                if (n > 0)
                        memcpy(world->memory + place, bytes, n);
        }
}

static void use(World *world, Step step, uint32_t slot) {
        if (world->slots[slot] == 0)
                return;
        switch (step) {
        case STEP_RELEASE:
                table_release(&world->table, slot);
                break;
        case STEP_TELL:
                table_tell(&world->table, slot);
                break;
        default:
                table_erase(&world->table, slot);
                world->slots[slot] = 0;
        }
}

/* What the registry makes of it: no name twice, and whatever it then does keeps the table whole. */
static void restore(World *world) {
        static const uint8_t seed[SIPHASH_KEY_SIZE];
        uint8_t payload[TABLE_PAYLOAD_MAX];
        Registry *registry = NULL;
        Node *node, *next;
        TableRecord record;

        EXPECT(registry_new(seed, 1, BLOCKS / 2, &world->table, &registry) == 0);
        for (uint32_t slot = 1; slot < BLOCKS; slot++) {
                const Holder holder = {.connection = world, .fd = 3};

                if (table_get(&world->table, slot, payload, &record) != 0)
                        continue;
                (void) registry_restore(registry, slot, &record, record.live ? &holder : NULL, &node);
                check_table(world);
        }
        for (node = registry_newest(registry); node; node = next) {
                NodeInfo info = node_info(node);

                EXPECT(registry_find(registry, info.name, info.name_len) == node);
                next = registry_older(node);
                registry_remove(registry, node);
                check_table(world);
        }
        EXPECT(registry_count(registry) == 0);
        registry_free(registry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Input input = input_of(data, size);
        World world = {.memory = malloc(SIZE)};
        bool damaged = false;
        uint32_t counter;

        EXPECT(world.memory);
        table_format(&world.table, world.memory, SIZE);
        for (size_t i = 0; i < STEPS_MAX && input_left(&input) > 0; i++) {
                Step step = input_u8(&input) % STEPS;

                damaged |= step >= STEP_FLIP && step < STEP_OPEN;
                if (step >= STEP_FLIP && step < STEP_OPEN)
                        damage(&world, step, &input);
                else if (step == STEP_OPEN || damaged) {
                        reopen(&world);
                        damaged = false;
                } else if (step == STEP_PUT) {
                        size_t name_len = input_u16(&input);
                        put(&world, name_len, input_u16(&input));
                } else
                        use(&world, step, input_u8(&input) % BLOCKS);
        }
        reopen(&world);
        (void) table_get_counter(&world.table, &counter);
        restore(&world);
        reopen(&world);
        free(world.memory);
        return 0;
}
