/* SPDX-License-Identifier: Apache-2.0 */
#include "parking.h"

#include <sys/socket.h>

enum { FIRST_LOT, SECOND_LOT, NO_LOT = PARKING_LOTS };

enum {
        DEAD_SLACK = 512,        /* connections that have ended may wait in the lots beside as many as live */
        BATCHED_DEAD_SLACK = 20, /* those among the batches, beside half as many */
        LOOK_AHEAD = 256,        /* messages looked at before what they hold is moved */
        BATCH_COST = 4608,       /* bytes of the queue that a message of LOT_BATCH_MAX takes, and a little more */
        SINGLE_COST = 1024,      /* and a message of one */
        BATCHES_SPARE = 4,       /* room that a lot must have to be tidied */
};

/* A place: where the connection of a slot is parked. */
typedef struct Parked {
        uint32_t counter;
        int fd;        /* of this process */
        uint8_t lot;   /* or NO_LOT */
        bool doubled;  /* in the other lot, too */
        bool gathered; /* it is about to be moved */
} Parked;

#define NOT_PARKED ((Parked){.fd = -1, .lot = NO_LOT})

struct Parking {
        Parked *parked; /* by slot */
        uint32_t n_parked;
        Lot lots[PARKING_LOTS];
        size_t in_flight_max;
        int active;         /* the lot where connections are parked one by one; the other has them in batches */
        size_t singles_max; /* so many of them before they move together */
        size_t live;        /* connections that are parked */
        size_t dead;        /* parked ones that have ended but are not taken out yet, and second copies */
        bool unclaimed;     /* something was parked that this process did not get */
        bool doubled;       /* or twice */
};

/* How many bytes the kernel lets wait in the queue of a lot: what net.core.wmem_max allows. */
static size_t queue_size(const Lot *lot) {
        int size = 0;
        socklen_t len = sizeof size;

        return getsockopt(lot->in, SOL_SOCKET, SO_SNDBUF, &size, &len) == 0 && size > 0 ? (size_t) size : 0;
}

/* The singles may have half of their lot: with both lots full nothing could move. */
static void limit_singles(Parking *parking) {
        parking->singles_max = size_min(LOT_BATCH_MAX, queue_size(&parking->lots[parking->active]) / 2 / SINGLE_COST);
        if (parking->singles_max == 0)
                parking->singles_max = 1;
}

/* Takes over lots, of which nobody else may use the ends, with whatever is parked there.
 *
 * lots: they are the parking's then, unless this fails; slots: so many places; in_flight_max: connections that may be
 * parked, those that have ended included: a successor must have a descriptor for each of them, as it gets whole
 * messages, and the kernel lets this user have no more than RLIMIT_NOFILE in flight. *ret is the caller's. Returns 0
 * or -ENOMEM. */
int parking_new(const Lot lots[PARKING_LOTS], uint32_t slots, size_t in_flight_max, Parking **ret) {
        _cleanup_(parking_freep) Parking *parking = calloc(1, sizeof *parking);
        int r;

        if (!parking)
                return -ENOMEM;
        parking->in_flight_max = in_flight_max;
        for (int i = 0; i < PARKING_LOTS; i++)
                parking->lots[i] = LOT_NONE;
        r = parking_resize(parking, slots);
        if (r < 0)
                return r;
        for (int i = 0; i < PARKING_LOTS; i++)
                parking->lots[i] = lots[i];
        limit_singles(parking);
        *ret = TAKE_PTR(parking);
        return 0;
}

/* Lets go of the lots; what is parked stays parked if somebody else holds them. No connection is closed. Always
 * returns NULL. */
Parking *parking_free(Parking *parking) {
        if (!parking)
                return NULL;
        for (int i = 0; i < PARKING_LOTS; i++)
                lot_done(&parking->lots[i]);
        free(parking->parked);
        free(parking);
        return NULL;
}

/* Makes so many places, if there are fewer. Returns 0; -ENOMEM: there are as many as before. */
int parking_resize(Parking *parking, uint32_t slots) {
        Parked *parked;

        if (slots <= parking->n_parked)
                return 0;
        parked = reallocarray(parking->parked, slots, sizeof *parked);
        if (!parked)
                return -ENOMEM;
        parking->parked = parked;
        for (uint32_t slot = parking->n_parked; slot < slots; slot++)
                parked[slot] = NOT_PARKED;
        parking->n_parked = slots;
        return 0;
}

