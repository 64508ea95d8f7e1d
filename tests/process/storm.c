/* SPDX-License-Identifier: Apache-2.0 */

/* Clients that mean harm, and one that does not, for the storms of test_storms.py: many connections from one thread,
 * each with a plan of what it sends and when it goes. Says at its end, in words of NAME=NUMBER, what became of them. */

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define NSEC_PER_SEC UINT64_C(1000000000)

enum {
        PLAN_MAX = 64,
        HOSTS = 200 * 200,  /* source addresses 127.1.1.x … 127.1.200.y: ports cannot run out */
        FIRST_PORT = 10000, /* of node0, as the test registers them */
        BURST = 64,         /* connections that are begun before events are looked at */
        TIME_LIMIT_SECONDS = 60,
        PIECE = 4096,
};

/* What a connection does when all of its request is sent. */
typedef enum After {
        AFTER_READ,        /* reads to the end, and goes */
        AFTER_HOLD,        /* stays, and reads nothing */
        AFTER_DRIBBLE,     /* stays, with another byte every second */
        AFTER_REGISTERED,  /* stays if it is registered, or reads to the end */
        AFTER_RESET,       /* resets at once */
        AFTER_REPLY_RESET, /* resets when the first byte of the reply is there */
} After;

typedef struct Plan {
        uint8_t data[PLAN_MAX];
        size_t n;
        After after;
        const char *expect; /* what the reply must be, or NULL */
        size_t expect_len;
        bool begins; /* it is only the beginning */
} Plan;

typedef struct Conn {
        int fd; /* -1: this place is free */
        After after;
        bool unsent; /* still connecting */
        uint64_t begun;
        uint32_t number;
        uint8_t reply[8]; /* its first bytes */
        size_t reply_len;
} Conn;

typedef struct Storm Storm;

typedef struct Kind {
        const char *name;
        void (*plan)(const Storm *storm, uint32_t number, Plan *plan);
        int receive_buffer; /* 0: as the kernel has it */
} Kind;

struct Storm {
        const Kind *kind;
        uint16_t port;
        uint32_t places; /* connections at once */
        uint32_t rate;   /* begun in a second; 0: as many as go */
        double seconds;
        uint32_t nodes; /* registered by the test: node0 … */
        const char *tag; /* of the names of its own */

        int epoll;
        Conn *conns;
        uint32_t *vacant;
        uint32_t n_vacant;
        uint64_t start, now;
        uint64_t dribbled;
        uint32_t opened, done, bad, ended, errors, registered, refused;
        uint32_t *latencies; /* µs */
        uint32_t n_latencies, latencies_max;
};

static uint64_t clock_now(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * NSEC_PER_SEC + (uint64_t) ts.tv_nsec;
}

static void die(const char *what) {
        perror(what);
        exit(1);
}

/* ---- Requests ---- */

static void put(Plan *plan, const void *data, size_t n) {
        if (plan->n + n > sizeof plan->data)
                abort();
        memcpy(plan->data + plan->n, data, n);
        plan->n += n;
}

static void put_u16(Plan *plan, unsigned value) {
        const uint8_t bytes[] = {(uint8_t) (value >> 8), (uint8_t) value};

        put(plan, bytes, sizeof bytes);
}

static void put_named(Plan *plan, char tag, const char *name) {
        put_u16(plan, (unsigned) strlen(name) + 1);
        put(plan, &tag, 1);
        put(plan, name, strlen(name));
}

static void put_alive2(Plan *plan, const char *name, unsigned port) {
        size_t n = strlen(name);

        put_u16(plan, (unsigned) n + 13);
        put(plan, "x", 1);
        put_u16(plan, port);
        put(plan, "\x4d\0\0\6\0\6", 6);
        put_u16(plan, (unsigned) n);
        put(plan, name, n);
        put_u16(plan, 0);
}

static void node_name(const Storm *storm, uint32_t number, char name[16]) {
        (void) snprintf(name, 16, "node%u", number % storm->nodes % 1000000);
}

static void own_name(const Storm *storm, uint32_t number, char name[16]) {
        (void) snprintf(name, 16, "%.4s%u", storm->tag, number % 1000000);
}

/* ---- Plans ---- */

static void plan_lookup(const Storm *storm, uint32_t number, Plan *plan) {
        /* Filled in for each request, as it differs; there is only one thread. */
        static char expect[4];
        unsigned port = FIRST_PORT + number % storm->nodes;
        char name[16];

        node_name(storm, number, name);
        put_named(plan, 'z', name);
        plan->after = AFTER_READ;
        memcpy(expect, "w", 2);
        expect[2] = (char) (port >> 8);
        expect[3] = (char) port;
        plan->expect = expect;
        plan->expect_len = sizeof expect;
        plan->begins = true;
}

