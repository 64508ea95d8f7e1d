/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl check, first part: the surroundings and the epmd itself. */

#include "ctl_check.h"

#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "ctl_print.h"
#include "values.h"

enum {
        CURE_MAX = 512,
        HOLDERS_MAX = 8,
        LIST_TEXT_MAX = 4096,
};

extern char **environ;

/* ---- Environment ---- */

static void check_port_variable(Check *check, const char *value) {
        unsigned long port = 0;
        bool valid = value_number(value, 1, UINT16_MAX, &port);

        if (!*value)
                check_say(check, SEVERITY_NOTE, "environment", NULL, "ERL_EPMD_PORT is empty, which means the default");
        else if (!valid)
                check_say(check, SEVERITY_PROBLEM, "environment",
                          "set ERL_EPMD_PORT to a number from 1 to 65535, or unset it",
                          "ERL_EPMD_PORT=%s is not a port", value);
        else if (check->options.port_given && check->options.port != port)
                check_say(check, SEVERITY_NOTE, "environment", NULL,
                          "ERL_EPMD_PORT=%s is what nodes started from here use; asked for is port %u", value,
                          (unsigned) check->options.port);
        else if (port == CTL_DEFAULT_PORT)
                check_say(check, SEVERITY_OK, "environment", NULL, "ERL_EPMD_PORT=%s is the default", value);
        else
                check_say(check, SEVERITY_NOTE, "environment", NULL,
                          "ERL_EPMD_PORT=%s: nodes and tools without this setting use port %d", value,
                          CTL_DEFAULT_PORT);
        if (valid && !check->options.port_given)
                check->options.port = (uint16_t) port;
}

static void check_address_variable(Check *check, const char *list) {
        static const char separators[] = ", ";
        bool any = false;

        for (const char *p = list + strspn(list, separators); *p; p += strspn(p, separators)) {
                size_t n = strcspn(p, separators);
                Address address;

                if (!address_parse(p, n, &address)) {
                        check_say(check, SEVERITY_PROBLEM, "environment",
                                  "give literal addresses with commas between them",
                                  "ERL_EPMD_ADDRESS: \"%.*s\" is not an address; an epmd started from here fails",
                                  (int) n, p);
                        return;
                }
                any = true;
                p += n;
        }
        if (any)
                check_say(check, SEVERITY_NOTE, "environment", NULL,
                          "ERL_EPMD_ADDRESS=%s: an epmd started from here listens only there and on the loopback", list);
        else
                check_say(check, SEVERITY_NOTE, "environment", NULL,
                          "ERL_EPMD_ADDRESS is empty, which means all addresses");
}

static void check_variable(Check *check, const char *name, size_t n, const char *value) {
        if (strncmp(name, "ERL_EPMD_PORT", n) == 0 && n == strlen("ERL_EPMD_PORT"))
                check_port_variable(check, value);
        else if (strncmp(name, "ERL_EPMD_ADDRESS", n) == 0 && n == strlen("ERL_EPMD_ADDRESS"))
                check_address_variable(check, value);
        else if (strncmp(name, "ERL_EPMD_RELAXED_COMMAND_CHECK", n) == 0 &&
                 n == strlen("ERL_EPMD_RELAXED_COMMAND_CHECK"))
                check_say(check, SEVERITY_NOTE, "environment", NULL,
                          "ERL_EPMD_RELAXED_COMMAND_CHECK is set: an epmd started from here lets living nodes be "
                          "unregistered");
        else
                check_say(check, SEVERITY_WARNING, "environment", "unset it, or correct its name",
                          "%.*s is set, which nothing reads", (int) n, name);
}

/* What nodes and daemons that are started from here would be told. */
void check_environment(Check *check) {
        static const char prefix[] = "ERL_EPMD_";
        bool any = false;

        for (char **variable = environ; *variable; variable++) {
                _cleanup_free_ char *text = NULL;
                const char *value;

                if (strncmp(*variable, prefix, strlen(prefix)) != 0)
                        continue;
                text = ctl_escape(*variable, strlen(*variable));
                value = text ? strchr(text, '=') : NULL;
                if (!value)
                        continue;
                any = true;
                check_variable(check, text, (size_t) (value - text), value + 1);
        }
        if (!any)
                check_say(check, SEVERITY_OK, "environment", NULL, "no ERL_EPMD_* is set; the port is %u",
                          (unsigned) check->options.port);
}

/* ---- The host's name ---- */

