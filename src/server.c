/* SPDX-License-Identifier: Apache-2.0 */
#include "server.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "acceptor.h"
#include "channels.h"
#include "clock.h"
#include "conn.h"
#include "events.h"
#include "loop.h"
#include "notifier.h"
#include "pending.h"
#include "systemd.h"
#include "varlink.h"

enum {
        LISTINGS_MAX = 8,       /* versions of a listing that slow readers may keep alive */
        LOCAL_PLACES = 16,      /* of all connections are for peers of this host alone */
        LOCAL_DIVISOR = 8,      /* but no more than an eighth */
        LISTENERS_TEXT_MAX = 512,
        RELOAD_GRACE_MSEC = 500, /* for requests under way when a new program is to take over */
};

struct Server {
        ServerConfig config;
        Registry *registry; /* not ours, as the next four */
        Service *service;
        Store *store;       /* or NULL */
        Identity *identity; /* or NULL */
        Log *log;
        Events *events;
        Varlink *varlink;
        Channels *channels; /* of its clients */
        Stats stats;
        uint64_t started; /* realtime */

        Loop *loop;
        Acceptor *acceptor;
        Allow local_only; /* for sockets whose name says so, as the next two */
        Allow private_only;
        Allow anyone;
        Pending *pending; /* connections that are not registered */
        size_t n_conns;   /* all of them */
        bool limit_said;  /* the log was told that there is no more room */

        Listing *unsent[LISTINGS_MAX]; /* the versions that some connection still sends, a ring */
        size_t next_unsent;

        Notifier notifier;
        Timer idle_timer;
        uint64_t active_time; /* when something was last done for a peer */
        Timer end_timer;      /* runs: the daemon has been told to end */
        Timer reload_timer;   /* runs: a new program is to take over when the requests under way are done */
        uint64_t reload_deadline;

        uint8_t scratch[PROTO_PACKET_MAX];
};

static void receive(Server *server, Conn *conn);
static void on_conn(Watch *watch, uint32_t events);

static uint64_t now_usec(const Server *server) {
        return loop_now(server->loop);
}

/* ---- What the service manager is told ---- */

static bool on_status(void *userdata, char *text, size_t size) {
        Server *server = userdata;
        size_t nodes = registry_count(server->registry), others = server->n_conns - nodes;

        (void) snprintf(text, size, "%zu %s registered, %zu other %s", nodes, nodes == 1 ? "node" : "nodes", others,
                        others == 1 ? "connection" : "connections");
        return events_tell_held_back(server->events, now_usec(server));
}

/* ---- Idle exit ---- */

/* A request that was served without waiting leaves no trace but active_time, so the timer asks again. */
static void on_idle_timer(void *userdata) {
        Server *server = userdata;
        uint64_t due = server->active_time + server->config.idle_timeout;

        if (server->n_conns + channels_count(server->channels) > 0)
                due = now_usec(server) + server->config.idle_timeout;
        if (due <= now_usec(server)) {
                events_idle(server->events, server->config.idle_timeout);
                loop_end(server->loop, SERVER_END_IDLE);
        } else
                timer_start(&server->idle_timer, due);
}

/* ---- A new program ---- */

static void on_reload_timer(void *userdata) {
        Server *server = userdata;
        int r;

        if (pending_count(server->pending) > 0 && now_usec(server) < server->reload_deadline) {
                timer_start(&server->reload_timer, now_usec(server) + 10 * USEC_PER_MSEC);
                return;
        }
        /* One of them may have been KILL_REQ. */
        if (!server->end_timer.running) {
                r = server->config.reload(server->config.reload_userdata);
                (void) log_failure(server->log, r, "Failed to start the new program, going on with this one");
        }
        acceptor_resume(server->acceptor);
        notifier_ready(&server->notifier);
}

/* SIGHUP: lets the requests under way come to their end, for a while, then has the new program take over. */
static void on_hangup(void *userdata) {
        Server *server = userdata;

        /* Whoever has ended the daemon has its word that it ends. */
        if (server->reload_timer.running || server->end_timer.running)
                return;
        if (!server->store) {
                events_reload_impossible(server->events);
                return;
        }
        (void) systemd_notify(-1, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec(server));
        acceptor_pause(server->acceptor);
        server->reload_deadline = now_usec(server) + RELOAD_GRACE_MSEC * USEC_PER_MSEC;
        timer_start(&server->reload_timer, now_usec(server));
}