/* For how many connections there is room at the same time, whatever comes and goes: what the kernel gives the queue of
 * one lot (net.core.wmem_max), as all of them must find room in either. */
size_t parking_capacity(const Parking *parking) {
        size_t least = SIZE_MAX;

        for (int i = 0; i < PARKING_LOTS; i++)
                least = size_min(least, queue_size(&parking->lots[i]) / BATCH_COST);
        return least > BATCHES_SPARE ? (least - BATCHES_SPARE) * LOT_BATCH_MAX : LOT_BATCH_MAX;
}

/* One of the lots, to be given to others who hold it; its ends stay the parking's. */
Lot parking_lot(const Parking *parking, size_t index) {
        return parking->lots[index];
}

/* ---- Moving from one lot to the other ---- */

static bool is_parked(const Parking *parking, LotTag tag, int lot) {
        return tag.slot < parking->n_parked && parking->parked[tag.slot].lot == lot &&
               parking->parked[tag.slot].counter == tag.counter;
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
static int move_gathered(Parking *parking, Move *move) {
        int to = 1 - move->from, r = 0;

        if (move->n > 0)
                r = lot_park(&parking->lots[to], move->tags, move->fds, move->n);
        for (size_t i = 0; i < move->n; i++) {
                Parked *parked = &parking->parked[move->tags[i].slot];

                parked->gathered = false;
                if (r == 0)
                        parked->lot = (uint8_t) to;
        }
        if (r == 0) {
                lot_drop(&parking->lots[move->from], move->messages);
                parking->dead -= size_min(move->n_tags - move->n, parking->dead);
        }
        move->n = move->n_tags = move->messages = 0;
        return r;
}

/* One that was parked twice moves once. */
static void gather(Parking *parking, const LotMessage *message, Move *move) {
        for (size_t i = 0; i < message->n; i++) {
                Parked *parked;

                if (!is_parked(parking, message->tags[i], move->from))
                        continue;
                parked = &parking->parked[message->tags[i].slot];
                if (parked->gathered)
                        continue;
                parked->gathered = true;
                move->tags[move->n] = message->tags[i];
                move->fds[move->n++] = parked->fd;
        }
        move->messages++;
        move->n_tags += message->n;
}

static size_t count_parked(const Parking *parking, const LotMessage *message, int lot) {
        size_t n = 0;

        for (size_t i = 0; i < message->n; i++)
                n += is_parked(parking, message->tags[i], lot);
        return n;
}

/* Moves what lives in the first `most` messages of one lot to the other. On failure the rest stays where it is, as
 * safe as before. Returns 0; LOT_FULL; a negative errno. */
static int empty_lot(Parking *parking, int from, size_t most) {
        Lot *lot = &parking->lots[from];
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
                live = count_parked(parking, &message, from);
                /* What holds nobody goes at once, and first: there may be too much in flight to park anything. */
                if (move.messages >= LOOK_AHEAD || move.n + live > LOT_BATCH_MAX ||
                    (move.n == 0 && move.messages > 0 && live > 0)) {
                        r = move_gathered(parking, &move);
                        if (r != 0)
                                return r;
                }
                gather(parking, &message, &move);
        }
        /* What was gathered is whole, whatever came then. */
        if (move.messages > 0) {
                int moved = move_gathered(parking, &move);

                if (moved != 0)
                        return moved;
        }
        return r < 0 ? r : 0;
}

/* Empties the lots of what has ended, and parks all that lives in batches: first the singles move to the lot of the
 * batches, behind these; then everything there moves to the lot where the singles were, which is the lot of the
 * batches from then on. */
static int compact(Parking *parking) {
        const int singles = parking->active, batches = 1 - singles;
        int r;

        r = empty_lot(parking, singles, SIZE_MAX);
        if (r >= 0) {
                size_t left = parking->lots[singles].messages;

                r = empty_lot(parking, batches, SIZE_MAX);
                /* Both lots were nearly full: now there is room for the singles that remained, before the rest. */
                if (r == LOT_FULL && left > 0) {
                        r = empty_lot(parking, singles, left);
                        if (r >= 0)
                                r = empty_lot(parking, batches, SIZE_MAX);
                }
        }
        if (parking->lots[batches].messages < parking->lots[singles].messages)
                parking->active = batches;
        return r;
}

/* Makes room in the lot of the singles: they move to the batches, in one message. That is cheap, and removes only the
 * singles that have ended. When too many of the batched ones have, or the lots hold all that they may, everything
 * moves. */
