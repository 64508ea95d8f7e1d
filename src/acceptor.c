/* SPDX-License-Identifier: Apache-2.0 */
#include "acceptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "listener.h"

enum {
        BURST_MAX = 64,  /* connections per turn of the loop, so that the others get theirs */
        LISTENERS_MAX = 64,
        RETRY_USEC = 500 * 1000,
};

/* A listening socket. */
typedef struct Listener {
        Watch watch;
        Acceptor *acceptor;
        int fd;
        char *name;
} Listener;

struct Acceptor {
        Loop *loop; /* not ours */
        AcceptFunction on_accept;
        AcceptErrorFunction on_error;
        void *userdata;
        Listener *listeners[LISTENERS_MAX];
        size_t n_listeners;
        Timer retry; /* runs after an error that only time or another process can mend */
        bool paused;
};

static void on_retry(void *userdata) {
        acceptor_resume(userdata);
}

/* Makes an acceptor without sockets. *ret is the caller's. Returns 0 or a negative errno. */
int acceptor_new(Loop *loop, AcceptFunction on_accept, AcceptErrorFunction on_error, void *userdata, Acceptor **ret) {
        _cleanup_(acceptor_freep) Acceptor *acceptor = calloc(1, sizeof *acceptor);
        int r;

        if (!acceptor)
                return -ENOMEM;
        acceptor->loop = loop;
        acceptor->on_accept = on_accept;
        acceptor->on_error = on_error;
        acceptor->userdata = userdata;
        r = loop_add_timer(loop, 0, on_retry, acceptor, &acceptor->retry);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(acceptor);
        return 0;
}

static Listener *listener_free(Listener *listener) {
        if (!listener)
                return NULL;
        loop_forget(listener->acceptor->loop, &listener->watch, listener->fd);
        safe_close(listener->fd);
        free(listener->name);
        free(listener);
        return NULL;
}
DEFINE_CLEANUP(Listener *, listener_free)

/* Closes the listening sockets, too. Always returns NULL. */
Acceptor *acceptor_free(Acceptor *acceptor) {
        if (!acceptor)
                return NULL;
        for (size_t i = 0; i < acceptor->n_listeners; i++)
                listener_free(acceptor->listeners[i]);
        timer_done(&acceptor->retry);
        free(acceptor);
        return NULL;
}

/* Errors that concern the one connection that was about to be accepted: Linux passes on what happened to it on the
 * network (accept(2)). */
static bool is_of_connection(int error) {
        switch (error) {
        case EINTR:
        case ECONNABORTED:
        case ENETDOWN:
        case EPROTO:
        case ENOPROTOOPT:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case EOPNOTSUPP:
        case ENETUNREACH:
        case EPERM:
                return true;
        default:
                return false;
        }
}

static void pause_and_retry(Acceptor *acceptor) {
        acceptor_pause(acceptor);
        timer_start(&acceptor->retry, loop_now(acceptor->loop) + RETRY_USEC);
}

/* How many connections to take in this turn. Finding that none is left takes longer than coming back, as accept4()
 * makes a descriptor and a socket first, and mostly just one is there. */
static int burst_size(const Acceptor *acceptor) {
        return loop_is_busy(acceptor->loop) ? BURST_MAX : 1;
}