static void say_resolved(Check *check, const char *name, const AddressList *list) {
        char line[LIST_TEXT_MAX] = "", ip[ADDRESS_TEXT_MAX];
        size_t n = 0;

        for (size_t i = 0; i < list->n && n < sizeof line; i++)
                n += (size_t) snprintf(line + n, sizeof line - n, "%s%s", i > 0 ? ", " : "",
                                       address_format_ip(&list->items[i], ip));
        check_say(check, SEVERITY_OK, "name", NULL, "%s is %s", name, line);
}

/* Nodes are reached at the name that is behind their @, and that must lead back here. */
static void check_is_own(Check *check, const char *name, const Address *address) {
        char ip[ADDRESS_TEXT_MAX], cure[CURE_MAX];

        if (address_is_loopback(address))
                return;
        for (size_t i = 0; i < check->own.n; i++)
                if (address_same_host(&check->own.items[i], address))
                        return;
        (void) snprintf(cure, sizeof cure, "correct the address of %s in /etc/hosts or in the name server", name);
        check_say(check, SEVERITY_PROBLEM, "name", cure, "%s is %s, which no interface of this host has", name,
                  address_format_ip(address, ip));
}

static void say_unresolved(Check *check, const char *name, const char *why) {
        char cure[CURE_MAX];

        if (check->host)
                (void) snprintf(cure, sizeof cure,
                                "correct the name, or add its address to /etc/hosts or the name server");
        else
                (void) snprintf(cure, sizeof cure, "add to /etc/hosts the line: 127.0.1.1 %s", name);
        check_say(check, SEVERITY_PROBLEM, "name", cure, "%s has no address: %s", name, why);
}

/* The name of the host, as in node@host. Its addresses are added to those to be tried; this host's own, to the two
 * loopback ones over which nodes register. */
void check_name(Check *check) {
        char own[HOST_NAME_MAX + 1] = "";
        const char *name = check->host, *why = "";
        AddressList list = {};
        int r;

        if (!name) {
                const Address loopbacks[] = {client_loopback(AF_INET, check->options.port),
                                             client_loopback(AF_INET6, check->options.port)};

                for (size_t i = 0; i < ARRAY_SIZE(loopbacks); i++)
                        (void) resolve_list_add(&check->addresses, &loopbacks[i]);
                (void) gethostname(own, sizeof own - 1);
                /* Short names are what -sname gives, and what Erlang asks epmd for by default. */
                own[strcspn(own, ".")] = 0;
                name = own;
        }
        r = resolve_host(name, check->options.port, check->options.timeout, &list, &why);
        if (r != 0) {
                say_unresolved(check, name, r < 0 ? ERR_TEXT(r) : why);
                return;
        }
        say_resolved(check, name, &list);
        for (size_t i = 0; i < list.n; i++) {
                if (!check->host)
                        check_is_own(check, name, &list.items[i]);
                (void) resolve_list_add(&check->addresses, &list.items[i]);
        }
        resolve_list_done(&list);
}

/* ---- Ports ---- */

static const char *cure_of(const Check *check, const Attempt *attempt, char cure[CURE_MAX]) {
        unsigned port = check->options.port;
        bool local = !check->host;

        if (attempt->result == ASK_NO_SERVER && local && check->answered)
                (void) snprintf(cure, CURE_MAX,
                                "let epmd listen on this address, too: ListenStream= of epmd.socket, see "
                                "epmd.service(8)");
        else if (attempt->result == ASK_NO_SERVER && local)
                (void) snprintf(cure, CURE_MAX, "systemctl enable --now epmd.socket");
        else if (attempt->result == ASK_NO_SERVER)
                (void) snprintf(cure, CURE_MAX,
                                "on that host: systemctl enable --now epmd.socket, and see that it listens "
                                "on this address");
        else if (attempt->result == ASK_UNREACHABLE)
                (void) snprintf(cure, CURE_MAX, "see that the host is up and that no firewall drops TCP port %u",
                                port);
        else if (attempt->result == ASK_CLOSED && !local)
                (void) snprintf(cure, CURE_MAX,
                                "on that host: see whom journalctl -u epmd says it does not answer, and let "
                                "EPMD_ALLOW in " SETTINGS_FILE " admit this one");
        else
                (void) snprintf(cure, CURE_MAX,
                                "%ssee who has the port with: ss -ltnp 'sport = :%u'; end that, or choose "
                                "another port with ERL_EPMD_PORT",
                                local ? "" : "on that host: ", port);
        return cure;
}

