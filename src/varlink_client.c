/* SPDX-License-Identifier: Apache-2.0 */
#include "varlink_client.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "waiting.h"

#define INTERFACE "org.erlang.epmd"

enum {
        REPLY_MAX = 256 * 1024 * 1024, /* 65,535 nodes with the longest names and Extras, in JSON */
        READ_SIZE = 64 * 1024,
};

typedef struct Buffer {
        char *data;
        size_t n;
        size_t size;
} Buffer;

static void buffer_done(Buffer *buffer) {
        free(buffer->data);
}

/* ---- Bytes ---- */

/* A connection over AF_UNIX is made at once, but for a full queue, in which connect(2) waits as SO_SNDTIMEO says. */
static int connect_path(VarlinkClient *client, int *ret_fd) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        const struct timeval wait = {.tv_sec = (time_t) (client->timeout / USEC_PER_SEC),
                                     .tv_usec = (suseconds_t) (client->timeout % USEC_PER_SEC)};
        struct ucred peer = {};
        socklen_t len = sizeof peer;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return -errno;
        client->error = -ENAMETOOLONG;
        if (strlen(client->path) >= sizeof to.sun_path)
                return VARLINK_CLIENT_NO_SERVER;
        (void) strcpy(to.sun_path, client->path);
        (void) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
        if (connect(fd, (const struct sockaddr *) &to, sizeof to) < 0) {
                client->error = -errno;
                return errno == EAGAIN ? VARLINK_CLIENT_TIMEOUT : VARLINK_CLIENT_NO_SERVER;
        }
        client->error = 0;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
                client->listener = peer.pid;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* What a failed transfer is to the caller. */
static int transfer_outcome(int r) {
        if (r == -ETIMEDOUT)
                return VARLINK_CLIENT_TIMEOUT;
        return r == -ECONNRESET || r == -EPIPE ? VARLINK_CLIENT_CLOSED : r;
}