static int tidy(Parking *parking) {
        int r = empty_lot(parking, parking->active, SIZE_MAX);

        if (r != 0 || parking->dead > parking->live / 2 + BATCHED_DEAD_SLACK ||
            parking->live + parking->dead >= parking->in_flight_max)
                r = compact(parking);
        limit_singles(parking);
        return r;
}

/* Parks again all that this process has; what finds no room is not kept any longer. */
static void park_all(Parking *parking) {
        const int batches = 1 - parking->active;
        LotTag tags[LOT_BATCH_MAX];
        int fds[LOT_BATCH_MAX];
        uint32_t next = 0;

        parking->live = 0;
        while (next < parking->n_parked) {
                uint32_t first = next;
                size_t n = 0;
                bool kept;

                for (; next < parking->n_parked && n < LOT_BATCH_MAX; next++)
                        if (parking->parked[next].lot != NO_LOT) {
                                tags[n] = (LotTag){.slot = next, .counter = parking->parked[next].counter};
                                fds[n++] = parking->parked[next].fd;
                        }
                kept = n > 0 && lot_park(&parking->lots[batches], tags, fds, n) == 0;
                parking->live += kept ? n : 0;
                for (uint32_t slot = first; slot < next; slot++)
                        if (parking->parked[slot].lot != NO_LOT)
                                parking->parked[slot].lot = (uint8_t) (kept ? batches : NO_LOT);
        }
}

/* The last resort where the kernel lets nothing be parked before enough of what is parked has gone, because the limit
 * was lowered, or where it cannot be looked at: all of it goes first, and what lives is parked again. Killed in
 * between, a process loses its nodes; but nobody is left to wait for a daemon that does not know him. */
static void park_anew(Parking *parking) {
        for (int i = 0; i < PARKING_LOTS; i++)
                lot_drop(&parking->lots[i], SIZE_MAX);
        parking->dead = 0;
        park_all(parking);
}

/* ---- Taking over ---- */

/* A parked connection that belongs to no registered node: the peer of one that the process ended while it was being
 * killed may still wait. */
static void hang_up(Parking *parking, int fd) {
        (void) shutdown(fd, SHUT_RDWR);
        safe_close(fd);
        parking->dead++;
}

/* How parking_claim() was called. */
typedef struct Claim {
        ParkingLiveFunction is_live;
        const void *userdata;
        size_t *mismatched;
} Claim;

static void claim_one(Parking *parking, const Claim *claim, int lot, LotTag tag, int fd) {
        uint64_t cookie = 0, recorded;
        socklen_t len = sizeof cookie;
        Parked *parked;

        if (tag.slot >= parking->n_parked || !claim->is_live(claim->userdata, tag, &recorded)) {
                hang_up(parking, fd);
                return;
        }
        /* What could not be asked for, then or now, proves nothing either way: the tag has to do. */
        if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 && recorded != 0 && cookie != recorded) {
                (*claim->mismatched)++;
                hang_up(parking, fd);
                return;
        }
        parked = &parking->parked[tag.slot];
        if (parked->lot != NO_LOT) {
                /* Parked twice. */
                safe_close(fd);
                parking->dead++;
                parking->doubled = true;
                parked->doubled |= parked->lot != lot;
                return;
        }
        *parked = (Parked){.counter = tag.counter, .fd = fd, .lot = (uint8_t) lot};
        parking->live++;
}

/* Gets all connections of a lot, without taking them out. ret_n: how many there are, dead ones included. */
static int claim_lot(Parking *parking, const Claim *claim, int index, size_t *ret_n) {
        Lot *lot = &parking->lots[index];
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
                parking->unclaimed |= r == LOT_FOREIGN || message.n_fds < message.n;
                for (size_t i = 0; i < message.n_fds; i++)
                        if (i < message.n)
                                claim_one(parking, claim, index, message.tags[i], message.fds[i]);
                        else
                                safe_close(message.fds[i]);
        }
        return r < 0 ? r : 0;
}

/* Whether all that lives in the first message of the first lot that holds anybody is in the other lot, too. */
static bool begins_with_doubled(Parking *parking) {
        Lot *lot = &parking->lots[FIRST_LOT];
        LotMessage message;
        int r;

        r = lot_rewind(lot);
        while (r >= 0) {
                size_t live = 0, doubled = 0;

                r = lot_look_at_tags(lot, &message);
                if (r < 0 || r == LOT_END)
                        break;
                for (size_t i = 0; i < message.n; i++)
                        if (is_parked(parking, message.tags[i], FIRST_LOT)) {
                                live++;
                                doubled += parking->parked[message.tags[i].slot].doubled;
                        }
                if (live > 0)
                        return doubled == live;
        }
        return false;
}

