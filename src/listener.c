/* SPDX-License-Identifier: Apache-2.0 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "util.h"

static int get_option(int fd, int option) {
        int value;
        socklen_t len = sizeof value;

        return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -errno : value;
}

/* Whether a descriptor that was passed in can be served, and makes it non-blocking.
 * Returns 0; one of the outcomes above; the error of fcntl(). */
int listener_check(int fd) {
        int family = get_option(fd, SO_DOMAIN), flags;

        if (family < 0)
                return LISTENER_NO_SOCKET;
        if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
                return LISTENER_WRONG_FAMILY;
        if (get_option(fd, SO_TYPE) != SOCK_STREAM)
                return LISTENER_WRONG_TYPE;
        if (get_option(fd, SO_ACCEPTCONN) != 1)
                return LISTENER_NOT_LISTENING;
        flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return -errno;
        return 0;
}

/* What listener_check() found, for people. */
const char *listener_problem_text(int problem) {
        switch (problem) {
        case LISTENER_NO_SOCKET:
                return "not a socket";
        case LISTENER_WRONG_TYPE:
                return "not a stream socket";
        case LISTENER_WRONG_FAMILY:
                return "neither an Internet socket nor one of the file system";
        case LISTENER_NOT_LISTENING:
                return "not listening";
        default:
                return problem < 0 ? ERR_TEXT(problem) : "fine";
        }
}

/* Binds and listens. An IPv6 socket takes IPv6 only, as upstream's: each family has a socket of its own.
 * Returns 0, or the error of socket(), bind() or listen(): -EADDRINUSE, -EADDRNOTAVAIL, -EAFNOSUPPORT, -EACCES, …;
 * *ret_fd is the caller's. */
int listener_open(const Address *address, int *ret_fd) {
        _cleanup_close_ int fd = -1;
        SocketAddress socket_address;
        socklen_t len = address_to_socket(address, &socket_address);
        const int on = 1;

        fd = socket(address->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (address->family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0)
                return -errno;
        /* Connections of an epmd that has just ended must not keep the next one from the port. */
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
                return -errno;
        if (bind(fd, &socket_address.any, len) < 0 || listen(fd, SOMAXCONN) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* The address that a socket is bound to. Returns 0 or the error of getsockname(). */
int listener_address(int fd, Address *ret) {
        SocketAddress socket_address = {};
        socklen_t len = sizeof socket_address;

        if (getsockname(fd, &socket_address.any, &len) < 0)
                return -errno;
        *ret = address_from_socket(&socket_address);
        return 0;
}
