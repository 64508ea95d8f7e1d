/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl check: the order of the tests, and how their findings are printed. */

#include "ctl_check.h"

#include <ifaddrs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "allow.h"
#include "ctl_print.h"
#include "ctl_verbs.h"
#include "escape.h"
#include "varlink_client.h"

static const char *const severity_names[] = {
        [SEVERITY_OK] = "ok",
        [SEVERITY_NOTE] = "note",
        [SEVERITY_WARNING] = "warning",
        [SEVERITY_PROBLEM] = "problem",
};

static void print_finding(Severity severity, const char *what, const char *cure, const char *text) {
        static const CtlColour colours[] = {
                [SEVERITY_OK] = COLOUR_GREEN,
                [SEVERITY_NOTE] = COLOUR_BOLD,
                [SEVERITY_WARNING] = COLOUR_YELLOW,
                [SEVERITY_PROBLEM] = COLOUR_RED,
        };
        char line[CTL_LINE_MAX];

        (void) printf("%s%-7s%s  %-11s  %s\n", ctl_colour(stdout, colours[severity]), severity_names[severity],
                      ctl_colour(stdout, COLOUR_OFF), what, escape_line(text, line, sizeof line));
        if (cure)
                (void) printf("%22scure: %s\n", "", escape_line(cure, line, sizeof line));
        (void) ctl_flush();
}

/* One finding: on the terminal as soon as it is known, for tests may take their time. In JSON it waits for the others.
 * what: the test; cure: what to do about it, or NULL; the text may be cut. */
void check_say(Check *check, Severity severity, const char *what, const char *cure, const char *format, ...) {
        char text[CTL_LINE_MAX];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof text, format, ap);
        va_end(ap);
        if (severity > check->worst)
                check->worst = severity;
        if (!check->findings) {
                print_finding(severity, what, cure, text);
                return;
        }
        (void) json_array_append_new(check->findings, json_pack("{s:s, s:s, s:o, s:s*}", "check", what, "verdict",
                                                                severity_names[severity], "text",
                                                                ctl_json_text(text, strlen(text)), "cure", cure));
}

/* Whether the Internet may reach an address. */
bool check_is_public(const Address *address) {
        Allow allow;
        const char *bad;
        size_t bad_len;
        bool public;

        if (address_is_loopback(address) || address_is_any(address) ||
            allow_parse(ALLOW_DEFAULT, &allow, &bad, &bad_len) < 0)
                return false;
        public = !allow_admits(&allow, address, false);
        allow_done(&allow);
        return public;
}

/* The addresses on which a port listens: "all addresses", "127.0.0.1, ::1", or nothing. Always returns buffer. */
const char *check_addresses_text(const ListeningList *list, uint16_t port, char *buffer, size_t size) {
        size_t n = 0;

        buffer[0] = 0;
        for (size_t i = 0; i < list->n && n < size; i++) {
                const Address *address = &list->items[i].address;
                const char *text;
                char ip[ADDRESS_TEXT_MAX];

                if (address->port != port)
                        continue;
                text = address_format_ip(address, ip);
                if (address_is_any(address))
                        text = address->family == AF_INET6 ? "all addresses" : "all IPv4 addresses";
                n += (size_t) snprintf(buffer + n, size - n, "%s%s", n > 0 ? ", " : "", text);
        }
        return buffer;
}

/* The addresses of this host's interfaces. What cannot be found out is left out. */
static void find_own(AddressList *list) {
        struct ifaddrs *all;

        if (getifaddrs(&all) < 0)
                return;
        for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
                SocketAddress socket = {};
                Address address;

                if (!one->ifa_addr || (one->ifa_addr->sa_family != AF_INET && one->ifa_addr->sa_family != AF_INET6))
                        continue;
                memcpy(&socket, one->ifa_addr,
                       one->ifa_addr->sa_family == AF_INET ? sizeof socket.in : sizeof socket.in6);
                address = address_from_socket(&socket);
                (void) resolve_list_add(list, &address);
        }
        freeifaddrs(all);
}

/* How many lists of names the daemon that speaks Varlink has sent, or -1. */
static json_int_t count_names(VarlinkClient *client) {
        VarlinkStatistics statistics;
        json_int_t count;

        if (varlink_client_statistics(client, &statistics) != 0)
                return -1;
        count = json_integer_value(json_object_get(statistics.counters, "names"));
        varlink_statistics_done(&statistics);
        return count;
}

/* Whether it counts what is asked on the port: where no node tells two daemons apart, this does. */
static bool counts_the_port(const Check *check, VarlinkClient *client) {
        const Request request = {.tag = TAG_NAMES_REQ};
        json_int_t before = count_names(client);
        ClientReply reply = {};
        Attempt attempt;

        (void) ask_address(&check->from, &request, check->options.timeout, &attempt, &reply);
        client_reply_done(&reply);
        return before >= 0 && count_names(client) > before;
}

/* Whether the daemon that speaks Varlink is the one on the port: it knows the same nodes. */
static void find_ours(Check *check) {
        VarlinkClient client = {.path = check->options.varlink_path, .timeout = check->options.timeout};
        NodeList list = {};

        if (!check->answered || varlink_client_list(&client, &list) != 0)
                return;
        if (check->nodes.n > 0)
                check->ours = nodelist_add_details(&check->nodes, &list) > 0;
        else
                check->ours = list.n == 0 && counts_the_port(check, &client);
        if (check->ours)
                check->varlink_listener = client.listener;
        nodelist_done(&list);
}

static void check_done(Check *check) {
        json_decref(check->findings);
        resolve_list_done(&check->own);
        resolve_list_done(&check->addresses);
        nodelist_done(&check->nodes);
        listening_done(&check->listening);
}

static void run_checks(Check *check) {
        check_environment(check);
        if (check->host) {
                check_name(check);
                check_ports(check);
        } else {
                find_own(&check->own);
                (void) listening_read(&check->listening);
                check_name(check);
                check_ports(check);
                find_ours(check);
                check_listener(check);
                check_exposure(check);
        }
        check_nodes(check);
}

/* Runs every test that there is for the host of the command line, or this one, and prints what it finds. Returns the
 * exit status: 0, 1 if the worst is a warning, 2 if it is a problem, or CTL_FAILED. */
int ctl_check(const CtlOptions *options) {
        const char *host = options->n_arguments > 0 ? options->arguments[0] : NULL;
        _cleanup_(check_done) Check check = {
                .options = *options,
                .host = ask_is_local(host) ? NULL : host,
                .findings = options->json ? json_array() : NULL,
        };

        if (options->json && !check.findings) {
                ctl_say("out of memory");
                return CTL_FAILED;
        }
        run_checks(&check);
        if (check.findings && ctl_print_json(check.findings) < 0) {
                ctl_say("failed to print the findings: %s", ERR_TEXT(-ENOMEM));
                return CTL_FAILED;
        }
        if (check.worst == SEVERITY_PROBLEM)
                return 2;
        return check.worst == SEVERITY_WARNING ? 1 : 0;
}
