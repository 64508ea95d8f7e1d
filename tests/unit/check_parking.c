/* SPDX-License-Identifier: Apache-2.0 */
#include "parking.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>

#include "fds.h"

enum {
        MEMBERS_MAX = 2000,
        SLOTS = MEMBERS_MAX,
        MANY = 20000,
        DEAD_SLACK = 512, /* as in parking.c: more dead ones than live ones by so many are not left in the lots */
        DEFAULT_WMEM_MAX = 212992,
        SMALLEST_BUFFER = 1, /* the kernel makes a few kilobytes of it, some messages */
        SOMEBODY = 61006,    /* a user of whom nobody else has a process */
};

/* ---- Connections, their records, and a process that parks them ---- */

/* A connection, whose place in the parking is that in the world. */
typedef struct Member {
        Pair pair; /* a copy of another has no peer of its own */
        uint64_t cookie;
        uint32_t counter;
        bool live; /* has a record */
        bool kept; /* is parked, and was not dropped */
} Member;

typedef struct World {
        Lot held[PARKING_LOTS]; /* as the service manager has them */
        Parking *parking;
        size_t in_flight_max;
        size_t mismatched;
        uint32_t counter; /* the last one given */
        Member members[MEMBERS_MAX];
        size_t n;
} World;

static World world;

static int copy_fd(int fd) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

        if (copy < 0)
                ck_abort_msg("no descriptor for a copy of %d", fd);
        return copy;
}

static bool is_live(const void *userdata, LotTag tag, uint64_t *ret_cookie) {
        const Member *member;

        ck_assert_ptr_eq(userdata, &world);
        if (tag.slot >= world.n)
                return false;
        member = &world.members[tag.slot];
        *ret_cookie = member->cookie;
        return member->live && member->counter == tag.counter;
}

/* unreadable: a lot that cannot be looked at; -1: none. */
static int open_parking(int unreadable) {
        Lot lots[PARKING_LOTS];
        int r;

        for (int i = 0; i < PARKING_LOTS; i++)
                lots[i] = (Lot){.in = copy_fd(world.held[i].in),
                                .out = i == unreadable ? open("/dev/null", O_RDWR | O_CLOEXEC)
                                                       : copy_fd(world.held[i].out)};
        r = parking_new(lots, SLOTS, world.in_flight_max, &world.parking);
        if (r < 0)
                for (int i = 0; i < PARKING_LOTS; i++)
                        lot_done(&lots[i]);
        return r;
}

static void world_init(void) {
        memset(&world, 0, sizeof world);
        world.in_flight_max = MANY;
        for (int i = 0; i < PARKING_LOTS; i++)
                ck_assert_int_eq(lot_new(&world.held[i]), 0);
        ck_assert_int_eq(open_parking(-1), 0);
}

/* The process ends, in whatever way: its descriptors are closed, and nothing else. */
static void stop(void) {
        for (size_t i = 0; i < world.n; i++)
                world.members[i].pair.fd = safe_close(world.members[i].pair.fd);
        world.parking = parking_free(world.parking);
}

static void world_done(void) {
        stop();
        for (size_t i = 0; i < world.n; i++)
                pair_done(&world.members[i].pair);
        for (int i = 0; i < PARKING_LOTS; i++)
                lot_done(&world.held[i]);
}

static Pair make_socketpair(void) {
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        return (Pair){.fd = fds[0], .peer = fds[1]};
}

/* Gives a member another connection. */
static void renew(size_t i) {
        Member *member = &world.members[i];

        pair_done(&member->pair);
        *member = (Member){.pair = make_socketpair(), .counter = ++world.counter};
        member->cookie = cookie_of(member->pair.fd);
}

/* A connection that nothing has been done with. */
static size_t add_member(void) {
        if (world.n == MEMBERS_MAX)
                ck_abort_msg("too many members");
        world.members[world.n].pair = (Pair){.fd = -1, .peer = -1};
        renew(world.n);
        return world.n++;
}

/* So many in all, each with the connection of the first: for what costs too much with one each. */
static void copy_members(size_t n) {
        for (; world.n < n; world.n++)
                world.members[world.n] = (Member){
                        .pair = {.fd = copy_fd(world.members[0].pair.fd), .peer = -1},
                        .cookie = world.members[0].cookie,
                        .counter = ++world.counter,
                };
}

static LotTag tag_of(size_t i) {
        return (LotTag){.slot = (uint32_t) i, .counter = world.members[i].counter};
}

static int try_keep(size_t i) {
        Member *member = &world.members[i];
        int r = parking_keep(world.parking, tag_of(i), member->pair.fd);

        member->kept = member->live = r == 0;
        return r;
}

