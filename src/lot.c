/* SPDX-License-Identifier: Apache-2.0 */
#include "lot.h"

#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

/* Precedes the tags of each message; changes with their layout. */
#define LOT_MAGIC UINT64_C(0x3174744f4c64456d)

/* Room for some 200,000 connections, in batches. */
enum { LOT_SEND_BUFFER = 2 * 1024 * 1024 };

typedef union ControlBuffer {
        struct cmsghdr header; /* for alignment */
        uint8_t space[CMSG_SPACE(LOT_BATCH_MAX * sizeof(int))];
} ControlBuffer;

/* Makes an empty lot; *ret is the caller's, for lot_done(). Returns 0 or a negative errno. */
int lot_new(Lot *ret) {
        const int buffer = LOT_SEND_BUFFER;
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return -errno;
        /* The kernel gives what net.core.wmem_max allows; the default is enough for some 22,000. */
        (void) setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        *ret = (Lot){.in = fds[0], .out = fds[1]};
        return 0;
}

/* Lets go of the lot, which is LOT_NONE then; what is parked there lives on if somebody else holds it. */
void lot_done(Lot *lot) {
        safe_close(lot->in);
        safe_close(lot->out);
        *lot = LOT_NONE;
}

/* Whether a descriptor from elsewhere is an end of a lot, and the other end is still there. Returns 0; -ENOTSOCK: it is
 * not; another negative errno: nobody knows. */
int lot_check_end(int fd) {
        struct pollfd end = {.fd = fd};
        int type = 0, domain = 0;
        socklen_t len = sizeof type;

        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
                return errno == EBADF ? -ENOTSOCK : -errno;
        if (type != SOCK_SEQPACKET || domain != AF_UNIX)
                return -ENOTSOCK;
        if (poll(&end, 1, 0) < 0)
                return -errno;
        return end.revents & POLLHUP ? -ENOTSOCK : 0;
}

/* The same for both ends. */
int lot_check(const Lot *lot) {
        int r = lot_check_end(lot->in);

        return r < 0 ? r : lot_check_end(lot->out);
}

/* Parks 1 to LOT_BATCH_MAX connections in one message. They are safe from the moment at which this returns 0; the
 * descriptors stay the caller's.
 * Returns LOT_FULL and other errors with nothing parked. */
int lot_park(Lot *lot, const LotTag *tags, const int *fds, size_t n) {
        uint64_t magic = LOT_MAGIC;
        struct iovec iov[] = {
                {.iov_base = &magic, .iov_len = sizeof magic},
                {.iov_base = (void *) tags, .iov_len = n * sizeof *tags},
        };
        ControlBuffer control;
        struct msghdr message = {
                .msg_iov = iov,
                .msg_iovlen = ARRAY_SIZE(iov),
                .msg_control = &control,
                .msg_controllen = CMSG_SPACE(n * sizeof *fds),
        };
        struct cmsghdr *header = &control.header;

        memset(&control, 0, CMSG_SPACE(n * sizeof *fds));
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n * sizeof *fds);
        memcpy(CMSG_DATA(header), fds, n * sizeof *fds);
        while (sendmsg(lot->in, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
                if (errno == EINTR)
                        continue;
                return is_passing_error(-errno) || errno == ETOOMANYREFS ? LOT_FULL : -errno;
        }
        lot->messages++;
        return 0;
}

/* Begins looking with the message that was parked first. Returns 0 or a negative errno. */
int lot_rewind(Lot *lot) {
        const int offset = 0;

        return setsockopt(lot->out, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) < 0 ? -errno : 0;
}

static void take_descriptors(struct msghdr *message, LotMessage *ret) {
        for (struct cmsghdr *h = CMSG_FIRSTHDR(message); h; h = CMSG_NXTHDR(message, h)) {
                if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
                        continue;
                ret->n_fds = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(ret->fds, CMSG_DATA(h), ret->n_fds * sizeof(int));
        }
}

/* The kernel has moved on by as much as was copied: the rest of a message that is too long would come next. */
static void skip_rest(Lot *lot, size_t rest) {
        int offset = 0;
        socklen_t len = sizeof offset;

        if (getsockopt(lot->out, SOL_SOCKET, SO_PEEK_OFF, &offset, &len) < 0)
                return;
        offset += (int) rest;
        (void) setsockopt(lot->out, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset);
}

static int look(Lot *lot, LotMessage *ret, ControlBuffer *control) {
        uint64_t magic = 0;
        struct iovec iov[] = {
                {.iov_base = &magic, .iov_len = sizeof magic},
                /* cppcheck-suppress ctuuninitvar ; an array: its address is known, and what is in it is not asked for */
                {.iov_base = ret->tags, .iov_len = sizeof ret->tags},
        };
        struct msghdr message = {
                .msg_iov = iov,
                .msg_iovlen = ARRAY_SIZE(iov),
                .msg_control = control,
                .msg_controllen = control ? sizeof *control : 0,
        };
        ssize_t n;

        do
                n = recvmsg(lot->out, &message, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? LOT_END : -errno;
        if (n == 0)
                return LOT_END;
        ret->n = ret->n_fds = 0;
        if (control)
                take_descriptors(&message, ret);
        if ((size_t) n > sizeof magic + sizeof ret->tags)
                skip_rest(lot, (size_t) n - sizeof magic - sizeof ret->tags);
        if (magic != LOT_MAGIC || (size_t) n < sizeof magic || ((size_t) n - sizeof magic) % sizeof(LotTag) != 0 ||
            (message.msg_flags & MSG_TRUNC)) {
                for (size_t i = 0; i < ret->n_fds; i++)
                        safe_close(ret->fds[i]);
                ret->n_fds = 0;
                return LOT_FOREIGN;
        }
        ret->n = ((size_t) n - sizeof magic) / sizeof(LotTag);
        return 0;
}

/* Looks at the next message, and moves on behind it: its tags, and duplicates of its descriptors, which are the
 * caller's. Returns 0; LOT_END; LOT_FOREIGN; a negative errno. */
int lot_look(Lot *lot, LotMessage *ret) {
        ControlBuffer control;

        return look(lot, ret, &control);
}

/* The same without the descriptors: this needs none free. */
int lot_look_at_tags(Lot *lot, LotMessage *ret) {
        return look(lot, ret, NULL);
}

/* Takes out and drops the n messages that were parked first, or all if there are fewer. */
void lot_drop(Lot *lot, size_t n) {
        uint8_t byte;

        /* Without room for descriptors the kernel closes them; what does not fit of a message is lost with it. */
        while (n > 0) {
                if (recv(lot->out, &byte, sizeof byte, MSG_DONTWAIT) >= 0) {
                        n--;
                        lot->messages -= lot->messages > 0;
                } else if (errno != EINTR)
                        break;
        }
}
