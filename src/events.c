/* SPDX-License-Identifier: Apache-2.0 */
#include "events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "escape.h"
#include "ratelimit.h"

/* Nothing that peers do to a service writes more than ten lines in a second, whatever second that is, and whether or not
 * they end the daemon in it and start the next one. While it runs there are LINES_MAX, and the one of who told it to
 * end. From that one on, for a second at least, there is none. Then it ends with three at most, of which the first is
 * there only if it was idle; and the next process begins as if it had written the others and its own first one. */
enum {
        LINES_MAX = 9,
        STORM_LINES_MAX = 7, /* of these; the others are for what is rare, and for how many were held back */
        NODE_LINES_MAX = 5,  /* of those; no kind of them shall keep the others out of the log */
        STRANGER_LINES_MAX = 2,
        CHANGE_LINES = 3, /* "held back", "Ending", "Serving" */
        RARE_SECONDS = 10,
        HEX_DUMP_MAX = 256,
        OWNER_TEXT_MAX = ESCAPED_BYTE_MAX * OWNER_UNIT_MAX + 32,
};

/* The ids of the catalog. */
#define ID_STARTED "e918a196f5fb4d70917caa66c7c2167d"
#define ID_RESTORED "92aae0d0610442919486f2f9d5da3a55"
#define ID_STATE_DROPPED "6e52ad96ae0c465bab300bb3153d04ee"
#define ID_REGISTERED "2635016fb6c54517a45121c0fe08698b"
#define ID_UNREGISTERED "ff79ea6c2dde4e91a36db96347791b40"
#define ID_REFUSED "901afd8020334d1092e256a9f119aad8"
#define ID_TURNED_AWAY "97bf22e3824d4753b59e427b69ddea24"
#define ID_LIMIT "07ec4d24c74545729cd5d7d3af779e7e"
#define ID_LIMIT_LEFT "fadd40eff97a4a0d80dbc0351d444efc"
#define ID_IDLE "24ea4440b73a4c619e6283da3083b27e"
#define ID_KILLED "d220d3d9653d41e1ac47e5c5f1ad5b33"
#define ID_STOPPING "7f63a44476af4ef8b9c9eb15f2bfc9fa"
#define ID_NOT_KEPT "0bbdc6f5627c46d7834e1c988174fab4"
#define ID_HELD_BACK "ef8aa7822bea4849bb92f6af0260558d"

struct Events {
        Log *log;                 /* not ours */
        int verbosity;            /* of the log */
        bool ending;              /* by request: what peers cause is counted, but not written */
        RateLimit lines;          /* what peers can cause */
        RateLimit storm_lines;    /* of these: what they can cause any number of */
        RateLimit node_lines;     /* of those: registrations and their ends */
        RateLimit stranger_lines; /* and peers that are not answered */
        RateLimit limit_lines;
        RateLimit left_lines;
        RateLimit shortage_lines;
        RateLimit kept_lines;
        unsigned unkept;           /* nodes of which it is not told yet that they would be lost in a restart */
        const char *unkept_reason; /* of the last of them */
        RateLimit killed_lines;
};

/* The log stays the caller's and must outlive *ret. Returns 0 or -ENOMEM. */
int events_new(Log *log, Events **ret) {
        const RateLimit rare = {.period = RARE_SECONDS * USEC_PER_SEC, .max = 1};
        Events *events = malloc(sizeof *events);

        if (!events)
                return -ENOMEM;
        *events = (Events){
                .log = log,
                .verbosity = log_verbosity(log),
                .lines = {.period = USEC_PER_SEC, .max = LINES_MAX},
                .storm_lines = {.period = USEC_PER_SEC, .max = STORM_LINES_MAX},
                .node_lines = {.period = USEC_PER_SEC, .max = NODE_LINES_MAX},
                .stranger_lines = {.period = USEC_PER_SEC, .max = STRANGER_LINES_MAX},
                .limit_lines = rare,
                .left_lines = rare,
                .shortage_lines = rare,
                .kept_lines = rare,
                .killed_lines = {.period = USEC_PER_SEC, .max = 1},
        };
        *ret = events;
        return 0;
}

Events *events_free(Events *events) {
        free(events);
        return NULL;
}