/* ---- Connections that wait ---- */

/* So many connections may wait: those that are not registered. */
static size_t waiting_places(const Server *server) {
        return server->config.connections_max - registry_count(server->registry);
}

/* There are no more descriptors for connections. */
static void say_limit(Server *server, const char *what) {
        if (events_limit(server->events, now_usec(server), what, server->n_conns, registry_count(server->registry)))
                server->limit_said = true;
}

static void say_shortage(Server *server, const char *what, int error) {
        events_shortage(server->events, now_usec(server), what, error, server->n_conns,
                        registry_count(server->registry));
}

/* ---- The end of a connection ---- */

/* Versions of a listing that nobody sends any more are as much memory as those that somebody does. */
static void drop_unsent(Server *server) {
        for (size_t i = 0; i < LISTINGS_MAX; i++)
                if (server->unsent[i] && !listing_has_others(server->unsent[i]))
                        server->unsent[i] = listing_unref(server->unsent[i]);
}

/* The name of a connection is free from here on. Its peer may still be there, and of what is stored others hold
 * duplicates: closing it would not reach the peer. */
static void unregister(Server *server, Conn *conn, const char *why) {
        uint32_t slot = node_slot(conn->node);

        server->stats.unregistrations++;
        events_unregistered(server->events, now_usec(server), conn->node, &conn->peer.address, why);
        registry_remove(server->registry, TAKE_PTR(conn->node));
        if (server->store) {
                store_drop(server->store, slot);
                (void) shutdown(conn->fd, SHUT_RDWR);
        }
        notifier_changed(&server->notifier);
        events_table(server->events, server->registry);
}

static void end_conn(Server *server, Conn *conn, const char *why) {
        events_debug(server->events, VERBOSITY_PACKETS, &conn->peer.address, why);
        if (watch_is_on(&conn->watch))
                notifier_changed(&server->notifier);
        /* Only what is stored has duplicates. */
        if (conn->node && server->store)
                loop_forget(server->loop, &conn->watch, conn->fd);
        else
                loop_forget_last(server->loop, &conn->watch);
        if (conn->node)
                unregister(server, conn, why);
        pending_remove(server->pending, conn);
        conn_free(conn);
        drop_unsent(server);
        server->n_conns--;
        if (acceptor_is_paused(server->acceptor) && !server->reload_timer.running)
                acceptor_resume(server->acceptor);
        if (server->limit_said && server->n_conns < server->config.connections_max / 4 * 3)
                server->limit_said = !events_limit_left(server->events, now_usec(server), server->n_conns);
}

static void on_expired(Conn *conn) {
        Server *server = conn->owner;

        server->stats.timeouts++;
        server->active_time = now_usec(server);
        end_conn(server, conn, "time-out");
}

/* ---- Waiting for more of a connection ---- */

/* Leaves the connection to the loop until one of the events. Edge-triggered, so that many that become ready together are
 * cheap; whoever handles an event reads or writes until nothing is left.
 * Returns 0, or a negative errno: the connection cannot be kept. */
static int wait_for(Server *server, Conn *conn, uint32_t events) {
        int r;

        if (!watch_is_on(&conn->watch) || conn->state == CONN_REGISTERED)
                notifier_changed(&server->notifier);
        r = loop_watch(server->loop, &conn->watch, conn->fd, events | EPOLLET | EPOLLRDHUP, on_conn);
        if (r < 0) {
                say_shortage(server, "A connection could not be waited for and was closed", r);
                return r;
        }
        if (conn->state == CONN_REGISTERED)
                pending_remove(server->pending, conn);
        return 0;
}

static void wait_or_end(Server *server, Conn *conn, uint32_t events) {
        int r = pending_add(server->pending, conn, waiting_places(server));

        if (r >= 0)
                r = wait_for(server, conn, events);
        if (r < 0)
                end_conn(server, conn, r == -EDQUOT ? "its address has too many" : "out of resources");
}

/* Everything was sent, and leaves with our end of the connection. What the peer has sent in the meantime must be read
 * before the socket is closed, or the kernel resets the connection and the reply may be lost with it. So must what it
 * sends while some of a long reply, a listing, has not left. */
