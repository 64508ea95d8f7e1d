/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "siphash.h"
#include "util.h"

/* Written in the byte order of the machine: the table never leaves it. */
#define TABLE_MAGIC UINT64_C(0x31656c6261546d45) /* "EmTable1" */
enum { TABLE_VERSION = 1 };

/* States of a block. Far from each other and from 0, so that no flipped bit makes one into another. */
enum {
        STATE_FREE = 0,
        STATE_LIVE = 0x4c697665,
        STATE_TOLD = 0x546f6c64, /* live, and its node knows */
        STATE_RELEASED = 0x52656c64,
        STATE_MORE = 0x6d6f7265,
};

typedef struct TableHeader {
        uint64_t magic;
        uint32_t version;
        uint32_t block_size;
        uint64_t counter; /* the last one given, and its complement in the upper half: one store writes both */
} TableHeader;

/* What a head has besides name, Extra and unit; its check covers it, and them. */
typedef struct TableFields {
        uint64_t cookie;
        uint64_t serial;
        uint64_t since;
        uint32_t counter;
        uint16_t port;
        uint16_t highest_version;
        uint16_t lowest_version;
        uint16_t name_len;
        uint16_t extra_len;
        uint8_t type;
        uint8_t protocol;
        uint32_t uid;
        uint16_t unit_len;
        uint8_t uid_known;
        uint8_t reserved;
} TableFields;

struct TableBlock {
        union {
                TableHeader header; /* of block 0 alone */
                struct {
                        uint32_t state;
                        uint32_t next; /* block that carries on, or the next free one; 0: none */
                        union {
                                struct {
                                        uint64_t check;
                                        TableFields fields;
                                        uint8_t data[TABLE_HEAD_DATA];
                                } head;
                                uint8_t more[TABLE_MORE_DATA];
                        };
                };
                uint8_t bytes[TABLE_BLOCK_SIZE];
        };
};

static_assert(sizeof(TableFields) == 48, "the fields have no padding, whose bytes would be checked too");
static_assert(sizeof(TableBlock) == TABLE_BLOCK_SIZE, "blocks are as large as their name says");

/* Bytes of name, Extra and unit, which follow one another. */
static size_t payload_size(const TableFields *fields) {
        return (size_t) fields->name_len + fields->extra_len + fields->unit_len;
}

static uint64_t record_check(const TableFields *fields, const uint8_t *payload) {
        /* Against accidents, not against people: whoever can write the table can compute this. */
        static const uint8_t key[SIPHASH_KEY_SIZE] = "epmd table check";
        uint8_t all[sizeof(TableFields) + TABLE_PAYLOAD_MAX];
        size_t n = payload_size(fields);

        memcpy(all, fields, sizeof *fields);
        memcpy(all + sizeof *fields, payload, n);
        return siphash24(key, all, sizeof *fields + n);
}

/* The state decides whether a record is there, so everything else must be written before it. */
static void set_state(TableBlock *block, uint32_t state) {
        __atomic_store_n(&block->state, state, __ATOMIC_RELEASE);
}

static void free_block(Table *table, uint32_t at) {
        set_state(&table->blocks[at], STATE_FREE);
        table->blocks[at].next = table->first_free;
        table->first_free = at;
        table->n_free++;
}

static uint32_t take_block(Table *table) {
        uint32_t at = table->first_free;

        table->first_free = table->blocks[at].next;
        table->n_free--;
        return at;
}

static uint32_t count_blocks(size_t size) {
        size_t n = size / TABLE_BLOCK_SIZE;

        return n > UINT32_MAX ? UINT32_MAX : (uint32_t) n;
}

static uint32_t blocks_needed(size_t payload) {
        if (payload <= TABLE_HEAD_DATA)
                return 1;
        return 1 + (uint32_t) ((payload - TABLE_HEAD_DATA + TABLE_MORE_DATA - 1) / TABLE_MORE_DATA);
}

/* Makes an empty table of the memory, which must be at least one block and aligned as malloc() does. It stays the
 * caller's, for as long as the table is used. Its first eight bytes are zero until it is one. */
void table_format(Table *table, void *memory, size_t size) {
        *table = (Table){.blocks = memory, .n_blocks = 1};
        memset(memory, 0, size / TABLE_BLOCK_SIZE * TABLE_BLOCK_SIZE);
        table->blocks[0].header = (TableHeader){.version = TABLE_VERSION, .block_size = TABLE_BLOCK_SIZE};
        table_set_counter(table, 0);
        table_extend(table, size);
        __atomic_store_n(&table->blocks[0].header.magic, TABLE_MAGIC, __ATOMIC_RELEASE);
}

static bool is_live(uint32_t state) {
        return state == STATE_LIVE || state == STATE_TOLD;
}

static bool is_head(uint32_t state) {
        return is_live(state) || state == STATE_RELEASED;
}

