/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl lookup: what one node has registered, and which addresses were asked. */

#include <stdio.h>
#include <string.h>

#include "base64.h"
#include "ctl_ask.h"
#include "ctl_print.h"
#include "ctl_verbs.h"
#include "varlink_client.h"

/* The question and all that came of it. */
typedef struct Lookup {
        const CtlOptions *options;
        const char *argument;
        char *name;       /* owned */
        const char *host; /* NULL: this one */
        Asked asked;
        bool found;
        NodeInfo info;    /* when it was found; points into the reply */
        ListedNode known; /* what the daemon tells beyond that, if it does */
} Lookup;

static void lookup_done(Lookup *lookup) {
        free(lookup->name);
        asked_done(&lookup->asked);
        listed_node_done(&lookup->known);
}

/* NAME, or NAME@HOST. Returns 0, -EINVAL or -ENOMEM. */
static int split_name(Lookup *lookup) {
        const char *argument = lookup->argument;
        const char *at = strrchr(argument, '@');
        size_t n = at ? (size_t) (at - argument) : strlen(argument);

        if (n == 0 || n > PROTO_NAME_BYTES_MAX || (at && !at[1]))
                return -EINVAL;
        lookup->name = strndup(argument, n);
        lookup->host = at ? at + 1 : NULL;
        return lookup->name ? 0 : -ENOMEM;
}

/* What only the daemon of this host knows; nothing is missed where it does not tell. */
static void add_known(Lookup *lookup) {
        VarlinkClient client = {.path = lookup->options->varlink_path, .timeout = lookup->options->timeout};

        if (!ask_is_local(lookup->host) || varlink_client_lookup(&client, lookup->name, &lookup->known) != 0)
                return;
        /* The epmd on the port may be another one. */
        if (lookup->known.port != lookup->info.port || strcmp(lookup->known.name, lookup->name) != 0)
                listed_node_done(&lookup->known);
}

/* Returns 0 or a negative errno. */
static int ask(Lookup *lookup) {
        const Request request = {
                .tag = TAG_PORT2_REQ,
                .node = {.name = (const uint8_t *) lookup->name, .name_len = (uint16_t) strlen(lookup->name)}};
        uint8_t result = 1;
        int r;

        r = ask_host(lookup->host, &request, lookup->options, &lookup->asked);
        if (r < 0 || !ask_answered(&lookup->asked))
                return r;
        (void) proto_parse_port2_reply(lookup->asked.reply.data, lookup->asked.reply.n, &result, &lookup->info);
        lookup->found = result == 0;
        if (lookup->found)
                add_known(lookup);
        return 0;
}

/* What an address said, in the words of this question. */
static const char *outcome(const Lookup *lookup, const Attempt *attempt, char buffer[ATTEMPT_TEXT_MAX]) {
        if (attempt->result == ASK_ANSWERED)
                return lookup->found ? "registered" : "not registered";
        return attempt_text(attempt, lookup->options, buffer);
}

/* ---- For people ---- */

static int add_field(CtlTable *table, const char *label, const char *text) {
        return ctl_table_add(table, (const char *const[]){label, text});
}

static int add_info(CtlTable *table, const NodeInfo *info) {
        _cleanup_free_ char *extra = ctl_escape((const char *) info->extra, info->extra_len);
        char text[CTL_TIME_MAX], type[CTL_TIME_MAX];
        int r;

        if (!extra)
                return -ENOMEM;
        (void) snprintf(text, sizeof text, "%u", (unsigned) info->port);
        r = add_field(table, "port:", text);
        (void) snprintf(text, sizeof text, "%s (%u), protocol %u", ctl_type(info->type, type), (unsigned) info->type,
                        (unsigned) info->protocol);
        if (r >= 0)
                r = add_field(table, "type:", text);
        (void) snprintf(text, sizeof text, "%u to %u", (unsigned) info->lowest_version,
                        (unsigned) info->highest_version);
        if (r >= 0)
                r = add_field(table, "versions:", text);
        return r >= 0 ? add_field(table, "extra:", info->extra_len > 0 ? extra : "none") : r;
}

static int add_details(CtlTable *table, const ListedNode *known) {
        _cleanup_free_ char *peer = known->peer ? ctl_escape(known->peer, strlen(known->peer)) : strdup("-");
        _cleanup_free_ char *unit = known->unit ? ctl_escape(known->unit, strlen(known->unit)) : strdup("-");
        char text[CTL_TIME_MAX];
        int r;

        if (!peer || !unit)
                return -ENOMEM;
        (void) snprintf(text, sizeof text, "%u", (unsigned) known->creation);
        r = add_field(table, "creation:", text);
        if (r >= 0)
                r = add_field(table, "owner:", ctl_user(known, text));
        if (r >= 0)
                r = add_field(table, "unit:", unit);
        if (r >= 0)
                r = add_field(table, "peer:", peer);
        return r >= 0 ? add_field(table, "since:", ctl_time(known->since, text)) : r;
}

