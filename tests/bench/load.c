/* SPDX-License-Identifier: Apache-2.0 */

/* The load generator of the benchmark: makes connections to a server on 127.0.0.1, so many at once, and says what
 * processor time the server took for them. Everything is bounded in count and time, and any answer but the right one
 * ends it with status 1. See usage() for what it does. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
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

enum {
        NAME_LEN = 20,
        REQUEST_MAX = 64,
        AT_ONCE_MAX = 512,
        TARGETS_MAX = 8,
        COUNT_MAX = 1000000,
        SLICE_MAX = AT_ONCE_MAX, /* connections to one server before the next one has its turn */
        TIME_LIMIT_SECONDS = 60, /* for one run of this program */
        HOSTS = 200 * 200,       /* source addresses 127.1.1.x … 127.1.200.y: ports cannot run out */
        READ_SIZE = 256 * 1024,
        REGISTERED_REPLY = 6, /* bytes of the reply to a node of version 6 */
};

/* What is done with each connection. */
typedef enum Kind {
        KIND_FOUND,    /* asks for a node that is registered */
        KIND_MISSING,  /* asks for one that is not */
        KIND_NAMES,    /* asks for all nodes */
        KIND_REGISTER, /* registers, reads the reply, closes */
} Kind;

static const char *const kind_names[] = {"found", "missing", "names", "register"};

/* A server. */
typedef struct Target {
        uint16_t port;
        int schedstat;      /* of its process */
        char stat_path[64]; /* of the same */
        uint32_t nodes;     /* registered, for KIND_FOUND */
        size_t reply;       /* bytes that each connection must get, or 0: any number of them */
        uint64_t nsec;      /* of processor time */
} Target;

typedef struct Load {
        Kind kind;
        uint32_t count; /* connections to each server */
        uint32_t at_once;
        unsigned n_targets;
        Target targets[TARGETS_MAX];
} Load;

static uint8_t scratch[READ_SIZE];

static void die(const char *what) {
        if (errno != 0)
                perror(what);
        else
                (void) fprintf(stderr, "%s\n", what);
        exit(EXIT_FAILURE);
}

static uint64_t now_nsec(void) {
        struct timespec t;

        (void) clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t) t.tv_sec * 1000000000U + (uint64_t) t.tv_nsec;
}

/* ---- Requests ---- */

static size_t put_u16(uint8_t *p, size_t at, unsigned v) {
        p[at] = (uint8_t) (v >> 8);
        p[at + 1] = (uint8_t) v;
        return at + 2;
}

/* Twenty characters, the digits first as they are what differs. */
static size_t put_name(uint8_t *p, size_t at, const char *family, uint32_t i) {
        char name[64];

        (void) snprintf(name, sizeof name, "%s%0*" PRIu32, family, NAME_LEN - (int) strlen(family), i);
        memcpy(p + at, name, NAME_LEN);
        return at + NAME_LEN;
}

static size_t put_registration(uint8_t *p, const char *family, uint32_t i) {
        size_t n = 2;

        p[n++] = 'x';
        n = put_u16(p, n, 1024 + i % 60000);
        p[n++] = 77;
        p[n++] = 0;
        n = put_u16(p, n, 6);
        n = put_u16(p, n, 5);
        n = put_u16(p, n, NAME_LEN);
        n = put_name(p, n, family, i);
        n = put_u16(p, n, 0);
        (void) put_u16(p, 0, (unsigned) n - 2);
        return n;
}

static size_t put_request(Kind kind, const Target *target, uint32_t i, uint8_t *p) {
        /* A prime step, so that neighbours in time are none in the order of registration. */
        uint32_t node = target->nodes > 0 ? (uint32_t) ((uint64_t) i * 7919 % target->nodes) : i;
        size_t n = 2;

        switch (kind) {
        case KIND_REGISTER:
                /* Names that come back, as those of real nodes do. */
                return put_registration(p, "passing", i % 2000);
        case KIND_NAMES:
                p[n++] = 'n';
                break;
        default:
                p[n++] = 'z';
                n = put_name(p, n, kind == KIND_FOUND ? "bench" : "nobody", node);
        }
        (void) put_u16(p, 0, (unsigned) n - 2);
        return n;
}

/* ---- Connections ---- */

/* With an address of its own below 127/8. */
static int make_socket(uint32_t i) {
        const uint32_t host = i % HOSTS;
        const struct sockaddr_in from = {
                .sin_family = AF_INET,
                .sin_addr.s_addr = htonl(0x7f010000U | (1 + host / 200 % 200) << 8 | (1 + host % 200)),
        };
        const int on = 1;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
                die("load: failed to make a socket");
        /* The port is chosen by connect(), which knows that other servers do not matter. */
        (void) setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, (const struct sockaddr *) &from, sizeof from) < 0)
                die("load: failed to bind to an address below 127/8");
        return fd;
}

