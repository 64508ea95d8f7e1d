/* SPDX-License-Identifier: Apache-2.0 */
#include "server.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>
#include <time.h>

#include "acceptor.h"
#include "conn.h"
#include "deadlines.h"
#include "escape.h"
#include "systemd.h"

enum {
        LISTINGS_MAX = 8,       /* versions of a listing that slow readers may keep alive */
        HEX_DUMP_MAX = 256,     /* bytes of a packet shown with -d -d */
        LIMIT_LOG_SECONDS = 10, /* between two messages about running out of room */
        RELOAD_GRACE_MSEC = 500, /* for requests under way when a new program is to take over */
};

struct Server {
        ServerConfig config;
        Registry *registry; /* not ours, as the next three */
        Service *service;
        Store *store; /* NULL: nothing outlives the process */
        Log *log;

        sd_event *event;
        Acceptor *acceptor;
        Deadlines waiting; /* connections that are not registered */
        size_t n_conns;    /* all of them */

        Listing *unsent[LISTINGS_MAX]; /* the versions that some connection still sends, a ring */
        size_t next_unsent;

        sd_event_source *status_timer; /* armed: a change waits to be told to the service manager */
        uint64_t status_time;          /* of the last STATUS= */
        sd_event_source *idle_timer;
        uint64_t active_time;    /* when something was last done for a peer */
        uint64_t limit_log_time; /* of the last message about a limit; 0: none */
        uint64_t unkept_log_time; /* and about a node that would not survive a restart */
        sd_event_source *reload_timer; /* armed: a new program is to take over when the requests under way are done */
        uint64_t reload_deadline;

        uint8_t scratch[PROTO_PACKET_MAX];
};

static void receive(Server *server, Conn *conn);

static uint64_t now_usec(const Server *server) {
        uint64_t now = 0;

        (void) sd_event_now(server->event, CLOCK_MONOTONIC, &now);
        return now;
}

static uint64_t now_realtime(const Server *server) {
        uint64_t now = 0;

        (void) sd_event_now(server->event, CLOCK_REALTIME, &now);
        return now;
}

/* Whether it is time for one more message of a kind that could come with every connection. */
static bool may_log(const Server *server, uint64_t *last) {
        uint64_t now = now_usec(server);

        if (*last > 0 && now < *last + LIMIT_LOG_SECONDS * USEC_PER_SEC)
                return false;
        *last = now;
        return true;
}

/* ---- What the service manager is told ---- */

static void notify_status(Server *server) {
        size_t nodes = registry_count(server->registry), others = server->n_conns - nodes;

        server->status_time = now_usec(server);
        systemd_notify("STATUS=%zu %s registered, %zu other %s", nodes, nodes == 1 ? "node" : "nodes", others,
                       others == 1 ? "connection" : "connections");
}

static int on_status_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        (void) source;
        (void) usec;
        notify_status(userdata);
        return 0;
}

/* Tells the new counts, at most once a second. */
static void status_changed(Server *server) {
        int enabled = SD_EVENT_OFF;

        (void) sd_event_source_get_enabled(server->status_timer, &enabled);
        if (enabled != SD_EVENT_OFF)
                return;
        (void) sd_event_source_set_time(server->status_timer, server->status_time + USEC_PER_SEC);
        (void) sd_event_source_set_enabled(server->status_timer, SD_EVENT_ONESHOT);
}

/* ---- Idle exit ---- */

/* A request that was served without waiting leaves no trace but active_time, so the timer asks again. */
static int on_idle_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Server *server = userdata;
        uint64_t due = server->active_time + server->config.idle_timeout;

        (void) usec;
        if (server->n_conns > 0)
                due = now_usec(server) + server->config.idle_timeout;
        if (due <= now_usec(server)) {
                log_message(server->log, LOG_INFO, "Nothing to do for %g seconds, ending",
                            (double) server->config.idle_timeout / (double) USEC_PER_SEC);
                return sd_event_exit(server->event, SERVER_END_IDLE);
        }
        (void) sd_event_source_set_time(source, due);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* ---- A new program ---- */

