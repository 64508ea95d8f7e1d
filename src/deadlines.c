/* SPDX-License-Identifier: Apache-2.0 */
#include "deadlines.h"

/* How late a connection may be closed; leaves the kernel room to wake up once for many. */
#define ACCURACY_USEC (250 * USEC_PER_MSEC)

static void on_timer(void *userdata) {
        Deadlines *deadlines = userdata;
        uint64_t now = loop_now(deadlines->loop);

        while (deadlines->first && deadlines->first->deadline <= now)
                deadlines->on_expired(deadlines->first);
        if (deadlines->first)
                timer_start(&deadlines->timer, deadlines->first->deadline);
}

/* Prepares an empty queue; on_expired is called with each connection whose time is over.
 * Returns 0 or a negative errno; deadlines_done() is right in both cases. */
int deadlines_init(Deadlines *deadlines, Loop *loop, void (*on_expired)(Conn *conn)) {
        *deadlines = (Deadlines){.loop = loop, .on_expired = on_expired};
        return loop_add_timer(loop, ACCURACY_USEC, on_timer, deadlines, &deadlines->timer);
}

void deadlines_done(Deadlines *deadlines) {
        timer_done(&deadlines->timer);
}

bool deadlines_has(const Deadlines *deadlines, const Conn *conn) {
        return conn->earlier || conn->later || deadlines->first == conn;
}

/* Puts a connection, whose deadline is no earlier than that of all others, at the end. The timer is set for the
 * first alone; when that one leaves early, the timer finds out at its time. */
void deadlines_add(Deadlines *deadlines, Conn *conn) {
        conn->earlier = deadlines->last;
        conn->later = NULL;
        if (deadlines->last)
                deadlines->last->later = conn;
        else
                deadlines->first = conn;
        deadlines->last = conn;
        deadlines->count++;
        if (!deadlines->timer.running)
                timer_start(&deadlines->timer, deadlines->first->deadline);
}

/* Takes a connection out, if it is in. */
void deadlines_remove(Deadlines *deadlines, Conn *conn) {
        if (!deadlines_has(deadlines, conn))
                return;
        if (conn->earlier)
                conn->earlier->later = conn->later;
        else
                deadlines->first = conn->later;
        if (conn->later)
                conn->later->earlier = conn->earlier;
        else
                deadlines->last = conn->earlier;
        conn->earlier = conn->later = NULL;
        deadlines->count--;
}