static void finish(Server *server, Conn *conn, bool is_long) {
        int r;

        /* If it cannot be told, it is gone. */
        r = shutdown(conn->fd, SHUT_WR) < 0 ? -errno : conn_discard(conn, server->scratch);
        if (r != CONN_EXCESS && !(r == 0 && is_long && conn_is_queued(conn))) {
                end_conn(server, conn, "answered");
                return;
        }
        conn->state = CONN_LINGERING;
        wait_or_end(server, conn, EPOLLIN);
}

/* ---- Sending ---- */

static void end_readers(Server *server, const Listing *listing) {
        for (Conn *conn = pending_first(server->pending), *next; conn; conn = next) {
                next = pending_next(server->pending, conn);
                if (conn_is_sending(conn, listing))
                        end_conn(server, conn, "too slow a reader");
        }
}

/* A slow reader keeps its version of a listing alive. To bound what all of them together can keep, the readers of
 * the oldest version lose their connections when there are too many versions. */
static void keep_unsent(Server *server, Listing *listing) {
        Listing *oldest;

        for (size_t i = 0; i < LISTINGS_MAX; i++)
                if (server->unsent[i] == listing)
                        return;
        /* Out of the ring first: with its last reader it would be dropped there. */
        oldest = TAKE_PTR(server->unsent[server->next_unsent]);
        if (oldest)
                end_readers(server, oldest);
        listing_unref(oldest);
        server->unsent[server->next_unsent] = listing_ref(listing);
        server->next_unsent = (server->next_unsent + 1) % LISTINGS_MAX;
}

/* Sends the reply of a connection that is to be closed after it. */
static void reply_and_finish(Server *server, Conn *conn, const Response *response) {
        int r;

        conn->state = CONN_SENDING;
        r = conn_send(conn, response->data, response->len, response->listing, true);
        if (r == 0)
                finish(server, conn, response->listing);
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
        if (r != 0)
                events_not_kept(server->events, now_usec(server),
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
                events_registered(server->events, now_usec(server), conn->node, &conn->peer.address);
                events_table(server->events, server->registry);
                r = conn_send(conn, response->data, response->len, NULL, false);
        }
        /* A fresh connection has room for eight bytes; if not, its peer could not read them in one piece. */
        if (r != 0)
                end_conn(server, conn, r < 0 ? ERR_TEXT(r) : "does not take the reply");
        else
                registry_tell(server->registry, conn->node);
}

/* ---- Requests ---- */

/* The connection that holds a node's name. */
static Conn *holder_of(const Node *node) {
        return node_holder(node);
}

/* The requests whose answer depends on who asks; finding that out takes system calls that the others are spared. */
static bool depends_on_owner(uint8_t tag) {
        return tag == TAG_ALIVE2_REQ || tag == TAG_KILL_REQ || tag == TAG_STOP_REQ;
}

static Holder holder_from(Server *server, Conn *conn, uint8_t tag) {
        Holder holder = {.connection = conn, .fd = conn->fd};

        if (!conn->peer.local || !depends_on_owner(tag))
                return holder;
        holder.owner = identity_of(server->identity, conn->fd, &conn->peer.address, now_usec(server));
        if (server->store && tag == TAG_ALIVE2_REQ)
                holder.cookie = conn_cookie(conn);
        return holder;
}

/* Listings tell their port; finding out which one a peer has reached takes a system call, too. */
static int find_port(Conn *conn, uint8_t tag) {
        return tag == TAG_NAMES_REQ || tag == TAG_DUMP_REQ ? peer_find_port(&conn->peer, conn->fd) : 0;
}

/* Asks the service. What a node has counts only while it lives: one that restarts can be here before the end of its
 * former connection was read. */
static int ask_service(Server *server, Conn *conn, const Holder *holder, const uint8_t *body, size_t n, Response *ret) {
        uint64_t now = body[0] == TAG_ALIVE2_REQ ? clock_realtime() : 0;
        int r = service_handle(server->service, &conn->peer, body, n, holder, now, ret);

        if (r < 0 || ret->verdict != VERDICT_REFUSED || !ret->node || !conn_is_gone(holder_of(ret->node)))
                return r;
        end_conn(server, holder_of(ret->node), "connection closed");
        return service_handle(server->service, &conn->peer, body, n, holder, now, ret);
}

