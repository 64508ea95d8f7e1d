/* SPDX-License-Identifier: Apache-2.0 */
#include "lot.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "fds.h"

enum {
        OVER_BATCH = LOT_BATCH_MAX + 1,
        DEFAULT_WMEM_MAX = 212992, /* the kernel's net.core.wmem_max unless somebody has set it */
        SOMEBODY = 61005, /* a user of whom nobody else has a process */
};

static Lot make_lot(void) {
        Lot lot = LOT_NONE;

        ck_assert_int_eq(lot_new(&lot), 0);
        return lot;
}

static LotTag make_tag(size_t i) {
        return (LotTag){.slot = (uint32_t) i + 1, .counter = (uint32_t) i * 1000 + 7};
}

/* Parks the descriptor n times in one message, under tags from `first` on. */
static int park_copies(Lot *lot, int fd, size_t first, size_t n) {
        LotTag tags[OVER_BATCH];
        int fds[OVER_BATCH];

        for (size_t i = 0; i < n; i++) {
                tags[i] = make_tag(first + i);
                fds[i] = fd;
        }
        return lot_park(lot, tags, fds, n);
}

static void park(Lot *lot, int fd, size_t i) {
        int r = park_copies(lot, fd, i, 1);

        if (r != 0)
                ck_abort_msg("parking under tag %zu: %d", i, r);
}