static void connect_and_send(int fd, uint16_t port, const uint8_t *request, size_t n) {
        const struct sockaddr_in to = {
                .sin_family = AF_INET,
                .sin_port = htons(port),
                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        };

        if (connect(fd, (const struct sockaddr *) &to, sizeof to) < 0)
                die("load: failed to connect to the server");
        if (n > 0 && send(fd, request, n, MSG_NOSIGNAL) != (ssize_t) n)
                die("load: failed to send a request");
}

static int open_connection(uint16_t port, uint32_t i, const uint8_t *request, size_t n) {
        int fd = make_socket(i);

        connect_and_send(fd, port, request, n);
        return fd;
}

/* Reads a whole reply: of so many bytes, or, with 0, to the end of the connection. */
static size_t read_reply(int fd, size_t want) {
        size_t got = 0;

        while (want == 0 || got < want) {
                ssize_t n = recv(fd, scratch, sizeof scratch, 0);

                if (n < 0)
                        die("load: failed to read a reply");
                if (n == 0)
                        break;
                got += (size_t) n;
        }
        return got;
}

static void check_reply(size_t got, size_t want) {
        if (want > 0 && got != want) {
                (void) fprintf(stderr, "load: a reply of %zu bytes, expected %zu\n", got, want);
                exit(EXIT_FAILURE);
        }
}

/* ---- The server's processor time ---- */

static char server_state(const Target *target) {
        char text[512];
        FILE *file = fopen(target->stat_path, "re");
        size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
        char *end;

        if (file)
                (void) fclose(file);
        text[n] = 0;
        end = strrchr(text, ')');
        if (!end || strlen(end) < 3)
                die("load: the server has ended");
        return end[2];
}

/* What the server has used since it was started, ns. Asked for when it sleeps: then it has done all that it had to,
 * and the number is exact. */
static uint64_t server_nsec(const Target *target) {
        char text[128];
        ssize_t n;

        while (server_state(target) != 'S')
                (void) sched_yield();
        n = pread(target->schedstat, text, sizeof text - 1, 0);
        if (n <= 0)
                die("load: failed to read the server's /proc/PID/schedstat");
        text[n] = 0;
        return strtoull(text, NULL, 10);
}

/* ---- A run of many connections ---- */

static uint32_t size_of_batch(const Load *load, uint32_t done) {
        return load->count - done < load->at_once ? load->count - done : load->at_once;
}

/* Opens so many connections, each with its request, then reads the replies in the same order. */
static void run_batch(Kind kind, const Target *target, uint32_t first, uint32_t n) {
        uint8_t request[REQUEST_MAX];
        int fds[AT_ONCE_MAX];

        for (uint32_t i = 0; i < n; i++) {
                size_t size = put_request(kind, target, first + i, request);

                fds[i] = open_connection(target->port, first + i, request, size);
        }
        for (uint32_t i = 0; i < n; i++) {
                check_reply(read_reply(fds[i], kind == KIND_REGISTER ? target->reply : 0), target->reply);
                (void) close(fds[i]);
        }
}

/* Prints each server's processor time for each connection, in µs. The servers take turns all the time: whatever else
 * the machine does, it does to all of them. */
static void run(Load *load) {
        for (unsigned t = 0; t < load->n_targets; t++)
                load->targets[t].nsec = server_nsec(&load->targets[t]);
        for (uint32_t done = 0; done < load->count; done += size_of_batch(load, done))
                for (unsigned t = 0; t < load->n_targets; t++)
                        run_batch(load->kind, &load->targets[t], done, size_of_batch(load, done));
        for (unsigned t = 0; t < load->n_targets; t++)
                (void) printf("%.3f ", (double) (server_nsec(&load->targets[t]) - load->targets[t].nsec) / 1e3 /
                                               load->count);
        (void) printf("\n");
}

/* ---- Latency ---- */

typedef struct Client {
        int fd;
        uint64_t start;
        size_t got;
} Client;

static void start_client(const Target *target, Client *client, int epoll, uint32_t i) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = client};
        uint8_t request[REQUEST_MAX];
        size_t n = put_request(KIND_FOUND, target, i, request);

        client->start = now_nsec();
        connect_and_send(client->fd, target->port, request, n);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event) < 0)
                die("load: failed to wait for a connection");
}

/* Reads all that is there; true when the connection has ended, with the whole reply. */
static bool go_on(const Target *target, Client *client) {
        ssize_t n;

        do {
                n = recv(client->fd, scratch, sizeof scratch, MSG_DONTWAIT);
                if (n < 0 && errno == EAGAIN)
                        return false;
                if (n < 0)
                        die("load: failed to read a reply");
                client->got += (size_t) n;
        } while (n > 0);
        check_reply(client->got, target->reply);
        return true;
}

