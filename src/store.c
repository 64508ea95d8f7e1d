/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <string.h>
#include <sys/socket.h>

#include "table_file.h"

enum { FIRST_LOT, SECOND_LOT, LOTS, NO_LOT = LOTS };

enum {
        DEAD_SLACK = 512,        /* connections that have ended may wait in the lots beside as many as live */
        BATCHED_DEAD_SLACK = 20, /* those among the batches, beside half as many */
        LOOK_AHEAD = 256,        /* messages looked at before what they hold is moved */
        BATCH_COST = 4608,       /* bytes of the queue that a message of LOT_BATCH_MAX takes, and a little more */
        SINGLE_COST = 1024,      /* and a message of one */
        BATCHES_SPARE = 4,       /* room that a lot must have to be tidied */
};

/* Under these names the service manager holds the ends of the lots. */
static const char *const end_names[LOTS][2] = {
        {"epmd-lot-0-in", "epmd-lot-0-out"},
        {"epmd-lot-1-in", "epmd-lot-1-out"},
};

/* Where the connection of a record is parked, by the record's slot. */
typedef struct Parked {
        uint32_t counter;
        int fd;        /* of this process */
        uint8_t lot;   /* or NO_LOT */
        bool doubled;  /* in the other lot, too */
        bool gathered; /* it is about to be moved */
} Parked;

struct Store {
        TableFile file;
        Table table;
        Parked *parked; /* one for each block of the table */
        uint32_t n_parked;
        Lot lots[LOTS];
        int active;     /* the lot where connections are parked one by one; the other has them in batches */
        size_t singles_max; /* so many of them before they move together */
        size_t live;    /* connections in both lots */
        size_t dead;    /* and what has ended but is not taken out yet */
        bool unclaimed; /* something is parked that this process did not get */
        bool doubled;   /* or is in both lots */
        size_t in_flight_max;
};

/* ---- The table ---- */

static void new_places(Store *store, uint32_t from) {
        for (uint32_t i = from; i < store->n_parked; i++)
                store->parked[i] = (Parked){.fd = -1, .lot = NO_LOT};
}

static int grow_parked(Store *store, uint32_t n) {
        uint32_t from = store->n_parked;
        Parked *parked;

        if (n <= from)
                return 0;
        parked = reallocarray(store->parked, n, sizeof *parked);
        if (!parked)
                return -ENOMEM;
        store->parked = parked;
        store->n_parked = n;
        new_places(store, from);
        return 0;
}

/* A place for each block of the file: each may be a record's. */
static int match_file(Store *store) {
        return grow_parked(store, (uint32_t) (store->file.size / TABLE_BLOCK_SIZE));
}

/* Sees to it that whatever record comes next finds room. */
static void make_room(Store *store) {
        if (store->table.n_free >= TABLE_RECORD_BLOCKS_MAX)
                return;
        /* Where it cannot grow now, it may have when there was no memory for the places. */
        (void) table_file_grow(&store->file);
        if (match_file(store) == 0)
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
        r = store->file.size > 0
                    ? table_open(&store->table, store->file.memory, store->file.size, &report->damaged)
                    : TABLE_FOREIGN;
        if (r == TABLE_FOREIGN) {
                report->foreign = !store->file.blank;
                r = new_table(store);
        }
        return r < 0 ? r : match_file(store);
}

/* ---- The lots ---- */

/* Takes what was passed under a name. A process that could not store all four ends may have left some of which the other
 * end has gone, and the service manager not have heard that the next one does not want them. */
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

static bool is_parked(const Store *store, LotTag tag, int lot) {
        return tag.slot < store->n_parked && store->parked[tag.slot].lot == lot &&
               store->parked[tag.slot].counter == tag.counter;
}

/* Connections on their way from one lot to the other, and the messages that they were found in. */
typedef struct Move {
        int from;
        size_t n;
        size_t n_tags; /* dead ones included */
        size_t messages;
        LotTag tags[LOT_BATCH_MAX];
        int fds[LOT_BATCH_MAX];
} Move;

/* Parks what was gathered in the other lot, and only then takes it out of the one where it was. Killed in between,
 * a process leaves some in both, which the next one finds out. */
