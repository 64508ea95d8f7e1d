/* SPDX-License-Identifier: Apache-2.0 */
#include "varlink.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "config.h"

#define INTERFACE "org.erlang.epmd"
#define SERVICE_INTERFACE "org.varlink.service"

static const char interface_text[] =
        "# The Erlang Port Mapper Daemon of this host, as far as it may be read by everybody\n"
        "interface " INTERFACE "\n"
        "\n"
        "# A registered node\n"
        "type Node (\n"
        "  name: string,\n"
        "  # where it accepts connections of other nodes\n"
        "  port: int,\n"
        "  # 77 for an ordinary node, 72 for a hidden one\n"
        "  type: int,\n"
        "  protocol: int,\n"
        "  highestVersion: int,\n"
        "  lowestVersion: int,\n"
        "  creation: int,\n"
        "  # base64\n"
        "  extra: string,\n"
        "  # microseconds since 1970\n"
        "  since: int,\n"
        "  # from where it was registered\n"
        "  peer: string,\n"
        "  # user and unit of the process, where they are known\n"
        "  uid: ?int,\n"
        "  unit: ?string\n"
        ")\n"
        "\n"
        "# All registered nodes, the newest first\n"
        "method List() -> (nodes: []Node)\n"
        "\n"
        "method Lookup(name: string) -> (node: Node)\n"
        "\n"
        "# What was counted since the daemon started\n"
        "method Statistics() -> (\n"
        "  since: int,\n"
        "  # that is served, unless there are several\n"
        "  port: ?int,\n"
        "  # now\n"
        "  nodes: int,\n"
        "  connections: int,\n"
        "  counters: [string]int\n"
        ")\n"
        "\n"
        "error NotRegistered (name: string)\n";

static const char service_text[] =
        "interface " SERVICE_INTERFACE "\n"
        "\n"
        "method GetInfo() -> (\n"
        "  vendor: string,\n"
        "  product: string,\n"
        "  version: string,\n"
        "  url: string,\n"
        "  interfaces: []string\n"
        ")\n"
        "\n"
        "method GetInterfaceDescription(interface: string) -> (description: string)\n"
        "\n"
        "error InterfaceNotFound (interface: string)\n"
        "error MethodNotFound (method: string)\n"
        "error MethodNotImplemented (method: string)\n"
        "error InvalidParameter (parameter: string)\n";

/* Making the list of 19,000 nodes takes a while, in which nobody else is served. So one that was made stays good for
 * some times as long as it took, and those who ask all the time get the same again. */
enum {
        LIST_USEC_PER_NODE = 8,
        LIST_SHARE = 4,
};

struct Varlink {
        const Registry *registry; /* not ours */
        char *list;               /* the reply to List that was made last */
        size_t list_len;
        uint64_t list_revision;
        uint64_t list_until; /* it is good until then, even if the registry has changed */
};

/* Whether jansson got no memory at some time. It asks for it without telling for whom. */
static bool was_refused;

static void *allocate(size_t n) {
        void *p = malloc(n);

        was_refused |= !p;
        return p;
}

/* The registry stays the caller's. Returns 0 or -ENOMEM. */
int varlink_new(const Registry *registry, Varlink **ret) {
        Varlink *varlink = calloc(1, sizeof *varlink);

        if (!varlink)
                return -ENOMEM;
        json_set_alloc_funcs(allocate, free);
        varlink->registry = registry;
        *ret = varlink;
        return 0;
}

Varlink *varlink_free(Varlink *varlink) {
        if (!varlink)
                return NULL;
        free(varlink->list);
        free(varlink);
        return NULL;
}

/* Always returns NULL: what could not be made whole is not shown. */
static json_t *drop(json_t *json) {
        json_decref(json);
        return NULL;
}

static json_t *node_to_json(const VarlinkFacts *facts, const Node *node) {
        NodeInfo info = node_info(node);
        Owner owner = node_owner(node);
        char extra[BASE64_SIZE(PROTO_EXTRA_MAX)], peer[ADDRESS_TEXT_MAX];
        json_t *json;

        json = json_pack("{s:s%, s:i, s:i, s:i, s:i, s:i, s:I, s:s, s:I, s:s}", "name", (const char *) info.name,
                         (size_t) info.name_len, "port", info.port, "type", info.type, "protocol", info.protocol,
                         "highestVersion", info.highest_version, "lowestVersion", info.lowest_version, "creation",
                         (json_int_t) node_creation(node), "extra",
                         base64_encode(info.extra, info.extra_len, extra), "since", (json_int_t) node_since(node),
                         "peer", address_format(facts->peer_of(node), peer));
        if (json && owner.known && json_object_set_new(json, "uid", json_integer(owner.uid)) < 0)
                json = drop(json);
        /* A unit's name that is not UTF-8 is left out: jansson makes no string of it. */
        if (json && owner.unit_len > 0)
                (void) json_object_set_new(json, "unit", json_stringn((const char *) owner.unit, owner.unit_len));
        return was_refused ? drop(json) : json;
}

