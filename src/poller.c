/* SPDX-License-Identifier: Apache-2.0 */
#include "poller.h"

#include <errno.h>

static int on_epoll(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Poller *poller = userdata;

        (void) source;
        (void) revents;
        poller->n_ready = epoll_wait(fd, poller->ready, POLLER_BATCH_MAX, 0);
        for (poller->at = 0; poller->at < poller->n_ready; poller->at++) {
                Conn *conn = poller->ready[poller->at].data.ptr;

                if (conn)
                        poller->on_ready(conn);
        }
        poller->n_ready = 0;
        return 0;
}

/* Prepares to watch connections in a loop; on_ready is called with each of which an event has come, and may forget
 * any. Returns 0 or a negative errno; poller_done() is right in both cases. */
int poller_init(Poller *poller, sd_event *event, void (*on_ready)(Conn *conn)) {
        *poller = (Poller){.on_ready = on_ready};
        poller->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (poller->epoll < 0)
                return -errno;
        return sd_event_add_io(event, &poller->source, poller->epoll, EPOLLIN, on_epoll, poller);
}

void poller_done(Poller *poller) {
        poller->source = sd_event_source_disable_unref(poller->source);
        poller->epoll = safe_close(poller->epoll);
}

/* Waits for events of a connection, or for others than before. Edge-triggered, so that many that become ready together
 * are cheap; whoever handles an event reads or writes until nothing is left. Returns 0 or a negative errno. */
int poller_watch(Poller *poller, Conn *conn, uint32_t events) {
        struct epoll_event event = {.events = events | EPOLLET | EPOLLRDHUP, .data.ptr = conn};

        if (epoll_ctl(poller->epoll, conn->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, conn->fd, &event) < 0)
                return -errno;
        conn->watched = true;
        return 0;
}

/* The connection is about to be closed. Closing alone would not do: epoll goes on reporting a closed descriptor of
 * which a duplicate lives. */
void poller_forget(Poller *poller, Conn *conn) {
        if (!conn->watched)
                return;
        (void) epoll_ctl(poller->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
        conn->watched = false;
        for (int i = poller->at + 1; i < poller->n_ready; i++)
                if (poller->ready[i].data.ptr == conn)
                        poller->ready[i].data.ptr = NULL;
}