static bool is_reloading(const Server *server) {
        int enabled = SD_EVENT_OFF;

        if (server->reload_timer)
                (void) sd_event_source_get_enabled(server->reload_timer, &enabled);
        return enabled != SD_EVENT_OFF;
}

static int on_reload_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Server *server = userdata;
        int r;

        (void) usec;
        if (server->waiting.count > 0 && now_usec(server) < server->reload_deadline) {
                (void) sd_event_source_set_time_relative(source, 10 * USEC_PER_MSEC);
                return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        }
        r = server->config.reload(server->config.reload_userdata);
        (void) log_failure(server->log, r, "Failed to start the new program, going on with this one");
        acceptor_resume(server->acceptor);
        systemd_notify("READY=1");
        return 0;
}

/* SIGHUP: lets the requests under way come to their end, for a while, then has the new program take over. */
static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        Server *server = userdata;

        (void) source;
        (void) info;
        if (is_reloading(server))
                return 0;
        if (!server->store || !server->config.reload) {
                log_message(server->log, LOG_WARNING, "Not reloading: registrations would be lost, as the unit has no "
                                                      "RuntimeDirectory= or no FileDescriptorStoreMax=");
                return 0;
        }
        systemd_notify("RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec(server));
        acceptor_pause(server->acceptor);
        server->reload_deadline = now_usec(server) + RELOAD_GRACE_MSEC * USEC_PER_MSEC;
        (void) sd_event_source_set_time(server->reload_timer, now_usec(server));
        return sd_event_source_set_enabled(server->reload_timer, SD_EVENT_ONESHOT);
}

/* ---- Messages ---- */

static LogFields fields_of(const Conn *conn, const NodeInfo *node) {
        return (LogFields){
                .peer = &conn->peer.address,
                .node = node ? node->name : NULL,
                .node_len = node ? node->name_len : 0,
                .port = node ? node->port : 0,
        };
}

/* A debug message about a connection. */
static void log_conn(Server *server, const Conn *conn, int verbosity, const char *what) {
        LogFields fields = fields_of(conn, NULL);
        char peer[ADDRESS_TEXT_MAX];

        if (log_verbosity(server->log) >= verbosity)
                log_event(server->log, LOG_DEBUG, &fields, "%s: %s", address_format(&conn->peer.address, peer), what);
}

static void log_packet(Server *server, const Conn *conn, const char *what, const uint8_t *data, size_t n) {
        char hex[3 * HEX_DUMP_MAX + 64];
        int len;

        if (log_verbosity(server->log) < VERBOSITY_PACKETS)
                return;
        len = snprintf(hex, sizeof hex, "%s %zu bytes:", what, n);
        for (size_t i = 0; i < size_min(n, HEX_DUMP_MAX); i++)
                len += snprintf(hex + len, sizeof hex - (size_t) len, " %02x", data[i]);
        log_conn(server, conn, VERBOSITY_PACKETS, hex);
}

static void log_table(Server *server) {
        char name[ESCAPED_NAME_MAX];

        if (log_verbosity(server->log) < VERBOSITY_TABLES)
                return;
        log_message(server->log, LOG_DEBUG, "%zu registered, %zu remembered", registry_count(server->registry),
                    registry_released_count(server->registry));
        for (const Node *node = registry_newest(server->registry); node; node = registry_older(node)) {
                NodeInfo info = node_info(node);
                log_message(server->log, LOG_DEBUG, "  %s at port %u, creation %u, fd %d",
                            escape_text(info.name, info.name_len, name, sizeof name), info.port, node_creation(node),
                            node_fd(node));
        }
}

static void log_registered(Server *server, const Conn *conn) {
        NodeInfo info = node_info(conn->node);
        LogFields fields = fields_of(conn, &info);
        char name[ESCAPED_NAME_MAX];

        log_event(server->log, LOG_INFO, &fields, "Registered %s at port %u",
                  escape_text(info.name, info.name_len, name, sizeof name), info.port);
        log_table(server);
}