static void keep(size_t i) {
        int r = try_keep(i);

        if (r != 0)
                ck_abort_msg("member %zu is not kept: %d", i, r);
}

static size_t keep_new(void) {
        size_t i = add_member();

        keep(i);
        return i;
}

static void drop(size_t i) {
        Member *member = &world.members[i];

        member->live = member->kept = false;
        parking_drop(world.parking, (uint32_t) i);
        if (member->pair.peer >= 0)
                (void) shutdown(member->pair.fd, SHUT_RDWR);
        member->pair.fd = safe_close(member->pair.fd);
}

/* The next process gets what is parked. */
static void start(void) {
        ck_assert_int_eq(open_parking(-1), 0);
        ck_assert_int_eq(parking_claim(world.parking, is_live, &world, &world.mismatched), 0);
        for (size_t i = 0; i < world.n; i++)
                world.members[i].pair.fd = parking_fd(world.parking, (uint32_t) i);
        parking_settle(world.parking);
}

static size_t count_kept(void) {
        size_t n = 0;

        for (size_t i = 0; i < world.n; i++)
                n += world.members[i].kept;
        return n;
}

/* All that was kept is back, and nothing else. */
static void check_claimed(void) {
        for (size_t i = 0; i < world.n; i++) {
                const Member *member = &world.members[i];

                if ((member->pair.fd >= 0) != member->kept)
                        ck_abort_msg("member %zu, %s, has descriptor %d", i, member->kept ? "kept" : "not kept",
                                     member->pair.fd);
                if (!member->kept)
                        continue;
                if (cookie_of(member->pair.fd) != member->cookie || fcntl(member->pair.fd, F_GETFD) != FD_CLOEXEC)
                        ck_abort_msg("member %zu has got a connection that is not its own", i);
                if (member->pair.peer >= 0 && !is_connected(member->pair.peer))
                        ck_abort_msg("member %zu noticed it", i);
        }
        ck_assert_uint_eq(world.mismatched, 0);
}

static void restart(void) {
        stop();
        start();
        check_claimed();
}