static void set_send_buffer(const Lot *lot, int size) {
        ck_assert_int_eq(setsockopt(lot->in, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
}

static void close_all(const LotMessage *message) {
        for (size_t i = 0; i < message->n_fds; i++)
                safe_close(message->fds[i]);
}

/* Looks at the next message, which must hold one descriptor per tag, of this socket. */
static void check_look(Lot *lot, size_t first, size_t n, uint64_t cookie) {
        LotMessage message;
        int r;

        memset(&message, 0xa5, sizeof message);
        r = lot_look(lot, &message);
        if (r != 0 || message.n != n || message.n_fds != n)
                ck_abort_msg("message of tag %zu: %d, %zu tags, %zu descriptors", first, r, message.n, message.n_fds);
        for (size_t i = 0; i < n; i++) {
                LotTag want = make_tag(first + i);

                if (message.tags[i].slot != want.slot || message.tags[i].counter != want.counter ||
                    cookie_of(message.fds[i]) != cookie || fcntl(message.fds[i], F_GETFD) != FD_CLOEXEC)
                        ck_abort_msg("tag %zu: another's, or another's descriptor", first + i);
        }
        close_all(&message);
}

static void check_end(Lot *lot) {
        LotMessage message;

        ck_assert_int_eq(lot_look(lot, &message), LOT_END);
        ck_assert_int_eq(lot_look_at_tags(lot, &message), LOT_END);
}

/* How many messages there are, by looking. */
static size_t count_messages(Lot *lot) {
        LotMessage message;
        size_t n = 0;
        int r;

        ck_assert_int_eq(lot_rewind(lot), 0);
        while ((r = lot_look_at_tags(lot, &message)) == 0)
                n++;
        ck_assert_int_eq(r, LOT_END);
        return n;
}

/* ---- The ends ---- */

START_TEST(made_and_done) {
        size_t before = count_fds();
        Lot lot = make_lot();

        ck_assert_uint_eq(lot.messages, 0);
        ck_assert_int_eq(lot_check(&lot), 0);
        ck_assert_int_eq(fcntl(lot.in, F_GETFD), FD_CLOEXEC);
        ck_assert_int_eq(fcntl(lot.out, F_GETFD), FD_CLOEXEC);
        check_end(&lot);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        check_end(&lot);
        lot_drop(&lot, 3);
        ck_assert_uint_eq(lot.messages, 0);
        lot_done(&lot);
        ck_assert_int_eq(lot.in, -1);
        ck_assert_int_eq(lot.out, -1);
        lot_done(&lot);
        ck_assert_uint_eq(count_fds(), before);
}
END_TEST

START_TEST(ends_from_elsewhere) {
        static const struct {
                int domain, type;
        } others[] = {
                {AF_UNIX, SOCK_STREAM},
                {AF_UNIX, SOCK_DGRAM},
                {AF_INET, SOCK_STREAM},
                {AF_INET, SOCK_DGRAM},
        };
        Lot lot = make_lot();
        int pipes[2];

        ck_assert_int_eq(lot_check(&LOT_NONE), -ENOTSOCK);
        ck_assert_int_eq(lot_check(&(Lot){.in = lot.in, .out = -1}), -ENOTSOCK);
        ck_assert_int_eq(lot_check(&(Lot){.in = -1, .out = lot.out}), -ENOTSOCK);
        for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
                _cleanup_close_ int fd = socket(others[i].domain, others[i].type | SOCK_CLOEXEC, 0);

                ck_assert_int_ge(fd, 0);
                ck_assert_int_eq(lot_check(&(Lot){.in = lot.in, .out = fd}), -ENOTSOCK);
                ck_assert_int_eq(lot_check(&(Lot){.in = fd, .out = lot.out}), -ENOTSOCK);
        }
        ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
        ck_assert_int_eq(lot_check(&(Lot){.in = pipes[1], .out = pipes[0]}), -ENOTSOCK);
        safe_close(pipes[0]);
        safe_close(pipes[1]);
        lot_done(&lot);
}
END_TEST

/* ---- Parking and looking ---- */

START_TEST(looking_takes_nothing) {
        Lot lot = make_lot();
        Pair first = make_pair(), second = make_pair();
        uint64_t cookies[] = {cookie_of(first.fd), cookie_of(second.fd)};

        park(&lot, first.fd, 0);
        ck_assert_int_eq(park_copies(&lot, second.fd, 1, LOT_BATCH_MAX), 0);
        park(&lot, first.fd, 500);
        ck_assert_uint_eq(lot.messages, 3);
        first.fd = safe_close(first.fd);
        second.fd = safe_close(second.fd);
        for (unsigned i = 0; i < 3; i++) {
                size_t before = count_fds();

                ck_assert_int_eq(lot_rewind(&lot), 0);
                check_look(&lot, 0, 1, cookies[0]);
                check_look(&lot, 1, LOT_BATCH_MAX, cookies[1]);
                check_look(&lot, 500, 1, cookies[0]);
                check_end(&lot);
                ck_assert_uint_eq(count_fds(), before);
        }
        ck_assert_uint_eq(lot.messages, 3);
        /* Nobody but the lot has them. */
        ck_assert(is_connected(first.peer));
        ck_assert(is_connected(second.peer));
        lot_drop(&lot, 2);
        check_ended(second.peer, "dropped");
        ck_assert(is_connected(first.peer));
        ck_assert_uint_eq(lot.messages, 1);
        ck_assert_uint_eq(count_messages(&lot), 1);
        lot_drop(&lot, 1);
        check_ended(first.peer, "dropped");
        lot_done(&lot);
        pair_done(&first);
        pair_done(&second);
}
END_TEST

/* The tags alone cost no descriptor. */
START_TEST(looking_at_tags) {
        Lot lot = make_lot();
        Pair pair = make_pair();
        size_t before = count_fds();
        LotMessage message;

        ck_assert_int_eq(park_copies(&lot, pair.fd, 0, LOT_BATCH_MAX), 0);
        park(&lot, pair.fd, 900);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        ck_assert_int_eq(lot_look_at_tags(&lot, &message), 0);
        ck_assert_uint_eq(message.n, LOT_BATCH_MAX);
        ck_assert_uint_eq(message.n_fds, 0);
        ck_assert_uint_eq(message.tags[252].slot, make_tag(252).slot);
        ck_assert_int_eq(lot_look_at_tags(&lot, &message), 0);
        ck_assert_uint_eq(message.n, 1);
        ck_assert_uint_eq(message.tags[0].slot, make_tag(900).slot);
        check_end(&lot);
        ck_assert_uint_eq(count_fds(), before);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        check_look(&lot, 0, LOT_BATCH_MAX, cookie_of(pair.fd));
        lot_done(&lot);
        pair_done(&pair);
}
END_TEST

/* What is parked lives as long as anybody holds the lot. */
START_TEST(held_by_another) {
        Lot lot = make_lot(), other;
        Pair pair = make_pair();
        uint64_t cookie = cookie_of(pair.fd);

        park(&lot, pair.fd, 3);
        other = (Lot){.in = fcntl(lot.in, F_DUPFD_CLOEXEC, 0), .out = fcntl(lot.out, F_DUPFD_CLOEXEC, 0)};
        ck_assert_int_eq(lot_check(&other), 0);
        lot_done(&lot);
        pair.fd = safe_close(pair.fd);
        ck_assert(is_connected(pair.peer));
        ck_assert_int_eq(lot_rewind(&other), 0);
        check_look(&other, 3, 1, cookie);
        check_end(&other);
        lot_done(&other);
        check_ended(pair.peer, "the last holder has let go");
        pair_done(&pair);
}
END_TEST

START_TEST(batches) {
        Lot lot = make_lot();
        Pair pair = make_pair();
        uint64_t cookie = cookie_of(pair.fd);

        ck_assert_int_eq(LOT_BATCH_MAX, 253);
        ck_assert_int_eq(park_copies(&lot, pair.fd, 0, LOT_BATCH_MAX - 1), 0);
        ck_assert_int_eq(park_copies(&lot, pair.fd, 0, LOT_BATCH_MAX), 0);
        /* More than the kernel takes in one message: refused as a whole. */
        ck_assert_int_eq(park_copies(&lot, pair.fd, 0, OVER_BATCH), -EINVAL);
        ck_assert_uint_eq(lot.messages, 2);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        check_look(&lot, 0, LOT_BATCH_MAX - 1, cookie);
        check_look(&lot, 0, LOT_BATCH_MAX, cookie);
        check_end(&lot);
        lot_done(&lot);
        pair_done(&pair);
}
END_TEST

START_TEST(nothing_to_park) {
        Lot lot = make_lot();
        Pair pair = make_pair();

        /* One bad descriptor spoils the message. */
        ck_assert_int_eq(lot_park(&lot, (LotTag[]){{1, 1}, {2, 2}}, (int[]){pair.fd, -1}, 2), -EBADF);
        ck_assert_uint_eq(lot.messages, 0);
        ck_assert_uint_eq(count_messages(&lot), 0);
        /* Nor is there anything without a lot. */
        ck_assert_int_eq(lot_park(&LOT_NONE, (LotTag[]){{1, 1}}, &pair.fd, 1), -EBADF);
        ck_assert_int_eq(lot_rewind(&LOT_NONE), -EBADF);
        lot_done(&lot);
        pair_done(&pair);
}
END_TEST

/* ---- Any operations, compared with a queue ---- */

enum { QUEUE_MAX = 400, SOCKETS = 5 };

typedef struct Queued {
        size_t first, n, socket;
} Queued;

typedef struct Queue {
        Queued items[QUEUE_MAX];
        size_t n;
        size_t looked; /* at so many of them since the last rewind */
} Queue;

static void queue_drop(Queue *queue, size_t n) {
        n = size_min(n, queue->n);
        memmove(queue->items, queue->items + n, (queue->n - n) * sizeof *queue->items);
        queue->n -= n;
        queue->looked -= size_min(n, queue->looked);
}

static void queue_step(Queue *queue, Lot *lot, const Pair pairs[SOCKETS], const uint64_t cookies[SOCKETS],
                       uint64_t *state) {
        unsigned what = unit_random(state) % 10;
        Queued item = {.first = unit_random(state), .socket = unit_random(state) % SOCKETS,
                       .n = what == 0 ? 1 + unit_random(state) % LOT_BATCH_MAX : 1};

        if (what < 4 && queue->n < QUEUE_MAX) {
                int r = park_copies(lot, pairs[item.socket].fd, item.first, item.n);

                ck_assert(r == 0 || r == LOT_FULL);
                if (r == 0)
                        queue->items[queue->n++] = item;
        } else if (what == 4) {
                size_t n = unit_random(state) % 8;

                /* Looking goes on behind what is left of those that were looked at. */
                lot_drop(lot, n);
                queue_drop(queue, n);
        } else if (what == 5 && unit_random(state) % 8 == 0) {
                ck_assert_int_eq(lot_rewind(lot), 0);
                queue->looked = 0;
        } else if (queue->looked < queue->n) {
                item = queue->items[queue->looked++];
                check_look(lot, item.first, item.n, cookies[item.socket]);
        } else
                check_end(lot);
        if (lot->messages != queue->n)
                ck_abort_msg("%zu messages, not %zu", lot->messages, queue->n);
}

START_TEST(random_operations) {
        Lot lot = make_lot();
        Pair pairs[SOCKETS];
        uint64_t cookies[SOCKETS], state = (uint64_t) _i;
        Queue queue = {};
        size_t before;

        for (size_t i = 0; i < SOCKETS; i++) {
                pairs[i] = make_pair();
                cookies[i] = cookie_of(pairs[i].fd);
        }
        before = count_fds();
        ck_assert_int_eq(lot_rewind(&lot), 0);
        for (unsigned step = 0; step < 8000; step++)
                queue_step(&queue, &lot, pairs, cookies, &state);
        ck_assert_uint_eq(count_fds(), before);
        for (size_t i = 0; i < SOCKETS; i++)
                pair_done(&pairs[i]);
        lot_done(&lot);
}
END_TEST

/* ---- Limits ---- */

/* Parks single descriptors until the lot is full and returns how many there was room for. */
static size_t fill(Lot *lot, int fd) {
        size_t n = 0, before = lot->messages;
        int r;

        while ((r = park_copies(lot, fd, n, 1)) == 0 && n < 100000)
                n++;
        ck_assert_int_eq(r, LOT_FULL);
        ck_assert_uint_eq(lot->messages, before + n);
        ck_assert_uint_eq(count_messages(lot), before + n);
        return n;
}

static const int send_buffers[] = {1, 20000, DEFAULT_WMEM_MAX};

START_TEST(queue_full) {
        Lot lot = make_lot();
        Pair pair = make_pair();
        size_t n;

        set_send_buffer(&lot, send_buffers[_i]);
        n = fill(&lot, pair.fd);
        ck_assert_uint_gt(n, 0);
        if (send_buffers[_i] == DEFAULT_WMEM_MAX)
                ck_assert_uint_ge(n, 500);
        ck_assert_int_eq(park_copies(&lot, pair.fd, 0, LOT_BATCH_MAX), LOT_FULL);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        for (size_t i = 0; i < n; i++)
                check_look(&lot, i, 1, cookie_of(pair.fd));
        check_end(&lot);
        /* Room for one is room for a whole batch. */
        lot_drop(&lot, 1);
        ck_assert_int_eq(park_copies(&lot, pair.fd, 7, LOT_BATCH_MAX), 0);
        check_look(&lot, 7, LOT_BATCH_MAX, cookie_of(pair.fd));
        lot_drop(&lot, n);
        ck_assert_uint_eq(lot.messages, 0);
        ck_assert_uint_eq(fill(&lot, pair.fd), n);
        lot_done(&lot);
        pair_done(&pair);
}
END_TEST

enum { IN_FLIGHT_MAX = 64 };

static bool become_somebody(void) {
        return setresuid(SOMEBODY, SOMEBODY, SOMEBODY) == 0;
}

/* The kernel lets a user without privileges have about as many descriptors in flight as may be open. Runs in a process
 * of its own; returns what went wrong, or 0. */
static int reach_in_flight_limit(void) {
        const struct rlimit limit = {.rlim_cur = IN_FLIGHT_MAX, .rlim_max = IN_FLIGHT_MAX};
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC), r;
        Lot lots[2];
        size_t n = 0, again = 0;

        if (!become_somebody())
                return 2;
        if (null < 0 || setrlimit(RLIMIT_NOFILE, &limit) < 0 || lot_new(&lots[0]) < 0 || lot_new(&lots[1]) < 0)
                return 3;
        while ((r = park_copies(&lots[0], null, n, 1)) == 0 && n < 1000)
                n++;
        if (r != LOT_FULL || n == 0 || n > IN_FLIGHT_MAX + 1)
                return 4;
        /* It is one limit for all lots, and for batches. */
        if (park_copies(&lots[1], null, 0, 1) != LOT_FULL || park_copies(&lots[1], null, 0, 100) != LOT_FULL ||
            lots[1].messages != 0)
                return 5;
        lot_drop(&lots[0], 10);
        while ((r = park_copies(&lots[1], null, n, 1)) == 0 && again < 1000)
                again++;
        return r == LOT_FULL && again >= 9 && again <= 11 && lots[1].messages == again ? 0 : 6;
}