static void say_held_back(const Events *events, unsigned held) {
        const LogFields fields = {.message_id = ID_HELD_BACK};

        if (held > 0)
                log_event(events->log, LOG_NOTICE, &fields, "%u %s held back", held,
                          held == 1 ? "message was" : "messages were");
}

static bool has_room(const Events *events, const RateLimit *limit, uint64_t now) {
        return !events->ending && ratelimit_has_room(limit, now) && ratelimit_has_room(&events->lines, now);
}

static bool may_log_rarely(Events *events, RateLimit *limit, uint64_t now) {
        if (events->verbosity >= VERBOSITY_DEBUG)
                return true;
        return has_room(events, limit, now) && ratelimit_pass(limit, now) && ratelimit_pass(&events->lines, now);
}

/* Nobody could guess this one from others, so it is said as soon as there is room for it. */
static void tell_not_kept(Events *events, uint64_t now) {
        const LogFields fields = {.message_id = ID_NOT_KEPT, .reason = events->unkept_reason};

        if (events->unkept == 0 || !may_log_rarely(events, &events->kept_lines, now))
                return;
        log_event(events->log, LOG_WARNING, &fields,
                  "Some nodes will have to register again when epmd restarts, there is no room to keep them: %s",
                  events->unkept_reason);
        events->unkept = 0;
}

/* Tells what could not be told when it happened: how many messages were held back, once in a second, and what must not
 * be. Returns whether it has to be called again later, as there is more. */
bool events_tell_held_back(Events *events, uint64_t now) {
        tell_not_kept(events, now);
        if (!events->ending)
                say_held_back(events, ratelimit_tell(&events->lines, now));
        return events->lines.held > 0 || events->unkept > 0;
}

/* Whether there may be one more message; else it is counted. kind: a limit that only some have; NULL: none. */
static bool may_log(Events *events, RateLimit *kind, uint64_t now) {
        if (events->verbosity >= VERBOSITY_DEBUG)
                return true;
        (void) events_tell_held_back(events, now);
        if (has_room(events, &events->storm_lines, now) && (!kind || ratelimit_pass(kind, now)))
                return ratelimit_pass(&events->storm_lines, now) && ratelimit_pass(&events->lines, now);
        events->lines.held++;
        return false;
}

/* " of rabbitmq-server.service (uid 110)", or nothing. */
static const char *owner_text(const Owner *owner, char buffer[OWNER_TEXT_MAX]) {
        char unit[ESCAPED_BYTE_MAX * OWNER_UNIT_MAX + 1];

        buffer[0] = 0;
        if (!owner->known)
                return buffer;
        if (owner->unit_len == 0)
                (void) snprintf(buffer, OWNER_TEXT_MAX, " of uid %u", owner->uid);
        else
                (void) snprintf(buffer, OWNER_TEXT_MAX, " of %s (uid %u)",
                                escape_text(owner->unit, owner->unit_len, unit, sizeof unit), owner->uid);
        return buffer;
}

/* ---- The daemon ---- */

/* listeners: their addresses, for people. */
void events_started(Events *events, uint64_t now, size_t n_listeners, const char *listeners) {
        const LogFields fields = {.message_id = ID_STARTED};

        /* What is left for this second is for what happens. */
        events->lines.told = now;
        for (unsigned i = 0; i < CHANGE_LINES && ratelimit_has_room(&events->lines, now); i++)
                (void) ratelimit_pass(&events->lines, now);
        log_event(events->log, LOG_INFO, &fields, "Serving %zu %s: %s", n_listeners,
                  n_listeners == 1 ? "socket" : "sockets", listeners);
}

/* What was found and cannot be used; also of a take-over that another process has to finish. */
void events_dropped(Events *events, const StoreReport *report) {
        const LogFields dropped = {.message_id = ID_STATE_DROPPED};

        if (report->foreign)
                log_event(events->log, LOG_WARNING, &dropped,
                          "The state that the former epmd has left is of another version, beginning without it; nodes "
                          "of OTP 23.3 and later register again by themselves");
        if (report->damaged > 0 || report->mismatched > 0)
                log_event(events->log, LOG_WARNING, &dropped,
                          "Of the state that the former epmd has left, %zu damaged records and %zu connections that do "
                          "not belong to their record were dropped",
                          report->damaged, report->mismatched);
        if (report->lost > 0)
                log_event(events->log, LOG_NOTICE, &dropped,
                          "%zu %s of the former epmd had not been kept and will have to register again", report->lost,
                          report->lost == 1 ? "node" : "nodes");
}