static void log_refused(Server *server, const Conn *conn, const Response *response) {
        const NodeInfo *info = &response->request.node;
        LogFields fields = fields_of(conn, info);
        char name[ESCAPED_NAME_MAX], peer[ADDRESS_TEXT_MAX];

        log_event(server->log, LOG_NOTICE, &fields, "Refused to register %s at port %u for %s: %s",
                  escape_text(info->name, info->name_len, name, sizeof name), info->port,
                  address_format(&conn->peer.address, peer), refusal_text(response->refusal));
}

static void log_request(Server *server, const Conn *conn, const Response *response) {
        char name[ESCAPED_NAME_MAX], text[ESCAPED_NAME_MAX + 32];

        if (log_verbosity(server->log) < VERBOSITY_DEBUG)
                return;
        escape_text(response->request.node.name, response->request.node.name_len, name, sizeof name);
        if (response->request.tag == 0)
                (void) snprintf(text, sizeof text, "not a request, closing");
        else
                (void) snprintf(text, sizeof text, "%s%s%s%s", proto_tag_name(response->request.tag),
                                response->request.node.name ? " " : "", name,
                                response->len == 0 ? ", not allowed" : "");
        log_conn(server, conn, VERBOSITY_DEBUG, text);
}

/* ---- The end of a connection ---- */

/* The name of a connection is free from here on. Its peer may still be there, and others hold duplicates of the
 * connection, so closing it would not reach the peer. */
static void unregister(Server *server, Conn *conn, const char *why) {
        NodeInfo info = node_info(conn->node);
        LogFields fields = fields_of(conn, &info);
        uint32_t slot = node_slot(conn->node);
        char name[ESCAPED_NAME_MAX];

        log_event(server->log, LOG_INFO, &fields, "Unregistered %s at port %u: %s",
                  escape_text(info.name, info.name_len, name, sizeof name), info.port, why);
        registry_remove(server->registry, TAKE_PTR(conn->node));
        if (server->store)
                store_drop(server->store, slot);
        conn->source = sd_event_source_disable_unref(conn->source);
        (void) shutdown(conn->fd, SHUT_RDWR);
        status_changed(server);
        log_table(server);
}

static void end_conn(Server *server, Conn *conn, const char *why) {
        log_conn(server, conn, VERBOSITY_PACKETS, why);
        if (conn->node)
                unregister(server, conn, why);
        if (conn->source)
                status_changed(server);
        deadlines_remove(&server->waiting, conn);
        conn_free(conn);
        server->n_conns--;
        server->active_time = now_usec(server);
        if (server->n_conns < server->config.connections_max && !is_reloading(server))
                acceptor_resume(server->acceptor);
}

static void on_expired(Conn *conn) {
        end_conn(conn->owner, conn, "time-out");
}

/* ---- Waiting for more of a connection ---- */

static int on_conn(sd_event_source *source, int fd, uint32_t revents, void *userdata);

/* Leaves the connection to the event loop until one of the events. Edge-triggered, so that many that become ready
 * together are cheap; whoever handles an event reads or writes until nothing is left.
 * Returns 0, or a negative errno: the connection cannot be kept. */
static int wait_for(Server *server, Conn *conn, uint32_t events) {
        int r;

        events |= EPOLLET | EPOLLRDHUP;
        if (conn->source)
                r = sd_event_source_set_io_events(conn->source, events);
        else {
                r = sd_event_add_io(server->event, &conn->source, conn->fd, events, on_conn, conn);
                status_changed(server);
        }
        if (r < 0) {
                (void) log_failure(server->log, r, "Failed to wait for a connection, closing it");
                return r;
        }
        if (conn->state == CONN_REGISTERED)
                deadlines_remove(&server->waiting, conn);
        else if (!deadlines_has(&server->waiting, conn))
                deadlines_add(&server->waiting, conn);
        return 0;
}

static void wait_or_end(Server *server, Conn *conn, uint32_t events) {
        if (wait_for(server, conn, events) < 0)
                end_conn(server, conn, "out of resources");
}

/* Everything was sent. What the peer has sent in the meantime must be read before the socket is closed, or the kernel
 * resets the connection and the reply may be lost with it. */
