/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <string.h>
#include <sys/socket.h>

#include "parking.h"
#include "table_file.h"

/* Under these names the service manager holds the ends of the lots. */
static const char *const end_names[PARKING_LOTS][2] = {
        {"epmd-lot-0-in", "epmd-lot-0-out"},
        {"epmd-lot-1-in", "epmd-lot-1-out"},
};

struct Store {
        TableFile file;
        Table table;      /* in the file */
        Parking *parking; /* a place for each block of the table: each may be the head of a record */
};

/* ---- The table ---- */

static uint32_t count_blocks(const Store *store) {
        return (uint32_t) (store->file.size / TABLE_BLOCK_SIZE);
}

/* Sees to it that whatever record comes next finds room. */
static void make_room(Store *store) {
        if (store->table.n_free >= TABLE_RECORD_BLOCKS_MAX)
                return;
        /* If it cannot grow now, it may have grown before, when there was no memory for the places. */
        (void) table_file_grow(&store->file);
        if (parking_resize(store->parking, count_blocks(store)) == 0)
                table_extend(&store->table, store->file.size);
}

/* Makes a table of the file, in place of what is in it. */
static int new_table(Store *store) {
        int r = table_file_clear(&store->file);

        if (r >= 0)
                table_format(&store->table, store->file.memory, store->file.size);
        return r;
}

static int open_table(Store *store, const char *directory, size_t records_max, StoreReport *report) {
        int r;

        r = table_file_open(directory, records_max, &store->file);
        if (r < 0)
                return r;
        if (store->file.size > 0) {
                r = table_open(&store->table, store->file.memory, store->file.size, &report->damaged);
                if (r != TABLE_FOREIGN)
                        return r;
        }
        report->foreign = !store->file.blank;
        return new_table(store);
}

/* ---- What the service manager holds ---- */

/* Takes what was passed under a name. A process that could not store all four ends may have left some of which the
 * other end has gone, and the service manager not have heard that the next one does not want them. */
static int take_named(PassedSockets *sockets, const char *name) {
        int fd = -1;

        for (size_t i = 0; i < sockets->n; i++) {
                if (!sockets->items[i].name || strcmp(sockets->items[i].name, name) != 0)
                        continue;
                if (fd < 0 || lot_check_end(fd) == -ENOTSOCK) {
                        safe_close(fd);
                        fd = TAKE_FD(sockets->items[i].fd);
                } else
                        sockets->items[i].fd = safe_close(sockets->items[i].fd);
        }
        return fd;
}

/* Puts a descriptor back to where it was taken from; one from elsewhere is closed. */
static void give_back(PassedSockets *sockets, const char *name, int fd) {
        for (size_t i = 0; i < sockets->n && fd >= 0; i++)
                if (sockets->items[i].name && strcmp(sockets->items[i].name, name) == 0) {
                        sockets->items[i].fd = fd;
                        return;
                }
        safe_close(fd);
}

/* Takes a lot over from an earlier process, or makes a new one and gives its ends to the service manager. Nothing is
 * ever parked before all ends of all lots are there, so a lot of which one end is missing was never used. */
static int open_lot(PassedSockets *sockets, int index, Lot *ret) {
        const char *in = end_names[index][0], *out = end_names[index][1];
        Lot lot = {.in = take_named(sockets, in), .out = take_named(sockets, out)};
        int r;

        r = lot_check(&lot);
        if (r != -ENOTSOCK) {
                *ret = lot;
                return r;
        }
        if (lot.in >= 0)
                systemd_unstore(in);
        if (lot.out >= 0)
                systemd_unstore(out);
        lot_done(&lot);
        r = lot_new(ret);
        if (r < 0)
                return r;
        r = systemd_store(in, ret->in);
        if (r < 0)
                return r;
        return systemd_store(out, ret->out);
}

static int open_lots(PassedSockets *sockets, Lot lots[PARKING_LOTS]) {
        int r = 0;

        for (int i = 0; i < PARKING_LOTS && r >= 0; i++)
                r = open_lot(sockets, i, &lots[i]);
        return r;
}

static void give_lots_back(PassedSockets *sockets, const Lot lots[PARKING_LOTS]) {
        for (int i = 0; i < PARKING_LOTS; i++) {
                give_back(sockets, end_names[i][0], lots[i].in);
                give_back(sockets, end_names[i][1], lots[i].out);
        }
}

/* Tells all peers of a lot that their connections are at their end. */
static void hang_up_all(Lot *lot) {
        LotMessage message;
        int r = lot_rewind(lot);

        while (r >= 0) {
                r = lot_look(lot, &message);
                if (r < 0 || r == LOT_END)
                        break;
                for (size_t i = 0; i < message.n_fds; i++) {
                        (void) shutdown(message.fds[i], SHUT_RDWR);
                        safe_close(message.fds[i]);
                }
        }
}

/* For a process that cannot use a store: lets go of what an earlier one has stored, and ends the connections that it
 * has parked, so that the nodes notice and register again. hang_up: false if that process may live and serve them. */
void store_abandon(PassedSockets *sockets, bool hang_up) {
        for (int i = 0; i < PARKING_LOTS; i++) {
                Lot lot = {.in = take_named(sockets, end_names[i][0]), .out = take_named(sockets, end_names[i][1])};

                /* The service manager may not hear of it, and hold them for ever. */
                if (hang_up && lot_check(&lot) == 0)
                        hang_up_all(&lot);
                lot_done(&lot);
                for (int end = 0; end < 2; end++)
                        systemd_unstore(end_names[i][end]);
        }
}

/* ---- Opening ---- */