/* Copies the payload of the record at a slot together. Returns false when its chain does not hold it. */
static bool gather(const Table *table, uint32_t slot, size_t n, uint8_t *payload) {
        const TableBlock *block = &table->blocks[slot];
        size_t done = size_min(n, TABLE_HEAD_DATA);

        memcpy(payload, block->head.data, done);
        while (done < n) {
                size_t len = size_min(n - done, TABLE_MORE_DATA);

                if (block->next == 0 || block->next >= table->n_blocks)
                        return false;
                block = &table->blocks[block->next];
                if (block->state != STATE_MORE)
                        return false;
                memcpy(payload + done, block->more, len);
                done += len;
        }
        return true;
}

/* Reads the record at a slot.
 *
 * payload: where name, Extra and unit are copied to; ret->info points there. Returns 0; TABLE_EMPTY: the block is free,
 * carries on another record, or does not exist; TABLE_DAMAGED. */
int table_get(const Table *table, uint32_t slot, uint8_t payload[TABLE_PAYLOAD_MAX], TableRecord *ret) {
        const TableBlock *block;
        TableFields fields;
        uint32_t state;

        if (slot == TABLE_NO_SLOT || slot >= table->n_blocks)
                return TABLE_EMPTY;
        block = &table->blocks[slot];
        state = block->state;
        if (state == STATE_FREE || state == STATE_MORE)
                return TABLE_EMPTY;
        fields = block->head.fields;
        if (!is_head(state) || fields.name_len == 0 || fields.name_len > PROTO_NAME_BYTES_MAX ||
            fields.extra_len > PROTO_EXTRA_MAX || fields.unit_len > OWNER_UNIT_MAX ||
            !gather(table, slot, payload_size(&fields), payload) ||
            block->head.check != record_check(&fields, payload))
                return TABLE_DAMAGED;
        *ret = (TableRecord){
                .info = {
                        .name = payload,
                        .extra = payload + fields.name_len,
                        .name_len = fields.name_len,
                        .extra_len = fields.extra_len,
                        .port = fields.port,
                        .highest_version = fields.highest_version,
                        .lowest_version = fields.lowest_version,
                        .type = fields.type,
                        .protocol = fields.protocol,
                },
                .owner = {
                        .unit = payload + fields.name_len + fields.extra_len,
                        .unit_len = fields.unit_len,
                        .known = fields.uid_known,
                        .uid = fields.uid,
                },
                .cookie = fields.cookie,
                .serial = fields.serial,
                .since = fields.since,
                .counter = fields.counter,
                .live = is_live(state),
                .told = state == STATE_TOLD,
        };
        return 0;
}

/* Marks the n blocks of a sound record as used; false, with nothing changed, when another record has one of them
 * already. */
static bool claim(const Table *table, uint32_t slot, uint32_t n, bool *used) {
        uint32_t at = slot, done = 0;

        for (; done < n && !used[at]; done++, at = table->blocks[at].next)
                used[at] = true;
        if (done == n)
                return true;
        for (at = slot; done > 0; done--, at = table->blocks[at].next)
                used[at] = false;
        return false;
}

/* Makes sense of memory that an earlier process has left; as for table_format(), it stays the caller's.
 *
 * ret_damaged: how many records had to be given up; their blocks are free now. Returns 0; TABLE_FOREIGN: format it,
 * or leave it alone; -ENOMEM. */
int table_open(Table *table, void *memory, size_t size, size_t *ret_damaged) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        _cleanup_free_ bool *used = NULL;
        TableRecord record;
        size_t damaged = 0;

        *table = (Table){.blocks = memory, .n_blocks = count_blocks(size)};
        if (table->n_blocks == 0 || table->blocks[0].header.magic != TABLE_MAGIC ||
            table->blocks[0].header.version != TABLE_VERSION ||
            table->blocks[0].header.block_size != TABLE_BLOCK_SIZE)
                return TABLE_FOREIGN;
        used = calloc(table->n_blocks, sizeof *used);
        if (!used)
                return -ENOMEM;
        for (uint32_t slot = 1; slot < table->n_blocks; slot++) {
                int r = table_get(table, slot, payload, &record);

                if (r == 0 &&
                    !claim(table, slot, blocks_needed(payload_size(&table->blocks[slot].head.fields)), used))
                        r = TABLE_DAMAGED;
                if (r == TABLE_DAMAGED) {
                        set_state(&table->blocks[slot], STATE_FREE);
                        damaged++;
                }
        }
        /* From the end, so that the low blocks are used first. */
        for (uint32_t slot = table->n_blocks - 1; slot >= 1; slot--)
                if (!used[slot] || !(is_head(table->blocks[slot].state) || table->blocks[slot].state == STATE_MORE))
                        free_block(table, slot);
        *ret_damaged = damaged;
        return 0;
}

/* The memory has grown, by zeros and where it is, to so many bytes. Nothing happens when it has not. */
void table_extend(Table *table, size_t size) {
        uint32_t old = table->n_blocks, n = count_blocks(size);

        if (n <= old)
                return;
        table->n_blocks = n;
        for (uint32_t at = n - 1; at >= old; at--)
                free_block(table, at);
}