START_TEST(in_flight_limit) {
        pid_t pid = fork();
        int status = 0;

        ck_assert_int_ge(pid, 0);
        if (pid == 0)
                _exit(reach_in_flight_limit());
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* Uses up the descriptors below the highest that is in use, and returns the number above it. */
static int fill_descriptors(void) {
        enum { ABOVE_ALL = 1000 };
        int top = ABOVE_ALL, fd;

        while (fcntl(top, F_GETFD) < 0)
                top--;
        while ((fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0 && fd < top)
                unit_fds_before++;
        ck_assert_int_eq(fd, top + 1);
        safe_close(fd);
        return fd;
}

START_TEST(few_descriptors_free) {
        enum { PARKED = 10 };
        static const size_t rooms[] = {0, 1, 3, 9, 10, 11};
        Lot lot = make_lot();
        Pair pair = make_pair();
        uint64_t cookie = cookie_of(pair.fd);
        rlim_t lowest = (rlim_t) fill_descriptors();
        size_t before = count_fds();
        struct rlimit limit, low;
        LotMessage message;

        ck_assert_int_eq(park_copies(&lot, pair.fd, 0, PARKED), 0);
        park(&lot, pair.fd, 70);
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        low = limit;
        for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
                low.rlim_cur = lowest + rooms[i];
                ck_assert_int_eq(lot_rewind(&lot), 0);
                ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
                ck_assert_int_eq(lot_look(&lot, &message), 0);
                ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
                ck_assert_uint_eq(message.n, PARKED);
                ck_assert_uint_eq(message.n_fds, size_min(rooms[i], PARKED));
                for (size_t j = 0; j < message.n_fds; j++)
                        ck_assert_uint_eq(cookie_of(message.fds[j]), cookie);
                close_all(&message);
                ck_assert_uint_eq(count_fds(), before);
                /* The next one comes next all the same. */
                check_look(&lot, 70, 1, cookie);
                check_end(&lot);
        }
        /* Nothing was lost by that. */
        ck_assert_int_eq(lot_rewind(&lot), 0);
        check_look(&lot, 0, PARKED, cookie);
        lot_done(&lot);
        pair_done(&pair);
}
END_TEST

/* ---- Messages of others ---- */

/* Sends anything at all, with copies of a descriptor. */
static void send_raw(const Lot *lot, const void *data, size_t n, int fd, size_t n_fds) {
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(LOT_BATCH_MAX * sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = (void *) data, .iov_len = n};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

        if (n_fds > 0) {
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(n_fds * sizeof fd);
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n_fds * sizeof fd);
                for (size_t i = 0; i < n_fds; i++)
                        memcpy(CMSG_DATA(&control.header) + i * sizeof fd, &fd, sizeof fd);
        }
        ck_assert_int_eq(sendmsg(lot->in, &message, MSG_DONTWAIT | MSG_NOSIGNAL), (ssize_t) n);
}