static void limit_buffers(int size) {
        for (int i = 0; i < PARKING_LOTS; i++)
                ck_assert_int_eq(setsockopt(world.held[i].in, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
}

/* How many descriptors are parked in a lot. */
static size_t count_in_lot(int index) {
        LotMessage message;
        size_t n = 0;
        int r;

        if (lot_rewind(&world.held[index]) < 0)
                ck_abort_msg("lot %d cannot be looked at", index);
        while ((r = lot_look_at_tags(&world.held[index], &message)) != LOT_END)
                n += r == 0 ? message.n : 1;
        return n;
}

static size_t count_in_flight(void) {
        return count_in_lot(0) + count_in_lot(1);
}

static void check_byte_arrives(size_t i) {
        struct pollfd poller = {.fd = world.members[i].pair.fd, .events = POLLIN};
        uint8_t byte = (uint8_t) i;

        if (send(world.members[i].pair.peer, &byte, 1, MSG_NOSIGNAL) != 1 ||
            poll(&poller, 1, FDS_TIMEOUT_MSEC) != 1 || recv(poller.fd, &byte, 1, MSG_DONTWAIT) != 1 ||
            byte != (uint8_t) i)
                ck_abort_msg("what member %zu sends does not arrive", i);
}

/* ---- Keeping and claiming ---- */

START_TEST(restarts) {
        world_init();
        for (size_t generation = 0; generation < 5; generation++) {
                size_t first = world.n;

                for (size_t i = 0; i < 200; i++)
                        (void) keep_new();
                for (size_t i = generation; i < world.n; i += 3)
                        if (world.members[i].kept) {
                                drop(i);
                                check_ended(world.members[i].pair.peer, "dropped");
                        }
                restart();
                for (size_t i = first; i < world.n; i++)
                        if (world.members[i].kept)
                                check_byte_arrives(i);
        }
        world_done();
        ck_assert_ptr_null(parking_free(NULL));
}
END_TEST

START_TEST(places) {
        enum { FEW = 10, MORE = 30 };
        size_t i;

        memset(&world, 0, sizeof world);
        world.in_flight_max = MANY;
        for (i = 0; i < PARKING_LOTS; i++)
                ck_assert_int_eq(lot_new(&world.held[i]), 0);
        ck_assert_int_eq(parking_new(world.held, FEW, MANY, &world.parking), 0);
        for (i = 0; i < FEW; i++)
                (void) keep_new();
        (void) add_member();
        ck_assert_int_eq(try_keep(FEW), PARKING_FULL);
        ck_assert_int_eq(parking_fd(world.parking, FEW), -1);
        ck_assert_int_eq(parking_fd(world.parking, UINT32_MAX), -1);
        parking_drop(world.parking, FEW);
        ck_assert_int_eq(parking_resize(world.parking, MORE), 0);
        keep(FEW);
        /* There are never fewer. */
        ck_assert_int_eq(parking_resize(world.parking, 1), 0);
        for (i = 0; i <= FEW; i++)
                ck_assert_int_eq(parking_fd(world.parking, (uint32_t) i), world.members[i].pair.fd);
        ck_assert_int_eq(parking_fd(world.parking, MORE - 1), -1);
        ck_assert_uint_eq(count_in_flight(), FEW + 1);
        for (i = 0; i < PARKING_LOTS; i++) {
                Lot lot = parking_lot(world.parking, i);

                ck_assert_int_eq(lot.in, world.held[i].in);
                ck_assert_int_eq(lot.out, world.held[i].out);
                world.held[i] = (Lot){.in = copy_fd(lot.in), .out = copy_fd(lot.out)};
        }
        restart();
        world_done();
}
END_TEST

/* Nobody looks after what is left when it is dropped: it is parked no longer, and its place is free. */
START_TEST(dropped_twice) {
        size_t i;

        world_init();
        i = keep_new();
        drop(i);
        parking_drop(world.parking, (uint32_t) i);
        ck_assert_int_eq(parking_fd(world.parking, (uint32_t) i), -1);
        renew(i);
        keep(i);
        restart();
        ck_assert_uint_eq(count_kept(), 1);
        world_done();
}
END_TEST

/* ---- Room in the lots ---- */

typedef struct Room {
        int buffer;  /* of a lot */
        size_t live; /* connections that are parked at once */
} Room;

/* With the smallest one a lot is full with one batch. */
static const Room rooms[] = {{SMALLEST_BUFFER, 200}, {20000, 1000}, {DEFAULT_WMEM_MAX, 1000}};

/* Connections come and go; the lots are tidied up again and again, and nothing of that is seen. */
START_TEST(tidied) {
        uint64_t state = (uint64_t) _i;
        size_t live = 0, i;

        world_init();
        limit_buffers(rooms[_i].buffer);
        for (unsigned step = 0; step < 1000; step++) {
                (void) keep_new();
                live++;
                /* Few at first, then ever more, few again. */
                i = unit_random(&state) % world.n;
                while (world.members[i].kept &&
                       (step < 200 || step > 700 || live > rooms[_i].live || unit_random(&state) % 3 == 0)) {
                        drop(i);
                        live--;
                        i = unit_random(&state) % world.n;
                }
                for (i = 0; live > rooms[_i].live; i++)
                        if (world.members[i].kept) {
                                drop(i);
                                live--;
                        }
                if (step % 200 == 199)
                        restart();
        }
        restart();
        world_done();
}
END_TEST

/* All live, many more than fit one by one: parked together they do. */
START_TEST(batched_at_the_limit) {
        const size_t live = rooms[_i].live;

        world_init();
        limit_buffers(rooms[_i].buffer);
        for (size_t i = 0; i < live; i++)
                (void) keep_new();
        ck_assert_uint_eq(count_in_flight(), live);
        restart();
        ck_assert_uint_eq(count_kept(), live);
        world_done();
}
END_TEST

static void raise_limit(void) {
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* As many as there is said to be room for, while they come and go: each of them is kept. */
START_TEST(at_capacity) {
        enum { COMING_AND_GOING = 100 };
        static const int buffers[] = {14000, 20000, 24000};
        uint64_t state = (uint64_t) _i;
        size_t capacity;

        raise_limit();
        world_init();
        limit_buffers(buffers[_i]);
        restart();
        (void) add_member();
        capacity = parking_capacity(world.parking);
        ck_assert_uint_gt(capacity, LOT_BATCH_MAX);
        ck_assert_uint_le(capacity, MEMBERS_MAX);
        copy_members(capacity - COMING_AND_GOING);
        while (world.n < capacity)
                (void) add_member();
        for (size_t i = 0; i < capacity; i++)
                keep(i);
        for (unsigned cycle = 0; cycle < 5000; cycle++) {
                size_t i = capacity - 1 - unit_random(&state) % COMING_AND_GOING;

                drop(i);
                renew(i);
                keep(i);
        }
        restart();
        ck_assert_uint_eq(count_kept(), capacity);
        world_done();
}
END_TEST

/* Connections that have ended wait in the lots, but not for ever nor without number. */
START_TEST(cycles) {
        enum { CYCLES = 100000, LIVE = 20 };
        size_t before, i, most = 0;

        world_init();
        if (_i > 0)
                limit_buffers(DEFAULT_WMEM_MAX);
        for (i = 0; i < LIVE; i++)
                (void) keep_new();
        i = add_member();
        before = count_fds();
        for (unsigned cycle = 0; cycle < CYCLES; cycle++) {
                keep(i);
                parking_drop(world.parking, (uint32_t) i);
                world.members[i].counter = ++world.counter;
                if (cycle % 997 == 0) {
                        size_t n = count_in_flight();

                        most = n > most ? n : most;
                }
        }
        world.members[i].kept = false;
        /* Nor are they tidied up for each one. */
        ck_assert_uint_ge(most, LIVE + DEAD_SLACK / 4);
        ck_assert_uint_le(most, 2 * LIVE + DEAD_SLACK + 1);
        ck_assert_uint_eq(count_fds(), before);
        restart();
        world_done();
}
END_TEST

/* The share of descriptors in flight that it is given is enough, whatever comes and goes. */
START_TEST(few_in_flight) {
        enum { SHARE = 40, LIVE = 30 };

        world_init();
        world.in_flight_max = SHARE;
        restart();
        for (size_t i = 0; i < LIVE; i++)
                (void) keep_new();
        for (size_t first = 0; first < 600; first++) {
                drop(first);
                (void) keep_new();
                if (count_in_flight() > SHARE)
                        ck_abort_msg("%zu are in flight", count_in_flight());
        }
        restart();
        ck_assert_uint_eq(count_kept(), LIVE);
        world_done();
}
END_TEST

/* Leaves this process so many free descriptors. */
typedef struct Scarcity {
        struct rlimit before;
        int fillers[1024];
        size_t n;
} Scarcity;

static void scarcity_begin(Scarcity *scarcity, size_t room) {
        struct rlimit low;
        int fd;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &scarcity->before), 0);
        low = scarcity->before;
        low.rlim_cur = ARRAY_SIZE(scarcity->fillers);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
        scarcity->n = 0;
        while ((fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0)
                scarcity->fillers[scarcity->n++] = fd;
        ck_assert_uint_ge(scarcity->n, room);
        while (room-- > 0)
                safe_close(scarcity->fillers[--scarcity->n]);
}

static void scarcity_end(Scarcity *scarcity) {
        while (scarcity->n > 0)
                safe_close(scarcity->fillers[--scarcity->n]);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &scarcity->before), 0);
}

