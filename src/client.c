/* SPDX-License-Identifier: Apache-2.0 */
#include "client.h"

#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
        REPLY_MAX = 64 * 1024 * 1024, /* NAMES of 65,535 of the longest names */
        READ_SIZE = 64 * 1024,
};

static uint64_t monotonic_usec(void) {
        struct timespec now;

        (void) clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / 1000;
}

/* Waits for an event until the deadline. Returns 0, CLIENT_TIMEOUT or a negative errno. */
static int wait_until(int fd, short events, uint64_t deadline) {
        for (;;) {
                uint64_t now = monotonic_usec();
                struct pollfd p = {.fd = fd, .events = events};
                int r;

                if (now >= deadline)
                        return CLIENT_TIMEOUT;
                r = poll(&p, 1, (int) ((deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC));
                if (r > 0)
                        return 0;
                if (r < 0 && errno != EINTR)
                        return -errno;
        }
}

static int connect_until(int fd, const Address *address, uint64_t deadline) {
        SocketAddress to;
        socklen_t len = address_to_socket(address, &to);
        int error = 0, r;
        socklen_t error_len = sizeof error;

        if (connect(fd, &to.any, len) == 0)
                return 0;
        if (errno != EINPROGRESS && errno != EAGAIN)
                return CLIENT_NO_SERVER;
        r = wait_until(fd, POLLOUT, deadline);
        if (r != 0)
                return r;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len) < 0)
                return -errno;
        return error == 0 ? 0 : CLIENT_NO_SERVER;
}

static int send_until(int fd, const uint8_t *data, size_t n, uint64_t deadline) {
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
                r = wait_until(fd, POLLOUT, deadline);
                if (r != 0)
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
static int receive_until(int fd, ClientReply *reply, uint64_t deadline) {
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
                r = wait_until(fd, POLLIN, deadline);
                if (r != 0)
                        return r;
        }
}

/* Asks the epmd at an address and reads its whole reply.
 *
 * timeout: µs for all of it. *ret is set in every case and to be freed with client_reply_done(); after a time-out it
 * holds what had arrived. Returns 0, with an empty reply when the peer closed without one; one of the outcomes
 * above; a negative errno. */
int client_call(const Address *address, const Request *request, uint64_t timeout, ClientReply *ret) {
        uint8_t packet[PROTO_PACKET_MAX];
        WireWriter w = wire_writer(packet, sizeof packet);
        uint64_t deadline = monotonic_usec() + timeout;
        _cleanup_close_ int fd = -1;
        int r;

        *ret = (ClientReply){};
        proto_put_request(&w, request);
        if (w.failed)
                return -EMSGSIZE;
        fd = socket(address->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return errno == EAFNOSUPPORT ? CLIENT_NO_SERVER : -errno;
        r = connect_until(fd, address, deadline);
        if (r != 0)
                return r;
        r = send_until(fd, packet, w.len, deadline);
        if (r == -ECONNRESET || r == -EPIPE)
                return 0;
        if (r != 0)
                return r;
        return receive_until(fd, ret, deadline);
}

/* Asks the epmd of this host: at ::1 and, when nothing is there, at 127.0.0.1. Returns as client_call(). */
int client_call_local(uint16_t port, const Request *request, uint64_t timeout, ClientReply *ret) {
        const Address ipv6 = {.family = AF_INET6, .port = port, .ip = {[15] = 1}};
        const Address ipv4 = {.family = AF_INET, .port = port, .ip = {127, 0, 0, 1}};
        int r;

        r = client_call(&ipv6, request, timeout, ret);
        if (r != CLIENT_NO_SERVER)
                return r;
        return client_call(&ipv4, request, timeout, ret);
}

void client_reply_done(ClientReply *reply) {
        free(reply->data);
        *reply = (ClientReply){};
}