static int compare_times(const void *a, const void *b) {
        const uint64_t *x = a, *y = b;

        return *x < *y ? -1 : *x > *y;
}

/* So many clients at once, each of which is followed by another as soon as it has its answer, until there were count;
 * times: as many. What could be done before and after is not done meanwhile, or the clients would be what is slow. */
static void run_clients(const Load *load, const Target *target, uint32_t count, uint64_t *times) {
        static Client clients[SLICE_MAX];
        struct epoll_event events[AT_ONCE_MAX];
        uint32_t started = 0, done = 0;
        int epoll = epoll_create1(EPOLL_CLOEXEC);

        if (epoll < 0)
                die("load: failed to set up the clients");
        for (uint32_t i = 0; i < count; i++)
                clients[i] = (Client){.fd = make_socket(i)};
        for (; started < load->at_once && started < count; started++)
                start_client(target, &clients[started], epoll, started);
        while (done < count) {
                int n = epoll_wait(epoll, events, AT_ONCE_MAX, -1);

                for (int i = 0; i < n; i++) {
                        Client *client = events[i].data.ptr;

                        if (!go_on(target, client))
                                continue;
                        times[done++] = now_nsec() - client->start;
                        (void) epoll_ctl(epoll, EPOLL_CTL_DEL, client->fd, NULL);
                        if (started < count) {
                                start_client(target, &clients[started], epoll, started);
                                started++;
                        }
                }
        }
        for (uint32_t i = 0; i < count; i++)
                (void) close(clients[i].fd);
        (void) close(epoll);
}

/* Prints for each server the median and the 99th percentile of the time from connect() to the end of the connection,
 * in µs. The servers take turns, each time with other neighbours. */
static void run_latency(Load *load) {
        uint64_t *times[TARGETS_MAX];
        size_t median = load->count / 2, late = (uint64_t) load->count * 99 / 100;
        uint32_t turn = 0;

        for (unsigned t = 0; t < load->n_targets; t++) {
                times[t] = calloc(load->count, sizeof **times);
                if (!times[t])
                        die("load: no memory for the times");
        }
        for (uint32_t done = 0; done < load->count; done += SLICE_MAX, turn++)
                for (unsigned i = 0; i < load->n_targets; i++) {
                        unsigned t = (turn % 2 == 0 ? i + turn / 2 : load->n_targets - 1 - i + turn / 2) % load->n_targets;
                        uint32_t count = load->count - done < SLICE_MAX ? load->count - done : SLICE_MAX;

                        run_clients(load, &load->targets[t], count, times[t] + done);
                }
        for (unsigned t = 0; t < load->n_targets; t++) {
                qsort(times[t], load->count, sizeof **times, compare_times);
                (void) printf("%.3f %.3f ", (double) times[t][median] / 1e3, (double) times[t][late] / 1e3);
                free(times[t]);
        }
        (void) printf("\n");
}

/* ---- Nodes that stay ---- */

static size_t names_bytes(uint16_t port) {
        static const uint8_t request[] = {0, 1, 'n'};
        int fd = open_connection(port, 0, request, sizeof request);
        size_t n = read_reply(fd, 0);

        (void) close(fd);
        return n;
}

static int register_node(uint16_t port, uint32_t i) {
        uint8_t request[REQUEST_MAX];
        size_t size = put_registration(request, "bench", i);

        return open_connection(port, i, request, size);
}

/* Registers nodes until there are so many or, with until_refused, until one is refused. Returns how many. */
static uint32_t register_nodes(uint16_t port, uint32_t first, uint32_t n, bool until_refused, int *fds) {
        uint32_t opened = 0, done = 0;

        while (done < n) {
                for (; opened < n && opened < done + (until_refused ? 1 : 128); opened++)
                        fds[opened] = register_node(port, first + opened);
                for (; done < opened; done++) {
                        size_t got = read_reply(fds[done], REGISTERED_REPLY);

                        if (got == REGISTERED_REPLY && scratch[1] == 0)
                                continue;
                        if (until_refused)
                                return done;
                        (void) fprintf(stderr, "load: node %" PRIu32 " of %" PRIu32 " was refused\n", done + 1, n);
                        exit(EXIT_FAILURE);
                }
        }
        return done;
}

/* Holds nodes until a line comes on standard input, then closes all of them at once and prints how long it took until
 * NAMES is empty, in ms. At the end of standard input it ends without. */
