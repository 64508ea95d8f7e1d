/* SPDX-License-Identifier: Apache-2.0 */
#include "service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct Service {
        Registry *registry; /* not ours */
        ServiceConfig config;
        Listing *names; /* the last ones made, good as long as the registry has not changed */
        Listing *dump;
};

/* Makes the service of a registry, which stays the caller's and must outlive it. Returns 0 or -ENOMEM. */
int service_new(Registry *registry, const ServiceConfig *config, Service **ret) {
        Service *service = malloc(sizeof *service);

        if (!service)
                return -ENOMEM;
        *service = (Service){.registry = registry, .config = *config};
        *ret = service;
        return 0;
}

Service *service_free(Service *service) {
        if (!service)
                return NULL;
        listing_unref(service->names);
        listing_unref(service->dump);
        free(service);
        return NULL;
}

static WireWriter response_writer(Response *response) {
        return wire_writer(response->data, sizeof response->data);
}

static void put_refusal(Response *response, Refusal refusal) {
        WireWriter w = response_writer(response);

        proto_put_alive2_reply(&w, response->request.node.highest_version, 1, PROTO_REFUSED_CREATION);
        response->len = w.len;
        response->verdict = VERDICT_REFUSED;
        response->refusal = refusal;
}

/* Whether this user has as many nodes as one may. A peer whose owner is hidden (owner.h) counts as one user together with
 * all others like it: otherwise to hide would be a way around the limit. Where the kernel tells no owners at all none is
 * hidden, and there is no limit. */
static bool is_over_quota(const Service *service, const Owner *owner) {
        size_t max = service->config.user_nodes_max;

        if (owner->known)
                return owner->uid != 0 && registry_count_of(service->registry, owner) >= max;
        return owner->hidden && registry_count(service->registry) - registry_count_known(service->registry) >= max;
}

/* Whether this user may register that name, whoever has it. */
static Refusal check_policy(const Service *service, const NodeInfo *info, const Owner *owner, Response *response) {
        response->reservation = reserve_find(service->config.reserve, info->name, info->name_len);
        if (response->reservation && !reservation_permits(response->reservation, owner))
                return REFUSAL_RESERVED;
        if (is_over_quota(service, owner)) {
                response->node = registry_find(service->registry, info->name, info->name_len);
                return REFUSAL_QUOTA;
        }
        return REFUSAL_NONE;
}

/* The reply to the registration of a node. */
void service_put_registered(const Node *node, Response *ret) {
        NodeInfo info = node_info(node);
        WireWriter w = response_writer(ret);

        proto_put_alive2_reply(&w, info.highest_version, 0, node_creation(node));
        ret->len = w.len;
        ret->verdict = VERDICT_REGISTERED;
}

static void handle_alive2(Service *service, const Holder *holder, uint64_t now, Response *response) {
        const NodeInfo *info = &response->request.node;
        Refusal refusal = check_policy(service, info, &holder->owner, response);
        int r;

        if (refusal != REFUSAL_NONE) {
                put_refusal(response, refusal);
                return;
        }
        r = registry_add(service->registry, info, holder, now, &response->node);
        switch (r) {
        case 0:
                service_put_registered(response->node, response);
                return;
        case REGISTRY_TAKEN:
                response->node = registry_find(service->registry, info->name, info->name_len);
                put_refusal(response, REFUSAL_TAKEN);
                return;
        case REGISTRY_FULL:
                put_refusal(response, REFUSAL_FULL);
                return;
        default:
                put_refusal(response, REFUSAL_NO_MEMORY);
                return;
        }
}

static void handle_port2(Service *service, Response *response) {
        const NodeInfo *asked = &response->request.node;
        WireWriter w = response_writer(response);

        response->node = registry_find(service->registry, asked->name, asked->name_len);
        if (response->node) {
                NodeInfo info = node_info(response->node);
                proto_put_port2_reply(&w, &info);
        } else
                proto_put_port2_reply(&w, NULL);
        response->len = w.len;
}

static int handle_listing(Service *service, const Peer *peer, Listing **cached,
                          int (*make)(const Registry *, Listing **), Response *response) {
        WireWriter w = response_writer(response);
        Listing *fresh;
        int r;

        if (!*cached || listing_revision(*cached) != registry_revision(service->registry)) {
                r = make(service->registry, &fresh);
                if (r < 0)
                        return r;
                listing_unref(*cached);
                *cached = fresh;
        }
        wire_put_u32(&w, peer->address.family == AF_UNIX ? service->config.default_port : peer->port_reached);
        response->len = w.len;
        response->listing = *cached;
        return 0;
}