/* A process that has a descriptor for each connection that may be parked gets all that live, whatever has ended. */
START_TEST(descriptor_for_each) {
        enum { SHARE = 100, LIVE = 80 };
        uint64_t state = (uint64_t) _i;
        Scarcity scarcity;

        world_init();
        world.in_flight_max = SHARE;
        restart();
        for (size_t i = 0; i < LIVE; i++)
                (void) keep_new();
        for (unsigned round = 0; round < 20; round++) {
                size_t some = unit_random(&state) % LIVE;

                /* Some of one batch end, or all but a few. */
                for (size_t i = 0; i < some; i++) {
                        drop(i);
                        renew(i);
                        keep(i);
                }
                stop();
                /* Besides the ends of the lots. */
                scarcity_begin(&scarcity, SHARE + 2 * PARKING_LOTS);
                start();
                scarcity_end(&scarcity);
                check_claimed();
        }
        world_done();
}
END_TEST

/* A process with room for few descriptors: those that it cannot take back are let go, and notice it. */
START_TEST(few_descriptors_free) {
        enum { ALL = 300, ENDED = 100, ROOM = 60 };
        Scarcity scarcity;
        size_t found = 0;

        world_init();
        for (size_t i = 0; i < ALL; i++)
                (void) keep_new();
        for (size_t i = 0; i < ENDED; i++)
                drop(i);
        stop();
        scarcity_begin(&scarcity, ROOM);
        start();
        scarcity_end(&scarcity);
        for (size_t i = ENDED; i < world.n; i++) {
                Member *member = &world.members[i];

                member->kept = member->pair.fd >= 0;
                found += member->kept;
                if (member->kept)
                        check_byte_arrives(i);
                else
                        check_ended(member->pair.peer, "not taken back");
        }
        ck_assert_uint_gt(found, 0);
        ck_assert_uint_lt(found, ALL - ENDED);
        restart();
        world_done();
}
END_TEST

/* ---- Killed in the middle of a move ---- */