static void on_ready(Watch *watch, uint32_t events) {
        const Listener *listener = CONTAINER_OF(watch, Listener, watch);
        Acceptor *acceptor = listener->acceptor;
        int burst = burst_size(acceptor);

        (void) events;
        for (int i = 0; i < burst && !acceptor->paused; i++) {
                SocketAddress remote = {};
                socklen_t len = sizeof remote;
                int connection = accept4(listener->fd, &remote.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

                if (connection >= 0)
                        acceptor->on_accept(acceptor->userdata, connection, &remote, listener->name);
                else if (is_of_connection(errno))
                        continue;
                /* Where no descriptor is free accept4() fails before it has seen that nobody waits. If somebody does, the
                 * next turn knows. */
                else if (errno == EAGAIN || i > 0)
                        break;
                else if (!acceptor->on_error(acceptor->userdata, -errno)) {
                        pause_and_retry(acceptor);
                        break;
                }
        }
}

static int watch_listener(Listener *listener) {
        return loop_watch(listener->acceptor->loop, &listener->watch, listener->fd, EPOLLIN, on_ready);
}

/* Serves a listening, non-blocking socket, which is the acceptor's from here on, whatever the outcome.
 * name: its FileDescriptorName=. Returns 0; -E2BIG: more sockets than anyone needs; -ENOMEM; the error of
 * epoll_ctl(). */
int acceptor_add(Acceptor *acceptor, int fd, const char *name) {
        _cleanup_(listener_freep) Listener *listener = NULL;
        _cleanup_close_ int owned = fd;
        int r;

        if (acceptor->n_listeners >= LISTENERS_MAX)
                return -E2BIG;
        listener = malloc(sizeof *listener);
        if (!listener)
                return -ENOMEM;
        *listener = (Listener){.acceptor = acceptor, .fd = TAKE_FD(owned), .name = strdup(name)};
        if (!listener->name)
                /* cppcheck-suppress memleak ; its cleanup frees it */
                return -ENOMEM;
        if (!acceptor->paused) {
                r = watch_listener(listener);
                if (r < 0)
                        return r;
        }
        acceptor->listeners[acceptor->n_listeners++] = TAKE_PTR(listener);
        return 0;
}

/* Takes no more connections until acceptor_resume(), also if it would have by itself; they wait in the kernel's
 * backlog. */
void acceptor_pause(Acceptor *acceptor) {
        timer_stop(&acceptor->retry);
        acceptor->paused = true;
        for (size_t i = 0; i < acceptor->n_listeners; i++)
                loop_forget(acceptor->loop, &acceptor->listeners[i]->watch, acceptor->listeners[i]->fd);
}

/* Takes connections again; without memory for that, a little later. */
void acceptor_resume(Acceptor *acceptor) {
        int r = 0;

        if (!acceptor->paused)
                return;
        timer_stop(&acceptor->retry);
        acceptor->paused = false;
        for (size_t i = 0; i < acceptor->n_listeners && r >= 0; i++)
                r = watch_listener(acceptor->listeners[i]);
        if (r < 0)
                pause_and_retry(acceptor);
}

/* Whether connections wait for acceptor_resume(), or for the acceptor itself to go on. */
bool acceptor_is_paused(const Acceptor *acceptor) {
        return acceptor->paused;
}

/* Adds duplicates of the listening sockets, under their names, to what a successor is to be passed. Returns 0 or a
 * negative errno. */
int acceptor_pass_on(const Acceptor *acceptor, PassedSockets *sockets) {
        for (size_t i = 0; i < acceptor->n_listeners; i++) {
                int r = passed_sockets_add_copy(sockets, acceptor->listeners[i]->fd, acceptor->listeners[i]->name);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* Writes the addresses of the listening sockets, for people, as far as they fit. Returns how many there are. */
size_t acceptor_describe(const Acceptor *acceptor, char *buffer, size_t size) {
        size_t used = 0;

        buffer[0] = 0;
        for (size_t i = 0; i < acceptor->n_listeners; i++) {
                char text[ADDRESS_TEXT_MAX];
                Address address;

                if (listener_address(acceptor->listeners[i]->fd, &address) < 0)
                        continue;
                address_format(&address, text);
                if (used + strlen(text) + 3 > size)
                        break;
                used += (size_t) sprintf(buffer + used, "%s%s", used > 0 ? ", " : "", text);
        }
        return acceptor->n_listeners;
}

/* The TCP port that the listening sockets have; 0: there are several, or none. */
uint16_t acceptor_port(const Acceptor *acceptor) {
        uint16_t port = 0;

        for (size_t i = 0; i < acceptor->n_listeners; i++) {
                Address address;

                if (listener_address(acceptor->listeners[i]->fd, &address) < 0 ||
                    address.port == 0)
                        continue;
                if (port != 0 && port != address.port)
                        return 0;
                port = address.port;
        }
        return port;
}