static void put_text(Response *response, const char *text) {
        WireWriter w = response_writer(response);

        wire_put_bytes(&w, text, strlen(text));
        response->len = w.len;
}

/* Whether anyone but this user has a node registered. */
static bool others_are_registered(const Service *service, const Owner *owner) {
        return registry_count_of(service->registry, owner) < registry_count(service->registry);
}

/* Ending the daemon ends everybody's registrations: only root and the daemon's own user may do that to others.
 *
 * A peer can keep its owner from being found, by closing its connection before the request is read. So an unknown owner
 * may do what upstream allows only where no node has a known owner either. */
static bool may_kill(const Service *service, const Owner *owner) {
        if (registry_count(service->registry) == 0)
                return true;
        if (!service->config.relaxed)
                return false;
        if (!owner->known)
                return registry_count_known(service->registry) == 0;
        return owner->uid == 0 || owner->uid == service->config.own_uid || !others_are_registered(service, owner);
}

static void handle_kill(Service *service, const Holder *holder, Response *response) {
        if (!may_kill(service, &holder->owner)) {
                put_text(response, "NO");
                return;
        }
        put_text(response, "OK");
        response->verdict = VERDICT_EXIT;
}

/* A name may be taken from its node by root and by the owner of the node; where that owner is not known, by anyone. */
static bool may_stop(const Node *node, const Owner *owner) {
        const Owner of_node = node_owner(node);

        return !of_node.known || (owner->known && (owner->uid == 0 || of_node.uid == owner->uid));
}

static void handle_stop(Service *service, const Holder *holder, Response *response) {
        const NodeInfo *asked = &response->request.node;

        response->node = registry_find(service->registry, asked->name, asked->name_len);
        if (response->node && !may_stop(response->node, &holder->owner))
                return;
        if (!response->node) {
                put_text(response, "NOEXIST");
                return;
        }
        put_text(response, "STOPPED");
        response->verdict = VERDICT_STOP;
}

/* Whether this request may come from this peer at all; one that may not is closed silently. */
static bool may_ask(const Service *service, const Peer *peer, uint8_t tag) {
        switch (tag) {
        case TAG_PORT2_REQ:
        case TAG_NAMES_REQ:
                return true;
        case TAG_STOP_REQ:
                return peer->local && service->config.relaxed;
        default:
                return peer->local;
        }
}

/* Handles one request.
 *
 * body, n: the packet without its length; holder: the connection that a registration will belong to; now: realtime,
 * µs.
 * *ret is filled in every case; the request's log line can be made of it. When the name is taken, the caller may
 * find that its holder is gone, remove it, and call again.
 * Returns 0, or -ENOMEM: there is no answer, close the connection. */
int service_handle(Service *service, const Peer *peer, const uint8_t *body, size_t n, const Holder *holder, uint64_t now,
                   Response *ret) {
        int r;

        /* Not one initializer: it would clear the reply's two kilobytes for every look-up. */
        ret->verdict = VERDICT_CLOSE;
        ret->refusal = REFUSAL_NONE;
        ret->request.tag = 0;
        ret->node = NULL;
        ret->reservation = NULL;
        ret->listing = NULL;
        ret->len = 0;

        r = proto_parse_request(body, n, &ret->request);
        if (r == PROTO_MALFORMED || !may_ask(service, peer, ret->request.tag))
                return 0;
        if (r == PROTO_UNACCEPTABLE) {
                put_refusal(ret, REFUSAL_INVALID);
                return 0;
        }
        switch (ret->request.tag) {
        case TAG_ALIVE2_REQ:
                handle_alive2(service, holder, now, ret);
                return 0;
        case TAG_PORT2_REQ:
                handle_port2(service, ret);
                return 0;
        case TAG_NAMES_REQ:
                return handle_listing(service, peer, &service->names, listing_new_names, ret);
        case TAG_DUMP_REQ:
                return handle_listing(service, peer, &service->dump, listing_new_dump, ret);
        case TAG_KILL_REQ:
                handle_kill(service, holder, ret);
                return 0;
        default:
                handle_stop(service, holder, ret);
                return 0;
        }
}

/* The reason of a refused registration, for people. */
const char *refusal_text(Refusal refusal) {
        switch (refusal) {
        case REFUSAL_INVALID:
                return "not a legal name or extra data too long";
        case REFUSAL_TAKEN:
                return "the name is taken";
        case REFUSAL_FULL:
                return "no more nodes can be registered";
        case REFUSAL_RESERVED:
                return "the name is reserved for another user";
        case REFUSAL_QUOTA:
                return "the user has as many nodes registered as one may";
        case REFUSAL_NO_MEMORY:
                return "out of memory";
        default:
                return "accepted";
        }
}