static int send_all(int fd, const char *data, size_t n, const WaitLimit *limit) {
        while (n > 0) {
                ssize_t sent = send(fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
                int r;

                if (sent >= 0) {
                        data += sent;
                        n -= (size_t) sent;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                r = errno == EAGAIN ? waiting_until(fd, POLLOUT, limit) : -errno;
                if (r < 0)
                        return transfer_outcome(r);
        }
        return 0;
}

static int buffer_reserve(Buffer *buffer) {
        size_t size = buffer->size * 2 + READ_SIZE;
        char *data;

        if (buffer->n < buffer->size)
                return 0;
        if (buffer->size >= REPLY_MAX)
                return VARLINK_CLIENT_TOO_LONG;
        data = realloc(buffer->data, size);
        if (!data)
                return -ENOMEM;
        buffer->data = data;
        buffer->size = size;
        return 0;
}

/* Reads until the NUL that ends a message, which is left out of the count; what follows it is dropped. */
static int receive_message(int fd, Buffer *buffer, const WaitLimit *limit) {
        for (;;) {
                const char *end;
                ssize_t n;
                int r = buffer_reserve(buffer);

                if (r != 0)
                        return r;
                n = recv(fd, buffer->data + buffer->n, buffer->size - buffer->n, MSG_DONTWAIT);
                if (n == 0)
                        return VARLINK_CLIENT_CLOSED;
                if (n > 0) {
                        end = memchr(buffer->data + buffer->n, 0, (size_t) n);
                        buffer->n = end ? (size_t) (end - buffer->data) : buffer->n + (size_t) n;
                        if (end)
                                return 0;
                        /* The clock counts for a peer that never stops talking, too. */
                        if (waiting_now() >= limit->deadline)
                                return VARLINK_CLIENT_TIMEOUT;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                r = errno == EAGAIN ? waiting_until(fd, POLLIN, limit) : -errno;
                if (r < 0)
                        return transfer_outcome(r);
        }
}

/* ---- Messages ---- */

/* The parameters of a reply, or the outcome that its error is. */
static int take_reply(VarlinkClient *client, json_t *reply, json_t **ret_parameters) {
        const char *error = NULL;
        json_t *parameters = NULL;

        if (json_unpack(reply, "{s?s, s?o}", "error", &error, "parameters", &parameters) < 0)
                return VARLINK_CLIENT_MALFORMED;
        if (error && strcmp(error, INTERFACE ".NotRegistered") == 0)
                return VARLINK_CLIENT_NOT_REGISTERED;
        if (error) {
                (void) snprintf(client->error_name, sizeof client->error_name, "%s", error);
                return VARLINK_CLIENT_ERROR;
        }
        if (!json_is_object(parameters))
                return VARLINK_CLIENT_MALFORMED;
        *ret_parameters = json_incref(parameters);
        return 0;
}

static int exchange(VarlinkClient *client, const char *request, Buffer *reply) {
        const WaitLimit limit = waiting_limit(client->timeout, -1);
        _cleanup_close_ int fd = -1;
        int r;

        r = connect_path(client, &fd);
        if (r == 0)
                r = send_all(fd, request, strlen(request) + 1, &limit);
        if (r == 0)
                r = receive_message(fd, reply, &limit);
        return r;
}

/* Calls a method of the interface; parameters, which may be NULL, are used up. Returns 0 with the reply's in
 * *ret_parameters, to be given to json_decref(); an outcome; a negative errno. */
static int call(VarlinkClient *client, const char *method, json_t *parameters, json_t **ret_parameters) {
        _cleanup_(buffer_done) Buffer buffer = {};
        json_auto_t *request = json_pack("{s:s, s:o*}", "method", method, "parameters", parameters);
        _cleanup_free_ char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
        json_auto_t *reply = NULL;
        int r;

        client->error = 0;
        client->error_name[0] = 0;
        if (!text)
                return -ENOMEM;
        r = exchange(client, text, &buffer);
        if (r != 0)
                return r;
        reply = json_loadb(buffer.data, buffer.n, JSON_REJECT_DUPLICATES, NULL);
        return reply ? take_reply(client, reply, ret_parameters) : VARLINK_CLIENT_MALFORMED;
}

/* ---- The interface ---- */

/* An integer of an object, from 0 to max. */
static bool get_number(json_t *object, const char *key, uint64_t max, uint64_t *ret) {
        const json_t *value = json_object_get(object, key);

        if (!json_is_integer(value) || json_integer_value(value) < 0 || (uint64_t) json_integer_value(value) > max)
                return false;
        *ret = (uint64_t) json_integer_value(value);
        return true;
}

/* A copy of a text of an object. Returns 0, VARLINK_CLIENT_MALFORMED or -ENOMEM. */
static int get_text(json_t *object, const char *key, char **ret, size_t *ret_len) {
        const json_t *value = json_object_get(object, key);

        if (!json_is_string(value))
                return VARLINK_CLIENT_MALFORMED;
        *ret = strdup(json_string_value(value));
        if (!*ret)
                return -ENOMEM;
        if (ret_len)
                *ret_len = json_string_length(value);
        return 0;
}

static bool take_numbers(json_t *object, ListedNode *node) {
        uint64_t port, type, protocol, highest, lowest, creation, uid = 0;

        if (!get_number(object, "port", UINT16_MAX, &port) || !get_number(object, "type", UINT8_MAX, &type) ||
            !get_number(object, "protocol", UINT8_MAX, &protocol) ||
            !get_number(object, "highestVersion", UINT16_MAX, &highest) ||
            !get_number(object, "lowestVersion", UINT16_MAX, &lowest) ||
            !get_number(object, "creation", UINT32_MAX, &creation) ||
            !get_number(object, "since", INT64_MAX, &node->since))
                return false;
        node->has_uid = get_number(object, "uid", UINT32_MAX, &uid);
        node->port = (uint16_t) port;
        node->type = (uint8_t) type;
        node->protocol = (uint8_t) protocol;
        node->highest_version = (uint16_t) highest;
        node->lowest_version = (uint16_t) lowest;
        node->creation = (uint32_t) creation;
        node->uid = (uint32_t) uid;
        return true;
}

/* Returns 0, VARLINK_CLIENT_MALFORMED or -ENOMEM. */
static int take_node(json_t *object, ListedNode *ret) {
        ListedNode node = {.detailed = true};
        int r = take_numbers(object, &node) ? 0 : VARLINK_CLIENT_MALFORMED;

        if (r == 0)
                r = get_text(object, "name", &node.name, &node.name_len);
        if (r == 0)
                r = get_text(object, "extra", &node.extra, NULL);
        if (r == 0 && json_is_string(json_object_get(object, "peer")))
                r = get_text(object, "peer", &node.peer, NULL);
        if (r == 0 && json_is_string(json_object_get(object, "unit")))
                r = get_text(object, "unit", &node.unit, NULL);
        if (r != 0)
                listed_node_done(&node);
        else
                *ret = node;
        return r;
}

/* All registered nodes. *ret is to be freed with nodelist_done(). Returns 0, an outcome or a negative errno. */
int varlink_client_list(VarlinkClient *client, NodeList *ret) {
        json_auto_t *parameters = NULL;
        NodeList list = {};
        json_t *nodes, *object;
        size_t i;
        int r;

        r = call(client, INTERFACE ".List", NULL, &parameters);
        if (r != 0)
                return r;
        nodes = json_object_get(parameters, "nodes");
        if (!json_is_array(nodes))
                return VARLINK_CLIENT_MALFORMED;
        json_array_foreach(nodes, i, object) {
                ListedNode node;

                r = take_node(object, &node);
                if (r == 0)
                        r = nodelist_add(&list, &node);
                if (r != 0) {
                        nodelist_done(&list);
                        return r;
                }
        }
        *ret = list;
        return 0;
}

/* One node by its name. *ret is to be freed with listed_node_done(). Returns 0, an outcome or a negative errno. */
int varlink_client_lookup(VarlinkClient *client, const char *name, ListedNode *ret) {
        json_auto_t *parameters = NULL;
        json_t *wanted = json_pack("{s:s}", "name", name);
        int r;

        /* Not UTF-8: no node has such a name. */
        if (!wanted)
                return VARLINK_CLIENT_NOT_REGISTERED;
        r = call(client, INTERFACE ".Lookup", wanted, &parameters);
        return r == 0 ? take_node(json_object_get(parameters, "node"), ret) : r;
}

static bool are_counters(json_t *counters) {
        const char *key;
        json_t *value;

        if (!json_is_object(counters))
                return false;
        json_object_foreach(counters, key, value) {
                if (!json_is_integer(value))
                        return false;
        }
        return true;
}

/* What the daemon has counted since its start. *ret is to be freed with varlink_statistics_done(). Returns 0, an
 * outcome or a negative errno. */
int varlink_client_statistics(VarlinkClient *client, VarlinkStatistics *ret) {
        json_auto_t *parameters = NULL;
        VarlinkStatistics statistics = {};
        uint64_t port = 0;
        int r;

        r = call(client, INTERFACE ".Statistics", NULL, &parameters);
        if (r != 0)
                return r;
        statistics.counters = json_object_get(parameters, "counters");
        if (!get_number(parameters, "since", INT64_MAX, &statistics.since) ||
            !get_number(parameters, "nodes", INT64_MAX, &statistics.nodes) ||
            !get_number(parameters, "connections", INT64_MAX, &statistics.connections) ||
            !are_counters(statistics.counters))
                return VARLINK_CLIENT_MALFORMED;
        (void) get_number(parameters, "port", UINT16_MAX, &port);
        statistics.port = (uint16_t) port;
        (void) json_incref(statistics.counters);
        *ret = statistics;
        return 0;
}

/* Frees what the struct owns. */
void varlink_statistics_done(VarlinkStatistics *statistics) {
        json_decref(statistics->counters);
        *statistics = (VarlinkStatistics){};
}

/* What a result of the calls above means, as the end of a sentence about the socket. */
const char *varlink_client_problem(const VarlinkClient *client, int r) {
        switch (r) {
        case VARLINK_CLIENT_NO_SERVER:
                return ERR_TEXT(client->error);
        case VARLINK_CLIENT_TIMEOUT:
                return "no answer in time";
        case VARLINK_CLIENT_CLOSED:
                return "closed before the end of the answer";
        case VARLINK_CLIENT_MALFORMED:
                return "the answer is not one of " INTERFACE;
        case VARLINK_CLIENT_TOO_LONG:
                return "the answer has no end";
        case VARLINK_CLIENT_ERROR:
                return client->error_name;
        case VARLINK_CLIENT_NOT_REGISTERED:
                return "not registered";
        default:
                return r < 0 ? ERR_TEXT(r) : "no problem";
        }
}