/* Opens what an earlier process has left, or begins anew.
 *
 * directory: the runtime directory; sockets: what the service manager passed, the ends of the lots are taken out of
 * it, unless this fails; records_max: of registered and of remembered names together; in_flight_max: connections that
 * may be parked, as parking_new() has it. *ret is the caller's; report tells what was found.
 * Returns 0; -EBUSY: another process has the directory; other negative errno. */
int store_new(const char *directory, PassedSockets *sockets, size_t records_max, size_t in_flight_max,
              StoreReport *report, Store **ret) {
        _cleanup_(store_freep) Store *store = calloc(1, sizeof *store);
        Lot lots[PARKING_LOTS] = {LOT_NONE, LOT_NONE};
        int r;

        if (!store)
                return -ENOMEM;
        store->file = TABLE_FILE_NONE;
        *report = (StoreReport){};
        r = open_table(store, directory, records_max, report);
        if (r < 0)
                return r;
        r = open_lots(sockets, lots);
        if (r >= 0)
                r = parking_new(lots, count_blocks(store), in_flight_max, &store->parking);
        if (r < 0) {
                give_lots_back(sockets, lots);
                return r;
        }
        make_room(store);
        *ret = TAKE_PTR(store);
        return 0;
}

/* Lets go of everything; what is stored stays stored. Always returns NULL. */
Store *store_free(Store *store) {
        if (!store)
                return NULL;
        parking_free(store->parking);
        table_file_close(&store->file);
        free(store);
        return NULL;
}

/* For how many connections there is room at the same time, whatever comes and goes. */
size_t store_capacity(const Store *store) {
        return parking_capacity(store->parking);
}

/* The table, for the registry; it is gone with the store. */
Table *store_table(Store *store) {
        return &store->table;
}

/* ---- Restoring ---- */

/* A record's place in the order of registration. */
typedef struct Place {
        uint64_t serial;
        uint32_t slot;
} Place;

static int compare_places(const void *a, const void *b) {
        const Place *x = a, *y = b;

        return x->serial < y->serial ? -1 : x->serial > y->serial;
}

static int list_records(const Store *store, Place **ret, size_t *ret_n) {
        Place *places;
        uint64_t serial;
        size_t n = 0;

        places = calloc(store->table.n_blocks, sizeof *places);
        if (!places)
                return -ENOMEM;
        for (uint32_t slot = 1; slot < store->table.n_blocks; slot++)
                if (table_serial(&store->table, slot, &serial))
                        places[n++] = (Place){.serial = serial, .slot = slot};
        qsort(places, n, sizeof *places, compare_places);
        *ret = places;
        *ret_n = n;
        return 0;
}

static int restore_record(Store *store, uint32_t slot, StoreRecordFunction on_record, void *userdata,
                          StoreReport *report) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        int fd = parking_fd(store->parking, slot), r;
        TableRecord record;
        bool is_lost;

        if (table_get(&store->table, slot, payload, &record) != 0)
                return 0;
        r = on_record(userdata, slot, &record, fd);
        if (r < 0)
                return r;
        report->restored += r > 0;
        /* A node that has not heard of its registration has nothing to lose. */
        is_lost = fd < 0 && record.told;
        report->released += record.live && r == 0 && !is_lost;
        report->lost += record.live && r == 0 && is_lost;
        if (r == 0)
                parking_drop(store->parking, slot);
        return 0;
}

static bool is_live(const void *userdata, LotTag tag, uint64_t *ret_cookie) {
        const Table *table = userdata;

        return table_is_live(table, tag.slot, tag.counter, ret_cookie);
}

/* Brings back what an earlier process has left: calls on_record for each record, with its connection where that is
 * still there. Until all are back nothing is taken out of the lots, so that being killed meanwhile does no harm.
 * Returns 0, or a negative errno: if is_passing_error() all is stored as before, for another process to try again,
 * else some are missing. */
int store_restore(Store *store, StoreRecordFunction on_record, void *userdata, StoreReport *report) {
        _cleanup_free_ Place *places = NULL;
        int claimed, r;
        size_t n;

        claimed = parking_claim(store->parking, is_live, &store->table, &report->mismatched);
        if (is_passing_error(claimed))
                return claimed;
        r = list_records(store, &places, &n);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                r = restore_record(store, places[i].slot, on_record, userdata, report);
                if (r < 0)
                        return r;
        }
        parking_settle(store->parking);
        return claimed;
}

/* ---- One connection ---- */

/* Parks the connection of a node whose record is in the table; it is safe when this returns 0, and stays the caller's.
 *
 * slot: TABLE_NO_SLOT: the table had no room. Returns STORE_NOT_KEPT, or a negative errno: the node is not kept. */
int store_keep(Store *store, uint32_t slot, uint32_t counter, int fd) {
        int r;

        make_room(store);
        if (slot == TABLE_NO_SLOT)
                return STORE_NOT_KEPT;
        r = parking_keep(store->parking, (LotTag){.slot = slot, .counter = counter}, fd);
        return r == PARKING_FULL ? STORE_NOT_KEPT : r;
}

/* The connection of that record has ended, kept or not. What is parked of it is released sooner or later. */
void store_drop(Store *store, uint32_t slot) {
        parking_drop(store->parking, slot);
}

/* Adds the ends of the lots, duplicated, to what a successor is to be passed. Returns 0 or a negative errno. */
int store_pass_on(const Store *store, PassedSockets *sockets) {
        for (int i = 0; i < PARKING_LOTS; i++) {
                Lot lot = parking_lot(store->parking, (size_t) i);
                int r = passed_sockets_add_copy(sockets, lot.in, end_names[i][0]);

                if (r >= 0)
                        r = passed_sockets_add_copy(sockets, lot.out, end_names[i][1]);
                if (r < 0)
                        return r;
        }
        return 0;
}