/* Whoever ends the daemon by request ends the registrations too; nothing is to come back with the next one. */
static void end_nodes(Server *server, const char *why) {
        Node *node;

        while ((node = registry_newest(server->registry)))
                end_conn(server, holder_of(node), why);
}

/* What has registered since came after the request, and stays. */
static void on_end_timer(void *userdata) {
        Server *server = userdata;

        if (registry_count(server->registry) == 0)
                loop_end(server->loop, SERVER_END_KILLED);
        else
                events_spared(server->events);
}

/* KILL_REQ. Where every connection starts the daemon anew, starts and ends of it are what anybody of this host could
 * fill the journal with, so they are made to take their time.
 *
 * Never at once: requests that came together with this one are still to be served, and a registration may be among
 * them. */
static void end_by_request(Server *server, const Conn *conn) {
        uint64_t now = now_usec(server);

        end_nodes(server, "epmd was told to end");
        if (server->end_timer.running)
                return;
        events_killed(server->events, now, &conn->peer.address);
        timer_start(&server->end_timer, now + server->config.end_delay);
}

static void delay(unsigned seconds) {
        struct timespec left = {.tv_sec = (time_t) seconds};

        while (seconds > 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
                ;
}

static void count_refusal(Stats *stats, Refusal refusal) {
        switch (refusal) {
        case REFUSAL_TAKEN:
                stats->refused_taken++;
                break;
        case REFUSAL_RESERVED:
                stats->refused_reserved++;
                break;
        case REFUSAL_QUOTA:
                stats->refused_quota++;
                break;
        case REFUSAL_INVALID:
                stats->refused_invalid++;
                break;
        default:
                stats->refused_full++;
        }
}

static void count(Stats *stats, const Response *response) {
        switch (response->request.tag) {
        case TAG_ALIVE2_REQ:
                if (response->verdict == VERDICT_REGISTERED)
                        stats->registrations++;
                else if (response->verdict == VERDICT_REFUSED)
                        count_refusal(stats, response->refusal);
                break;
        case TAG_PORT2_REQ:
                stats->lookups++;
                stats->misses += response->node == NULL;
                break;
        case TAG_NAMES_REQ:
                stats->names++;
                break;
        case TAG_DUMP_REQ:
                stats->dumps++;
                break;
        case 0:
                stats->malformed++;
                break;
        default:
                break;
        }
}

static void handle_request(Server *server, Conn *conn, const uint8_t *body, size_t n) {
        Holder holder = holder_from(server, conn, body[0]);
        Response response;

        events_packet(server->events, &conn->peer.address, "request of", body, n);
        if (find_port(conn, body[0]) < 0 || ask_service(server, conn, &holder, body, n, &response) < 0) {
                say_shortage(server, "A request was not answered", -ENOMEM);
                end_conn(server, conn, "out of memory");
                return;
        }
        count(&server->stats, &response);
        events_request(server->events, &conn->peer.address, &response);
        if (response.len == 0) {
                end_conn(server, conn, response.request.tag == 0 ? "not a request" : "request not allowed");
                return;
        }
        delay(server->config.delay_write);
        events_packet(server->events, &conn->peer.address, "reply of", response.data, response.len);
        switch (response.verdict) {
        case VERDICT_REGISTERED:
                keep_registered(server, conn, &response);
                return;
        case VERDICT_REFUSED:
                events_refused(server->events, now_usec(server), &response, &conn->peer.address, &holder.owner);
                notifier_changed(&server->notifier);
                break;
        case VERDICT_STOP:
                end_conn(server, holder_of(response.node), "stopped by request");
                break;
        case VERDICT_EXIT:
                end_by_request(server, conn);
                break;
        case VERDICT_CLOSE:
                break;
        }
        reply_and_finish(server, conn, &response);
}

static void receive(Server *server, Conn *conn) {
        const uint8_t *body = NULL;
        size_t n = 0;
        int r = conn_receive(conn, server->scratch, &body, &n);

        if (r == CONN_REQUEST)
                handle_request(server, conn, body, n);
        else if (r == 0)
                wait_or_end(server, conn, EPOLLIN);
        else {
                server->stats.malformed += r == CONN_MALFORMED;
                end_conn(server, conn, r == CONN_CLOSED ? "closed before a request was complete"
                                       : r < 0          ? ERR_TEXT(r)
                                                        : "not a request");
        }
}

/* ---- Events ---- */

static void go_on_sending(Server *server, Conn *conn) {
        int r = conn_flush(conn);

        /* It was too long to be sent at once. */
        if (r == 0)
                finish(server, conn, true);
        else if (r < 0)
                end_conn(server, conn, ERR_TEXT(r));
}

/* Nothing is expected of a registered node, and of one that has its reply, but the end. That of a node needs no reading;
 * of the other, what it has sent must be read before its connection is closed, see finish(). */
static void listen_for_end(Server *server, Conn *conn, uint32_t events) {
        int r;

        if (conn->state == CONN_REGISTERED && (events & EPOLLRDHUP)) {
                end_conn(server, conn, events & EPOLLERR ? "connection reset" : "connection closed");
                return;
        }
        r = conn_discard(conn, server->scratch);
        if (r == 0 || (r == CONN_EXCESS && conn->state == CONN_LINGERING))
                return;
        end_conn(server, conn, r == CONN_CLOSED  ? "connection closed"
                               : r == CONN_EXCESS ? "it sent data"
                                                  : "connection reset");
}

static void on_conn(Watch *watch, uint32_t events) {
        Conn *conn = CONTAINER_OF(watch, Conn, watch);
        Server *server = conn->owner;

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
                listen_for_end(server, conn, events);
                break;
        }
}

