/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl list: who is registered. The port is the truth; what its daemon knows beyond NAMES is asked for over
 * Varlink, and believed only if it knows the same nodes. */

#include <stdio.h>
#include <string.h>

#include "ctl_ask.h"
#include "ctl_print.h"
#include "ctl_verbs.h"
#include "varlink_client.h"

enum { TRIES = 3 }; /* a node may come or go between the two questions */

/* Asks by NAMES. Returns 0 or the exit status. */
static int fetch_names(const CtlOptions *options, const char *host, NodeList *ret) {
        const Request request = {.tag = TAG_NAMES_REQ};
        _cleanup_(asked_done) Asked asked = {};
        int r;

        r = ask_host(host, &request, options, &asked);
        if (r >= 0 && !ask_answered(&asked)) {
                ask_explain(&asked, host, options);
                return CTL_NO_EPMD;
        }
        if (r >= 0)
                r = nodelist_from_names(asked.reply.data, asked.reply.n, ret);
        if (r == 0)
                return 0;
        ctl_say("failed to ask for the names: %s", r < 0 ? ERR_TEXT(r) : "the answer is none of an epmd");
        return CTL_FAILED;
}

static void say_plain(const CtlOptions *options, const VarlinkClient *client, int problem) {
        _cleanup_free_ char *path = ctl_escape(client->path, strlen(client->path)), *text = NULL;
        const char *what = varlink_client_problem(client, problem);

        if (options->quiet || !path)
                return;
        if (problem == 0) {
                ctl_say("the epmd on port %u is not the one behind %s; asked by NAMES, which tells only names and "
                        "ports",
                        (unsigned) options->port, path);
                return;
        }
        text = ctl_escape(what, strlen(what));
        ctl_say("%s: %s; asked by NAMES, which tells only names and ports", path, text ? text : "");
}

/* Asks for the details. Returns 0 with how many nodes have them now, or a result of varlink_client_list(). */
static int add_details(VarlinkClient *client, NodeList *names, size_t *ret_found) {
        NodeList detailed = {};
        int r = varlink_client_list(client, &detailed);

        if (r == 0)
                *ret_found = nodelist_add_details(names, &detailed);
        nodelist_done(&detailed);
        return r;
}

/* The nodes of this host, with details where the daemon gives them. Returns 0 or the exit status. */
static int fetch_local(const CtlOptions *options, NodeList *ret) {
        VarlinkClient client = {.path = options->varlink_path, .timeout = options->timeout};
        NodeList names = {};
        size_t found = 0;
        int problem = 0, status;

        for (unsigned i = 0; i < TRIES; i++) {
                nodelist_done(&names);
                status = fetch_names(options, NULL, &names);
                if (status != 0)
                        return status;
                problem = add_details(&client, &names, &found);
                if (problem != 0 || found == names.n)
                        break;
        }
        if (problem != 0 || (found == 0 && names.n > 0))
                say_plain(options, &client, problem);
        *ret = names;
        return 0;
}

static int print_json(const NodeList *list) {
        json_auto_t *array = json_array();
        int r = array ? 0 : -ENOMEM;

        for (size_t i = 0; i < list->n && r >= 0; i++)
                r = json_array_append_new(array, ctl_json_node(&list->items[i]));
        return r < 0 ? -ENOMEM : ctl_print_json(array);
}

/* One escaped name to a line. */
static int print_names(const NodeList *list) {
        for (size_t i = 0; i < list->n; i++) {
                _cleanup_free_ char *name = ctl_escape(list->items[i].name, list->items[i].name_len);

                if (!name)
                        return -ENOMEM;
                (void) puts(name);
        }
        return 0;
}

static int add_row(CtlTable *table, const ListedNode *node) {
        char port[8], type[CTL_TIME_MAX], versions[16], creation[16], owner[CTL_TIME_MAX], since[CTL_TIME_MAX];
        _cleanup_free_ char *name = ctl_escape(node->name, node->name_len);
        _cleanup_free_ char *unit = node->unit ? ctl_escape(node->unit, strlen(node->unit)) : strdup("-");

        if (!name || !unit)
                return -ENOMEM;
        (void) snprintf(port, sizeof port, "%u", (unsigned) node->port);
        /* One that has come between the two questions. */
        if (!node->detailed)
                return ctl_table_add(table, (const char *const[]){name, port, "-", "-", "-", "-", "-", "-"});
        (void) snprintf(versions, sizeof versions, "%u-%u", (unsigned) node->lowest_version,
                        (unsigned) node->highest_version);
        (void) snprintf(creation, sizeof creation, "%u", (unsigned) node->creation);
        return ctl_table_add(table, (const char *const[]){name, port, ctl_type(node->type, type), versions, creation,
                                                          ctl_user(node, owner), unit, ctl_time(node->since, since)});
}

/* Whether there is more than names and ports. */
static bool is_detailed(const NodeList *list) {
        for (size_t i = 0; i < list->n; i++)
                if (list->items[i].detailed)
                        return true;
        return false;
}

static int print_table(const CtlOptions *options, const NodeList *list) {
        static const CtlColumn columns[] = {
                {"NODE", false},    {"PORT", true},   {"TYPE", false}, {"VERSIONS", false},
                {"CREATION", true}, {"OWNER", false}, {"UNIT", false}, {"SINCE", false},
        };
        _cleanup_(ctl_table_freep) CtlTable *table =
                ctl_table_new(columns, is_detailed(list) ? ARRAY_SIZE(columns) : 2, options->legend);
        int r = table ? 0 : -ENOMEM;

        for (size_t i = 0; i < list->n && r >= 0; i++)
                r = add_row(table, &list->items[i]);
        if (r >= 0 && list->n > 0)
                r = ctl_table_print(table);
        if (r >= 0 && options->legend)
                (void) printf("%s%zu node%s registered.\n", list->n > 0 ? "\n" : "", list->n, list->n == 1 ? "" : "s");
        return r;
}

/* Prints the registered nodes of the host of the command line, or this one. Returns the exit status. */
int ctl_list(const CtlOptions *options) {
        const char *host = options->n_arguments > 0 ? options->arguments[0] : NULL;
        _cleanup_(nodelist_done) NodeList list = {};
        int r;

        r = ask_is_local(host) ? fetch_local(options, &list) : fetch_names(options, host, &list);
        if (r != 0)
                return r;
        if (list.unreadable > 0)
                ctl_say("lines of the answer that are no nodes: %zu; are there line breaks in names?", list.unreadable);
        if (options->json)
                r = print_json(&list);
        else
                r = options->quiet ? print_names(&list) : print_table(options, &list);
        if (r >= 0)
                return CTL_OK;
        ctl_say("failed to print the nodes: %s", ERR_TEXT(r));
        return CTL_FAILED;
}