/* How bad it is that an address does not answer: one that others stand in for is less so. */
static Severity judge_failure(const Check *check, const Attempt *attempt) {
        bool absent = attempt->result == ASK_NO_SERVER;

        if (!check->answered)
                return SEVERITY_PROBLEM;
        /* Erlang uses IPv4 unless it is told otherwise. */
        if (absent && attempt->address.family == AF_INET6)
                return SEVERITY_NOTE;
        return absent && !check->host && !address_is_loopback(&attempt->address) ? SEVERITY_WARNING : SEVERITY_PROBLEM;
}

static void report_attempt(Check *check, const Attempt *attempt) {
        char address[ADDRESS_TEXT_MAX], text[ATTEMPT_TEXT_MAX], cure[CURE_MAX];
        Severity severity = SEVERITY_OK;

        if (attempt->result != ASK_ANSWERED)
                severity = judge_failure(check, attempt);
        check_say(check, severity, "port", severity > SEVERITY_NOTE ? cure_of(check, attempt, cure) : NULL, "%s: %s",
                  address_format(&attempt->address, address), attempt_text(attempt, &check->options, text));
}

/* erl_epmd compares the port that NAMES tells with the one it has asked. */
static void check_told_port(Check *check, const Address *address, const NodeList *nodes) {
        char text[ADDRESS_TEXT_MAX], cure[CURE_MAX];

        if (nodes->epmd_port == address->port)
                return;
        (void) snprintf(cure, sizeof cure, "start that epmd with -port %u, or ask on port %u: ERL_EPMD_PORT=%u",
                        (unsigned) address->port, (unsigned) nodes->epmd_port, (unsigned) nodes->epmd_port);
        check_say(check, SEVERITY_PROBLEM, "port", cure,
                  "%s says that its port is %u, which Erlang takes for {error,address}", address_format(address, text),
                  (unsigned) nodes->epmd_port);
}

/* Keeps the nodes of the first that answers. */
static void take_answer(Check *check, const Attempt *attempt, const ClientReply *reply) {
        NodeList nodes = {};

        if (attempt->result != ASK_ANSWERED || nodelist_from_names(reply->data, reply->n, &nodes) != 0)
                return;
        check_told_port(check, &attempt->address, &nodes);
        if (check->answered)
                nodelist_done(&nodes);
        else {
                check->nodes = nodes;
                check->from = attempt->address;
                check->answered = true;
        }
}

/* Each address is asked for the names. */
void check_ports(Check *check) {
        const Request request = {.tag = TAG_NAMES_REQ};
        Attempt *attempts = calloc(check->addresses.n + 1, sizeof *attempts);

        for (size_t i = 0; attempts && i < check->addresses.n; i++) {
                ClientReply reply;

                (void) ask_address(&check->addresses.items[i], &request, check->options.timeout, &attempts[i], &reply);
                take_answer(check, &attempts[i], &reply);
                client_reply_done(&reply);
        }
        for (size_t i = 0; attempts && i < check->addresses.n; i++)
                report_attempt(check, &attempts[i]);
        free(attempts);
}

/* ---- Who it is ---- */

static bool is_held_by_systemd(const Check *check, const SocketHolder *holders, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (holders[i].pid == 1)
                        return true;
        return check->ours && check->varlink_listener == 1;
}

/* The process that serves, rather than systemd, which only holds. */
static const SocketHolder *find_server(const SocketHolder *holders, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (holders[i].pid != 1)
                        return &holders[i];
        return NULL;
}

/* "epmd (PID 17)", or the user, when it is not ours to see. */
static void describe(const SocketHolder *server, uint32_t uid, char text[CURE_MAX]) {
        const struct passwd *entry = getpwuid(uid);
        _cleanup_free_ char *name = server ? ctl_escape(server->name, strlen(server->name)) : NULL;

        if (server)
                (void) snprintf(text, CURE_MAX, "%s (PID %d)", name ? name : "?", (int) server->pid);
        else if (entry)
                (void) snprintf(text, CURE_MAX, "a program of user %s", entry->pw_name);
        else
                (void) snprintf(text, CURE_MAX, "a program of user %u", (unsigned) uid);
}