/* ---- New connections ---- */

/* A listening socket whose name is the word has its own rule. */
static const Allow *rule_of(const Server *server, const char *name) {
        if (strcmp(name, "local") == 0)
                return &server->local_only;
        if (strcmp(name, "private") == 0)
                return &server->private_only;
        if (strcmp(name, "any") == 0)
                return &server->anyone;
        return server->config.allow;
}

/* Makes room for one more, at the cost of the one that has waited longest. The last places are for peers of this
 * host, which are those that register. Returns whether there is room. */
static bool make_room(Server *server, const Peer *peer) {
        size_t limit = server->config.connections_max;
        Conn *victim;

        if (!peer->local)
                limit -= size_min(limit / LOCAL_DIVISOR, LOCAL_PLACES);
        if (server->n_conns < limit)
                return true;
        victim = pending_victim(server->pending, peer->local, waiting_places(server));
        say_limit(server, victim ? "Connections that wait are closed to make room for new ones"
                                 : "New connections are closed until others end");
        if (victim)
                end_conn(server, victim, "made room for another");
        return victim != NULL;
}

/* Without a descriptor for the next connection, the one that has waited longest gives way, as in make_room(): others
 * than connections, clients of Varlink say, may have taken those that were left. */
static bool on_accept_error(void *userdata, int error) {
        Server *server = userdata;
        Conn *victim;

        if (error != -EMFILE) {
                say_shortage(server, "No new connections for now", error);
                return false;
        }
        victim = pending_victim(server->pending, true, waiting_places(server));
        say_limit(server, victim ? "Connections that wait are closed to make room for new ones: all descriptors are taken"
                                 : "No new connections until others end: all descriptors are taken");
        if (victim)
                end_conn(server, victim, "made room for another");
        return victim != NULL;
}

/* Serves a new connection at once: most have sent their request by now and never need to wait. */
static void on_accept(void *userdata, int fd, const SocketAddress *remote, const char *name) {
        _cleanup_close_ int owned = fd;
        Server *server = userdata;
        uint64_t now = now_usec(server);
        const Allow *allow = rule_of(server, name);
        Conn *conn;
        Peer peer;
        int r;

        delay(server->config.delay_accept);
        server->active_time = now;
        if (strcmp(name, "varlink") == 0) {
                channels_add(server->channels, TAKE_FD(owned));
                return;
        }
        server->stats.connections++;
        if (peer_from_connection(fd, remote, &peer) < 0)
                return;
        if (!allow_admits(allow, &peer.address, peer.local)) {
                server->stats.refused_peers++;
                events_turned_away(server->events, now, &peer.address,
                                   allow == server->config.allow ? server->config.allow_text : NULL,
                                   server->config.allow_option);
                notifier_changed(&server->notifier);
                return;
        }
        if (!make_room(server, &peer))
                return;
        r = conn_new(fd, &peer, now + server->config.packet_timeout, server, &conn);
        if (r < 0) {
                say_shortage(server, "A connection was closed", r);
                return;
        }
        (void) TAKE_FD(owned);
        server->n_conns++;
        events_debug(server->events, VERBOSITY_PACKETS, &conn->peer.address, "connected");
        receive(server, conn);
}

