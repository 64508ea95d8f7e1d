/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl stats: what the daemon of this host has counted since its start. */

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ctl_print.h"
#include "ctl_verbs.h"
#include "varlink_client.h"

/* The counters of the interface, in the order in which they are shown. Those of one metric differ by its label. */
static const struct {
        const char *name;   /* in the interface */
        const char *text;   /* for people */
        const char *metric; /* for Prometheus: epmd_METRIC_total */
        const char *reason; /* its label, or NULL */
        const char *help;
} counters[] = {
        {"registrations", "registrations", "registrations", NULL, "Names that were registered."},
        {"unregistrations", "unregistrations", "unregistrations", NULL, "Names that were unregistered."},
        {"restores", "restored nodes", "restores", NULL, "Nodes taken over from the process before."},
        {"lookups", "look-ups", "lookups", NULL, "Look-ups of a name, found or not."},
        {"misses", "  of unknown names", "misses", NULL, "Look-ups of names that are not registered."},
        {"names", "lists of names", "names", NULL, "Requests for the list of names."},
        {"dumps", "dumps", "dumps", NULL, "Requests for the dump."},
        {"connections", "connections accepted", "connections", NULL, "Connections that were accepted."},
        {"refusedTaken", "refused: name taken", "refused", "taken", "What was refused, by reason."},
        {"refusedInvalid", "refused: name not valid", "refused", "invalid", NULL},
        {"refusedFull", "refused: no room", "refused", "full", NULL},
        {"refusedReserved", "refused: name reserved", "refused", "reserved", NULL},
        {"refusedQuota", "refused: too many of one user", "refused", "quota", NULL},
        {"refusedPeers", "refused: peer not allowed", "refused", "peer", NULL},
        {"malformed", "malformed requests", "malformed", NULL, "Requests that could not be understood."},
        {"timeouts", "timed out connections", "timeouts", NULL, "Connections closed because their time was over."},
};

static int add_value(CtlTable *table, const char *label, const char *format, ...) _printf_(3, 4);

static int add_value(CtlTable *table, const char *label, const char *format, ...) {
        char text[CTL_TIME_MAX];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof text, format, ap);
        va_end(ap);
        return ctl_table_add(table, (const char *const[]){label, text});
}

/* The value of a counter, or -1 where this daemon has none. */
static json_int_t value_of(const VarlinkStatistics *statistics, size_t i) {
        const json_t *value = json_object_get(statistics->counters, counters[i].name);

        return value ? json_integer_value(value) : -1;
}

static int print_table(const VarlinkStatistics *statistics) {
        static const CtlColumn columns[] = {{"", false}, {"", true}};
        _cleanup_(ctl_table_freep) CtlTable *table = ctl_table_new(columns, ARRAY_SIZE(columns), false);
        char since[CTL_TIME_MAX];
        int r = table ? 0 : -ENOMEM;

        if (r >= 0)
                r = add_value(table, "nodes now", "%" PRIu64, statistics->nodes);
        if (r >= 0)
                r = add_value(table, "connections now", "%" PRIu64, statistics->connections);
        for (size_t i = 0; i < ARRAY_SIZE(counters) && r >= 0; i++)
                if (value_of(statistics, i) >= 0)
                        r = add_value(table, counters[i].text, "%" JSON_INTEGER_FORMAT, value_of(statistics, i));
        if (r < 0)
                return r;
        (void) printf("Since %s", ctl_time(statistics->since, since));
        if (statistics->port > 0)
                (void) printf(", on port %u", (unsigned) statistics->port);
        (void) printf(":\n");
        return ctl_table_print(table);
}

static void print_gauge(const char *name, const char *help, const char *type) {
        (void) printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* The text format: each metric with its help and type once, before its values. */
static int print_prometheus(const VarlinkStatistics *statistics) {
        print_gauge("epmd_start_time_seconds", "When the daemon was started, in seconds since 1970.", "gauge");
        (void) printf("epmd_start_time_seconds %" PRIu64 ".%06" PRIu64 "\n", statistics->since / USEC_PER_SEC,
                      statistics->since % USEC_PER_SEC);
        print_gauge("epmd_nodes", "Registered nodes.", "gauge");
        (void) printf("epmd_nodes %" PRIu64 "\n", statistics->nodes);
        print_gauge("epmd_connections", "Open connections.", "gauge");
        (void) printf("epmd_connections %" PRIu64 "\n", statistics->connections);
        for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
                char metric[CTL_TIME_MAX];

                (void) snprintf(metric, sizeof metric, "epmd_%s_total", counters[i].metric);
                if (counters[i].help)
                        print_gauge(metric, counters[i].help, "counter");
                if (value_of(statistics, i) < 0)
                        continue;
                if (counters[i].reason)
                        (void) printf("%s{reason=\"%s\"}", metric, counters[i].reason);
                else
                        (void) printf("%s", metric);
                (void) printf(" %" JSON_INTEGER_FORMAT "\n", value_of(statistics, i));
        }
        return 0;
}

static int print_json(const VarlinkStatistics *statistics) {
        json_auto_t *json = json_pack("{s:I, s:I, s:I, s:O}", "since", (json_int_t) statistics->since, "nodes",
                                      (json_int_t) statistics->nodes, "connections",
                                      (json_int_t) statistics->connections, "counters", statistics->counters);

        if (json && statistics->port > 0)
                (void) json_object_set_new(json, "port", json_integer(statistics->port));
        return ctl_print_json(json);
}

/* Says why there are no numbers. Returns the exit status. */
static int explain(const CtlOptions *options, const VarlinkClient *client, int problem) {
        const char *what = varlink_client_problem(client, problem);
        _cleanup_free_ char *path = ctl_escape(options->varlink_path, strlen(options->varlink_path));
        _cleanup_free_ char *text = ctl_escape(what, strlen(what));

        ctl_say("%s: %s", path ? path : "", text ? text : "");
        ctl_say("only an epmd for systemd that runs as a service counts; to have it: systemctl enable --now "
                "epmd.socket epmd-varlink.socket");
        return problem < 0 ? CTL_FAILED : CTL_NO_EPMD;
}

/* Prints the counters of the daemon of this host. Returns the exit status. */
int ctl_stats(const CtlOptions *options) {
        VarlinkClient client = {.path = options->varlink_path, .timeout = options->timeout};
        VarlinkStatistics statistics;
        int r;

        r = varlink_client_statistics(&client, &statistics);
        if (r != 0)
                return explain(options, &client, r);
        if (options->port_given && statistics.port > 0 && statistics.port != options->port) {
                ctl_say("%s counts for the epmd on port %u, not on port %u; leave the port out", options->varlink_path,
                        (unsigned) statistics.port, (unsigned) options->port);
                r = CTL_NO_EPMD;
        } else if (options->json)
                r = print_json(&statistics);
        else
                r = options->prometheus ? print_prometheus(&statistics) : print_table(&statistics);
        varlink_statistics_done(&statistics);
        if (r >= 0)
                return r;
        ctl_say("failed to print the numbers: %s", ERR_TEXT(r));
        return CTL_FAILED;
}