enum { LONGEST = 8192 };

/* The bytes of a genuine message, followed by as many as anybody wants. */
static size_t genuine(uint8_t buffer[LONGEST], int fd) {
        Lot lot = make_lot();
        ssize_t n;

        memset(buffer, 0, LONGEST);
        park(&lot, fd, 0);
        n = recv(lot.out, buffer, LONGEST, MSG_DONTWAIT);
        ck_assert_int_gt(n, (ssize_t) sizeof(LotTag));
        lot_done(&lot);
        return (size_t) n;
}

typedef struct Foreign {
        const char *label;
        int more;      /* bytes than a genuine message of one tag */
        size_t n_fds;
        bool own_magic;
} Foreign;

static const Foreign foreigns[] = {
        {"another's, of the same size", 0, 1, false},
        {"another's, with as many descriptors as may be", 0, LOT_BATCH_MAX, false},
        {"another's, without descriptors", 0, 0, false},
        {"another's, as long as ours can be", (LOT_BATCH_MAX - 1) * sizeof(LotTag), 2, false},
        {"half a tag more", sizeof(LotTag) / 2, 1, true},
        {"one byte less", -1, 1, true},
        {"too short for any", -15, 1, true},
        {"one tag more than fits", LOT_BATCH_MAX * sizeof(LotTag), LOT_BATCH_MAX, true},
        {"one byte more than fits", (LOT_BATCH_MAX - 1) * sizeof(LotTag) + 1, LOT_BATCH_MAX, true},
        {"another's, too long", 3000, 3, false},
        {"another's, three times too long", 7000, LOT_BATCH_MAX, false},
};