static void plan_idle(const Storm *storm, uint32_t number, Plan *plan) {
        (void) storm;
        put(plan, "\0", number % 2);
        plan->after = AFTER_HOLD;
}

static void plan_dribble(const Storm *storm, uint32_t number, Plan *plan) {
        (void) storm;
        (void) number;
        put(plan, "\x0b\xf1x", 3);
        plan->after = AFTER_DRIBBLE;
}

static void plan_names(const Storm *storm, uint32_t number, Plan *plan) {
        (void) storm;
        (void) number;
        put(plan, "\0\1n", 3);
        plan->after = AFTER_HOLD;
}

static void plan_reset(const Storm *storm, uint32_t number, Plan *plan) {
        char name[16];

        node_name(storm, number, name);
        switch (number % 5) {
        case 0:
                break;
        case 1:
                put(plan, "\0", 1);
                break;
        case 2:
                put(plan, "\0\1n", 3);
                break;
        case 3:
                put_named(plan, 'z', name);
                break;
        default:
                put_alive2(plan, name, 1);
                break;
        }
        plan->after = AFTER_RESET;
}

/* Bytes without meaning: of a length that is refused, that never comes, or that is one of a request. */
static void plan_garbage(const Storm *storm, uint32_t number, Plan *plan) {
        uint64_t state = number * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);

        (void) storm;
        if (number % 3 == 0)
                put_u16(plan, 30);
        while (plan->n < 32) {
                state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                put_u16(plan, (unsigned) (state >> 40) & 0xffff);
        }
        plan->after = number % 4 == 3 ? AFTER_RESET : AFTER_READ;
}

static void plan_quota(const Storm *storm, uint32_t number, Plan *plan) {
        char name[16];

        own_name(storm, number, name);
        put_alive2(plan, name, 1);
        plan->after = AFTER_REGISTERED;
}

/* Of what is not one's own. */
static void plan_ends(const Storm *storm, uint32_t number, Plan *plan) {
        char name[16];

        node_name(storm, number, name);
        plan->after = AFTER_READ;
        switch (number % 4) {
        case 0:
                put(plan, "\0\1k", 3);
                plan->expect = "NO";
                plan->expect_len = 2;
                break;
        case 1:
                put_named(plan, 's', name);
                plan->expect = "";
                break;
        case 2:
                put(plan, "\0\1k", 3);
                plan->after = AFTER_RESET;
                break;
        default:
                put_named(plan, 's', name);
                plan->after = AFTER_RESET;
                break;
        }
}

/* A registration, of a name that is taken or of one's own, that is reset before, during and after the reply. */
static void plan_races(const Storm *storm, uint32_t number, Plan *plan) {
        char name[16];

        if (number / 3 % 2 == 0) {
                node_name(storm, number, name);
                plan->expect = "v\1\0\0\0c";
        } else {
                own_name(storm, number / 3, name);
                plan->expect = "v\0";
        }
        plan->expect_len = 2;
        plan->begins = true;
        put_alive2(plan, name, 1);
        if (number % 3 == 0)
                plan->n--;
        plan->after = number % 3 == 2 ? AFTER_REPLY_RESET : AFTER_RESET;
}

static const Kind kinds[] = {
        {"lookup", plan_lookup, 0}, {"idle", plan_idle, 0},     {"dribble", plan_dribble, 0},
        {"names", plan_names, 2048}, {"reset", plan_reset, 0},   {"garbage", plan_garbage, 0},
        {"quota", plan_quota, 0},   {"ends", plan_ends, 0},     {"races", plan_races, 0},
};

/* ---- Connections ---- */

static void leave(Storm *storm, Conn *conn) {
        /* By a reset, so that nothing stays in TIME_WAIT. */
        (void) close(conn->fd);
        conn->fd = -1;
        storm->vacant[storm->n_vacant++] = (uint32_t) (conn - storm->conns);
}

static void latency(Storm *storm, const Conn *conn) {
        if (storm->n_latencies < storm->latencies_max)
                storm->latencies[storm->n_latencies++] = (uint32_t) ((clock_now() - conn->begun) / 1000);
}

/* The server has ended the connection, or the plan is at its end. */
static void finish(Storm *storm, Conn *conn) {
        Plan plan = {};
        bool same;

        storm->kind->plan(storm, conn->number, &plan);
        same = !plan.expect || (conn->reply_len >= plan.expect_len && (plan.begins || conn->reply_len == plan.expect_len) &&
                                memcmp(conn->reply, plan.expect, plan.expect_len) == 0);
        if (conn->after == AFTER_HOLD || conn->after == AFTER_DRIBBLE)
                storm->ended++;
        else if (same && conn->after != AFTER_REGISTERED) {
                storm->done++;
                latency(storm, conn);
        } else
                storm->bad++;
        leave(storm, conn);
}