static void hold(uint16_t port, uint32_t first, uint32_t count, bool until_refused) {
        int *fds = calloc(count, sizeof *fds);
        uint64_t start;
        char line[8];
        uint32_t n;

        if (!fds)
                die("load: no memory for the nodes");
        n = register_nodes(port, first, count, until_refused, fds);
        (void) printf("%" PRIu32 "\n", n);
        if (fflush(stdout) != 0)
                die("load: failed to say that the nodes are registered");
        /* The time limit is for work. */
        (void) alarm(0);
        if (!fgets(line, sizeof line, stdin))
                exit(EXIT_SUCCESS);
        (void) alarm(TIME_LIMIT_SECONDS);
        start = now_nsec();
        for (uint32_t i = 0; i < n; i++)
                (void) close(fds[i]);
        while (names_bytes(port) > sizeof(uint32_t))
                ;
        (void) printf("%.3f\n", (double) (now_nsec() - start) / 1e6);
        free(fds);
}

/* ---- The command line ---- */

static void usage(const char *program) {
        (void) fprintf(stderr,
                       "Usage: %s run KIND COUNT AT-ONCE SERVER...\n"
                       "       %s latency found COUNT AT-ONCE SERVER...\n"
                       "       %s hold PORT FIRST NODES\n"
                       "       %s fill PORT FIRST NODES\n"
                       "run: makes COUNT connections to each SERVER on 127.0.0.1, to one server after the other,\n"
                       "  AT-ONCE at a time; prints the processor time of each for a connection, in microseconds.\n"
                       "latency: the same with clients on their own; prints the 50th and 99th percentile for each\n"
                       "  KIND: found, missing (look-ups), names, register\n"
                       "  SERVER: PORT,PID,NODES,REPLY; NODES: as many of \"hold\" are registered;\n"
                       "  REPLY: bytes that each reply must have, or 0\n"
                       "hold: registers NODES from FIRST on, prints their number, holds them until a line is read,\n"
                       "  then closes them and prints the milliseconds until NAMES is empty\n"
                       "fill: the same, but ends at the first that is refused\n",
                       program, program, program, program);
        exit(EXIT_FAILURE);
}

static uint32_t number(const char *program, const char *text, uint32_t max) {
        char *end;
        unsigned long n = strtoul(text, &end, 10);

        if (end == text || *end || n > max)
                usage(program);
        return (uint32_t) n;
}

static Target parse_target(const char *program, char *text) {
        const char *port = strsep(&text, ","), *pid = strsep(&text, ","), *nodes = strsep(&text, ",");
        Target target = {};
        char path[64];

        if (!text)
                usage(program);
        target.port = (uint16_t) number(program, port, UINT16_MAX);
        target.nodes = number(program, nodes, COUNT_MAX);
        target.reply = number(program, text, INT32_MAX);
        (void) snprintf(path, sizeof path, "/proc/%" PRIu32 "/schedstat", number(program, pid, INT32_MAX));
        (void) snprintf(target.stat_path, sizeof target.stat_path, "/proc/%" PRIu32 "/stat",
                        number(program, pid, INT32_MAX));
        target.schedstat = open(path, O_RDONLY | O_CLOEXEC);
        if (target.schedstat < 0)
                die("load: failed to open the server's /proc/PID/schedstat (a kernel with CONFIG_SCHED_INFO has it)");
        return target;
}

static Load parse_load(int argc, char **argv) {
        const char *program = argv[0];
        Load load = {.kind = ARRAY_SIZE(kind_names)};

        for (unsigned i = 0; i < ARRAY_SIZE(kind_names); i++)
                if (strcmp(argv[2], kind_names[i]) == 0)
                        load.kind = i;
        load.count = number(program, argv[3], COUNT_MAX);
        load.at_once = number(program, argv[4], AT_ONCE_MAX);
        if (load.kind == ARRAY_SIZE(kind_names) || load.at_once == 0 || load.count < load.at_once ||
            argc - 5 > TARGETS_MAX)
                usage(program);
        for (int i = 5; i < argc; i++)
                load.targets[load.n_targets++] = parse_target(program, argv[i]);
        return load;
}

static void raise_descriptors(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                die("load: failed to read the limit of descriptors");
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                die("load: failed to raise the limit of descriptors");
}

int main(int argc, char **argv) {
        /* Whoever measures may be killed. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                die("load: failed to ask for a signal at the end of the parent");
        (void) alarm(TIME_LIMIT_SECONDS);
        raise_descriptors();
        if (argc >= 6 && (strcmp(argv[1], "run") == 0 || strcmp(argv[1], "latency") == 0)) {
                Load load = parse_load(argc, argv);

                (argv[1][0] == 'r' ? run : run_latency)(&load);
        } else if (argc == 5 && (strcmp(argv[1], "hold") == 0 || strcmp(argv[1], "fill") == 0))
                hold((uint16_t) number(argv[0], argv[2], UINT16_MAX), number(argv[0], argv[3], COUNT_MAX),
                     number(argv[0], argv[4], COUNT_MAX), argv[1][0] == 'f');
        else
                usage(argv[0]);
        return EXIT_SUCCESS;
}