/* They are told from ours, each is one message, and those behind it are found. */
START_TEST(foreign) {
        const Foreign *row = &foreigns[_i];
        uint8_t bytes[LONGEST];
        Lot lot = make_lot();
        Pair pair = make_pair(), theirs = make_pair();
        size_t size = (size_t) ((ssize_t) genuine(bytes, pair.fd) + row->more), before;
        uint64_t cookie = cookie_of(pair.fd);

        if (!row->own_magic)
                bytes[0] ^= 1;
        park(&lot, pair.fd, 1);
        send_raw(&lot, bytes, size, theirs.fd, row->n_fds);
        park(&lot, pair.fd, 2);
        send_raw(&lot, bytes, size, theirs.fd, row->n_fds);
        send_raw(&lot, bytes, size, theirs.fd, row->n_fds);
        park(&lot, pair.fd, 3);
        before = count_fds();
        for (unsigned with = 0; with <= 1; with++) {
                static const bool ours[] = {true, false, true, false, false, true};
                LotMessage message;

                ck_assert_int_eq(lot_rewind(&lot), 0);
                for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
                        int r = with ? lot_look(&lot, &message) : lot_look_at_tags(&lot, &message);

                        if (r != (ours[i] ? 0 : LOT_FOREIGN))
                                ck_abort_msg("%s: message %zu: %d", row->label, i, r);
                        close_all(&message);
                }
                check_end(&lot);
                ck_assert_uint_eq(count_fds(), before);
        }
        /* Each is dropped as one. */
        lot_drop(&lot, 5);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        check_look(&lot, 3, 1, cookie);
        theirs.fd = safe_close(theirs.fd);
        check_ended(theirs.peer, row->label);
        lot_done(&lot);
        pair_done(&pair);
        pair_done(&theirs);
}
END_TEST