/* Somebody has the port and does not answer as an epmd. */
static void report_stranger(Check *check, const char *who, bool systemd) {
        char cure[CURE_MAX];

        if (systemd) {
                check_say(check, SEVERITY_PROBLEM, "listener",
                          "see why with: systemctl status epmd.service, journalctl -u epmd",
                          "systemd has the port, and no epmd answers behind it");
                return;
        }
        (void) snprintf(cure, sizeof cure,
                        "end it, or choose another port for one of the two; as root this shows who it "
                        "is: ss -ltnp 'sport = :%u'",
                        (unsigned) check->options.port);
        check_say(check, SEVERITY_PROBLEM, "listener", cure, "%s has port %u, and is no epmd that answers", who,
                  (unsigned) check->options.port);
}

static void report_epmd(Check *check, const char *who, const SocketHolder *server, bool systemd, uint32_t uid) {
        static const char cure[] = "stop its nodes; epmd -kill; systemctl enable --now epmd.socket";

        if (check->ours)
                check_say(check, SEVERITY_OK, "listener", NULL, "epmd for systemd%s",
                          systemd ? ", on a socket of systemd" : "");
        else if (systemd)
                check_say(check, SEVERITY_NOTE, "listener",
                          "if it is epmd for systemd: systemctl enable --now epmd-varlink.socket",
                          "%s, on a socket of systemd; %s does not tell more, so it may be the one of Erlang/OTP",
                          server ? who : "an epmd", check->options.varlink_path);
        else if (!server && uid == 0)
                check_say(check, SEVERITY_NOTE, "listener", "ask again as root",
                          "an epmd on a socket of root; whether it is systemd's, only root can see");
        else
                check_say(check, SEVERITY_WARNING, "listener", cure,
                          "%s, which systemd does not manage: whoever started it, its end loses all registrations",
                          who);
}

/* Who has the port: systemd, an epmd of its own, or something else. */
void check_listener(Check *check) {
        ListeningList list = {};
        SocketHolder holders[HOLDERS_MAX];
        char who[CURE_MAX];
        const SocketHolder *server;
        bool systemd;
        size_t n;

        if (listening_read(&list) < 0)
                return;
        listening_keep_port(&list, check->options.port);
        if (list.n == 0) {
                listening_done(&list);
                return;
        }
        n = listening_holders(&list, holders, HOLDERS_MAX);
        systemd = is_held_by_systemd(check, holders, n);
        server = find_server(holders, n);
        describe(server, list.items[0].uid, who);
        if (check->answered)
                report_epmd(check, who, server, systemd, list.items[0].uid);
        else
                report_stranger(check, who, systemd);
        listening_done(&list);
}

/* ---- Exposure ---- */

/* Whether an address of this host is one that the port listens on. */
static bool is_served(const Check *check, const Address *address) {
        for (size_t i = 0; i < check->listening.n; i++) {
                const Address *on = &check->listening.items[i].address;

                if (on->port != check->options.port)
                        continue;
                if (address_same_host(on, address) ||
                    (address_is_any(on) && (on->family == AF_INET6 || on->family == address->family)))
                        return true;
        }
        return false;
}

/* From which networks the port can be reached. */
void check_exposure(Check *check) {
        char public[LIST_TEXT_MAX] = "", ip[ADDRESS_TEXT_MAX];
        size_t n = 0, elsewhere = 0;

        if (!check->answered || check->listening.n == 0)
                return;
        for (size_t i = 0; i < check->own.n; i++) {
                const Address *address = &check->own.items[i];

                if (address_is_loopback(address) || !is_served(check, address))
                        continue;
                elsewhere++;
                if (check_is_public(address) && n < sizeof public)
                        n += (size_t) snprintf(public + n, sizeof public - n, "%s%s", n > 0 ? ", " : "",
                                               address_format_ip(address, ip));
        }
        if (elsewhere == 0)
                check_say(check, SEVERITY_NOTE, "exposure", NULL, "this host only: others cannot look nodes up here");
        else if (n == 0)
                check_say(check, SEVERITY_OK, "exposure", NULL, "this host and private networks");
        else if (check->ours)
                check_say(check, SEVERITY_OK, "exposure", NULL,
                          "listens on %s, too, where it answers whom EPMD_ALLOW admits (default: private networks)",
                          public);
        else
                check_say(check, SEVERITY_WARNING, "exposure",
                          "let a firewall drop the port there; epmd for systemd answers private networks only",
                          "listens on %s, which is not private; the epmd of Erlang/OTP tells everyone there who is "
                          "registered",
                          public);
}
