/* SPDX-License-Identifier: Apache-2.0 */
#include "acceptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "listener.h"

enum {
        BURST_MAX = 64,  /* connections per turn of the loop, so that the others get theirs */
        STORM_USEC = 20, /* turns that follow each other so closely mean that more than one waits */
        LISTENERS_MAX = 64,
        RETRY_USEC = 500 * 1000,
};

struct Acceptor {
        sd_event *event;
        AcceptFunction on_accept;
        AcceptErrorFunction on_error;
        void *userdata;
        sd_event_source *listeners[LISTENERS_MAX]; /* their descriptions are the sockets' names */
        size_t n_listeners;
        sd_event_source *retry; /* armed after an error that only time or another process can mend */
        uint64_t last_turn; /* monotonic, µs */
        bool paused;
};

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        (void) source;
        (void) usec;
        acceptor_resume(userdata);
        return 0;
}

/* Makes an acceptor without sockets. *ret is the caller's. Returns 0 or a negative errno. */
int acceptor_new(sd_event *event, AcceptFunction on_accept, AcceptErrorFunction on_error, void *userdata,
                 Acceptor **ret) {
        _cleanup_(acceptor_freep) Acceptor *acceptor = calloc(1, sizeof *acceptor);
        int r;

        if (!acceptor)
                return -ENOMEM;
        acceptor->event = sd_event_ref(event);
        acceptor->on_accept = on_accept;
        acceptor->on_error = on_error;
        acceptor->userdata = userdata;
        r = sd_event_add_time(event, &acceptor->retry, CLOCK_MONOTONIC, UINT64_MAX, 0, on_retry, acceptor);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(acceptor->retry, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(acceptor);
        return 0;
}

/* Closes the listening sockets, too. Always returns NULL. */
Acceptor *acceptor_free(Acceptor *acceptor) {
        if (!acceptor)
                return NULL;
        for (size_t i = 0; i < acceptor->n_listeners; i++)
                sd_event_source_disable_unref(acceptor->listeners[i]);
        sd_event_source_disable_unref(acceptor->retry);
        sd_event_unref(acceptor->event);
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
        (void) sd_event_source_set_time_relative(acceptor->retry, RETRY_USEC);
        (void) sd_event_source_set_enabled(acceptor->retry, SD_EVENT_ONESHOT);
}

/* How many connections to take in this turn. Finding that none is left takes longer than coming back, as accept4()
 * makes a descriptor and a socket first, and mostly just one is there. */
static int burst_size(Acceptor *acceptor) {
        uint64_t now = 0, last = acceptor->last_turn;

        (void) sd_event_now(acceptor->event, CLOCK_MONOTONIC, &now);
        acceptor->last_turn = now;
        return now < last + STORM_USEC ? BURST_MAX : 1;
}

static int on_listener(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Acceptor *acceptor = userdata;
        const char *name = "?";
        int burst = burst_size(acceptor);

        (void) revents;
        (void) sd_event_source_get_description(source, &name);
        for (int i = 0; i < burst && !acceptor->paused; i++) {
                SocketAddress remote = {};
                socklen_t len = sizeof remote;
                int connection = accept4(fd, &remote.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

                if (connection >= 0)
                        acceptor->on_accept(acceptor->userdata, connection, &remote, name);
                else if (errno == EAGAIN)
                        break;
                else if (!is_of_connection(errno) && !acceptor->on_error(acceptor->userdata, -errno)) {
                        pause_and_retry(acceptor);
                        break;
                }
        }
        return 0;
}

/* Serves a listening, non-blocking socket, which is the acceptor's from here on, whatever the outcome.
 * name: its FileDescriptorName=. Returns 0; -E2BIG: more sockets than anyone needs; the error of sd_event_add_io(). */
int acceptor_add(Acceptor *acceptor, int fd, const char *name) {
        _cleanup_close_ int owned = fd;
        sd_event_source *source;
        int r;

        if (acceptor->n_listeners >= LISTENERS_MAX)
                return -E2BIG;
        r = sd_event_add_io(acceptor->event, &source, fd, EPOLLIN, on_listener, acceptor);
        if (r < 0)
                return r;
        r = sd_event_source_set_description(source, name);
        if (r >= 0)
                r = sd_event_source_set_io_fd_own(source, true);
        if (r < 0) {
                sd_event_source_disable_unref(source);
                return r;
        }
        (void) TAKE_FD(owned);
        if (acceptor->paused)
                (void) sd_event_source_set_enabled(source, SD_EVENT_OFF);
        acceptor->listeners[acceptor->n_listeners++] = source;
        return 0;
}

/* Returns whether all listening sockets are as they should be. */
static bool set_paused(Acceptor *acceptor, bool paused) {
        bool all = true;

        acceptor->paused = paused;
        for (size_t i = 0; i < acceptor->n_listeners; i++)
                all &= sd_event_source_set_enabled(acceptor->listeners[i], paused ? SD_EVENT_OFF : SD_EVENT_ON) >= 0;
        return all;
}

/* Takes no more connections until acceptor_resume(), also if it would have by itself; they wait in the kernel's
 * backlog. */
void acceptor_pause(Acceptor *acceptor) {
        (void) sd_event_source_set_enabled(acceptor->retry, SD_EVENT_OFF);
        if (!acceptor->paused)
                (void) set_paused(acceptor, true);
}

/* Takes connections again. */
void acceptor_resume(Acceptor *acceptor) {
        if (!acceptor->paused)
                return;
        (void) sd_event_source_set_enabled(acceptor->retry, SD_EVENT_OFF);
        if (!set_paused(acceptor, false))
                pause_and_retry(acceptor);
}

bool acceptor_is_paused(const Acceptor *acceptor) {
        return acceptor->paused;
}

/* Adds duplicates of the listening sockets, under their names, to what a successor is to be passed. Returns 0 or a
 * negative errno. */
int acceptor_pass_on(const Acceptor *acceptor, PassedSockets *sockets) {
        for (size_t i = 0; i < acceptor->n_listeners; i++) {
                const char *name = "?";
                int r;

                (void) sd_event_source_get_description(acceptor->listeners[i], &name);
                r = passed_sockets_add_copy(sockets, sd_event_source_get_io_fd(acceptor->listeners[i]), name);
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

                if (listener_address(sd_event_source_get_io_fd(acceptor->listeners[i]), &address) < 0)
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

                if (listener_address(sd_event_source_get_io_fd(acceptor->listeners[i]), &address) < 0 ||
                    address.port == 0)
                        continue;
                if (port != 0 && port != address.port)
                        return 0;
                port = address.port;
        }
        return port;
}