static void keep_beginning(Conn *conn, const uint8_t *data, size_t n) {
        size_t room = sizeof conn->reply - conn->reply_len;

        n = n < room ? n : room;
        memcpy(conn->reply + conn->reply_len, data, n);
        conn->reply_len += n;
}

/* A reply to a registration is whole. */
static void registered(Storm *storm, Conn *conn) {
        if (conn->reply_len < 2 || conn->reply[0] != 'v')
                return;
        if (conn->reply[1] == 0) {
                storm->registered++;
                conn->after = AFTER_HOLD;
        } else {
                storm->refused++;
                conn->after = AFTER_READ;
        }
}

static void receive(Storm *storm, Conn *conn) {
        uint8_t piece[PIECE];

        while (conn->fd >= 0) {
                ssize_t n = recv(conn->fd, piece, sizeof piece, MSG_DONTWAIT);

                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                if (n <= 0) {
                        finish(storm, conn);
                        return;
                }
                keep_beginning(conn, piece, (size_t) n);
                if (conn->after == AFTER_REGISTERED)
                        registered(storm, conn);
                else if (conn->after == AFTER_REPLY_RESET)
                        finish(storm, conn);
        }
}

/* Sends the request, of which the socket takes all or, while it is not connected, nothing. */
static void send_request(Storm *storm, Conn *conn) {
        Plan plan = {};

        storm->kind->plan(storm, conn->number, &plan);
        conn->unsent = plan.n > 0 && send(conn->fd, plan.data, plan.n, MSG_NOSIGNAL) < 0;
        if (conn->unsent && errno != EAGAIN) {
                storm->errors++;
                leave(storm, conn);
        } else if (!conn->unsent && plan.after == AFTER_RESET) {
                storm->done++;
                leave(storm, conn);
        }
}

static void on_event(Storm *storm, Conn *conn, uint32_t events) {
        if (conn->fd >= 0 && conn->unsent)
                send_request(storm, conn);
        if (conn->fd < 0 || conn->unsent)
                return;
        if (conn->after != AFTER_HOLD && conn->after != AFTER_DRIBBLE)
                receive(storm, conn);
        else if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
                finish(storm, conn);
}

static int new_socket(const Storm *storm, uint32_t number) {
        const struct linger reset = {.l_onoff = 1};
        struct sockaddr_in source = {.sin_family = AF_INET};
        uint32_t host = number % HOSTS;
        const int on = 1, size = storm->kind->receive_buffer;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return -1;
        source.sin_addr.s_addr = htonl(0x7f010101 + ((host / 200) << 8) + host % 200);
        (void) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        (void) setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (size > 0)
                (void) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        if (bind(fd, (const struct sockaddr *) &source, sizeof source) < 0)
                die("bind");
        return fd;
}

/* Begins a connection. Returns false when there is no descriptor for it. On the loopback device it is connected at
 * once, unless the server's backlog is full. */
static bool begin(Storm *storm) {
        const struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(storm->port),
                                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        uint32_t number = storm->opened++, place = storm->vacant[storm->n_vacant - 1];
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = place};
        Conn *conn = &storm->conns[place];
        Plan plan = {};

        *conn = (Conn){.fd = new_socket(storm, number), .number = number, .begun = clock_now()};
        if (conn->fd < 0) {
                storm->errors++;
                return false;
        }
        storm->n_vacant--;
        storm->kind->plan(storm, number, &plan);
        conn->after = plan.after;
        if (connect(conn->fd, (const struct sockaddr *) &server, sizeof server) < 0 && errno != EINPROGRESS) {
                storm->errors++;
                leave(storm, conn);
                return true;
        }
        send_request(storm, conn);
        if (conn->fd >= 0 && epoll_ctl(storm->epoll, EPOLL_CTL_ADD, conn->fd, &event) < 0)
                die("epoll_ctl");
        return true;
}

/* How many should have been begun by now. */
static uint64_t due(const Storm *storm) {
        return storm->rate == 0 ? UINT64_MAX : (storm->now - storm->start) * storm->rate / NSEC_PER_SEC;
}

static void begin_some(Storm *storm) {
        for (int i = 0; i < BURST && storm->n_vacant > 0 && storm->opened < due(storm); i++)
                if (!begin(storm))
                        return;
}

