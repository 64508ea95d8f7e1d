/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A parking lot for connections: a pair of connected AF_UNIX sockets, in whose queue descriptors wait. Whoever holds
 * both ends, the service manager say, keeps every connection in it alive, at the cost of two descriptors. What is
 * parked can be looked at, which yields duplicates, without being taken out; so whoever looks may be killed at any
 * moment, and nothing is lost. */

#include <stddef.h>
#include <stdint.h>

#include "util.h"

enum { LOT_BATCH_MAX = 253 }; /* descriptors in one message: the kernel's SCM_MAX_FD */

/* What a connection is parked under: its record's slot and counter in the table. */
typedef struct LotTag {
        uint32_t slot;
        uint32_t counter;
} LotTag;

typedef struct Lot {
        int in;  /* connections are parked here */
        int out; /* and found here */
        size_t messages; /* in the queue */
} Lot;

#define LOT_NONE ((Lot){.in = -1, .out = -1})

/* Outcomes. */
enum {
        LOT_FULL = 1, /* no room in the queue, or the user has as many descriptors in flight as may be */
        LOT_END,      /* no message is left to look at */
        LOT_FOREIGN,  /* a message that is none of ours; its descriptors are closed */
};

/* One message that was looked at. */
typedef struct LotMessage {
        size_t n;     /* tags */
        size_t n_fds; /* descriptors received; fewer than tags when this process has no room for more */
        LotTag tags[LOT_BATCH_MAX];
        int fds[LOT_BATCH_MAX];
} LotMessage;

int lot_new(Lot *ret);
void lot_done(Lot *lot);
int lot_check_end(int fd);
int lot_check(const Lot *lot);

int lot_park(Lot *lot, const LotTag *tags, const int *fds, size_t n);
int lot_rewind(Lot *lot);
int lot_look(Lot *lot, LotMessage *ret);
int lot_look_at_tags(Lot *lot, LotMessage *ret);
void lot_drop(Lot *lot, size_t n);
