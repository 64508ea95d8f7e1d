/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What survives the process: the table of the registry, in a file of the runtime directory, and the parked
 * connections of the registered nodes. The service manager holds the ends of the lots where these are. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "systemd.h"
#include "table.h"
#include "util.h"

typedef struct Store Store;

/* What was found; for the log. */
typedef struct StoreReport {
        bool foreign;      /* a table that this program does not understand: not used */
        size_t damaged;    /* records that had to be given up */
        size_t mismatched; /* connections that were parked under another's record: closed */
        size_t restored;   /* nodes */
        size_t released;   /* nodes that have ended */
        size_t lost;       /* nodes whose connections were not kept */
} StoreReport;

/* Outcomes of store_keep(). */
enum {
        STORE_NOT_KEPT = 1, /* no room in the table or in the lots */
};

/* A record, in the order of registration; fd: its connection, the function's, or -1: the name is only remembered.
 * Returns 1: the connection is registered now; 0: it is not; a negative errno: stop, nothing has changed. */
typedef int (*StoreRecordFunction)(void *userdata, uint32_t slot, const TableRecord *record, int fd);

int store_new(const char *directory, PassedSockets *sockets, size_t records_max, size_t in_flight_max,
              StoreReport *report, Store **ret);
Store *store_free(Store *store);
DEFINE_CLEANUP(Store *, store_free)

void store_abandon(PassedSockets *sockets, bool hang_up);
size_t store_capacity(const Store *store);
Table *store_table(Store *store);
int store_restore(Store *store, StoreRecordFunction on_record, void *userdata, StoreReport *report);

int store_keep(Store *store, uint32_t slot, uint32_t counter, int fd);
void store_drop(Store *store, uint32_t slot);
int store_pass_on(const Store *store, PassedSockets *sockets);