/* ---- The whole ---- */

static int add_rules(Server *server) {
        const char *bad;
        size_t len;
        int r;

        r = allow_parse("local", &server->local_only, &bad, &len);
        if (r >= 0)
                r = allow_parse("private", &server->private_only, &bad, &len);
        if (r >= 0)
                r = allow_parse("any", &server->anyone, &bad, &len);
        return r;
}

static const Address *peer_of(const Node *node) {
        return &holder_of(node)->peer.address;
}

static int on_message(void *userdata, const char *message, size_t n, char **ret, size_t *ret_n, bool *ret_go_on) {
        Server *server = userdata;
        const VarlinkFacts facts = {
                .stats = &server->stats,
                .started = server->started,
                .port = acceptor_port(server->acceptor),
                .peer_of = peer_of,
                .connections = server->n_conns,
                .now = now_usec(server),
        };
        int r = varlink_handle(server->varlink, &facts, message, n, ret, ret_n);

        server->active_time = facts.now;
        *ret_go_on = r == VARLINK_NO_REPLY;
        return r;
}

static int add_varlink(Server *server) {
        int r = varlink_new(server->registry, &server->varlink);

        if (r < 0)
                return r;
        return channels_new(server->loop, VARLINK_REQUEST_MAX, server->config.packet_timeout, on_message, server,
                            &server->channels);
}

static int add_sources(Server *server) {
        int r;

        r = loop_new(&server->loop);
        if (r >= 0)
                r = pending_new(server->loop, server->config.seed, on_expired, &server->pending);
        if (r >= 0)
                r = acceptor_new(server->loop, on_accept, on_accept_error, server, &server->acceptor);
        if (r >= 0)
                r = loop_add_timer(server->loop, server->config.idle_timeout / 10 + 1, on_idle_timer, server,
                                   &server->idle_timer);
        /* Somebody waits meanwhile: for the end, or to be served by the new program. */
        if (r >= 0)
                r = loop_add_timer(server->loop, USEC_PER_MSEC, on_end_timer, server, &server->end_timer);
        if (r >= 0)
                r = loop_add_timer(server->loop, USEC_PER_MSEC, on_reload_timer, server, &server->reload_timer);
        if (r >= 0)
                r = add_varlink(server);
        if (r >= 0)
                r = loop_end_on_signals(server->loop);
        if (r >= 0)
                r = notifier_init(&server->notifier, server->loop, on_status, server);
        return r;
}

/* Makes a server without listening sockets. Signals end its loop, see loop_end_on_signals(); where the service manager
 * asks for it, its watchdog is served. *ret is the caller's. Returns 0 or a negative errno. */
int server_new(const ServerConfig *config, const ServerParts *parts, Server **ret) {
        _cleanup_(server_freep) Server *server = calloc(1, sizeof *server);
        int r;

        if (!server)
                return -ENOMEM;
        server->config = *config;
        server->registry = parts->registry;
        server->service = parts->service;
        server->store = parts->store;
        server->identity = parts->identity;
        server->log = parts->log;
        if (config->reload)
                loop_hold_hangup();
        r = events_new(parts->log, &server->events);
        if (r >= 0)
                r = add_rules(server);
        if (r >= 0)
                r = add_sources(server);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(server);
        return 0;
}