static void park_members(int lot, size_t first, size_t n) {
        LotTag tags[LOT_BATCH_MAX];
        int fds[LOT_BATCH_MAX];

        for (size_t i = 0; i < n; i++) {
                tags[i] = tag_of(first + i);
                fds[i] = world.members[first + i].pair.fd;
                world.members[first + i].live = world.members[first + i].kept = true;
        }
        ck_assert_int_eq(lot_park(&world.held[lot], tags, fds, n), 0);
}

static void park_singles(int lot, size_t first, size_t n) {
        for (size_t i = 0; i < n; i++)
                park_members(lot, first + i, 1);
}

enum { MOVED = 40, BATCHED = 36 };

typedef struct Moved {
        int buffer;
        size_t parked;  /* so many connections are in the new lot, in one message */
        size_t dropped; /* so many messages are out of the old one */
} Moved;

static const Moved moves[] = {
        {DEFAULT_WMEM_MAX, 0, 0},
        {DEFAULT_WMEM_MAX, BATCHED, 0},
        {DEFAULT_WMEM_MAX, BATCHED, 1},
        {DEFAULT_WMEM_MAX, BATCHED + 2, 2},
        {DEFAULT_WMEM_MAX, MOVED, 5},
        {SMALLEST_BUFFER, MOVED, 0},
        {SMALLEST_BUFFER, MOVED, 1},
        {SMALLEST_BUFFER, MOVED, 3},
        {SMALLEST_BUFFER, MOVED, 5},
};

/* In both lots, or in either: each is claimed once, and there is room as before. */
START_TEST(half_moved) {
        const Moved *row = &moves[_i / 2];
        const int from = _i % 2, to = 1 - from;
        size_t before;

        world_init();
        limit_buffers(row->buffer);
        for (size_t i = 0; i < MOVED; i++)
                (void) add_member();
        park_members(from, 0, BATCHED);
        park_singles(from, BATCHED, MOVED - BATCHED);
        if (row->parked > 0)
                park_members(to, 0, row->parked);
        lot_drop(&world.held[from], row->dropped);
        before = count_fds();
        restart();
        ck_assert_uint_eq(count_fds(), before);
        /* Nobody is parked twice any more. */
        ck_assert_uint_eq(count_in_flight(), MOVED);
        for (size_t i = 0; i < 100; i++)
                (void) keep_new();
        restart();
        for (size_t i = 0; i < MOVED; i += 4)
                drop(i);
        for (size_t i = 0; i < 700; i++)
                drop(keep_new());
        ck_assert_uint_le(count_in_flight(), 2 * (MOVED + 100) + DEAD_SLACK + 1);
        restart();
        ck_assert_uint_eq(count_kept(), MOVED + 100 - MOVED / 4);
        world_done();
}
END_TEST

/* The same with lots that are almost full: the rest of what was to be moved comes before whatever is new, which would
 * take its place. */
START_TEST(half_moved_and_full) {
        enum { BUFFER = 20000, BATCHES = 6, SINGLES = 18, ALL = BATCHES * LOT_BATCH_MAX + SINGLES };
        const int from = _i, to = 1 - from;

        raise_limit();
        world_init();
        limit_buffers(BUFFER);
        (void) add_member();
        copy_members(ALL);
        for (size_t i = 0; i < BATCHES; i++)
                park_members(from, i * LOT_BATCH_MAX, LOT_BATCH_MAX);
        park_singles(from, ALL - SINGLES, SINGLES);
        park_members(to, 0, LOT_BATCH_MAX);
        lot_drop(&world.held[from], 1);
        restart();
        for (size_t i = 0; i < 100; i++)
                (void) keep_new();
        restart();
        ck_assert_uint_eq(count_kept(), ALL + 100);
        world_done();
}
END_TEST

/* A process that was killed while it moved singles behind what is in the other lot. */
typedef struct Behind {
        size_t others;  /* connections that were in the other lot before */
        size_t moved;   /* so many are in its last message */
        size_t dropped; /* so many of them are out of the first lot */
} Behind;

static const Behind behinds[] = {
        {LOT_BATCH_MAX, 40, 0}, {LOT_BATCH_MAX, 40, 1}, {LOT_BATCH_MAX, 40, 20}, {LOT_BATCH_MAX, LOT_BATCH_MAX, 0},
        {0, LOT_BATCH_MAX, 0},  {0, LOT_BATCH_MAX, 1},  {0, LOT_BATCH_MAX, 200},
};

