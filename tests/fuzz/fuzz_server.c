/* SPDX-License-Identifier: Apache-2.0 */

/* The daemon as it is, with its event loop and with sockets: what several clients send, in pieces of any size, arrives
 * at connections that it accepts, and what it answers is compared with the model after each operation, as are its
 * registry and its connections. The input is a sequence of operations.
 *
 * In the place of a listening socket there is a counter, and accept4() gives one end of a pair of sockets. Who is at
 * the other end, and what time it is, is up to the input. */

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "conn.h"
#include "fuzz.h"
#include "loop.h"
#include "memory.h"
#include "model.h"
#include "script.h"
#include "server.h"

enum {
        NODES_MAX = 6,
        USER_NODES_MAX = 3,
        CONNECTIONS_MAX = 100,
        OPERATIONS_MAX = 100,
        TURNS_MAX = 500, /* of the loop, for anything that one operation causes */
        PORT = 4370,
        REPLY_MAX = 64 * 1024,
        PIECES_MAX = 64,
        DESCRIPTORS_MAX = 1024,
        MEMORY_FAULTS = 8, /* one of the next so many allocations fails */
};

#define PACKET_TIMEOUT (60 * USEC_PER_SEC)

typedef enum ClientState {
        CLIENT_NONE,
        CLIENT_ASKING, /* its request is not complete */
        CLIENT_REGISTERED,
        CLIENT_DONE, /* the daemon has nothing more to say to it */
} ClientState;

typedef struct Client {
        ClientState state;
        int fd;
        int server_fd;   /* the daemon's end; -1: not accepted yet */
        uint64_t cookie; /* of that end */
        ScriptPeer peer;
        ModelStream stream;
} Client;

/* The clock and the faults of system calls, as the input wants them. */
typedef struct Circumstances {
        uint64_t later; /* µs that have passed without anybody waiting */
        Timer *timers[16];
        uint64_t times[16];
        size_t n_timers;
        bool interrupt_receive;
        bool interrupt_peek;
        bool interrupt_send;
        bool short_send; /* the next one takes a byte, and the one after it none */
        bool refuse_send;
        bool stick;   /* from the next one on, the connection takes nothing any more */
        int reset_fd; /* reads of it fail */
} Circumstances;

typedef struct World {
        Registry *registry;
        Loop *loop;
        int listener;
        int waiting;  /* the client that is to be accepted, or -1 */
        bool holding; /* the daemon is not run */
        size_t n_held;
        bool killed;
        Client clients[SCRIPT_CONNS];
} World;

static World world;
/* By the daemon's descriptor, which may outlive its client. */
static ScriptPeer peers[DESCRIPTORS_MAX];
static bool stuck[DESCRIPTORS_MAX];
static Circumstances now;
static Model model;
static ModelAnswer answer;
static Input input;

/* ---- System calls of the daemon ---- */

