/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The policy of the daemon: what a request from a peer does to the registry and what the peer is told. Pure: it
 * sees facts and bytes, and changes nothing but the registry. */

#include <stdbool.h>

#include "listing.h"
#include "peer.h"
#include "proto.h"
#include "registry.h"
#include "reserve.h"
#include "util.h"

typedef struct Service Service;

/* What to do with the connection, besides sending the response. */
typedef enum Verdict {
        VERDICT_CLOSE,      /* close it; without data: silently */
        VERDICT_REGISTERED, /* keep it: response.node belongs to it */
        VERDICT_REFUSED,    /* close it: response.refusal says why */
        VERDICT_STOP,       /* release response.node and end its connection, then close this one */
        VERDICT_EXIT,       /* close it and end the daemon */
} Verdict;

typedef enum Refusal {
        REFUSAL_NONE,
        REFUSAL_INVALID, /* a name or Extra that cannot be registered */
        REFUSAL_TAKEN,   /* response.node holds the name */
        REFUSAL_FULL,
        REFUSAL_RESERVED, /* the name is another user's: response.reservation */
        REFUSAL_QUOTA,    /* the user has as many nodes as one may; response.node: has the name, or NULL */
        REFUSAL_NO_MEMORY,
} Refusal;

typedef struct Response {
        Verdict verdict;
        Refusal refusal;
        Request request; /* as parsed; points into the request's bytes. Tag 0: malformed */
        Node *node;
        const Reservation *reservation;
        Listing *listing; /* to be sent behind data; the service's: take a reference to keep it */
        size_t len;
        uint8_t data[PROTO_PORT2_REPLY_MAX];
} Response;

typedef struct ServiceConfig {
        bool relaxed;           /* KILL_REQ with nodes registered, and STOP_REQ, are allowed */
        uint16_t default_port;  /* what NAMES tells a peer that came by no port */
        uint32_t own_uid;       /* of the daemon */
        size_t user_nodes_max;  /* of one user, but root */
        const Reserve *reserve; /* must outlive the service */
} ServiceConfig;

int service_new(Registry *registry, const ServiceConfig *config, Service **ret);
Service *service_free(Service *service);
DEFINE_CLEANUP(Service *, service_free)

int service_handle(Service *service, const Peer *peer, const uint8_t *body, size_t n, const Holder *holder, uint64_t now,
                   Response *ret);
void service_put_registered(const Node *node, Response *ret);
const char *refusal_text(Refusal refusal);