/* Decides in which lot those are that were found in both. A process that was killed in the middle of a move leaves
 * them at the beginning of one lot and at the end of the other. There they have to count as parked: then nobody is
 * left at the beginning, which goes without anything being parked. For that there may be no room before it has gone. */
static void place_doubled(Parking *parking) {
        /* At the end of the first lot they are behind others, or together with some that have left the second. */
        const uint8_t lot = begins_with_doubled(parking) ? SECOND_LOT : FIRST_LOT;

        for (uint32_t slot = 0; slot < parking->n_parked; slot++)
                if (parking->parked[slot].doubled) {
                        parking->parked[slot].lot = lot;
                        parking->parked[slot].doubled = false;
                }
}

/* Gets all connections that are parked and whose records are those of registered nodes, for parking_fd(); the others
 * are ended. Nothing is taken out of the lots here, so that being killed meanwhile does no harm; that is for
 * parking_settle(), and before it only parking_drop() may be called. ret_mismatched: how many were parked under
 * another's record.
 * Returns 0, or a negative errno: if is_passing_error() another process may try again, else some are missing. */
int parking_claim(Parking *parking, ParkingLiveFunction is_live, const void *userdata, size_t *ret_mismatched) {
        const Claim claim = {.is_live = is_live, .userdata = userdata, .mismatched = ret_mismatched};
        size_t in_lot[PARKING_LOTS] = {};
        int failed = 0, r;

        *ret_mismatched = 0;
        for (int i = 0; i < PARKING_LOTS; i++) {
                r = claim_lot(parking, &claim, i, &in_lot[i]);
                if (r >= 0)
                        continue;
                if (is_passing_error(r))
                        return r;
                /* The others are brought back all the same; and however many messages were not seen, this lot is not
                 * empty and must be. */
                parking->unclaimed = true;
                parking->lots[i].messages++;
                failed = r;
        }
        if (parking->doubled)
                place_doubled(parking);
        /* Most are in batches. */
        parking->active = in_lot[FIRST_LOT] > in_lot[SECOND_LOT] ? SECOND_LOT : FIRST_LOT;
        return failed;
}

/* The connection of a slot that was claimed, which is the caller's from then on; -1: there is none. */
int parking_fd(const Parking *parking, uint32_t slot) {
        return slot < parking->n_parked ? parking->parked[slot].fd : -1;
}

/* Takes out of the lots what must not stay there, when all that was claimed is in use or was dropped: what is of
 * another version, or found no descriptor free, whose peer would wait for a daemon that does not know it. Nor need
 * anything be there twice, after a move that was cut off. */
void parking_settle(Parking *parking) {
        if ((parking->unclaimed || parking->doubled) && compact(parking) != 0 && parking->unclaimed)
                park_anew(parking);
}

/* ---- One connection ---- */

/* Parks a connection, which stays the caller's; it is safe when this returns 0. Its place is free: nothing was parked
 * there, or it was dropped. Returns PARKING_FULL, or a negative errno: it is not parked. */
int parking_keep(Parking *parking, LotTag tag, int fd) {
        int r = LOT_FULL;

        if (tag.slot >= parking->n_parked)
                return PARKING_FULL;
        if (parking->live + parking->dead < parking->in_flight_max &&
            parking->lots[parking->active].messages < parking->singles_max)
                r = lot_park(&parking->lots[parking->active], &tag, &fd, 1);
        if (r == LOT_FULL) {
                r = tidy(parking);
                if (r >= 0)
                        r = lot_park(&parking->lots[parking->active], &tag, &fd, 1);
        }
        if (r != 0)
                return r < 0 ? r : PARKING_FULL;
        parking->parked[tag.slot] =
                (Parked){.counter = tag.counter, .fd = fd, .lot = (uint8_t) parking->active};
        parking->live++;
        return 0;
}

/* The connection of that slot has ended, or is about to be; its descriptor is the caller's to close. What is parked
 * of it is released sooner or later. Does nothing where there is none. */
void parking_drop(Parking *parking, uint32_t slot) {
        if (slot >= parking->n_parked || parking->parked[slot].lot == NO_LOT)
                return;
        parking->parked[slot] = NOT_PARKED;
        parking->live--;
        parking->dead++;
        if (parking->dead > parking->live + DEAD_SLACK)
                (void) tidy(parking);
}