/* The linker gives these names (ld(1), --wrap). NOLINTBEGIN(bugprone-reserved-identifier) */
int __real_getsockname(int fd, struct sockaddr *address, socklen_t *len);
ssize_t __real_recv(int fd, void *data, size_t n, int flags);
ssize_t __real_send(int fd, const void *data, size_t n, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
uint64_t __real_loop_now(const Loop *loop);
void __real_timer_start(Timer *timer, uint64_t usec);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len);
ssize_t __wrap_recv(int fd, void *data, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t n, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
Owner __wrap_identity_of(Identity *identity, int fd, const Address *peer, uint64_t usec);
uint64_t __wrap_loop_now(const Loop *loop);
void __wrap_timer_start(Timer *timer, uint64_t usec);
int __wrap_loop_run(Loop *loop);
int __real_loop_run(Loop *loop);
void __wrap_log_event(Log *log, int priority, const LogFields *fields, const char *format, ...) _printf_(4, 5);
/* NOLINTEND(bugprone-reserved-identifier) */

static int fail_with(int error) {
        errno = error;
        return -1;
}

static uint64_t cookie_of(int fd) {
        uint64_t cookie = 0;
        socklen_t len = sizeof cookie;

        EXPECT(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0);
        return cookie;
}

/* The client whose connection the daemon has under that descriptor. */
static Client *client_at(int server_fd) {
        for (size_t i = 0; i < SCRIPT_CONNS; i++)
                if (world.clients[i].state != CLIENT_NONE && world.clients[i].server_fd == server_fd)
                        return &world.clients[i];
        return NULL;
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags) {
        Client *client = world.waiting >= 0 ? &world.clients[world.waiting] : NULL, *former;
        SocketAddress remote = {};
        uint64_t one;
        int pair[2];

        EXPECT(fd == world.listener && (flags & (SOCK_NONBLOCK | SOCK_CLOEXEC)) == (SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!client)
                return fail_with(EAGAIN);
        EXPECT(read(fd, &one, sizeof one) == sizeof one);
        EXPECT(socketpair(AF_UNIX, SOCK_STREAM | flags, 0, pair) == 0);
        former = client_at(pair[0]);
        if (former)
                former->server_fd = -1;
        EXPECT(pair[0] < DESCRIPTORS_MAX);
        if (pair[0] == now.reset_fd)
                now.reset_fd = -1;
        peers[pair[0]] = client->peer;
        stuck[pair[0]] = false;
        client->server_fd = pair[0];
        client->fd = pair[1];
        client->cookie = cookie_of(pair[0]);
        world.waiting = -1;
        if (!client->peer.unix_socket) {
                const Address from = {.family = AF_INET, .ip = {127 + !client->peer.local, 0, 0, 1}, .port = 50000};
                *len = address_to_socket(&from, &remote);
                memcpy(address, &remote, *len);
        } else
                *len = 0;
        return pair[0];
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len) {
        const Address own = {.family = AF_INET, .ip = {192, 0, 2, 1}, .port = PORT};
        SocketAddress socket;

        EXPECT(fd >= 0 && fd < DESCRIPTORS_MAX);
        if (peers[fd].unix_socket)
                return __real_getsockname(fd, address, len);
        *len = address_to_socket(&own, &socket);
        memcpy(address, &socket, *len);
        return 0;
}

ssize_t __wrap_recv(int fd, void *data, size_t n, int flags) {
        bool *interrupt = flags & MSG_PEEK ? &now.interrupt_peek : &now.interrupt_receive;

        EXPECT(flags & MSG_DONTWAIT);
        if (*interrupt) {
                *interrupt = false;
                return fail_with(EINTR);
        }
        return fd == now.reset_fd ? fail_with(ECONNRESET) : __real_recv(fd, data, n, flags);
}

/* Returns whether the fault is one that ends the call: what a call takes that is cut short is in *limit. */
static bool is_faulty_send(int fd, size_t *limit) {
        if (now.stick || stuck[fd]) {
                now.stick = false;
                stuck[fd] = true;
                errno = EAGAIN;
                return true;
        }
        if (now.interrupt_send) {
                now.interrupt_send = false;
                errno = EINTR;
                return true;
        }
        if (now.refuse_send) {
                now.refuse_send = false;
                errno = EAGAIN;
                return true;
        }
        if (now.short_send) {
                now.short_send = false;
                now.refuse_send = true;
                *limit = 1;
        }
        return false;
}

ssize_t __wrap_send(int fd, const void *data, size_t n, int flags) {
        EXPECT((flags & (MSG_DONTWAIT | MSG_NOSIGNAL)) == (MSG_DONTWAIT | MSG_NOSIGNAL));
        return is_faulty_send(fd, &n) ? -1 : __real_send(fd, data, n, flags);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
        struct msghdr copy = *message;
        struct iovec first = message->msg_iov[0];
        size_t limit = SIZE_MAX;

        EXPECT((flags & (MSG_DONTWAIT | MSG_NOSIGNAL)) == (MSG_DONTWAIT | MSG_NOSIGNAL));
        if (is_faulty_send(fd, &limit))
                return -1;
        if (limit < first.iov_len) {
                first.iov_len = limit;
                copy.msg_iov = &first;
                copy.msg_iovlen = 1;
        }
        return __real_sendmsg(fd, &copy, flags);
}

Owner __wrap_identity_of(Identity *identity, int fd, const Address *peer, uint64_t usec) {
        (void) identity;
        (void) peer;
        (void) usec;
        EXPECT(fd >= 0 && fd < DESCRIPTORS_MAX && peers[fd].local);
        return (Owner){
                .known = peers[fd].uid_known, .uid = peers[fd].uid, .unit = (const uint8_t *) "\x1b", .unit_len = 1};
}

/* Whatever is logged is fit for a terminal. */
void __wrap_log_event(Log *log, int priority, const LogFields *fields, const char *format, ...) {
        static char text[256 * 1024];
        va_list ap;
        int n;

        (void) log;
        (void) fields;
        EXPECT(priority >= LOG_EMERG && priority <= LOG_DEBUG);
        va_start(ap, format);
        n = vsnprintf(text, sizeof text, format, ap);
        va_end(ap);
        EXPECT(n > 0 && (size_t) n < sizeof text);
        for (const char *p = text; *p; p++)
                EXPECT((uint8_t) *p >= 0x20 && *p != 0x7f);
}

uint64_t __wrap_loop_now(const Loop *loop) {
        return __real_loop_now(loop) + now.later;
}

static void start_timer(Timer *timer, uint64_t usec) {
        __real_timer_start(timer, usec < now.later ? usec : usec - now.later);
}

void __wrap_timer_start(Timer *timer, uint64_t usec) {
        size_t i = 0;

        while (i < now.n_timers && now.timers[i] != timer)
                i++;
        EXPECT(i < ARRAY_SIZE(now.timers));
        now.n_timers += i == now.n_timers;
        now.timers[i] = timer;
        now.times[i] = usec;
        start_timer(timer, usec);
}

/* ---- What the daemon has done ---- */

static void run_daemon(void) {
        int turns = 0;

        while (!loop_has_ended(world.loop) && loop_turn(world.loop, 0) > 0)
                EXPECT(++turns < TURNS_MAX);
        world.killed |= loop_has_ended(world.loop);
}

/* All that a client has got by now. Returns whether it was told the end. */
static bool read_client(const Client *client, uint8_t reply[REPLY_MAX], size_t *ret_n) {
        *ret_n = 0;
        for (;;) {
                ssize_t n = __real_recv(client->fd, reply + *ret_n, REPLY_MAX - *ret_n, MSG_DONTWAIT);

                if (n < 0 && errno == EAGAIN)
                        return false;
                if (n <= 0)
                        return true;
                *ret_n += (size_t) n;
        }
}

/* A client got nothing, and has or has not been told the end. */
static void expect_silence(const Client *client, bool end) {
        static uint8_t reply[REPLY_MAX];
        size_t n;

        EXPECT(read_client(client, reply, &n) == end && n == 0);
}

static ModelPeer model_peer(const Client *client) {
        return (ModelPeer){
                .conn = (int) (client - world.clients),
                .fd = client->server_fd,
                .local = client->peer.local,
                .port = client->peer.unix_socket ? 4369 : PORT,
                .uid_known = client->peer.uid_known,
                .uid = client->peer.uid,
        };
}

static const Conn *conn_of(const Node *node) {
        return node_holder(node);
}

static void *holder_of_client(void *userdata, int number) {
        const Client *client = &world.clients[number];

        (void) userdata;
        EXPECT(client->state == CLIENT_REGISTERED);
        for (Node *node = registry_newest(world.registry); node; node = registry_older(node))
                if (conn_of(node)->fd == client->server_fd)
                        return node_holder(node);
        return NULL;
}

/* Each node and its connection know each other, and the connection is the one that it was. */
static void check_nodes(void) {
        for (const Node *node = registry_newest(world.registry); node; node = registry_older(node)) {
                const Conn *conn = conn_of(node);
                const Client *client = client_at(conn->fd);

                EXPECT(client && client->state == CLIENT_REGISTERED && client->cookie == cookie_of(conn->fd));
                EXPECT(conn->node == node && conn->state == CONN_REGISTERED && watch_is_on(&conn->watch) && !conn->output);
        }
}

static void check_all(void) {
        model_compare(&model, world.registry, holder_of_client, NULL);
        check_nodes();
        for (size_t i = 0; i < SCRIPT_CONNS; i++)
                if (world.clients[i].state == CLIENT_ASKING || world.clients[i].state == CLIENT_REGISTERED)
                        expect_silence(&world.clients[i], false);
}

/* ---- After the daemon was not run for a while ---- */

/* Which of several things it has seen first is up to the kernel: takes what has become of them from the registry. */
static void adopt(void) {
        static uint8_t reply[REPLY_MAX];
        size_t n;

        for (size_t i = 0; i < SCRIPT_CONNS; i++) {
                Client *client = &world.clients[i];

                if (client->state == CLIENT_NONE)
                        continue;
                client->state = CLIENT_DONE;
                for (const Node *node = registry_newest(world.registry); node; node = registry_older(node))
                        if (conn_of(node)->fd == client->server_fd)
                                client->state = CLIENT_REGISTERED;
                if (client->state == CLIENT_REGISTERED)
                        EXPECT(!read_client(client, reply, &n));
                else {
                        client->fd = safe_close(client->fd);
                        client->state = CLIENT_NONE;
                        client->server_fd = -1;
                }
        }
        run_daemon();
        model_adopt(&model, world.registry);
        for (size_t i = 0; i < model.n; i++)
                model.nodes[i].conn = (int) (client_at(model.nodes[i].fd) - world.clients);
}

/* Runs the daemon. Returns whether all should have gone well: without memory for something it is known what has become
 * of things, but not what should have. */
static bool settle(void) {
        run_daemon();
        if (!memory_failed)
                return true;
        memory_fail(0);
        if (!world.killed)
                adopt();
        return false;
}

static void let_go(void) {
        world.holding = false;
        world.n_held = 0;
        now.stick = now.short_send = now.refuse_send = false;
        run_daemon();
        memory_fail(0);
        if (world.killed)
                return;
        adopt();
        check_all();
}

/* ---- Operations ---- */

static void end_client(Client *client) {
        model_end(&model, (int) (client - world.clients));
        client->state = CLIENT_DONE;
}

static void check_reply(const uint8_t *reply, size_t n) {
        EXPECT(n == answer.n && memcmp(reply, answer.data, size_min(n, answer.creation_at)) == 0);
        if (answer.verdict == MODEL_STOP) {
                Client *stopped = &world.clients[answer.stopped];

                expect_silence(stopped, true);
                end_client(stopped);
        }
        if (answer.verdict == MODEL_EXIT) {
                for (int i = 0; i < SCRIPT_CONNS; i++)
                        model_end(&model, i);
                EXPECT(world.killed);
        }
}

/* The request of a client is complete, and the daemon has been run. */
static void check_request(Client *client, const uint8_t *body, size_t n, bool cut) {
        static uint8_t reply[REPLY_MAX];
        ModelPeer peer = model_peer(client);
        size_t reply_n;
        bool end = read_client(client, reply, &reply_n);

        if (stuck[client->server_fd]) {
                EXPECT(!end && reply_n == 0);
                client->state = CLIENT_DONE;
                return;
        }
        /* The daemon that ends does not wait for a socket without room for two bytes. */
        if (answer.verdict == MODEL_EXIT && cut)
                return;
        EXPECT(end == (answer.verdict != MODEL_REGISTERED || cut || client->stream.behind > 0));
        if (answer.verdict == MODEL_REGISTERED && cut) {
                /* A registration that cannot be told whole is none. */
                EXPECT(reply_n <= 1);
                client->state = CLIENT_DONE;
                adopt();
                return;
        }
        check_reply(reply, reply_n);
        if (answer.verdict == MODEL_REGISTERED) {
                model_register(&model, &peer, body, n, &answer, reply);
                client->state = CLIENT_REGISTERED;
                /* A registered node says nothing. */
                if (client->stream.behind > 0)
                        end_client(client);
        } else
                client->state = CLIENT_DONE;
}

/* Some bytes of a client arrive together. */
static void arrive(Client *client, const uint8_t *data, size_t n) {
        bool cut = now.short_send || now.refuse_send;
        ModelPeer peer = model_peer(client);
        int r;

        (void) __real_send(client->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (world.holding)
                return;
        r = client->state == CLIENT_ASKING ? model_read(&client->stream, data, n) : MODEL_INCOMPLETE;
        /* The few bytes of other replies always fit. */
        if (client->stream.n < 3 || !strchr("nd", client->stream.data[2]))
                now.stick = false;
        if (r == MODEL_COMPLETE)
                model_ask(&model, &peer, client->stream.data + 2, client->stream.n - 2, &answer);
        if (!settle())
                return;
        if (client->state == CLIENT_REGISTERED || r == MODEL_BROKEN) {
                expect_silence(client, true);
                end_client(client);
        } else if (r == MODEL_COMPLETE)
                check_request(client, client->stream.data + 2, client->stream.n - 2, cut);
}

static void close_client(Client *client) {
        if (client->state == CLIENT_NONE)
                return;
        if (client->state == CLIENT_REGISTERED && !world.holding)
                end_client(client);
        client->fd = safe_close(client->fd);
        client->state = CLIENT_NONE;
        if (!world.holding) {
                (void) settle();
                now.reset_fd = -1;
        }
        client->server_fd = -1;
}

static void open_client(Client *client, const ScriptPeer *peer) {
        const uint64_t one = 1;

        close_client(client);
        if (world.killed)
                return;
        *client = (Client){.state = CLIENT_ASKING, .fd = -1, .server_fd = -1, .peer = *peer};
        world.waiting = (int) (client - world.clients);
        EXPECT(write(world.listener, &one, sizeof one) == sizeof one);
        run_daemon();
        if (world.killed)
                client->state = CLIENT_NONE;
        else
                EXPECT(world.waiting < 0 && client->server_fd >= 0);
        if (!world.holding && !world.killed)
                (void) settle();
}

static void send_pieces(Client *client, const ScriptOperation *op) {
        size_t step = op->piece > 0 ? op->piece : op->n;

        if (client->state == CLIENT_NONE)
                open_client(client, &op->peer);
        for (size_t at = 0, i = 0; at < op->n && i < PIECES_MAX && !world.killed; at += step, i++)
                if (client->state != CLIENT_NONE)
                        arrive(client, op->data + at, size_min(step, op->n - at));
}

static void half_close(Client *client) {
        if (client->state == CLIENT_NONE)
                return;
        (void) shutdown(client->fd, SHUT_WR);
        if (world.holding || !settle() || client->state == CLIENT_DONE)
                return;
        expect_silence(client, true);
        end_client(client);
}

/* The deadline of every connection that is not registered passes. */
static void let_time_pass(void) {
        now.later += PACKET_TIMEOUT + USEC_PER_SEC;
        for (size_t i = 0; i < now.n_timers; i++)
                if (now.timers[i]->running)
                        start_timer(now.timers[i], now.times[i]);
        if (!settle())
                return;
        for (size_t i = 0; i < SCRIPT_CONNS && !world.holding; i++)
                if (world.clients[i].state == CLIENT_ASKING) {
                        expect_silence(&world.clients[i], true);
                        world.clients[i].state = CLIENT_DONE;
                }
}

static void cause_fault(uint8_t which) {
        switch (which % 6) {
        case 0:
                now.interrupt_receive = now.interrupt_peek = true;
                break;
        case 1:
                now.interrupt_send = true;
                break;
        case 2:
                now.short_send = true;
                break;
        case 3:
                let_time_pass();
                break;
        case 4:
                now.stick = true;
                break;
        default:
                memory_fail(1 + which / 6 % MEMORY_FAULTS);
        }
}

static void perform(const ScriptOperation *op) {
        Client *client = &world.clients[op->conn];

        switch (op->kind) {
        case SCRIPT_OPEN:
                open_client(client, &op->peer);
                break;
        case SCRIPT_SEND:
                send_pieces(client, op);
                break;
        case SCRIPT_RESET:
                if (client->state != CLIENT_NONE)
                        now.reset_fd = client->server_fd;
                close_client(client);
                break;
        case SCRIPT_CLOSE:
                close_client(client);
                break;
        case SCRIPT_HALF_CLOSE:
                half_close(client);
                break;
        case SCRIPT_FAULT:
                cause_fault(op->fault);
                break;
        default:
                world.holding = true;
        }
}

/* In the place of the loop: runs it after each operation, until nothing more happens. */
int __wrap_loop_run(Loop *loop) {
        ScriptOperation op;

        world.loop = loop;
        for (size_t i = 0; i < OPERATIONS_MAX && !world.killed && script_next(&input, &op); i++) {
                bool was_holding = world.holding;

                perform(&op);
                if (was_holding && (op.kind == SCRIPT_HOLD || op.kind == SCRIPT_RESTART || op.kind == SCRIPT_FAULT ||
                                    ++world.n_held > 8))
                        let_go();
                if (!world.holding && !world.killed)
                        check_all();
        }
        return world.killed ? __real_loop_run(loop) : 0;
}

/* ---- The whole ---- */

static bool no_user(const char *user, size_t n, uint32_t *ret) {
        (void) user;
        (void) n;
        (void) ret;
        return false;
}

static int lowest_free_fd(void) {
        int fd = dup(STDERR_FILENO);

        safe_close(fd);
        return fd;
}

static void serve(bool relaxed, int verbosity) {
        const char *bad;
        size_t len;
        Reserve reserve;
        Allow allow;
        ServerEnd end;
        Server *server = NULL;
        Service *service = NULL;
        Log *log = NULL;
        ServerParts parts;
        const ServiceConfig service_config = {.relaxed = relaxed,
                                              .default_port = 4369,
                                              .own_uid = MODEL_SELF,
                                              .user_nodes_max = USER_NODES_MAX,
                                              .reserve = &reserve};
        const ServerConfig config = {.connections_max = CONNECTIONS_MAX,
                                     .allow = &allow,
                                     .allow_text = "any",
                                     .packet_timeout = PACKET_TIMEOUT};

        EXPECT(reserve_parse(MODEL_RESERVE, no_user, &reserve, &bad, &len) == 0);
        EXPECT(allow_parse("any", &allow, &bad, &len) == 0);
        EXPECT(registry_new(config.seed, 4, NODES_MAX, NULL, &world.registry) == 0);
        EXPECT(service_new(world.registry, &service_config, &service) == 0);
        EXPECT(log_new(verbosity, &log) == 0);
        parts = (ServerParts){.registry = world.registry, .service = service, .log = log};
        EXPECT(server_new(&config, &parts, &server) == 0);
        world.listener = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
        EXPECT(world.listener >= 0 && server_add_listener(server, world.listener, "epmd") == 0);
        EXPECT(server_run(server, &end) == 0);
        memory_fail(0);
        for (size_t i = 0; i < SCRIPT_CONNS; i++)
                if (world.clients[i].state != CLIENT_NONE)
                        safe_close(world.clients[i].fd);
        server_free(server);
        service_free(service);
        registry_free(world.registry);
        log_free(log);
        allow_done(&allow);
        reserve_done(&reserve);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        int before = lowest_free_fd();
        uint8_t flags;
        sigset_t signals;

        memory_fail(0);
        input = input_of(data, size);
        flags = input_u8(&input);
        memset(&world, 0, sizeof world);
        now = (Circumstances){.reset_fd = -1};
        world.waiting = -1;
        model_init(&model, flags & 1, NODES_MAX, USER_NODES_MAX);
        (void) sigprocmask(SIG_SETMASK, NULL, &signals);
        serve(flags & 1, flags >> 1 & 3);
        (void) sigprocmask(SIG_SETMASK, &signals, NULL);
        EXPECT(lowest_free_fd() == before);
        return 0;
}
