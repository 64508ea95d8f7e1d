/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl check, second part: whether the registered nodes can be reached where they say. */

#include "ctl_check.h"

#include <stdio.h>
#include <string.h>

#include "ctl_print.h"

enum {
        WHERE_MAX = 1024,
        CURE_MAX = 512,
};

/* Where to try a node of this host: where it listens, the loopback before others. */
static Address local_address(const Check *check, uint16_t port) {
        Address best = client_loopback(AF_INET, port);
        bool found = false;

        for (size_t i = 0; i < check->listening.n; i++) {
                const Address *on = &check->listening.items[i].address;

                if (on->port != port)
                        continue;
                if (address_is_any(on))
                        return client_loopback(on->family, port);
                if (!found || address_is_loopback(on))
                        best = *on;
                found = true;
        }
        return best;
}

/* Whether a port of this host listens on loopback addresses alone. */
static bool is_loopback_only(const Check *check, uint16_t port) {
        bool found = false;

        for (size_t i = 0; i < check->listening.n; i++) {
                if (check->listening.items[i].address.port != port)
                        continue;
                if (!address_is_loopback(&check->listening.items[i].address))
                        return false;
                found = true;
        }
        return found;
}

static void report_reached(Check *check, const ListedNode *node, const char *name) {
        char where[WHERE_MAX];

        if (check->host)
                check_say(check, SEVERITY_OK, "node", NULL, "%s: port %u accepts connections", name,
                          (unsigned) node->port);
        else if (is_loopback_only(check, node->port))
                check_say(check, SEVERITY_NOTE, "node", NULL,
                          "%s: port %u accepts connections on %s only, not from other hosts", name,
                          (unsigned) node->port,
                          check_addresses_text(&check->listening, node->port, where, sizeof where));
        else
                check_say(check, SEVERITY_OK, "node", NULL, "%s: port %u accepts connections on %s", name,
                          (unsigned) node->port,
                          check_addresses_text(&check->listening, node->port, where, sizeof where));
}

static void report_missed(Check *check, const ListedNode *node, const char *name, int result) {
        _cleanup_free_ char *unit = node->unit ? ctl_escape(node->unit, strlen(node->unit)) : NULL;
        const char *why = result == -ETIMEDOUT ? "no connection in time" : ERR_TEXT(result);
        char cure[CURE_MAX];

        if (check->host && result == -ETIMEDOUT)
                (void) snprintf(cure, sizeof cure,
                                "let the firewalls in between admit the port; the kernel application's "
                                "inet_dist_listen_min and inet_dist_listen_max choose it");
        else if (check->host)
                (void) snprintf(cure, sizeof cure,
                                "the node has gone or listens on its loopback only: restart it, without an "
                                "inet_dist_use_interface of 127.0.0.1");
        else if (unit)
                (void) snprintf(cure, sizeof cure, "it is registered, but does not listen: systemctl restart %s",
                                unit);
        else
                (void) snprintf(cure, sizeof cure,
                                "it is registered, but does not listen: restart it, or the proxy that registered it");
        check_say(check, SEVERITY_PROBLEM, "node", cure, "%s: port %u: %s", name, (unsigned) node->port, why);
}

static void report(Check *check, const ListedNode *node, int result) {
        _cleanup_free_ char *name = ctl_escape(node->name, node->name_len);

        if (!name)
                return;
        if (node->port == 0)
                check_say(check, SEVERITY_NOTE, "node", NULL,
                          "%s: registered without a port, so nobody can connect to it", name);
        else if (result == 0)
                report_reached(check, node, name);
        else
                report_missed(check, node, name, result);
}

/* Every node is connected to, many at a time, and left at once. */
void check_nodes(Check *check) {
        size_t n = check->nodes.n;
        _cleanup_free_ ClientProbe *probes = calloc(n + 1, sizeof *probes);
        int r;

        if (!check->answered || !probes)
                return;
        if (n == 0)
                check_say(check, SEVERITY_OK, "node", NULL, "none is registered");
        for (size_t i = 0; i < n; i++) {
                uint16_t port = check->nodes.items[i].port;

                probes[i].address = check->host ? check->from : local_address(check, port);
                probes[i].address.port = port;
        }
        r = client_probe(probes, n, check->options.timeout);
        for (size_t i = 0; i < n; i++)
                report(check, &check->nodes.items[i], r < 0 ? r : probes[i].result);
}