/* Neither lot has room before some of what is in both has gone: that it is in both must not keep it there. */
START_TEST(half_moved_behind_others) {
        const Behind *row = &behinds[_i / 2];
        const int from = _i % 2, to = 1 - from;
        const size_t all = row->others + row->moved;

        world_init();
        (void) add_member();
        copy_members(all);
        if (row->others > 0)
                park_members(to, row->moved, row->others);
        park_singles(from, 0, row->moved);
        park_members(to, 0, row->moved);
        lot_drop(&world.held[from], row->dropped);
        limit_buffers(SMALLEST_BUFFER);
        restart();
        ck_assert_uint_eq(count_in_flight(), all);
        for (size_t i = 0; i < 20; i++)
                (void) keep_new();
        restart();
        ck_assert_uint_eq(count_kept(), all + 20);
        world_done();
}
END_TEST

/* A descriptor for each is enough then, too: those who are in both lots, and for whom there are not two, are at the end
 * of the message that they moved into. */
START_TEST(half_moved_and_few_descriptors) {
        enum { SHARE = 100, OTHERS = 20, MOVING = 70 };
        static const size_t dropped[] = {0, 1, 35, 69, 70};
        const int from = _i % 2, to = 1 - from;
        Scarcity scarcity;

        world_init();
        world.in_flight_max = SHARE;
        for (size_t i = 0; i < MOVING + OTHERS; i++)
                (void) add_member();
        park_members(to, MOVING, OTHERS);
        park_singles(from, 0, MOVING);
        park_members(to, 0, MOVING);
        lot_drop(&world.held[from], dropped[_i / 2]);
        stop();
        /* Besides the ends of the lots. */
        scarcity_begin(&scarcity, SHARE + 2 * PARKING_LOTS);
        start();
        scarcity_end(&scarcity);
        check_claimed();
        ck_assert_uint_eq(count_in_flight(), MOVING + OTHERS);
        restart();
        world_done();
}
END_TEST

/* ---- As a user for whom the kernel limits what is in flight ---- */

static bool become_somebody(void) {
        return setresuid(SOMEBODY, SOMEBODY, SOMEBODY) == 0;
}

/* Runs a function in a process of its own: it returns what went wrong, or 0. */
static void check_as_somebody(int (*function)(int), int argument) {
        int status = 0;
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0)
                _exit(become_somebody() ? function(argument) : 100);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), 0);
}