static int move_gathered(Store *store, Move *move) {
        int to = 1 - move->from, r = 0;

        if (move->n > 0)
                r = lot_park(&store->lots[to], move->tags, move->fds, move->n);
        for (size_t i = 0; i < move->n; i++) {
                Parked *parked = &store->parked[move->tags[i].slot];

                parked->gathered = false;
                if (r == 0)
                        parked->lot = (uint8_t) to;
        }
        if (r == 0) {
                lot_drop(&store->lots[move->from], move->messages);
                store->dead -= size_min(move->n_tags - move->n, store->dead);
        }
        move->n = move->n_tags = move->messages = 0;
        return r;
}

/* One that was parked twice moves once. */
static void gather(Store *store, const LotMessage *message, Move *move) {
        for (size_t i = 0; i < message->n; i++) {
                Parked *parked;

                if (!is_parked(store, message->tags[i], move->from))
                        continue;
                parked = &store->parked[message->tags[i].slot];
                if (parked->gathered)
                        continue;
                parked->gathered = true;
                move->tags[move->n] = message->tags[i];
                move->fds[move->n++] = parked->fd;
        }
        move->messages++;
        move->n_tags += message->n;
}

static size_t count_parked(const Store *store, const LotMessage *message, int lot) {
        size_t n = 0;

        for (size_t i = 0; i < message->n; i++)
                n += is_parked(store, message->tags[i], lot);
        return n;
}

/* Moves what lives in the first `most` messages of one lot to the other. On failure the rest stays where it is, as safe
 * as before. Returns 0; LOT_FULL; a negative errno. */
static int empty_lot(Store *store, int from, size_t most) {
        Lot *lot = &store->lots[from];
        Move move = {.from = from};
        LotMessage message;
        size_t live;
        int r;

        r = lot_rewind(lot);
        for (; r >= 0 && most > 0; most--) {
                r = lot_look_at_tags(lot, &message);
                if (r == LOT_FOREIGN)
                        message.n = 0;
                else if (r != 0)
                        break;
                live = count_parked(store, &message, from);
                /* What holds nobody goes at once, and first: there may be too much in flight to park anything. */
                if (move.messages >= LOOK_AHEAD || move.n + live > LOT_BATCH_MAX ||
                    (move.n == 0 && move.messages > 0 && live > 0)) {
                        r = move_gathered(store, &move);
                        if (r != 0)
                                return r;
                }
                gather(store, &message, &move);
        }
        /* What was gathered is whole, whatever came then. */
        if (move.messages > 0) {
                int moved = move_gathered(store, &move);

                if (moved != 0)
                        return moved;
        }
        return r < 0 ? r : 0;
}

/* Empties the lots of what has ended, and parks all that lives in batches: first the singles move to the lot of the
 * batches, behind these; then everything there moves to the lot where the singles were, which is the lot of the batches
 * from then on. */
static int compact(Store *store) {
        const int singles = store->active, batches = 1 - singles;
        int r;

        r = empty_lot(store, singles, SIZE_MAX);
        if (r >= 0) {
                size_t left = store->lots[singles].messages;

                r = empty_lot(store, batches, SIZE_MAX);
                /* Both lots were nearly full: now there is room for the singles that remained, before the rest. */
                if (r == LOT_FULL && left > 0) {
                        r = empty_lot(store, singles, left);
                        if (r >= 0)
                                r = empty_lot(store, batches, SIZE_MAX);
                }
        }
        if (store->lots[batches].messages < store->lots[singles].messages)
                store->active = batches;
        return r;
}

/* How many bytes the kernel lets wait in the queue of a lot: what net.core.wmem_max allows. */
static size_t queue_size(const Lot *lot) {
        int size = 0;
        socklen_t len = sizeof size;

        return getsockopt(lot->in, SOL_SOCKET, SO_SNDBUF, &size, &len) == 0 && size > 0 ? (size_t) size : 0;
}

/* The singles may have half of their lot: with both lots full nothing could move. */
static void limit_singles(Store *store) {
        store->singles_max = size_min(LOT_BATCH_MAX, queue_size(&store->lots[store->active]) / 2 / SINGLE_COST);
        if (store->singles_max == 0)
                store->singles_max = 1;
}

/* Makes room in the lot of the singles: they move to the batches, in one message. That is cheap, and removes only the
 * singles that have ended. When too many of the batched ones have, or the lots hold all that they may, everything moves. */