/* Each connection has its turn once a second. */
static void dribble(Storm *storm) {
        uint64_t want = (storm->now - storm->start) * storm->places / NSEC_PER_SEC;

        for (; storm->dribbled < want; storm->dribbled++) {
                Conn *conn = &storm->conns[storm->dribbled % storm->places];

                if (conn->fd >= 0 && conn->after == AFTER_DRIBBLE)
                        (void) send(conn->fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
}

/* How long to wait for events: to the moment when the next connection is due, so that they come as evenly as those of
 * many clients do, or a millisecond when there is no such moment. */
static struct timespec patience(const Storm *storm) {
        uint64_t next = storm->now + NSEC_PER_SEC / 1000, nsec = NSEC_PER_SEC / 1000;

        if (storm->n_vacant > 0)
                next = storm->rate == 0 ? storm->now
                                        : storm->start + (storm->opened + 1) * NSEC_PER_SEC / storm->rate;
        if (next < storm->now + nsec)
                nsec = next > storm->now ? next - storm->now : 0;
        return (struct timespec){.tv_nsec = (long) nsec};
}

/* ---- The whole ---- */

static int compare(const void *a, const void *b) {
        uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;

        return (x > y) - (x < y);
}

static uint32_t percentile(const Storm *storm, unsigned percent) {
        return storm->n_latencies == 0 ? 0 : storm->latencies[(uint64_t) (storm->n_latencies - 1) * percent / 100];
}

static void report(Storm *storm) {
        qsort(storm->latencies, storm->n_latencies, sizeof *storm->latencies, compare);
        (void) printf("opened=%u open=%u done=%u bad=%u ended=%u errors=%u registered=%u refused=%u p50=%u p99=%u max=%u\n",
                      storm->opened, storm->places - storm->n_vacant, storm->done, storm->bad, storm->ended,
                      storm->errors, storm->registered, storm->refused, percentile(storm, 50), percentile(storm, 99),
                      percentile(storm, 100));
        (void) fflush(stdout);
}

static void run(Storm *storm) {
        static struct epoll_event events[512];
        uint64_t end;

        storm->start = storm->now = clock_now();
        end = storm->start + (uint64_t) (storm->seconds * (double) NSEC_PER_SEC);
        while (storm->now < end) {
                struct timespec timeout;
                int n;

                begin_some(storm);
                dribble(storm);
                timeout = patience(storm);
                n = epoll_pwait2(storm->epoll, events, ARRAY_SIZE(events), &timeout, NULL);
                for (int i = 0; i < n; i++)
                        on_event(storm, &storm->conns[events[i].data.u32], events[i].events);
                storm->now = clock_now();
        }
        report(storm);
}

static void prepare(Storm *storm) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &limit);
        }
        storm->epoll = epoll_create1(EPOLL_CLOEXEC);
        storm->conns = calloc(storm->places, sizeof *storm->conns);
        storm->vacant = calloc(storm->places, sizeof *storm->vacant);
        storm->latencies_max = 1000000;
        storm->latencies = calloc(storm->latencies_max, sizeof *storm->latencies);
        if (storm->epoll < 0 || !storm->conns || !storm->vacant || !storm->latencies)
                die("prepare");
        for (uint32_t i = 0; i < storm->places; i++) {
                storm->conns[i].fd = -1;
                storm->vacant[storm->n_vacant++] = storm->places - 1 - i;
        }
}

static void become(uid_t uid) {
        if (uid == 0)
                return;
        if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
                die("setresuid");
}

static const Kind *find_kind(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                if (strcmp(name, kinds[i].name) == 0)
                        return &kinds[i];
        (void) fprintf(stderr, "storm: there is no kind %s\n", name);
        exit(2);
}

static int32_t number(const char *text, int32_t least) {
        long value;
        char *end;

        errno = 0;
        value = strtol(text, &end, 10);
        if (errno == 0 && end > text && !*end && value >= least && value <= INT32_MAX)
                return (int32_t) value;
        (void) fprintf(stderr, "storm: %s is no number\n", text);
        exit(2);
}

int main(int argc, char **argv) {
        Storm storm = {.tag = "own"};

        if (argc != 9) {
                (void) fprintf(stderr, "Usage: storm KIND PORT PLACES RATE SECONDS NODES UID NICE\n");
                return 2;
        }
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void) alarm(TIME_LIMIT_SECONDS);
        storm.kind = find_kind(argv[1]);
        storm.port = (uint16_t) number(argv[2], 0);
        storm.places = (uint32_t) number(argv[3], 0);
        storm.rate = (uint32_t) number(argv[4], 0);
        storm.seconds = strtod(argv[5], NULL);
        storm.nodes = (uint32_t) number(argv[6], 0);
        become((uid_t) number(argv[7], 0));
        (void) setpriority(PRIO_PROCESS, 0, number(argv[8], -20));
        prepare(&storm);
        run(&storm);
        free(storm.conns);
        free(storm.vacant);
        free(storm.latencies);
        return 0;
}
