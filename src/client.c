/* SPDX-License-Identifier: Apache-2.0 */
#include "client.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum {
        REPLY_MAX = 128 * 1024 * 1024, /* DUMP of 65,535 of the longest names, and room */
        READ_SIZE = 64 * 1024,
        PROBES_AT_ONCE = 64,
        ALIVE2_LONG_REPLY = 6,
        ALIVE2_SHORT_REPLY = 4,
};

/* Connections that are being made. */
typedef struct Polled {
        struct pollfd polls[PROBES_AT_ONCE];
        ClientProbe *probes[PROBES_AT_ONCE]; /* whose they are */
        size_t n;
} Polled;

/* Returns 0, with the socket that is connected or about to be, or why there is none. */
static int begin_connect(const Address *address, int *ret_fd) {
        SocketAddress to;
        socklen_t len = address_to_socket(address, &to);
        _cleanup_close_ int fd = socket(address->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        if (connect(fd, &to.any, len) < 0 && errno != EINPROGRESS && errno != EAGAIN)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* How the connection that was begun came out, once poll(2) has said so. */
static int end_connect(int fd) {
        int error = 0;
        socklen_t len = sizeof error;

        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
                return -errno;
        return -error;
}

/* Returns 0 with the connected socket, or a negative errno: -ETIMEDOUT and -ECANCELED at the limit. */
static int connect_until(const Address *address, const WaitLimit *limit, int *ret_fd) {
        _cleanup_close_ int fd = -1;
        int r;

        r = begin_connect(address, &fd);
        if (r >= 0)
                r = waiting_until(fd, POLLOUT, limit);
        if (r >= 0)
                r = end_connect(fd);
        if (r >= 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

/* Whether no connection came about because of this side, not of the other. */
static bool is_own_failure(int r) {
        return r == -ECANCELED || r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* What a failed connection is to the caller. */
static int connect_outcome(int r) {
        if (r == -ETIMEDOUT)
                return CLIENT_TIMEOUT;
        return r < 0 && !is_own_failure(r) ? CLIENT_NO_SERVER : r;
}

static int send_until(int fd, const uint8_t *data, size_t n, const WaitLimit *limit) {
        while (n > 0) {
                ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
                int r;

                if (sent >= 0) {
                        data += sent;
                        n -= (size_t) sent;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                if (errno != EAGAIN)
                        return -errno;
                r = waiting_until(fd, POLLOUT, limit);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Grows by doubling, so that a long reply is not copied for every piece of it. */
static int reply_reserve(ClientReply *reply, size_t *size) {
        uint8_t *data;

        if (reply->n < *size)
                return 0;
        if (*size >= REPLY_MAX)
                return CLIENT_TOO_LONG;
        data = realloc(reply->data, *size + size_min(*size + READ_SIZE, REPLY_MAX - *size));
        if (!data)
                return -ENOMEM;
        reply->data = data;
        *size += size_min(*size + READ_SIZE, REPLY_MAX - *size);
        return 0;
}

/* Reads until the peer closes. A reset behind some bytes is an end like any other: the peer may have closed with
 * bytes unread. */
static int receive_until(int fd, ClientReply *reply, const WaitLimit *limit) {
        size_t size = 0;

        for (;;) {
                ssize_t n;
                int r = reply_reserve(reply, &size);

                if (r != 0)
                        return r;
                n = recv(fd, reply->data + reply->n, size - reply->n, 0);
                if (n == 0 || (n < 0 && errno == ECONNRESET))
                        return 0;
                if (n > 0) {
                        reply->n += (size_t) n;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                if (errno != EAGAIN)
                        return -errno;
                r = waiting_until(fd, POLLIN, limit);
                if (r < 0)
                        return r;
        }
}

/* Connects and sends a request. Returns as client_call(); *ret_connected and *ret_error as in its reply. */
static int call_until(const Address *address, const Request *request, const WaitLimit *limit, int *ret_fd,
                      bool *ret_connected, int *ret_error) {
        uint8_t packet[PROTO_PACKET_MAX];
        WireWriter w = wire_writer(packet, sizeof packet);
        _cleanup_close_ int fd = -1;
        int r;

        proto_put_request(&w, request);
        if (w.failed)
                return -EMSGSIZE;
        r = connect_until(address, limit, &fd);
        if (r < 0) {
                *ret_error = r;
                return connect_outcome(r);
        }
        *ret_connected = true;
        r = send_until(fd, packet, w.len, limit);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Asks the epmd at an address and reads its whole reply.
 *
 * timeout: µs for all of it. *ret is set in every case and to be freed with client_reply_done(); after a time-out it
 * holds what had arrived. Returns 0, with an empty reply when the peer closed without one; one of the outcomes
 * above; a negative errno. */
int client_call(const Address *address, const Request *request, uint64_t timeout, ClientReply *ret) {
        const WaitLimit limit = waiting_limit(timeout, -1);
        _cleanup_close_ int fd = -1;
        int r;

        *ret = (ClientReply){};
        r = call_until(address, request, &limit, &fd, &ret->connected, &ret->error);
        if (r == 0)
                r = receive_until(fd, ret, &limit);
        if (r == -ECONNRESET || r == -EPIPE)
                return 0;
        return r == -ETIMEDOUT ? CLIENT_TIMEOUT : r;
}

/* 127.0.0.1 or ::1. */
Address client_loopback(sa_family_t family, uint16_t port) {
        if (family == AF_INET6)
                return (Address){.family = AF_INET6, .port = port, .ip = {[15] = 1}};
        return (Address){.family = AF_INET, .port = port, .ip = {127, 0, 0, 1}};
}

/* Asks the epmd of this host: at ::1 and, when nothing is there, at 127.0.0.1. Returns as client_call(). */
int client_call_local(uint16_t port, const Request *request, uint64_t timeout, ClientReply *ret) {
        const Address ipv6 = client_loopback(AF_INET6, port), ipv4 = client_loopback(AF_INET, port);
        int r;

        r = client_call(&ipv6, request, timeout, ret);
        if (r != CLIENT_NO_SERVER)
                return r;
        return client_call(&ipv4, request, timeout, ret);
}

/* Frees what the struct owns. */
void client_reply_done(ClientReply *reply) {
        free(reply->data);
        *reply = (ClientReply){};
}

/* The reply to a registration ends where its form says; the connection stays open behind it. */
static int read_alive2_reply(int fd, const WaitLimit *limit, uint8_t *ret_result, uint32_t *ret_creation) {
        uint8_t data[ALIVE2_LONG_REPLY];
        size_t n = 0, wanted = ALIVE2_SHORT_REPLY;

        while (n < wanted) {
                ssize_t received = recv(fd, data + n, wanted - n, 0);
                int r;

                if (received == 0 || (received < 0 && errno == ECONNRESET))
                        return n == 0 ? CLIENT_CLOSED : CLIENT_MALFORMED;
                if (received > 0) {
                        n += (size_t) received;
                        wanted = data[0] == TAG_ALIVE2_X_RESP ? ALIVE2_LONG_REPLY : ALIVE2_SHORT_REPLY;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                if (errno != EAGAIN)
                        return -errno;
                r = waiting_until(fd, POLLIN, limit);
                if (r < 0)
                        return r == -ETIMEDOUT ? CLIENT_TIMEOUT : r;
        }
        return proto_parse_alive2_reply(data, n, ret_result, ret_creation) == 0 ? 0 : CLIENT_MALFORMED;
}

/* Registers a node at the epmd at an address. The registration lasts as long as the connection.
 *
 * limit: for all of it. Returns 0 with the connection, which does not block, in *ret_fd; one of the outcomes above,
 * with CLIENT_NO_SERVER the reason as a negative errno in *ret_error; a negative errno, -ECANCELED as the limit says. */
int client_register(const Address *address, const NodeInfo *node, const WaitLimit *limit, int *ret_fd,
                    uint32_t *ret_creation, int *ret_error) {
        const Request request = {.tag = TAG_ALIVE2_REQ, .node = *node};
        _cleanup_close_ int fd = -1;
        bool connected = false;
        uint32_t creation = 0;
        uint8_t result = 0;
        int r;

        r = call_until(address, &request, limit, &fd, &connected, ret_error);
        if (r == 0)
                r = read_alive2_reply(fd, limit, &result, &creation);
        if (r == -ECONNRESET || r == -EPIPE)
                return CLIENT_CLOSED;
        if (r != 0)
                return r == -ETIMEDOUT ? CLIENT_TIMEOUT : r;
        if (result != 0)
                return CLIENT_REFUSED;
        *ret_fd = TAKE_FD(fd);
        *ret_creation = creation;
        return 0;
}

/* Begins connections, to as many as there are descriptors for, or room in polls, but at least one. Those that are made
 * or have failed at once are not polled for. Returns how many were begun. */
static size_t begin_probes(ClientProbe *probes, size_t n, Polled *polled) {
        size_t i;

        for (i = 0; i < n && polled->n < PROBES_AT_ONCE; i++) {
                int fd = -1, r = begin_connect(&probes[i].address, &fd);

                if (is_own_failure(r) && polled->n > 0)
                        break;
                probes[i].result = r < 0 ? r : -ETIMEDOUT;
                if (fd < 0)
                        continue;
                polled->polls[polled->n] = (struct pollfd){.fd = fd, .events = POLLOUT};
                polled->probes[polled->n++] = &probes[i];
        }
        return i;
}

/* Takes the results that poll(2) tells, and keeps the others. */
static void take_probes(Polled *polled) {
        size_t kept = 0;

        for (size_t i = 0; i < polled->n; i++) {
                if (polled->polls[i].revents != 0) {
                        polled->probes[i]->result = end_connect(polled->polls[i].fd);
                        (void) close(polled->polls[i].fd);
                        continue;
                }
                polled->polls[kept] = polled->polls[i];
                polled->probes[kept++] = polled->probes[i];
        }
        polled->n = kept;
}

/* Tries the first ones. Returns 0 with their number, or a negative errno. */
static int probe_some(ClientProbe *probes, size_t n, uint64_t timeout, size_t *ret_done) {
        uint64_t deadline = waiting_now() + timeout, now;
        Polled polled = {};
        int r = 0;

        *ret_done = begin_probes(probes, n, &polled);
        while (polled.n > 0 && r >= 0 && (now = waiting_now()) < deadline) {
                r = poll(polled.polls, polled.n, (int) ((deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC));
                if (r < 0)
                        r = errno == EINTR ? 0 : -errno;
                else
                        take_probes(&polled);
        }
        for (size_t i = 0; i < polled.n; i++)
                (void) close(polled.polls[i].fd);
        return r < 0 ? r : 0;
}

/* Finds out which ports accept connections, many at a time. timeout: µs for each. Returns 0 with every result set, or
 * a negative errno. */
int client_probe(ClientProbe *probes, size_t n, uint64_t timeout) {
        while (n > 0) {
                size_t done = 0;
                int r = probe_some(probes, n, timeout, &done);

                if (r < 0)
                        return r;
                probes += done;
                n -= done;
        }
        return 0;
}