/* The text, or NULL. json_dumps() leaves out keys for which its buffer could not grow. */
static char *dump(const json_t *json) {
        size_t n = json_dumpb(json, NULL, 0, JSON_COMPACT);
        char *text = n > 0 ? malloc(n + 1) : NULL;

        if (!text)
                return NULL;
        if (json_dumpb(json, text, n, JSON_COMPACT) != n) {
                free(text);
                return NULL;
        }
        text[n] = 0;
        return text;
}

/* Ends a message: json, which is consumed, with the NUL that divides messages. NULL json: out of memory. */
static int finish(json_t *json, char **ret, size_t *ret_n) {
        char *text = json ? dump(json) : NULL;

        json_decref(json);
        if (!text)
                return -ENOMEM;
        *ret = text;
        *ret_n = strlen(text) + 1;
        return 0;
}

static int reply(json_t *parameters, char **ret, size_t *ret_n) {
        return finish(parameters ? json_pack("{s:o}", "parameters", parameters) : NULL, ret, ret_n);
}

static int reply_error(const char *error, const char *key, const char *value, char **ret, size_t *ret_n) {
        return finish(json_pack("{s:s, s:{s:s}}", "error", error, "parameters", key, value), ret, ret_n);
}

static int method_list(Varlink *varlink, const VarlinkFacts *facts, char **ret, size_t *ret_n) {
        json_t *nodes;
        int r;

        if (!varlink->list || (varlink->list_revision != registry_revision(varlink->registry) &&
                               facts->now >= varlink->list_until)) {
                free(varlink->list);
                varlink->list = NULL;
                nodes = json_array();
                for (Node *node = registry_newest(varlink->registry); node && nodes; node = registry_older(node))
                        if (json_array_append_new(nodes, node_to_json(facts, node)) < 0)
                                nodes = drop(nodes);
                r = reply(json_pack("{s:o}", "nodes", nodes), &varlink->list, &varlink->list_len);
                if (r < 0)
                        return r;
                varlink->list_revision = registry_revision(varlink->registry);
                varlink->list_until =
                        facts->now + registry_count(varlink->registry) * LIST_USEC_PER_NODE * LIST_SHARE;
        }
        *ret = malloc(varlink->list_len);
        if (!*ret)
                return -ENOMEM;
        memcpy(*ret, varlink->list, varlink->list_len);
        *ret_n = varlink->list_len;
        return 0;
}

static int method_lookup(const Varlink *varlink, const VarlinkFacts *facts, json_t *parameters, char **ret,
                         size_t *ret_n) {
        json_t *name = json_object_get(parameters, "name");
        const Node *node;

        if (!json_is_string(name))
                return reply_error(SERVICE_INTERFACE ".InvalidParameter", "parameter", "name", ret, ret_n);
        node = registry_find(varlink->registry, (const uint8_t *) json_string_value(name), json_string_length(name));
        if (!node)
                return reply_error(INTERFACE ".NotRegistered", "name", json_string_value(name), ret, ret_n);
        return reply(json_pack("{s:o}", "node", node_to_json(facts, node)), ret, ret_n);
}

static json_t *counters_to_json(const Stats *stats) {
        const struct {
                const char *name;
                uint64_t value;
        } counters[] = {
                {"registrations", stats->registrations},
                {"unregistrations", stats->unregistrations},
                {"lookups", stats->lookups},
                {"misses", stats->misses},
                {"names", stats->names},
                {"dumps", stats->dumps},
                {"connections", stats->connections},
                {"refusedTaken", stats->refused_taken},
                {"refusedInvalid", stats->refused_invalid},
                {"refusedFull", stats->refused_full},
                {"refusedReserved", stats->refused_reserved},
                {"refusedQuota", stats->refused_quota},
                {"refusedPeers", stats->refused_peers},
                {"malformed", stats->malformed},
                {"timeouts", stats->timeouts},
                {"restores", stats->restores},
        };
        json_t *json = json_object();

        for (size_t i = 0; i < ARRAY_SIZE(counters) && json; i++)
                if (json_object_set_new(json, counters[i].name, json_integer((json_int_t) counters[i].value)) < 0)
                        json = drop(json);
        return json;
}