static int add_attempts(CtlTable *table, const Lookup *lookup) {
        char address[ADDRESS_TEXT_MAX], text[ATTEMPT_TEXT_MAX], line[ADDRESS_TEXT_MAX + ATTEMPT_TEXT_MAX + 2];
        int r = 0;

        for (size_t i = 0; i < lookup->asked.n && r >= 0; i++) {
                const Attempt *attempt = &lookup->asked.attempts[i];

                (void) snprintf(line, sizeof line, "%s: %s", address_format(&attempt->address, address),
                                outcome(lookup, attempt, text));
                r = add_field(table, i == 0 ? "asked:" : "", line);
        }
        return r;
}

static int print_found(const Lookup *lookup) {
        static const CtlColumn columns[] = {{"", true}, {"", false}};
        _cleanup_(ctl_table_freep) CtlTable *table = ctl_table_new(columns, ARRAY_SIZE(columns), false);
        _cleanup_free_ char *name = ctl_escape(lookup->argument, strlen(lookup->argument));
        int r = table && name ? add_info(table, &lookup->info) : -ENOMEM;

        if (r >= 0 && lookup->known.detailed)
                r = add_details(table, &lookup->known);
        if (r >= 0)
                r = add_attempts(table, lookup);
        if (r < 0)
                return r;
        (void) printf("%s%s%s\n", ctl_colour(stdout, COLOUR_BOLD), name, ctl_colour(stdout, COLOUR_OFF));
        return ctl_table_print(table);
}

/* On stderr, with the status telling the rest. */
static int print_missing(const Lookup *lookup) {
        _cleanup_free_ char *name = ctl_escape(lookup->name, strlen(lookup->name));
        char address[ADDRESS_TEXT_MAX], text[ATTEMPT_TEXT_MAX];
        const Asked *asked = &lookup->asked;

        if (!ask_answered(asked)) {
                ask_explain(asked, lookup->host, lookup->options);
                return 0;
        }
        if (!name)
                return -ENOMEM;
        for (size_t i = 0; i < asked->n; i++)
                ctl_say("%s: %s", address_format(&asked->attempts[i].address, address),
                        outcome(lookup, &asked->attempts[i], text));
        ctl_say("%s is not registered; who is, is told by: epmdctl list%s%s", name, lookup->host ? " " : "",
                lookup->host ? lookup->host : "");
        return 0;
}

/* ---- For programs ---- */

/* The node, as the list has it. NULL: no memory. */
static json_t *node_json(const Lookup *lookup) {
        const NodeInfo *info = &lookup->info;
        char extra[BASE64_SIZE(PROTO_EXTRA_MAX)];

        if (lookup->known.detailed)
                return ctl_json_node(&lookup->known);
        return json_pack("{s:o, s:i, s:i, s:i, s:i, s:i, s:s}", "name",
                         ctl_json_text((const char *) info->name, info->name_len), "port", (int) info->port, "type",
                         (int) info->type, "protocol", (int) info->protocol, "highestVersion",
                         (int) info->highest_version, "lowestVersion", (int) info->lowest_version, "extra",
                         base64_encode(info->extra, size_min(info->extra_len, PROTO_EXTRA_MAX), extra));
}

static json_t *attempts_json(const Lookup *lookup) {
        char address[ADDRESS_TEXT_MAX], text[ATTEMPT_TEXT_MAX];
        json_t *array = json_array();

        for (size_t i = 0; array && i < lookup->asked.n; i++) {
                const Attempt *attempt = &lookup->asked.attempts[i];

                (void) json_array_append_new(array, json_pack("{s:s, s:s}", "address",
                                                              address_format(&attempt->address, address), "result",
                                                              outcome(lookup, attempt, text)));
        }
        return array;
}

static int print_json(const Lookup *lookup) {
        json_auto_t *json = json_pack("{s:b, s:o, s:o*}", "registered", (int) lookup->found, "asked",
                                      attempts_json(lookup), "node", lookup->found ? node_json(lookup) : NULL);

        return ctl_print_json(json);
}

/* Prints what one node has registered. Returns the exit status: CTL_OK, CTL_NO if it is not registered, or another. */
int ctl_lookup(const CtlOptions *options) {
        _cleanup_(lookup_done) Lookup lookup = {.options = options, .argument = options->arguments[0]};
        int r;

        r = split_name(&lookup);
        if (r == -EINVAL) {
                ctl_say("lookup needs NAME or NAME@HOST, with a name of 1 to %d bytes", PROTO_NAME_BYTES_MAX);
                return CTL_USAGE;
        }
        if (r >= 0)
                r = ask(&lookup);
        if (r >= 0 && options->json)
                r = print_json(&lookup);
        if (r >= 0 && !lookup.found)
                r = print_missing(&lookup);
        else if (r >= 0 && !options->json)
                r = print_found(&lookup);
        if (r < 0) {
                ctl_say("failed to look the name up: %s", ERR_TEXT(r));
                return CTL_FAILED;
        }
        if (lookup.found)
                return CTL_OK;
        return ask_answered(&lookup.asked) ? CTL_NO : CTL_NO_EPMD;
}
