/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

/* How much a peer may send after its request before we stop listening politely. */
enum { DISCARD_MAX = 64 * 1024 };

/* A reply, or the rest of one: bytes of our own and the shared text behind them. */
struct Output {
        Listing *listing;
        size_t at; /* bytes already sent, of both together */
        size_t len;
        uint8_t data[];
};

/* Takes the descriptor over, in every case but -ENOMEM.
 * deadline: monotonic, µs; owner: opaque here. *ret is the caller's, to be freed with conn_free(). */
int conn_new(int fd, const Peer *peer, uint64_t deadline, void *owner, Conn **ret) {
        Conn *conn = malloc(sizeof *conn);

        if (!conn)
                return -ENOMEM;
        *conn = (Conn){.fd = fd, .peer = *peer, .deadline = deadline, .owner = owner};
        *ret = conn;
        return 0;
}

static Output *output_free(Output *output) {
        if (output)
                listing_unref(output->listing);
        free(output);
        return NULL;
}

/* What was sent is not the whole reply. A reply is at its end where the connection is, so the end of this one, also that
 * of the process, must not look like it: the connection is reset. */
static void reset_at_end(const Conn *conn, bool on) {
        const struct linger reset = {.l_onoff = on};

        (void) setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

/* Closes the connection, which is not watched any more, and frees it. Always returns NULL. */
Conn *conn_free(Conn *conn) {
        if (!conn)
                return NULL;
        frame_done(&conn->frame);
        output_free(conn->output);
        safe_close(conn->fd);
        free(conn);
        return NULL;
}

/* Reads until a request is complete or nothing more is there.
 *
 * scratch: the body may be in it. Returns CONN_REQUEST with the body, good until the connection is freed or scratch
 * is used again; 0: not complete, nothing more to read now; CONN_CLOSED; CONN_MALFORMED; a negative errno. */
int conn_receive(Conn *conn, uint8_t scratch[PROTO_PACKET_MAX], const uint8_t **ret_body, size_t *ret_n) {
        for (;;) {
                uint8_t *space;
                size_t size;
                ssize_t n;
                int r;

                frame_space(&conn->frame, scratch, &space, &size);
                n = recv(conn->fd, space, size, MSG_DONTWAIT);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 0 : -errno;
                if (n == 0)
                        return CONN_CLOSED;
                r = frame_filled(&conn->frame, scratch, (size_t) n, ret_body, ret_n);
                if (r < 0)
                        return r;
                if (r == FRAME_COMPLETE)
                        return CONN_REQUEST;
                if (r > 0)
                        return CONN_MALFORMED;
        }
}

static ssize_t send_once(int fd, const uint8_t *data, size_t n, const Listing *listing, size_t at, int flags) {
        struct iovec iov[2];
        struct msghdr message = {.msg_iov = iov};
        size_t skip = at > n ? at - n : 0;

        if (!listing)
                return send(fd, data + at, n - at, flags);
        if (at < n)
                iov[message.msg_iovlen++] = (struct iovec){.iov_base = (void *) (data + at), .iov_len = n - at};
        iov[message.msg_iovlen++] = (struct iovec){
                .iov_base = (void *) (listing_data(listing) + skip), .iov_len = listing_size(listing) - skip};
        return sendmsg(fd, &message, flags);
}

/* Sends what the kernel takes of data and listing, of which `at` bytes are already sent, and moves `at`. last: only the
 * end of the connection follows; the end of the data waits for that, and they leave in one segment, which is half of the
 * kernel's work, and the peer's.
 * Returns 0: all sent; CONN_WAIT; a negative errno. */
static int send_from(int fd, const uint8_t *data, size_t n, const Listing *listing, size_t *at, bool last) {
        const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (last ? MSG_MORE : 0);
        const size_t all = n + (listing ? listing_size(listing) : 0);

        while (*at < all) {
                ssize_t sent = send_once(fd, data, n, listing, *at, flags);

                if (sent < 0 && errno == EINTR)
                        continue;
                if (sent < 0)
                        return errno == EAGAIN ? CONN_WAIT : -errno;
                *at += (size_t) sent;
        }
        return 0;
}

/* Sends a reply: data and the listing (may be NULL) behind it, in one send if the kernel takes it. What it does not
 * take is kept, with a reference to the listing: a connection that is freed meanwhile is reset. last: the caller ends the
 * connection as soon as all is sent, or the peer may not get it for a while. Returns 0: all sent; CONN_WAIT; a negative
 * errno. */
int conn_send(Conn *conn, const uint8_t *data, size_t n, Listing *listing, bool last) {
        Output *output;
        size_t at = 0;
        int r;

        r = send_from(conn->fd, data, n, listing, &at, last);
        if (r == 0)
                return 0;
        if (at > 0)
                reset_at_end(conn, true);
        output = r == CONN_WAIT ? malloc(sizeof *output + n) : NULL;
        if (!output)
                return r < 0 ? r : -ENOMEM;
        *output = (Output){.listing = listing_ref(listing), .at = at, .len = n};
        memcpy(output->data, data, n);
        conn->output = output;
        return CONN_WAIT;
}

/* Goes on sending what was kept, as the last that the connection sends. Returns as conn_send(); nothing kept counts as
 * all sent. */
int conn_flush(Conn *conn) {
        Output *output = conn->output;
        bool begun;
        int r;

        if (!output)
                return 0;
        begun = output->at > 0;
        r = send_from(conn->fd, output->data, output->len, output->listing, &output->at, true);
        if (r != 0) {
                if (!begun && output->at > 0)
                        reset_at_end(conn, true);
                return r;
        }
        if (begun)
                reset_at_end(conn, false);
        conn->output = output_free(output);
        return 0;
}

/* Reads and drops what the peer sends although nothing is asked of it.
 *
 * Returns 0: there was nothing; CONN_EXCESS: there was something, and more may come; CONN_CLOSED: the peer has
 * closed, or sent more than anyone needs to hear; a negative errno. */
int conn_discard(Conn *conn, uint8_t scratch[PROTO_PACKET_MAX]) {
        bool any = false;

        while (conn->discarded <= DISCARD_MAX) {
                ssize_t n = recv(conn->fd, scratch, PROTO_PACKET_MAX, MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno != EAGAIN)
                        return -errno;
                if (n < 0)
                        return any ? CONN_EXCESS : 0;
                if (n == 0)
                        return CONN_CLOSED;
                conn->discarded += (size_t) n;
                any = true;
        }
        return CONN_CLOSED;
}

/* Whether the connection still has to send some of that listing. */
bool conn_is_sending(const Conn *conn, const Listing *listing) {
        return conn->output && conn->output->listing == listing;
}

/* Whether some of what was sent waits here, as the peer has no room for it yet. */
bool conn_is_queued(const Conn *conn) {
        int unsent = 0;

        return ioctl(conn->fd, SIOCOUTQNSD, &unsent) == 0 && unsent > 0;
}

/* Whether the end of a registered connection has arrived and is only not read yet: its peer has closed or reset it,
 * or sent bytes, which a registered node must not. */
bool conn_is_gone(const Conn *conn) {
        uint8_t byte;

        /* That it could not be looked at just now says nothing about the peer. */
        while (recv(conn->fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_PEEK) < 0)
                if (errno != EINTR)
                        return !is_passing_error(-errno);
        return true;
}

/* Whether nothing was ever sent on this connection, by whatever process. Only TCP can tell; elsewhere, no. */
bool conn_is_untold(const Conn *conn) {
        struct tcp_info info = {};
        socklen_t len = sizeof info;

        return getsockopt(conn->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
               len >= offsetof(struct tcp_info, tcpi_bytes_sent) + sizeof info.tcpi_bytes_sent &&
               info.tcpi_bytes_sent == 0 && info.tcpi_notsent_bytes == 0;
}

/* The kernel's own number of the connection (SO_COOKIE): the same in whatever process it is, and no other's; 0 if
 * the kernel does not tell. */
uint64_t conn_cookie(const Conn *conn) {
        uint64_t cookie = 0;
        socklen_t len = sizeof cookie;

        (void) getsockopt(conn->fd, SOL_SOCKET, SO_COOKIE, &cookie, &len);
        return cookie;
}