static int tidy(Store *store) {
        int r = empty_lot(store, store->active, SIZE_MAX);

        if (r != 0 || store->dead > store->live / 2 + BATCHED_DEAD_SLACK ||
            store->live + store->dead >= store->in_flight_max)
                r = compact(store);
        limit_singles(store);
        return r;
}

/* Parks again all that this process has; what finds no room is not kept any longer. */
static void park_all(Store *store) {
        const int batches = 1 - store->active;
        LotTag tags[LOT_BATCH_MAX];
        int fds[LOT_BATCH_MAX];
        uint32_t next = 0;

        store->live = 0;
        while (next < store->n_parked) {
                uint32_t first = next;
                size_t n = 0;
                bool kept;

                for (; next < store->n_parked && n < LOT_BATCH_MAX; next++)
                        if (store->parked[next].lot != NO_LOT) {
                                tags[n] = (LotTag){.slot = next, .counter = store->parked[next].counter};
                                fds[n++] = store->parked[next].fd;
                        }
                kept = n > 0 && lot_park(&store->lots[batches], tags, fds, n) == 0;
                store->live += kept ? n : 0;
                for (uint32_t slot = first; slot < next; slot++)
                        if (store->parked[slot].lot != NO_LOT)
                                store->parked[slot].lot = (uint8_t) (kept ? batches : NO_LOT);
        }
}

/* The last resort where the kernel lets nothing be parked before enough of what is parked has gone, because the limit
 * was lowered, or where it cannot be looked at: all of it goes first, and what lives is parked again. Killed in
 * between, a process loses its nodes; but nobody is left to wait for a daemon that does not know him. */
static void park_anew(Store *store) {
        for (int i = 0; i < LOTS; i++)
                lot_drop(&store->lots[i], SIZE_MAX);
        store->dead = 0;
        park_all(store);
}

/* ---- Opening and restoring ---- */

static int open_all(Store *store, const char *directory, PassedSockets *sockets, size_t records_max,
                    StoreReport *report) {
        int r;

        r = open_table(store, directory, records_max, report);
        for (int i = 0; i < LOTS && r >= 0; i++)
                r = open_lot(sockets, i, &store->lots[i]);
        return r;
}

/* Opens what an earlier process has left, or begins anew.
 *
 * directory: the runtime directory; sockets: what the service manager passed, the ends of the lots are taken out of
 * it, unless this fails; records_max: of registered and of remembered names together; in_flight_max: connections that
 * may be parked, those that have ended included: a successor must have a descriptor for each of them, as it gets whole
 * messages, and the kernel lets this user have no more than RLIMIT_NOFILE in flight. *ret is the caller's; report tells
 * what was found.
 * Returns 0; -EBUSY: another process has the directory; other negative errno. */