/* After the take-over: how many nodes of the former process are here again, and how many ended while there was none. */
void events_restored(Events *events, const StoreReport *report) {
        const LogFields restored = {.message_id = ID_RESTORED};

        if (report->restored > 0 || report->released > 0)
                log_event(events->log, LOG_INFO, &restored, "Restored %zu %s; %zu more %s ended meanwhile",
                          report->restored, report->restored == 1 ? "node" : "nodes", report->released,
                          report->released == 1 ? "has" : "have");
}

/* idle_timeout: µs. */
void events_idle(Events *events, uint64_t idle_timeout) {
        const LogFields fields = {.message_id = ID_IDLE};

        log_event(events->log, LOG_INFO, &fields, "Nothing to do for %g seconds, ending",
                  (double) idle_timeout / (double) USEC_PER_SEC);
}

/* A peer has asked for the end. From here on nothing is said of what peers do; what that was is counted, and told at the
 * end. */
void events_killed(Events *events, uint64_t now, const Address *peer) {
        const LogFields fields = {.message_id = ID_KILLED, .peer = peer};
        char text[ADDRESS_TEXT_MAX];

        if (events->verbosity < VERBOSITY_DEBUG)
                events->ending = true;
        if (!events->ending || ratelimit_pass(&events->killed_lines, now))
                log_event(events->log, LOG_NOTICE, &fields, "Ending, as %s asked for it", address_format(peer, text));
        else
                events->lines.held++;
}

/* It does not end, after all. */
void events_spared(Events *events) {
        events->ending = false;
}

/* The last message, behind how many were held back. nodes: registered still. */
void events_stopping(Events *events, size_t nodes) {
        const LogFields fields = {.message_id = ID_STOPPING};

        say_held_back(events, events->lines.held);
        log_event(events->log, LOG_INFO, &fields, "Ending, with %zu %s registered", nodes,
                  nodes == 1 ? "node" : "nodes");
}

/* SIGHUP came to a daemon without a store. */
void events_reload_impossible(Events *events) {
        log_message(events->log, LOG_WARNING, "Not reloading: registrations would be lost, as the unit has no "
                                              "RuntimeDirectory= or no FileDescriptorStoreMax=");
}

/* ---- Nodes ---- */

static LogFields node_fields(const char *id, const NodeInfo *info, const Address *peer, const Owner *owner) {
        return (LogFields){
                .message_id = id,
                .node = info->name,
                .node_len = info->name_len,
                .port = info->port,
                .peer = peer,
                .owner = owner,
        };
}

/* peer: of its connection; now: monotonic, µs, here and below. */
void events_registered(Events *events, uint64_t now, const Node *node, const Address *peer) {
        NodeInfo info;
        Owner owner;
        LogFields fields;
        char name[ESCAPED_NAME_MAX], text[OWNER_TEXT_MAX];

        if (!may_log(events, &events->node_lines, now))
                return;
        info = node_info(node);
        owner = node_owner(node);
        fields = node_fields(ID_REGISTERED, &info, peer, &owner);
        fields.creation = node_creation(node);
        log_event(events->log, LOG_INFO, &fields, "Registered %s at port %u%s",
                  escape_text(info.name, info.name_len, name, sizeof name), info.port, owner_text(&owner, text));
}

/* The node is registered still while this is told. reason: a constant text, for people and in EPMD_REASON=. */
void events_unregistered(Events *events, uint64_t now, const Node *node, const Address *peer, const char *reason) {
        NodeInfo info;
        Owner owner;
        LogFields fields;
        char name[ESCAPED_NAME_MAX];

        if (!may_log(events, &events->node_lines, now))
                return;
        info = node_info(node);
        owner = node_owner(node);
        fields = node_fields(ID_UNREGISTERED, &info, peer, &owner);
        fields.creation = node_creation(node);
        fields.reason = reason;
        log_event(events->log, LOG_INFO, &fields, "Unregistered %s at port %u: %s",
                  escape_text(info.name, info.name_len, name, sizeof name), info.port, reason);
}

