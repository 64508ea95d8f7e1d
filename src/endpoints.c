/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints.h"

#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "listener.h"

enum { CLIENT_TIMEOUT_SECONDS = 5 };

/* Takes what the service manager passes. Returns 0 or a negative errno, explained. */
int endpoints_take(PassedSockets *sockets, Log *log) {
        int r = systemd_take_sockets(sockets);

        if (r >= 0 && sockets->n > 0)
                return 0;
        systemd_leave();
        if (r < 0)
                return log_failure(log, r, "Failed to take the sockets that systemd passes");
        log_message(log, LOG_ERR, "No socket was passed by systemd: start epmd.socket, not \"epmd -systemd\"; without "
                                  "systemd, leave -systemd out");
        return -ENOENT;
}

/* How many of what was passed are sockets to listen on. What is stored is not counted: the next process has more of that. */
size_t endpoints_count(const PassedSockets *sockets) {
        size_t n = 0;

        for (size_t i = 0; i < sockets->n; i++)
                n += listener_check(sockets->items[i].fd) == 0;
        return n;
}

/* Whether it was stored by a later version of this program, after which an administrator has gone back to this one. */
static bool is_of_another_version(const PassedSocket *socket) {
        static const char ours[] = "epmd-", unit[] = ".socket";
        size_t n = strlen(socket->name);

        return strncmp(socket->name, ours, sizeof ours - 1) == 0 &&
               (n < sizeof unit || strcmp(socket->name + n - (sizeof unit - 1), unit) != 0);
}

/* Serves the sockets that were passed. Returns 0 or a negative errno, explained. */
int endpoints_add_passed(Server *server, PassedSockets *sockets, Log *log) {
        size_t served = 0;

        for (size_t i = 0; i < sockets->n; i++) {
                const char *name = sockets->items[i].name;
                int r;

                if (sockets->items[i].fd < 0)
                        continue;
                r = listener_check(sockets->items[i].fd);
                if (r > 0 && is_of_another_version(&sockets->items[i])) {
                        log_message(log, LOG_WARNING, "Dropping \"%s\", which another version of epmd has stored", name);
                        systemd_unstore(name);
                        continue;
                }
                if (r != 0) {
                        log_message(log, LOG_ERR,
                                    "Socket %zu of those passed by systemd, \"%s\", cannot be served: %s; look at the "
                                    "socket units with Service=epmd.service",
                                    i + 1, name, listener_problem_text(r));
                        return r < 0 ? r : -ENOTSUP;
                }
                r = server_add_listener(server, TAKE_FD(sockets->items[i].fd), name);
                if (r == -E2BIG) {
                        log_message(log, LOG_WARNING, "Not serving socket \"%s\": %zu are served, which is all that there "
                                                      "is room for", name, served);
                        continue;
                }
                if (r < 0)
                        return log_failure(log, r, "Failed to serve socket \"%s\"", name);
                served++;
        }
        if (served == 0) {
                log_message(log, LOG_ERR, "No socket was passed by systemd that could be served: start epmd.socket");
                return -ENOENT;
        }
        return 0;
}

/* Whether this is an epmd's answer to NAMES_REQ or DUMP_REQ. */
static bool is_listing(const ClientReply *reply) {
        uint16_t port;

        return proto_parse_listing(reply->data, reply->n, &port) == 0;
}

/* The port is taken. That is fine if an epmd has it: whoever starts a second one wants one to run, no more.
 * Returns 1 then, else -EADDRINUSE, explained. */
static int explain_taken(const Address *address, Log *log) {
        const Request request = {.tag = TAG_NAMES_REQ};
        const Address loopback = client_loopback(address->family, address->port);
        char text[ADDRESS_TEXT_MAX];
        ClientReply reply;
        bool answers;
        int r;

        r = client_call(address_is_any(address) ? &loopback : address, &request, CLIENT_TIMEOUT_SECONDS * USEC_PER_SEC,
                        &reply);
        answers = r == 0 && is_listing(&reply);
        client_reply_done(&reply);
        if (answers) {
                log_message(log, LOG_DEBUG, "An epmd runs on port %u already, nothing to do", address->port);
                return 1;
        }
        log_message(log, LOG_ERR,
                    "Failed to listen on %s: another program, which is no epmd, has the port; see which with: "
                    "ss -ltnp sport = :%u",
                    address_format(address, text), address->port);
        return -EADDRINUSE;
}

/* Listens on one address and serves it. implied: nobody asked for it, so it may fail.
 * Returns 0; 1: an epmd has the port; a negative errno, explained. */
static int add_address(Server *server, const Address *address, bool implied, Log *log) {
        char text[ADDRESS_TEXT_MAX];
        int fd = -1, r;

        r = listener_open(address, &fd);
        if (r >= 0) {
                r = server_add_listener(server, fd, "epmd");
                return r < 0 ? log_failure(log, r, "Failed to serve %s", address_format(address, text)) : 0;
        }
        if (implied && r == -EADDRINUSE && !address_is_any(address)) {
                log_message(log, LOG_WARNING, "Not listening on %s, which another program has: nodes of this host may "
                                              "register there; see which with: ss -ltnp sport = :%u",
                            address_format(address, text), address->port);
                return 0;
        }
        if (implied && r != -EADDRINUSE) {
                log_message(log, LOG_DEBUG, "Not listening on %s: %s", address_format(address, text), ERR_TEXT(r));
                return 0;
        }
        if (r == -EADDRINUSE)
                return explain_taken(address, log);
        return log_failure(log, r, "Failed to listen on %s", address_format(address, text));
}

/* Whether an address needs no socket: it is among the first n of the list, or the list has all of its family. */
static bool is_covered(const Options *options, const Address *address, size_t n) {
        for (size_t i = 0; i < options->n_addresses; i++) {
                const Address *other = &options->addresses[i];

                if (i < n && address_same_host(address, other))
                        return true;
                if (address_is_any(other) && other->family == address->family && !address_is_any(address))
                        return true;
        }
        return false;
}

/* Listens on what the options say, as upstream does: on everything, or on the given addresses and the loopbacks.
 * Returns as add_address(). */
int endpoints_add_own(Server *server, const Options *options, Log *log) {
        const Address any4 = {.family = AF_INET, .port = options->port};
        const Address any6 = {.family = AF_INET6, .port = options->port};
        const Address loopbacks[] = {client_loopback(AF_INET, options->port), client_loopback(AF_INET6, options->port)};
        bool everything = options->n_addresses == 0;
        int r = 0;

        if (everything)
                r = add_address(server, &any4, false, log);
        for (size_t i = 0; i < options->n_addresses && r == 0; i++)
                if (!is_covered(options, &options->addresses[i], i))
                        r = add_address(server, &options->addresses[i], false, log);
        if (r != 0)
                return r;
        /* Not every machine has IPv6. */
        if (everything)
                return add_address(server, &any6, true, log);
        for (size_t i = 0; i < ARRAY_SIZE(loopbacks); i++)
                if (!is_covered(options, &loopbacks[i], options->n_addresses))
                        (void) add_address(server, &loopbacks[i], true, log);
        return 0;
}