/* More descriptors than tags, or fewer: the caller hears of all that it got. */
START_TEST(miscounted) {
        uint8_t bytes[LONGEST];
        Lot lot = make_lot();
        Pair pair = make_pair();
        size_t size = genuine(bytes, pair.fd), before = count_fds();
        LotMessage message;

        send_raw(&lot, bytes, size, pair.fd, 5);
        send_raw(&lot, bytes, size + 2 * sizeof(LotTag), pair.fd, 2);
        send_raw(&lot, bytes, size, pair.fd, 0);
        ck_assert_int_eq(lot_rewind(&lot), 0);
        ck_assert_int_eq(lot_look(&lot, &message), 0);
        ck_assert_uint_eq(message.n, 1);
        ck_assert_uint_eq(message.n_fds, 5);
        close_all(&message);
        ck_assert_int_eq(lot_look(&lot, &message), 0);
        ck_assert_uint_eq(message.n, 3);
        ck_assert_uint_eq(message.n_fds, 2);
        close_all(&message);
        ck_assert_int_eq(lot_look(&lot, &message), 0);
        ck_assert_uint_eq(message.n, 1);
        ck_assert_uint_eq(message.n_fds, 0);
        check_end(&lot);
        ck_assert_uint_eq(count_fds(), before);
        lot_done(&lot);
        pair_done(&pair);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("lot");
        TCase *parking = unit_case(suite, "parking"), *limits = unit_case(suite, "limits"),
              *others = unit_case(suite, "others");
        static TTest skipped;

        tcase_add_test(parking, made_and_done);
        tcase_add_test(parking, ends_from_elsewhere);
        tcase_add_test(parking, looking_takes_nothing);
        tcase_add_test(parking, looking_at_tags);
        tcase_add_test(parking, held_by_another);
        tcase_add_test(parking, batches);
        tcase_add_test(parking, nothing_to_park);
        tcase_add_loop_test(parking, random_operations, 0, 4);
        tcase_add_loop_test(limits, queue_full, 0, ARRAY_SIZE(send_buffers));
        if (succeeds_in_child(become_somebody))
                tcase_add_test(limits, in_flight_limit);
        else
                add_skipped(limits, &skipped, "in_flight_limit # SKIP needs root, to be a user of whom nothing else is in flight");
        tcase_add_test(limits, few_descriptors_free);
        tcase_add_loop_test(others, foreign, 0, ARRAY_SIZE(foreigns));
        tcase_add_test(others, miscounted);
        return unit_main(suite);
}