/* A node that an earlier process has registered and whose connection is gone with it. */
void events_lost(Events *events, uint64_t now, const TableRecord *record, const char *reason) {
        const NodeInfo *info = &record->info;
        LogFields fields = node_fields(ID_UNREGISTERED, info, NULL, &record->owner);
        char name[ESCAPED_NAME_MAX];

        if (!may_log(events, &events->node_lines, now))
                return;
        fields.creation = proto_wire_creation(info->highest_version, record->counter);
        fields.reason = reason;
        log_event(events->log, LOG_INFO, &fields, "Unregistered %s at port %u: %s",
                  escape_text(info->name, info->name_len, name, sizeof name), info->port, fields.reason);
}

/* Who has the name that somebody else wants, or for whom it is kept. */
static void conflict_text(const Response *response, char *buffer, size_t size) {
        char since[32] = "?", text[OWNER_TEXT_MAX];
        const Reservation *reservation = response->reservation;
        Owner owner;
        time_t seconds;
        struct tm tm;

        buffer[0] = 0;
        if (response->refusal == REFUSAL_RESERVED)
                (void) snprintf(buffer, size, ", %.*s", (int) size_min(reservation->user_len, 64), reservation->user);
        if (response->refusal != REFUSAL_TAKEN)
                return;
        owner = node_owner(response->node);
        seconds = (time_t) (node_since(response->node) / USEC_PER_SEC);
        if (localtime_r(&seconds, &tm))
                (void) strftime(since, sizeof since, "%F %T %z", &tm);
        (void) snprintf(buffer, size, ", since %s, by the node at port %u%s", since,
                        node_info(response->node).port, owner_text(&owner, text));
}

/* owner: of the one who asked. */
void events_refused(Events *events, uint64_t now, const Response *response, const Address *peer, const Owner *owner) {
        const NodeInfo *info = &response->request.node;
        LogFields fields = node_fields(ID_REFUSED, info, peer, owner);
        char name[ESCAPED_NAME_MAX], text[ADDRESS_TEXT_MAX], asks[OWNER_TEXT_MAX], conflict[OWNER_TEXT_MAX + 96];

        if (!may_log(events, NULL, now))
                return;
        conflict_text(response, conflict, sizeof conflict);
        fields.reason = refusal_text(response->refusal);
        log_event(events->log, LOG_NOTICE, &fields, "Refused to register %s at port %u for %s%s: %s%s",
                  escape_text(info->name, info->name_len, name, sizeof name), info->port,
                  address_format(peer, text), owner_text(owner, asks), fields.reason, conflict);
}

/* A node is registered, but would be lost in a restart. reason: a text that stays. */
void events_not_kept(Events *events, uint64_t now, const char *reason) {
        events->unkept++;
        events->unkept_reason = reason;
        tell_not_kept(events, now);
}

/* ---- Peers and limits ---- */

/* allow: the setting as it is, to be extended; NULL: the socket has a rule of its own. option: it was given by an
 * option, which wins over the file. */
void events_turned_away(Events *events, uint64_t now, const Address *peer, const char *allow, bool option) {
        const LogFields fields = {.message_id = ID_TURNED_AWAY, .peer = peer};
        char text[ADDRESS_TEXT_MAX], ip[ADDRESS_TEXT_MAX];

        if (!may_log(events, &events->stranger_lines, now))
                return;
        address_format(peer, text);
        address_format_ip(peer, ip);
        if (allow && option)
                log_event(events->log, LOG_NOTICE, &fields,
                          "Did not answer %s; to admit it start epmd with --allow=\"%s,%s\"", text, allow, ip);
        else if (allow)
                log_event(events->log, LOG_NOTICE, &fields,
                          "Did not answer %s; to admit it set EPMD_ALLOW=\"%s,%s\" in " SETTINGS_FILE " and restart "
                          "epmd",
                          text, allow, ip);
        else
                log_event(events->log, LOG_NOTICE, &fields,
                          "Did not answer %s; to admit it change FileDescriptorName= of the socket that it came by",
                          text);
}

/* There are no more descriptors for connections. what: happened. Returns whether it was said: then the end of it is worth
 * a message too. */
