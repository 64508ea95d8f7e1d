/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the daemon knows beyond the protocol, for programs of this host: the interface org.erlang.epmd, read-only, over
 * Varlink (varlink.org). One message in, one out. Pure; time comes in as an argument. */

#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "registry.h"
#include "stats.h"
#include "util.h"

/* Bytes of a request; the longest sensible one asks for the longest name, escaped. */
enum { VARLINK_REQUEST_MAX = 16 * 1024 };

typedef struct Varlink Varlink;

/* What varies from call to call. */
typedef struct VarlinkFacts {
        const Stats *stats;
        uint64_t started;   /* realtime, µs */
        size_t connections; /* open, those of registered nodes included */
        uint16_t port;      /* that is served; 0: there are several */
        uint64_t now;       /* monotonic, µs */
        const Address *(*peer_of)(const Node *node); /* from where it was registered */
} VarlinkFacts;

/* Outcomes. */
enum {
        VARLINK_NO_REPLY = 1, /* the caller wants none */
        VARLINK_MALFORMED,    /* not a call: close the connection */
};

int varlink_new(const Registry *registry, Varlink **ret);
Varlink *varlink_free(Varlink *varlink);
DEFINE_CLEANUP(Varlink *, varlink_free)

int varlink_handle(Varlink *varlink, const VarlinkFacts *facts, const char *message, size_t n, char **ret,
                   size_t *ret_n);
