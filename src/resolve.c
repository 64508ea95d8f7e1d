/* SPDX-License-Identifier: Apache-2.0 */
#include "resolve.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util.h"
#include "waiting.h"

/* What the resolver's thread works on; it may outlive the caller's patience. */
typedef struct Query {
        struct addrinfo hints;
        struct gaicb gai;
        char host[];
} Query;

/* Appends an address, once. Returns 0 or a negative errno. */
int resolve_list_add(AddressList *list, const Address *address) {
        Address *items;

        for (size_t i = 0; i < list->n; i++)
                if (address_same_host(&list->items[i], address))
                        return 0;
        items = reallocarray(list->items, list->n + 1, sizeof *items);
        if (!items)
                return -ENOMEM;
        list->items = items;
        items[list->n++] = *address;
        return 0;
}

/* Frees what the list owns. */
void resolve_list_done(AddressList *list) {
        free(list->items);
        *list = (AddressList){};
}

/* Erlang does not know zones, and without its zone a link-local address means nothing. */
static bool needs_zone(const Address *address) {
        return address->family == AF_INET6 && address->ip[0] == 0xfe && (address->ip[1] & 0xc0) == 0x80;
}

static int take_results(const struct addrinfo *info, uint16_t port, AddressList *ret) {
        AddressList list = {};
        int r = 0;

        for (; info && r >= 0; info = info->ai_next) {
                SocketAddress socket = {};
                Address address;

                memcpy(&socket, info->ai_addr, size_min(info->ai_addrlen, sizeof socket));
                address = address_from_socket(&socket);
                address.port = port;
                if (address.family != AF_UNSPEC && !needs_zone(&address))
                        r = resolve_list_add(&list, &address);
        }
        if (r < 0)
                resolve_list_done(&list);
        else
                *ret = list;
        return r;
}

/* Waits for the answer. Returns a value of getaddrinfo(3), EAI_INPROGRESS when the time is over. */
static int await_query(Query *query, uint64_t timeout) {
        const struct gaicb *const list[] = {&query->gai};
        uint64_t deadline = waiting_now() + timeout, now;
        int error;

        while ((error = gai_error(&query->gai)) == EAI_INPROGRESS && (now = waiting_now()) < deadline) {
                struct timespec left = {.tv_sec = (time_t) ((deadline - now) / USEC_PER_SEC),
                                        .tv_nsec = (long) ((deadline - now) % USEC_PER_SEC * 1000)};
                (void) gai_suspend(list, 1, &left);
        }
        return error;
}

static int ask_resolver(const char *host, uint16_t port, uint64_t timeout, AddressList *ret, const char **ret_why) {
        Query *query = calloc(1, sizeof *query + strlen(host) + 1);
        struct gaicb *list[1];
        int error, r;

        if (!query)
                return -ENOMEM;
        (void) strcpy(query->host, host);
        query->hints = (struct addrinfo){.ai_socktype = SOCK_STREAM};
        query->gai = (struct gaicb){.ar_name = query->host, .ar_request = &query->hints};
        list[0] = &query->gai;
        error = getaddrinfo_a(GAI_NOWAIT, list, 1, NULL);
        if (error == 0)
                error = await_query(query, timeout);
        if (error == EAI_INPROGRESS && gai_cancel(&query->gai) != EAI_CANCELED) {
                /* The thread goes on writing to the query, which therefore is never freed. */
                *ret_why = "the name servers do not answer";
                return RESOLVE_FAILED;
        }
        r = error == 0 ? take_results(query->gai.ar_result, port, ret) : RESOLVE_FAILED;
        if (error != 0)
                *ret_why = error == EAI_INPROGRESS ? "the name servers do not answer" : gai_strerror(error);
        if (query->gai.ar_result)
                freeaddrinfo(query->gai.ar_result);
        free(query);
        return r;
}

/* Finds the addresses of a host, a name or a literal address, each with the port.
 *
 * timeout: µs. *ret is to be freed with resolve_list_done(). Returns 0 with at least one address; RESOLVE_FAILED with
 * a static text in *ret_why; a negative errno. */
int resolve_host(const char *host, uint16_t port, uint64_t timeout, AddressList *ret, const char **ret_why) {
        AddressList list = {};
        Address address;
        int r;

        if (address_parse(host, strlen(host), &address)) {
                address.port = port;
                r = resolve_list_add(&list, &address);
        } else
                r = ask_resolver(host, port, timeout, &list, ret_why);
        if (r != 0)
                return r;
        if (list.n == 0) {
                *ret_why = "it has only link-local IPv6 addresses, which Erlang cannot use";
                return RESOLVE_FAILED;
        }
        *ret = list;
        return 0;
}