int store_new(const char *directory, PassedSockets *sockets, size_t records_max, size_t in_flight_max,
              StoreReport *report, Store **ret) {
        _cleanup_(store_freep) Store *store = calloc(1, sizeof *store);
        int r;

        if (!store)
                return -ENOMEM;
        store->file = TABLE_FILE_NONE;
        store->in_flight_max = in_flight_max;
        for (int i = 0; i < LOTS; i++)
                store->lots[i] = LOT_NONE;
        *report = (StoreReport){};
        r = open_all(store, directory, sockets, records_max, report);
        if (r < 0) {
                for (int i = 0; i < LOTS; i++) {
                        give_back(sockets, end_names[i][0], TAKE_FD(store->lots[i].in));
                        give_back(sockets, end_names[i][1], TAKE_FD(store->lots[i].out));
                }
                return r;
        }
        limit_singles(store);
        make_room(store);
        *ret = TAKE_PTR(store);
        return 0;
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

/* For a process that cannot use a store: lets go of what an earlier one has stored, and ends the connections that it has
 * parked, so that the nodes notice and register again. hang_up: false if that process may live and serve them. */
void store_abandon(PassedSockets *sockets, bool hang_up) {
        for (int i = 0; i < LOTS; i++) {
                Lot lot = {.in = take_named(sockets, end_names[i][0]), .out = take_named(sockets, end_names[i][1])};

                /* The service manager may not hear of it, and hold them for ever. */
                if (hang_up && lot_check(&lot) == 0)
                        hang_up_all(&lot);
                lot_done(&lot);
                for (int end = 0; end < 2; end++)
                        systemd_unstore(end_names[i][end]);
        }
}

/* Lets go of everything; what is stored stays stored. Always returns NULL. */
Store *store_free(Store *store) {
        if (!store)
                return NULL;
        for (int i = 0; i < LOTS; i++)
                lot_done(&store->lots[i]);
        table_file_close(&store->file);
        free(store->parked);
        free(store);
        return NULL;
}

/* For how many connections there is room at the same time, whatever comes and goes: what the kernel gives the queue of
 * one lot (net.core.wmem_max), as all of them must find room in either. */
size_t store_capacity(const Store *store) {
        size_t least = SIZE_MAX;

        for (int i = 0; i < LOTS; i++)
                least = size_min(least, queue_size(&store->lots[i]) / BATCH_COST);
        return least > BATCHES_SPARE ? (least - BATCHES_SPARE) * LOT_BATCH_MAX : LOT_BATCH_MAX;
}

/* The table, for the registry. */
Table *store_table(Store *store) {
        return &store->table;
}

/* A parked connection that belongs to no registered node: the peer of one that the process ended while it was being
 * killed may still wait. */
static void hang_up(Store *store, int fd) {
        (void) shutdown(fd, SHUT_RDWR);
        safe_close(fd);
        store->dead++;
}

static void claim(Store *store, int lot, LotTag tag, int fd, StoreReport *report) {
        uint64_t cookie = 0, recorded;
        socklen_t len = sizeof cookie;
        Parked *parked;

        if (tag.slot >= store->n_parked || !table_is_live(&store->table, tag.slot, tag.counter, &recorded)) {
                hang_up(store, fd);
                return;
        }
        /* What could not be asked for, then or now, proves nothing either way: the tag has to do. */
        if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 && recorded != 0 && cookie != recorded) {
                report->mismatched++;
                hang_up(store, fd);
                return;
        }
        parked = &store->parked[tag.slot];
        if (parked->lot != NO_LOT) {
                safe_close(fd);
                store->dead++;
                store->doubled = true;
                parked->doubled |= parked->lot != lot;
                return;
        }
        *parked = (Parked){.counter = tag.counter, .fd = fd, .lot = (uint8_t) lot};
        store->live++;
}

/* Gets all connections of a lot, without taking them out. ret_n: how many there are, dead ones included. */
static int claim_lot(Store *store, int index, StoreReport *report, size_t *ret_n) {
        Lot *lot = &store->lots[index];
        LotMessage message;
        int r;

        lot->messages = 0;
        r = lot_rewind(lot);
        while (r >= 0) {
                r = lot_look(lot, &message);
                if (r < 0 || r == LOT_END)
                        break;
                lot->messages++;
                *ret_n += message.n;
                store->unclaimed |= r == LOT_FOREIGN || message.n_fds < message.n;
                for (size_t i = 0; i < message.n_fds; i++)
                        if (i < message.n)
                                claim(store, index, message.tags[i], message.fds[i], report);
                        else
                                safe_close(message.fds[i]);
        }
        return r < 0 ? r : 0;
}

/* Whether all that lives in the first message of the first lot that holds anybody is in the other lot, too. */
static bool begins_with_doubled(Store *store) {
        Lot *lot = &store->lots[FIRST_LOT];
        LotMessage message;
        int r;

        r = lot_rewind(lot);
        while (r >= 0) {
                size_t live = 0, doubled = 0;

                r = lot_look_at_tags(lot, &message);
                if (r < 0 || r == LOT_END)
                        break;
                for (size_t i = 0; i < message.n; i++)
                        if (is_parked(store, message.tags[i], FIRST_LOT)) {
                                live++;
                                doubled += store->parked[message.tags[i].slot].doubled;
                        }
                if (live > 0)
                        return doubled == live;
        }
        return false;
}

/* Decides in which lot those are that were found in both. A process that was killed in the middle of a move leaves them at
 * the beginning of one lot and at the end of the other. There they have to count as parked: then nobody is left at the
 * beginning, which goes without anything being parked. For that there may be no room before it has gone. */