static bool limit_descriptors(rlim_t n) {
        const struct rlimit limit = {.rlim_cur = n, .rlim_max = n};

        world.in_flight_max = (size_t) n;
        return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static int reach_kernel_limit(int unused) {
        enum { LIMIT = 64, LIVE = 40 };
        Member *member = &world.members[0];

        (void) unused;
        if (!limit_descriptors(LIMIT))
                return 1;
        if (open_parking(-1) < 0)
                return 2;
        for (uint32_t i = 0; i < 3000; i++) {
                const LotTag tag = {.slot = i % LIVE, .counter = i};

                parking_drop(world.parking, tag.slot);
                if (parking_keep(world.parking, tag, member->pair.fd) != 0)
                        return 3;
        }
        return 0;
}

START_TEST(kernel_limit) {
        world_init();
        (void) add_member();
        world.parking = parking_free(world.parking);
        check_as_somebody(reach_kernel_limit, 0);
        world_done();
}
END_TEST

/* What a process leaves that was killed in the middle of a move, where the user has many in flight. */
typedef struct Crowd {
        rlim_t limit;   /* so many the kernel lets him have */
        size_t batched; /* connections that are in one message of the old lot; the others are singles */
        size_t dropped; /* so many messages are out of it */
        size_t dead;    /* and so many that belong to no record are behind them */
} Crowd;

enum { CROWD_LIVE = LOT_BATCH_MAX + 47 };

static const Crowd crowds[] = {
        {.limit = 400, .batched = LOT_BATCH_MAX},
        {.limit = 490, .dropped = 100, .dead = 120},
};

/* What a user has parked is his, so it is parked by himself. */
static void park_crowd(const Crowd *row, int from) {
        const LotTag dead = {.slot = SLOTS + 1};

        if (row->batched > 0)
                park_members(from, 0, row->batched);
        park_singles(from, row->batched, CROWD_LIVE - row->batched);
        for (size_t i = 0; i < row->dead; i++)
                ck_assert_int_eq(lot_park(&world.held[from], &dead, &world.members[CROWD_LIVE].pair.fd, 1), 0);
        park_members(1 - from, 0, LOT_BATCH_MAX);
        lot_drop(&world.held[from], row->dropped);
        stop();
}

/* Nearly as many as the kernel lets the user have in flight, and a process killed in the middle of a move: what is in
 * both lots is counted twice, and it lets nobody park anything until some of that is taken out. */
static int reach_kernel_limit_half_moved(int i) {
        const Crowd *row = &crowds[i / 2];
        size_t last;

        park_crowd(row, i % 2);
        if (!limit_descriptors(row->limit))
                return 1;
        start();
        check_claimed();
        if (count_in_flight() > CROWD_LIVE + row->dead)
                return 2;
        last = keep_new();
        for (unsigned n = 0; n < 1000; n++) {
                parking_drop(world.parking, (uint32_t) last);
                world.members[last].counter = ++world.counter;
                if (try_keep(last) != 0)
                        return 3;
        }
        return 0;
}

START_TEST(kernel_limit_half_moved) {
        world_init();
        (void) add_member();
        copy_members(CROWD_LIVE);
        (void) add_member();
        world.parking = parking_free(world.parking);
        check_as_somebody(reach_kernel_limit_half_moved, _i);
        world_done();
}
END_TEST

/* ---- Damage ---- */

/* Two connections that are parked under each other's records: neither gets the other's name. */
START_TEST(swapped) {
        size_t a, b, c, before;

        world_init();
        a = add_member();
        b = add_member();
        c = keep_new();
        ck_assert_int_eq(parking_keep(world.parking, tag_of(a), world.members[b].pair.fd), 0);
        ck_assert_int_eq(parking_keep(world.parking, tag_of(b), world.members[a].pair.fd), 0);
        world.members[a].live = world.members[b].live = true;
        stop();
        before = count_fds();
        start();
        ck_assert_uint_eq(world.mismatched, 2);
        ck_assert_int_eq(world.members[a].pair.fd, -1);
        ck_assert_int_eq(world.members[b].pair.fd, -1);
        ck_assert_int_ge(world.members[c].pair.fd, 0);
        check_ended(world.members[a].pair.peer, "swapped");
        check_ended(world.members[b].pair.peer, "swapped");
        world.members[a].live = world.members[b].live = false;
        stop();
        ck_assert_uint_eq(count_fds(), before);
        start();
        check_claimed();
        world_done();
}
END_TEST

/* Where the kernel could not be asked for the cookie when the record was written, the tag is enough. */
START_TEST(cookie_not_known) {
        size_t i;

        world_init();
        i = keep_new();
        stop();
        world.members[i].cookie = 0;
        start();
        ck_assert_uint_eq(world.mismatched, 0);
        ck_assert_int_ge(world.members[i].pair.fd, 0);
        check_byte_arrives(i);
        world_done();
}
END_TEST

/* Parked under a tag that no record has any more, or ever had. */
START_TEST(tags_without_record) {
        static const LotTag tags[] = {{5, 1}, {400, 1}, {SLOTS, 1}, {100000, 1}, {UINT32_MAX, UINT32_MAX}};
        size_t kept;

        world_init();
        kept = keep_new();
        for (size_t j = 0; j <= ARRAY_SIZE(tags); j++) {
                size_t i = add_member();
                /* The last one: of an earlier record in the same place. */
                LotTag tag = j < ARRAY_SIZE(tags) ? tags[j]
                                                  : (LotTag){.slot = (uint32_t) kept,
                                                             .counter = world.members[kept].counter + 1000};

                ck_assert_int_eq(lot_park(&world.held[_i], &tag, &world.members[i].pair.fd, 1), 0);
        }
        restart();
        for (size_t i = 0; i < world.n; i++)
                if (i != kept)
                        check_ended(world.members[i].pair.peer, "without a record");
        for (size_t i = 0; i < 600; i++)
                drop(keep_new());
        restart();
        world_done();
}
END_TEST

/* Some twice in one lot, and some in both: claimed once, and kept once. */
START_TEST(parked_twice) {
        size_t before;

        world_init();
        for (size_t i = 0; i < 10; i++)
                (void) add_member();
        before = count_fds();
        park_members(_i, 0, 5);
        park_members(_i, 0, 5);
        park_members(_i, 5, 5);
        park_members(1 - _i, 7, 2);
        restart();
        ck_assert_uint_eq(count_fds(), before);
        ck_assert_uint_eq(count_kept(), 10);
        ck_assert_uint_eq(count_in_flight(), 10);
        restart();
        world_done();
}
END_TEST

/* Sends anything at all to a lot, with copies of a descriptor. */
static void send_raw(int lot, const void *data, size_t n, int fd, size_t n_fds) {
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(8 * sizeof(int))];
        } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                                .cmsg_len = CMSG_LEN(n_fds * sizeof fd)}};
        struct iovec iov = {.iov_base = (void *) data, .iov_len = n};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                                 .msg_controllen = CMSG_SPACE(n_fds * sizeof fd)};

        for (size_t i = 0; i < n_fds; i++)
                memcpy(CMSG_DATA(&control.header) + i * sizeof fd, &fd, sizeof fd);
        ck_assert_int_eq(sendmsg(world.held[lot].in, &message, MSG_DONTWAIT | MSG_NOSIGNAL), (ssize_t) n);
}