/* Neither the table nor the peers learn of this: what is stored lives on. */
static void free_conns(Server *server) {
        Conn *conn;

        while (server->pending && (conn = pending_first(server->pending))) {
                pending_remove(server->pending, conn);
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
        channels_free(server->channels);
        varlink_free(server->varlink);
        pending_free(server->pending);
        events_free(server->events);
        allow_done(&server->local_only);
        allow_done(&server->private_only);
        allow_done(&server->anyone);
        notifier_done(&server->notifier);
        timer_done(&server->idle_timer);
        timer_done(&server->end_timer);
        timer_done(&server->reload_timer);
        loop_free(server->loop);
        free(server);
        return NULL;
}

/* ---- What an earlier process has left ---- */

/* The process that registered the node may have been killed when the record was safe and the reply had not left: its
 * peer still waits for it. Returns whether the peer knows now. */
static bool tell_registered(Server *server, Conn *conn) {
        Response response;

        if (conn_is_untold(conn)) {
                service_put_registered(conn->node, &response);
                if (conn_send(conn, response.data, response.len, NULL, false) != 0)
                        return false;
        }
        registry_tell(server->registry, conn->node);
        return true;
}

/* Makes the connection of a node that an earlier process has registered; the descriptor is the server's from here
 * on.
 * Returns 1: it is registered; 0: it has ended, and so has its registration; -ENOTCONN: it has ended, and nothing else
 * was done; another negative errno: out of memory, and all that is stored is as it was. */
static int adopt(Server *server, uint32_t slot, const TableRecord *record, int fd) {
        _cleanup_close_ int owned = fd;
        SocketAddress remote = {};
        socklen_t len = sizeof remote;
        Holder holder = {.fd = fd, .cookie = record->cookie};
        Peer peer = {.local = true}; /* or it would not be registered */
        Conn *conn;
        int r;

        if (getpeername(fd, &remote.any, &len) == 0)
                peer.address = address_from_socket(&remote);
        if (peer.address.family == AF_UNSPEC) {
                (void) shutdown(fd, SHUT_RDWR);
                return -ENOTCONN;
        }
        r = conn_new(fd, &peer, 0, server, &conn);
        if (r < 0)
                return r;
        (void) TAKE_FD(owned);
        holder.connection = conn;
        conn->state = CONN_REGISTERED;
        server->n_conns++;
        r = registry_restore(server->registry, slot, record, &holder, &conn->node);
        if (r < 0) {
                conn_free(conn);
                server->n_conns--;
                return r;
        }
        if (r > 0) {
                (void) shutdown(fd, SHUT_RDWR);
                end_conn(server, conn, "could not be restored");
                return 0;
        }
        r = wait_for(server, conn, EPOLLIN);
        if (is_passing_error(r))
                return r;
        if (r >= 0 && (record->told || tell_registered(server, conn)))
                return 1;
        end_conn(server, conn, "could not be told");
        return 0;
}

static int on_record(void *userdata, uint32_t slot, const TableRecord *record, int fd) {
        Server *server = userdata;
        int r = fd < 0 ? -ENOTCONN : adopt(server, slot, record, fd);

        if (r != -ENOTCONN)
                return r;
        if (record->live)
                events_lost(server->events, now_usec(server), record,
                            fd < 0 ? "its connection was not kept" : "connection reset");
        (void) registry_restore(server->registry, slot, record, NULL, NULL);
        return 0;
}

/* Unregisters, before anyone can ask for them, the nodes that ended while no process was there: what happened to their
 * connections is waiting in the loop, which has no listening socket yet. */
static void end_those_gone(Server *server, StoreReport *report) {
        size_t all = registry_count(server->registry);

        while (!loop_has_ended(server->loop) && loop_turn(server->loop, 0) > 0)
                ;
        report->restored = registry_count(server->registry);
        report->released += all - report->restored;
}

/* Takes over what an earlier process has left in the store, and tells the log. report: as store_new() filled it.
 * Returns as store_restore(). */
int server_restore(Server *server, StoreReport *report) {
        int r = store_restore(server->store, on_record, server, report);

        events_dropped(server->events, report);
        if (is_passing_error(r))
                return r;
        end_those_gone(server, report);
        server->stats.restores = report->restored;
        events_restored(server->events, report);
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
        char listeners[LISTENERS_TEXT_MAX];
        int r;

        /* Not before: the new program could be passed no socket that is not served yet. A signal may have come during the
         * take-over, and have ended the loop. */
        if (server->config.reload && !loop_has_ended(server->loop)) {
                r = loop_on_hangup(server->loop, on_hangup, server);
                if (r < 0)
                        return r;
        }
        server->started = clock_realtime();
        events_started(server->events, now_usec(server),
                       acceptor_describe(server->acceptor, listeners, sizeof listeners), listeners);
        notifier_ready(&server->notifier);
        if (server->config.idle_timeout > 0)
                timer_start(&server->idle_timer, now_usec(server) + server->config.idle_timeout);
        r = loop_run(server->loop);
        if (r < 0)
                return r;
        (void) systemd_notify(-1, "STOPPING=1\nSTATUS=Ending");
        events_stopping(server->events, registry_count(server->registry));
        *ret = (ServerEnd) r;
        return 0;
}
