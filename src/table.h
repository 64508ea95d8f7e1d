/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The registry as bytes that outlive the process: a table of records in memory that is given to it, a shared mapping
 * of a file say. Whatever the moment at which the process is killed, a record is there or it is not; whatever happens
 * to the bytes, a damaged record is recognised and the others are not affected. Pure.
 *
 * The memory is an array of blocks. Block 0 says what it is; any other is free, the head of a record, or carries on
 * a record whose name, Extra and unit do not fit into its head. The state of a block is written last. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "owner.h"
#include "proto.h"

enum {
        TABLE_BLOCK_SIZE = 128,
        TABLE_HEAD_DATA = 64,  /* bytes of name, Extra and unit in a head */
        TABLE_MORE_DATA = 112, /* and in each block behind it */
        TABLE_PAYLOAD_MAX = PROTO_NAME_BYTES_MAX + PROTO_EXTRA_MAX + OWNER_UNIT_MAX,
        TABLE_RECORD_BLOCKS_MAX = 1 + (TABLE_PAYLOAD_MAX - TABLE_HEAD_DATA + TABLE_MORE_DATA - 1) / TABLE_MORE_DATA,
        TABLE_NO_SLOT = 0, /* no record has this slot */
};

typedef struct TableBlock TableBlock;

typedef struct Table {
        TableBlock *blocks; /* not ours */
        uint32_t n_blocks;
        uint32_t first_free; /* a chain through the free blocks */
        uint32_t n_free;
} Table;

typedef struct TableRecord {
        NodeInfo info;
        Owner owner;
        uint64_t cookie;  /* SO_COOKIE of the connection: the same as long as it lives, in whatever process */
        uint64_t serial;  /* the order of registration */
        uint64_t since;   /* when it was registered, realtime µs */
        uint32_t counter; /* what the creation was derived from; names the record together with its slot */
        bool live;        /* registered; else its name was released and is remembered */
        bool told;        /* the node knows that it is registered */
} TableRecord;

/* Outcomes. */
enum {
        TABLE_FOREIGN = 1, /* not a table, or of another version */
        TABLE_FULL,        /* not enough free blocks */
        TABLE_EMPTY,       /* no record begins at this slot */
        TABLE_DAMAGED,     /* a record does, but its bytes are not what was written */
};

void table_format(Table *table, void *memory, size_t size);
int table_open(Table *table, void *memory, size_t size, size_t *ret_damaged);
void table_extend(Table *table, size_t size);

int table_put(Table *table, const TableRecord *record, uint32_t *ret_slot);
int table_get(const Table *table, uint32_t slot, uint8_t payload[TABLE_PAYLOAD_MAX], TableRecord *ret);
bool table_is_live(const Table *table, uint32_t slot, uint32_t counter, uint64_t *ret_cookie);
bool table_serial(const Table *table, uint32_t slot, uint64_t *ret);
void table_tell(Table *table, uint32_t slot);
void table_release(Table *table, uint32_t slot);
void table_erase(Table *table, uint32_t slot);

bool table_get_counter(const Table *table, uint32_t *ret);
void table_set_counter(Table *table, uint32_t counter);