/* One lot cannot be looked at: what is in the other is taken back, and stays parked. */
START_TEST(unreadable_lot) {
        const int good = 1 - _i;

        world_init();
        for (size_t i = 0; i < 30; i++)
                (void) add_member();
        park_singles(good, 0, 10);
        park_members(good, 10, 10);
        park_singles(_i, 20, 10);
        stop();
        ck_assert_int_eq(open_parking(_i), 0);
        ck_assert_int_eq(parking_claim(world.parking, is_live, &world, &world.mismatched), -ENOTSOCK);
        for (size_t i = 0; i < world.n; i++) {
                world.members[i].pair.fd = parking_fd(world.parking, (uint32_t) i);
                ck_assert_int_eq(world.members[i].pair.fd >= 0, i < 20);
        }
        parking_settle(world.parking);
        restart();
        ck_assert_uint_eq(count_kept(), 30);
        world_done();
}
END_TEST

/* More descriptors in a message than it has tags. */
START_TEST(too_many_descriptors) {
        uint8_t bytes[64];
        size_t i, before;
        ssize_t n;

        world_init();
        i = keep_new();
        n = recv(world.held[0].out, bytes, sizeof bytes, MSG_DONTWAIT);
        ck_assert_int_gt(n, 0);
        send_raw(0, bytes, (size_t) n, world.members[i].pair.fd, 5);
        before = count_fds();
        restart();
        ck_assert_uint_eq(count_fds(), before);
        world_done();
}
END_TEST

/* What a program of another version has parked: let go, so that its nodes notice and register again. */
START_TEST(foreign_messages) {
        uint8_t bytes[4000];
        size_t kept = 0, theirs;

        memset(bytes, 0x7e, sizeof bytes);
        world_init();
        theirs = add_member();
        for (size_t j = 0; j < 10; j++)
                send_raw(0, bytes, j % 2 == 0 ? sizeof bytes : 100, world.members[theirs].pair.fd, 1);
        for (; kept < 300; kept++)
                (void) keep_new();
        restart();
        check_ended(world.members[theirs].pair.peer, "another version's");
        /* Moving from one lot to the other takes each message out once. */
        for (size_t i = 0; i < 700; i++) {
                drop(keep_new());
                if (i == 350)
                        restart();
        }
        restart();
        ck_assert_uint_eq(count_kept(), 300);
        world_done();
}
END_TEST

/* ---- All of them ---- */

int main(void) {
        Suite *suite = suite_create("parking");
        TCase *keeping = unit_case(suite, "keeping"), *room = unit_case(suite, "room"),
              *kills = unit_case(suite, "kills"), *damages = unit_case(suite, "damage");
        static TTest skipped;

        tcase_add_test(keeping, restarts);
        tcase_add_test(keeping, places);
        tcase_add_test(keeping, dropped_twice);
        tcase_add_loop_test(room, tidied, 0, ARRAY_SIZE(rooms));
        tcase_add_loop_test(room, batched_at_the_limit, 0, ARRAY_SIZE(rooms));
        tcase_add_loop_test(room, at_capacity, 0, 3);
        tcase_add_loop_test(room, cycles, 0, 2);
        tcase_add_test(room, few_in_flight);
        tcase_add_loop_test(room, descriptor_for_each, 0, 3);
        tcase_add_test(room, few_descriptors_free);
        tcase_add_loop_test(kills, half_moved, 0, 2 * ARRAY_SIZE(moves));
        tcase_add_loop_test(kills, half_moved_and_full, 0, 2);
        tcase_add_loop_test(kills, half_moved_behind_others, 0, 2 * ARRAY_SIZE(behinds));
        tcase_add_loop_test(kills, half_moved_and_few_descriptors, 0, 10);
        if (succeeds_in_child(become_somebody)) {
                tcase_add_test(room, kernel_limit);
                tcase_add_loop_test(kills, kernel_limit_half_moved, 0, 2 * ARRAY_SIZE(crowds));
        } else
                add_skipped(room, &skipped, "kernel_limit # SKIP needs root, to be a user of whom nothing else is in flight");
        tcase_add_test(damages, swapped);
        tcase_add_test(damages, cookie_not_known);
        tcase_add_loop_test(damages, tags_without_record, 0, 2);
        tcase_add_loop_test(damages, parked_twice, 0, 2);
        tcase_add_loop_test(damages, unreadable_lot, 0, 2);
        tcase_add_test(damages, too_many_descriptors);
        tcase_add_test(damages, foreign_messages);
        return unit_main(suite);
}