static void finish(Server *server, Conn *conn) {
        if (conn_discard(conn, server->scratch) != CONN_EXCESS) {
                end_conn(server, conn, "answered");
                return;
        }
        (void) shutdown(conn->fd, SHUT_WR);
        conn->state = CONN_LINGERING;
        wait_or_end(server, conn, EPOLLIN);
}

/* ---- Sending ---- */

/* A slow reader keeps its version of a listing alive. To bound what all of them together can keep, the readers of
 * the oldest version lose their connections when there are too many versions. */
static void keep_unsent(Server *server, Listing *listing) {
        Listing *oldest;
        Conn *conn, *next;

        for (size_t i = 0; i < LISTINGS_MAX; i++)
                if (server->unsent[i] == listing)
                        return;
        oldest = server->unsent[server->next_unsent];
        for (conn = oldest ? server->waiting.first : NULL; conn; conn = next) {
                next = conn->later;
                if (conn_is_sending(conn, oldest))
                        end_conn(server, conn, "too slow a reader");
        }
        listing_unref(oldest);
        server->unsent[server->next_unsent] = listing_ref(listing);
        server->next_unsent = (server->next_unsent + 1) % LISTINGS_MAX;
}

/* Sends the reply of a connection that is to be closed after it. */
static void reply_and_finish(Server *server, Conn *conn, const Response *response) {
        int r;

        conn->state = CONN_SENDING;
        r = conn_send(conn, response->data, response->len, response->listing);
        if (r == 0)
                finish(server, conn);
        else if (r == CONN_WAIT) {
                if (response->listing)
                        keep_unsent(server, response->listing);
                wait_or_end(server, conn, EPOLLOUT);
        } else
                end_conn(server, conn, ERR_TEXT(r));
}

/* Makes the registration outlive this process. If that fails the node is served all the same. */
static void keep(Server *server, const Conn *conn) {
        int r;

        if (!server->store)
                return;
        r = store_keep(server->store, node_slot(conn->node), node_counter(conn->node), conn->fd);
        if (r == 0 || !may_log(server, &server->unkept_log_time))
                return;
        log_message(server->log, LOG_WARNING,
                    "Some nodes will have to register again when epmd restarts, there is no room to keep them: %s",
                    r < 0 ? ERR_TEXT(r) : "/run is full, or too many descriptors are in flight");
}

/* Keeps the connection of a node that has just been registered, then tells it so: only what is stored is
 * acknowledged. */
static void keep_registered(Server *server, Conn *conn, const Response *response) {
        int r;

        conn->node = response->node;
        conn->state = CONN_REGISTERED;
        frame_done(&conn->frame);
        r = wait_for(server, conn, EPOLLIN);
        if (r >= 0) {
                keep(server, conn);
                log_registered(server, conn);
                r = conn_send(conn, response->data, response->len, NULL);
        }
        /* A fresh connection has room for eight bytes; if not, its peer could not read them in one piece. */
        if (r != 0)
                end_conn(server, conn, r < 0 ? ERR_TEXT(r) : "does not take the reply");
}

/* ---- Requests ---- */

/* The connection that holds a node's name. */
static Conn *holder_of(const Node *node) {
        return node_holder(node);
}

/* Asks the service. A name counts as taken only while its holder lives: a node that restarts can be here before the
 * end of its former connection was read. */
static int ask_service(Server *server, Conn *conn, const uint8_t *body, size_t n, Response *ret) {
        const Holder holder = {
                .connection = conn,
                .fd = conn->fd,
                /* A system call that only registrations need. */
                .cookie = server->store && body[0] == TAG_ALIVE2_REQ ? conn_cookie(conn) : 0,
        };
        uint64_t now = now_realtime(server);
        int r = service_handle(server->service, &conn->peer, body, n, &holder, now, ret);

        if (r < 0 || ret->refusal != REFUSAL_TAKEN || !conn_is_gone(holder_of(ret->node)))
                return r;
        end_conn(server, holder_of(ret->node), "connection closed");
        return service_handle(server->service, &conn->peer, body, n, &holder, now, ret);
}