bool events_limit(Events *events, uint64_t now, const char *what, size_t connections, size_t nodes) {
        const LogFields fields = {.message_id = ID_LIMIT};

        if (!may_log_rarely(events, &events->limit_lines, now))
                return false;
        log_event(events->log, LOG_WARNING, &fields,
                  "%s, with %zu connections open and %zu nodes registered; raise LimitNOFILE= of the service", what,
                  connections, nodes);
        return true;
}

/* Returns whether it was said; if not, it may be later. */
bool events_limit_left(Events *events, uint64_t now, size_t connections) {
        const LogFields fields = {.message_id = ID_LIMIT_LEFT};

        if (!may_log_rarely(events, &events->left_lines, now))
                return false;
        log_event(events->log, LOG_NOTICE, &fields, "There is room for new connections again, with %zu open",
                  connections);
        return true;
}

static const char *shortage_cure(int error) {
        switch (error) {
        case -ENFILE:
                return "raise fs.file-max with sysctl";
        case -ENOSPC:
                return "raise fs.epoll.max_user_watches with sysctl";
        default:
                return "look at the memory of this machine, and at MemoryMax= of the service";
        }
}

/* Something that more descriptors would not help: want of memory, or of what the kernel counts for all processes
 * together. what: happened; error: a negative errno. */
void events_shortage(Events *events, uint64_t now, const char *what, int error, size_t connections, size_t nodes) {
        if (may_log_rarely(events, &events->shortage_lines, now))
                log_message(events->log, LOG_WARNING, "%s, with %zu connections open and %zu nodes registered: %s; %s",
                            what, connections, nodes, ERR_TEXT(error), shortage_cure(error));
}

/* ---- Debugging ---- */

/* From a verbosity on: what is done with the connection of a peer. */
void events_debug(Events *events, int verbosity, const Address *peer, const char *what) {
        const LogFields fields = {.peer = peer};
        char text[ADDRESS_TEXT_MAX];

        if (events->verbosity >= verbosity)
                log_event(events->log, LOG_DEBUG, &fields, "%s: %s", address_format(peer, text), what);
}

/* From VERBOSITY_PACKETS on: the first bytes of what a peer has sent, or is sent. */
void events_packet(Events *events, const Address *peer, const char *what, const uint8_t *data, size_t n) {
        char hex[3 * HEX_DUMP_MAX + 64];
        int len;

        if (events->verbosity < VERBOSITY_PACKETS)
                return;
        len = snprintf(hex, sizeof hex, "%s %zu bytes:", what, n);
        for (size_t i = 0; i < size_min(n, HEX_DUMP_MAX); i++)
                len += snprintf(hex + len, sizeof hex - (size_t) len, " %02x", data[i]);
        events_debug(events, VERBOSITY_PACKETS, peer, hex);
}

/* From VERBOSITY_DEBUG on: which request it was, and whether it is answered. */
void events_request(Events *events, const Address *peer, const Response *response) {
        const NodeInfo *info = &response->request.node;
        char name[ESCAPED_NAME_MAX], text[ESCAPED_NAME_MAX + 64];

        if (events->verbosity < VERBOSITY_DEBUG)
                return;
        if (response->request.tag == 0)
                (void) snprintf(text, sizeof text, "not a request, closing");
        else
                (void) snprintf(text, sizeof text, "%s%s%s%s", proto_tag_name(response->request.tag),
                                info->name ? " " : "", escape_text(info->name, info->name_len, name, sizeof name),
                                response->len == 0 ? ", not allowed" : "");
        events_debug(events, VERBOSITY_DEBUG, peer, text);
}

/* From VERBOSITY_TABLES on: all that is registered. */
void events_table(Events *events, const Registry *registry) {
        char name[ESCAPED_NAME_MAX];

        if (events->verbosity < VERBOSITY_TABLES)
                return;
        log_message(events->log, LOG_DEBUG, "%zu registered, %zu remembered", registry_count(registry),
                    registry_released_count(registry));
        for (const Node *node = registry_newest(registry); node; node = registry_older(node)) {
                NodeInfo info = node_info(node);

                log_message(events->log, LOG_DEBUG, "  %s at port %u, creation %u, fd %d",
                            escape_text(info.name, info.name_len, name, sizeof name), info.port, node_creation(node),
                            node_fd(node));
        }
}