static int method_statistics(const Varlink *varlink, const VarlinkFacts *facts, char **ret, size_t *ret_n) {
        json_t *json = json_pack("{s:I, s:I, s:I, s:o}", "since", (json_int_t) facts->started, "nodes",
                                 (json_int_t) registry_count(varlink->registry), "connections",
                                 (json_int_t) facts->connections, "counters", counters_to_json(facts->stats));

        if (json && facts->port > 0 && json_object_set_new(json, "port", json_integer(facts->port)) < 0)
                json = drop(json);
        return reply(json, ret, ret_n);
}

static int method_info(char **ret, size_t *ret_n) {
        return reply(json_pack("{s:s, s:s, s:s, s:s, s:[s, s]}", "vendor", "epmd for systemd", "product", "epmd",
                               "version", PACKAGE_VERSION, "url", "", "interfaces", SERVICE_INTERFACE, INTERFACE),
                     ret, ret_n);
}

static int method_description(json_t *parameters, char **ret, size_t *ret_n) {
        const char *interface = json_string_value(json_object_get(parameters, "interface"));
        const char *text;

        if (!interface)
                return reply_error(SERVICE_INTERFACE ".InvalidParameter", "parameter", "interface", ret, ret_n);
        if (strcmp(interface, INTERFACE) == 0)
                text = interface_text;
        else if (strcmp(interface, SERVICE_INTERFACE) == 0)
                text = service_text;
        else
                return reply_error(SERVICE_INTERFACE ".InterfaceNotFound", "interface", interface, ret, ret_n);
        return reply(json_pack("{s:s}", "description", text), ret, ret_n);
}

/* What is before the last dot is the interface. */
static int no_such_method(const char *method, char **ret, size_t *ret_n) {
        const char *dot = strrchr(method, '.');
        size_t n = dot ? (size_t) (dot - method) : 0;

        if (!dot || (n == strlen(INTERFACE) && strncmp(method, INTERFACE, n) == 0) ||
            (n == strlen(SERVICE_INTERFACE) && strncmp(method, SERVICE_INTERFACE, n) == 0))
                return reply_error(SERVICE_INTERFACE ".MethodNotFound", "method", method, ret, ret_n);
        return finish(json_pack("{s:s, s:{s:s%}}", "error", SERVICE_INTERFACE ".InterfaceNotFound", "parameters",
                                "interface", method, n),
                      ret, ret_n);
}

static int dispatch(Varlink *varlink, const VarlinkFacts *facts, const char *method, json_t *parameters, char **ret,
                    size_t *ret_n) {
        if (strcmp(method, INTERFACE ".List") == 0)
                return method_list(varlink, facts, ret, ret_n);
        if (strcmp(method, INTERFACE ".Lookup") == 0)
                return method_lookup(varlink, facts, parameters, ret, ret_n);
        if (strcmp(method, INTERFACE ".Statistics") == 0)
                return method_statistics(varlink, facts, ret, ret_n);
        if (strcmp(method, SERVICE_INTERFACE ".GetInfo") == 0)
                return method_info(ret, ret_n);
        if (strcmp(method, SERVICE_INTERFACE ".GetInterfaceDescription") == 0)
                return method_description(parameters, ret, ret_n);
        return no_such_method(method, ret, ret_n);
}

/* Reads a call. jansson leaves out characters for which its buffer could not grow, says nothing of it, and then knows
 * another method or another name. Returns 0; VARLINK_MALFORMED; -ENOMEM. */
static int read_call(const char *message, size_t n, json_t **ret) {
        json_t *call;

        was_refused = false;
        call = json_loadb(message, n, JSON_REJECT_DUPLICATES, NULL);
        if (was_refused) {
                json_decref(call);
                return -ENOMEM;
        }
        *ret = call;
        return call ? 0 : VARLINK_MALFORMED;
}

/* Handles one call.
 *
 * message, n: JSON without the NUL behind it; *ret, *ret_n: the reply with it, to be freed; untouched unless 0 is
 * returned.
 * Returns 0; VARLINK_NO_REPLY; VARLINK_MALFORMED; -ENOMEM. */
int varlink_handle(Varlink *varlink, const VarlinkFacts *facts, const char *message, size_t n, char **ret,
                   size_t *ret_n) {
        json_t *call, *parameters;
        const char *method;
        int r = read_call(message, n, &call);

        if (r != 0)
                return r;
        method = json_string_value(json_object_get(call, "method"));
        parameters = json_object_get(call, "parameters");
        r = VARLINK_MALFORMED;
        if (method && (!parameters || json_is_object(parameters) || json_is_null(parameters)))
                /* No method does anything but answer, so without an answer nothing is to be done. */
                r = json_is_true(json_object_get(call, "oneway"))
                            ? VARLINK_NO_REPLY
                            : dispatch(varlink, facts, method, parameters, ret, ret_n);
        json_decref(call);
        return r;
}