static void settle_doubled(Store *store) {
        /* At the end of the first lot they are behind others, or together with some that have left the second. */
        const uint8_t lot = begins_with_doubled(store) ? SECOND_LOT : FIRST_LOT;

        for (uint32_t slot = 0; slot < store->n_parked; slot++)
                if (store->parked[slot].doubled) {
                        store->parked[slot].lot = lot;
                        store->parked[slot].doubled = false;
                }
}

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
        Parked *parked = &store->parked[slot];
        bool was_kept = parked->fd >= 0, is_lost;
        TableRecord record;
        int r;

        if (table_get(&store->table, slot, payload, &record) != 0)
                return 0;
        r = on_record(userdata, slot, &record, parked->fd);
        if (r < 0)
                return r;
        report->restored += r > 0;
        /* A node that has not heard of its registration has nothing to lose. */
        is_lost = !was_kept && record.told;
        report->released += record.live && r == 0 && !is_lost;
        report->lost += record.live && r == 0 && is_lost;
        if (r == 0 && parked->lot != NO_LOT)
                store_drop(store, slot);
        return 0;
}

/* Brings back what an earlier process has left: calls on_record for each record, with its connection where that is
 * still there. Nothing is taken out of the lots, so that being killed meanwhile does no harm.
 * Returns 0, or a negative errno: if is_passing_error() all is stored as before, for another process to try again, else
 * some are missing. */
int store_restore(Store *store, StoreRecordFunction on_record, void *userdata, StoreReport *report) {
        _cleanup_free_ Place *places = NULL;
        size_t n, in_lot[LOTS] = {};
        int failed = 0, r;

        for (int i = 0; i < LOTS; i++) {
                r = claim_lot(store, i, report, &in_lot[i]);
                if (r >= 0)
                        continue;
                if (is_passing_error(r))
                        return r;
                /* The others are brought back all the same; and however many messages were not seen, this lot is not
                 * empty and must be. */
                store->unclaimed = true;
                store->lots[i].messages++;
                failed = r;
        }
        if (store->doubled)
                settle_doubled(store);
        /* Most are in batches. */
        store->active = in_lot[FIRST_LOT] > in_lot[SECOND_LOT] ? SECOND_LOT : FIRST_LOT;
        r = list_records(store, &places, &n);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                r = restore_record(store, places[i].slot, on_record, userdata, report);
                if (r < 0)
                        return r;
        }
        /* What is of another version, or found no descriptor free, must not stay parked: its peer would wait for a
         * daemon that does not know it. Nor need anything be there twice, after a move that was cut off. */
        if ((store->unclaimed || store->doubled) && compact(store) != 0 && store->unclaimed)
                park_anew(store);
        return failed;
}

/* ---- One connection ---- */

/* Parks the connection of a node whose record is in the table; it is safe when this returns 0.
 *
 * slot: TABLE_NO_SLOT: the table had no room. Returns STORE_NOT_KEPT, or a negative errno: the node is not kept. */
int store_keep(Store *store, uint32_t slot, uint32_t counter, int fd) {
        const LotTag tag = {.slot = slot, .counter = counter};
        int r;

        make_room(store);
        if (slot == TABLE_NO_SLOT || slot >= store->n_parked)
                return STORE_NOT_KEPT;
        r = LOT_FULL;
        if (store->live + store->dead < store->in_flight_max && store->lots[store->active].messages < store->singles_max)
                r = lot_park(&store->lots[store->active], &tag, &fd, 1);
        if (r == LOT_FULL) {
                r = tidy(store);
                if (r >= 0)
                        r = lot_park(&store->lots[store->active], &tag, &fd, 1);
        }
        if (r != 0)
                return r < 0 ? r : STORE_NOT_KEPT;
        store->parked[slot] = (Parked){.counter = counter, .fd = fd, .lot = (uint8_t) store->active};
        store->live++;
        return 0;
}

/* The connection of that record has ended. What is parked of it is released sooner or later. */
void store_drop(Store *store, uint32_t slot) {
        if (slot >= store->n_parked || store->parked[slot].lot == NO_LOT)
                return;
        store->parked[slot] = (Parked){.fd = -1, .lot = NO_LOT};
        store->live--;
        store->dead++;
        if (store->dead > store->live + DEAD_SLACK)
                (void) tidy(store);
}

/* Adds the ends of the lots, duplicated, to what a successor is to be passed. Returns 0 or a negative errno. */
int store_pass_on(const Store *store, PassedSockets *sockets) {
        for (int i = 0; i < LOTS; i++) {
                int r = passed_sockets_add_copy(sockets, store->lots[i].in, end_names[i][0]);

                if (r >= 0)
                        r = passed_sockets_add_copy(sockets, store->lots[i].out, end_names[i][1]);
                if (r < 0)
                        return r;
        }
        return 0;
}