/* Whoever ends the daemon by request ends the registrations too; nothing is to come back with the next one. */
static void end_nodes(Server *server, const char *why) {
        Node *node;

        while ((node = registry_newest(server->registry)))
                end_conn(server, holder_of(node), why);
}

static void delay(unsigned seconds) {
        struct timespec left = {.tv_sec = seconds};

        while (seconds > 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
                ;
}

static void handle_request(Server *server, Conn *conn, const uint8_t *body, size_t n) {
        Response response;

        log_packet(server, conn, "request of", body, n);
        if (ask_service(server, conn, body, n, &response) < 0) {
                log_message(server->log, LOG_ERR, "No memory for a reply, closing its connection");
                end_conn(server, conn, "out of memory");
                return;
        }
        log_request(server, conn, &response);
        if (response.len == 0) {
                end_conn(server, conn, "request not allowed");
                return;
        }
        delay(server->config.delay_write);
        log_packet(server, conn, "reply of", response.data, response.len);
        switch (response.verdict) {
        case VERDICT_REGISTERED:
                keep_registered(server, conn, &response);
                return;
        case VERDICT_REFUSED:
                log_refused(server, conn, &response);
                break;
        case VERDICT_STOP:
                end_conn(server, holder_of(response.node), "stopped by request");
                break;
        case VERDICT_EXIT:
                log_message(server->log, LOG_NOTICE, "Ending as a client of this host asked for it");
                end_nodes(server, "epmd was told to end");
                (void) sd_event_exit(server->event, SERVER_END_KILLED);
                break;
        case VERDICT_CLOSE:
                break;
        }
        reply_and_finish(server, conn, &response);
}

static void receive(Server *server, Conn *conn) {
        const uint8_t *body;
        size_t n;
        int r = conn_receive(conn, server->scratch, &body, &n);

        if (r == CONN_REQUEST)
                handle_request(server, conn, body, n);
        else if (r == 0)
                wait_or_end(server, conn, EPOLLIN);
        else
                end_conn(server, conn, r == CONN_CLOSED ? "closed before a request was complete"
                                       : r < 0          ? ERR_TEXT(r)
                                                        : "not a request");
}

/* ---- Events ---- */

static void go_on_sending(Server *server, Conn *conn) {
        int r = conn_flush(conn);

        if (r == 0)
                finish(server, conn);
        else if (r < 0)
                end_conn(server, conn, ERR_TEXT(r));
}

/* Nothing is expected of a registered node, and of one that has its reply, but the end. */
static void listen_for_end(Server *server, Conn *conn) {
        int r = conn_discard(conn, server->scratch);

        if (r == 0 || (r == CONN_EXCESS && conn->state == CONN_LINGERING))
                return;
        end_conn(server, conn, r == CONN_CLOSED  ? "connection closed"
                               : r == CONN_EXCESS ? "it sent data"
                                                  : "connection reset");
}

static int on_conn(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Conn *conn = userdata;
        Server *server = conn->owner;

        (void) source;
        (void) fd;
        (void) revents;
        server->active_time = now_usec(server);
        switch (conn->state) {
        case CONN_RECEIVING:
                receive(server, conn);
                break;
        case CONN_SENDING:
                go_on_sending(server, conn);
                break;
        case CONN_LINGERING:
        case CONN_REGISTERED:
                listen_for_end(server, conn);
                break;
        }
        return 0;
}

/* Says that a limit was reached, but not again for every connection. */
static void log_limit(Server *server, const char *what) {
        if (!may_log(server, &server->limit_log_time))
                return;
        log_message(server->log, LOG_WARNING,
                    "No new connections until others end: %s, with %zu open; raise LimitNOFILE= of the service", what,
                    server->n_conns);
}

static void on_accept_error(void *userdata, int error) {
        log_limit(userdata, ERR_TEXT(error));
}

/* Serves a new connection at once: most have sent their request by now and never need to wait. */
static void on_accept(void *userdata, int fd, const SocketAddress *remote) {
        _cleanup_close_ int owned = fd;
        Server *server = userdata;
        uint64_t now = now_usec(server);
        Conn *conn;
        Peer peer;

        delay(server->config.delay_accept);
        server->active_time = now;
        if (peer_from_connection(fd, remote, &peer) < 0 ||
            conn_new(fd, &peer, now + server->config.packet_timeout, server, &conn) < 0)
                return;
        (void) TAKE_FD(owned);
        server->n_conns++;
        if (server->n_conns >= server->config.connections_max) {
                log_limit(server, "the limit of descriptors is near");
                acceptor_pause(server->acceptor);
        }
        log_conn(server, conn, VERBOSITY_PACKETS, "connected");
        receive(server, conn);
}

/* ---- The whole ---- */

static int add_timer(Server *server, sd_event_time_handler_t handler, sd_event_source **ret) {
        int r = sd_event_add_time(
                server->event, ret, CLOCK_MONOTONIC, UINT64_MAX, 100 * USEC_PER_MSEC, handler, server);

        return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

static int add_signals(Server *server) {
        sigset_t hangup;
        int r;

        r = sd_event_set_signal_exit(server->event, true);
        if (r < 0)
                return r;
        (void) sigemptyset(&hangup);
        (void) sigaddset(&hangup, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &hangup, NULL) < 0)
                return -errno;
        return sd_event_add_signal(server->event, NULL, SIGHUP, on_hangup, server);
}

/* Makes a server without listening sockets. The registry, the service, the store and the log stay the caller's and
 * must outlive it; store may be NULL. SIGTERM and SIGINT end its loop; where the service manager asks for it, its
 * watchdog is served. *ret is the caller's. Returns 0 or a negative errno. */
int server_new(const ServerConfig *config, Registry *registry, Service *service, Store *store, Log *log,
               Server **ret) {
        _cleanup_(server_freep) Server *server = calloc(1, sizeof *server);
        int r;

        if (!server)
                return -ENOMEM;
        server->config = *config;
        server->registry = registry;
        server->service = service;
        server->store = store;
        server->log = log;
        /* Not the thread's default loop: that one asks for the thread's id at every turn. */
        r = sd_event_new(&server->event);
        if (r < 0)
                return r;
        r = deadlines_init(&server->waiting, server->event, on_expired);
        if (r < 0)
                return r;
        r = acceptor_new(server->event, on_accept, on_accept_error, server, &server->acceptor);
        if (r < 0)
                return r;
        r = add_timer(server, on_status_timer, &server->status_timer);
        if (r < 0)
                return r;
        r = add_timer(server, on_idle_timer, &server->idle_timer);
        if (r < 0)
                return r;
        r = add_timer(server, on_reload_timer, &server->reload_timer);
        if (r < 0)
                return r;
        r = add_signals(server);
        if (r < 0)
                return r;
        r = sd_event_set_watchdog(server->event, true);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(server);
        return 0;
}

/* Neither the table nor the peers learn of this: what is stored lives on. */
static void free_conns(Server *server) {
        Conn *conn;

        while ((conn = server->waiting.first)) {
                deadlines_remove(&server->waiting, conn);
                conn_free(conn);
        }
        for (Node *node = registry_newest(server->registry); node; node = registry_older(node))
                conn_free(holder_of(node));
}

/* Closes everything; the nodes in the registry have no connection any more. Always returns NULL. */
Server *server_free(Server *server) {
        if (!server)
                return NULL;
        free_conns(server);
        for (size_t i = 0; i < LISTINGS_MAX; i++)
                listing_unref(server->unsent[i]);
        acceptor_free(server->acceptor);
        deadlines_done(&server->waiting);
        sd_event_source_disable_unref(server->status_timer);
        sd_event_source_disable_unref(server->idle_timer);
        sd_event_source_disable_unref(server->reload_timer);
        sd_event_unref(server->event);
        free(server);
        return NULL;
}

/* ---- What an earlier process has left ---- */

/* Makes the connection of a node that an earlier process has registered; the descriptor is the server's from here
 * on. A peer that is gone by now is unregistered before anyone can ask for it.
 * Returns whether the record has been dealt with; ret_registered: by registering it. */
static bool adopt(Server *server, uint32_t slot, const TableRecord *record, int fd, bool *ret_registered) {
        _cleanup_close_ int owned = fd;
        SocketAddress remote = {};
        socklen_t len = sizeof remote;
        Holder holder = {.fd = fd, .cookie = record->cookie};
        Conn *conn;
        Peer peer;

        if (getpeername(fd, &remote.any, &len) < 0 || peer_from_connection(fd, &remote, &peer) < 0 ||
            conn_new(fd, &peer, 0, server, &conn) < 0) {
                (void) shutdown(fd, SHUT_RDWR);
                return false;
        }
        (void) TAKE_FD(owned);
        holder.connection = conn;
        conn->state = CONN_REGISTERED;
        server->n_conns++;
        if (registry_restore(server->registry, slot, record, &holder, &conn->node) != 0) {
                (void) shutdown(fd, SHUT_RDWR);
                end_conn(server, conn, "could not be restored");
                return true;
        }
        *ret_registered = !conn_is_gone(conn) && wait_for(server, conn, EPOLLIN) >= 0;
        if (!*ret_registered)
                end_conn(server, conn, "it ended while epmd was not running");
        return true;
}

static bool on_record(void *userdata, uint32_t slot, const TableRecord *record, int fd) {
        Server *server = userdata;
        bool registered = false;

        if (fd < 0 || !adopt(server, slot, record, fd, &registered))
                (void) registry_restore(server->registry, slot, record, NULL, NULL);
        return registered;
}

static void log_report(Server *server, const StoreReport *report) {
        if (report->foreign)
                log_message(server->log, LOG_WARNING, "The state that the former epmd has left is of another version, "
                                                      "beginning without it; nodes of OTP 23.3 and later register "
                                                      "again by themselves");
        if (report->damaged > 0 || report->mismatched > 0)
                log_message(server->log, LOG_WARNING,
                            "Of the state that the former epmd has left, %zu damaged records and %zu connections that "
                            "do not belong to their record were dropped",
                            report->damaged, report->mismatched);
        if (report->restored > 0 || report->released > 0)
                log_message(server->log, LOG_INFO, "Restored %zu nodes; %zu more have ended meanwhile",
                            report->restored, report->released);
}

/* Takes over what an earlier process has left in the store, and tells the log. report: as store_new() filled it.
 * Returns 0, or a negative errno after which some nodes are missing. */
int server_restore(Server *server, StoreReport *report) {
        int r = store_restore(server->store, on_record, server, report);

        log_report(server, report);
        return r;
}

/* Serves a listening, non-blocking socket, which is the server's from here on; name: under which a successor gets it.
 * Returns as acceptor_add(). */
int server_add_listener(Server *server, int fd, const char *name) {
        return acceptor_add(server->acceptor, fd, name);
}

/* Adds duplicates of the listening sockets to what a successor is to be passed. Returns 0 or a negative errno. */
int server_pass_on(const Server *server, PassedSockets *sockets) {
        return acceptor_pass_on(server->acceptor, sockets);
}

/* Tells the service manager that the sockets are served, and serves them until a signal, a request or idleness ends
 * it. Returns 0 with the reason in *ret, or a negative errno. */
int server_run(Server *server, ServerEnd *ret) {
        int r;

        systemd_notify("READY=1");
        notify_status(server);
        if (server->config.idle_timeout > 0) {
                r = sd_event_source_set_time_accuracy(server->idle_timer, server->config.idle_timeout / 10 + 1);
                if (r < 0)
                        return r;
                r = sd_event_source_set_time_relative(server->idle_timer, server->config.idle_timeout);
                if (r < 0)
                        return r;
                r = sd_event_source_set_enabled(server->idle_timer, SD_EVENT_ONESHOT);
                if (r < 0)
                        return r;
        }
        r = sd_event_loop(server->event);
        if (r < 0)
                return r;
        systemd_notify("STOPPING=1\nSTATUS=Ending");
        log_message(server->log, LOG_INFO, "Ending, with %zu nodes registered", registry_count(server->registry));
        *ret = (ServerEnd) r;
        return 0;
}