/* Fills the blocks behind a head from the last to the first and returns the first. */
static uint32_t put_more(Table *table, const uint8_t *payload, size_t n) {
        uint32_t next = 0;

        for (uint32_t i = blocks_needed(n) - 1; i > 0; i--) {
                size_t from = TABLE_HEAD_DATA + (size_t) (i - 1) * TABLE_MORE_DATA;
                uint32_t at = take_block(table);
                TableBlock *block = &table->blocks[at];

                memcpy(block->more, payload + from, size_min(n - from, TABLE_MORE_DATA));
                block->next = next;
                set_state(block, STATE_MORE);
                next = at;
        }
        return next;
}

static void append(uint8_t *payload, size_t at, const uint8_t *data, size_t n) {
        if (n > 0)
                memcpy(payload + at, data, n);
}

/* Writes a record, which is there from the moment at which this returns; of record->told nothing is written, table_tell()
 * does that. Returns 0 with its slot, or TABLE_FULL. */
int table_put(Table *table, const TableRecord *record, uint32_t *ret_slot) {
        const NodeInfo *info = &record->info;
        const Owner *owner = &record->owner;
        const TableFields fields = {
                .cookie = record->cookie,
                .serial = record->serial,
                .since = record->since,
                .counter = record->counter,
                .port = info->port,
                .highest_version = info->highest_version,
                .lowest_version = info->lowest_version,
                .name_len = info->name_len,
                .extra_len = info->extra_len,
                .type = info->type,
                .protocol = info->protocol,
                .uid = owner->uid,
                .unit_len = owner->unit_len,
                .uid_known = owner->known,
        };
        uint8_t payload[TABLE_PAYLOAD_MAX];
        size_t n = payload_size(&fields);
        TableBlock *block;
        uint32_t slot;

        if (blocks_needed(n) > table->n_free)
                return TABLE_FULL;
        append(payload, 0, info->name, info->name_len);
        append(payload, info->name_len, info->extra, info->extra_len);
        append(payload, (size_t) info->name_len + info->extra_len, owner->unit, owner->unit_len);
        slot = take_block(table);
        block = &table->blocks[slot];
        block->next = put_more(table, payload, n);
        block->head.fields = fields;
        memcpy(block->head.data, payload, size_min(n, TABLE_HEAD_DATA));
        block->head.check = record_check(&fields, payload);
        set_state(block, record->live ? STATE_LIVE : STATE_RELEASED);
        *ret_slot = slot;
        return 0;
}

/* Whether that live record is there, and the cookie of its connection, as far as a look at its head tells; table_get()
 * has the last word. For taking many over. */
bool table_is_live(const Table *table, uint32_t slot, uint32_t counter, uint64_t *ret_cookie) {
        const TableBlock *block = &table->blocks[slot];

        if (slot == TABLE_NO_SLOT || slot >= table->n_blocks || !is_live(block->state) ||
            block->head.fields.counter != counter)
                return false;
        *ret_cookie = block->head.fields.cookie;
        return true;
}

/* The place of a record in the order of registration; false when none begins at the slot. */
bool table_serial(const Table *table, uint32_t slot, uint64_t *ret) {
        if (slot == TABLE_NO_SLOT || slot >= table->n_blocks || !is_head(table->blocks[slot].state))
                return false;
        *ret = table->blocks[slot].head.fields.serial;
        return true;
}

/* The node of a live record, at that slot, has its reply. Does nothing for TABLE_NO_SLOT. */
void table_tell(Table *table, uint32_t slot) {
        if (slot != TABLE_NO_SLOT)
                set_state(&table->blocks[slot], STATE_TOLD);
}

/* The name of a live record, at that slot, is free from now on, and remembered. Does nothing for TABLE_NO_SLOT. */
void table_release(Table *table, uint32_t slot) {
        if (slot != TABLE_NO_SLOT)
                set_state(&table->blocks[slot], STATE_RELEASED);
}

/* Removes a record that this process has written or read. Does nothing for TABLE_NO_SLOT. */
void table_erase(Table *table, uint32_t slot) {
        uint32_t next;
        size_t left;

        if (slot == TABLE_NO_SLOT)
                return;
        left = blocks_needed(payload_size(&table->blocks[slot].head.fields));
        for (uint32_t at = slot; left > 0; left--, at = next) {
                next = table->blocks[at].next;
                free_block(table, at);
        }
}

/* The last counter that was given, as table_set_counter() wrote it. Returns false, and nothing in *ret, when it cannot
 * be trusted. */
bool table_get_counter(const Table *table, uint32_t *ret) {
        uint64_t both = table->blocks[0].header.counter;

        if ((uint32_t) both != (uint32_t) ~(both >> 32))
                return false;
        *ret = (uint32_t) both;
        return true;
}

/* Writes the last counter that was given. Whatever the moment at which the process is killed, it is the one before or
 * this one. */
void table_set_counter(Table *table, uint32_t counter) {
        __atomic_store_n(&table->blocks[0].header.counter, (uint64_t) ~counter << 32 | counter, __ATOMIC_RELEASE);
}
